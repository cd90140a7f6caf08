"""One batch on several processes: each computes its share, and the gradient is the global mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from estimator import sharded
from estimator.accumulation import Accumulation
from estimator.dealing import Dealt
from estimator.distributed import World
from estimator.loss_kinds import Count
from estimator.processor import BatchProcessor
from estimator.sampler import Share
from estimator.step import Step, Strategy, check_strategy
from estimator.structure import interleave, without_samples


class SharedAccumulation(Accumulation):
    """Groups whose batches are dealt to several processes.

    torch averages gradients over processes, whatever the sizes of their shares. So each share's
    loss is weighed by its items over the mean share of the group's first batch, and the average
    is divided by the weights of all processes: the gradient is that of the mean over all items.

    Args:
        size: Batches a group.
        is_sum: Whether the loss is a sum over the batch and not a mean.
        world: The processes.
    """

    __slots__ = ("device", "mean_share", "world")

    def __init__(self, size: int, *, is_sum: bool, world: World, device: torch.device) -> None:
        super().__init__(size, is_sum=is_sum)
        self.weighs = True
        self.world, self.device = world, device
        self.mean_share = 1.0
        """Samples of the present batch that each process would have if all had as many."""

    def weigh(self, loss: torch.Tensor, count: Count, samples: float) -> torch.Tensor:
        """Takes this process's share of a batch into the group.

        Args:
            loss: The mean loss of the share.
            count: Items it is the mean of; 0 for a share without samples.
            samples: Of the share; the unit of all weights is the mean share.
        """
        return super().weigh(loss, count, self.mean_share)

    def finish(self, parameters: Iterable[torch.Tensor]) -> None:
        """Turns the averaged gradients into those of the group's mean over all processes."""
        parameters = list(parameters)
        if self.is_sum:
            self._divide(1 / self.world.size, parameters)
        else:
            self._divide(self._weight() / self.world.size, parameters)
        self.filled = 0

    def _weight(self) -> torch.Tensor:
        """The weights of all batches of the group, on all processes."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        own = torch.as_tensor(self._total, dtype=dtype, device=self.device)
        return self.world.sum(own) / self._first

    def state_dict(self, parameters: Sequence[torch.Tensor]) -> dict[str, Any] | None:
        """The open group of all processes, as one process would have it."""
        state = super().state_dict(parameters)
        if state is not None:
            share = self.world.size
            total = self._weight() * self._first
            state |= {"first": self._first * share, "total": total}
            own = state["gradients"]
            # What is split has been averaged already.
            state["gradients"] = {
                i: g if sharded.is_part(g) else self.world.sum(g) / share for i, g in own.items()
            }
        return state

    def load_state_dict(
        self, state: Mapping[str, Any] | None, parameters: Sequence[torch.Tensor]
    ) -> None:
        """Takes back what `state_dict` gave, on all processes."""
        if state is not None:
            total = state["total"] if self.world.rank == 0 else 0
            saved = state["gradients"].items()
            gradients = {i: sharded.part_like(g, parameters[i]) for i, g in saved}
            first = state["first"] / self.world.size
            state = {**state, "first": first, "total": total, "gradients": gradients}
        super().load_state_dict(state, parameters)


class SharedStep(Step):
    """The work of one of several processes on its share of a batch.

    A share without samples comes with one sample, which takes part with weight 0, since all
    processes have to compute together; handlers and metrics see arrays without rows.

    Attributes:
        strategy: "ddp" keeps the whole net on each process, "fsdp2" a part of its weights.
        share: The samples of this batch here, and on all processes.
    """

    strategy: Strategy = "ddp"
    share = Share(1, 1)

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.world = self.runtime.world
        self.whole: nn.Module = nn.Identity()
        self.apart: list[torch.Tensor] = []
        self.group_by(1)

    def group_by(self, batches: int) -> None:
        """Lets an optimizer step follow each group of so many batches."""
        device = self.runtime.device
        self.accumulation: SharedAccumulation = SharedAccumulation(
            batches, is_sum=self.is_sum, world=self.runtime.world, device=device
        )

    def spread_by(self, strategy: Strategy | None) -> None:
        """Chooses how several processes train one net."""
        check_strategy(strategy)
        self.strategy = strategy or "ddp"

    def shard(self) -> None:
        """Splits the weights, where the strategy says so."""
        if self.strategy == "fsdp2" and not sharded.is_sharded(self.stats.net):
            self.world.copy_first([*self.stats.net.parameters(), *self.stats.net.buffers()])
            sharded.split(self.stats.net, self.runtime.device, self.world.size)

    def join(self, loss: torch.Tensor) -> None:
        """Makes all processes train the first one's net.

        Args:
            loss: Of a batch for a look, with its graph.
        """
        whole = _Whole(self.processor, self.stats.net)
        of_net = {id(p) for p in whole.parameters()}
        self.apart = [p for p in self.parameters if id(p) not in of_net]
        self.world.copy_first(self.apart)
        self.whole = whole
        if self.strategy == "ddp":
            trained = {p for p in whole.parameters() if p.requires_grad}
            unused = any(self.world.gather(not trained <= set(_reached(loss))))
            self.whole = DistributedDataParallel(
                whole, process_group=self.world.tensors, find_unused_parameters=unused
            )

    def leave(self) -> None:
        """Lets go of what `join` made: it holds on to the group of the processes."""
        self.whole = nn.Identity()

    def settle(self) -> None:
        """Gives the net the first process's buffers: each has seen other samples."""
        self.world.copy_first(self.stats.net.buffers())

    def open(self, batch: Any) -> None:
        """Brings this process's share of a batch to the device."""
        share = None
        if type(batch) is Dealt:
            batch, share = batch
        super().open(batch)
        stats = self.stats
        assert stats.batch_size is not None
        size = self.world.size
        self.share = share or Share(stats.batch_size, stats.batch_size * size)
        if not self.share.here:
            stats.batch_size = 0
        self.samples = self.share.everywhere
        self.accumulation.mean_share = self.samples / size

    def forward(self) -> torch.Tensor:
        """Runs the net and the loss, as one module."""
        stats, group = self.stats, self.accumulation
        if isinstance(self.whole, DistributedDataParallel):
            assert stats.batch_index is not None
            last = stats.batch_index + 1 == stats.batches
            self.whole.require_backward_grad_sync = group.filled + 1 >= group.size or last
        with self.runtime.autocast:
            stats.outputs, result = self.whole(stats.inputs, stats.targets)
        loss = self._keep(result)
        self._hide()
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of this share to those of its group."""
        if self.share.here:
            super().backward(loss)
            return
        if self.accumulation.filled == 0:
            for parameter in self.parameters:
                parameter.grad = None
        self.weight = 0
        nothing = self.accumulation.weigh(loss.nan_to_num(0.0, 0.0, 0.0) * 0, 0, 0)
        self.runtime.backward(nothing)
        self.accumulation.filled += 1
        self.stats.stepped = False

    def finish_gradients(self) -> None:
        """Makes the gradients complete, on all processes, and unscaled."""
        for parameter in self.apart:
            if parameter.grad is not None:
                parameter.grad = self.world.sum(parameter.grad) / self.world.size
        super().finish_gradients()

    def evaluate(self) -> None:
        """Runs the net on this share, and the loss unless this is a prediction."""
        super().evaluate()
        self._hide()

    def _hide(self) -> None:
        """Takes a sample that only keeps the others company out of sight."""
        if self.share.here:
            return
        stats = self.stats
        self.weight = 0
        for name in ("batch", "inputs", "targets", "outputs", "sample_losses"):
            setattr(stats, name, without_samples(getattr(stats, name)))
        stats.uids = None if stats.uids is None else stats.uids[:0]
        if stats.loss is not None:
            stats.loss = torch.zeros_like(stats.loss)
            stats.losses = {name: torch.zeros_like(part) for name, part in stats.losses.items()}

    def in_order(self, outputs: list[Any]) -> list[Any]:
        """The outputs of all processes for each batch, in the order of its samples."""
        return [interleave(parts) for parts in zip(*self.world.gather(outputs), strict=True)]


class _Whole(nn.Module):
    """The net with what a processor does around it, so that all of that is one forward."""

    def __init__(self, processor: BatchProcessor, net: nn.Module) -> None:
        super().__init__()
        self.processor, self.net = processor, net

    def forward(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        outputs = self.processor.forward(inputs)
        return outputs, self.processor.loss(outputs, targets)


def _reached(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """The leaves of a loss's graph."""
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting.extend(following for following, _ in node.next_functions)
