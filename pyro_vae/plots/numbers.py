"""Numbers of training and of evaluation: curves, histograms and points."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.plots.canvas import (
    cloud,
    drawable,
    edges_of,
    legend,
    new_figure,
    panels,
    plain,
    single,
    thinned,
    titled,
    triangle,
)
from pyro_vae.plots.colours import DATA, GREY, MODEL, MOST_CLASSES, class_style, colour

LONGEST = 2.5  # times as long as wide that a plane is drawn
LEAST_SPAN = 0.1  # nats that the axis of a bound shows at least


def learning_curves(
    history: Sequence[Mapping[str, float]], *, bound: str = "ELBO"
) -> Figure:
    """ELBO, reconstruction and KL by epoch, in nats per datum; `history` holds rows like those of `metrics.csv`.

    Under a guide that is a point the ELBO is called by another name, `bound`.
    """
    figure = new_figure(10, 3.6)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) == 1 else None
    names_in_words = {"elbo": bound, "kl": "KL"}
    for axes, names in zip(
        figure.subplots(1, 2), (("elbo",), ("reconstruction", "kl")), strict=True
    ):
        for i, name in enumerate(names):
            for prefix, style, label in (
                ("", "-", "train"),
                ("validation_", "--", "validation"),
            ):
                values = [row[prefix + name] for row in history]
                if any(math.isfinite(v) for v in values):
                    text = f"{names_in_words.get(name, name)}, {label}"
                    axes.plot(
                        epochs,
                        values,
                        style,
                        color=colour(i),
                        label=text,
                        marker=marker,
                        alpha=0.6 if prefix else 1,
                    )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("nats per datum")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
        values = sorted(
            v
            for line in axes.get_lines()
            for v in np.asarray(line.get_ydata(), float)
            if math.isfinite(v)
        )
        if (
            len(names) == 1 and len(epochs) > 10
        ):  # the first epochs would flatten all that follows
            low, high = values[len(values) // 20], values[-1]
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure


def bound_curve(curve: Mapping[int, Tensor], better: float | None = None) -> Figure:
    """The mean of the bound `L_k` over the number of particles k, nats per datum; a curve that still rises at the end
    says that `log p(x)` is higher. Bars are standard errors of the distance to the last point, over the same data: by
    how much the curve may rise or fall between the two by chance.

    Args:
        curve: the bound of each datum by k.
        better: the mean of an estimate by other draws, which becomes a line.
    """
    figure, axes = single(5.6, 3.8)
    sizes, means = list(curve), [bound.mean().item() for bound in curve.values()]
    last = [*curve.values()][-1]
    errors = [_standard_error(bound - last) for bound in curve.values()]
    axes.set_xscale("log")
    axes.errorbar(sizes, means, errors, marker="o", capsize=3, color=DATA)
    for k, mean in zip(sizes, means, strict=True):
        axes.annotate(
            f"{mean:.2f}",
            (k, mean),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
            fontsize=8,
        )
    axes.margins(0.12, 0.2)
    title = "importance-weighted bound on log p(x)"
    if better is not None:
        axes.axhline(better, color=MODEL, linestyle="--")
        axes.annotate(
            f"log p(x) by better draws: {better:.2f}",
            (0.02, better),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(0, 4),
            fontsize=8,
            color=MODEL,
        )
        title = "importance-weighted bound of the guide's own draws"
    low, high = axes.get_ylim()
    short = max(0.0, LEAST_SPAN - (high - low))  # rounding shall not look like a curve
    axes.set_ylim(low - short / 2, high + short / 2)
    axes.set_xlabel("particles K")
    axes.set_ylabel("nats per datum")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def _standard_error(values: Tensor) -> float:
    """Of a mean over data; 0 of a single one."""
    n = len(values)
    return values.double().std().item() / math.sqrt(n) if n > 1 else 0.0


def brackets(bounds: Tensor, limits: Tensor, certain: float) -> Figure:
    """Lower and upper bounds of each datum about their middle, the narrowest first; nats.

    Args:
        bounds: `(N, 2)`, finite.
        limits: the same with their noise, `(N, 2)`.
        certain: how far apart bounds are that certify a datum.
    """
    figure, axes = single(5.6, 3.8)
    order = (bounds[:, 1] - bounds[:, 0]).abs().argsort()
    bounds, limits = bounds[order].cpu().double(), limits[order].cpu().double()
    middle = bounds.mean(1, keepdim=True)
    places = np.arange(1, len(bounds) + 1)
    axes.axhspan(-certain / 2, certain / 2, color="0.9", label=f"within {certain} nats")
    for (low, high), color, width, name in (
        ((limits - middle).numpy().T, "0.6", 1.0, "with their noise"),
        ((bounds - middle).numpy().T, DATA, 3.0, "between the bounds"),
    ):
        axes.vlines(places, low, high, color=color, linewidth=width, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("data, by the distance of their bounds")
    axes.set_ylabel("log p(x) about the middle, nats")
    axes.set_title("where log p(x) of each datum lies", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return figure


def histogram(values: Tensor, label: str, *, limit: float | None = None) -> Figure:
    """How often values occur, `(N,)`, of those that are finite; bars beyond `limit` are red, and none crosses it."""
    finite = values[values.isfinite()].detach().cpu().double().numpy()
    edges = edges_of(finite, *(finite.min(), finite.max()) if len(finite) else (0, 1))
    if limit is not None and edges[0] < limit < edges[-1]:
        edges = edges + (limit - edges[edges <= limit][-1])
        edges = np.append(2 * edges[0] - edges[1], edges)
    figure, axes = single(5.6, 3.4)
    counts, edges = np.histogram(finite, edges)
    beyond = (
        np.zeros(len(counts), bool) if limit is None else edges[:-1] >= limit - 1e-9
    )
    axes.bar(
        edges[:-1],
        counts,
        np.diff(edges),
        align="edge",
        edgecolor="white",
        color=[MODEL if red else DATA for red in beyond],
    )
    if limit is not None:
        axes.axvline(limit, color=MODEL, linestyle="--")
    axes.set_xlabel(label)
    axes.set_ylabel("data")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axes)
    return figure


def scatter(means: Tensor, labels: np.ndarray | None) -> Figure:
    """Posterior means `(n, 2)` in the plane, where there are labels (of at most 56 kinds) by these.

    Each kind has a colour, from the eighth on together with another mark.
    """
    points = means.detach().cpu().numpy()
    figure, axes = single(6.4, 5.6)
    kinds = [] if labels is None else sorted({k for k in labels.tolist() if k == k})  # noqa: PLR0124  # not nan
    if labels is None or not 1 < len(kinds) <= MOST_CLASSES:
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6, linewidths=0)
    else:
        dots = []
        for i, kind in enumerate(kinds):
            x, y = points[labels == kind].T
            style = class_style(i)
            dots.append(axes.scatter(x, y, s=10, alpha=0.7, linewidths=0, **style))
        columns = math.ceil(len(kinds) / 24)
        place: Any = {"markerscale": 2, "loc": "outside right center"}
        legend(figure, dots, kinds, ncols=columns, **place)
    axes.set_xlabel("z[0]")
    axes.set_ylabel("z[1]")
    axes.set_aspect("equal")
    _no_strip(axes)
    axes.grid(alpha=0.3)
    axes.set_title("posterior means E[z | x]", fontsize=10)
    return figure


def _no_strip(axes: Axes) -> None:
    """Widen the shorter axis of a plane with equal units, where its panel would be too narrow to be read."""
    ends = {"x": axes.get_xlim(), "y": axes.get_ylim()}
    least = max(high - low for low, high in ends.values()) / LONGEST
    for name, (low, high) in ends.items():
        more = max(0.0, least - (high - low)) / 2
        axes.set(**{f"{name}lim": (low - more, high + more)})


def _over(
    axes: Axes,
    filled: tuple[str, np.ndarray],
    outlined: tuple[str, np.ndarray],
    edges: Any,
    **line: Any,
) -> None:
    """Two named samples as histograms of equal area, the second a line over the first."""
    name, values = filled
    axes.hist(values, edges, density=True, color=DATA, alpha=0.6, label=name)
    name, values = outlined
    axes.hist(values, edges, density=True, histtype="step", label=name, **line)
    plain(axes, heights=False)


def aggregated_posterior(
    z: Tensor, prior: Tensor, activity: Tensor, *, most: int = 12
) -> Figure:
    """Draws of q(z), the posteriors of all data together, over draws of p(z), latent by latent.

    Where the two differ, draws from the prior are unlike the latents that the decoder has seen. Latents that agree one
    by one may still differ together.

    Args:
        z: one draw of q(z | x) for each datum, `(n, D)`.
        prior: draws from p(z), `(m, D)`; tens of thousands make its outline smooth.
        activity: of each latent, `(D,)`; the most active stand first.
        most: panels at most.

    Source: Hoffman & Johnson 2016, ELBO Surgery.
    """
    order = activity.cpu().argsort(descending=True)[:most].tolist()
    drawn, expected = (
        z.detach().cpu().double().numpy(),
        prior.detach().cpu().double().numpy(),
    )
    figure, every = panels(len(order), 2.5, 1.9, least=4)
    for axes, d in zip(every, order, strict=True):
        ends = np.concatenate(
            [np.quantile(v[:, d], (0.001, 0.999)) for v in (drawn, expected)]
        )
        margin = 0.05 * np.ptp(ends) or 1.0
        edges = edges_of(drawn[:, d], ends.min() - margin, ends.max() + margin)
        posteriors = "q(z), the data's posteriors", drawn[:, d]
        of_prior = "p(z)", expected[:, d]
        _over(axes, posteriors, of_prior, edges, color="black", linewidth=1.2)
        axes.set_title(f"z[{d}], activity {activity[d].item():.2g}", fontsize=9)
    more = (
        ""
        if len(order) == len(activity)
        else f" (the {len(order)} most active of {len(activity)} latents)"
    )
    return titled(figure, f"aggregated posterior and prior{more}")


def separation(
    names: Sequence[str],
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    areas: Mapping[str, float],
) -> Figure:
    """Each score of data inside and outside the distribution of the training data, as histograms of equal area.

    Args:
        names: of the two data sets, inside and outside.
        pairs: by name of the score, its values inside, `(n,)`, and outside, `(m,)`.
        areas: by the same names, the AUROC.
    """
    figure = new_figure(9, 5.4)
    for axes, (name, pair) in zip(
        figure.subplots(2, 2).ravel(), pairs.items(), strict=True
    ):
        drawn = [v[v.isfinite()].detach().cpu().numpy() for v in pair]
        ends = [np.quantile(v, (0.002, 0.998)) for v in drawn if len(v)] or [
            np.zeros(2)
        ]
        low, high = np.min(ends), np.max(ends)
        edges = edges_of(drawn[0], low, high)
        for v, drawn_in in zip(drawn, (DATA, MODEL), strict=True):
            axes.hist(v, edges, density=len(v) > 0, alpha=0.6, color=drawn_in)
        axes.set_title(f"{name}, AUROC {areas[name]:.3f}", fontsize=9)
        axes.set_xlabel("nats", fontsize=8)
        plain(axes, heights=False)
    bars = figure.axes[0].containers
    legend(figure, bars, names, ncols=2, loc="outside lower center")
    return figure


def posterior_pairs(
    true: np.ndarray,
    guide: np.ndarray,
    names: Sequence[str],
    title: str,
    *,
    points: int = 1000,
) -> Figure:
    """Draws of p(z | x) and of q(z | x) for one datum, each of n latents alone and pair by pair.

    Args:
        true: draws of the posterior, `(draws, n)`.
        guide: draws of the guide, `(m, n)`.
        names: of the latents.
        title: above the figure.
        points: draws of each kind at most in a panel of a pair.
    """
    both = np.concatenate(
        [np.quantile(v, (0.001, 0.999), axis=0) for v in (true, guide)]
    )
    margin = 0.05 * np.ptp(both, axis=0)
    low, high = both.min(0) - margin, both.max(0) + margin
    few, n = thinned((true, guide), points), len(names)
    size = max(1.9 * n + 0.4, 4.2), max(1.7 * n + 0.9, 3.4)
    figure, every = triangle(names, *size, sharex="col")
    for row in range(n):
        alone = every[row, row]
        by_nuts = "p(z | x), by NUTS", true[:, row]
        of_guide = "q(z | x), the guide", guide[:, row]
        edges = edges_of(true[:, row], low[row], high[row])
        _over(alone, by_nuts, of_guide, edges, color=MODEL)
        alone.set_xlim(low[row], high[row])
        for column in range(row):
            axes = every[row, column]
            cloud(axes, [draws[:, [column, row]] for draws in few], s=5, alpha=0.5)
            axes.set_ylim(low[row], high[row])
            plain(axes)
    return titled(figure, title)


def use_of_latents(
    used: Tensor,
    active: Tensor,
    label: str,
    names: Sequence[str] | None = None,
    *,
    errors: Tensor | None = None,
) -> Figure:
    """How much each latent carries, as bars in order; those that are not `active` are grey.

    Args:
        used: nats of KL, or the variance of its posterior mean, of each latent, `(D,)`.
        active: which latents are active, `(D,)` booleans.
        label: what `used` is.
        names: what the latents are called, where that is not their number.
        errors: the standard error of each, `(D,)`, drawn as a bar.
    """
    order = used.argsort(descending=True)
    heights, places = used[order].tolist(), list(range(len(used)))
    figure, axes = single(6.4, 3.4)
    colours = [DATA if is_active else GREY for is_active in active[order].tolist()]
    around = None if errors is None else errors[order].tolist()
    axes.bar(places, heights, color=colours, yerr=around, ecolor="black", capsize=2)
    shown = places[:: math.ceil(len(places) / 20)]
    numbers = [int(order[place]) for place in shown]
    called = [names[i] if names else f"{i}" for i in numbers]
    axes.set_xticks(shown, called, fontsize=8, rotation=90 if names else 0)
    axes.set_xlabel("latent (from 0); grey: not active")
    axes.set_ylabel(label)
    plain(axes)
    return figure


def bars(
    groups: Mapping[str, Mapping[str, tuple[float, float]]],
    label: str,
    *,
    title: str = "",
) -> Figure:
    """Numbers with their standard errors as bars, such as the terms of an ELBO of two runs, or of each class.

    Args:
        groups: by what the legend says, by what stands below a bar, a number and its standard error.
        label: what the numbers are.
        title: above the figure.

    >>> figure = bars({"test": {"ELBO": (-94.1, 0.6), "KL": (25.0, 0.2)}}, "nats per datum")
    >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
    [-94.1, 25.0]
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure, axes = single(max(4.2, 1.2 + 0.45 * len(names) * len(groups)), 3.6)
    width, handles = 0.8 / max(len(groups), 1), []
    for i, group in enumerate(groups.values()):
        there = [j for j, name in enumerate(names) if name in group]
        places = [j + (i - (len(groups) - 1) / 2) * width for j in there]
        means, errors = zip(*(group[names[j]] for j in there), strict=True)
        how: Any = {"color": colour(i), "ecolor": "black", "capsize": 3}
        handles.append(axes.bar(places, means, width, yerr=errors, **how))
    axes.set_xticks(range(len(names)), [drawable(name) for name in names], fontsize=8)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
        text.set_rotation(45 if len(names) > 6 else 0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(label)
    axes.set_title(title or "bars: ± one standard error", fontsize=10)
    if len(groups) > 1:
        legend(axes, handles, [*groups])
    plain(axes)
    return figure
