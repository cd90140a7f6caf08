"""Names of outputs and metrics as the beginnings of file names."""

from __future__ import annotations

import re
import zlib

_LONGEST = 60


def file_stem(name: str) -> str:
    """A name that every file system takes, and that no other name becomes.

    A name of letters, digits, "_", "-" and "." stays as it is. Others lose what is unsafe and get
    the checksum of the whole name, so that "a/b" and "a:b" stay two files.

    Example:
        >>> file_stem("val_loss"), file_stem("a/b"), file_stem("a:b")
        ('val_loss', 'a_b-07f4401c', 'a_b-3041a608')
    """
    safe = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).lstrip(".")[:_LONGEST]
    if safe == name and name:
        return name
    return f"{safe}-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
