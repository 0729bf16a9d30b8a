"""Guides made of Gaussians, and the point that is left when their width goes to nothing."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalMixture, DiagonalNormal
from pyro_vae.foundation.checks import Count
from pyro_vae.models.conditionals.base import HeadGuide
from pyro_vae.models.variances import Bounds


class MeanField(HeadGuide):
    """`q(z|x) = N(z; loc(x), diag(scale(x)^2))`: independent latents, the usual choice.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        features: as in `Guide`.
        log_variance: bounds of `log scale^2`, such as `(-6, 2)` (Tomczak & Welling 2018, VAE with a VampPrior, in their
            code); what lies beyond a bound is set to it, with a gradient of 0. `None`: no bounds.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.

    >>> from pyro_vae import MLP
    >>> MeanField(MLP((4,)), 2).posterior(torch.zeros(3, 200)).event_shape
    torch.Size([2])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        features: Count | None = None,
        log_variance: Bounds | None = None,
    ) -> None:
        outputs, bounds = 2 * latent_dim, log_variance
        super().__init__(
            encoder, latent_dim, outputs, features=features, log_variance=bounds
        )
        self.narrow(slice(latent_dim, None))

    def family(self, parameters: Tensor) -> Distribution:
        return DiagonalNormal(*parameters.chunk(2, -1))


class FullRank(HeadGuide):
    """`q(z|x) = N(z; loc(x), L(x) L(x)^T)`, `L` lower triangular: latents correlated given x.

    Below the diagonal `L_ij = L_ii l_ij / sqrt(D)` with `l` from the head, 0 at the start: then this is a `MeanField`.
    The head has D (D + 3) / 2 outputs for D latents.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        features: as in `Guide`.
        log_variance: bounds of `log L_ii^2`, the variance of a latent given those before it; as in `MeanField`.

    Source: Kingma & Welling 2019, An Introduction to Variational Autoencoders, section 2.5.1.

    >>> from pyro_vae import MLP
    >>> FullRank(MLP((4,)), 2).posterior(torch.zeros(3, 200)).covariance_matrix.shape
    torch.Size([3, 2, 2])
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        features: Count | None = None,
        log_variance: Bounds | None = None,
    ) -> None:
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        outputs, bounds = 2 * latent_dim + len(rows), log_variance
        super().__init__(
            encoder, latent_dim, outputs, features=features, log_variance=bounds
        )
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.narrow(slice(latent_dim, 2 * latent_dim))
        self.shrink(slice(2 * latent_dim, None), 0.0)

    def family(self, parameters: Tensor) -> Distribution:
        return full_rank(parameters, self.latent_dim, self.rows, self.columns)


def full_rank(parameters: Tensor, d: int, rows: Tensor, columns: Tensor) -> Any:
    """`N(loc, L L^T)` over d latents from `(loc, log L_ii, l_ij)`, `(..., d (d + 3) / 2)`, see `FullRank`.

    Args:
        parameters: the numbers.
        d: how many latents.
        rows: of the places of the l below the diagonal,
        columns: and the columns of these.
    """
    loc, log_diagonal, below = parameters.split([d, d, len(rows)], -1)
    scale = log_diagonal.exp()
    scale_tril = torch.diag_embed(scale)  # (..., d, d)
    # In scales and over sqrt(d), the many small steps that Adam takes add up to little noise in each latent.
    scale_tril[..., rows, columns] = below * scale[..., rows] / math.sqrt(d)
    return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


class LowRank(HeadGuide):
    """`q(z|x) = N(z; loc(x), F(x) F(x)^T + diag(scale(x)^2))`, `F` of `rank` columns: a few correlations.

    `F_dr = scale_d f_dr / sqrt(rank)` with `f` from the head, small at the start.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        rank: columns of F; with `latent_dim` of them every covariance can be reached.
        features: as in `Guide`.
        log_variance: bounds of `log scale^2`, the variance without F; as in `MeanField`.

    Raises:
        InputError: for a rank below 1.

    Source: Rezende, Mohamed & Wierstra 2014, Stochastic Backpropagation and Approximate Inference, section 4.3.

    >>> from pyro_vae import MLP
    >>> LowRank(MLP((4,)), 5, rank=2).posterior(torch.zeros(3, 200)).covariance_matrix.shape
    torch.Size([3, 5, 5])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        rank: Count = 2,
        features: Count | None = None,
        log_variance: Bounds | None = None,
    ) -> None:
        outputs, bounds = (2 + rank) * latent_dim, log_variance
        super().__init__(
            encoder, latent_dim, outputs, features=features, log_variance=bounds
        )
        self.rank = rank
        self.narrow(slice(latent_dim, 2 * latent_dim))
        # Not 0, where F and -F are alike and the gradient vanishes.
        self.shrink(slice(2 * latent_dim, None), 0.1)

    def family(self, parameters: Tensor) -> Distribution:
        d = self.latent_dim
        loc, log_scale, factor = parameters.split([d, d, d * self.rank], -1)
        factor = (
            factor.unflatten(-1, (d, self.rank))
            * log_scale.exp().unsqueeze(-1)
            / math.sqrt(self.rank)
        )
        return dist.LowRankMultivariateNormal(
            loc, factor, (2 * log_scale).exp(), validate_args=False
        )


class Mixture(HeadGuide):
    """`q(z|x) = sum_c pi_c(x) N(z; loc_c(x), diag(scale_c(x)^2))`: posteriors with several modes.

    Its draws carry gradients for the weights too; see `DiagonalMixture`.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        components: number of Gaussians.
        features: as in `Guide`.
        log_variance: bounds of `log scale_c^2`; as in `MeanField`.

    Raises:
        InputError: for fewer than one component.

    Source: Graves 2016, Stochastic Backpropagation through Mixture Density Distributions; Roeder, Wu & Duvenaud 2017,
    Sticking the Landing, section 4.

    >>> from pyro_vae import MLP
    >>> Mixture(MLP((4,)), 2, components=3).posterior(torch.zeros(5, 200)).mean.shape
    torch.Size([5, 2])
    """

    smooth = False

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        components: Count = 5,
        features: Count | None = None,
        log_variance: Bounds | None = None,
    ) -> None:
        outputs, bounds = components * (1 + 2 * latent_dim), log_variance
        super().__init__(
            encoder, latent_dim, outputs, features=features, log_variance=bounds
        )
        self.components = components
        self.narrow(slice(components * (1 + latent_dim), None))

    def family(self, parameters: Tensor) -> Distribution:
        c, d = self.components, self.latent_dim
        logits, loc, log_scale = parameters.split([c, c * d, c * d], -1)
        return DiagonalMixture(
            logits, loc.unflatten(-1, (c, d)), log_scale.unflatten(-1, (c, d)).exp()
        )


class Delta(HeadGuide):
    """`q(z|x)` = the point `loc(x)`: a deterministic autoencoder, trained to `max log p(x|z) p(z)` (MAP).

    What stands where other guides have an ELBO is then `log p(x, z)` at that point. It is no bound on `log p(x)`, and
    importance weighting has nothing to weigh.

    >>> from pyro_vae import MLP
    >>> Delta(MLP((4,)), 2).posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    has_density = False

    def __init__(
        self, encoder: nn.Module, latent_dim: Count, *, features: Count | None = None
    ) -> None:
        super().__init__(encoder, latent_dim, latent_dim, features=features)

    def family(self, parameters: Tensor) -> Distribution:
        return dist.Delta(parameters, event_dim=1)
