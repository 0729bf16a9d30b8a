"""Figures: each function returns a matplotlib `Figure` and touches neither a screen nor a file."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae._figures import drawable, legend, new_figure
from pyro_vae._grid import grid
from pyro_vae.evaluation.outliers import Separation
from pyro_vae.evaluation.posterior import PosteriorComparison
from pyro_vae.models.vae import VAE

__all__ = [
    "aggregated_posterior",
    "bound_curve",
    "grid",
    "interpolation",
    "learning_curves",
    "manifold",
    "posterior_pairs",
    "reconstructions",
    "scatter",
    "separation",
    "traversal",
]
MANY = 2**24  # numbers that a decoder gives at a time
LARGEST = 2**30  # bytes of the pictures that one figure shows


def learning_curves(history: Sequence[Mapping[str, float]], *, bound: str = "ELBO") -> Figure:
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
            for prefix, style, label in (("", "-", "train"), ("validation_", "--", "validation")):
                values = [row[prefix + name] for row in history]
                if any(math.isfinite(v) for v in values):
                    text = f"{names_in_words.get(name, name)}, {label}"
                    axes.plot(
                        epochs,
                        values,
                        style,
                        color=f"C{i}",
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
        if len(names) == 1 and len(epochs) > 10:  # the first epochs would flatten all that follows
            low, high = values[len(values) // 20], values[-1]
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure


def bound_curve(curve: Mapping[int, Tensor]) -> Figure:
    """The mean of the bound `L_k` over the number of particles k, nats per datum; a curve that still rises at the end
    says that `log p(x)` is higher.
    """
    figure = new_figure(5.6, 3.8)
    axes = figure.add_subplot()
    sizes, means = list(curve), [bound.mean().item() for bound in curve.values()]
    axes.semilogx(sizes, means, marker="o")
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
    axes.set_xlabel("particles K")
    axes.set_ylabel("nats per datum")
    axes.set_title("importance-weighted bound on log p(x)", fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def reconstructions(x: Tensor, reconstructed: Tensor, *, columns: int = 10) -> Figure:
    """Data in the odd rows, beneath each its reconstruction; `x` and `reconstructed` are `(n, *shape)`."""
    n = min(len(x), len(reconstructed)) // columns * columns or len(x)
    columns = min(columns, n)
    pairs = torch.stack([x[:n], reconstructed[:n]])  # (2, n, *shape)
    rows = pairs.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)
    labels = ["data", "model"] * (n // columns)
    return grid(
        rows,
        columns=columns,
        title="data, and the mean of p(x | z) at one draw of q(z | x)",
        row_labels=labels,
    )


def scatter(means: Tensor, labels: np.ndarray | None) -> Figure:
    """Posterior means `(n, 2)` in the plane, coloured by label (at most 20 kinds) where there are labels."""
    points = means.detach().cpu().numpy()
    figure = new_figure(6.4, 5.6)
    axes = figure.add_subplot()
    kinds = [] if labels is None else sorted({k for k in labels.tolist() if k == k})  # noqa: PLR0124  # not nan
    if labels is None or not 1 < len(kinds) <= 20:
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6)
    else:
        dots = []
        for i, kind in enumerate(kinds):
            colour = f"C{i}" if len(kinds) <= 10 else _wheel(i, len(kinds))
            x, y = points[labels == kind].T
            dots.append(axes.scatter(x, y, s=8, alpha=0.7, color=colour, linewidths=0))
        legend(figure, dots, kinds, markerscale=2, loc="outside right center")
    axes.set_xlabel("z[0]")
    axes.set_ylabel("z[1]")
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.set_title("posterior means E[z | x]", fontsize=10)
    return figure


def _wheel(i: int, n: int) -> tuple[float, float, float]:
    from matplotlib.colors import hsv_to_rgb

    return tuple(hsv_to_rgb((i / n, 0.75, 0.85 if i % 2 else 0.6)))


@torch.no_grad()
def manifold(vae: VAE, *, side: int = 20) -> tuple[Figure, Tensor]:
    """Means of p(x | z) over the plane of a 2-d latent, z at the normal quantiles of an even grid; (figure, values).

    Source: Kingma & Welling 2013, figure 4.
    """
    parameter = next(vae.parameters())
    elements = math.prod(vae.model.likelihood.shape) * parameter.element_size()
    side = max(2, min(side, math.isqrt(LARGEST // elements)))  # fewer pictures of large data
    u = (torch.arange(side, dtype=parameter.dtype, device=parameter.device) + 0.5) / side
    z = torch.special.ndtri(u)
    plane = torch.stack(
        torch.meshgrid(z, z.flip(0), indexing="xy"), -1
    )  # (side, side, 2), z[1] upwards
    x = vae.decode(plane).mean
    figure = grid(
        x.flatten(0, 1), columns=side, title="mean of p(x | z), z[0] to the right, z[1] upwards"
    )
    return figure, x


@torch.no_grad()
def interpolation(vae: VAE, pairs: Tensor, *, steps: int = 11) -> tuple[Figure, Tensor]:
    """From one datum to another along the straight line between draws of their posteriors; `pairs` is `(n, 2, *shape)`.

    Returns the figure and the means of p(x | z), `(n, steps, *shape)`; the data themselves stand at both ends of a row.
    """
    z = vae.encode(pairs.flatten(0, 1)).sample().unflatten(0, (-1, 2))  # (n, 2, latent)
    t = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device)[:, None]
    x = vae.decode(z[:, :1] * (1 - t) + z[:, 1:] * t).mean  # (n, steps, *shape)
    row = torch.cat([pairs[:, :1], x, pairs[:, 1:]], 1)
    title = "data at both ends, between them the mean of p(x | z) along a line"
    return grid(row.flatten(0, 1), columns=steps + 2, title=title), x


@torch.no_grad()
def traversal(
    vae: VAE, x: Tensor, *, steps: int = 11, width: float = 3.0, most: int = 40
) -> tuple[Figure, Tensor]:
    """Each latent in turn from `-width` to `width`, the others held at one draw of q(z | x).

    Args:
        vae: the model and its guide.
        x: one datum `(1, *shape)`.
        steps: pictures of each latent.
        width: how far a latent goes.
        most: latents at most, those that change the picture most; fewer where the pictures would take 1 GiB.

    Returns:
        The figure, whose rows name the latents, and the means of p(x | z), `(latents, steps, *shape)`.
    """
    z = vae.encode(x).sample()  # (1, latent)
    count, elements = z.shape[-1], math.prod(x.shape[1:])
    values = torch.linspace(-width, width, steps, dtype=z.dtype, device=z.device)

    def means(latents: Tensor) -> Tensor:
        moved = z.repeat(len(latents), steps, 1)  # (latents, steps, latent)
        moved[torch.arange(len(latents)), :, latents] = values
        return vae.decode(moved).mean

    # Some latents at a time, so that memory does not grow with the square of their number.
    some = max(1, MANY // (steps * max(count, elements)))
    shown = torch.arange(count)
    kept = max(1, min(most, LARGEST // (steps * elements * z.element_size())))
    if kept < count:
        change = [_range(means(part)) for part in shown.split(some)]
        shown = torch.cat(change).topk(kept).indices.sort().values.cpu()
    found = torch.cat([means(part) for part in shown.split(some)])
    title = f"mean of p(x | z), one latent at a time from {-width:g} to {width:g}"
    if kept < count:
        title += f" (of {count:,} the {kept} that change it most)"
    labels = [f"z[{i}]" for i in shown.tolist()]
    return grid(found.flatten(0, 1), columns=steps, title=title, row_labels=labels), found


def _range(means: Tensor) -> Tensor:
    """How far a datum's elements go on average while a latent moves, `(latents,)`, from `(latents, steps, *shape)`."""
    return (means.amax(1) - means.amin(1)).flatten(1).mean(1)


def aggregated_posterior(z: Tensor, prior: Tensor, activity: Tensor, *, most: int = 12) -> Figure:
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
    drawn, expected = z.detach().cpu().double().numpy(), prior.detach().cpu().double().numpy()
    columns = min(4, len(order))
    rows = math.ceil(len(order) / columns)
    figure = new_figure(max(2.5 * columns, 4), 1.9 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, d in zip(panels, order, strict=False):
        ends = np.concatenate([np.quantile(v[:, d], (0.001, 0.999)) for v in (drawn, expected)])
        margin = 0.05 * np.ptp(ends) or 1.0
        edges = np.linspace(ends.min() - margin, ends.max() + margin, 41)
        axes.hist(
            drawn[:, d],
            edges,
            density=True,
            color="C0",
            alpha=0.6,
            label="q(z), the data's posteriors",
        )
        axes.hist(
            expected[:, d],
            edges,
            density=True,
            histtype="step",
            color="black",
            linewidth=1.2,
            label="p(z)",
        )
        axes.set_title(f"z[{d}], activity {activity[d].item():.2g}", fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        axes.spines[["left", "top", "right"]].set_visible(False)
    for axes in panels[len(order) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    more = (
        ""
        if len(order) == len(activity)
        else f" (the {len(order)} most active of {len(activity)} latents)"
    )
    figure.suptitle(f"aggregated posterior and prior{more}", fontsize=10)
    return figure


def separation(found: Separation) -> Figure:
    """Each score of data inside and outside the distribution of the training data, as histograms of equal area."""
    figure, detections = new_figure(9, 5.4), found.detections
    for axes, (name, pair) in zip(figure.subplots(2, 2).ravel(), found.pairs.items(), strict=True):
        drawn = [v[v.isfinite()].numpy() for v in pair]
        ends = [np.quantile(v, (0.002, 0.998)) for v in drawn if len(v)] or [np.zeros(2)]
        low, high = np.min(ends), np.max(ends)
        edges = np.linspace(low, high if high > low else low + 1, 51)
        for v in drawn:
            axes.hist(v, edges, density=len(v) > 0, alpha=0.6)
        axes.set_title(f"{name}, AUROC {detections[name].auroc:.3f}", fontsize=9)
        axes.set_xlabel("nats", fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        axes.spines[["left", "top", "right"]].set_visible(False)
    bars = figure.axes[0].containers
    legend(figure, bars, found.names, ncols=2, loc="outside lower center")
    return figure


def posterior_pairs(compared: PosteriorComparison, *, most: int = 4, points: int = 1000) -> Figure:
    """Draws of p(z | x) by NUTS and of q(z | x), each latent alone and pair by pair, for the datum of the largest KL.

    Args:
        compared: from `compare_posterior`.
        most: latents at most; those that together differ most are shown.
        points: draws of each kind at most in a panel of a pair.
    """
    i = int(compared.kl.argmax())
    order = compared.most_different(i, most)
    names = [drawable(compared.names[d]) for d in order]
    true, guide = (
        v[:, order].numpy() for v in (compared.draws[i].flatten(0, 1), compared.guide_draws[i])
    )
    both = np.concatenate([np.quantile(v, (0.001, 0.999), axis=0) for v in (true, guide)])
    margin = 0.05 * np.ptp(both, axis=0)
    low, high = both.min(0) - margin, both.max(0) + margin
    count, n = min(points, len(true), len(guide)), len(names)
    thinned = (v[np.linspace(0, len(v) - 1, count).astype(int)] for v in (true, guide))
    shown = np.stack(list(thinned), 1).reshape(
        2 * count, n
    )  # by turns, so that neither covers the other
    figure = new_figure(max(1.9 * n + 0.4, 4.2), max(1.7 * n + 0.9, 3.4))
    panels = figure.subplots(n, n, squeeze=False, sharex="col")
    for row in range(n):
        for column in range(n):
            axes = panels[row, column]
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            if column > row:
                axes.set_visible(False)
            elif column == row:
                edges = np.linspace(low[row], high[row], 41)
                axes.hist(
                    true[:, row],
                    edges,
                    density=True,
                    color="C0",
                    alpha=0.6,
                    label="p(z | x), by NUTS",
                )
                axes.hist(
                    guide[:, row],
                    edges,
                    density=True,
                    histtype="step",
                    color="C1",
                    label="q(z | x), the guide",
                )
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
            else:
                axes.scatter(
                    *shown[:, [column, row]].T, s=5, alpha=0.5, c=["C0", "C1"] * count, linewidths=0
                )
                axes.set_ylim(low[row], high[row])
            axes.set_xlim(low[column], high[column])
            if row == n - 1:
                axes.set_xlabel(names[column], fontsize=9, parse_math=False)
            if column == 0 < row:
                axes.set_ylabel(names[row], fontsize=9, parse_math=False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    more = (
        ""
        if n == len(compared.names)
        else f"\nthe {n} latents of {len(compared.names)} that together differ most"
    )
    title = f"posterior and guide of datum {compared.numbers[i]}, KL = {compared.kl[i].item():.2f} nats{more}"
    figure.suptitle(title, fontsize=10)
    return figure
