"""Which events fire, in which order, for each way a run can go and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from event_traces import BATCH, BATCHES, EPOCH, At, Collect, Trace, boom, run
from torch import nn

from estimator import TrainStats
from estimator.handlers import EVENTS, Band, every
from estimator.meter import LossMeter

LEVELS = ("train", "epoch", "batch", "validation")


def test_a_completed_run() -> None:
    trace, stats = run()
    assert trace.text == f"T( {EPOCH} {EPOCH} )T"
    assert (stats.epoch, stats.step, stats.samples, stats.stopped) == (2, 6, 12, None)
    assert stats["complete"] == [True, True]


def test_stop_in_a_batch_skips_validation_and_does_not_count_the_epoch() -> None:
    trace, stats = run(At("batch_end", lambda s: s.stop("enough"), 5))
    assert trace.text == f"T( {EPOCH} E( {BATCH} {BATCH} )E )T"
    assert (stats.epoch, stats.step, stats.stopped) == (1, 5, "enough")
    assert stats["complete"] == [True, False]
    assert stats["val_loss"][-1] is None and stats["train_loss"][-1] is not None


@pytest.mark.parametrize("train", [BATCHES, iter], ids=["sized", "unsized"])
def test_stop_in_the_last_batch_finishes_the_epoch(train: Any) -> None:
    class Unsized:
        def __iter__(self) -> Iterator[Any]:
            return iter(BATCHES)

    data = Unsized() if train is iter else train
    trace, stats = run(At("batch_end", lambda s: s.stop("enough"), 3), train=data)
    assert trace.text == f"T( {EPOCH} )T"
    assert stats.epoch == 1 and stats["complete"] == [True]


def test_stop_at_an_epoch_ends_there() -> None:
    trace, stats = run(At("epoch_end", lambda s: s.stop("enough")))
    assert trace.text == f"T( {EPOCH} )T"
    assert stats.stopped == "enough"


def test_stop_when_epoch_finishes_the_epoch_with_its_validation() -> None:
    trace, _ = run(At("batch_end", lambda s: s.stop("later", when="epoch")))
    assert trace.text == f"T( {EPOCH} )T"


def test_stop_in_a_validation_finishes_it() -> None:
    trace, stats = run(At("validation_batch_end", lambda s: s.stop("enough")))
    assert trace.text == f"T( {EPOCH} )T"


def test_the_first_ctrl_c_ends_after_the_batch() -> None:
    def interrupt(stats: TrainStats) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trace, stats = run(At("forward_end", interrupt, 2))
    assert trace.text == f"T( E( {BATCH} {BATCH} )E )T"
    assert stats.stopped == "interrupted by Ctrl-C"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_ends_at_once() -> None:
    def interrupt(stats: TrainStats) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trace, error = run(At("forward_end", interrupt, 2))
    assert isinstance(error, KeyboardInterrupt)
    assert trace.text == f"T( E( {BATCH} b( f ! )b )E )T"


def test_exception_in_the_net() -> None:
    class Breaks(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 4:  # two dry batches come first
                raise RuntimeError("boom")
            return super().forward(x)

    trace, error = run(net=Breaks(3, 1))
    assert isinstance(error, RuntimeError) and error.args == ("boom",)
    assert trace.text == f"T( E( {BATCH} b( ! )b )E )T"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("train_begin", "T( ! )T"),
        ("epoch_begin", "T( E( ! )E )T"),
        ("batch_begin", "T( E( b( ! )b )E )T"),
        ("forward_end", "T( E( b( f ! )b )E )T"),
        ("backward_end", "T( E( b( f g ! )b )E )T"),
        ("batch_end", "T( E( b( f g )b ! )E )T"),
        ("validation_begin", f"T( E( {BATCH} {BATCH} {BATCH} V( ! )V )E )T"),
        ("validation_batch_end", f"T( E( {BATCH} {BATCH} {BATCH} V( v ! )V )E )T"),
        ("validation_end", f"T( E( {BATCH} {BATCH} {BATCH} V( v )V ! )E )T"),
        ("epoch_end", f"T( {EPOCH} ! )T"),
        ("train_end", f"T( {EPOCH} {EPOCH} )T !"),
    ],
)
def test_exception_in_a_handler(event: str, expected: str) -> None:
    trace, error = run(At(event, boom))
    assert isinstance(error, RuntimeError) and error.args == ("boom",)
    assert trace.text == expected


@pytest.mark.parametrize("event", [e for e in EVENTS if e not in ("error",)])
def test_every_begin_gets_its_end_for_handlers_before_and_after_the_one_that_fails(
    event: str,
) -> None:
    early, late = Trace(Band.PREPARE), Trace(Band.REPORT)
    _, error = run(early, At(event, boom), late)
    assert isinstance(error, RuntimeError)
    for trace in (early, late):
        for level in LEVELS:
            begins = trace.events.count(f"{level}_begin")
            ends = trace.events.count(f"{level}_end")
            # A handler after the one that fails at a begin gets that level's end alone.
            missed = trace is late and event == f"{level}_begin"
            assert ends == begins + missed, (level, trace.text)
        assert trace.events[-1] == "train_end" or event == "train_end"


def test_exception_in_the_loader() -> None:
    def broken() -> Iterator[Any]:
        yield from BATCHES[:2]
        raise OSError("disk gone")

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            return broken()

    trace, error = run(train=Loader())
    assert isinstance(error, OSError)
    assert trace.text == f"T( E( {BATCH} {BATCH} ! )E )T"


def test_stop_iteration_from_a_handler_is_an_error() -> None:
    def stop_iteration(stats: TrainStats) -> None:
        raise StopIteration("from a handler")

    trace, error = run(At("batch_end", stop_iteration, 2))
    assert isinstance(error, StopIteration)
    assert trace.text.endswith("! )E )T")


def test_error_is_in_stats_when_its_event_fires_and_counts_stand_still() -> None:
    seen: list[Any] = []
    _, error = run(
        At("forward_end", boom, 2), At("error", lambda s: seen.append((s.error, s.step)))
    )
    assert seen == [(error, 1)]


def test_a_second_exception_does_not_hide_the_first() -> None:
    def second(stats: TrainStats) -> None:
        raise ValueError("second")

    trace, error = run(At("forward_end", boom), At("train_end", second))
    assert isinstance(error, RuntimeError)
    assert any("second" in note for note in error.__notes__)
    assert trace.events[-1] == "train_end"


def test_the_row_of_an_epoch_that_fails_is_incomplete() -> None:
    rows: list[Any] = []
    run(
        At("forward_end", boom, 3), At("epoch_end", lambda s: rows.append(dict(s.history.rows[-1])))
    )
    assert [(r["epoch"], r["step"], r["complete"]) for r in rows] == [(0, 2, False)]


def test_accumulation_fires_backward_end_once_a_group_and_steps_a_short_one() -> None:
    trace, stats = run(accumulate=2, epochs=1)
    assert trace.text == "T( E( b( f )b b( f g )b b( f g )b V( v )V )E )T"
    assert stats.step == 2


def test_iterations_cut_an_epoch_that_is_not_finished_and_validate_at_the_end() -> None:
    trace, stats = run(epochs=None, iterations=4)
    assert trace.text == f"T( {EPOCH} E( {BATCH} V( v )V )E )T"
    assert (stats.epoch, stats.step, stats.stopped) == (1, 4, None)
    assert stats["complete"] == [True, False]


def test_validation_by_steps_adds_rows_inside_the_epoch() -> None:
    trace, stats = run(validate=every(2))
    first = f"E( {BATCH} {BATCH} V( v )V {BATCH} )E"
    second = f"E( {BATCH} V( v )V {BATCH} {BATCH} V( v )V )E"
    assert trace.text == f"T( {first} {second} )T"
    assert stats["step"] == [2, 3, 4, 6]
    assert stats["complete"] == [False, True, False, True]
    assert [v is None for v in stats["val_loss"]] == [False, True, False, False]


def test_validation_every_second_epoch_and_at_the_end() -> None:
    trace, stats = run(validate=every(epochs=2), epochs=3)
    assert [v is None for v in stats["val_loss"]] == [True, False, False]


def test_validation_due_is_known_before_a_checkpoint_of_the_same_step() -> None:
    seen: list[bool] = []
    run(
        At("batch_end", lambda s: None),
        Collect("batch_end", lambda s: seen.append(s.validation_due)),
    )
    assert seen == [False, False, True] * 2


def test_the_row_of_a_validation_is_there_when_it_ends_and_takes_what_handlers_add() -> None:
    rows: list[Any] = []

    def look(stats: TrainStats) -> None:
        rows.append((stats.step, len(stats.history), stats.history.rows[-1]["step"]))
        stats.val["extra"] = 1.5

    _, stats = run(Collect("validation_end", look), validate=every(2), epochs=1)
    assert rows[0] == (2, 1, 2)
    assert stats["val_extra"] == [1.5, 1.5]


def test_a_device_that_cannot_be_read_does_not_hide_the_first_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(self: LossMeter) -> Any:
        raise RuntimeError("the device is gone")

    def fail(stats: TrainStats) -> None:
        monkeypatch.setattr(LossMeter, "means", unreadable)
        raise ValueError("first")

    trace, error = run(At("forward_end", fail, 2))
    assert isinstance(error, ValueError)
    assert any("the device is gone" in note for note in error.__notes__)
    assert trace.events[-2:] == ["epoch_end", "train_end"]
