"""What is said of the data: exact moments, gaps, classes, texts, and when."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_nets import Texts, texts
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import AugmentHandler, CheckpointHandler, DataSummaryHandler, every, on
from estimator.handlers._data_moments import CLASSES, Feature, Moments, joined
from estimator.stats import TrainStats


def read(parts: list[Tensor], *, counts_classes: bool = False) -> Moments:
    feature = Feature(counts_classes=counts_classes)
    for part in parts:
        feature.add(part)
    return feature.read()


def fit(batches: Any, handler: Any, val: Any = None, **options: Any) -> TrainStats:
    torch.manual_seed(0)
    est = Estimator(nn.Linear(3, 2), nn.CrossEntropyLoss())
    return est.fit(batches, val, device="cpu", progress=False, handlers=handler, **options)


def rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    shown = json.loads((folder / "data_summary.section.json").read_text("utf-8"))
    table = shown["tables"][0]
    dicts = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return {(row["split"], row["feature"]): row for row in dicts}


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, generator=generator) * i, torch.arange(n) % 2)
        for i, n in enumerate(sizes, start=1)
    ]


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_moments_are_those_of_all_elements_and_no_mean_of_batches(far: float) -> None:
    # Batches of other sizes, means and spreads: a mean of their deviations would lie far off.
    parts = [torch.randn(n, 2, 3) * n + far + n for n in (1, 5, 40)]
    found = read(parts)
    values = np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-9)
    assert (found.low, found.high) == (values.min(), values.max())
    assert (found.samples, found.finite, found.shape) == (46, values.size, (2, 3))


def test_what_is_not_a_number_is_counted_and_left_out() -> None:
    part = torch.tensor([[1.0, math.nan], [math.inf, -math.inf], [3.0, math.nan]])
    found = read([part])
    assert (found.nan, found.infinite, found.finite) == (2, 2, 2)
    assert (found.mean, found.std, found.low, found.high) == (2.0, 1.0, 1.0, 3.0)
    lost = read([torch.full((2, 1), math.nan)])
    assert lost.nan == 2 and math.isnan(lost.mean) and math.isnan(lost.std)
    late = read([torch.full((2, 1), math.nan), torch.tensor([[2.0], [4.0]])])
    assert (late.mean, late.std) == (3.0, 1.0)
    assert math.isnan(Feature(counts_classes=False).read().mean)


def test_other_kinds_and_shapes() -> None:
    assert read([torch.tensor([True, False])]).mean == 0.5
    assert read([torch.tensor([3 + 4j])]).mean == 3.5
    assert read([torch.tensor([250, 251], dtype=torch.uint8)]).std == 0.5
    assert read([torch.ones(2, 5), torch.ones(2, 7)]).shape == ("varies",)
    assert read([torch.ones(2, 1, 5), torch.ones(2, 1, 7)]).shape == (1, "varies")
    assert read([torch.ones(2, 5), torch.ones(2, 5, 1)]).shape == ("varies",)


def test_large_samples_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.randn(3, 100)
    expected = read([whole])
    monkeypatch.setattr("estimator.handlers._data_moments._AT_ONCE", 7)
    found = read([whole])
    assert found.mean == pytest.approx(expected.mean) and found.std == pytest.approx(expected.std)
    assert found.finite == 300


def test_classes_are_counted_also_beyond_what_is_shown() -> None:
    found = read([torch.tensor([0, 2, 2, -1]), torch.tensor([CLASSES, 5000])], counts_classes=True)
    assert [(i, n) for i, n in enumerate(found.classes) if n] == [
        (0, 1), (1, 1), (3, 2), (CLASSES + 1, 2)
    ]  # fmt: skip
    assert read([torch.tensor([0.5])], counts_classes=True).classes == []


def test_processes_join_to_the_moments_of_all() -> None:
    parts = [torch.randn(n, 2) * n + 1e5 for n in (3, 30)]
    found = joined([read([part]) for part in parts])
    expected = read([torch.cat(parts)])
    assert found.mean == pytest.approx(expected.mean, rel=1e-13)
    assert found.std == pytest.approx(expected.std, rel=1e-9)
    assert found[3] == 66 and (found.low, found.high) == (expected.low, expected.high)
    nothing = read([torch.full((2, 1), math.nan)])
    both = joined([nothing, read([torch.tensor([[1.0], [3.0]])])])
    assert (both.nan, both.samples, both.mean, both.std) == (2, 4, 2.0, 1.0)
    assert math.isnan(joined([nothing, nothing]).mean)
    counts = [read([torch.tensor([0, 1])], counts_classes=True)] * 2
    assert joined(counts).classes[:4] == [0, 2, 2, 0]
    assert joined([read([torch.ones(1, 5)]), read([torch.ones(1, 7)])]).shape == ("varies",)


def test_a_run_writes_each_split(tmp_path: Path) -> None:
    train, val = batches(5, 7, 2), batches(4)
    fit(train, DataSummaryHandler(tmp_path), val, epochs=3)
    found = rows(tmp_path)
    values = torch.cat([x for x, _ in train]).double().numpy()
    row = found["train", "input"]
    assert row["samples"] == 14 and row["shape"] == "3" and row["type"] == "float32"
    assert row["mean"] == pytest.approx(values.mean()) and row["std"] == pytest.approx(values.std())
    assert found["validation", "input"]["samples"] == 4
    assert found["validation", "target"]["mean"] == 0.5
    text = (tmp_path / "data_summary.txt").read_text("utf-8")
    assert "Classes of target, train\nclass  count  share\n0      8      0.571429\n1      6" in text
    shown = json.loads((tmp_path / "data_summary.section.json").read_text("utf-8"))
    assert shown["order"] == 720 and [t["title"] for t in shown["tables"]][1:] == [
        "Classes of target, train", "Classes of target, validation"
    ]  # fmt: skip


def test_batches_are_seen_as_they_reach_the_net(tmp_path: Path) -> None:
    def shift(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0] * 0 + 5, batch[1]

    fit(batches(4), [AugmentHandler(shift), DataSummaryHandler(tmp_path)])
    assert rows(tmp_path)["train", "input"]["min"] == 5


def test_dict_batches_and_texts(tmp_path: Path) -> None:
    class Words(Texts):
        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            assert isinstance(batch["words"][0], str)
            return super().forward(batch)

    batch = texts(3) | {"words": ["a", "four", "line\nline"], "odd": [1, {"deep": ["b"] * 3}]}
    est = Estimator(Words())
    est.fit([batch, batch], device="cpu", progress=False, handlers=DataSummaryHandler(tmp_path))
    found = rows(tmp_path)
    words = found["train", "input.words"]
    assert (words["type"], words["samples"], words["min"], words["max"]) == ("text", 6, 1, 9)
    assert found["train", "input.odd.1.deep"]["samples"] == 6
    assert found["train", "input.tokens"]["shape"] == "6"
    assert {"target.digit", "target.angle"} <= {name for _, name in found}


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_says_what_one_says_that_never_stopped(tmp_path: Path, step: int) -> None:
    data = torch.randn(12, 3), torch.arange(12) % 2

    @on("batch_end")
    def stop(stats: TrainStats) -> None:
        if stats.step == step:
            stats.stop("here")

    first = [CheckpointHandler(tmp_path / "c", every=every(1)), DataSummaryHandler(tmp_path / "a")]
    fit(data, [*first, stop], data, epochs=2, batch_size=6)
    again = [CheckpointHandler(tmp_path / "c", every=every(1)), DataSummaryHandler(tmp_path / "a")]
    fit(data, again, data, epochs=2, batch_size=6, resume=tmp_path / "c")
    fit(data, DataSummaryHandler(tmp_path / "b"), data, epochs=2, batch_size=6)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a")["train", "input"]["samples"] == 12


def test_a_run_that_stops_in_its_first_epoch_writes_what_it_saw(tmp_path: Path) -> None:
    @on("batch_end")
    def stop(stats: TrainStats) -> None:
        stats.stop("at once")

    fit(batches(5, 7), [DataSummaryHandler(tmp_path), stop])
    assert rows(tmp_path)["train", "input"]["samples"] == 5


def test_a_batch_without_samples_and_constants_are_passed_over(tmp_path: Path) -> None:
    stats, handler = TrainStats(nn.Identity(), torch.device("cpu")), DataSummaryHandler(tmp_path)
    handler.train_begin(stats)
    handler.epoch_begin(stats)
    for size in (0, 2):
        stats.batch_size = size
        stats.inputs = {"x": torch.ones(size, 1), "scale": torch.ones(()), "none": [], "to": 3}
        handler.batch_end(stats)
    handler.epoch_end(stats)
    assert [name for _, name in rows(tmp_path)] == ["input.x"]
    assert rows(tmp_path)["train", "input.x"]["samples"] == 2


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("estimator.handlers.data_summary.write_whole", full)
    stats = fit(batches(4), DataSummaryHandler(tmp_path))
    assert stats.missing == {"the summary of the data": "No space left on device"}
