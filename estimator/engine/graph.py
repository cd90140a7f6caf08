"""The graph tier: a step as work that the device repeats, proven equal before it is used."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from estimator.engine.capture import Recorder
from estimator.engine.cause import CannotTraceError, Cause
from estimator.engine.doubt import Doubt
from estimator.engine.leaves import flatten
from estimator.engine.options import Engine
from estimator.engine.passes import Passes
from estimator.engine.recording import Shown, Trial
from estimator.engine.sharing import SharedGradients
from estimator.engine.standing import Sight
from estimator.engine.training_form import TrainingForm
from estimator.engine.update import Updates
from estimator.engine.watch import blocked, unseen
from estimator.gather import Picked
from estimator.step import Step

_MOST_SHAPES = 8
FIRST_COST = 0.3
"""Seconds to allow for the first recording of a run, before one was timed."""


class GraphStep(Step):
    """A step that the device repeats as a whole, where that is proven equal and is faster.

    Where no handler acts between backward and the optimizer's step, both are one recording.
    Otherwise, with several batches a step, and with a scaler, forward and backward are one and
    the optimizer's step another, or it is eager.
    """

    def __init__(self, *args: Any, engine: Engine, recorder: Recorder, **settings: Any) -> None:
        self.engine, self.recorder = engine, recorder
        # Eager steps themselves do not repeat every bit on a GPU.
        self.is_close = engine.verify != "equal"
        self.forms: dict[Any, TrainingForm] = {}
        self.causes: list[Cause] = []
        self.cost = FIRST_COST
        self.seen = 0
        self.is_off = False
        """Whether all batches are computed eagerly from now on."""
        self.has_stepped = False
        """Whether optimizers have the state that a recording writes to."""
        self.quickest = float("inf")
        """Seconds of the shortest eager step, as the host sees it."""
        self.updates, self.sight, self.doubt = Updates(self), Sight(self), Doubt()
        self.passes = Passes(self)
        self.shared: SharedGradients | None = None
        """Gradients of a group of batches, which all recordings add to."""
        self._form: TrainingForm | None = None
        self._replayed = self._aside = False
        self._trial: Trial | None = None
        self._picked: Picked | None = None
        self._is_open = True
        super().__init__(*args, **settings)

    def serve(self, needs: set[str]) -> None:
        """Takes over what the present handlers want computed; the net may be set otherwise."""
        super().serve(needs)
        self.needs_graph, self.watches = "graph" in needs, "watch" in needs
        self.cuts = "gradients" in needs
        self.sight.is_new = True
        self.doubt.begin_epoch()
        self.updates.settle()

    @property
    def shares_gradients(self) -> bool:
        """Whether recordings add to gradients that are not theirs."""
        return self.accumulation.size > 1

    def settle(self) -> None:
        """Lets optimizers show what was done for them, before they are used or saved."""
        super().settle()
        self.sight.is_new = True
        self.updates.settle()

    def evaluate(self) -> None:
        """Runs the net and the loss without gradients, or the recording of them."""
        self.sight.is_new = True
        self.passes.evaluate()

    def leave(self) -> None:
        """Lets recordings go; gradients and optimizers are as those of an eager run."""
        super().leave()
        # A device that has failed can do none of this, and its own error is the one to see.
        with contextlib.suppress(torch.AcceleratorError):
            self._drop()
            self.passes.release()
            self.recorder.close()

    def _drop(self) -> None:
        """Lets recordings go, and the memory of gradients with them."""
        self.updates.drop()
        own = {id(g) for form in self.forms.values() for g in form.gradients}
        own |= {id(g) for g in (self.shared.tensors if self.shared is not None else ())}
        for p in self.parameters:
            if p.grad is not None and id(p.grad) in own:
                p.grad = p.grad.clone()
        for form in self.forms.values():
            form.release()
        self.shared = None

    def let_go(self) -> None:
        """Lets all recordings of batches go that are finished."""
        for form in [*self.forms.values(), *self.passes.forms.values()]:
            if form.recorded is not None:
                form.release()

    def refused(self, cause: Cause) -> None:
        """Says once why batches are computed eagerly, and keeps it for the report.

        Raises:
            EngineError: The tier was asked for, and nothing else is wanted.
        """
        if cause not in self.causes:
            self.causes.append(cause)
            self.engine.fall_back(cause)

    def blocked(self, *, evaluating: bool) -> Cause | None:
        """What stands in the way of a recording, as far as can be seen before.

        Args:
            evaluating: Whether no gradients are wanted.
        """
        parameters = [] if evaluating else self.parameters
        cause = blocked(self.processor, parameters, has_scaler=False)
        if cause is None and not self.engine.by_name:
            cause = unseen(self.processor)
        return cause

    def _stands_in_the_way(self) -> Cause | None:
        if (self.sight.is_new or self.watches) and self.sight.is_changed():
            self._drop()
            # Those that only made ready so far can go on with it.
            ready = {k: f for k, f in self.forms.items() if f.recorded is None and not f.settled}
            self.forms, self.updates.cause, self.has_stepped = ready, None, False
        if self.needs_graph:
            return Cause("E113", "a handler acts between forward and backward")
        return self.sight.cause()

    def open(self, batch: Any) -> None:
        """Fills the batch fields; where a recording gathers the batch, its replay does."""
        self._picked = batch if type(batch) is Picked and self._may_gather() else None
        form = None if self._picked is None else self.forms.get(self._key_of_rows(self._picked))
        self._is_open = form is None or not form.is_sure()
        if self._is_open:
            super().open(batch)
            return
        assert form is not None and form.shown is not None
        self.stats.clear_batch()
        self.stats.batch_size = self.samples = form.shown.samples

    def _may_gather(self) -> bool:
        # A handler that is not known may look at the batch, or replace it.
        return self.stats.phase == "train" and not self.is_off and not self.watches

    def _key_of_rows(self, picked: Picked) -> Any:
        shape = ((picked.rows.shape, picked.rows.dtype),)
        return (shape, picked.take, *self._key_of_group(len(picked.rows)))

    def _key_of_group(self, samples: int) -> tuple[Any, ...]:
        group = self.accumulation
        return samples, self.per_sample, group.filled == 0, group.unit(samples)

    def forward(self) -> torch.Tensor:
        """Runs the net and the loss, or the recording of them."""
        self._form, self._trial = None, None
        self._replayed = self._aside = False
        if self.is_off:
            return self._eagerly()
        self.seen += 1
        leaves: list[torch.Tensor] = []
        form = self._form = self._form_of_batch(leaves)
        if form is None:
            return self._eagerly()
        way = form.choose(leaves)
        self._aside, self._replayed = way == "aside", way == "replay"
        form.begin()
        if way != "aside" and self.shared is not None and not form.is_first:
            self.shared.hold()
        if way == "prove":
            self.doubt.begin()
            self._trial = form.attempt(leaves)
        if not self._replayed:
            with self._where():
                return self._eagerly()
        form.replay(leaves)
        return form.show()

    def _eagerly(self) -> torch.Tensor:
        if not self._is_open:
            self._is_open = True
            super().open(self._picked)
        return super().forward()

    def _where(self) -> contextlib.AbstractContextManager[None]:
        return self.recorder.aside() if self._aside else contextlib.nullcontext()

    def _form_of_batch(self, leaves: list[torch.Tensor]) -> TrainingForm | None:
        stats, cause, nested, take = self.stats, self._stands_in_the_way(), None, None
        if self._picked is not None:
            leaves.append(self._picked.rows.to(self.runtime.device))
            key, take = self._key_of_rows(self._picked), self._picked.take
        else:
            try:
                nested = flatten((stats.inputs, stats.targets), leaves)
            except CannotTraceError as error:
                cause = error.cause
            assert stats.batch_size is not None
            shapes = tuple([(t.shape, t.stride(), t.dtype, t.requires_grad) for t in leaves])
            key = (shapes, repr(nested), *self._key_of_group(stats.batch_size))
        if any(leaf.device.type != self.runtime.device.type for leaf in leaves):
            cause = Cause("E102", "a batch holds a tensor that is not on the device")
        form = self.forms.get(key)
        if cause is None and form is None and len(self.forms) == _MOST_SHAPES:
            cause = Cause("E103", f"more than {_MOST_SHAPES} shapes of batches came")
        if cause is not None:
            self.refused(cause)
            return None
        if form is None:
            is_first = self.accumulation.filled == 0
            form = self.forms[key] = TrainingForm(self, nested, take=take, is_first=is_first)
        return form

    def compute(self, *, first: bool) -> None:
        """Forward, loss and backward inside a recording."""
        shared = self.shared
        if shared is not None and not first:
            shared.put()
        super().backward(super().forward())
        if shared is not None:
            shared.take()

    def make_room(self) -> None:
        """Makes the memory that the gradients of a group are added up in."""
        if self.shares_gradients and self.shared is None:
            self.shared = SharedGradients(self.parameters)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds this batch's gradients to those of its group."""
        form = self._form
        if not self._replayed:
            with self._where():
                super().backward(loss)
                if self._aside:
                    # Its kernels are to be there before they are recorded.
                    with contextlib.suppress(CannotTraceError):
                        Shown(self)
            if form is not None and not form.whole:
                self._judge(form)
        else:
            self._take_over(form, loss)
        if self.shares_gradients:
            self._end_batch(form)

    def _judge(self, form: TrainingForm) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            form.judge(trial)
            self.doubt.end()

    def _take_over(self, form: TrainingForm | None, loss: torch.Tensor) -> None:
        """Does on the host what a replayed batch has to do there."""
        stats, group = self.stats, self.accumulation
        assert form is not None and stats.batch_size is not None
        for p, gradient in zip(self.parameters, form.gradients, strict=True):
            if p.grad is not gradient:
                p.grad = gradient
        if group.weighs:
            # What the group counts is kept on the host; the weighed loss was in the recording.
            group.weigh(loss, self.weight, stats.batch_size)
        group.filled += 1
        stats.stepped = False

    def finish_gradients(self) -> None:
        """Makes the gradients complete and unscaled."""
        if self._replays_all():
            self.accumulation.finish(())
            return
        with self._where():
            super().finish_gradients()

    def _replays_all(self) -> bool:
        return self._replayed and self._form is not None and self._form.whole

    def update(self) -> None:
        """Clips, lets the optimizers step, and advances schedulers that count steps."""
        form = self._form
        gradients = form.gradients if form is not None else None
        if self.shares_gradients:
            gradients = self.shared.tensors if self.shared is not None else None
        if self._replays_all():
            self.updates.count()
            self._advance()
        elif gradients and not (form and form.whole) and self.updates.run(gradients):
            self._advance()
        else:
            self.updates.step_aside()
            with self._where():
                super().update()
            self.has_stepped = True
            self.updates.judge()
            if form is not None:
                self._judge(form)
        if not self.shares_gradients:
            self._end_batch(form)

    def _end_batch(self, form: TrainingForm | None) -> None:
        if form is not None:
            form.end(replayed=self._replayed)

    def _advance(self) -> None:
        for trainer in self.trainers:
            trainer.after_step()
        self.stats.stepped = True
        self.stats.step += 1
