"""What a confusion matrix says: rates of each class, their means, and the commonest errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]
Floats = NDArray[np.float64]

MEANS = ("macro", "weighted")


class Rates(NamedTuple):
    """Precision, recall and F1 of each class, 0 where nothing was to be found or was named."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Matrix
    """Samples whose true class it is."""
    occurs: NDArray[np.bool_]
    """Whether it is the true or the predicted class of any sample."""

    def mean(self, of: str) -> list[float]:
        """Mean precision, recall and F1.

        Args:
            of: "macro" weighs the classes that occur alike, "weighted" by their support.
        """
        weights = self.occurs if of == "macro" else self.support
        return [float(np.average(column, weights=weights)) for column in self[:3]]


def rates(matrix: Matrix) -> Rates:
    """The rates of classes, with the values of scikit-learn for the classes that occur.

    Args:
        matrix: Row: the true class; column: the predicted one. It holds a sample at least.
    """
    hits, support, named = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def share(part: Any, whole: Any) -> Floats:
        found: Floats = np.divide(part, whole, out=np.zeros(len(matrix)), where=whole > 0)
        return found

    f1 = share(2 * hits, support + named)
    return Rates(share(hits, named), share(hits, support), f1, support, support + named > 0)


class Confusion(NamedTuple):
    """Samples of one class that were taken for another."""

    true: int
    predicted: int
    samples: int
    share: float
    """Of the samples of the true class."""


def errors_of_classes(matrix: Matrix, most: int) -> list[Confusion]:
    """For each true class its commonest wrong answers, the commonest first."""
    wrong = matrix - np.diag(np.diag(matrix))
    found = []
    for true, row in enumerate(wrong):
        for predicted in np.argsort(-row, kind="stable")[:most]:
            if row[predicted]:
                found.append(_confusion(matrix, true, int(predicted)))
    return found


def largest_errors(matrix: Matrix, most: int) -> list[Confusion]:
    """The pairs of classes that are confused most often."""
    wrong = (matrix - np.diag(np.diag(matrix))).ravel()
    places = np.argsort(-wrong, kind="stable")[:most]
    pairs = [divmod(int(place), len(matrix)) for place in places if wrong[place]]
    return [_confusion(matrix, true, predicted) for true, predicted in pairs]


def _confusion(matrix: Matrix, true: int, predicted: int) -> Confusion:
    count = int(matrix[true, predicted])
    return Confusion(true, predicted, count, count / int(matrix[true].sum()))
