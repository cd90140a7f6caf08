"""Who is called at an event: bands, marks, handles, and what an idle event costs."""

from __future__ import annotations

from typing import Any

from event_traces import BATCH, BATCHES, Collect, Trace, X, run
from torch import nn

from estimator import Estimator, TrainStats
from estimator.handlers import EVENTS, Band, EventHandler, on


def test_evaluate_and_predict_fire_validation_events() -> None:
    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    trace = Trace()
    with est.add(trace):
        est.evaluate(BATCHES)
        est.predict(X)
    assert trace.text == "V( v v v )V V( v )V"
    est.evaluate(BATCHES)
    assert len(trace.events) == 8


def test_bands_come_before_the_order_of_the_list() -> None:
    order: list[str] = []

    class Named(EventHandler):
        def __init__(self, name: str, band: Band | None = None) -> None:
            super().__init__(band=band)
            self.name = name

        def epoch_begin(self, stats: TrainStats) -> None:
            order.append(self.name)

    names = [
        Named("report", Band.REPORT), Named("persist", Band.PERSIST), Named("first"),
        Named("second"), Named("observe", Band.OBSERVE), Named("prepare", Band.PREPARE),
    ]  # fmt: skip
    run(*names, epochs=1)
    assert order == ["prepare", "observe", "first", "second", "persist", "report"]


def test_on_marks_methods_and_functions() -> None:
    seen: list[Any] = []

    class Marked(EventHandler):
        @on("batch_end", every=2)
        def look(self, stats: TrainStats) -> None:
            seen.append(("method", stats.step))

        @on("epoch_end")
        def close(self, stats: TrainStats) -> None:
            seen.append(("epoch", stats.epoch))

    @on("epoch_end", every=2)
    def function(stats: TrainStats) -> None:
        seen.append(("function", stats.epoch))

    run(Marked(), function)
    assert seen == [
        ("method", 2), ("epoch", 1), ("method", 4), ("method", 6), ("epoch", 2), ("function", 2)
    ]  # fmt: skip


def test_a_mark_on_an_event_method_schedules_it() -> None:
    steps: list[int] = []

    class Scheduled(EventHandler):
        @on("batch_end", every=3)
        def batch_end(self, stats: TrainStats) -> None:
            steps.append(stats.step)

    run(Scheduled())
    assert steps == [3, 6]


def test_the_same_handlers_serve_a_second_fit_and_the_list_is_not_changed() -> None:
    steps: list[int] = []

    @on("batch_end", every=2)
    def look(stats: TrainStats) -> None:
        steps.append(stats.step)

    handlers: list[Any] = [Trace(), look]
    for est in (Estimator(nn.Linear(3, 1), nn.MSELoss()), Estimator(nn.Linear(3, 1), nn.MSELoss())):
        stats = est.fit(
            BATCHES, epochs=2, trainers="sgd", handlers=handlers, device="cpu", progress=False
        )
        assert stats.step == 6
    assert steps == [2, 4, 6] * 2
    assert len(handlers) == 2


def test_a_handler_added_during_a_run_joins_and_leaves_between_two_epochs() -> None:
    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    trace = Trace()
    handles: list[Any] = []

    @on("batch_end")
    def steer(stats: TrainStats) -> None:
        if stats.step == 1:
            handles.append(est.add(trace))
        if stats.step == 5:
            handles[0].remove()
            handles[0].remove()

    est.fit(BATCHES, epochs=3, trainers="sgd", handlers=steer, device="cpu", progress=False)
    assert trace.text == f"T( E( {BATCH} {BATCH} {BATCH} )E )T"


def test_a_handler_removed_before_it_joined_never_runs() -> None:
    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    trace = Trace()

    @on("batch_end", every=1)
    def steer(stats: TrainStats) -> None:
        est.add(trace).remove()

    est.fit(BATCHES, epochs=2, trainers="sgd", handlers=steer, device="cpu", progress=False)
    assert trace.events == []


def test_idle_events_are_empty_tuples() -> None:
    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    est.fit(BATCHES, epochs=1, trainers="sgd", device="cpu", progress=False,
            handlers=[Collect("epoch_end", lambda s: None)])  # fmt: skip
    hooks = est._hooks
    assert hooks is not None
    assert hooks.batch_begin == () and hooks.backward_end == () and len(hooks.batch_end) == 1


def test_plan_shows_who_runs_where() -> None:
    class Mine(EventHandler):
        @on("batch_end", every=100)
        def show(self, stats: TrainStats) -> None: ...

        def epoch_end(self, stats: TrainStats) -> None: ...

    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    est.add(Mine())
    lines = {line.split()[0]: line for line in est.plan().splitlines()}
    assert lines["epoch_end"].split()[1:] == ["Mine"]
    assert "MetricHandler, " in lines["batch_end"] and "every(steps=100)" in lines["batch_end"]
    assert lines["forward_end"].split() == ["forward_end"]
    assert [line.split()[0] for line in est.plan().splitlines() if "·" not in line] == list(EVENTS)


def test_a_handler_that_joins_gets_what_it_needs() -> None:
    class Needy(EventHandler):
        needs = frozenset({"sample_losses"})
        shapes: list[Any] = []

        def batch_end(self, stats: TrainStats) -> None:
            assert stats.sample_losses is not None
            self.shapes.append(tuple(stats.sample_losses.shape))

    est = Estimator(nn.Linear(3, 1), nn.MSELoss())
    needy = Needy()
    first = Collect("batch_end", lambda s: est.add(needy) if s.step == 1 else None)
    est.fit(BATCHES, epochs=2, trainers="sgd", handlers=first, device="cpu", progress=False)
    assert needy.shapes == [(2,)] * 3
