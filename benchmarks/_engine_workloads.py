"""What `engine.py` trains: small nets where the loop decides, and larger ones where it must not."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import _engine_nets as nets
import torch
from torch import Tensor, nn

LR = 1e-3
# A tenth of the data is usual for a validation.
STEPS_PER_VALIDATION_STEP = 10

Pair = tuple[Tensor, Tensor]
Inputs = Callable[[int], Tensor]
"""Makes inputs of a number of samples."""


def floats(*shape: int) -> Inputs:
    return lambda samples: torch.randn(samples, *shape)


def pixels(*shape: int) -> Inputs:
    return lambda samples: torch.randint(256, (samples, *shape), dtype=torch.uint8)


def tokens(length: int) -> Inputs:
    return lambda samples: torch.randint(nets.VOCABULARY, (samples, length))


@dataclass(frozen=True)
class Workload:
    """A net, its loss and made-up data; `dataclasses.replace` makes a smaller one of it."""

    id: str
    what: str
    make_net: Callable[[], nn.Module]
    make_inputs: Inputs
    batch_size: int
    steps: int
    """Training steps of an epoch."""
    epochs: int = 2
    """Epochs that are timed; one more goes before them."""
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    streamed: bool = False
    """Whether its data stays in the memory of the host, as if it did not fit on the device."""
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)

    @cached_property
    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make_net()

    def fresh_net(self) -> nn.Module:
        return copy.deepcopy(self.net)

    @cached_property
    def train(self) -> Pair:
        return self._data(self.steps, seed=1)

    @cached_property
    def val(self) -> Pair:
        return self._data(max(1, self.steps // STEPS_PER_VALIDATION_STEP), seed=2)

    def _data(self, steps: int, *, seed: int) -> Pair:
        torch.manual_seed(seed)
        samples = steps * self.batch_size
        return self.make_inputs(samples), torch.randint(nets.CLASSES, (samples,))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        # A captured step must not keep casts of an earlier one, so no loop of these keeps any.
        return torch.autocast(self.device, torch.bfloat16, cache_enabled=False)


def _workloads(*entries: Workload) -> dict[str, Workload]:
    return {entry.id: entry for entry in entries}


MLP = Workload(
    "C2", "MLP 784-128-10", partial(nets.mlp, 784, 128), floats(784), 64, 900
)  # fmt: skip

CPU = _workloads(
    Workload(
        *("C1", "tabular net 16-64-64-10", partial(nets.mlp, 16, 64, 64)),
        *(floats(16), 256, 1000),
    ),
    MLP,
    Workload(
        *("C3", "deep and thin, 4 x (Linear 32, BatchNorm, ReLU)", nets.deep_thin),
        *(floats(16), 128, 1000),
    ),
    Workload("C4", "small CNN on 28x28", nets.small_cnn, floats(1, 28, 28), 64, 200),
    Workload(
        *("C5", "transformer, 2 layers of width 32, 16 tokens"),
        *(partial(nets.Transformer, 32, 2, length=16), tokens(16), 16, 300),
    ),
    Workload(
        *("C6", "wide MLP 784-1024-1024-10", partial(nets.mlp, 784, 1024, 1024)),
        *(floats(784), 256, 60, 1),
    ),
    Workload("C7", "ResNet on 32x32", nets.ResNet, floats(3, 32, 32), 64, 30, 1),
)

COLD = Workload(
    *("C10", "MLP 784-128-10, 200 steps in a new process", MLP.make_net, MLP.make_inputs),
    *(64, 200, 0),
)

GPU = _workloads(
    Workload(
        *("G1", "MLP 784-128-10", partial(nets.mlp, 784, 128)),
        *(floats(784), 128, 1000, 2, "cuda"),
    ),
    Workload(
        *("G2", "deep and thin, 16 x (Linear 256, ReLU)", partial(nets.mlp, 256, *[256] * 16)),
        *(floats(256), 256, 500, 2, "cuda"),
    ),
    Workload(
        *("G3", "CNN on 28x28, batches shifted and flipped", nets.augmented_cnn),
        *(pixels(1, 28, 28), 512, 300, 2, "cuda"),
    ),
    Workload(
        *("G4", "transformer, 6 layers of width 256, 128 tokens"),
        *(partial(nets.Transformer, 256, 6, length=128), tokens(128)),
        *(32, 200, 2, "cuda", "bf16"),
    ),
    Workload(
        *("G5", "convolutions of a speed record's shape on 32x32", nets.record_cnn),
        *(pixels(3, 32, 32), 1024, 60, 2, "cuda", "bf16"),
    ),
    Workload(
        *("G6", "MLP 1024-4096-4096-10", partial(nets.mlp, 1024, 4096, 4096)),
        *(floats(1024), 2048, 60, 2, "cuda", "bf16"),
    ),
    Workload(
        *("G7", "strided CNN on 64x64, data streamed from the host", nets.strided_cnn),
        *(pixels(3, 64, 64), 512, 100, 2, "cuda", "bf16", True),
    ),
)

LEFT_OUT = {
    "C9": "a loader that reuses samples while workers make new ones is in benchmarks/sequences.py",
}
"""What the suite names and nobody can measure, with its reason."""

MEASURED_AS = {
    "C8": ("C2", "the variants of C2 with engine='eager'"),
    "G8": ("G1", "the synchronisations per step of G1 to G6"),
    "G9": ("G1", "the host's time per step of G1 with all handlers on"),
}
"""What is no workload of its own: where its numbers are."""
