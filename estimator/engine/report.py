"""What a run tells of its tiers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from estimator.engine.graph import GraphStep
from estimator.engine.ladder import Rung
from estimator.engine.replay import ReplayStep
from estimator.handlers.base import ArgumentError
from estimator.step import Step


def report(step: Step | None, served: Sequence[str]) -> str:
    """The tiers of a run, some lines for each shape of batches, and why others stayed eager.

    Args:
        step: Of the last training.
        served: How its data was served, a line for each.

    Raises:
        ArgumentError: Nothing was trained yet.
    """
    if step is None:
        raise ArgumentError("engine_report tells of a training; there was none yet. Call fit().")
    lines = [f"{'tier':<10}{'us/step':>9}{'set-up s':>10}  status"]
    if isinstance(step, (GraphStep, ReplayStep)):
        for name, key, rungs in _climbs(step):
            shapes = " ".join(str(tuple(shape)) for shape, *_ in key[0])
            lines += [_line(rung, f"{name} batches {shapes}") for rung in rungs]
        lines += map(str, step.causes)
    else:
        lines.append(f"{'eager':<10}{'':>9}{'':>10}  the only tier of this run")
    return "\n".join([*lines, *served])


def _climbs(step: GraphStep | ReplayStep) -> Iterator[tuple[str, Any, list[Rung]]]:
    """Each shape of batches: training or evaluation, its key, and what is known of it."""
    if isinstance(step, GraphStep):
        for key, form in step.forms.items():
            yield "training", key, form.report()
        for key, of_pass in step.passes.forms.items():
            yield "evaluation", key, of_pass.report()
        return
    for name, climb in (("training", step.training), ("evaluation", step.evaluating)):
        for key, ladder in climb.ladders.items():
            yield name, key, ladder.report(step.engine.exact)


def _line(rung: Rung, batches: str) -> str:
    us = "" if rung.microseconds is None else f"{rung.microseconds:.0f}"
    cost = f"{rung.seconds:.2f}" if rung.seconds else ""
    what = batches if rung.tier == "eager" else rung.status
    return f"{rung.tier:<10}{us:>9}{cost:>10}  {what}".rstrip()
