"""Forms of a Trainer, which parameters it trains, clipping, and how runs go on with it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from trainer_runs import Net, assert_same, by_hand, data, pair, run

from estimator import Estimator, Trainer
from estimator.handlers.base import ArgumentError, ArgumentTypeError
from estimator.trainer import named_trainers

FORMS: dict[str, Callable[[Net], Any]] = {
    "name": lambda net: "adam",
    "name in capitals": lambda net: "ADAM",
    "class": lambda net: torch.optim.Adam,
    "instance": lambda net: torch.optim.Adam(net.parameters()),
    "trainer": lambda net: Trainer("Adam"),
    "trainer of a class": lambda net: Trainer(torch.optim.Adam, lr=0.001),
    "trainer of an instance": lambda net: Trainer(torch.optim.Adam(net.parameters())),
    "list": lambda net: ["adam"],
    "tuple": lambda net: (Trainer("adam"),),
    "dict": lambda net: {"all": torch.optim.Adam},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_what_the_optimizer_trains(form: str) -> None:
    net, twin = pair()
    run(net, FORMS[form](net))
    by_hand(twin, [torch.optim.Adam(twin.parameters())])
    assert_same(net, twin)


@pytest.mark.parametrize("trainers", ["adam", Trainer("adam")])
def test_names_of_trainers(trainers: Any) -> None:
    assert list(named_trainers(trainers)) == ["trainer"]
    assert list(named_trainers([trainers, trainers])) == ["0", "1"]
    assert list(named_trainers({"body": trainers})) == ["body"]


PARAMS: dict[str, Callable[[Net], Any]] = {
    "name": lambda net: "head",
    "list of names": lambda net: ["head"],
    "overlapping names": lambda net: ["head", "head"],
    "module": lambda net: net.head,
    "callable": lambda net: lambda n: n.head.parameters(),
    "callable with groups": lambda net: lambda n: [{"params": n.head.parameters()}],
    "list of parameters": lambda net: list(net.head.parameters()),
    "generator": lambda net: net.head.parameters(),
    "named parameters": lambda net: net.head.named_parameters(),
    "groups": lambda net: [{"params": net.head.weight}, {"params": [net.head.bias]}],
    "one group": lambda net: {"params": net.head.parameters()},
}


@pytest.mark.parametrize("form", PARAMS)
def test_every_form_of_params_selects(form: str) -> None:
    net, twin = pair()
    net.body.requires_grad_(False)
    twin.body.requires_grad_(False)
    run(net, Trainer("sgd", lr=0.1, params=PARAMS[form](net)))
    by_hand(twin, [torch.optim.SGD(twin.head.parameters(), lr=0.1)])
    assert_same(net, twin)


def test_all_trainable_parameters_by_default() -> None:
    net = Net()
    net.body.requires_grad_(False)
    stats = run(net, "sgd")
    assert stats.trainers["trainer"].params == list(net.head.parameters())


def test_a_single_tensor_is_one_parameter() -> None:
    net, twin = pair()
    with pytest.warns(UserWarning, match=r"3 parameters of Net .* belong to no trainer"):
        run(net, Trainer("sgd", lr=0.1, params=net.head.weight))
    by_hand(twin, [torch.optim.SGD([twin.head.weight], lr=0.1)])
    assert_same(net, twin)


def test_groups_and_rates_of_a_trainer_stay_the_users() -> None:
    net = Net()
    group = {"params": net.parameters(), "lr": 0.1}
    rate = torch.tensor(0.5)
    spec = Trainer("sgd", params=[group], scheduler=functools.partial(StepLR, step_size=1))
    run(net, spec)
    run(net, Trainer("sgd", lr=rate, scheduler=functools.partial(ExponentialLR, gamma=0.1)))
    assert set(group) == {"params", "lr"} and rate.item() == 0.5
    stats = run(net, spec)
    assert stats.trainers["trainer"].optimizer.param_groups[0]["initial_lr"] == 0.1
    assert stats["lr"] == [0.1]


def test_a_list_of_params_is_read_when_the_trainer_is_made() -> None:
    net = Net()
    names = ["head"]
    spec = Trainer("sgd", params=names)
    names.append("nowhere")
    assert spec.bind("t", net).params == list(net.head.parameters())


def test_two_trainers_train_what_two_optimizers_train() -> None:
    net, twin = pair()
    trainers = {
        "body": Trainer("sgd", lr=0.1, momentum=0.9, params="body"),
        "head": Trainer("adamw", lr=0.01, params="head", weight_decay=0.1),
    }
    run(net, trainers, epochs=3)
    by_hand(
        twin,
        [
            torch.optim.SGD(twin.body.parameters(), lr=0.1, momentum=0.9),
            torch.optim.AdamW(twin.head.parameters(), lr=0.01, weight_decay=0.1),
        ],
        epochs=3,
    )
    assert_same(net, twin)


def test_default_is_sgd_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    net, twin = pair()
    caplog.set_level("INFO", "estimator")
    Estimator(net, nn.CrossEntropyLoss()).fit(data(), epochs=1, device="cpu", progress=False)
    by_hand(twin, [torch.optim.SGD(twin.parameters(), lr=0.001)])
    assert_same(net, twin)
    assert caplog.messages == ["No trainers given: SGD with lr=0.001."]


def test_columns_of_rates() -> None:
    net = Net()
    one = run(net, Trainer("sgd", lr=0.1))
    assert one["lr"] == [0.1] and not any(c.startswith("lr_") for c in one.history.columns)
    groups = [{"params": net.body.parameters(), "lr": 0.3}, {"params": net.head.parameters()}]
    two = run(net, Trainer("sgd", lr=0.1, params=groups))
    assert (two["lr"], two["lr_group0"], two["lr_group1"]) == ([0.3], [0.3], [0.1])
    trainers = {
        "groups": Trainer("sgd", params=[{"params": p, "lr": 0.4} for p in net.body.parameters()]),
        "head": Trainer("sgd", lr=0.2, params="head"),
    }
    several = run(net, trainers)
    assert several["lr"] == several["lr_groups_group0"] == several["lr_groups_group1"] == [0.4]
    assert several["lr_head"] == [0.2]
    assert [c for c in several.history.columns if c.startswith("lr")] == [
        "lr", "lr_groups_group0", "lr_groups_group1", "lr_head",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adm",), r"received 'adm'\. Did you mean 'adam'"),
        ((torch.optim.LBFGS,), "received LBFGS"),
        (("lbfgs",), "Choose a first-order optimizer"),
        ((torch.optim.SGD(nn.Linear(1, 1).parameters()), {"lr": 0.1}), "lr would have no effect"),
        (
            (torch.optim.SGD(nn.Linear(1, 1).parameters()), {"params": "head"}),
            "params would have no effect",
        ),
        (("adam", {"clip_norm": 0}), r"clip_norm=\.\.\.\) must be above 0; received 0"),
        (("adam", {"clip_value": -1.0}), r"clip_value=\.\.\.\) must be above 0; received -1.0"),
        (("adam", {"clip_norm": float("nan")}), "must be above 0; received nan"),
        (("adam", {"step": "batch"}), "must be 'auto', 'step' or 'epoch'; received 'batch'"),
        (("adam", {"step": "step"}), r"Trainer\(step=\.\.\.\) has no effect without a scheduler"),
        (("adam", {"monitor": "val_loss"}), r"Trainer\(monitor=\.\.\.\) has no effect without"),
    ],
)
def test_a_trainer_refuses(arguments: tuple[Any, ...], message: str) -> None:
    optimizer, options = arguments[0], arguments[1] if len(arguments) > 1 else {}
    with pytest.raises(ArgumentError, match=message):
        Trainer(optimizer, **options)


@pytest.mark.parametrize("wrong", [3, nn.Linear, None, torch.optim.Optimizer])
def test_a_trainer_of_something_else(wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be a name such as 'adam'.*received"):
        Trainer(wrong)


@pytest.mark.parametrize(
    ("trainers", "message"),
    [
        ([], r"must hold at least one trainer; received \[\]"),
        (Trainer("adam", learning_rate=1.0), r"Trainer\(Adam, \.\.\.\) could not be built with"),
        (Trainer("adam", lr=-1.0), "Invalid learning rate"),
        (Trainer("sgd", params="haed"), r"received 'haed'\. Did you mean 'head'"),
        (Trainer("sgd", params=["head", ""]), "must name a submodule of Net; received ''"),
        (Trainer("sgd", params=[]), r"must select at least one parameter; \[\] selects none"),
        (Trainer("sgd", params=lambda net: None), "must select at least one parameter"),
        (Trainer("sgd", params="body.1"), "'body.1' selects none of Net's"),
        ([Trainer("sgd"), Trainer("sgd", params="head")], "'0' and '1' share 'head.weight'"),
        (Trainer("sgd", params=nn.Linear(1, 1)), "'trainer' holds no parameter of this Net"),
    ],
)
def test_a_fit_refuses_trainers(trainers: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(Net(), trainers)


def test_parameters_that_no_trainer_has_are_counted() -> None:
    with pytest.warns(UserWarning, match=r"fit\(trainers=...\): 2 parameters of Net"):
        run(Net(), Trainer("sgd", params="head"))


def test_representations() -> None:
    spec = Trainer("adamw", lr=3e-4, params="head", clip_norm=1.0, weight_decay=0.01)
    assert repr(spec) == (
        "Trainer(AdamW, lr=0.0003, params='head', clip_norm=1.0, weight_decay=0.01)"
    )
    net = Net()
    assert repr(spec.bind("t", net)) == "AdamW(lr=[0.0003])"
    assert repr(Trainer(torch.optim.SGD(net.parameters()))) == "Trainer(SGD)"


def test_state_of_a_bound_trainer_makes_a_round_trip() -> None:
    net, twin = pair()
    spec = Trainer(
        "sgd", lr=0.1, momentum=0.9, scheduler=functools.partial(StepLR, step_size=1, gamma=0.5)
    )
    state = run(net, spec, epochs=2).trainers["trainer"].state_dict()
    fresh = spec.bind("trainer", twin)
    fresh.load_state_dict(copy.deepcopy(state))
    assert fresh.lrs == [0.05] and fresh.optimizer.param_groups[0]["lr"] == 0.025
    assert fresh.scheduler is not None and fresh.scheduler.last_epoch == 2
    momentum = [fresh.optimizer.state[p]["momentum_buffer"] for p in twin.parameters()]
    assert all(m.abs().sum() > 0 for m in momentum)
    plain = Trainer("sgd").bind("trainer", twin)
    assert plain.state_dict()["scheduler"] is None
    plain.load_state_dict(plain.state_dict())
