"""Writes the nets of these scripts as ONNX files, and says how far onnxruntime is from each.

    python tutorials/models/parity.py [--folder FOLDER] [--only NAME ...]

The nets have the sizes that the scripts train, and weights as they begin with. Each file is run
beside its net for one sample, for as many as the example has, and for more; texts also at
another length.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _script import run, table
from _vision import FCN, alexnet, resnet18
from detection import SSD
from sentiment import BiRNN, TextCNN
from torch import Tensor, nn
from translation import Decoder, Encoder

from estimator import Estimator
from estimator.exporting import Dynamic, ExportError

WORDS = 500
TIME: Dynamic = {"tokens": {1: "time"}}


class Model(NamedTuple):
    """How a net is made, and what it is traced with."""

    net: Callable[[], nn.Module]
    example: Callable[[], Any]
    dynamic: Dynamic | None = None


def images(*shape: int) -> Callable[[], Tensor]:
    """Pictures with values as they are after normalisation."""
    return lambda: torch.randn(4, *shape)


def sentences() -> Tensor:
    """Word numbers of four sentences of other lengths, padded."""
    numbers = torch.randint(4, WORDS, (4, 12))
    for row, length in enumerate((12, 9, 7, 10)):
        numbers[row, length:] = 0
    return numbers


def decoding() -> tuple[Tensor, ...]:
    """Words before, the last state, the states of the encoder, and where these are padding."""
    padding = torch.zeros(4, 12, dtype=torch.bool)
    padding[1:, 9:] = True
    return torch.randint(4, WORDS, (4, 8)), torch.randn(4, 64), torch.randn(4, 12, 64), padding


DECODED: Dynamic = {
    "before": {1: "written"}, "states": {1: "read"}, "padding": {1: "read"}
}  # fmt: skip
MODELS = {
    "linear regression": Model(lambda: nn.Linear(9, 1), images(9)),
    "logistic regression": Model(lambda: nn.Linear(9, 1), images(9)),
    "AlexNet": Model(lambda: alexnet(1, 10), images(1, 28, 28)),
    "ResNet-18": Model(lambda: resnet18(3, 10), images(3, 32, 32)),
    "FCN": Model(lambda: FCN(3, 2), images(3, 64, 48), {"x": {2: "height", 3: "width"}}),
    "SSD": Model(lambda: SSD(4), lambda: torch.rand(4, 3, 144, 192) * 255),
    "TextCNN": Model(lambda: TextCNN(WORDS), sentences, TIME),
    "BiRNN": Model(lambda: BiRNN(WORDS), sentences, TIME),
    "encoder": Model(lambda: Encoder(WORDS, 64), sentences, {"source": {1: "time"}}),
    "decoder": Model(lambda: Decoder(WORDS, 64), decoding, DECODED),
}


def row(name: str, model: Model, folder: Path) -> dict[str, Any]:
    """One line of the table; a net that has no file has the reason in its place."""
    torch.manual_seed(0)
    path = folder / f"{name.replace(' ', '_')}.onnx"
    try:
        found = Estimator(model.net()).export(path, model.example(), dynamic=model.dynamic)
    except ExportError as error:
        return {"net": name, "difference": str(error), "batch sizes": "", "inputs": "", "MB": ""}
    inputs = ", ".join(f"{n} ({', '.join(map(str, s))})" for n, s in found.inputs.items())
    return {
        "net": name,
        "difference": f"{found.largest_difference:.1e}",
        "batch sizes": ", ".join(map(str, found.batch_sizes)),
        "inputs": inputs,
        "MB": path.stat().st_size / 1e6,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the files go; none are kept without it")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside) if args.folder is None else args.folder
        print(table([row(name, MODELS[name], folder) for name in args.only]))


if __name__ == "__main__":
    run(main)
