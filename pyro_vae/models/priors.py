"""Priors p(z)."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import nn

from pyro_vae._errors import InputError


class Prior(nn.Module, ABC):
    """A prior `p(z)` over latent vectors, as a module that returns a distribution.

    To write one: take `latent_dim`, put whatever is learned into parameters, and return from `forward` a distribution
    of batch shape `()` and event shape `(latent_dim,)`. `StandardNormal` is the simplest example. Its docstring's first
    line is what `--help` prints.
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


class GaussianMixture(Prior):
    """`p(z) = sum_c pi_c N(z; loc_c, diag(scale_c^2))`: a learned mixture, for data that come in clusters.

    Args:
        latent_dim: length of z.
        components: number of Gaussians; they start at random places of the standard normal, all equally likely.

    Raises:
        InputError: for fewer than one component.

    Source: Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders.

    >>> GaussianMixture(2, components=3)().sample((5,)).shape
    torch.Size([5, 2])
    """

    def __init__(self, latent_dim: int, *, components: int = 10) -> None:
        super().__init__(latent_dim)
        if not isinstance(components, int) or components < 1:
            raise InputError(f"components={components!r} of GaussianMixture must be a whole number of at least 1")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> Distribution:
        weights = dist.Categorical(logits=self.logits, validate_args=False)
        parts = dist.Normal(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)
        return dist.MixtureSameFamily(weights, parts, validate_args=False)
