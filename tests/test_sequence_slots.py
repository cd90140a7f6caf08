"""The places of a reservoir: who may write to them, and how long they are drawn."""

from __future__ import annotations

from typing import Any

import torch

from estimator.sequences.slots import Slots


def slots(capacity: int = 3, spare: int = 2, **options: Any) -> Slots:
    return Slots(capacity, spare, **({"max_reuse": 2, "max_age": None, "seed": 1} | options))


def test_a_place_is_written_to_only_while_nobody_draws_it() -> None:
    """Whatever is done in whatever order: places are owned by one side at a time."""
    table = slots(capacity=10, spare=6, max_reuse=3, max_age=4)
    written: set[int] = set()
    generator = torch.Generator().manual_seed(3)
    for _ in range(500):
        written |= set(table.take(int(torch.randint(5, (), generator=generator))))
        done = {slot for slot in written if torch.rand((), generator=generator) < 0.6}
        written -= done
        whole = sorted(done)[: len(done) * 3 // 4]
        table.fill(whole)
        table.give_back(done - set(whole))
        table.retire()
        table.admit()
        live = set(table.live.tolist())
        assert not live & written and len(live) == len(table.live) <= 10
        if len(live) >= 4:
            rows = table.draw(4)
            assert len(set(rows.tolist())) == 4 and set(rows.tolist()) <= live
            assert int(table.uses[rows].max()) <= 3
    assert table.free + table.filled + len(table.live) + len(written) == 16
    assert int(table.age_counts.sum()) % 4 == 0 and int(table.reuse_counts.sum()) > 100


def test_a_sample_is_drawn_so_often_and_no_more() -> None:
    table = slots()
    table.fill(table.take(3))
    table.admit()
    first = table.draw(3)
    table.retire()
    assert len(table.live) == 3
    table.draw(3)
    table.retire()
    assert len(table.live) == 0 and table.free == 5
    assert table.reuse_counts.tolist() == [0, 0, 3] and sorted(first.tolist()) == [0, 1, 2]
    assert table.age_counts[:2].tolist() == [3, 3]


def test_a_sample_is_drawn_so_long_and_no_longer() -> None:
    table = slots(max_age=1, max_reuse=9)
    table.fill(table.take(1))
    table.admit()
    for _ in range(2):
        table.retire()
        assert len(table.live) == 1
        table.draw(1)
    table.retire()
    assert len(table.live) == 0


def test_fresh_samples_take_the_places_of_those_used_most() -> None:
    table = slots(max_reuse=9)
    table.fill(table.take(3))
    table.admit()
    once = table.draw(1).item()
    table.fill(table.take(2))
    table.admit()
    assert once not in table.live and len(table.live) == 3
    assert table.filled == 1  # nobody that was never drawn makes room
    table.draw(3)
    table.admit(1)
    assert table.filled == 0 and len(table.live) == 3
    assert int((table.uses[table.live] == 0).sum()) == 1
