"""`report.full()`: a whole run with all reports, of nets and data of several kinds."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from page_reader import read_page
from torch import nn

from estimator import ArgumentTypeError, Estimator, MissingExtraError, Trainer, TrainStats, report
from estimator.explain import ExplanationHandler
from estimator.handlers import ErrorsHandler, EventHandler, ModelExportHandler

EVIL = '<script>alert("1")</script>/\\ $x'


def fit(
    folder: Path, net: nn.Module, loss: Any, train: Any, val: Any, **options: Any
) -> TrainStats:
    options = {"handlers": report.full(without=[ModelExportHandler]), **options}
    return Estimator(net, loss).fit(
        train, val, 2, Trainer("adam", lr=0.01), "cpu", run=folder / "run", progress=False,
        batch_size=8, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainStats:
    """A classification of images with hostile names, with all reports."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 3),
    )  # fmt: skip
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 3
    return fit(
        tmp_path_factory.mktemp("full"), net, nn.CrossEntropyLoss(), (x, y), (x, y),
        handlers=report.full([EVIL, "b", "c"]),
    )  # fmt: skip


def test_each_handler_leaves_its_section(run: TrainStats) -> None:
    assert run.run_dir is not None and run.missing == {}
    page = read_page(run.run_dir / "report.html")
    assert set(page) >= {
        "Outcome", "Curves", "Classification: output, train", "Classification: output, val",
        "Errors: output, validation", "Worst samples: train", "Worst samples: validation",
        "Random samples", "Augmentations", "Explanations", "Learning rate", "Layers", "Embedding",
        "Net", "Data", "Exported net", "Arguments", "Environment", "Log",
    }  # fmt: skip
    assert "Nothing is missing." in page["Missing reports"].text
    assert "completed" in page[""].text


def test_the_founding_layout_is_there(run: TrainStats) -> None:
    assert run.run_dir is not None
    names = {path.name for path in run.run_dir.iterdir()}
    assert names >= {
        "augmentations", "best_history.txt", "checkpoints", "embedding", "errors", "explanations",
        "history", "last.model", "last.model.result", "layers", "lr_recorder", "model.onnx",
        "output-train-cm.png", "output-train-report.txt", "output-val-ROC.png", "random_samples",
        "report.html", "run.json", "tensorboard", "trainer.txt", "worst_samples_by_epoch",
    }  # fmt: skip


def test_names_are_escaped_everywhere(run: TrainStats) -> None:
    assert run.run_dir is not None
    page = (run.run_dir / "report.html").read_text("utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert all("<" not in path.name for path in run.run_dir.rglob("*"))


def test_training_is_not_changed(run: TrainStats) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 3),
    )  # fmt: skip
    x, y = torch.rand(32, 1, 8, 8), torch.arange(32) % 3
    Estimator(net, nn.CrossEntropyLoss()).fit(
        (x, y), (x, y), 2, Trainer("adam", lr=0.01), "cpu", progress=False, batch_size=8
    )
    for name, value in net.state_dict().items():
        assert torch.equal(value, run.net.state_dict()[name]), name


def test_a_regression_gets_what_fits_it(tmp_path: Path) -> None:
    x = torch.randn(24, 3)
    stats = fit(tmp_path, nn.Linear(3, 1), nn.MSELoss(), (x, x[:, :1]), (x, x[:, :1]))
    assert stats.run_dir is not None and stats.missing == {}
    page = read_page(stats.run_dir / "report.html")
    assert "Regression: output, val" in page
    assert not any(title.startswith("Classification") for title in page)


def test_without_validation_the_rest_is_there(tmp_path: Path) -> None:
    x, y = torch.randn(24, 3), torch.arange(24) % 2
    with pytest.warns(UserWarning, match="none"):
        stats = fit(tmp_path, nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, y), None)
    assert stats.run_dir is not None and stats.missing == {}
    page = read_page(stats.run_dir / "report.html")
    assert {"Classification: output, train", "Worst samples: train", "Data"} <= set(page)


def test_values_that_are_not_finite_and_one_class_only(tmp_path: Path) -> None:
    x, y = torch.randn(24, 3), torch.zeros(24, dtype=torch.long)
    x[5] = float("nan")
    stats = fit(tmp_path, nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, y), (x, y))
    assert stats.run_dir is not None and stats.missing == {}
    history = json.loads((stats.run_dir / "history.json").read_text("utf-8"))
    assert history["val_loss"] == [None, None]
    assert "Data" in read_page(stats.run_dir / "report.html")


class Full(EventHandler):
    """Fills the disk for all that Python writes into a folder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.patch = patch

    def epoch_end(self, stats: TrainStats) -> None:
        def full(*_: Any, **__: Any) -> Any:
            raise OSError(28, "No space left on device")

        for target in ("estimator.handlers.base", "estimator.run_record"):
            self.patch.setattr(importlib.import_module(target), "write_whole", full)
        self.patch.setattr("estimator.handlers._pass_report.own_folder", full)
        self.patch.setattr("estimator.handlers.classification_report.write_whole", full)
        self.patch.setattr("estimator.handlers.data_summary.write_whole", full)


def test_a_full_disk_ends_no_training_and_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = torch.randn(24, 3), torch.arange(24) % 2
    handlers = [Full(monkeypatch), *report.full(without=[ModelExportHandler, ExplanationHandler])]
    net = nn.Linear(3, 2)
    stats = fit(tmp_path, net, nn.CrossEntropyLoss(), (x, y), (x, y), handlers=handlers)
    assert stats.epoch == 2 and stats.stopped is None and stats.run_dir is not None
    reason = "No space left on device"
    assert stats.missing["the classification report of output, val"] == reason
    page = read_page(stats.run_dir / "report.html")
    assert reason in page["Missing reports"].text


def test_classes_are_left_out_by_name() -> None:
    kinds = [type(handler) for handler in report.full(without=[ErrorsHandler])]
    assert ErrorsHandler not in kinds and ExplanationHandler in kinds
    with pytest.raises(ArgumentTypeError, match=r"full\(without=...\) must name classes"):
        report.full(without=["ErrorsHandler"])  # type: ignore[list-item]  # what it is for


@pytest.mark.parametrize("missing", ["captum", "matplotlib", "jinja2", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_told_at_construction(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"torch-estimator\[(report|explain|onnx)\]"):
        report.full()
