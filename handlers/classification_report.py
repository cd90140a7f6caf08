"""`ClassificationReportHandler`: which classes a net tells apart, and which it takes for others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimator.handlers._class_counts import ClassCounts, ClassResult, Found, form_of, joined
from estimator.handlers._class_pictures import draw_curves, draw_matrix
from estimator.handlers._class_report import Words, section_of, text_of
from estimator.handlers._output_pairs import Pair
from estimator.handlers._pass_report import PassReportHandler, Report
from estimator.handlers._sample_rows import check_classes
from estimator.handlers.base import Band, Every, Picture, Section, write_section, write_whole

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_CURVES = ("ROC", "PR")


class ClassificationReportHandler(PassReportHandler):
    """Confusion matrix, rates of classes, ROC and precision-recall of every classification output.

    An output is one where its target is class numbers (or a column a class, one of them 1): logits
    (N, C, ...) of classes, or one logit a sample, (N,) or (N, 1), with targets 0 and 1; also an
    output of `estimator.outputs` that says so. A tensor is called "output", the entries of a dict
    have their names. For each output and split ("train", "val", and "evaluate" where `evaluate`
    is called), in the folder:

    - `<output>-<split>-cm.png`: the confusion matrix; rows are the true classes ("target"),
      columns the predicted ones, colours the share of the row. Classes are named below 40 of them.
    - `<output>-<split>-report.txt`: precision, recall, F1 and support of each class and their
      means, the five most common errors of each class, and up to 50 classes the matrix.
    - `<output>-<split>-ROC.png` and `-PR.png`: of two classes for the second one, whose score is
      its probability (of two logits their difference); of several for each against the rest.
    - `<output>-<split>.section.json`: the same as tables, with AUC and average precision.

    Counts are those of the last whole pass of a split. In training they are of the moment when a
    batch was seen; with MixUp and CutMix the target is that of the sample with the greater share.
    Targets that are missing (-100, or as the output says) or none of the classes do not count,
    and the report says how many there were. A split whose targets are mixtures has a text that
    says so. Where a class is missing, its AUC is not defined (NaN). Classes that neither occur
    nor are named do not count in the mean over classes.

    Memory on the device, for each output and split: the matrix, 8 bytes a pair of classes, up to
    2,048 classes; up to 2 ** 18 values that wait to be counted; and the scores. Of these up to
    2 ** 22 (samples times classes, 16 MiB of float32) are kept, and the areas exact. Beyond that
    they are counted in steps of log odds, and the report says how far an area may be off.
    Nothing is read from the device within a pass. Of several processes the counts are added up.
    A run that resumes within an epoch has the rest of that epoch, and its report says so.

    Args:
        folder: Where the files go; None is the run folder. In `evaluate` without a `fit` before
            there is a report only with a folder.
        every: When to write, in epochs; None writes at the end of the run only, which always
            writes what was not written yet, also after an exception.
        classes: Class names in the order of the class numbers, for outputs of that many classes.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `every` does not count epochs, or `classes` is empty.
        ArgumentTypeError: `classes` are not names.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 3), loss=torch.nn.CrossEntropyLoss())
        >>> data = torch.randn(9, 2), torch.arange(9) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = ClassificationReportHandler(folder, classes=["cat", "cow", "dog"])
        ...     stats = est.fit(data, data, epochs=1, device="cpu", handlers=report, progress=False)
        ...     text = Path(folder, "output-val-report.txt").read_text("utf-8")
        >>> text.splitlines()[0]
        'output, val'
    """

    what = "classification report"

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(folder, every, band)
        self.classes = check_classes(classes, "ClassificationReportHandler")

    def collector(self, pair: Pair) -> ClassCounts | None:
        """Counts an output that is a classification."""
        return None if form_of(pair) is None else ClassCounts(pair)

    def write(self, report: Report, parts: Sequence[Found], stats: TrainStats) -> None:
        """Writes text, pictures and section of one output."""
        result = joined(parts)
        if result is None:
            return
        if result.reason:
            self._write_reason(report, result.reason, stats)
            return
        names, remark = self._names(result)
        words = Words(result, names, report.title, " ".join(filter(None, [report.note, remark])))
        write_whole(report.path("report.txt"), text_of(words).encode("utf-8"))
        draw_matrix(report.path("cm.png"), result.matrix, names, report.title)
        captions = {"cm.png": "Confusion matrix: rows are the true classes, columns predicted ones"}
        for kind in _CURVES:
            draw_curves(report.path(f"{kind}.png"), kind, result.curves, names, report.title)
            captions[f"{kind}.png"] = "ROC" if kind == "ROC" else "Precision and recall"
        found = {report.path(ending): text for ending, text in captions.items()}
        pictures = [Picture(path.name, text) for path, text in found.items() if path.exists()]
        write_section(report.folder, report.stem, section_of(words, pictures), stats)

    def _write_reason(self, report: Report, reason: str, stats: TrainStats) -> None:
        text = " ".join(filter(None, [f"There is no classification report. {reason}", report.note]))
        for ending in ("cm.png", "ROC.png", "PR.png"):
            report.path(ending).unlink(missing_ok=True)
        write_whole(report.path("report.txt"), f"{report.title}\n\n{text}\n".encode())
        section = Section(f"Classification: {report.title}", order=300, text=text)
        write_section(report.folder, report.stem, section, stats)

    def _names(self, result: ClassResult) -> tuple[list[str], str]:
        numbers = [str(number) for number in range(len(result.matrix))]
        if self.classes is None:
            return numbers, ""
        if len(self.classes) != len(numbers):
            told = f"classes=... names {len(self.classes)} classes of {len(numbers)}"
            return numbers, f"Numbers stand for the classes, since {told}."
        return list(self.classes), ""
