"""`HandlerContract`: what a handler has to honour, as tests that run on anyone's handler."""

from __future__ import annotations

import gc
import inspect
import threading
import warnings
import weakref
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from estimator.dispatch import as_handler
from estimator.handlers.base import EVENTS, ArgumentError, Band, DataError, EventHandler
from estimator.randomness import random_state_kept
from estimator.stats import TrainStats
from estimator.testing._rehearsal import MEASURED
from estimator.testing._resume import ResumeRules
from estimator.testing._watch import (
    NoSamples,
    Probe,
    attached,
    difference,
    open_files,
    pickled,
    through_a_file,
)

_BREAKS = {
    "train_begin": "before its train_begin",
    "forward_end": "in a batch of training",
    "validation_begin": "in a batch of validation",
    "epoch_end": "before its epoch_end",
}
_ENDS = (None, *_BREAKS)


class HandlerContract(ResumeRules):
    """Tests of what every handler has to honour, each named after its rule.

    Derive a class in a test file, say how the handler is made, and run pytest: each rule is one
    test. The runs have a few small batches, on the CPU. Give the handler settings with which it
    does its work within two epochs of three batches.

    Attributes:
        changes_training: Whether the net is meant to learn something else with this handler, as
            from mixed inputs. What a run makes is then not compared with one without the handler.
        changes_validation: Whether validation and `evaluate` are meant to give other results with
            it, as from averaged weights.
        needs_validation: Whether it refuses a run without validation, with an ArgumentError.
        reads_per_batch: How often it may read values of tensors to the host, as a mean over the
            batches. On an accelerator each such read waits until all queued work is done.

    Example:
        >>> from estimator.handlers import TimeLimitHandler
        >>> class TestTimeLimit(HandlerContract):
        ...     def make(self, folder):
        ...         return TimeLimitHandler(60)
        >>> TestTimeLimit().test_events_take_one_argument(Path())
    """

    changes_training: bool = False
    changes_validation: bool = False
    needs_validation: bool = False
    reads_per_batch: float = 0

    def test_builds(self, tmp_path: Path) -> None:
        """It is an object without misspelt events, and its constructor makes no file."""
        handler = self.make(tmp_path)
        assert as_handler(handler) is handler, f"{handler!r} must derive from EventHandler"
        made = sorted(path.name for path in tmp_path.iterdir())
        assert not made, f"{handler!r} must make files from train_begin on; it has made {made}"

    def test_repr_is_one_line_with_the_class(self, tmp_path: Path) -> None:
        """Logs and messages that show it stay readable."""
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
                rule = f"{event} must take one argument, the TrainStats; it takes {signature}"
                raise AssertionError(f"{handler!r}: {rule}") from error

    def test_pickles(self, tmp_path: Path) -> None:
        """It pickles before and after a fit, and in a fit each copy does what it does."""
        handler = self._new(tmp_path)
        copies = [pickled(handler, "before a fit")]
        expected = self._run(handler).results
        copies.append(pickled(handler, "after a fit"))
        for copy in copies:
            changed = difference(self._run(copy).results, expected)
            assert not changed, f"{handler!r}: a pickled copy must do the same in a run; {changed}"

    def test_state_round_trip(self, tmp_path: Path) -> None:
        """Its state is plain and survives a checkpoint; names that it does not know are refused."""
        handler = self._new(tmp_path)
        states = [through_a_file(handler)]
        probe = Probe("epoch_end", lambda stats: states.append(through_a_file(handler)))
        self._run(handler, probe)
        for state in [*states, through_a_file(handler)]:
            fresh = self._new(tmp_path)
            fresh.load_state_dict(state)
            changed = difference(fresh.state_dict(), state)
            assert not changed, f"{handler!r}: a state must stay as it is when loaded; {changed}"
        try:
            handler.load_state_dict({**handler.state_dict(), "no such name": 0})
        except ArgumentError:
            return
        rule = "load_state_dict must refuse names it does not know, with an ArgumentError"
        raise AssertionError(f"{handler!r}: {rule}")

    def test_survives_a_validation_without_batches(self, tmp_path: Path) -> None:
        """The loop refuses it; `stats.val` then lacks every value when validation_end comes."""
        handler = self._new(tmp_path)
        with_it, without = self._error_without_batches(handler), self._error_without_batches()
        rule = "a validation without batches must end as it does without it"
        assert with_it == without, f"{handler!r}: {rule}; it ended with {with_it}"

    def test_survives_a_run_without_validation(self, tmp_path: Path) -> None:
        """No validation event comes; a handler that cannot do without says so at train_begin."""
        handler, refused = self._new(tmp_path), False
        with warnings.catch_warnings():
            # It may warn of what it will not do.
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._run(handler, val=None)
            except ArgumentError:
                refused = True
        rule = "must be refused" if self.needs_validation else "must work"
        assert refused == self.needs_validation, f"{handler!r}: a run without validation {rule}"

    def test_survives_an_epoch_of_one_short_batch(self, tmp_path: Path) -> None:
        """The first batch may be the last one, and smaller than the batch size."""
        self._run(self._new(tmp_path), train=self.data(2), val=self.data(2))

    def test_survives_a_stop_in_a_batch(self, tmp_path: Path) -> None:
        """An epoch that a stop cuts short has no validation and does not count."""

        def stop(stats: TrainStats) -> None:
            if stats.step == 2:
                stats.stop("planned by HandlerContract")

        handler = self._new(tmp_path)
        stats = self._run(Probe("batch_end", stop, band=Band.PREPARE), handler).stats
        assert stats.step == 2, f"{handler!r}: the run must stop at step 2; it became {stats!r}"

    def test_survives_an_exception(self, tmp_path: Path) -> None:
        """While `stats.error` is set its events raise nothing; afterwards it serves again."""
        handler = self._new(tmp_path)
        for moment, where in _BREAKS.items():
            notes = getattr(self._break(moment, self._estimator(), handler), "__notes__", [])
            rule = f"its events must not raise after an exception {where}"
            assert not notes, f"{handler!r}: {rule}. {' '.join(notes)}"
        self._run(handler)

    def test_serves_evaluate_and_predict(self, tmp_path: Path) -> None:
        """Its validation events work without a train_begin, and change no result."""
        handler, est, data = self._new(tmp_path), self._estimator(), self.data(6)
        for moment in ("before", "after"):
            with random_state_kept(), est.add(handler):
                if moment == "after":
                    self._run(est=est)
                with_it = est.evaluate(data), est.predict(data)
            with random_state_kept():
                without = est.evaluate(data), est.predict(data)
            changed = "" if self.changes_validation else difference(with_it, without)
            rule = f"evaluate and predict {moment} a fit must give what they give without it"
            assert not changed, f"{handler!r}: {rule}; {changed}"

    def test_serves_a_second_fit(self, tmp_path: Path) -> None:
        """In a second Estimator, and in a second fit, it starts afresh."""
        handler = self._new(tmp_path)
        first, second = self._run(handler), self._run(handler)
        changed = difference(second.results, first.results)
        rule = "an object that served before must do the same in the next Estimator"
        assert not changed, f"{handler!r}: {rule}; {changed}"
        self._run(handler, est=second.est)

    def test_reads_no_tensor_in_a_batch(self, tmp_path: Path) -> None:
        """Batches do not wait for the device; values are read at a schedule or an epoch's end."""
        plain, handler = self._reads(), self._new(tmp_path)
        for event, reads in self._reads(handler).items():
            reads -= plain[event]
            assert reads.total() <= self.reads_per_batch * MEASURED, (
                f"{handler!r} may read {self.reads_per_batch} tensors a batch to the host; up to "
                f"the {event} of {MEASURED} batches it has read {dict(reads)}"
            )

    def test_leaves_no_hook(self, tmp_path: Path) -> None:
        """Modules and parameters have the hooks and attributes that they would have without it."""
        for moment in _ENDS:
            handler, est, plain = self._new(tmp_path), self._estimator(), self._estimator()
            self._end(moment, plain)
            self._end(moment, est, handler)
            changed = sorted(dict(attached(est.net).items() ^ attached(plain.net).items()))
            assert not changed, f"{handler!r} changed hooks {_after(moment)}: {changed}"

    def test_leaves_no_open_file(self, tmp_path: Path) -> None:
        """What it opened is closed with the run."""
        for moment in _ENDS:
            handler, before = self._new(tmp_path), open_files()
            self._end(moment, self._estimator(), handler)
            left = sorted(name for _, name in open_files().items() - before.items())
            assert not left, f"{handler!r} left files open {_after(moment)}: {left}"

    def test_leaves_no_thread(self, tmp_path: Path) -> None:
        """What it started has ended with the run."""
        for moment in _ENDS:
            handler, before = self._new(tmp_path), threading.enumerate()
            self._end(moment, self._estimator(), handler)
            left = [thread.name for thread in threading.enumerate() if thread not in before]
            assert not left, f"{handler!r} left threads running {_after(moment)}: {left}"

    def test_lets_the_net_go(self, tmp_path: Path) -> None:
        """After a run it holds neither the net nor anything that holds the net."""
        # The rest of the process is large, and only what the runs make has to be looked through.
        gc.freeze()
        ended = {moment: self._after_run(tmp_path, moment) for moment in _ENDS}
        gc.collect()
        gc.unfreeze()
        for moment, (handler, net) in ended.items():
            assert net() is None, f"{handler!r} still holds the net {_after(moment)}"

    def test_leaves_training_alone(self, tmp_path: Path) -> None:
        """Modes, requires_grad, buffers, weights and history are as they would be without it."""
        self._compare(tmp_path, "results")

    def test_leaves_random_streams_alone(self, tmp_path: Path) -> None:
        """The global streams of Python, NumPy and torch stand where they would without it."""
        self._compare(tmp_path, "streams")

    def _error_without_batches(self, *handlers: EventHandler) -> str | None:
        try:
            self._run(*handlers, val=DataLoader(NoSamples()))
        except DataError as error:
            return "\n".join([repr(error), *getattr(error, "__notes__", [])])
        return None

    def _after_run(
        self, tmp_path: Path, moment: str | None
    ) -> tuple[EventHandler, weakref.ref[nn.Module]]:
        handler, est = self._new(tmp_path), self._estimator()
        self._end(moment, est, handler)
        return handler, weakref.ref(est.net)

    def _compare(self, tmp_path: Path, part: str) -> None:
        if self.changes_training:
            return
        handler = self._new(tmp_path)
        without, with_it = (getattr(run, part) for run in (self._run(), self._run(handler)))
        changed = difference(with_it, without)
        assert not changed, f"{handler!r}: a run must be the same as without it; {changed}"


def _after(moment: str | None) -> str:
    return "after a run" if moment is None else f"after an exception {_BREAKS[moment]}"
