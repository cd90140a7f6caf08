"""Which inputs, outputs and classes are explained, and what is said where that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimator.explain import (
    Attribution,
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
)
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    MissingExtraError,
)
from estimator.outputs import BinaryClassificationOutput, ClassificationOutput

Ask = Callable[..., Attribution]


def integrated(net: Any, inputs: Any, **more: Any) -> Attribution:
    return integrated_gradients(net, inputs, baseline=0.0, **more)


def occluded(net: Any, inputs: Any, **more: Any) -> Attribution:
    return occlusion(net, inputs, window=1, baseline=0.0, **more)


ALL: list[Ask] = [grad_cam, integrated, guided_backpropagation, occluded]
LINEAR: list[Ask] = [integrated, occluded]
WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 4.0], [0.0, 1.0]])


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return layer


class Parts(nn.Module):
    """Takes two inputs by name, and returns what it is told to."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = linear(WEIGHT), make

    def forward(self, x: Tensor, shift: Tensor) -> Any:
        return self.make(self.layer(x) + shift)


class Whole(nn.Module):
    """Takes a batch as it is, and returns outputs that describe themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(WEIGHT)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        found = self.layer(batch["x"])
        return {
            "kind": ClassificationOutput(found, "label"),
            "yes": BinaryClassificationOutput(found[:, 2], "label"),
        }


X = torch.tensor([[1.0, 3.0], [-2.0, 0.5]])
BATCH = {"x": X, "label": torch.tensor([0, 1]), "sample_uid": torch.tensor([7, 8])}


@pytest.mark.parametrize("ask", LINEAR)
def test_of_a_linear_net_it_is_weight_times_input(ask: Ask) -> None:
    shift = torch.zeros(2, 3)
    net = Parts(lambda found: found)
    best = torch.tensor([1, 1])
    expected = WEIGHT[best] * X
    for inputs, feature in (
        ((X, shift), 0),
        ({"x": X, "shift": shift}, "x"),
        ({"x": X, "shift": shift, "label": torch.tensor([0.0, 1.0])}, "x"),
    ):
        found = ask(net, inputs, feature=feature)
        torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
        assert found.target is not None and torch.equal(found.target, best)
    alone = ask(linear(WEIGHT), X)
    named = ask(linear(WEIGHT), {"anything": X, "sample_uid": torch.tensor([1, 2])})
    also = ask(linear(WEIGHT), {"anything": X}, feature="anything")
    for found in (alone, named, also):
        torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ask", LINEAR)
@pytest.mark.parametrize(
    ("target", "row"),
    [(0, [0, 0]), (torch.tensor(2), [2, 2]), (torch.tensor([2, 0]), [2, 0]), (None, [1, 1])],
)
def test_the_class_may_be_chosen(ask: Ask, target: Any, row: list[int]) -> None:
    found = ask(linear(WEIGHT), X, target=target)
    torch.testing.assert_close(found.values, WEIGHT[row] * X, rtol=1e-4, atol=1e-5)
    score = (X @ WEIGHT.T).gather(1, torch.tensor(row)[:, None])[:, 0]
    torch.testing.assert_close(found.score, score)


@pytest.mark.parametrize("ask", LINEAR)
@pytest.mark.parametrize("flat", [False, True])
def test_an_answer_of_one_number(ask: Ask, flat: bool) -> None:
    net: nn.Module = linear(WEIGHT[:1])
    net = nn.Sequential(net, nn.Flatten(0)) if flat else net
    for target, sign in ((None, 1), (1, 1), (0, -1), (torch.tensor([0, 1]), None)):
        signs = torch.tensor([[-1.0], [1.0]]) if sign is None else sign
        found = ask(net, X, target=target)
        torch.testing.assert_close(found.values, signs * WEIGHT[:1] * X, rtol=1e-4, atol=1e-5)
        assert (found.target is None) == (target is None)


@pytest.mark.parametrize("ask", LINEAR)
def test_outputs_by_place_and_by_name(ask: Ask) -> None:
    inputs = (X, torch.zeros(2, 3))
    expected = WEIGHT[[2, 2]] * X
    nets: list[tuple[Any, Any]] = [
        (lambda found: (found[:, :1], found), 1),
        (lambda found: {"a": found, "b": None}, None),
        (lambda found: [found], 0),
    ]
    for make, output in nets:
        found = ask(Parts(make), inputs, feature=0, output=output, target=2)
        torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    found = ask(Whole(), BATCH, output="kind", target=2)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    found = ask(Whole(), BATCH, output="yes")
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ask", ALL)
def test_several_outputs_or_inputs_need_a_name(ask: Ask) -> None:
    with pytest.raises(ArgumentError, match=r"output=.*received None.*There are: kind, yes"):
        ask(Whole(), BATCH)
    with pytest.raises(ArgumentError, match=r"output=.*received 'kin'.*Did you mean 'kind'"):
        ask(Whole(), BATCH, output="kin")
    with pytest.raises(ArgumentError, match=r"feature=.*received None. There are: 0, 1"):
        ask(Parts(lambda found: found), (X, torch.zeros(2, 3)))
    with pytest.raises(ArgumentError, match=r"feature=.*received 'y'. There are: shift, x"):
        ask(Parts(lambda found: found), {"x": X, "shift": X}, feature="y")
    with pytest.raises(ArgumentError, match=r"feature=.*received 'x'. There are: None"):
        ask(linear(WEIGHT), X, feature="x")
    with pytest.raises(ArgumentError, match="There are: none"):
        ask(nn.Embedding(3, 2), torch.tensor([0, 2]))


@pytest.mark.parametrize("ask", ALL)
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, ArgumentError, "from 0 to below 3"),
        (-1, ArgumentError, "received -1"),
        (True, ArgumentTypeError, "class number"),
        (1.0, ArgumentTypeError, "received 1.0"),
        (torch.tensor([0, 1, 2]), ArgumentTypeError, r"one a sample, \(2,\)"),
    ],
)
def test_a_class_that_is_not_there(ask: Ask, target: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(linear(WEIGHT), X, target=target)


@pytest.mark.parametrize("ask", ALL)
def test_wrong_kinds(ask: Ask) -> None:
    with pytest.raises(ArgumentTypeError, match=r"\(net=...\) must be a module; received 3"):
        ask(3, X)
    with pytest.raises(ArgumentTypeError, match=r"\(inputs=...\) must be a tensor, a tuple"):
        ask(linear(WEIGHT), [X])
    with pytest.raises(DataError, match=r"a row for each of the 2 samples; .*tensor\(4,\)"):
        ask(nn.Flatten(0), X)


@pytest.mark.parametrize("ask", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_named(ask: Ask, bad: float) -> None:
    x = torch.randn(12, 2)
    x[3, 1] = bad
    with pytest.raises(DataError, match=r"inputs=.*infinite numbers in sample 3 of the batch"):
        ask(linear(WEIGHT), x)
    with pytest.raises(DataError, match=r"sample 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. of"):
        ask(linear(WEIGHT), torch.full((12, 2), bad))
    net = linear(WEIGHT * bad)
    with pytest.raises(DataError, match="the net's answer must be finite; .* in sample 0, 1 of"):
        ask(net, X.abs())


class OfBytes(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 2, 3), scale

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() * (self.scale if images.dtype == torch.uint8 else 1.0) / 255
        found: Tensor = self.conv(x).relu().mean((2, 3))
        return found


def test_bytes_are_explained_as_numbers() -> None:
    images = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8)
    found = integrated(OfBytes(1.0), images)
    assert found.values.dtype == torch.float32 and found.values.shape == images.shape
    assert found.error is not None and found.error.max() < 1e-3
    with pytest.raises(DataError, match="answers bytes otherwise than the same numbers"):
        integrated(OfBytes(2.0), images)


class Columns(nn.Module):
    def forward(self, age: Tensor, dose: Tensor) -> Tensor:
        return 2 * age - dose


def test_columns_of_a_table_have_no_dimension_beside_that_of_the_samples() -> None:
    batch = {"age": torch.tensor([1.0, 2.0]), "dose": torch.tensor([5.0, 6.0])}
    for ask in LINEAR:
        found = ask(Columns(), batch, feature="dose")
        torch.testing.assert_close(found.values, torch.tensor([-5.0, -6.0]), rtol=1e-4, atol=1e-5)
    start = torch.tensor([5.0, 5.0])
    found = integrated_gradients(Columns(), batch, feature="dose", baseline=start)
    torch.testing.assert_close(found.values, torch.tensor([0.0, -1.0]))


class Nested(nn.Module):
    def forward(self, x: Tensor, more: Any, name: str = "") -> Any:
        return x * more["scale"][0] + more["shift"] + len(name)


def test_other_inputs_follow_their_samples() -> None:
    x = torch.tensor([[1.0], [1.0]])
    more = {"scale": [torch.tensor([[2.0], [3.0]])], "shift": torch.tensor(1.0)}
    for ask in LINEAR:
        found = ask(Nested(), (x, more, "ab"), feature=0)
        torch.testing.assert_close(found.values, torch.tensor([[2.0], [3.0]]))
    table = {"x": x, "more": more, "name": "ab", "sample_uid": [1, 2]}
    torch.testing.assert_close(integrated(Nested(), table).values, torch.tensor([[2.0], [3.0]]))


def test_of_positions_the_mean_is_explained() -> None:
    net = nn.Conv2d(1, 2, 1, bias=False)
    net.weight.data = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    found = integrated(net, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(found.values, torch.full((1, 1, 2, 2), 0.75))
    assert found.target is not None and found.target.tolist() == [1]


@pytest.mark.parametrize("ask", [grad_cam, integrated, occluded])
def test_without_captum_the_error_names_the_extra(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"captum.*torch-estimator\[explain\]"):
        ask(linear(WEIGHT), X)
