"""The same training written by hand: as tutorials do, with care, and as a CUDA graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter, thread_time

import torch
from _engine_workloads import LR, Pair, Workload
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

WARM_STEPS = 3
LOADER_WORKERS = 4

Moment = tuple[float, float]
"""Seconds of (wall clock, CPU)."""


@dataclass
class Moments:
    """When a training was asked for, and when each epoch had trained and had ended."""

    called: Moment = (0.0, 0.0)
    trained: list[Moment] = field(default_factory=list)
    epochs: list[Moment] = field(default_factory=list)
    setup_s: float | None = None
    """What making a faster step took, where that is known."""
    report: str = ""
    """What the engine tells of it."""


def mark(device: str) -> Moment:
    """The present moment, when the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter(), thread_time()


Train = Callable[[Workload, int, Moments], nn.Module]
"""Trains for a number of epochs, notes when what happened, and returns the net."""


def textbook(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    net, loss_of, device = workload.fresh_net(), workload.loss, workload.device
    moments.called = mark(device)
    net.to(device)
    optimizer = Adam(net.parameters(), lr=LR)
    loader = DataLoader(TensorDataset(*workload.train), workload.batch_size, shuffle=True)
    for _ in range(epochs):
        net.train()
        total, correct, samples = 0.0, 0, 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            with workload.autocast():
                outputs = net(x)
                loss = loss_of(outputs, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
            samples += len(y)
        _ = total / samples, correct / samples
        moments.trained.append(mark(device))
        moments.epochs.append(moments.trained[-1])
    return net


def careful(
    workload: Workload, epochs: int, moments: Moments, *, validate: bool = False,
    compiled: bool = False,
) -> nn.Module:  # fmt: skip
    net, loss_of, device = workload.fresh_net(), workload.loss, workload.device
    moments.called = mark(device)
    net.to(device)
    forward = _compiled(net) if compiled else net
    optimizer = Adam(net.parameters(), lr=LR, fused=True)
    steps = workload.steps * epochs
    schedule = CosineAnnealingLR(optimizer, steps) if validate else None
    feed = Feed(workload)
    val = [t.to(device) for t in workload.val] if validate else []
    cast = workload.autocast()
    for _ in range(epochs):
        net.train()
        sums = Sums(device)
        for x, y in feed.epoch():
            optimizer.zero_grad()
            with cast:
                outputs = forward(x)
                loss = loss_of(outputs, y)
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            sums.add(loss.detach(), outputs.detach(), y)
        sums.read(len(workload.train[0]))
        moments.trained.append(mark(device))
        if validate:
            _validate(workload, net, val)
        moments.epochs.append(mark(device))
    if compiled:
        first, *later = (b[0] - a[0] for a, b in _epochs(moments))
        moments.setup_s = first - sum(later) / len(later)
    return net


def _epochs(moments: Moments) -> Iterator[tuple[Moment, Moment]]:
    return itertools.pairwise([moments.called, *moments.epochs])


def _compiled(net: nn.Module) -> nn.Module:
    # What an earlier round compiled must not serve this one.
    torch._dynamo.reset()
    compiled: nn.Module = torch.compile(net)
    return compiled


class Feed:
    """Batches on the device, in the order of a DataLoader with shuffle=True."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.loader: DataLoader[list[Tensor]] | None = None
        if workload.streamed:
            dataset, size = TensorDataset(*workload.train), workload.batch_size
            self.loader = DataLoader(
                dataset, size, shuffle=True, pin_memory=True, num_workers=LOADER_WORKERS,
                persistent_workers=True,
            )  # fmt: skip
        else:
            self.x, self.y = (t.to(workload.device) for t in workload.train)
        self.epochs = 0

    def epoch(self) -> Iterator[Pair]:
        self.epochs += 1
        if self.loader is not None:
            if self.epochs > 1:
                draw()  # workers that stay are not seeded again, as those of other loaders are
            for x, y in self.loader:
                yield tuple(t.to(self.workload.device, non_blocking=True) for t in (x, y))
            return
        x, y = self.x, self.y
        order = epoch_order(len(x)).to(self.workload.device)
        for rows in order.split(self.workload.batch_size):
            yield x.index_select(0, rows), y.index_select(0, rows)


def draw() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


def epoch_order(samples: int) -> Tensor:
    """What a DataLoader with shuffle=True draws, so that all variants see the same batches."""
    draw()  # of its workers, whether or not there are any
    return torch.randperm(samples, generator=torch.Generator().manual_seed(draw()))


class Sums:
    """Mean loss and accuracy, on the device."""

    def __init__(self, device: str) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, outputs: Tensor, y: Tensor) -> None:
        self.loss.add_(loss, alpha=len(y))
        self.correct.add_((outputs.argmax(1) == y).sum())

    def read(self, samples: int) -> tuple[float, float]:
        return self.loss.item() / samples, self.correct.item() / samples

    def clear(self) -> None:
        self.loss.zero_()
        self.correct.zero_()


def _validate(workload: Workload, net: nn.Module, val: list[Tensor]) -> None:
    draw()  # as the loader of a validation does
    net.eval()
    sums = Sums(workload.device)
    size = workload.batch_size
    with torch.no_grad(), workload.autocast():
        for x, y in zip(val[0].split(size), val[1].split(size), strict=True):
            outputs = net(x)
            sums.add(workload.loss(outputs, y), outputs, y)
    sums.read(len(val[0]))


def graphed(workload: Workload, epochs: int, moments: Moments) -> nn.Module:
    """All of a step in one CUDA graph, the gather of its batch too; a step is one replay."""
    net, loss_of, device = workload.fresh_net(), workload.loss, workload.device
    moments.called = mark(device)
    net.to(device).train()
    x, y = (t.to(device) for t in workload.train)
    optimizer = Adam(net.parameters(), lr=LR, fused=True, capturable=True)
    order = torch.zeros(workload.steps, workload.batch_size, dtype=torch.int64, device=device)
    place = torch.zeros(1, dtype=torch.int64, device=device)
    sums, cast = Sums(device), workload.autocast()

    def step() -> None:
        rows = order.index_select(0, place).view(-1)
        targets = y.index_select(0, rows)
        with cast:
            outputs = net(x.index_select(0, rows))
            loss = loss_of(outputs, targets)
        loss.backward()
        optimizer.step()
        sums.add(loss.detach(), outputs.detach(), targets)
        place.add_(1)

    graph: torch.cuda.CUDAGraph | None = None
    for _ in range(epochs):
        order.copy_(epoch_order(len(x)).view_as(order))
        place.zero_()
        sums.clear()
        left = workload.steps
        if graph is None:
            began = mark(device)
            graph = _capture(step, optimizer)
            moments.setup_s = mark(device)[0] - began[0]
            left -= WARM_STEPS
        for _ in range(left):
            graph.replay()
        sums.read(len(x))
        moments.trained.append(mark(device))
        moments.epochs.append(moments.trained[-1])
    return net


def _capture(step: Callable[[], None], optimizer: Adam) -> torch.cuda.CUDAGraph:
    """Warms up with real steps, then writes one down without computing it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_STEPS):
            optimizer.zero_grad()
            step()
        # Gradients that are not there yet are placed in the graph's own memory, and each replay
        # overwrites them.
        optimizer.zero_grad()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph
