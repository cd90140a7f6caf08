"""A recording that is not the eager step, or does not fit into memory, is not used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from engine_nets import X, Y, mlp
from engine_runs import assert_equal
from graph_runs import (
    CLOSE,
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
from test_engine_replay import (
    Clip,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from estimator import BatchProcessor, Engine, Estimator, Trainer
from estimator.engine import recording
from estimator.engine.cause import CannotTraceError
from estimator.engine.recording import Odd, Trial
from estimator.engine.sharing import SharedGradients
from estimator.handlers import on
from estimator.stats import TrainStats


def weighed(weight: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss with a number that is seen by nobody."""
    return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * weight[0]


@pytest.mark.parametrize(("factor", "code"), [(0.9, "E108"), (1 + 1e-6, "E119")])
def test_a_number_from_outside_that_changes_each_step(factor: float, code: str) -> None:
    def run(engine: Any) -> tuple[Any, ...]:
        weight = [1.0]

        @on("batch_end")
        def anneal(stats: TrainStats) -> None:
            weight[0] *= factor

        run = fit if engine == "eager" else graphed
        return run(engine, plain, weighed(weight), anneal)

    est, ours, *_ = run(STRICT)
    assert codes(est) == [code]
    assert_equal(ours, run("eager")[1])


def test_a_number_from_outside_that_changes_between_epochs() -> None:
    def run(engine: Any) -> tuple[Any, ...]:
        weight = [1.0]

        @on("epoch_begin")
        def anneal(stats: TrainStats) -> None:
            weight[0] = 1.0 if stats.epoch < 2 else 0.5

        run = fit if engine == "eager" else graphed
        return run(engine, mlp, weighed(weight), anneal)

    with pytest.warns(UserWarning, match="a number that it cannot see has changed"):
        est, ours, *_ = run(STRICT)
    assert codes(est) == ["E108"] and step_of(est).is_off
    assert_equal(ours, run("eager")[1])


class Mine(BatchProcessor):
    def forward(self, inputs: Any) -> Any:
        return self.net(inputs) * 2


def test_what_may_depend_on_unseen_numbers_is_recorded_by_name_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("estimator.engine.graph.FIRST_COST", 1e-9)
    for engine, expected in ((STRICT, []), (STRICT_AUTO, ["E114"])):
        with recorder():
            est = Estimator(mlp(), nn.CrossEntropyLoss(), processor=Mine())
            est.fit(
                (X, Y), epochs=8, batch_size=8, trainers="sgd", engine=engine, device="cpu",
                progress=False,
            )  # fmt: skip
        assert codes(est) == expected


@pytest.mark.parametrize("accumulate", [1, 2])
def test_too_little_memory(accumulate: int) -> None:
    for fails in ([torch.OutOfMemoryError("full")] * 2, [None, torch.OutOfMemoryError("full")]):
        with recorder(fails=fails):
            est, ours = fit(STRICT, mlp, None, Clip(), accumulate=accumulate)
        assert "E118" in codes(est)
        assert_equal(ours, fit("eager", mlp, None, Clip(), accumulate=accumulate)[1])
    with recorder(fails=[torch.OutOfMemoryError("full")]):
        assert codes(fit(STRICT)[0]) == ["E118"]


def test_too_little_memory_for_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(recording, "_copies", fail)
    for handlers, expected in (([], ["E118"]), ([Clip], ["E118"])):
        est, ours, _ = graphed(STRICT, mlp, None, *(handler() for handler in handlers))
        assert codes(est) == expected
        assert_equal(ours, fit("eager", mlp, None, *(handler() for handler in handlers))[1])


def test_a_step_that_cannot_be_recorded_after_a_forward_that_can() -> None:
    with recorder(fails=[RuntimeError("no such kernel\nmore")]):
        est, ours = fit(STRICT)
    assert codes(est) == ["E116"] and "recorded: no such kernel (" in est.engine_report()
    assert whole(est) == [False]
    assert_equal(ours, fit("eager")[1])


@pytest.mark.parametrize(("at", "name"), [(0, "weight"), (1, "weight")])
def test_a_wrong_recording_is_found_out(at: int, name: str) -> None:
    handlers = [Clip()] if at else []
    with recorder() as made:
        record = made.record

        def wrong(work: Any, inputs: Any) -> Any:
            recorded = record(work, inputs)
            if len(made.made) > at:
                recorded.entries = [e for e in recorded.entries if "adam" not in str(e.func)]
            return recorded

        made.record = wrong
        est, ours = fit(STRICT, mlp, None, *handlers)
    assert codes(est) == ["E108"] and f"gave another {name}" in est.engine_report()
    assert_equal(ours, fit("eager", mlp, None, *([Clip()] if at else []))[1])


def test_other_draws_are_found_out() -> None:
    with recorder() as made:
        record = made.record

        def wrong(work: Any, inputs: Any) -> Any:
            recorded = record(work, inputs)
            replay = recorded.replay
            recorded.replay = lambda: [replay(), torch.rand(1)]
            return recorded

        made.record = wrong
        est, ours = fit(STRICT)
    assert "another number of random draws" in est.engine_report()
    assert_equal(ours, fit("eager")[1])


def test_rates_are_brought_to_the_device_as_long_as_a_recording_reads_them() -> None:
    parts = list(zip(X[:39].split(8), Y[:39].split(8), strict=True))
    trainer = Trainer("adam", lr=2**-6, scheduler=partial(StepLR, step_size=2, gamma=0.5))

    def run(engine: Any) -> tuple[Any, list[Tensor]]:
        torch.manual_seed(0)
        est = Estimator(plain(), nn.CrossEntropyLoss())
        est.fit(
            parts, epochs=9, trainers=trainer, engine=engine, device="cpu", progress=False
        )  # fmt: skip
        return est, list(est.net.state_dict().values())

    with recorder(fails=[None, RuntimeError("the second shape")]) as made:
        est, ours = run(CLOSE)
    assert codes(est) == ["E116"] and whole(est) == [False, False] and made.replays > 10
    assert_close(ours, run("eager")[1])


def test_an_optimizer_whose_fused_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("no fused kernel")

    monkeypatch.setattr(torch, "_fused_adam_", fail)
    trainer = Trainer("adam", lr=0.01)
    est, ours, _ = graphed(CLOSE, trainers=trainer)
    assert codes(est) == ["E116"] and "no fused kernel" in est.engine_report()
    assert_equal(ours, fit("eager", trainers=trainer)[1])


def test_differences_are_named() -> None:
    one = torch.ones(2)
    trial = Trial(torch.device("cpu"), [("weight", one)], replay=lambda: None, results=[])
    assert trial.difference([], close=False) is None
    assert trial.difference([("loss", one)], close=False) == ("number of results", False)

    def against(made: Tensor | None, wanted: Tensor | None, *, close: bool = False) -> Odd | None:
        results: Any = [("loss", one), ("output", made)]
        trial = Trial(torch.device("cpu"), [], replay=lambda: None, results=results)
        return trial.difference([("loss", one), ("output", wanted)], close=close)

    far, near = Odd("output", False), Odd("output", True)
    assert against(None, None) is None and against(one * torch.nan, one * torch.nan) is None
    assert against(one, None) == against(None, one) == against(one, one[:1]) == far
    assert against(one, one.double()) == against(one.long(), one.long() + 1) == far
    assert against(one, one + 1) == against(one, one * torch.nan) == far
    assert against(one, one + 1e-6) == near and against(one, one + 1e-6, close=True) is None
    assert against(one, one + 1, close=True) == far


def test_gradients_of_a_group_are_added_up_in_one_place() -> None:
    used, idle = (nn.Parameter(torch.ones(2)) for _ in range(2))
    used.grad = torch.ones(2)
    shared = SharedGradients([used, idle])
    place = shared.tensors[0]
    shared.hold()
    assert used.grad is place and torch.equal(used.grad, torch.ones(2))
    used.grad = None
    shared.hold()
    assert used.grad is place and not used.grad.any()
    idle.grad = torch.ones(2)
    with pytest.raises(CannotTraceError, match="other parameters have gradients"):
        shared.take()


@pytest.mark.parametrize(("steps", "found"), [(2, []), (1, ["E117"])])
def test_a_cut_recording_follows_rates_too(steps: int, found: list[str]) -> None:
    schedule = partial(StepLR, step_size=steps)
    trainer = Trainer("adam", fused=True, scheduler=schedule)
    est, ours, made = graphed(STRICT, mlp, None, Clip(), trainers=trainer, epochs=8)
    assert codes(est) == found and whole(est) == [False]
    assert len(made.made) == 1 + 4
    assert_equal(ours, fit("eager", mlp, None, Clip(), trainers=trainer, epochs=8)[1])


def test_too_little_memory_for_the_proof_of_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **settings: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("estimator.engine.update.Trial", fail)
    est, ours, _ = graphed(STRICT, mlp, None, Clip())
    assert codes(est) == ["E118"] and whole(est) == [False]
    assert_equal(ours, fit("eager", mlp, None, Clip())[1])


def test_other_recordings_are_made_anew_when_one_fails() -> None:
    parts = list(zip(X[:39].split(8), Y[:39].split(8), strict=True))

    def run(engine: Any) -> tuple[Any, list[Tensor]]:
        torch.manual_seed(0)
        est = Estimator(mlp(), nn.CrossEntropyLoss())
        est.fit(parts, epochs=9, trainers="sgd", engine=engine, device="cpu", progress=False)
        return est, list(est.net.state_dict().values())

    error = RuntimeError("no room")
    with recorder(fails=[None, error, error]) as made:
        est, ours = run(STRICT)
    assert codes(est) == ["E102"] and whole(est) == [True]
    assert [recorded.replays > 5 for recorded in made.made] == [True, True]
    assert_equal(ours, run("eager")[1])


def test_close_values_will_do_unless_equal_ones_are_asked_for() -> None:
    settings: dict[str, Any] = {"trainers": Trainer("adam", lr=0.01), "epochs": 6}
    est, ours, _ = graphed(Engine("graph"), plain, None, **settings)
    assert whole(est) == [True] and codes(est) == []
    eager = fit("eager", plain, None, **settings)[1]
    assert_close(ours[-4:], eager[-4:])
    strict, same, _ = graphed(STRICT, plain, None, **settings)
    assert codes(strict) == ["E116"]
    assert_equal(same, eager)
