"""When reports of outputs are written, of which pass, and what does not disturb a training."""

from __future__ import annotations

import errno
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from report_runs import Run, files, section, table
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers import (
    CheckpointHandler,
    ClassificationReportHandler,
    EventHandler,
    Every,
    RegressionReportHandler,
    SegmentationReportHandler,
    _pass_report,
    classification_report,
    every,
)
from estimator.handlers._file_stem import file_stem
from estimator.handlers.base import ArgumentError, ArgumentTypeError, MissingExtraError
from estimator.stats import TrainStats

LOGITS, TARGETS = torch.eye(3).repeat(2, 1), torch.arange(6) % 3
RIGHT = LOGITS, TARGETS
WRONG = LOGITS.flip(1), TARGETS
PASS = "output-val.section.json"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""
    for name in ("draw_matrix", "draw_curves"):
        monkeypatch.setattr(classification_report, name, lambda *_: None)


def accuracy(folder: Path, split: str = "val") -> float:
    value: float = table(folder, "Means", f"output-{split}")[0]["F1"]
    return value


def samples(folder: Path, split: str = "val") -> int:
    count: int = table(folder, "Means", f"output-{split}")[0]["support"]
    return count


def test_the_last_whole_pass_counts(tmp_path: Path) -> None:
    run = Run(ClassificationReportHandler(tmp_path))
    run.train(WRONG, WRONG).train(RIGHT, WRONG, WRONG, WRONG).train(RIGHT, whole=False)
    run.validate(WRONG).validate(RIGHT)
    run.stats.error = RuntimeError("in a validation")
    run.validate(WRONG)
    run.stats.error = None
    assert files(tmp_path) == set()
    run.end()
    assert (accuracy(tmp_path), samples(tmp_path)) == (1.0, 6)
    assert (accuracy(tmp_path, "train"), samples(tmp_path, "train")) == (0.5, 24)
    assert "The run ended" not in section(tmp_path, "output-train")["text"]


def test_a_run_that_breaks_reports_what_there_is(tmp_path: Path) -> None:
    class Break(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 2:
                raise RuntimeError("broken")

    x, y = torch.randn(9, 4), torch.arange(9) % 3
    with pytest.raises(RuntimeError, match="broken") as caught:
        Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss()).fit(
            (x, y), epochs=2, device="cpu", batch_size=3, progress=False,
            handlers=[ClassificationReportHandler(tmp_path), Break()],
        )  # fmt: skip
    assert not getattr(caught.value, "__notes__", [])
    assert samples(tmp_path, "train") in (3, 6)
    assert "The run ended before the pass was whole." in section(tmp_path, "output-train")["text"]


def test_a_second_error_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("second")

    monkeypatch.setattr(classification_report, "text_of", fail)
    run = Run(ClassificationReportHandler(tmp_path)).validate(RIGHT)
    run.stats.error = RuntimeError("first")
    with caplog.at_level(logging.ERROR):
        run.end()
    assert "could not write after the run had failed: ZeroDivisionError('second')" in caplog.text
    run = Run(ClassificationReportHandler(tmp_path)).validate(RIGHT)
    with pytest.raises(ZeroDivisionError):
        run.end()


def test_epochs_say_when_it_is_due_and_nothing_is_written_twice(tmp_path: Path) -> None:
    run = Run(ClassificationReportHandler(tmp_path, every=every(epochs=2)))
    run.validate(WRONG).train(WRONG)
    assert files(tmp_path) == set()
    run.validate(RIGHT).train(RIGHT)
    assert accuracy(tmp_path) == accuracy(tmp_path, "train") == 1.0
    assert section(tmp_path)["epoch"] == 2
    (tmp_path / PASS).unlink()
    run.train(RIGHT, RIGHT).end()
    assert PASS not in files(tmp_path) and samples(tmp_path, "train") == 12


def test_a_full_disk_leaves_the_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Run(ClassificationReportHandler(tmp_path)).train(RIGHT).validate(RIGHT)
    monkeypatch.setattr(classification_report, "write_whole", full)
    with caplog.at_level(logging.ERROR):
        run.end()
    missing = [f"the classification report of output, {split}" for split in ("train", "val")]
    assert run.stats.missing == dict.fromkeys(missing, "No space left on device")
    assert "Training goes on" in caplog.text


def test_evaluate_has_a_report_of_its_own(tmp_path: Path) -> None:
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
    given, placed = (ClassificationReportHandler(folder) for folder in (tmp_path / "a", None))
    for handler in (given, placed):
        est.evaluate((x, y), handlers=handler)
        est.predict(x, handlers=handler)
    assert samples(tmp_path / "a", "evaluate") == 9
    placed.folder = tmp_path / "b"
    est.fit((x, y), epochs=1, device="cpu", handlers=placed, progress=False)
    placed.folder = None
    est.evaluate((x, y), handlers=placed)
    assert samples(tmp_path / "b", "evaluate") == 9
    assert pickle.loads(pickle.dumps(placed)).folder is None


def test_the_run_folder_is_the_place(tmp_path: Path) -> None:
    handler = ClassificationReportHandler()
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    with pytest.raises(ArgumentError, match=r"ClassificationReportHandler\(folder=None\) writes"):
        handler.train_begin(stats)
    handler.train_end(stats)
    stats.run_dir = tmp_path / "run"
    handler.train_begin(stats)
    assert files(tmp_path / "run") == set()


def test_a_resumed_epoch_says_where_it_begins(tmp_path: Path) -> None:
    x, y = torch.randn(12, 4), torch.arange(12) % 3

    def stop(stats: TrainStats) -> None:
        if stats.step == 5:
            stats.stop("planned")

    for resume in (False, True):
        est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
        saver = CheckpointHandler(tmp_path / "saves")
        report = ClassificationReportHandler(tmp_path / "out")
        probe = EventHandler()
        probe.batch_end = stop  # type: ignore[method-assign]  # the shortest way to stop
        est.fit(
            (x, y), epochs=2, device="cpu", batch_size=3, progress=False, resume=resume,
            handlers=[saver, report] if resume else [saver, report, probe],
        )  # fmt: skip
    assert (
        "It begins where the run was resumed" in section(tmp_path / "out", "output-train")["text"]
    )
    assert samples(tmp_path / "out", "train") == 9


def test_a_training_is_the_same_with_reports(tmp_path: Path) -> None:
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    weights = []
    for handlers in ([], [ClassificationReportHandler(tmp_path, every=every(epochs=1))]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        stats = Estimator(net, nn.CrossEntropyLoss()).fit(
            (x, y), (x, y), epochs=3, trainers=Trainer("adam", lr=0.1), device="cpu",
            batch_size=6, handlers=handlers, progress=False,
        )  # fmt: skip
        weights.append([*net.state_dict().values(), torch.rand(3), torch.tensor(stats["val_loss"])])
    assert all(map(torch.equal, *weights))


def test_what_is_kept_does_not_grow_with_epochs(tmp_path: Path) -> None:
    run = Run(ClassificationReportHandler(tmp_path))
    sizes = []
    for _ in range(4):
        run.train(*[RIGHT] * 5).validate(RIGHT)
        sizes.append(len(pickle.dumps(run.handler)))
    assert len(set(sizes[1:])) == 1


def test_a_batch_may_be_written_over(tmp_path: Path) -> None:
    logits, targets = LOGITS.clone(), TARGETS.clone()
    run = Run(ClassificationReportHandler(tmp_path))
    run.handler.epoch_begin(run.stats)
    run.batch(logits, targets)
    logits.zero_()
    targets.zero_()
    run.stats.epoch += 1
    run.handler.epoch_end(run.stats)
    run.end()
    assert accuracy(tmp_path, "train") == 1.0


def test_targets_that_are_missing_or_of_other_lengths_are_passed_over(tmp_path: Path) -> None:
    run = Run(ClassificationReportHandler(tmp_path))
    run.validate((LOGITS, None), (LOGITS, TARGETS[:3]), (torch.tensor(1.0), TARGETS)).end()
    assert files(tmp_path) == set()


HANDLERS = [ClassificationReportHandler, RegressionReportHandler, SegmentationReportHandler]


@pytest.mark.parametrize("kind", HANDLERS)
def test_what_is_not_installed_is_told_at_once(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str, purpose: str) -> None:
        raise MissingExtraError(f"{purpose} needs {module}: {extra}")

    monkeypatch.setattr(_pass_report, "require", missing)
    with pytest.raises(MissingExtraError, match=f"{kind.__name__} needs matplotlib.*report"):
        kind()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"every": Every(steps=5)}, ArgumentError, r"count epochs.*received every\(steps=5\)"),
        ({"every": 5}, ArgumentTypeError, r"every=\.\.\.\) must be an Every; received 5"),
        ({"classes": "ab"}, ArgumentTypeError, r"classes=\.\.\..*received 'ab'"),
        ({"classes": []}, ArgumentError, r"at least one name"),
        ({"band": 3}, ArgumentTypeError, r"must be a Band"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ClassificationReportHandler("unused", **arguments)


def test_names_become_file_names() -> None:
    hostile = ["a/b", "a:b", "", "..", ".hidden", "é", "x" * 300, "x" * 301, "\ud800", "a b"]
    stems = [file_stem(name) for name in hostile]
    assert len(set(stems)) == len(hostile) and max(map(len, stems)) < 80
    assert all(stem.isascii() and "/" not in stem and stem[0] != "." for stem in stems)
    assert [file_stem(name) for name in ("val_loss", "a.b-c")] == ["val_loss", "a.b-c"]
