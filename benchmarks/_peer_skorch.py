"""The workloads through skorch."""

from __future__ import annotations

from typing import Any

import torch
from _variants import SGD, Moments, now
from _workloads import Workload
from skorch import NeuralNet
from torch import nn


class Timed(NeuralNet):
    """Notes when each epoch has ended, without a callback that would be told of each batch."""

    moments: Moments

    def on_epoch_end(self, net: NeuralNet, **data: Any) -> None:
        super().on_epoch_end(net, **data)
        self.moments.epochs.append(now())


def tensor_dataset(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    net = Timed(
        workload.fresh_net(),
        nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=SGD["lr"],
        optimizer__momentum=SGD["momentum"],
        optimizer__fused=True,
        max_epochs=epochs,
        batch_size=workload.batch_size,
        iterator_train__shuffle=True,
        iterator_train__generator=torch.Generator().manual_seed(0),
        train_split=None,
        callbacks="disable",
        verbose=0,
    )
    net.moments = moments
    net.fit(workload.train, None)
    return net.module_


SETTINGS = {'TensorDataset, callbacks="disable", no metric': tensor_dataset}
