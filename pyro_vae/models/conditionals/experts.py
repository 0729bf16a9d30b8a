"""Guides of experts: what each field says of z, put together by rules of probability instead of by a network."""

import math
from abc import abstractmethod

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalMixture, DiagonalNormal
from pyro_vae.foundation.checks import Count
from pyro_vae.models.conditionals.base import NARROW, Guide
from pyro_vae.networks.fields import FieldEncoder

ABSENT = -30.0  # the logarithm of the weight of an expert whose field is missing


class Experts(Guide):
    """A guide made of `N(z; loc_f(x_f), diag(scale_f(x_f)^2))`, an expert for each field f of `FieldEncoder`.

    A field that is missing is left out. Of any other encoder there is one expert, which sees all of x.
    """

    def __init__(
        self, encoder: nn.Module, latent_dim: Count, *, features: Count | None = None
    ) -> None:
        if isinstance(encoder, FieldEncoder):
            encoder.keep_apart()
        super().__init__(encoder, latent_dim, features=features)
        self.of_fields = isinstance(encoder, FieldEncoder)
        self.widths = [self.features]
        if isinstance(encoder, FieldEncoder):
            self.widths = list(encoder.widths)
        self.heads = nn.ModuleList(
            nn.Linear(width, 2 * latent_dim) for width in self.widths
        )
        self.narrow(NARROW)

    @torch.no_grad()
    def narrow(self, log_scale: float) -> None:
        """Start with experts of this width for every datum."""
        for head in self.heads:
            head.weight[self.latent_dim :] = 0.0  # type: ignore[operator]
            head.bias[self.latent_dim :] = log_scale  # type: ignore[operator]

    def opinions(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two numbers of each expert, `(..., experts, latent_dim)` both, the second log scale; and which are there.

        The last are 0 or 1, `(..., experts)`.
        """
        if self.of_fields:
            *each, seen = h.split([*self.widths, len(self.widths)], -1)
        else:
            each, seen = [h], torch.ones_like(h[..., :1])
        pairs = zip(self.heads, each, strict=True)
        both = torch.stack([head(of_field) for head, of_field in pairs], -2)
        first, log_scale = both.chunk(2, -1)
        return first, log_scale, seen

    def posterior(self, h: Tensor) -> Distribution:
        return self.family(self.variational_parameters(h))

    @abstractmethod
    def variational_parameters(self, h: Tensor) -> Tensor: ...

    @abstractmethod
    def family(self, parameters: Tensor) -> Distribution: ...


class ProductOfExperts(Experts):
    """`q(z|x) = N(z; 0, I) prod_f N(z; loc_f, scale_f^2) / C`: a product of Gaussians, to which fields add precision.

    `1 / scale^2 = 1 + sum_f 1 / scale_f^2` and `loc = scale^2 sum_f loc_f / scale_f^2`, over the fields that are there;
    where none is, `N(0, I)`. Each network says `log scale_f` and `loc_f / scale_f^2`: of one that said `loc_f` less and
    less would be heard as its expert widens, so that training ends at the prior before it has begun.

    Source: Wu & Goodman 2018, Multimodal Generative Models for Scalable Weakly-Supervised Learning (MVAE); Hinton 2002,
    Training Products of Experts by Minimizing Contrastive Divergence.

    >>> from pyro_vae import MLP
    >>> ProductOfExperts(MLP((4,)), 2).posterior(torch.zeros(3, 200)).event_shape
    torch.Size([2])
    """

    def __init__(
        self, encoder: nn.Module, latent_dim: Count, *, features: Count | None = None
    ) -> None:
        super().__init__(encoder, latent_dim, features=features)
        # All together start as wide as other guides.
        each = (math.exp(-2 * NARROW) - 1) / len(self.heads)
        self.narrow(-0.5 * math.log(each))

    def variational_parameters(self, h: Tensor) -> Tensor:
        weighed_loc, log_scale, seen = self.opinions(h)
        there = seen.unsqueeze(-1)
        precision = 1 + ((-2 * log_scale).exp() * there).sum(-2)
        loc = (weighed_loc * there).sum(-2) / precision
        return torch.cat([loc, -0.5 * precision.log()], -1)

    def family(self, parameters: Tensor) -> Distribution:
        return DiagonalNormal(*parameters.chunk(2, -1))


class MixtureOfExperts(Experts):
    """`q(z|x) = 1/M sum_f N(z; loc_f, diag(scale_f^2))`, over the M fields that are there.

    Each field alone has to say where z lies, so that any of them can be left out; together they say no more than the
    best of them, and the bound is the wider for it.

    Source: Shi, Siddharth, Paige & Torr 2019, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep
    Generative Models (MMVAE, here with Gaussians).

    >>> from pyro_vae import MLP
    >>> MixtureOfExperts(MLP((4,)), 2).posterior(torch.zeros(3, 200)).event_shape
    torch.Size([2])
    """

    smooth = False

    def variational_parameters(self, h: Tensor) -> Tensor:
        loc, log_scale, seen = self.opinions(h)
        logits = (1 - seen) * ABSENT
        return torch.cat([logits, loc.flatten(-2), log_scale.flatten(-2)], -1)

    def family(self, parameters: Tensor) -> Distribution:
        m, d = len(self.widths), self.latent_dim
        logits, loc, log_scale = parameters.split([m, m * d, m * d], -1)
        return DiagonalMixture(
            logits, loc.unflatten(-1, (m, d)), log_scale.unflatten(-1, (m, d)).exp()
        )
