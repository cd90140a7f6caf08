"""Short trainings by the graph tier: on the fake recorder, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import engine_runs
import torch
from engine_nets import X, Y, mlp
from fake_graph import FakeRecorder
from torch import Tensor, nn

from estimator import Engine, Estimator, Trainer
from estimator.engine.capture import CudaRecorder
from estimator.engine.graph import GraphStep

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FUSED = Trainer("adam", lr=0.01, fused=True)


class Counting(CudaRecorder):
    """A recorder of a GPU that can be asked what the fake one can be."""

    def __init__(self) -> None:
        super().__init__(torch.device("cuda"))
        self.made: list[Any] = []

    def record(self, work: Callable[[], None], inputs: Any) -> Any:
        recorded = mock.Mock(wraps=super().record(work, inputs))
        self.made.append(recorded)
        return recorded

    @property
    def replays(self) -> int:
        return sum(recorded.replay.call_count for recorded in self.made)

    @property
    def alive(self) -> int:
        return sum(not recorded.reset.called for recorded in self.made)


@contextmanager
def recorder(device: str = "cpu", **settings: Any) -> Iterator[Any]:
    """Lets the coming runs on a device be recorded."""
    made: Any = FakeRecorder(**settings) if device == "cpu" else Counting()
    with mock.patch("estimator.engine.tiers.recorder_for", lambda device: made):
        yield made


def fit(*args: Any, **changes: Any) -> tuple[Estimator, list[Tensor]]:
    """A short training without validation, of which `test_graph_passes.py` tells."""
    return engine_runs.fit(*args, **{"val": None, **changes})


def graphed(
    engine: Any = None, make: Callable[[], nn.Module] = mlp, loss: Any = None, *handlers: Any,
    device: str = "cpu", **changes: Any,
) -> tuple[Estimator, list[Tensor], Any]:  # fmt: skip
    """A short training by graphs; then the Estimator, what was seen and is left, the recorder."""
    with recorder(device) as made:
        est, seen = fit(
            STRICT if engine is None else engine, make, loss, *handlers, device=device, **changes
        )
    assert isinstance(est._step, GraphStep)
    return est, seen, made


def step_of(est: Estimator) -> GraphStep:
    assert isinstance(est._step, GraphStep)
    return est._step


def codes(est: Estimator) -> list[str]:
    return [cause.code for cause in step_of(est).causes]


def whole(est: Estimator) -> list[bool]:
    """Of each shape that is replayed, whether its optimizer step is too."""
    return [form.whole for form in step_of(est).forms.values() if form.replays]


def assert_close(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-5)


CLOSE = Engine("graph", verify="close")
STRICT, STRICT_AUTO = (Engine(tier, verify="equal") for tier in ("graph", "auto"))
DATA = (X, Y)


def plain() -> nn.Module:
    """Without gradients that are rounding alone, which Adam makes as large as others."""
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 2))
