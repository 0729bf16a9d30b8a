"""The posterior itself of several layers of latents, where all of them are linear and Gaussian."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.foundation.abstract import context_of, movable
from pyro_vae.foundation.checks import Count
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.conditionals.exact import Exact
from pyro_vae.models.conditionals.layered import Layers
from pyro_vae.models.layers import (
    above,
    beside_each_other,
    check_dims,
    places,
    sites_of,
)
from pyro_vae.models.linear import read_deep, refusal
from pyro_vae.models.program import Factor

OF_ALL = ("posterior_loc", "posterior_factor")  # the moments of all layers, `known`


def is_exact(guide: Any) -> bool:
    """Whether a guide, or a class of guides, is the posterior in closed form."""
    return isinstance(guide, Exact | ExactLayers) or guide in (Exact, ExactLayers)


class ExactLayers(Layers):
    """`q(z2|x) q(z1|x,z2) = p(z1, z2|x)`: the posterior of linear-Gaussian layers, in closed form.

    It needs `p(z_l|z_{l+1}) = N(A z_{l+1} + b, diag(s^2))` with a scale that does not depend on the layer above, as
    `GaussianLayer(..., scale="element")` has, and p(x|z1) as in `Exact`. Like that it has no parameters, and the ELBO
    is log p(x).

    Args:
        dims: the lengths of z1, z2, ...

    Raises:
        InputError: for fewer than two layers; by the `VAE`, for a model whose posterior has no such form, saying what
            stands in the way.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 8.1.4, linear-Gaussian models.

    >>> guide = ExactLayers((4, 2))
    >>> guide.sites
    ('z1', 'z2')
    """

    asks_model = True

    def __init__(self, dims: tuple[Count, ...]) -> None:
        super().__init__()
        check_dims(dims)
        self.dims, self.skip, self.sites = tuple(dims), True, sites_of(len(dims))
        self._model: Any = None

    def connect(self, model: nn.Module) -> None:
        # Looked at, not owned: its parameters stay the model's alone.
        object.__setattr__(self, "_model", model)
        super().connect(model)

    def check_prior(self, prior: Any) -> None:
        if (reason := refusal(self.model)) is not None:
            raise InputError(
                f"the exact guide is the posterior in closed form, and {reason}"
            )

    @property
    def model(self) -> Any:
        """The model whose posterior it is."""
        if self._model is None:
            raise InputError(
                "ExactLayers looks at the model: put both into a VAE first"
            )
        return self._model

    @property
    def context(self) -> int:
        return context_of(self._model)

    def known(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The data, and mean and factor of the posterior of all layers, `(batch, D)` and `(batch, D, D)`."""
        found = super().known(values)
        if "x" not in found:
            return found
        model, x = self.model, found["x"]
        given = {"c": found["c"]} if self.context else {}
        rows = x.flatten(x.dim() - len(model.likelihood.shape))
        parts = read_deep(model, given)
        loc, factor = parts.posterior(rows, missing=model.likelihood.missing)
        factor = factor.expand(*loc.shape[:-1], *factor.shape[-2:])
        return {**found, **dict(zip(OF_ALL, (loc.to(x), factor.to(x)), strict=True))}

    def factors(self) -> Sequence[Factor]:
        order = reversed(range(len(self.dims)))
        return [
            Factor(self.sites[i], (*OF_ALL, *self._over(i)), self._of_layer(i))
            for i in order
        ]

    def written(self, factor: Factor) -> str:
        of_c = ("c",) if self.context else ()
        others = factor.given[len(OF_ALL) :]
        return f"{factor.site}|{','.join(['x', *others, *of_c])}"

    def _over(self, i: int) -> tuple[str, ...]:
        return above(self.sites, i, skip=True)

    def _of_layer(self, i: int) -> Callable[..., Distribution]:
        """`p(z_i | x, layers above)`: what the layers above differ from their mean moves that of this one."""
        site = self.sites[i]
        own = places(self.sites, self.dims)[site]
        before = slice(0, own.start)

        def given(loc: Tensor, factor: Tensor, *over: Tensor) -> Distribution:
            mean = movable(site, lambda: loc[..., own])
            if over:
                left = beside_each_other(over)[0] - loc[..., before]
                e = torch.linalg.solve_triangular(
                    factor[..., before, before], left.unsqueeze(-1), upper=False
                )
                mean = mean + (factor[..., own, before] @ e).squeeze(-1)
            tril = factor[..., own, own]
            return MultivariateNormal(mean, scale_tril=tril, validate_args=False)

        return given
