"""Why a step runs eagerly: each cause has a code, a place and a cure."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from typing import NamedTuple

CURES = {
    "E101": "It is so while they are there: handlers that measure layers remove theirs after a "
    "batch; remove those of your own, or pass engine='eager' to say that you mean it.",
    "E102": "Use torch.where or a mask in place of Python's if, and keep values on the device.",
    "E103": "Pad or bucket the batches to a few shapes.",
    "E104": "Keep what changes between calls in buffers, and use torch's random functions.",
    "E105": "Pass precision='bf16' or 'fp32'.",
    "E106": "Use dense real parameters.",
    "E107": "Let the net, the loss and the processor be such that copy.deepcopy takes them.",
    "E108": "Nothing is to be done: results are those of the eager step.",
    "E109": "Nothing is to be done: a longer run would have made it.",
    "E110": "Install a torch version that the engine was tried on.",
    "E111": "Train in one process; 'graph' is for CUDA, the others for the CPU.",
    "E113": "Move what the handler does to batch_end, or pass engine='eager'.",
    "E114": "If all its numbers are arguments or attributes of modules, pass engine='replay'.",
    "E115": "Keep it in a smaller dtype such as uint8, or pass Engine(data='host') to mean it.",
    "E116": "Use torch.optim's Adam, AdamW or SGD; for Adam pass fused=True or verify='close'.",
    "E117": "Pass Engine(verify='close') to keep rates on the device; with cycle_momentum=False.",
    "E118": "Use smaller batches, or pass engine='eager'.",
    "E119": "Pass Engine(verify='close') if other last bits will do.",
    "E120": "Install a C++ compiler that torch.compile finds, or pass engine='auto'.",
    "E121": "Write into weights, buffers and states in place of replacing them.",
}


class Cause(NamedTuple):
    """Why a faster tier is not used.

    Attributes:
        code: One of `CURES`.
        what: What stands in its way, in a few words.
        where: The user's file and line, where that is known.
    """

    code: str
    what: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"[fit:{self.code}] {self.what}{place}. {CURES[self.code]}"


class CannotTraceError(Exception):
    """A step that has no list of operations; holds the `Cause`."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


_LIBRARIES = tuple(
    {os.path.realpath(path) + os.sep for path in (*sysconfig.get_paths().values(), sys.prefix)}
)
_OWN = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


def place_of(error: BaseException) -> str:
    """The user's line that led to an exception: the innermost that is no library's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.realpath(frame.filename)
        if not path.startswith((*_LIBRARIES, _OWN)):
            return f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.line!r}"
    return ""
