"""When a step is replayed: what the clock, proofs, probes and options decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_nets import EAGER, X, Y, mlp
from engine_runs import assert_equal, codes, fit, replayed
from torch import nn

from estimator import (
    ArgumentError,
    ArgumentTypeError,
    BatchProcessor,
    Engine,
    Estimator,
)
from estimator.engine import ladder, prepared, private, program, replay, tiers, trace
from estimator.engine.doubt import Doubt
from estimator.handlers import (
    on,
)
from estimator.runtime import Runtime
from estimator.stats import TrainStats


def test_the_clock_decides_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replay._FIRST_COSTS, "replay", 1e-9)
    for faster, chosen in ((10.0, True), (0.0, False)):
        monkeypatch.setattr(ladder, "_FASTER", faster)
        est, ours = fit("auto", epochs=12)
        assert replayed(est) is chosen
        report = est.engine_report()
        assert ("chosen (verified" if chosen else "not faster") in report
        assert_equal(ours, fit("eager", epochs=12)[1])


def test_a_short_run_does_not_pay() -> None:
    report = fit("auto")[0].engine_report()
    assert "[fit:E109] the run is too short to pay for it" in report


def test_a_wrong_program_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    write = program._Writer._text
    monkeypatch.setattr(
        program._Writer, "_text", lambda self, value: "0.7" if value == 0.6 else write(self, value)
    )
    est, ours = fit("replay")
    assert codes(est) == ["E108"] and "another random" not in est.engine_report()
    assert_equal(ours, fit("eager")[1])


def weighed(weight: list[float]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A loss with a number that is seen by nobody."""
    return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * weight[0]


def test_a_number_from_outside_that_changes_each_step_is_found_out() -> None:
    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        weight = [1.0]

        @on("batch_end")
        def anneal(stats: TrainStats) -> None:
            weight[0] *= 0.9

        return fit(engine, mlp, weighed(weight), anneal, val=None)

    est, ours = run("replay")
    assert codes(est) == ["E108"]
    assert_equal(ours, run("eager")[1])


def test_a_number_from_outside_that_changes_between_epochs_is_found_out() -> None:
    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        weight = [1.0]

        @on("epoch_begin")
        def anneal(stats: TrainStats) -> None:
            weight[0] = 1.0 if stats.epoch < 2 else 0.5

        return fit(engine, mlp, weighed(weight), anneal, val=None)

    with pytest.warns(UserWarning, match="a number that it cannot see has changed"):
        est, ours = run("replay")
    assert codes(est) == ["E108"]
    assert_equal(ours, run("eager")[1])


def test_proofs_are_rare_where_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("estimator.engine.doubt.time.perf_counter", lambda: clock[0])
    doubt = Doubt()

    def is_due(seconds: float) -> bool:
        clock[0] += seconds
        doubt.is_raised = False
        doubt.begin_epoch()
        return doubt.is_raised

    for _ in range(4):
        assert is_due(1e-3)
        doubt.begin()
        clock[0] += 1.0
        doubt.end()
    assert not is_due(49.0) and not is_due(0.9) and is_due(0.2)


class Mine(BatchProcessor):
    def forward(self, inputs: Any) -> Any:
        return self.net(inputs) * 2


def test_what_may_depend_on_unseen_numbers_is_replayed_by_name_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(replay._FIRST_COSTS, "replay", 1e-9)
    assert codes(fit("auto", mlp, weighed([1.0]), epochs=8)[0]) == ["E114"]
    losses = {"replay": [], "auto": ["E114"]}
    for engine, expected in losses.items():
        est = Estimator(mlp(), nn.CrossEntropyLoss(), processor=Mine())
        est.fit((X, Y), epochs=8, batch_size=8, trainers="sgd", engine=engine, progress=False)
        assert codes(est) == expected and replayed(est) is not bool(expected)


def test_many_shapes_are_too_many() -> None:
    train = [(X[:n], Y[:n]) for n in range(2, 14)]
    est = Estimator(mlp(), nn.CrossEntropyLoss())
    est.fit(train, epochs=2, trainers="sgd", engine="replay", progress=False)
    assert codes(est) == ["E103"] and len(est._step.training.ladders) == 8  # type: ignore[union-attr]  # a ReplayStep


def fail(*arguments: Any, **settings: Any) -> Any:
    raise RuntimeError("not in this version")


def test_without_private_functions_all_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit("eager")[1]
    monkeypatch.setattr(program, "compiler", lambda: None)
    monkeypatch.setattr(prepared, "fused_kernel", lambda name: None)
    est, ours = fit("replay")
    assert replayed(est)  # as plain Python
    assert_equal(ours, expected)
    monkeypatch.setattr(trace, "tracer", lambda: None)
    est, ours = fit("replay")
    assert codes(est) == ["E110"]
    assert_equal(ours, expected)


def test_probes_answer_no_where_torch_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert private.compiler.__wrapped__() is not None
    with monkeypatch.context() as patch:
        patch.delattr(torch._C, "_get_graph_executor_optimize")
        assert private.compiler.__wrapped__() is None
    monkeypatch.setattr(torch.jit, "CompilationUnit", fail)
    assert private.compiler.__wrapped__() is None
    monkeypatch.setattr("torch.fx.experimental.proxy_tensor.make_fx", fail)
    assert private.tracer.__wrapped__() is None
    assert private.fused_kernel("adam") is not None
    monkeypatch.delattr(torch, "_foreach_add_")
    assert private.fused_kernel("adam") is None


def test_programs_round_as_written() -> None:
    read = torch._C._get_graph_executor_optimize
    with private.AsWritten():
        assert read() is False
    assert read() is True


def test_a_program_that_fails_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit("eager")[1]
    monkeypatch.setattr(program.Program, "on", fail)
    est, ours = fit("replay")
    assert codes(est) == ["E108", "E108"]
    assert "another error: not in this version" in est.engine_report()
    assert_equal(ours, expected)


def test_a_program_that_draws_more_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, on = fit("eager")[1], program.Program.on

    def draw(self: Any, *arguments: Any) -> Any:
        torch.rand(1)
        return on(self, *arguments)

    monkeypatch.setattr(program.Program, "on", draw)
    est, ours = fit("replay")
    assert "another number of random draws" in est.engine_report() and not replayed(est)
    assert_equal(ours, expected)


def test_a_program_with_other_shapes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, on = fit("eager")[1], program.Program.on

    def widen(self: Any, *arguments: Any) -> Any:
        return [result[None] for result in on(self, *arguments)]

    monkeypatch.setattr(program.Program, "on", widen)
    est, ours = fit("replay")
    assert "another loss" in est.engine_report() and not replayed(est)
    assert_equal(ours, expected)


class Endless:
    """Batches without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)])


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (list(Endless()), {"iterations": 60}),
        (Endless(), {"epochs": 14}),
        (Endless(), {"iterations": 60}),
    ],
    ids=["iterations", "no length", "neither"],
)
def test_runs_of_any_length_climb(
    data: Any, length: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(replay._FIRST_COSTS, "replay", 1e-9)
    monkeypatch.setattr(ladder, "_FASTER", 10.0)
    est = Estimator(mlp(), nn.CrossEntropyLoss())
    est.fit(data, trainers="sgd", progress=False, device="cpu", **length)
    assert replayed(est)


def test_gradients_are_added_to_those_that_are_there() -> None:
    there, empty, idle = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    there.grad = torch.ones(2)
    replay._accumulate([there, empty, idle], [torch.ones(2), torch.ones(2), None])
    assert there.grad.tolist() == [2, 2] and idle.grad is None
    assert empty.grad is not None and empty.grad.tolist() == [1, 1]


def test_an_accelerator_has_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(torch.device("cpu"))
    runtime.device = torch.device("meta")
    tiers.check_engine(Engine("auto"), runtime)
    with pytest.raises(ArgumentError, match=r"\[fit:E111\] trained on meta by 1 processes"):
        tiers.check_engine(Engine("replay", on_fallback="error"), runtime)


def test_a_tier_that_must_be_used_raises() -> None:
    make, loss, code = EAGER["branch"]
    with pytest.raises(ArgumentError, match=rf"\[fit:{code}\]"):
        fit(Engine("replay", on_fallback="error"), make, loss)
    est, _ = fit(Engine("replay", on_fallback="silent"), make, loss)
    assert codes(est) == [code]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("graf", "Engine\\(tier=...\\) must be one of 'auto', 'eager', 'replay'"),
        (3, "or an Engine"),
    ],
)
def test_unknown_engines_are_refused(engine: Any, message: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fit(engine)
    with pytest.raises(ArgumentError, match="on_fallback"):
        Engine(on_fallback="shout")  # type: ignore[arg-type]  # what it is for


def test_reports_without_a_climb() -> None:
    est = Estimator(mlp(), nn.CrossEntropyLoss())
    with pytest.raises(ArgumentError, match="there was none yet"):
        est.engine_report()
    assert "the only tier of this run" in fit("eager")[0].engine_report()
