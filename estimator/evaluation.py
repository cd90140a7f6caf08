"""`Evaluation`: passes without gradients, their sums and their results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from estimator.data import Source
from estimator.faults import in_order
from estimator.meter import LossMeter
from estimator.metrics import MetricSet
from estimator.modes import modes_kept
from estimator.randomness import random_states, set_random_states
from estimator.runtime import detach, move
from estimator.stats import Phase

if TYPE_CHECKING:
    from estimator.run import Run


class Evaluation:
    """What a validation, an `evaluate` or a `predict` does, in the steps of the loop.

    Args:
        run: Whose net is evaluated.
        metrics: The user's metrics, of which these passes get a copy.
    """

    def __init__(self, run: Run, metrics: MetricSet) -> None:
        self.run, self.stats = run, run.stats
        self.metrics, self.meter = metrics.copy(), LossMeter(run.runtime.device)
        self.collected: list[Any] | None = None
        """The outputs of a prediction."""
        self.is_open = False
        """Whether a pass is going on whose results are not there yet."""
        self.gave_up = False
        """Whether the last pass was ended by a signal, without results."""
        self._back: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def of(self, source: Source, phase: Phase) -> Iterator[None]:
        """The net in evaluation mode, and everything as it was afterwards."""
        stats, net = self.stats, self.run.net
        before = (stats.phase, stats.metrics, stats.batches, stats.batch_index)
        stats.clear_batch()
        stats.phase, stats.metrics = phase, self.metrics
        stats.batches = source.batches
        self.meter.reset()
        self.is_open, self.gave_up = True, False
        if phase == "validation":
            self._back = self._way_back(source)
        self.run.step.settle()
        with modes_kept(net):
            net.eval()
            try:
                yield
            finally:
                self.is_open = False
                stats.clear_batch()
                stats.phase, stats.metrics, stats.batches, stats.batch_index = before

    def _way_back(self, source: Source) -> Callable[[], None]:
        """How to put data and random streams to before the pass, which is then to come anew."""
        place, device = source.place(0), self.run.runtime.device
        streams = random_states(device)

        def go() -> None:
            source.go_back(place)
            set_random_states(streams, device)

        return go

    def batches(self, source: Source) -> Iterator[Any]:
        """The batches of one pass."""
        index = -1
        for index, batch in enumerate(in_order(source.epoch(), self.run)):
            self.stats.batch_index = index
            yield batch
        if index < 0 and self.run.heard.signal is None:
            raise source.empty()

    def count(self) -> None:
        """Counts a batch, or keeps its outputs in a prediction."""
        stats, step = self.stats, self.run.step
        if self.collected is not None:
            self.collected.append(move(detach(stats.outputs), torch.device("cpu")))
        elif stats.loss is not None:
            assert stats.batch_size is not None
            self.meter.add(
                stats.loss, stats.losses, step.weight, stats.batch_size, is_sum=step.evaluates_sum
            )

    def gives_up(self) -> bool:
        """Whether a signal ends this validation, which then has no results."""
        self.run.heed_signal()
        self.gave_up = self.stats.phase == "validation" and self.stats.interrupted is not None
        if self.gave_up:
            self.stats.val = {}
            self._back()
        return self.gave_up

    def close(self) -> None:
        """Reads the results to the host, once."""
        stats = self.stats
        if stats.phase == "predict" or self.gives_up():
            return
        stats.val = self.run.runtime.read(self.meter, self.metrics)
        if stats.phase == "validation":
            self.run.close_validation()
