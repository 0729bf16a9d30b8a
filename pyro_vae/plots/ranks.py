"""Ranks of true latents among draws of a guide, beside those of an exact posterior."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom
from torch import Tensor

from pyro_vae.plots.canvas import legend, panels, plain
from pyro_vae.plots.colours import colour

LEVEL = 0.95  # of a band, for all curves of its panel together
POINTS = 100  # of a curve, at most
REPLICATES = 10_000  # of uniform ranks, for a band
THIN = 0.7  # width of a line that is not named


def simulated_ranks(
    num_draws: int,
    joint: Mapping[str, Tensor],
    latents: Mapping[str, Tensor],
    worst: Sequence[str],
    *,
    regions: Tensor | None = None,
) -> Figure:
    """How often regions of the guide hold the true latents, and cumulative ranks less those of an exact posterior.

    Args:
        num_draws: L; ranks are `0, ..., L`.
        joint: ranks of densities by name, `(n,)` each.
        latents: ranks of latents by name, `(n,)` each.
        worst: the latents that are named.
        regions: ranks of `log q(z|x)`; `None` where it is not known.
    """
    shown = 2 + (regions is not None)
    figure, every = panels(shown, 3.7, 3.5, least=3.7, room=0.3)
    n = len(next(iter(joint.values())))
    if regions is not None:
        _coverage(every[0], num_draws - regions, num_draws)
    for axes, ranks, title, named in (
        (every[-2], joint, "ranks of densities", list(joint)),
        (every[-1], latents, _headed(latents), worst),
    ):
        _differences(axes, ranks, num_draws, named)
        axes.set_title(title, fontsize=10)
    title = f"{n:,} data drawn from the model; of an exact posterior a panel stays in the grey 95 % of the time"
    figure.suptitle(title, fontsize=10)
    return figure


def _headed(latents: Mapping[str, Tensor]) -> str:
    return (
        "ranks of the latent"
        if len(latents) == 1
        else f"ranks of {len(latents)} latents"
    )


def _points(num_draws: int) -> Tensor:
    """Numbers of ranks below which those are counted that lie there, at most so many."""
    count = min(POINTS, num_draws)
    return torch.linspace(1, num_draws, count).round().long().unique()


def _shares(ranks: Tensor, points: Tensor) -> np.ndarray:
    """What share of ranks lies below each point."""
    return (ranks[:, None] < points).double().mean(0).numpy()


def _coverage(axes: Axes, ranks: Tensor, num_draws: int) -> None:
    """How often the region of each probability holds the truth."""
    points = _points(num_draws)
    levels = points.numpy() / (num_draws + 1)
    low, high = band(len(ranks), levels, LEVEL)
    axes.fill_between(levels, low, high, color="grey", alpha=0.25, lw=0)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    ends = ([0.0], _shares(ranks, points), [1.0])
    axes.plot(
        np.concatenate([[0.0], levels, [1.0]]), np.concatenate(ends), linewidth=1.4
    )
    axes.text(0.03, 0.95, "too wide", fontsize=8, color="dimgrey", va="top")
    axes.text(0.97, 0.04, "too narrow", fontsize=8, color="dimgrey", ha="right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("probability of the region of highest q(z|x)", fontsize=9)
    axes.set_ylabel("how often it holds the true latents", fontsize=9)
    axes.set_title("expected coverage", fontsize=10)
    plain(axes)


def _differences(
    axes: Axes, ranks: Mapping[str, Tensor], num_draws: int, named: Sequence[str]
) -> None:
    """Cumulative ranks less the uniform ones: named curves in colours before all others."""
    points = _points(num_draws)
    uniform = points.numpy() / (num_draws + 1)
    n = len(next(iter(ranks.values())))
    low, high = band(n, uniform, 1 - (1 - LEVEL) / len(ranks))
    axes.fill_between(
        uniform, low - uniform, high - uniform, color="grey", alpha=0.25, lw=0
    )
    axes.axhline(0, color="grey", linewidth=1, linestyle=":")
    ends, handles = np.array([0.0]), []
    reach = (high - uniform).max()
    for name in [*(set(ranks) - set(named)), *named]:
        curve = _shares(ranks[name], points) - uniform
        reach = max(reach, np.abs(curve).max())
        style: dict[str, Any] = {"color": "black", "alpha": 0.35, "linewidth": THIN}
        if name in named:
            style = {"color": colour(list(named).index(name)), "linewidth": 1.3}
        (line,) = axes.plot(
            np.concatenate([ends, uniform, ends + 1]),
            np.concatenate([ends, curve, ends]),
            **style,
        )
        handles += [line] if name in named else []
    if named:
        legend(axes, handles, named, loc="upper center", ncols=min(3, len(named)))
    axes.set_ylim(-1.1 * reach, (1.4 if named else 1.1) * reach)  # with room for names
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of draws below the true value", fontsize=9)
    axes.set_ylabel("cumulative share − uniform", fontsize=9)
    plain(axes)


def band(
    n: int, below: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Between what shares the cumulative distribution of n ranks lies at some points, at all of them at once.

    Args:
        n: how many ranks.
        below: what share of uniform ranks lies below each point, rising, `(P,)`.
        level: how often the whole curve lies inside.

    Returns:
        The least and the largest share of the n ranks below the points, `(P,)` each.

    Source: Säilynoja, Bürkner & Vehtari 2022, Graphical Test for Discrete Uniformity and its Applications in
    Goodness-of-Fit Evaluation and Multiple Sample Comparison, by simulation.
    """
    generator = np.random.default_rng(0)
    steps = np.diff(below, prepend=0, append=1)
    counts = generator.multinomial(n, steps, size=REPLICATES).cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, n, below), binom.sf(counts - 1, n, below))
    tail = np.quantile(2 * tails.min(1), 1 - level)
    low, high = binom.ppf(tail / 2, n, below), binom.ppf(1 - tail / 2, n, below)
    return low / n, high / n
