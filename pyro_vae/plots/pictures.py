"""What a model makes of latents, as pictures or as lines."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.models.vae import VAE
from pyro_vae.plots.tiles import grid

ENCODED = 500  # data at a time
MANY = 2**24  # numbers that a decoder gives at a time
LARGEST = 2**30  # bytes of the pictures that one figure shows


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
    ends = [vae.encode(some).sample() for some in pairs.flatten(0, 1).split(ENCODED)]
    z = torch.cat(ends).unflatten(0, (-1, 2))  # (n, 2, latent)
    t = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device)[:, None]
    line = z[:, :1] * (1 - t) + z[:, 1:] * t  # (n, steps, latent)
    few = max(1, MANY // (steps * math.prod(pairs.shape[2:])))
    x = torch.cat([vae.decode(some).mean for some in line.split(few)])  # (n, steps, *shape)
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
