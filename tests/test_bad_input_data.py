"""Data, batches and nets that do not fit together: found on a first batch, and explained."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bad_calls import Case, X, Y, check_refused, est, fit
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from estimator import ArgumentError, ArgumentTypeError, BatchProcessor, DataError, Estimator
from estimator.handlers import WorstSamplesHandler

CE = nn.CrossEntropyLoss()
NONE_YIELDED = "must yield at least one batch an epoch | it yielded none | Check the length"
NO_TARGET = "a batch must hold inputs and a target, as a tuple (x, y), a list or a dict"
FRACTION = "fit(val=...) as a fraction must leave samples on both sides"


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


class NoStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class OneEpoch:
    """Forgets to begin again."""

    def __init__(self) -> None:
        self.batches = [(X, Y)]

    def __iter__(self) -> Iterator[Any]:
        while self.batches:
            yield self.batches.pop()


class ReturnsNone(nn.Linear):
    def forward(self, x: torch.Tensor) -> None:  # type: ignore[override]  # what it is for
        super().forward(x)


class TwoOutputs(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.layer, self.names = nn.Linear(4, 3), names

    def forward(self, x: torch.Tensor) -> Any:
        pair = self.layer(x), self.layer(x)
        return dict(zip(self.names, pair, strict=True)) if self.names else pair


def no_samples() -> TensorDataset:
    return TensorDataset(X[:0], Y[:0])


NOTHING: dict[str, Case] = {
    f"{side}: {what}": (
        functools.partial(fit, **{side: data}, epochs=epochs),
        DataError,
        f"fit({side}=...) {NONE_YIELDED}",
    )
    for side in ("train", "val")
    for what, data, epochs in [
        ("list", [], 2),
        ("generator", (batch for batch in [(X, Y)][1:]), 1),
        ("loader", DataLoader(no_samples(), 4), 2),
        ("drop_last", DataLoader(TensorDataset(X, Y), 40, drop_last=True), 2),
    ]
} | {
    "train: stream": (
        lambda: fit(DataLoader(NoStream(), 4)),
        DataError,
        f"fit(train=...) {NONE_YIELDED}",
    ),
    "train: second epoch": (
        lambda: fit(OneEpoch()),
        DataError,
        f"fit(train=...) {NONE_YIELDED} | whether an iterator was used up before",
    ),
    "train: arrays": (
        lambda: fit((X[:0], Y[:0])),
        ArgumentError,
        "fit(train=...) | above 0 | received TensorDataset of length 0",
    ),
    "val: dataset": (
        lambda: fit(val=no_samples()),
        ArgumentError,
        "fit(val=...) | above 0 | received TensorDataset of length 0",
    ),
    "predict": (lambda: est().predict([]), DataError, f"predict(data=...) {NONE_YIELDED}"),
}

DATA: dict[str, Case] = {
    "none": (
        lambda: fit(None),
        ArgumentError,
        "fit(train=...) needs data: a DataLoader, an iterable of batches, a Dataset or arrays "
        "| received None",
    ),
    "a name": (
        lambda: fit(val="mnist"),
        ArgumentTypeError,
        "fit(val=...) must be a DataLoader, an iterable of batches, a Dataset | received 'mnist'",
    ),
    "lengths": (
        lambda: fit((X, Y[:5])),
        ArgumentError,
        "fit(train=...): arrays must have one row a sample | received (tensor(12, 4) float32, "
        "tensor(5,) int64) | Check the first dimension",
    ),
    "lengths in a dict": (
        lambda: fit({"a": X, "y": Y[:5]}),
        ArgumentError,
        "fit(train=...): arrays | 'a': tensor(12, 4) float32, 'y': tensor(5,) int64 | Check",
    ),
    "validation iterator": (
        lambda: fit([(X, Y)], val=iter([(X, Y)])),
        ArgumentError,
        "fit(val=...) is an iterator, which can be gone through once | received it with epochs=2 "
        "| Pass something that can be iterated again",
    ),
    "iterator for epochs": (
        lambda: fit(iter([(X, Y)])),
        ArgumentError,
        "fit(train=...) is an iterator, which can be gone through once | received it with epochs=2 "
        "| Pass something that can be iterated again | for training on a stream, pass iterations=",
    ),
    "iterator for validations": (
        lambda: fit(val=iter([(X, Y)])),
        ArgumentError,
        "fit(val=...) is an iterator | epochs=2 | something that can be iterated again",
    ),
    **{
        f"val={value}": (functools.partial(fit, val=value), ArgumentError, f"{FRACTION} | received")
        for value in (0, 1, True, -0.5, 1.5, float("nan"))
    },
    "val too small a fraction": (
        lambda: fit(val=0.01),
        ArgumentError,
        f"{FRACTION} | received 0.01 of 12 samples | Choose a number between 0 and 1",
    ),
    **{
        f"fraction of a {name}": (
            functools.partial(fit, data, val=0.5),
            ArgumentError,
            "fit(val=0.5) splits a train that has a length and indices | received "
            f"{type(data).__name__} | Pass validation data of its own",
        )
        for name, data in [
            ("stream", DataLoader(Stream(), 4)),
            ("list of batches", [(X, Y)]),
            ("generator", iter([(X, Y)])),
        ]
    },
    "samples without identities": (
        lambda: fit([(X, Y)], handlers=WorstSamplesHandler("never_made")),
        DataError,
        "identities | received a batch without | Wrap the data: with_uids(loader) | 'sample_uid'",
    ),
}

BATCHES: dict[str, Case] = {
    "bare tensor": (
        lambda: fit([X]),
        DataError,
        f"{NO_TARGET} | received tensor(12, 4) float32 | Let the loader yield (inputs, targets)",
    ),
    "bare array": (lambda: fit(X), DataError, f"{NO_TARGET} | received | as a tuple (x, y)"),
    "inputs alone": (
        lambda: fit([(X,)]),
        DataError,
        f"{NO_TARGET} | (tensor(12, 4) float32) | Let",
    ),
    "bare tensor in validation": (
        lambda: fit(val=[X]),
        DataError,
        f"{NO_TARGET} | received tensor(12, 4) float32 | Let the loader yield (inputs, targets)",
    ),
    "dict without targets=": (
        lambda: fit([{"image": X, "label": Y}]),
        DataError,
        "Estimator(targets=...) must name the keys | targets=None and a batch with the keys "
        "['image', 'label'] | Name one or more of these keys",
    ),
    "dict without that key": (
        lambda: fit([{"image": X, "label": Y}], by=est(targets="labels")),
        DataError,
        "Estimator(targets=...) | targets='labels' | ['image', 'label'], without ['labels'] | Name",
    ),
    "net without return": (
        lambda: fit(by=est(ReturnsNone(4, 3))),
        DataError,
        "ReturnsNone.forward must return its outputs | received None | Does it end with a return?",
    ),
}

PAIRS: dict[str, Case] = {
    "fewer losses than outputs": (
        lambda: fit([(X, [Y, Y])], by=est(TwoOutputs(), [CE])),
        DataError,
        "Estimator(loss=[...]): 1 loss pairs by position with as many outputs of the net "
        "| received 2 of them | Give one loss for each output and target",
    ),
    "one output": (
        lambda: fit([(X, [Y, Y])], by=est(None, [CE, CE])),
        DataError,
        "Estimator(loss=[...]): 2 losses pair | outputs of the net | received Tensor | Give one",
    ),
    "fewer targets": (
        lambda: fit([(X, [Y])], by=est(TwoOutputs(), [CE, CE])),
        DataError,
        "Estimator(loss=[...]): 2 losses pair | as many targets | received 1 of them | Give one",
    ),
    "no output of that key": (
        lambda: fit([(X, {"a": Y, "c": Y})], by=est(TwoOutputs("a", "b"), {"a": CE, "c": CE})),
        DataError,
        "Estimator(loss={...}): each loss pairs with the same key of the outputs of the net "
        "| received keys ['a', 'b'], without ['c'] | Rename the losses or return a dict",
    ),
    "no target of that key": (
        lambda: fit([(X, {"a": Y})], by=est(TwoOutputs("a", "b"), {"a": CE, "b": CE})),
        DataError,
        "each loss pairs with the same key of the targets | received keys ['a'], without ['b']",
    ),
    "no dict": (
        lambda: fit(by=est(None, {"a": CE})),
        DataError,
        "each loss pairs with the same key of the outputs | received Tensor, without ['a']",
    ),
}

CASES = {**NOTHING, **DATA, **BATCHES, **PAIRS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_does_not_fit_is_explained(case: Case) -> None:
    check_refused(case)


@pytest.mark.parametrize("side", ["train", "val"])
def test_an_error_of_the_net_says_which_batch_it_was(side: str) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        fit(**{side: (torch.zeros(12, 5), Y)})
    phase = {"train": "train", "val": "validation"}[side]
    assert caught.value.__notes__ == [
        f"This is the first {phase} batch: inputs tensor(12, 5) float32, targets tensor(12,) int64."
    ]


def test_a_stream_that_ends_early_is_told() -> None:
    text = r"fit\(train=...\) ended after 2 of 5 iterations: an iterator can be gone through once"
    with pytest.warns(UserWarning, match=text):
        assert fit(iter([(X, Y)] * 2), iterations=5).step == 2


@pytest.mark.parametrize("phase", ["validation", "evaluate", "predict"])
def test_an_evaluation_without_batches_is_refused(phase: str) -> None:
    class Gone(list[Any]):
        """Yields nothing after the first look at it."""

        looks = 0

        def __iter__(self) -> Iterator[Any]:
            self.looks += 1
            return iter([(X, Y)] if self.looks == 1 and phase == "validation" else [])

    calls: dict[str, Any] = {
        "validation": lambda: fit([(X, Y)], val=Gone()),
        "evaluate": lambda: est().evaluate(Gone()),
        "predict": lambda: est().predict(Gone()),
    }
    with pytest.raises(DataError, match=r"must yield at least one batch an epoch; it yielded none"):
        calls[phase]()


def broken_collate(rows: Any) -> None:
    """Forgets its return."""


@pytest.mark.parametrize("phase", ["train", "validation", "evaluate", "predict"])
def test_a_loader_that_yields_nothing_is_told_before_users_split(phase: str) -> None:
    class Pair(BatchProcessor):
        def split(self, batch: Any) -> tuple[Any, Any]:
            x, y = batch
            return x, y

    loader = DataLoader(TensorDataset(X, Y), collate_fn=broken_collate)
    by = Estimator(nn.Linear(4, 3), CE, processor=Pair())
    calls: dict[str, Any] = {
        "train": lambda: by.fit(loader, progress=False),
        "validation": lambda: by.fit((X, Y), val=loader, progress=False),
        "evaluate": lambda: by.evaluate(loader),
        "predict": lambda: by.predict(loader),
    }
    text = f"the {phase} data must yield batches; received None as .*collate_fn"
    with pytest.raises(DataError, match=text):
        calls[phase]()


def test_a_batch_size_without_effect_is_told() -> None:
    with pytest.warns(
        UserWarning, match=r"batch_size=64 has no effect on data that comes in batch"
    ):
        fit([(X, Y)], batch_size=64)


def test_losses_that_are_inexact_in_groups_are_told() -> None:
    losses = {"a": nn.CrossEntropyLoss(ignore_index=0), "b": nn.CrossEntropyLoss()}
    net = TwoOutputs("a", "b")
    with pytest.warns(
        UserWarning, match=r"accumulate=2\) weighs each of several losses by samples"
    ):
        fit([(X, {"a": Y, "b": Y})] * 2, by=est(net, losses), accumulate=2)
