"""What the latents of a trained pair do."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae._abstract import local_parameters, localise
from pyro_vae._errors import InputError
from pyro_vae.inference.estimators import double
from pyro_vae.inference.importance import PARTICLES, Program

ACTIVE = 0.01


@torch.no_grad()
def activity(guide: Program, x: Any, *, draws: int = 200, batch_size: int = 500) -> dict[str, Tensor]:
    """How much the posterior mean of each latent varies over the data: `Var_x(E_q[z_d | x])`, by site.

    A latent above `ACTIVE` is said to be active; one that is not carries next to nothing of x. Each mean is taken
    twice, from different draws, and the variance is their covariance, which the noise of the draws does not bias.

    Args:
        guide: any Pyro guide with a data plate at dim -1, called with a batch of data.
        x: the data, `(N, *shape)`, two or more.
        draws: for each datum and mean.
        batch_size: data in memory at a time.

    Returns:
        For each site of the guide a tensor of the shape of one datum's latent.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders, section 5.2.
    """
    if len(x) < 2:
        raise InputError("a variance over the data needs two of them or more")
    means: dict[str, list[Tensor]] = {}
    localise(guide)
    with local_parameters(), pyro.validation_enabled(False):
        for start in range(0, len(x), batch_size):
            with pyro.plate(PARTICLES, 2 * draws, dim=-2):
                trace = poutine.trace(guide).get_trace(x[start : start + batch_size])
            latents: Any = prune_subsample_sites(trace).iter_stochastic_nodes()
            for name, site in latents:
                halves = double(site["value"]).unflatten(0, (2, draws)).mean(1)  # (2, batch, ...)
                means.setdefault(name, []).append(halves)
    found = {}
    for name, parts in means.items():
        first, second = torch.cat(parts, 1)
        found[name] = ((first - first.mean(0)) * (second - second.mean(0))).sum(0) / (len(x) - 1)
    return found
