"""Data side by side, as pictures or as lines."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import single

ROWS = 60  # of pictures in a figure
SIDE = 180  # pixels of a picture that are drawn; larger ones are averaged
SMALL = 16  # smaller ones get larger pixels, so that the gaps between them are narrow
PLANES = 16  # of an image that are drawn side by side
SLENDER = 8  # times longer than wide: more is stretched
POINTS = 500  # places along a line; where there are more elements, their range is drawn


def is_image(shape: Sequence[int]) -> bool:
    """Whether data of this shape can be shown as pictures: `(H, W)`, `(1, H, W)` or `(3, H, W)`."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def grid(
    x: Tensor, *, columns: int, title: str = "", row_labels: Sequence[str] = ()
) -> Figure:
    """Data side by side, row by row: pictures, or for any other shape each datum as a line over its elements.

    Args:
        x: `(n, *shape)`; pictures are shown from 0 (black) to 1 (white), or over their own range if they exceed it;
            those with 2 or 4 to 16 planes plane by plane. Of many data the first are shown.
        columns: pictures in a row.
        title: above the figure.
        row_labels: at the left of each row.
    """
    if len(x) > ROWS * columns:
        title += f" (the first {ROWS * columns:,} of {len(x):,})"
        x = x[: ROWS * columns]
    x = x.detach().cpu().float()
    shape = x.shape[1:]
    if len(shape) == 3 and not is_image(shape) and shape[0] <= PLANES:
        title += f" ({shape[0]} planes side by side)"
        x = x.movedim(1, 2).flatten(2)  # (n, h, planes * w)
    rows = math.ceil(len(x) / columns)
    if not is_image(x.shape[1:]):
        return _lines(x.flatten(1).numpy(), rows, columns, title, row_labels)

    # Pictures of a size and form that can be drawn, from 0 to 1.
    x = x.reshape(len(x), -1, *x.shape[-2:])  # (n, 1 or 3, h, w)
    x = _drawable(x.nan_to_num(posinf=0, neginf=0))
    low, high = min(0.0, x.min().item()), max(1.0, x.max().item())
    c, h, w = x.shape[1:]
    gap = max(1, round(0.06 * min(h, w)))
    canvas = np.ones(
        (rows * (h + gap) - gap, columns * (w + gap) - gap, c), dtype=np.float32
    )
    for i, image in enumerate(((x - low) / (high - low)).permute(0, 2, 3, 1).numpy()):
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
    axes.set_xticks([])
    axes.set_yticks(
        [i * (h + gap) + (h - 1) / 2 for i in range(len(row_labels))], row_labels
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10, wrap=True)
    return figure


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
    x: np.ndarray, rows: int, columns: int, title: str, row_labels: Sequence[str]
) -> Figure:
    """Each datum as a line in a cell of its own, on one scale; columns of very different ranges each on its own.

    Where a value is missing or infinite a line has a gap.
    """
    there = np.isfinite(x)
    x = np.where(there, x, np.nan)
    low = np.min(x, 0, where=there, initial=np.inf)
    high = np.max(x, 0, where=there, initial=-np.inf)
    low, high = (np.where(there.any(0), ends, 0.0) for ends in (low, high))
    if high.max() - low.min() > 20 * np.median(high - low):
        title += " (each element on a scale of its own)"
    else:
        low, high = low.min(), high.max()
    height = (x - low) / np.where(high > low, high - low, 1.0)
    across = np.linspace(0.05, 0.95, x.shape[1]) if x.shape[1] > 1 else np.array([0.5])
    across, height = _thinned(across, height)
    cells = np.arange(len(x))
    points = np.empty((*height.shape, 2))
    points[..., 0] = across + (cells % columns)[:, None]
    points[..., 1] = 0.1 + 0.8 * height + (rows - 1 - cells // columns)[:, None]
    figure, axes = single(min(1.1 * columns, 12) + 0.6, min(0.8 * rows, 14) + 0.6)
    axes.add_collection(LineCollection(list(points), colors="C0", linewidths=1))
    if x.shape[1] == 1:
        axes.plot(points[..., 0].ravel(), points[..., 1].ravel(), ".", color="C0")
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    axes.set_xticks(range(columns + 1), [])
    axes.set_yticks(range(rows + 1), [])
    axes.grid(color="0.85")
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.85")
    for row, label in enumerate(row_labels):
        axes.text(-0.05, rows - 0.5 - row, label, ha="right", va="center", fontsize=8)
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
