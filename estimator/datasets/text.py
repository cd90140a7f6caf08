"""Lines of text, in a known encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from estimator.datasets.packed import read_bytes
from estimator.handlers.base import ArgumentError, DataError


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    r"""The lines of a text file, gzipped or plain, without their ends.

    Lines end at a line feed only: other characters that Python takes for one are part of a text.

    Args:
        path: The file.
        encoding: Of its characters, by a name that Python knows.

    Raises:
        ArgumentError: There is no such encoding.
        DataError: The file is cut, empty, or in another encoding, with line and byte.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("two.txt").write_bytes(b"caf\xe9\nbar\n")
        >>> read_lines(Path("two.txt"), "cp1252")
        ['café', 'bar']
    """
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ArgumentError(
            f"{path}: encoding=... must be one that Python knows, such as 'utf-8' or 'cp1252'; "
            f"received {encoding!r}."
        ) from error
    content = read_bytes(path)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: the text must be in the encoding {encoding!r}; line {line} has the byte "
            f"0x{content[error.start]:02x}, which it has not. Name the "
            "right one: encoding='cp1252' for one."
        ) from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise DataError(f"{path}: the file must hold lines of text; it is empty.")
    return lines
