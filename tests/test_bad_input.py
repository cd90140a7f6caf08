"""Wrong arguments of Estimator, fit and Trainer: each message says what to do instead."""

from __future__ import annotations

import functools

import pytest
import torch
from bad_calls import Case, X, Y, check_refused, est, fit, net
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from estimator import (
    ArgumentError,
    ArgumentTypeError,
    BatchProcessor,
    DataError,
    Estimator,
    EstimatorError,
    FolderError,
    HandlerError,
    MissingExtraError,
    MonitorError,
    Trainer,
)
from estimator.handlers import every

CE = nn.CrossEntropyLoss()
WHOLE = "must be a whole number"


def two_that_share() -> None:
    module = nn.Linear(4, 3)
    fit(by=est(module), trainers=[Trainer("sgd"), Trainer("adam", params=[module.bias])])


LENGTH: dict[str, Case] = {
    "both": (
        lambda: fit(epochs=1, iterations=2),
        ArgumentError,
        "exactly one of epochs and iterations | received epochs=1 and iterations=2 | Leave one out",
    ),
    **{
        f"epochs={value!r}": (
            functools.partial(fit, epochs=value),
            ArgumentError,
            f"fit(epochs=...) {WHOLE} from 1 up | received {value!r}",
        )
        for value in (0, -1, 1.5, 2.0, "3", True)
    },
    **{
        f"iterations={value!r}": (
            functools.partial(fit, iterations=value),
            ArgumentError,
            f"fit(iterations=...) {WHOLE} from 1 up | received {value!r}",
        )
        for value in (0, -1, 1.5)
    },
    **{
        f"accumulate={value!r}": (
            functools.partial(fit, accumulate=value),
            ArgumentError,
            f"fit(accumulate=...) {WHOLE} of batches from 1 up | received {value!r}",
        )
        for value in (0, -1, 1.5, True)
    },
    **{
        f"batch_size={value!r}": (
            functools.partial(fit, batch_size=value),
            ArgumentError,
            f"fit(batch_size=...) {WHOLE} from 1 up | received {value!r}",
        )
        for value in (0, -1, 2.5)
    },
    "evaluate batch_size": (
        lambda: est().evaluate((X, Y), batch_size=0),
        ArgumentError,
        f"evaluate(batch_size=...) {WHOLE} from 1 up | received 0",
    ),
    "validate a number": (
        lambda: fit(val=(X, Y), validate=5),
        ArgumentTypeError,
        "fit(validate=...) must be an Every | received 5 | every(100) | every(epochs=2)",
    ),
}

PLACE: dict[str, Case] = {
    "precision": (
        lambda: fit(precision="fp8"),
        ArgumentError,
        "fit(precision=...) must be | received 'fp8' | Did you mean | There are: bf16, fp16, fp32",
    ),
    "a device that is not there": (
        lambda: fit(device="cuda:99"),
        ArgumentError,
        "device must be one that this machine has | received 'cuda:99' | There are: cpu",
    ),
    "a device without values": (
        lambda: fit(device="meta"),
        ArgumentError,
        "device must be one that this machine has | received 'meta' | There are: cpu",
    ),
    "no device of torch": (
        lambda: fit(device="cpuu"),
        ArgumentError,
        "device must be one | received 'cpuu' | Did you mean 'cpu'?",
    ),
    "no device at all": (
        lambda: fit(device=3.5),
        ArgumentError,
        "device must be one that this machine has | received 3.5 | There are: cpu",
    ),
}

TRAINERS: dict[str, Case] = {
    "unknown optimizer": (
        lambda: fit(trainers="adamm"),
        ArgumentError,
        "Trainer(optimizer=...) | received 'adamm' | Did you mean 'adam' | There are: adadelta",
    ),
    "no optimizer": (
        lambda: fit(trainers=3),
        ArgumentTypeError,
        "Trainer(optimizer=...) must be a name such as 'adam', a torch.optim class | received 3",
    ),
    "none": (
        lambda: fit(trainers=[]),
        ArgumentError,
        "fit(trainers=...) must hold at least one | received [] | Pass Trainer('adam', lr=1e-3)",
    ),
    "shared parameter": (
        two_that_share,
        ArgumentError,
        "fit(trainers=...): each parameter must belong to one trainer | '0' and '1' share 'bias' "
        "| Give each its own params=",
    ),
    "optimizer of another net": (
        lambda: fit(trainers=torch.optim.SGD(net().parameters(), 0.1)),
        ArgumentError,
        "fit(trainers=...): trainer 'trainer' holds no parameter of this Linear | its 2 parameters "
        "are another net's | Build the optimizer from this net's parameters",
    ),
    "unknown submodule": (
        lambda: fit(by=est(nn.Sequential(net())), trainers=Trainer("sgd", params="00")),
        ArgumentError,
        "Trainer(params=...) must name a submodule of Sequential | received '00' | There are: 0",
    ),
    "no parameter": (
        lambda: fit(trainers=Trainer("sgd", params=[])),
        ArgumentError,
        "Trainer(params=...) must select at least one parameter | [] selects none of Linear's "
        "| Check requires_grad",
    ),
    "unknown option": (
        lambda: fit(trainers=Trainer("sgd", lr=0.1, wd=1)),
        ArgumentError,
        "Trainer(SGD, ...) could not be built | 'wd': 1 | See the arguments of torch.optim.SGD",
    ),
    "scheduler with arguments to come": (
        lambda: fit(trainers=Trainer("sgd", lr=0.1, scheduler=StepLR)),  # type: ignore[arg-type]  # what it is for
        ArgumentError,
        "Trainer(scheduler=...) is called with the optimizer | received <class | step_size "
        "| functools.partial(StepLR, step_size=10)",
    ),
    "monitor that cannot appear": (
        lambda: fit(trainers=Trainer("sgd", lr=0.1, scheduler=ReduceLROnPlateau)),
        MonitorError,
        "Trainer(monitor='val_loss') | no validation data (pass val= to fit) | There are: train_",
    ),
}

PARTS: dict[str, Case] = {
    "net class": (
        lambda: Estimator(nn.Linear, CE),  # type: ignore[arg-type]  # what it is for
        ArgumentTypeError,
        "Estimator(net=...) must be a torch.nn.Module object | received <class 'torch.nn",
    ),
    "loss class": (
        lambda: est(loss=nn.MSELoss),
        ArgumentTypeError,
        "Estimator(loss=...) must be an object | received the class MSELoss | Call it: MSELoss()",
    ),
    "loss class in a list": (
        lambda: est(loss=[CE, nn.MSELoss]),
        ArgumentTypeError,
        "Estimator(loss[1]=...) must be an object | the class MSELoss | Call it: MSELoss()",
    ),
    "loss name": (
        lambda: est(loss="mse"),
        ArgumentTypeError,
        "Estimator(loss=...) must be a callable (outputs, targets) | received 'mse' | Pass",
    ),
    "no losses": (
        lambda: est(loss={}),
        ArgumentError,
        "Estimator(loss=...) must hold at least one loss | received {}",
    ),
    "weight of a loss": (
        lambda: est(loss={"a": (CE, "2")}),
        ArgumentTypeError,
        "Estimator(loss=...): 'a' must be a callable or (callable, weight) | received (Cross",
    ),
    "no loss to train with": (
        lambda: fit(by=est(loss=None)),
        ArgumentError,
        "Estimator(loss=...) is needed to train | received None | Pass a callable",
    ),
    "unknown metric": (
        lambda: est(metrics=["acuracy"]),
        ArgumentError,
        "metrics: | 'acuracy' | Did you mean 'accuracy' | There are: accuracy, auroc",
    ),
    "metric class": (
        lambda: est(metrics=[nn.L1Loss]),
        ArgumentTypeError,
        "metrics: a metric must be an object | received the class L1Loss | Call it: L1Loss()",
    ),
    "no metric": (
        lambda: est(metrics=[3]),
        ArgumentTypeError,
        "metrics: a metric must be a name | received 3 | A name such as 'accuracy'",
    ),
    "no target key": (
        lambda: est(targets=[]),
        ArgumentError,
        "Estimator(targets=...) must be a key or a list of keys | received [] | targets='label'",
    ),
    "processor class": (
        lambda: est(processor=BatchProcessor),
        ArgumentTypeError,
        "Estimator(processor=...) must be a BatchProcessor object | received <class "
        "| Derive from BatchProcessor and pass an instance",
    ),
    "nothing to measure": (
        lambda: est(loss=None).evaluate((X, Y)),
        ArgumentError,
        "evaluate needs something to measure | loss=None and metrics=None | Give it one of them",
    ),
}

CASES = {**LENGTH, **PLACE, **TRAINERS, **PARTS}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_argument_is_explained(case: Case) -> None:
    check_refused(case)


def test_parameters_without_a_trainer_are_counted() -> None:
    first = nn.Linear(4, 4)
    before = first.weight.clone()
    with pytest.warns(UserWarning, match="requires_grad=True belong to no trainer") as seen:
        fit(by=est(nn.Sequential(first, net())), trainers=Trainer("sgd", lr=0.1, params="1"))
    text = str(seen[0].message)
    assert text.startswith("fit(trainers=...): 2 parameters of Sequential")
    assert "Freeze them with requires_grad_(False), or give them a trainer" in text
    assert torch.equal(first.weight, before)


def test_a_schedule_of_validation_without_validation_has_no_effect() -> None:
    text = r"fit\(validate=every\(steps=5\)\) has no effect without validation.*val=None"
    with pytest.warns(UserWarning, match=text):
        fit(validate=every(5))


def test_nothing_is_trained_when_an_argument_is_wrong() -> None:
    module = nn.Linear(4, 3)
    before = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(ArgumentError):
        fit(by=est(module), accumulate=0)
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())


def test_exceptions_can_be_caught_as_those_of_python() -> None:
    family = {
        ArgumentError: ValueError,
        ArgumentTypeError: TypeError,
        MonitorError: ArgumentError,
        FolderError: ArgumentError,
        HandlerError: ArgumentTypeError,
        DataError: ValueError,
        MissingExtraError: ImportError,
    }
    assert all(issubclass(kind, (parent,)) for kind, parent in family.items())
    assert all(issubclass(kind, EstimatorError) for kind in family)
