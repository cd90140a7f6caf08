"""`TrainStats`: the one object through which the loop and the handlers speak."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from estimator.distributed import ALONE, World
from estimator.handlers.base import ArgumentError, EstimatorError, nearest
from estimator.history import History
from estimator.metrics import MetricSet

if TYPE_CHECKING:
    from estimator.exporting import ExportResult
    from estimator.processor import BatchProcessor
    from estimator.runtime import Runtime
    from estimator.trainer import BoundTrainer

Phase = Literal["train", "validation", "evaluate", "predict"]
When = Literal["batch", "epoch"]


class Best(NamedTuple):
    """The best value that a monitored name has had, and when."""

    value: float
    epoch: int
    step: int


class TrainStats:
    """The state of a run. Every handler event gets it, and `fit` returns it.

    `epoch`, `step` and `samples` count finished epochs, optimizer steps and training samples;
    they advance before the `*_end` event of the same moment. Batch fields are None outside a
    batch. `loss` stays on its device: reading it to the host is the reader's choice.

    Args:
        net: The net in training.
        device: Where it runs.

    Example:
        >>> stats = TrainStats(torch.nn.Linear(2, 1), torch.device("cpu"))
        >>> stats.stop("seen enough")
        >>> stats.stopped
        'seen enough'
    """

    # Counts of finished units, and this run's targets.
    epoch: int
    step: int
    samples: int
    batch_index: int | None
    epochs: int | None
    iterations: int | None
    batches: int | None
    """Batches in one epoch; None when the loader does not say."""
    batches_done: int
    """Finished batches of this epoch; above 0 at `epoch_begin` where a run resumes inside one."""

    # The present moment.
    phase: Phase
    batch: Any
    inputs: Any
    targets: Any
    outputs: Any
    uids: Any
    batch_size: int | None
    loss: torch.Tensor | None
    losses: dict[str, torch.Tensor]
    sample_losses: torch.Tensor | None
    stepped: bool
    """Whether this batch ended with an optimizer step; False inside an accumulation group."""
    validation_due: bool
    """Whether a validation follows this batch, so that a saver can wait for its results."""

    validated_at: int | None
    """The step of the last validation that has results."""

    # Results.
    train: dict[str, float]
    val: dict[str, float]
    history: History
    best: dict[str, Best]
    metrics: MetricSet
    """The metrics of the present phase: training and validation have one set each."""
    monitors: dict[str, bool | None]
    """Names that can appear in this run, and whether higher is better (None: not declared)."""

    # The run's objects.
    net: torch.nn.Module
    trainers: Mapping[str, BoundTrainer]
    device: torch.device
    runtime: Runtime | None
    run_dir: Path | None
    """The run folder; None where `fit` was given no `run`."""
    missing: dict[str, str]
    """Reports that could not be written, and why."""
    val_data: Any
    """The validation loader of this run; None without validation."""

    # How the run ended, and where its time went (seconds of wall clock).
    stopped: str | None
    interrupted: str | None
    """Name of the signal that ended the run, such as "SIGTERM"."""
    error: BaseException | None
    _capture: Callable[[], dict[str, Any]] | None
    _processor: Callable[[], BatchProcessor] | None
    _ask: Callable[[str, When], None] | None
    _now: float | None
    fetch_seconds: float
    update_seconds: float
    scratch: dict[Any, Any]

    __slots__ = (
        "_ask",
        "_capture",
        "_epoch_stop",
        "_now",
        "_processor",
        "_started",
        "batch",
        "batch_index",
        "batch_size",
        "batches",
        "batches_done",
        "best",
        "device",
        "epoch",
        "epochs",
        "error",
        "fetch_seconds",
        "history",
        "inputs",
        "interrupted",
        "iterations",
        "loss",
        "losses",
        "metrics",
        "missing",
        "monitors",
        "net",
        "outputs",
        "phase",
        "run_dir",
        "runtime",
        "sample_losses",
        "samples",
        "scratch",
        "step",
        "stepped",
        "stopped",
        "targets",
        "train",
        "trainers",
        "uids",
        "update_seconds",
        "val",
        "val_data",
        "validated_at",
        "validation_due",
    )

    def __init__(self, net: torch.nn.Module, device: torch.device) -> None:
        self.epoch = self.step = self.samples = self.batches_done = 0
        self.epochs = self.iterations = self.batches = None
        self.phase = "train"
        self.clear_batch()
        self.stepped = self.validation_due = False
        self.train, self.val, self.best, self.monitors = {}, {}, {}, {}
        self.metrics = MetricSet(None)
        self.history = History(["epoch", "step", "time", "lr", "complete"])
        self.net, self.device = net, device
        self.trainers = {}
        self.runtime = self.run_dir = self.val_data = self.validated_at = None
        self.stopped = self.interrupted = self.error = self._capture = None
        self._ask = self._now = self._processor = None
        self.fetch_seconds = self.update_seconds = 0.0
        self.missing, self.scratch = {}, {}
        self._epoch_stop = False
        self._started = time.perf_counter()

    def clear_batch(self) -> None:
        """Sets the batch fields to None: there is no batch outside one."""
        self.batch_index = self.batch_size = None
        self.batch = self.inputs = self.targets = self.outputs = self.uids = None
        self.loss = self.sample_losses = None
        self.losses = {}

    @property
    def world(self) -> World:
        """The processes that train together: `rank` of this one, `size`, and what they share."""
        return ALONE if self.runtime is None else self.runtime.world

    @property
    def elapsed(self) -> float:
        """Seconds since the run began; of several processes the first's, once a batch."""
        return time.perf_counter() - self._started if self._now is None else self._now

    def own_clock(self) -> float:
        """Seconds since the run began, by the clock of this process."""
        return time.perf_counter() - self._started

    def set_clock(self, elapsed: float) -> None:
        """Lets `elapsed` stand until it is set again, so that all processes read the same."""
        self._now = elapsed

    def restart_clock(self, elapsed: float = 0.0) -> None:
        """Sets `elapsed`, for a run that begins or goes on."""
        self._started = time.perf_counter() - elapsed

    def stop(self, reason: str, *, when: When = "batch") -> None:
        """Asks the loop to end; the first reason given is kept in `stopped`.

        Of several processes one may ask, and all of them end at the same place: `stopped` is set
        once they have agreed, after the handlers of the DECIDE band.

        Args:
            reason: Who asks and why, in one line.
            when: "batch" ends after the present batch (outside a batch: after the present
                epoch), "epoch" finishes the present epoch first, its validation included.

        Raises:
            ArgumentError: `reason` is empty, or `when` is unknown.
        """
        if not isinstance(reason, str) or not reason:
            raise ArgumentError(
                f"stop(reason=...) must say who stops and why; received {reason!r}."
            )
        if when not in ("batch", "epoch"):
            raise ArgumentError(f"stop(when=...) must be 'batch' or 'epoch'; received {when!r}.")
        if self._ask is not None:
            self._ask(reason, when)
        else:
            self.accept_stop(reason, when)

    def ask_with(self, ask: Callable[[str, When], None]) -> None:
        """Lets the run say what becomes of a request to stop."""
        self._ask = ask

    def accept_stop(self, reason: str, when: When) -> None:
        """Makes a request to stop take effect."""
        if self.stopped is None:
            self.stopped, self._epoch_stop = reason, when == "epoch"
        elif when == "batch":
            self._epoch_stop = False

    @property
    def stops_in_batch(self) -> bool:
        """Whether the loop has to leave the epoch after the present batch."""
        return self.stopped is not None and not self._epoch_stop

    def value(self, name: str) -> float:
        """The latest value of "train_<name>" or "val_<name>".

        Raises:
            ArgumentError: It has no value yet, or there is no such name.
        """
        side, _, short = name.partition("_")
        results = {"train": self.train, "val": self.val}.get(side, {})
        if short not in results:
            there = [f"train_{k}" for k in self.train] + [f"val_{k}" for k in self.val]
            raise ArgumentError(f"{name!r} has no value at this moment. {nearest(name, there)}")
        return results[short]

    def set_best(self, name: str, value: float) -> None:
        """Records the best value of a monitored name, at the present epoch and step."""
        self.best[name] = Best(value, self.epoch, self.step)

    def capture_with(
        self,
        capture: Callable[[], dict[str, Any]] | None,
        processor: Callable[[], BatchProcessor] | None = None,
    ) -> None:
        """Lets the run say how `snapshot` is made and what runs the net; None when it is over."""
        self._capture, self._processor = capture, processor

    def snapshot(self) -> dict[str, Any]:
        """The whole run as plain values and tensors, which is what a checkpoint holds.

        Raises:
            EstimatorError: No run is going on.
        """
        if self._capture is None:
            raise EstimatorError(
                "snapshot() describes a run that is going on; this TrainStats has none. "
                "Call it from a handler's event."
            )
        return self._capture()

    def export(
        self, path: str | os.PathLike[str], example: Any, *, split: bool = True, **options: Any
    ) -> ExportResult:
        """Writes the net as an ONNX file, as `Estimator.export` does.

        Args:
            path: The file.
            example: A batch as the loader yields it, or what `inputs` holds.
            split: Whether inputs are still to be split off the example.
            **options: `dynamic`, `outputs`, `opset` and `tolerance`.

        Raises:
            EstimatorError: No run is going on, or the net cannot be exported.
        """
        from estimator.exporting import export_inputs, export_onnx

        if self._processor is None:
            raise EstimatorError(
                "export() needs a run that is going on; this TrainStats has none. Call it from a "
                "handler's event, or Estimator.export afterwards."
            )
        export = export_onnx if split else export_inputs
        return export(self.net, self._processor(), path, example, **options)

    def __getitem__(self, column: str) -> list[Any]:
        """A column of the history: `stats["val_loss"][-1]`."""
        return self.history[column]

    def __repr__(self) -> str:
        end = f", stopped: {self.stopped}" if self.stopped else ""
        results = {f"train_{k}": v for k, v in self.train.items()}
        results |= {f"val_{k}": v for k, v in self.val.items()}
        shown = "".join(f", {name} {value:.4g}" for name, value in results.items())
        return f"TrainStats(epoch {self.epoch}, step {self.step}{shown}{end})"
