"""The nets of `engine.py`, each with ten classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

CLASSES = 10
VOCABULARY = 64


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in zip(widths, widths[1:], strict=False):
        layers += nn.Linear(width, following), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def deep_thin() -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (16, 32, 32, 32):
        layers += nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(32, CLASSES))


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, CLASSES)),
    )


class Transformer(nn.Module):
    """Says the class of a sequence of tokens from the mean over its places."""

    def __init__(self, width: int, layers: int, *, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.places
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden.mean(1))
        return logits


class Block(nn.Module):
    """Two convolutions around which the input is led, as in He et al. (2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)),
            *(nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.body(x) + self.around(x))


class ResNet(nn.Sequential):
    """Three stages of one block each."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
        )


class Scaled(nn.Module):
    """Bytes to numbers around 0, on the device, so that bytes travel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


class Shifted(nn.Module):
    """In training each image is shifted by up to two pixels, and flipped or not."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, _, height, width = x.shape
        samples = torch.arange(n, device=x.device).view(n, 1, 1, 1)
        down, right, flips = (torch.randint(k, (n, 1, 1, 1), device=x.device) for k in (5, 5, 2))
        rows = torch.arange(height, device=x.device).view(1, 1, height, 1) + down
        columns = torch.arange(width, device=x.device).view(1, 1, 1, width)
        columns = torch.where(flips == 1, width - 1 - columns, columns) + right
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
        return pad(x, (2, 2, 2, 2))[samples, channels, rows, columns]


def augmented_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(Scaled(), Shifted()),
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, CLASSES)),
    )


def record_cnn() -> nn.Module:
    """Three stages of two convolutions, as in the scripts that race to 94 % on CIFAR-10."""
    layers: list[nn.Module] = [Scaled(), nn.Conv2d(3, 24, 2), nn.GELU()]
    width = 24
    for following in (64, 256, 256):
        layers += nn.Conv2d(width, following, 3, padding=1, bias=False), nn.MaxPool2d(2)
        layers += nn.BatchNorm2d(following), nn.GELU()
        layers += (nn.Conv2d(following, following, 3, padding=1, bias=False),)
        layers += nn.BatchNorm2d(following), nn.GELU()
        width = following
    net = nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(width, CLASSES))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it


def strided_cnn() -> nn.Module:
    net = nn.Sequential(
        *(Scaled(), nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 64, 2, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it
