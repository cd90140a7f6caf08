"""A replayed training is the eager one bit for bit, or says why it is computed eagerly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import EAGER, REPLAYED, X, Y, mlp
from engine_runs import Losses, assert_equal, codes, fit, replayed
from torch import nn

from estimator import (
    BatchProcessor,
    Estimator,
    Trainer,
)
from estimator.handlers import (
    ActivationStatsHandler,
    CheckpointHandler,
    EMAHandler,
    EventHandler,
    WorstSamplesHandler,
    every,
    on,
)
from estimator.stats import TrainStats


@pytest.mark.parametrize("name", REPLAYED)
def test_a_replayed_training_is_the_eager_one(name: str) -> None:
    make, loss = REPLAYED[name]
    est, ours = fit("replay", make, loss)
    # In evaluation PyTorch has a kernel for a whole transformer layer, which tracing does not meet.
    fused = name == "attention"
    assert replayed(est) and codes(est) == (["E108"] if fused else [])
    assert replayed(est, evaluation=True) is not fused
    assert_equal(ours, fit("eager", make, loss)[1])
    assert "chosen (verified, equal bits)" in est.engine_report()


@pytest.mark.parametrize("name", EAGER)
def test_what_cannot_be_written_down_says_why(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, loss, code = EAGER[name]
    with caplog.at_level("INFO", "estimator"):
        est, ours = fit("auto", make, loss)
        assert codes(est) == []  # too short for anyone to try
        est, ours = fit("replay", make, loss)
    assert codes(est) == [code] and not replayed(est)
    said = [line for line in caplog.messages if f"[fit:{code}]" in line]
    assert len(said) == 1 and said[0].startswith("Steps are computed eagerly. ")
    assert_equal(ours, fit("eager", make, loss)[1])
    assert code in est.engine_report()


def test_a_branch_is_shown_with_its_line() -> None:
    make, loss, _ = EAGER["branch"]
    report = fit("replay", make, loss)[0].engine_report()
    assert "engine_nets.py:" in report and "'if h.max() > 1:'" in report
    assert "Use torch.where" in report


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"trainers": Trainer("sgd", lr=0.1, momentum=0.9, clip_norm=0.1)},
        {"trainers": [Trainer("sgd", lr=0.1, params=["0", "1"]), Trainer("adam", params="4")]},
        {"train": [(X[:8], Y[:8]), (X[8:11], Y[8:11]), (X[11:19], Y[11:19])], "batch_size": 32},
    ],
    ids=["bf16", "clipped", "two trainers", "odd batches"],
)
def test_settings_of_a_run_are_replayed(changes: dict[str, Any]) -> None:
    train = changes.pop("train", None)

    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        if train is None:
            return fit(engine, **changes)
        torch.manual_seed(0)
        est, seen = Estimator(mlp(), nn.CrossEntropyLoss()), Losses()
        est.fit(train, epochs=4, trainers="sgd", handlers=seen, engine=engine, progress=False)
        return est, [*seen.seen, *est.net.state_dict().values()]

    est, ours = run("replay")
    assert replayed(est)
    assert_equal(ours, run("eager")[1])


def test_a_scaled_loss_stays_eager() -> None:
    est, ours = fit("replay", precision="fp16")
    assert codes(est) == ["E105"] and not replayed(est)
    assert_equal(ours, fit("eager", precision="fp16")[1])


class Freeze(EventHandler):
    def epoch_begin(self, stats: TrainStats) -> None:
        stats.net.get_submodule("0").requires_grad_(stats.epoch < 2)


class Reload(EventHandler):
    def epoch_end(self, stats: TrainStats) -> None:
        state = {name: value * 0.5 for name, value in stats.net.state_dict().items()}
        stats.net.load_state_dict(state)


class Write(EventHandler):
    @torch.no_grad()
    def batch_end(self, stats: TrainStats) -> None:
        for p in stats.net.parameters():
            p.mul_(0.99)
            p.data = p.data.clone()


class Swap(EventHandler):
    def epoch_end(self, stats: TrainStats) -> None:
        stats.trainers["trainer"].optimizer = torch.optim.SGD(stats.net.parameters(), lr=0.05)


class SwapInside(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == 7:
            adam = torch.optim.Adam(stats.net.parameters(), lr=0.05, fused=True)
            stats.trainers["trainer"].optimizer = adam


class Redrop(EventHandler):
    def epoch_begin(self, stats: TrainStats) -> None:
        layer = stats.net.get_submodule("3")
        assert isinstance(layer, nn.Dropout)
        layer.p = 0.1 * stats.epoch


class Still(EventHandler):
    def batch_begin(self, stats: TrainStats) -> None:
        stats.net.get_submodule("1").train(stats.step % 12 < 8)


class Anneal(EventHandler):
    def batch_begin(self, stats: TrainStats) -> None:
        layer = stats.net.get_submodule("3")
        assert isinstance(layer, nn.Dropout)
        layer.p = 0.5 / (1 + stats.step // 4)


class Clip(EventHandler):
    def backward_end(self, stats: TrainStats) -> None:
        for p in stats.net.parameters():
            assert p.grad is not None
            p.grad.clamp_(-1e-3, 1e-3)


class Noise(EventHandler):
    def batch_begin(self, stats: TrainStats) -> None:
        stats.inputs = stats.inputs + torch.rand_like(stats.inputs)


class Hooked(EventHandler):
    def batch_begin(self, stats: TrainStats) -> None:
        if stats.step == 6:
            stats.net.get_submodule("2").register_forward_hook(lambda m, i, out: out * 2)


@pytest.mark.parametrize(
    "handler",
    [
        Freeze,
        Reload,
        Write,
        Swap,
        SwapInside,
        Redrop,
        Anneal,
        Still,
        Clip,
        Noise,
        Hooked,
        EMAHandler,
    ],
)
def test_what_handlers_do_counts(handler: Callable[[], EventHandler]) -> None:
    est, ours = fit("replay", mlp, None, handler())
    assert replayed(est) or handler is Hooked
    assert_equal(ours, fit("eager", mlp, None, handler())[1])


class Signs(torch.optim.Optimizer):
    """An optimizer that torch does not have."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


def test_an_optimizer_from_elsewhere_steps_as_ever() -> None:
    est, ours = fit("replay", trainers=Trainer(Signs, lr=0.02))
    assert replayed(est) and codes(est) == []
    assert_equal(ours, fit("eager", trainers=Trainer(Signs, lr=0.02))[1])


def test_a_metric_in_plain_python_counts_replayed_batches() -> None:
    def share(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        pairs = zip(outputs.argmax(1).tolist(), targets.tolist(), strict=True)
        return float(sum(a == b for a, b in pairs) / len(targets))

    values = []
    for engine in ("eager", "replay"):
        torch.manual_seed(0)
        est = Estimator(mlp(), nn.CrossEntropyLoss(), [share, "accuracy"])
        settings: dict[str, Any] = {
            "batch_size": 8,
            "epochs": 4,
            "device": "cpu",
            "trainers": "sgd",
        }
        stats = est.fit((X, Y), (X, Y), engine=engine, progress=False, **settings)
        values.append([stats[f"{split}_share"] for split in ("train", "val")])
        assert stats["val_share"] == pytest.approx(stats["val_accuracy"])
    assert replayed(est) and replayed(est, evaluation=True) and values[0] == values[1]


def test_a_hook_on_a_weight_counts_from_the_next_epoch() -> None:
    class Damped(EventHandler):
        def epoch_end(self, stats: TrainStats) -> None:
            if stats.epoch == 2:
                stats.net.get_parameter("0.weight").register_hook(lambda grad: grad * 0.1)

    est, ours = fit("replay", mlp, None, Damped())
    assert codes(est) == ["E101"] and "attached to a parameter" in est.engine_report()
    assert_equal(ours, fit("eager", mlp, None, Damped())[1])


class Bag:
    """Something that moves itself, and whose tensors are not to be seen."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Bag:
        return self

    def __len__(self) -> int:
        return len(self.x)


def test_batches_that_cannot_be_looked_into_stay_eager() -> None:
    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, bag: Bag) -> Any:
            return self.layer(bag.x)

    class Bags(BatchProcessor):
        def size(self, inputs: Any, targets: Any) -> int:
            return len(targets)

    est = Estimator(Open(), nn.CrossEntropyLoss(), processor=Bags())
    est.fit([(Bag(X), Y)] * 3, epochs=1, trainers="sgd", engine="replay", progress=False)
    assert codes(est) == ["E102"] and "holds a Bag" in est.engine_report()


def test_outputs_that_cannot_be_looked_into_stay_eager() -> None:
    class Bagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return Bag(self.layer(x))

    def loss(outputs: Bag, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.x, targets)

    est = Estimator(Bagged(), loss)
    est.fit((X, Y), epochs=1, trainers="sgd", engine="replay", progress=False)
    assert codes(est) == ["E102"] and "holds a Bag" in est.engine_report()


def test_handlers_that_meet_the_graph_keep_it() -> None:
    class Regular(EventHandler):
        def forward_end(self, stats: TrainStats) -> None:
            assert stats.outputs.requires_grad

    @on("forward_end")
    def look(stats: TrainStats) -> None:
        assert stats.outputs.requires_grad

    for handler in (Regular(), look):
        assert codes(fit("replay", mlp, None, handler)[0]) == ["E113"]


def test_layers_are_measured_and_samples_followed(tmp_path: Path) -> None:
    def handlers(name: str) -> list[EventHandler]:
        layers = ActivationStatsHandler(tmp_path / name / "layers", every=every(3))
        return [layers, WorstSamplesHandler(tmp_path / name / "worst", worst=3)]

    est, ours = fit("replay", mlp, None, *handlers("ours"))
    assert replayed(est) and codes(est) == ["E101"]
    assert_equal(ours, fit("eager", mlp, None, *handlers("theirs"))[1])
    for file in ("layers/activations.csv", "worst/worst_samples_train_e4.csv"):
        assert (tmp_path / "ours" / file).read_text() == (tmp_path / "theirs" / file).read_text()


def test_a_replayed_run_resumes_as_any_other(tmp_path: Path) -> None:
    whole = fit("eager")[1][-8:]
    fit("replay", mlp, None, CheckpointHandler(tmp_path), epochs=2)
    resumed = fit("replay", mlp, None, CheckpointHandler(tmp_path), resume=True)[1][-8:]
    assert_equal(resumed[:-1], whole[:-1])
