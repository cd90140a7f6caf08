"""Layers, shapes, parameters and multiply-adds, against what can be counted by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_nets import Texts, texts
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from estimator import Estimator
from estimator.handlers import ModelSummaryHandler
from estimator.handlers._model_summary import in_bytes, summarize
from estimator.stats import TrainStats


class Net(nn.Module):
    """Every kind of layer that is counted, shared weights, a frozen one, one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.lstm = nn.LSTM(32, 5, bidirectional=True, batch_first=True)
        layer = nn.TransformerEncoderLayer(10, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.one, self.two = nn.Linear(10, 10), nn.Linear(10, 10)
        self.two.weight = self.one.weight
        self.free = nn.Parameter(torch.randn(10, 3))
        self.unused = nn.Linear(2, 2)
        self.body[0].weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        found = self.lstm(self.body(x).transpose(1, 2).flatten(2))[0]
        out: Tensor = self.two(self.one(self.encoder(found))).mean(1) @ self.free
        return out


def test_layers_are_counted_as_by_hand() -> None:
    net, samples = Net(), 4
    summary = summarize(net, torch.randn(samples, 1, 8, 8))
    found = {layer.name: layer for layer in summary.layers}
    assert found["body.0"].output == "4x4x8x8" and found["body.0"].trainable == 4
    assert found["body.0"].multiply_adds == 8 * 8 * 4 * 9
    assert found["lstm"].multiply_adds == 8 * 2 * 4 * 5 * (32 + 5)
    assert found["one"].parameters == 110 and found["two"].parameters == 10
    assert found["one"].multiply_adds == found["two"].multiply_adds == 8 * 10 * 10
    assert found["(net)"].multiply_adds == 30 and found["(net)"].parameters == 30
    assert found["encoder.layers.0.linear1"].multiply_adds == 8 * 10 * 16
    # Projections of queries, keys, values and outputs; then scores and their sums of values.
    assert found["encoder.layers.0.self_attn"].multiply_adds == 8 * 10 * 40 + 2 * 8 * 8 * 10
    assert (found["unused"].output, found["unused"].calls) == ("not called", 0)
    assert "encoder" not in found
    assert summary.multiply_adds == sum(layer.multiply_adds for layer in summary.layers)
    assert summary.parameters == sum(p.numel() for p in net.parameters())
    assert summary.parameters == sum(layer.parameters for layer in summary.layers)
    assert summary.parameters - summary.trainable == 36 and summary.buffers == 9
    assert summary.weight_bytes == 4 * summary.parameters + 4 * 8 + 8
    text = str(summary).splitlines()
    assert text[0].split()[:2] == ["layer", "kind"] and text[1].split()[-1] == "1"
    assert any(line.split() == ["frozen", "36"] for line in text)


def test_a_layer_that_is_called_twice_and_packed_sequences() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.same = nn.GRU(3, 2), nn.Linear(2, 2, bias=False)

        def forward(self, x: Any, scale: Tensor) -> Any:
            return {"a": [self.same(self.same(self.gru(x)[1])), None], "b": scale.sum()}

    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    summary = summarize(Twice(), (packed, torch.ones(2)))
    gru, same = summary.layers
    assert gru.multiply_adds * summary.samples <= 6 * 3 * 2 * 5
    assert same.calls == 2 and same.parameters == 4
    assert summarize(nn.GRU(3, 2), packed).layers[0].kind == "GRU"


def test_nothing_in_the_net_or_the_streams_changes() -> None:
    net = Net()
    net.body[1].eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    buffers = {name: id(value) for name, value in net.named_buffers()}
    streams = torch.get_rng_state(), random.getstate(), numpy_state()
    summarize(net, torch.randn(4, 1, 8, 8, generator=torch.Generator()))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert {name: id(value) for name, value in net.named_buffers()} == buffers
    assert torch.equal(torch.get_rng_state(), streams[0]) and random.getstate() == streams[1]
    assert numpy_state() == streams[2]
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_batch_norm_in_training_does_not_notice(tmp_path: Path) -> None:
    def fit(*handlers: Any) -> TrainStats:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
        data = torch.randn(12, 3), torch.randn(12, 2)
        est = Estimator(net, nn.MSELoss())
        return est.fit(data, epochs=3, device="cpu", progress=False, handlers=list(handlers))

    plain, seen = fit(), fit(ModelSummaryHandler(tmp_path))
    for name, value in plain.net.state_dict().items():
        assert torch.equal(seen.net.state_dict()[name], value)
    shown = json.loads((tmp_path / "model_summary.section.json").read_text("utf-8"))
    assert shown["order"] == 700 and "4 samples" in shown["text"]
    totals, layers = shown["tables"]
    assert ["parameters", "34"] in totals["rows"] and [row[0] for row in layers["rows"]] == [
        *"0123"
    ]
    assert "BatchNorm1d" in (tmp_path / "model_summary.txt").read_text("utf-8")


def test_dict_batches_and_outputs_that_describe_themselves(tmp_path: Path) -> None:
    est = Estimator(Texts())
    stats = est.fit([texts()], device="cpu", progress=False, handlers=ModelSummaryHandler(tmp_path))
    assert stats.missing == {}
    text = (tmp_path / "model_summary.txt").read_text("utf-8")
    assert "4x6x6" in text and "embed" in text

    class Named(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    assert summarize(Named(3, 2), {"input": torch.ones(2, 3)}).multiply_adds == 6


def test_a_net_that_does_not_run_alone_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Once(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if not self.training:
                raise ValueError("only in training")
            return super().forward(input)

    data = torch.randn(12, 3), torch.randn(12, 2)
    est = Estimator(Once(3, 2), nn.MSELoss())
    stats = est.fit(data, device="cpu", progress=False, handlers=ModelSummaryHandler(tmp_path))
    assert stats.missing == {"the summary of the net": "only in training"} and stats.epoch == 1
    assert "only in training" in caplog.text and list(tmp_path.iterdir()) == []


def test_split_weights_are_left_alone(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    vars(net.weight)["full_tensor"] = None
    stats, handler = TrainStats(net, torch.device("cpu")), ModelSummaryHandler(tmp_path)
    handler.train_begin(stats)
    stats.batch_size, stats.inputs = 2, torch.ones(2, 3)
    handler.batch_end(stats)
    assert "split over processes" in stats.missing["the summary of the net"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("estimator.handlers.model_summary.write_whole", full)
    data = torch.randn(12, 3), torch.randn(12, 2)
    est = Estimator(nn.Linear(3, 2), nn.MSELoss())
    stats = est.fit(data, device="cpu", progress=False, handlers=ModelSummaryHandler(tmp_path))
    assert stats.missing == {"the summary of the net": "No space left on device"}


def test_bytes_in_words() -> None:
    assert [in_bytes(n) for n in (12, 3400, 3 * 10**9)] == ["12 bytes", "3.40 kB", "3.00 GB"]


def numpy_state() -> Any:
    state: Any = np.random.get_state()
    return state[1].tolist()
