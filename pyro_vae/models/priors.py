"""Priors p(z)."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import nn


class Prior(nn.Module, ABC):
    """A prior `p(z)` over latent vectors, as a module that returns a distribution.

    To write one: take `latent_dim`, put whatever is learned into parameters, and return from `forward` a distribution of
    batch shape `()` and event shape `(latent_dim,)`. `StandardNormal` is the simplest example. Its docstring's first line
    is what `--help` prints.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> Distribution:
        """`p(z)`: batch shape `()`, event shape `(latent_dim,)`."""


class StandardNormal(Prior):
    """`p(z) = N(z; 0, I)`: nothing learned, the usual choice.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.

    >>> StandardNormal(2)().log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale, validate_args=False).to_event(1)
