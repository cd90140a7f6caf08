"""Samples before and after their augmentation: what is kept of them, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from estimator.handlers._chosen_samples import Chosen, Uid
from estimator.handlers._gallery import Cell, write_gallery
from estimator.handlers._sample_files import (
    Facts,
    Telling,
    caption,
    features,
    remove_others,
    safe_names,
    short_answers,
    write_sample,
)
from estimator.handlers._sample_rows import one_line, part_of
from estimator.handlers.base import Picture, SampleCard, Section, Table, write_section

if TYPE_CHECKING:
    from estimator.stats import TrainStats

LOADED = "loaded_"
"""Begins the names of what the loader gave."""
_OWN_FILES = re.compile(r"train_s.*_(?:a\d+|before|sheet)(?:_.*)?\.\w+", re.DOTALL)


class Drawn:
    """One sample as it passed several times."""

    def __init__(self, first: Chosen) -> None:
        self.uid: Uid = first.uid
        self.passes = [first]

    def before(self) -> dict[str, Tensor]:
        """What the loader gave at first; empty where that is not known."""
        return loaded(self.passes[0])

    @property
    def changed_by_loader(self) -> bool:
        """Whether the loader gave it differently at different times."""
        first = self.before()
        return any(not _equal(first, loaded(each)) for each in self.passes[1:])

    @property
    def changed_by_handlers(self) -> bool:
        """Whether the net got something else than what the loader gave."""
        return any(_changed(loaded(each), drawn(each)) for each in self.passes)


def loaded(sample: Chosen) -> dict[str, Tensor]:
    """The values that the loader gave, by the names that they have for the net."""
    rows = sample.rows.items()
    return {name.replace(LOADED, "", 1): v for name, v in rows if part_of(name).startswith(LOADED)}


def drawn(sample: Chosen) -> dict[str, Tensor]:
    """The values that the net got, and what it answered."""
    return {n: v for n, v in sample.rows.items() if not part_of(n).startswith(LOADED)}


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    shared = first.keys() & second.keys()
    return all(_same(first[name], second[name]) for name in shared)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.is_floating_point():
        return torch.equal(first.nan_to_num(nan=12.5), second.nan_to_num(nan=12.5))
    return torch.equal(first, second)


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return not _equal(before, after)


class AugmentationFiles:
    """Writes the samples that were followed.

    Args:
        folder: Where all files go.
        draws: How often each is to be shown.
        telling: How they are told.
    """

    def __init__(self, folder: Path, draws: int, telling: Telling) -> None:
        self.folder, self.draws, self.telling = folder, draws, telling

    def write(self, samples: Sequence[Drawn], stats: TrainStats) -> None:
        """Writes all files, the section last."""
        safe = safe_names(str(sample.uid) for sample in samples)
        cards: list[SampleCard] = []
        files: list[Path] = []
        rows = []
        for sample in samples:
            stem = f"train_s{safe[str(sample.uid)]}"
            cards.append(self._write_sample(sample, stem, files))
            loader = "yes" if sample.changed_by_loader else "no"
            handlers = "yes" if sample.changed_by_handlers else "no"
            rows.append([_said(sample.uid), len(sample.passes), handlers, loader])
        remove_others(self.folder, _OWN_FILES, files)
        columns = ["uid", "draws", "changed on the way to the net", "differs between loads"]
        tables = [Table("Samples", columns, rows)]
        section = Section("Augmentations", 460, self._text(samples), tables, [], cards)
        write_section(self.folder, "augmentations", section, stats)

    def _write_sample(self, sample: Drawn, stem: str, files: list[Path]) -> SampleCard:
        uid, cells = _said(sample.uid), []
        shown: list[tuple[str, str, Facts, dict[str, Tensor]]] = []
        before = sample.before()
        if before:
            shown.append((f"{stem}_before", "as loaded", {"draw": "none, as loaded"}, before))
        for number, each in enumerate(sample.passes):
            facts: Facts = {"draw": number, "epoch": each.epoch}
            shown.append((f"{stem}_a{number}", f"draw {number}", facts, drawn(each)))
        for name, title, facts, rows in shown:
            own: Facts = {"uid": uid, "split": "train", **facts}
            _, written = write_sample(self.folder, name, own, rows, self.telling)
            files += written
            lines = [title, *caption(short_answers(rows, self.telling))]
            cells.append(Cell(next(iter(features(rows).values()), None), lines))
        sheet = self.folder / f"{stem}_sheet.png"
        has_sheet = write_gallery(sheet, cells, f"uid {uid}", columns=max(3, len(cells)))
        files += [sheet] if has_sheet else []
        pictures = [Picture(sheet.name, "as loaded, then draw by draw")] if has_sheet else []
        said = short_answers(before or drawn(sample.passes[0]), self.telling)
        about: Facts = {"uid": uid, "draws": len(sample.passes), **said}
        return SampleCard(f"uid {uid}", about, pictures, f"{shown[0][0]}.txt")

    def _text(self, samples: Sequence[Drawn]) -> str:
        count = max((len(sample.passes) for sample in samples), default=0)
        text = (
            "Training samples chosen by chance, as the loader gave them and as the net got them, "
            f"a draw for each time that a sample passed: {count} of {self.draws} so far."
        )
        if any(sample.changed_by_loader for sample in samples):
            text += (
                " The loader gives the same sample differently each time, so it augments by "
                "itself: the sample before is not known, and the first that was loaded is shown."
            )
        if not any(s.changed_by_handlers or s.changed_by_loader for s in samples):
            text += " Nothing has changed them: no handler augments, and the loader does not."
        return text


def _said(uid: Uid) -> Uid:
    return uid if isinstance(uid, int) else one_line(uid)
