"""The workloads through fastai."""

from __future__ import annotations

from functools import partial

import torch
from _variants import DEVICE, SGD, Moments, now
from _workloads import Workload
from fastai.data.core import DataLoaders
from fastai.learner import Learner, TrainEvalCallback
from fastai.optimizer import OptimWrapper
from torch import nn


class Timed(Learner):
    """Has no validation, and notes when each epoch has ended without a callback more."""

    moments: Moments

    def _do_epoch(self) -> None:
        self._do_epoch_train()
        self.moments.epochs.append(now())


def learner(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    learn = Timed(
        DataLoaders(*workload.loaders(), device=DEVICE),
        workload.fresh_net(),
        nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD, momentum=SGD["momentum"], fused=True),
        lr=SGD["lr"],
        default_cbs=False,
        cbs=TrainEvalCallback,
    )
    learn.moments = moments
    learn.fit(epochs)
    return learn.model


SETTINGS = {"TrainEvalCallback alone, torch's fused SGD in OptimWrapper, no metric": learner}
