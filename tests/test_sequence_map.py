"""`SequenceMap`: what workers make, in which order, and what happens where they fail."""

from __future__ import annotations

import gc
import itertools
import random
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resume_runs
import sequence_fns as fns
import torch
from resume_runs import SIZE, Case, differences, train
from torch import nn
from torch.utils.data import DataLoader

from estimator import Estimator, with_uids
from estimator.handlers import WorstSamplesHandler
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.sequences import SequenceArray, SequenceMap

X = torch.arange(20.0)


def numbers(batch_size: int = 3) -> SequenceArray:
    return SequenceArray({"x": X}, batch_size)


def contents(batches: Any) -> list[dict[str, list[Any]]]:
    return [{name: column.tolist() for name, column in batch.items()} for batch in batches]


def names(batches: Any) -> list[int]:
    return list(itertools.chain(*(batch["sample_uid"].tolist() for batch in batches)))


def impatient(sequence: SequenceMap) -> None:
    """Has a sequence whose workers are there wait for no more than a second."""
    pool = sequence._ready_pool()
    pool.settings = replace(pool.settings, timeout=1.0)


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    """Another library seeded NumPy by the worker's number, the same in each run, and torch not."""
    found = []
    for workers in (0, 1, 2):
        with numbers().map(fns.noisy, workers=workers, seed=3) as sequence:
            found.append((contents(sequence), contents(sequence)))
            assert sequence.restarts == 0
    assert found[0] == found[1] == found[2]
    first, second = found[0]
    drawn = [row for batch in (*first, *second) for row in batch["drawn"]]
    for stream in range(3):  # of Python, NumPy and torch
        assert len({row[stream] for row in drawn}) == 40
    assert [batch["x"] for batch in first] == [batch["x"] for batch in second]
    other = numbers().map(fns.noisy, seed=4)
    assert contents(other)[0]["drawn"] != first[0]["drawn"]


def test_the_streams_of_this_process_stay_as_they_were() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # a tuple by default
    list(numbers().map(fns.noisy, seed=1))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[2])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]  # a tuple by default
    torch.manual_seed(1)
    drawn = numbers().map(fns.noisy)
    torch.manual_seed(1)
    assert contents(numbers().map(fns.noisy)) == contents(drawn)


def test_batches_come_in_their_order_or_as_they_are_ready(tmp_path: Path) -> None:
    waits = fns.WaitsFor(tmp_path / "flag", 0)
    with numbers(1).map(waits, workers=2, ordered=False) as sequence:
        batches = iter(sequence)
        early = [next(batches)["sample_uid"].item() for _ in range(4)]
        waits.flag.touch()
        assert 0 not in early and sorted([*early, *names(batches)]) == list(range(20))
    waits.flag.unlink()
    with numbers(1).map(waits, workers=2) as sequence:
        pool_calls = iter(sequence)
        waits.flag.touch()
        assert names(pool_calls) == list(range(20))


def test_what_comes_early_is_held_within_bounds(tmp_path: Path) -> None:
    """One slow batch does not have all others of an epoch wait in memory."""
    given: list[int] = []

    class Counted(SequenceArray):
        def _batches(self, epoch: int, start: int) -> Any:
            for batch in super()._batches(epoch, start):
                given.extend(batch["sample_uid"].tolist())
                yield batch

    waits = fns.WaitsFor(tmp_path / "flag", 0)
    waits.flag.touch()
    with Counted({"x": X}, 1).map(waits, workers=2) as sequence:
        list(sequence)
        impatient(sequence)
        waits.flag.unlink()
        given.clear()
        with pytest.raises(DataError, match=r"without a result of 1 of its 2 workers.*\[0\]"):
            list(sequence)
        assert given == [0, 1, 2, 3, 4, 5]


def test_an_epoch_that_was_left_is_followed_by_a_whole_one() -> None:
    with numbers().map(fns.noisy, workers=2, seed=3) as sequence:
        next(iter(sequence))
        assert names(sequence) == list(range(20))
        both = zip(iter(sequence), iter(sequence), strict=True)  # two at a time do not meet
        for one, other in both:
            assert one["sample_uid"].tolist() == other["sample_uid"].tolist()
    assert names(sequence) == list(range(20))  # with new workers
    sequence.close()
    sequence.close()


def test_a_pass_waits_for_workers_that_another_has_taken() -> None:
    with numbers(1).map(fns.same, workers=1) as sequence:
        first = iter(sequence)
        next(first)  # a worker has no room left
        second = iter(sequence)
        assert names(second) == list(range(20)) and names(first) == list(range(1, 20))


def test_a_dead_worker_is_replaced_and_its_batches_made_again(tmp_path: Path) -> None:
    with numbers().map(fns.EndsOnce(tmp_path / "flag", 5), workers=2) as sequence:
        assert names(sequence) == list(range(20))
        assert sequence.restarts == 1
        assert names(sequence) == list(range(20)) and sequence.restarts == 1


@pytest.mark.parametrize(("batched", "named"), [(False, "5"), (True, "3, 4, 5")])
def test_a_sample_that_ends_workers_is_named(batched: bool, named: str) -> None:
    message = f"SequenceMap: work on the sample {named} ended 3 workers.*code -9.*workers=0"
    with numbers().map(fns.EndsAlways(5), workers=2, batched=batched) as sequence:
        with pytest.raises(DataError, match=message):
            list(sequence)
        assert sequence.restarts == 0  # there are none any more


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_sample_is_named_or_left_out(workers: int) -> None:
    with numbers().map(fns.fails_on_thirds, workers=workers) as sequence:
        message = r"the sample 0 could not be made: ValueError: no 0(.|\n)*in fails_on_thirds"
        with pytest.raises(DataError, match=message):
            list(sequence)
    options: Any = {"workers": workers, "on_error": "drop"}
    with (
        numbers().map(fns.fails_on_thirds, **options) as sequence,
        pytest.warns(UserWarning, match="leaves out the sample 0: ValueError: no 0") as caught,
    ):
        for _ in range(2):
            assert names(sequence) == [i for i in range(20) if i % 3]
            assert [each.uid for each in sequence.failures] == list(range(0, 20, 3))
    assert len(caught) == 2  # one a pass
    with (
        numbers().map(fns.fails_on_thirds, max_drops=2, **options) as sequence,
        pytest.warns(UserWarning, match="leaves out"),
        pytest.raises(DataError, match="3 samples could not be made, more than max_drops=2.* 6"),
    ):
        list(sequence)


def test_a_batch_without_a_sample_left_is_left_out() -> None:
    sequence = numbers(1).map(fns.fails_on_thirds, on_error="drop")
    with pytest.warns(UserWarning, match="leaves out"):
        assert len(list(sequence)) == 13


def test_a_function_that_returns_nothing_is_told() -> None:
    with pytest.raises(DataError, match="sample 0.*fn returned None in place of a sample"):
        list(numbers().map(fns.gives_nothing))


def test_what_cannot_be_sent_is_told() -> None:
    with (
        numbers().map(fns.same, workers=1, collate=fns.unsendable) as sequence,
        pytest.raises(DataError, match="sample 0 could not be made.*[Cc]an't pickle"),
    ):
        list(sequence)
    with pytest.raises(ArgumentTypeError, match="that other processes can import.*workers=0"):
        list(numbers().map(lambda sample: sample, workers=1))


def test_waiting_ends_with_an_error_that_names_the_sample(tmp_path: Path) -> None:
    waits = fns.WaitsFor(tmp_path / "flag", 4)
    waits.flag.touch()
    with numbers().map(waits, workers=1) as sequence:
        list(sequence)
        impatient(sequence)
        waits.flag.unlink()
        with pytest.raises(DataError, match=r"waited for 1 s.*on the samples \[4\]"):
            list(sequence)


def test_workers_that_cannot_start_are_told() -> None:
    with (
        numbers().map(fns.NoStart(), workers=1) as sequence,
        pytest.raises(DataError, match=r"cannot start \(exit code 7\).*__main__"),
    ):
        list(sequence)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_start_by_other_methods(method: Any) -> None:
    with numbers().map(fns.plus_one, workers=1, start_method=method) as sequence:
        assert torch.equal(torch.cat([batch["x"] for batch in sequence]), X + 1)


def test_workers_end_with_the_last_reference() -> None:
    sequence = numbers(1).map(fns.same, workers=1)
    next(iter(sequence))
    pool = sequence._ready_pool()
    process, gone = pool._workers[0].process, weakref.ref(pool)
    del pool, sequence
    gc.collect()
    assert gone() is None and not process.is_alive()


def test_an_interpreter_ends_with_work_on_its_way(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import torch, sequence_fns\n"
        "from estimator.sequences import SequenceArray\n"
        "if __name__ == '__main__':\n"
        "    kept = SequenceArray({'x': torch.zeros(9)}, 1).map(sequence_fns.same, workers=2)\n"
        "    batches = iter(kept)\n"
        "    next(batches)\n"
    )
    (tmp_path / "script.py").write_text(script)
    run = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


def test_a_changed_or_large_batch_fits() -> None:
    sizes = SequenceArray({"x": torch.randn(8, 3)}, 4)
    with sizes.map(fns.Enlarged(), workers=1) as sequence:
        for batch in (*sequence, *sequence):
            assert batch["x"].shape == (4, 50_000)
            assert torch.equal(batch["x"][:, 0], batch["first"])
    with (
        SequenceArray({"x": torch.randn(6, 50_000)}, 1)
        .rebatch(4)
        .map(fns.same, workers=1) as sequence
    ):
        assert [batch["x"].shape[0] for batch in sequence] == [4, 2]


def test_fit_evaluate_and_predict_take_it(tmp_path: Path) -> None:
    arrays = (torch.rand(20, 2), torch.rand(20, 1))
    words = [f"s{i}" for i in range(20)]
    handler = WorstSamplesHandler(tmp_path, worst=2)
    with (
        SequenceArray(arrays, 4, shuffle=True, uids=words, seed=1).map(
            fns.noisy_pair, workers=2, seed=1
        ) as data,
        SequenceArray(arrays, 4, uids=words).map(fns.same, workers=1) as val,
    ):
        est = Estimator(nn.Linear(2, 1), nn.MSELoss())
        stats = est.fit(
            data, val, epochs=2, trainers="sgd", device="cpu", handlers=handler, progress=False
        )
        assert stats.samples == 40 and stats.step == 10
        assert est.evaluate(val) == est.evaluate(arrays, batch_size=4)
        assert torch.equal(est.predict(val), est.predict(arrays, batch_size=4))
    for part in ("train", "validation"):
        with np.load(tmp_path / f"{part}.npz") as table:
            assert sorted(table["uids"].tolist()) == sorted(words)


def test_a_loader_has_identities_for_handlers(tmp_path: Path) -> None:
    """Another library had no worst samples of a DataLoader."""
    data = with_uids(DataLoader([(torch.rand(2), torch.rand(1)) for _ in range(6)], 2))  # type: ignore[arg-type]  # a list will do
    handler = WorstSamplesHandler(tmp_path, worst=2)
    Estimator(nn.Linear(2, 1), nn.MSELoss()).fit(
        data, epochs=1, trainers="sgd", device="cpu", handlers=handler, progress=False
    )
    with np.load(tmp_path / "train.npz") as table:
        assert sorted(table["uids"].tolist()) == list(range(6))


@pytest.mark.parametrize("stop", ["mid-epoch", "epoch end", "last batch"])
def test_a_resumed_run_equals_a_whole_one(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed(case: Case) -> SequenceMap:
        arrays = (resume_runs.X, resume_runs.Y)
        return SequenceArray(arrays, SIZE, shuffle=True, seed=5).map(fns.noisy_pair, seed=2)

    monkeypatch.setattr(resume_runs, "feed", feed)
    case = Case(feed="sampler", stop=stop)
    whole = train(case._replace(stop="never"), tmp_path / "whole")
    cut = train(case, tmp_path / "cut", stops=True)
    assert cut["counts"][1] < whole["counts"][1]
    assert differences(whole, train(case, tmp_path / "cut", resume=True)) == []


BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "fn": ({"fn": 3}, ArgumentTypeError, r"SequenceMap\(fn=...\) must be a function; received 3"),
    "collate": ({"collate": 3}, ArgumentTypeError, r"SequenceMap\(collate=...\).*received 3"),
    "workers": ({"workers": -1}, ArgumentError, "workers=.*from 0 up; received -1"),
    "drops": ({"max_drops": 1.5}, ArgumentError, "max_drops=.*received 1.5"),
    "seed": ({"seed": -1}, ArgumentError, "seed=.*received -1"),
    "on_error": ({"on_error": "skip"}, ArgumentError, "one of 'raise', 'drop'; received 'skip'"),
    "method": ({"start_method": "thread"}, ArgumentError, "start_method=.*received 'thread'"),
    "timeout": ({"timeout": 0}, ArgumentError, "timeout=.*seconds above 0; received 0"),
    "no timeout": ({"timeout": None}, ArgumentError, "timeout=.*received None"),
    "option": ({"time_out": 3}, ArgumentTypeError, "no option 'time_out'. Did you mean 'timeout'"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_options_are_refused(name: str) -> None:
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        numbers().map(options.pop("fn", fns.same), **options)
