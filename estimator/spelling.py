"""Which event a method of a handler was meant to be."""

from __future__ import annotations

import difflib
import re

from estimator.handlers.base import EVENTS

_SYNONYMS = {
    "begin": "begin begins start starts started before",
    "end": "end ends ended finish finished complete completed done stop stopped after",
    "train": "train training fit run",
    "validation": "validation validate val valid eval evaluation test",
    "batch": "batch step iteration iter minibatch",
    "epoch": "epoch epochs",
    "error": "error exception",
}
_ROOTS = {word: root for root, words in _SYNONYMS.items() for word in words.split()}
_EVENT_BY_ROOTS = {frozenset(event.split("_")): event for event in EVENTS}
# A verb in front names an action, as in stop_training, and not a moment.
_ACTIONS = {"start", "stop", "finish", "complete", "run", "fit", "validate", "test"}


def meant_event(name: str) -> str | None:
    """The event that a method's name was meant to be; None if it looks like none.

    Args:
        name: A method that is no event.

    Example:
        >>> meant_event("on_train_epoch_end"), meant_event("bacth_end"), meant_event("reset")
        ('epoch_end', 'batch_end', None)
    """
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    marked = snake.startswith("on_")
    words = snake.removeprefix("on_").split("_")
    if words[0] in _ACTIONS and not marked:
        return None
    roots = {_ROOTS.get(word, word) for word in words}
    if roots & {"epoch", "batch"}:
        roots.discard("train")
    if "validation" in roots:
        roots.discard("epoch")
    event = _EVENT_BY_ROOTS.get(frozenset(roots))
    if event == "error" and not marked:
        return None
    if event is not None:
        return event
    long_names = [event for event in EVENTS if event != "error"]
    close = difflib.get_close_matches("_".join(words), long_names, n=1, cutoff=0.85)
    return close[0] if close else None
