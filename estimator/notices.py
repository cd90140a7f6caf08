"""One-line messages about what the library decided by itself."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("estimator")


def notice(text: str, *, show: bool = True) -> None:
    """Says one line through the logger "estimator", or on stderr where nobody set up logging.

    Args:
        text: The line.
        show: Whether stderr may be used.
    """
    if logger.hasHandlers():
        logger.info(text)
    elif show:
        print(text, file=sys.stderr)
