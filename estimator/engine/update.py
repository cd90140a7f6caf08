"""The optimizers' side of the graph tier: whether their step is recorded, and with what."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from estimator.engine.capture import Recorded
from estimator.engine.cause import Cause
from estimator.engine.lent import Lent
from estimator.engine.recording import Trial, cause_of, record, written
from estimator.notices import notice

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

_MOST_CHANGES = 3
Gradients = Sequence[torch.Tensor | None]


class Update:
    """A recorded step of the optimizers, from gradients that stay where they are.

    Args:
        numbers: What is frozen in it.
        recorded: The recording.
    """

    def __init__(self, numbers: list[Any], recorded: Recorded) -> None:
        self.numbers, self.recorded = numbers, recorded
        self.proven = False
        self.trial: Trial | None = None


class Updates:
    """Clipping and the optimizers' steps, recorded where that is known to do the same.

    Args:
        step: Whose trainers they are.
    """

    def __init__(self, step: GraphStep) -> None:
        self.step = step
        self.lents: list[Lent] = []
        self.cause: Cause | None = None
        """Why optimizers step by themselves."""
        self.changes = 0
        """How often a number had changed that was frozen."""
        self.pieces: list[tuple[Gradients, Update]] = []

    def may_be_recorded(self) -> bool:
        """Whether the optimizers' step can be recorded, as far as is known."""
        if self.cause is None and not self.lents:
            step = self.step
            self.lents = [Lent(trainer, close=step.is_close) for trainer in step.trainers]
            refusals = [lent.refusal() for lent in self.lents]
            cause = next((cause for cause in refusals if cause is not None), None)
            if step.runtime.scaler is not None:
                cause = Cause("E105", "the loss is scaled (precision='fp16')")
            if cause is not None:
                self.refuse(cause)
            elif any(lent.takes_rates for lent in self.lents):
                self._warm()
        if self.cause is None and self.changes > _MOST_CHANGES:
            self.refuse(Cause("E117", "a rate or another number of an optimizer changes often"))
        return self.cause is None

    def _warm(self) -> None:
        """Loads the kernels that are recorded, by a step that is taken back."""
        step = self.step
        tensors = written(step, weights=True, but=self.own_counters())
        tensors += [("gradient", p.grad) for p in step.parameters]
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(step.recorder.aside())
                for lent in self.lents:
                    stack.enter_context(lent.lent())
                Trial(step.runtime.device, tensors, replay=self.compute, results=[])
        except Exception as error:  # what a device or an optimizer raises is not known
            self.refuse(cause_of(error, "the optimizer's step"))

    def refuse(self, cause: Cause) -> None:
        """Lets the optimizers step by themselves, and tells why once."""
        step = self.step
        for form in step.forms.values():
            if form.whole:
                # It would go on with rates that nobody brings to the device.
                form.release()
        self.drop()
        self.cause = cause
        if cause not in step.causes:
            step.causes.append(cause)
            if step.engine.on_fallback != "silent":
                notice(f"The optimizer's step is computed eagerly. {cause}", show=False)

    def numbers(self) -> list[Any]:
        """All numbers that a recording freezes."""
        return [lent.numbers() for lent in self.lents]

    def own_counters(self) -> set[int]:
        """Ids of the counters that recordings do not write to."""
        return {id(s["step"]) for lent in self.lents for s, _ in lent.counters}

    def compute(self) -> None:
        """Clips and steps, inside a recording."""
        for trainer in self.step.trainers:
            trainer.clip()
            trainer.optimizer.step()

    def fill(self) -> None:
        """Brings rates that have changed to the device."""
        for lent in self.lents:
            lent.fill()

    def count(self) -> None:
        """Notes a step that was replayed."""
        for lent in self.lents:
            lent.count()
        if self.step.watches:
            self.settle()

    def settle(self) -> None:
        """Lets the optimizers show all steps."""
        for lent in self.lents:
            lent.settle()

    def step_aside(self) -> None:
        """Makes ready for a step that the optimizers make themselves."""
        for lent in self.lents:
            lent.step_aside()

    def run(self, gradients: Gradients) -> bool:
        """Steps the optimizers by a recording of their own.

        Args:
            gradients: Those that the recording of a batch has written, in their places.

        Returns:
            Whether they have stepped; False where they are to do it themselves.
        """
        here = all(p.grad is g for p, g in zip(self.step.parameters, gradients, strict=True))
        if not here or not self.may_be_recorded():
            return False
        piece = next((piece for own, piece in self.pieces if own is gradients), None)
        if piece is not None and piece.numbers != self.numbers():
            self.changes += 1
            self._forget(piece)
            piece = None
        if piece is None:
            if self.may_be_recorded():
                self._record(gradients)
            return False
        if not piece.proven:
            self._try(piece, gradients)
            return False
        self.fill()
        piece.recorded.replay()
        self.count()
        return True

    def _record(self, gradients: Gradients) -> None:
        try:
            recorded, _ = record(self.step, self.compute, (), lends=True)
        except Exception as error:  # what a device or an optimizer raises is not known
            self.refuse(cause_of(error, "the optimizer's step"))
            return
        self.pieces.append((gradients, Update(self.numbers(), recorded)))

    def _try(self, piece: Update, gradients: Gradients) -> None:
        def replay() -> None:
            self.fill()
            piece.recorded.replay()

        tensors = written(self.step, weights=True, but=self.own_counters())
        try:
            piece.trial = Trial(
                self.step.runtime.device, tensors, replay=replay,
                results=[("gradient", g) for g in gradients],
            )  # fmt: skip
        except (RuntimeError, IndexError) as error:
            self.refuse(cause_of(error, "the optimizer's step"))

    def judge(self) -> None:
        """Compares the step that the optimizers have made with the recorded one, if tried."""
        for gradients, piece in self.pieces:
            trial, piece.trial = piece.trial, None
            if trial is None:
                continue
            odd = trial.difference([("gradient", g) for g in gradients], close=self.step.is_close)
            piece.proven = odd is None
            if odd is not None:
                code = "E119" if odd.is_near else "E108"
                self.refuse(Cause(code, f"the recorded optimizer step gave another {odd.name}"))
                return

    def _forget(self, piece: Update) -> None:
        piece.recorded.reset()
        self.pieces = [(own, one) for own, one in self.pieces if one is not piece]

    def forget(self, gradients: Gradients) -> None:
        """Lets the recording go that steps from these gradients."""
        for own, piece in list(self.pieces):
            if own is gradients:
                self._forget(piece)

    def drop(self) -> None:
        """Lets all recordings go; the optimizers are the user's again."""
        for lent in self.lents:
            lent.give_back()
        for _, piece in self.pieces:
            piece.recorded.reset()
        self.lents, self.pieces, self.cause = [], [], None
