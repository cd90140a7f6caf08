"""Times slow input pipelines: `python benchmarks/sequences.py --help`."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _workloads import Workload, lenet
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from estimator import Estimator, Trainer
from estimator.processor import UidSample
from estimator.sequences import SequenceArray

WORKERS, REUSE, BATCH, CAPACITY = 2, 4, 64, 1024
WAIT = 0.005
STEPS_GOAL, MAP_GOAL, ACCURACY_GOAL = 3.5, 1.0, 0.5

Sample = tuple[Tensor, Tensor]


class Goal(NamedTuple):
    """What was measured, and what it is to be."""

    name: str
    measured: float
    limit: float

    def row(self) -> str:
        met = "yes" if self.measured >= self.limit else "no"
        return f"| {self.name} | {self.measured:.2f} | {self.limit:.2f} | {met} |"


def shifted(sample: Sample) -> Sample:
    """A random shift by up to two pixels, a random flip and a little noise."""
    x, y = sample
    down, right = torch.randint(-2, 3, (2,)).tolist()
    x = torch.roll(x, (down, right), (1, 2))
    if torch.rand(()) < 0.5:
        x = x.flip(2)
    return x + 0.02 * torch.randn(x.shape), y


def slow(sample: Sample) -> Sample:
    """The same after five milliseconds, as for decoding or for a slow disk."""
    time.sleep(WAIT)
    return shifted(sample)


class Transformed(Dataset[Sample]):
    """What a DataLoader gets the same samples from."""

    def __init__(self, data: TensorDataset, fn: Callable[[Any], Sample]) -> None:
        self.data, self.fn = data, fn

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        return self.fn(self.data[index])


def loader(data: TensorDataset, fn: Callable[[Any], Sample]) -> DataLoader[Sample]:
    return DataLoader(
        Transformed(data, fn), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )


def sequence(data: TensorDataset, batch_size: int = BATCH, seed: int = 0) -> SequenceArray:
    return SequenceArray(tuple(data.tensors), batch_size, shuffle=True, seed=seed, drop_last=True)


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def steps_a_second(batches: Iterable[Any], net: nn.Module, steps: int, before: int) -> float:
    """How fast a plain loop trains on them, after some steps that are not counted."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    began = 0.0
    for number, batch in enumerate(endless(batches)):
        if number == before:
            began = time.perf_counter()
        if number == before + steps:
            break
        x, y = batch.sample if isinstance(batch, UidSample) else batch
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return steps / (time.perf_counter() - began)


def reservoir_part(work: Workload, steps: int, rounds: int) -> dict[str, Any]:
    """Steps a second at 5 ms a sample: a reservoir, and a DataLoader with as many workers."""
    plain = loader(work.train, slow)
    # As many as the samples of a full reservoir last for, which come before its steady state.
    before = min(steps, CAPACITY // 2 * REUSE // BATCH)
    found: dict[str, list[float]] = {"DataLoader": [], "reservoir": []}
    with sequence(work.train).async_reservoir(
        capacity=CAPACITY, workers=WORKERS, max_reuse=REUSE, fn=slow, seed=0
    ) as reservoir:
        for _ in range(rounds):
            found["DataLoader"].append(steps_a_second(plain, work.fresh_net(), steps, 4))
            found["reservoir"].append(
                steps_a_second(reservoir, work.fresh_net(), REUSE * steps, before)
            )
        report = reservoir.report()
    return {**found, "reuse": report.reuse, "report": str(report)}


def map_part(work: Workload, rounds: int) -> dict[str, list[float]]:
    """Samples a second without waiting: a map in order and not, and a DataLoader."""
    found: dict[str, list[float]] = {}
    with (
        sequence(work.train).map(shifted, workers=WORKERS, seed=0) as ordered,
        sequence(work.train).map(shifted, workers=WORKERS, seed=0, ordered=False) as unordered,
    ):
        batches = {
            "DataLoader": loader(work.train, shifted), "map": ordered, "map, unordered": unordered,
        }  # fmt: skip
        for number in range(rounds + 1):
            for name, each in batches.items():
                began = time.perf_counter()
                samples = sum(BATCH for _ in each)
                # Workers start in the first round.
                if number:
                    found.setdefault(name, []).append(samples / (time.perf_counter() - began))
    return found


def accuracy_part(work: Workload, seeds: int, epochs: int) -> dict[str, list[float]]:
    """Accuracy in percent after as many steps of fresh samples, and of ones reused four times."""
    found: dict[str, list[float]] = {"fresh": [], "reservoir": []}
    capacity = min(len(work.train) // 4, 50 * work.batch_size)
    for seed in range(seeds):
        source = sequence(work.train, work.batch_size, seed)
        with (
            source.map(shifted, workers=WORKERS, seed=seed) as fresh,
            # What is reused does not depend on how fast this machine is.
            source.async_reservoir(
                capacity=max(capacity, work.batch_size), workers=WORKERS, max_reuse=REUSE,
                fn=shifted, deterministic=True, seed=seed,
            ) as reservoir,
        ):  # fmt: skip
            for name, data in (("fresh", fresh), ("reservoir", reservoir)):
                found[name].append(accuracy(work, data, epochs, seed))
    return found


def accuracy(work: Workload, data: Any, epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    net = work.fresh_net()
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(data))
    est = Estimator(net, nn.CrossEntropyLoss(), ["accuracy"])
    est.fit(
        data, epochs=epochs, trainers=Trainer(optimizer, scheduler=schedule), device="cpu",
        progress=False,
    )  # fmt: skip
    return 100 * est.evaluate(DataLoader(work.val, 512))["accuracy"]


def goals(numbers: dict[str, Any]) -> list[Goal]:
    median = statistics.median
    found = []
    if "reservoir" in numbers:
        part = numbers["reservoir"]
        ratio = median(part["reservoir"]) / median(part["DataLoader"])
        found.append(Goal("reservoir, steps a second against DataLoader", ratio, STEPS_GOAL))
    if "map" in numbers:
        part = numbers["map"]
        ratio = median(part["map"]) / median(part["DataLoader"])
        found.append(Goal("map, samples a second against DataLoader", ratio, MAP_GOAL))
    if "accuracy" in numbers:
        part = numbers["accuracy"]
        gap = statistics.mean(part["reservoir"]) - statistics.mean(part["fresh"])
        found.append(Goal("accuracy with reuse 4, points beyond fresh", gap, -ACCURACY_GOAL))
    return found


def page(numbers: dict[str, Any]) -> str:
    lines = [
        "# Sequences with workers",
        "",
        f"{WORKERS} workers, batches of {BATCH}, {1000 * WAIT:g} ms a sample for the reservoir. "
        f"Data: {numbers['data']}.",
        "",
        "| part | way | median | least | most |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    units = {"reservoir": "steps/s", "map": "samples/s", "accuracy": "accuracy %"}
    for part, unit in units.items():
        for name, values in numbers.get(part, {}).items():
            if isinstance(values, list):
                low, middle, high = min(values), statistics.median(values), max(values)
                lines.append(f"| {unit} | {name} | {middle:.2f} | {low:.2f} | {high:.2f} |")
    if "reservoir" in numbers:
        lines += ["", "```", numbers["reservoir"]["report"], "```"]
    lines += ["", "| goal | measured | at least | met |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*lines, *(goal.row() for goal in goals(numbers))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument(
        "--parts", nargs="+", default=["reservoir", "map", "accuracy"], help="what is measured"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of reservoir and map")
    parser.add_argument("--steps", type=int, default=40, help="of a DataLoader in each round")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps, options.seeds, options.epochs = 1, 2, 1, 1
    torch.set_num_threads(1)
    work = lenet(8 if options.quick else None)
    small = lenet(8 if options.quick else 128)
    parts: dict[str, Callable[[], Any]] = {
        "reservoir": lambda: reservoir_part(small, options.steps, options.rounds),
        "map": lambda: map_part(small, options.rounds),
        "accuracy": lambda: accuracy_part(work, options.seeds, options.epochs),
    }
    numbers: dict[str, Any] = {"data": work.data}
    numbers |= {name: parts[name]() for name in options.parts}
    numbers["goals"] = [goal._asdict() for goal in goals(numbers)]
    text = page(numbers)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sequences.md").write_text(text + "\n", encoding="utf-8")
    (options.out / "sequences.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
