"""`Run`: what one `fit` holds, and the small steps that the loop is written in."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from estimator.data import Source
from estimator.dispatch import Dispatch
from estimator.engine.options import Engine
from estimator.engine.tiers import step_for
from estimator.evaluation import Evaluation
from estimator.faults import in_order
from estimator.handlers.base import DataError
from estimator.interrupt import Interruption
from estimator.meter import LossMeter
from estimator.metrics import MetricSet
from estimator.processor import BatchProcessor
from estimator.rows import Rows
from estimator.runtime import Runtime
from estimator.snapshot import capture, restore, take_up
from estimator.stats import TrainStats
from estimator.validation import Validation

_END = object()


class Run:
    """The objects of one run, fixed before its first batch, and the steps of the loop.

    Args:
        stats: The shared state.
        hooks: The handlers' calls.
        processor: Bound to the net and its loss.
        runtime: Device and precision.
        metrics: The user's metrics; training and validation get a copy each.
        engine: How steps are computed.
    """

    def __init__(
        self,
        stats: TrainStats,
        hooks: Dispatch,
        *,
        processor: BatchProcessor,
        runtime: Runtime,
        metrics: MetricSet,
        engine: Engine,
    ) -> None:
        self.stats, self.hooks, self.runtime = stats, hooks, runtime
        self.step = step_for(engine, stats, processor, runtime, hooks.needs)
        self.net: nn.Module = stats.net
        self.train_metrics, self.meter = metrics.copy(), LossMeter(runtime.device)
        self.evaluation = Evaluation(self, metrics)
        self.train_source: Source | None = None
        self.validation: Validation | None = None
        self.rows = Rows(stats)
        self.config: dict[str, str] = {}
        """The settings that decide what is computed, as text."""
        self.interruption = self.heard = Interruption()
        self.iterator: Iterator[Any] | None = None
        """The present epoch's batches; made by the loop, or before it where a run resumes."""
        self._is_last = self._inside = False
        self._resumes: dict[str, Any] | None = None
        stats.metrics = self.train_metrics

    def judge_by(self, processor: BatchProcessor, metrics: MetricSet) -> None:
        """Takes over a loss and metrics that the net has brought along, before the first step."""
        self.step.processor = processor
        for module in processor.criterion.modules() if processor.criterion is not None else ():
            module.to(self.runtime.device)
        if self.train_metrics.names:  # what the user gave comes before what the net brings
            return
        if self.runtime.world.size > 1:
            metrics.check_merge()
        self.train_metrics, self.evaluation.metrics = metrics.copy(), metrics.copy()
        self.stats.metrics = self.train_metrics

    def begin(self, resumes: dict[str, Any] | None = None) -> None:
        """Starts schedules and clocks, and checks the values that schedulers follow.

        Args:
            resumes: The state to go on from.
        """
        self.stats.restart_clock()
        if resumes is not None:
            restore(self, resumes)
        if self.hooks.agree is not None:
            self.hooks.agree(self.stats)
        self.hooks.bind(self.stats, resumes and resumes["calls"])
        self._resumes, self._samples_before = resumes, self.stats.samples
        if self.validation is not None:
            self.validation.begin()
        for trainer in self.step.trainers:
            if trainer.monitor is not None:
                trainer.monitor.resolve(self.stats, "Trainer")

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Lets handlers take snapshots for the length of the run."""
        self.stats.capture_with(lambda: capture(self), lambda: self.step.processor)
        self.hooks.is_going_on = True
        try:
            yield
        finally:
            self.hooks.is_going_on = False
            self.stats.capture_with(None)
            self.step.leave()
            if self.train_source is not None:
                self.train_source.release()

    def wants_more(self) -> bool:
        """Whether another epoch is to begin."""
        stats, source = self.stats, self.train_source
        assert source is not None
        self.heed_signal()
        if self.hooks.agree is not None:
            self.hooks.agree(stats)
        if stats.stopped is not None or self.finished():
            return False
        if source.one_shot and stats.samples > self._samples_before:
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

    def finished(self) -> bool:
        """Whether nothing is left to do: a signal may have put off the last validation."""
        return self.target_reached() and not self.stats.validation_due

    def leaves_epoch(self) -> bool:
        """Whether the epoch ends here, asked to stop or at the run's target."""
        stats = self.stats
        self.heed_signal()
        if stats.stopped is not None and stats.stops_in_batch:
            return True
        return stats.iterations is not None and stats.step >= stats.iterations

    def listen(self, came: Interruption) -> None:
        """Takes signals from here; what several processes agree on is heard from them."""
        if self.heard is self.interruption:
            self.heard = came
        self.interruption = came

    def heed_signal(self) -> None:
        """Stops the run if a signal has asked for it."""
        stats, came = self.stats, self.heard
        if came.signal is not None and stats.interrupted is None:
            stats.interrupted = came.signal
            stats.accept_stop(came.reason, "batch")

    def open_epoch(self) -> None:
        """Forgets the sums of the last epoch."""
        self.hooks.change_shift()
        self.step.serve(self.hooks.needs)
        self.meter.reset()
        self.step.accumulation.filled = 0
        self.stats.train, self.rows.cut, self.iterator = {}, None, None
        self._is_last = False
        if self.stats.batches_done == 0:
            self.take_up()

    def take_up(self) -> None:
        """Puts a run that resumes where it was; inside an epoch that is after its begin."""
        resumes, self._resumes = self._resumes, None
        if resumes is not None:
            take_up(self, resumes)
            self._is_last = self.stats.batches_done == self.stats.batches

    def train_batches(self) -> Iterator[Any]:
        """The epoch's batches, or those up to where a signal has ended their workers too."""
        return in_order(self._batches(), self)

    def _batches(self) -> Iterator[Any]:
        """The epoch's batches; knows which one is the last and measures the waiting."""
        stats, source = self.stats, self.train_source
        assert source is not None
        began = perf_counter()
        if self.iterator is None:
            self.iterator = source.epoch(stats.epoch)
        iterator, group = self.iterator, self.step.accumulation
        if stats.batches_done and self.target_reached():
            return  # Only the validation that a signal has put off is left.
        batch, index = next(iterator, _END), stats.batches_done
        while batch is not _END:
            # A group that this batch does not fill has to know whether it is the last.
            ahead = source.batches is None and group.filled + 1 < group.size
            following = source.peek(iterator, index + 1, _END) if ahead else None
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
        return self._is_last and self.step.accumulation.filled > 0

    def count_batch(self, began: float) -> None:
        """Advances the counters; `began` is when the batch was there."""
        stats, step = self.stats, self.step
        samples, loss = stats.batch_size, stats.loss
        assert samples is not None and loss is not None
        stats.samples += step.samples
        stats.batches_done += 1
        self.heed_signal()
        self.meter.add(loss, stats.losses, step.weight, samples, is_sum=step.is_sum)
        if self.validation is not None:
            stats.validation_due = self.validation.due_after_batch(is_last=self._is_last)
        stats.update_seconds += perf_counter() - began

    def validation_data(self) -> Source:
        """The validation data of a run that validates."""
        assert self.validation is not None
        return self.validation.source

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
        source, iterator = self.train_source, self.iterator
        assert source is not None
        complete, self._inside = self._is_last, False
        self.heed_signal()
        if not complete and source.batches is None and not source.one_shot and iterator is not None:
            complete = source.peek(iterator, self.stats.batches_done, _END) is _END
        self._read_train()
        self.step.settle()
        self.iterator = None
        self.stats.clear_batch()
        # A validation may take longer than whoever sent the signal will wait.
        complete = complete and not (self.stats.interrupted and self.stats.validation_due)
        self.stats.epoch += complete
        return complete

    def _read_train(self) -> None:
        self.stats.train = self.runtime.read(self.meter, self.train_metrics)

    def validates_at_end(self, complete: bool) -> bool:
        """Whether a validation is due now that the epoch's batches are done."""
        reached = self.target_reached()
        if self.validation is None or not (complete or reached):
            return False
        self.stats.validation_due = self.validation.due_at_end(is_final=reached)
        return self.stats.validation_due

    def close_epoch(self, complete: bool) -> None:
        """Advances schedulers that count epochs and writes the row."""
        if self.evaluation.gave_up:
            # A run that goes on from here has the validation before it, and the epoch's end.
            self.stats.epoch -= complete
            complete = False
        if complete:
            self.stats.batches_done = 0
        for trainer in self.step.trainers if complete else ():
            trainer.after_value("epoch_end", self.stats)
            trainer.after_epoch()
        self.rows.close(complete=complete)

    def cut_epoch(self, error: BaseException) -> None:
        """Writes the row of an epoch that an exception ends, and lets its workers go."""
        self.iterator = None
        try:
            counted = self.meter.means()
            if counted and self.rows.lacks_step():
                self.stats.train = self.runtime.host(counted)
                self.rows.close(complete=False)
        except Exception as second:
            # A device that has failed cannot be read, and the first exception is the one to see.
            error.add_note(f"The results of the epoch could not be read: {second!r}")

    def close_validation(self) -> None:
        """Lets the results of a validation, which are there, take effect."""
        stats = self.stats
        stats.validated_at = stats.step
        stats.validation_due = False
        for trainer in self.step.trainers:
            trainer.after_value("validation_end", stats)
        self.close_inside()

    def close_inside(self) -> None:
        """Writes the row of a validation in the middle of an epoch."""
        if self._inside and self.stats.validated_at == self.stats.step:
            # A checkpoint at validation_end holds this row.
            self.evaluation.is_open = False
            self.rows.add(complete=False)


def _counts(data: Any) -> bool:
    return isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset)
