"""Every exported handler keeps the contract, and a handler that breaks a rule is found out."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import broken_handlers as broken
import numpy as np
import pytest
import torch
from handler_makers import MAKE, Make
from picture_runs import OF_PICTURES

from estimator import handlers
from estimator.handlers import EventHandler
from estimator.testing import HandlerContract
from estimator.testing._watch import counted_reads, difference

SETTINGS: dict[tuple[str, int], dict[str, Any]] = {
    ("CutMixHandler", 0): {"changes_training": True, **OF_PICTURES},
    ("CheckpointHandler", 1): {"needs_validation": True},
    ("EMAHandler", 0): {"changes_validation": True},
    **{(name, 0): {"changes_training": True} for name in ("AugmentHandler", "MixUpHandler")},
    # The best weights are put back at the end.
    ("EarlyStoppingHandler", 1): {"needs_validation": True, "changes_training": True},
}
EXPORTED = [
    name
    for name in handlers.__all__
    if inspect.isclass(found := getattr(handlers, name))
    and issubclass(found, EventHandler)
    and found is not EventHandler
]
CASES = [(name, number) for name, makers in MAKE.items() for number in range(len(makers))]


def test_every_exported_handler_is_tested(tmp_path: Path) -> None:
    assert sorted(MAKE) == sorted(EXPORTED), "each handler of estimator.handlers is made in MAKE"
    made = {name: {type(make(tmp_path)).__name__ for make in MAKE[name]} for name in MAKE}
    assert made == {name: {name} for name in EXPORTED}


class TestExported(HandlerContract):
    @pytest.fixture(autouse=True, params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
    def choose(self, request: pytest.FixtureRequest) -> None:
        name, number = request.param
        self._make: Make = MAKE[name][number]
        for setting, value in SETTINGS.get(request.param, {}).items():
            setattr(self, setting, value)

    def make(self, folder: Path) -> EventHandler:
        return self._make(folder)


class Plain(EventHandler):
    """Does nothing, and so breaks no rule."""


RULES = [name for name in dir(HandlerContract) if name.startswith("test_")]


def breach(make: Make, rule: str, folder: Path, **settings: Any) -> str:
    """What the contract says of a handler that breaks a rule; empty where it keeps the rule."""
    contract = type("Contract", (HandlerContract,), {**settings, "make": lambda _, f: make(f)})()
    folder.mkdir(exist_ok=True)
    try:
        getattr(contract, rule)(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("rule", RULES)
def test_a_handler_that_does_nothing_keeps_each_rule(rule: str, tmp_path: Path) -> None:
    assert breach(lambda folder: Plain(), rule, tmp_path) == ""


@pytest.fixture
def cleaned_up() -> Iterator[None]:
    """Ends what bad handlers leave behind."""
    yield
    while broken.OPEN:
        broken.OPEN.pop().close()
    while broken.RUNNING:
        thread, end = broken.RUNNING.pop()
        end.set()
        thread.join()


def bad(rule: str, make: Make, *words: str) -> Any:
    """A case: the rule that is broken, who breaks it, and what the message has to say."""
    return pytest.param(f"test_{rule}", make, words, id=f"{rule}-{words[0]}")


BROKEN = [
    bad("builds", lambda folder: Plain, "the class Plain", "Call it"),  # type: ignore[arg-type, return-value]  # a class on purpose
    bad("builds", lambda folder: broken.Misspelt(), "on_epoch_end", "Rename it to epoch_end"),
    bad("builds", broken.EagerFile, "made ['log.txt']", "from train_begin on"),
    bad("repr_is_one_line_with_the_class", lambda folder: broken.LongRepr(), "one line"),
    bad("repr_is_one_line_with_the_class", lambda folder: broken.OtherRepr(), "class OtherRepr"),
    bad("events_take_one_argument", lambda folder: broken.TwoArguments(), "epoch_end", "net"),
    bad("pickles", lambda folder: broken.KeepsLambda(), "before a fit", "lambda"),
    bad("pickles", lambda folder: broken.KeepsLock(), "after a fit", "lock"),
    bad("pickles", lambda folder: broken.LosesItsStep(), "a pickled copy", "'LosesItsStep'"),
    bad("state_round_trip", broken.State, "weights_only=True", "PosixPath"),
    bad("state_round_trip", lambda folder: broken.StateInRun(), "it holds", "Path"),
    bad("state_round_trip", lambda folder: broken.ForgetsState(), "['value']: 0, expected 1"),
    bad("state_round_trip", lambda folder: broken.TakesAnyState(), "refuse names"),
    bad(
        "goes_on_inside_an_epoch",
        lambda folder: broken.CountsCutEpochs(),
        "stopped in an epoch",
        "['value']: 3, expected 2",
    ),
    bad("goes_on_inside_an_epoch", lambda folder: broken.DrawsFromItsOwnStream(), "weights"),
    bad("goes_on_inside_an_epoch", lambda folder: broken.StopsAtOnce(), "as far as its stop"),
    bad("goes_on_after_an_epoch", lambda folder: broken.ForgetsState(), "['value']: 1, expected 2"),
    bad("goes_on_after_an_epoch", broken.State, "may hold only tensors", "PosixPath"),
    bad(
        "goes_on_after_a_validation_that_was_given_up",
        lambda folder: broken.CountsGivenUpValidations(),
        "stopped in validation 1",
        "['value']: 3, expected 2",
    ),
    bad(
        "goes_on_after_a_validation_that_was_given_up",
        lambda folder: broken.ReadsValidation(),
        "KeyError: 'loss'",
    ),
    bad("survives_a_validation_without_batches", lambda folder: broken.ReadsValidation(), "loss"),
    bad(
        "survives_a_validation_without_batches",
        lambda folder: broken.RefusesEmptyValidation(),
        "must end as it does without it",
        "no batch",
    ),
    bad("survives_a_run_without_validation", lambda folder: broken.ReadsHistory(), "val_loss"),
    bad("survives_an_epoch_of_one_short_batch", lambda folder: broken.ReadsThirdSample(), "index"),
    bad("survives_a_stop_in_a_batch", lambda folder: broken.ReadsHistory(), "val_loss"),
    bad("survives_a_stop_in_a_batch", lambda folder: broken.IgnoresStop(), "stop at step 2"),
    *(
        bad(
            "survives_an_exception",
            partial(broken.RaisesAfterError, event),
            where,
            "a second one",
        )
        for event, where in [
            ("error", "before its train_begin"),
            ("batch_end", "in a batch of training"),
            ("validation_end", "in a batch of validation"),
            ("epoch_end", "in a batch of training"),
        ]
    ),
    bad("survives_an_exception", lambda folder: broken.NeedsTrainBegin(), "no attribute 'steps'"),
    bad("survives_an_exception", lambda folder: broken.BrokenForGood(), "still broken"),
    bad("survives_an_exception", lambda folder: broken.StopsAtOnce(), "as far as forward_end"),
    bad("serves_evaluate_and_predict", lambda folder: broken.CountsFromTrainBegin(), "validations"),
    bad(
        "serves_evaluate_and_predict", lambda folder: broken.DoublesOutputs(), "before a fit", "[1]"
    ),
    bad("serves_a_second_fit", lambda folder: broken.CountsForever(), "served before", "stopped"),
    bad(
        "reads_no_tensor_in_a_batch",
        lambda folder: broken.ReadsLoss(),
        "up to the batch_end",
        "__float__ at",
        "broken_handlers.py",
    ),
    bad(
        "reads_no_tensor_in_a_batch",
        lambda folder: broken.ReadsValidationLoss(),
        "up to the validation_batch_end",
        "item at",
        "broken_handlers.py",
    ),
    bad("leaves_no_hook", lambda folder: broken.LeavesHook(), "_forward_hooks"),
    bad("leaves_no_hook", lambda folder: broken.LeavesBackwardHook(), "1._backward_hooks"),
    bad("leaves_no_hook", lambda folder: broken.LeavesTensorHook(), "0.weight._backward_hooks"),
    bad("leaves_no_hook", lambda folder: broken.LeavesGradHook(), "_post_accumulate_grad_hooks"),
    bad("leaves_no_hook", lambda folder: broken.LeavesAttribute(), "0.weight.seen", ".seen"),
    bad("leaves_no_hook", lambda folder: broken.LeavesHookOnError(), "in a batch of validation"),
    bad("leaves_no_open_file", broken.LeavesFile, "after a run", "left.txt"),
    bad("leaves_no_thread", lambda folder: broken.LeavesThread(), "after a run", "['left']"),
    bad("lets_the_net_go", lambda folder: broken.KeepsNet(), "after a run"),
    bad("lets_the_net_go", lambda folder: broken.KeepsStatsOnError(), "before its train_begin"),
    bad(
        "leaves_training_alone",
        lambda folder: broken.LeavesEvaluationMode(),
        "['modes of the modules at forward_end'][0]['']: False, expected True",
    ),
    bad(
        "leaves_training_alone",
        lambda folder: broken.ValidatesInTrainingMode(),
        "['modes of the modules at validation_batch_end'][0]['']: True, expected False",
    ),
    bad("leaves_training_alone", lambda folder: broken.Freezes(), "requires_grad", "0.weight"),
    bad("leaves_training_alone", lambda folder: broken.MovesStatistics(), "running_mean"),
    bad("leaves_training_alone", lambda folder: broken.ChangesHistory(), "['history'][0]['val"),
    bad("leaves_random_streams_alone", lambda folder: broken.Draws(random.random), "Python's"),
    bad("leaves_random_streams_alone", lambda folder: broken.Draws(np.random.rand), "NumPy's"),
    bad("leaves_random_streams_alone", lambda folder: broken.Draws(lambda: torch.rand(1)), "torch"),
]


@pytest.mark.usefixtures("cleaned_up")
@pytest.mark.parametrize(("rule", "make", "words"), BROKEN)
def test_a_broken_rule_is_named(
    rule: str, make: Make, words: tuple[str, ...], tmp_path: Path
) -> None:
    message = breach(make, rule, tmp_path)
    assert [word for word in words if word not in message] == [], message


def test_each_rule_has_a_handler_that_breaks_it() -> None:
    assert {case.values[0] for case in BROKEN} == set(RULES)


def test_a_contract_says_what_its_handler_is_meant_to_do(tmp_path: Path) -> None:
    def kept(make: Callable[[], EventHandler], rule: str, **settings: Any) -> bool:
        return breach(lambda folder: make(), f"test_{rule}", tmp_path, **settings) == ""

    assert kept(broken.Freezes, "leaves_training_alone", changes_training=True)
    assert kept(broken.DoublesOutputs, "serves_evaluate_and_predict", changes_validation=True)
    assert kept(broken.ChangesHistory, "leaves_training_alone", changes_validation=True)
    assert kept(broken.ReadsLoss, "reads_no_tensor_in_a_batch", reads_per_batch=1)
    assert not kept(broken.ReadsLoss, "reads_no_tensor_in_a_batch", reads_per_batch=0.9)
    assert not kept(Plain, "survives_a_run_without_validation", needs_validation=True)


def test_a_rule_that_raises_a_signal_is_for_the_main_thread(tmp_path: Path) -> None:
    rule = "test_goes_on_after_a_validation_that_was_given_up"
    with ThreadPoolExecutor(1) as pool:
        message = pool.submit(breach, lambda folder: Plain(), rule, tmp_path).result()
    assert message == "RuntimeError: this rule raises a signal: run it in the main thread"


def test_make_is_the_one_method_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="HandlerContract.make must return the handler"):
        HandlerContract().test_builds(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        *map(methodcaller, ("item", "tolist", "cpu", "numpy", "__array__")), np.asarray,
        bool, float, int, lambda t: range(3)[t], lambda t: f"{t:d}", lambda t: 1 if t else 2,
    ],
)  # fmt: skip
def test_each_way_to_read_a_tensor_is_seen(read: Callable[[torch.Tensor], Any]) -> None:
    tensor = torch.tensor(1)
    with counted_reads() as reads:
        read(tensor)
        seen = list(reads)
        torch.stack([tensor, tensor]).sum().add(1).to(torch.float64)
    read(tensor)
    assert reads == seen != []
    assert all("test_handler_contract.py" in line for line in seen)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), ([1], (1,)), ([1], [1, 2]), ({"a": 1}, {"b": 1}), ({"a": 1}, [1]),
        (torch.zeros(2), torch.zeros(2, 1)), (torch.zeros(2), torch.zeros(2).double()),
        (torch.zeros(()), torch.tensor(-0.0)), (torch.zeros(1), 0.0),
    ],
)  # fmt: skip
def test_values_that_differ(one: Any, other: Any) -> None:
    assert difference([0, one], [0, one]) == ""
    assert difference([0, one], [0, other]).startswith("[1]")
    assert difference(other, one) != ""


def test_nan_equals_nan() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    assert difference({"a": float("nan"), "b": nan}, {"a": float("nan"), "b": nan.clone()}) == ""
    assert difference(torch.tensor(True), torch.tensor(True)) == ""


def test_the_suite_can_be_imported_without_pytest() -> None:
    files = list(Path(inspect.getfile(HandlerContract)).parent.glob("*.py"))
    assert len(files) == 5
    lines = [line.split()[:2] for file in files for line in file.read_text("utf-8").splitlines()]
    assert ["from", "pathlib"] in lines
    assert [line for line in lines if line in (["import", "pytest"], ["from", "pytest"])] == []
