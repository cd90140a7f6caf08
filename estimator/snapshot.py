"""A run as plain values and tensors: what a checkpoint holds, and the way back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers.base import DataError, EstimatorError
from estimator.meter import LossMeter
from estimator.metrics import MetricSet
from estimator.randomness import random_states, set_random_states
from estimator.runtime import move
from estimator.sharded import is_sharded, optimizer_parts, parts_like, whole
from estimator.stats import Best

if TYPE_CHECKING:
    from estimator.run import Run

VERSION = 1


def capture(run: Run) -> dict[str, Any]:
    """The state of a run, readable with `torch.load(weights_only=True)`.

    Args:
        run: A run that is going on.

    Raises:
        EstimatorError: A validation is not closed, so that nothing could go on from here.
    """
    if run.evaluation.is_open:
        raise EstimatorError(
            "snapshot() needs a moment from which a run can go on: any event of training, or the "
            "end of a validation inside an epoch; received one within a validation. At the end "
            "of an epoch, take it at epoch_end."
        )
    stats, scaler, train = run.stats, run.runtime.scaler, run.train_source
    assert train is not None
    states = {name: handler.state_dict() for name, handler in run.hooks.named().items()}
    state: dict[str, Any] = {
        "version": VERSION,
        "config": run.config,
        "net": run.net.state_dict(),
        "validated": {n: w for h in run.hooks.handlers for n, w in h.validated_weights().items()},
        "trainers": {trainer.name: trainer.state_dict() for trainer in run.step.trainers},
        "scaler": None if scaler is None else scaler.state_dict(),
        "stats": _counts(run),
        "handlers": {name: state for name, state in states.items() if state},
        "calls": run.hooks.calls(),
        "place": train.place(stats.batches_done),
        "validation": None if run.validation is None else run.validation.source.place(0),
        "gradients": run.step.accumulation.state_dict(run.step.parameters),
    }
    state = whole(state) if is_sharded(run.net) else state
    own = _of_processes(run, state["handlers"])
    return state | own | {"handlers": state["handlers"] | own["handlers"]}


def _of_processes(run: Run, states: Mapping[str, Any]) -> dict[str, Any]:
    """What each process has of its own: of several, one entry each."""
    world, named = run.runtime.world, run.hooks.named()
    own = {
        "random": random_states(run.runtime.device),
        "metrics": run.train_metrics.state_dict(),
        "meter": run.meter.state_dict(),
    }
    if world.size == 1:
        return own | {"handlers": {}}
    cpu, of_handlers = torch.device("cpu"), [n for n in states if named[n].own_state]
    gathered = world.gather(move(own, cpu))
    lists: dict[str, Any] = {name: [one[name] for one in gathered] for name in own}
    return lists | {"handlers": {n: world.gather(move(states[n], cpu)) for n in of_handlers}}


def _counts(run: Run) -> dict[str, Any]:
    stats = run.stats
    return {
        "epoch": stats.epoch,
        "step": stats.step,
        "samples": stats.samples,
        "batches_done": stats.batches_done,
        "elapsed": stats.elapsed,
        "train": dict(stats.train),
        "val": dict(stats.val),
        "best": {name: list(best) for name, best in stats.best.items()},
        "history": stats.history.state_dict(),
        "cut": run.rows.cut,
        "validation_due": stats.validation_due,
        "validated_at": stats.validated_at,
    }


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Puts a run, before its first event, where it was between two batches.

    What belongs to the inside of an epoch comes with `take_up`, after that epoch has begun.

    Args:
        run: Built as the one that was captured.
        state: What `capture` gave.

    Raises:
        DataError: The run has other trainers, or a net or an optimizer of another shape.
    """
    assert run.train_source is not None
    try:
        run.net.load_state_dict(parts_like(state["net"], run.net))
        for trainer in run.step.trainers:
            saved = state["trainers"][trainer.name]
            trainer.load_state_dict(optimizer_parts(saved, trainer.params))
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise DataError(
            "fit(resume=...) must be given the net and the trainers of the run that it goes on "
            f"with; received others: {error}. Build them as in that run, or use load_weights to "
            "start a new run from its weights."
        ) from error
    scaler = run.runtime.scaler
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    _restore_counts(run, state["stats"])
    run.train_source.take_up(state["place"])
    if run.validation is not None:
        run.validation.source.take_up(state["validation"])
    for name, handler in run.hooks.named().items():
        if name in state["handlers"]:
            saved = _of_this(run, state["handlers"][name])
            if saved is not None:
                handler.load_state_dict(parts_like(saved, run.net))


def _restore_counts(run: Run, counts: Mapping[str, Any]) -> None:
    stats = run.stats
    for name in ("epoch", "step", "samples", "batches_done", "validation_due", "validated_at"):
        setattr(stats, name, counts[name])
    stats.train, stats.val = dict(counts["train"]), dict(counts["val"])
    stats.best = {name: Best(*best) for name, best in counts["best"].items()}
    stats.restart_clock(counts["elapsed"])
    columns = stats.history.columns
    stats.history.load_state_dict(counts["history"])
    stats.history.columns.extend(c for c in columns if c not in stats.history.columns)
    if counts["cut"] is not None and not run.target_reached():
        # The row of a cut epoch is not one of a run that goes on through that epoch.
        stats.history.rows[-1:] = counts["cut"]


def take_up(run: Run, state: Mapping[str, Any]) -> None:
    """Puts a run where it was inside its epoch: the data, sums, gradients and random streams."""
    source = run.train_source
    assert source is not None
    if run.stats.batches_done:
        run.iterator = source.rest(run.stats.epoch, state["place"])
        _take_sums(run, run.train_metrics, state["metrics"])
        _take_sums(run, run.meter, state["meter"])
        run.step.accumulation.load_state_dict(state["gradients"], run.step.parameters)
        run.stats.train = dict(state["stats"]["train"])
    elif "streams" in state["place"]:
        # The first batch was there, and had taken from the streams what it needs.
        set_random_states(state["place"]["streams"], run.runtime.device)
        source.first()
    _take_streams(run, state["random"])


def _each(saved: Any) -> list[Any]:
    """What each of the processes had that made a checkpoint; a single one made no list."""
    return saved if isinstance(saved, list) else [saved]


def _of_this(run: Run, saved: Any) -> Any:
    """What of this process a checkpoint of as many has; else the first one's, on the first."""
    world = run.runtime.world
    if not isinstance(saved, list):
        return saved
    if len(saved) == world.size:
        return saved[world.rank]
    return saved[0] if world.rank == 0 else None


def _take_sums(run: Run, sums: MetricSet | LossMeter, saved: Any) -> None:
    world, each = run.runtime.world, _each(saved)
    if len(each) == world.size:
        sums.load_state_dict(each[world.rank])
    elif world.rank == 0:
        sums.merge(each)


def _take_streams(run: Run, saved: Any) -> None:
    world, each = run.runtime.world, _each(saved)
    if len(each) == world.size:
        set_random_states(each[world.rank], run.runtime.device)
    elif world.rank == 0:
        warnings.warn(
            f"fit(resume=...) goes on in {world.size} process(es) with what {len(each)} saved: the "
            "order of the data is kept, but dropout and augmentation draw other numbers than in a "
            "run that never stopped, and handlers lack what the others knew of an open epoch. "
            f"Resume with {len(each)} to have the same.",
            stacklevel=2,
        )
