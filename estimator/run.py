"""`Run`: what one `fit` holds, and the small steps that the loop is written in."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from estimator.data import Source
from estimator.dispatch import Dispatch
from estimator.handlers.base import DataError, Every
from estimator.history import Value
from estimator.meter import LossMeter
from estimator.metrics import MetricSet
from estimator.processor import BatchProcessor
from estimator.runtime import Runtime, detach, move
from estimator.snapshot import capture
from estimator.stats import Phase, TrainStats
from estimator.step import Step
from estimator.trainer import BoundTrainer

_END = object()


class Run:
    """The objects of one run, fixed before its first batch, and the steps of the loop.

    Args:
        stats: The shared state.
        hooks: The handlers' calls.
        processor: Bound to the net and its loss.
        runtime: Device and precision.
        metrics: The user's metrics; training and validation get a copy each.
    """

    def __init__(
        self,
        stats: TrainStats,
        hooks: Dispatch,
        *,
        processor: BatchProcessor,
        runtime: Runtime,
        metrics: MetricSet,
    ) -> None:
        self.stats, self.hooks, self.runtime = stats, hooks, runtime
        self.step = Step(stats, processor, runtime=runtime, needs=hooks.needs)
        self.net: nn.Module = stats.net
        self.train_metrics, self.val_metrics = metrics.copy(), metrics.copy()
        self.meter, self.val_meter = LossMeter(runtime.device), LossMeter(runtime.device)
        self.train_source: Source | None = None
        self.val_source: Source | None = None
        self.validate = Every(epochs=1)
        self.collected: list[Any] | None = None
        self._iterator: Iterator[Any] = iter(())
        self._is_last = self._inside = False
        self._validated_at: int | None = None
        stats.metrics = self.train_metrics

    def begin(self) -> None:
        """Starts schedules and clocks, and checks the values that schedulers follow."""
        self.hooks.bind(self.stats)
        self._clock = self.validate.clock(self.stats)
        for trainer in self.step.trainers:
            if trainer.monitor is not None:
                trainer.monitor.resolve(self.stats, "Trainer")
        self.stats.restart_clock()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Lets handlers take snapshots for the length of the run."""
        self.stats.capture_with(lambda: capture(self))
        try:
            yield
        finally:
            self.stats.capture_with(None)

    def wants_more(self) -> bool:
        """Whether another epoch is to begin."""
        stats, source = self.stats, self.train_source
        assert source is not None
        if stats.stopped is not None or self.target_reached():
            return False
        if source.one_shot and stats.samples:
            warnings.warn(
                f"{source.argument} ended after {stats.step} of {stats.iterations} iterations: an "
                "iterator can be gone through once. Pass something that can be iterated again.",
                stacklevel=5,
            )
            return False
        return True

    def target_reached(self) -> bool:
        """Whether this run has trained what it was asked to."""
        stats = self.stats
        if stats.iterations is not None:
            return stats.step >= stats.iterations
        assert stats.epochs is not None
        return stats.epoch >= stats.epochs

    def leaves_epoch(self) -> bool:
        """Whether the epoch ends here, asked to stop or at the run's target."""
        stats = self.stats
        if stats.stopped is not None and stats.stops_in_batch:
            return True
        return stats.iterations is not None and stats.step >= stats.iterations

    def open_epoch(self) -> None:
        """Forgets the sums of the last epoch."""
        self.hooks.change_shift()
        self.step.serve(self.hooks.needs)
        self.meter.reset()
        self.step.accumulation.filled = 0
        self.stats.train = {}

    def train_batches(self) -> Iterator[Any]:
        """The epoch's batches; knows which one is the last and measures the waiting."""
        stats, source = self.stats, self.train_source
        assert source is not None
        began = perf_counter()
        self._iterator = iterator = source.epoch()
        group = self.step.accumulation
        batch, index = next(iterator, _END), 0
        while batch is not _END:
            # A group that this batch does not fill has to know whether it is the last.
            ahead = source.batches is None and group.filled + 1 < group.size
            following = next(iterator, _END) if ahead else None
            stats.fetch_seconds += perf_counter() - began
            stats.batch_index, index = index, index + 1
            self._is_last = following is _END if ahead else index == source.batches
            yield batch
            began = perf_counter()
            batch = following if ahead else next(iterator, _END)
        if index == 0:
            raise source.empty()
        if source.batches is not None and index < source.batches and _counts(source.data):
            raise DataError(
                f"{source.argument} must yield its {source.batches} batches; it ended after "
                f"{index}. Check the dataset for code that raises StopIteration."
            )
        self._is_last = True

    def group_complete(self) -> bool:
        """Whether the optimizers are to step now."""
        return self.step.accumulation.full(self._is_last)

    def group_open(self) -> bool:
        """Whether the data ended inside a group, which happens when its length was wrong."""
        return self.step.accumulation.filled > 0

    def count_batch(self, began: float) -> None:
        """Advances the counters; `began` is when the batch was there."""
        stats, step = self.stats, self.step
        samples, loss = stats.batch_size, stats.loss
        assert samples is not None and loss is not None
        stats.samples += samples
        self.meter.add(loss, stats.losses, step.weight, samples, is_sum=step.is_sum)
        if self.val_source is not None:
            stats.validation_due = self._validation_due()
        stats.update_seconds += perf_counter() - began

    def _validation_due(self) -> bool:
        stats = self.stats
        if self.validate.unit != "epochs":
            due = stats.stepped and self._clock.due(stats)
        else:
            due = self._is_last and self._clock.due_at(stats.epoch + 1)
        final = self._is_last and stats.epochs is not None and stats.epoch + 1 >= stats.epochs
        return due or final or (stats.iterations is not None and stats.step >= stats.iterations)

    def validation_data(self) -> Source:
        """The validation data of a run that validates."""
        assert self.val_source is not None
        return self.val_source

    def validates_inside(self) -> bool:
        """Whether a validation that is due falls into the middle of the epoch."""
        self._inside = not (self._is_last or self.leaves_epoch())
        if self._inside:
            self._read_train()
        return self._inside

    def close_training(self) -> bool:
        """Reads the epoch's means and counts the epoch.

        Returns:
            Whether the epoch is complete: its data was gone through to the end.
        """
        assert self.train_source is not None
        complete, self._inside = self._is_last, False
        if not complete and self.train_source.batches is None and not self.train_source.one_shot:
            complete = next(self._iterator, _END) is _END
        self._read_train()
        self._iterator = iter(())
        self.stats.clear_batch()
        self.stats.epoch += complete
        return complete

    def _read_train(self) -> None:
        means = self.meter.means() | self.train_metrics.compute()
        self.stats.train = self.runtime.host(means)

    def validates_at_end(self, complete: bool) -> bool:
        """Whether a validation is due now that the epoch's batches are done."""
        stats = self.stats
        if self.val_source is None or not (complete or self.target_reached()):
            return False
        epochs_due = self.validate.unit == "epochs" and self._clock.due(stats)
        final = stats.stopped is None and self.target_reached()
        due = epochs_due or stats.validation_due or final
        return due and self._validated_at != stats.step

    def close_epoch(self, complete: bool) -> None:
        """Advances schedulers that count epochs and writes the row."""
        for trainer in self.step.trainers if complete else ():
            trainer.after_value("epoch_end", self.stats)
            trainer.after_epoch()
        self.add_row(complete=complete)

    def cut_epoch(self, error: BaseException) -> None:
        """Writes the row of an epoch that an exception ends."""
        rows = self.stats.history.rows
        try:
            counted = self.meter.means()
            if counted and not (rows and rows[-1]["step"] == self.stats.step):
                self.stats.train = self.runtime.host(counted)
                self.add_row(complete=False)
        except Exception as second:
            # A device that has failed cannot be read, and the first exception is the one to see.
            error.add_note(f"The results of the epoch could not be read: {second!r}")

    def add_row(self, *, complete: bool) -> None:
        """Adds the present results to the history; a row of the same step is completed."""
        stats = self.stats
        rows = stats.history.rows
        if rows and rows[-1]["step"] == stats.step and not rows[-1]["complete"]:
            rows.pop()
        row: dict[str, Value] = {"epoch": stats.epoch, "step": stats.step, "time": stats.elapsed}
        row |= rate_columns(self.step.trainers) | {"complete": complete}
        row |= {f"train_{name}": value for name, value in stats.train.items()}
        if self._validated_at == stats.step:
            row |= {f"val_{name}": value for name, value in stats.val.items()}
        stats.history.append(row)

    @contextlib.contextmanager
    def evaluating(self, source: Source, phase: Phase) -> Iterator[None]:
        """The net in evaluation mode, and everything as it was afterwards."""
        stats = self.stats
        modes = [(module, module.training) for module in self.net.modules()]
        before = (stats.phase, stats.metrics, stats.batches, stats.batch_index)
        stats.clear_batch()
        stats.phase, stats.metrics = phase, self.val_metrics
        stats.batches = source.batches
        self.val_meter.reset()
        self.net.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            stats.clear_batch()
            stats.phase, stats.metrics, stats.batches, stats.batch_index = before

    def evaluation_batches(self, source: Source) -> Iterator[Any]:
        """The batches of one evaluation."""
        index = -1
        for index, batch in enumerate(source.epoch()):
            self.stats.batch_index = index
            yield batch
        if index < 0:
            raise source.empty()

    def count_evaluated(self) -> None:
        """Counts a batch of an evaluation, or keeps its outputs in a prediction."""
        stats, step = self.stats, self.step
        if self.collected is not None:
            self.collected.append(move(detach(stats.outputs), torch.device("cpu")))
        elif stats.loss is not None:
            assert stats.batch_size is not None
            self.val_meter.add(
                stats.loss, stats.losses, step.weight, stats.batch_size, is_sum=step.evaluates_sum
            )

    def close_evaluation(self) -> None:
        """Reads the results to the host, once."""
        stats = self.stats
        if stats.phase == "predict":
            return
        stats.val = self.runtime.host(self.val_meter.means() | self.val_metrics.compute())
        if stats.phase == "validation":
            self._validated_at = stats.step
            stats.validation_due = False
            for trainer in self.step.trainers:
                trainer.after_value("validation_end", stats)
            if self._inside:
                # A checkpoint at validation_end holds the row of this validation.
                self.add_row(complete=False)


def _counts(data: Any) -> bool:
    return isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset)


def rate_columns(trainers: Sequence[BoundTrainer]) -> dict[str, Value]:
    """The learning-rate columns of a row: `lr`, and one for each trainer and group of several."""
    rates: dict[str, Value] = {"lr": trainers[0].lrs[0]} if trainers else {}
    for trainer in trainers:
        lrs = trainer.lrs
        base = f"lr_{trainer.name}" if len(trainers) > 1 else "lr"
        if len(lrs) > 1:
            rates |= {f"{base}_group{i}": lr for i, lr in enumerate(lrs)}
        elif len(trainers) > 1:
            rates[base] = lrs[0]
    return rates
