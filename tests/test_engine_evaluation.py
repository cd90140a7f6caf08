"""Evaluation, prediction and accumulated groups take the same tiers as a training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import Counter, X, Y, mlp
from engine_runs import assert_equal, codes, fit, replayed
from torch import nn
from tqdm import tqdm

from estimator import ArgumentError, Engine, Estimator, Trainer
from estimator.engine import replay
from estimator.engine.private import compiler
from estimator.handlers import EMAHandler, EventHandler, WorstSamplesHandler, every, on
from estimator.stats import TrainStats


class Validated(EventHandler):
    """What a handler sees in a batch of validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.seen.append(stats.outputs.clone())
        if stats.loss is not None:
            self.seen.append(stats.loss.clone())


@pytest.mark.parametrize("handlers", [[], [EMAHandler]])
def test_validations_are_replayed(handlers: list[Callable[[], EventHandler]]) -> None:
    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        seen = Validated()
        est, left = fit(
            engine, mlp, None, seen, *(make() for make in handlers), validate=every(2), epochs=3
        )
        assert est.train_stats is not None
        names = ("val_loss", "val_accuracy")
        values = [torch.tensor([v for v in est.train_stats[n] if v is not None]) for n in names]
        return est, [*left, *seen.seen, *values]

    est, ours = run("replay")
    assert replayed(est, evaluation=True) and codes(est) == []
    assert_equal(ours, run("eager")[1])
    assert "evaluation batches (8, 8) (8,)" in est.engine_report()


def test_samples_of_a_validation_are_followed(tmp_path: Path) -> None:
    for engine in ("eager", "replay"):
        est, _ = fit(engine, mlp, None, WorstSamplesHandler(tmp_path / engine, worst=3))
    assert replayed(est, evaluation=True)
    name = "worst_samples_validation_e4.csv"
    eager, ours = ((tmp_path / engine / name).read_text() for engine in ("eager", "replay"))
    assert eager == ours and len(eager.splitlines()) == 27


def test_weights_that_are_loaded_between_epochs_are_validated() -> None:
    @on("validation_begin")
    def reload(stats: TrainStats) -> None:
        stats.net.load_state_dict({k: v * 0.5 for k, v in stats.net.state_dict().items()})

    est, ours = fit("replay", mlp, None, reload)
    assert replayed(est, evaluation=True)
    assert_equal(ours, fit("eager", mlp, None, reload)[1])


def test_a_number_that_no_program_sees_is_found_out_in_validation() -> None:
    factor = [1.0]

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) * factor[0]

    @on("validation_begin")
    def change(stats: TrainStats) -> None:
        factor[0] = 1.0 if stats.epoch < 3 else 0.5

    @on("validation_end")
    def back(stats: TrainStats) -> None:
        factor[0] = 1.0

    with pytest.warns(UserWarning, match="The replayed evaluation gives another loss"):
        est, ours = fit("replay", mlp, loss, change, back)
    assert codes(est) == ["E108"] and replayed(est)
    assert_equal(ours, fit("eager", mlp, loss, change, back)[1])


def test_a_counter_in_evaluation_says_why() -> None:
    est, ours = fit("replay", Counter)
    assert codes(est) == ["E104"]
    assert_equal(ours, fit("eager", Counter)[1])


@pytest.mark.parametrize("engine", ["auto", "replay"])
def test_evaluate_and_predict_are_as_ever(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replay._FIRST_COSTS, "replay", 1e-9)
    est, _ = fit(engine, epochs=2)
    eager, _ = fit("eager", epochs=2)
    for data in ((X, Y), (X[:13], Y[:13])):
        assert est.evaluate(data, batch_size=2) == eager.evaluate(data, batch_size=2)
        assert torch.equal(est.predict(data, batch_size=2), eager.predict(data, batch_size=2))
    outputs = est.predict(X, batch_size=2)
    assert torch.equal(outputs, eager.predict(X, batch_size=2)) and outputs.shape == (40, 2)


class Nested(nn.Module):
    """Outputs in a dict, of which a loss takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: torch.Tensor) -> Any:
        out = self.body(x)
        return {"logits": out, "both": (out, [out * 2])}


@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_predictions_keep_their_structure(engine: str) -> None:
    torch.manual_seed(0)
    est = Estimator(Nested(), {"logits": nn.CrossEntropyLoss()})
    data = [(X[i : i + 8], {"logits": Y[i : i + 8]}) for i in range(0, 40, 8)]
    est.fit(data, epochs=1, trainers="sgd", engine=engine, progress=False)
    found = est.predict(X, batch_size=8)
    assert torch.equal(found["both"][1][0], found["logits"] * 2)
    assert found["logits"].shape == (40, 2)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1),
    ],
    ids=["mean", "ignored", "weighted", "summed", "smoothed"],
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulated_groups_are_replayed(loss: nn.Module, clip: float | None) -> None:
    changes: dict[str, Any] = {
        "accumulate": 2, "batch_size": 6, "epochs": 5,
        "trainers": Trainer("sgd", lr=0.1, momentum=0.9, fused=True, clip_norm=clip),
    }  # fmt: skip
    est, ours = fit("replay", mlp, loss, **changes)
    assert replayed(est) and codes(est) == []
    assert_equal(ours, fit("eager", mlp, loss, **changes)[1])


def test_groups_that_begin_with_an_odd_batch_are_weighed_by_it() -> None:
    data = [(X[a:b], Y[a:b]) for a, b in ((0, 5), (5, 13), (13, 21), (21, 29), (29, 37))] * 3

    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        torch.manual_seed(0)
        est = Estimator(mlp(), nn.CrossEntropyLoss())
        est.fit(
            data, epochs=3, trainers=Trainer("sgd", lr=0.1), accumulate=3, engine=engine,
            progress=False,
        )  # fmt: skip
        return est, [*est.net.state_dict().values()]

    est, ours = run("replay")
    assert replayed(est)
    assert_equal(ours, run("eager")[1])


# PyTorch's compiler warns of its own parts.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    # It draws a bar of its own, whose thread would stay.
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    changes: dict[str, Any] = {"epochs": 3, "val": None, "trainers": Trainer("sgd", lr=0.05)}
    est, ours = fit("compile", **changes)
    assert replayed(est), est.engine_report()
    assert "chosen (verified, close values)" in est.engine_report()
    expected = fit("eager", **changes)[1]
    pairs = list(zip(ours, expected, strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs if a.is_floating_point())
    assert torch.equal(ours[-2], expected[-2])  # the random stream: dropout drew as ever
    exact, _ = fit(Engine("compile", verify="equal"), **changes)
    assert replayed(exact) or codes(exact) == ["E108"]


def test_a_step_that_cannot_be_compiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **settings: Any) -> Any:
        def run(*tensors: Any) -> Any:
            raise RuntimeError("no compiler\nand more")

        return run

    monkeypatch.setattr(torch, "compile", fail)
    est, ours = fit("compile")
    assert set(codes(est)) == {"E120"} and not replayed(est)
    assert "the step cannot be compiled: no compiler and more (" in est.engine_report()
    assert_equal(ours, fit("eager")[1])


def test_auto_compiles_only_where_it_pays_and_values_may_be_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def as_python(body: Any, **settings: Any) -> Any:
        made.append("compiled")
        return body

    monkeypatch.setattr(torch, "compile", as_python)
    monkeypatch.setitem(replay._FIRST_COSTS, "replay", 1e-9)
    close = Engine("auto", verify="close")
    report = fit(close, epochs=16, val=None)[0].engine_report()
    assert made == [] and "compile" in report and "E109" in report
    monkeypatch.setitem(replay._FIRST_COSTS, "compile", 1e-9)
    for engine, compiled in (("auto", []), (close, ["compiled"])):
        made.clear()
        est, _ = fit(engine, epochs=16, val=None)
        assert made == compiled


def test_the_interpreter_is_there() -> None:
    assert compiler() is not None


def test_verify_is_checked() -> None:
    with pytest.raises(ArgumentError, match=r"Engine\(verify=...\) must be one of"):
        Engine(verify="exactly")  # type: ignore[arg-type]  # what it is for
