"""Reads back what handlers wrote for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Points = list[tuple[int, float]]


def scalars(folder: Path) -> dict[str, Points]:
    """Steps and values of each tag that TensorBoard would show."""
    events = EventAccumulator(str(folder)).Reload()
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: [(e.step, e.value) for e in of] for tag, of in points.items() if of}
