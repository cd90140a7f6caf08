"""The loop, whole. What each line does is in `run.py`; which events it fires is seen here."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from estimator.data import Source
    from estimator.run import Run
    from estimator.stats import Phase


def train(run: Run) -> None:
    """Trains until the targets are reached or someone stops the run."""
    hooks = run.hooks
    try:
        hooks.begin("train_begin")
        while run.wants_more():
            train_epoch(run)
    except BaseException as error:
        hooks.fail(error, "train_end")
        raise
    hooks.end(hooks.train_end)


def train_epoch(run: Run) -> None:
    """One pass over the training data, with the validations that fall into it."""
    hooks = run.hooks
    run.open_epoch()
    try:
        hooks.begin("epoch_begin")
        run.take_up()
        validate_inside(run)
        for batch in run.train_batches():
            train_batch(run, batch)
            validate_inside(run)
            if run.leaves_epoch():
                break
        else:
            if run.group_open():
                optimize(run)
        complete = run.close_training()
        if run.validates_at_end(complete):
            evaluate(run, run.validation_data(), "validation")
        run.close_epoch(complete)
    except BaseException as error:
        run.cut_epoch(error)
        hooks.fail(error, "epoch_end")
        raise
    hooks.end(hooks.epoch_end)


def validate_inside(run: Run) -> None:
    """A validation in the middle of the epoch, where one is due."""
    if run.stats.validation_due and run.validates_inside():
        evaluate(run, run.validation_data(), "validation")
        run.close_inside()  # again, with what handlers have put into stats.val


def train_batch(run: Run, batch: Any) -> None:
    """One batch: forward, loss, backward and, where its group is complete, the optimizer step."""
    stats, hooks = run.stats, run.hooks
    step, began = run.step, perf_counter()
    try:
        step.open(batch)
        for hook in hooks.batch_begin:
            hook(stats)
        loss = step.forward()
        for hook in hooks.forward_end:
            hook(stats)
        step.backward(loss)
        if run.group_complete():
            optimize(run)
        run.count_batch(began)
    except BaseException as error:
        hooks.fail(error, "batch_end")
        raise
    hooks.end(hooks.batch_end)


def optimize(run: Run) -> None:
    """One optimizer step from the gradients of a complete group."""
    run.step.finish_gradients()
    for hook in run.hooks.backward_end:
        hook(run.stats)
    run.step.update()


def evaluate(run: Run, source: Source, phase: Phase) -> None:
    """One pass without gradients: a validation, an `evaluate` or a `predict`."""
    stats, hooks = run.stats, run.hooks
    evaluation = run.evaluation
    with evaluation.of(source, phase):
        try:
            hooks.begin("validation_begin")
            with torch.no_grad():
                for batch in evaluation.batches(source):
                    run.step.open(batch)
                    run.step.evaluate()
                    evaluation.count()
                    for hook in hooks.validation_batch_end:
                        hook(stats)
                    if evaluation.gives_up():
                        break
                else:
                    evaluation.close()
        except BaseException as error:
            hooks.fail(error, "validation_end")
            raise
        hooks.end(hooks.validation_end)
