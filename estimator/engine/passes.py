"""Passes without gradients as recordings: validation, `evaluate` and `predict`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, final

import torch

from estimator.engine.cause import CannotTraceError, Cause
from estimator.engine.doubt import Doubt
from estimator.engine.form import Form
from estimator.engine.leaves import flatten, rebuild
from estimator.engine.recording import Named, Shown, Trial, record, written
from estimator.engine.standing import Sight
from estimator.step import Step

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

_MOST_SHAPES = 8


@final
class PassForm(Form):
    """One shape of batches of evaluation.

    Args:
        passes: Whose batches they are.
        form: What `flatten` left of a batch.
    """

    evaluates = True

    def __init__(self, passes: Passes, form: Any) -> None:
        super().__init__(passes.step, passes)
        self.form = form

    def _is_stale(self) -> bool:
        return False

    def _record(self) -> None:
        step, form, kept = self.step, self, []

        def work() -> None:
            step.stats.inputs, step.stats.targets = rebuild(form.form, form.statics)
            Step.evaluate(step)
            kept.append(Shown(step))

        self.recorded, self.seconds = record(
            step, work, self.statics, lends=False, sight=self.scope.sight
        )
        self.shown = kept[0]

    def show(self) -> None:
        """Fills the batch fields after a replay."""
        assert self.shown is not None
        self.shown.give(self.step)

    def _make_ready(self) -> None:
        """Nothing of a pass without gradients is on the host."""

    def _written(self) -> Named:
        return written(self.step, weights=False)

    def _extent(self) -> str:
        return "evaluation"


class Passes:
    """The recordings of evaluation, one for each shape of batches.

    Args:
        step: Whose batches they are.
    """

    def __init__(self, step: GraphStep) -> None:
        self.step = step
        self.forms: dict[Any, PassForm] = {}
        self.sight, self.doubt = Sight(step), Doubt()
        self.seen = 0
        self.is_off = False
        """Whether all batches are computed eagerly from now on."""
        self.quickest = float("inf")
        """Seconds of the shortest eager batch, as the host sees it."""
        self._form: PassForm | None = None
        self._trial: Trial | None = None

    def evaluate(self) -> None:
        """Computes the present batch, by its recording where there is one in use."""
        step, self._form, self._trial = self.step, None, None
        way, leaves = "eager", list[torch.Tensor]()
        if not self.is_off:
            self.seen += 1
            form = self._form = self._form_of_batch(leaves)
            way = "eager" if form is None else form.choose(leaves)
        if self._form is not None:
            self._form.begin()
        if way == "prove":
            assert self._form is not None
            self.doubt.begin()
            self._trial = self._form.attempt(leaves)
        if way == "replay":
            assert self._form is not None
            self._form.replay(leaves)
            self._form.show()
        else:
            with step.recorder.aside() if way == "aside" else contextlib.nullcontext():
                Step.evaluate(step)
        self._judge()
        if self._form is not None:
            self._form.end(replayed=way == "replay")

    def _form_of_batch(self, leaves: list[torch.Tensor]) -> PassForm | None:
        step, stats = self.step, self.step.stats
        try:
            self._look()
            nested = flatten((stats.inputs, stats.targets), leaves)
            if any(leaf.device.type != step.runtime.device.type for leaf in leaves):
                raise CannotTraceError(Cause("E102", "a batch holds a tensor not on the device"))
            shapes = tuple([(t.shape, t.stride(), t.dtype) for t in leaves])
            wanted = (stats.batch_size, step.per_sample, step.evaluates_loss)
            form = self.forms.get((shapes, repr(nested), *wanted))
            if form is None and len(self.forms) == _MOST_SHAPES:
                what = f"more than {_MOST_SHAPES} shapes of batches came"
                raise CannotTraceError(Cause("E103", what))
        except CannotTraceError as error:
            step.refused(error.cause)
            return None
        if form is None:
            form = self.forms[(shapes, repr(nested), *wanted)] = PassForm(self, nested)
        return form

    def _look(self) -> None:
        if self.step.stats.batch_index == 0:
            self.sight.is_new = True
            self.doubt.begin_epoch()
        if (self.sight.is_new or self.step.watches) and self.sight.is_changed():
            self.release()
            self.forms = {k: f for k, f in self.forms.items() if not f.settled}
        cause = self.sight.cause()
        if cause is not None:
            raise CannotTraceError(cause)

    def _judge(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            assert self._form is not None
            self._form.judge(trial)
            self.doubt.end()

    def release(self) -> None:
        """Lets all recordings go."""
        for form in self.forms.values():
            form.release()
