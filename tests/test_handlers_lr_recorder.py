"""`LRRecorderHandler`: the rates of hand-written loops, found again in the table and the charts."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import scalars
from lr_runs import BATCHES, FailAt, Net, column, data, fit, table, two_trainers
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from estimator import Trainer
from estimator.handlers import lr_recorder
from estimator.handlers.base import (
    ArgumentTypeError,
    Band,
    EventHandler,
    Every,
    FolderError,
    every,
)
from estimator.handlers.lr_recorder import LRRecorderHandler
from estimator.stats import TrainStats


def hand_loop(schedule: Callable[[Any], LRScheduler], *, per_step: bool) -> list[float]:
    """The rate of each step of three epochs."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler, used = schedule(optimizer), []
    for _ in range(3):
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per_step:
                scheduler.step()
        if not per_step:
            scheduler.step()
    return used


def test_rates_of_a_schedule_per_epoch_are_those_of_a_hand_loop(tmp_path: Path) -> None:
    schedule = functools.partial(StepLR, step_size=1, gamma=0.3)
    fit(LRRecorderHandler(tmp_path), trainers=Trainer("sgd", lr=0.1, scheduler=schedule))
    used = hand_loop(schedule, per_step=False)
    assert table(tmp_path)[0] == ["epoch", "step", "trainer"]
    assert column(tmp_path, "epoch") == [1, 2, 3]
    assert column(tmp_path, "step") == [4, 8, 12]
    assert column(tmp_path, "trainer") == used[BATCHES - 1 :: BATCHES]


def test_rates_of_a_schedule_per_step_are_those_of_a_hand_loop(tmp_path: Path) -> None:
    schedule = functools.partial(OneCycleLR, max_lr=0.7, total_steps=13)
    fit(
        LRRecorderHandler(tmp_path, every=every(1)),
        trainers=Trainer("sgd", lr=0.1, scheduler=schedule),
    )
    assert column(tmp_path, "trainer") == hand_loop(schedule, per_step=True)
    assert column(tmp_path, "step") == list(range(1, 13))
    assert column(tmp_path, "epoch") == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (None, [4, 8, 12]),
        (every(epochs=2), [8]),
        (every(5), [5, 10]),
        (every(seconds=1e-9), list(range(1, 13))),
    ],
)
def test_schedule(tmp_path: Path, schedule: Every | None, steps: list[int]) -> None:
    fit(LRRecorderHandler(tmp_path, every=schedule))
    assert column(tmp_path, "step") == steps


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    fit(LRRecorderHandler(tmp_path, every=every(1)), accumulate=3)
    assert column(tmp_path, "step") == [1, 2, 3, 4, 5, 6]


def test_every_trainer_and_every_group_has_its_column(tmp_path: Path) -> None:
    fit(LRRecorderHandler(tmp_path), trainers=two_trainers(), epochs=1)
    assert table(tmp_path) == [
        ["epoch", "step", "body/group0", "body/group1", "head"],
        ["1", "4", "0.5", "0.25", "0.001"],
    ]


class AddGroup(EventHandler):
    def epoch_begin(self, stats: TrainStats) -> None:
        if stats.epoch == 1:
            group = {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.7}
            stats.trainers["0"].optimizer.add_param_group(group)


def test_a_group_that_comes_later_has_empty_cells_before(tmp_path: Path) -> None:
    trainers = [Trainer("sgd", lr=0.1, params="body"), Trainer("sgd", lr=0.2, params="head")]
    fit(LRRecorderHandler(tmp_path), AddGroup(), trainers=trainers, epochs=2)
    assert table(tmp_path) == [
        ["epoch", "step", "0/group0", "0/group1", "1"],
        ["1", "4", "0.1", "", "0.2"],
        ["2", "8", "0.1", "0.7", "0.2"],
    ]


def test_a_rate_in_a_tensor_is_read(tmp_path: Path) -> None:
    trainer = Trainer("adam", lr=torch.tensor(0.125), foreach=False, capturable=False)
    fit(LRRecorderHandler(tmp_path), trainers=trainer, epochs=1)
    assert column(tmp_path, "trainer") == [0.125]


class RowsAtEpochEnd(EventHandler):
    band = Band.REPORT

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.rows: list[int] = []

    def epoch_end(self, stats: TrainStats) -> None:
        self.rows.append(len(table(self.folder)) - 1)


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, [1, 2, 3]), (1e9, [1, 1, 1])])
def test_files_are_replaced_from_time_to_time_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, rows: list[int]
) -> None:
    monkeypatch.setattr(lr_recorder, "_SECONDS_BETWEEN_FILES", seconds)
    monkeypatch.setattr(lr_recorder, "_TIMES_BETWEEN_FILES", 0)
    seen = RowsAtEpochEnd(tmp_path)
    fit(LRRecorderHandler(tmp_path), seen)
    assert seen.rows == rows
    assert len(table(tmp_path)) == 4
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["lr.csv", "lr.png", "lr.section.json"]
    section = json.loads((tmp_path / "lr.section.json").read_text("utf-8"))
    (shown,) = section["tables"]
    assert [list(map(str, row)) for row in [shown["columns"], *shown["rows"]]] == table(tmp_path)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(LRRecorderHandler(tmp_path), epochs=1)
    before = table(tmp_path)

    def fail(path: Path, *_: Any) -> None:
        path.write_text("epoch,st")
        raise OSError("disk full")

    monkeypatch.setattr(lr_recorder, "_write_csv", fail)
    stats = fit(LRRecorderHandler(tmp_path), epochs=2)
    assert stats.epoch == 2 and stats.missing == {"the learning rates": "disk full"}
    assert table(tmp_path) == before


@pytest.mark.parametrize("schedule", [None, every(1)])
def test_an_exception_keeps_what_was_recorded(tmp_path: Path, schedule: Every | None) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(LRRecorderHandler(tmp_path, every=schedule), FailAt(6))
    assert column(tmp_path, "step") == ([4] if schedule is None else [1, 2, 3, 4, 5, 6])


def test_an_exception_before_the_first_row_leaves_an_empty_table(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(LRRecorderHandler(tmp_path), FailAt(1))
    assert table(tmp_path) == [["epoch", "step", "trainer"]]
    assert not (tmp_path / "lr.png").exists()


def test_a_stop_inside_an_epoch_is_recorded(tmp_path: Path) -> None:
    fit(LRRecorderHandler(tmp_path), epochs=None, iterations=6)
    assert column(tmp_path, "step") == [4, 6]


def test_a_second_fit_starts_afresh(tmp_path: Path) -> None:
    recorder = LRRecorderHandler(tmp_path)
    fit(recorder, epochs=3)
    fit(recorder, trainers=Trainer("sgd", lr=0.5), epochs=2)
    assert table(tmp_path)[1:] == [["1", "4", "0.5"], ["2", "8", "0.5"]]


def run_by_hand(recorder: LRRecorderHandler, stats: TrainStats, epochs: int) -> None:
    recorder.train_begin(stats)
    for _ in range(epochs):
        stats.epoch += 1
        stats.step += 5
        recorder.batch_end(stats)
        recorder.epoch_end(stats)


class Rates:
    """Stands in for a BoundTrainer."""

    def __init__(self, *lrs: float) -> None:
        self.lrs = list(lrs)


def by_hand(*, epoch: int = 0) -> TrainStats:
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    stats.epoch, stats.step, stats.samples = epoch, 5 * epoch, 20 * epoch
    stats.trainers = {"trainer": Rates(0.1)}  # type: ignore[dict-item]  # a stand-in
    return stats


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    first = LRRecorderHandler(tmp_path / "a", tensorboard=True)
    stats = by_hand()
    run_by_hand(first, stats, 2)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    first.train_end(stats)

    second = LRRecorderHandler(tmp_path / "b")
    second.load_state_dict(state)
    stats = by_hand(epoch=2)
    run_by_hand(second, stats, 1)
    second.train_end(stats)
    assert column(tmp_path / "b", "step") == [5, 10, 15]
    # The state that was loaded is not what the run writes to.
    assert [row[1] for row in state["rows"]] == [5, 10]


def test_tensorboard_gets_each_group(tmp_path: Path) -> None:
    fit(LRRecorderHandler(tmp_path, tensorboard=True), trainers=two_trainers(), epochs=2)
    expected: dict[str, Any] = {
        "lr/body/group0": [(4, 0.5), (8, 0.5)],
        "lr/body/group1": [(4, 0.25), (8, 0.25)],
        "lr/head/group0": [(4, pytest.approx(1e-3)), (8, pytest.approx(1e-3))],
    }
    assert scalars(tmp_path / "tensorboard") == expected


def test_tensorboard_points_are_on_the_disk_with_the_state(tmp_path: Path) -> None:
    recorder, stats = LRRecorderHandler(tmp_path, tensorboard=True), by_hand()
    run_by_hand(recorder, stats, 1)
    recorder.state_dict()
    ((step, rate),) = scalars(tmp_path / "tensorboard")["lr/trainer/group0"]
    assert step == 5
    assert rate == pytest.approx(0.1)
    recorder.train_end(stats)


def test_it_can_be_pickled_before_and_after(tmp_path: Path) -> None:
    recorder = pickle.loads(pickle.dumps(LRRecorderHandler(tmp_path, tensorboard=True)))
    fit(recorder, epochs=1)
    again = pickle.loads(pickle.dumps(recorder))
    assert again.state_dict() == {"rows": [(1, 4, [[0.001]])], "place": None}
    assert repr(again) == f"LRRecorderHandler(folder={tmp_path!r}, tensorboard=True)"


def test_train_end_without_train_begin_writes_nothing(tmp_path: Path) -> None:
    LRRecorderHandler(tmp_path).train_end(by_hand())
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"LRRecorderHandler\(every=...\).*received 10"):
        LRRecorderHandler(tmp_path, every=10)  # type: ignore[arg-type]  # the wrong type is what is tested
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"LRRecorderHandler\(folder=...\)"):
        fit(LRRecorderHandler(tmp_path / "file"))
