"""What `fit` adds to a step, in counts: times drift with the machine, counts do not."""

from __future__ import annotations

import gc
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from estimator import Estimator, Trainer
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
    ProgressHandler,
    TensorBoardHandler,
    TimeLimitHandler,
    WorstSamplesHandler,
)
from estimator.stats import TrainStats

FEW, MANY = 100, 300
CALLS_ADDED = 60
READS = ("item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "tolist")
# These operators wait for the device too, and C++ calls them without passing a method of Tensor.
WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select"}
SELDOM = Every(steps=10**6)

Batch = dict[str, Tensor]
Train = Callable[[list[Batch]], object]
MakeHandlers = Callable[[Path], Iterable[EventHandler]]


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))


def make_batches(count: int) -> list[Batch]:
    torch.manual_seed(1)
    return [
        {
            "input": torch.randn(8, 20),
            "target": torch.randint(3, (8,)),
            "sample_uid": torch.arange(8 * i, 8 * i + 8),
        }
        for i in range(count)
    ]


def train_raw(
    batches: list[Batch], optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
) -> nn.Module:
    net, loss = make_net(), nn.CrossEntropyLoss()
    stepper = optimizer(net.parameters(), lr=0.1)  # type: ignore[call-arg]  # those used here have it
    for batch in batches:
        stepper.zero_grad()
        loss(net(batch["input"]), batch["target"]).backward()
        stepper.step()
    return net


def train_fit(
    batches: list[Batch],
    handlers: Iterable[EventHandler] = (),
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
) -> TrainStats:
    est = Estimator(make_net(), nn.CrossEntropyLoss(), ["accuracy"], targets="target")
    return est.fit(
        batches,
        batches[:2],
        epochs=1,
        trainers=Trainer(optimizer, lr=0.1),
        device="cpu",
        handlers=list(handlers),
        progress=False,
    )


def train_fit_on_pairs(batches: list[Batch], handlers: Iterable[EventHandler] = ()) -> TrainStats:
    """As tutorials do: batches are pairs, and nothing is validated."""
    est = Estimator(make_net(), nn.CrossEntropyLoss(), ["accuracy"])
    return est.fit(
        [(batch["input"], batch["target"]) for batch in batches],
        epochs=1,
        trainers=Trainer("sgd", lr=0.1),
        device="cpu",
        handlers=list(handlers),
        progress=False,
    )


def calls_per_step(train: Train) -> float:
    """Python functions called in a step, by the difference of a long run and a short one."""
    few, many = make_batches(FEW), make_batches(MANY)
    # What is called once in a process, such as an import in a function, is done beforehand.
    train(few[:3])
    return (_calls(train, many) - _calls(train, few)) / (MANY - FEW)


def _calls(train: Train, batches: list[Batch]) -> int:
    count = 0

    def profiler(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    # Finalizers would be counted wherever the collector happens to run them.
    gc.collect()
    gc.disable()
    sys.setprofile(profiler)
    try:
        train(batches)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


class HostReads(TorchDispatchMode):
    """Counts what brings a value to the host: methods of Tensor, and operators that wait."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.counts: Counter[str] = Counter()
        for name in READS:
            patch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def count(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            return method(tensor, *args, **kwargs)

        return count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += name in WAITING
        return func(*args, **(kwargs or {}))


def reads_per_step(train: Train) -> dict[str, float]:
    few, many = _reads(train, make_batches(FEW)), _reads(train, make_batches(MANY))
    names = sorted(few.keys() | many.keys())
    more = {name: many[name] - few[name] for name in names}
    return {name: count / (MANY - FEW) for name, count in more.items() if count}


def _reads(train: Train, batches: list[Batch]) -> Counter[str]:
    with pytest.MonkeyPatch.context() as patch:
        reads = HostReads(patch)
        with reads:
            train(batches)
    return reads.counts


class AtEpochEnd(EventHandler):
    def epoch_end(self, stats: TrainStats) -> None:
        self.step = stats.step


class AtBatchEnd(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        pass


@pytest.fixture(scope="module")
def calls_of_fit() -> float:
    return calls_per_step(train_fit_on_pairs)


def test_fit_trains_as_the_raw_loop_that_it_is_compared_with() -> None:
    batches = make_batches(20)
    raw, stats = train_raw(batches), train_fit_on_pairs(batches)
    for mine, theirs in zip(stats.net.parameters(), raw.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_fit_calls_few_functions_more_than_a_raw_loop(calls_of_fit: float) -> None:
    assert calls_of_fit <= calls_per_step(train_raw) + CALLS_ADDED


def test_handlers_without_step_events_cost_a_step_nothing(calls_of_fit: float) -> None:
    handlers = [AtEpochEnd() for _ in range(5)]
    assert calls_per_step(lambda batches: train_fit_on_pairs(batches, handlers)) == calls_of_fit
    assert [handler.step for handler in handlers] == [FEW] * 5


@pytest.mark.parametrize("count", [1, 4])
def test_a_step_event_costs_its_own_call(calls_of_fit: float, count: int) -> None:
    handlers = [AtBatchEnd() for _ in range(count)]
    calls = calls_per_step(lambda batches: train_fit_on_pairs(batches, handlers))
    assert count <= calls - calls_of_fit <= 2 * count


def test_fit_reads_no_tensor_in_a_step() -> None:
    assert reads_per_step(train_fit) == {}


def test_fit_reads_no_more_than_an_optimizer_that_counts_its_steps() -> None:
    of_raw = reads_per_step(lambda batches: train_raw(batches, torch.optim.AdamW))
    of_fit = reads_per_step(lambda batches: train_fit(batches, optimizer=torch.optim.AdamW))
    assert of_fit == of_raw
    assert of_raw["item"] == 4, "AdamW reads the step of each parameter; else this says nothing"


WITHOUT_READS: dict[str, MakeHandlers] = {
    "logging": lambda folder: [LoggingHandler(folder / "log.txt", every=SELDOM, console=False)],
    "progress": lambda folder: [ProgressHandler()],
    "csv_log": lambda folder: [CSVLogHandler(folder / "history.csv")],
    "tensorboard": lambda folder: [TensorBoardHandler(folder)],
    "lr_recorder": lambda folder: [LRRecorderHandler(folder)],
    "checkpoint": lambda folder: [CheckpointHandler(folder, every=Every(epochs=1))],
    "early_stopping": lambda folder: [EarlyStoppingHandler("val_loss", patience=3)],
    "nan": lambda folder: [NaNHandler(every=SELDOM)],
    "ema": lambda folder: [EMAHandler()],
    "time_limit": lambda folder: [TimeLimitHandler(3600)],
    "worst_samples": lambda folder: [WorstSamplesHandler(folder)],
    "embedding": lambda folder: [EmbeddingHandler(folder)],
    "gradient_stats": lambda folder: [GradientStatsHandler(folder, every=SELDOM)],
    "activation_stats": lambda folder: [ActivationStatsHandler(folder, every=SELDOM)],
}


@pytest.mark.parametrize("name", WITHOUT_READS)
def test_a_handler_reads_no_tensor_between_its_log_points(name: str, tmp_path: Path) -> None:
    make = WITHOUT_READS[name]
    reads = reads_per_step(lambda batches: train_fit(batches, make(tmp_path / str(len(batches)))))
    assert reads == {}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_visible_bar_reads_the_loss_only_when_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert reads_per_step(lambda b: train_fit(b, [ProgressHandler(refresh=3600)])) == {}
    assert "Epoch 1/1" in screen.getvalue()


class ReadsLoss(EventHandler):
    """Reads the loss in each step, in a way that a test chooses."""

    def __init__(self, read: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.read = read

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.loss is not None
        self.read(stats.loss)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("item", lambda loss: loss.item()),
        ("__bool__", bool),
        ("__float__", float),
        ("__int__", int),
        ("__index__", lambda loss: range(3)[loss.long()]),
        ("cpu", lambda loss: loss.cpu()),
        ("numpy", lambda loss: loss.numpy()),
        ("tolist", lambda loss: loss.tolist()),
        ("equal", lambda loss: loss.equal(loss)),
        ("nonzero", lambda loss: loss.nonzero()),
    ],
)
def test_a_read_in_each_step_would_be_seen(name: str, read: Callable[[Tensor], object]) -> None:
    reads = reads_per_step(lambda batches: train_fit(batches, [ReadsLoss(read)]))
    assert reads[name] == 1.0
