"""A replayed training is the eager one bit for bit, or says why it is computed eagerly."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_nets import EAGER, REPLAYED, X, Y, mlp
from torch import nn

from estimator import (
    ArgumentError,
    ArgumentTypeError,
    BatchProcessor,
    Engine,
    Estimator,
    Trainer,
)
from estimator.engine import ladder, private, program, trace
from estimator.engine.replay import ReplayStep
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


class Losses(EventHandler):
    """What a handler sees in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.loss is not None and not stats.outputs.requires_grad
        self.seen += [stats.loss.clone(), stats.outputs.clone()]
        grads = [p.grad for p in stats.net.parameters() if p.grad is not None]
        self.seen += [grad.to_dense() if grad.is_sparse else grad.clone() for grad in grads]


def fit(
    engine: Any, make: Callable[[], nn.Module] = mlp, loss: Any = None, *handlers: Any,
    **changes: Any,
) -> tuple[Estimator, list[torch.Tensor]]:  # fmt: skip
    """A short training; afterwards the Estimator, and all that was seen and is left."""
    torch.manual_seed(0)
    random.seed(0)
    net, seen = make(), Losses()
    est = Estimator(net, nn.CrossEntropyLoss() if loss is None else loss, ["accuracy"])
    settings: dict[str, Any] = {
        "val": (X[:10], Y[:10]), "epochs": 4, "batch_size": 8, "progress": False, "device": "cpu",
        "trainers": Trainer("adam", lr=0.01, fused=True),
    }  # fmt: skip
    if any(p.is_complex() for p in net.parameters()) or "Sparse" in type(net).__name__:
        settings["trainers"] = Trainer("sgd", lr=0.01)
    est.fit((X, Y), handlers=[*handlers, seen], engine=engine, **(settings | changes))
    left = [*net.state_dict().values(), torch.get_rng_state()]
    numbers = [torch.tensor(est.train_stats["train_loss"])] if est.train_stats else []
    return est, [*seen.seen, *left, *numbers]


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def replayed(est: Estimator) -> bool:
    """Whether any shape of batches was replayed in the last fit."""
    assert isinstance(est._step, ReplayStep)
    return any(each.replays for each in est._step.ladders.values())


def codes(est: Estimator) -> list[str]:
    assert isinstance(est._step, ReplayStep)
    return [cause.code for cause in est._step.causes]


@pytest.mark.parametrize("name", REPLAYED)
def test_a_replayed_training_is_the_eager_one(name: str) -> None:
    make, loss = REPLAYED[name]
    est, ours = fit("replay", make, loss)
    assert replayed(est) and codes(est) == []
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


@pytest.mark.parametrize(
    ("changes", "code"), [({"precision": "fp16"}, "E105"), ({"accumulate": 2}, "E112")]
)
def test_settings_that_stay_eager(changes: dict[str, Any], code: str) -> None:
    est, ours = fit("replay", **changes)
    assert codes(est) == [code]
    assert_equal(ours, fit("eager", **changes)[1])


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
    "handler", [Freeze, Reload, Write, Swap, Redrop, Anneal, Still, Clip, Noise, Hooked, EMAHandler]
)
def test_what_handlers_do_counts(handler: Callable[[], EventHandler]) -> None:
    est, ours = fit("replay", mlp, None, handler())
    assert replayed(est) or handler is Hooked
    assert_equal(ours, fit("eager", mlp, None, handler())[1])


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


def test_the_clock_decides_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.engine.replay._FIRST_COST", 1e-9)
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

        return fit(engine, mlp, weighed(weight), anneal)

    est, ours = run("replay")
    assert codes(est) == ["E108"]
    assert_equal(ours, run("eager")[1])


def test_a_number_from_outside_that_changes_between_epochs_is_found_out() -> None:
    def run(engine: str) -> tuple[Estimator, list[torch.Tensor]]:
        weight = [1.0]

        @on("epoch_begin")
        def anneal(stats: TrainStats) -> None:
            weight[0] = 1.0 if stats.epoch < 2 else 0.5

        return fit(engine, mlp, weighed(weight), anneal)

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
    monkeypatch.setattr("estimator.engine.replay._FIRST_COST", 1e-9)
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
    assert codes(est) == ["E103"] and len(est._step.ladders) == 8  # type: ignore[union-attr]


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
        Engine(on_fallback="shout")  # type: ignore[arg-type]


def test_reports_without_a_climb() -> None:
    est = Estimator(mlp(), nn.CrossEntropyLoss())
    with pytest.raises(ArgumentError, match="there was none yet"):
        est.engine_report()
    assert "the only tier of this run" in fit("eager")[0].engine_report()
