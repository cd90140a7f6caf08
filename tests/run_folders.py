"""Run folders made by hand: what `fit(run=...)` and its handlers leave."""

from __future__ import annotations

import json
import math
import os
import platform
import struct
import zlib
from pathlib import Path
from typing import Any

from estimator.history import History

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp;/..\\'`{{7*7}}"


def record(name: str = "mnist_r0", **changes: Any) -> dict[str, Any]:
    """The content of a `run.json`."""
    return {
        "schema": 1, "name": name, "outcome": "completed", "reason": None,
        "started": "2026-03-01T10:00:00+00:00", "ended": "2026-03-01T10:04:12+00:00",
        "seconds": 252.3, "epoch": 12, "step": 3756,
        "arguments": {"epochs": "12", "batch_size": "64", "trainers": "Trainer('adam', lr=0.001)"},
        "seed": 7,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.3.1"},
        "machine": {"host": platform.node(), "cpu": "a processor", "cores": 8, "memory": 32e9,
                    "device": "cpu", "pid": os.getpid()},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "command": ["train.py", "--lr", "0.001"],
        "monitors": {"train_loss": False, "val_loss": False, "val_accuracy": True, "val_x": None},
        "missing": {}, "resumed": [],
        **changes,
    }  # fmt: skip


def history(epochs: int = 12, *, rate: float = 1.0) -> History:
    """Falling losses and rising accuracies."""
    table = History(["epoch", "step", "time", "lr", "complete"])
    for epoch in range(1, epochs + 1):
        wave = 0.04 * math.sin(epoch * 1.7) / math.sqrt(epoch)
        loss = 2.2 * math.exp(-rate * 3 * epoch / epochs) + 0.03
        table.append({
            "epoch": epoch, "step": epoch * 313, "time": epoch * 21.0,
            "lr": 0.001 * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) + 1e-6, "complete": True,
            "train_loss": loss, "train_accuracy": 1 - loss / 2.4,
            "val_loss": loss * 1.1 + abs(wave), "val_accuracy": 1 - loss / 2.3 + wave / 4,
        })  # fmt: skip
    return table


def write_run(folder: Path, table: History | None = None, **changes: Any) -> Path:
    """A run folder with its record, its history and its log."""
    folder.mkdir(parents=True, exist_ok=True)
    name = changes.pop("name", folder.name)
    (folder / "run.json").write_text(json.dumps(record(name, **changes)), "utf-8")
    table = history() if table is None else table
    table.to_csv(folder / "history.csv")
    table.to_json(folder / "history.json")
    (folder / "trainer.txt").write_text("epoch 1 of 12\nepoch 2 of 12\n", "utf-8")
    return folder


def write_section(folder: Path, name: str, title: str, order: float = 300, **parts: Any) -> Path:
    """A section file as handlers write it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": 1, "title": title, "order": order, "text": "", "tables": [], "pictures": [],
        "samples": [], "epoch": 12, "step": 3756, **parts,
    }  # fmt: skip
    path = folder / f"{name}.section.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def png(width: int = 28, height: int = 28, seed: int = 0) -> bytes:
    """A grey picture with a pattern."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        wave = 120 * math.cos(y / height * (3 + seed % 5))
        rows += bytes(int(127 + wave * math.sin((x + seed) / width * 6)) for x in range(width))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(rows)))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
