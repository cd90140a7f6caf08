"""Files of TensorBoard's projector: vectors, a table beside them, and a sheet of thumbnails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from estimator.handlers._sample_rows import one_line

THUMBNAIL = 64
_ENTRY = re.compile(r"^embeddings \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)


def square_thumbnails(images: Tensor) -> Tensor:
    """Pictures (N, C, H, W) as small squares: the projector's sheet has equal tiles."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    height, width = images.shape[2:]
    longest = max(height, width)
    if longest > THUMBNAIL:
        height, width = (max(1, side * THUMBNAIL // longest) for side in (height, width))
        images = interpolate(images, size=(height, width), mode="area")
        longest = THUMBNAIL
    below, beside = longest - height, longest - width
    return pad(images, (beside // 2, beside - beside // 2, below // 2, below - below // 2))


def write_projection(
    folder: Path,
    vectors: Tensor,
    *,
    step: int,
    name: str,
    columns: dict[str, list[str]],
    images: Tensor | None,
) -> None:
    """Writes `<step>/<name>/` and lists it in the folder's `projector_config.pbtxt`.

    A former write of the same step and name is replaced; all others stay listed.

    Args:
        folder: A folder that exists.
        vectors: (N, D) on the host.
        step: Optimizer steps so far.
        name: Of the vectors.
        columns: What stands beside the vectors: by name, a text for each.
        images: (N, C, S, S) on the host, values 0..1; None without thumbnails.
    """
    from torch.utils.tensorboard import SummaryWriter

    header, table = _table(columns)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".projector") as scratch:
        with SummaryWriter(scratch) as writer:
            writer.add_embedding(vectors, table, images, step, _tag(name), header)
        _take_over(Path(scratch), folder, _place(step, name))


def remove_projection(folder: Path, *, step: int, name: str) -> None:
    """Removes what `write_projection` wrote, if it is there."""
    place, config = _place(step, name), folder / "projector_config.pbtxt"
    shutil.rmtree(folder / place, ignore_errors=True)
    with contextlib.suppress(OSError):  # Other layers of the same step stay.
        (folder / place).parent.rmdir()
    if config.exists():
        unfinished = config.with_suffix(".part")
        unfinished.write_text("".join(_entries(config, but=place)), encoding="utf-8")
        os.replace(unfinished, config)


def _tag(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _place(step: int, name: str) -> Path:
    return Path(f"{step:05d}", _tag(name))


def _entries(config: Path, *, but: Path) -> list[str]:
    """What a configuration lists, but for the vectors in one folder."""
    found = _ENTRY.findall(config.read_text("utf-8")) if config.exists() else []
    return [entry for entry in found if f'tensor_path: "{but.as_posix()}/' not in entry]


def _table(columns: dict[str, list[str]]) -> tuple[list[str] | None, list[Any] | None]:
    """Header and rows; the projector wants no header above a single column."""
    cells = [list(map(one_line, column)) for column in columns.values()]
    if len(cells) < 2:
        return None, cells[0] if cells else None
    return list(columns), [list(row) for row in zip(*cells, strict=True)]


def _take_over(scratch: Path, folder: Path, place: Path) -> None:
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place).parent.mkdir(exist_ok=True)
    os.replace(scratch / place, folder / place)
    config = folder / "projector_config.pbtxt"
    fresh = (scratch / config.name).read_text("utf-8")
    kept = _entries(config, but=place)
    (scratch / config.name).write_text("".join(kept) + fresh, encoding="utf-8")
    os.replace(scratch / config.name, config)
    # TensorBoard finds folders by their event files, and leaves one of a logger for a newer one.
    if not list(folder.glob("events.out.tfevents.*")):
        for events in scratch.glob("events.out.tfevents.*"):
            os.replace(events, folder / events.name)
