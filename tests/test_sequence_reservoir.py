"""`SequenceAsyncReservoir`: what is drawn, how often, and what happens where workers fail."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_fns as fns
import torch
from test_sequence_batches import Own
from torch import nn

from estimator import Estimator
from estimator.handlers import WorstSamplesHandler
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.sequences import SequenceArray, SequenceAsyncReservoir, SequenceMap
from estimator.sequences.reservoir_source import functions_of

X = torch.arange(40.0)


def numbers(**options: Any) -> SequenceArray:
    return SequenceArray({"x": X}, 8, **options)


def drawn(batches: Any) -> list[tuple[int, float]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch["sample_uid"].tolist(), batch["x"].tolist(), strict=True)
    ]


def test_each_sample_is_whole_and_drawn_within_bounds() -> None:
    with numbers(shuffle=True, seed=1).async_reservoir(
        capacity=16, workers=2, fn=fns.noisy, max_reuse=3, seed=5
    ) as reservoir:
        assert len(reservoir) == 5
        found: list[Any] = []
        for _ in range(4):
            found += list(reservoir)
        assert len(found) == 20 and all(batch["drawn"].shape == (8, 3) for batch in found)
        uses = Counter(tuple(row) for batch in found for row in batch["drawn"].tolist())
        report = reservoir.report()
    assert all(uid == x for uid, x in drawn(found))
    assert all(len(set(map(tuple, batch["drawn"].tolist()))) == 8 for batch in found)
    assert max(uses.values()) <= 3 and sum(uses.values()) == 160
    assert len(uses) <= report.fresh and report.samples == 160 and report.batches == 20
    assert report.reuse == 160 / report.fresh
    assert len({uid for uid, _ in drawn(found)}) > 24  # renewed within the passes
    assert reservoir.report().samples == 160  # after the end too


def test_the_deterministic_mode_depends_on_the_seed_alone() -> None:
    def passes(workers: int, seed: int) -> list[Any]:
        with numbers(shuffle=True, seed=1).async_reservoir(
            capacity=24, workers=workers, fn=fns.noisy, seed=seed, deterministic=True
        ) as reservoir:
            found = [batch for _ in range(3) for batch in reservoir]
            report = reservoir.report()
        assert report.fresh == 24 // 2 + 14 * 8 // 4
        return [(b["sample_uid"].tolist(), b["drawn"].tolist()) for b in found]

    one = passes(1, 5)
    assert one == passes(2, 5) != passes(1, 6)
    uses = Counter(tuple(row) for _, rows in one for row in rows)
    assert max(uses.values()) == 4  # reused where training is the faster one


def test_old_samples_are_not_drawn() -> None:
    with numbers().async_reservoir(
        capacity=24, max_age=2, max_reuse=8, deterministic=True, seed=1
    ) as reservoir:
        for _ in range(3):
            list(reservoir)
        report = reservoir.report()
    assert sum(report.age_counts[2:]) == 0 and sum(report.age_counts) == 120
    assert report.fresh > 24


def test_an_epoch_that_was_left_is_followed_by_a_whole_one() -> None:
    with numbers().async_reservoir(capacity=16, seed=1) as reservoir:
        next(iter(reservoir))
        assert len(list(reservoir)) == 5
        assert reservoir.report().batches == 6
    assert len(list(reservoir)) == 5
    reservoir.close()
    reservoir.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_is_replaced(workers: int, tmp_path: Path) -> None:
    fn = fns.EndsOnce(tmp_path / "flag", 21)
    with numbers().async_reservoir(
        capacity=16, workers=workers, fn=fn, deterministic=True, max_reuse=1
    ) as reservoir:
        found = drawn(reservoir) + drawn(reservoir)
        assert reservoir.report().restarts == 1
    assert {uid for uid, _ in found} == set(range(40))  # its samples were made again
    assert all(uid == x for uid, x in found)


def test_a_sample_that_ends_workers_is_named() -> None:
    reservoir = numbers().async_reservoir(capacity=16, fn=fns.EndsAlways(21), workers=2)
    with reservoir, pytest.raises(DataError, match="work on the sample 21 ended 3 workers"):
        while True:  # the other worker keeps some passes going
            list(reservoir)


def test_failing_samples_are_an_error_and_never_an_endless_wait() -> None:
    """Another library waited for ever when every job failed."""
    with pytest.raises(DataError, match="the sample 0 could not be made: RuntimeError: always"):
        list(numbers().async_reservoir(capacity=16, fn=fns.fails))
    with (
        pytest.warns(UserWarning, match="leaves out the sample 0"),
        pytest.raises(DataError, match="21 samples could not be made, more than max_drops=20"),
    ):
        list(numbers().async_reservoir(capacity=16, fn=fns.fails, on_error="drop", max_drops=20))


def test_failing_samples_may_be_left_out() -> None:
    with (
        numbers().async_reservoir(
            capacity=16, fn=fns.fails_on_thirds, on_error="drop", max_drops=9999, max_reuse=1
        ) as reservoir,
        pytest.warns(UserWarning, match="SequenceAsyncReservoir leaves out the sample 0"),
    ):
        found = drawn(itertools.chain(reservoir, reservoir))
        assert {each.uid % 3 for each in reservoir.failures} == {0}
        assert reservoir.report().dropped == len(reservoir.failures) > 0
    assert {uid % 3 for uid, _ in found} == {1, 2} and reservoir.failures == []


def test_samples_unlike_the_first_are_named() -> None:
    with (
        numbers().async_reservoir(
            capacity=16, fn=fns.of_two_shapes, on_error="drop", max_drops=9999, max_reuse=1,
            deterministic=True,
        ) as reservoir,
        pytest.warns(UserWarning, match="the sample 4"),
    ):  # fmt: skip
        found = drawn(itertools.chain(reservoir, reservoir))
        errors = [each.error for each in reservoir.failures[:4]]
    assert {uid % 5 for uid, _ in found} == {0, 1, 2, 3}
    assert "'x'] of 4 must be like that of the first one, ((), torch.float32)" in errors[0]
    assert "received ((3,), torch.float32)" in errors[0] and "torch.int64" in errors[1]
    assert "14 must have the structure of the first one" in errors[2] and "words" in errors[3]


def test_words_have_no_place() -> None:
    with pytest.raises(DataError, match=r"tensors, arrays and numbers; sample\['text'\] of 0 is"):
        list(numbers().async_reservoir(capacity=16, fn=fns.worded))


def test_samples_of_any_structure_of_numbers_have_one() -> None:
    with numbers(uids=[f"s{i}" for i in range(40)]).async_reservoir(
        capacity=16, fn=fns.empty_rows
    ) as reservoir:
        for batch in reservoir:
            assert [f"s{int(x)}" for x in batch["x"]] == batch["sample_uid"]
            assert batch["none"].shape == (8, 0, 2) and batch["count"].tolist() == [3] * 8
            assert torch.equal(batch["pair"][0], batch["x"])
            assert batch["pair"][1].dtype == torch.float32


def test_waiting_ends_with_an_error(tmp_path: Path) -> None:
    waits = fns.WaitsFor(tmp_path / "flag", 3)
    waits.flag.touch()
    with numbers().async_reservoir(capacity=16, fn=waits, max_reuse=1) as reservoir:
        list(reservoir)
        assert reservoir._state is not None
        pool = reservoir._state.pool
        pool.settings = replace(pool.settings, timeout=1.0)
        waits.flag.unlink()
        with pytest.raises(DataError, match=r"waited for 1 s.*its 1 workers.*\[3\]"):
            for _ in range(9):
                list(reservoir)


def test_what_is_waited_for_is_counted(tmp_path: Path) -> None:
    with numbers().async_reservoir(capacity=16, max_reuse=4, deterministic=True) as reservoir:
        for _ in range(3):
            list(reservoir)
        report = reservoir.report()
    assert report.start_seconds > 0 and report.stalls <= report.batches - 1
    assert (report.stall_seconds > 0) == (report.stalls > 0)
    text = str(report)
    assert f"drawn     120 samples in 15 batches, {report.fresh} fresh" in text
    assert f"reuse     {120 / report.fresh:.2f} on average, 4 at most; " in text
    assert "age       in batches, 0 to 0: " in text and "failed    0 samples left out" in text
    assert SequenceAsyncReservoir(numbers(), capacity=16).report().reuse == 0.0


def test_functions_of_maps_run_in_its_workers() -> None:
    chained = numbers().map(fns.noisy).map(fns.same).async_reservoir(capacity=16, fn=fns.doubled)
    with chained as reservoir:
        assert all(x == 2 * uid for uid, x in drawn(reservoir))
    source, function = functions_of(numbers().map(fns.doubled).map(fns.doubled), fns.doubled)
    assert isinstance(source, SequenceArray)
    assert function({"x": 3}) == {"x": 24}
    with numbers().map(fns.plus_one, batched=True).async_reservoir(capacity=16) as reservoir:
        assert all(x == uid + 1 for uid, x in drawn(reservoir))


def test_a_part_is_made_fresh() -> None:
    reservoir = numbers().async_reservoir(capacity=16, fn=fns.noisy, seed=2)
    part = reservoir.subsample_uids([7, 5])
    assert isinstance(part, SequenceMap)
    assert drawn(part) == [(7, 7.0), (5, 5.0)]
    plain = numbers().async_reservoir(capacity=16).subsample(2)
    assert drawn(plain) == [(0, 0.0), (20, 20.0)]


def test_fit_evaluate_and_predict_take_it(tmp_path: Path) -> None:
    arrays = (torch.rand(40, 2), torch.rand(40, 1))
    words = [f"s{i}" for i in range(40)]
    handler = WorstSamplesHandler(tmp_path, worst=2)
    source = SequenceArray(arrays, 8, shuffle=True, uids=words, seed=1)
    with source.async_reservoir(capacity=16, fn=fns.noisy_pair, max_reuse=2) as data:
        est = Estimator(nn.Linear(2, 1), nn.MSELoss())
        stats = est.fit(
            data, data, epochs=3, trainers="sgd", device="cpu", handlers=handler, progress=False
        )
        assert (stats.step, stats.samples) == (15, 120)
        assert est.evaluate(data)["loss"] > 0 and est.predict(data).shape == (40, 1)
    for part in ("train", "validation"):
        with np.load(tmp_path / f"{part}.npz") as table:
            assert set(table["uids"].tolist()) <= set(words)


def test_a_pass_goes_on_at_its_place() -> None:
    with numbers().async_reservoir(capacity=16) as reservoir:
        batches = iter(reservoir)
        next(batches)
        state = reservoir.state_dict()
        reservoir.load_state_dict(state)
        assert len(list(reservoir)) == 4 and len(list(reservoir)) == 5


def test_a_source_without_batches_is_refused() -> None:
    batch = {"x": torch.ones(2), "sample_uid": [0, 1]}
    for own, received in ((Own([batch]), "None"), (Own([], []), "0")):
        with pytest.raises(ArgumentError, match=f"must know its batches.*Own of {received}"):
            own.async_reservoir(capacity=4)
    with pytest.raises(DataError, match="Own must yield at least one batch an epoch"):
        list(Own([], [2]).async_reservoir(capacity=4))


BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "fn": ({"fn": 3}, ArgumentTypeError, r"Reservoir\(fn=...\) must be a function; received 3"),
    "capacity": ({"capacity": 7}, ArgumentError, "capacity=.*from 8 up; received 7"),
    "workers": ({"workers": 0}, ArgumentError, "workers=.*from 1 up; received 0"),
    "reuse": ({"max_reuse": 0}, ArgumentError, "max_reuse=.*from 1 up; received 0"),
    "age": ({"max_age": -1}, ArgumentError, "max_age=.*from 0 up; received -1"),
    "fill": ({"min_fill": 7}, ArgumentError, "min_fill=.*from 8 up; received 7"),
    "full": ({"min_fill": 17}, ArgumentError, "at most the capacity; received 17 of 16"),
    "option": ({"reuse": 3}, ArgumentTypeError, "no option 'reuse'"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_options_are_refused(name: str) -> None:
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        numbers().async_reservoir(**({"capacity": 16} | options))


def test_much_reuse_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="max_reuse=9 draws samples so often"):
        numbers().async_reservoir(capacity=16, max_reuse=9)
