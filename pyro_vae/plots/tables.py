"""Tables of columns of mixed kinds: marginals, pairs of columns, and what rows are made again as."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.plots.canvas import (
    cloud,
    drawable,
    edges_of,
    new_figure,
    panels,
    plain,
    thinned,
    titled,
    triangle,
)
from pyro_vae.plots.colours import SPREAD, colour
from pyro_vae.plots.looks import Look, moments

MOST = 24  # columns that have a panel
PAIRED = 5  # columns whose pairs are shown
POINTS = 600  # of each kind in a panel
BINS = 30  # of a logarithmic axis, or whole numbers in one bin each at most
LABELS = 8  # categories that are named on an axis
DECADES = 30.0  # times the least positive value from where an axis is logarithmic
SCALE = 20  # numbers of an ordered scale that are drawn as categories
HEATED = 20  # columns of a heat map
REACH = 2.0  # standard deviations at the ends of its colours
PALE = 0.35  # opacity of the colours of categories
WIDTH = 0.3  # of the band in which points of one category lie


class Column(Protocol):
    """What is drawn of a column: its name, its kind, and the names of its categories, if it has some."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def categories(self) -> Sequence[object]: ...


def table_marginals(
    columns: Sequence[Column],
    tables: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Each column of one table or two, such as data and draws: shares of categories, histograms of equal area.

    Args:
        columns: what the columns are.
        tables: `(N, D)` and `(M, D)`, categories by their codes.
        names: of the tables.
        title: above the figure.
    """
    columns, tables = _ready(columns, tables)
    figure, every = _by_column(columns, 2.1, 0.7)
    for j, axes in enumerate(every):
        _marginal(axes, columns[j], [table[:, j] for table in tables], names)
    more = (
        f" (the first {MOST} of {len(columns)} columns)" if len(columns) > MOST else ""
    )
    return titled(figure, f"{title}{more}")


def table_pairs(
    columns: Sequence[Column],
    tables: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Columns of a table two by two, those that hang together most, as points of one table over those of another.

    Points of a category lie in a band. The arguments are those of `table_marginals`.
    """
    columns, tables = _ready(columns, tables)
    order = _related(tables[0])[:PAIRED]
    columns = [columns[j] for j in order]
    tables = [table[:, order] for table in tables]
    n = len(order)
    size = max(2.0 * n + 0.6, 4.5), max(1.8 * n + 0.9, 3.6)
    figure, every = triangle([column.name for column in columns], *size)
    places = [
        np.stack([_places(c, table[:, k], order[k]) for k, c in enumerate(columns)], 1)
        for table in thinned(tables, POINTS)
    ]
    for row, below in enumerate(columns):
        _marginal(every[row, row], below, [t[:, row] for t in tables], names)
        for k, beside in enumerate(columns[:row]):
            axes = every[row, k]
            cloud(axes, [place[:, [k, row]] for place in places], s=4, alpha=0.4)
            _axis(axes, beside, [t[:, k] for t in tables], "x")
            _axis(axes, below, [t[:, row] for t in tables], "y")
            plain(axes)
    return titled(figure, title)


def table_reconstructions(
    columns: Sequence[Column], data: np.ndarray, made: np.ndarray
) -> Figure:
    """What each cell is made again as, column by column: numbers over numbers, categories as shares of a row.

    Args:
        columns: what the columns are.
        data: `(N, D)`, categories by their codes.
        made: the same rows made again, `(N, D)`.
    """
    columns, (data, made) = _ready(columns, (data, made))
    figure, every = _by_column(columns, 2.5, 0.6)
    for j, axes in enumerate(every):
        draw = _confusion if columns[j].categories else _against
        draw(axes, columns[j], data[:, j], made[:, j])
    figure.supxlabel("data", fontsize=9)
    figure.supylabel("made again", fontsize=9)
    figure.suptitle(
        "each cell, and what it is made again as from one draw of q(z | x)", fontsize=10
    )
    return figure


def heat_maps(
    values: Tensor,
    title: str,
    labels: Sequence[str],
    *,
    ticks: Sequence[str],
    look: Look,
) -> Figure:
    """What changes step by step, a panel for each way: a row for each column of the table, its values in its own unit.

    Colours are standard deviations from the mean of the data, from -2 to 2; of columns of categories, whose cells name
    these, those of the categories. Of many columns those are shown that change most.

    Args:
        values: `(ways, steps, D)`.
        title: above the figure.
        labels: of the ways.
        ticks: of the steps.
        look: the columns and their units.
    """
    count, steps = values.shape[:2]
    made = look.numbers(values.flatten(0, 1))
    known = made if look.seen is None else look.seen
    called, (numbers, seen) = _ready(look.columns, (made, known), scale=2)
    numbers = numbers.reshape(count, steps, -1)
    mean, spread = moments(seen)
    standard = (numbers - mean) / spread
    change = np.ptp(np.nan_to_num(standard), axis=1).max(0)
    order = np.sort(np.argsort(-change, kind="stable")[:HEATED])
    if len(order) < numbers.shape[-1]:
        title += f" (the {len(order)} of {numbers.shape[-1]} columns that change most)"
    across = 2 if count > 1 and steps <= 9 else 1
    size = 0.62 * steps + 1.5, 0.26 * len(order) + 0.7
    rows = math.ceil(count / across)
    figure = new_figure(across * size[0] + 0.7, max(rows * size[1] + 0.6, 2.4))
    every = figure.subplots(rows, across, squeeze=False).ravel()
    for axes in every[count:]:
        axes.set_visible(False)
    for way, (axes, label) in enumerate(zip(every, labels, strict=False)):
        columns = [called[j] for j in order]
        _heat(axes, columns, numbers[way][:, order], standard[way][:, order])
        axes.set_xticks(range(steps), ticks, fontsize=7)
        axes.set_title(drawable(label), fontsize=9, parse_math=False)
    drawn = ScalarMappable(Normalize(-REACH, REACH), SPREAD)
    bar = figure.colorbar(drawn, ax=list(every[:count]), shrink=0.6, aspect=30)
    bar.set_label("standard deviations from the mean of the data", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


# --------------------------------------------------------------------------------------------------------------------


def _heat(
    axes: Axes, columns: Sequence[Column], numbers: np.ndarray, standard: np.ndarray
) -> None:
    """One panel: columns downwards, steps to the right, `numbers` and `standard` `(steps, columns)`."""
    steps = len(numbers)
    shades = colormaps[SPREAD](Normalize(-REACH, REACH, clip=True)(standard))
    for j, column in enumerate(columns):
        if column.categories:
            known = np.isfinite(numbers[:, j])
            codes = numbers[known, j].astype(int)
            shades[known, j] = [to_rgba(colour(code), PALE) for code in codes]
            shades[~known, j] = 0  # blank
    axes.imshow(shades.swapaxes(0, 1), aspect="auto")
    axes.set_yticks(range(len(columns)), [drawable(c.name)[:18] for c in columns])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
        text.set_fontsize(8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for step in range(steps):
        for j, column in enumerate(columns):
            pale = bool(column.categories)
            light = pale or np.nan_to_num(standard[step, j]) > 0
            how: Any = {"ha": "center", "va": "center", "fontsize": 6.5}
            how["color"] = "black" if light else "white"
            cell = _cell(column, numbers[step, j])
            axes.text(step, j, cell, parse_math=False, **how)


def _cell(column: Column, value: float) -> str:
    """A value in its own unit, in few signs."""
    if not np.isfinite(value):
        return ""
    if column.categories:
        place = min(max(round(value), 0), len(column.categories) - 1)
        return drawable(str(column.categories[place])[:8])
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _by_column(
    columns: Sequence[Column], height: float, room: float
) -> tuple[Figure, list[Axes]]:
    """A panel for each of the first columns, under its name."""
    shown = columns[:MOST]
    figure, every = panels(len(shown), 2.9, height, least=5, room=room)
    for column, axes in zip(shown, every, strict=True):
        axes.set_title(drawable(column.name), fontsize=9, parse_math=False)
    return figure, every


class _Numbers(NamedTuple):
    """A column of numbers without categories."""

    name: str
    kind: str = "real"
    categories: tuple[object, ...] = ()


def _ready(
    columns: Sequence[Column], tables: Sequence[np.ndarray], *, scale: int = SCALE
) -> tuple[list[Column], list[np.ndarray]]:
    """The same with a scale of more numbers than that as numbers, whose places then count."""
    drawn: list[Column] = list(columns)
    copies = [np.array(table, float) for table in tables]
    for j, column in enumerate(columns):
        numbers = [c for c in column.categories if isinstance(c, (int, float))]
        if len(numbers) <= scale or len(numbers) < len(column.categories):
            continue
        drawn[j] = _Numbers(column.name)
        for table in copies:
            there = np.isfinite(table[:, j])
            table[there, j] = np.array(numbers, float)[table[there, j].astype(int)]
    return drawn, copies


def _marginal(
    axes: Axes, column: Column, values: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """One column of each table."""
    plain(axes, heights=False)
    values = [v[np.isfinite(v)] for v in values]
    if column.categories:
        count = len(column.categories)
        width = 0.8 / len(values)
        for i, (v, name) in enumerate(zip(values, names, strict=True)):
            shares = np.bincount(v.astype(int), minlength=count) / max(len(v), 1)
            places = np.arange(count) + (i - (len(values) - 1) / 2) * width
            axes.bar(places, shares, width, color=colour(i), alpha=0.8, label=name)
        _label(axes, column, "x")
        return
    edges: Any = _edges(column, values)
    for i, (v, name) in enumerate(zip(values, names, strict=True)):
        inside = v[(v >= edges[0]) & (v <= edges[-1])]
        weights = np.full(len(inside), 1 / max(len(v), 1))
        shape: Any = (
            {"alpha": 0.6} if i == 0 else {"histtype": "step", "linewidth": 1.3}
        )
        axes.hist(inside, edges, weights=weights, color=colour(i), label=name, **shape)
    if _is_log(column, values):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _edges(column: Column, values: Sequence[np.ndarray]) -> np.ndarray:
    """The ends of bins, without the far tails, which would leave no room for the rest."""
    low = min(np.quantile(v, 0.001) for v in values)
    high = max(np.quantile(v, 0.999) for v in values)
    if _is_log(column, values):
        return np.geomspace(low, high, BINS + 1)
    if column.kind in ("count", "levels"):
        step = max(1, math.ceil((high - low + 1) / BINS))
        return np.arange(math.floor(low), high + step + 1, step) - 0.5
    return edges_of(values[0], low, high if high > low else low + 1)


def _is_log(column: Column, values: Sequence[np.ndarray]) -> bool:
    """Whether positive reals spread over so much that only their logarithms show."""
    if column.kind != "positive":
        return False
    together = np.concatenate(list(values))
    low, high = np.quantile(together[np.isfinite(together)], (0.001, 0.999))
    return bool(low > 0 and high > DECADES * low)


def _places(column: Column, values: np.ndarray, seed: int) -> np.ndarray:
    """Where the points of a column lie: at its numbers, or in a band around a code."""
    if not column.categories:
        return values
    return values + np.random.default_rng(seed).uniform(-WIDTH, WIDTH, len(values))


def _axis(axes: Axes, column: Column, values: Sequence[np.ndarray], which: str) -> None:
    """The ends, the scale and the labels of an axis along which a column lies."""
    if column.categories:
        _label(axes, column, which)
        return
    values = [v[np.isfinite(v)] for v in values]
    edges = _edges(column, values)
    is_log = _is_log(column, values)
    margin = 0 if is_log else 0.03 * (edges[-1] - edges[0])
    axes.set(**{f"{which}lim": (edges[0] - margin, edges[-1] + margin)})
    if is_log:
        axes.set(**{f"{which}scale": "log"})
    else:  # few numbers, so that long ones do not meet
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(3))


def _label(axes: Axes, column: Column, which: str) -> None:
    """The names of categories along an axis: all of a few, of many every so many."""
    count = len(column.categories)
    places = list(range(0, count, math.ceil(count / LABELS)))
    texts = [drawable(str(column.categories[i])[:12]) for i in places]
    axis = axes.xaxis if which == "x" else axes.yaxis
    turned = 45 if which == "x" and sum(map(len, texts)) > 24 else 0
    axis.set_ticks(places, texts, rotation=turned, fontsize=7, parse_math=False)
    axes.set(**{f"{which}lim": (-0.6, count - 0.4)})


def _related(table: np.ndarray) -> list[int]:
    """The columns, those first whose ranks hang together most with those of others."""
    whole = table[np.isfinite(table).all(1)][:5000]
    if len(whole) < 3:
        return list(range(table.shape[1]))
    ranks = whole.argsort(0).argsort(0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        together = np.nan_to_num(np.abs(np.corrcoef(ranks.T)))
    np.fill_diagonal(together := np.atleast_2d(together), 0)
    return [int(j) for j in np.argsort(-together.max(0), kind="stable")]


def _confusion(axes: Axes, column: Column, data: np.ndarray, made: np.ndarray) -> None:
    """Of the cells of each category, in a column of the panel, the shares that are made again as each."""
    count = len(column.categories)
    there = np.isfinite(data)
    shares = np.zeros((count, count))
    np.add.at(shares, (made[there].astype(int), data[there].astype(int)), 1)
    shares /= np.maximum(shares.sum(0), 1)
    axes.imshow(
        shares, origin="lower", cmap=f"{SPREAD}_r", vmin=0, vmax=1, aspect="auto"
    )
    _label(axes, column, "x")
    _label(axes, column, "y")


def _against(axes: Axes, column: Column, data: np.ndarray, made: np.ndarray) -> None:
    """Numbers made again over those of the data, with the line on which they would be the same."""
    edges = _edges(column, [data[np.isfinite(data)]])
    axes.scatter(data, made, s=6, alpha=0.5, linewidths=0)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color="0.6", linewidth=0.8, zorder=0)
    if _is_log(column, [data]):
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(edges[0], edges[-1])
    plain(axes)
