"""The files of explained samples, and the section that shows them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from estimator.explain.drawing import drawing, is_picture
from estimator.explain.explanations import Explained, Explanations
from estimator.handlers._sample_rows import in_words, one_line, shortened
from estimator.handlers.base import (
    Picture,
    SampleCard,
    Section,
    Table,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

NUMBERS = 64
"""So many numbers of an input are listed with their attributions."""
_TEXT = (
    "What the net's answers rest on: the validation samples of the highest loss, and others drawn "
    "at random. Grad-CAM shows where a layer speaks for the class; the others show in red what "
    "speaks for it and in blue what speaks against it."
)
_OURS = re.compile(r"(worst|random)_\d{3}_uid_.*\.(png|npy|txt)")


def write_explanations(
    folder: Path, found: Explanations, stats: TrainStats, *, methods: Sequence[str], left_out: str
) -> None:
    """Writes a folder of this epoch with the files of all samples, and the section.

    Raises:
        OSError: They cannot be written.
    """
    place = folder / f"epoch_{stats.epoch:04d}"
    place.mkdir(parents=True, exist_ok=True)
    for former in place.iterdir():
        if _OURS.fullmatch(former.name):
            former.unlink()
    counts = {"worst": 0, "random": 0}
    cards = []
    for each in found.samples:
        counts[each.sample.group] += 1
        cards.append(_write_sample(place, each, counts[each.sample.group]))
    said = [[name, found.refused.get(name, "done")] for name in methods]
    if "all methods" in found.refused:
        said = [["all methods", found.refused["all methods"]]]
    tables = [Table("Methods", ["method", "outcome"], said), *_by_number(found.samples)]
    text = " ".join(filter(None, [_TEXT, left_out]))
    section = Section("Explanations", 500, text, tables, [], cards)
    write_section(folder, "explanations", section, stats)


def _write_sample(place: Path, each: Explained, number: int) -> SampleCard:
    sample = each.sample
    safe = re.sub(r"[^\w.-]+", "_", sample.uid)[:40]
    stem = f"{sample.group}_{number:03d}_uid_{safe}"
    uid = one_line(sample.uid)
    facts = {"uid": uid, "group": f"{sample.group} {number}", "loss": sample.loss, **each.facts}
    pictures = []
    lines = [f"{key}={one_line(value)}" for key, value in facts.items()]
    for k, (name, values) in enumerate(each.features.items()):
        part = stem if len(each.features) == 1 else f"{stem}_{k}"
        maps = each.maps[name]
        for method, found in maps.items():
            _write_array(place / f"{part}_{method}.npy", found)
        if is_picture(values[None]):
            signed = {method: method != "grad_cam" for method in maps}
            png = drawing(values, maps, _head(facts), signed=signed)
            write_whole(place / f"{part}.png", png)
            pictures.append(Picture(f"{place.name}/{part}.png", f"{name}: {', '.join(maps)}"))
        lines.append(f"{name}={in_words(values)}")
        lines += _listed(name, values, maps)
    write_whole(place / f"{stem}.txt", "\n".join([*lines, ""]).encode("utf-8"))
    return SampleCard(f"uid {uid}", facts, pictures, f"{place.name}/{stem}.txt")


def _write_array(path: Path, values: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy(), allow_pickle=False)
    write_whole(path, buffer.getvalue())


def _head(facts: dict[str, Any]) -> list[str]:
    share = facts.get("probability")
    sure = "" if share is None else f" ({share:.1%})"
    lines = [f"uid {_short(facts['uid'])}: {facts['group']}, loss {facts['loss']:.4g}"]
    if "target" in facts:
        lines.append(f"target {_short(facts['target'])}")
    return [*lines, f"predicted {_short(facts['prediction'])}{sure}"]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(one_line(value), 40)


def _listed(name: str, values: Tensor, maps: dict[str, Tensor]) -> list[str]:
    """The numbers of an input that is no picture, those of the largest attribution first."""
    same = {method: found for method, found in maps.items() if found.shape == values.shape}
    if is_picture(values[None]) or not same:
        return []
    first = next(iter(same.values())).abs().flatten()
    order = first.argsort(descending=True, stable=True)[:NUMBERS].tolist()
    places = list(product(*map(range, values.shape))) if values.ndim else [()]
    lines = ["", "\t".join(["number", "value", *same])]
    for i in order:
        row = [float(v.reshape(-1)[i]) for v in (values, *same.values())]
        lines.append("\t".join([_at(name, places[i]), *(f"{number:.6g}" for number in row)]))
    return lines


def _at(name: str, place: Sequence[int]) -> str:
    return name + "".join(f"[{i}]" for i in place)


def _by_number(samples: Sequence[Explained]) -> list[Table]:
    """The mean size of the attributions of each number, where inputs are no pictures."""
    rows: list[list[Any]] = []
    methods: list[str] = []
    known = [each for each in samples if each.features]
    for name, values in known[0].features.items() if known else ():
        if is_picture(values[None]):
            continue
        of = {m: torch.stack([each.maps[name][m] for each in known]) for m in known[0].maps[name]}
        means = {
            method: maps.double().abs().mean(0)
            for method, maps in of.items()
            if maps.shape[1:] == values.shape
        }
        methods = list(means) or methods
        for i, place in enumerate(product(*map(range, values.shape))):
            rows.append([_at(name, place), *(float(v.reshape(-1)[i]) for v in means.values())])
    if not rows or not methods:
        return []
    rows.sort(key=lambda row: -row[1])
    title = "Mean size of the attributions by number"
    if len(rows) > NUMBERS:
        title += f", the {NUMBERS} largest of {len(rows)}"
    return [Table(title, ["number", *methods], rows[:NUMBERS])]
