"""`Runtime`: the device and the arithmetic of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from estimator.distributed import ALONE, World, own_index
from estimator.handlers.base import ArgumentError, nearest
from estimator.meter import LossMeter
from estimator.metrics import MetricSet
from estimator.trainer import BoundTrainer

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(device: str | int | torch.device | None) -> torch.device:
    """The device to run on: the accelerator if there is one, else the CPU.

    Of several processes each takes the accelerator of its number on the machine, unless `device`
    has a number itself.

    Raises:
        ArgumentError: The device is not there, or there are several in a list.
    """
    if isinstance(device, (list, tuple)):
        raise ArgumentError(
            f"fit(device=...) must be one device; received {device!r}. To train on several, start "
            "a process for each, as in: torchrun --nproc-per-node "
            f"{max(len(device), 1)} your_script.py, with device=None in the script."
        )
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else own_index(accelerator)
    try:
        found = own_index(torch.device(device))
        torch.empty(0, device=found)
        if found.type == "meta":
            raise RuntimeError("the meta device holds no values")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        there = ["cpu"]
        if accelerator is not None:
            count = torch.accelerator.device_count()
            there += [f"{accelerator.type}:{i}" for i in range(count)]
        raise ArgumentError(
            f"device must be one that this machine has; received {device!r}. "
            f"{nearest(str(device), there)}"
        ) from error
    return found


def move(value: Any, device: torch.device) -> Any:
    """Brings a batch to a device: tensors, NumPy arrays, and nested tuples, lists and dicts.

    Anything else that has a method `to` is asked to move itself; the rest stays as it is.
    NumPy's float64 becomes the default dtype, since nets are of that.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "to"):  # before its parts: it may be a tuple or a mapping with more to it
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [move(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [move(item, device) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return array_tensor(value).to(device)
    return value


def array_tensor(array: Any) -> torch.Tensor:
    """A tensor of a NumPy array; float64 becomes torch's default dtype."""
    array = np.asarray(array)
    tensor = torch.as_tensor(array.copy() if not array.flags.writeable else array)
    return tensor.to(torch.get_default_dtype()) if array.dtype == np.float64 else tensor


def detach(value: Any) -> Any:
    """The same nested structure without gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: detach(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [detach(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class Runtime:
    """Where and how a step is computed, in few methods; the loop knows of no device.

    Args:
        device: Where the net is.
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and a gradient scaler).
        world: The processes that compute together.

    Raises:
        ArgumentError: An unknown precision, or one that the device has not.
    """

    def __init__(
        self, device: torch.device, precision: Precision | None = None, world: World = ALONE
    ) -> None:
        precision = "fp32" if precision is None else precision
        if precision not in _DTYPES:
            raise ArgumentError(
                f"fit(precision=...) must be 'fp32', 'bf16' or 'fp16'; received {precision!r}. "
                f"{nearest(str(precision), _DTYPES)}"
            )
        self.device = device
        self.precision = precision
        self.world = world
        self.autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.scaler: torch.amp.GradScaler | None = None
        if precision != "fp32":
            self._probe(_DTYPES[precision])
            self.autocast = torch.autocast(device.type, dtype=_DTYPES[precision])
        if precision == "fp16":
            self.scaler = torch.amp.GradScaler(device.type)

    def _probe(self, dtype: torch.dtype) -> None:
        try:
            with torch.autocast(self.device.type, dtype=dtype), torch.no_grad():
                ones = torch.ones(8, 8, device=self.device)
                ok = bool(((ones @ ones) == 8).all())
        except RuntimeError:
            ok = False
        if not ok:
            raise ArgumentError(
                f"fit(precision={self.precision!r}) must be one that the device computes; "
                f"received device {str(self.device)!r}, which does not. Use 'bf16' or 'fp32'."
            )

    def move(self, value: Any) -> Any:
        """Brings a batch to the device."""
        if isinstance(value, torch.Tensor):
            return value.to(self.device, non_blocking=True)
        return move(value, self.device)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a loss, scaled where the precision needs it."""
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()

    def unscale(self, trainers: Iterable[BoundTrainer]) -> None:
        """Takes the scale out of the gradients, before anyone looks at them."""
        if self.scaler is not None:
            for trainer in _with_gradients(trainers):
                self.scaler.unscale_(trainer.optimizer)

    def step(self, trainers: Sequence[BoundTrainer]) -> bool:
        """Lets all optimizers step.

        Returns:
            Whether the weights moved; False when fp16 found an overflow and left the step out.
        """
        if self.scaler is None:
            for trainer in trainers:
                trainer.step()
            return True
        used = _with_gradients(trainers)
        if not used:
            return True
        before = self.scaler.get_scale()
        for trainer in used:
            self.scaler.step(trainer.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def prepare(self, net: nn.Module, trainers: Iterable[BoundTrainer] = ()) -> None:
        """Moves a net, and the state of optimizers that were made elsewhere, to the device."""
        net.to(self.device)
        for trainer in trainers:
            for parameter, state in trainer.optimizer.state.items():
                for key, value in state.items():
                    # Adam keeps its step counter on the CPU on purpose.
                    if isinstance(value, torch.Tensor) and value.ndim:
                        state[key] = value.to(parameter.device)

    def read(self, meter: LossMeter, metrics: MetricSet) -> dict[str, float]:
        """The mean losses and the metrics over all batches, of all processes, in one transfer."""
        if self.world.size > 1:
            cpu = torch.device("cpu")
            states = move((meter.state_dict(), metrics.state_dict()), cpu)
            meters, sets = zip(*self.world.gather(states), strict=True)
            meter, metrics = LossMeter(cpu), metrics.copy()
            meter.merge(meters)
            metrics.merge(sets)
        return self.host(meter.means() | metrics.compute())

    def host(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Reads named 0-d tensors in one transfer."""
        if not values:
            return {}
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        stacked = torch.stack([v.detach().to(self.device, dtype) for v in values.values()])
        return dict(zip(values, stacked.tolist(), strict=True))


def _with_gradients(trainers: Iterable[BoundTrainer]) -> list[BoundTrainer]:
    """Those that a scaler can serve: it refuses to step where it saw no gradient."""
    return [t for t in trainers if any(p.grad is not None for p in t.params)]
