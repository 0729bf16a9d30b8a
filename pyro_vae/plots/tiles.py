"""Data side by side, as pictures or as lines, on one scale."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import single
from pyro_vae.plots.colours import COLOURS, MISSING
from pyro_vae.plots.looks import Look, as_series, ends_of, kind_of

ROWS = 60  # of pictures in a figure
SIDE = 180  # pixels of a picture that are drawn; larger ones are averaged
SMALL = 16  # smaller ones get larger pixels, so that the gaps between them are narrow
PLANES = 16  # of an image that are drawn side by side
SLENDER = 8  # times longer than wide: more is stretched
POINTS = 500  # places along a line; where there are more elements, their range is drawn


def is_image(shape: Sequence[int]) -> bool:
    """Whether data of this shape are shown as one picture each: of `(H, W)`, `(1, H, W)` or `(3, H, W)`."""
    return kind_of(shape) == "image" and (len(shape) == 2 or shape[0] in (1, 3))


def grid(
    x: Tensor,
    *,
    columns: int,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    look: Look | None = None,
) -> Figure:
    """Data side by side, row by row: pictures, or for any other shape each datum as a line for each of its channels.

    Missing values, nan, are pixels of a colour that no grey has, and gaps in lines; a datum without any value is blank.

    Args:
        x: `(n, *shape)`; those with 2 or 4 to 16 planes plane by plane. Of many data the first are shown.
        columns: pictures in a row.
        title: above the figure.
        row_labels: at the left of each row.
        column_labels: below each column.
        look: what the data are taken for, and the values that are black and white, in all planes the same; by default
            by their shape, and from 0 to 1, or their own range if they exceed it.
    """
    if len(x) > ROWS * columns:
        title += f" (the first {ROWS * columns:,} of {len(x):,})"
        x = x[: ROWS * columns]
    x = x.detach().cpu().float()
    shape = x.shape[1:]
    look = look or Look(kind_of(shape))
    as_image = look.kind == "image" and (len(shape) == 2 or shape[0] <= PLANES)
    rows = math.ceil(len(x) / columns)
    if not as_image:
        labels = row_labels, column_labels
        return _lines(as_series(x, 1).numpy(), columns, title, labels, look.channels)
    if len(shape) == 3 and shape[0] not in (1, 3):
        title += f" ({shape[0]} planes side by side)"
        x = x.movedim(1, 2).flatten(2)  # (n, h, planes * w)

    # Pictures of a size and form that can be drawn, from 0 to 1.
    x = x.reshape(len(x), -1, *x.shape[-2:])  # (n, 1 or 3, h, w)
    low, high = look.scale or own_scale(x)
    images = _shaded(x, low, high, _drawable)
    h, w, c = images[0].shape
    gap = max(1, round(0.06 * min(h, w)))
    canvas = np.ones(
        (rows * (h + gap) - gap, columns * (w + gap) - gap, c), dtype=np.float32
    )
    blank = x.isnan().flatten(1).all(1)
    for i, image in enumerate(images):
        if blank[i]:
            continue
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w] = image
    scale = min(0.75, 11 / columns) / max(h, w)
    beside = 1.4 if row_labels else 0.2
    high, wide = (scale * pixels for pixels in canvas.shape[:2])
    figure, axes = single(max(wide + beside, 3.2), high + 0.6)
    axes.imshow(
        canvas.squeeze(-1) if c == 1 else canvas,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    across = [i * (w + gap) + (w - 1) / 2 for i in range(len(column_labels))]
    axes.set_xticks(across, column_labels, fontsize=8)
    axes.set_yticks(
        [i * (h + gap) + (h - 1) / 2 for i in range(len(row_labels))], row_labels
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10, wrap=True)
    return figure


def own_scale(x: Tensor) -> tuple[float, float]:
    """From 0 to 1, or as far as values go beyond."""
    low, high = ends_of(x) or (0.0, 1.0)
    return min(0.0, low), max(1.0, high)


def shaded(x: Tensor, low: float, high: float) -> np.ndarray:
    """Pictures `(n, 1 or 3, h, w)` as greys or colours `(n, h, w, 1 or 3)` from 0 to 1, with what is missing marked."""
    return _shaded(x, low, high, lambda same: same)


def _shaded(
    x: Tensor, low: float, high: float, resized: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """The same in another size."""
    missing = x.isnan().any(1, keepdim=True)
    there = x.nan_to_num(posinf=low, neginf=low).clamp(low, high).where(~missing, low)
    shades = (resized(there) - low) / (high - low)
    if not missing.any():
        return shades.movedim(1, -1).numpy()
    # Where pixels are averaged, those that are there say the shade.
    gone = resized(missing.to(x.dtype))
    shades = shades / (1 - gone).clamp_min(1e-6)
    mark = torch.tensor(to_rgb(MISSING)).view(1, 3, 1, 1)
    return shades.where(gone < 0.5, mark).movedim(1, -1).numpy()


def _drawable(x: Tensor) -> Tensor:
    """Pictures `(n, c, h, w)` with large ones averaged, and small and slender ones of larger pixels."""
    h, w = x.shape[-2:]
    if max(h, w) < SMALL:
        times = -(-SMALL // max(h, w))
        x = x.repeat_interleave(times, -1).repeat_interleave(times, -2)
        h, w = times * h, times * w
    if max(h, w) > SIDE:
        size = [min(side, max(1, round(side * SIDE / max(h, w)))) for side in (h, w)]
        x = torch.nn.functional.interpolate(x, size=size, mode="area")
        h, w = size
    if w > SLENDER * h:
        x = x.repeat_interleave(w // (SLENDER * h) + 1, -2)
    if h > SLENDER * w:
        x = x.repeat_interleave(h // (SLENDER * w) + 1, -1)
    return x


def _lines(
    x: np.ndarray,
    columns: int,
    title: str,
    labels: tuple[Sequence[str], Sequence[str]],
    channels: np.ndarray | None,
) -> Figure:
    """Each datum `(channels, times)` in a cell of its own, a line for each channel, from its least to its largest.

    Without those of `channels`, `(channels, 2)`, they are those of the values; elements of one channel that reach very
    differently then have each their own scale.
    Where a value is missing or infinite a line has a gap.
    """
    there = np.isfinite(x)
    x = np.where(there, x, np.nan)
    own = channels is None and x.shape[1] == 1
    if channels is not None:
        low, high = channels.T[:, None, :, None]
    else:
        over: Any = 0 if own else (0, 2)
        low = np.min(x, over, where=there, initial=np.inf, keepdims=True)
        high = np.max(x, over, where=there, initial=-np.inf, keepdims=True)
        known = there.any(over, keepdims=True)
        low, high = (np.where(known, ends, 0.0) for ends in (low, high))
    if own and high.max() - low.min() > 20 * np.median(high - low):
        title += " (each element on a scale of its own)"
    elif own:
        low, high = low.min(), high.max()
    elif x.shape[1] > 1:
        title += " (each channel on a scale of its own)"
    height = ((x - low) / np.where(high > low, high - low, 1.0)).clip(-0.1, 1.1)

    # The lines of all cells, channel by channel.
    rows = math.ceil(len(x) / columns)
    times = x.shape[2]
    across = np.linspace(0.05, 0.95, times) if times > 1 else np.array([0.5])
    cells = np.arange(len(x))
    left, below = cells % columns, rows - 1 - cells // columns
    figure, axes = single(min(1.1 * columns, 12) + 0.6, min(0.8 * rows, 14) + 0.6)
    for channel in range(x.shape[1]):
        along, up = _thinned(across, height[:, channel])
        points = np.empty((*up.shape, 2))
        points[..., 0] = along + left[:, None]
        points[..., 1] = 0.1 + 0.8 * up + below[:, None]
        drawn = COLOURS[channel % len(COLOURS)]
        axes.add_collection(LineCollection(list(points), colors=drawn, linewidths=1))
        if times == 1:
            axes.plot(points[..., 0].ravel(), points[..., 1].ravel(), ".", color=drawn)
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    axes.set_xticks(range(columns + 1), [])
    axes.set_yticks(range(rows + 1), [])
    axes.grid(color="0.85")
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.85")
    for row, label in enumerate(labels[0]):
        axes.text(-0.05, rows - 0.5 - row, label, ha="right", va="center", fontsize=8)
    for column, label in enumerate(labels[1]):
        axes.text(column + 0.5, -0.05, label, ha="center", va="top", fontsize=8)
    axes.set_title(title, fontsize=10, wrap=True)
    return figure


def _thinned(across: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines of many points by the lowest and the highest of each few."""
    few = -(-len(across) // POINTS)
    if few <= 2:
        return across, height
    starts = np.arange(0, len(across), few)
    ends = [f.reduceat(height, starts, axis=1) for f in (np.minimum, np.maximum)]
    return np.repeat(across[starts], 2), np.stack(ends, -1).reshape(len(height), -1)
