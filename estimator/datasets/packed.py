"""Bytes of a file that may be gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from estimator.handlers.base import DataError

GZIP = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is gzip, whatever its name.

    Raises:
        DataError: It cannot be read, or its gzip is cut or damaged.
    """
    try:
        content = path.read_bytes()
        is_packed = content.startswith(GZIP)
        return gzip.decompress(content) if is_packed else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the file must be complete; its gzip is cut or damaged after {len(content)} "
            f"bytes: {error}. Download it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error}.") from error
