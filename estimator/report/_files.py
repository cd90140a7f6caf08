"""Files of a run folder, read with patience: they may be absent, half written, huge or hostile."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path
from typing import Any

from estimator.history import History, Value

_MEBIBYTE = 2**20
RECORD_BYTES = 8 * _MEBIBYTE
HISTORY_BYTES = 64 * _MEBIBYTE
NO_HISTORY = "there is no history"


class Unreadable(Exception):
    """A file cannot be used, and the message says why in a few words."""


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a plain file of at most `most` bytes.

    Raises:
        Unreadable: It is absent, no plain file, too large, or reading it fails.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            # Opening a named pipe would wait for a writer for ever.
            raise Unreadable("it is no plain file")
        if found.st_size > most:
            raise Unreadable(f"it has {in_mib(found.st_size)}, and the limit is {in_mib(most)}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unreadable("it is not there") from error
    # A path with a NUL is a ValueError.
    except (OSError, ValueError) as error:
        raise Unreadable(
            f"it cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def in_mib(size: int) -> str:
    """A size for people."""
    return f"{size / _MEBIBYTE:.1f} MiB"


def read_json(path: Path, most: int = RECORD_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        Unreadable: It cannot be read, is no JSON, or holds something else than an object.
    """
    content = read_bytes(path, most)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unreadable(f"it holds a {type(found).__name__} in place of an object")
    return found


def read_tail(path: Path, most: int) -> str:
    """The last lines of a text file, of at most `most` bytes; "" where it cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - most))
            content = file.read(most)
    except OSError:
        return ""
    text = content.decode("utf-8", "replace")
    return text if size <= most else text.partition("\n")[2]


def read_history(folder: Path) -> tuple[History, str]:
    """The table of a run, and what is wrong with its files ("" where nothing is).

    The CSV file comes first, since it tells a value that is not a number from one that a row has
    not; the JSON file stands in for it.
    """
    problems = []
    for name, read in (("history.csv", read_csv), ("history.json", _read_columns)):
        try:
            return read(folder / name)
        except Unreadable as error:
            problems.append(f"{name}: {error}")
    absent = all(problem.endswith("it is not there") for problem in problems)
    return History(), NO_HISTORY if absent else "; ".join(problems)


def read_csv(path: Path) -> tuple[History, str]:
    """A table from a CSV file, and what had to be left out of it.

    Raises:
        Unreadable: It cannot be read, or is no table.
    """
    content = read_bytes(path, HISTORY_BYTES)
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise Unreadable(f"it is no table: {error}") from error
    if not lines:
        raise Unreadable("it is empty")
    history = History(dict.fromkeys(lines[0]))
    # A reader may come while the last row is being written.
    whole = [line for line in lines[1:] if len(line) == len(lines[0])]
    for line in whole:
        history.append(dict(zip(lines[0], map(_value, line), strict=True)))
    cut = len(lines) - 1 - len(whole)
    return history, f"{path.name}: rows of another length were left out: {cut}" if cut else ""


def _read_columns(path: Path) -> tuple[History, str]:
    columns = read_json(path, HISTORY_BYTES)
    if not all(isinstance(v, list) for v in columns.values()):
        raise Unreadable("it holds no columns by name")
    if len({len(values) for values in columns.values()}) > 1:
        raise Unreadable("its columns differ in length")
    history = History(columns)
    for cells in zip(*columns.values(), strict=True):
        plain = [cell if isinstance(cell, (int, float)) else None for cell in cells]
        history.append(dict(zip(columns, plain, strict=True)))
    return history, ""


def _value(cell: str) -> Value:
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        return None
