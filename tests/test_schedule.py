"""Every, once and after for steps, epochs, seconds and calls."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from estimator import Estimator, TrainStats
from estimator.handlers import EventHandler, Every, after, every, on, once
from estimator.handlers.base import ArgumentError, ArgumentTypeError, check_every


def new_stats(step: int = 0, epoch: int = 0) -> TrainStats:
    stats = TrainStats(torch.nn.Linear(1, 1), torch.device("cpu"))
    stats.step, stats.epoch = step, epoch
    return stats


def due_counts(schedule: Every, unit: str, start: int = 0, last: int = 10) -> list[int]:
    stats = new_stats(**{unit: start})
    clock = schedule.clock(stats)
    due = []
    for count in range(start + 1, last + 1):
        setattr(stats, unit, count)
        if clock.due(stats):
            due.append(count)
    return due


@pytest.mark.parametrize("unit", ["step", "epoch"])
@pytest.mark.parametrize(
    ("make", "start", "due"),
    [
        (every, 0, [3, 6, 9]),
        (every, 4, [6, 9]),
        (every, 6, [9]),
        (once, 0, [3]),
        (once, 2, [3]),
        (once, 3, []),
        (after, 0, [4, 5, 6, 7, 8, 9, 10]),
        (after, 7, [8, 9, 10]),
    ],
)
def test_counts_go_on_where_the_run_stands(unit: str, make: Any, start: int, due: Any) -> None:
    assert due_counts(make(**{f"{unit}s": 3}), unit, start) == due


def test_a_count_that_stays_is_due_once() -> None:
    stats = new_stats()
    clock = every(2).clock(stats)
    due = []
    for stats.step in (1, 2, 2, 3, 4, 4):
        due.append(clock.due(stats))
    assert due == [False, True, False, False, True, False]


def test_a_count_that_leaps_is_due_once_and_keeps_its_beat() -> None:
    stats = new_stats()
    clock = every(10).clock(stats)
    due = []
    for stats.step in (35, 36, 40):
        due.append(clock.due(stats))
    assert due == [True, False, True]


def test_looking_ahead_changes_nothing() -> None:
    stats = new_stats()
    clock = every(epochs=2).clock(stats)
    assert [clock.due_at(n) for n in (1, 2, 2, 3)] == [False, True, True, True]
    stats.epoch = 2
    assert clock.due(stats) and not clock.due_at(3)


@pytest.mark.parametrize(
    ("make", "due"),
    [
        (every, [False, True, False, True, False]),
        (once, [False, True, False, False, False]),
        (after, [False, True, True, True, True]),
    ],
)
def test_seconds(make: Any, due: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    stats = new_stats()
    clock = make(seconds=2.5).clock(stats)
    seen = []
    for moment in (102.4, 102.5, 104.9, 111.0, 112.4):
        now = moment
        seen.append(clock.due(stats))
    assert seen == due


@pytest.mark.parametrize(
    ("kind", "due"),
    [
        ("every", [False, True, False, True, False]),
        ("once", [False, True, False, False, False]),
        ("after", [False, False, True, True, True]),
    ],
)
def test_calls(kind: Any, due: list[bool]) -> None:
    stats = new_stats(step=50, epoch=7)
    clock = Every(calls=2, kind=kind).clock(stats)
    assert [clock.due(stats) for _ in range(5)] == due


@pytest.mark.parametrize("kind", ["every", "once", "after"])
@pytest.mark.parametrize("unit", ["steps", "calls"])
def test_a_clock_goes_on_from_its_place(unit: str, kind: Any) -> None:
    schedule = Every(**{unit: 4}, kind=kind)
    for cut in range(12):
        stats = new_stats(step=0)
        clock, due = schedule.clock(stats), []
        for step in range(1, 13):
            stats.step = step
            if step == cut:
                clock = schedule.clock(stats, clock.place())
            if step % 3 == 0:
                due.append(clock.due(stats))
        expected = schedule.clock(new_stats(step=0))
        assert due == [expected.due(new_stats(step=step)) for step in (3, 6, 9, 12)]


def test_a_clock_of_a_late_band_owes_nothing() -> None:
    clock = every(4).clock(new_stats(step=6))
    clock.resume(2)
    assert [clock.due(new_stats(step=step)) for step in (6, 7, 8)] == [False, False, True]
    assert clock.calls == 5


def test_representation_and_equality() -> None:
    assert repr(once(epochs=3)) == "once(epochs=3)" and repr(every(5)) == "every(steps=5)"
    assert after(seconds=1.5) == Every(seconds=1.5, kind="after")
    assert every(2) != once(2) and (every(2).unit, every(2).n) == ("steps", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of steps, epochs, seconds and calls; received none"),
        ({"steps": 1, "epochs": 2}, "received steps=1, epochs=2"),
        ({"steps": 0}, "must be a number above 0 without a fraction; received 0"),
        ({"steps": 1.5}, "without a fraction; received 1.5"),
        ({"epochs": True}, "received True"),
        ({"seconds": -1.0}, "must be a number above 0; received -1.0"),
        ({"seconds": float("nan")}, "received nan"),
        ({"calls": "3"}, "received '3'"),
        ({"steps": 1, "kind": "twice"}, "'every', 'once' or 'after'; received 'twice'"),
    ],
)
def test_wrong_schedules(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Every(**arguments)


def test_a_handlers_schedule_is_checked() -> None:
    assert check_every(None, "H(every=...)", every(1)) == every(1)
    assert check_every(every(2), "H(every=...)") == every(2)
    for wrong in (None, 100):
        with pytest.raises(ArgumentTypeError, match=r"H\(every=...\) must be an Every; received"):
            check_every(wrong, "H(every=...)")


def test_marks_count_in_the_unit_of_their_event() -> None:
    calls: list[tuple[str, int, int]] = []

    class Marked(EventHandler):
        @on("batch_end", every=4)
        def steps(self, stats: TrainStats) -> None:
            calls.append(("batch", stats.step, stats.epoch))

        @on("epoch_begin", every=2)
        @on("epoch_end", every=2)
        def epochs(self, stats: TrainStats) -> None:
            calls.append(("epoch", stats.step, stats.epoch))

        @on("validation_end", every=3)
        def validations(self, stats: TrainStats) -> None:
            calls.append(("validation", stats.step, stats.epoch))

        @on("batch_end", every=once(5))
        def five(self, stats: TrainStats) -> None:
            calls.append(("five", stats.step, stats.epoch))

        @on("train_end")
        def end(self, stats: TrainStats) -> None:
            calls.append(("end", stats.step, stats.epoch))

    x = torch.randn(9, 1)
    Estimator(torch.nn.Linear(1, 1), torch.nn.MSELoss()).fit(
        (x, x), (x, x), epochs=3, trainers="sgd", device="cpu", batch_size=3, handlers=Marked(),
        progress=False,
    )  # fmt: skip
    # The third epoch begins after two finished ones: due at its begin as at the end before.
    assert calls == [
        ("batch", 4, 1), ("five", 5, 1), ("epoch", 6, 2), ("epoch", 6, 2), ("batch", 8, 2),
        ("validation", 9, 3), ("end", 9, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "schedule", "error", "message"),
    [
        ("epoch_finish", None, ArgumentError, "no event is called 'epoch_finish'.*'epoch_begin'"),
        ("batch_end", 0, ArgumentError, "above 0"),
        ("batch_end", True, ArgumentTypeError, r"on\('batch_end', every=...\) must be an Every"),
        ("batch_end", "2", ArgumentTypeError, "received '2'"),
    ],
)
def test_wrong_marks(event: str, schedule: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        on(event, every=schedule)
