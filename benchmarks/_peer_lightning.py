"""The workloads through Lightning."""

from __future__ import annotations

import logging
from typing import Any

import torch
from _variants import SGD, Moments, now
from _workloads import Workload
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# What barebones turns off is told at each start.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Automatic(LightningModule):
    """The least that Lightning asks for."""

    def __init__(self, net: nn.Module, moments: Moments) -> None:
        super().__init__()
        self.net, self.moments = net, moments

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), **SGD, fused=True)

    def on_train_epoch_end(self) -> None:
        self.moments.epochs.append(now())


class Manual(Automatic):
    """Steps the optimizer itself, which spares the closure and its hooks."""

    def __init__(self, net: nn.Module, moments: Moments) -> None:
        super().__init__(net, moments)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(cross_entropy(self.net(x), y))
        optimizer.step()


def automatic(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _train(workload, epochs, Automatic(workload.fresh_net(), moments))


def manual(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _train(workload, epochs, Manual(workload.fresh_net(), moments))


def _train(workload: Workload, epochs: int, module: Automatic) -> nn.Module:
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=epochs, barebones=True)
    trainer.fit(module, workload.loaders()[0])
    return module.net


SETTINGS = {
    "barebones=True, automatic optimization, no metric": automatic,
    "barebones=True, manual optimization, no metric": manual,
}
