"""Which step a run has, and what it tells of its tiers."""

from __future__ import annotations

from estimator.engine.capture import recorder_for
from estimator.engine.cause import Cause
from estimator.engine.graph import GraphStep
from estimator.engine.options import Engine
from estimator.engine.replay import ReplayStep
from estimator.handlers.base import ArgumentError
from estimator.parallel import SharedStep
from estimator.processor import BatchProcessor
from estimator.runtime import Runtime
from estimator.stats import TrainStats
from estimator.step import Step


def step_for(
    engine: Engine, stats: TrainStats, processor: BatchProcessor, runtime: Runtime, needs: set[str]
) -> Step:
    """The step for an engine, a device and a number of processes."""
    if runtime.world.size > 1:
        return SharedStep(stats, processor, runtime=runtime, needs=needs)
    if engine.tier in ("auto", "graph"):
        recorder = recorder_for(runtime.device)
        if recorder is not None:
            return GraphStep(
                stats, processor, runtime=runtime, needs=needs, engine=engine, recorder=recorder
            )
    if engine.tier not in ("eager", "graph") and runtime.device.type == "cpu":
        return ReplayStep(stats, processor, runtime=runtime, needs=needs, engine=engine)
    return Step(stats, processor, runtime=runtime, needs=needs)


def check_engine(engine: Engine, runtime: Runtime) -> None:
    """Says that a tier which was asked for by name is not to be had here.

    Raises:
        EngineError: `on_fallback` is "error".
    """
    if engine.tier == "graph":
        is_here = recorder_for(runtime.device) is not None
    else:
        is_here = runtime.device.type == "cpu"
    if engine.by_name and (runtime.world.size > 1 or not is_here):
        engine.fall_back(
            Cause("E111", f"trained on {runtime.device} by {runtime.world.size} processes")
        )


def report(step: Step | None) -> str:
    """The tiers of a run, a line for each shape of batches, and why others stayed eager.

    Raises:
        ArgumentError: Nothing was trained yet.
    """
    if step is None:
        raise ArgumentError("engine_report tells of a training; there was none yet. Call fit().")
    lines = [f"{'tier':<10}{'us/step':>9}{'set-up s':>10}  status"]
    if isinstance(step, GraphStep):
        return "\n".join([*lines, *step.report()])
    if not isinstance(step, ReplayStep):
        return "\n".join([*lines, f"{'eager':<10}{'':>9}{'':>10}  the only tier of this run"])
    for name, climb in (("training", step.training), ("evaluation", step.evaluating)):
        for key, ladder in climb.ladders.items():
            shapes = " ".join(str(tuple(shape)) for shape, _ in key[0])
            for rung in ladder.report(step.engine.exact):
                us = "" if rung.microseconds is None else f"{rung.microseconds:.0f}"
                cost = f"{rung.seconds:.2f}" if rung.seconds else ""
                what = f"{name} batches {shapes}" if rung.tier == "eager" else rung.status
                lines.append(f"{rung.tier:<10}{us:>9}{cost:>10}  {what}".rstrip())
    return "\n".join([*lines, *(str(cause) for cause in step.causes)])
