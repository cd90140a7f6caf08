"""`SegmentationReportHandler`: how a net's masks overlap with the true ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimator.handlers._class_pictures import label
from estimator.handlers._mask_counts import Found, MaskCounts, Segmentation, classes_of, joined
from estimator.handlers._mask_pictures import draw_overlays
from estimator.handlers._output_pairs import Pair
from estimator.handlers._pass_report import PassReportHandler, Report
from estimator.handlers._sample_rows import check_classes, check_count
from estimator.handlers.base import Band, Every, Picture, Section, Table, write_section, write_whole

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_HEAD = ("class", "IoU", "Dice", "precision", "recall", "pixels of target", "pixels predicted")
_LEFT_OUT = ("have no target", "have a target that is no class", "have an answer that is no number")


class SegmentationReportHandler(PassReportHandler):
    """IoU and Dice of each class, and some samples with their masks, of every segmentation output.

    An output is one of logits (N, C, H, W) with class numbers (N, H, W), or (N, 1, H, W) with
    masks of 0 and 1, with or without the dimension of 1; volumes have one dimension more. Also an
    output of `estimator.outputs` that says so. For each output and split ("train", "val", and
    "evaluate" where `evaluate` is called), in the folder:

    - `<output>-<split>-overlays.png`: of the first samples of the pass the image, the true and the
      predicted mask laid over it, and where they differ. Class 0 is left clear. Images larger
      than 512 pixels are thinned out, of volumes the middle slice is shown.
    - `<output>-<split>-report.txt`: over all pixels of the pass and for each class
      IoU = both / either, Dice = 2 both / (target + predicted), precision, recall and pixels,
      and their means over the classes that occur, of one mask for class 1 alone.
    - `<output>-<split>.section.json`: the same as a table.

    Pixels whose target is missing (-100, NaN, or as the output says) or no class do not count,
    and the report says how many there were. A class that neither occurs nor is predicted has NaN.

    Memory on the device, for each output and split: 8 bytes a pair of classes, up to 512 classes,
    and the samples. Nothing is read from it within a pass.

    Args:
        folder: Where the files go; None is the run folder. In `evaluate` without a `fit` before
            there is a report only with a folder.
        every: When to write, in epochs; None writes at the end of the run only, which always
            writes what was not written yet, also after an exception.
        classes: Class names in the order of the class numbers, for outputs of that many classes.
        samples: How many samples are shown.
        band: When it runs within an event; REPORT by default.

    Raises:
        ArgumentError: `every` does not count epochs, `classes` is empty, or `samples` below 1.
        ArgumentTypeError: `classes` are not names.
        MissingExtraError: matplotlib or Pillow is not installed.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Conv2d(1, 3, 1), loss=torch.nn.CrossEntropyLoss())
        >>> data = torch.rand(4, 1, 8, 8), torch.randint(3, (4, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = SegmentationReportHandler(folder, classes=["sky", "road", "car"])
        ...     stats = est.fit(data, data, epochs=1, device="cpu", handlers=report, progress=False)
        ...     sorted(path.name for path in Path(folder).glob("*-val-*"))
        ['output-val-overlays.png', 'output-val-report.txt']
    """

    what = "segmentation report"

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        classes: Sequence[str] | None = None,
        samples: int = 6,
        band: Band | None = None,
    ) -> None:
        super().__init__(folder, every, band)
        self.classes = check_classes(classes, "SegmentationReportHandler")
        self.samples = check_count(samples, "SegmentationReportHandler(samples=...)")

    def collector(self, pair: Pair) -> MaskCounts | None:
        """Counts an output that is a segmentation."""
        return None if classes_of(pair) is None else MaskCounts(pair, self.samples)

    def write(self, report: Report, parts: Sequence[Found], stats: TrainStats) -> None:
        """Writes text, picture and section of one output."""
        result = joined(parts, self.samples)
        if result is None:
            return
        names = [str(number) for number in range(len(result.overlaps))]
        if self.classes is not None and len(self.classes) == len(names):
            names = list(self.classes)
        paragraph = " ".join(filter(None, [_summary(result), report.note]))
        rows: list[list[str | int | float]] = [
            [name, *overlap] for name, overlap in zip(names, result.overlaps, strict=True)
        ]
        text = _as_text(report.title, paragraph, rows)
        write_whole(report.path("report.txt"), text.encode("utf-8"))
        overlays = report.path("overlays.png")
        draw_overlays(overlays, result.shown, names, report.title)
        caption = "Image, true mask, predicted mask and differences of the first samples"
        pictures = [Picture(overlays.name, caption)] if overlays.exists() else []
        tables = [Table("By class", _HEAD, rows)]
        section = Section(f"Segmentation: {report.title}", 300, paragraph, tables, pictures)
        write_section(report.folder, report.stem, section, stats)


def _summary(result: Segmentation) -> str:
    left = [f"{n:,} {words}" for n, words in zip(result.left, _LEFT_OUT, strict=True) if n]
    rest = f" Not counted: {', '.join(left)}." if left else ""
    return (
        f"{result.matrix.sum():,} pixels, accuracy {result.accuracy:.4f}, mean IoU "
        f"{result.mean('iou'):.4f}, mean Dice {result.mean('dice'):.4f}.{rest}"
    )


def _as_text(title: str, paragraph: str, rows: Sequence[Sequence[str | int | float]]) -> str:
    width = max(12, *(len(label(str(row[0]))) for row in rows))
    head = " ".join([f"{'class':>{width}}", *map("{:>16}".format, _HEAD[1:])])
    lines = [title, "", paragraph, "", head]
    for name, *values in rows:
        cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
        lines.append(" ".join([f"{label(str(name)):>{width}}", *map("{:>16}".format, cells)]))
    return "\n".join([*lines, ""])
