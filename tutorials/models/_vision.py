"""What the scripts about pictures share: their nets, the mean IoU, and the command line."""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from estimator.transforms import Normalize


def normalizer(images: Tensor) -> nn.Module:
    """The first layer of a net: bytes as numbers with about zero mean and unit spread.

    Args:
        images: To train on, shape (N, C, H, W) uint8; the first thousands of them are enough.
    """
    std, mean = torch.std_mean(images[:5_000] / 255, dim=(0, 2, 3))
    # A channel may be empty.
    std = torch.where(std > 0, std, 1.0)
    return Normalize(mean.tolist(), std.tolist()).layer()


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, or halves it by its stride, and a BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def alexnet(channels: int, classes: int, scale: float = 1.0) -> nn.Sequential:
    """AlexNet for images of 28 to 64 pixels (Krizhevsky, Sutskever, Hinton, 2012).

    Widths and kernels are those of the paper, but for the first: 5x5 in steps of one pixel, since
    steps of four would leave nothing to see. BatchNorm stands in for the normalisation over
    neighbouring channels, and the two hidden layers have a quarter of their 4,096 units.

    Args:
        channels: Of the images.
        classes: How many outputs there are.
        scale: Multiplies all widths.
    """
    widths = [round(width * scale) for width in (96, 256, 384, 384, 256)]
    a, b, c, d, e = widths
    hidden = round(1024 * scale)
    return nn.Sequential(
        *(*conv(channels, a, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(*conv(a, b, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(*conv(b, c), nn.ReLU(), *conv(c, d), nn.ReLU(), *conv(d, e), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(4), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(e * 4 * 4, hidden), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, classes),
    )


class Residual(nn.Module):
    """Two convolutions, and what they got added to what they give (He et al., 2016).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: 2 halves height and width.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = conv(inputs, outputs, 3, stride), conv(outputs, outputs)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*([] if same else conv(inputs, outputs, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H / stride, W / stride)."""
        return (self.body(x) + self.shortcut(x)).relu()


def resnet18(channels: int, classes: int, scale: float = 1.0) -> nn.Sequential:
    """ResNet-18 for small images (He, Zhang, Ren, Sun, 2016, arXiv:1512.03385).

    The stem is a 3x3 convolution that keeps the size, as in the paper's nets for CIFAR-10, in
    place of 7x7 in steps of two and a maximum over 3x3.

    Args:
        channels: Of the images.
        classes: How many outputs there are.
        scale: Multiplies all widths.
    """
    widths = [round(width * scale) for width in (64, 64, 128, 256, 512)]
    blocks: list[nn.Module] = []
    for stage, (before, width) in enumerate(pairwise(widths)):
        blocks += [Residual(before, width, 2 if stage else 1), Residual(width, width, 1)]
    return nn.Sequential(
        *(*conv(channels, widths[0]), nn.ReLU(), *blocks),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)),
    )


class FCN(nn.Module):
    """A fully convolutional net (Long, Shelhamer, Darrell, 2015, arXiv:1411.4038).

    Five blocks of two convolutions, with half the height and width and twice the channels each.
    Each but the first rates the classes at its places; the ratings of the deepest are enlarged
    twofold and added to those of the one before, and so on up to the size of the image. The paper
    ends at steps of eight pixels; nuclei are small, so that this one goes on to two.

    Args:
        channels: Of the images.
        classes: How many outputs each pixel has.
        width: Channels of the first block.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.blocks = nn.ModuleList(
            nn.Sequential(*conv(a, b), nn.ReLU(), *conv(b, b), nn.ReLU())
            for a, b in pairwise([channels, *widths])
        )
        # Rounded up, so that images of any size keep their last row and column.
        self.halve = nn.MaxPool2d(2, ceil_mode=True)
        self.rate = nn.ModuleList(nn.Conv2d(a, classes, 1) for a in widths[1:])
        self.enlarge = nn.ModuleList(twofold(classes) for _ in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of images (N, channels, H, W)."""
        features = [self.blocks[0](x)]
        for block in self.blocks[1:]:
            features.append(block(self.halve(features[-1])))
        ratings = [rate(each) for rate, each in zip(self.rate, features[1:], strict=True)]
        total = ratings.pop()
        for enlarge, finer in zip(self.enlarge, [*ratings[::-1], features[0]], strict=True):
            height, width = finer.shape[-2:]
            total = enlarge(total)[..., :height, :width]
            total = total if finer is features[0] else total + finer
        return total


def twofold(classes: int) -> nn.ConvTranspose2d:
    """Learns to enlarge; begins with bilinear interpolation of each class by itself."""
    layer = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.copy_(torch.eye(classes)[..., None, None] * torch.outer(line, line))
    return layer


def arguments(description: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """Reads the command line.

    Args:
        description: Of the script.
        **more: Further options, with what `add_argument` needs to know of each.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("ESTIMATOR_DATA")
    parser.add_argument("--data", type=Path, default=default, help="has the folders of the data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="to train")
    parser.add_argument("--quick", action="store_true", help="one seed, small, without files")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    args = parser.parse_args()
    if args.quick:
        args.seeds = args.seeds[:1]
    return args
