"""Short runs of a `CheckpointHandler` without an Estimator, and what damages their files."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimator.handlers.checkpoint import CheckpointHandler
from estimator.stats import TrainStats

SAMPLES = 3


def new_stats() -> TrainStats:
    return TrainStats(nn.Linear(1, 1), torch.device("cpu"))


def state_at(step: int, **more: Any) -> dict[str, Any]:
    """What a checkpoint at a step holds, as far as its place is concerned."""
    counts = {"epoch": step, "step": step, "samples": step * SAMPLES}
    return {"version": 1, "stats": counts, **more}


def save_next(saver: CheckpointHandler, stats: TrainStats, state: dict[str, Any]) -> None:
    """An epoch of one step, which is saved."""
    saver.epoch_begin(stats)
    stats.step, stats.epoch = stats.step + 1, stats.epoch + 1
    stats.samples += SAMPLES
    stats.capture_with(lambda: state)
    saver.epoch_end(stats)


def run(folder: Path, *states: dict[str, Any], **settings: Any) -> None:
    """A run with one checkpoint for each state, at the steps 1, 2, ...; without any it fails."""
    stats, saver = new_stats(), CheckpointHandler(folder, **settings)
    try:
        saver.train_begin(stats)
        for state in states:
            save_next(saver, stats, state)
        stats.error = None if states else RuntimeError("planned")
    except BaseException as error:
        stats.error = error
        raise
    finally:
        saver.train_end(stats)


def wait_for_writer() -> None:
    """Waits until what is written in the background is on the disk."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join()


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def flip(path: Path, bit: int | None = None) -> None:
    """Turns one bit over: that of this number, or one in the middle."""
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, length: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:length])
