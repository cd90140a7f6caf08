"""`ActivationStatsHandler`: its table equals what NumPy makes of the outputs of a hand loop."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layer_stats import (
    LAYERS,
    MOMENTS,
    Net,
    Plain,
    assert_same_training,
    by_hand,
    by_numpy,
    close,
    data,
    fit,
    hand_loop,
    hooks,
    measure,
    steps,
    table,
)
from torch import nn

from estimator.handlers.activation_stats import ActivationStatsHandler
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    EventHandler,
    every,
    once,
)
from estimator.stats import TrainStats


def test_activations_equal_those_of_a_hand_loop(tmp_path: Path) -> None:
    stats = fit(ActivationStatsHandler(tmp_path, every=every(1)))
    reference = hand_loop()
    found = table(tmp_path / "activations.csv")
    assert list(found) == [(step, layer) for step in range(1, 9) for layer in LAYERS]
    assert len(reference.outputs[1, "again"]) == 2
    for key, outputs in reference.outputs.items():
        assert found[key] == close(by_numpy(*outputs))
    assert_same_training(stats, reference)
    assert hooks(stats.net) == []


def test_a_change_in_place_does_not_reach_the_layer_before(tmp_path: Path) -> None:
    fit(ActivationStatsHandler(tmp_path, every=every(1)))
    found = table(tmp_path / "activations.csv")
    before, behind = found[1, "norm"], found[1, "relu"]
    assert before["min"] < 0 == behind["min"]  # type: ignore[operator]  # rows are strings or numbers
    assert before["zeros"] == 0 < behind["zeros"]  # type: ignore[operator]  # rows are strings or numbers


class Outputs(nn.Module):
    """Gives back what it is given, through a layer that is called for each part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, parts: list[Any]) -> list[Any]:
        return [self.layer(part) for part in parts]


def activations_of(tmp_path: Path, *parts: Any) -> dict[str, Any]:
    """The row of a layer that is called once for each of the parts."""
    handler = ActivationStatsHandler(tmp_path, layers=["layer"], every=every(1))
    stats = by_hand(Outputs())
    stats.inputs = list(parts)
    handler.train_begin(stats)
    measure(handler, stats)
    handler.train_end(stats)
    return table(tmp_path / "activations.csv")[1, "layer"]


def test_all_floating_tensors_of_an_output_count(tmp_path: Path) -> None:
    a, b, c = torch.randn(4, 2), torch.randn(3) * 100, torch.zeros(7)
    nested = (a, {"b": b, "index": torch.arange(3), "text": "x"}, [None, c, torch.empty(0)])
    assert activations_of(tmp_path, nested) == close(by_numpy(a, b, c))


def test_the_variance_over_calls_does_not_cancel(tmp_path: Path) -> None:
    far = [torch.randn(50) + 1e6, torch.randn(20) + 1e6 + 3]
    expected = np.concatenate([part.numpy().astype(np.float64) for part in far]).std()
    assert activations_of(tmp_path, *far)["std"] == pytest.approx(expected, rel=1e-3)


def test_values_over_calls_that_are_not_finite(tmp_path: Path) -> None:
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 0.0]), torch.tensor([-math.inf])]
    assert activations_of(tmp_path, *parts) == close(by_numpy(*parts))


def test_a_named_layer_that_did_not_run_is_told_once(tmp_path: Path) -> None:
    class Skips(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.first(x))
            return out

    handler = ActivationStatsHandler(tmp_path, layers=["drop", "last"], every=every(1))
    with pytest.warns(UserWarning, match="'drop' did not run") as told:
        fit(handler, net=Skips())
    assert len(told) == 1
    found = table(tmp_path / "activations.csv")
    assert found[8, "drop"] == dict.fromkeys(MOMENTS)
    assert found[8, "last"]["std"] is not None


def test_a_net_in_which_no_named_layer_ran(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'layer' did not run.*Take them out of layers="):
        assert activations_of(tmp_path) == dict.fromkeys(MOMENTS)


def test_of_all_layers_one_that_did_not_run_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Skips(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.first(x))
            return out

    with caplog.at_level(logging.INFO, logger="estimator"):
        fit(ActivationStatsHandler(tmp_path, every=every(1)), net=Skips())
    (message,) = [m for m in caplog.messages if "did not run" in m]
    assert "'norm', 'relu', 'drop', 'again'" in message
    assert table(tmp_path / "activations.csv")[1, "norm"] == dict.fromkeys(MOMENTS)


def test_a_net_that_is_one_layer(tmp_path: Path) -> None:
    fit(ActivationStatsHandler(tmp_path, every=once(1)), net=nn.Linear(3, 1))
    torch.manual_seed(0)
    expected = by_numpy(nn.Linear(3, 1)(data()[0][0]))
    assert table(tmp_path / "activations.csv") == {(1, "(net)"): close(expected)}


def test_a_layer_may_be_named_by_any_of_its_names_and_hold_others(tmp_path: Path) -> None:
    class Shared(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(self.first)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.block(x)
            return out

    layers = ["block", "block.0", "first"]
    fit(ActivationStatsHandler(tmp_path, layers=layers, every=once(1)), net=Shared())
    found = table(tmp_path / "activations.csv")
    assert found[1, "block"] == found[1, "block.0"] == found[1, "first"]


class HooksSeen(EventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward_end(self, stats: TrainStats) -> None:
        self.counts.append(len(hooks(stats.net)))

    def batch_begin(self, stats: TrainStats) -> None:
        self.counts.append(len(hooks(stats.net)))


def test_hooks_are_there_for_due_batches_only(tmp_path: Path) -> None:
    seen = HooksSeen()
    net = Net()
    own = net.last.register_forward_hook(lambda *_: None)
    fit(ActivationStatsHandler(tmp_path, every=every(3)), seen, net=net, epochs=1)
    assert seen.counts == [1, 1, 1, 1, 1 + len(LAYERS), 1, 1, 1]
    assert list(net.last._forward_hooks) == [own.id]


class StopAt(EventHandler):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def backward_end(self, stats: TrainStats) -> None:
        if stats.step + 1 == self.step:
            stats.stop("seen enough")


def test_a_stop_leaves_no_hook(tmp_path: Path) -> None:
    stats = fit(ActivationStatsHandler(tmp_path, every=every(1)), StopAt(3))
    assert hooks(stats.net) == []
    assert steps(tmp_path / "activations.csv") == [1, 2, 3]


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("first", ArgumentTypeError, "must be names of layers in a list.*received 'first'"),
        ([1], ArgumentTypeError, r"must be names of layers in a list.*received \[1\]"),
        ([], ArgumentError, r"must name at least one layer; received \[\]"),
    ],
)
def test_wrong_layers(tmp_path: Path, layers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ActivationStatsHandler(tmp_path, layers=layers)


def test_an_unknown_layer_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="layers of Net; received 'frist'. Did you mean 'first'"
    ):
        fit(ActivationStatsHandler(tmp_path, layers=["last", "frist"]))


def test_a_layer_is_measured_once_however_often_it_is_named(tmp_path: Path) -> None:
    assert ActivationStatsHandler(tmp_path, layers=["a", "b", "a"]).layers == ["a", "b"]
