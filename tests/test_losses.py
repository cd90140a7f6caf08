"""The losses of `estimator.losses` against their formulas, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimator import Criterion, Estimator, Trainer, losses
from estimator.handlers.base import ArgumentError, DataError
from estimator.loss_kinds import per_sample
from estimator.losses._base import ItemLoss

DOUBLE = torch.float64
Array = np.ndarray[Any, Any]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


def close(value: Tensor, expected: Any) -> None:
    assert np.allclose(value.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def focal_items(x: Array, y: Array, gamma: float, alpha: Array | None = None) -> Array:
    p = np.array([softmax(x)[i, c] for i, c in enumerate(y)])
    share = np.ones(len(y)) if alpha is None else alpha[y]
    return np.asarray(-share * (1 - p) ** gamma * np.log(p))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_its_formula(gamma: float) -> None:
    x, y, alpha = logits(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    items = focal_items(x.numpy(), y.numpy(), gamma)
    close(losses.FocalLoss(gamma)(x, y), items.mean())
    close(losses.FocalLoss(gamma, reduction="sum")(x, y), items.sum())
    close(losses.FocalLoss(gamma, reduction="none")(x, y), items)
    weighted = losses.FocalLoss(gamma, alpha.tolist(), reduction="none").double()
    assert weighted.alpha is not None
    weighted.alpha.copy_(torch.from_numpy(alpha))
    close(weighted(x, y), focal_items(x.numpy(), y.numpy(), gamma, alpha))


def test_focal_over_positions_leaves_ignored_ones_out() -> None:
    x, y = logits(2, 3, 4), torch.tensor([[0, 1, 9, 2], [9, 9, 9, 9]])
    kept = focal_items(x[0].T[[0, 1, 3]].numpy(), np.array([0, 1, 2]), 2.0)
    loss = losses.FocalLoss(2.0, ignore_index=9)
    close(loss(x, y), kept.mean())
    close(per_sample(loss, x, y), [kept.mean(), 0.0])
    assert loss.item_count(x, y) == 3
    close(loss(x[1:], y[1:]), 0.0)


def test_focal_without_gamma_is_cross_entropy_also_with_soft_targets() -> None:
    x, soft = logits(5, 3), torch.softmax(logits(5, 3), 1)
    close(losses.FocalLoss(0.0)(x, soft), nn.functional.cross_entropy(x, soft).numpy())
    assert losses.FocalLoss(0.0).item_count(x, soft) == 5


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_binary_focal_is_its_formula(gamma: float, alpha: float | None) -> None:
    x, t = logits(6, 2), torch.rand(6, 2, dtype=DOUBLE)
    p, share = sigmoid(x.numpy()), (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    one = -share[0] * (1 - p) ** gamma * np.log(p)
    zero = -share[1] * p**gamma * np.log(1 - p)
    items = t.numpy() * one + (1 - t.numpy()) * zero
    loss = losses.BinaryFocalLoss(gamma, alpha)
    close(loss(x, t), items.mean())
    close(per_sample(loss, x, t), items.mean(1))
    assert loss.item_count(x, t) == 12


def test_binary_focal_is_finite_far_out() -> None:
    x = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = losses.BinaryFocalLoss(0.5)(x, torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_cross_entropy_is_its_formula(smoothing: float) -> None:
    x, y = logits(5, 3), torch.tensor([0, 1, 2, 0, 1])
    hot = np.eye(3)[y.numpy()]
    q = (1 - smoothing) * hot + smoothing / 3
    items = -(q * np.log(softmax(x.numpy()))).sum(1)
    loss = losses.SmoothedCrossEntropyLoss(smoothing)
    close(loss(x, y), items.mean())
    close(per_sample(loss, x, torch.from_numpy(hot)), items)
    close(loss(x, y), nn.functional.cross_entropy(x, y, label_smoothing=smoothing).numpy())


def test_smoothed_cross_entropy_leaves_padding_out() -> None:
    x, y = logits(2, 5, 3), torch.tensor([[4, 0, -100], [-100, -100, -100]])
    loss = losses.SmoothedCrossEntropyLoss(0.1)
    close(loss(x, y), nn.functional.cross_entropy(x, y, label_smoothing=0.1).numpy())
    assert loss.item_count(x, y) == 2
    close(loss(x[1:], y[1:]), 0.0)


def dice_items(p: Array, t: Array, smooth: float) -> Array:
    p, t = p.reshape(*p.shape[:2], -1), t.reshape(*t.shape[:2], -1)
    overlap = (2 * (p * t).sum(2) + smooth) / (p.sum(2) + t.sum(2) + smooth)
    return np.asarray(1 - overlap.mean(1))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_soft_dice_is_its_formula(smooth: float) -> None:
    x, y = logits(3, 4, 5, 2), torch.randint(0, 4, (3, 5, 2))
    hot = np.moveaxis(np.eye(4)[y.numpy()], -1, 1)
    items = dice_items(softmax(x.numpy()), hot, smooth)
    loss = losses.SoftDiceLoss(smooth)
    close(loss(x, y), items.mean())
    close(loss(x, torch.from_numpy(hot)), items.mean())
    close(per_sample(loss, x, y), items)
    assert loss.item_count(x, y) == 3
    foreground = losses.SoftDiceLoss(smooth, background=False, reduction="sum")
    close(foreground(x, y), dice_items(softmax(x.numpy())[:, 1:], hot[:, 1:], smooth).sum())


@pytest.mark.parametrize("dims", ["with channel", "without"])
def test_soft_dice_of_one_channel_is_binary(dims: str) -> None:
    x, t = logits(3, 1, 6), torch.randint(0, 2, (3, 1, 6))
    items = dice_items(sigmoid(x.numpy()), t.numpy(), 1.0)
    loss = losses.SoftDiceLoss(reduction="none")
    close(loss(x, t if dims == "with channel" else t[:, 0]), items)
    t[:, :, 0] = -100
    close(loss(x, t), dice_items(sigmoid(x.numpy())[:, :, 1:], t.numpy()[:, :, 1:], 1.0))


def test_soft_dice_of_nothing_is_defined() -> None:
    x = torch.full((1, 1, 4), -200.0, dtype=DOUBLE, requires_grad=True)
    loss = losses.SoftDiceLoss(smooth=0.0)(x, torch.zeros(1, 4))
    loss.backward()
    assert x.grad is not None
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def triplet_pairs(x: Array, y: Array, margin: float) -> dict[tuple[int, int], float]:
    """Each pair of anchor and positive with its loss, by plain loops."""
    d = ((x[:, None] - x[None]) ** 2).sum(2)
    found = {}
    for a, p in np.argwhere((y[:, None] == y[None]) & ~np.eye(len(y), dtype=bool)):
        negatives = d[a][y != y[a]]
        if not len(negatives):
            continue
        farther = negatives[negatives > d[a, p]]
        n = farther.min() if len(farther) else negatives.max()
        found[a, p] = max(0.0, d[a, p] - n + margin)
    return found


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_triplet_mines_as_plain_loops_do(seed: int, normalize: bool) -> None:
    torch.manual_seed(seed)
    x, y = logits(12, 3), torch.randint(0, 4, (12,))
    points = x / x.norm(dim=1, keepdim=True) if normalize else x
    pairs = triplet_pairs(points.numpy(), y.numpy(), 0.7)
    mean = np.mean(list(pairs.values()))
    loss = losses.TripletLoss(0.7, normalize=normalize)
    close(loss(x, y), mean)
    assert loss.item_count(x, y) == len(pairs)
    own = [[v for (a, _), v in pairs.items() if a == i] for i in range(12)]
    close(per_sample(loss, x, y), [np.mean(v) if v else 0.0 for v in own])


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2]])
def test_triplet_without_a_triplet_is_zero(labels: list[int]) -> None:
    x, loss = logits(3, 2).requires_grad_(), losses.TripletLoss()
    value = loss(x, torch.tensor(labels))
    value.backward()
    assert value.item() == 0.0
    assert loss.item_count(x, torch.tensor(labels)) == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_triplet_mines_what_half_precision_cannot_tell_apart() -> None:
    x = torch.tensor([[100.0], [100.5], [101.0]], dtype=torch.bfloat16)
    assert losses.TripletLoss()(x, torch.tensor([0, 0, 1])).dtype == torch.float32


def test_center_is_its_formula() -> None:
    loss, x, y = losses.CenterLoss(3, 2).double(), logits(5, 2), torch.tensor([0, 1, 2, 0, 0])
    centers = loss.centers.detach().numpy()
    items = ((x.numpy() - centers[y.numpy()]) ** 2).sum(1) / 2
    close(loss(x, y), items.mean())
    close(per_sample(loss, x, y), items)
    loss(x, y).backward()
    assert loss.centers.grad is not None
    close(loss.centers.grad[0], (centers[0] - x.numpy()[[0, 3, 4]]).sum(0) / 5)


def test_contrastive_has_the_square_of_its_formula() -> None:
    a, b, t = logits(4, 3), logits(4, 3), torch.tensor([0, 1, 0, 1])
    d = np.sqrt(((a - b).numpy() ** 2).sum(1))
    apart = np.maximum(0, 3.0 - d) ** 2
    items = (t.numpy() * d**2 + (1 - t.numpy()) * apart) / 2
    loss = losses.ContrastiveLoss(3.0)
    close(loss((a, b), t), items.mean())
    close(losses.ContrastiveLoss(3.0, reduction="none")((a, b), t), items)
    assert loss.item_count((a, b), t) == 4
    same = torch.zeros(1, 2, requires_grad=True)
    loss((same, same * 1), torch.tensor([0])).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


INDEX = torch.tensor([0, 1, 2, 0, 1])
PROBE = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.2, -0.4], [0.5, 0.9, 1.3], [-1.0, 0.1, 0.6],
                      [0.8, -0.7, -0.2]], dtype=DOUBLE)  # fmt: skip
CHECKED: list[tuple[ItemLoss, Tensor]] = [
    (losses.FocalLoss(2.0), INDEX),
    (losses.FocalLoss(0.5, [1.0, 2.0, 3.0]), INDEX),
    (losses.BinaryFocalLoss(1.5), torch.sigmoid(PROBE.flip(0))),
    (losses.SmoothedCrossEntropyLoss(0.2), INDEX),
    (losses.SoftDiceLoss(), INDEX),
    (losses.TripletLoss(2.0), torch.tensor([0, 0, 1, 1, 2])),
    (losses.TripletLoss(2.0, normalize=True), torch.tensor([0, 0, 1, 1, 2])),
    (losses.CenterLoss(3, 3).double(), INDEX),
]


@pytest.mark.parametrize(("loss", "targets"), CHECKED, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_are_those_of_the_values(loss: ItemLoss, targets: Tensor, reduction: str) -> None:
    loss.reduction = reduction
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (PROBE.clone().requires_grad_(),))
    loss.reduction = "mean"


def test_gradient_of_contrastive() -> None:
    pair = (PROBE.clone().requires_grad_(), PROBE.flip(0) + 0.3)
    t = torch.tensor([0, 1, 0, 1, 0])
    assert torch.autograd.gradcheck(lambda a: losses.ContrastiveLoss(4.0)((a, pair[1]), t), pair[0])


@pytest.mark.parametrize(("loss", "targets"), CHECKED[:5], ids=lambda v: type(v).__name__)
def test_a_mean_of_batches_is_that_of_the_whole(loss: ItemLoss, targets: Tensor) -> None:
    criterion = Criterion(loss)
    halves = [(PROBE[:2], targets[:2]), (PROBE[2:], targets[2:])]
    counts = [criterion.count(x, t, len(x)) for x, t in halves]
    parts = [loss(x, t) * n for (x, t), n in zip(halves, counts, strict=True)]
    close(sum(parts, torch.zeros(())) / sum(counts), loss(PROBE, targets).item())


def test_a_loss_trains_with_accumulated_groups_as_with_whole_batches() -> None:
    x, y = torch.randn(12, 4, dtype=DOUBLE), torch.randint(0, 3, (12,))
    y[::5] = -100
    weights = []
    for size, group in ((12, 1), (5, 3)):
        torch.manual_seed(0)
        net = nn.Linear(4, 3).double()
        Estimator(net, losses.FocalLoss()).fit(
            [(x[i : i + size], y[i : i + size]) for i in range(0, 12, size)], epochs=2,
            trainers=Trainer("sgd", lr=0.5), accumulate=group, device="cpu", progress=False,
        )  # fmt: skip
        weights.append(net.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.FocalLoss(-1.0), r"FocalLoss\(gamma=...\) must be a number from 0 up"),
        (lambda: losses.FocalLoss(alpha=[-1.0]), "weights from 0 up, one a class"),
        (lambda: losses.FocalLoss(alpha=torch.ones(2, 2)), "weights from 0 up, one a class"),
        (lambda: losses.BinaryFocalLoss(alpha=1.5), r"alpha=...\) must be a number from 0 to 1"),
        (lambda: losses.BinaryFocalLoss(gamma="2"), "received '2'"),  # type: ignore[arg-type]  # a text on purpose
        (lambda: losses.SmoothedCrossEntropyLoss(True), "received True"),
        (lambda: losses.SoftDiceLoss(smooth=float("nan")), "received nan"),
        (lambda: losses.TripletLoss(-0.1), "received -0.1"),
        (lambda: losses.CenterLoss(0, 3), r"classes=...\) must be a whole number from 1 up"),
        (lambda: losses.CenterLoss(3, True), "received True"),
        (lambda: losses.ContrastiveLoss(margin=-1), "received -1"),
        (lambda: losses.FocalLoss(reduction="average"), "'mean', 'sum' or 'none'"),  # type: ignore[arg-type]  # a wrong word on purpose
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], ItemLoss], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (losses.FocalLoss(), logits(3, 2), torch.zeros(3), "FocalLoss needs class indices"),
        (losses.SoftDiceLoss(), logits(3, 2, 4), torch.zeros(3, 5).long(), "SoftDiceLoss needs"),
        (losses.SoftDiceLoss(), logits(3, 1, 4), torch.zeros(3, 5), "with one channel needs"),
        (losses.FocalLoss(), logits(3), torch.zeros(3).long(), "without dimension 1"),
        (losses.FocalLoss(alpha=[1.0]), logits(3, 2), torch.zeros(3).long(), "received 1"),
        (losses.BinaryFocalLoss(), logits(3, 1), torch.zeros(3), "the same shape"),
        (losses.TripletLoss(), logits(3, 1), torch.zeros(2), "one label for each"),
        (losses.CenterLoss(2, 2), logits(3, 2, 1), torch.zeros(3), r"embeddings \(N, D\)"),
        (losses.CenterLoss(2, 2), logits(3, 2), None, "targets None"),
        (losses.ContrastiveLoss(), logits(3, 2), torch.zeros(3), "two tensors"),
        (losses.ContrastiveLoss(), (logits(3, 2), logits(2, 2)), torch.zeros(3), "two tensors"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(
    loss: ItemLoss, outputs: Any, targets: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loss(outputs, targets)
