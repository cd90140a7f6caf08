"""`EarlyStoppingHandler`: when it stops, what it puts back, how a resumed run decides."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import (
    ArgumentError,
    Band,
    DataError,
    EventHandler,
    MonitorError,
    every,
)
from estimator.handlers.early_stopping import EarlyStoppingHandler
from estimator.handlers.ema import EMAHandler
from estimator.stats import TrainStats

NAN, INF = float("nan"), float("inf")
State = dict[str, torch.Tensor]


class Script(EventHandler):
    """Gives each validation the loss that the test wants, before other handlers look at it."""

    band = Band.PREPARE

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.values = list(values)

    def validation_end(self, stats: TrainStats) -> None:
        if stats.phase == "validation":
            stats.val["loss"] = self.values.pop(0)


class Validated(EventHandler):
    """Keeps what each validation found in the net."""

    band = Band.REPORT

    def __init__(self) -> None:
        super().__init__()
        self.states: list[State] = []

    def validation_begin(self, stats: TrainStats) -> None:
        self.states.append({k: v.clone() for k, v in stats.net.state_dict().items()})


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(3, 2), torch.randn(3, 1)) for _ in range(2)]


def fit(losses: Sequence[float], *handlers: EventHandler, **arguments: Any) -> TrainStats:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    settings: dict[str, Any] = {"epochs": len(losses), "val": data()} | arguments
    return Estimator(net, nn.MSELoss()).fit(
        data(),
        trainers=Trainer("sgd", lr=0.1),
        device="cpu",
        handlers=[Script(losses), *handlers],
        progress=False,
        **settings,
    )


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    ("losses", "arguments", "epochs", "best"),
    [
        ([1, 2, 0, 0], {}, 2, 1.0),
        ([1, 1, 0, 0], {}, 2, 1.0),
        ([1, 2, 3, 0], {"patience": 2}, 3, 1.0),
        ([1, 2, 0.5, 2, 3, 0], {"patience": 2}, 5, 0.5),
        ([3, 2, 1, 0], {}, 4, 0.0),
        ([1, 0, 0.5, 0], {"patience": 2}, 4, 0.0),
        ([1, 2, 3, 3], {"mode": "max"}, 4, 3.0),
        ([1, 0.95, 0.91, 0], {"min_delta": 0.1, "patience": 2}, 3, 1.0),
        ([1, 0.89, 0.5], {"min_delta": 0.1}, 3, 0.5),
        ([10, 9.5, 9.1, 0], {"min_delta": 0.1, "relative": True, "patience": 2}, 3, 10.0),
        ([-10, -10.9, -10.5], {"min_delta": 0.1, "relative": True}, 2, -10.0),
        ([-10, -11.1, -12.3], {"min_delta": 0.1, "relative": True}, 3, -12.3),
        ([-10, -11.3, 0], {"min_delta": 0.1, "relative": True, "mode": "max"}, 2, -10.0),
        ([-10, -9.5, 0], {"min_delta": 0.1, "relative": True, "mode": "max"}, 2, -10.0),
        ([-10, -8.9, -7], {"min_delta": 0.1, "relative": True, "mode": "max"}, 3, -7.0),
        ([0.6, 0.4, 0.45], {"baseline": 0.5, "patience": 2}, 3, 0.4),
        ([0.5, 0], {"baseline": 0.5}, 1, None),
        ([0.0, -1], {"baseline": 0.0}, 1, None),
        ([0.6, 0.7, 0], {"baseline": 0.5, "patience": 2}, 2, None),
        ([NAN, 3, 2, 1], {"patience": 2}, 4, 1.0),
        ([NAN, 1], {}, 1, None),
        ([INF, 1], {}, 1, None),
        ([1, NAN, 2, 0], {"patience": 2}, 3, 1.0),
        ([INF, 3, 2], {"patience": 2, "relative": True, "min_delta": 0.1}, 3, 2.0),
        ([1, NAN, 2, 0], {"patience": 2, "nan": "ignore"}, 4, 0.0),
        ([NAN, NAN, 2], {"nan": "ignore"}, 3, 2.0),
        ([1, NAN, 0], {"patience": 9, "nan": "stop"}, 2, 1.0),
    ],
)
def test_when_it_stops(
    losses: list[float], arguments: dict[str, Any], epochs: int, best: float | None
) -> None:
    stopper = EarlyStoppingHandler(**arguments)
    stats = fit(losses, stopper)
    assert (stats.epoch, stopper.best) == (epochs, best)
    assert bool(stats.stopped) == (epochs < len(losses) or stopper.bad >= stopper.patience)
    assert stats["complete"] == [True] * epochs, "the epoch in which it stops is finished"


@pytest.mark.parametrize(
    ("losses", "arguments", "reason"),
    [
        ([0.25, 1, 1, 0], {"patience": 2}, "did not improve on 0.25 (epoch 1, step 2); patience=2"),
        ([1, 0], {"baseline": 0.5}, "did not reach the baseline 0.5; patience=1 is used up"),
        ([NAN, 0], {}, "did not reach a finite value; patience=1 is used up"),
        ([1, INF, 0], {"nan": "stop"}, "is inf at epoch 2, step 4 (nan='stop')"),
    ],
)
def test_the_reason_is_recorded_and_logged_at_the_end(
    losses: list[float], arguments: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "estimator"):
        stats = fit(losses, EarlyStoppingHandler(**arguments))
    assert stats.stopped is not None
    assert stats.stopped.startswith(f"EarlyStoppingHandler: val_loss {reason}")
    assert stats.stopped in caplog.messages


def test_a_value_that_is_not_finite_can_be_an_error() -> None:
    with pytest.raises(DataError, match=r"val_loss.*nan='raise'\): val_loss is nan at epoch 2"):
        fit([1, NAN, 0], EarlyStoppingHandler(nan="raise"))


def test_a_run_that_ends_by_itself_is_not_said_to_be_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopper = EarlyStoppingHandler(patience=2)
    drive(stopper, [2.0, 3.0])
    with caplog.at_level(logging.INFO, "estimator"):
        stopper.train_end(drive(stopper, [1.0], epoch=2))
        assert not fit([2, 1], EarlyStoppingHandler()).stopped
    assert "EarlyStopping" not in caplog.text


def test_validations_inside_an_epoch_count_one_by_one() -> None:
    stats = fit([1, 2, 3, 0, 0, 0], EarlyStoppingHandler(patience=2), validate=every(1), epochs=3)
    assert (stats.epoch, stats.step) == (1, 3)


def test_a_value_of_training_counts_finished_epochs() -> None:
    class Rise(EventHandler):
        band = Band.PREPARE

        def epoch_end(self, stats: TrainStats) -> None:
            stats.train["loss"] = float(stats.step)

    class StopInside(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 3:
                stats.stop("inside")

    stopper = EarlyStoppingHandler("train_loss", patience=2, restore_best=True)
    stats = fit([], Rise(), stopper, epochs=9, val=None)
    assert (stats.epoch, stopper.best, stopper.best_step) == (3, 2.0, 2)
    stopper = EarlyStoppingHandler("train_loss", patience=9)
    fit([], Rise(), StopInside(), stopper, epochs=9, val=None)
    assert (stopper.best, stopper.bad) == (2.0, 0), "the epoch that was cut short is no value"


@pytest.mark.parametrize("losses", [[3, 1, 2, 2.5], [3, 1, 2, 2.5, 4, 0]])
def test_the_best_weights_and_buffers_are_put_back(
    losses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    seen = Validated()
    stopper = EarlyStoppingHandler(patience=3, restore_best=True)
    with caplog.at_level(logging.INFO, "estimator"):
        stats = fit(losses, stopper, seen)
    assert same(stats.net.state_dict(), seen.states[1])
    assert not same(stats.net.state_dict(), seen.states[-1])
    line = "EarlyStoppingHandler put back the weights of epoch 2, step 4 (val_loss 1)."
    assert line in caplog.messages


def test_the_weights_put_back_are_those_that_were_measured() -> None:
    seen = Validated()
    average = EMAHandler(0.5, use_at_end=True)
    stats = fit([1, 2, 3], EarlyStoppingHandler(patience=2, restore_best=True), average, seen)
    assert same(stats.net.state_dict(), seen.states[0])


def test_without_a_best_value_the_last_weights_stay(caplog: pytest.LogCaptureFixture) -> None:
    seen = Validated()
    stats = fit([NAN, NAN], EarlyStoppingHandler(patience=9, restore_best=True), seen)
    assert same(stats.net.state_dict(), seen.states[-1])
    assert "no value of val_loss was good enough" in caplog.text


def test_after_an_error_nothing_is_put_back() -> None:
    class Fail(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 5:
                self.net, self.last = stats.net, stats.net.state_dict()["0.weight"].clone()
                raise RuntimeError("failed on purpose")

    fail, stopper = Fail(), EarlyStoppingHandler(patience=5, restore_best=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit([1, 2, 3], stopper, fail)
    assert torch.equal(fail.net.state_dict()["0.weight"], fail.last)

    class FailInValidation(EventHandler):
        def validation_batch_end(self, stats: TrainStats) -> None:
            raise RuntimeError("failed on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit([1], stopper, FailInValidation())
    assert (stopper.best, stopper._measured) == (None, None)


def drive(handler: EarlyStoppingHandler, losses: Sequence[float], epoch: int = 0) -> TrainStats:
    """The validations of a run, the first after `epoch + 1` epochs."""
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    stats.monitors = {"val_loss": False}
    stats.epoch = stats.step = stats.samples = epoch
    handler.train_begin(stats)
    for loss in losses:
        handler.epoch_begin(stats)
        stats.epoch, stats.step, stats.phase = stats.epoch + 1, stats.step + 1, "validation"
        handler.validation_begin(stats)
        stats.val = {} if loss is None else {"loss": loss}
        handler.validation_end(stats)
        handler.epoch_end(stats)
    return stats


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_run_decides_like_one_that_was_not_stopped(cut: int) -> None:
    losses = [1.0, 2.0, 3.0, 4.0]
    straight = EarlyStoppingHandler(patience=3)
    reason = drive(straight, losses).stopped
    first, second = EarlyStoppingHandler(patience=3), EarlyStoppingHandler(patience=3)
    drive(first, losses[:cut])
    second.load_state_dict(first.state_dict())
    assert reason is not None
    assert drive(second, losses[cut:], epoch=cut).stopped == reason
    assert second.state_dict() == straight.state_dict()


def test_arguments_come_from_the_user_and_not_from_the_state() -> None:
    first = EarlyStoppingHandler(patience=2, restore_best=True)
    drive(first, [1.0, 2.0])
    patient = EarlyStoppingHandler(patience=4)
    patient.load_state_dict(first.state_dict())
    assert drive(patient, [2.0, 2.0], epoch=2).stopped is None
    assert patient.weights is None, "restore_best is off"
    assert drive(patient, [2.0], epoch=4).stopped is not None


def test_best_weights_go_on_in_a_resumed_run() -> None:
    first, second = (EarlyStoppingHandler(patience=9, restore_best=True) for _ in range(2))
    best = drive(first, [1.0, 2.0]).net.state_dict()
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    stats = drive(second, [3.0], epoch=2)
    second.train_end(stats)
    assert same(stats.net.state_dict(), best)


def test_the_same_handler_serves_a_second_fit() -> None:
    stopper = EarlyStoppingHandler(restore_best=True)
    assert fit([1, 2, 0], stopper).epoch == 2
    stats = fit([9, 8, 7], stopper)
    assert (stats.epoch, stopper.best, stats.stopped) == (3, 7.0, None)


def test_a_validation_without_batches_does_not_count() -> None:
    stopper = EarlyStoppingHandler(patience=1)
    nothing: Any = None
    assert drive(stopper, [1.0, nothing, nothing]).stopped is None
    assert (stopper.best, stopper.bad) == (1.0, 0)


def test_only_validations_of_the_training_count() -> None:
    stopper = EarlyStoppingHandler(restore_best=True)
    stats = fit([1, 2], stopper)
    Estimator(stats.net, nn.MSELoss()).evaluate(data(), handlers=stopper)
    assert (stopper.best, stopper.bad, stopper._measured) == (1.0, 1, None)


def test_a_name_that_cannot_appear_is_said_before_training() -> None:
    with pytest.raises(MonitorError, match=r"EarlyStoppingHandler\(monitor='val_los'\)"):
        fit([1.0], EarlyStoppingHandler("val_los"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"patience": 0}, r"patience=...\) must be a number from 1 up.*received 0"),
        ({"patience": True}, "received True"),
        ({"patience": 1.5}, "received 1.5"),
        ({"baseline": NAN}, "baseline=.*received nan"),
        ({"nan": "skip"}, "nan=.*'raise'; received 'skip'"),
        ({"mode": "auto"}, "mode must be.*'auto'"),
        ({"min_delta": -1.0}, "min_delta must be.*-1.0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        EarlyStoppingHandler(**arguments)


def test_the_handler_can_be_pickled_and_shown() -> None:
    stopper = EarlyStoppingHandler(patience=3, relative=True, restore_best=True)
    assert repr(stopper) == "EarlyStoppingHandler(patience=3, relative=True, restore_best=True)"
    stopper.train_end(TrainStats(nn.Linear(1, 1), torch.device("cpu")))
    fit([1, 2], stopper)
    again = pickle.loads(pickle.dumps(stopper))
    assert not any(isinstance(v, nn.Module) for v in vars(again).values())
    assert again.best == 1.0
