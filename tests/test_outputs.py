"""Outputs that describe themselves: losses, weights, missing targets and metrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from output_nets import DOUBLE, Make, Net, batches, data, fit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from estimator import Estimator
from estimator.losses import CenterLoss, TripletLoss
from estimator.outputs import (
    BinaryClassificationOutput,
    ClassificationOutput,
    EmbeddingOutput,
    LearnedWeight,
    LossOutput,
    RegressionOutput,
    TripletOutput,
)

NAN = float("nan")


def evaluated(make: Make, columns: dict[str, Any], size: int = 5, width: int = 3) -> Any:
    """The values over a data set, and the net's raw values."""
    net = Net(make, width)
    values = Estimator(net).evaluate(batches(columns, size))
    return values, net.layer(columns["x"]).detach()


def test_classification_is_cross_entropy_and_accuracy() -> None:
    d = data()
    values, z = evaluated(lambda z, b: {"softmax": ClassificationOutput(z, "label")}, d)
    loss = F.cross_entropy(z, d["label"]).item()
    hits = (z.argmax(1) == d["label"]).double().mean().item()
    assert values == pytest.approx({"loss": loss, "softmax_loss": loss, "softmax_accuracy": hits})


@pytest.mark.parametrize("marked", ["by the target", "by a mask"])
def test_missing_classes_do_not_count(marked: str) -> None:
    there = torch.arange(22) % 4 > 0
    label = data()["label"]
    if marked == "by the target":
        d = data(label=label.where(there, -100))
        mask = None
    else:
        d, mask = data(there=there), "there"
    values, z = evaluated(lambda z, b: {"a": ClassificationOutput(z, "label", mask=mask)}, d, 4)
    loss = F.cross_entropy(z[there], label[there]).item()
    hits = (z.argmax(1) == label)[there].double().mean().item()
    assert values == pytest.approx({"loss": loss, "a_loss": loss, "a_accuracy": hits})


def test_soft_targets_and_class_weights_and_uint8() -> None:
    d = data(soft=torch.softmax(data()["x"][:, :3], 1), small=data()["label"].to(torch.uint8))
    d["soft"][3] = NAN
    kept = torch.arange(22) != 3
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)
    values, z = evaluated(
        lambda z, b: {
            "soft": ClassificationOutput(z, "soft"),
            "weighted": ClassificationOutput(
                z, "small", criterion=nn.CrossEntropyLoss(weights, label_smoothing=0.0)
            ),
        },
        d,
    )
    soft = F.cross_entropy(z[kept], d["soft"][kept]).item()
    weighted = F.cross_entropy(z, d["label"], weights).item()
    agree = (z.argmax(1) == d["soft"].argmax(1))[kept].double().mean().item()
    assert values["soft_loss"] == pytest.approx(soft)
    assert values["soft_accuracy"] == pytest.approx(agree)
    assert values["weighted_loss"] == pytest.approx(weighted)
    assert values["loss"] == pytest.approx(soft + weighted)


def test_a_criterion_that_ignores_another_index() -> None:
    label = data()["label"]
    label[::3] = 255
    values, z = evaluated(
        lambda z, b: {
            "a": ClassificationOutput(z, "label", criterion=nn.CrossEntropyLoss(ignore_index=255)),
            "b": ClassificationOutput(z, "other", criterion=OwnLoss()),
        },
        data(label=label, other=label.where(label != 255, -100)),
    )
    loss = F.cross_entropy(z, label, ignore_index=255).item()
    assert values["a_loss"] == values["b_loss"] == pytest.approx(loss)
    assert values["a_accuracy"] == values["b_accuracy"]


class OwnLoss(nn.Module):
    """A loss of single samples, which knows of no missing targets."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("form", ["(N,) and (N,)", "(N, 1) and (N,)", "(N,) and (N, 1)"])
def test_binary_has_an_area_for_one_column(form: str) -> None:
    answer = (data()["x"][:, 0] > 0).long()
    answer[[2, 9]] = -100
    kept = answer >= 0
    given = answer.unsqueeze(1) if form.endswith("1)") else answer

    def make(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
        return {"yes": BinaryClassificationOutput(z if "1) and" in form else z[:, 0], "answer")}

    values, z = evaluated(make, data(answer=given), width=1)
    z, truth = z[kept, 0], answer[kept]
    loss = F.binary_cross_entropy_with_logits(z, truth.double()).item()
    assert values == pytest.approx({
        "loss": loss, "yes_loss": loss,
        "yes_accuracy": ((z > 0).long() == truth).double().mean().item(),
        "yes_auroc": roc_auc_score(truth.numpy(), z.numpy()),
    })  # fmt: skip


def test_the_area_of_two_logits_ranks_by_probability() -> None:
    logits = torch.tensor([[5.0, 6.0], [0.0, 2.0], [9.0, 7.0], [8.0, 4.0]], dtype=DOUBLE)
    truth = torch.tensor([1, 1, 0, 0])
    values = Estimator(TwoLogits()).evaluate([{"x": logits, "targets": truth}])
    assert values["two_auroc"] == 1.0


class TwoLogits(nn.Module):
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"two": ClassificationOutput(batch["x"], metrics=["accuracy", "auroc"])}


def test_binary_with_several_questions_and_probabilities() -> None:
    answers = torch.sigmoid(data()["x"][:, :3])
    answers[::2, 1] = NAN
    values, z = evaluated(
        lambda z, b: {"q": BinaryClassificationOutput(z, "answers")}, data(answers=answers)
    )
    kept = ~answers.isnan()
    loss = F.binary_cross_entropy_with_logits(z[kept], answers[kept]).item()
    hits = ((z > 0) == (answers > 0.5))[kept].double().mean().item()
    assert values == pytest.approx({"loss": loss, "q_loss": loss, "q_accuracy": hits})


@pytest.mark.parametrize("columns", [1, 2, 22])
def test_sample_weights_of_a_regression_weigh_rows(columns: int) -> None:
    w = torch.linspace(0.1, 3.0, 22, dtype=DOUBLE)
    truth = torch.randn(22, columns, dtype=DOUBLE)
    values, z = evaluated(
        lambda z, b: {"r": RegressionOutput(z, "truth", sample_weights="w")},
        data(truth=truth, w=w), 6, columns,
    )  # fmt: skip
    squares = (z - truth).square()
    assert values["r_loss"] == pytest.approx(((squares.mean(1) * w).sum() / w.sum()).item())
    assert values["loss"] == pytest.approx(values["r_loss"])
    assert values["r_mae"] == pytest.approx((z - truth).abs().mean().item())
    assert values["r_rmse"] == pytest.approx(squares.mean().sqrt().item())


def test_numbers_that_are_missing_do_not_count_nor_spoil_gradients() -> None:
    truth = data()["number"]
    truth[::2, 0] = NAN
    truth[5] = NAN
    net = Net(lambda z, b: {"r": RegressionOutput(z, "truth")}, 2)
    kept = ~truth.isnan()
    expected = (net.layer(data()["x"]) - truth.where(kept, 0)).square()[kept].mean()
    (gradient,) = torch.autograd.grad(expected, net.layer.weight)
    before = net.layer.weight.detach().clone()
    _, stats = fit(net, [data(truth=truth)])
    assert stats["train_r_loss"] == [pytest.approx(expected.item())]
    assert torch.allclose(net.layer.weight, before - 0.1 * gradient)


def test_a_batch_without_any_target_changes_nothing() -> None:
    weight = LearnedWeight(0.5)
    net = Net(
        lambda z, b: {
            "a": ClassificationOutput(z, "label", weight=weight),
            "b": RegressionOutput(z, "none", weight=2.0),
        },
        parts={"weight": weight},
    )
    label, none = torch.full((22,), -100), torch.full((22, 3), NAN)
    before = [p.detach().clone() for p in net.parameters()]
    made = [data(label=label, none=none)]
    _, stats = fit(net, made, made)
    assert stats["train_loss"] == stats["val_loss"] == [0.0]
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert math.isnan(stats["val_b_mae"][0])


def test_triplets_embeddings_and_centres() -> None:
    centre = CenterLoss(3, 3).double()
    net = Net(
        lambda z, b: {
            "near": TripletOutput(z, "label"),
            "centre": EmbeddingOutput(z, "label", criterion=centre, weight=0.5),
            "plain": EmbeddingOutput(z * 2),
        },
        parts={"centre": centre},
    )
    d = data()
    z, before = net.layer(d["x"]).detach(), centre.centers.detach().clone()
    near, middle = TripletLoss()(z, d["label"]), F.mse_loss(z, before[d["label"]]) * 1.5
    start = Estimator(net).evaluate([d])
    assert start["centre_loss"] == pytest.approx(middle.item())
    assert start["loss"] == pytest.approx((near + middle / 2).item())
    est, stats = fit(net, [d])
    assert stats["train_near_loss"] == [pytest.approx(near.item())]
    assert "train_centre_loss" in stats.history.columns
    assert not torch.equal(centre.centers, before)
    assert est.evaluate([d])["centre_loss"] == pytest.approx(
        centre(net.layer(d["x"]), d["label"]).item()
    )
    assert "train_plain_loss" not in stats.history.columns


@pytest.mark.parametrize("shape", ["(N,)", "(N, 4)"])
def test_a_loss_that_the_net_has_computed(shape: str) -> None:
    counts = torch.arange(22) % 5 > 0

    def make(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
        losses = (z - b["x"]).square()
        return {
            "own": LossOutput(losses if "4" in shape else losses.mean(1), mask="counts", weight=3),
            "all": LossOutput(losses[:, 0], sample_weights="w"),
        }

    w = torch.linspace(1, 2, 22, dtype=DOUBLE).unsqueeze(1)
    values, z = evaluated(make, data(counts=counts, w=w), width=4)
    losses = (z - data()["x"]).square()
    weighted = ((losses[:, 0] * w[:, 0]).sum() / w.sum()).item()
    assert values["own_loss"] == pytest.approx(losses[counts].mean().item())
    assert values["all_loss"] == pytest.approx(weighted)
    assert values["loss"] == pytest.approx(3 * values["own_loss"] + weighted)


def test_learned_weights_are_those_of_the_paper_and_are_trained() -> None:
    weights = {"label": LearnedWeight(0.3).double(), "number": LearnedWeight(-0.2).double()}
    net = Net(
        lambda z, b: {
            "label": ClassificationOutput(z, "label", weight=weights["label"]),
            "number": RegressionOutput(z[:, :2], "number", weight=weights["number"]),
        },
        parts={**weights},
    )
    d = data()
    with torch.no_grad():
        z = net.layer(d["x"])
        one, two = F.cross_entropy(z, d["label"]), F.mse_loss(z[:, :2], d["number"])
    s, t = 0.3, -0.2
    loss = np.exp(-s) * one + s / 2 + 0.5 * np.exp(-t) * two + t / 2
    assert Estimator(net).evaluate([d])["loss"] == pytest.approx(loss.item())
    fit(net, [d])
    slopes = -np.exp(-s) * one + 0.5, -0.5 * np.exp(-t) * two + 0.5
    assert weights["label"].log_variance.item() == pytest.approx(s - 0.1 * slopes[0].item())
    assert weights["number"].log_variance.item() == pytest.approx(t - 0.1 * slopes[1].item())
    assert "parts.label.log_variance" in net.state_dict()


def test_metrics_of_ones_own_see_samples_with_a_target() -> None:
    there = torch.arange(22) % 4 > 0
    there[:6] = False
    values, z = evaluated(
        lambda z, b: {
            "a": ClassificationOutput(z, "label", mask="there", metrics=["f1", "top2_accuracy"]),
            "b": ClassificationOutput(z, "label", metrics="accuracy"),
        },
        data(there=there),
    )
    label = data()["label"]
    top = z.topk(2, 1).indices.eq(label.unsqueeze(1)).any(1)
    assert values["a_top2_accuracy"] == pytest.approx(top[there].double().mean().item())
    assert values["b_accuracy"] == pytest.approx((z.argmax(1) == label).double().mean().item())
    assert set(values) == {"loss", "a_loss", "a_f1", "a_top2_accuracy", "b_loss", "b_accuracy"}
