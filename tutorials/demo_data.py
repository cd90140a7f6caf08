"""Image sets of the demo: scikit-learn's digits, and Fashion-MNIST, which is downloaded once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import struct
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from estimator import ArgumentError, DataError

ADDRESS = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
CACHE = Path("~/.cache/torch-estimator/fashion-mnist")
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
}
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


class ImageSet(NamedTuple):
    """Grey images (1, side, side) with their class numbers, split for training."""

    train: Subset[tuple[Tensor, ...]]
    val: Subset[tuple[Tensor, ...]]
    side: int
    classes: list[str]
    goal: float
    """Validation accuracy that the demo has to reach."""


def digits() -> ImageSet:
    """The 1,797 images of 8x8 pixels inside scikit-learn; every run holds out the same fifth."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(order) // 5
    classes = [str(name) for name in bunch.target_names]
    return _image_set(bunch.images, bunch.target, (order[held:], order[:held]), classes, goal=0.97)


def fashion_mnist(samples: int = 12_000, cache: Path = CACHE) -> ImageSet:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747): 70,000 images of 28x28 pixels.

    Args:
        samples: How many of the 60,000 training images to take; a sixth as many test images
            validate.
        cache: Where the files are downloaded to, unless the environment variable ESTIMATOR_DATA
            names a folder that has them in its folder "fashion-mnist".

    Raises:
        ArgumentError: `samples` is out of its range.
        DataError: The files are not there and cannot be downloaded, or are damaged.
    """
    if not 6 <= samples <= 60_000:
        raise ArgumentError(
            f"fashion_mnist(samples=...) must be from 6 to 60000; received {samples!r}."
        )
    files = fashion_mnist_files(cache)
    images = np.concatenate([read_idx(files[0]), read_idx(files[2])])
    labels = np.concatenate([read_idx(files[1]), read_idx(files[3])])
    split = range(samples), range(60_000, 60_000 + samples // 6)
    return _image_set(images, labels, split, list(FASHION), goal=0.85)


def _image_set(
    images: NDArray[np.generic],
    labels: NDArray[np.generic],
    split: tuple[Sequence[int], Sequence[int]],
    classes: list[str],
    goal: float,
) -> ImageSet:
    """Normalises by what the training images are like, and splits."""
    x = torch.from_numpy(images).float().unsqueeze(1)
    std, mean = torch.std_mean(x[list(split[0])])
    data = TensorDataset(x.sub_(mean).div_(std), torch.from_numpy(labels).long())
    # Parts of one data set: a sample keeps its number, by which handlers name it.
    train, val = (Subset(data, part) for part in split)
    return ImageSet(train, val, x.shape[-1], classes, goal)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads a gzipped IDX file: two zeros, type, number of dimensions, sizes, then bytes."""
    with gzip.open(path) as file:
        content = bytearray(file.read())
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def fashion_mnist_files(cache: Path = CACHE) -> list[Path]:
    """Paths of the four files in the order of `CHECKSUMS`, downloaded where they are missing.

    Raises:
        DataError: They cannot be had, or the files of ESTIMATOR_DATA are not the right ones.
    """
    root = os.environ.get("ESTIMATOR_DATA")
    folder = Path(root, "fashion-mnist") if root else cache.expanduser()
    wrong = [name for name, checksum in CHECKSUMS.items() if not _intact(folder / name, checksum)]
    if wrong and root:
        raise DataError(
            f"ESTIMATOR_DATA={root!r} must name a folder with the files of Fashion-MNIST; "
            f"{', '.join(wrong)} in {folder} are missing or damaged. Put them there from "
            f"{ADDRESS}, or unset ESTIMATOR_DATA to have them downloaded."
        )
    for name in wrong:
        _download(folder / name, CHECKSUMS[name])
    return [folder / name for name in CHECKSUMS]


def _intact(path: Path, checksum: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == checksum


def _download(path: Path, checksum: str) -> None:
    """Puts a file in its place only when it is complete and the right one."""
    print(f"Downloading {path.name} to {path.parent}")
    # A name of our own: another process may be downloading the same file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{ADDRESS}/{path.name}", timeout=30) as response:
            part.write_bytes(response.read())
        if not _intact(part, checksum):
            raise OSError("what arrived has another SHA-256 sum")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{path.name} could not be downloaded from {ADDRESS}: {error}. Try again later, or "
            f"put these files into {path.parent} yourself: {', '.join(CHECKSUMS)}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
