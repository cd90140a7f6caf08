"""Single samples as pictures and texts, by their content."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sections import names, pixels, text
from torch import Tensor

from estimator.handlers import _sample_kinds
from estimator.handlers._gallery import Cell, write_gallery
from estimator.handlers._sample_files import (
    Facts,
    Telling,
    check_decode,
    safe_names,
    short_answers,
    told,
    write_sample,
)
from estimator.handlers._sample_pictures import NOT_FINITE, picture
from estimator.handlers._sample_rows import rows_of
from estimator.handlers.base import ArgumentTypeError, DataError

NAN, INF = math.nan, math.inf


def shown(value: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    found = picture(value)
    assert found is not None
    return found


def test_images_of_all_forms() -> None:
    image = torch.arange(4 * 9 * 8, dtype=torch.uint8).view(4, 9, 8)
    assert np.array_equal(shown(image), image.permute(1, 2, 0))
    assert np.array_equal(shown(image.permute(1, 2, 0)), image.permute(1, 2, 0))
    assert np.array_equal(shown(image[:3]), image[:3].permute(1, 2, 0))
    assert np.array_equal(shown(image[:1]), image[0])
    assert np.array_equal(shown(image[0]), image[0])
    assert picture(torch.rand(5)) is None


def test_pixels_that_are_not_finite_are_marked_and_leave_the_others_their_range() -> None:
    image = torch.zeros(1, 8, 8)
    image[0, 0, :4] = torch.tensor([NAN, INF, -INF, 1.0])
    found = shown(image)
    assert found.shape == (8, 8, 3)
    assert found[0, :5].tolist() == [list(NOT_FINITE)] * 3 + [[255] * 3, [0] * 3]
    colours = torch.full((4, 8, 8), 0.5)
    colours[1, 2, 3] = NAN
    assert shown(colours)[2, 3].tolist() == list(NOT_FINITE)
    assert (shown(torch.full((8, 8), NAN)) == NOT_FINITE).all()


def test_the_greatest_numbers_have_a_range_too() -> None:
    image = torch.full((8, 8), -3e38)
    image[0] = 3e38
    assert shown(image)[:2, 0].tolist() == [255, 0]
    assert shown(image.double() / 3e38 * 1.7e308)[0, 0] == 255


def test_planes_of_a_volume_stand_side_by_side_in_one_range() -> None:
    volume = torch.arange(5.0)[:, None, None].expand(5, 8, 9)
    found = shown(volume)
    assert found.shape == (2 * 9 - 1, 3 * 10 - 1)
    corners = [found[0, 0], found[0, 10], found[0, 20], found[9, 0], found[9, 10]]
    assert corners == [0, 64, 128, 191, 255]
    assert found[8, 0] == found[0, 9] == 128, "lines between them"
    assert np.array_equal(shown(volume[None]), found)
    assert shown(torch.rand(60, 8, 8)).shape == (4 * 9 - 1, 5 * 9 - 1)


def test_frames_may_have_colours_and_one_may_have_marks() -> None:
    film = torch.zeros(2, 3, 8, 8)
    film[1, 0] = 1
    assert shown(film)[0, [0, 9]].tolist() == [[0, 0, 0], [255, 0, 0]]
    grey = torch.zeros(2, 8, 8)
    grey[1, 0, 0] = NAN
    assert shown(grey)[0, [0, 9]].tolist() == [[0, 0, 0], list(NOT_FINITE)]


@pytest.mark.parametrize("channels", [0, 1, 3, 7])
def test_series_are_drawn_a_line_for_each_channel(channels: int) -> None:
    moments = torch.linspace(0, 12, 400)
    series = torch.stack([torch.sin(moments + k) for k in range(max(1, channels))])
    first = shown(series if channels else series[0])
    assert first.shape == (280, 420, 3)
    assert np.array_equal(first, shown(series.T if channels else series[0]))
    colours = {tuple(p) for p in first.reshape(-1, 3).tolist() if max(p) - min(p) > 100}
    assert len(colours) >= max(1, channels)
    series[0, 100:140] = NAN
    marked = shown(series if channels else series[0])
    assert (marked == NOT_FINITE).all(2).sum() > 20 > (first == NOT_FINITE).all(2).sum()


def test_a_long_series_is_drawn_from_some_of_its_moments() -> None:
    assert shown(torch.rand(3, 50_000)).shape == (280, 420, 3)


def decode(words: Tensor) -> str:
    return " ".join("abc"[word] for word in words.tolist())


def test_text_goes_through_the_decoder_and_stays_in_its_line(tmp_path: Path) -> None:
    rows = {"input.words": torch.tensor([0, 2]), "input.age": torch.tensor(7)}
    rows |= {"target": torch.tensor([1, 1], dtype=torch.uint8), "input.x": torch.rand(2)}
    telling = Telling(None, lambda words: f"{decode(words)}\nb=1")
    found = told(rows, telling)
    assert found["input.words"] == "a c b=1" and found["target"] == "b b b=1"
    assert found["input.age"] == "7" and found["input.x"].startswith("[")
    assert told(rows, Telling())["input.words"] == "[0 2]"
    with pytest.raises(DataError, match=r"decode must make a text.*returned None"):
        told(rows, Telling(None, lambda words: None))  # type: ignore[arg-type, return-value]  # wrong on purpose
    with pytest.raises(ArgumentTypeError, match=r"H\(decode=...\) must be a function.*'utf-8'"):
        check_decode("utf-8", "H")  # type: ignore[arg-type]  # wrong on purpose


def test_values_that_are_not_finite_are_counted_in_the_text() -> None:
    image = torch.zeros(1, 8, 8)
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = NAN, INF, 2.0
    text = told({"input": image}, Telling())["input"]
    assert text == "shape 1x8x8 min 0 max 2 mean 0.0322581 (2 of 64 values are not finite)"
    every = told({"input": torch.full((20,), NAN)}, Telling())["input"]
    assert every == "shape 20 (20 of 20 values are not finite)"
    assert told({"input": torch.tensor([NAN, -INF])}, Telling())["input"] == "[nan -inf]"


def test_a_large_sample_is_told_with_its_own_shape_and_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 4096)
    scan = torch.zeros(2, 1, 90, 90)
    scan[1, 0, 1, 1] = 9
    parts = {"input": {"scan": scan, "table": torch.ones(2, 3000, dtype=torch.long)}}
    rows = {n: v[1] for n, v in rows_of({**parts, "output": torch.rand(2, 5000)}, 2).items()}
    card, files = write_sample(tmp_path, "s", {"uid": 1}, rows, Telling(["a", "b"]))
    lines = text(tmp_path / "s.txt")
    assert lines["input.scan"] == "shape 1x90x90 min 0 max 9 (shown as 1x30x30)"
    assert lines["input.table"] == "shape 3000 min 1 max 1"
    assert lines["output"].startswith("shape 5000 min ")
    assert "prediction" not in lines, "of a part of the classes none is the likeliest"
    assert names(tmp_path) == ["s.txt", "s_scan.png"]
    assert pixels(tmp_path / "s_scan.png").shape == (120, 120)
    assert [picture.file for picture in card.pictures] == ["s_scan.png"]


def test_names_of_files_are_safe_and_different() -> None:
    given = ["a/b", "a_b", "A_B", "../x", "", ".", "é", "<script>alert(1)</script>", "n" * 300]
    safe = safe_names(given)
    assert list(safe) == given
    assert list(safe.values())[:7] == ["a_b", "a_b_2", "A_B_3", "_x", "_", "__2", "é"]
    assert all(len(name) <= 42 and not set(name) & set("/\\<>:\"'\0") for name in safe.values())
    assert len({name.casefold() for name in safe.values()}) == len(given)


def test_hostile_names_stay_in_their_line(tmp_path: Path) -> None:
    rows = {"input.a/b\n=x": torch.zeros(1, 8, 8), "input.a_b =x": torch.ones(1, 8, 8)}
    rows |= {"target": torch.tensor(0), "output": torch.tensor([1.0, 0.0])}
    facts: Facts = {"uid": "x\ny\ud800", "loss": NAN, "target": "my own"}
    card, _ = write_sample(tmp_path, "s", facts, rows, Telling(["<b>\n$x$", "c"]))
    lines = (tmp_path / "s.txt").read_text("utf-8").splitlines()
    assert lines[:3] == ["uid=x y\ufffd", "loss=nan", "target=my own"]
    assert "prediction_class=<b> $x$" in lines
    assert sum(line.startswith("input.a/b =x=shape 1x8x8") for line in lines) == 1
    assert names(tmp_path, ".png") == ["s_a_b_x.png", "s_a_b_x_2.png"]
    assert card.facts["target"] == "my own" and card.facts["prediction"] == "<b> $x$"


def test_shares_of_classes_are_told_as_the_greatest_two() -> None:
    rows = {"target": torch.tensor([0.25, 0.0, 0.75]), "output": torch.tensor([9.0, 0.0, 1.0])}
    named = short_answers(rows, Telling(["a", "b", "c"]))
    assert named == {"target": "c 0.75 + a 0.25", "prediction": "a"}
    rows["target"] = torch.tensor([0.0, 1.0, 0.0])
    assert short_answers(rows, Telling())["target"] == "1 1.00"
    rows["target"] = torch.tensor([0.123456, -1.0, 2.0])
    assert short_answers(rows, Telling()) == {
        "target": "[0.123 -1 2]", "prediction": "[9 0 1]",
    }  # fmt: skip
    assert short_answers({"input": torch.rand(3)}, Telling()) == {}


def test_maps_among_the_targets_have_pictures(tmp_path: Path) -> None:
    rows = {"input": torch.rand(3, 8, 8), "target.mask": torch.ones(8, 8, dtype=torch.long)}
    write_sample(tmp_path, "s", {"uid": 1}, rows, Telling())
    assert names(tmp_path, ".png") == ["s_input.png", "s_target.mask.png"]
    assert (pixels(tmp_path / "s_target.mask.png") == 255).all()


def test_signs_that_a_font_lacks_are_no_matter(tmp_path: Path) -> None:
    cells = [Cell(np.zeros((8, 8), np.uint8), ["名前 \U0001f600", "\u0000"])]
    assert write_gallery(tmp_path / "g.png", cells, "$\\frac{ 𓀀")
    assert pixels(tmp_path / "g.png").shape == (260, 620, 4)


def test_many_samples_fill_several_lines_up_to_a_limit(tmp_path: Path) -> None:
    shades = np.arange(0, 240, 2, dtype=np.uint8)
    cells = [Cell(np.full((8, 8), shade), [f"uid {shade}"]) for shade in shades]
    assert write_gallery(tmp_path / "g.png", cells, "x" * 400)
    found = pixels(tmp_path / "g.png")
    assert found.shape == (10 * 215 + 45, 1550, 4)
    assert found[45 + 9 * 215 + 67, 77 + 9 * 155, 0] == pytest.approx(2 * 99, abs=1)
    assert not write_gallery(tmp_path / "g.png", [Cell(None, [])], "none")
    assert names(tmp_path) == []
