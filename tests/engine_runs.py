"""Short trainings on which engines are compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from engine_nets import X, Y, mlp
from torch import nn

from estimator import Estimator, Trainer
from estimator.engine.replay import ReplayStep
from estimator.handlers import EventHandler
from estimator.stats import TrainStats


class Losses(EventHandler):
    """What a handler sees in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.loss is not None and not stats.outputs.requires_grad
        self.seen += [stats.loss.clone(), stats.outputs.clone()]
        grads = [p.grad for p in stats.net.parameters() if p.grad is not None]
        self.seen += [grad.to_dense() if grad.is_sparse else grad.clone() for grad in grads]


def fit(
    engine: Any, make: Callable[[], nn.Module] = mlp, loss: Any = None, *handlers: Any,
    **changes: Any,
) -> tuple[Estimator, list[torch.Tensor]]:  # fmt: skip
    """A short training; afterwards the Estimator, and all that was seen and is left."""
    torch.manual_seed(0)
    random.seed(0)
    net, seen = make(), Losses()
    est = Estimator(net, nn.CrossEntropyLoss() if loss is None else loss, ["accuracy"])
    settings: dict[str, Any] = {
        "val": (X[:26], Y[:26]), "epochs": 4, "batch_size": 8, "progress": False, "device": "cpu",
        "trainers": Trainer("adam", lr=0.01, fused=True),
    }  # fmt: skip
    if any(p.is_complex() for p in net.parameters()) or "Sparse" in type(net).__name__:
        settings["trainers"] = Trainer("sgd", lr=0.01)
    est.fit((X, Y), handlers=[*handlers, seen], engine=engine, **(settings | changes))
    left = [*net.state_dict().values(), torch.get_rng_state()]
    numbers = [torch.tensor(est.train_stats["train_loss"])] if est.train_stats else []
    return est, [*seen.seen, *left, *numbers]


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def replayed(est: Estimator, *, evaluation: bool = False) -> bool:
    """Whether any shape of batches was replayed in the last fit."""
    assert isinstance(est._step, ReplayStep)
    climb = est._step.evaluating if evaluation else est._step.training
    return any(each.replays for each in climb.ladders.values())


def codes(est: Estimator) -> list[str]:
    assert isinstance(est._step, ReplayStep)
    return [cause.code for cause in est._step.causes]
