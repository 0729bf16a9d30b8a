r"""The four pictures at the top of the README: `python -m benchmarks.strip docs/assets/strip.png`.

The runs are those of

    python -m pyro_vae.train --dataset mnist --likelihood bernoulli --latent-dim 32 --epochs 12 --batch-size 200 \
        --output runs/mnist
    python -m pyro_vae.train --dataset mnist --likelihood bernoulli --latent-dim 2 --epochs 15 --batch-size 200 \
        --output runs/plane
    python -m pyro_vae.encode runs/plane
    python -m pyro_vae.train --dataset people.csv --likelihood "columns, height=studentt(df=5)" --latent-dim 3 \
        --epochs 20 --output runs/people
    python -m pyro_vae.sample runs/people --count 1000
    python -m pyro_vae.train --likelihood bernoulli --epochs 120 --output runs/digits
    python -m pyro_vae.evaluate runs/digits --ask adaptive --ask "bracket(n=40)"

`people.csv` is the table of docs/tables.md.
"""

import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pyro_vae import open_run
from pyro_vae.plots.colours import DATA, MODEL, class_style

PAIRS, WIDE = 3, 6
PLAIN = {"text.color": "0.2", "axes.edgecolor": "0.5", "font.size": 9}


def again(axes: Axes) -> None:
    """Rows of test images, and below each what is made of its latents."""
    torch.manual_seed(0)
    run = open_run("runs/mnist")
    x = run.data.values["test"][: PAIRS * WIDE]
    made = run.vae.reconstruct(run.see(x))
    both = torch.stack([x / 255, made]).reshape(2, PAIRS, WIDE, 28, 28)
    image = both.permute(1, 0, 3, 2, 4).reshape(PAIRS * 2 * 28, WIDE * 28)
    axes.imshow(1 - image, cmap="gray", vmin=0, vmax=1)
    axes.set_title("images, and below each\nwhat its latents make of it")
    axes.axis("off")


def plane(axes: Axes) -> None:
    """Two latents of test images, by label; the labels stand where fewer classes overlap, far from the middle."""
    found = np.load("runs/plane/latents.npz")
    means, labels = found["test_mean"][:2000], found["test_labels"][:2000]
    for i in range(10):
        x, y = means[labels == i].T
        axes.scatter(x, y, s=4, alpha=0.6, linewidths=0, **class_style(i))
        at: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontweight": "bold",
            "fontsize": 11,
        }
        out = np.hypot(x, y) > np.quantile(np.hypot(x, y), 0.6)
        label = axes.text(np.median(x[out]), np.median(y[out]), str(i), **at)
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])
    axes.set(xticks=[], yticks=[], xlim=(-3, 3.2), ylim=(-3.2, 3.4))
    axes.set_title("labels that training never saw,\nin the plane of two latents")


def table(upper: Axes, lower: Axes) -> None:
    """Two columns of a table beside those of rows that are drawn."""
    data = pandas.read_csv("people.csv")
    drawn = pandas.read_csv("runs/people/samples/prior.csv")
    edges = np.geomspace(3e3, 1.5e5, 25)
    weights = [np.full(len(rows), 1 / len(rows)) for rows in (data, drawn)]
    upper.hist(data["income"], edges, weights=weights[0], color=DATA, alpha=0.6)
    line: dict[str, Any] = {"histtype": "step", "color": MODEL, "linewidth": 1.5}
    upper.hist(drawn["income"], edges, weights=weights[1], **line)
    upper.set(yticks=[], xscale="log", xlim=(3e3, 1.5e5))
    upper.set_title("columns of a table,\nand of rows that are drawn")
    upper.text(0.97, 0.8, "income", ha="right", transform=upper.transAxes)
    kinds = sorted(data["job"].unique())
    places = np.arange(len(kinds))
    for rows, shift, colour, name in (
        (data, -0.2, DATA, "data"),
        (drawn, 0.2, MODEL, "drawn"),
    ):
        shares = rows["job"].value_counts(normalize=True)[kinds]
        lower.bar(places + shift, shares, 0.4, color=colour, alpha=0.8, label=name)
    lower.set_xticks(places, kinds, fontsize=8)
    lower.set(yticks=[], ylim=(0, 0.5))
    lower.legend(frameon=False, ncols=2, fontsize=8, loc="upper right")
    for axes in (upper, lower):
        axes.spines[["top", "right", "left"]].set_visible(False)


def bounds(axes: Axes) -> None:
    """Where log p(x) of each datum lies, between bounds from below and from above, the least first."""
    found = np.load("runs/digits/evaluation.npz")
    low, high = found["bracket_lower"], found["bracket_upper"]
    known = np.isfinite(low + high)
    low, high = low[known], high[known]
    order = np.argsort(low)
    places = np.arange(known.sum())
    axes.scatter(places, high[order], marker="v", s=22, color=MODEL, label="from above")
    axes.scatter(places, low[order], marker="^", s=22, color=DATA, label="from below")
    axes.set(xticks=[], xlabel=f"{len(places)} test images")
    axes.set_title("log p(x) of each image,\nbounded from both sides")
    axes.set_ylabel("nats", labelpad=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draws them side by side into the file that is named."""
    with mpl.rc_context(PLAIN):
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        cells = figure.add_gridspec(2, 4, width_ratios=(1.15, 1.1, 1.05, 1.15))
        again(figure.add_subplot(cells[:, 0]))
        plane(figure.add_subplot(cells[:, 1]))
        table(figure.add_subplot(cells[0, 2]), figure.add_subplot(cells[1, 2]))
        bounds(figure.add_subplot(cells[:, 3]))
        figure.savefig(sys.argv[1], dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
