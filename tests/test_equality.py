"""`fit` computes what a plain loop computes, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from estimator import Estimator, Trainer
from estimator.handlers import EventHandler

EPOCHS = 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.kind, self.size = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.body(x).relu()
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


def batches(seed: int, samples: int = 50, size: int = 8) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    y = torch.randint(3, (samples,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)


def two_targets(loader: Iterable[Any]) -> list[Any]:
    return [(x, {"kind": y, "size": x[:, :1]}) for x, y in loader]


def weights_after_fit(net: nn.Module, loader: Any, loss: Any, **arguments: Any) -> dict[str, Any]:
    torch.manual_seed(7)
    est = Estimator(net, loss, metrics=arguments.pop("metrics", ["accuracy"]))
    est.fit(loader, epochs=EPOCHS, device="cpu", progress=False, **arguments)
    return net.state_dict()


def assert_equal(ours: dict[str, Any], plain: dict[str, Any]) -> None:
    assert list(ours) == list(plain)
    for name in plain:
        assert torch.equal(ours[name], plain[name]), name


@pytest.mark.parametrize("make", [mlp, cnn])
def test_mlp_and_cnn_with_batchnorm_and_dropout(make: Callable[[], nn.Module]) -> None:
    net = make()
    twin = copy.deepcopy(net)
    ours = weights_after_fit(
        net, batches(1), nn.CrossEntropyLoss(), trainers=Trainer("adam", lr=0.01)
    )

    torch.manual_seed(7)
    twin.train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    loader = batches(1)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
    assert_equal(ours, twin.state_dict())


def test_validation_between_epochs_changes_nothing() -> None:
    net = cnn()
    twin = copy.deepcopy(net)
    arguments: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(),
        "trainers": Trainer("adam", lr=0.01),
    }
    plain = weights_after_fit(twin, batches(1), **arguments)
    # A DataLoader draws one number when it is gone through, in a plain loop as here.
    validated = weights_after_fit(net, batches(1), val=list(batches(2)), **arguments)
    assert_equal(validated, plain)


def test_validation_loader_draws_what_a_plain_loop_draws() -> None:
    net = cnn()
    twin = copy.deepcopy(net)
    val = DataLoader(TensorDataset(torch.randn(10, 6), torch.zeros(10).long()), batch_size=4)
    ours = weights_after_fit(
        net, batches(1), nn.CrossEntropyLoss(), val=val, trainers=Trainer("sgd", lr=0.1)
    )

    torch.manual_seed(7)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    loader = batches(1)
    for _ in range(EPOCHS):
        twin.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
        twin.eval()
        with torch.no_grad():
            for x, _ in val:
                twin(x)
    assert_equal(ours, twin.state_dict())


def test_two_outputs() -> None:
    net = TwoHeads()
    twin = copy.deepcopy(net)
    data = two_targets(batches(3))
    loss = {"kind": nn.CrossEntropyLoss(), "size": (nn.MSELoss(), 0.5)}
    ours = weights_after_fit(
        net, data, loss, metrics={"kind": "accuracy"}, trainers=Trainer("sgd", lr=0.1, momentum=0.9)
    )

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for x, y in data:
            optimizer.zero_grad()
            out = twin(x)
            total = nn.functional.cross_entropy(out["kind"], y["kind"])
            total = total + nn.functional.mse_loss(out["size"], y["size"]) * 0.5
            total.backward()
            optimizer.step()
    assert_equal(ours, twin.state_dict())


def test_accumulation_of_three() -> None:
    net = mlp()
    twin = copy.deepcopy(net)
    loader = list(batches(4, samples=72))
    ours = weights_after_fit(
        net, loader, nn.CrossEntropyLoss(), accumulate=3, trainers=Trainer("sgd", lr=0.1)
    )

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        for start in range(0, len(loader), 3):
            optimizer.zero_grad()
            for x, y in loader[start : start + 3]:
                nn.functional.cross_entropy(twin(x), y).backward()
            for p in twin.parameters():
                assert p.grad is not None
                p.grad.div_(3.0)
            optimizer.step()
    assert_equal(ours, twin.state_dict())


def test_scheduler_per_step() -> None:
    net = mlp()
    twin = copy.deepcopy(net)
    loader = batches(5)
    steps = EPOCHS * len(loader)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.OneCycleLR:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)

    trainer = Trainer("adamw", lr=0.01, scheduler=schedule)
    ours = weights_after_fit(net, loader, nn.CrossEntropyLoss(), trainers=trainer)

    torch.manual_seed(7)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01)
    scheduler = schedule(optimizer)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
            scheduler.step()
    assert_equal(ours, twin.state_dict())


def test_a_handler_less_changes_nothing_of_the_rest() -> None:
    class Idle(EventHandler):
        pass

    net = cnn()
    twin = copy.deepcopy(net)
    arguments: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "trainers": "sgd"}
    ours = weights_after_fit(net, batches(6), handlers=[Idle(), Idle()], **arguments)
    assert_equal(ours, weights_after_fit(twin, batches(6), **arguments))
