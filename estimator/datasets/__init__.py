"""Data sets as tensors, from a folder, a cache or a checked download."""

from estimator.datasets.cells import bccd
from estimator.datasets.cifar import CIFAR_CLASSES, cifar10, cifar10_subset, read_cifar
from estimator.datasets.download import fetch
from estimator.datasets.drawn import SHAPE_CLASSES, shapes
from estimator.datasets.embedded import digits
from estimator.datasets.idx import read_idx
from estimator.datasets.mnist_files import FASHION_CLASSES, fashion_mnist, mnist
from estimator.datasets.nuclei import dsb2018_nuclei
from estimator.datasets.pairs import multi30k
from estimator.datasets.pictures import read_picture, read_pictures
from estimator.datasets.sentences import rt_polarity
from estimator.datasets.splits import Splits
from estimator.datasets.tables import california_housing, read_table, titanic
from estimator.datasets.text import read_lines

__all__ = [
    "CIFAR_CLASSES",
    "FASHION_CLASSES",
    "SHAPE_CLASSES",
    "Splits",
    "bccd",
    "california_housing",
    "cifar10",
    "cifar10_subset",
    "digits",
    "dsb2018_nuclei",
    "fashion_mnist",
    "fetch",
    "mnist",
    "multi30k",
    "read_cifar",
    "read_idx",
    "read_lines",
    "read_picture",
    "read_pictures",
    "read_table",
    "rt_polarity",
    "shapes",
    "titanic",
]
