"""A run that was stopped anywhere and gone on with is, bit for bit, one that never stopped."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from resume_runs import BATCHES, EPOCHS, FEEDS, MEANS, SETUPS, STOPS, Case, differences, train

FULL = [Case(*values) for values in itertools.product(SETUPS, FEEDS, STOPS, MEANS)]
PAIRWISE = [
    Case(setup, feed, STOPS[(i + j) % len(STOPS)], MEANS[(i // 2 + j) % len(MEANS)])
    for (i, setup), (j, feed) in itertools.product(enumerate(SETUPS), enumerate(FEEDS))
]


def name(case: Case) -> str:
    return " - ".join(case)


@functools.cache
def undisturbed(setup: str, feed: str, stop: str) -> dict[str, Any]:
    if feed == "sampler, 2 workers":
        # Its batches are the same with any number of workers.
        return undisturbed(setup, "sampler", stop)
    with tempfile.TemporaryDirectory() as folder:
        return train(Case(setup, feed, stop), Path(folder))


def check(case: Case, folder: Path) -> None:
    inside = case.stop if case.stop == "validation inside" else "never"
    whole = undisturbed(case.setup, case.feed, inside)
    cut = train(case, folder, stops=True)
    assert cut["counts"][3] and cut["counts"][1] < whole["counts"][1]
    assert differences(whole, train(case, folder, resume=True)) == []


@pytest.mark.parametrize("case", PAIRWISE, ids=name)
def test_a_resumed_run_equals_a_whole_one(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", FULL, ids=name)
def test_every_combination(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_every_pair_of_values_is_among_them() -> None:
    for a, b in itertools.combinations(range(len(Case._fields)), 2):
        wanted = {(case[a], case[b]) for case in FULL}
        assert {(case[a], case[b]) for case in PAIRWISE} == wanted


def test_the_whole_run_is_what_it_is_meant_to_be() -> None:
    plain, early = (undisturbed(setup, "arrays", "never") for setup in ("plain", "early stopping"))
    assert plain["counts"][:2] == [EPOCHS, EPOCHS * BATCHES] and plain["counts"][3] is None
    assert early["counts"][0] == EPOCHS - 1 and "EarlyStopping" in early["counts"][3]
    rates = undisturbed("plateau", "arrays", "never")["history"]["lr"]
    assert rates[0] == 0.05 and rates[-1] < 0.05
