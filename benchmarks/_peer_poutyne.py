"""The workloads through Poutyne."""

from __future__ import annotations

from typing import Any

import torch
from _variants import SGD, Moments, now
from _workloads import Workload
from poutyne import Callback, Model
from torch import nn


class Watch(Callback):
    """Notes when each epoch has ended; its empty calls in a step take less than a microsecond."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        self.moments.epochs.append(now())


def generator(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    net = workload.fresh_net()
    optimizer = torch.optim.SGD(net.parameters(), **SGD, fused=True)
    model = Model(net, optimizer, nn.CrossEntropyLoss())
    watch = Watch(moments)
    model.fit_generator(workload.loaders()[0], epochs=epochs, verbose=False, callbacks=[watch])
    return net


SETTINGS = {"fit_generator, verbose=False, no metric": generator}
