"""Files that are fetched once, checked, and put in their place whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import threading
import urllib.request
from pathlib import Path

from estimator.handlers.base import DataError
from estimator.notices import notice

CHUNK = 1 << 20


def fetch(address: str, path: Path, sha256: str, *, timeout: float = 30.0) -> Path:
    """Downloads a file, unless it is there and right.

    Args:
        address: An address that urllib opens: https, http or file.
        path: Where it goes; folders are made. It appears there complete and checked, or not at
            all, also where several processes fetch it at once.
        sha256: The SHA-256 sum that it must have, in hexadecimal digits.
        timeout: Seconds that the host may stay silent.

    Returns:
        The path.

    Raises:
        DataError: It cannot be had, or is another file.

    Example:
        >>> from pathlib import Path
        >>> source = Path("source.txt").resolve()
        >>> _ = source.write_text("abc")
        >>> fetch(source.as_uri(), Path("copy.txt"), checksum(source)).read_text()
        'abc'
    """
    if path.is_file() and checksum(path) == sha256:
        return path
    notice(f"Downloading {address} to {path.parent}")
    # A name of our own: another process may be downloading the same file.
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(address, timeout=timeout) as response,
            part.open("wb") as file,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
        found = checksum(part)
        if found != sha256:
            raise OSError(
                f"what arrived, {part.stat().st_size} bytes, has the SHA-256 sum {found} in place "
                f"of {sha256}"
            )
        part.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(
            f"{path.name} could not be downloaded from {address}: {error}. Try again later, or "
            f"put the file into {path.parent} yourself."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def checksum(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
