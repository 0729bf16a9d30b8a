"""What a step leaves behind."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.inference.terms import Terms


class Record(NamedTuple):
    """What a step leaves behind, on the device: `values[0]` is the loss.

    The rest are sums over the batch, in nats, without gradients: `values[1:3]` the reconstruction and the KL (nan for
    an ELBO of Pyro's, which keeps its terms to itself), `values[3:]` the log-probability of each of `sites`.
    """

    values: Tensor
    sites: tuple[str, ...]


def record(loss: Tensor, t: Terms | None) -> Record:
    """The record of a loss, from the terms that it was made of where they are known."""
    if t is None:
        return Record(torch.stack([loss, *(torch.full_like(loss, math.nan),) * 2]), ())
    named = [t.log_px, t.log_qz - t.log_pz]
    sites = []
    for name, site in t.sites.items():
        for log_prob, program in ((site.log_q, "guide"), (site.log_p, "model")):
            if log_prob is not None:
                sites.append(f"{name!r} under the {program}")
                named.append(log_prob)
    if t.log_share is not None:
        sums = torch.stack([t.mean(v).sum() for v in named]).detach()
    else:
        each = torch.cat([log_prob.detach() for log_prob in named])
        particles = named[0].shape[0]
        sums = each.view(len(named), -1).sum(1)
        sums = sums if particles == 1 else sums / particles
    return Record(torch.cat([loss.unsqueeze(0), sums.to(loss.dtype)]), tuple(sites))


def as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter, which fused optimizers take for granted.

    What autograd returns can be transposed, or one number expanded over a shape; a kernel that walks through memory
    would give elements the gradients of others.
    """
    same = gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype
    return gradient if same else torch.empty_like(parameter).copy_(gradient)
