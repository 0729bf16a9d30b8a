"""Moments of the latents of data under q(z|x)."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.inputs import as_data, rows_within
from pyro_vae.data.streams import batches
from pyro_vae.engine.alike import sparing
from pyro_vae.engine.memory import LARGEST_CHUNK, MEMORY, pieces
from pyro_vae.evaluation.refinement import Spread
from pyro_vae.foundation.abstract import is_own
from pyro_vae.foundation.checks import Draws, Number, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.vae import VAE

BATCH = 500
DRAWS = 200  # for each datum, where q(z|x) has no mean in closed form


@checked
@torch.no_grad()
def encode(
    vae: VAE, x: Any, *, draws: Draws = DRAWS, batch_size: Number = BATCH
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent under `q(z|x)`, in closed form or by draws where there is none.

    By draws the mean has a Monte-Carlo error of `1 / sqrt(draws)` standard deviations (7 % for 200), and the standard
    deviation one of about `1 / sqrt(2 draws)` of itself.

    Args:
        vae: the trained pair.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        draws: for each datum, two or more.
        batch_size: data in memory at a time.

    Returns:
        Two tensors `(N, latent_dim)`.

    Raises:
        InputError: for empty `x`, for fewer than two draws, or for a mean that is not finite.
    """
    x = as_data(vae.model, x, values=False)
    size = min(batch_size, rows_within(x, MEMORY))
    # Each result has its place beforehand: small ones kept from every batch would hold all of the heap between them.
    mean, std, done = torch.empty(0), torch.empty(0), 0

    def moments(batch: Any, draws: int) -> tuple[list[Tensor], None]:
        return [*moments_of(vae.encode(batch), draws)], None

    # What programs of others change when they are called is not known.
    own = is_own(vae.model, vae.guide)
    found = sparing(moments, vae.guide) if own else moments
    for batch in batches(x, size):
        (centre, variance), _ = found(batch, draws)
        if done == 0:
            mean, std = (
                torch.empty(len(x), centre.shape[-1], dtype=centre.dtype) for _ in "ms"
            )
        rows = slice(done, done + len(centre))
        mean[rows], std[rows] = centre.cpu(), variance.clamp_min(0).sqrt().cpu()
        done = rows.stop
    if not mean.isfinite().all():
        row = int((~mean.isfinite()).any(-1).nonzero()[0])
        raise InputError(
            f"the guide gives datum {row} (counted from 0) a posterior mean that is not finite"
        )
    return mean, std


def moments_of(q: Any, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent, `(batch, latent_dim)`, by draws where they have no closed form."""
    mean, variance = closed(q, "mean"), closed(q, "variance")
    if mean is not None and variance is not None:
        return mean, variance
    spread = Spread()
    for count in pieces(draws, max(1, LARGEST_CHUNK // q.batch_shape.numel())):
        spread.add(q.sample((count,)))  # (count, batch, latent_dim)
    drawn = spread.std.square()
    return (
        spread.mean if mean is None else mean,
        drawn if variance is None else variance,
    )


def closed(q: Any, moment: str) -> Tensor | None:
    """A moment of a distribution by its name, `None` where it has no closed form."""
    try:
        found: Tensor = getattr(q, moment)
    except (NotImplementedError, AttributeError):
        return None
    return found
