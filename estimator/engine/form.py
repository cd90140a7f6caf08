"""One shape of batches on its way from eager steps to a recorded one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from estimator.engine.capture import Recorded
from estimator.engine.cause import Cause
from estimator.engine.leaves import flatten, rebuild
from estimator.engine.recording import (
    Shown,
    Trial,
    cause_of,
    record,
    shown_by,
    static_copies,
    written,
)
from estimator.gather import Picked
from estimator.step import Step

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

Way = Literal["eager", "aside", "prove", "replay"]
_OPENED = ("batch", "inputs", "targets", "uids", "batch_size")
_WARM = 3
_BLOCK, _ROUNDS = 10, 20
_FASTER = 0.97


class Form:
    """The climb of one shape of batches.

    The first batches are computed eagerly where recordings are made, which creates the state of
    optimizers and what libraries choose by trial. Then the step is recorded, tried on the next
    batch against the eager step, and, unless it was asked for by name, timed against it.

    Args:
        step: Whose batches they are.
        form: What `flatten` left of a batch.
        take: Makes a batch from the indices of its rows, where only those change.
        is_first: Whether the batch begins a group, whose gradients it sets.
    """

    def __init__(
        self, step: GraphStep, form: Any, *, take: Callable[[Any], Any] | None, is_first: bool
    ) -> None:
        self.step, self.form, self.take, self.is_first = step, form, take, is_first
        self.batch: dict[str, Any] = {}
        """What a recording that gathers has put into the batch fields."""
        self.seen = 0
        self.statics: list[torch.Tensor] = []
        self.recorded: Recorded | None = None
        self.shown: Shown | None = None
        self.gradients: list[torch.Tensor | None] = []
        self.whole = False
        """Whether the recording goes on to the optimizer's step."""
        self.numbers: list[Any] = []
        self.proven = self.settled = self.replays = False
        self.marks: dict[bool, list[tuple[Any, Any]]] = {False: [], True: []}
        self.times: dict[bool, float] = {}
        self.seconds = 0.0
        self.cause: Cause | None = None

    def choose(self, leaves: list[torch.Tensor]) -> Way:
        """How the coming batch is computed.

        Args:
            leaves: Its tensors.
        """
        self.seen += 1
        if self.settled and not self.replays:
            return "eager"
        if self.recorded is None:
            if self.seen <= _WARM or not self.step.has_stepped:
                return "aside"
            if self._pays():
                self.record(leaves)
            return "eager"
        if self.whole and self.numbers != self.step.updates.numbers():
            self.step.updates.changes += 1
            self.record(leaves)
            return "eager"
        if not self.proven or self.step.doubt.is_raised:
            return "prove"
        return self._contest()

    def is_sure(self) -> bool:
        """Whether the coming batch is replayed, as far as this form decides."""
        ready = self.settled and self.replays and self.proven and self.recorded is not None
        return ready and not self.step.doubt.is_raised

    def _pays(self) -> bool:
        step = self.step
        if step.engine.by_name:
            return True
        left = _batches_left(step) * self.seen / max(step.seen, 1)
        # The gain is taken for a third of the step, which most small nets exceed.
        if left * step.quickest / 3 > 2 * step.cost:
            return True
        self.cause = Cause("E109", "the run is too short to pay for it")
        self.settle(False)
        return False

    def _contest(self) -> Way:
        if self.settled or self.step.engine.by_name:
            self.settle(True)
            return "replay"
        eager, replay = (len(self.marks[tier]) for tier in (False, True))
        if eager + replay >= 2 * _ROUNDS:
            for tier, pairs in self.marks.items():
                self.times[tier] = sorted(self.step.recorder.seconds(pairs))[len(pairs) // 2]
            self.settle(self.times[True] < _FASTER * self.times[False])
            return "replay" if self.replays else "eager"
        # In blocks: a replay that is queued would hide how long the next eager step takes.
        return "replay" if (eager + replay) // _BLOCK % 2 else "eager"

    def settle(self, replays: bool) -> None:
        """Ends the climb."""
        self.settled, self.replays = True, replays
        if not replays:
            self.release()
            # Where most batches stay eager, the others are not worth a look at each.
            self.step.is_off |= 2 * self.seen > self.step.seen

    def refuse(self, cause: Cause) -> None:
        """Stays with the eager step, and tells why."""
        self.cause = cause
        self.settle(False)
        self.step.refused(cause)

    def record(self, leaves: list[torch.Tensor]) -> None:
        """Records the step, as far as it can be."""
        self.release()
        self.statics, self.proven, self.whole = static_copies(leaves), False, False
        try:
            cause = self.step.blocked()
            if cause is not None:
                self.refuse(cause)
                return
            self._record_most()
        except Exception as error:  # a user's code may raise anything where it is not expected
            self.refuse(cause_of(error, "the step"))

    def _record_most(self) -> None:
        step = self.step
        step.make_room()
        alone = step.cuts or step.shares_gradients or step.runtime.scaler is not None
        if not step.updates.may_be_recorded() or alone:
            self._record(whole=False)
            return
        try:
            self._record(whole=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # as above; if forward was it, the next recording fails too
            self._record(whole=False)
            step.updates.refuse(cause_of(error, "the optimizer's step"))

    def _record(self, *, whole: bool) -> None:
        step, form, kept = self.step, self, []

        def work() -> None:
            form._fill_fields()
            step.compute(first=form.is_first)
            kept.append(Shown(step))
            if whole:
                step.updates.compute()
            form.gradients = [p.grad for p in step.parameters]

        self.whole, self.numbers = whole, step.updates.numbers()
        self.recorded, self.seconds = record(step, work, self.statics, lends=whole)
        self.shown = kept[0]

    def _fill_fields(self) -> None:
        """Brings the memory that replays read into the batch fields, inside a recording."""
        step, stats = self.step, self.step.stats
        if self.take is None:
            stats.inputs, stats.targets = rebuild(self.form, self.statics)
            return
        Step.open(step, Picked(self.statics[0], self.take))
        self.batch = {name: getattr(stats, name) for name in _OPENED}

    def show(self) -> torch.Tensor:
        """Fills the batch fields after a replay; returns the loss."""
        assert self.shown is not None
        stats = self.step.stats
        for name, value in self.batch.items():
            # Metrics may keep targets; inputs and the batch are there until the next replay.
            setattr(stats, name, _copied(value) if name in ("targets", "uids") else value)
        return self.shown.give(self.step)

    def replay(self, leaves: list[torch.Tensor]) -> None:
        """Computes a batch."""
        assert self.recorded is not None
        with torch.no_grad():
            for static, leaf in zip(self.statics, leaves, strict=True):
                static.copy_(leaf, non_blocking=True)
        if self.whole:
            self.step.updates.fill()
        self.recorded.replay()

    def attempt(self, leaves: list[torch.Tensor]) -> Trial | None:
        """Computes a batch and takes it back, to be compared with the eager step."""
        assert self.shown is not None
        tensors = written(self.step, weights=self.whole, but=self.step.updates.own_counters())
        results = self.shown.named() + [("gradient", gradient) for gradient in self.gradients]
        try:
            return Trial(
                self.step.runtime.device, tensors, replay=lambda: self.replay(leaves),
                results=results,
            )  # fmt: skip
        except (RuntimeError, IndexError) as error:
            self.refuse(cause_of(error, "the step"))
            return None

    def judge(self, trial: Trial) -> None:
        """Compares the eager step, which has been, with what the recorded one has made."""
        step = self.step
        results = shown_by(step) + [("gradient", p.grad) for p in step.parameters]
        odd = trial.difference(results, close=step.is_close)
        if odd is None:
            self.proven, step.doubt.is_raised = True, False
            return
        if self.settled:
            warnings.warn(
                f"The recorded step gives another {odd.name} than the eager one by now: a number "
                "that it cannot see has changed since the last proof, at the earliest with the "
                "epoch before. Training goes on eagerly. Pass engine='eager' for such a run.",
                stacklevel=2,
            )
            step.is_off = True
        code = "E119" if odd.is_near else "E108"
        self.refuse(Cause(code, f"the recorded step gave another {odd.name}"))

    def release(self) -> None:
        """Lets the recording go."""
        if self.recorded is not None:
            self.recorded.reset()
            self.step.updates.forget(self.gradients)
        self.recorded, self.shown = None, None
        self.statics, self.gradients, self.batch = [], [], {}

    def report(self) -> tuple[str, float | None, float | None]:
        """The status, and the microseconds of an eager and of a recorded step."""
        what = "whole step" if self.whole else "forward and backward"
        chosen = f"chosen (verified, {what})" if self.replays else "not faster"
        status = chosen if self.settled else "not decided yet"
        eager, replay = (self.times[t] * 1e6 if t in self.times else None for t in (False, True))
        return (str(self.cause) if self.cause else status), eager, replay


def _copied(value: Any) -> Any:
    leaves: list[torch.Tensor] = []
    form = flatten(value, leaves)
    return rebuild(form, [leaf.clone() for leaf in leaves])


def _batches_left(step: GraphStep) -> float:
    """Batches that a run has still to train, as far as is known."""
    stats = step.stats
    if stats.iterations is not None:
        return (stats.iterations - stats.step) * step.accumulation.size
    if stats.batches is None or stats.epochs is None:
        return float("inf") if stats.epoch else 0
    return stats.batches * (stats.epochs - stats.epoch) - stats.batches_done
