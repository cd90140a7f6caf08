"""`NaNHandler`: the first bad step is found, and no step waits for the host."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from estimator import BatchProcessor, Estimator, Trainer
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    DataError,
    EventHandler,
    Every,
    every,
)
from estimator.handlers.checkpoint import CheckpointHandler, load_checkpoint
from estimator.handlers.early_stopping import EarlyStoppingHandler
from estimator.handlers.ema import EMAHandler
from estimator.handlers.nan import NaNHandler
from estimator.stats import TrainStats

NAN, INF = float("nan"), float("inf")
HOST_READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


def data(bad: int | None = None, value: float = NAN, batches: int = 4) -> list[Any]:
    """Batches of inputs and targets; batch `bad` (from 1) has an input that is not finite."""
    xs = [torch.randn(3, 2) for _ in range(batches)]
    if bad is not None:
        xs[bad - 1][0, 0] = value
    return [(x, torch.randn(3, 1)) for x in xs]


def fit(*handlers: EventHandler, train: Any, **arguments: Any) -> TrainStats:
    settings: dict[str, Any] = {"epochs": 3} | arguments
    return Estimator(nn.Linear(2, 1), nn.MSELoss()).fit(
        train,
        trainers=Trainer("sgd", lr=0.01),
        device="cpu",
        handlers=handlers,
        progress=False,
        **settings,
    )


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_run_stops_and_names_the_first_bad_step(value: float) -> None:
    stats = fit(NaNHandler(), train=data(2, value))
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 2"
    assert (stats.epoch, stats.step) == (1, 4)


def test_a_finite_run_goes_on() -> None:
    stats = fit(NaNHandler(every=every(1)), train=data(), val=data())
    assert (stats.epoch, stats.stopped) == (3, None)


@pytest.mark.parametrize(
    ("schedule", "step"), [(every(1), 2), (every(3), 3), (Every(seconds=1e-9), 2), (every(99), 4)]
)
def test_it_stops_where_the_schedule_is_due(schedule: Every, step: int) -> None:
    stats = fit(NaNHandler(every=schedule), train=data(2))
    assert stats.step == step
    assert stats.stopped is not None and stats.stopped.endswith("first at step 2")


def test_it_stops_before_the_next_epoch_and_the_next_validation() -> None:
    class Before(EventHandler):
        band = Band.REPORT
        stopped: str | None = None

        def validation_begin(self, stats: TrainStats) -> None:
            self.stopped = stats.stopped

    before = Before()
    fit(NaNHandler(), before, train=data(1), val=data(), validate=every(2))
    assert before.stopped == "NaNHandler: the loss was not finite, first at step 1"


def test_it_can_raise_in_place_of_stopping() -> None:
    with pytest.raises(DataError, match=r"NaNHandler: the loss.* first at step 3. Lower the"):
        fit(NaNHandler("raise", every=every(1)), train=data(3))


def test_a_bad_batch_of_a_group_belongs_to_the_step_of_the_group() -> None:
    stats = fit(NaNHandler(), train=data(3), accumulate=2)
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 2"


class Parts(BatchProcessor):
    """Three losses, at step 3 two, of which `bad` are not finite from step 2 on."""

    step: ClassVar[int] = 0

    def __init__(self, *bad: str) -> None:
        super().__init__()
        self.bad = bad

    def loss(self, outputs: Any, targets: Any) -> Any:
        names = ("a", "d") if self.step == 3 else ("a", "b", "c")
        bad = self.bad if self.step >= 2 else ()
        return {n: outputs.square().mean() * (NAN if n in bad else 1.0) for n in names}


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (("b",), "2 (in b)"),
        (("c", "b"), "2 (in b, c)"),
        (("b", "d"), "2 (in b)"),
        (("d",), "3 (in d)"),
    ],
)
def test_the_losses_that_were_bad_are_named(bad: tuple[str, ...], found: str) -> None:
    class Conduct(EventHandler):
        """Tells the step, and undoes it, so that a bad loss does not make the next ones bad."""

        def batch_begin(self, stats: TrainStats) -> None:
            Parts.step = stats.step + 1
            self.good = {k: v.clone() for k, v in stats.net.state_dict().items()}

        def batch_end(self, stats: TrainStats) -> None:
            stats.net.load_state_dict(self.good)

    est = Estimator(nn.Linear(2, 1), processor=Parts(*bad))
    stats = est.fit(data(), device="cpu", handlers=[NaNHandler(), Conduct()], progress=False)
    assert stats.stopped == f"NaNHandler: the loss was not finite, first at step {found}"


def test_no_step_is_read_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def counted(name: str) -> Any:
        read = getattr(torch.Tensor, name)

        def count(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
            reads.append(name)
            return read(tensor, *arguments, **settings)

        return count

    for name in HOST_READS:
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    others = [EMAHandler(warmup=True), EarlyStoppingHandler("train_loss")]
    handlers = [NaNHandler(every=every(10)), CheckpointHandler(tmp_path, every=every(99)), *others]
    stats.monitors = {"train_loss": False}
    for handler in handlers:
        handler.train_begin(stats)
    seen = []
    for stats.step in range(1, 31):
        stats.stepped = True
        stats.loss = torch.tensor(NAN if stats.step == 14 else 1.0)
        stats.losses = {"a": stats.loss, "b": torch.tensor(1.0)}
        for handler in handlers:
            handler.batch_end(stats)
        seen.append(len(reads))
    assert seen == [0] * 9 + [1] * 10 + [2] * 10 + [3]
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 14 (in a)"


def test_many_losses_between_two_reads_wait_in_few_tensors() -> None:
    handler, stats = NaNHandler(every=every(999)), TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    handler.train_begin(stats)
    for stats.step in range(1, 151):
        stats.stepped, stats.loss = True, torch.tensor(NAN if stats.step == 70 else 1.0)
        handler.batch_end(stats)
    assert (len(handler.looks), len(handler._waiting)) == (2, 150 % 64)
    handler.epoch_end(stats)
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 70"


def test_no_checkpoint_is_made_of_what_was_found_bad(tmp_path: Path) -> None:
    saver = CheckpointHandler(tmp_path, every=every(1), keep_last=1)
    stats = fit(saver, NaNHandler(), train=data(3))
    assert stats.stopped is not None
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "step_00000002.pt"]
    assert load_checkpoint(tmp_path)["net"]["weight"].isfinite().all()


def test_an_error_of_another_comes_alone() -> None:
    class Fail(EventHandler):
        band = Band.PREPARE

        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 3:
                raise RuntimeError("failed on purpose")

    handler = NaNHandler("raise", every=every(99))
    with pytest.raises(RuntimeError, match="on purpose") as caught:
        fit(handler, Fail(), train=data(1))
    assert not hasattr(caught.value, "__notes__")
    assert handler._waiting == []
    assert handler.looks == []


def test_other_evaluations_are_none_of_its_business() -> None:
    handler = NaNHandler("raise", every=every(99))

    class Look(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            Estimator(stats.net, nn.MSELoss()).evaluate(data(1), handlers=handler)
            self.seen = stats.step

    look = Look()
    with pytest.raises(DataError, match="first at step 1"):
        fit(handler, look, train=data(1))
    assert look.seen == 4


def test_the_same_handler_serves_a_second_fit() -> None:
    handler = NaNHandler()
    assert fit(handler, train=data(1)).stopped
    assert fit(handler, train=data()).stopped is None


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"action=...\) must be 'stop' or 'raise'.*'halt'"):
        NaNHandler("halt")  # type: ignore[arg-type]  # what the test is about
    with pytest.raises(ArgumentTypeError, match=r"NaNHandler\(every=...\).*received 5"):
        NaNHandler(every=5)  # type: ignore[arg-type]  # what the test is about


def test_the_handler_can_be_pickled_shown_and_used_without_a_run() -> None:
    handler = NaNHandler("raise", every=every(5))
    assert repr(handler) == "NaNHandler(action='raise', every=every(steps=5))"
    assert repr(NaNHandler()) == "NaNHandler()"
    stats = TrainStats(nn.Linear(1, 1), torch.device("cpu"))
    for event in ("batch_end", "validation_begin", "epoch_end", "train_end"):
        getattr(handler, event)(stats)
    fit(handler, train=data())
    again = pickle.loads(pickle.dumps(handler))
    assert vars(again) == vars(handler)
