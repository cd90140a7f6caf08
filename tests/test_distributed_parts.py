"""What several processes are made of, seen from one."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed_jobs import fit, new_net
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from estimator import Estimator, distributed, sharded
from estimator.agreement import Agreement
from estimator.dealing import deal
from estimator.dispatch import Dispatch
from estimator.distributed import ALONE, World
from estimator.engine.options import Engine
from estimator.handlers import CheckpointHandler, EarlyStoppingHandler
from estimator.handlers._pass_recorder import Pass, joined
from estimator.handlers.base import ArgumentError, DataError, EstimatorError
from estimator.plan import write_plan
from estimator.run import Run
from estimator.runtime import Runtime, find_device
from estimator.sampler import ResumableSampler
from estimator.stats import TrainStats
from estimator.structure import interleave, without_samples


class Two(World):
    """One of two processes, of which the other is not there."""

    def __init__(self, rank: int) -> None:
        self.rank, self.size = rank, 2


def test_the_world_of_one_process_is_itself() -> None:
    tensor = torch.ones(2)
    assert ALONE.gather(3) == [3] and ALONE.first(lambda: 4) == 4
    assert ALONE.sum(tensor) is tensor and ALONE.most([1.0, 2.0]) == [1.0, 2.0]
    ALONE.copy_first([tensor])
    assert (ALONE.rank, ALONE.size, distributed.processes()) == (0, 1, 1)
    assert distributed.is_first() and distributed.join(torch.device("cpu")) is ALONE


def test_several_devices_are_asked_for_with_a_command() -> None:
    devices: Any = ["cuda:0", "cuda:1"]
    with pytest.raises(ArgumentError, match="torchrun --nproc-per-node 2 your_script.py"):
        fit(Estimator(new_net(), nn.CrossEntropyLoss()), device=devices)
    with pytest.raises(ArgumentError, match=r"device=...\) must be one device; received \(\)"):
        find_device(())  # type: ignore[arg-type]  # what a wrong call gives


def test_a_strategy_is_for_several_processes() -> None:
    est = Estimator(new_net(), nn.CrossEntropyLoss())
    with pytest.warns(UserWarning, match="strategy='ddp'.* has no effect in one process"):
        fit(est, strategy="ddp", epochs=1)
    with pytest.raises(ArgumentError, match="'fsdp'. Did you mean 'fsdp2'"):
        fit(est, strategy="fsdp")


def test_each_process_takes_the_accelerator_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "MASTER_ADDR": "a", "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert distributed.processes() == 4 and not distributed.is_first()
    found = [str(distributed.own_index(torch.device(d))) for d in ("cuda", "cuda:0", "cpu")]
    assert found == ["cuda:1", "cuda:0", "cpu"]


def test_processes_must_not_share_an_accelerator() -> None:
    class Pretended(Two):
        def gather(self, value: Any) -> list[Any]:
            return [value, value]

    distributed._check_devices(Pretended(0), torch.device("cpu"))
    with pytest.raises(ArgumentError, match=r"an accelerator of its own; received \['cuda:0'"):
        distributed._check_devices(Pretended(0), torch.device("cuda:0"))


def test_a_start_is_told_from_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert distributed._attempt() == "0"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    assert distributed._attempt() == "2"


def test_an_exception_that_does_not_travel_is_told() -> None:
    class Local(Exception):
        pass

    error = distributed._portable(Local("here"))
    assert isinstance(error, EstimatorError) and "Local('here')" in str(error)
    known = DataError("there")
    assert distributed._portable(known) is known


X, Y = torch.randn(11, 3), torch.arange(11) % 3
DATASET = TensorDataset(X, Y)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_is_dealt_as_it_is_set_up(shuffle: bool) -> None:
    loader = DataLoader(DATASET, batch_size=4, shuffle=shuffle, drop_last=True)
    dealt = [deal(loader, "fit(train=...)", Two(rank)) for rank in (0, 1)]
    samplers: list[Any] = [each.batch_sampler for each in dealt]
    samplers[1].seed = samplers[0].seed
    met = [[i for batch in sampler for i in batch] for sampler in samplers]
    assert [len(m) for m in met] == [4, 4] and len({*met[0], *met[1]}) == 8
    assert (sorted(met[0] + met[1]) == [*range(8)]) is not shuffle
    assert isinstance(loader.batch_sampler, torch.utils.data.BatchSampler)


def test_the_sampler_of_the_user_stays_as_it_is() -> None:
    sampler = ResumableSampler(11, 4, seed=7)
    dealt: Any = deal(DataLoader(DATASET, batch_sampler=sampler), "fit(train=...)", Two(1))
    assert (dealt.batch_sampler.rank, dealt.batch_sampler.world_size) == (1, 2)
    assert (sampler.rank, sampler.world_size, dealt.batch_sampler.seed) == (0, 1, 7)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(DATASET)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: [(X, Y)], "list"),
        (lambda: DataLoader(Stream(), batch_size=2), "Stream"),
        (lambda: DataLoader(DATASET, batch_size=None), "DataLoader"),
        (lambda: DataLoader(DATASET, 2, sampler=SubsetRandomSampler(range(4))), "SubsetRandom"),
        (lambda: DataLoader(DATASET, 2, sampler=WeightedRandomSampler([1.0] * 11, 11)), "Weighted"),
        (lambda: DataLoader(DATASET, 2, sampler=RandomSampler(DATASET, True)), "RandomSampler"),
        (lambda: DataLoader(DATASET, batch_sampler=[[0], [1]]), "SequentialSampler"),
    ],
)
def test_data_that_cannot_be_dealt_is_refused(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(DataError, match=rf"evaluate\(data=...\) is dealt .* received .*{named}"):
        deal(make(), "evaluate(data=...)", Two(0))


def test_outputs_are_put_in_the_order_of_samples() -> None:
    rows = torch.arange(10).reshape(5, 2)
    parts = [{"a": (rows[rank::3], [rows[rank::3, 0]])} for rank in range(3)]
    whole = interleave(parts)
    assert torch.equal(whole["a"][0], rows) and torch.equal(whole["a"][1][0], rows[:, 0])
    with pytest.raises(DataError, match="tensors with a row a sample; received 'word'|str"):
        interleave(["word", "word"])


def test_a_batch_without_samples_keeps_its_structure() -> None:
    batch = {"a": torch.ones(3, 2), "b": [np.ones(3), (torch.tensor(1.0), "word")]}
    empty = without_samples(batch)
    assert empty["a"].shape == (0, 2) and empty["b"][0].shape == (0,)
    assert empty["b"][1] == (torch.tensor(1.0), "word")


def test_passes_of_processes_come_together() -> None:
    def part(start: int, **rows: Tensor) -> Pass:
        uids, losses = np.arange(start, start + 2), np.array([0.5, 1.5], np.float32)
        return Pass(uids, losses, np.array([1, 0]), rows)

    one = part(0, x=torch.zeros(2, 3), y=torch.zeros(2, 1))
    other = part(7, x=torch.ones(2, 3), y=torch.zeros(2, 2))
    assert joined([None, None]) is None and joined([None, one]) is one
    both = joined([one, None, other])
    assert both is not None and both.uids.tolist() == [0, 1, 7, 8]
    assert both.worst.tolist() == [1, 0, 3, 2] and list(both.rows) == ["x"]
    assert both.rows["x"].sum(1).tolist() == [0, 0, 3, 3] and both.losses.shape == (4,)


def test_a_state_of_one_process_is_whole() -> None:
    net = new_net()
    state: Any = {"net": net.state_dict(), "list": [1, (torch.ones(1),)]}
    assert not sharded.is_sharded(net) and sharded.class_of(net) is nn.Sequential
    whole = sharded.whole(state)
    assert whole["net"].keys() == net.state_dict().keys() and whole["list"] == state["list"]
    assert whole["net"]._metadata == state["net"]._metadata
    assert sharded.parts_like(state, net) is state
    assert sharded.optimizer_parts(state, list(net.parameters())) is state


def test_processes_are_joined_by_what_their_devices_have(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []
    module = sys.modules["torch.distributed.rendezvous"]
    monkeypatch.setattr(module, "rendezvous", lambda url, **_: iter([(url, 0, 2)]))
    monkeypatch.setattr(atexit, "register", began.append)
    monkeypatch.setattr(dist.distributed_c10d, "PrefixStore", lambda name, url: f"{name}, {url}")
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, store, **_: began.append((backend, store))
    )
    for device in ("cpu", "cuda:1"):
        distributed._initialise(torch.device(device))
    store = "attempt 0, env://"
    assert began[::2] == [("gloo", store), ("cpu:gloo,cuda:nccl", store)]
    assert began[1::2] == [distributed._leave] * 2
    distributed._leave()


def test_a_process_joins_with_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    indices: list[Any] = []
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "_initialise", indices.append)
    monkeypatch.setattr(torch.accelerator, "set_device_index", indices.append)
    monkeypatch.setattr(distributed, "Group", lambda device: Two(1))
    assert distributed.join(torch.device("cuda:1")).rank == 1
    assert [str(device) for device in indices] == ["cuda:1", "cuda:1"]


def test_a_torch_without_processes_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_available", lambda: False)
    assert distributed.processes() == 1


def test_a_plan_names_the_agreement() -> None:
    est = Estimator(new_net(), nn.CrossEntropyLoss())
    runtime = Runtime(torch.device("cpu"), world=Two(0))
    stats = TrainStats(est.net, torch.device("cpu"))
    stats.runtime = runtime
    hooks = Dispatch([CheckpointHandler("nowhere"), EarlyStoppingHandler()])
    run = Run(
        stats,
        hooks,
        processor=est.processor,
        runtime=runtime,
        metrics=est.metrics,
        engine=Engine("eager"),
    )
    hooks.agree = Agreement(run)
    hooks.bind(stats)
    order = "EarlyStoppingHandler, agree with the other processes, CheckpointHandler"
    assert re.search(f"validation_end +{order}", write_plan(hooks))
