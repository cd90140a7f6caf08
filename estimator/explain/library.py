"""Captum, imported when it is needed."""

from __future__ import annotations

import warnings
from typing import Any

from estimator.handlers.base import require


def captum(owner: str) -> Any:
    """Captum's methods.

    Args:
        owner: What needs them, for the message.

    Raises:
        MissingExtraError: Captum is not installed.
    """
    with warnings.catch_warnings():
        # It imports a progress bar for notebooks, which nothing here shows.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return require("captum.attr", "explain", owner)
