"""`Trainer`: an optimizer with its parameters, schedule and clipping."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from estimator.engine.prepared import PreparedStep, prepare
from estimator.handlers.base import ArgumentError, Monitor
from estimator.optimizers import find_optimizer, keep_parameters, select_parameters
from estimator.schedulers import PlateauMonitor, SchedulerSpec, build_scheduler, check_scheduler

if TYPE_CHECKING:
    from estimator.stats import TrainStats

StepUnit = Literal["auto", "step", "epoch"]
OptimizerSpec = str | type[Optimizer] | Optimizer


class Trainer:
    """How a set of parameters is trained.

    A Trainer describes and is never changed by a run. A second `fit` of the same Estimator with
    the same Trainer goes on with the optimizer and scheduler of the first.

    Args:
        optimizer: A name in `torch.optim` ("adam"; case does not matter), a class, or an instance.
        lr: Learning rate; None takes the optimizer's own default.
        params: What it trains: None (all parameters of the net), the name of a submodule or a
            list of such names, a module, a callable `net -> parameters`, or parameters and
            groups as `torch.optim` takes them.
        scheduler: An instance, or a callable `optimizer -> scheduler` such as
            `functools.partial(StepLR, step_size=10)`.
        step: When the scheduler advances: "auto" is per optimizer step for OneCycleLR and
            CyclicLR and per epoch for all others.
        monitor: The value that ReduceLROnPlateau follows, "val_loss" by default.
        clip_norm: Greatest total gradient norm.
        clip_value: Greatest magnitude of a gradient element.
        **options: Further arguments of the optimizer, such as `weight_decay=0.01`.

    Raises:
        ArgumentError: An unknown name, a clip that is not above 0, or an argument that would
            have no effect.
        ArgumentTypeError: `optimizer` or `scheduler` is of a kind that is not understood.

    Example:
        >>> Trainer("adamw", lr=3e-4, weight_decay=0.01, clip_norm=1.0)
        Trainer(AdamW, lr=0.0003, clip_norm=1.0, weight_decay=0.01)
    """

    def __init__(
        self,
        optimizer: OptimizerSpec,
        *,
        lr: float | torch.Tensor | None = None,
        params: Any = None,
        scheduler: SchedulerSpec | None = None,
        step: StepUnit = "auto",
        monitor: str | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        **options: Any,
    ) -> None:
        self.optimizer = (
            optimizer if isinstance(optimizer, Optimizer) else find_optimizer(optimizer)
        )
        kind = self.optimizer if inspect.isclass(self.optimizer) else type(self.optimizer)
        if issubclass(kind, torch.optim.LBFGS):
            raise ArgumentError(
                "Trainer(optimizer=...) must take one step a gradient; received LBFGS, which "
                "evaluates a closure several times a step. Choose a first-order optimizer."
            )
        self.options = options if lr is None else {"lr": lr, **options}
        self.params = keep_parameters(params)
        self.scheduler, self.step, self.monitor = scheduler, step, monitor
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self._check()

    def _check(self) -> None:
        if isinstance(self.optimizer, Optimizer) and (self.options or self.params is not None):
            given = ", ".join([*self.options, *(["params"] if self.params is not None else [])])
            raise ArgumentError(
                f"Trainer(optimizer=<instance>) has its parameters and options already; {given} "
                "would have no effect. Pass the optimizer's class, or leave them out."
            )
        for name in ("clip_norm", "clip_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"Trainer({name}=...) must be above 0; received {value!r}.")
        if self.step not in ("auto", "step", "epoch"):
            raise ArgumentError(
                f"Trainer(step=...) must be 'auto', 'step' or 'epoch'; received {self.step!r}."
            )
        if self.scheduler is None and (self.step != "auto" or self.monitor is not None):
            given = "step" if self.step != "auto" else "monitor"
            raise ArgumentError(
                f"Trainer({given}=...) has no effect without a scheduler; received "
                f"{getattr(self, given)!r}. Pass scheduler=, or leave it out."
            )
        if self.scheduler is not None and not callable(self.scheduler):
            check_scheduler(self.scheduler, self.optimizer)

    def __repr__(self) -> str:
        kind = self.optimizer if inspect.isclass(self.optimizer) else type(self.optimizer)
        shown: dict[str, Any] = {k: v for k, v in self.options.items() if k == "lr"}
        for name in ("params", "scheduler", "monitor", "clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        shown |= {k: v for k, v in self.options.items() if k != "lr"}
        return f"Trainer({', '.join([kind.__name__, *(f'{k}={v!r}' for k, v in shown.items())])})"

    def bind(self, name: str, net: nn.Module) -> BoundTrainer:
        """Builds the optimizer and the scheduler for a net.

        Args:
            name: What columns and messages call this trainer.
            net: The net, already on its device.

        Raises:
            ArgumentError: `params` selects nothing, or the optimizer instance belongs to another
                net, or the optimizer refuses its options.
        """
        if isinstance(self.optimizer, Optimizer):
            return BoundTrainer(name, self, self.optimizer)
        groups = select_parameters(self.params, net)
        # Schedulers write into a rate that is a tensor, and this one is the user's.
        options: dict[str, Any] = {
            k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in self.options.items()
        }
        try:
            optimizer = self.optimizer(groups, **options)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"Trainer({self.optimizer.__name__}, ...) could not be built with "
                f"{self.options!r}: {error}. See the arguments of torch.optim."
                f"{self.optimizer.__name__}."
            ) from error
        return BoundTrainer(name, self, optimizer)


class BoundTrainer:
    """A Trainer's optimizer and scheduler for one net: what handlers find in `stats.trainers`.

    Args:
        name: What columns and messages call it.
        spec: The description.
        optimizer: The optimizer that it drives.
    """

    __slots__ = (
        "_prepared", "_stepped", "_used", "clip_norm", "clip_value", "monitor", "name",
        "optimizer", "params", "per_step", "scheduler",
    )  # fmt: skip

    def __init__(self, name: str, spec: Trainer, optimizer: Optimizer) -> None:
        self.name = name
        self.optimizer = optimizer
        self.params: list[torch.Tensor] = [p for g in optimizer.param_groups for p in g["params"]]
        self.clip_norm, self.clip_value = spec.clip_norm, spec.clip_value
        self.scheduler = build_scheduler(spec.scheduler, optimizer)
        per_step = isinstance(self.scheduler, (OneCycleLR, CyclicLR))
        self.per_step = per_step if spec.step == "auto" else spec.step == "step"
        self.monitor: Monitor | None = None
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if spec.step == "step":
                raise ArgumentError(
                    "Trainer(step='step') does not suit ReduceLROnPlateau, which follows a value "
                    "that is there once a validation. Leave step out."
                )
            mode: Literal["min", "max"] = "max" if self.scheduler.mode == "max" else "min"
            self.monitor = PlateauMonitor(spec.monitor or "val_loss", mode=mode)
        elif spec.monitor is not None:
            raise ArgumentError(
                f"Trainer(monitor={spec.monitor!r}) has an effect on ReduceLROnPlateau only; "
                f"received scheduler {type(self.scheduler).__name__}. Leave monitor out."
            )
        self._used: list[Any] | None = None
        self._stepped = False
        self._prepared: PreparedStep | Literal[False] | None = None

    def __repr__(self) -> str:
        return f"{type(self.optimizer).__name__}(lr={self.lrs})"

    @property
    def lrs(self) -> list[float]:
        """Each parameter group's rate in the last step (before any step: in the next one)."""
        return [float(lr) for lr in (self._rates() if self._used is None else self._used)]

    def _rates(self) -> list[Any]:
        # A rate may be a tensor on the device: a copy does not wait for it, as float() would.
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [lr.clone() if isinstance(lr, torch.Tensor) else lr for lr in rates]

    def clip(self) -> None:
        """Clips the gradients, by value first, then by total norm."""
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.params, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.params, self.clip_norm)

    def step(self) -> None:
        """Lets the optimizer step, by the shortest way that does the same."""
        prepared = self._prepared
        if prepared and prepared.optimizer is self.optimizer and prepared.holds():
            prepared()
            return
        self.optimizer.step()
        if prepared is not False:
            self._prepared = prepare(self.optimizer) or False

    def after_step(self) -> None:
        """Advances a scheduler that counts optimizer steps."""
        self._stepped = True
        if self.per_step and self.scheduler is not None:
            self._used = self._rates()
            self.scheduler.step()
        else:
            self._used = None

    def after_epoch(self) -> None:
        """Advances a scheduler that counts epochs, unless fp16 left out every step of this one."""
        counts_epochs = not self.per_step and self.monitor is None
        if self.scheduler is not None and counts_epochs and self._stepped:
            self._used = self._rates()
            self.scheduler.step()
        self._stepped = False

    def after_value(self, event: str, stats: TrainStats) -> None:
        """Shows a fresh monitored value to ReduceLROnPlateau."""
        if self.monitor is not None and self.monitor.event == event:
            assert isinstance(self.scheduler, ReduceLROnPlateau)
            self._used = self._rates()
            self.scheduler.step(self.monitor.observe(stats))

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's and the scheduler's state, and what the next epoch's end depends on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "used": self._used,
            "stepped": self._stepped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._used, self._stepped = state["used"], state["stepped"]


TrainerSpec = Trainer | str | type[Optimizer] | Optimizer


def named_trainers(
    trainers: TrainerSpec | Iterable[TrainerSpec] | Mapping[str, TrainerSpec],
) -> dict[str, Trainer]:
    """Reads the `trainers` argument of `fit` as Trainers by name.

    A single one is called "trainer", those of a list "0", "1" and so on.

    Raises:
        ArgumentTypeError: Something in it cannot be a Trainer.
    """
    if isinstance(trainers, Mapping):
        named: dict[str, Any] = dict(trainers)
    elif isinstance(trainers, (list, tuple)):
        named = {str(i): spec for i, spec in enumerate(trainers)}
    else:
        named = {"trainer": trainers}
    if not named:
        raise ArgumentError(
            f"fit(trainers=...) must hold at least one trainer; received {trainers!r}. "
            "Pass Trainer('adam', lr=1e-3), for example."
        )
    return {
        str(name): spec if isinstance(spec, Trainer) else Trainer(spec)
        for name, spec in named.items()
    }


def check_disjoint(trainers: Mapping[str, BoundTrainer], net: nn.Module) -> int:
    """Checks which parameters the trainers hold.

    Returns:
        How many trainable parameter tensors of the net no trainer has.

    Raises:
        ArgumentError: Two trainers share a parameter, or a trainer has none of the net's.
    """
    names = {id(p): name for name, p in net.named_parameters()}
    owner: dict[int, str] = {}
    for trainer in trainers.values():
        for p in trainer.params:
            if id(p) in owner:
                raise ArgumentError(
                    f"fit(trainers=...): each parameter must belong to one trainer; "
                    f"{owner[id(p)]!r} and {trainer.name!r} share "
                    f"{names.get(id(p), 'a parameter')!r}. Give each its own params=."
                )
            owner[id(p)] = trainer.name
        if not any(id(p) in names for p in trainer.params):
            raise ArgumentError(
                f"fit(trainers=...): trainer {trainer.name!r} holds no parameter of this "
                f"{type(net).__name__}; its {len(trainer.params)} parameters are another net's. "
                "Build the optimizer from this net's parameters."
            )
    return sum(1 for p in net.parameters() if p.requires_grad and id(p) not in owner)
