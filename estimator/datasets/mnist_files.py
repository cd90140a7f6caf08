"""MNIST, and Fashion-MNIST in the same format."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from estimator.datasets.idx import read_idx
from estimator.datasets.place import Folder, files
from estimator.datasets.splits import Splits, check_labels, hold_out
from estimator.handlers.base import DataError

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MNIST_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist"
FASHION_ADDRESS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
)
MNIST_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
FASHION_CHECKSUMS = {
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


def mnist(folder: Folder = None, *, held_out: int = 5_000, cache: Folder = None) -> Splits:
    """MNIST (LeCun, Cortes, Burges): 70,000 grey digits of 28x28 pixels in 10 classes.

    The first 55,000 of the 60,000 training images train and the last 5,000 validate; the 10,000
    test images test.

    Args:
        folder: Where its four files are, gzipped or plain. None means the folder "mnist" in the
            folder that the environment variable ESTIMATOR_DATA names, and without it the cache.
        held_out: How many of the training images validate.
        cache: Where the files are downloaded to; None is "~/.cache/torch-estimator".

    Returns:
        Pairs of images (N, 1, 28, 28) uint8 and labels (N,) int64.

    Raises:
        ArgumentError: `held_out` leaves nothing.
        DataError: A file is missing, cut or another one, and which.
    """
    paths = files("mnist", folder, cache, address=MNIST_ADDRESS, checksums=MNIST_CHECKSUMS)
    return _splits(paths, tuple("0123456789"), held_out, "mnist")


def fashion_mnist(folder: Folder = None, *, held_out: int = 5_000, cache: Folder = None) -> Splits:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747): 70,000 grey clothes of 28x28 pixels.

    Args:
        folder: Where its four files are, gzipped or plain. None means the folder "fashion-mnist"
            in the folder that the environment variable ESTIMATOR_DATA names, and without it the
            cache.
        held_out: How many of the 60,000 training images validate, the last ones.
        cache: Where the files are downloaded to; None is "~/.cache/torch-estimator".

    Returns:
        Pairs of images (N, 1, 28, 28) uint8 and labels (N,) int64.

    Raises:
        ArgumentError: `held_out` leaves nothing.
        DataError: A file is missing, cut or another one, and which.
    """
    name, sums = "fashion-mnist", FASHION_CHECKSUMS
    paths = files(name, folder, cache, address=FASHION_ADDRESS, checksums=sums)
    return _splits(paths, FASHION_CLASSES, held_out, "fashion_mnist")


def _splits(paths: list[Path], classes: tuple[str, ...], held_out: int, function: str) -> Splits:
    x, y = read_images(paths[0], paths[1], len(classes))
    train, val = hold_out(len(x), held_out, function)
    test = read_images(paths[2], paths[3], len(classes))
    return Splits((x[train], y[train]), (x[val], y[val]), test, classes)


def read_images(images: Path, labels: Path, classes: int) -> tuple[Tensor, Tensor]:
    """Reads a pair of IDX files.

    Args:
        images: The file of images.
        labels: The file of their labels.
        classes: How many classes there are, each with samples.

    Returns:
        Images (N, 1, H, W) uint8 and labels (N,) int64.

    Raises:
        DataError: One of them is cut or another file, or they do not belong together.
    """
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise DataError(
            f"{labels}: there must be one label for each image of {images.name}, {len(x)}; "
            f"received {len(y)}. Are files of training and test mixed up?"
        )
    return x.unsqueeze(1), check_labels(y, classes, labels)
