"""The shared state: its fields, stops, values and clock; and one-line notices."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator, TrainStats, notices
from estimator.handlers import EventHandler
from estimator.handlers.base import ArgumentError, EstimatorError

X = torch.randn(12, 2)
Y = X[:, :1].clone()


def new_stats() -> TrainStats:
    return TrainStats(nn.Linear(2, 1), torch.device("cpu"))


def fit(handler: EventHandler, **arguments: Any) -> TrainStats:
    est = Estimator(nn.Linear(2, 1), nn.MSELoss())
    arguments = {"epochs": 3, **arguments}
    return est.fit(
        (X, Y), (X, Y), trainers="sgd", device="cpu", batch_size=4, handlers=handler,
        progress=False, **arguments,
    )  # fmt: skip


def test_a_fresh_state() -> None:
    stats = new_stats()
    assert (stats.epoch, stats.step, stats.samples, stats.phase) == (0, 0, 0, "train")
    assert stats.epochs is stats.iterations is stats.batches is stats.batch_index is None
    none = ("batch", "inputs", "targets", "outputs", "uids", "loss", "sample_losses", "batch_size")
    assert all(getattr(stats, name) is None for name in (*none, "stopped", "error", "run_dir"))
    assert all(getattr(stats, n) == {} for n in ("losses", "train", "val", "best", "scratch"))
    assert stats["epoch"] == [] and not stats.stops_in_batch


def test_foreign_attributes_are_refused() -> None:
    stats = new_stats()
    with pytest.raises(AttributeError):
        stats.bset = 1  # type: ignore[attr-defined]  # the misspelling is the test
    assert not hasattr(stats, "__dict__")
    handler = EventHandler()
    stats.scratch[handler] = "passed on"
    assert stats.scratch[handler] == "passed on"


def test_counts_advance_before_the_end_events() -> None:
    class Counts(EventHandler):
        def train_begin(self, stats: TrainStats) -> None:
            self.seen: list[tuple[Any, ...]] = []

        def note(self, name: str, stats: TrainStats) -> None:
            self.seen.append((name, stats.epoch, stats.step, stats.samples, stats.batch_index))

        def batch_begin(self, stats: TrainStats) -> None:
            self.note("begin", stats)
            assert stats.inputs.shape == (4, 2) and stats.targets.shape == (4, 1)
            assert stats.outputs is None and stats.loss is None

        def batch_end(self, stats: TrainStats) -> None:
            self.note("end", stats)
            assert stats.loss is not None and stats.loss.ndim == 0
            assert not stats.loss.requires_grad and not stats.outputs.requires_grad
            assert stats.batch_size == 4 and stats.stepped and stats.phase == "train"

        def validation_batch_end(self, stats: TrainStats) -> None:
            assert stats.phase == "validation" and stats.batch_size == 4

        def epoch_end(self, stats: TrainStats) -> None:
            self.note("epoch", stats)
            assert stats.batch is stats.inputs is stats.outputs is None

    handler = Counts()
    stats = fit(handler, epochs=1)
    assert handler.seen == [
        ("begin", 0, 0, 0, 0), ("end", 0, 1, 4, 0), ("begin", 0, 1, 4, 1), ("end", 0, 2, 8, 1),
        ("begin", 0, 2, 8, 2), ("end", 0, 3, 12, 2), ("epoch", 1, 3, 12, handler.seen[-1][4]),
    ]  # fmt: skip
    assert (stats.batches, stats.epochs, stats.iterations) == (3, 1, None)
    assert stats.fetch_seconds > 0 and stats.update_seconds > 0
    assert stats.monitors == {"train_loss": False, "val_loss": False}


def test_the_first_reason_to_stop_is_kept() -> None:
    stats = new_stats()
    stats.stop("later", when="epoch")
    assert stats.stopped == "later" and not stats.stops_in_batch
    stats.stop("now")
    assert stats.stopped == "later" and stats.stops_in_batch
    stats.stop("again", when="epoch")
    assert stats.stops_in_batch


@pytest.mark.parametrize("reason", ["", None, 3])
def test_a_stop_says_why(reason: Any) -> None:
    with pytest.raises(ArgumentError, match=r"stop\(reason=...\) must say who stops and why"):
        new_stats().stop(reason)


def test_a_stop_says_when() -> None:
    with pytest.raises(ArgumentError, match="'batch' or 'epoch'; received 'step'"):
        new_stats().stop("enough", when="step")  # type: ignore[arg-type]  # wrong on purpose


class StopAt(EventHandler):
    def __init__(self, step: int, when: Any) -> None:
        super().__init__()
        self.step, self.when = step, when

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            stats.stop(f"at step {self.step}", when=self.when)


@pytest.mark.parametrize(
    ("step", "when", "steps", "epochs", "complete"),
    [
        (4, "batch", 4, 1, [True, False]),
        (4, "epoch", 6, 2, [True, True]),
        (3, "batch", 3, 1, [True]),
    ],
)
def test_where_a_stop_ends(step: int, when: Any, steps: int, epochs: int, complete: Any) -> None:
    stats = fit(StopAt(step, when))
    assert (stats.step, stats.epoch, stats.stopped) == (steps, epochs, f"at step {step}")
    assert stats["complete"] == complete
    assert [value is not None for value in stats["val_loss"]] == complete


def test_values_by_name() -> None:
    stats = new_stats()
    stats.train, stats.val = {"loss": 1.0}, {"top_5": 0.5}
    assert stats.value("train_loss") == 1.0 and stats.value("val_top_5") == 0.5
    for name in ("val_loss", "loss", "test_loss"):
        with pytest.raises(ArgumentError, match=f"'{name}' has no value at this moment"):
            stats.value(name)


def test_best_values_have_their_moment() -> None:
    stats = new_stats()
    stats.epoch, stats.step = 3, 40
    stats.set_best("val_loss", 0.25)
    assert stats.best["val_loss"]._asdict() == {"value": 0.25, "epoch": 3, "step": 40}


def test_the_clock_goes_on_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    stats = new_stats()
    now = 52.0
    assert stats.elapsed == 2.0
    stats.restart_clock(100.0)
    now = 53.5
    assert stats.elapsed == 101.5


def test_its_text() -> None:
    stats = new_stats()
    assert repr(stats) == "TrainStats(epoch 0, step 0)"
    stats.train, stats.val = {"loss": 0.123456}, {"accuracy": 0.5}
    stats.stop("enough")
    assert repr(stats) == (
        "TrainStats(epoch 0, step 0, train_loss 0.1235, val_accuracy 0.5, stopped: enough)"
    )


def test_a_snapshot_needs_a_run() -> None:
    stats = new_stats()
    stats.capture_with(lambda: {"epoch": stats.epoch})
    assert stats.snapshot() == {"epoch": 0}
    stats.capture_with(None)
    with pytest.raises(EstimatorError, match="a run that is going on"):
        stats.snapshot()


def test_a_fit_leaves_every_module_in_its_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    net.eval()
    net[0].train()
    Estimator(net, nn.MSELoss()).fit((X, Y), (X, Y), 1, "sgd", "cpu", progress=False)
    assert [module.training for module in net.modules()] == [False, True, False, False]


def test_notices_go_to_the_log_or_to_stderr(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "estimator")
    notices.notice("logged")
    assert caplog.messages == ["logged"] and capsys.readouterr().err == ""
    monkeypatch.setattr(notices.logger, "hasHandlers", lambda: False)
    notices.notice("printed")
    notices.notice("hidden", show=False)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "printed\n")
    assert caplog.messages == ["logged"] and sys.stderr is not None
