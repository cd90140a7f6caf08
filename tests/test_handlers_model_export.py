"""The net at the end of a run: weights, results, and an ONNX file or why there is none."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import export_nets as nets
import pytest
import torch
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import EarlyStoppingHandler, EventHandler, ModelExportHandler, on
from estimator.handlers._example import ROWS, Example, first_rows
from estimator.handlers.base import ArgumentError, MissingExtraError
from estimator.stats import TrainStats

DATA = torch.randn(12, 3), torch.randn(12, 2)


def fit(net: nn.Module, *handlers: EventHandler, data: Any = DATA, **options: Any) -> TrainStats:
    est = Estimator(net, nn.MSELoss())
    return est.fit(data, device="cpu", progress=False, handlers=list(handlers), **options)


def section(folder: Path) -> Any:
    return json.loads((folder / "model_export.section.json").read_text("utf-8"))


def test_weights_results_and_a_checked_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    stop = EarlyStoppingHandler("val_loss", patience=9)
    stats = fit(net, stop, ModelExportHandler(tmp_path), val=DATA, epochs=2, trainers="adam")
    state = torch.load(tmp_path / "last.model", weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    other = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    Estimator(other).load_weights(tmp_path / "last.model")
    net.eval(), other.eval()
    assert torch.equal(other(DATA[0]), net(DATA[0]))
    result = json.loads((tmp_path / "last.model.result").read_text("utf-8"))
    assert (result["epoch"], result["step"], result["samples"]) == (2, 2, 24)
    assert result["val"]["loss"] == stats.val["loss"]
    assert result["best"]["val_loss"]["value"] == min(stats["val_loss"])
    (found,) = nets.run(tmp_path / "model.onnx", input=DATA[0])
    assert torch.allclose(torch.from_numpy(found), net(DATA[0]), atol=1e-5)
    shown = section(tmp_path)
    assert shown["order"] == 740 and "as the net within" in shown["text"]
    files, compared = shown["tables"]
    assert [row[0] for row in files["rows"]] == ["last.model", "last.model.result", "model.onnx"]
    assert [row[0] for row in compared["rows"]] == [1, ROWS, ROWS + 3]
    assert all(row[1] < 1e-5 for row in compared["rows"]) and stats.missing == {}


def test_a_net_that_cannot_be_exported_counts_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Net(nets.Branching):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(super().forward(x))
            return out

    torch.manual_seed(0)
    plain = fit(Net(), epochs=2)
    torch.manual_seed(0)
    stats = fit(Net(), ModelExportHandler(tmp_path), epochs=2)
    assert stats.history["train_loss"] == plain.history["train_loss"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(stats.net.parameters(), plain.net.parameters(), strict=True)
    )
    assert "depends on values of its input" in stats.missing["model.onnx"]
    assert any(r.levelno == logging.ERROR and "model.onnx" in r.message for r in caplog.records)
    assert "depends on values of its input" in section(tmp_path)["text"]
    assert not (tmp_path / "model.onnx").exists() and (tmp_path / "last.model").exists()


def test_what_cannot_be_written_is_missing_and_the_run_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrainStats, "export", full)
    monkeypatch.setattr("estimator.handlers.model_export.write_whole", full)
    stats = fit(nn.Linear(3, 2), ModelExportHandler(tmp_path))
    assert stats.missing == dict.fromkeys(["last.model", "model.onnx"], "No space left on device")
    assert section(tmp_path)["text"].endswith("No space left on device")
    assert stats.epoch == 1


def test_an_example_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def noted(self: TrainStats, path: Path, example: Any, **options: Any) -> None:
        seen.append((example, options))
        raise ValueError("enough")

    monkeypatch.setattr(TrainStats, "export", noted)
    fit(nn.Linear(3, 2), ModelExportHandler(tmp_path, example=DATA, dynamic={"input": {}}))
    assert seen == [(DATA, {"split": True, "dynamic": {"input": {}}})]


def test_after_an_error_or_without_a_batch(tmp_path: Path) -> None:
    @on("batch_end")
    def fail(stats: TrainStats) -> None:
        raise ZeroDivisionError

    class Stop(EventHandler):
        def train_begin(self, stats: TrainStats) -> None:
            stats.stop("at once")

    with pytest.raises(ZeroDivisionError):
        Estimator(nn.Linear(3, 2), nn.MSELoss()).fit(
            DATA, device="cpu", progress=False, handlers=[ModelExportHandler(tmp_path), fail]
        )
    assert list(tmp_path.iterdir()) == []
    stats = fit(nn.Linear(3, 2), ModelExportHandler(tmp_path), Stop())
    assert stats.missing == {"model.onnx": "no batch was seen, from which to take an example"}


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    @on("epoch_end")
    def worsen(stats: TrainStats) -> None:
        stats.val = {"a": float("nan"), "b": float("inf"), "c": -float("inf")}

    handlers: Any = ModelExportHandler(tmp_path, onnx=False), worsen
    fit(nn.Linear(3, 2), *handlers)
    result = json.loads((tmp_path / "last.model.result").read_text("utf-8"))
    assert result["val"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert len(section(tmp_path)["tables"]) == 1


@pytest.mark.parametrize("library", ["onnxscript", "onnxruntime"])
def test_a_missing_library_is_told_at_construction(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"onnx=False.*{library}.*\[onnx\]"):
        ModelExportHandler()
    with pytest.raises(ArgumentError, match="ModelExportHandler"):
        fit(nn.Linear(3, 2), ModelExportHandler(onnx=False))


def test_the_first_rows_of_any_batch() -> None:
    from collections import namedtuple

    point = namedtuple("point", "x y")
    texts = [str(i) for i in range(9)]
    x = torch.arange(9)
    batch = {
        "x": x,
        "p": point(x, 3),
        "t": (x,),
        "texts": texts,
        "l": [x, x],
        "scale": torch.ones(2),
    }
    rows = first_rows(batch, 9)
    assert rows["x"].tolist() == rows["p"].x.tolist() == rows["t"][0].tolist() == [0, 1, 2, 3]
    assert rows["texts"] == texts[:4] and rows["p"].y == 3 and len(rows["l"][1]) == 4
    assert rows["scale"].tolist() == [1, 1]
    x.zero_()
    assert rows["x"].tolist() == [0, 1, 2, 3]


def test_an_example_of_a_validation_stays() -> None:
    stats, example = TrainStats(nn.Identity(), torch.device("cpu")), Example()
    for phase, value in (("train", 1), ("train", 2), ("validation", 3), ("train", 4)):
        example.offer(stats)
        stats.inputs, stats.batch_size = torch.tensor([value]), 1
        stats.phase = phase  # type: ignore[assignment]  # one of the phases
        example.offer(stats)
    assert example.of == "validation" and example.inputs.tolist() == [3]
