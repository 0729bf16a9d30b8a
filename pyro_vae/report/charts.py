"""Charts as inline SVG: they take the colours of the page, light or dark, and stay legible on a phone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from pyro_vae.report.page import Html, escape, number, tag

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 12, 46
BINS = 30
POINTS = 300  # of a line; more cannot be seen


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to places between `start` and `end`, with ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, v = (math.log(u) if self.log else u for u in (self.low, self.high, value))
        return self.start + (v - low) / ((high - low) or 1.0) * (self.end - self.start)


def _nice(low: float, high: float, start: float, end: float, *, whole: bool = False) -> Scale:
    """A scale that ends at round numbers."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    ticks = [
        float(t)
        for t in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    ]
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def _across(low: float, high: float, *, whole: bool = False) -> Scale:
    """A scale to the right that ends at the data, with round numbers between."""
    nice = _nice(low, high, LEFT, WIDTH - RIGHT, whole=whole)
    if high <= low:
        return nice
    return Scale(low, high, nice.start, nice.end, [t for t in nice.ticks if low <= t <= high])


def _upwards(low: float, high: float, *, whole: bool = False) -> Scale:
    return _nice(low, high, HEIGHT - BOTTOM, TOP, whole=whole)


def _text(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")


def _chart(
    alt: str,
    x: Scale,
    y: Scale,
    labels: tuple[str, str],
    *marks: Html,
    tick_names: Sequence[str] = (),
) -> Html:
    """The frame around marks: ticks, labels and lines of the grid."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y.ticks:
        place = round(y(tick), 1)
        parts.append(tag("line", x1=LEFT, x2=right, y1=place, y2=place, class_="grid"))
        parts.append(tag("text", _text(tick), x=LEFT - 8, y=place + 4, text_anchor="end"))
    for tick, name in zip(x.ticks, tick_names or list(map(_text, x.ticks)), strict=True):
        parts.append(tag("text", name, x=round(x(tick), 1), y=bottom + 18, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(
        tag(
            "text",
            labels[0],
            x=(LEFT + right) / 2,
            y=HEIGHT - 6,
            text_anchor="middle",
            class_="label",
        )
    )
    middle = (TOP + bottom) / 2
    turned = f"rotate(-90 14 {middle})"
    parts.append(
        tag(
            "text",
            labels[1],
            x=14,
            y=middle,
            text_anchor="middle",
            transform=turned,
            class_="label",
        )
    )
    inside = tag(
        "svg",
        *marks,
        x=LEFT,
        y=0,
        width=right - LEFT,
        height=bottom + 1,
        viewBox=f"{LEFT} 0 {right - LEFT} {bottom + 1}",
    )  # cuts off what lies outside
    return tag(
        "svg",
        *parts,
        inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=alt,
        class_="chart",
    )


def _bar(x: float, width: float, ends: tuple[float, float], *, kind: str, title: str) -> Html:
    top, bottom = min(ends), max(ends)
    place = {
        "x": round(x, 1),
        "width": round(max(width, 0.5), 1),
        "y": round(top, 1),
        "height": round(bottom - top, 1),
    }
    return tag("rect", tag("title", title), class_=kind, **place)


def legend(entries: Mapping[str, str]) -> Html:
    """What the colours mean: `{class: words}`."""
    items = (
        tag("li", tag("span", class_=f"key {kind}"), escape(words))
        for kind, words in entries.items()
    )
    return tag("ul", *items, class_="legend")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    labels: tuple[str, str],
    alt: str,
    log: bool = False,
    dots: bool = False,
    low: float | None = None,
) -> Html:
    """Curves.

    Args:
        series: `{class: (x, y)}`; the class gives colour and dashes. A gap stands where y is not finite.
        labels: of the two axes.
        alt: what the chart shows, in words.
        log: whether x is on a logarithmic scale, with ticks at its values.
        dots: whether each point is marked and carries its value.
        low: cut off what lies below.
    """
    across = [v for x, _ in series.values() for v in x]
    upwards = [v for _, y in series.values() for v in y if math.isfinite(v)]
    x = _across(min(across), max(across), whole=True)
    if log:
        x = Scale(
            min(across), max(across), LEFT + 24, WIDTH - RIGHT - 24, sorted(set(across)), log=True
        )
    y = _upwards(min(upwards) if low is None else low, max(upwards))
    marks = []
    for kind, (horizontal, vertical) in series.items():
        points = list(zip(horizontal, vertical, strict=True))
        every = max(1, math.ceil(len(points) / POINTS))
        points = [*points[:-1:every], points[-1]]
        path, pen = "", "M"
        for a, b in points:
            path += f"{pen}{x(a):.1f} {y(b):.1f}" if math.isfinite(b) else ""
            pen = "L" if math.isfinite(b) else "M"
        marks.append(tag("path", d=path, class_=f"line {kind}"))
        if dots or len(points) == 1:
            marks += [
                tag(
                    "circle",
                    tag("title", f"{_text(a)}: {number(b)}"),
                    cx=round(x(a), 1),
                    cy=round(y(b), 1),
                    r=4,
                    class_=kind,
                )
                for a, b in points
                if math.isfinite(b)
            ]
    return _chart(alt, x, y, labels, *marks)


def histogram(values: np.ndarray, *, label: str, alt: str, limit: float | None = None) -> Html:
    """How often values occur, `(N,)`; the bars beyond `limit`, if any, have the colour of a warning."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    if limit is not None and low < limit < high:  # no bar may stand on both sides
        width = edges[1] - edges[0]
        edges = limit + width * np.arange(
            math.floor((low - limit) / width), math.ceil((high - limit) / width) + 1
        )
    counts, edges = np.histogram(values, edges)
    x, y = _across(float(edges[0]), float(edges[-1])), _upwards(0, int(counts.max()), whole=True)
    marks = []
    for count, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        beyond = limit is not None and a >= limit - 1e-9
        title = f"{number(a)} to {number(b)}: {count}"
        marks.append(
            _bar(
                x(a) + 0.5,
                x(b) - x(a) - 1,
                (y(0), y(count)),
                kind="bad" if beyond else "a",
                title=title,
            )
        )
    if limit is not None and edges[0] < limit < edges[-1]:
        place = round(x(limit), 1)
        marks.append(tag("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM, class_="limit"))
    return _chart(alt, x, y, (label, "data"), *marks)


def bars(
    values: Sequence[float],
    names: Sequence[str],
    kinds: Sequence[str],
    *,
    labels: tuple[str, str],
    alt: str,
) -> Html:
    """A bar for each value, with its name beneath as far as there is room."""
    count = len(values)
    x = Scale(-0.5, count - 0.5, LEFT, WIDTH - RIGHT, list(range(0, count, math.ceil(count / 12))))
    y = _upwards(min(0.0, *values), max(0.0, *values))
    width = (WIDTH - RIGHT - LEFT) / count
    marks = [
        _bar(x(i - 0.4), 0.8 * width, (y(0), y(value)), kind=kind, title=f"{name}: {number(value)}")
        for i, (value, name, kind) in enumerate(zip(values, names, kinds, strict=True))
    ]
    return _chart(alt, x, y, labels, *marks, tick_names=[names[int(i)] for i in x.ticks])
