"""The workloads through Ignite."""

from __future__ import annotations

import torch
from _variants import SGD, Moments, now
from _workloads import Workload
from ignite.engine import Engine, Events, create_supervised_trainer
from torch import Tensor, nn


def supervised(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    net = workload.fresh_net()
    optimizer = torch.optim.SGD(net.parameters(), **SGD, fused=True)
    loss_of = nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(net, optimizer, loss_of, output_transform=_loss)
    _run(trainer, workload, epochs, moments)
    return net


def _loss(x: Tensor, y: Tensor, outputs: Tensor, loss: Tensor) -> Tensor:
    """The default reads its value in each step."""
    return loss


def update(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    net, loss_of = workload.fresh_net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), **SGD, fused=True)

    def step(engine: Engine, batch: list[Tensor]) -> None:
        x, y = batch
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        optimizer.step()

    net.train()
    _run(Engine(step), workload, epochs, moments)
    return net


def _run(trainer: Engine, workload: Workload, epochs: int, moments: Moments) -> None:
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: moments.epochs.append(now()))
    trainer.run(workload.loaders()[0], max_epochs=epochs)


SETTINGS = {
    "create_supervised_trainer, loss not read in each step, no metric": supervised,
    "Engine over a step written by hand, no metric": update,
}
