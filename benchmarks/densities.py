"""Pictures of what guides and priors can be: `python -m benchmarks.densities FOLDER`.

Writes three files: each guide with a density, trained by the ELBO on one datum whose posterior is bent
(`guides-bent.png`) or has two modes (`guides-modes.png`), over the exact posterior by quadrature on a grid; and each
prior, trained with a VAE on the digits with two latents, over the aggregated posterior (`priors.png`).
"""

import argparse
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pyro_vae import ELBO, MLP, VAE, Gaussian, Spec, StandardNormal, build, fit, guides
from pyro_vae.plots.canvas import panels

# Colours of Okabe and Ito.
SKY, BLUE, VERMILLION, GREY = "#56B4E9", "#0072B2", "#D55E00", "0.55"
OF_CLASSES = ["#E69F00", SKY, "#009E73", "#F0E442", BLUE, VERMILLION, "#CC79A7"]
OF_CLASSES += ["#000000", "0.5", "#8C564B"]  # three more, as there are ten digits
SHARES = (0.99, 0.9, 0.5)  # of the mass inside the contours
NOISE = 0.3  # of the one element of x

GUIDES: dict[str, Callable[..., nn.Module]] = {
    "MeanField": guides.MeanField,
    "FullRank": guides.FullRank,
    "LowRank": lambda e, d: guides.LowRank(e, d, rank=1),
    "Householder": guides.Householder,
    "Mixture": guides.Mixture,
    "Planar": guides.Planar,
    "Sylvester": lambda e, d: guides.Sylvester(e, d, kind="triangular"),
    "IAF": guides.IAF,
    "NSF": guides.NSF,
    "Local": guides.Local,
    "SemiAmortized": guides.SemiAmortized,
}

PRIORS: dict[str, dict[str, Any]] = {
    "StandardNormal": {"prior": "standardnormal"},
    "Laplace": {"prior": "laplace"},
    "GaussianMixture": {"prior": "gaussianmixture(components=10)"},
    "Flow": {"prior": "flow(kind='nsf')"},
    "VampPrior": {"prior": "vampprior(pseudo_inputs=50)"},
    "Conditional": {"prior": "conditional", "context": 10},
    "Codes": {"guide": "codebook(size=20)"},
    "Categorical": {
        "prior": "categorical",
        "guide": "categorical",
        "latent_dim": 10,
    },
}


class Bent(nn.Module):
    """`x = z_2 - z_1^2 + 1`: given x the latents lie along a parabola."""

    def forward(self, z: Tensor) -> Tensor:
        return (z[..., 1] - z[..., 0] ** 2 + 1)[..., None, None]


class Product(nn.Module):
    """`x = z_1 z_2`: given x > 0 the latents lie on either branch of a hyperbola."""

    def forward(self, z: Tensor) -> Tensor:
        return z.prod(-1)[..., None, None]


def grid(low: float, high: float, *, size: int = 201) -> tuple[Tensor, Tensor, float]:
    """Places along one axis, the points of the square `(size^2, 2)`, and the area of a cell."""
    places = torch.linspace(low, high, size)
    points = torch.cartesian_prod(places, places)
    return places, points, float((places[1] - places[0]) ** 2)


def heights(density: Tensor) -> list[float]:
    """The densities at which the contours hold `SHARES` of the mass."""
    ordered = density.flatten().sort(descending=True).values
    inside = ordered.cumsum(0) / ordered.sum()
    return [float(ordered[(inside < share).sum()]) for share in SHARES]


def outline(
    axes: Axes, places: Tensor, density: Tensor, colour: str, **how: Any
) -> None:
    """Contours of a density over a square of latents."""
    square = density.reshape(len(places), -1).T
    axes.contour(places, places, square, heights(density), colors=colour, **how)


def shade(axes: Axes, places: Tensor, density: Tensor) -> None:
    """The same contours, filled."""
    levels = [*heights(density), float(density.max()) * 1.01]
    square = density.reshape(len(places), -1).T
    colours = ["#DDEFFA", "#A9D6F1", SKY]
    axes.contourf(places, places, square, levels, colors=colours)


def square(axes: Axes, low: float, high: float) -> None:
    """Equal axes with few ticks."""
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.locator_params(nbins=5, integer=True)
    axes.tick_params(labelsize=8)


def fitted(
    make: Callable[..., nn.Module], decoder: nn.Module, x: Tensor, steps: int
) -> VAE:
    """A pair whose guide was trained by the ELBO on one datum, the model as it is."""
    encoder = MLP((1,), hidden=(16,))
    likelihood = Gaussian((1,), scale=NOISE)
    vae = VAE(StandardNormal(2), decoder, likelihood, make(encoder, 2))
    parameters = [p for p in vae.guide.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = ELBO()(vae.model, vae.guide)
    batch = x.expand(32, 1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
        schedule.step()
    return vae.eval()


def picture_of_guides(decoder: nn.Module, value: float, steps: int) -> Figure:
    """A panel for the exact posterior and one for each guide over it."""
    low, high = -3.2, 3.2
    places, points, area = grid(low, high)
    x = torch.tensor([[value]])

    # The exact posterior, by quadrature.
    log_joint = StandardNormal(2)().log_prob(points)
    likelihood = Gaussian((1,), scale=NOISE)
    log_joint = log_joint + likelihood(decoder(points)).log_prob(x[0])
    log_evidence = log_joint.logsumexp(0) + math.log(area)
    log_posterior = log_joint - log_evidence

    figure, every = panels(1 + len(GUIDES), 2.2, 2.3, least=8)
    shade(every[0], places, log_posterior.exp())
    every[0].set_title("p(z|x), exact", fontsize=10)
    for axes, (name, make) in zip(every[1:], GUIDES.items(), strict=True):
        torch.manual_seed(0)
        q = fitted(make, decoder, x, steps).guide.given(x)
        with torch.no_grad():
            log_q = torch.cat(
                [q.log_prob(z[:, None])[:, 0] for z in points.split(2000)]
            )
        gap = (log_q.exp() * (log_q - log_posterior)).nansum() * area
        print(
            f"{name}: mass {float(log_q.exp().sum() * area):.3f}, KL {float(gap):.3f}"
        )
        shade(axes, places, log_posterior.exp())
        outline(axes, places, log_q.exp(), VERMILLION, linewidths=(0.8, 1.1, 1.4))
        axes.set_title(f"{name}: {gap:.2f} nats", fontsize=10)
    for axes in every:
        square(axes, low, high)
    return figure


def picture_of_priors(epochs: int) -> Figure:
    """A panel for each prior, over draws of q(z|x) of the digits that it was trained with."""
    digits = load_digits()
    x = (torch.tensor(digits.images).float() / 16).round()
    labels = torch.tensor(digits.target)
    figure, every = panels(len(PRIORS), 2.6, 2.7, least=10)
    for axes, (name, options) in zip(every, PRIORS.items(), strict=True):
        torch.manual_seed(0)
        spec = Spec((8, 8), **{"latent_dim": 2, "likelihood": "bernoulli", **options})
        vae = build(spec)
        c = nn.functional.one_hot(labels).float() if spec.context else None
        history = fit(vae, x, c=c, epochs=epochs, learning_rate=2e-3)
        vae.eval()
        with torch.no_grad():
            draw(axes, name, vae, x, c)
        axes.set_title(f"{name}: −{-history[-1].elbo:.1f} nats", fontsize=10)
        print(name, round(history[-1].elbo, 2), flush=True)
    return figure


def draw(axes: Axes, name: str, vae: Any, x: Tensor, c: Tensor | None) -> None:
    """One prior over the aggregated posterior."""
    if name == "Categorical":
        shares(axes, vae.model.prior(), vae.encode(x).mean.mean(0))
        return
    low, high = -4.5, 4.5
    if name == "Codes":
        low, high = words(axes, vae, x)
    else:
        z = (vae.encode(x) if c is None else vae.encode(x, c)).sample()
        axes.scatter(*z.T, s=2, c=GREY, alpha=0.5, linewidths=0)
        places, points, _ = grid(2 * low, 2 * high, size=401)  # with all of the mass
        if c is None:
            density = vae.model.prior().log_prob(points).exp()
            outline(axes, places, density, BLUE, linewidths=(0.8, 1.1, 1.4))
        else:
            each = vae.model.prior(torch.eye(10))
            for k, colour in enumerate(OF_CLASSES):
                density = each.log_prob(points[:, None])[:, k].exp()
                outline(axes, places, density, colour, linewidths=(0, 1.1, 0))
    square(axes, low, high)


def shares(axes: Axes, prior: Any, codes: Tensor) -> None:
    """Bars: how probable each value is, and how often it is taken."""
    places = torch.arange(len(codes))
    probabilities = prior.mean
    axes.bar(places - 0.2, probabilities, 0.4, color=BLUE, label="p(z)")
    axes.bar(places + 0.2, codes, 0.4, color=GREY, label="mean of q(z|x)")
    axes.set(xticks=places, ylim=(0, 1.35 * float(codes.max())), box_aspect=1)
    axes.set_yticks([0, 0.1])
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def words(axes: Axes, vae: Any, x: Tensor) -> tuple[float, float]:
    """The words of a codebook as discs, as large as they are probable, over the encodings; the ends of the axes."""
    places = vae.guide.words[0]
    probabilities = vae.model.prior().log_prob(places).exp()
    encodings = vae.guide.given(x).encodings[:, 0]
    axes.scatter(*encodings.T, s=2, c=GREY, alpha=0.5, linewidths=0)
    axes.scatter(*places.T, s=1500 * probabilities, c=BLUE, alpha=0.6, linewidths=0)
    reach = 1.05 * float(encodings.abs().max())
    return -reach, reach


def save(figure: Figure, path: Path) -> None:
    """A small file, by its 256 most frequent colours."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--steps", type=int, default=800, help="of each guide")
    parser.add_argument("--epochs", type=int, default=60, help="of each prior")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bent = picture_of_guides(Bent(), 0.0, options.steps)
    save(bent, options.folder / "guides-bent.png")
    modes = picture_of_guides(Product(), 1.0, options.steps)
    save(modes, options.folder / "guides-modes.png")
    save(picture_of_priors(options.epochs), options.folder / "priors.png")


if __name__ == "__main__":
    main()
