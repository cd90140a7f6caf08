"""A training by CUDA graphs is the eager one, and leaves everything as an eager run does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import REPLAYED, X, Y, mlp
from engine_runs import Losses, assert_equal
from graph_runs import (
    CLOSE,
    DEVICES,
    FUSED,
    STRICT,
    STRICT_AUTO,
    assert_close,
    codes,
    fit,
    graphed,
    plain,
    recorder,
    step_of,
    whole,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from estimator import Engine, Estimator, Trainer
from estimator.gather import Picked
from estimator.handlers import ActivationStatsHandler, NaNHandler, every, on
from estimator.stats import TrainStats

each_device = pytest.mark.parametrize("device", DEVICES)


@each_device
@pytest.mark.parametrize("name", REPLAYED)
def test_a_recorded_training_is_the_eager_one(name: str, device: str) -> None:
    make, loss = REPLAYED[name]
    est, ours, made = graphed(STRICT, make, loss, device=device)
    assert whole(est) == [True] and codes(est) == [] and made.replays == 16
    assert_equal(ours, fit("eager", make, loss, device=device)[1])
    assert "chosen (verified, whole step)" in est.engine_report()


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"trainers": Trainer("sgd", lr=0.1)},
    "momentum": {"trainers": Trainer("sgd", lr=0.1, momentum=0.9, nesterov=True)},
    "fused sgd": {"trainers": Trainer("sgd", lr=0.1, momentum=0.9, fused=True)},
    "adamw": {"trainers": Trainer("adamw", lr=0.01, fused=True, amsgrad=True)},
    "clipped": {"trainers": Trainer("adam", lr=0.01, fused=True, clip_norm=0.1, clip_value=0.01)},
    "step per epoch": {
        "trainers": Trainer("adam", fused=True, scheduler=partial(StepLR, step_size=2))
    },
    "two trainers": {
        "trainers": [
            Trainer("sgd", lr=0.1, params=["0", "1"]),
            Trainer("adam", params="4", fused=True),
        ]
    },
    "bf16": {"precision": "bf16"},
}


@each_device
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_run_are_recorded_whole(name: str, device: str) -> None:
    est, ours, _ = graphed(STRICT, device=device, **SETTINGS[name])
    assert whole(est) == [True] and codes(est) == []
    assert_equal(ours, fit("eager", device=device, **SETTINGS[name])[1])


EAGER_UPDATES: dict[str, tuple[dict[str, Any], str]] = {
    "counts on the host": ({"trainers": Trainer("adam", lr=0.01)}, "E116"),
    "another class": ({"trainers": Trainer("rmsprop", lr=0.01)}, "E116"),
    "tensor rate": ({"trainers": Trainer("sgd", lr=torch.tensor(0.1))}, "E116"),
    "momentum that cycles": (
        {"trainers": Trainer("sgd", lr=0.1, momentum=0.9,
                             scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=20))},
        "E117",
    ),
    "fp16": ({"precision": "fp16"}, "E105"),
}  # fmt: skip


@each_device
@pytest.mark.parametrize("name", EAGER_UPDATES)
def test_an_optimizer_that_cannot_be_recorded_steps_itself(name: str, device: str) -> None:
    settings, code = EAGER_UPDATES[name]
    est, ours, made = graphed(STRICT, device=device, **settings)
    assert whole(est) == [False] and codes(est) == [code] and made.replays >= 10
    assert_equal(ours, fit("eager", device=device, **settings)[1])
    assert "chosen (verified, forward and backward)" in est.engine_report()


RATES: dict[str, Callable[[Any], Any]] = {
    "one cycle": partial(OneCycleLR, max_lr=0.1, total_steps=20, cycle_momentum=False),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 0.9**step),
    "cosine": partial(CosineAnnealingLR, T_max=20),
}
KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "adamw": {"fused": True, "weight_decay": 0.1},
}


@each_device
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RATES)
def test_rates_that_change_each_step_are_read_on_the_device(
    name: str, kind: str, device: str
) -> None:
    trainer = Trainer(kind, lr=0.05, scheduler=RATES[name], step="step", **KINDS[kind])
    est, ours, made = graphed(CLOSE, plain, device=device, trainers=trainer)
    assert whole(est) == [True] and codes(est) == [] and len(made.made) == 1
    _, theirs = fit("eager", plain, device=device, trainers=trainer)
    assert_close(ours, theirs)
    rates = [group["lr"] for group in est.train_stats.trainers["trainer"].optimizer.param_groups]  # type: ignore[union-attr]  # there was a run
    assert all(type(rate) is float for rate in rates)


@each_device
@pytest.mark.parametrize("close", [False, True])
def test_rates_of_float32_give_equal_bits_on_the_device_too(close: bool, device: str) -> None:
    # Halves of a power of two are the same number as a float32.
    schedule = partial(StepLR, step_size=1, gamma=0.5)
    trainer = Trainer("adam", lr=2**-6, scheduler=schedule, fused=True)
    est, ours, made = graphed(CLOSE if close else STRICT, device=device, trainers=trainer)
    assert whole(est) == [True] and len(made.made) == (1 if close else 4)
    assert_equal(ours, fit("eager", device=device, trainers=trainer)[1])


@each_device
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")])
@pytest.mark.parametrize("sizes", [(8, 8, 8, 8, 8), (8, 5, 8, 8, 5), (5, 8, 8, 5)])
@pytest.mark.parametrize("changes", [{}, {"trainers": FUSED, "precision": "bf16"}])
def test_groups_of_batches_are_recorded(
    sizes: tuple[int, ...], loss: Any, changes: dict[str, Any], device: str
) -> None:
    parts = list(zip(X[: sum(sizes)].split(sizes), Y[: sum(sizes)].split(sizes), strict=True))

    def run(engine: Any) -> tuple[Estimator, list[Tensor]]:
        torch.manual_seed(0)
        est, seen = Estimator(mlp(), loss), Losses()
        settings: dict[str, Any] = {"trainers": FUSED, "device": device, "progress": False}
        settings |= changes
        est.fit(parts, epochs=12, accumulate=2, engine=engine, handlers=seen, **settings)
        return est, [*seen.seen, *est.net.state_dict().values()]

    with recorder(device) as made:
        est, ours = run(STRICT)
    assert made.replays > 10
    assert codes(est) == []
    assert_equal(ours, run("eager")[1])


@each_device
def test_the_optimizers_step_of_a_group_is_recorded_too(device: str) -> None:
    est, ours, made = graphed(STRICT, device=device, accumulate=5, epochs=10)
    update, first, following = sorted(recorded.replays for recorded in made.made)
    assert update < first < following and update >= 6
    assert_equal(ours, fit("eager", device=device, accumulate=5, epochs=10)[1])


@each_device
def test_odd_batches_and_seldom_shapes(device: str) -> None:
    est, ours, _ = graphed(STRICT, device=device, batch_size=12, epochs=6)
    assert whole(est) == [True, True] or whole(est) == [True]
    assert_equal(ours, fit("eager", device=device, batch_size=12, epochs=6)[1])


def test_the_clock_decides_unless_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.engine.graph.FIRST_COST", 1e-9)
    for faster, chosen in ((10.0, [True]), (0.0, [])):
        monkeypatch.setattr("estimator.engine.contest._FASTER", faster)
        est, ours, _ = graphed(STRICT_AUTO, epochs=14)
        assert whole(est) == chosen
        assert ("chosen (verified" if chosen else "not faster") in est.engine_report()
        assert_equal(ours, fit("eager", epochs=14)[1])


def test_what_handlers_keep_of_a_batch_stays() -> None:
    kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @on("batch_end")
    def keep(stats: TrainStats) -> None:
        assert stats.loss is not None
        kept.append((stats.loss, stats.outputs, stats.inputs))

    graphed(STRICT, mlp, None, keep)
    ours, kept = kept, []
    fit("eager", mlp, None, keep)
    for mine, theirs in zip(ours, kept, strict=True):
        assert all(map(torch.equal, mine, theirs))


def test_a_loss_of_several_parts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Any:
            h = self.body(x).relu()
            return {"kind": self.a(h), "size": self.b(h)[:, 0]}

    data = {"x": X, "kind": Y, "size": X[:, 1].contiguous()}

    def run(engine: Any) -> list[Any]:
        torch.manual_seed(0)
        est = Estimator(Two(), {"kind": nn.CrossEntropyLoss(), "size": nn.MSELoss()})
        stats = est.fit(data, epochs=4, batch_size=8, trainers="sgd", engine=engine, progress=False)
        return [*stats.history.columns, stats.train, *map(Tensor.tolist, est.net.parameters())]

    with recorder() as made:
        ours = run(STRICT)
    assert made.replays == 16 and ours == run("eager")


@each_device
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("engine", [STRICT, STRICT_AUTO])
def test_rows_are_gathered_inside_of_the_recording(
    engine: str, accumulate: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estimator.engine.graph.FIRST_COST", 1e-9)
    monkeypatch.setattr("estimator.engine.contest._FASTER", 10.0)
    x, y = X.to(device), Y.to(device)

    class Takes:
        """Makes batches, and counts how often in Python."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, rows: Tensor) -> Any:
            self.calls += 1
            return [x.index_select(0, rows), y.index_select(0, rows)]

    def run(engine: Any) -> tuple[Any, list[Any], int]:
        torch.manual_seed(0)
        take = Takes()
        train = [Picked(rows, take) for rows in torch.randperm(39).to(device).split(8)]
        est = Estimator(mlp(), nn.CrossEntropyLoss(), ["accuracy"])
        stats = est.fit(
            train, epochs=40, trainers=FUSED, engine=engine, device=device, progress=False,
            accumulate=accumulate, handlers=[NaNHandler()],
        )  # fmt: skip
        numbers = [torch.tensor(stats.train["loss"]), torch.tensor(stats.train["accuracy"])]
        return est, [*numbers, *est.net.state_dict().values()], take.calls

    with recorder(device) as made:
        est, ours, calls = run(engine)
    assert made.replays > 80 and True in [form.replays for form in step_of(est).forms.values()]
    _, theirs, others = run("eager")
    assert calls < others - 20
    assert_equal(ours, theirs)


def test_engines_are_told_apart() -> None:
    assert Engine("graph").by_name
    with recorder():
        est, _ = fit("replay")
    assert type(est._step).__name__ == "ReplayStep"


def test_a_layer_that_is_measured_gets_a_batch_that_was_not_gathered(tmp_path: Path) -> None:
    def take(rows: Tensor) -> Any:
        return X.index_select(0, rows), Y.index_select(0, rows)

    def run(engine: Any) -> list[Tensor]:
        torch.manual_seed(0)
        est = Estimator(mlp(), nn.CrossEntropyLoss())
        train = [Picked(rows, take) for rows in torch.arange(40).split(8)]
        folder = tmp_path / getattr(engine, "tier", "eager")
        handler = ActivationStatsHandler(folder, every=every(4))
        with recorder():
            est.fit(train, epochs=6, trainers=FUSED, engine=engine, device="cpu",
                    progress=False, handlers=[handler])  # fmt: skip
        return list(est.net.state_dict().values())

    assert_equal(run(STRICT), run("eager"))
    measured = [(tmp_path / name / "activations.csv").read_text() for name in ("graph", "eager")]
    assert measured[0] == measured[1]


@pytest.mark.parametrize("target", [{"iterations": 60}, {"epochs": 12}])
def test_a_run_of_known_and_unknown_length(
    target: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estimator.engine.graph.FIRST_COST", 1e-9)

    class Stream:
        def __iter__(self) -> Any:
            return iter(list(zip(X.split(8), Y.split(8), strict=True)))

    def run(engine: Any) -> tuple[Any, list[Tensor]]:
        torch.manual_seed(0)
        est = Estimator(mlp(), nn.CrossEntropyLoss(label_smoothing=0.1))
        settings: dict[str, Any] = {"trainers": FUSED, "device": "cpu", "progress": False}
        est.fit(Stream(), engine=engine, **settings, **target)
        return est, list(est.net.state_dict().values())

    with recorder() as made:
        est, ours = run(STRICT_AUTO)
    assert (made.replays > 10) or "E109" in est.engine_report()
    assert_equal(ours, run("eager")[1])


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("rmsprop", {}, ["E116"]),
        ("adam", {"foreach": False}, ["E116"]),
        ("adam", {"lr": torch.tensor(0.01)}, ["E116"]),
        ("sgd", {"foreach": False}, []),
    ],
)
def test_kernels_that_were_chosen_are_kept(
    kind: str, options: dict[str, Any], found: list[str]
) -> None:
    trainer = Trainer(kind, **({"lr": 0.01} | options))
    est, ours, _ = graphed(CLOSE, trainers=trainer)
    assert codes(est) == found and whole(est) == [not found]
    assert_equal(ours, fit("eager", trainers=trainer)[1])
