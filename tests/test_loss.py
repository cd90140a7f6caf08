"""What may be a loss, the loss of single samples, and what a criterion says of wrong forms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from estimator import BatchProcessor, Estimator, Trainer
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loss import Criterion, Losses, as_losses, settings_of
from estimator.loss_kinds import OVER_CLASSES, counting_rule, items_in_graph, per_sample
from estimator.meter import LossMeter
from estimator.runtime import detach, find_device, move

N = 6


def own_mean(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2).mean()


def with_reduction(
    outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    losses = (outputs - targets).abs().sum(1)
    return losses if reduction == "none" else losses.mean()


def vector(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().mean(1)


class OwnModule(nn.Module):
    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return own_mean(outputs, targets)


REGRESSIONS: dict[str, Any] = {
    "module": nn.MSELoss(),
    "module of a sum": nn.L1Loss(reduction="sum"),
    "function": F.mse_loss,
    "partial": functools.partial(F.huber_loss, delta=0.5),
    "plain": own_mean,
    "with a reduction": with_reduction,
    "vector": vector,
    "own module": OwnModule(),
    "lambda": lambda outputs, targets: own_mean(outputs, targets) + 1,
}


def singles(loss: Any, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    pairs = zip(outputs, targets, strict=True)
    return torch.stack([loss(o[None], t[None]).reshape(()) for o, t in pairs])


@pytest.mark.parametrize("name", REGRESSIONS)
def test_losses_of_single_samples(name: str) -> None:
    loss = REGRESSIONS[name]
    outputs, targets = torch.randn(N, 3), torch.randn(N, 3)
    ours = per_sample(loss, outputs, targets)
    exact = singles(loss, outputs, targets)
    if name == "module of a sum":
        exact = exact / 3
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy])
def test_losses_of_single_classes(loss: Any) -> None:
    outputs, targets = torch.randn(N, 4), torch.randint(4, (N,))
    exact = F.cross_entropy(outputs, targets, reduction="none")
    torch.testing.assert_close(per_sample(loss, outputs, targets), exact)
    assert isinstance(loss, nn.Module) is (getattr(loss, "reduction", None) == "mean")


@pytest.mark.parametrize("ignored", [-100, 3])
def test_losses_of_token_sequences_leave_ignored_ones_out(ignored: int) -> None:
    loss = functools.partial(F.cross_entropy, ignore_index=ignored)
    outputs, targets = torch.randn(N, 4, 5), torch.randint(3, (N, 5))
    targets[:, 3:] = ignored
    targets[0] = ignored
    ours = per_sample(loss, outputs, targets)
    assert ours[0] == 0
    torch.testing.assert_close(ours[1:], singles(loss, outputs[1:], targets[1:]))


def test_class_probabilities_are_averaged_over_places() -> None:
    outputs, targets = torch.randn(N, 4, 5), torch.rand(N, 4, 5)
    loss = nn.CrossEntropyLoss()
    ours = per_sample(loss, outputs, targets)
    torch.testing.assert_close(ours, singles(loss, outputs, targets))


def test_a_plain_loss_of_structured_outputs_is_mapped() -> None:
    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        return own_mean(outputs["a"], targets[0]) + own_mean(outputs["b"], targets[1])

    a, b, c, d = torch.randn(4, N, 2)
    ours = per_sample(loss, {"a": a, "b": b}, (c, d))
    torch.testing.assert_close(ours, vector_mse(a, c) + vector_mse(b, d))


def vector_mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2).mean(1)


def test_a_loss_that_cannot_be_mapped_says_what_to_do() -> None:
    def decides(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean() if outputs.sum() > 0 else targets.mean()

    with pytest.raises(DataError, match="cannot be mapped over samples.*override .*sample_losses"):
        per_sample(decides, torch.randn(N, 2), torch.randn(N, 2))


def test_a_built_in_callable_has_no_reduction_to_set() -> None:
    torch.testing.assert_close(
        per_sample(torch.dist, torch.ones(N, 2), torch.zeros(N, 2)), torch.full((N,), 2**0.5)
    )


def test_a_dict_of_losses() -> None:
    criterion = Criterion({"kind": nn.CrossEntropyLoss(), "size": (nn.MSELoss(), 0.25)})
    outputs = {"kind": torch.randn(N, 3), "size": torch.randn(N, 2)}
    targets = {"kind": torch.randint(3, (N,)), "size": torch.randn(N, 2)}
    kind = F.cross_entropy(outputs["kind"], targets["kind"])
    size = F.mse_loss(outputs["size"], targets["size"])
    losses = criterion(outputs, targets)
    torch.testing.assert_close(losses.total, kind + 0.25 * size)
    torch.testing.assert_close(losses.parts, {"kind_loss": kind, "size_loss": size})
    assert criterion.names == ["kind_loss", "size_loss"]
    single = F.cross_entropy(outputs["kind"], targets["kind"], reduction="none")
    torch.testing.assert_close(
        criterion.per_sample(outputs, targets),
        single + 0.25 * vector_mse(outputs["size"], targets["size"]),
    )
    assert [kind for kind, *_ in settings_of(criterion, outputs, targets)] == [
        nn.CrossEntropyLoss,
        nn.MSELoss,
    ]
    assert len(criterion.modules()) == 2


def test_a_list_of_losses_pairs_by_position() -> None:
    criterion = Criterion([nn.L1Loss(), (own_mean, 2)])
    outputs, targets = list(torch.ones(2, N, 1)), list(torch.zeros(2, N, 1))
    criterion.check(outputs, targets)
    losses = criterion(outputs, targets)
    assert losses.total == 3.0
    assert criterion.names == ["0_loss", "1_loss"]
    assert criterion.per_sample(outputs, targets).tolist() == [3.0] * N
    assert criterion.count(outputs, targets, N) == N


def test_a_single_loss_has_no_parts() -> None:
    criterion = Criterion(nn.L1Loss())
    assert criterion.names == [] and len(criterion.modules()) == 1
    assert criterion.per_sample(torch.ones(N, 2), torch.zeros(N, 2)).tolist() == [1.0] * N
    criterion.check(None, None)
    assert Criterion(own_mean).modules() == []
    result = as_losses(criterion(torch.ones(N, 1), torch.zeros(N, 1)), "the loss")
    assert result.total == 1.0 and result.parts == {}


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (nn.MSELoss, ArgumentTypeError, r"received the class MSELoss\. Call it: MSELoss\(\)"),
        ("mse", ArgumentTypeError, "must be a callable .* received 'mse'"),
        ({"a": nn.MSELoss}, ArgumentTypeError, r"loss\['a'\]=\.\.\.\) .* class MSELoss"),
        ({"a": (F.mse_loss, "1")}, ArgumentTypeError, "'a' must be .* the weight a number"),
        ({"a": (F.mse_loss, 1.0, 2.0)}, ArgumentTypeError, "'a' must be .* 1.0, 2.0"),
        ({"a": 3}, ArgumentTypeError, r"loss\['a'\]=\.\.\.\) must be a callable"),
        ({}, ArgumentError, r"must hold at least one loss; received \{\}"),
        ([], ArgumentError, r"must hold at least one loss; received \[\]"),
    ],
)
def test_a_wrong_loss(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Estimator(nn.Linear(1, 1), spec)


@pytest.mark.parametrize(
    ("spec", "outputs", "targets", "message"),
    [
        ({"a": own_mean}, {"b": 1}, {"a": 1}, r"key of the outputs of the net; received keys"),
        ({"a": own_mean}, {"a": 1}, torch.ones(1), r"the targets; received Tensor, without \['a'"),
        ([own_mean], [1, 2], [1], "1 loss pairs .* outputs of the net; received 2 of them"),
        ([own_mean], [1], torch.ones(1), "as many targets; received Tensor"),
    ],
)
def test_what_does_not_pair(spec: Any, outputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Criterion(spec).check(outputs, targets)


@pytest.mark.parametrize("result", [None, 3.0, {}, "loss"])
def test_a_loss_that_returns_no_tensor(result: Any) -> None:
    with pytest.raises(DataError, match="the loss must return a tensor or a dict of tensors"):
        as_losses(result, "the loss")


def test_vectors_are_averaged_and_dicts_add_up() -> None:
    assert as_losses(torch.tensor([1.0, 3.0]), "it").total == 2.0
    total, parts = as_losses({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor(0.5)}, "it")
    assert total == 2.5 and parts == {"a": 2.0, "b": 0.5}
    losses = Losses(torch.ones(()), {})
    assert as_losses(losses, "it") is losses


def test_a_processor_may_return_a_dict() -> None:
    class Two(BatchProcessor):
        def loss(self, outputs: Any, targets: Any) -> Any:
            return {"near": own_mean(outputs, targets), "small": 0.5 * (outputs**2).mean()}

    x, y = torch.randn(16, 2), torch.randn(16, 1)
    net = nn.Linear(2, 1)
    near, small = own_mean(net(x), y).item(), 0.5 * (net(x) ** 2).mean().item()
    est = Estimator(net, processor=Two())
    stats = est.fit((x, y), (x, y), epochs=1, trainers="sgd", device="cpu", progress=False)
    assert stats["train_loss"][0] == pytest.approx(stats["train_near"][0] + stats["train_small"][0])
    assert est.evaluate((x, y)).keys() == {"loss", "near", "small"}
    assert stats["train_near"][0] == pytest.approx(near, rel=0.05)
    assert stats["val_small"][0] == pytest.approx(small, rel=0.2)


COUNTS: list[tuple[Callable[..., Any], Any]] = [
    (nn.MSELoss(), 18),
    (F.l1_loss, 18),
    (own_mean, N),
    (OwnModule(), N),
]


@pytest.mark.parametrize(("loss", "count"), COUNTS)
def test_items_that_a_mean_is_over(loss: Callable[..., Any], count: int) -> None:
    assert counting_rule(loss)(torch.zeros(N, 3), torch.zeros(N, 3), N) == count


@pytest.mark.parametrize("kind", OVER_CLASSES)
def test_classes_that_a_mean_is_over(kind: Any) -> None:
    weight = torch.tensor([1.0, 2.0, 4.0])
    targets = torch.tensor([0, 1, 2, 2, 1])
    options = {"ignore_index": 1, "weight": weight}
    loss = kind(**options) if isinstance(kind, type) else functools.partial(kind, **options)
    assert counting_rule(loss)(torch.zeros(5, 3), targets, 5) == 9.0
    plain = kind() if isinstance(kind, type) else kind
    assert counting_rule(plain)(torch.zeros(5, 3), targets, 5) == 5
    assert counting_rule(plain)(torch.zeros(5, 3), torch.zeros(5, 3), 5) == 5


def test_a_meter_counts_batches_by_weight() -> None:
    meter = LossMeter(torch.device("cpu"))
    assert meter.means() == {}
    meter.add(torch.tensor(2.0), {"a": torch.tensor(1.0)}, 3, 3)
    meter.add(torch.tensor(4.0), {"a": torch.tensor(5.0)}, 1, 1)
    assert meter.means() == {"loss": 2.5, "a": 2.0}
    meter.reset()
    meter.add(torch.tensor(float("nan")), {}, torch.tensor(0), 4)
    meter.add(torch.tensor(3.0), {}, torch.tensor(2), 4)
    assert meter.means() == {"loss": 3.0}
    meter.reset()
    meter.add(torch.tensor(8.0), {}, 4, 4, is_sum=True)
    assert meter.means() == {"loss": 2.0}


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.0])),
        nn.NLLLoss(),
        F.cross_entropy,
    ],
)
def test_a_graph_remembers_how_many_items_were_averaged(loss: Any) -> None:
    outputs = torch.randn(6, 3, 4, requires_grad=True)
    targets = torch.randint(3, (6, 4))
    targets[0] = -100 if getattr(loss, "ignore_index", -100) == -100 else 1
    counted = counting_rule(loss)(outputs, targets, 6)
    items = items_in_graph(loss(outputs, targets))
    assert items is not None and float(items) == pytest.approx(float(counted))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.MSELoss(),
    ],
)
def test_other_graphs_remember_nothing(loss: Any) -> None:
    outputs = torch.randn(6, 3, requires_grad=True)
    targets = torch.zeros(6, 3) if isinstance(loss, nn.MSELoss) else torch.zeros(6).long()
    assert items_in_graph(loss(outputs, targets)) is None


def test_the_training_loss_leaves_ignored_samples_out() -> None:
    x, y = torch.randn(12, 4), torch.randint(3, (12,))
    y[:4] = -100  # a whole batch
    y[5] = -100
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
    with torch.no_grad():
        exact = F.cross_entropy(est.net(x), y).item()
    data = list(zip(x.split(4), y.split(4), strict=True))
    stats = est.fit(data, epochs=1, trainers=Trainer("sgd", lr=0.0), device="cpu", progress=False)
    assert stats["train_loss"][0] == pytest.approx(exact, rel=1e-6)


def test_devices_are_looked_for() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(None).type in {"cpu", "cuda", "mps", "xpu"}
    for wrong in ("cpuu", "nowhere:3", 3.5):
        with pytest.raises(ArgumentError, match="device must be one that this machine has"):
            find_device(wrong)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_nested_batches_are_moved_and_detached() -> None:
    weight = torch.ones(2, requires_grad=True)
    nested = {"a": [weight, 1], "b": (weight, Losses(weight, {}))}
    free = detach(move(nested, torch.device("cpu")))
    assert not free["a"][0].requires_grad and free["a"][1] == 1
    assert type(free["b"][1]) is Losses and not free["b"][1].total.requires_grad
