"""Finite mixtures `p(y) p(x|y)`: pairs whose only latent is a class."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.foundation.abstract import context_of


class NoVector(nn.Module):
    """The prior of a vector z without entries, which says nothing."""

    latent_dim = 0
    examples = 0
    levels = None
    start: int | None = 0
    of_words = False
    nothing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(0), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        return DiagonalNormal(self.nothing, self.nothing)


class OfClass(nn.Module):
    """A decoder that reads a class y, one-hot, where others read z: `(z, (y, c)) -> (..., channels, *shape)`.

    Args:
        network: `(..., K) -> (..., channels, *shape)`; one with a `context` is called with a condition too.
        size: K.
    """

    def __init__(self, network: Any, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.context = size + context_of(network)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        y, c = context[..., : self.size], context[..., self.size :]
        batch = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
        given = (c,) if c.shape[-1] else ()
        return self.network(y.expand(*batch, -1), *given)  # type: ignore[no-any-return]

    @property
    def output_layer(self) -> nn.Module | None:
        """As of the network."""
        return getattr(self.network, "output_layer", None)

    def set_output_bias(self, h: Tensor) -> None:
        """As of the network."""
        self.network.set_output_bias(h)

    def set_output_spread(self, target: float, z: Tensor, context: Tensor) -> None:
        """As of the network, over classes."""
        y, c = context[:, : self.size], context[:, self.size :]
        self.network.set_output_spread(target, y, *((c,) if c.shape[-1] else ()))
