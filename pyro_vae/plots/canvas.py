"""What all figures share: a canvas, and texts of users that are drawn as they are."""

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend

from pyro_vae.plots.colours import COLOURS, colour

FEWEST_BINS, MOST_BINS = 10, 60
LONGEST = 40  # characters of a text; more would leave no room for the figure


class Picture(Figure):
    """A figure that no window knows of: it shows itself in a notebook, and `savefig` writes it to a file."""

    def add_subplot(self, *args: Any, **options: Any) -> Axes:  # type: ignore[override]
        """The same as of any figure, with colours that all tell apart."""
        axes = super().add_subplot(*args, **options)
        axes.set_prop_cycle(color=list(COLOURS))
        return axes

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def new_figure(width: float, height: float) -> Picture:
    """An empty figure of a size in inches, which no window knows of."""
    figure = Picture(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def edges_of(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Ends of bins from `low` to `high`, as wide as the number and the spread of finite `values` say: 10 to 60 bins.

    The width is `2 IQR / n^(1/3)`.

    Source: Freedman & Diaconis 1981, On the histogram as a density estimator: L2 theory.

    >>> len(edges_of(np.arange(9000.0), 0.0, 9000.0)) - 1
    21
    >>> len(edges_of(np.arange(100_000.0), 0.0, 100_000.0)) - 1
    47
    """
    if not high > low:
        low, high = low - 0.5, low + 0.5
    quartiles = np.quantile(values, (0.25, 0.75)) if len(values) else np.zeros(2)
    width = 2 * float(np.diff(quartiles)[0]) / max(len(values), 1) ** (1 / 3)
    count = math.ceil((high - low) / width) if width > 0 else FEWEST_BINS
    return np.linspace(low, high, min(max(count, FEWEST_BINS), MOST_BINS) + 1)


def single(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of one panel."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def panels(
    count: int, width: float, height: float, *, least: float, room: float = 0.6
) -> tuple[Figure, list[Axes]]:
    """So many panels of a size in inches, at most four in a row.

    Args:
        count: of the panels.
        width: of each.
        height: of each.
        least: width of the figure.
        room: height for what stands above and below.
    """
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure = new_figure(max(width * columns, least), height * rows + room)
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[count:]:
        axes.set_visible(False)
    return figure, list(every[:count])


def triangle(
    names: Sequence[object], width: float, height: float, *, sharex: Any = False
) -> tuple[Figure, np.ndarray]:
    """A panel for each of n quantities alone and one for each pair, `(n, n)`, with their names at the edges."""
    n = len(names)
    figure = new_figure(width, height)
    every = figure.subplots(n, n, squeeze=False, sharex=sharex)
    for row, name in enumerate(map(drawable, names)):
        every[-1, row].set_xlabel(name, fontsize=9, parse_math=False)
        if row > 0:
            every[row, 0].set_ylabel(name, fontsize=9, parse_math=False)
        for axes in every[row, row + 1 :]:
            axes.set_visible(False)
    return figure, every


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


def thinned(groups: Sequence[np.ndarray], most: int) -> list[np.ndarray]:
    """The same number of rows of each of some arrays, spread evenly, at most so many."""
    count = min(most, *map(len, groups))
    return [rows[np.linspace(0, len(rows) - 1, count).astype(int)] for rows in groups]


def cloud(axes: Axes, groups: Sequence[np.ndarray], **options: Any) -> None:
    """Points of several groups, `(count, 2)` each, by turns, so that none covers the others."""
    x, y = np.stack(groups, 1).reshape(-1, 2).T
    colours = [colour(i) for i in range(len(groups))] * len(groups[0])
    axes.scatter(x, y, c=colours, linewidths=0, **options)


def titled(figure: Figure, title: str) -> Figure:
    """The same under a title, with what the first panel shows explained below."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center"
    )
    figure.suptitle(title, fontsize=10)
    return figure


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
