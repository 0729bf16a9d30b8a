"""What all figures share: a canvas, and texts of users that are drawn as they are."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend

LONGEST = 40  # characters of a text; more would leave no room for the figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which no window knows of."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, *, heights: bool = True) -> None:
    """Axes without a frame, and without `heights` where these say nothing."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if not heights:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)


def drawable(text: object) -> str:
    """A text as it can be drawn: on one line, shortened, with escapes for what the font does not have."""
    known = _characters()
    escaped = (
        c if ord(c) in known else c.encode("unicode_escape").decode() for c in str(text)
    )
    line = "".join(escaped)
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - 1]}…"
    if not line.strip():
        return "(empty)"
    return f" {line}" if line[0] == "_" else line  # which a legend would leave out


@cache
def _characters() -> frozenset[int]:
    """Characters that the font of figures has, without those that end a line or stand for nothing."""
    font = get_font(findfont(FontProperties()))
    return frozenset(c for c in font.get_charmap() if chr(c).isprintable())


def legend(
    owner: Axes | Figure,
    handles: Sequence[Any],
    labels: Sequence[object],
    **options: Any,
) -> Legend:
    """A legend whose labels are no formulas: a `$` in them is a dollar."""
    texts = [drawable(label) for label in labels]
    made = owner.legend(handles, texts, frameon=False, fontsize=8, **options)
    for text in made.get_texts():
        text.set_parse_math(False)
    return made
