"""The report of a classification output as text and as a section of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimator.handlers._class_counts import ClassResult
from estimator.handlers._class_numbers import (
    MEANS,
    Confusion,
    errors_of_classes,
    largest_errors,
    rates,
)
from estimator.handlers._class_pictures import label
from estimator.handlers._class_scores import Curve
from estimator.handlers.base import Picture, Section, Table

MATRIX_CLASSES = 50
ERRORS_OF_A_CLASS = 5
_LARGEST_ERRORS = 100
_NO_AREA = "AUC is not defined where samples of the class, or of all others, are missing"
_LEFT_OUT = {
    "missing": "have no target",
    "out of range": "have a target that is none of the classes",
    "not a number": "have an answer that is not a number",
}


class Words:
    """A result with the words that its text and its section share.

    Args:
        result: With a sample at least.
        names: Of the classes.
        title: The output and the split.
        note: What the pass lacks.
    """

    def __init__(self, result: ClassResult, names: Sequence[str], title: str, note: str) -> None:
        self.result, self.names, self.title = result, names, title
        self.matrix = result.matrix
        self.rates = rates(self.matrix)
        self.accuracy = float(np.trace(self.matrix) / self.matrix.sum())
        self.paragraph = " ".join(filter(None, [self._summary(), note, self._areas()]))

    def _summary(self) -> str:
        tallies = self.result.tallies
        left = [f"{tallies[k]:,} {words}" for k, words in _LEFT_OUT.items() if tallies[k]]
        rest = f" Not counted: {', '.join(left)}." if left else ""
        return f"{tallies['samples']:,} samples, accuracy {self.accuracy:.4f}.{rest}"

    def _areas(self) -> str:
        curves = self.result.curves
        undefined = sum(not np.isfinite(curve.auc) for curve in curves)
        error = max((np.nan_to_num(curve.auc_error) for curve in curves), default=0.0)
        found = []
        if undefined:
            found.append(f"{_NO_AREA}: so for {undefined} of {len(curves)} (NaN).")
        if error:
            found.append(
                f"There were too many scores to keep: the AUC is exact to {error:.1e}, and the "
                "tables say it for each class."
            )
        return " ".join(found)

    def curve(self, index: int) -> Curve | None:
        """The curve of a class; of two classes the second has one."""
        curves = self.result.curves
        if len(curves) == 1:
            return curves[0] if index == 1 else None
        return curves[index]

    def means(self) -> list[tuple[str, list[float]]]:
        """Mean precision, recall and F1 by the name of the mean."""
        return [(f"{of} mean", self.rates.mean(of)) for of in MEANS]

    def mean_areas(self) -> tuple[float, float]:
        """AUC and average precision, over the classes where they are defined."""
        both = [(curve.auc, curve.average_precision) for curve in self.result.curves]
        columns = [[v for v in column if np.isfinite(v)] for column in zip(*both, strict=True)]
        auc, average = (float(np.mean(c)) if c else float("nan") for c in columns)
        return auc, average


def text_of(words: Words) -> str:
    """The report as text."""
    found, width = words.rates, max(12, *(len(label(name)) for name in words.names))
    columns = ("precision", "recall", "F1", "support", "AUC", "AP")
    head = f"{'':>{width}} {' '.join(f'{column:>9}' for column in columns)}"
    lines = [words.title, "", words.paragraph, "", head]
    for index, name in enumerate(words.names):
        curve = words.curve(index)
        areas = (
            ["", ""] if curve is None else [f"{curve.auc:.4f}", f"{curve.average_precision:.4f}"]
        )
        three = [f"{column[index]:.4f}" for column in found[:3]]
        if not found.occurs[index]:
            three = ["-", "-", "-"]
        cells = [*three, str(found.support[index]), *areas]
        lines.append(f"{label(name):>{width}} {' '.join(f'{c:>9}' for c in cells)}".rstrip())
    lines.append("")
    total, areas = str(words.matrix.sum()), [f"{area:.4f}" for area in words.mean_areas()]
    for name, values in words.means():
        cells = [*(f"{v:.4f}" for v in values), total, *(areas if name == "macro mean" else [])]
        lines.append(f"{name:>{width}} {' '.join(f'{c:>9}' for c in cells)}")
    lines.append(f"{'accuracy':>{width}} {words.accuracy:>9.4f}")
    return "\n".join([*lines, "", *_errors_as_text(words), *_matrix_as_text(words), ""])


def _errors_as_text(words: Words) -> list[str]:
    lines = [f"The most common errors of each class (up to {ERRORS_OF_A_CLASS}):"]
    rows: dict[int, list[Confusion]] = {}
    for error in errors_of_classes(words.matrix, ERRORS_OF_A_CLASS):
        rows.setdefault(error.true, []).append(error)
    for true, errors in rows.items():
        told = [f"{label(words.names[e.predicted])} {e.samples} ({e.share:.1%})" for e in errors]
        lines.append(f"  {label(words.names[true])}: {', '.join(told)}")
    return [*lines, ""] if rows else ["There is no error.", ""]


def _matrix_as_text(words: Words) -> list[str]:
    if len(words.names) > MATRIX_CLASSES:
        return []
    lines = ["Confusion matrix (rows: target, columns: predicted, in the order of the rows):"]
    width = max(map(len, map(label, words.names)))
    cell = len(str(words.matrix.max()))
    for name, row in zip(words.names, words.matrix.tolist(), strict=True):
        lines.append(f"  {label(name):>{width}} {' '.join(f'{n:>{cell}}' for n in row)}")
    return lines


def section_of(words: Words, pictures: Sequence[Picture]) -> Section:
    """The report as a section of the page."""
    return Section(
        f"Classification: {words.title}",
        order=300,
        text=words.paragraph,
        tables=[
            _mean_table(words),
            _class_table(words),
            _error_table(words),
            *_matrix_table(words),
        ],
        pictures=pictures,
    )


def _mean_table(words: Words) -> Table:
    auc, average = words.mean_areas()
    samples = int(words.matrix.sum())
    rows: list[list[str | float | None]] = [
        ["accuracy", None, None, words.accuracy, samples, None, None]
    ]
    for name, (precision, recall, f1) in words.means():
        areas = [auc, average] if name == "macro mean" else [None, None]
        rows.append([name, precision, recall, f1, samples, *areas])
    return Table(
        "Means", ["", "precision", "recall", "F1", "support", "AUC", "average precision"], rows
    )


def _class_table(words: Words) -> Table:
    exact = all(not c.auc_error and not c.average_precision_error for c in words.result.curves)
    errors = [] if exact else ["AUC is within", "average precision is within"]
    columns = ["class", "precision", "recall", "F1", "support", "AUC", "average precision"]
    rows: list[list[str | float | None]] = []
    for index, name in enumerate(words.names):
        curve, found = words.curve(index), words.rates
        occurs = bool(found.occurs[index])
        row: list[str | float | None] = [name]
        row += [float(column[index]) if occurs else None for column in found[:3]]
        row.append(int(found.support[index]))
        areas = [None] * 4 if curve is None else list(curve[3:])
        rows.append([*row, *areas[: 2 + len(errors)]])
    return Table("By class", [*columns, *errors], rows)


def _error_table(words: Words) -> Table:
    few = len(words.names) <= MATRIX_CLASSES
    found = (
        errors_of_classes(words.matrix, ERRORS_OF_A_CLASS)
        if few
        else largest_errors(words.matrix, _LARGEST_ERRORS)
    )
    title = "Most common errors of each class" if few else "Classes that are confused most often"
    names = words.names
    rows: list[list[str | int | float]] = []
    for error in found:
        rows.append([names[error.true], names[error.predicted], error.samples, error.share])
    return Table(title, ["target", "predicted", "samples", "share of the target"], rows)


def _matrix_table(words: Words) -> list[Table]:
    if len(words.names) > MATRIX_CLASSES:
        return []
    rows: list[list[str | int]] = []
    for name, row in zip(words.names, words.matrix.tolist(), strict=True):
        rows.append([name, *row])
    return [Table("Confusion matrix", ["target \\ predicted", *words.names], rows)]
