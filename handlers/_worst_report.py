"""What `WorstSamplesHandler` shows of one split: the map, the samples, and its section."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.handlers._gallery import Cell, write_gallery
from estimator.handlers._loss_table import Rank, Ranking
from estimator.handlers._sample_files import (
    Facts,
    Sample,
    Telling,
    caption,
    remove_others,
    safe_names,
    short_answers,
    told,
    told_shortly,
    write_text,
)
from estimator.handlers._sample_pictures import Pixels, pictures, write_picture
from estimator.handlers._worst_map import write_map
from estimator.handlers.base import Picture, SampleCard, Section, Table, write_section

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_OWN_FILES = re.compile(r".*_uid_.*\.(?:png|txt)", re.DOTALL)


class WorstReport:
    """Writes what is known of the worst samples of one split.

    Args:
        folder: Where all files go.
        split: "train" or "validation".
        rank: What orders the samples.
        telling: How they are told.
    """

    def __init__(self, folder: Path, split: str, rank: Rank, telling: Telling) -> None:
        self.folder, self.split, self.rank, self.telling = folder, split, rank, telling

    def write(
        self, ranking: Ranking, epochs: list[int], samples: Sequence[Sample], stats: TrainStats
    ) -> None:
        """Writes all files, the section last.

        Args:
            ranking: Of all samples of the split.
            epochs: Of the columns of the ranking.
            samples: The worst, for export.
            stats: The run.
        """
        stem = self.folder / f"worst_samples_{self.split}_e{epochs[-1]}"
        write_map(stem, ranking, epochs, rank=self.rank, split=self.split)
        images = [next(iter(pictures(sample.rows).values()), None) for sample in samples]
        cards = self._write_samples(samples, images)
        gallery = self.folder / f"gallery_{self.split}.png"
        cells = [
            Cell(image, self._caption(sample))
            for sample, image in zip(samples, images, strict=True)
        ]
        title = f"{self.split}: worst samples after epoch {epochs[-1]}, ordered by {self.rank} loss"
        shown = [Picture(f"{stem.name}.png", "Loss of each sample (a column) by epoch (a row)")]
        if write_gallery(gallery, cells, title):
            shown.append(Picture(gallery.name, "The worst samples"))
        section = Section(
            f"Worst samples: {self.split}", 420, self._text(ranking, samples),
            [self._table(ranking, samples)], shown, cards,
        )  # fmt: skip
        write_section(self.folder, f"worst_samples_{self.split}", section, stats)

    def _write_samples(
        self, samples: Sequence[Sample], images: Sequence[Pixels | None]
    ) -> list[SampleCard]:
        folder = self.folder / f"samples_{self.split}"
        folder.mkdir(parents=True, exist_ok=True)
        cards, files = [], []
        for sample, image in zip(samples, images, strict=True):
            stem = f"{sample.number:03d}_uid_{safe_names([sample.uid])[sample.uid]}"
            text = folder / f"{stem}.txt"
            write_text(text, told(sample.rows, self.telling), sample.facts)
            files.append(text)
            shown = []
            if image is not None:
                files.append(folder / f"{stem}.png")
                write_picture(files[-1], image)
                shown.append(Picture(f"{folder.name}/{stem}.png", "as the net got it"))
            loss = {f"{self.rank}_loss": sample.score}
            pictured = image is not None
            known = told_shortly(sample.rows, self.telling, pictured=pictured)
            facts: Facts = {**known, **sample.facts, **loss}
            name = f"{folder.name}/{text.name}"
            cards.append(SampleCard(f"{sample.number}. uid {sample.uid}", facts, shown, name))
        remove_others(folder, _OWN_FILES, files)
        return cards

    def _caption(self, sample: Sample) -> list[str]:
        said = caption(short_answers(sample.rows, self.telling))
        return [f"uid {sample.uid}", *said, f"loss {sample.score:.3g}"]

    def _table(self, ranking: Ranking, samples: Sequence[Sample]) -> Table:
        rows = []
        for sample, seen in zip(samples, ranking.seen.tolist(), strict=False):
            said = short_answers(sample.rows, self.telling)
            answers = [said.get("target"), said.get("prediction")]
            rows.append([sample.number, sample.uid, sample.score, seen, *answers])
        columns = ["rank", "uid", f"{self.rank} loss", "epochs seen", "target", "prediction"]
        return Table("The worst", columns, rows)

    def _text(self, ranking: Ranking, samples: Sequence[Sample]) -> str:
        count = len(ranking.uids)
        return (
            f"The {len(samples):,} of {count:,} samples with the highest {self.rank} loss over the "
            "epochs. A sample that stays bad is an outlier, or its target is wrong. In the map the "
            "worst is on the left and the first epoch on top; yellow is a low loss, red a high one."
        )
