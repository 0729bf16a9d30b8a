"""Classes beside labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import drawable, legend, plain, single

MOST = 20  # labels and classes whose cells hold their numbers
DARK = 0.5  # from which share on a number is written in white


def confusion(
    counts: Tensor, labels: Sequence[object], classes: Sequence[object]
) -> Figure:
    """How the data of each label (rows) are classed (columns): shares of the row, and numbers of data.

    Args:
        counts: `(labels, classes)`.
        labels: what the rows are called.
        classes: what the columns are called.
    """
    table = counts.double().numpy()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    rows, columns = table.shape
    figure, axes = single(2.4 + 0.42 * columns, 1.8 + 0.34 * rows)
    axes.imshow(shares, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), [drawable(name) for name in classes], rotation=45)
    axes.set_yticks(range(rows), [drawable(name) for name in labels])
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
        text.set_fontsize(8)
    axes.set_xlabel("most probable class under q(y | x)", fontsize=9)
    axes.set_ylabel("label", fontsize=9)
    for row, column in np.argwhere(table) if max(rows, columns) <= MOST else ():
        colour = "white" if shares[row, column] > DARK else "black"
        number = f"{int(table[row, column])}"
        place: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 7,
            "color": colour,
        }
        axes.text(column, row, number, **place)
    axes.set_title(
        "labels and classes, darker for a larger share of the row", fontsize=10
    )
    return figure


def reliability(bins: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """How often the most probable class is right, by its probability; a probability that means what it says is on the
    diagonal.

    Args:
        bins: by name of what is probable, how many data each bin has, its mean probability, and how often it is right.
    """
    figure, axes = single(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    handles = []
    for name, (sizes, confidence, accuracy) in bins.items():
        there = sizes > 0
        share = accuracy[there].double()
        around = (share * (1 - share) / sizes[there]).sqrt()
        (line,) = axes.plot(confidence[there], share, linewidth=1)
        bar: Any = {"fmt": "none", "ecolor": line.get_color(), "elinewidth": 1}
        axes.errorbar(confidence[there], share, around, **bar)
        area = 200 * sizes[there] / sizes.sum() + 8
        drawn_in = line.get_color()
        axes.scatter(confidence[there], share, s=area, linewidths=0, color=drawn_in)
        line.set_label(name)
        handles.append(line)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the most probable class", fontsize=9)
    axes.set_ylabel("how often it is the label", fontsize=9)
    axes.set_title(
        "reliability ± one standard error, larger where there are more data",
        fontsize=10,
    )
    legend(axes, handles, [*bins], loc="lower right")
    plain(axes)
    return figure
