"""Guided backpropagation: its rule by hand, and the ReLUs that it cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator.explain import guided_backpropagation
from estimator.handlers.base import ArgumentError


class Guided(torch.autograd.Function):
    """A ReLU whose gradient is cut below 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        passed: Tensor = gradient.clamp(min=0) * (x > 0)
        return passed


class Layers(nn.Module):
    """A net of two linear layers with something between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], relu: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        self.relu, self.between = relu, between

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.between(self.relu, self.first(x)))
        return found


def in_place(relu: nn.Module, x: Tensor) -> Tensor:
    relu(x)
    return x


WAYS: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "plain": (lambda relu, x: relu(x), False),
    "in place": (lambda relu, x: relu(x), True),
    "by its effect": (in_place, True),
    "with a way around": (lambda relu, x: relu(x) - x, False),
    "twice": (lambda relu, x: relu(relu(x).flip(1) - 0.1), False),
    "for two": (lambda relu, x: torch.stack([relu(x), relu(-x)]).diff(dim=0)[0], False),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_rule(way: str) -> None:
    between, works_in_place = WAYS[way]
    net = Layers(between, nn.ReLU(works_in_place))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = guided_backpropagation(net, x, target=1)
    rule = WAYS["plain"][0] if between is in_place else between
    seen = x.clone().requires_grad_()
    answer = net.second(rule(Guided.apply, net.first(seen)))
    (hand,) = torch.autograd.grad(answer[:, 1].sum(), seen)
    assert torch.equal(found.values, hand)
    (plain,) = torch.autograd.grad(net(seen)[:, 1].sum(), seen)
    assert not torch.allclose(found.values, plain)


@pytest.mark.parametrize(
    "relu",
    [
        F.relu, torch.relu, lambda x: F.relu(x, inplace=True), torch.relu_, F.relu_,
        lambda x: x.relu(), lambda x: x.relu_(), lambda x: x.clone().relu_(),
    ],
)  # fmt: skip
def test_a_relu_as_a_function_is_refused(relu: Callable[[Tensor], Tensor]) -> None:
    inner = Layers(lambda module, x: relu(module(x) - 0.1), nn.ReLU())
    with pytest.raises(ArgumentError, match=r"relu as a function in 1 \(Layers\), .*nn.ReLU\(\)"):
        guided_backpropagation(nn.Sequential(nn.Identity(), inner), torch.randn(2, 5))
    with pytest.raises(ArgumentError, match=r"in the net \(Layers\)"):
        guided_backpropagation(inner, torch.randn(2, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inner.modules())


def test_a_transformer_layer_is_refused_where_it_calls_a_function() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    with pytest.raises(ArgumentError, match="relu as a function in the net"):
        guided_backpropagation(layer, torch.randn(2, 3, 4))
    own = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation=nn.ReLU())
    assert guided_backpropagation(own, torch.randn(2, 3, 4)).values.shape == (2, 3, 4)


def test_a_net_without_a_relu_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"must have an nn.ReLU that runs; received Sequential"):
        guided_backpropagation(nn.Sequential(nn.Linear(5, 3), nn.GELU()), torch.randn(2, 5))


def test_a_relu_beside_the_feature_needs_no_gradient() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return x * self.relu(y)

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    found = guided_backpropagation(Beside(), (x, y), feature=0, target=0)
    assert torch.equal(found.values[:, 0], y[:, 0].clamp(min=0))
