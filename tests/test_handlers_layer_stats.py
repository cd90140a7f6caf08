"""What `GradientStatsHandler` and `ActivationStatsHandler` share: when, and into which files."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import scalars
from layer_stats import (
    Net,
    Plain,
    by_hand,
    by_numpy,
    close,
    data,
    fit,
    hooks,
    measure,
    steps,
    table,
)
from tensorboard.summary.writer import event_file_writer
from torch import nn

from estimator.handlers.activation_stats import ActivationStatsHandler
from estimator.handlers.base import (
    ArgumentTypeError,
    EventHandler,
    Every,
    FolderError,
    after,
    every,
    once,
)
from estimator.handlers.gradient_stats import GradientStatsHandler

Maker = Callable[..., EventHandler]


BOTH = pytest.mark.parametrize(
    ("kind", "name"),
    [(GradientStatsHandler, "gradients.csv"), (ActivationStatsHandler, "activations.csv")],
)


@pytest.fixture(autouse=True)
def file_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of their numbers, as text: 9 after 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No writing thread outlives a run."""
    before = threading.enumerate()
    yield
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def test_tables_name_their_columns_and_count_finished_epochs(tmp_path: Path) -> None:
    fit(
        GradientStatsHandler(tmp_path, every=every(4)),
        ActivationStatsHandler(tmp_path, layers=["last"], every=every(4)),
    )
    lines = (tmp_path / "gradients.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,parameter,norm,mean,std,min,max,zeros,nonfinite"
    lines = (tmp_path / "activations.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,layer,mean,std,min,max,zeros,nonfinite"
    assert [line.split(",")[:3] for line in lines[1:]] == [["0", "4", "last"], ["1", "8", "last"]]


@BOTH
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (every(3), [3, 6]),
        (once(1), [1]),
        (after(6), [7, 8]),
        (every(epochs=1), [1, 5]),
        (every(epochs=2), [5]),
        (every(seconds=1e-9), list(range(1, 9))),
    ],
)
def test_schedule(
    tmp_path: Path, kind: Maker, name: str, schedule: Every, expected: list[int]
) -> None:
    fit(kind(tmp_path, every=schedule))
    assert steps(tmp_path / name) == expected


@BOTH
def test_by_default_each_hundredth_step_is_measured(tmp_path: Path, kind: Maker, name: str) -> None:
    fit(kind(tmp_path), epochs=None, iterations=203)
    assert steps(tmp_path / name) == [100, 200]


def test_accumulated_gradients_are_whole_and_the_first_batch_is_the_one_seen(
    tmp_path: Path,
) -> None:
    fit(
        GradientStatsHandler(tmp_path, every=every(1)),
        ActivationStatsHandler(tmp_path, layers=["first"], every=every(1)),
        accumulate=2,
        net=Plain(),
    )
    torch.manual_seed(0)
    net, batches = Plain(), data()
    x, y = (torch.cat(parts) for parts in zip(*batches[:2], strict=True))
    nn.functional.mse_loss(net(x), y).backward()
    gradient = net.first.weight.grad
    assert gradient is not None
    found = table(tmp_path / "gradients.csv")[1, "first.weight"]
    assert found == close({"norm": gradient.norm().item()} | by_numpy(gradient))
    assert steps(tmp_path / "gradients.csv") == [1, 2, 3, 4]
    outputs = table(tmp_path / "activations.csv")
    assert list(outputs) == [(step, "first") for step in (1, 2, 3, 4)]
    assert outputs[1, "first"] == close(by_numpy(net.first(batches[0][0])))


class FailingNet(Net):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        self.left -= self.training
        if self.left == 0:
            raise RuntimeError("on purpose")
        return out


def test_an_exception_in_the_net_leaves_no_hook_and_no_half_row(tmp_path: Path) -> None:
    handlers = [
        GradientStatsHandler(tmp_path, every=every(1)),
        ActivationStatsHandler(tmp_path, every=every(1)),
    ]
    # The dry batch is one more call.
    net = FailingNet(at=4)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(*handlers, net=net)
    assert hooks(net) == []
    assert steps(tmp_path / "activations.csv") == steps(tmp_path / "gradients.csv") == [1, 2]
    pickle.loads(pickle.dumps(handlers))


def test_an_exception_in_the_optimizer_leaves_no_half_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_optimizer: torch.optim.SGD) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(torch.optim.SGD, "step", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(
            GradientStatsHandler(tmp_path, every=every(1)),
            ActivationStatsHandler(tmp_path, every=every(1)),
        )
    for name in ("gradients.csv", "activations.csv"):
        assert len((tmp_path / name).read_text().splitlines()) == 1


HOST_READS = ["item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__array__"]


def test_one_host_read_at_a_due_step_and_none_at_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    for name in HOST_READS:
        method = getattr(torch.Tensor, name)

        def counted(
            tensor: torch.Tensor, *args: Any, method: Any = method, name: str = name, **options: Any
        ) -> Any:
            reads.append(name)
            return method(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for kind in (GradientStatsHandler, ActivationStatsHandler):
        handler, stats = kind(tmp_path, every=every(3)), by_hand(net)
        stats.inputs = torch.randn(5, 3)
        handler.train_begin(stats)
        reads.clear()
        measure(handler, stats)
        measure(handler, stats)
        assert reads == []
        measure(handler, stats)
        assert reads == ["tolist"]
        handler.train_end(stats)


def test_tensorboard_shows_what_the_tables_hold(tmp_path: Path) -> None:
    fit(GradientStatsHandler(tmp_path / "g", every=every(4)), net=Plain())
    fit(ActivationStatsHandler(tmp_path / "a", every=every(4)), net=Plain())
    gradients = table(tmp_path / "g" / "gradients.csv")
    outputs = table(tmp_path / "a" / "activations.csv")
    assert scalars(tmp_path / "g" / "tensorboard") == {
        f"gradients/{name}/norm": [(step, gradients[step, name]["norm"]) for step in (4, 8)]
        for name in ("first.weight", "first.bias")
    }
    expected: dict[str, Any] = {
        f"activations/first/{name}": [
            (step, pytest.approx(outputs[step, "first"][name])) for step in (4, 8)
        ]
        for name in ("mean", "std")
    }
    assert scalars(tmp_path / "a" / "tensorboard") == expected


@BOTH
def test_a_second_fit_starts_afresh(tmp_path: Path, kind: Maker, name: str) -> None:
    handler = kind(tmp_path, every=every(2))
    fit(handler, net=Net())
    fit(handler, net=Plain(), epochs=1)
    assert {owner.partition(".")[0] for _, owner in table(tmp_path / name)} == {"first"}
    assert steps(tmp_path / name) == [2, 4]
    assert {
        tuple(step for step, _ in points) for points in scalars(tmp_path / "tensorboard").values()
    } == {(2, 4)}


@BOTH
def test_a_resumed_run_appends_and_replaces_what_came_after_its_checkpoint(
    tmp_path: Path, kind: Maker, name: str
) -> None:
    net = Plain()
    net.first.weight.grad = torch.ones(1, 3)
    for step, torn in ((0, ""), (5, ""), (3, "0,6,first,0.3"), (2, "0,5")):
        with open(tmp_path / name, "a", encoding="utf-8") as file:
            file.write(torn)
        handler, stats = kind(tmp_path, every=every(1)), by_hand(net, step=step)
        stats.inputs = torch.randn(2, 3)
        handler.train_begin(stats)
        for _ in range(5 - step):
            measure(handler, stats)
        handler.train_end(stats)
        assert steps(tmp_path / name) == [1, 2, 3, 4, 5]
        assert all(
            [p[0] for p in ps] == [1, 2, 3, 4, 5]
            for ps in scalars(tmp_path / "tensorboard").values()
        )


@BOTH
def test_a_torn_line_is_dropped(tmp_path: Path, kind: Maker, name: str) -> None:
    stats = by_hand(Plain())
    stats.inputs = torch.randn(2, 3)
    handler = kind(tmp_path, every=every(1))
    handler.train_begin(stats)
    measure(handler, stats)
    handler.train_end(stats)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole + b"0,1")
    stats.step = 4
    handler.train_begin(stats)
    handler.train_end(stats)
    assert (tmp_path / name).read_bytes() == whole


@BOTH
def test_a_run_that_goes_on_in_another_folder_has_a_table(
    tmp_path: Path, kind: Maker, name: str
) -> None:
    handler, stats = kind(tmp_path, every=every(1)), by_hand(Plain(), step=7)
    stats.inputs = torch.randn(2, 3)
    handler.train_begin(stats)
    measure(handler, stats)
    handler.train_end(stats)
    assert steps(tmp_path / name) == [8]


@BOTH
def test_pickle_and_repr(tmp_path: Path, kind: Maker, name: str) -> None:
    handler = pickle.loads(pickle.dumps(kind(tmp_path)))
    handler.train_end(by_hand(Plain()))
    assert list(tmp_path.iterdir()) == []
    fit(handler, epochs=1)
    again = pickle.loads(pickle.dumps(handler))
    assert repr(again) == f"{type(again).__name__}(folder={tmp_path!r})"


@BOTH
def test_wrong_schedule_and_folder(tmp_path: Path, kind: Maker, name: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"StatsHandler\(every=...\).*received 10"):
        kind(tmp_path, every=10)
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"StatsHandler\(folder=...\)"):
        fit(kind(tmp_path / "file"))
