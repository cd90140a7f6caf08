"""The files that `ErrorsHandler` writes of one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers._error_rows import Error, Errors
from estimator.handlers._gallery import Cell, write_gallery
from estimator.handlers._judged_rows import CLASSES, LABELS, RESIDUAL
from estimator.handlers._sample_files import (
    Telling,
    features,
    remove_others,
    safe_names,
    words,
    write_sample,
)
from estimator.handlers._sample_rows import class_name, one_line
from estimator.handlers.base import Picture, SampleCard, Section, Table, write_section

if TYPE_CHECKING:
    from torch import Tensor

    from estimator.stats import TrainStats


class ErrorFiles:
    """Writes the errors of one pass.

    Args:
        folder: Where all files go.
        split: "validation" or "evaluate".
        telling: How samples are told.
    """

    def __init__(self, folder: Path, split: str, telling: Telling) -> None:
        self.folder, self.split, self.telling = folder, split, telling

    def write(self, found: Mapping[str, Errors], stats: TrainStats) -> None:
        """Writes all files, those of each output with its section last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        safe = safe_names(name or "output" for name in found)
        for name, errors in found.items():
            self._write_output(name or "output", safe[name or "output"], errors, stats)

    def _write_output(self, name: str, safe: str, errors: Errors, stats: TrainStats) -> None:
        cards: list[SampleCard] = []
        rows: list[list[str | int | float]] = []
        files, cells = [], []
        measure = _measure(errors)
        for k, error in enumerate(errors.worst):
            facts = self._facts(error, stats)
            stem = f"{safe}_{self.split}_s{k}"
            card, written = write_sample(self.folder, stem, facts, error.rows, self.telling)
            cards.append(card._replace(title=f"{k}: uid {facts['uid']}"))
            files += written
            answers = [str(facts["target"]), str(facts["prediction"])]
            rows.append([k, facts["uid"], *answers, error.confidence])
            said = [f"target {answers[0]}", f"predicted {answers[1]}"]
            lines = [f"uid {facts['uid']}", *said, f"{measure} {error.confidence:.3g}"]
            cells.append(Cell(next(iter(features(error.rows).values()), None), lines))
        gallery = self.folder / f"gallery_{safe}_{self.split}.png"
        title = f"{self.split}: errors of {one_line(name)} after epoch {stats.epoch}"
        shown = []
        if write_gallery(gallery, cells, title):
            shown.append(Picture(gallery.name, f"Errors, by {measure}"))
        pattern = rf"{re.escape(safe)}_{self.split}_s\d+(?:_.*)?\.\w+"
        remove_others(self.folder, re.compile(pattern), files)
        columns = ["rank", "uid", "target", "prediction", measure]
        tables = [
            Table("Count", ["wrong", "with a target", "shown"], [_counts(errors)]),
            Table("Samples", columns, rows),
        ]
        section = Section(
            f"Errors: {one_line(name)}, {self.split}", 400, _text(errors), tables, shown, cards
        )
        write_section(self.folder, f"{safe}_{self.split}", section, stats)

    def _facts(self, error: Error, stats: TrainStats) -> dict[str, str | int | float]:
        uid = error.uid if isinstance(error.uid, int) else one_line(error.uid)
        measure = "residual" if error.kind == RESIDUAL else "confidence"
        return {
            "uid": uid, "split": self.split, "epoch": stats.epoch,
            "target": self._said(error.target, error.kind),
            "prediction": self._said(error.prediction, error.kind),
            measure: error.confidence,
        }  # fmt: skip

    def _said(self, value: Tensor | None, kind: int) -> str:
        if value is None:
            return "not kept"
        text = one_line(words(value, self.telling))
        name = None if kind == RESIDUAL else class_name(value, self.telling.classes)
        return text if name in (None, text) else f"{text} {one_line(str(name))}"


def _measure(errors: Errors) -> str:
    kinds = {error.kind for error in errors.worst}
    return "residual" if kinds == {RESIDUAL} else "confidence"


def _counts(errors: Errors) -> list[int | None]:
    wrong = None if _measure(errors) == "residual" else errors.wrong
    return [wrong, errors.samples, len(errors.worst)]


def _text(errors: Errors) -> str:
    if not errors.worst:
        return f"None of {errors.samples:,} samples with a target was answered wrongly."
    if _measure(errors) == "residual":
        return (
            f"The {len(errors.worst):,} of {errors.samples:,} samples with the largest distance "
            "between prediction and target, as the mean over all values."
        )
    share = errors.wrong / errors.samples
    kinds = {CLASSES: "softmax", LABELS: "sigmoid"}
    kind = kinds.get(errors.worst[0].kind, "softmax")
    return (
        f"{errors.wrong:,} of {errors.samples:,} samples ({share:.2%}) were answered wrongly. "
        f"Shown are {len(errors.worst):,}, the surest first: confidence is the {kind} probability "
        "of the wrong answer. A sure error is often a wrong target."
    )
