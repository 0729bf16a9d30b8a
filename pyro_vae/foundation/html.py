"""HTML: elements whose text is escaped, and what a notebook shows of a result."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VOID = {"img", "meta"}

# A notebook has a theme of its own, light or dark: its colours and letters are taken over, and lines are half clear.
LINE = "1px solid rgba(128, 128, 128, 0.4)"
CELL = f"text-align: {{}}; padding: 2px 12px 2px 0; border: 0; border-bottom: {LINE}; vertical-align: top"
SOFT = "opacity: 0.7"
WIDTH, HEIGHT, MARGIN = 320, 72, 5  # of a curve, in pixels


class Html(str):
    """Text that is HTML already; every other text is escaped by `tag`."""

    __slots__ = ()


def escape(text: Any) -> Html:
    """Any value as HTML."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def join(parts: Iterable[Any]) -> Html:
    """Parts one after the other; `None` is left out."""
    return Html("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. In names of attributes `_` stands for `-`, and one at the end is dropped, as in `class_`.

    An attribute that is `None` is left out.

    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    opening = f"<{name}"
    for key, value in attributes.items():
        if value is not None:
            attribute = key.rstrip("_").replace("_", "-")
            opening += f' {attribute}="{html.escape(str(value))}"'
    if name in VOID:
        return Html(f"{opening}>")
    return Html(f"{opening}>{join(children)}</{name}>")


def card(title: str, about: str = "", *parts: Any) -> str:
    """What a notebook shows of one thing: a title, and below it what `facts`, `grid`, `lines` and `curve` make."""
    soft = tag("span", f" {about}", style=SOFT) if about else None
    head = tag("div", tag("strong", title), soft, style="margin-bottom: 4px")
    return str(
        tag(
            "div",
            head,
            *parts,
            style="color: inherit; font-size: 13px; line-height: 1.4",
        )
    )


def facts(rows: Mapping[str, Any]) -> Html:
    """Names and what they stand for, one below the other; what is empty is left out."""
    told = {name: value for name, value in rows.items() if value not in ("", None)}
    return _table([[_cell("th", k), _cell("td", v)] for k, v in told.items()])


def grid(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """A table with heads, its first column the names of the rows."""
    above = [_cell("th", head, numeric=i > 0) for i, head in enumerate(heads)]
    below = [[_cell("td", c, numeric=i > 0) for i, c in enumerate(r)] for r in rows]
    return _table([above, *below])


def code(text: Any) -> Html:
    """A name or a call, in letters of one width."""
    # Notebooks give it a background.
    return tag(
        "code", text, style="color: inherit; background: transparent; padding: 0"
    )


def preformatted(text: str) -> Html:
    """Text in letters of one width, its lines as they are."""
    style = "color: inherit; background: transparent; margin: 4px 0"
    return tag("pre", text, style=style)


def lines(sentences: Iterable[str], before: str = "") -> Html:
    """Sentences, one below the other."""
    return join(tag("div", f"{before}{sentence}") for sentence in sentences)


def _table(rows: list[list[Html]]) -> Html:
    style = "border-collapse: collapse; background: transparent; font-size: inherit; margin: 4px 0"
    # Notebooks paint every second row.
    each = (tag("tr", *row, style="background: transparent") for row in rows)
    return tag("table", tag("tbody", *each), style=style)


def _cell(name: str, content: Any, *, numeric: bool = False) -> Html:
    style = CELL.format("right" if numeric else "left")
    return tag(name, content, style=style)


def curve(
    values: Mapping[str, Sequence[float]], *, mark: int | None = None
) -> Html | None:
    """Series over the same places as lines, the second one dashed; `None` where nothing is finite.

    Args:
        values: by the name of the series, two or more numbers each, nan where there is none.
        mark: a place of the last series with a dot.
    """
    known = [v for series in values.values() for v in series if math.isfinite(v)]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    span, count = high - low or 1.0, max(map(len, values.values()))

    def at(i: int, value: float) -> tuple[float, float]:
        x = MARGIN + i / max(count - 1, 1) * (WIDTH - 2 * MARGIN)
        y = MARGIN + (high - value) / span * (HEIGHT - 2 * MARGIN)
        return round(x, 1), round(y, 1)

    drawn = []
    for dashes, series in zip((None, "4 3"), values.values(), strict=False):
        places = [at(i, v) for i, v in enumerate(series) if math.isfinite(v)]
        points = " ".join(f"{x},{y}" for x, y in places)
        look = {"fill": "none", "stroke": "currentColor", "stroke_width": 1.5}
        drawn.append(tag("polyline", points=points, stroke_dasharray=dashes, **look))
    last = list(values.values())[-1]
    if mark is not None and math.isfinite(last[mark]):
        x, y = at(mark, last[mark])
        drawn.append(tag("circle", cx=x, cy=y, r=3, fill="currentColor"))
    words = f"{' and '.join(values)}, from {low:.4g} to {high:.4g}"
    style = "display: block; color: inherit; background: transparent"
    label = {"role": "img", "aria_label": words}
    return tag("svg", *drawn, width=WIDTH, height=HEIGHT, style=style, **label)
