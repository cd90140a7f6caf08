"""The exceptions that users meet.

    EstimatorError
    ├── ArgumentError      (ValueError)   an argument has a value that breaks its rule
    │   ├── MonitorError                  a monitored name cannot appear in this run
    │   └── FolderError                   a folder that a handler needs cannot be written
    ├── ArgumentTypeError  (TypeError)    an argument is of a kind that is not understood
    │   └── HandlerError                  an object cannot serve as a handler
    ├── DataError          (ValueError)   loader, net, loss and metrics do not fit together
    └── MissingExtraError  (ImportError)  an optional dependency is not installed

Every message names the argument, its rule, what was received and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class EstimatorError(Exception):
    """Root of all exceptions that this library raises on purpose."""


class ArgumentError(EstimatorError, ValueError):
    """An argument has a value that breaks its rule."""


class ArgumentTypeError(EstimatorError, TypeError):
    """An argument is of a kind that is not understood."""


class MonitorError(ArgumentError):
    """A monitored name cannot appear in this run, or has no direction."""


class FolderError(ArgumentError):
    """A folder that a handler needs cannot be created or written."""


class HandlerError(ArgumentTypeError):
    """An object cannot serve as a handler."""


class DataError(EstimatorError, ValueError):
    """What the loader, the net, the loss or a metric gave does not fit together."""


class MissingExtraError(EstimatorError, ImportError):
    """An optional dependency is not installed."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Returns the hint that ends a message about an unknown name.

    Args:
        name: What was received.
        options: All names that would have been right.

    Returns:
        The closest names as a question when there are any, then the whole list.
    """
    known = sorted(options)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    question = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{question}There are: {', '.join(known) or 'none'}."


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional dependency, or says which extra brings it.

    Args:
        module: Dotted name of the module.
        extra: The extra of this distribution that installs it.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed. "
            f"Install it with: pip install 'torch-estimator[{extra}]'"
        ) from error
