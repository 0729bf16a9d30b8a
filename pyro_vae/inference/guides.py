"""Guides q(z|x)."""

from abc import abstractmethod

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae._abstract import AbstractProgram
from pyro_vae.networks import features as encoder_features


class Guide(AbstractProgram):
    """An amortised guide `q(z|x)`: the encoder's features, and a distribution over `z` made from them.

    To write one: call `super().__init__(encoder, latent_dim)`, make the layers that turn `self.features` features into
    the parameters of a distribution, and return it from `posterior`. `MeanField` is the simplest example.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        features: the encoder's output width, needed only for an encoder that has no `out_shape`.
    """

    def __init__(self, encoder: nn.Module, latent_dim: int, *, features: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.features = encoder_features(encoder, features)

    @abstractmethod
    def posterior(self, h: Tensor) -> Distribution:
        """`(..., features)` -> `q(z|x)` of batch shape `(...)`, event shape `(latent_dim,)`."""

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(self.encoder(x)))


class MeanField(Guide):
    """`q(z|x) = N(z; loc(x), diag(scale(x)^2))`: independent latents, the usual choice.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.

    >>> from pyro_vae import MLP
    >>> MeanField(MLP((4,)), 2).posterior(torch.zeros(3, 200)).event_shape
    torch.Size([2])
    """

    def __init__(self, encoder: nn.Module, latent_dim: int, *, features: int | None = None) -> None:
        super().__init__(encoder, latent_dim, features=features)
        self.head = nn.Linear(self.features, 2 * latent_dim)

    def posterior(self, h: Tensor) -> Distribution:
        loc, log_scale = self.head(h).chunk(2, -1)  # each (..., latent_dim)
        return dist.Normal(loc, log_scale.exp(), validate_args=False).to_event(1)


class FullRank(Guide):
    """`q(z|x) = N(z; loc(x), L(x) L(x)^T)`, `L` lower triangular: latents correlated given x.

    The head has D (D + 3) / 2 outputs for D latents. Source: Kingma & Welling 2019, An Introduction to Variational
    Autoencoders, section 2.5.1.

    >>> from pyro_vae import MLP
    >>> FullRank(MLP((4,)), 2).posterior(torch.zeros(3, 200)).covariance_matrix.shape
    torch.Size([3, 2, 2])
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, encoder: nn.Module, latent_dim: int, *, features: int | None = None) -> None:
        super().__init__(encoder, latent_dim, features=features)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.head = nn.Linear(self.features, 2 * latent_dim + len(rows))
        with torch.no_grad():  # start as a MeanField guide: random correlations only add noise to the first gradients
            self.head.weight[2 * latent_dim :] = 0
            self.head.bias[2 * latent_dim :] = 0

    def posterior(self, h: Tensor) -> Distribution:
        d = self.latent_dim
        loc, log_diagonal, below = self.head(h).split([d, d, len(self.rows)], -1)
        scale_tril = torch.diag_embed(log_diagonal.exp())  # (..., d, d)
        scale_tril[..., self.rows, self.columns] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
