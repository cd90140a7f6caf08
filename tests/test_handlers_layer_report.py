"""Layers over epochs: the table against numbers by hand, and the pictures of it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.handlers import CheckpointHandler, LayerReportHandler, every, on
from estimator.handlers._layer_maps import MAPS, LayerTable, draw_map
from estimator.handlers.base import ArgumentTypeError, MissingExtraError
from estimator.stats import TrainStats

DATA = [(torch.randn(8, 3), torch.randn(8, 2)) for _ in range(3)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)
        self.unused = nn.Linear(1, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.relu(self.relu(self.first(x)) * 1)) * self.scale
        return out


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    with torch.no_grad():
        made.first.bias[:2] = -100  # two of six units are dead
    return made


def fit(model: nn.Module, *handlers: Any, **options: Any) -> TrainStats:
    chosen: dict[str, Any] = {"epochs": 3, "trainers": Trainer("sgd", lr=0.01)} | options
    est = Estimator(model, nn.MSELoss())
    return est.fit(DATA, device="cpu", progress=False, handlers=list(handlers), **chosen)


def table(folder: Path) -> dict[tuple[int, str], dict[str, str]]:
    with open(folder / "layers.csv", newline="", encoding="utf-8") as file:
        return {(int(row["epoch"]), row["layer"]): row for row in csv.DictReader(file)}


def section(folder: Path) -> Any:
    return json.loads((folder / "layers.section.json").read_text("utf-8"))


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_the_first_batch_of_each_epoch_is_measured(tmp_path: Path) -> None:
    fit(net(), LayerReportHandler(tmp_path))
    model, (x, y) = net(), DATA[0]
    first = model.first(x)
    expected = first.detach().double().numpy()
    nn.functional.mse_loss(model(x), y).backward()
    found = table(tmp_path)
    assert [key for key in found if key[0] == 1] == [(1, n) for n in ("first", "relu", "last")]
    assert {epoch for epoch, _ in found} == {1, 2, 3}
    assert [found[e, "last"]["step"] for e in (1, 2, 3)] == ["1", "4", "7"]
    row = found[1, "first"]
    assert float(row["mean"]) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(row["std"]) == pytest.approx(expected.std(), rel=1e-5)
    assert row["dead"] == "" and row["nonfinite"] == "0"
    assert float(found[1, "relu"]["dead"]) == pytest.approx(2 / 6)
    assert found[1, "relu"]["gradient"] == ""

    def norm(*tensors: Any) -> float:
        return float(torch.cat([t.detach().flatten() for t in tensors]).norm())

    last = model.last
    ratio = norm(last.weight.grad, last.bias.grad) / norm(last.weight, last.bias)
    assert float(found[1, "last"]["gradient"]) == pytest.approx(ratio, rel=1e-5)


def test_training_is_the_same_as_without(tmp_path: Path) -> None:
    plain, seen = fit(net()), fit(net(), LayerReportHandler(tmp_path, every=every(epochs=1)))
    for name, value in plain.net.state_dict().items():
        assert torch.equal(seen.net.state_dict()[name], value)
    assert not any(module._forward_hooks for module in seen.net.modules())


def test_the_section_shows_each_map_and_the_last_epoch(tmp_path: Path) -> None:
    fit(net(), LayerReportHandler(tmp_path))
    shown = section(tmp_path)
    assert shown["order"] == 620
    files = [picture["file"] for picture in shown["pictures"]]
    assert files == ["mean.png", "std.png", "dead.png", "gradient.png"]
    assert all(size((tmp_path / file).read_bytes())[0] == 900 for file in files)
    (last,) = shown["tables"]
    row = dict(zip(last["columns"], last["rows"][0], strict=True))
    of_file = table(tmp_path)[3, "first"]
    assert row["layer"] == "first" and row["dead"] is None
    assert row["std"] == float(of_file["std"])


def test_pictures_are_drawn_when_they_are_due(tmp_path: Path) -> None:
    seen = []

    @on("epoch_end")
    def look(stats: TrainStats) -> None:
        seen.append((tmp_path / "mean.png").exists())

    fit(net(), LayerReportHandler(tmp_path, every=every(epochs=2)), look)
    assert seen == [False, True, True] and section(tmp_path)["epoch"] == 3


def test_a_resumed_run_goes_on_with_the_table(tmp_path: Path) -> None:
    @on("batch_end")
    def stop(stats: TrainStats) -> None:
        if stats.step == 5:
            stats.stop("here")

    def handlers() -> list[Any]:
        saves = CheckpointHandler(tmp_path / "c", every=every(epochs=1))
        return [saves, LayerReportHandler(tmp_path / "a")]

    fit(net(), *handlers(), stop)
    with open(tmp_path / "a" / "layers.csv", "a", encoding="utf-8") as file:
        file.write("9,99")
    fit(net(), *handlers(), resume=tmp_path / "c")
    fit(net(), LayerReportHandler(tmp_path / "b"))
    assert table(tmp_path / "a") == table(tmp_path / "b")


def test_an_error_leaves_no_hook_and_draws_what_there_is(tmp_path: Path) -> None:
    @on("batch_begin")
    def fail(stats: TrainStats) -> None:
        if stats.step == 3:
            raise ZeroDivisionError

    model = net()
    with pytest.raises(ZeroDivisionError):
        fit(model, LayerReportHandler(tmp_path), fail)
    assert not any(module._forward_hooks for module in model.modules())
    assert {epoch for epoch, _ in table(tmp_path)} == {1} and (tmp_path / "mean.png").exists()


def test_values_that_are_not_finite_and_nets_without_parts(tmp_path: Path) -> None:
    batch = [(torch.full((2, 3), float("nan")), torch.zeros(2, 2))]
    est = Estimator(nn.Linear(3, 2), nn.MSELoss())
    est.fit(batch, device="cpu", progress=False, handlers=LayerReportHandler(tmp_path))
    row = table(tmp_path)[1, "(net)"]
    assert row["nonfinite"] == "4" and row["mean"] == "nan"
    assert section(tmp_path)["tables"][0]["rows"] == [["(net)", "NaN", "NaN", None, "NaN"]]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LayerTable, "add", full)
    stats = fit(net(), LayerReportHandler(tmp_path))
    assert stats.missing == {"the table of layers": "No space left on device"} and stats.epoch == 3


@pytest.mark.parametrize(
    ("kind", "layers"), [*zip(MAPS, (1, 40, 60, 61), strict=True), (MAPS[0], 1000)]
)
def test_maps_of_any_size_with_any_name_and_value(kind: Any, layers: int) -> None:
    values = np.random.default_rng(0).normal(size=(layers, 500))
    values[0, :3] = np.nan, np.inf, 0
    names = [f"$x_{i}$ <b>{'y' * 300}" for i in range(layers)]
    width, height = size(draw_map(kind, names, list(range(1, 501)), values))
    assert width == 900 and height <= 1600


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, 3.0])
@pytest.mark.parametrize("kind", MAPS, ids=lambda kind: kind.value)
def test_maps_of_one_value(kind: Any, value: float) -> None:
    assert size(draw_map(kind, ["a"], [1], np.array([[value]])))[0] == 900


def test_arguments_and_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentTypeError, match="LayerReportHandler"):
        LayerReportHandler(every=3)  # type: ignore[arg-type]  # on purpose
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"\[report\]"):
        LayerReportHandler()
