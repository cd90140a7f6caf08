"""The four methods against formulas written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator.explain import (
    Attribution,
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
)
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError, require


def small_net(channels: int = 1, *, inplace: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace),
            nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(96, 3),
        )  # fmt: skip


def images(samples: int = 4, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, channels, 8, 8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("inplace", [False, True])
def test_grad_cam_is_the_formula(channels: int, samples: int, inplace: bool) -> None:
    net, x = small_net(channels, inplace=inplace), images(samples, channels)
    found = grad_cam(net, x, resize=False)
    net.eval()
    seen = net[:5](x).detach().requires_grad_()
    answer = net[5:](seen.clone())
    best = answer.argmax(1)
    (gradient,) = torch.autograd.grad(answer.gather(1, best[:, None]).sum(), seen)
    hand = (gradient.mean((2, 3), keepdim=True) * seen).sum(1, keepdim=True).clamp(min=0)
    torch.testing.assert_close(found.values, hand.detach(), rtol=0, atol=0)
    assert torch.equal(found.target if found.target is not None else torch.empty(0), best)
    torch.testing.assert_close(found.score, answer.max(1).values.detach())
    assert found.error is None
    resized = F.interpolate(found.values, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(grad_cam(net, x).values, resized)


@pytest.mark.parametrize("layer", ["4", "0", None])
def test_grad_cam_of_a_named_layer_and_of_the_module_is_the_same(layer: str | None) -> None:
    net, x = small_net(), images()
    module = net.get_submodule("4" if layer is None else layer)
    named = grad_cam(net, x, target=1, layer=layer, resize=False)
    by_module = grad_cam(net, x, target=1, layer=module, resize=False)
    assert torch.equal(named.values, by_module.values) and named.values.any()
    assert named.values.shape[2:] == ((8, 8) if layer == "0" else (4, 4))


class TwoWays(nn.Module):
    """Its convolutions run in another order than they are listed in; one is of no use."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.last = nn.Conv2d(4, 2, 3)
            self.first = nn.Conv2d(1, 4, 3)
            self.mask = nn.Conv2d(4, 1, 3)
            self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.first(x).relu()
        classes = self.head(self.last(seen).mean((2, 3)))
        return {"classes": classes, "mask": self.mask(seen)}


def test_the_layer_is_the_last_that_runs_and_that_the_answer_depends_on() -> None:
    net, x = TwoWays(), images()
    by_default = grad_cam(net, x, output="classes", target=0)
    assert torch.equal(
        by_default.values, grad_cam(net, x, output="classes", target=0, layer="last").values
    )
    with pytest.raises(ArgumentError, match="that the answer depends on.*'mask'"):
        grad_cam(net, x, output="classes", layer="mask")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("5x", "must name a module of the net; received '5x'"),
        (nn.Conv2d(1, 1, 1), "none of its modules"),
        ("8", r"output is a tensor \(N, C, ...\); received '8'"),
    ],
)
def test_a_layer_that_cannot_be_taken_is_an_error(layer: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        grad_cam(small_net(), images(), layer=layer)


def test_grad_cam_needs_a_convolution_and_a_name_or_module() -> None:
    with pytest.raises(ArgumentError, match="takes the last convolution .* Linear has none"):
        grad_cam(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(ArgumentTypeError, match="name of a layer or a module; received 3"):
        grad_cam(small_net(), images(), layer=3)  # type: ignore[arg-type]  # on purpose


def test_grad_cam_of_a_net_with_frozen_weights_and_over_a_series() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    found = grad_cam(net, torch.randn(2, 2, 10))
    assert found.values.shape == (2, 1, 10)


def test_a_map_of_other_dimensions_than_the_feature_keeps_its_size() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.Flatten())
    assert grad_cam(net, torch.randn(2, 16)).values.shape == (2, 1, 2, 2)


def by_hand(net: nn.Module, x: Tensor, start: Tensor, target: int, steps: int) -> Tensor:
    """The midpoint rule along the line."""
    net.eval()
    total = torch.zeros_like(x)
    for k in range(steps):
        point = (start + (k + 0.5) / steps * (x - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(net(point)[:, target].sum(), point)
        total += gradient
    return total / steps * (x - start)


@pytest.mark.parametrize("baseline", [0.0, -0.8, torch.full((1, 8, 8), 0.4), "mean"])
def test_integrated_gradients_are_the_sum_over_the_line(baseline: Any) -> None:
    net, x = small_net(), images()
    start = torch.full_like(x, 0.0)
    start += x.mean() if isinstance(baseline, str) else baseline
    found = integrated_gradients(net, x, baseline=baseline, target=2)
    torch.testing.assert_close(found.values, by_hand(net, x, start, 2, 400), rtol=0, atol=2e-3)
    net.eval()
    gained = (net(x) - net(start))[:, 2].detach()
    difference = (found.values.sum((1, 2, 3)) - gained).abs()
    assert found.error is not None and difference.max() < 1e-3
    torch.testing.assert_close(found.error, difference, rtol=0, atol=1e-5)


def test_the_baseline_counts() -> None:
    """Of x squared from 2 to 3 it is 5, and from 0 it is 9."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**2

    x = torch.tensor([[3.0]])
    for baseline, expected in ((2.0, 5.0), (0, 9.0), (torch.tensor([2.0]).numpy(), 5.0)):
        found = integrated_gradients(Square(), x, baseline=baseline)  # type: ignore[arg-type]  # NumPy
        torch.testing.assert_close(found.values, torch.tensor([[expected]]))
    assert occlusion(Square(), x, window=1, baseline=2.0).values.item() == 5.0


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        (torch.zeros(3, 8, 8), ArgumentError, r"fit the shape of a sample, \(1, 8, 8\)"),
        (float("nan"), ArgumentError, "must be finite"),
        ("black", ArgumentTypeError, "a number, a tensor or 'mean'; received 'black'"),
        (None, ArgumentTypeError, "received None"),
        (True, ArgumentTypeError, "received True"),
    ],
)
def test_a_baseline_that_does_not_fit(baseline: Any, error: type, message: str) -> None:
    for method, more in ((integrated_gradients, {}), (occlusion, {"window": 2})):
        with pytest.raises(error, match=message):
            method(small_net(), images(), baseline=baseline, **more)


def test_a_baseline_must_be_given() -> None:
    with pytest.raises(TypeError, match="baseline"):
        integrated_gradients(small_net(), images())  # type: ignore[call-arg]  # on purpose


def test_one_row_is_no_mean() -> None:
    with pytest.raises(ArgumentError, match="single sample, which is its own mean"):
        integrated_gradients(nn.Linear(4, 2), torch.randn(1, 4), baseline="mean")
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    found = integrated_gradients(nn.Linear(2, 1), x, baseline="mean")
    assert found.values[0, 0] == -found.values[1, 0] != 0 and not found.values[:, 1].any()


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_a_whole_number(steps: Any) -> None:
    with pytest.raises(ArgumentError, match=r"integrated_gradients\(steps=...\)"):
        integrated_gradients(small_net(), images(), baseline=0.0, steps=steps)


class OneOfTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.detach() + y


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_an_answer_without_a_gradient_is_an_error() -> None:
    x = torch.randn(2, 3)
    assert integrated_gradients(OneOfTwo(), (x, x), baseline=0.0, feature=1).values.any()
    with pytest.raises(DataError, match="by the feature 0, and there is none"):
        integrated_gradients(OneOfTwo(), (x, x), baseline=0.0, feature=0)
    with pytest.raises(DataError, match="by the feature, and there is none"):
        guided_backpropagation(Cut(), x)
    assert occlusion(Cut(), x, window=1, baseline=0.0).values.any()


def test_results_are_named() -> None:
    found = integrated_gradients(nn.Linear(3, 2), torch.randn(2, 3), baseline=0.0)
    assert isinstance(found, Attribution)
    assert found._fields == ("values", "target", "score", "error")
    assert not any(t.requires_grad for t in found if t is not None)


def test_agrees_with_captum_alone() -> None:
    net, x = small_net(), images()
    ours = occlusion(net, x, window=3, stride=2, baseline=0.5, target=1)
    net.eval()
    captum = require("captum.attr", "explain", "this test")
    theirs = captum.Occlusion(net).attribute(x, (1, 3, 3), (1, 2, 2), baselines=0.5, target=1)
    torch.testing.assert_close(ours.values, theirs)


def test_occlusion_is_the_fall_of_the_answer() -> None:
    net, x = small_net(3), images(2, 3)
    found = occlusion(net, x, window=4, stride=4, baseline=0.0, target=1).values
    covered = x.clone()
    covered[:, :, 4:, :4] = 0
    net.eval()
    fall = (net(x) - net(covered))[:, 1].detach()
    torch.testing.assert_close(found[:, :, 4:, :4], fall[:, None, None, None].expand(-1, 3, 4, 4))


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (0, None, r"occlusion\(window=...\) must be a whole number from 1 up; received 0"),
        (9, None, r"at most its size; received 9"),
        ((2, 2, 2, 2), None, "one for each dimension"),
        (2, 3, r"occlusion\(stride=...\) must be at most the window, \(1, 2, 2\)"),
        (2, (1,), "one for each dimension"),
    ],
)
def test_a_window_that_does_not_fit(window: Any, stride: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        occlusion(small_net(), images(), window=window, stride=stride, baseline=0.0)


def test_windows_of_channels_and_of_the_whole() -> None:
    net, x = small_net(3), images(2, 3)
    one = occlusion(net, x, window=(1, 8, 8), baseline=0.0).values
    assert (one[:, 0] != one[:, 1]).all()
    whole = occlusion(net, x, window=8, stride=3, baseline=0.0).values
    assert (whole == whole[:, :1, :1, :1]).all()
