"""Samples that are chosen by a hash of their identities, pass after pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimator.distributed import ALONE
from estimator.handlers._chosen_samples import ChosenSamples
from estimator.stats import TrainStats


def passed(chosen: ChosenSamples, uids: Tensor, epoch: int) -> list[tuple[int | str, float]]:
    """What a pass in batches of four leaves: uid and value, chosen ones first."""
    stats = TrainStats(torch.nn.Identity(), torch.device("cpu"))
    for batch in uids.split(4):
        stats.uids = batch
        rows = {"input": batch * 10.0 + epoch}
        chosen.add(stats, lambda rows=rows: rows, len(batch))  # type: ignore[misc]  # bound now
    return [(each.uid, each.rows["input"].item()) for each in chosen.take(epoch, ALONE)]


def test_later_passes_take_the_chosen_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ChosenSamples(3, seed=0)
    first = passed(chosen, torch.arange(40), 0)[:3]
    seen: list[int] = []
    add = type(chosen._top).add

    def count(self: object, keys: Tensor, rows: object, size: int, device: object) -> None:
        seen.append(size)
        add(chosen._top, keys, rows, size, device)  # type: ignore[arg-type]  # as it got them

    monkeypatch.setattr(type(chosen._top), "add", count)
    again = passed(chosen, torch.arange(40).flip(0), 1)
    assert [uid for uid, _ in again] == [uid for uid, _ in first]
    assert [value for _, value in again] == [value + 1 for _, value in first]
    assert sum(seen) == 3


def test_a_sample_that_ranks_higher_joins_later() -> None:
    chosen, all_at_once = ChosenSamples(3, seed=0), ChosenSamples(3, seed=0)
    passed(chosen, torch.arange(20), 0)
    later = {uid for uid, _ in passed(chosen, torch.arange(40), 1)}
    best = [uid for uid, _ in passed(all_at_once, torch.arange(40), 1)[:3]]
    assert set(best) <= later


def test_few_samples_are_all_chosen_in_each_pass() -> None:
    chosen = ChosenSamples(3, seed=0)
    for epoch in range(2):
        assert sorted(uid for uid, _ in passed(chosen, torch.arange(2), epoch)) == [0, 1]
