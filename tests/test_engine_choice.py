"""When a step is replayed: what the clock, proofs, probes and options decide."""

from __future__ import annotations

from collections.abc import Callable
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
from estimator.engine import ladder, private, program, replay, trace
from estimator.handlers import (
    on,
)
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


def test_without_private_functions_all_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit("eager")[1]
    monkeypatch.setattr(program, "compiler", lambda: None)
    est, ours = fit("replay")
    assert replayed(est)  # as plain Python
    assert_equal(ours, expected)
    monkeypatch.setattr(trace, "tracer", lambda: None)
    est, ours = fit("replay")
    assert codes(est) == ["E110"]
    assert_equal(ours, expected)


def test_probes_answer_no_where_torch_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("not in this version")

    monkeypatch.setattr(torch.jit, "CompilationUnit", fail)
    assert private.compiler.__wrapped__() is None
    monkeypatch.setattr("torch.fx.experimental.proxy_tensor.make_fx", fail)
    assert private.tracer.__wrapped__() is None


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
