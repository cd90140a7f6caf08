"""The prepared optimizer step makes the weights and the state that `Optimizer.step` makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from estimator import Trainer
from estimator.engine import prepared, private
from estimator.engine.prepared import PreparedStep, prepare
from estimator.trainer import BoundTrainer

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(SGD, lr=0.1, fused=True),
    "momentum": partial(SGD, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01, fused=True),
    "nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, maximize=True, fused=True),
    "adam": partial(Adam, lr=0.1, weight_decay=0.01, fused=True),
    "amsgrad": partial(Adam, lr=0.1, amsgrad=True, betas=(0.8, 0.9), fused=True),
    "decoupled": partial(Adam, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, fused=True),
    "adamw": partial(AdamW, lr=0.1, eps=1e-4, fused=True),
}


def new_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def groups(net: nn.Sequential) -> list[dict[str, Any]]:
    return [{"params": net[0].parameters(), "lr": 0.01}, {"params": net[1].parameters()}]


def weight(net: nn.Sequential, layer: int) -> nn.Parameter:
    return net.get_parameter(f"{layer}.weight")


def gradients(*nets: nn.Module) -> None:
    for parameters in zip(*(net.parameters() for net in nets), strict=True):
        gradient = torch.randn_like(parameters[0])
        for p in parameters:
            p.grad = gradient.clone()


def pair(make: Make) -> tuple[nn.Sequential, Optimizer, nn.Sequential, BoundTrainer]:
    """Two equal nets, one with a plain optimizer and one whose trainer may prepare its step."""
    plain, ours = new_net(), new_net()
    return plain, make(groups(plain)), ours, Trainer(make(groups(ours))).bind("ours", ours)


def assert_equal(a: Optimizer, b: Optimizer) -> None:
    weights = zip(a.param_groups, b.param_groups, strict=True)
    for group, other in weights:
        for p, q in zip(group["params"], other["params"], strict=True):
            assert torch.equal(p, q)
            for name, value in a.state[p].items():
                assert value is b.state[q][name] is None or torch.equal(value, b.state[q][name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_equal_while_rates_change_and_states_are_loaded(name: str) -> None:
    plain, optimizer, ours, trainer = pair(OPTIMIZERS[name])
    saved: Any = None
    for number in range(12):
        gradients(plain, ours)
        optimizer.step()
        trainer.step()
        assert isinstance(trainer._prepared, PreparedStep)
        for each in (optimizer, trainer.optimizer):
            each.param_groups[1]["lr"] *= 0.9
        if number == 4:
            saved = copy.deepcopy(trainer.optimizer.state_dict())
        if number == 8:
            for each in (optimizer, trainer.optimizer):
                each.load_state_dict(copy.deepcopy(saved))
        assert_equal(optimizer, trainer.optimizer)


def test_the_kernel_is_what_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, optimizer, ours, trainer = pair(OPTIMIZERS["adam"])
    gradients(plain, ours)
    trainer.step()
    monkeypatch.setattr(type(trainer.optimizer), "step", lambda self: pytest.fail("not prepared"))
    before = weight(ours, 0).detach().clone()
    trainer.step()
    assert not torch.equal(before, weight(ours, 0))


def freeze(optimizer: Optimizer, net: nn.Sequential) -> None:
    net[0].bias.grad = None


def hook(optimizer: Optimizer, net: nn.Sequential) -> None:
    def halve(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)

    optimizer.register_step_pre_hook(halve)


def forget(optimizer: Optimizer, net: nn.Sequential) -> None:
    optimizer.state.clear()


def forget_one(optimizer: Optimizer, net: nn.Sequential) -> None:
    optimizer.state[weight(net, 1)] = {}


def renew_one(optimizer: Optimizer, net: nn.Sequential) -> None:
    state = optimizer.state[weight(net, 1)]
    state["exp_avg_sq"] = torch.ones_like(state["exp_avg_sq"])


def add(optimizer: Optimizer, net: nn.Sequential) -> None:
    extra = nn.Parameter(torch.ones(2))
    extra.grad = torch.ones(2)
    optimizer.add_param_group({"params": [extra]})


def replace(optimizer: Optimizer, net: nn.Sequential) -> None:
    optimizer.param_groups[0] = dict(optimizer.param_groups[0], lr=0.5)


@pytest.mark.parametrize("change", [freeze, hook, forget, forget_one, renew_one, add, replace])
def test_what_is_changed_from_outside_counts(
    change: Callable[[Optimizer, nn.Sequential], None],
) -> None:
    plain, optimizer, ours, trainer = pair(OPTIMIZERS["adam"])
    for number in range(6):
        gradients(plain, ours)
        if number == 3:
            change(optimizer, plain)
            change(trainer.optimizer, ours)
        optimizer.step()
        trainer.step()
        assert_equal(optimizer, trainer.optimizer)


class Mine(SGD):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.fill_(7)


REFUSED: dict[str, Make] = {
    "not fused": partial(SGD, lr=0.1),
    "a rate that is a tensor": partial(Adam, lr=torch.tensor(0.1), fused=True),
    "another class": partial(Mine, lr=0.1, fused=True),
    "another algorithm": partial(torch.optim.Adagrad, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_steps_by_itself(name: str) -> None:
    plain, optimizer, ours, trainer = pair(REFUSED[name])
    for _ in range(3):
        gradients(plain, ours)
        optimizer.step()
        trainer.step()
        assert trainer._prepared is False
        assert_equal(optimizer, trainer.optimizer)


def test_parameters_of_several_types_step_by_themselves() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))]
    optimizer = SGD(parameters, lr=0.1, fused=True)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert prepare(optimizer) is None


def test_a_scheduler_keeps_its_count_of_steps() -> None:
    net = new_net()
    schedule = partial(StepLR, step_size=1, gamma=0.5)
    trainer = Trainer("sgd", lr=0.4, fused=True, scheduler=schedule, step="step").bind("one", net)
    for rate in (0.4, 0.2, 0.1):
        gradients(net)
        assert trainer.optimizer.param_groups[0]["lr"] == rate
        trainer.step()
        trainer.after_step()
    assert isinstance(trainer._prepared, PreparedStep)


def test_a_step_that_was_replaced_is_called() -> None:
    net = new_net()
    optimizer = SGD(net.parameters(), lr=0.1, fused=True)
    vars(optimizer)["step"] = lambda: None
    assert prepare(optimizer) is None


@pytest.fixture
def without_private(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prepared, "fused_kernel", lambda name: None)
    yield


def test_without_private_functions_it_steps_by_itself(without_private: None) -> None:
    plain, optimizer, ours, trainer = pair(OPTIMIZERS["adam"])
    for _ in range(3):
        gradients(plain, ours)
        optimizer.step()
        trainer.step()
    assert_equal(optimizer, trainer.optimizer)
    assert trainer._prepared is False


def test_a_kernel_with_other_arguments_is_not_used() -> None:
    assert private._operator("_fused_sgd_", ("self", "grads")) is None
    assert private._operator("no_such_operator", ()) is None
    assert private.fused_kernel("sgd") is torch._fused_sgd_
