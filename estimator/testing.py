"""`HandlerContract`: what a handler has to honour, as tests that run on anyone's handler."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import os
import pickle
import random
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from estimator.data import random_state_kept
from estimator.dispatch import as_handler
from estimator.estimator import Estimator, seed_everything
from estimator.handlers.base import EVENTS, ArgumentError, Band, DataError, EventHandler
from estimator.stats import TrainStats
from estimator.trainer import Trainer

_BREAKS = {
    "train_begin": "before its train_begin",
    "forward_end": "in a batch of training",
    "validation_begin": "in a batch of validation",
    "epoch_end": "before its epoch_end",
}
_READS = (
    *("item", "tolist", "cpu", "numpy", "__array__"),
    *("__bool__", "__float__", "__int__", "__index__"),
)


class HandlerContract:
    """Tests of what every handler has to honour, each named after its rule.

    Derive a class in a test file, say how the handler is made, and run pytest: each rule is one
    test. The runs are of a few small batches on the CPU. Give the handler settings with which it
    does its work in two epochs of three batches, but with which no schedule in steps comes due
    unless `reads_per_batch` says so.

    Attributes:
        changes_training: Whether the net is meant to learn something else with this handler, as
            from mixed inputs; what a run leaves is then not compared with one that is without it.
        changes_validation: Whether validation and `evaluate` are meant to give other results with
            it, as from averaged weights.
        needs_validation: Whether a run without validation is to be refused with an ArgumentError.
        reads_per_batch: How often it may read a tensor's value to the host in a batch. On an
            accelerator every such read waits until all queued work is done.

    Example:
        >>> from estimator.handlers import TimeLimitHandler
        >>> class TestTimeLimit(HandlerContract):
        ...     def make(self, folder):
        ...         return TimeLimitHandler(60)
        >>> TestTimeLimit().test_events_take_one_argument(Path("."))
    """

    changes_training: bool = False
    changes_validation: bool = False
    needs_validation: bool = False
    reads_per_batch: float = 0

    def make(self, folder: Path) -> EventHandler:
        """A new handler, the same each time.

        Args:
            folder: An empty folder of its own, for a handler that writes files.
        """
        raise NotImplementedError(f"{type(self).__name__}.make must return the handler to test.")

    def estimator(self) -> Estimator:
        """What trains with the handler; override it for one that needs another net or loss."""
        net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        return Estimator(net, nn.CrossEntropyLoss(), ["accuracy"])

    def data(self, samples: int) -> Any:
        """Data for `fit`, which makes batches of 4 from it; override it together with the net.

        Args:
            samples: How many there must be. The same number means the same samples.
        """
        generator = torch.Generator().manual_seed(samples)
        return torch.randn(samples, 4, generator=generator), torch.arange(samples) % 3

    def test_builds(self, tmp_path: Path) -> None:
        """It is an object with no method that looks like a misspelt event; no file is made."""
        handler = self.make(tmp_path)
        assert as_handler(handler) is handler, f"{handler!r} must derive from EventHandler"
        made = sorted(path.name for path in tmp_path.iterdir())
        assert not made, f"{handler!r}: the constructor made {made}; make files from train_begin on"

    def test_repr_is_one_line_with_the_class(self, tmp_path: Path) -> None:
        """A log or a message that shows it stays readable."""
        handler = self.make(tmp_path)
        text, name = repr(handler), type(handler).__name__
        assert name in text, f"repr must name the class {name}; it is {text!r}"
        assert "\n" not in text, f"repr must be one line; it is {text!r}"

    def test_events_take_one_argument(self, tmp_path: Path) -> None:
        """An event is called with the TrainStats and nothing else."""
        handler = self.make(tmp_path)
        for event in EVENTS:
            signature = inspect.signature(getattr(handler, event))
            try:
                signature.bind(None)
            except TypeError as error:
                rule = f"{event} must take the TrainStats as its one argument; it is {signature}"
                raise AssertionError(f"{handler!r}: {rule}") from error

    def test_pickles(self, tmp_path: Path) -> None:
        """It can be pickled before and after a fit, and each copy does in a fit what it does."""
        handler = self._new(tmp_path)
        copies = [_pickled(handler, "before a fit")]
        expected = _outcome(self._run(handler))
        copies.append(_pickled(handler, "after a fit"))
        for copy in copies:
            same = _same(_outcome(self._run(copy)), expected)
            assert same, f"{handler!r}: a pickled copy made a run end otherwise"

    def test_state_round_trip(self, tmp_path: Path) -> None:
        """Its state is plain, goes through a checkpoint unchanged, and is refused when unknown."""
        handler = self._new(tmp_path)
        states = [_through_a_file(handler)]
        probe = _Probe("epoch_end", lambda stats: states.append(_through_a_file(handler)))
        self._run(handler, probe)
        for state in [*states, _through_a_file(handler)]:
            fresh = self._new(tmp_path)
            fresh.load_state_dict(state)
            got = fresh.state_dict()
            assert _same(got, state), f"{handler!r}: state loaded is {state}, then it is {got}"
        try:
            handler.load_state_dict({**handler.state_dict(), "no such name": 0})
        except ArgumentError:
            return
        rule = "load_state_dict must refuse names it does not know with an ArgumentError"
        raise AssertionError(f"{handler!r}: {rule}")

    def test_survives_a_validation_without_batches(self, tmp_path: Path) -> None:
        """`stats.val` may lack every value, and there may be no validation_batch_end."""
        # The core may refuse such data; then it is the handler's part to let that error pass.
        with contextlib.suppress(DataError):
            self._run(self._new(tmp_path), val=DataLoader(_NoSamples()))

    def test_survives_a_run_without_validation(self, tmp_path: Path) -> None:
        """No validation event comes; one that cannot do without says so in an ArgumentError."""
        handler = self._new(tmp_path)
        refused = False
        with warnings.catch_warnings():
            # It may well warn of what it cannot do.
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._run(handler, val=None)
            except ArgumentError:
                refused = True
        rule = "must be refused" if self.needs_validation else "must work"
        assert refused == self.needs_validation, f"{handler!r}: a run without validation {rule}"

    def test_survives_an_epoch_of_one_short_batch(self, tmp_path: Path) -> None:
        """The first batch may be the last one and smaller than the batch size."""
        self._run(self._new(tmp_path), train=self.data(2), val=self.data(2))

    def test_survives_a_stop_in_a_batch(self, tmp_path: Path) -> None:
        """An epoch that a stop cuts short ends without a validation and does not count."""

        def stop(stats: TrainStats) -> None:
            if stats.step == 2:
                stats.stop("planned by HandlerContract")

        handler = self._new(tmp_path)
        stats = self._run(_Probe("batch_end", stop, Band.PREPARE), handler).stats
        assert stats.step == 2, f"{handler!r}: the run was asked to stop at step 2; it is {stats!r}"

    def test_survives_an_exception(self, tmp_path: Path) -> None:
        """With `stats.error` set its end events clean up, raise nothing, and it serves again."""
        for moment, where in _BREAKS.items():
            handler = self._new(tmp_path)
            notes = getattr(self._break(handler, moment, self._estimator()), "__notes__", [])
            rule = "its events must not raise while an exception passes"
            assert not notes, f"{handler!r}: {rule} that came {where}. {' '.join(notes)}"
            self._run(handler)

    def test_serves_evaluate_and_predict(self, tmp_path: Path) -> None:
        """Its validation events work without a train_begin, and change no result."""
        handler, est, data = self._new(tmp_path), self._estimator(), self.data(6)
        for moment in ("before", "after"):
            with random_state_kept(), est.add(handler):
                if moment == "after":
                    self._run(est=est)
                attached = est.evaluate(data), est.predict(data)
            with random_state_kept():
                alone = est.evaluate(data), est.predict(data)
            same = self.changes_validation or _same(attached, alone)
            rule = f"evaluate and predict {moment} a fit must give what they give without it"
            assert same, f"{handler!r}: {rule}; got {attached} in place of {alone}"

    def test_serves_a_second_fit(self, tmp_path: Path) -> None:
        """In a second Estimator, and in a second fit, it starts afresh."""
        handler = self._new(tmp_path)
        first, second = self._run(handler), self._run(handler)
        same = _same(_outcome(first), _outcome(second))
        assert same, f"{handler!r}: an equal second Estimator got {second.stats!r}, not {first.stats!r}"
        self._run(handler, est=second.est)

    def test_reads_no_tensor_in_a_batch(self, tmp_path: Path) -> None:
        """No batch waits for the device; values are read at a schedule or at the end of an epoch."""
        handler = self._new(tmp_path)
        plain, watched = self._reads(), self._reads(handler)
        for phase in ("training", "validation"):
            reads, batches = watched[phase] - plain[phase], _BATCHES - _WARM_UP
            rule = f"may read {self.reads_per_batch} values a batch to the host"
            assert reads.total() <= self.reads_per_batch * batches, (
                f"{handler!r} {rule}; in {batches} batches of {phase} it did {dict(reads)}"
            )

    def test_leaves_no_hook(self, tmp_path: Path) -> None:
        """Modules and parameters have the hooks and attributes that they had before."""
        for moment in (None, *_BREAKS):
            handler, est = self._new(tmp_path), self._estimator()
            before = _attached(est.net)
            self._end(handler, moment, est)
            after = _attached(est.net)
            left = [*(after - before), *(before - after)]
            assert not left, f"{handler!r} left or took hooks or attributes {_after(moment)}: {left}"

    def test_leaves_no_open_file(self, tmp_path: Path) -> None:
        """Whatever it opened is closed with the run."""
        for moment in (None, *_BREAKS):
            handler = self._new(tmp_path)
            before = _open_files()
            self._end(handler, moment, self._estimator())
            left = [name for _, name in _open_files().items() - before.items()]
            assert not left, f"{handler!r} left files open {_after(moment)}: {left}"

    def test_leaves_no_thread(self, tmp_path: Path) -> None:
        """Whatever it started has ended with the run."""
        for moment in (None, *_BREAKS):
            handler = self._new(tmp_path)
            before = threading.enumerate()
            self._end(handler, moment, self._estimator())
            left = [thread for thread in threading.enumerate() if thread not in before]
            assert not left, f"{handler!r} left threads running {_after(moment)}: {left}"

    def test_lets_the_net_go(self, tmp_path: Path) -> None:
        """After a run the handler holds neither the net nor anything that holds it."""
        for moment in (None, *_BREAKS):
            handler, est = self._new(tmp_path), self._estimator()
            net = weakref.ref(est.net)
            self._end(handler, moment, est)
            del est
            gc.collect()
            assert net() is None, f"{handler!r} still holds the net {_after(moment)}"

    def test_leaves_training_alone(self, tmp_path: Path) -> None:
        """Weights, buffers, modes, requires_grad and results are those of a run without it."""
        self._compare(tmp_path, "net")

    def test_leaves_random_streams_alone(self, tmp_path: Path) -> None:
        """Python's, NumPy's and torch's global streams stand where they would without it."""
        self._compare(tmp_path, "streams")
