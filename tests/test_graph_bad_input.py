"""Whatever a graph cannot do is computed as eagerly as before, and says why in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from engine_nets import EAGER, Uncopied, X, Y, mlp
from engine_runs import assert_equal
from graph_runs import (
    DEVICES,
    STRICT,
    STRICT_AUTO,
    codes,
    fit,
    graphed,
    recorder,
    step_of,
    whole,
)
from test_engine_replay import (
    Bag,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from estimator import ArgumentError, BatchProcessor, Engine, Estimator, Trainer
from estimator.engine.cause import CURES
from estimator.handlers import EventHandler, on
from estimator.stats import TrainStats

each_device = pytest.mark.parametrize("device", DEVICES)


@each_device
@pytest.mark.parametrize("name", [name for name in EAGER if name != "uncopied"])
def test_what_cannot_be_recorded_says_why(
    name: str, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, loss, code = EAGER[name]
    with caplog.at_level("INFO", "estimator"):
        est, ours, made = graphed(STRICT, make, loss, device=device)
    assert codes(est) == [code] and made.alive == 0 and whole(est) == []
    said = [line for line in caplog.messages if f"[fit:{code}]" in line]
    assert len(said) == 1 and said[0].startswith("Steps are computed eagerly. ")
    assert_equal(ours, fit("eager", make, loss, device=device)[1])
    assert code in est.engine_report()
    assert set(codes(graphed(STRICT_AUTO, make, loss, device=device)[0])) <= {code}


@each_device
@pytest.mark.parametrize(
    ("name", "line"), [("branch", "'if h.max() > 1:'"), ("reading loss", "loss.item()")]
)
def test_a_read_is_shown_with_its_line(name: str, line: str, device: str) -> None:
    make, loss, _ = EAGER[name]
    report = graphed(STRICT, make, loss, device=device)[0].engine_report()
    assert "engine_nets.py:" in report and line in report
    assert CURES["E102"] in report


def test_what_is_not_copied_need_not_be_copyable() -> None:
    est, ours, _ = graphed(STRICT, Uncopied)
    assert whole(est) == [True]
    assert_equal(ours, fit("eager", Uncopied)[1])


class Keeper(nn.Module):
    """What Python keeps of a call: a list, a buffer that is replaced, NumPy's random numbers."""

    mean: Tensor

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what, self.seen = nn.Linear(8, 2), what, [0.0]
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Any:
        if self.what == "list":
            self.seen.append(len(x))
        elif self.what == "new":
            self.fresh = len(self.seen)
        elif self.what == "buffer":
            self.mean = self.mean * 0.9 + x.mean(0) * 0.1
        elif self.what == "numpy":
            return self.layer(x) * float(np.random.rand() + 0.5)
        elif self.what == "table":
            return self.layer(x) * torch.tensor([1.0, 2.0]).to(x.device)
        return self.layer(x - self.mean)


@each_device
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("list", "E104", "Keeper changes what is in its seen"),
        ("buffer", "E121", "are replaced again and again"),
        ("numpy", "E104", "random numbers of NumPy are drawn"),
        ("new", "", ""),
        ("table", "E102", "cannot be recorded"),
    ],
)
def test_what_python_keeps_is_not_lost(what: str, code: str, said: str, device: str) -> None:
    def run(engine: Any) -> tuple[Estimator, list[Tensor], int]:
        np.random.seed(0)
        if engine == "eager":
            est, seen = fit(engine, partial(Keeper, what), device=device)
        else:
            est, seen, _ = graphed(engine, partial(Keeper, what), device=device)
        return est, seen, len(est.net.seen)  # type: ignore[arg-type]  # a Keeper

    est, ours, kept = run(STRICT)
    assert codes(est) == ([code] if code else []) and said in est.engine_report()
    _, theirs, others = run("eager")
    assert kept == others
    assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (EAGER["counter"][0], "Counter changes its attribute calls"),
        (partial(Keeper, "buffer"), "Keeper changes what is in its buffers"),
    ],
)
def test_what_python_keeps_is_seen_where_nobody_watches(
    make: Callable[[], nn.Module], said: str
) -> None:
    def run(engine: Any) -> tuple[Estimator, list[Tensor]]:
        torch.manual_seed(0)
        est = Estimator(make(), nn.CrossEntropyLoss())
        with recorder():
            est.fit(
                (X, Y), epochs=4, batch_size=8, trainers="sgd", engine=engine, device="cpu",
                progress=False,
            )  # fmt: skip
        return est, list(est.net.state_dict().values())

    est, ours = run(STRICT)
    assert codes(est) == ["E104"] and said in est.engine_report()
    assert_equal(ours, run("eager")[1])


def test_a_hook_on_a_weight_counts_from_the_next_epoch() -> None:
    class Damped(EventHandler):
        def epoch_end(self, stats: TrainStats) -> None:
            if stats.epoch == 2:
                stats.net.get_parameter("0.weight").register_hook(lambda grad: grad * 0.1)

    est, ours, _ = graphed(STRICT, mlp, None, Damped())
    assert codes(est) == ["E101"] and "attached to a parameter" in est.engine_report()
    assert_equal(ours, fit("eager", mlp, None, Damped())[1])


def test_an_optimizer_with_hooks_steps_itself() -> None:
    def run(engine: Any) -> tuple[Any, list[Tensor]]:
        torch.manual_seed(0)
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *given: None)
        est = Estimator(net, nn.CrossEntropyLoss())
        with recorder():
            est.fit(
                (X, Y), epochs=4, batch_size=8, trainers=optimizer, engine=engine, device="cpu",
                progress=False,
            )  # fmt: skip
        return est, list(net.state_dict().values())

    est, ours = run(STRICT)
    assert codes(est) == ["E116"] and "has hooks or was replaced" in est.engine_report()
    assert_equal(ours, run("eager")[1])


def test_handlers_that_meet_the_graph_keep_it() -> None:
    @on("forward_end")
    def look(stats: TrainStats) -> None:
        assert stats.outputs.requires_grad

    assert codes(graphed(STRICT, mlp, None, look)[0]) == ["E113"]


def test_many_shapes_are_too_many() -> None:
    with recorder():
        est = Estimator(mlp(), nn.CrossEntropyLoss())
        train = [(X[:n], Y[:n]) for n in range(2, 14)]
        est.fit(train, epochs=2, trainers="sgd", engine=STRICT, device="cpu", progress=False)
    assert codes(est) == ["E103"] and len(step_of(est).forms) == 8


def test_a_short_run_does_not_pay() -> None:
    est, _, made = graphed(STRICT_AUTO)
    assert "[fit:E109] the run is too short" in est.engine_report() and made.made == []


def test_batches_that_cannot_be_looked_into() -> None:
    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, bag: Bag) -> Any:
            return self.layer(bag.x)

    class Bags(BatchProcessor):
        def size(self, inputs: Any, targets: Any) -> int:
            return len(targets)

    with recorder():
        est = Estimator(Open(), nn.CrossEntropyLoss(), processor=Bags())
        est.fit([(Bag(X), Y)] * 3, epochs=1, trainers="sgd", engine=STRICT, device="cpu",
                progress=False)  # fmt: skip
    assert codes(est) == ["E102"] and "holds a Bag" in est.engine_report()


def test_a_tensor_that_is_elsewhere() -> None:
    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x: Tensor, *rest: Tensor) -> Any:
            return self.layer(x)

    class Elsewhere(EventHandler):
        def batch_begin(self, stats: TrainStats) -> None:
            stats.inputs = (stats.inputs, torch.empty(1, device="meta"))

    est, *_ = graphed(STRICT, Ignoring, None, Elsewhere())
    assert codes(est) == ["E102"] and "not on the device" in est.engine_report()


def test_a_tier_that_must_be_used_raises() -> None:
    make, loss, code = EAGER["branch"]
    with recorder(), pytest.raises(ArgumentError, match=rf"\[fit:{code}\]"):
        fit(Engine("graph", on_fallback="error"), make, loss)
    for engine in (Engine("graph", verify="equal", on_fallback="silent"), STRICT):
        est, *_ = graphed(engine, mlp, None, trainers=Trainer("adam"))
        assert codes(est) == ["E116"]


def test_graphs_are_not_for_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "estimator"):
        est, _ = fit(STRICT)
    assert "[fit:E111] trained on cpu by 1 processes" in caplog.text
    assert "the only tier of this run" in est.engine_report()
    with pytest.raises(ArgumentError, match="E111"):
        fit(Engine("graph", on_fallback="error"))


def test_rates_that_change_more_than_a_few_times_are_given_up() -> None:
    trainer = Trainer("adam", fused=True, scheduler=partial(StepLR, step_size=1))
    est, ours, _ = graphed(STRICT, trainers=trainer, epochs=10)
    assert codes(est) == ["E117"] and whole(est) == [False]
    assert_equal(ours, fit("eager", trainers=trainer, epochs=10)[1])


def test_random_streams_of_python_stay() -> None:
    make, loss, _ = EAGER["lottery"]
    graphed(STRICT, make, loss)
    ours = random.random()
    fit("eager", make, loss)
    assert ours == random.random()
