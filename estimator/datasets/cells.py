"""bccd: blood cells with boxes, in the layout of Pascal VOC."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from estimator.datasets.pictures import read_sized
from estimator.datasets.place import Folder, existing_file, existing_folder
from estimator.datasets.splits import Splits
from estimator.datasets.text import read_lines
from estimator.handlers.base import ArgumentError, DataError

ORIGIN = "https://github.com/Shenggan/BCCD_Dataset"
CELLS = ("background", "RBC", "WBC", "Platelets")
OnBadBox = Literal["drop", "raise"]


class Box(NamedTuple):
    """A box of an annotation file."""

    label: int
    ends: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels."""


def bccd(
    folder: Folder = None,
    *,
    size: int | tuple[int, int] | None = None,
    on_bad_box: OnBadBox = "drop",
) -> Splits:
    """Blood cells to be found and told apart: 364 colour images of 480x640 with 4,888 boxes.

    Args:
        folder: Where "JPEGImages", "Annotations" and "ImageSets/Main" are. None means the folder
            "bccd" in the folder that the environment variable ESTIMATOR_DATA names.
        size: Height and width that images and boxes are stretched to; None leaves them as they
            are, and all parts then take 340 MB.
        on_bad_box: What becomes of boxes without area or outside the image (the data set has two
            without area): "drop" leaves them out with one warning, and cuts off what is partly
            outside; "raise" refuses them.

    Returns:
        Dicts of "images" (N, 3, 480, 640) uint8, "boxes" (N, M, 4) float32 of x1, y1, x2, y2 in
        pixels, "labels" (N, M) int64 from 1 up, and "valid" (N, M), False where a place holds no
        box; its box and label are zeros. M is the most boxes of an image of any part.

    Raises:
        ArgumentError: `on_bad_box` is neither.
        DataError: A file is missing or damaged, or a box is bad and to be refused, and which.
        MissingExtraError: Pillow is not installed.
    """
    if on_bad_box not in ("drop", "raise"):
        raise ArgumentError(
            f"bccd(on_bad_box=...) must be 'drop' or 'raise'; received {on_bad_box!r}."
        )
    place = existing_folder("bccd", folder, ORIGIN)
    parts, bad = [], []
    for part in ("train", "val", "test"):
        names = read_lines(existing_file(place / "ImageSets/Main", f"{part}.txt"))
        paths = [place / "JPEGImages" / f"{name.strip()}.jpg" for name in names]
        images, sizes = read_sized(paths, size=size)
        files = [place / "Annotations" / f"{name.strip()}.xml" for name in names]
        read = [_checked(path, own) for path, own in zip(files, sizes, strict=True)]
        bad += [text for _, texts in read for text in texts]
        found = _padded([boxes for boxes, _ in read])
        scale = [
            [new / old for new, old in zip(images.shape[-2:], own, strict=True)] * 2
            for own in sizes
        ]
        found["boxes"] *= torch.tensor(scale)[:, None].flip(-1)
        parts.append({"images": images, **found})
    _tell(bad, on_bad_box)
    most = max(part["boxes"].shape[1] for part in parts)
    train, val, test = (_widened(part, most) for part in parts)
    return Splits(train, val, test, CELLS)


def _tell(bad: list[str], on_bad_box: OnBadBox) -> None:
    if bad and on_bad_box == "raise":
        raise DataError(
            f"boxes must have an area and lie within their image; received {len(bad)} others: "
            f"{'; '.join(bad[:3])}. Correct them, or pass on_bad_box='drop'."
        )
    if bad:
        warnings.warn(
            f"{len(bad)} boxes without area or outside their image are dropped or cut: "
            f"{'; '.join(bad[:3])}. Pass on_bad_box='raise' to refuse them.",
            stacklevel=3,
        )


def _checked(path: Path, size: tuple[int, int]) -> tuple[list[Box], list[str]]:
    """The good boxes of an annotation file, and what is wrong with the others."""
    good, bad = [], []
    height, width = size
    for box in read_boxes(path):
        x1, y1, x2, y2 = box.ends
        ends = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if ends != box.ends or x2 <= x1 or y2 <= y1:
            where = "without area" if x2 <= x1 or y2 <= y1 else "outside the image"
            bad.append(f"{path.name}: {CELLS[box.label]} at {box.ends} {where}")
        if ends[2] > ends[0] and ends[3] > ends[1]:
            good.append(Box(box.label, ends))
    return good, bad


def read_boxes(path: Path) -> list[Box]:
    """The boxes of an annotation file, as they stand there.

    Raises:
        DataError: It is missing, no XML, or has an object without name or box, or of a class
            that is not known.
    """
    try:
        objects = ET.parse(path).getroot().findall("object")
    except (OSError, ET.ParseError) as error:
        raise DataError(
            f"{path}: an annotation of Pascal VOC in XML is needed: {error}. Is it cut?"
        ) from error
    return [_box(each, path) for each in objects]


def _box(element: ET.Element, path: Path) -> Box:
    name = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError as error:
        raise DataError(
            f"{path}: an object needs bndbox with xmin, ymin, xmax and ymax as numbers; received "
            f"{texts} of {name!r}."
        ) from error
    if name not in CELLS[1:]:
        raise DataError(f"{path}: classes are {', '.join(CELLS[1:])}; received {name!r}.")
    return Box(CELLS.index(name), (x1, y1, x2, y2))


def _widened(part: dict[str, Tensor], most: int) -> dict[str, Tensor]:
    """A part with as many places for boxes as the others have."""
    wider = {}
    for name in ("boxes", "labels", "valid"):
        value = part[name]
        wider[name] = value.new_zeros((len(value), most, *value.shape[2:]))
        wider[name][:, : value.shape[1]] = value
    return {"images": part["images"], **wider}


def _padded(samples: list[list[Box]]) -> dict[str, Tensor]:
    most = max(map(len, samples))
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    for row, found in enumerate(samples):
        if found:
            boxes[row, : len(found)] = torch.tensor([box.ends for box in found])
            labels[row, : len(found)] = torch.tensor([box.label for box in found])
    return {"boxes": boxes, "labels": labels, "valid": labels > 0}
