"""Nets with outputs that describe themselves, through everything that an Estimator does."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from output_nets import DOUBLE, Net, batches, data, fit
from sample_runs import table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from estimator import Estimator, Trainer, with_uids
from estimator.handlers import CheckpointHandler, MixUpHandler, NaNHandler, WorstSamplesHandler
from estimator.metrics import Accuracy
from estimator.outputs import (
    BinaryClassificationOutput,
    ClassificationOutput,
    EmbeddingOutput,
    LearnedWeight,
    RegressionOutput,
)
from estimator.sequences import SequenceArray

NAN = float("nan")


def tasks(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
    return {
        "softmax": ClassificationOutput(z, "label"),
        "number": RegressionOutput(z[:, :2], "number", weight=0.5),
        "point": EmbeddingOutput(z),
    }


def gaps(samples: int = 22) -> dict[str, Any]:
    """Data in which both tasks lack some of their targets."""
    number = data(samples)["number"]
    number[::3] = NAN
    label = data(samples)["label"].where(torch.arange(samples) % 4 > 0, -100)
    return data(samples, number=number, label=label)


class Rows(Dataset[Any]):
    """Samples that are dicts, without identities."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def test_values_are_of_samples_however_these_are_batched() -> None:
    net, d = Net(tasks), gaps()
    by_size = [Estimator(net).evaluate(batches(d, size)) for size in (1, 4, 22)]
    assert by_size[0] == pytest.approx(by_size[2])
    assert by_size[1] == pytest.approx(by_size[2])
    z = net.layer(d["x"]).detach()
    kept = ~d["number"].isnan()
    one = F.cross_entropy(z, d["label"]).item()
    two = (z[:, :2] - d["number"]).square()[kept].mean().item()
    assert by_size[0]["loss"] == pytest.approx(one + 0.5 * two)


def test_columns_and_counts_of_a_training() -> None:
    est, stats = fit(Net(tasks), batches(data(10), 4), batches(data(10), 4), epochs=2)
    assert stats.samples == 20
    names = ["softmax_loss", "softmax_accuracy", "number_loss", "number_mae", "number_rmse"]
    for side in ("train", "val"):
        assert {f"{side}_{name}" for name in ["loss", *names]} <= set(stats.history.columns)
        assert None not in stats[f"{side}_softmax_accuracy"]
    assert stats.monitors["val_softmax_accuracy"] is True
    assert stats.monitors["val_softmax_loss"] is stats.monitors["val_loss"] is False
    assert est.evaluate(batches(data(10), 4)) == pytest.approx(stats.val)


def test_a_training_is_that_of_the_losses_by_hand() -> None:
    net, by_hand = Net(tasks), Net(tasks)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    d = gaps()
    for batch in batches(d, 6) * 2:
        z, kept = by_hand.layer(batch["x"]), ~batch["number"].isnan()
        two = (z[:, :2] - batch["number"].where(kept, 0)).square()[kept].mean()
        optimizer.zero_grad()
        (F.cross_entropy(z, batch["label"]) + 0.5 * two).backward()
        optimizer.step()
    fit(net, batches(d, 6), epochs=2)
    assert torch.allclose(net.layer.weight, by_hand.layer.weight, atol=1e-14)


def weighted(weight: Any, z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
    return {"r": RegressionOutput(z[:, :2], "number", weight=weight)}


@pytest.mark.parametrize("learned", [False, True])
def test_groups_of_batches_are_weighed_by_what_has_a_target(learned: bool) -> None:
    trained = []
    for size, group in ((22, 1), (5, 5)):
        weight = LearnedWeight(0.1).double() if learned else 2.0
        parts: dict[str, nn.Module] = {"w": weight} if isinstance(weight, nn.Module) else {}
        net = Net(functools.partial(weighted, weight), parts=parts)
        fit(net, batches(gaps(), size), epochs=3, accumulate=group)
        trained.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.allclose(trained[0], trained[1], atol=1e-7)


def test_groups_of_several_masked_tasks_are_warned_of() -> None:
    def make(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
        return {"a": ClassificationOutput(z, "label", mask="m"), "b": RegressionOutput(z, "x3")}

    d = data(m=torch.arange(22) > 5, x3=data()["x"][:, :3])
    with pytest.warns(UserWarning, match="weighs each of several losses by samples"):
        fit(Net(make), batches(d, 8), accumulate=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Net(tasks), batches(data(), 8), accumulate=2)


def test_predictions_are_tensors_by_name_with_and_without_targets() -> None:
    net, d = Net(tasks), data()
    for columns in (d, {"x": d["x"]}):
        found = Estimator(net).predict(batches(columns, 5))
        assert list(found) == ["softmax", "number", "point"]
        assert torch.equal(found["softmax"], net.layer(d["x"]).detach())
        assert found["number"].shape == (22, 2)


class ByName(nn.Module):
    """A net that names its inputs, and does not see targets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        return {"softmax": ClassificationOutput(self.layer(x) * scale[:, None], "label")}


def test_a_net_with_named_and_several_inputs_gets_no_targets() -> None:
    d = {k: v.float() if k == "x" else v for k, v in data(scale=torch.ones(22)).items()}
    del d["number"]
    est, stats = fit(ByName(), d, d, batch_size=5)
    assert est.predict(d)["softmax"].shape == (22, 3)
    assert est.evaluate(d) == pytest.approx(stats.val)


class Auxiliary(Net):
    """A head that is there in training only."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = super().forward(batch)
        return found if self.training else {"softmax": found["softmax"]}


def test_a_head_that_is_there_in_training_only() -> None:
    est, stats = fit(Auxiliary(tasks), batches(data(), 6), batches(data(), 6), epochs=2)
    assert None not in stats["train_number_loss"]
    assert stats["val_loss"] == pytest.approx(stats["val_softmax_loss"])
    assert set(est.evaluate([data()])) == {"loss", "softmax_loss", "softmax_accuracy"}


def test_a_weight_may_change_from_batch_to_batch() -> None:
    weights = iter([9.0, 9.0, 1.0, 1.0, 2.0])
    net = Net(lambda z, b: {"a": ClassificationOutput(z, "label", weight=next(weights))})
    _, stats = fit(net, [data()], epochs=3)
    losses = stats["train_a_loss"]
    assert stats["train_loss"] == pytest.approx([losses[0], losses[1], 2 * losses[2]])


@pytest.mark.parametrize("own", ["a dict", "a list"])
def test_metrics_of_the_estimator_take_the_place_of_all(own: str) -> None:
    metrics: Any = {"softmax": Accuracy(name="hits")} if own == "a dict" else [first_hits]
    net, d = Net(tasks), data()
    _, stats = fit(net, batches(d, 6), batches(d, 6), metrics=metrics)
    name = "softmax_hits" if own == "a dict" else "first_hits"
    assert set(stats.val) == {"loss", "softmax_loss", "number_loss", name}
    assert Estimator(net, metrics=metrics).evaluate([d])[name] == pytest.approx(stats.val[name])


def first_hits(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return (outputs["softmax"].argmax(1) == targets["softmax"]).double()


@pytest.mark.parametrize("form", ["loader", "sequence"])
def test_worst_samples_of_several_tasks(form: str, tmp_path: Path) -> None:
    d = gaps(12)
    shuffled = DataLoader(Rows(d), batch_size=5, shuffle=True)
    source: Any = with_uids(shuffled) if form == "loader" else SequenceArray(d, 5)
    net = Net(tasks)
    with torch.no_grad():
        z, kept = net.layer(d["x"]), ~d["number"].isnan()
        one = F.cross_entropy(z, d["label"], reduction="none")
        squares = (z[:, :2] - d["number"].where(kept, 0)).square() * kept
        expected = one + 0.5 * squares.mean(1)
    fit(net, source, handlers=[WorstSamplesHandler(tmp_path, worst=3)],
        trainers=Trainer("sgd", lr=0.0))  # fmt: skip
    found = table(tmp_path)
    losses = dict(zip(found["uids"].tolist(), found["loss"].reshape(12).tolist(), strict=True))
    assert [losses[i] for i in range(12)] == pytest.approx(expected.tolist(), rel=1e-5)


def test_worst_samples_of_a_regression_of_several_columns(tmp_path: Path) -> None:
    d = data(9, truth=torch.randn(9, 3, dtype=DOUBLE))
    net = Net(lambda z, b: {"r": RegressionOutput(z, "truth")})
    expected = (net.layer(d["x"]).detach() - d["truth"]).square().mean(1)
    fit(net, SequenceArray(d, 4), handlers=[WorstSamplesHandler(tmp_path, worst=3)],
        trainers=Trainer("sgd", lr=0.0))  # fmt: skip
    found = table(tmp_path)
    assert found["loss"].flatten()[found["uids"].argsort()].tolist() == pytest.approx(
        expected.tolist(), rel=1e-5
    )


def test_mixed_targets_train_an_output() -> None:
    d = data()
    handler = MixUpHandler({"softmax": 3}, keys=["x"])
    _, stats = fit(Net(tasks), batches(d, 6), batches(d, 6), epochs=2, handlers=[handler])
    assert 0 <= stats["train_softmax_accuracy"][-1] <= 1
    assert stats["train_number_mae"][-1] > 0


def test_a_bad_task_is_named() -> None:
    d = data(number=torch.full((22, 2), float("inf"), dtype=DOUBLE))
    _, stats = fit(Net(tasks), [d], epochs=2, handlers=[NaNHandler()])
    assert stats.stopped == "NaNHandler: the loss was not finite, first at step 1 (in number_loss)"


def test_a_run_goes_on_with_its_sums_and_learned_weights(tmp_path: Path) -> None:
    def run(epochs: int, folder: Path, **more: Any) -> Any:
        torch.manual_seed(3)
        weight = LearnedWeight().double()
        net = Net(
            lambda z, b: {
                "a": ClassificationOutput(z, "label", weight=weight),
                "b": BinaryClassificationOutput(z[:, 0], "yes"),
            },
            parts={"weight": weight},
        )
        d = data(yes=torch.arange(22) % 2)
        _, stats = fit(net, SequenceArray(d, 5, shuffle=True, seed=1), d, epochs=epochs, seed=1,
                       handlers=[CheckpointHandler(folder)], **more)  # fmt: skip
        rows = [{k: v for k, v in row.items() if k != "time"} for row in stats.history.rows]
        return rows, {k: v.clone() for k, v in net.state_dict().items()}

    rows, weights = run(4, tmp_path / "whole")
    run(2, tmp_path / "cut")
    again, resumed = run(4, tmp_path / "cut", resume=True)
    assert again == rows
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_the_engine_says_why_such_a_net_stays_eager() -> None:
    est, _ = fit(Net(tasks), batches(data(), 11), epochs=2, engine="eager")
    assert "eager" in est.engine_report()
