"""How a batch of any make becomes inputs, targets, outputs and a loss."""

from __future__ import annotations

from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from batch_runs import QUIET, line, numbers
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from estimator import ArgumentError, DataError, Estimator, TrainStats
from estimator.handlers import EventHandler
from estimator.processor import batch_length, describe, positional_parameters


class Scaled(nn.Module):
    """The base of nets that scale their inputs by what is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))


class Affine(Scaled):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * a + b


class Nested(Scaled):
    """One input that is itself a dict."""

    def forward(self, parts: dict[str, Any]) -> Tensor:
        a, b = parts["a"], parts["more"]["b"]
        return torch.add(self.scale * a, b)


class Whole(Scaled):
    """A net that takes the batch as it comes."""

    def forward(self, batch: Any) -> Tensor:
        return torch.add(self.scale * batch["a"], batch["b"])


class Heads(Scaled):
    """Two outputs by name."""

    def forward(self, a: Tensor) -> dict[str, Tensor]:
        return {"double": self.scale * a, "square": self.scale * a * a}


class Row(Scaled):
    """Two outputs by position."""

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * a, self.scale * a * a


class Anything(Scaled):
    """A net that takes any name."""

    def forward(self, **parts: Tensor) -> Tensor:
        return self.scale * parts["a"]


class Both(NamedTuple):
    a: Any
    b: Any
    y: Any


class Last(EventHandler):
    """Keeps what the last batch was parted into."""

    def batch_end(self, stats: TrainStats) -> None:
        self.inputs, self.targets, self.size = stats.inputs, stats.targets, stats.batch_size
        self.batch, self.losses, self.loss = stats.batch, stats.losses, stats.loss


A, B = numbers(4), 10 * numbers(4)
Y = 2 * A + B + 1  # the net's output and 1 more: the squared error is 1


def trained(net: nn.Module, batch: Any, **arguments: Any) -> tuple[TrainStats, Last]:
    """One step and one validation on the same batch, whose loss is known."""
    last = Last()
    est = Estimator(net, **{"loss": nn.MSELoss()} | arguments)
    still = QUIET | {"trainers": torch.optim.SGD(net.parameters(), lr=0.0)}
    return est.fit([batch], [batch], 1, handlers=last, **still), last


@pytest.mark.parametrize(
    ("net", "batch", "targets"),
    [
        (Affine(), (A, B, Y), None),
        (Affine(), [A, B, Y], None),
        (Affine(), ((A, B), Y), None),
        (Affine(), [[A, B], Y], None),
        (Affine(), Both(A, B, Y), None),
        (Affine(), Both(A, B, Y), "y"),
        (Affine(), ({"b": B, "a": A}, Y), None),
        (Affine(), {"y": Y, "b": B, "a": A}, "y"),
        (Affine(), UserDict({"y": Y, "b": B, "a": A}), "y"),
        (Affine(), {"y": Y, "b": B, "a": A, "sample_uid": torch.arange(4)}, "y"),
        (Affine(), (A.numpy(), B.numpy(), Y.numpy()), None),
        (Affine(), {"a": A.double().numpy(), "b": B.numpy(), "y": Y.double().numpy()}, "y"),
        (Nested(), {"parts": {"a": A, "more": {"b": B}}, "y": Y}, "y"),
        (Nested(), {"anything": {"a": A, "more": {"b": B}}, "y": Y}, "y"),
        (Nested(), {"parts": {"a": A.numpy(), "more": {"b": B.numpy()}}, "y": Y}, "y"),
        (Whole(), {"a": A, "b": B, "y": Y}, "y"),
        (Whole(), UserDict({"a": A, "b": B, "y": Y, "sample_uid": ["p", "q", "r", "s"]}), "y"),
        (Whole(), ({"a": A, "b": B}, Y), None),
        (nn.Sequential(Nested()), {"x": {"a": A, "more": {"b": B}}, "y": Y}, "y"),
    ],
)
def test_a_batch_of_any_make_reaches_net_and_loss(net: Any, batch: Any, targets: Any) -> None:
    stats, last = trained(net, batch, targets=targets)
    assert stats["train_loss"] == stats["val_loss"] == [1.0]
    assert (last.size, stats.samples) == (4, 4)
    assert torch.equal(last.targets, Y)


def test_a_net_with_a_parameter_called_batch_gets_the_whole_dict() -> None:
    batch = {"a": A, "b": B, "y": Y, "sample_uid": torch.arange(4)}
    _, last = trained(Whole(), batch, targets="y")
    assert list(last.inputs) == ["a", "b", "y", "sample_uid"]
    assert list(trained(Affine(), batch, targets="y")[1].inputs) == ["a", "b"]


@pytest.mark.parametrize(
    ("batch", "positional"),
    [({"image": A, "y": 3 * A}, True), ({"input": A, "y": 3 * A}, False)],
)
def test_a_single_input_needs_no_name_that_the_net_knows(batch: Any, positional: bool) -> None:
    stats, last = trained(line(), batch, targets="y")
    assert isinstance(last.inputs, Tensor) is positional
    assert stats["train_loss"] == [0.0]


def test_an_unknown_name_beside_others_is_an_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        trained(Affine(), {"a": A, "c": B, "y": Y}, targets="y")


def test_a_net_that_takes_any_name_gets_it() -> None:
    stats, last = trained(Anything(), {"a": A, "y": 2 * A}, targets="y")
    assert (list(last.inputs), stats["train_loss"]) == (["a"], [0.0])


@pytest.mark.parametrize("net", [Whole(), Affine()])
def test_a_compiled_net_is_seen_through(net: nn.Module) -> None:
    compiled: Any = torch.compile(net, backend="eager")
    stats, _ = trained(compiled, {"a": A, "b": B, "y": Y}, targets="y")
    assert stats["train_loss"] == stats["val_loss"] == [1.0]


class Silent(nn.Linear):
    """A net whose forward says nothing of its parameters, as a traced one."""

    @property
    def forward(self) -> Any:  # type: ignore[override]  # a net of another shape
        return Unreadable(super().forward)


class Unreadable:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    @property
    def __signature__(self) -> Any:
        raise ValueError("no signature found")


def test_a_net_without_a_signature_works() -> None:
    net = Silent(1, 1)
    assert positional_parameters(net) is None
    assert trained(net, (A, Y))[0].samples == 4


def test_how_many_positional_arguments_a_net_must_have() -> None:
    class Optional(nn.Module):
        def forward(self, a: Tensor, /, b: Tensor, c: Any = None, *, d: int, e: int = 0) -> None:
            """Two of them."""

    assert positional_parameters(Optional()) == 2
    assert positional_parameters(nn.DataParallel(nn.Linear(1, 1))) is None
    assert positional_parameters(nn.Sequential()) == 1


HEADS = {"double": nn.MSELoss(), "square": (nn.L1Loss(), 0.5)}
NAMED = {"a": A, "double": 2 * A + 1, "square": 2 * A * A + 1}


@pytest.mark.parametrize("targets", [None, ["double", "square"], ["square", "double"]])
def test_named_losses_find_their_targets_in_the_batch(targets: Any) -> None:
    stats, last = trained(Heads(), NAMED, loss=HEADS, targets=targets)
    assert stats["train_loss"] == stats["val_loss"] == [1.5]
    assert stats["train_double_loss"] == stats["val_square_loss"] == [1.0]
    assert last.targets.keys() == {"double", "square"}


def test_a_named_loss_takes_a_single_target_by_name() -> None:
    batch = {"a": A, "double": 2 * A + 1}
    stats, last = trained(Heads(), batch, loss={"double": nn.MSELoss()}, targets="double")
    assert (stats["train_loss"], list(last.targets)) == ([1.0], ["double"])


def test_losses_by_position_take_targets_in_the_order_of_their_names() -> None:
    losses = [nn.MSELoss(), nn.L1Loss()]
    targets = ["double", "square"]
    stats, last = trained(Row(), NAMED, loss=losses, targets=targets)
    assert stats["val_loss"] == [2.0]
    assert torch.equal(last.targets[1], NAMED["square"])
    stats, _ = trained(Row(), (A, [2 * A + 1, 2 * A * A + 2]), loss=losses)
    assert stats["val_loss"] == [3.0]


def test_one_loss_may_take_several_targets() -> None:
    def both(outputs: Any, targets: Any) -> Tensor:
        return sum(((outputs[k] - targets[k]).mean() for k in targets), torch.zeros(()))

    stats, _ = trained(Heads(), NAMED, loss=both, targets=["double", "square"])
    assert stats["val_loss"] == [-2.0]


class Encoding(UserDict[str, Any]):
    """A batch that moves itself, as those of tokenizers."""

    def to(self, device: torch.device) -> Encoding:
        return Encoding({key: value.to(device) for key, value in self.items()})


class Recurrent(nn.Module):
    """Counts the steps of sequences that have different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, packed: PackedSequence) -> Tensor:
        padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        assert padded.shape[:2] == (len(lengths), int(lengths.max()))
        return padded.sum(1) * self.scale


PACKED = pack_sequence([torch.ones(n, 1) for n in (5, 3, 2)])
LENGTHS = torch.tensor([[5.0], [3.0], [2.0]])


@pytest.mark.parametrize("batch", [(PACKED, LENGTHS), {"packed": PACKED, "y": LENGTHS}])
def test_packed_sequences_are_one_input_and_count_sequences(batch: Any) -> None:
    stats, last = trained(Recurrent(), batch, targets="y")
    assert (stats["val_loss"], last.size, stats.samples) == ([0.0], 3, 3)
    assert isinstance(last.inputs, dict if isinstance(batch, dict) else PackedSequence)


def test_a_batch_with_a_method_to_works() -> None:
    stats, _ = trained(Affine(), Encoding({"a": A, "b": B, "y": Y}), targets="y")
    assert stats["val_loss"] == [1.0]


@pytest.mark.parametrize(
    ("batch", "targets", "message"),
    [
        (A, None, r"a tuple \(x, y\), a list or a dict; received tensor\(4, 1\) float32"),
        ((A,), None, r"received \(tensor\(4, 1\) float32\)"),
        ([], None, r"received \(\)"),
        ("words", None, "received str"),
        (None, None, "received None"),
        (PACKED, None, r"received \(tensor\(10, 1\)"),
        ({"a": A, "y": Y}, None, r"received targets=None and a batch with the keys \['a', 'y'\]"),
        ({"a": A, "y": Y}, "z", r"targets='z' and .* \['a', 'y'\], without \['z'\]\. Name one"),
        ({"a": A, "y": Y}, ["y", "z"], r"without \['z'\]"),
        (Both(A, B, Y), "z", r"keys \['a', 'b', 'y'\], without \['z'\]"),
        (("a", "b"), None, r"a tensor whose first dimension.*inputs str and targets str"),
        ((torch.tensor(1.0), torch.tensor(1.0)), None, "Override BatchProcessor.size"),
    ],
)
def test_a_batch_that_cannot_be_parted_is_refused(batch: Any, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        trained(line(), batch, targets=targets)


@pytest.mark.parametrize("targets", [3, [], (), ["y", 3], {"y": 1}])
def test_target_keys_are_words(targets: Any) -> None:
    with pytest.raises(ArgumentError, match=r"Estimator\(targets=\.\.\.\) must be a key or a list"):
        Estimator(line(), nn.MSELoss(), targets=targets)


def test_target_keys_may_be_a_tuple() -> None:
    keys: Any = ("double", "square")
    assert trained(Heads(), NAMED, loss=HEADS, targets=keys)[0]["val_loss"] == [1.5]


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (A, 4),
        (torch.tensor(1.0), None),
        ({"scale": torch.tensor(1.0), "a": A}, 4),
        ([["a"], (torch.tensor(2), B)], 4),
        (PACKED, 3),
        ({}, None),
        (None, None),
    ],
)
def test_the_length_of_a_batch_is_that_of_its_first_tensor(value: Any, length: int | None) -> None:
    assert batch_length(value) == length


def test_a_batch_in_words() -> None:
    value = {"a": np.zeros((2, 3)), "b": [A, None, "x", 1, 2]}
    assert describe(value) == (
        "{'a': array(2, 3) float64, 'b': (tensor(4, 1) float32, None, str, int, ...)}"
    )
    assert describe((torch.tensor(1),)) == "(tensor() int64)"
