"""Likelihoods of counts."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.counts import (
    LogNegativeBinomial,
    LogPoisson,
    ZeroInflatedCounts,
)
from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.networks import Shape

Size = Literal["observed"] | None
NOTHING = 1e-8  # stands for a total of no counts


class Counting(Likelihood):
    """Masses on 0, 1, 2, ...: what the members for counts share.

    Counts stay below 2^32, where the masses are exact to 1e-4 nats.
    """

    support = Representation.COUNTS
    bits = 32  # float32 counts stay below 2 to this power
    typical_total: Tensor  # total count of a datum, for draws

    def __init__(self, shape: Shape, *, size: Size = None) -> None:
        super().__init__(shape)
        self.sized = size is not None
        if self.sized:
            self.register_buffer("typical_total", torch.ones(()))

    def log_mean(self, h: Tensor, total: Tensor | None) -> Tensor:
        """`log mean_i`, `(..., *shape)`: h itself, or `log total + log softmax(h)_i` where the total is observed."""
        if not self.sized:
            return h
        axes = len(self.shape)
        total = self.typical_total if total is None else total
        shares = h.flatten(-axes).log_softmax(-1).unflatten(-1, self.shape)
        return shares + total.to(h).clamp_min(NOTHING).log().reshape(
            *total.shape, *[1] * axes
        )

    def start_total(self, mean: Tensor) -> None:
        """Keep the mean total count of the data, from the mean of each element."""
        if self.sized:
            self.typical_total.copy_(mean.sum())

    def check(self, x: Tensor) -> None:
        super().check(x)
        single = x.is_floating_point() and x.dtype is not torch.float64
        bits = self.bits if single else 32
        most = x.max().item() if x.numel() else 0
        if most >= 2**bits:
            double = (
                "use --precision float64 (in Python, float64 data and vae.double())"
            )
            raise InputError(
                f"x holds the count {int(most):,}, and {type(self).__name__} is exact for counts below 2^{bits} = "
                f"{2**bits:,}{' in float32' if bits < 32 else ''}; {double if bits < 32 else 'count in a larger unit'}"
            )


class Poisson(Counting):
    """`p(x|z) = prod_i rate_i^x_i exp(-rate_i) / x_i!`, with `rate = exp(decoder(z))`: counts.

    Args:
        shape: shape of one datum.
        size: with `'observed'` the mass is `p(x|z, total)`, given the datum's total count, and the rates are
            `total softmax(decoder(z))`: only shares are modelled. Draws have the mean total of the training data.

    >>> Poisson((1,))(torch.zeros(1, 1)).log_prob(torch.zeros(1))  # a rate of 1
    tensor(-1.)
    """

    bits = 24  # above, float32 rounds to even numbers, which matters to a mass as narrow as this

    def __init__(self, shape: Shape, *, size: Size = None) -> None:
        super().__init__(shape, size=size)

    def forward(self, h: Tensor, total: Tensor | None = None) -> Distribution:
        # (..., *shape)
        log_rate = self.log_mean(wide(h).squeeze(-len(self.shape) - 1), total)
        return Wide(LogPoisson(log_rate), len(self.shape), like=h)

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        self.start_total(mean)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        # An element that is always 0 as if it counted 1 in a thousand.
        return mean.clamp_min(1e-3).log().unsqueeze(0)


class NegativeBinomial(Counting):
    """`p(x|z) = prod_i NB(x_i; mean_i(z), r_i)`, variance `mean + mean^2 / r`: counts that vary more than Poisson's.

    Args:
        shape: shape of one datum.
        dispersion: where `r` comes from: `'element'` (one learned number for each element) or `'network'` (a second
            decoder channel). The larger `r`, the closer to Poisson.
        size: with `'observed'` the mass is `p(x|z, total)`, given the datum's total count (the library size of a cell),
            and the means are `total softmax(decoder(z))`. Draws have the mean total of the training data.

    Raises:
        InputError: for another `dispersion`.

    Source: Lopez, Regier, Cole, Jordan & Yosef 2018, Deep Generative Modeling for Single-Cell Transcriptomics.

    >>> round(NegativeBinomial((1,))(torch.zeros(1, 1)).log_prob(torch.zeros(1)).item(), 4)  # mean 1, r = 1: log(1/2)
    -0.6931
    """

    def __init__(
        self,
        shape: Shape,
        *,
        dispersion: Literal["element", "network"] = "element",
        size: Size = None,
    ) -> None:
        super().__init__(shape, size=size)
        self.channels = 2 if dispersion == "network" else 1
        self.log_r = (
            nn.Parameter(torch.zeros(self.shape)) if dispersion == "element" else None
        )

    def forward(self, h: Tensor, total: Tensor | None = None) -> Distribution:
        first, *rest = wide(h).unbind(-len(self.shape) - 1)  # each (..., *shape)
        log_r = rest[0] if self.log_r is None else wide(self.log_r)
        log_mean = self.log_mean(first, total)
        return Wide(LogNegativeBinomial(log_mean, log_r), len(self.shape), like=h)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        log_mean = mean.clamp_min(1e-3).log()
        return torch.stack([log_mean, self._log_r_of(mean, std)][: self.channels])

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        self.start_total(mean)
        if self.log_r is not None:
            self.log_r.copy_(self._log_r_of(mean, std))

    def _log_r_of(self, mean: Tensor, std: Tensor) -> Tensor:
        """By moments, within what a count can tell: `r = mean^2 / (variance - mean)`."""
        excess = (std.square() - mean).clamp_min(1e-6)
        return (mean.clamp_min(1e-3).square() / excess).clamp(1e-2, 1e3).log()


GATE = 0.1  # where training starts


class ZeroInflated(Likelihood):
    """`p(x|z) = prod_i g_i(z) 1[x_i = 0] + (1 - g_i(z)) p_inner(x_i|z)`: counts with more zeros than `p_inner` expects.

    The decoder's first channel is the logit of the gate `g`; the others are those of `p_inner`.

    Args:
        shape: shape of one datum.
        likelihood: makes `p_inner` from `shape`: a class of counts whose elements are independent, such as `Poisson`
            or `NegativeBinomial`, or a `functools.partial` of one.

    Raises:
        InputError: for a `likelihood` that is not one of counts.

    Source: Lambert 1992, Zero-Inflated Poisson Regression.

    >>> round(ZeroInflated((1,))(torch.zeros(2, 1)).log_prob(torch.zeros(1)).item(), 4)  # log(1/2 + exp(-1) / 2)
    -0.3799
    """

    support = Representation.COUNTS

    def __init__(
        self, shape: Shape, *, likelihood: Callable[[Shape], Likelihood] = Poisson
    ) -> None:
        super().__init__(shape)
        inner = likelihood(self.shape) if callable(likelihood) else None
        if (
            not isinstance(inner, Likelihood)
            or inner.support is not Representation.COUNTS
        ):
            raise InputError(
                f"likelihood={likelihood!r} of ZeroInflated must be one of counts, such as Poisson"
            )
        self.inner = inner
        self.sized = inner.sized
        self.channels = inner.channels + 1
        self.output_spread = inner.output_spread

    def forward(self, h: Tensor, *total: Tensor) -> Distribution:
        gate, rest = h.split([1, self.channels - 1], -len(self.shape) - 1)
        counts: Any = self.inner(rest, *total)
        gate = wide(gate).squeeze(-len(self.shape) - 1)  # (..., *shape)
        return Wide(ZeroInflatedCounts(gate, counts.base_dist), len(self.shape), like=h)

    @property
    def typical_total(self) -> Tensor:  # type: ignore[override]
        """The total count of a datum that draws have, where the inner counts are given one."""
        total: Tensor = self.inner.typical_total
        return total

    def check(self, x: Tensor) -> None:
        self.inner.check(x)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """A gate of one in ten, and the moments that the counts behind it must have."""
        h = self.inner.starting_output(*_behind_the_gate(mean, std))
        return (
            None
            if h is None
            else torch.cat([torch.full_like(mean, GATE).logit().unsqueeze(0), h])
        )

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        self.inner.initialise(*_behind_the_gate(mean, std), standardise=standardise)


def _behind_the_gate(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the inner counts, when a zero in their place has the probability `GATE`."""
    inner = mean / (1 - GATE)
    variance = (std.square() + mean.square()) / (1 - GATE) - inner.square()
    return inner, variance.clamp_min(0).sqrt()
