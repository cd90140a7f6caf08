"""What one, two or more processes train alike, and how they are started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers.base import EventHandler
from estimator.stats import TrainStats

ROOT = Path(__file__).parents[1]
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
DOUBLE = torch.float64


def data(samples: int = 97) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (N, 5) and three classes."""
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 5, generator=generator, dtype=DOUBLE)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def new_net(*between: nn.Module, seed: int = 0) -> nn.Module:
    """A small net in double precision, the same wherever it is made."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(5, 8), *between, nn.Tanh(), nn.Linear(8, 3)
        return nn.Sequential(*layers).to(DOUBLE)


def classifier(loss: Any = None, net: nn.Module | None = None, metrics: Any = None) -> Estimator:
    """An Estimator for `data`."""
    net = new_net() if net is None else net
    return Estimator(net, nn.CrossEntropyLoss() if loss is None else loss, metrics)


def fit(est: Estimator, train: Any = None, val: Any = None, **changes: Any) -> TrainStats:
    """A short training on the CPU; `changes` replace arguments of `fit`."""
    arguments: dict[str, Any] = {
        "epochs": 3, "trainers": Trainer("sgd", lr=0.1, momentum=0.9), "device": "cpu",
        "batch_size": 8, "seed": 1, "progress": False,
    }  # fmt: skip
    x, y = data()
    train, val = (x, y) if train is None else train, (x[:33], y[:33]) if val is None else val
    return est.fit(train, val, **(arguments | changes))


def outcome(stats: TrainStats) -> dict[str, Any]:
    """What is to be equal, however many processes there are."""
    return {
        "weights": {n: t.detach().clone() for n, t in stats.net.state_dict().items()},
        "history": [{n: v for n, v in r.items() if n != "time"} for r in stats.history.rows],
        "counts": (stats.epoch, stats.step, stats.samples),
        "stopped": stats.stopped,
        "best": {name: best.epoch for name, best in stats.best.items()},
    }


class Seen(EventHandler):
    """Keeps the identities of the samples that each epoch meets, and what a batch looks like."""

    needs = frozenset({"uids"})

    def __init__(self) -> None:
        super().__init__()
        self.train: list[list[int]] = []
        self.val: list[list[int]] = []
        self.sizes: list[tuple[int, int]] = []

    def epoch_begin(self, stats: TrainStats) -> None:
        self.train.append([])
        self.val.append([])

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.batch_size is not None
        self.train[-1] += stats.uids.tolist()
        self.sizes.append((stats.batch_size, len(stats.outputs)))

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.val[-1] += stats.uids.tolist()


def difference(one: Any, other: Any) -> float:
    """The largest difference of numbers in two nested values, infinite where they are not alike."""
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape:
            return float("inf")
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, Mapping):
        if list(one) != list(other):
            return float("inf")
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return float("inf")
        return max((difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and one == one:
        return float(abs(one - other))
    return 0.0 if one == other or one != one and other != other else float("inf")


def environment() -> dict[str, str]:
    """One thread a process, and this folder among those of modules."""
    paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    left = {n: v for n, v in os.environ.items() if n not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    return left | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def torchrun(
    job: str, *arguments: str | Path, processes: int = 2, options: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Starts the script `job` of this folder under torchrun."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *options),
    ]
    return _start([*command, str(ROOT / "tests" / job), *map(str, arguments)], environment())


def processes_of(job: str, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """Starts the script `job` as two processes that nobody watches over."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(ROOT / "tests" / job), *map(str, arguments)]
    return [_start(command, environment() | joined | {"RANK": str(i)}) for i in range(2)]


def _start(command: list[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=dict(env), cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], *, code: int | None = 0, within: float = 120) -> str:
    """Waits for a process; its output. None as the code stands for any but 0."""
    output, _ = process.communicate(timeout=within)
    assert process.returncode == code if code is not None else process.returncode, output
    return output


def results(folder: Path, name: str) -> Iterator[Any]:
    """What each process has saved under a name."""
    for rank in range(2):
        yield torch.load(folder / f"{name}_{rank}.pt", weights_only=False)
