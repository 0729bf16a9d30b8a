"""Guides whose latents take few values each."""

from typing import Annotated

from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import OneHots
from pyro_vae.foundation.abstract import MOST_LISTED
from pyro_vae.foundation.checks import Count, at_least, shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.conditionals.base import HeadGuide

Levels = Annotated[int, at_least(2)]


def levels_of(name: str, latent_dim: int, levels: int | None) -> int:
    """How many values each variable of z has, once they fit into its length.

    Raises:
        InputError: where `latent_dim` is no multiple of them, or 1.
    """
    if levels is None:
        levels = latent_dim
    if levels < 2:
        raise InputError(
            f"{name} takes a latent_dim of 2 or more, the values of its variable side by side, not {latent_dim}"
        )
    if latent_dim % levels:
        raise InputError(
            f"latent_dim={latent_dim} of {name} is the number of its variables times levels={shown(levels)}, so it "
            f"must be a multiple of {shown(levels)}"
        )
    return levels


class Categorical(HeadGuide):
    """`q(z|x) = prod_v softmax(logits_v(x))_{c_v}`: independent categorical variables, one-hot side by side.

    Under the prior of the same name. z has length `latent_dim`, the number of variables times `levels`. Where all
    variables together take 1,000 values or fewer these are enumerated: bounds and log p(x) are exact sums. Where they
    are more z is drawn, and the gradient is that of the score function, or of `GumbelSoftmax`.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        levels: values of each variable; by default `latent_dim` of them, one variable.
        enumerate: whether few values are enumerated; otherwise they are drawn like many.
        features: as in `Guide`.

    Raises:
        InputError: for fewer than two levels, or a `latent_dim` that is no multiple of them.

    Source: Jang, Gu & Poole 2017, Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih & Teh 2017, The
    Concrete Distribution.

    >>> import torch
    >>> from pyro_vae import MLP
    >>> Categorical(MLP((4,)), 6, levels=3).posterior(torch.zeros(5, 200)).mean.shape
    torch.Size([5, 6])
    """

    discrete = True

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        levels: Levels | None = None,
        enumerate: bool = True,
        features: Count | None = None,
    ) -> None:
        super().__init__(encoder, latent_dim, latent_dim, features=features)
        self.levels = levels_of("Categorical", latent_dim, levels)
        self.listed = (
            enumerate and self.levels ** (latent_dim // self.levels) <= MOST_LISTED
        )

    def family(self, parameters: Tensor) -> Distribution:
        return OneHots(parameters.unflatten(-1, (-1, self.levels)))
