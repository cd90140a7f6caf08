"""`Climb`: the programs of one kind of pass, one for each shape of batches."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import torch

from estimator.engine.cause import CannotTraceError, Cause, place_of
from estimator.engine.doubt import Doubt
from estimator.engine.horizon import batches_left
from estimator.engine.ladder import Ladder
from estimator.engine.leaves import flatten
from estimator.engine.program import Compiled, Program
from estimator.engine.proof import Proof
from estimator.engine.trace import Traced, trace
from estimator.engine.watch import Watch, blocked, unseen
from estimator.randomness import random_state_kept

if TYPE_CHECKING:
    from estimator.engine.replay import ReplayStep

_MOST_SHAPES = 8


class Climb:
    """Decides for each batch of training, or of evaluation, by which program it is computed.

    Args:
        step: Whose batches they are.
        evaluating: Whether they are those of passes without gradients.
    """

    def __init__(self, step: ReplayStep, *, evaluating: bool) -> None:
        self.step, self.evaluating = step, evaluating
        self.ladders: dict[Any, Ladder] = {}
        self.costs = step.costs
        self.seen = 0
        self.is_off = False
        """Whether all batches are computed eagerly from now on."""
        self.traced: Traced | None = None
        """The program that computes the present batch."""
        self._watch, self._doubt = Watch(), Doubt()
        self._ladder: Ladder | None = None
        self._proof: Proof | None = None
        self._began = 0.0

    def begin(self) -> list[Any] | None:
        """Runs the program of the present batch.

        Returns:
            Its results, flat; None for a batch that is to be computed eagerly.
        """
        self.traced = self._ladder = self._proof = None
        if self.is_off:
            return None
        self.seen += 1
        stats = self.step.stats
        if self.evaluating and stats.batch_index == 0:
            self.doubt()
        leaves: list[torch.Tensor] = []
        try:
            self._check()
            form = flatten((stats.inputs, stats.targets), leaves)
            ladder = self._ladder_of(form, leaves)
        except CannotTraceError as error:
            self.refused(error.cause)
            return None
        traced = self.traced = ladder.choose()
        proves = ladder.to_prove()
        if proves is not None:
            self._doubt.begin()
            self._proof = Proof(self.step, proves, leaves, exact=self.step.engine.exact)
        self._ladder, self._began = ladder, time.perf_counter()
        return None if traced is None else traced.program(leaves)

    def end(self) -> None:
        """Takes the time of the batch, or the proof that it is; before weights are moved."""
        ladder = self._ladder
        if ladder is None:
            return
        if not ladder.settled:
            ladder.timed(time.perf_counter() - self._began)
        if self._proof is not None:
            self._prove(ladder, self._proof)

    def doubt(self) -> None:
        """Lets the net be looked at again, and programs be proven again where that is due."""
        self._watch.forget()
        self._doubt.begin_epoch()
        if self._doubt.is_raised:
            self._doubt.is_raised = False
            for ladder in self.ladders.values():
                ladder.doubt()

    def _check(self) -> None:
        step = self.step
        if not self._watch.same(step.processor, step.parameters, closely=step.watches):
            self.ladders.clear()
        if step.needs_graph and not self.evaluating:
            raise CannotTraceError(Cause("E113", "a handler acts between forward and backward"))
        if self._watch.hooked:
            raise CannotTraceError(Cause("E101", "hooks are attached to a layer"))

    def _ladder_of(self, form: Any, leaves: list[torch.Tensor]) -> Ladder:
        step = self.step
        shapes = tuple([(leaf.shape, leaf.dtype) for leaf in leaves])
        samples = step.stats.batch_size
        assert samples is not None
        kind = step.evaluates_loss if self.evaluating else step.accumulation.unit(samples)
        key = (shapes, repr(form), samples, step.per_sample, kind)
        ladder = self.ladders.get(key)
        if ladder is None:
            if len(self.ladders) == _MOST_SHAPES:
                what = f"more than {_MOST_SHAPES} shapes of batches came"
                raise CannotTraceError(Cause("E103", what))
            engine = step.engine
            ladder = self.ladders[key] = Ladder(self, engine.climbs, by_name=engine.by_name)
        return ladder

    def batches_left(self) -> float | None:
        """Batches that this run has still to compute in this way; None where nobody knows yet."""
        return batches_left(self.step, evaluating=self.evaluating)

    def refused(self, cause: Cause) -> None:
        """Says once why batches are computed eagerly."""
        self.step.refused(cause)

    def make(self, tier: str, present: Traced | None) -> Traced:
        """Makes the program of a tier for the present batch.

        Args:
            tier: "replay" or "compile".
            present: The program that there is already.

        Raises:
            CannotTraceError: There is none.
        """
        traced = self._trace() if present is None else present
        return traced if tier == "replay" else self._compile(traced)

    def _trace(self) -> Traced:
        step = self.step
        parameters = [] if self.evaluating else step.parameters
        has_scaler = step.runtime.scaler is not None
        cause = blocked(step.processor, parameters, has_scaler=has_scaler)
        if cause is None and not step.engine.by_name:
            cause = unseen(step.processor)
        if cause is not None:
            raise CannotTraceError(cause)
        return trace(step, evaluating=self.evaluating)

    def _compile(self, traced: Traced) -> Traced:
        assert isinstance(traced.program, Program)
        program = Compiled(traced.program)
        leaves: list[torch.Tensor] = []
        flatten((self.step.stats.inputs, self.step.stats.targets), leaves)
        copies = [constant.detach().clone() for constant in program.constants]
        try:
            with random_state_kept():
                program.on(copies, leaves)
        except Exception as error:  # a compiler fails in ways of its own
            what = " ".join(str(error).split("\n")[:2]).rstrip(".")
            raise CannotTraceError(
                Cause("E120", f"the step cannot be compiled: {what}", place_of(error))
            ) from error
        return Traced(program, traced.results)

    def _prove(self, ladder: Ladder, proof: Proof) -> None:
        odd = proof.difference()
        self._doubt.end()
        work = "evaluation" if self.evaluating else "step"
        if odd is None:
            ladder.unproven.remove(proof.traced)
            return
        if proof.traced is ladder.present:
            warnings.warn(
                f"The replayed {work} gives another {odd} than the eager one by now: a number that "
                "it cannot see has changed since the last proof. Training goes on eagerly; what "
                "was computed since then may be wrong. Pass engine='eager' for such a run.",
                stacklevel=2,
            )
        ladder.refuse(Cause("E108", f"the replayed {work} gave another {odd}"), proof.traced)
