"""A real target beside its labels."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.plots.canvas import drawable, legend, panels, plain, single

MOST = 500  # data whose intervals are drawn


def predictions(
    labels: Tensor, each: Mapping[str, tuple[Tensor, Tensor]], name: str
) -> Figure:
    """Predicted against true, a panel for each density, with intervals around the means; the diagonal is right.

    Args:
        labels: `(N,)`.
        each: by the name of a density its means and how far an interval reaches to both sides, each `(N,)`.
        name: what the target is called.
    """
    some = np.linspace(0, len(labels) - 1, min(MOST, len(labels))).astype(int)
    true = labels.double().numpy()[some]
    figure, every = panels(len(each), 4.2, 3.8, least=4.2)
    ends = [true.min(), true.max()]
    for axes, (density, (mean, reach)) in zip(every, each.items(), strict=True):
        drawn, around = mean.double().numpy()[some], reach.double().numpy()[some]
        axes.plot(ends, ends, color="grey", linewidth=1, linestyle=":")
        axes.errorbar(
            true, drawn, around, fmt="o", ms=3, elinewidth=0.6, alpha=0.5, mec="none"
        )
        axes.set_xlabel(f"{drawable(name)}, true", fontsize=9, parse_math=False)
        axes.set_ylabel(f"mean of {density} and 90 % interval", fontsize=9)
        plain(axes)
    figure.suptitle(f"predicted against true, {len(some)} data", fontsize=10)
    return figure


def calibration(ranks: Mapping[str, Tensor]) -> Figure:
    """How often the label lies in the central interval of each probability.

    Args:
        ranks: by the name of a density, how much of it lies below each label, `(N,)`.
    """
    figure, axes = single(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    handles = []
    for rank in ranks.values():
        inside = 2 * (rank.double() - 0.5).abs()  # the level from which on it is inside
        share = (inside[:, None] <= levels).double().mean(0)
        error = (share * (1 - share) / len(rank)).sqrt()
        (line,) = axes.plot(levels, share, linewidth=1.2)
        low, high = (share - error).clamp_min(0), (share + error).clamp_max(1)
        axes.fill_between(levels, low, high, alpha=0.2, color=line.get_color(), lw=0)
        handles.append(line)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the central interval", fontsize=9)
    axes.set_ylabel("how often it holds the label", fontsize=9)
    axes.set_title("calibration of intervals, ± one standard error", fontsize=10)
    legend(axes, handles, [*ranks], loc="lower right")
    plain(axes)
    return figure
