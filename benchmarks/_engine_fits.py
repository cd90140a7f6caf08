"""The same training with `fit`: by each of the engine's tiers, bare and with all handlers on."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from _engine_loops import Moments, mark
from _engine_workloads import LR, Workload
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from estimator import ArgumentError, Engine, Estimator, Trainer, TrainStats
from estimator.handlers import (
    Band,
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EMAHandler,
    EventHandler,
    LoggingHandler,
    NaNHandler,
    ProgressHandler,
    TimeLimitHandler,
)

NEVER = 10**6
TIERS = ("eager", "replay", "graph", "compile")


def engine_of(tier: str, workload: Workload | None = None) -> Engine | None:
    """The engine of a tier, or None where this version has none of that name."""
    data = "host" if workload is not None and workload.streamed else "auto"
    try:
        return Engine(tier, data=data, on_fallback="silent")
    except ArgumentError:
        return None


class Watch(EventHandler):
    """Notes when epochs have trained and have ended, after all other handlers; ends the run.

    Args:
        moments: Where they are noted.
        device: Of the run.
        epochs: After which the run ends.
    """

    band = Band.REPORT

    def __init__(self, moments: Moments, device: str, epochs: int) -> None:
        super().__init__()
        self.moments, self.device, self.epochs = moments, device, epochs

    def validation_begin(self, stats: TrainStats) -> None:
        self.moments.trained.append(mark(self.device))

    def epoch_end(self, stats: TrainStats) -> None:
        moments = self.moments
        moments.epochs.append(mark(self.device))
        if len(moments.trained) < len(moments.epochs):
            moments.trained.append(moments.epochs[-1])
        if len(moments.epochs) == self.epochs:
            stats.stop("The benchmark has seen enough.")


class Pace(EventHandler):
    """Notes when the host is done with each batch, whether or not the device is."""

    band = Band.REPORT

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def epoch_begin(self, stats: TrainStats) -> None:
        self.times.clear()

    def batch_end(self, stats: TrainStats) -> None:
        self.times.append(perf_counter())


def fit(
    workload: Workload, epochs: int, moments: Moments, *, tier: str, everything: bool = False,
    announced: bool = False, extra: tuple[EventHandler, ...] = (), bar_seconds: float = 0.1,
) -> nn.Module:  # fmt: skip
    """Trains by `Estimator.fit`.

    Args:
        workload: What is trained.
        epochs: For how long.
        moments: Where is noted what happened when.
        tier: Of the engine.
        everything: Whether all handlers are on, a validation and a schedule among them.
        announced: Whether `fit` is told how short the run is. Otherwise it believes in a long
            one, as those are for which a faster step is made, and is stopped.
        extra: Handlers that measure.
        bar_seconds: Between two drawings of the bar.
    """
    net, train = workload.fresh_net(), TensorDataset(*workload.train)
    val = TensorDataset(*workload.val) if everything else None
    with _handlers(bar_seconds) if everything else contextlib.nullcontext([]) as handlers:
        moments.called = mark(workload.device)
        est = Estimator(net, workload.loss, ["accuracy"])
        est.fit(
            DataLoader(train, workload.batch_size, shuffle=True),
            None if val is None else DataLoader(val, workload.batch_size),
            epochs=epochs if announced else NEVER,
            trainers=_trainer(workload.steps * epochs if everything else None),
            device=workload.device,
            handlers=[*handlers, *extra, Watch(moments, workload.device, epochs)],
            precision=workload.precision,
            engine=engine_of(tier, workload),
            progress=False,
        )
    moments.report = est.engine_report()
    told = read_report(moments.report)
    moments.setup_s = told.setup_s
    return est.net


def _trainer(steps: int | None) -> Trainer:
    if steps is None:
        return Trainer("adam", lr=LR, fused=True)
    schedule = partial(CosineAnnealingLR, T_max=steps)
    return Trainer("adam", lr=LR, fused=True, scheduler=schedule, step="step")


@contextlib.contextmanager
def _handlers(bar_seconds: float) -> Iterator[list[EventHandler]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(Terminal()):
        yield all_handlers(Path(folder), bar_seconds)


class Terminal(io.StringIO):
    """A place where bars and lines appear and that nobody sees."""

    def isatty(self) -> bool:
        return True


def all_handlers(folder: Path, bar_seconds: float) -> list[EventHandler]:
    """At their default schedules; those that may stop a run are told not to."""
    return [
        NaNHandler(),
        EMAHandler(),
        EarlyStoppingHandler("val_loss", patience=NEVER),
        TimeLimitHandler(NEVER),
        CheckpointHandler(folder / "checkpoints"),
        LoggingHandler(folder / "log.txt"),
        CSVLogHandler(folder / "history.csv"),
        ProgressHandler(refresh=bar_seconds),
    ]


class Told(NamedTuple):
    """What an engine's report says: the tier that trains, and what making all of them took."""

    tier: str
    setup_s: float


def read_report(report: str) -> Told:
    """Reads `engine_report`, a table with a line for each tier and shape of batches."""
    header, *lines = report.splitlines()
    begin, end = (header.index(name) + len(name) for name in ("us/step", "set-up s"))
    tier, seconds, trains = "eager", 0.0, True
    for line in lines:
        name, status = line.partition(" ")[0], line[end:].strip()
        if name not in TIERS:
            continue
        seconds += float(line[begin:end].strip() or 0)
        if "batches" in status:
            trains = not status.startswith("evaluation")
        elif trains and status.startswith("chosen"):
            tier = name
    return Told(tier, seconds)
