"""The recorder of the CPU has the rules of a CUDA graph, and shows each way to break them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fake_graph import CaptureError, FakeRecorder
from torch import Tensor, nn


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    for p in net.parameters():
        p.grad = None
    loss: Tensor = net(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_recorded_step_is_the_step_and_recording_computes_nothing() -> None:
    plain, ours = net(), net()
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    mine = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    batches = list(torch.randn(5, 6, 4))
    state = torch.get_rng_state()
    losses = [step(plain, theirs, x) for x in batches]
    torch.set_rng_state(state)
    made = [step(ours, mine, batches[0])]
    x, before = batches[0].clone(), [t.clone() for t in ours.state_dict().values()]
    stream, results = torch.get_rng_state(), []
    recorded = FakeRecorder().record(lambda: results.append(step(ours, mine, x)), [x])
    assert torch.equal(stream, torch.get_rng_state()) and results[0].isnan()
    assert all(map(torch.equal, before, ours.state_dict().values()))
    for batch in batches[1:]:
        x.copy_(batch)
        recorded.replay()
        made.append(results[0].clone())
    assert all(map(torch.equal, made, losses))
    assert all(map(torch.equal, ours.state_dict().values(), plain.state_dict().values()))


def test_dropout_draws_anew_in_each_replay() -> None:
    x, out = torch.ones(64), []
    recorded = FakeRecorder().record(lambda: out.append(F.dropout(x)), [])
    recorded.replay()
    first = out[0].clone()
    recorded.replay()
    assert not torch.equal(first, out[0])


def test_a_stale_input_shows() -> None:
    x, out = torch.ones(3), []
    recorded = FakeRecorder().record(lambda: out.append(x * 2), [x])
    recorded.replay()
    assert out[0].tolist() == [2, 2, 2] and x.isnan().all()
    recorded.replay()
    assert out[0].isnan().all()
    index = torch.zeros(2, dtype=torch.long)
    rows = FakeRecorder().record(lambda: out.append(torch.eye(3)[index]), [index])
    rows.replay()
    assert index.tolist() == [-1, -1]


def test_a_result_of_the_last_replay_does_not_last() -> None:
    x, out = torch.ones(2), []

    def work() -> None:
        out.append(torch.empty(2))
        out.append(x.clone())

    recorded = FakeRecorder(spoils=True).record(work, [])
    recorded.replay()
    assert out[0].isnan().all() and out[1].tolist() == [1, 1]
    x.fill_(5)
    FakeRecorder(spoils=False).record(lambda: None, []).replay()
    assert out[1].tolist() == [1, 1]


def test_a_learning_rate_is_frozen() -> None:
    weight = torch.zeros(1)
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    recorded = FakeRecorder().record(lambda: optimizer.step(), [])
    optimizer.param_groups[0]["lr"] = 100.0
    recorded.replay()
    assert weight.item() == -1


X = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.sum().item(),
        lambda: bool(X.sum() > 1),
        lambda: X[X > 1],
        lambda: X.clone().__setitem__(X > 1, torch.zeros(1)),
        lambda: X.nonzero(),
        lambda: torch.equal(X, X),
        lambda: X * torch.tensor([1.0, 2.0]),
    ],
)
def test_what_a_capture_forbids_is_refused(work: Callable[[], object]) -> None:
    kept, stream = X.clone(), torch.get_rng_state()

    def run() -> None:
        X.add_(torch.rand(2))
        work()

    with pytest.raises(CaptureError):
        FakeRecorder().record(run, [])
    assert torch.equal(X, kept) and torch.equal(stream, torch.get_rng_state())


def test_a_graph_that_was_let_go_is_not_replayed() -> None:
    recorder = FakeRecorder(fails=[None, torch.OutOfMemoryError("full")])
    recorded = recorder.record(lambda: None, [])
    recorded.reset()
    assert (recorder.alive, recorder.replays) == (0, 0)
    with pytest.raises(AssertionError, match="let go"):
        recorded.replay()
    with pytest.raises(torch.OutOfMemoryError):
        recorder.record(lambda: None, [])
