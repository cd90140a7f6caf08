"""What handlers find in a run by CUDA graphs, and that all is put back after it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import X, Y, mlp
from engine_runs import assert_equal
from graph_runs import (
    CLOSE,
    DEVICES,
    STRICT,
    codes,
    fit,
    graphed,
    recorder,
    whole,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from estimator import Estimator, Trainer
from estimator.gather import Picked
from estimator.handlers import (
    ActivationStatsHandler,
    AugmentHandler,
    CheckpointHandler,
    EMAHandler,
    EventHandler,
    GradientStatsHandler,
    MixUpHandler,
    NaNHandler,
    WorstSamplesHandler,
    every,
)
from estimator.stats import TrainStats

each_device = pytest.mark.parametrize("device", DEVICES)


class Seen(EventHandler):
    """Acts where gradients are complete, in place or by others."""

    def __init__(self, replaces: bool = False) -> None:
        super().__init__()
        self.replaces = replaces

    def backward_end(self, stats: TrainStats) -> None:
        for p in stats.net.parameters():
            assert p.grad is not None
            if self.replaces:
                p.grad = p.grad.clamp(-1e-3, 1e-3)
            else:
                p.grad.clamp_(-1e-3, 1e-3)


@each_device
@pytest.mark.parametrize("replaces", [False, True])
def test_handlers_between_backward_and_step_cut_the_recording(replaces: bool, device: str) -> None:
    est, ours, made = graphed(STRICT, mlp, None, Seen(replaces), device=device)
    assert whole(est) == [False] and codes(est) == []
    assert len(made.made) == (1 if replaces else 2)
    assert_equal(ours, fit("eager", mlp, None, Seen(replaces), device=device)[1])


@each_device
def test_handlers_of_all_kinds(tmp_path: Path, device: str) -> None:
    def handlers(name: str) -> list[EventHandler]:
        folder = tmp_path / name
        return [
            GradientStatsHandler(folder / "gradients", every=every(2)), NaNHandler(), EMAHandler(),
            WorstSamplesHandler(folder / "worst", worst=3),
        ]  # fmt: skip

    est, ours, _ = graphed(STRICT, mlp, None, *handlers("ours"), device=device)
    assert whole(est) == [False] and codes(est) == []
    assert_equal(ours, fit("eager", mlp, None, *handlers("theirs"), device=device)[1])
    for file in ("gradients/gradients.csv", "worst/worst_samples_train_e4.csv"):
        assert (tmp_path / "ours" / file).read_text() == (tmp_path / "theirs" / file).read_text()


@each_device
def test_layers_are_measured_in_eager_batches(tmp_path: Path, device: str) -> None:
    handler = partial(ActivationStatsHandler, every=every(3))
    est, ours, _ = graphed(STRICT, mlp, None, handler(tmp_path / "a"), device=device)
    assert whole(est) == [True] and codes(est) == ["E101"]
    assert_equal(ours, fit("eager", mlp, None, handler(tmp_path / "b"), device=device)[1])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@each_device
@pytest.mark.parametrize("engine", [STRICT, CLOSE])
@pytest.mark.parametrize("watches", [False, True])
def test_a_snapshot_inside_a_run_is_that_of_an_eager_one(
    engine: Any, watches: bool, device: str
) -> None:
    trainer = Trainer(
        "adam", lr=2**-6, scheduler=partial(StepLR, step_size=2, gamma=0.5),
        fused=True if engine == STRICT else None,
    )  # fmt: skip

    def run(engine: Any) -> list[Any]:
        shots: list[Any] = []

        class Shooting(EventHandler):
            def epoch_end(self, stats: TrainStats) -> None:
                shots.append(stats.snapshot()["trainers"])

        class Look(EventHandler):
            def batch_end(self, stats: TrainStats) -> None:
                states = stats.trainers["trainer"].optimizer.state.values()
                shots.append([float(state["step"]) for state in states])

        handlers = [Shooting(), *([Look()] if watches else [])]
        with recorder(device):
            torch.manual_seed(0)
            Estimator(mlp(), nn.CrossEntropyLoss()).fit(
                (X, Y), epochs=4, batch_size=8, trainers=trainer, handlers=handlers,
                engine=engine, device=device, progress=False,
            )  # fmt: skip
        return shots

    ours, theirs = run(engine), run("eager")
    if engine == STRICT:
        assert same(ours, theirs)
        return
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, list):
            assert mine == other
            continue
        mine, other = mine["trainer"], other["trainer"]
        assert mine["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
        assert mine["scheduler"].keys() == other["scheduler"].keys()
        for index, state in mine["optimizer"]["state"].items():
            step = other["optimizer"]["state"][index]["step"]
            assert same(state["step"], step)


@each_device
def test_a_recorded_run_resumes_as_any_other(tmp_path: Path, device: str) -> None:
    expected = fit("eager", device=device)[1][-8:]
    graphed(STRICT, mlp, None, CheckpointHandler(tmp_path), device=device, epochs=2)
    _, resumed, _ = graphed(STRICT, mlp, None, CheckpointHandler(tmp_path), device=device,
                            resume=True)  # fmt: skip
    assert_equal(resumed[-8:-1], expected[:-1])


class Stop(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == 13:
            raise KeyboardInterrupt


@each_device
@pytest.mark.parametrize("engine", [STRICT, CLOSE])
@pytest.mark.parametrize("stops", [False, True])
def test_everything_is_put_back(engine: Any, stops: bool, device: str) -> None:
    net = mlp()
    fused = True if engine == STRICT else None
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    before = [dict(group, params=None) for group in optimizer.param_groups]
    est = Estimator(net, nn.CrossEntropyLoss())
    with recorder(device) as made:
        arguments: dict[str, Any] = {
            "epochs": 4, "batch_size": 8, "trainers": optimizer, "engine": engine,
            "device": device, "progress": False, "handlers": [Stop()] if stops else [],
        }  # fmt: skip
        if stops:
            with pytest.raises(KeyboardInterrupt):
                est.fit((X, Y), **arguments)
        else:
            est.fit((X, Y), **arguments)
    assert made.replays > 5 and made.alive == 0
    assert device == "cuda" or made.is_closed
    assert [dict(group, params=None) for group in optimizer.param_groups] == before
    assert not optimizer._optimizer_state_dict_pre_hooks
    steps = {float(state["step"]) for state in optimizer.state.values()}
    assert steps == {13.0 if stops else 20.0}
    assert net.training
    for p in net.parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all())


@pytest.mark.parametrize("make", [lambda: AugmentHandler(doubled), lambda: MixUpHandler(2)])
def test_batches_that_handlers_change_are_not_gathered_in_the_step(make: Any) -> None:
    def take(rows: Tensor) -> Any:
        return X.index_select(0, rows), Y.index_select(0, rows)

    def run(engine: Any) -> list[Tensor]:
        torch.manual_seed(0)
        train = [Picked(rows, take) for rows in torch.arange(40).split(8)]
        est = Estimator(mlp(), nn.CrossEntropyLoss())
        est.fit(
            train, epochs=8, trainers=Trainer("adam", lr=0.01, fused=True), engine=engine,
            device="cpu", progress=False, handlers=[make()],
        )  # fmt: skip
        return list(est.net.state_dict().values())

    with recorder() as made:
        ours = run(STRICT)
    assert made.replays > 20
    assert_equal(ours, run("eager"))


def doubled(batch: Any) -> Any:
    return 2 * batch[0], batch[1]
