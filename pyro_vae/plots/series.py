"""Series of one or more channels: data beside what a model makes of them, and what changes along a way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import drawable, new_figure, plain, titled
from pyro_vae.plots.colours import DATA, GREY, MODEL, VALUES, colour
from pyro_vae.plots.looks import Look, as_series

CHANNELS = 6  # that have panels
LINES = 20  # of a group
WITHIN = 0.9  # probability of a band
MARGIN = 0.05


def series(
    data: Tensor | None,
    made: Tensor | None = None,
    draws: Tensor | None = None,
    *,
    title: str = "",
    names: Sequence[str] = (),
    look: Look | None = None,
) -> Figure:
    """Series, a column for each and a row for each channel: data as dots, what a model makes of them as lines.

    Args:
        data: `(n, *shape)`, or `None` where there are none beside.
        made: lines of the model, `(n, *shape)`.
        draws: draws of x, `(draws, n, *shape)`: the band holds 90 % of them at each time.
        title: above the figure.
        names: of the channels.
        look: the scale of each channel.
    """
    first = data if data is not None else made
    assert first is not None
    shape = as_series(first, 1).shape
    axis, usual = _called(first.shape[1:], shape[1])
    rows = min(shape[1], CHANNELS)
    figure, every = _panels(rows, shape[0], [*names] or usual, axis)
    times = np.arange(shape[2])
    for row in range(len(every)):
        for column, axes in enumerate(every[row]):
            if draws is not None:
                some = as_series(draws[:, column], 1)[:, row].double().cpu().numpy()
                tail = (1 - WITHIN) / 2
                low, high = np.nanquantile(some, (tail, 1 - tail), axis=0)
                how: Any = {"color": MODEL, "alpha": 0.25, "linewidth": 0}
                called = f"{100 * WITHIN:.0f} % of draws of the model"
                axes.fill_between(times, low, high, label=called, **how)
            if data is not None:
                line = as_series(data, 1)[column, row].double().cpu().numpy()
                axes.plot(times, line, ".", color=DATA, markersize=3, label="data")
            if made is not None:
                line = as_series(made, 1)[column, row].double().cpu().numpy()
                axes.plot(times, line, color=MODEL, linewidth=1.2, label="model")
            _limits(axes, look, row)
    return titled(figure, _of_channels(title, shape[1]))


def beside(
    groups: Mapping[str, Tensor], *, title: str = "", look: Look | None = None
) -> Figure:
    """Several sets of series side by side on one scale: a column for each, such as data and draws.

    Args:
        groups: by their names `(n, *shape)`: the first 20 are lines, and a band holds 90 % of all at each time.
        title: above the figure.
        look: the scale of each channel.
    """
    every = {name: as_series(x, 1).double().cpu().numpy() for name, x in groups.items()}
    channels = next(iter(every.values())).shape[1]
    axis, names = _called(next(iter(groups.values())).shape[1:], channels)
    rows = min(channels, CHANNELS)
    figure, panels = _panels(rows, len(every), names, axis, wide=3.4)
    tail = (1 - WITHIN) / 2
    for column, (name, x) in enumerate(every.items()):
        shade = colour(column)
        panels[0][column].set_title(drawable(name), fontsize=9, parse_math=False)
        for row in range(len(panels)):
            axes, some = panels[row][column], x[:, row]
            low, high = np.nanquantile(some, (tail, 1 - tail), axis=0)
            times = np.arange(some.shape[1])
            axes.fill_between(times, low, high, color=shade, alpha=0.2, linewidth=0)
            axes.plot(some[:LINES].T, color=shade, linewidth=0.7, alpha=0.6)
            axes.plot(np.nanmedian(some, 0), color="black", linewidth=1.2)
            _limits(axes, look, row)
    shown = _of_channels(title, channels)
    percent = f"{100 * WITHIN:.0f} %"
    figure.suptitle(
        f"{shown}; band: {percent} at each {axis}, black: the median", fontsize=10
    )
    return figure


def along_ways(
    values: Tensor,
    title: str,
    labels: Sequence[str],
    *,
    ticks: Sequence[str],
    look: Look,
) -> Figure:
    """What changes step by step, as lines over each other: a column for each way, a row for each channel.

    A step that is called `data` is dotted and grey; the others go through the colours from dark to light.
    """
    x = as_series(values, 2).double().cpu().numpy()  # (ways, steps, channels, times)
    channels = min(x.shape[2], CHANNELS)
    axis, names = _called(values.shape[2:], channels)
    figure, every = _panels(channels, len(x), names, axis)
    moving = [i for i, tick in enumerate(ticks) if tick != "data"]
    shades = dict(
        zip(moving, colormaps[VALUES](np.linspace(0, 0.9, len(moving))), strict=True)
    )
    for way, label in enumerate(labels):
        every[0][way].set_title(drawable(label), fontsize=9, parse_math=False)
        for row in range(channels):
            axes = every[row][way]
            for step in range(x.shape[1]):
                line = x[way, step, row]
                if step in shades:
                    axes.plot(line, color=shades[step], linewidth=1)
                else:
                    axes.plot(line, color=GREY, linewidth=1, linestyle=":", zorder=0)
            _limits(axes, look, row)
    shown = [f"{ticks[i]}" for i in moving]
    handles = [every[0][0].plot([], [], color=shades[i])[0] for i in moving]
    how: Any = {"frameon": False, "fontsize": 8, "loc": "outside lower center"}
    figure.legend(handles, shown, ncols=len(shown), **how)
    figure.suptitle(_of_channels(title, x.shape[2]), fontsize=10)
    return figure


def _called(shape: Sequence[int], channels: int) -> tuple[str, list[str]]:
    """What the axis below the lines of data of this shape is called, and what the rows of panels are."""
    if (
        len(shape) == 1
    ):  # the columns of a wide table, of which nobody said that they are times
        return "column", [""]
    return "time", [f"channel {i}" for i in range(channels)]


def _panels(
    rows: int, columns: int, names: Sequence[str], axis: str, *, wide: float = 1.9
) -> tuple[Figure, Any]:
    """Panels that share their scale along a row."""
    width, height = max(wide * columns + 0.6, 4.5), 1.5 * rows + 0.9
    figure = new_figure(min(width, 22), height)
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    for row, name in zip(every, names, strict=False):
        if name:
            row[0].set_ylabel(drawable(name), fontsize=9, parse_math=False)
        for axes in row:
            plain(axes)
    for axes in every[-1]:
        axes.set_xlabel(axis, fontsize=8)
    return figure, every


def _of_channels(title: str, count: int) -> str:
    """A title that says so where not all channels have panels."""
    if count <= CHANNELS:
        return title
    return f"{title} (the first {CHANNELS} of {count} channels)"


def _limits(axes: Axes, look: Look | None, channel: int) -> None:
    """From the least to the largest value of the channel in the data."""
    if look is None or look.channels is None:
        return
    low, high = look.channels[channel]
    margin = MARGIN * (high - low)
    axes.set_ylim(low - margin, high + margin)
