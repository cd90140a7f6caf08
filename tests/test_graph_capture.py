"""The recorder of CUDA graphs, on a stand-in for the functions of CUDA that it calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from estimator.engine.capture import CudaRecorder, recorder_for

DEVICE = torch.device("cuda", 0)


class Cuda:
    """Writes down what is called; fails where it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.streams = ["callers"]
        self.stuck = False
        self.fails_at_end = False

    def stream(self, name: str) -> Any:
        cuda = self

        class Stream:
            def __repr__(self) -> str:
                return name

            def wait_stream(self, other: Any) -> None:
                cuda.calls.append(f"{name} waits for {other}")

        return Stream()

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        self.streams.append(str(stream))
        yield
        self.streams.pop()

    @contextlib.contextmanager
    def graph(self, graph: Any, **settings: Any) -> Iterator[None]:
        assert str(settings["stream"]) == self.streams[-1] == "side"
        assert settings["capture_error_mode"] == "thread_local" and settings["pool"] == "pool"
        self.calls.append("begin")
        try:
            yield
        finally:
            if self.fails_at_end:
                self.stuck = True
                raise RuntimeError("capture was invalidated")
            self.calls.append("end")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()

    class Graph:
        def reset(self) -> None:
            made.calls.append("reset")

    class Generator:
        def clone_state(self) -> str:
            return "copy"

        def graphsafe_set_state(self, state: str) -> None:
            assert state == "copy"
            made.stuck = False
            made.calls.append("unstick")

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            made.calls.append(f"mark on {stream}")

        def elapsed_time(self, other: Any) -> float:
            return 1500.0

    def state(*given: Any) -> torch.Tensor:
        if made.stuck:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")
        return torch.zeros(1)

    zeros, empty = torch.zeros, torch.empty
    fakes: dict[str, Any] = {
        "Stream": lambda device: made.stream("side"), "CUDAGraph": Graph, "graph": made.graph,
        "current_stream": lambda device: made.stream("callers"), "stream": made.on,
        "device": lambda device: contextlib.nullcontext(), "graph_pool_handle": lambda: "pool",
        "default_generators": [Generator()], "get_rng_state": state, "set_rng_state": state,
        "synchronize": lambda device: made.calls.append("synchronize"), "Event": Event,
        "current_device": lambda: 0,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))
    monkeypatch.setattr(torch, "empty", lambda *size, device=None: empty(*size))
    return made


def test_a_recording_is_made_on_a_stream_of_its_own(cuda: Cuda) -> None:
    recorder = CudaRecorder(DEVICE)
    seen: list[str] = []
    recorder.record(lambda: seen.append(cuda.streams[-1]), [])
    around = ["side waits for callers", "begin", "end", "callers waits for side"]
    assert seen == ["side"] and cuda.streams == ["callers"]
    assert cuda.calls == around * 2  # the first is what keeps the pool
    recorder.record(lambda: None, [])
    assert cuda.calls == around * 3
    recorder.close()
    recorder.close()
    assert cuda.calls == [*around * 3, "reset"]


@pytest.mark.parametrize("device", [DEVICE, torch.device("cuda")])
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("not permitted"), KeyboardInterrupt()])
def test_a_recording_that_fails_leaves_a_usable_device(
    cuda: Cuda, at_end: bool, device: torch.device, error: BaseException
) -> None:
    recorder = CudaRecorder(device)
    recorder.record(lambda: None, [])
    cuda.fails_at_end = at_end
    cuda.calls.clear()

    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        recorder.record(work, [])
    assert caught.value is error and not cuda.stuck
    assert ("unstick" in cuda.calls) is at_end and "reset" in cuda.calls
    assert "callers waits for side" in cuda.calls
    cuda.fails_at_end = False
    recorder.record(lambda: None, [])


def test_an_error_at_the_end_alone_is_told(cuda: Cuda) -> None:
    cuda.fails_at_end = True
    with pytest.raises(RuntimeError, match="invalidated"):
        CudaRecorder(DEVICE).record(lambda: None, [])


def test_times_are_those_of_the_device(cuda: Cuda) -> None:
    recorder = CudaRecorder(DEVICE)
    pairs = [(recorder.mark(), recorder.mark()) for _ in range(2)]
    assert recorder.seconds(pairs) == [1.5, 1.5]
    assert cuda.calls == ["mark on callers"] * 4 + ["synchronize"]


def test_only_cuda_has_graphs() -> None:
    assert isinstance(recorder_for(DEVICE), CudaRecorder)
    assert recorder_for(torch.device("cpu")) is None
