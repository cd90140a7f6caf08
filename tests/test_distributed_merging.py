"""Metrics and losses of several processes come together as those of one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from estimator.handlers.base import ArgumentError
from estimator.meter import LossMeter
from estimator.metrics import AUROC, F1, MAE, Accuracy, FunctionMetric, Metric, MetricSet
from estimator.metrics.adapt import TorchMetric


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets[:, None]).mean()


def metrics() -> list[Any]:
    from torchmetrics import PearsonCorrCoef
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

    return [
        *(Accuracy(), F1(), FunctionMetric(margin), TorchMetric(MulticlassAUROC(3))),
        TorchMetric(MulticlassAccuracy(3)),
        TorchMetric(MulticlassAccuracy(3) + MulticlassAccuracy(3, average="micro")),
        *(MAE(), TorchMetric(PearsonCorrCoef())),
    ]


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("empty", [False, True])
def test_states_of_processes_come_together(index: int, empty: bool) -> None:
    torch.manual_seed(1)
    metric: Metric = metrics()[index]
    outputs, targets = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    if index >= 6:
        outputs, targets = outputs[:, 0], outputs[:, 1] + outputs[:, 0]
    shares = [copy.deepcopy(metric) for _ in range(3)]
    for rank, share in enumerate(shares):
        rows = slice(rank, None, 3) if not empty else slice(0, 12 * (rank == 1))
        if outputs[rows].numel():
            share.update(outputs[rows], targets[rows])
    whole = copy.deepcopy(metric)
    whole.update(outputs, targets)
    states = [copy.deepcopy(share.state_dict()) for share in shares]
    metric.merge(states)
    assert torch.allclose(metric.compute(), whole.compute(), atol=1e-12)
    assert [str(share.state_dict()) for share in shares] == [str(state) for state in states]
    metric.merge([whole.state_dict()])
    assert torch.equal(metric.compute(), whole.compute())


def test_scores_of_processes_come_together() -> None:
    scores, targets = torch.rand(20), torch.arange(20) % 2
    metric, whole, shares = AUROC(), AUROC(), [AUROC(), AUROC(), AUROC()]
    whole.update(scores, targets)
    for rank, share in enumerate(shares[:2]):
        share.update(scores[rank::2], targets[rank::2])
    metric.merge([share.state_dict() for share in shares])
    assert torch.equal(metric.compute(), whole.compute())


def test_without_any_sample_there_is_no_value() -> None:
    metric = F1()
    metric.merge([F1().state_dict(), F1().state_dict()])
    assert metric.compute().isnan()


class Silent(Metric):
    """A metric that does not say how its states come together."""

    name = "silent"

    def reset(self) -> None: ...

    def update(self, outputs: Any, targets: Any) -> None: ...

    def compute(self) -> Tensor:
        return torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def test_a_metric_has_to_say_how() -> None:
    MetricSet(["accuracy", FunctionMetric(margin)]).check_merge()
    with pytest.raises(ArgumentError, match="'silent' .* method merge"):
        MetricSet(["accuracy", Silent()]).check_merge()
    with pytest.raises(ArgumentError, match=r"Silent.merge\(states=...\) must be written"):
        Silent().merge([])


def test_losses_of_processes_come_together() -> None:
    cpu = torch.device("cpu")
    meter, whole, shares = LossMeter(cpu), LossMeter(cpu), [LossMeter(cpu), LossMeter(cpu)]
    assert meter.means() == {}
    for i in range(100):
        loss, parts = torch.tensor(float(i)), {"a_loss": torch.tensor(2.0 * i)}
        weight: Any = i % 5 if i % 2 else torch.tensor(float(i % 3))
        for one in (whole, shares[i % 7 > 2]):
            one.add(loss, parts, weight, i % 5)
    states = [share.state_dict() for share in shares]
    meter.merge([LossMeter(cpu).state_dict(), *states])
    assert meter.means().keys() == whole.means().keys()
    for name, value in whole.means().items():
        assert torch.allclose(meter.means()[name], value, atol=1e-12)
