"""Validation, `evaluate` and `predict` by recordings are the eager ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import REPLAYED, Branch, Counter, X, Y, mlp
from engine_runs import assert_equal
from graph_runs import (
    DEVICES,
    STRICT,
    STRICT_AUTO,
    codes,
    fit,
    graphed,
    plain,
    recorder,
    step_of,
)
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import EMAHandler, EventHandler, WorstSamplesHandler, every, on
from estimator.stats import TrainStats

VAL = (X[:26], Y[:26])


class Validated(EventHandler):
    """What a handler sees in a batch of validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def validation_batch_end(self, stats: TrainStats) -> None:
        # Kept without a copy: memory that a replay writes over would show.
        self.seen += [stats.outputs, stats.loss] if stats.loss is not None else [stats.outputs]


def replays(est: Estimator) -> list[bool]:
    """Of each shape of batches of evaluation, whether it is replayed."""
    return [form.replays for form in step_of(est).passes.forms.values()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in REPLAYED if name != "attention"])
def test_recorded_validations_are_the_eager_ones(name: str, device: str) -> None:
    make, loss = REPLAYED[name]
    seen, other = Validated(), Validated()
    changes: dict[str, Any] = {"val": VAL, "validate": every(2), "epochs": 3}
    est, ours, _ = graphed(STRICT, make, loss, seen, device=device, **changes)
    assert any(replays(est)) and codes(est) == []
    eager, theirs = fit("eager", make, loss, other, **changes)
    assert_equal([*ours, *seen.seen], [*theirs, *other.seen])
    assert est.train_stats is not None and eager.train_stats is not None
    assert est.train_stats["val_loss"] == eager.train_stats["val_loss"]
    assert est.train_stats["val_accuracy"] == eager.train_stats["val_accuracy"]
    assert "evaluation batches (8, 8) (8,)" in est.engine_report()
    assert "chosen (verified, evaluation)" in est.engine_report()


@pytest.mark.parametrize("make", [EMAHandler, lambda: None])
def test_weights_that_are_exchanged_are_the_ones_validated(make: Callable[[], Any]) -> None:
    @on("validation_begin")
    def reload(stats: TrainStats) -> None:
        stats.net.load_state_dict({k: v * 0.5 for k, v in stats.net.state_dict().items()})

    @on("validation_begin")
    def replace(stats: TrainStats) -> None:
        for p in stats.net.parameters():
            p.data = p.data * 0.5

    for change in (reload, replace):
        seen, other = Validated(), Validated()
        results = []
        for engine, watch in ((STRICT, seen), ("eager", other)):
            averages = make()
            handlers = [change, watch] if averages is None else [averages, watch]
            run: Any = graphed if engine is STRICT else fit
            results.append(run(engine, mlp, None, *handlers, val=VAL, epochs=5)[1])
        assert_equal([*results[0], *seen.seen], [*results[1], *other.seen])


def test_samples_of_a_validation_are_followed(tmp_path: Path) -> None:
    est, *_ = graphed(STRICT, mlp, None, WorstSamplesHandler(tmp_path / "ours", worst=3), val=VAL)
    assert any(replays(est))
    fit("eager", mlp, None, WorstSamplesHandler(tmp_path / "eager", worst=3), val=VAL)
    name = "worst_samples_validation_e4.csv"
    ours, eager = ((tmp_path / who / name).read_text() for who in ("ours", "eager"))
    assert ours == eager and len(eager.splitlines()) == 27


@pytest.mark.parametrize("device", DEVICES)
def test_evaluate_and_predict_are_as_ever(device: str) -> None:
    eager, _ = fit("eager", plain, epochs=2)
    with recorder(device) as made:
        est, _ = fit(STRICT, plain, epochs=2, device=device)
        before = made.replays
        for data in ((X, Y), (X[:13], Y[:13])):
            assert est.evaluate(data, batch_size=2) == eager.evaluate(data, batch_size=2)
            assert torch.equal(est.predict(data, batch_size=2), eager.predict(data, batch_size=2))
        assert made.replays > before + 10
        assert torch.equal(est.predict(X, batch_size=2), eager.predict(X, batch_size=2))
        assert made.alive == 0


@pytest.mark.parametrize(("make", "code"), [(Branch, "E102"), (Counter, "E104")])
def test_what_cannot_be_recorded_says_why(make: Callable[[], nn.Module], code: str) -> None:
    est, ours, _ = graphed(STRICT, make, val=VAL)
    assert set(codes(est)) == {code} and not any(replays(est))
    assert_equal(ours, fit("eager", make, val=VAL)[1])


def test_a_number_that_no_recording_sees_is_found_out() -> None:
    factor = [1.0]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets) * factor[0]

    @on("validation_begin")
    def change(stats: TrainStats) -> None:
        factor[0] = 1.0 if stats.epoch < 3 else 0.5

    @on("validation_end")
    def back(stats: TrainStats) -> None:
        factor[0] = 1.0

    with pytest.warns(UserWarning, match="The recorded evaluation gives another loss"):
        est, ours, _ = graphed(STRICT, mlp, loss, change, back, val=VAL)
    assert codes(est) == ["E108"]
    assert_equal(ours, fit("eager", mlp, loss, change, back, val=VAL)[1])


def test_the_clock_and_the_length_of_the_run_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    many = (X.repeat(12, 1), Y.repeat(12))
    est, *_ = graphed(STRICT_AUTO, plain, val=many)
    assert not any(replays(est)) and "E109" in est.engine_report()
    monkeypatch.setattr("estimator.engine.graph.FIRST_COST", 1e-9)
    for faster, chosen in ((10.0, True), (0.0, False)):
        monkeypatch.setattr("estimator.engine.contest._FASTER", faster)
        monkeypatch.setattr("estimator.engine.form.Form._pays", lambda self: True)
        est, ours, _ = graphed(STRICT_AUTO, plain, val=many)
        assert replays(est) == [chosen]
        assert_equal(ours, fit("eager", plain, val=many)[1])


def test_many_shapes_are_too_many() -> None:
    with recorder():
        est, _ = fit(STRICT, plain, epochs=2)
        batches = [(X[:n], Y[:n]) for n in range(2, 14)]
        est.evaluate(batches)
        sizes = [len(outputs) for outputs in (est.predict(batches),)]
    assert sizes == [sum(range(2, 14))]


def test_hooks_keep_a_pass_eager() -> None:
    class Hooked(EventHandler):
        def validation_begin(self, stats: TrainStats) -> None:
            layer = stats.net.get_submodule("0")
            self.handle = layer.register_forward_hook(lambda module, inputs, out: out * 2)

        def validation_end(self, stats: TrainStats) -> None:
            self.handle.remove()

    est, ours, _ = graphed(STRICT, plain, None, Hooked(), val=VAL)
    assert codes(est) == ["E101"] and replays(est) == []
    assert_equal(ours, fit("eager", plain, None, Hooked(), val=VAL)[1])
