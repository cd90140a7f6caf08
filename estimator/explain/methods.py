"""Four methods that say what in its input a net's answer rests on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator.explain.layers import clamped_relus, layer_of
from estimator.explain.library import captum
from estimator.explain.question import Question
from estimator.explain.settings import baseline_of, whole_number, windows_of
from estimator.explain.undisturbed import original, undisturbed
from estimator.handlers.base import ArgumentTypeError

Baseline = float | Tensor | Literal["mean"]
_ROWS = 64
"""Rows that go through the net at once, where the samples are fewer."""
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class Attribution(NamedTuple):
    """What parts of an input add to a number of a net's answer."""

    values: Tensor
    """In the shape of the feature; of Grad-CAM (N, 1, ...)."""
    target: Tensor | None
    """The class that is explained of each sample, (N,); None of an answer of one number."""
    score: Tensor
    """The number that is explained of each sample, (N,): a logit, not a probability."""
    error: Tensor | None = None
    """Of integrated gradients, (N,): by how much the attributions miss what they add up to."""


def grad_cam(
    net: nn.Module, inputs: Any, *, target: int | Tensor | None = None,
    layer: str | nn.Module | None = None, output: str | int | None = None,
    feature: str | int | None = None, resize: bool = True,
) -> Attribution:  # fmt: skip
    """Where a convolutional net looks: the positions of a layer that speak for a class.

    The channels of the layer's output, each weighted by the mean gradient of the class over its
    positions, are added up; what is below 0 becomes 0 (Selvaraju et al. 2017). The net is
    evaluated in eval mode without autocast; its modes, gradients, statistics and hooks and the
    random streams stay as they are, also after an error. So it is with all methods here.

    Args:
        net: Any module; of a compiled one the original is run.
        inputs: A batch of N samples on the net's device: a tensor, a tuple of arguments, or a
            dict, whose entries go to the parameters of their names (or as a whole to a forward
            whose one parameter is called `batch`); others, such as targets, are left out.
        target: A class number, or an integer tensor of one a sample, (N,); None is the predicted
            class. The class is a column of an answer (N, C) or (N, C, ...), of which the mean over
            the positions counts. An answer of one number, (N,) or (N, 1), is explained as it is;
            for a logit of two classes 1 means the same and 0 its negative. Of several numbers of
            a regression None is the largest: say which.
        layer: Its name as in `net.named_modules()`, or the module; its output is (N, C, ...). None
            is the last convolution that runs and that the answer depends on. Of a layer that runs
            several times the last run counts.
        output: Which one of a tuple (its place) or dict (its name) of outputs is explained;
            outputs of `estimator.outputs` are taken by name too.
        feature: The place or name of the input, where several are tensors of numbers. Bytes
            (uint8) are explained as floating numbers from 0 to 255.
        resize: Whether the map is brought, linearly, to the height and width of the feature,
            where that has as many dimensions as the layer's output.

    Returns:
        `values` (N, 1, ...), not below 0, with `target` and `score`.

    Raises:
        ArgumentError: There is no such layer, output, feature or target, or no convolution.
        ArgumentTypeError: An argument of the wrong kind.
        DataError: A sample holds NaN or infinite numbers, or has such an answer.
        MissingExtraError: Captum is not installed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        >>> found = grad_cam(net, torch.randn(2, 1, 8, 8), target=2)
        >>> found.values.shape, found.target
        (torch.Size([2, 1, 8, 8]), tensor([2, 2]))
    """
    methods = captum("grad_cam")
    with _asked("grad_cam", net, inputs, target, output, feature) as question:
        chosen = layer_of(question, layer)
        method = methods.LayerGradCam(question, chosen)
        # Frozen layers have gradients too where the values have.
        values = question.values.clone().requires_grad_()
        found = method.attribute(values, relu_attributions=True).detach()
        if resize and found.ndim == question.values.ndim:
            size, mode = question.values.shape[2:], _MODES[found.ndim]
            found = F.interpolate(found, size=size, mode=mode, align_corners=False)
        return Attribution(found, question.columns, question.scores)


def integrated_gradients(
    net: nn.Module, inputs: Any, *, baseline: Baseline, steps: int = 200,
    target: int | Tensor | None = None, output: str | int | None = None,
    feature: str | int | None = None,
) -> Attribution:  # fmt: skip
    """What each number of an input adds to the answer, compared with a baseline.

    The gradient along the straight line from the baseline to the input, times the difference of
    both (Sundararajan et al. 2017). The attributions of a sample add up to the difference of its
    answers to both, up to `error`, which falls with `steps`.

    Args:
        net: See `grad_cam`.
        inputs: See `grad_cam`.
        baseline: An input that says nothing, which only the user knows: zero is black before a
            normalisation and grey after it. A number; a tensor that fits the shape of a sample or
            of the batch; or "mean", the mean over this batch of each column of a feature (N, F),
            of each channel of a feature (N, C, ...).
        steps: Points on the line.
        target: See `grad_cam`.
        output: See `grad_cam`.
        feature: See `grad_cam`; other inputs stay as they are.

    Returns:
        `values` in the shape of the feature, with `target`, `score` and `error` (N,).

    Raises:
        ArgumentError: As in `grad_cam`, or a baseline that does not fit.
        ArgumentTypeError: An argument of the wrong kind.
        DataError: As in `grad_cam`, or the answer has no gradient by the feature.
        MissingExtraError: Captum is not installed.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net.weight.data = torch.tensor([[3.0, -1.0]])
        >>> integrated_gradients(net, torch.tensor([[2.0, 5.0]]), baseline=1.0).values.round()
        tensor([[ 3., -4.]])
    """
    methods = captum("integrated_gradients")
    whole_number(steps, "integrated_gradients(steps=...)")
    with _asked("integrated_gradients", net, inputs, target, output, feature) as question:
        question.gradient_is_there()
        start = baseline_of(baseline, question)
        samples = len(question.values)
        values = methods.IntegratedGradients(question).attribute(
            question.values, start, n_steps=steps, internal_batch_size=max(_ROWS, samples)
        )
        with torch.no_grad():
            gained = question.scores - question(start)
            error = (values.reshape(samples, -1).sum(1) - gained).abs()
        return Attribution(question.shaped(values), question.columns, question.scores, error)


def guided_backpropagation(
    net: nn.Module, inputs: Any, *, target: int | Tensor | None = None,
    output: str | int | None = None, feature: str | int | None = None,
) -> Attribution:  # fmt: skip
    """The gradient of an answer by the input, of which each ReLU passes on what is above 0 only.

    (Springenberg et al. 2015.) Its pictures are fine, and depend on the weights less than those of
    the other methods (Adebayo et al. 2018): they show what a net can see more than what it uses.

    Args:
        net: See `grad_cam`; each of its ReLUs has to be an `nn.ReLU`. A call of `F.relu`,
            `torch.relu` or `x.relu_()` would let the plain gradient through, and is refused.
        inputs: See `grad_cam`.
        target: See `grad_cam`.
        output: See `grad_cam`.
        feature: See `grad_cam`.

    Returns:
        `values` in the shape of the feature, with `target` and `score`.

    Raises:
        ArgumentError: As in `grad_cam`, or a ReLU that is no module, or no ReLU at all.
        ArgumentTypeError: An argument of the wrong kind.
        DataError: As in `integrated_gradients`.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> net[1].weight.data = torch.tensor([[3.0, -1.0]])
        >>> guided_backpropagation(net, torch.tensor([[2.0, 5.0]])).values
        tensor([[3., 0.]])
    """
    with _asked("guided_backpropagation", net, inputs, target, output, feature) as question:
        question.gradient_is_there()
        values = question.values.clone().requires_grad_()
        with clamped_relus(question):
            scores = question(values)
        (found,) = torch.autograd.grad(scores.sum(), values)
        return Attribution(question.shaped(found), question.columns, question.scores)


def occlusion(
    net: nn.Module, inputs: Any, *, window: int | Sequence[int], baseline: Baseline,
    stride: int | Sequence[int] | None = None, target: int | Tensor | None = None,
    output: str | int | None = None, feature: str | int | None = None,
) -> Attribution:  # fmt: skip
    """By how much an answer falls when a window of the input is covered (Zeiler, Fergus 2014).

    The window is moved over all positions; a number gets the mean over the windows that cover it.
    It asks for no gradient, and takes one evaluation for each place of the window.

    Args:
        net: See `grad_cam`.
        inputs: See `grad_cam`.
        window: Its size: a number for every dimension of the positions, or one for each. It
            covers all channels of a feature (N, C, ...), unless there is a size for them too. In a
            feature (N, F) the F columns are the positions.
        baseline: What it is covered with; see `integrated_gradients`.
        stride: How far it is moved; at most its size, so that it leaves no gaps. None is half of
            its size.
        target: See `grad_cam`.
        output: See `grad_cam`.
        feature: See `grad_cam`; other inputs stay as they are.

    Returns:
        `values` in the shape of the feature, with `target` and `score`.

    Raises:
        ArgumentError: As in `grad_cam`, or a window, stride or baseline that does not fit.
        ArgumentTypeError: An argument of the wrong kind.
        DataError: As in `grad_cam`.
        MissingExtraError: Captum is not installed.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net.weight.data = torch.tensor([[3.0, -1.0]])
        >>> occlusion(net, torch.tensor([[2.0, 5.0]]), window=1, baseline=0).values
        tensor([[ 6., -5.]])
    """
    methods = captum("occlusion")
    with _asked("occlusion", net, inputs, target, output, feature) as question:
        shapes, strides = windows_of(window, stride, tuple(question.values.shape[1:]))
        with torch.no_grad():
            found = methods.Occlusion(question).attribute(
                question.values,
                shapes,
                strides,
                baselines=baseline_of(baseline, question),
                perturbations_per_eval=max(1, _ROWS // len(question.values)),
            )
        return Attribution(question.shaped(found), question.columns, question.scores)


@contextlib.contextmanager
def _asked(
    owner: str, net: nn.Module, inputs: Any, target: int | Tensor | None,
    output: str | int | None, feature: str | int | None,
) -> Iterator[Question]:  # fmt: skip
    if not isinstance(net, nn.Module):
        raise ArgumentTypeError(f"{owner}(net=...) must be a module; received {net!r}.")
    net = original(net)
    with undisturbed(net):
        yield Question(net, inputs, owner=owner, target=target, output=output, feature=feature)
