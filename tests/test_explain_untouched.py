"""What an explanation leaves as it was, also where an error ends it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimator.explain import (
    Attribution,
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
)
from estimator.testing._watch import attached, difference, random_streams

Ask = Callable[..., Attribution]


def integrated(net: nn.Module, x: Any, **more: Any) -> Attribution:
    return integrated_gradients(net, x, baseline=0.2, **more)


def occluded(net: nn.Module, x: Any, **more: Any) -> Attribution:
    return occlusion(net, x, window=2, baseline=0.2, **more)


ALL: list[Ask] = [grad_cam, integrated, guided_backpropagation, occluded]


class Drawing(nn.Module):
    """Draws from every stream in each forward, and fails in the one that it is told to."""

    left = 0

    def forward(self, x: Tensor) -> Tensor:
        random.random(), np.random.rand(), torch.rand(1)
        Drawing.left -= 1
        if Drawing.left == 0:
            raise RuntimeError("planned")
        return x


def make() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Drawing(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    net[1].eval()
    net[0].bias.requires_grad_(False)
    net(torch.randn(4, 1, 6, 6)).sum().backward()
    return net


def state(net: nn.Module) -> dict[str, Any]:
    return {
        "modes": {name: module.training for name, module in net.named_modules()},
        "weights": {name: value.clone() for name, value in net.state_dict().items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()},
        "required": {name: p.requires_grad for name, p in net.named_parameters()},
        "hooks": dict(attached(net)),
        "streams": random_streams(),
        "grad mode": torch.is_grad_enabled(),
        "cudnn": torch.backends.cudnn.enabled,
    }


@pytest.mark.parametrize("ask", ALL)
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_everything_stays(ask: Ask, fails_at: int) -> None:
    net, x = make(), torch.randn(3, 1, 6, 6)
    before, copy = state(net), x.clone()
    Drawing.left = fails_at
    if fails_at:
        with pytest.raises(RuntimeError, match="planned"):
            ask(net, x)
    else:
        ask(net, x)
    assert difference(state(net), before) == ""
    assert torch.equal(x, copy) and not x.requires_grad and x.grad is None


@pytest.mark.parametrize("ask", ALL)
def test_no_warning_and_the_same_wherever_it_is_called(ask: Ask) -> None:
    net, x = make(), torch.randn(3, 1, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = ask(net, x, target=1)
    with torch.no_grad():
        found = ask(net, x, target=1)
        assert not torch.is_grad_enabled()
    assert difference(found, expected) == ""
    with torch.autocast("cpu", torch.bfloat16):
        assert difference(ask(net, x, target=1), expected) == ""
    with torch.inference_mode():
        inner = x + 0
        found = ask(net, inner, target=1)
    assert difference(tuple(found), tuple(expected)) == ""
    net.eval()
    assert difference(ask(net, x.requires_grad_(), target=1), expected) == ""
    assert x.grad is None


@pytest.mark.parametrize("ask", ALL)
def test_a_compiled_net_is_run_as_it_was_written(ask: Ask) -> None:
    net, x = make(), torch.randn(3, 1, 6, 6)
    expected = ask(net, x, target=1)
    runs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        runs.append(module)
        return module.forward

    outer: Any = torch.compile(net, backend=backend)
    part: Any = torch.compile(net[5:], backend=backend)
    inner = nn.Sequential(*list(net)[:5], part)
    assert difference(ask(outer, x, target=1), expected) == ""
    layer = {"layer": "0"} if ask is grad_cam else {}
    assert difference(ask(inner, x, target=1, **layer), expected) == ""
    net.compile(backend=backend)
    assert difference(ask(net, x, target=1), expected) == ""
    assert runs == []


def test_a_recurrent_net() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.cell(x)[0][:, -1])

    net, x = Recurrent(), torch.randn(2, 7, 3)
    before = state(net)
    found = integrated(net, x)
    assert found.error is not None and found.error.max() < 1e-3
    assert difference(state(net), before) == ""
