"""Several layers of latents: `p(z_L) ... p(z_1|z_2) p(x|z_1)`."""

from collections.abc import Sequence
from typing import Literal

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count
from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import Network

# Of a run, how long the KL of several layers is turned on unless said otherwise.
WARM_UP = 0.25
# By how much the outputs of log scales start smaller than a network's others.
SHRUNK = 0.1


class GaussianLayer(nn.Module):
    """`p(z_l|z_{l+1}) = N(z_l; loc(z_{l+1}), diag(scale(z_{l+1})^2))`: a layer of latents below others.

    Args:
        network: any module, `(..., above) -> (..., 2, latent_dim)`; one with a `context` is called with `(z, c)`.
        latent_dim: the length of z_l.
        scale: `'network'`, as above, or `'element'`: learned, and the same whatever the layer above is; then the
            network makes `(..., 1, latent_dim)`.

    Source: Rezende, Mohamed & Wierstra 2014, Stochastic Backpropagation; Burda, Grosse & Salakhutdinov 2015.

    >>> from pyro_vae import MLP
    >>> layer = GaussianLayer(MLP((2,), (2, 3)), 3)
    >>> layer(torch.zeros(5, 2)).sample().shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        latent_dim: Count,
        *,
        scale: Literal["network", "element"] = "network",
    ) -> None:
        super().__init__()
        self.network, self.latent_dim, self.scale = network, latent_dim, scale
        if scale == "element":
            self.log_scale = nn.Parameter(torch.zeros(latent_dim))
            return
        last = network.output_layer if isinstance(network, Network) else None
        if last is not None:
            with torch.no_grad():
                last.weight[latent_dim:] *= SHRUNK

    @property
    def context(self) -> int:
        """How many numbers of a condition it reads beside the layer above."""
        return context_of(self.network)

    def parameters_given(self, above: Tensor, *c: Tensor) -> tuple[Tensor, Tensor]:
        """`loc` and the logarithm of `scale`, each `(..., latent_dim)`."""
        if self.scale == "element":
            loc = self.network(above, *c).squeeze(-2)
            return loc, self.log_scale.expand_as(loc)
        loc, log_scale = self.network(above, *c).unbind(-2)
        return loc, log_scale

    def forward(self, above: Tensor, *c: Tensor) -> Distribution:
        return DiagonalNormal(*self.parameters_given(above, *c))


class Below(nn.Module):
    """A conditional prior as a layer below others: `p(z_l|z_{l+1})` is p(z|c) where c is the layer above.

    Args:
        prior: a `Prior` with a `context`, such as `Conditional`.
        context: how many of these numbers are those of a condition, behind the layer above.
    """

    def __init__(self, prior: nn.Module, *, context: int = 0) -> None:
        super().__init__()
        self.prior, self.context = prior, context

    @property
    def latent_dim(self) -> int:
        return int(self.prior.latent_dim)  # type: ignore[arg-type]

    def forward(self, above: Tensor, *c: Tensor) -> Distribution:
        return self.prior(*beside_each_other((above, *c)))  # type: ignore[no-any-return]


def sites_of(count: int) -> tuple[str, ...]:
    """The names of so many layers, from the data upwards: z1 is next to x; one alone is z.

    >>> sites_of(3), sites_of(1)
    (('z1', 'z2', 'z3'), ('z',))
    """
    if count == 1:
        return ("z",)
    return tuple(f"z{i + 1}" for i in range(count))


def above(sites: Sequence[str], i: int, *, skip: bool) -> tuple[str, ...]:
    """The layers that the layer number i is given, from the top down: the next one, or with `skip` all above it."""
    over = tuple(reversed(sites[i + 1 :]))
    return over if skip else over[-1:]


def places(sites: Sequence[str], dims: Sequence[int]) -> dict[str, slice]:
    """Where each layer stands in the vector of all, which begins at the top.

    >>> places(("z1", "z2"), (5, 2))
    {'z2': slice(0, 2, None), 'z1': slice(2, 7, None)}
    """
    found, start = {}, 0
    for site, size in zip(reversed(sites), reversed(dims), strict=True):
        found[site] = slice(start, start + size)
        start += size
    return found


def beside_each_other(values: Sequence[Tensor]) -> list[Tensor]:
    """Some vectors as one, `(..., D)`, as long as they all are; nothing where there is none."""
    if len(values) < 2:
        return [*values]
    batch = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
    return [torch.cat([value.expand(*batch, -1) for value in values], -1)]


def names_of(sites: Sequence[str], dims: Sequence[int]) -> list[str]:
    """What each latent of several layers is called, in the order of the vector of all.

    >>> names_of(("z1", "z2"), (2, 1))
    ['z2_0', 'z1_0', 'z1_1']
    """
    lengths = {
        site: place.stop - place.start for site, place in places(sites, dims).items()
    }
    return [f"{site}_{i}" for site, size in lengths.items() for i in range(size)]


def check_dims(dims: Sequence[int], most: int = 100) -> None:
    """Refuse fewer than two layers, or more than there can be."""
    if not 2 <= len(dims) <= most:
        raise InputError(
            f"dims={tuple(dims)} names the lengths of two layers of latents or more, at most {most}: the first is next "
            "to the data; one layer is the structure vae"
        )
