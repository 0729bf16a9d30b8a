"""The likelihood of data whose being seen depends on their own values."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions.masked import SelfMasked, Unseen
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.continuous import Gaussian
from pyro_vae.models.likelihoods.discrete import Bernoulli
from pyro_vae.networks import Shape


class SelfMasking(Likelihood):
    """`p(x_seen, mask|z) = prod_seen p(x_i|z) s_i(x_i) prod_missing E_{p(x_i|z)}[1 - s_i(x_i)]`: missing not at random.

    Whether an element was seen depends on its own value, `s_i(x_i) = sigmoid(a_i + b_i x_i)`, x in standard units, a
    and b learned for each element: an income that is not told because it is high. The expectation over what was not
    seen is taken by quadrature, so that the density has no noise. Of data without missing values it is the inner
    likelihood.

    Args:
        shape: shape of one datum.
        likelihood: makes `p(x|z)` from `shape`: `Gaussian` or `Bernoulli`, or a `functools.partial` of one.

    Raises:
        InputError: for another likelihood.

    Source: Ipsen, Mattei & Frellsen 2021, not-MIWAE: Deep Generative Modelling with Missing not at Random Data (there
    the expectation is a draw).

    >>> likelihood = SelfMasking((1,))
    >>> p = likelihood.partly(likelihood(torch.zeros(1, 1)))  # a = b = 0: seen by the toss of a coin
    >>> round(p.log_prob(torch.tensor([torch.nan])).item(), 4)  # log(1/2)
    -0.6931
    """

    def __init__(
        self, shape: Shape, *, likelihood: Callable[[Shape], Likelihood] = Gaussian
    ) -> None:
        super().__init__(shape)
        inner = likelihood(self.shape) if callable(likelihood) else None
        if not isinstance(inner, Gaussian | Bernoulli):
            raise InputError(
                f"likelihood={likelihood!r} of SelfMasking must be Gaussian or Bernoulli"
            )
        self.inner = inner
        self.support, self.channels = inner.support, inner.channels
        self.output_spread, self.seen_as = inner.output_spread, inner.seen_as
        self.mask_bias = nn.Parameter(torch.zeros(self.shape))
        self.mask_slope = nn.Parameter(torch.zeros(self.shape))

    def forward(self, h: Tensor) -> Distribution:
        return self.inner(h)  # type: ignore[no-any-return]

    @property
    def stand_in(self) -> Tensor | float:
        return self.inner.stand_in

    def partly(self, p: Any) -> Distribution:
        """`p(x_seen, mask|z)`: nan is what was not seen."""
        shift = getattr(self.inner, "shift", torch.zeros_like(self.mask_bias))
        slope = self.mask_slope / getattr(self.inner, "spread", 1.0)
        return SelfMasked(p, self.stand_in, self.mask_bias - slope * shift, slope)

    def unseen(self, p: Any) -> Distribution:
        return Unseen(p)

    def check(self, x: Tensor) -> None:
        self.inner.check(x)

    def keep_above(self, floor: Tensor) -> None:
        self.inner.keep_above(floor)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        return self.inner.starting_output(mean, std)

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        self.inner.initialise(mean, std, standardise=standardise)
