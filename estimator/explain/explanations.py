"""What the methods say of some samples, and what the net answers to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from estimator.explain import methods
from estimator.explain.drawing import is_picture
from estimator.explain.kept import Kept, KeptSample, inputs_of
from estimator.explain.methods import Attribution
from estimator.explain.question import Question
from estimator.explain.undisturbed import original, undisturbed
from estimator.handlers._sample_rows import class_name, in_words
from estimator.handlers.base import DataError

METHODS: dict[str, Callable[..., Attribution]] = {
    "grad_cam": methods.grad_cam,
    "integrated_gradients": methods.integrated_gradients,
    "guided_backpropagation": methods.guided_backpropagation,
    "occlusion": methods.occlusion,
}
Settings = Mapping[str, Mapping[str, Any]]
_PARTS = 7
"""A window of the occlusion has this part of the side of a picture or of a series."""
_WINDOWS = 256
"""A row of more numbers than these is occluded several at once."""
_LOG = logging.getLogger("estimator")


class Explained(NamedTuple):
    """One sample; values by the name of a feature, all on the host."""

    sample: KeptSample
    facts: dict[str, Any]
    features: dict[str, Tensor]
    maps: dict[str, dict[str, Tensor]]
    """By feature and method."""


class Explanations(NamedTuple):
    """What all methods say."""

    samples: list[Explained]
    refused: dict[str, str]
    """Why a method says nothing, by its name."""


class Asking:
    """Asks a net about samples.

    Args:
        net: The net of the run.
        device: Where it is.
        settings: Arguments of each method, by its name.
        output: Which output is explained; None is the first one that has a target.
        classes: Class names.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, *, settings: Settings,
        output: str | int | None, classes: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self._net, self._device, self._settings = original(net), device, settings
        self._output, self._classes = output, classes
        self.refused: dict[str, str] = {}

    def about(self, kept: Kept) -> Explanations:
        """Explains the samples; what cannot be done is told, and raises nothing."""
        if self._output is None:
            known = {name for sample in kept.samples for name in sample.rows}
            judged = [name for name in kept.outputs if f"target.{name}" in known]
            self._output = next(iter([*judged, *kept.outputs]), None)
        fine: list[KeptSample] = []
        odd: list[Explained] = []
        try:
            for sample in kept.samples:
                reason = self._reason_against(kept, sample)
                if reason:
                    odd.append(Explained(sample, {"not explained": reason}, {}, {}))
                else:
                    fine.append(sample)
            done = self._explained(kept, fine) if fine else []
        # A net is anyone's code, which is called here in another way than the fit did.
        except Exception as error:
            _LOG.debug("The net was not explained.", exc_info=True)
            self.refused["all methods"] = f"{type(error).__name__}: {error}"
            done = []
        found = {id(each.sample): each for each in [*done, *odd]}
        told = [found.get(id(each), Explained(each, {}, {}, {})) for each in kept.samples]
        return Explanations(told, self.refused)

    def _reason_against(self, kept: Kept, sample: KeptSample) -> str:
        """Why a sample cannot be explained; empty where it can."""
        inputs = inputs_of(kept, [sample], self._device)
        with undisturbed(self._net):
            found, errors = self._questions(inputs)
        return "" if found or not errors else errors[0]

    def _questions(self, inputs: Any) -> tuple[dict[str, Question], list[str]]:
        """All inputs that can be explained, and why others cannot.

        Targets that a net gets as a part of its batch may be NaN where they are missing.
        """
        found, errors = {}, []
        for key in Question.features_in(self._net, inputs):
            try:
                found[_name(key)] = Question(
                    self._net, inputs, owner="ExplanationHandler", target=None,
                    output=self._output, feature=key,
                )  # fmt: skip
            except DataError as error:
                errors.append(str(error))
        return found, errors

    def _explained(self, kept: Kept, samples: list[KeptSample]) -> list[Explained]:
        inputs = inputs_of(kept, samples, self._device)
        with undisturbed(self._net):
            asked = self._features(inputs)
            question = next(iter(asked.values()))
            target = _targets(samples, self._output)
            told = _Answers(question, target, self._classes)
            facts = told.facts()
        maps = {
            name: self._attributions(inputs, question, told.columns)
            for name, question in asked.items()
        }
        values = {name: question.shaped(question.values).cpu() for name, question in asked.items()}
        found = []
        for i, sample in enumerate(samples):
            features = {name: value[i] for name, value in values.items()}
            mine = {n: {m: a.values[i].cpu() for m, a in of.items()} for n, of in maps.items()}
            errors = [float(a.error[i]) for a in _all(maps) if a.error is not None]
            told_of = {**facts[i], "completeness error": max(errors)} if errors else facts[i]
            found.append(Explained(sample, told_of, features, mine))
        return found

    def _features(self, inputs: Any) -> dict[str, Question]:
        """The images among the inputs, else all numbers, of those that the answer depends on."""
        asked, _ = self._questions(inputs)
        images = {name: q for name, q in asked.items() if is_picture(q.values)}
        asked = images or asked
        if len(asked) > 1:
            asked = {name: q for name, q in asked.items() if _has_gradient(q)} or asked
        if not asked:
            raise DataError("there is no input of numbers in a floating type, or of bytes")
        return asked

    def _attributions(
        self, inputs: Any, question: Question, columns: Tensor | None
    ) -> dict[str, Attribution]:
        found = {}
        for name, settings in self._settings.items():
            arguments: dict[str, Any] = {"target": columns, **settings}
            if name == "occlusion":
                arguments = {"window": _window(tuple(question.values.shape[1:])), **arguments}
            if name in ("occlusion", "integrated_gradients"):
                arguments = {"baseline": "mean", **arguments}
            try:
                found[name] = METHODS[name](
                    self._net, inputs, output=self._output, feature=question.feature, **arguments
                )
            except Exception as error:
                _LOG.debug("A net was not explained by %s.", name, exc_info=True)
                self.refused[name] = f"{type(error).__name__}: {error}"
        return found


class _Answers:
    """What a net answers to samples, in words."""

    def __init__(
        self, question: Question, target: Tensor | None, classes: Sequence[str] | None
    ) -> None:
        self._question, self._target, self._classes = question, target, classes
        self._wide = question.columns is not None
        whole = target is not None and not target.is_floating_point()
        two = classes is not None and len(classes) == 2
        self._classifies = whole or (classes is not None if self._wide else two)
        if self._wide and target is None:
            self._classifies = True
        self.columns = question.columns
        if self._classifies and not self._wide:
            self.columns = (question.scores > 0).long()

    def facts(self) -> list[dict[str, Any]]:
        """Of each sample: target, prediction and probability, and what is explained."""
        columns, scores = self.columns, self._question.scores
        shares = None
        if self._classifies and columns is not None:
            shares = self._question.shares(columns)
        found: list[dict[str, Any]] = []
        for i in range(len(scores)):
            lines: dict[str, Any] = {}
            if self._target is not None:
                lines["target"] = self._named(self._target[i].cpu())
            if shares is not None and columns is not None:
                lines["prediction"] = self._named(columns[i].cpu())
                lines["probability"] = float(shares[i])
            else:
                lines["prediction"] = float(scores[i])
                if columns is not None:
                    lines["explained"] = f"column {int(columns[i])} of the answer"
            found.append(lines)
        return found

    def _named(self, value: Tensor) -> str:
        name = class_name(value, self._classes)
        return in_words(value) if name is None else name


def _all(maps: Mapping[str, Mapping[str, Attribution]]) -> list[Attribution]:
    return [found for of_feature in maps.values() for found in of_feature.values()]


def _has_gradient(question: Question) -> bool:
    try:
        question.gradient_is_there()
    except DataError:
        return False
    return True


def _targets(samples: Sequence[KeptSample], output: Any) -> Tensor | None:
    rows = {name: [sample.rows[name] for sample in samples] for name in samples[0].rows}
    targets = {name: row for name, row in rows.items() if name.partition(".")[0] == "target"}
    only = next(iter(targets.values())) if len(targets) == 1 else None
    found = targets.get(f"target.{output}", only)
    return None if found is None else torch.stack(found)


def _name(key: Any) -> str:
    return key if isinstance(key, str) else "input" if key is None else f"input.{key}"


def _window(shape: tuple[int, ...]) -> list[int]:
    if len(shape) == 1:
        return [max(1, shape[0] // _WINDOWS)]
    return [max(1, side // _PARTS) for side in shape[1:]]
