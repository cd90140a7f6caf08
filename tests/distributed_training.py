"""Jobs that one process and two run alike; as a script, it saves what each process has found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distributed_decisions import decisions, errors, own
from distributed_jobs import DOUBLE, RANK, WORLD, Seen, classifier, data, fit, new_net, outcome
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from estimator import Estimator, Trainer
from estimator.handlers import Every, WorstSamplesHandler
from estimator.metrics import FunctionMetric
from estimator.processor import BatchProcessor
from estimator.sampler import ResumableSampler
from estimator.sequences import SequenceArray
from estimator.uids import with_uids

SAMPLER = ResumableSampler(97, 8, seed=3)
"""Made before the processes are joined, as scripts do it."""


def loaders(folder: Path) -> dict[str, Any]:
    """The forms of data, with the samples that this process met."""
    dataset, found = TensorDataset(*data()), {}
    dealt: Any = DistributedSampler(dataset, num_replicas=WORLD, rank=RANK, shuffle=False)
    forms: dict[str, Any] = {
        "resumable": DataLoader(dataset, batch_sampler=SAMPLER),
        "sequential": DataLoader(dataset, batch_size=8, num_workers=1),
        "distributed": DataLoader(dataset, batch_size=8 // WORLD, sampler=dealt),
        "random": DataLoader(dataset, batch_size=8, shuffle=True),
        "dropped": DataLoader(dataset, batch_size=16, drop_last=True),
        "arrays": data(),
        "sequence": SequenceArray(data(), 8, shuffle=True, seed=3),
    }
    for name, form in forms.items():
        seen = Seen()
        loader = with_uids(form) if isinstance(form, DataLoader) else form
        stats = fit(classifier(), loader, handlers=seen, epochs=2)
        found[name] = outcome(stats) | {"train": seen.train, "val": seen.val, "sizes": seen.sizes}
    return found


def matrix(folder: Path) -> dict[str, Any]:
    """Numbers of samples, with and without a short last batch, and two batch sizes."""
    found = {}
    for samples in (96, 97, 101):
        for size in (8, 16):
            est, sets = classifier(metrics=["accuracy", "f1", "top2_accuracy"]), data(samples)
            stats = fit(est, sets, sets, batch_size=size)
            values = {"evaluated": est.evaluate(sets), "predicted": est.predict(sets[0])}
            found[f"{samples}, {size}"] = outcome(stats) | values
    return found


def halved(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets) / 2


def losses(folder: Path) -> dict[str, Any]:
    """Losses that count samples, items or nothing, alone and in groups."""
    x, y = data()
    gaps, hot = y.where(torch.arange(97) % 3 > 0, -100), nn.functional.one_hot(y).to(DOUBLE)
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=DOUBLE)
    cases: dict[str, tuple[Any, Tensor]] = {
        "own": (halved, y),
        "ignoring": (nn.CrossEntropyLoss(), gaps),
        "weighted": (nn.CrossEntropyLoss(weight=weights), y),
        "sum": (nn.CrossEntropyLoss(reduction="sum"), y),
        "elements": (nn.MSELoss(), hot),
    }
    found = {}
    for name, (loss, targets) in cases.items():
        for accumulate in (1, 3):
            rate = 0.01 if name == "sum" else 0.1
            changes = {"accumulate": accumulate, "trainers": Trainer("sgd", lr=rate, clip_norm=5.0)}
            stats = fit(classifier(loss), (x, targets), (x, targets), **changes)
            found[f"{name}, {accumulate}"] = outcome(stats)
    return found


def mean_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets[:, None]).mean()


def metrics(folder: Path) -> dict[str, Any]:
    """Every kind of metric: sums, collected scores, functions and torchmetrics."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

    x, y = data()
    several = [
        *("accuracy", "f1_micro", "perplexity", FunctionMetric(mean_margin)),
        *(MulticlassAccuracy(3), MulticlassAUROC(3)),
    ]
    est = classifier(metrics=several)
    ranked = Estimator(nn.Linear(5, 2).to(DOUBLE), nn.CrossEntropyLoss(), ["auroc", "f1_binary"])
    nn.init.constant_(next(ranked.net.parameters()), 0.1)
    fit(ranked, (x, (y > 0).long()), (x[:33], (y[:33] > 0).long()))
    return {
        "several": outcome(fit(est, validate=Every(steps=5))),
        "after": est.evaluate((x[:9], y[:9])),
        "ranked": ranked.evaluate((x, (y > 0).long())),
    }


class Skips(nn.Module):
    """A net with a weight that no loss depends on, and a method that a processor calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = new_net(), new_net()
        self.statistics = nn.BatchNorm1d(3, dtype=DOUBLE)

    def encoded(self, x: Tensor) -> Tensor:
        result: Tensor = self.used(x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.statistics(self.encoded(x))
        return result


class ByMethod(BatchProcessor):
    def forward(self, inputs: Any) -> Any:
        assert isinstance(self.net, Skips)
        return self.net.encoded(inputs)


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5 + RANK, dtype=DOUBLE))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * self.scale, targets)


def nets(folder: Path) -> dict[str, Any]:
    """Nets that are not all of one forward, and differ between the processes at first."""
    by_method = Estimator(Skips(), nn.CrossEntropyLoss(), processor=ByMethod())
    found = {"method": outcome(fit(by_method))["weights"]}
    loss, net = Scaled(), new_net(seed=RANK)
    trainers = {"net": Trainer("sgd", lr=0.1, params=[*net.parameters(), loss.scale])}
    found["loss"] = outcome(fit(classifier(loss, net), trainers=trainers))["weights"]
    found["loss"]["scale"] = loss.scale.detach()
    skipping = classifier(net=Skips())
    # A batch that leaves a process a single sample has no statistics.
    stats = fit(skipping, batch_size=16, train=data(96))
    buffers = {n: b.clone() for n, b in stats.net.named_buffers()}
    found["statistics"] = buffers | skipping.evaluate(data(33))
    return found


class Images(Dataset[Any]):
    """Samples with noise, so that a copy of a sample can be told from its like."""

    def __len__(self) -> int:
        return 97

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()
        return x[index], y[index]


def worst(folder: Path) -> dict[str, Any]:
    """The samples that the net finds hardest, and the files of them."""
    handler = WorstSamplesHandler(folder / "worst", worst=5)
    x, y = data()
    fit(classifier(), Images(), (x[:33], y[:33]), handlers=handler)
    if RANK:
        return {}
    lists = sorted((folder / "worst").rglob("*.txt"))
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in lists}


JOBS: dict[str, Callable[[Path], dict[str, Any]]] = {
    job.__name__: job for job in (loaders, matrix, losses, metrics, decisions, nets, worst)
}
OF_SEVERAL: dict[str, Callable[[Path], dict[str, Any]]] = {"own": own, "errors": errors}


def main(folder: Path) -> None:
    for name, job in (JOBS | OF_SEVERAL).items():
        torch.save(job(folder), folder / f"{name}_{RANK}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
