"""Charts of the page: what is drawn where, for few, many, tiny, huge, absent and odd values."""

from __future__ import annotations

import math
import re

import pytest

from estimator.history import History
from estimator.report._charts import BOTTOM, MOST_POINTS, RIGHT, TOP, Series, chart, thinned
from estimator.report._contents import over_time, unit_of
from estimator.report._words import as_number, cell, duration, shown, str_of, table

NAN = math.nan


def line(ys: list[float | None], xs: list[float] | None = None, name: str = "train") -> Series:
    return Series(name, xs or [float(i + 1) for i in range(len(ys))], ys, 0)


def places(path: str) -> list[tuple[str, float, float]]:
    return [(c, float(x), float(y)) for c, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path)]


def test_points_lie_where_their_values_are() -> None:
    found = chart("loss", [line([4.0, 2.0, 1.0])], "epoch")
    assert found is not None
    (only,) = found.lines
    points = places(only.path)
    assert [command for command, _, _ in points] == ["M", "L", "L"]
    assert points[0][1] < points[1][1] < points[2][1] <= RIGHT
    drops = points[1][2] - points[0][2], points[2][2] - points[1][2]
    assert drops[0] == pytest.approx(2 * drops[1], abs=0.3)
    assert points[0][2] >= TOP and points[2][2] <= BOTTOM
    titles = ["train, epoch 1: 4", "train, epoch 2: 2", "train, epoch 3: 1"]
    assert [dot.title for dot in only.dots] == titles
    assert only.last == "1"
    assert found.summary == "loss by epoch: train ends at 1"
    ticks = {tick.text: tick.at for tick in found.y_ticks}
    assert list(ticks) == ["1", "2", "3", "4"]
    assert ticks["2"] == pytest.approx(points[1][2], abs=0.11)
    assert [tick.text for tick in found.x_ticks] == ["1", "2", "3"]


def test_one_epoch_is_a_dot_in_the_middle() -> None:
    found = chart("loss", [line([0.5], [1234567.0])], "epoch")
    assert found is not None
    (dot,) = found.lines[0].dots
    assert dot.x == pytest.approx((found.left + RIGHT) / 2, abs=0.2)
    assert dot.title == "train, epoch 1234567: 0.5"
    half = chart("loss", [line([0.5, 1.0], [0.5, 1.5])], "epoch")
    assert half is not None and half.lines[0].dots[0].title == "train, epoch 0.5: 0.5"


@pytest.mark.parametrize("ys", [[], [None, None], [NAN, math.inf], [None, NAN]])
def test_nothing_finite_is_no_chart(ys: list[float | None]) -> None:
    assert chart("loss", [line(ys)], "epoch") is None


def test_not_a_number_is_a_gap_and_an_absent_value_is_none() -> None:
    found = chart("loss", [line([1.0, NAN, 2.0, None, 3.0, math.inf, 4.0])], "epoch")
    assert found is not None
    assert [command for command, _, _ in places(found.lines[0].path)] == ["M", "M", "L", "M"]
    assert found.data["y"] == [["1", "nan", "2", "3", "inf", "4"]]


def test_a_point_between_gaps_is_marked_in_a_long_line_too() -> None:
    ys: list[float | None] = [*([1.0] * 100), NAN, 2.0, NAN, *([1.0] * 100), NAN, 3.0]
    found = chart("loss", [line(ys)], "epoch")
    assert found is not None
    assert [dot.title for dot in found.lines[0].dots] == [
        "train, epoch 102: 2", "train, epoch 205: 3",
    ]  # fmt: skip


def test_a_long_line_keeps_its_extremes_and_few_points() -> None:
    ys: list[float | None] = [math.sin(i / 50) for i in range(5000)]
    ys[1234], ys[4321], ys[2500] = 9.0, -7.0, NAN
    found = chart("loss", [line(ys), line([0.1] * 5000, name="val")], "epoch")
    assert found is not None
    for each in found.lines:
        assert 50 < len(places(each.path)) <= MOST_POINTS + 2 and not each.dots
    values = found.data["y"][0]
    at = dict(zip(found.data["x"], values, strict=True))
    assert (at[1235], at[4322], at[2501]) == ("9", "-7", "nan")
    # Where one line is drawn, the other's true value can be read as well.
    assert set(found.data["y"][1]) == {"0.1"}
    assert [command for command, *_ in places(found.lines[0].path)].count("M") == 2


def test_thinning_keeps_short_lines_whole() -> None:
    assert thinned([3.0, NAN, 1.0], 3) == [0, 1, 2]
    assert thinned([NAN] * 10, 3) == [0, 9]
    assert thinned([1.0, 5.0, 0.0, 1.0], 2) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("ys", "texts"),
    [
        ([1000.0, 1.0, 0.02], ["0.1", "1", "10", "100", "1000"]),
        ([1e-9, 1.0], ["1e-9", "1e-7", "1e-5", "0.001", "0.1"]),
    ],
)
def test_values_of_decades_get_a_logarithmic_axis(ys: list[float | None], texts: list[str]) -> None:
    found = chart("loss", [line(ys)], "epoch", may_be_log=True)
    assert found is not None and found.log
    assert [tick.text for tick in found.y_ticks] == texts
    assert all(TOP <= y <= BOTTOM for _, _, y in places(found.lines[0].path))
    plain = chart("loss", [line(ys)], "epoch")
    assert plain is not None and not plain.log
    for other in ([0.0, 1000.0], [1.0, 99.0]):
        linear = chart("loss", [line(list(other))], "epoch", may_be_log=True)
        assert linear is not None and not linear.log


@pytest.mark.parametrize(
    "ys",
    [
        [1e308, -1e308], [1.7e308, 1.7e308], [5e-324, 5e-324], [5e-324, 1e-300], [0.0, 0.0],
        [-3.0, -3.0], [1e9, 1e9 + 1e-3], [1.0, 1.0 + 1e-12], [5e-324, 1.7e308], [1e-320, 1e-310],
        [123456789.0, 987654321.0], [1e-7, 3e-7], [-1e-5, 2.0], [0.1, 0.1 + 1e-17],
    ],
)  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_extreme_values_stay_inside_the_drawing(ys: list[float | None], log: bool) -> None:
    found = chart("loss", [line(ys)], "epoch", may_be_log=log)
    assert found is not None
    inside = [TOP <= y <= BOTTOM for _, _, y in places(found.lines[0].path)]
    assert inside == [True, True]
    assert all(TOP - 0.1 <= tick.at <= BOTTOM + 0.1 for tick in found.y_ticks)
    assert len(found.y_ticks) <= 9
    texts = [tick.text for tick in found.y_ticks]
    assert len(set(texts)) == len(texts) and max(map(len, texts), default=0) <= 12
    assert all(float(text) == pytest.approx(float(text)) for text in texts)


def test_large_and_small_ticks_are_short() -> None:
    for ys, expected in (
        ([0.0, 5e6], ["0", "1e6", "2e6", "3e6", "4e6", "5e6"]),
        ([0.0, 5e-5], ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]),
        ([0.0, 0.5], ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
    ):
        found = chart("x", [line(list(ys))], "epoch")
        assert found is not None
        assert [tick.text for tick in found.y_ticks] == expected


def test_rows_inside_an_epoch_are_placed_by_step() -> None:
    table = History()
    table.append({"epoch": 0, "step": 50, "complete": False, "val_loss": 2.0})
    table.append({"epoch": 1, "step": 100, "complete": True, "val_loss": 1.0})
    table.append({"epoch": 1, "step": None, "complete": True, "val_loss": 9.0})
    unit, (found,) = over_time(table, [("val_loss", "val", 1)])
    assert (unit, list(found.xs), list(found.ys)) == ("step", [50.0, 100.0], [2.0, 1.0])
    assert unit_of(History(["epoch"])) == "epoch" and unit_of(History()) == "step"
    table.rows[0]["step"] = math.inf
    assert over_time(table, [("val_loss", "val", 1)])[1][0].ys == [1.0]


def test_values_are_short_and_their_whole_is_kept() -> None:
    assert cell(0.1234567891) == ("0.123457", "0.1234567891", "0.1234567891", "")
    assert cell(12) == ("12", "12", "", "")
    assert cell(None).text == "–" and cell(None).key == ""
    assert cell("NaN") == ("NaN", "", "", "") and cell("-Infinity").key == "-Infinity"
    assert cell(True).text == "yes" and as_number(True) is None
    assert len(shown("x" * 1000)) == 400
    assert as_number(10**400) == math.inf and as_number(-(10**400)) == -math.inf
    assert str_of(10**5000) == "a number of thousands of digits"
    assert shown([1, 2]) == "[1, 2]"
    assert [duration(s) for s in (12.4, 3600.0, 86399.0, 200000.0)] == [
        "12 s", "1 h 0 min", "23 h 59 min", "2 d 7 h",
    ]  # fmt: skip


def test_a_column_is_numeric_where_all_its_values_are() -> None:
    found = table("T", ["a", "b", "c", "d"], [[1, "x", None, "NaN"], [None, 2, None, 0.5], [3]])
    assert [column.numeric for column in found.columns] == [True, False, False, True]
    assert [len(row) for row in found.rows] == [4, 4, 4]
