"""Likelihoods with a density on the positive reals."""

import math
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.gamma import LogGamma
from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.continuous import LocationScale
from pyro_vae.networks import Shape
from pyro_vae.networks.views import moments, of_logarithms


class LogNormal(LocationScale):
    """`p(x|z) = prod_i N(log x_i; loc_i(z), scale_i) / x_i`: positive reals, whose ratios matter.

    See `LocationScale` for `scale` (fixed, `'learned'`, `'element'` or `'network'`) and `min_scale`; `loc` and `scale`
    are those of `log x`. The mean is `exp(loc + scale^2 / 2)`. Source: Galton 1879, The Geometric Mean in Vital and
    Social Statistics; McAlister 1879, The Law of the Geometric Mean.

    >>> LogNormal((1,), scale=1.0)(torch.zeros(1, 1)).log_prob(torch.ones(1))  # -log(2 pi) / 2
    tensor(-0.9189)
    """

    support = Representation.POSITIVE

    def forward(self, h: Tensor) -> Distribution:
        normal: Any = super().forward(h)
        return _Positive(normal.base_dist, len(self.shape), like=h)

    def density(self, loc: Tensor, scale: Tensor | float) -> Distribution:
        return dist.LogNormal(loc, scale, validate_args=False)

    @property
    def stand_in(self) -> Tensor:
        return self.shift.exp()

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        """The one whose mean, which the scale moves too, is the data's."""
        log_mean, log_std = of_logarithms(mean, std)
        middle = log_mean + log_std.square() / 2  # the logarithm of the mean
        log_scale: Any = self._log_scale_of(log_std)
        scale: Any = self.scale
        if isinstance(scale, str):
            log_scale = log_scale if scale == "network" else self.log_scale
            scale = self._least(self.spread) + self.spread * log_scale.exp()
        loc = (middle - scale**2 / 2 - self.shift) / self.spread
        return torch.stack([loc, log_scale.expand_as(loc)][: self.channels])

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        super().initialise(*of_logarithms(mean, std), standardise=standardise)

    def _least(self, spread: Tensor) -> Tensor:
        """A least scale in units of x is one of `log x` by the median of x."""
        least = spread * self.min_scale
        if self.floor is None:
            return least
        return torch.maximum(
            least, wide(self.floor).to(least) * (-wide(self.shift)).exp()
        )


RANGE = (1e-2, 1e6)  # of a concentration that data can tell


class Gamma(Likelihood):
    """`p(x|z) = prod_i (k_i / m_i)^k_i x_i^(k_i - 1) exp(-k_i x_i / m_i) / Gamma(k_i)`: positive reals.

    The mean is `m = exp(decoder(z))` times that of the data, the variance `m^2 / k`.

    Args:
        shape: shape of one datum.
        concentration: where the shape `k` comes from: `'element'` (one learned number for each element) or `'network'`
            (a second decoder channel). The larger, the narrower; at 1 it is the exponential distribution.

    Raises:
        InputError: for another `concentration`.

    Source: McCullagh & Nelder 1989, Generalized Linear Models, chapter 8.

    >>> Gamma((1,))(torch.zeros(1, 1)).log_prob(torch.ones(1)).item()  # the exponential distribution, k = 1
    -1.0
    """

    support = Representation.POSITIVE
    log_typical: Tensor

    def __init__(
        self, shape: Shape, *, concentration: Literal["element", "network"] = "element"
    ) -> None:
        super().__init__(shape)
        self.channels = 2 if concentration == "network" else 1
        self.log_k = (
            nn.Parameter(torch.zeros(self.shape))
            if concentration == "element"
            else None
        )
        self.register_buffer("log_typical", torch.zeros(self.shape))
        self._least_log_k = torch.tensor(-math.inf)

    def forward(self, h: Tensor) -> Distribution:
        log_mean, *rest = wide(h).unbind(-len(self.shape) - 1)  # each (..., *shape)
        log_k = rest[0] if self.log_k is None else wide(self.log_k)
        return _Positive(
            LogGamma(wide(self.log_typical) + log_mean, log_k), len(self.shape), like=h
        )

    @property
    def stand_in(self) -> Tensor:
        return self.log_typical.exp()

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log() - self.log_typical
        return torch.stack([log_mean, self._log_k_of(mean, std)][: self.channels])

    @torch.no_grad()
    def meet(self, x: Tensor) -> None:
        """Keep the `k` of greatest likelihood: of heavy tails moments make one so small that z would not matter.

        By Minka's closed form in `s = log E[x] - E[log x]`. Source: Minka 2002, Estimating a Gamma Distribution.
        """
        (mean, _), (log_mean, _) = moments(x), moments(x.log())
        s = (mean.log() - log_mean).clamp_min(1e-6)
        k = (3 - s + ((s - 3).square() + 24 * s).sqrt()) / (12 * s)
        self._least_log_k = k.clamp(*RANGE).log()

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        typical = mean if standardise else mean.mean().expand_as(mean)
        self.log_typical.copy_(typical.clamp_min(torch.finfo(mean.dtype).tiny).log())
        if self.log_k is not None:
            self.log_k.copy_(self._log_k_of(mean, std))

    def _log_k_of(self, mean: Tensor, std: Tensor) -> Tensor:
        """By moments, within what data can tell, `k = mean^2 / variance`, or that of greatest likelihood if larger."""
        by_moments = (mean / std.clamp_min(1e-30)).square().clamp(*RANGE).log()
        return torch.maximum(by_moments, self._least_log_k.to(by_moments))


class _Positive(Wide):
    """Over the positive reals, without the zero and the infinity that rounding would return."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        limits = torch.finfo(self.dtype)
        return super().sample(sample_shape).clamp(limits.tiny, limits.max)
