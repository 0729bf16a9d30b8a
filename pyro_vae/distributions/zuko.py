"""Coupling and autoregressive transforms, made by zuko."""

from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["realnvp", "nsf", "maf"]


def flow(
    kind: Kind,
    latent_dim: int,
    context: int = 0,
    *,
    transforms: int,
    hidden: tuple[int, ...],
    bins: int = 8,
) -> nn.Module:
    """A lazy transform from data to noise that starts near the identity: call it with a context, `(..., context)`.

    Args:
        kind: `'realnvp'`, affine coupling layers; `'nsf'`, coupling layers of rational-quadratic splines; `'maf'`,
            affine autoregressive layers, whose inverse, the draw, takes `latent_dim` passes each.
        latent_dim: length of z.
        context: length of the context, 0 for none.
        transforms: number of layers; the order of the latents is reversed from one to the next.
        hidden: widths of their networks.
        bins: knots of the splines.
    """
    import zuko

    arguments: dict[str, Any] = {
        "features": latent_dim,
        "context": context,
        "transforms": transforms,
    }
    arguments |= {"hidden_features": hidden, "passes": None if kind == "maf" else 2}
    family = (
        zuko.flows.NSF(**arguments, bins=bins)
        if kind == "nsf"
        else zuko.flows.MAF(**arguments)
    )
    with torch.no_grad():
        for layer in family.transform.modules():
            network = getattr(layer, "hyper", None)
            if isinstance(network, nn.Sequential):
                last: Any = network[-1]
                last.weight.mul_(0.01)
                last.bias.zero_()
    return family.transform
