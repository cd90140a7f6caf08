"""Line charts as numbers: what to draw where; the templates turn them into SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from estimator.report._words import shown

WIDTH, HEIGHT = 380, 236
TOP, BOTTOM, RIGHT = 12, 200, 368
MOST_POINTS = 300
_MOST_DOTS = 25
_TINY = 1e-300
_FLAT = 1e-8
"""Of the values themselves: what varies less is rounding, and its ticks would not differ."""


class Series(NamedTuple):
    """A line: its points in the order of x. None is no point, NaN and infinity are a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    slot: int
    """Which colour and dash it has."""


class Dot(NamedTuple):
    """A point that is marked."""

    x: float
    y: float
    title: str


class Line(NamedTuple):
    """A series in the coordinates of the drawing."""

    name: str
    slot: int
    path: str
    dots: Sequence[Dot]
    last: str


class Tick(NamedTuple):
    """A mark at an axis."""

    at: float
    text: str


class Chart(NamedTuple):
    """A drawing of `WIDTH` by `HEIGHT`, and the values that a pointer reads from it."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    log: bool
    left: float
    summary: str
    data: dict[str, Any]


class Axis(NamedTuple):
    """The range of an axis, and where it lies in the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        # Halves, since the range itself may be larger than any number.
        share = (value / 2 - low / 2) / (high / 2 - low / 2)
        return round(self.start + share * (self.end - self.start), 1)


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    *,
    may_be_log: bool = False,
    most: int = MOST_POINTS,
) -> Chart | None:
    """Lays out lines over a common axis; None where there is no finite point.

    Args:
        title: What the lines show.
        series: The lines.
        x_label: What x counts.
        may_be_log: Whether y gets a logarithmic axis where it spans more than two decades.
        most: Points a line, about; extremes are kept.
    """
    points = [_present(line) for line in series]
    series = [line for line, found in zip(series, points, strict=True) if found]
    points = [found for found in points if found]
    ys = [y for found in points for _, y in found if math.isfinite(y)]
    if not ys:
        return None
    log = may_be_log and min(ys) > 0 and max(ys) > 100 * min(ys)
    low, high = _padded(min(ys), max(ys), log)
    y_ticks = _decades(low, high) if log else _steps(low, high)
    left = 14 + 7.2 * max(len(text) for _, text in y_ticks)
    y_axis = Axis(low, high, BOTTOM, TOP, log)
    x_low, x_high = min(f[0][0] for f in points), max(f[-1][0] for f in points)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    x_axis = Axis(x_low, x_high, left + 6, RIGHT - 6)
    kept = [[found[i] for i in thinned([y for _, y in found], most)] for found in points]
    lines = [
        _line(line, found, x_axis, y_axis, x_label)
        for line, found in zip(series, kept, strict=True)
    ]
    return Chart(
        title,
        lines,
        [Tick(x_axis.place(at), text) for at, text in _steps(x_low, x_high, whole=True)],
        [Tick(y_axis.place(at), text) for at, text in y_ticks],
        x_label,
        log,
        round(left, 1),
        f"{title} by {x_label}: " + ", ".join(f"{line.name} ends at {line.last}" for line in lines),
        _readings(points, kept, x_axis),
    )


def _present(line: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None]


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Places of at most about `most` values: both ends, and of each stretch its extremes and a gap.

    Example:
        >>> thinned([0.0] * 500 + [9.0] + [0.0] * 499, most=30).count(500)
        1
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    stretches = max(1, most // 3)
    kept = {0, count - 1}
    for number in range(stretches):
        places = range(number * count // stretches, (number + 1) * count // stretches)
        finite = [i for i in places if math.isfinite(values[i])]
        if finite:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        kept.update([i for i in places if not math.isfinite(values[i])][:1])
    return sorted(kept)


def _line(
    line: Series, points: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis, unit: str
) -> Line:
    """The path, and dots where there are few points or one stands alone between gaps."""
    finite = [math.isfinite(y) for _, y in points]
    few = len(points) <= _MOST_DOTS
    path, dots = [], []
    for i, (x, y) in enumerate(points):
        if not finite[i]:
            continue
        joined = i > 0 and finite[i - 1]
        at = x_axis.place(x), y_axis.place(y)
        path.append(f"{'L' if joined else 'M'}{at[0]} {at[1]}")
        alone = not joined and (i + 1 == len(points) or not finite[i + 1])
        if few or alone:
            dots.append(Dot(*at, f"{line.name}, {unit} {_count(x)}: {shown(y)}"))
    return Line(line.name, line.slot, "".join(path), dots, shown(points[-1][1]))


def _count(x: float) -> str:
    return str(int(x)) if x.is_integer() else shown(x)


def _readings(
    points: Sequence[Sequence[tuple[float, float]]],
    kept: Sequence[Sequence[tuple[float, float]]],
    axis: Axis,
) -> dict[str, Any]:
    """What a pointer reads: each x that is drawn, where it is, and each line's value there."""
    xs = sorted({x for found in kept for x, _ in found})
    values = [dict(found) for found in points]
    return {
        "x": xs,
        "at": [axis.place(x) for x in xs],
        "y": [[shown(found.get(x)) for x in xs] for found in values],
    }


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return max(low / 1.3, 5e-324), min(high * 1.3, 1.7e308)
    half = high / 2 - low / 2
    if half < max(_TINY, _FLAT * max(abs(low), abs(high))):
        pad = abs(high) * 0.1
        pad = pad if pad > _TINY else 1.0
    else:
        pad = half * 0.1
    return max(low - pad, -1.7e308), min(high + pad, 1.7e308)


def _steps(low: float, high: float, *, whole: bool = False) -> list[tuple[float, str]]:
    """A handful of round numbers within a range."""
    raw = (high / 2 - low / 2) / (4 if whole else 3)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    places = range(math.ceil(low / step), math.floor(high / step) + 1)
    return list(_labelled([place * step for place in places], step))


def _labelled(values: Iterable[float], step: float) -> Iterable[tuple[float, str]]:
    decimals = -math.floor(math.log10(step))
    for value in values:
        if abs(value) < step / 2:
            yield value, "0"
        elif not 1e-4 <= abs(value) < 1e6:
            digits = max(0, math.floor(math.log10(abs(value))) + decimals)
            yield value, _short(f"{value:.{min(digits, 15)}e}")
        else:
            yield value, f"{value:.{max(0, decimals)}f}"


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    stride = 1 + (last - first) // 6
    return [(float(f"1e{power}"), _short(f"1e{power}")) for power in range(first, last + 1, stride)]


def _short(text: str) -> str:
    """The number in as few characters: 1e-3 in place of 1e-03, and 10 in place of 1e1."""
    number, _, power = text.partition("e")
    if number == "1" and -3 <= int(power) <= 4:
        return f"{float(text):g}"
    return f"{number}e{int(power)}"
