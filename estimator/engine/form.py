"""One shape of batches on its way from eager steps to a recorded one."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from estimator.engine.capture import Recorded
from estimator.engine.cause import Cause
from estimator.engine.contest import Contest
from estimator.engine.doubt import Doubt
from estimator.engine.horizon import batches_left
from estimator.engine.ladder import Rung
from estimator.engine.recording import Named, Shown, Trial, cause_of, shown_by, static_copies
from estimator.engine.standing import Sight

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

Way = Literal["eager", "aside", "prove", "replay"]
_WARM = 3


class Scope(Protocol):
    """What the forms of training, or those of evaluation, have in common."""

    seen: int
    is_off: bool
    quickest: float
    sight: Sight
    doubt: Doubt


class Form(ABC):
    """The climb of one shape of batches.

    The first batches are computed eagerly where recordings are made, which creates the state of
    optimizers and what libraries choose by trial. Then the step is recorded, tried on the next
    batch against the eager step, and, unless it was asked for by name, timed against it.

    Args:
        step: Whose batches they are.
        scope: What all forms of such batches share.
    """

    evaluates: bool
    """Whether they are those of passes without gradients."""

    def __init__(self, step: GraphStep, scope: Scope) -> None:
        self.step, self.scope = step, scope
        self.seen = 0
        self.statics: list[torch.Tensor] = []
        self.recorded: Recorded | None = None
        self.shown: Shown | None = None
        self.gradients: list[torch.Tensor | None] = []
        self.proven = self.settled = self.replays = False
        self.contest = Contest(step.recorder)
        self.seconds = 0.0
        self.cause: Cause | None = None
        self._began: tuple[float, Any] | None = None

    def choose(self, leaves: list[torch.Tensor]) -> Way:
        """How the coming batch is computed.

        Args:
            leaves: Its tensors.
        """
        self.seen += 1
        if self.settled and not self.replays:
            return "eager"
        if self.recorded is None:
            if self.seen <= _WARM or not self._is_ready():
                return "aside"
            if self._pays():
                self.record(leaves)
            return "eager"
        if self._is_stale():
            self.record(leaves)
            return "eager"
        if not self.proven or self.scope.doubt.is_raised:
            return "prove"
        return self._contest()

    def _is_ready(self) -> bool:
        left = batches_left(self.step, evaluating=self.evaluates)
        return self.step.engine.by_name or left is not None

    @abstractmethod
    def _is_stale(self) -> bool:
        """Whether the recording has frozen a number that is another one by now."""

    def is_sure(self) -> bool:
        """Whether the coming batch is replayed, as far as this form decides."""
        ready = self.settled and self.replays and self.proven and self.recorded is not None
        return ready and not self.scope.doubt.is_raised

    def _pays(self) -> bool:
        step, scope = self.step, self.scope
        if step.engine.by_name:
            return True
        batches = batches_left(step, evaluating=self.evaluates)
        assert batches is not None
        left = batches * self.seen / max(scope.seen, 1)
        # The gain is taken for a third of the step, which most small nets exceed.
        if left * scope.quickest / 3 > 2 * step.cost:
            return True
        self.cause = Cause("E109", "the run is too short to pay for it")
        self.settle(False)
        return False

    def _contest(self) -> Way:
        if self.settled or self.step.engine.by_name:
            self.settle(True)
            return "replay"
        if self.contest.is_over:
            self.settle(self.contest.is_won())
            return "replay" if self.replays else "eager"
        return "replay" if self.contest.turn() else "eager"

    def begin(self) -> None:
        """Notes when a batch begins, as long as times count."""
        mark = self.step.recorder.mark() if self.proven else None
        self._began = None if self.settled else (time.perf_counter(), mark)

    def end(self, *, replayed: bool) -> None:
        """Notes how long the batch took."""
        if self._began is None:
            return
        (began, mark), self._began = self._began, None
        if mark is not None:
            self.contest.add(replayed, mark)
        elif not replayed:
            self.scope.quickest = min(self.scope.quickest, time.perf_counter() - began)

    def settle(self, replays: bool) -> None:
        """Ends the climb."""
        self.settled, self.replays = True, replays
        if not replays:
            self.release()
            # Where most batches stay eager, the others are not worth a look at each.
            self.scope.is_off |= 2 * self.seen > self.scope.seen

    def refuse(self, cause: Cause) -> None:
        """Stays with the eager step, and tells why."""
        self.cause = cause
        self.settle(False)
        self.step.refused(cause)

    def record(self, leaves: list[torch.Tensor]) -> None:
        """Records the step, as far as it can be."""
        self.release()
        self.statics, self.proven = static_copies(leaves), False
        try:
            cause = self.step.blocked(evaluating=self.evaluates)
            if cause is not None:
                self.refuse(cause)
                return
            self._record()
        except Exception as error:  # a user's code may raise anything where it is not expected
            self.refuse(cause_of(error, "the step"))

    @abstractmethod
    def _record(self) -> None:
        """Records as much of the step as can be."""

    def replay(self, leaves: list[torch.Tensor]) -> None:
        """Computes a batch."""
        assert self.recorded is not None
        with torch.no_grad():
            for static, leaf in zip(self.statics, leaves, strict=True):
                static.copy_(leaf, non_blocking=True)
        self._make_ready()
        self.recorded.replay()

    @abstractmethod
    def _make_ready(self) -> None:
        """Brings what has changed on the host to the device."""

    def attempt(self, leaves: list[torch.Tensor]) -> Trial | None:
        """Computes a batch and takes it back, to be compared with the eager step."""
        assert self.shown is not None
        results = self.shown.named() + [("gradient", gradient) for gradient in self.gradients]
        try:
            return Trial(
                self.step.runtime.device, self._written(), replay=lambda: self.replay(leaves),
                results=results,
            )  # fmt: skip
        except (RuntimeError, IndexError) as error:
            self.refuse(cause_of(error, "the step"))
            return None

    @abstractmethod
    def _written(self) -> Named:
        """What the step writes to in place."""

    def judge(self, trial: Trial) -> None:
        """Compares the eager step, which has been, with what the recorded one has made."""
        step, gradients = self.step, () if self.evaluates else self.step.parameters
        results = shown_by(step) + [("gradient", p.grad) for p in gradients]
        odd = trial.difference(results, close=step.is_close)
        if odd is None:
            self.proven, self.scope.doubt.is_raised = True, False
            return
        work = "evaluation" if self.evaluates else "step"
        if self.settled:
            warnings.warn(
                f"The recorded {work} gives another {odd.name} than the eager one by now: a number "
                "that it cannot see has changed since the last proof. Training goes on eagerly; "
                "what was computed since then may be wrong. Pass engine='eager' for such a run.",
                stacklevel=2,
            )
            self.scope.is_off = True
        code = "E119" if odd.is_near else "E108"
        self.refuse(Cause(code, f"the recorded {work} gave another {odd.name}"))

    def release(self) -> None:
        """Lets the recording go."""
        if self.recorded is not None:
            self.recorded.reset()
        self.recorded, self.shown = None, None
        self.statics, self.gradients = [], []

    @abstractmethod
    def _extent(self) -> str:
        """What is recorded, in words."""

    def report(self) -> list[Rung]:
        """What is known of the eager and of the recorded batch."""
        chosen = f"chosen (verified, {self._extent()})" if self.replays else "not faster"
        status = chosen if self.settled else "not decided yet"
        status = str(self.cause) if self.cause else status
        eager, replay = self.contest.microseconds()
        return [Rung("eager", "", eager, 0.0), Rung("graph", status, replay, self.seconds)]
