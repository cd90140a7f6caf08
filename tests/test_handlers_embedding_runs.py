"""Embeddings: runs that break, layers that do not fit, and wrong arguments."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from projector_runs import FromOutputs, Run, hooks, vectors
from sample_runs import HOST_READS
from torch import Tensor, nn

from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    DataError,
    EstimatorError,
    every,
)
from estimator.handlers.embedding import EmbeddingHandler
from estimator.stats import TrainStats


class NeverCallsIt(nn.Module):
    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.idle = nn.Linear(1, 1)
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return x if self.output is None else self.output


def test_no_host_read_in_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
    run = Run(EmbeddingHandler(tmp_path, layer="1", classes=list("abcdefghij")), net)

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor was read on the host")

    batch = (torch.rand(8, 1, 6, 6), torch.arange(8), torch.arange(8))
    with monkeypatch.context() as patch:
        for name in HOST_READS:
            patch.setattr(Tensor, name, refuse)
        run.validate(batch, batch)
    run.end()
    assert len(vectors(tmp_path / "00000" / "1")) == 16


def test_other_phases_and_broken_runs_write_nothing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Identity())
    handler = EmbeddingHandler(tmp_path, layer="0", every=every(epochs=1))
    run = Run(handler, net)
    run.validate((torch.ones(2, 2),), phase="evaluate")
    run.stats.phase = "validation"
    handler.validation_begin(run.stats)
    run.batch(torch.ones(2, 2))
    run.stats.error, run.stats.epoch = RuntimeError("broken"), 1
    run.batch(torch.ones(2, 2))
    handler.validation_end(run.stats)
    run.end()
    assert list(tmp_path.iterdir()) == []
    assert hooks(net) == 0
    assert pickle.loads(pickle.dumps(handler)).layer == "0"
    handler.validation_begin(run.stats)
    run.end()
    assert hooks(net) == 0, "also where the validation had no end"


def test_a_run_without_validation_is_warned(tmp_path: Path) -> None:
    handler = EmbeddingHandler(tmp_path)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    with pytest.warns(UserWarning, match="this run has none: nothing will be written"):
        handler.train_begin(stats)
    handler.train_end(stats)
    assert list(tmp_path.iterdir()) == []


def test_unknown_layers_are_answered_with_near_names(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("features", nn.Sequential(nn.Identity()))
    with pytest.raises(ArgumentError, match="'feature.0'. Did you mean 'features.0'") as caught:
        Run(EmbeddingHandler(tmp_path, layer="feature.0"), net)
    assert isinstance(caught.value, EstimatorError)
    with pytest.raises(ArgumentError, match="There are: features, features.0"):
        Run(EmbeddingHandler(tmp_path, layer=""), net)


@pytest.mark.parametrize(
    ("layer", "net", "received"),
    [
        ("idle", NeverCallsIt(), "received None"),
        (None, NeverCallsIt("text"), "received None"),
        (None, NeverCallsIt(torch.ones(())), r"received \(\)"),
        (None, NeverCallsIt(torch.ones(3, 5)), r"each of the 2 samples.*received \(3, 5\)"),
        (FromOutputs(str), NeverCallsIt("text"), "received text"),
    ],
)
def test_a_layer_must_give_a_row_for_each_sample(
    tmp_path: Path, layer: Any, net: nn.Module, received: str
) -> None:
    run = Run(EmbeddingHandler(tmp_path, layer=layer), net)
    with pytest.raises(DataError, match=received):
        run.validate((torch.ones(2, 4),))


def test_vectors_must_be_of_one_length(tmp_path: Path) -> None:
    run = Run(EmbeddingHandler(tmp_path))
    with pytest.raises(DataError, match="received 3 and then 4 values"):
        run.validate((torch.ones(2, 3),), (torch.ones(2, 4),))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"samples": 0}, ArgumentError, r"samples=\.\.\..* received 0"),
        ({"samples": True}, ArgumentError, "received True"),
        ({"layer": 3}, ArgumentTypeError, r"layer=\.\.\..* received 3"),
        ({"every": 5}, ArgumentTypeError, "must be an Every; received 5"),
        ({"classes": "ab"}, ArgumentTypeError, "received 'ab'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        EmbeddingHandler("unused", **arguments)


def test_repr_and_band() -> None:
    handler = EmbeddingHandler("there", layer="fc", samples=10)
    assert repr(handler) == "EmbeddingHandler(folder='there', layer='fc', samples=10)"
    assert EmbeddingHandler.band is Band.OBSERVE
    assert EmbeddingHandler("there", band=Band.DECIDE).band is Band.DECIDE
