"""Worst samples on the page of a run: sections, pictures of all kinds, and disks that are full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_runs import Run, facts, table
from sample_sections import full_disk, names, pixels, section
from torch import nn

from estimator.handlers import _sample_kinds
from estimator.handlers.base import ArgumentError, ArgumentTypeError, every
from estimator.handlers.worst_samples import WorstSamplesHandler
from estimator.stats import TrainStats


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def answered(count: int) -> dict[str, Any]:
    return {
        "inputs": images(count),
        "targets": torch.arange(count) % 2,
        "outputs": torch.eye(2)[[0] * count],
    }


def test_the_section_tells_the_worst_with_map_gallery_and_cards(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=2, classes=["<i>no</i>", "$y$"]))
    run.epoch(([3, 5, 7], [1.0, float("nan"), 2.5], answered(3)), val=(([9], [0.5]),)).end()
    found = section(tmp_path / "worst_samples_train.section.json")
    assert (found["title"], found["order"], found["epoch"]) == ("Worst samples: train", 420, 1)
    assert found["tables"] == [{
        "title": "The worst",
        "columns": ["rank", "uid", "mean loss", "epochs seen", "target", "prediction"],
        "rows": [
            [1, "5", "Infinity", 1, "$y$", "<i>no</i>"],
            [2, "7", 2.5, 1, "<i>no</i>", "<i>no</i>"],
        ],
    }]  # fmt: skip
    files = [picture["file"] for picture in found["pictures"]]
    assert files == ["worst_samples_train_e1.png", "gallery_train.png"]
    first, second = found["samples"]
    assert first["facts"]["mean_loss"] == "Infinity" and second["facts"]["mean_loss"] == 2.5
    assert second["facts"]["target"] == "<i>no</i>"
    assert second["file"] == "samples_train/002_uid_7.txt"
    assert [p["file"] for p in second["pictures"]] == ["samples_train/002_uid_7.png"]
    assert found["text"].startswith("The 2 of 3 samples with the highest mean loss")
    other = section(tmp_path / "worst_samples_validation.section.json")
    assert [row[1] for row in other["tables"][0]["rows"]] == ["9"]
    assert [p["file"] for p in other["pictures"]] == ["worst_samples_validation_e1.png"]


def test_the_place_in_the_run_folder(tmp_path: Path) -> None:
    handler = WorstSamplesHandler()
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    with pytest.raises(ArgumentError, match=r'WorstSamplesHandler\(folder="\.\.\."\)'):
        handler.train_begin(stats)
    stats.run_dir = tmp_path
    handler.train_begin(stats)
    assert names(tmp_path) == ["worst_samples_by_epoch"]
    with pytest.raises(ArgumentTypeError, match=r"decode=...\) must be a function"):
        WorstSamplesHandler(decode="utf-8")  # type: ignore[arg-type]  # wrong on purpose


def test_pixels_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    fields = answered(1)
    fields["inputs"][0, 0, 0, 0] = float("inf")
    Run(WorstSamplesHandler(tmp_path)).epoch(([1], [1.0], fields)).end()
    assert pixels(tmp_path / "samples_train" / "001_uid_1.png")[0, 0].tolist() == [255, 0, 255]
    assert facts(tmp_path / "samples_train", 1)["input"].endswith("(1 of 64 values are not finite)")


def test_texts_and_series_are_shown(tmp_path: Path) -> None:
    handler = WorstSamplesHandler(tmp_path, decode=lambda row: f"word {row.tolist()}")
    inputs = {"words": torch.tensor([[4, 2]]), "series": torch.rand(1, 300, 2)}
    Run(handler).epoch(([1], [1.0], {"inputs": inputs})).end()
    assert facts(tmp_path / "samples_train", 1)["input.words"] == "word [4, 2]"
    assert pixels(tmp_path / "samples_train" / "001_uid_1.png").shape == (280, 420, 3)
    card = section(tmp_path / "worst_samples_train.section.json")["samples"][0]
    assert card["facts"]["input.words"] == "word [4, 2]"


def test_large_samples_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 1024)
    run = Run(WorstSamplesHandler(tmp_path, worst=2))
    big = torch.zeros(4, 1, 64, 64)
    big[:, 0, ::4, ::4] = torch.tensor([0.25, 0.5, 0.75, 1.0]).view(4, 1, 1)
    run.epoch(([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], {"inputs": big})).end()
    lines = facts(tmp_path / "samples_train", 1)
    assert lines["input"] == "shape 1x64x64 min 0 max 1 (shown as 1x16x16)"
    assert (pixels(tmp_path / "samples_train" / "001_uid_4.png") == 255).all()
    kept = run.handler.state_dict()["passes"]["train"]["copies"]
    assert sum(row.nbytes for _, rows in kept.values() for row in rows.values()) < 4 * 1200


def test_a_full_disk_stops_nothing_and_the_next_write_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(WorstSamplesHandler(tmp_path, every=every(epochs=1)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        patch.setattr(np, "savez", full_disk)
        run.epoch(([1, 2], [1.0, 2.0], answered(2)))
    assert run.stats.missing == {
        "the losses of single samples of train": "No space left on device",
        "the worst samples of train": "No space left on device",
    }
    assert names(tmp_path, ".part") == names(tmp_path, ".npz") == []
    run.epoch(([1, 2], [3.0, 2.0], answered(2))).end()
    assert run.stats.missing == {}
    np.testing.assert_array_equal(table(tmp_path)["loss"], [[1.0, 3.0], [2.0, 2.0]])
    rows = section(tmp_path / "worst_samples_train.section.json")["tables"][0]["rows"]
    assert [row[1:4] for row in rows] == [["1", 2.0, 2], ["2", 2.0, 2]]


def test_uids_that_are_names_of_paths_stay_in_the_folder(tmp_path: Path) -> None:
    uids = ["../../x", "a\0b", "<script>alert('1')</script>", "n" * 300, "half \ud800"]
    run = Run(WorstSamplesHandler(tmp_path / "f"))
    run.epoch((uids, torch.arange(5.0), answered(5))).end()
    assert names(tmp_path) == ["f"]
    assert len(names(tmp_path / "f" / "samples_train", ".txt")) == 5
    rows = section(tmp_path / "f" / "worst_samples_train.section.json")["tables"][0]["rows"]
    assert [row[1] for row in rows] == ["half \ufffd", uids[3], uids[2], "a\ufffdb", uids[0]]
