"""The climb of one shape of training batches, with or without the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import torch

from estimator.engine.form import Form
from estimator.engine.leaves import flatten, rebuild
from estimator.engine.recording import Named, Shown, cause_of, record, written
from estimator.gather import Picked
from estimator.step import Step

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

_OPENED = ("batch", "inputs", "targets", "uids", "batch_size")


@final
class TrainingForm(Form):
    """One shape of training batches.

    Args:
        step: Whose batches they are.
        form: What `flatten` left of a batch.
        take: Makes a batch from the indices of its rows, where only those change.
        is_first: Whether the batch begins a group, whose gradients it sets.
    """

    evaluates = False

    def __init__(
        self, step: GraphStep, form: Any, *, take: Callable[[Any], Any] | None, is_first: bool
    ) -> None:
        super().__init__(step, step)
        self.form, self.take, self.is_first = form, take, is_first
        self.batch: dict[str, Any] = {}
        """What a recording that gathers has put into the batch fields."""
        self.whole = False
        """Whether the recording goes on to the optimizer's step."""
        self.numbers: list[Any] = []

    def _is_ready(self) -> bool:
        return self.step.has_stepped and super()._is_ready()

    def _is_stale(self) -> bool:
        stale = self.whole and self.numbers != self.step.updates.numbers()
        self.step.updates.changes += stale
        return stale

    def _record(self) -> None:
        step, self.whole = self.step, False
        step.make_room()
        alone = step.cuts or step.shares_gradients or step.runtime.scaler is not None
        if not step.updates.may_be_recorded() or alone:
            self._record_step(whole=False)
            return
        try:
            self._record_step(whole=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # as above; if forward was it, the next recording fails too
            self._record_step(whole=False)
            step.updates.refuse(cause_of(error, "the optimizer's step"))

    def _record_step(self, *, whole: bool) -> None:
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
        self.shown.give(self.step)
        assert stats.loss is not None
        return stats.loss

    def _make_ready(self) -> None:
        if self.whole:
            self.step.updates.fill()

    def _written(self) -> Named:
        return written(self.step, weights=self.whole, but=self.step.updates.own_counters())

    def release(self) -> None:
        """Lets the recording go, and those of the optimizer's step from its gradients."""
        if self.recorded is not None:
            self.step.updates.forget(self.gradients)
        super().release()
        self.batch = {}

    def _extent(self) -> str:
        return "whole step" if self.whole else "forward and backward"


def _copied(value: Any) -> Any:
    leaves: list[torch.Tensor] = []
    form = flatten(value, leaves)
    return rebuild(form, [leaf.clone() for leaf in leaves])
