"""Functions of samples that worker processes import."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence


def same(sample: Any) -> Any:
    return sample


def noisy(sample: dict[str, Any]) -> dict[str, Any]:
    """Draws from all three streams."""
    drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
    return {"x": sample["x"], "drawn": torch.tensor(drawn)}


def noisy_pair(sample: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = sample
    return x + 0.1 * torch.randn(x.shape), y


def doubled(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": 2 * sample["x"]}


def plus_one(batch: dict[str, Any]) -> dict[str, Any]:
    return {"x": batch["x"] + 1}


def fails_on_thirds(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["sample_uid"] % 3 == 0:
        raise ValueError(f"no {sample['sample_uid']}")
    return sample


def fails(sample: Any) -> Any:
    raise RuntimeError("always")


def gives_nothing(sample: Any) -> None:
    return None


def ragged(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.ones(int(sample["x"]) + 1)}


def padded(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"x": pad_sequence([sample["x"] for sample in samples], batch_first=True)}


def unsendable(samples: list[Any]) -> Any:
    return {"x": torch.zeros(len(samples)), "fn": [lambda: None for _ in samples]}


def worded(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "text": "words"}


def of_two_shapes(sample: dict[str, Any]) -> dict[str, Any]:
    """Fails to be like the first one at every fifth sample, each time in another way."""
    x, at = sample["x"], sample["sample_uid"]
    if at % 5 == 4:
        others = [("x", x.expand(3)), ("x", x.long()), ("z", x), ("x", "words")]
        return dict([others[int(at) // 5 % 4]])
    return {"x": x}


def empty_rows(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": sample["x"], "none": torch.ones(0, 2), "count": 3, "pair": (sample["x"], 1.5)}


class Enlarged:
    """Makes samples of many times their size."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {"x": sample["x"][:1].expand(50_000), "first": sample["x"][0]}


class EndsOnce:
    """Ends its process at one sample, the first time."""

    def __init__(self, flag: Path, uid: int) -> None:
        self.flag, self.uid = flag, uid

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if sample["sample_uid"] == self.uid and not self.flag.exists():
            self.flag.touch()
            os._exit(3)
        return sample


class EndsAlways:
    """Ends its process at one sample."""

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.uid in torch.as_tensor(sample["sample_uid"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return sample


class WaitsFor:
    """Holds one sample back until there is a file, so that others come before it."""

    def __init__(self, flag: Path, uid: int) -> None:
        self.flag, self.uid = flag, uid

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        while sample["sample_uid"] == self.uid and not self.flag.exists():
            time.sleep(0.001)
        return sample


class HangsOnce:
    """Takes a minute for one sample, the first time."""

    def __init__(self, flag: Path, uid: int) -> None:
        self.flag, self.uid = flag, uid

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if sample["sample_uid"] == self.uid and not self.flag.exists():
            self.flag.touch()
            time.sleep(60)
        return sample


class NoStart:
    """Cannot be made in another process."""

    def __call__(self, sample: Any) -> Any:
        return sample

    def __reduce__(self) -> Any:
        return os._exit, (7,)


def slept() -> Any:
    time.sleep(60)
    return same


class StartsLate:
    """Takes a minute to be made in another process."""

    def __call__(self, sample: Any) -> Any:
        return sample

    def __reduce__(self) -> Any:
        return slept, ()


def made_in_a_worker() -> Any:
    if multiprocessing.parent_process() is None:
        raise RuntimeError("only in a worker")
    return OfWorkers()


class OfWorkers:
    """Cannot be made again in the process that gives the tasks."""

    def __reduce__(self) -> Any:
        return made_in_a_worker, ()


def of_workers(samples: list[Any]) -> Any:
    return {"x": torch.zeros(len(samples)), "what": [OfWorkers() for _ in samples]}
