"""The dry batch: what the loader yields, what the net returns, and how they pair."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from estimator.described import describing
from estimator.handlers.base import DataError
from estimator.loss import Losses, as_losses, settings_of
from estimator.loss_kinds import ELEMENTWISE, OVER_CLASSES
from estimator.modes import modes_kept
from estimator.predicting import Predicting
from estimator.processor import BatchProcessor, describe
from estimator.randomness import random_state_kept
from estimator.run import Run


@contextlib.contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Lets a net run with its buffers and all random streams as they were afterwards."""
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with random_state_kept():
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))  # forward may have put another there


def ask_net(run: Run, batch: Any, *, training: bool) -> None:
    """Lets a net without a loss say itself, by what it returns, how its outputs are judged.

    Args:
        run: A run before its first step.
        batch: What the loader yielded; only dicts are taken to such a net.
        training: Which mode the net is in.
    """
    stats, step, own = run.stats, run.step, run.step.processor
    if own.has_loss or own.target_keys is not None:
        return
    # The targets are not known yet.
    step.processor, stats.phase, phase = Predicting(own), "predict", stats.phase
    try:
        step.open(batch)
        if not isinstance(stats.batch, Mapping):
            return
        initialise_lazy(run, batch)
        step.open(batch)
        with _untouched(run.net), modes_kept(run.net), torch.no_grad(), run.runtime.autocast:
            run.net.train(training)
            outputs = own.forward(stats.inputs)
    except Exception as error:
        error.add_note(
            "Without a loss, the net was run on a first batch to see whether its outputs bring one "
            f"along: inputs {describe(stats.inputs)}."
        )
        raise
    finally:
        step.processor, stats.phase = own, phase
        stats.clear_batch()
    kind = describing(outputs)
    if kind is not None:
        run.judge_by(*kind.judge(outputs, own))


def initialise_lazy(run: Run, batch: Any) -> None:
    """Lets lazy modules take their shapes from a batch, before optimizers take the parameters."""
    if not any(map(is_lazy, itertools.chain(run.net.parameters(), run.net.buffers()))):
        return
    modes = [(module, module.training) for module in run.net.modules()]
    run.net.eval()  # statistics that are there already stay as they are
    run.step.open(batch)
    with torch.no_grad():
        run.step.processor.forward(run.stats.inputs)
    run.stats.clear_batch()
    for module, mode in modes:
        module.training = mode


def check_batch(run: Run, batch: Any, *, training: bool) -> Losses:
    """Takes a batch through the net, the loss and the metrics, and leaves everything as it was.

    Args:
        run: A run before its first step.
        batch: What the loader yielded.
        training: Whether the training or the evaluation forms are checked.

    Returns:
        The losses, whose parts are names of the history.

    Raises:
        DataError: Something does not fit together.
    """
    stats = run.stats
    stats.phase = "train" if training else "validation"
    modes = [(module, module.training) for module in run.net.modules()]
    run.net.train(training)
    try:
        with _untouched(run.net), torch.set_grad_enabled(training):
            run.step.open(batch)
            return _check(run, training)
    except DataError:
        raise
    except Exception as error:
        error.add_note(
            f"This is the first {stats.phase} batch: inputs {describe(stats.inputs)}, "
            f"targets {describe(stats.targets)}."
        )
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        stats.clear_batch()
        stats.phase = "train"


def _check(run: Run, training: bool) -> Losses:
    stats, processor = run.stats, run.step.processor
    with run.runtime.autocast:
        forward = processor.forward if training else processor.evaluate_forward
        outputs = stats.outputs = forward(stats.inputs)
        if outputs is None:
            raise DataError(
                f"{type(run.net).__name__}.forward must return its outputs; received None. Does "
                "it end with a return?"
            )
        loss = processor.loss if training else processor.evaluate_loss
        if processor.criterion is not None and _is_default(processor, loss.__name__):
            processor.criterion.check(outputs, stats.targets)
            for known in settings_of(processor.criterion, outputs, stats.targets):
                _check_targets(*known)
        losses = as_losses(loss(outputs, stats.targets), "the loss")
    if training and not losses.total.requires_grad:
        raise DataError(
            "the loss must depend on the net's parameters; received one without a gradient. "
            "Check requires_grad of the parameters, and for detach(), item() or argmax on the "
            "way from the net to the loss."
        )
    with torch.no_grad():
        run.train_metrics.check(outputs, stats.targets)
        if run.step.per_sample:
            _check_sample_losses(run, outputs)
    return losses


def _is_default(processor: BatchProcessor, name: str) -> bool:
    chain = ("loss",) if name == "loss" else ("evaluate_loss", "loss")
    return all(getattr(type(processor), n) is getattr(BatchProcessor, n) for n in chain)


def _check_sample_losses(run: Run, outputs: Any) -> None:
    stats = run.stats
    losses = run.step.processor.sample_losses(outputs, stats.targets)
    if tuple(losses.shape) != (stats.batch_size,):
        raise DataError(
            f"the losses of single samples must have the shape ({stats.batch_size},), one a "
            f"sample; received {tuple(losses.shape)}. Override BatchProcessor.sample_losses."
        )


def _check_targets(kind: Any, ignored: int, outputs: Any, targets: Any) -> None:
    name = kind.__name__
    for what, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, torch.Tensor):
            raise DataError(
                f"{name} compares tensors; received {what} {describe(value)}. Pick the right part "
                "of them in the loss, or pair losses by key or position: loss={'name': ...}."
            )
    if kind in ELEMENTWISE:
        _check_elementwise(name, outputs, targets)
    elif kind in OVER_CLASSES:
        _check_classes(name, outputs, targets, ignored)


def _check_elementwise(name: str, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    if outputs.shape != targets.shape:
        raise DataError(
            f"{name} compares outputs and targets of the same shape; received outputs "
            f"{describe(outputs)} and targets {describe(targets)}, which would be broadcast. "
            f"Reshape one of them, with targets.view_as(outputs) for example."
        )
    if not targets.is_floating_point():
        raise DataError(
            f"{name} needs targets of a floating type; received {describe(targets)}. Convert "
            "them with targets.float()."
        )


def _check_classes(name: str, outputs: torch.Tensor, targets: torch.Tensor, ignored: int) -> None:
    if targets.is_floating_point():
        if targets.shape != outputs.shape:
            raise DataError(
                f"{name} needs class indices of type int64, or class probabilities of the shape "
                f"of the outputs; received outputs {describe(outputs)} and targets "
                f"{describe(targets)}. Convert indices with targets.long()."
            )
        return
    if targets.dtype not in (torch.int64, torch.uint8):
        raise DataError(
            f"{name} needs class indices of type int64; received targets {describe(targets)}. "
            "Convert them with targets.long()."
        )
    wanted = (*outputs.shape[:1], *outputs.shape[2:]) if outputs.ndim > 1 else ()
    if tuple(targets.shape) != wanted:
        raise DataError(
            f"{name} needs one class index for each output position, shape {wanted}; received "
            f"outputs {describe(outputs)} and targets {describe(targets)}. Classes are "
            "dimension 1 of the outputs; drop a spare dimension with targets.squeeze(1)."
        )
    classes = outputs.shape[1] if outputs.ndim > 1 else outputs.shape[0]
    counted = targets[targets != ignored]
    wrong = counted[(counted < 0) | (counted >= classes)]
    if wrong.numel():
        raise DataError(
            f"{name} needs class indices from 0 to below the number of outputs; received index "
            f"{int(wrong[0])} for {classes} outputs. Count classes from 0, widen the last layer, "
            "or name an ignore_index."
        )
