"""The scripts about text: what they learn, what they say of bad files, and their helpers."""

from __future__ import annotations

import gzip
import importlib
import itertools
import os
import random
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from estimator import DataError, Estimator

MODELS = Path(__file__).parents[1] / "tutorials/models"
REAL = os.environ.get("ESTIMATOR_DATA")
QUICK = ["--quick", "--epochs", "6"]
Rows = list[dict[str, Any]]
Run: TypeAlias = "Callable[..., Ended]"
FILLING = ["the", "a", "film", "it", "is", "and", "cliché", "–"]
NOUNS = {"dog": "Hund", "cat": "Kater", "bird": "Vogel", "boy": "Junge", "man": "Mann"}
VERBS = {"sees": "sieht", "finds": "findet", "hears": "hört", "likes": "mag"}
PLACES = {"here": "hier", "there": "dort", "today": "heute", "outside": "draußen"}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(MODELS))
    yield {name: importlib.import_module(name) for name in ("_text", "sentiment", "translation")}
    for name in ("_text", "sentiment", "translation"):
        sys.modules.pop(name)


class Ended(NamedTuple):
    """What a script printed, and the message with which it ended, which is None for a good end."""

    printed: str
    message: str | None


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script in this process, where a warning is an error."""
    monkeypatch.syspath_prepend(str(MODELS))
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)

    def call(script: str, *arguments: str) -> Ended:
        path = str(MODELS / f"{script}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            return Ended(capsys.readouterr().out, str(end.code))
        finally:
            sys.modules.pop("_text", None)
        return Ended(capsys.readouterr().out, None)

    return call


def results(ended: Ended) -> Rows:
    """The table that a script printed, which ended well."""
    assert ended.message is None
    lines = [
        line.strip("| ").split(" | ") for line in ended.printed.splitlines() if line[:1] == "|"
    ]
    found = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return [{k: v if k == "net" else float(v) for k, v in row.items()} for row in found]


def write_reviews(root: Path, each: int = 150) -> Path:
    """Sentences in which one word of many says what they are, in the encoding of the real ones."""
    draw = random.Random(0)
    folder = root / "rt-polarity"
    folder.mkdir(parents=True)
    for name, telling in (("pos", ("superb", "warm")), ("neg", ("dull", "flat"))):
        lines = []
        for _ in range(each):
            tokens = draw.choices(FILLING, k=draw.randint(4, 12))
            tokens.insert(draw.randrange(len(tokens)), draw.choice(telling))
            lines.append(" ".join(tokens))
        (folder / f"rt-polarity.{name}").write_text("\n".join(lines) + "\n", encoding="cp1252")
    return root


def write_pairs(root: Path) -> Path:
    """A small language whose German has the place first and the object before the verb's end."""
    folder = root / "multi30k"
    folder.mkdir(parents=True)
    pairs = [
        (f"A {a} {v} the {b} {p}.", f"{PLACES[p]} {VERBS[v]} ein {NOUNS[a]} den {NOUNS[b]}.")
        for a, v, b, p in itertools.product(NOUNS, VERBS, NOUNS, PLACES)
        if a != b
    ]
    random.Random(0).shuffle(pairs)
    parts = {"train": pairs[60:] * 3, "val": pairs[:30], "test_2016_flickr": pairs[30:60]}
    for part, rows in parts.items():
        for language, sentences in zip(("en", "de"), zip(*rows, strict=True), strict=True):
            with gzip.open(folder / f"{part}.{language}.gz", "wt", encoding="utf-8") as file:
                file.write("\n".join(sentences) + "\n")
    return root


@pytest.fixture
def reviews(tmp_path: Path) -> list[str]:
    """Arguments for the real sentences where they are, else for made-up ones."""
    return ["--data", REAL or str(write_reviews(tmp_path, each=400)), *([] if REAL else QUICK)]


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    """Arguments for the real pairs where they are, else for made-up ones."""
    return ["--data", REAL or str(write_pairs(tmp_path)), *([] if REAL else QUICK)]


def test_sentiment_learns_in_seconds(run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path, each=400)
    rows = results(run("sentiment", "--data", str(data), "--quick", "--seeds", "0"))
    assert [row["net"] for row in rows] == ["TextCNN", "BiRNN"]
    assert all(row["val accuracy"] >= 0.95 for row in rows)
    assert all(row["test accuracy"] >= 0.9 for row in rows)


def test_translation_learns_in_seconds(run: Run, tmp_path: Path) -> None:
    data = write_pairs(tmp_path)
    (row,) = results(
        run("translation", "--data", str(data), "--quick", "--seeds", "0", "--epochs", "8")
    )
    assert row["val loss"] < row["by frequency"] - 1.5
    assert min(row["BLEU with 1"], row["BLEU with 5"]) > 60


def test_sentiment_learns_from_few_real_sentences(run: Run, reviews: list[str]) -> None:
    rows = results(run("sentiment", *reviews, "--quick", "--seeds", "1"))
    assert all(row["val accuracy"] >= 0.65 for row in rows)


def test_translation_learns_from_few_real_pairs(run: Run, pairs: list[str]) -> None:
    (row,) = results(run("translation", *pairs, "--quick", "--seeds", "1"))
    assert row["val loss"] < row["by frequency"] - 1


@pytest.mark.full
def test_sentiment_reaches_its_goal_with_three_seeds(run: Run, reviews: list[str]) -> None:
    rows = results(run("sentiment", *reviews))
    assert [row["seed"] for row in rows] == [0, 1, 2] * 2
    assert all(row["val accuracy"] >= 0.74 for row in rows)


@pytest.mark.full
def test_translation_reaches_its_goal(run: Run, pairs: list[str]) -> None:
    (row,) = results(run("translation", *pairs, "--seeds", "0"))
    assert row["BLEU with 5"] >= 18


@pytest.mark.parametrize("script", ["sentiment", "translation"])
def test_scripts_are_short_and_so_is_the_training_call(script: str) -> None:
    source = (MODELS / f"{script}.py").read_text("utf-8")
    assert len(source.splitlines()) <= 150
    (call,) = re.findall(r"est\.fit\(.*?\)\s*(?:# fmt: skip)?\n", source, re.S)
    assert len(call.strip().splitlines()) <= 6


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"fine \x96 though\n" * 90, ["--encoding", "utf-8"], r"pos: .*'utf-8'; line 1 .*0x96"),
        (b"fine\n" * 90, ["--encoding", "klingon"], r"must be one that Python knows.*'klingon'"),
        (b"", [], r"rt-polarity\.pos: the file must hold lines of text; it is empty"),
        (b"\n" * 90, [], r"both classes need sentences .*the positive one has none"),
    ],
    ids=["other encoding", "unknown encoding", "empty class", "class without words"],
)
def test_a_bad_file_is_told(
    run: Run, tmp_path: Path, content: bytes, arguments: list[str], message: str
) -> None:
    file = write_reviews(tmp_path) / "rt-polarity/rt-polarity.pos"
    file.write_bytes(content)
    (file.parent / "rt-polarity.neg").write_bytes(b"poor\n" * 90)
    done = run("sentiment", "--data", str(tmp_path), "--quick", *arguments)
    assert done.message is not None and re.search(message, done.message), done


@pytest.mark.parametrize("script", ["sentiment", "translation"])
def test_without_data_the_ways_to_name_it_are_told(run: Run, script: str) -> None:
    done = run(script, "--quick")
    assert done.message is not None and "ESTIMATOR_DATA" in done.message


def test_a_missing_part_is_told(run: Run, tmp_path: Path) -> None:
    (write_pairs(tmp_path) / "multi30k/val.de.gz").unlink()
    done = run("translation", "--data", str(tmp_path), "--quick")
    assert done.message is not None and "val.de" in done.message


def test_a_collate_that_returns_nothing_is_told(scripts: dict[str, ModuleType]) -> None:
    net = scripts["translation"].Translator(8, 8, 4)
    est = Estimator(net, torch.nn.CrossEntropyLoss(), processor=scripts["translation"].Teaching())
    rows = [(torch.tensor([4, 5]), torch.tensor([2, 4, 3]))] * 4
    with pytest.raises(DataError, match="received None as a batch.*collate_fn"):
        est.fit(DataLoader(rows, collate_fn=lambda rows: None), progress=False)  # type: ignore[arg-type]  # as a user may


def test_words_and_sentence_are_inverse(scripts: dict[str, ModuleType]) -> None:
    text = scripts["_text"]
    original = "Zwei T-Shirts, draußen: it's fine."
    assert text.words(original) == ["Zwei", "T-Shirts", ",", "draußen", ":", "it's", "fine", "."]
    assert text.sentence(text.words(original)) == original


def test_a_vocabulary_numbers_frequent_words_first(scripts: dict[str, ModuleType]) -> None:
    known = scripts["_text"].Vocabulary([["b", "a", "b"], ["b", "a", "c"]], min_count=2)
    assert known.words[4:] == ["b", "a"]
    assert known.encode(["a", "c", "b"]).tolist() == [5, 1, 4]
    assert known.encode([]).tolist() == [1]
    assert known.decode([2, 4, 1, 5, 0, 3, 4]) == ["b", "<unknown>", "a"]


def test_batches_of_similar_lengths_hold_each_sentence_once(scripts: dict[str, ModuleType]) -> None:
    lengths = [length for length in range(1, 31) for _ in range(3)]
    sampler = scripts["_text"].SimilarLengths(lengths, 8)
    epochs = [list(sampler), list(sampler)]
    assert epochs[0] != epochs[1]
    for batches in epochs:
        assert len(batches) == len(sampler) == 12
        assert sorted(row for batch in batches for row in batch) == list(range(90))
        spans = [[lengths[row] for row in batch] for batch in batches]
        assert max(max(span) - min(span) for span in spans) <= 6


@pytest.mark.parametrize("name", ["TextCNN", "BiRNN"])
def test_padding_changes_nothing(scripts: dict[str, ModuleType], name: str) -> None:
    net = scripts["sentiment"].NETS[name](20).eval()
    tokens = torch.randint(1, 20, (3, 6))
    padded = torch.nn.functional.pad(tokens, (0, 9))
    torch.testing.assert_close(net(padded), net(tokens), rtol=0, atol=1e-6)


def test_padding_of_the_source_changes_no_translation(scripts: dict[str, ModuleType]) -> None:
    net = scripts["translation"].Translator(20, 15, 8).eval()
    source, before = torch.randint(4, 20, (3, 6)), torch.randint(4, 15, (3, 5))
    padded = torch.nn.functional.pad(source, (0, 4))
    torch.testing.assert_close(net(padded, before), net(source, before), rtol=0, atol=1e-6)
    assert torch.equal(net.translate(padded, 3), net.translate(source, 3))


def test_the_loss_of_a_batch_ignores_padding(scripts: dict[str, ModuleType]) -> None:
    module = scripts["translation"]
    est = Estimator(
        module.Translator(20, 15, 8),
        torch.nn.CrossEntropyLoss(ignore_index=0),
        processor=module.Teaching(),
    )
    source = torch.randint(4, 20, (3, 6))
    targets = [torch.tensor([2, *range(4, 4 + n), 3]) for n in (1, 8, 3)]
    alone = [(source[i : i + 1], targets[i][None]) for i in range(3)]
    together = [(source, scripts["_text"].pad(targets))]
    assert est.evaluate(together)["loss"] == pytest.approx(est.evaluate(alone)["loss"], rel=1e-5)


def toy_step(table: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Scores that depend on how many words there are already and on the last one."""

    def step(word: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return table[state, word].clone(), state + 1

    return step


def likelihood(table: Tensor, sentence: tuple[int, ...]) -> float:
    """The mean log-likelihood of a sentence, its end included."""
    total, last = 0.0, 2
    for place, word in enumerate(sentence):
        scores = table[place, last].clone()
        scores[[0, 1, 2]] = -torch.inf
        total += float(scores.log_softmax(0)[word])
        last = word
    return total / len(sentence)


def test_greedy_takes_the_best_word_and_wide_beams_the_best_sentence(
    scripts: dict[str, ModuleType],
) -> None:
    search = scripts["_text"].beam_search
    for seed in range(20):
        table = 3 * torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(seed))
        (greedy,) = search(toy_step(table), torch.zeros(1, dtype=torch.long), 1, 3).tolist()
        expected: list[int] = []
        for place in range(3):
            ended = 3 in expected
            last = expected[-1] if expected else 2
            expected.append(0 if ended else int(table[place, last, 3:].argmax()) + 3)
        assert greedy == expected
        beginnings = [b for n in range(4) for b in itertools.product((4, 5), repeat=n)]
        sentences = [b if len(b) == 3 else (*b, 3) for b in beginnings]
        best = max(sentences, key=lambda each: likelihood(table, each))
        (found,) = search(toy_step(table), torch.zeros(27, dtype=torch.long), 27, 3).tolist()
        assert tuple(word for word in found if word) == best


def test_sentences_of_a_batch_are_searched_each_for_itself(scripts: dict[str, ModuleType]) -> None:
    net = scripts["translation"].Translator(20, 15, 8).eval()
    source = torch.randint(4, 20, (4, 6))
    together = net.translate(source, 3, 10)
    assert together.shape == (4, 10)
    assert not together.eq(1).any() and not together.eq(2).any()
    apart = [net.translate(source[i : i + 1], 3, 10) for i in range(4)]
    assert torch.equal(torch.cat(apart), together)
