"""The workloads through Keras with its torch backend."""

from __future__ import annotations

import os
from typing import Any

import torch
from _variants import SGD, Moments, now
from _workloads import Workload
from torch import nn

# Keras reads it when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import keras


class Watch(keras.callbacks.Callback):
    """Notes when each epoch has ended; Keras calls only those methods that a callback has."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.moments.epochs.append(now())


def eager(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    return _train(workload, epochs, moments, compiled=False)


def compiled(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    # A step that is compiled again and again, for each new model, is at last left uncompiled.
    torch._dynamo.reset()
    return _train(workload, epochs, moments, compiled=True)


def _train(workload: Workload, epochs: int, moments: Moments, *, compiled: bool) -> nn.Module:
    net = workload.fresh_net()
    x, y = (tensor.numpy() for tensor in workload.train.tensors)
    # Layers of Keras take longer than one layer that wraps the net.
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.TorchModuleWrapper(net)])
    model.compile(
        keras.optimizers.SGD(SGD["lr"], SGD["momentum"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=compiled,
    )
    model.fit(x, y, workload.batch_size, epochs, verbose=0, callbacks=[Watch(moments)])
    return net


SETTINGS = {
    "TorchModuleWrapper, arrays, no metric": eager,
    "TorchModuleWrapper, arrays, jit_compile=True, no metric": compiled,
}
