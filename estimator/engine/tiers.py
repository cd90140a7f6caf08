"""Which step a run has."""

from __future__ import annotations

from estimator.engine.capture import recorder_for
from estimator.engine.cause import Cause
from estimator.engine.graph import GraphStep
from estimator.engine.options import Engine
from estimator.engine.replay import ReplayStep
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
