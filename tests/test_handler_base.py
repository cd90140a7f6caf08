"""What every handler has from its base: a band, state, a text; and folders that are proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.handlers import Band, EventHandler
from estimator.handlers.base import (
    EVENTS,
    ArgumentError,
    ArgumentTypeError,
    FolderError,
    MissingExtraError,
    nearest,
    require,
    writable_folder,
)


class Counter(EventHandler):
    band = Band.OBSERVE
    state_names = ("count", "sums")

    def __init__(
        self, start: int = 0, *, note: str | None = None, band: Band | None = None
    ) -> None:
        super().__init__(band=band)
        self.start, self.note, self.count, self.sums = start, note, start, torch.zeros(2)


def test_state_makes_a_round_trip() -> None:
    handler, other = Counter(3), Counter()
    handler.sums += 1
    other.load_state_dict(handler.state_dict())
    assert other.count == 3 and torch.equal(other.sums, torch.ones(2))
    assert EventHandler().state_dict() == {}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"unknown: \[\], missing: \['count', 'sums'\]"),
        ({"count": 1, "sums": 2, "sum": 3}, r"unknown: \['sum'\], missing: \[\]"),
    ],
)
def test_state_of_another_handler_is_refused(state: Any, message: str) -> None:
    handler = Counter(3)
    with pytest.raises(ArgumentError, match=message):
        handler.load_state_dict(state)
    assert handler.count == 3


def test_bands() -> None:
    assert Counter().band is Band.OBSERVE and EventHandler().band is Band.DECIDE
    assert Counter(band=Band.REPORT).band is Band.REPORT and Counter.band is Band.OBSERVE
    assert Band.PREPARE < Band.OBSERVE < Band.DECIDE < Band.PERSIST < Band.REPORT
    with pytest.raises(ArgumentTypeError, match=r"Counter\(band=...\) must be a Band; .* 300"):
        Counter(band=300)  # type: ignore[arg-type]  # wrong on purpose


def test_the_text_shows_what_differs_from_the_defaults() -> None:
    assert repr(Counter()) == "Counter()"
    assert repr(Counter(2, note="x")) == "Counter(start=2, note='x')"
    assert repr(Counter(band=Band.REPORT)) == f"Counter(band={Band.REPORT!r})"


def test_every_event_is_there_and_does_nothing() -> None:
    handler, stats = EventHandler(), object()
    before = dict(vars(handler))
    for event in EVENTS:
        assert getattr(handler, event)(stats) is None
    assert vars(handler) == before


def test_hints_name_what_is_near() -> None:
    assert nearest("Adm", ["adam", "sgd"]) == "Did you mean 'adam'? There are: adam, sgd."
    assert nearest("zzz", ["sgd", "adam"]) == "There are: adam, sgd."
    assert nearest("x", []) == "There are: none."


def test_an_extra_that_is_missing_is_named() -> None:
    assert require("json", "report", "Drawing").loads("1") == 1
    with pytest.raises(MissingExtraError, match=r"Drawing needs no_such, .*estimator\[report\]'"):
        require("no_such.module", "report", "Drawing")


def test_folders_are_made_and_proven_by_writing(tmp_path: Path) -> None:
    made = writable_folder(str(tmp_path / "a" / "b"), "H(folder=...)")
    assert made == tmp_path / "a" / "b" and list(made.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"H\(folder=...\) must be .* received '.*file'"):
        writable_folder(tmp_path / "file", "H(folder=...)")
    with pytest.raises(ArgumentTypeError, match="must be the path of a folder; received 3"):
        writable_folder(3, "H(folder=...)")  # type: ignore[arg-type]  # wrong on purpose
