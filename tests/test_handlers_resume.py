"""What handlers write, keep and decide after a stop or a kill is that of an undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handler_resumes import ENDS, STOPS, Make, compared, train
from tensorboard.summary.writer import event_file_writer
from torch import nn

from estimator import Estimator
from estimator.handlers import (
    ActivationStatsHandler,
    CheckpointHandler,
    CSVLogHandler,
    EarlyStoppingHandler,
    EMAHandler,
    EmbeddingHandler,
    EventHandler,
    Every,
    GradientStatsHandler,
    LoggingHandler,
    LRRecorderHandler,
    NaNHandler,
    TensorBoardHandler,
    TimeLimitHandler,
    WorstSamplesHandler,
    _worst_report,
    every,
    lr_recorder,
    on,
)
from estimator.handlers.base import ArgumentError, Band
from estimator.stats import TrainStats
from estimator.testing._watch import difference

CASES: dict[str, Make] = {
    "activations": lambda folder: ActivationStatsHandler(folder, every=every(2)),
    "activations, epochs": lambda folder: ActivationStatsHandler(folder, every=every(epochs=1)),
    "csv": lambda folder: CSVLogHandler(folder / "history.csv"),
    "ema": lambda folder: EMAHandler(0.9, warmup=True, every=every(3)),
    "embedding": lambda folder: EmbeddingHandler(folder),
    "embedding, calls": lambda folder: EmbeddingHandler(folder, every=Every(calls=2), samples=7),
    "embedding, steps": lambda folder: EmbeddingHandler(folder, layer="1", every=every(4)),
    "gradients": lambda folder: GradientStatsHandler(folder, every=every(2), histograms=True),
    "gradients, epochs": lambda folder: GradientStatsHandler(folder, every=every(epochs=1)),
    "rates": lambda folder: LRRecorderHandler(folder, tensorboard=True),
    "rates, calls": lambda folder: LRRecorderHandler(
        folder, every=Every(calls=3), tensorboard=True
    ),
    "nan": lambda folder: NaNHandler(every=Every(calls=4)),
    "tensorboard": lambda folder: TensorBoardHandler(folder, every=every(3)),
    "tensorboard, calls": lambda folder: TensorBoardHandler(folder, every=Every(calls=1)),
    "worst samples": lambda folder: WorstSamplesHandler(folder, worst=4),
}


@pytest.fixture(autouse=True)
def file_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of their numbers, as text: 9 after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of tables are left empty: they show the tables, and take most of the time."""

    def empty(stem: Path, *_: Any, **__: Any) -> None:
        stem.with_suffix(".png").touch()

    monkeypatch.setattr(_worst_report, "write_map", empty)
    monkeypatch.setattr(lr_recorder, "_draw", lambda path, *_: path.touch())


def check(make: Make, folder: Path, *ends: str, **arguments: Any) -> None:
    for end, resumed, whole in compared(make, folder, *ends, **arguments):
        changed = difference(resumed, whole)
        assert not changed, f"{end}: {changed}"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_goes_on(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, *ENDS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_inside_a_group_of_accumulated_batches(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, "mid-epoch", accumulate=2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_with_validations_inside_epochs(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path, *STOPS, validate=every(3))


def test_pictures_of_worst_samples(tmp_path: Path) -> None:
    def make(folder: Path) -> EventHandler:
        return WorstSamplesHandler(folder, worst=4, every=every(epochs=1))

    ((_, resumed, whole),) = compared(make, tmp_path, "mid-epoch")
    assert len(whole["files"]["worst_samples_train_e2.png"]) > 1000
    assert difference(resumed, whole) == ""


def stopper(patience: int) -> Make:
    """Only a gain of 10 counts, so the first validation is the best and all others are bad."""
    return lambda folder: EarlyStoppingHandler(patience=patience, min_delta=10.0, restore_best=True)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_early_stopping_near_its_limit(patience: int, tmp_path: Path) -> None:
    ends = [end for end in ENDS if patience > 1 or end not in ("epoch end", "validation")]
    check(stopper(patience), tmp_path, *ends, epochs=5)


def test_a_run_that_early_stopping_ended_ends_again_with_its_best_weights(tmp_path: Path) -> None:
    whole = train(stopper(2), tmp_path, epochs=6)
    assert "patience=2 is used up" in whole["stopped"] and len(whole["history"]) == 3
    assert difference(train(stopper(2), tmp_path, resume=True, epochs=6), whole) == ""
    assert train(stopper(4), tmp_path, resume=True, epochs=9)["history"][-1]["epoch"] == 5


class LateStop(EventHandler):
    """Stops after all others, when no checkpoint of the epoch is due any more."""

    band = Band.REPORT

    def epoch_end(self, stats: TrainStats) -> None:
        if stats.epoch == 2:
            stats.stop("late")


@pytest.mark.parametrize("folder", ["same", "other"])
@pytest.mark.parametrize(
    "make", [stopper(9), lambda folder: EMAHandler(0.5, use_at_end=True)], ids=["best", "average"]
)
def test_the_last_checkpoint_has_the_weights_before_others_are_put_in(
    make: Make, folder: str, tmp_path: Path
) -> None:
    x, y = torch.rand(20, 3), torch.rand(20, 1)

    def fit(name: str, *more: EventHandler, resume: Path | None = None) -> dict[str, Any]:
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        saver = CheckpointHandler(tmp_path / name, every=every(epochs=9))
        Estimator(net, nn.MSELoss()).fit(
            (x, y), (x, y), 4, "adam", "cpu", batch_size=8, seed=1, progress=False,
            handlers=[make(tmp_path), saver, *more], resume=resume,
        )  # fmt: skip
        return net.state_dict()

    whole = fit("whole")
    fit("cut", LateStop())
    resumed = fit("cut" if folder == "same" else "other", resume=tmp_path / "cut")
    assert difference(resumed, whole) == ""


def test_a_band_in_which_checkpoints_would_hold_the_average_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"band=...\) must come before Band.PERSIST.*REPORT"):
        EMAHandler(band=Band.REPORT)


def test_the_log_tells_where_a_run_goes_on_and_nothing_of_a_validation_given_up(
    tmp_path: Path,
) -> None:
    def make(folder: Path) -> EventHandler:
        return LoggingHandler(folder / "log.txt", console=False)

    train(make, tmp_path, "validation", validate=every(3))
    train(make, tmp_path, "validation", resume=True, validate=every(3))
    lines = (tmp_path / "files" / "log.txt").read_text("utf-8").splitlines()
    told = [line for line in lines if "Validation at iteration" in line]
    steps = [int(line.split("iteration ")[1].split()[0]) for line in told]
    assert steps == [3, 6, 9, 12] and all("val_loss" in line for line in told)
    (begin,) = [line for line in lines if "resumes" in line]
    assert begin.endswith("(resumes after 1 epoch and 1 batch, 6 iterations)")


def new_stats(*, samples: int = 0) -> TrainStats:
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    stats.samples = samples
    return stats


def test_each_start_has_the_whole_time() -> None:
    for samples, stops in ((0, True), (8, False)):
        stats = new_stats(samples=samples)
        stats.restart_clock(100.0)
        handler = TimeLimitHandler(50)
        handler.train_begin(stats)
        handler.batch_end(stats)
        assert bool(stats.stopped) is stops
        stats.restart_clock(151.0)
        handler.batch_end(stats)
        assert stats.stopped


def with_nan(*, every_steps: int) -> tuple[NaNHandler, TrainStats]:
    """A run whose third loss is NaN, after four batches."""
    handler, stats = NaNHandler(every=every(every_steps)), new_stats()
    handler.train_begin(stats)
    for stats.step in range(1, 5):
        stats.stepped, stats.loss = True, torch.tensor(float("nan") if stats.step == 3 else 1.0)
        stats.samples = stats.batches_done = stats.step
        if stats.step == every_steps:
            stats.stop("by another")
        handler.batch_end(stats)
    return handler, stats


def resumed(handler: EventHandler, fresh: EventHandler) -> TrainStats:
    fresh.load_state_dict(handler.state_dict())
    stats = new_stats(samples=4)
    fresh.train_begin(stats)
    return stats


def test_losses_that_were_not_read_are_read_in_the_run_that_goes_on() -> None:
    handler, stats = with_nan(every_steps=99)
    stats.stop("by another")
    handler.epoch_end(stats)
    handler.train_end(stats)
    stats = resumed(handler, fresh := NaNHandler(every=every(99)))
    assert stats.stopped is None
    fresh.epoch_end(stats)
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 3"


def test_a_finding_that_came_with_another_stop_stops_the_run_that_goes_on() -> None:
    handler, stats = with_nan(every_steps=4)
    assert stats.stopped == "by another"
    stats = resumed(handler, NaNHandler(every=every(4)))
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 3"
    handler.train_begin(stats := new_stats())
    assert stats.stopped is None


def test_a_value_that_early_stopping_stopped_at_stops_the_run_again() -> None:
    def drive(handler: EarlyStoppingHandler, stats: TrainStats) -> None:
        stats.monitors = {"val_loss": False}
        handler.train_begin(stats)

    first, stats = EarlyStoppingHandler(nan="stop"), new_stats()
    drive(first, stats)
    stats.val, stats.phase = {"loss": float("inf")}, "validation"
    first.validation_end(stats)
    for nan, stopped in (("stop", stats.stopped), ("ignore", None)):
        second = EarlyStoppingHandler(nan=nan)  # type: ignore[arg-type]  # one of the literals
        second.load_state_dict(first.state_dict())
        drive(second, again := new_stats(samples=4))
        assert again.stopped == stopped


class Notes(EventHandler):
    """Notes steps: seldom asked for some, and in a late band for others."""

    def __init__(self, band: Band) -> None:
        super().__init__(band=band)
        self.seen: list[int] = []

    @on("validation_end", every=every(4))
    def seldom(self, stats: TrainStats) -> None:
        self.seen.append(stats.step)

    @on("epoch_end", every=2)
    def each_second(self, stats: TrainStats) -> None:
        self.seen.append(-stats.step)

    @on("epoch_end", every=Every(calls=3))
    def each_third(self, stats: TrainStats) -> None:
        self.seen.append(1000 + stats.epoch)


@pytest.mark.parametrize(("band", "end"), [(Band.DECIDE, 4), (Band.DECIDE, 6), (Band.REPORT, 6)])
def test_schedules_of_methods_go_on(band: Band, end: int, tmp_path: Path) -> None:
    def seen(*, resume: bool, stop: bool) -> list[int]:
        @on("batch_end")
        def stops(stats: TrainStats) -> None:
            if stop and stats.step == end:
                stats.stop("planned")

        notes, saver = Notes(band), CheckpointHandler(tmp_path / str(resume or stop))
        Estimator(nn.Linear(1, 1), nn.MSELoss()).fit(
            (torch.rand(12, 1), torch.rand(12, 1)), (torch.rand(4, 1), torch.rand(4, 1)), 4, "sgd",
            "cpu", batch_size=4, handlers=[notes, stops, saver], progress=False,
            resume=tmp_path / "True" if resume else None,
        )  # fmt: skip
        return [step for step in notes.seen if step < 1000]

    whole = seen(resume=False, stop=False)
    assert whole == [6, -6, 9, 12, -12]
    assert seen(resume=False, stop=True) + seen(resume=True, stop=False) == whole
