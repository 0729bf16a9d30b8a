"""Distributions of counts, with masses that hold at any mean."""

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_vae.distributions.own import Drawn

LARGE = 1e4  # a shape from where the first term of Stirling's series that is left out, 1 / (360 r^3), is below 1e-14
MOST = 1e18  # events in a draw, which PyTorch counts in 64 bits


class Counts(Drawn):
    """What distributions of 0, 1, 2, ... share."""

    support = constraints.nonnegative_integer


class LogPoisson(Counts):
    """The Poisson distribution of mean `exp(log_mean)`.

    Its three terms have thousands of digits before the point at a mean of a million, of which float32 keeps seven: it
    is for numbers in float64, which leave a ten-millionth of a nat at counts of 2^24.

    >>> LogPoisson(torch.tensor(0.0)).log_prob(torch.tensor(0.0))
    tensor(-1.)
    """

    shaped = ("log_mean",)

    def __init__(self, log_mean: Tensor) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean.shape)

    def draw(self, shape: torch.Size) -> Tensor:
        return torch.poisson(self.mean.expand(shape).clamp_max(MOST))

    def log_prob(self, x: Tensor) -> Tensor:
        return x * self.log_mean - self.mean - torch.lgamma(x + 1)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean


class LogNegativeBinomial(Counts):
    """The mixture of Poisson distributions over means `exp(log_mean) G / r`, G a gamma variable of shape `exp(log_r)`.

    `p(x) = Poisson(x; m) (r)_x / r^x exp(m) (1 + m / r)^-(x + r)`, where `(r)_x = Gamma(x + r) / Gamma(r)`. As r
    grows, what follows the first factor tends to 1. No digits are lost in float64: for large r the quotient of gamma
    functions is taken by Stirling's formula, whose leading terms cancel on paper.

    >>> LogNegativeBinomial(torch.tensor(0.0), torch.tensor(0.0)).log_prob(torch.tensor(0.0))  # log(1/2)
    tensor(-0.6931)
    """

    shaped = ("log_mean",)

    def __init__(self, log_mean: Tensor, log_r: Tensor) -> None:
        # one r for many data stays one number
        self.log_mean, self.log_r = log_mean, log_r
        super().__init__(torch.broadcast_shapes(log_mean.shape, log_r.shape))

    def draw(self, shape: torch.Size) -> Tensor:
        gamma = torch._standard_gamma(self.log_r.exp().expand(shape).contiguous())
        mean = gamma * (self.log_mean - self.log_r).exp()
        return torch.poisson(mean.clamp_max(MOST))

    def log_prob(self, x: Tensor) -> Tensor:
        r = self.log_r.exp()
        n, few = x + r, r.clamp_max(LARGE)
        by_gamma = torch.lgamma(x + few) - torch.lgamma(few + 1) + (1 - x) * few.log()
        by_stirling = (
            (n - 0.5) * torch.log1p(x / r.clamp_min(LARGE)) - x - x / (12 * r * n)
        )
        rising = torch.where(r > LARGE, by_stirling, by_gamma)
        spread = self.log_mean.exp() - n * softplus(
            self.log_mean - self.log_r, threshold=40.0
        )
        return LogPoisson(self.log_mean).log_prob(x) + rising + spread

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return self.mean + (2 * self.log_mean - self.log_r).exp()


class ZeroInflatedCounts(Counts):
    """Zero with probability `sigmoid(gate)`, else a draw from `counts`.

    Pyro's `ZeroInflatedDistribution` cannot expand once its mean was asked for, and then has `log 0` at large gates.
    """

    shaped = ("gate", "counts")

    def __init__(self, gate: Tensor, counts: Any) -> None:
        self.gate, self.counts = gate, counts.expand(gate.shape)
        super().__init__(gate.shape)

    def draw(self, shape: torch.Size) -> Tensor:
        x = self.counts.draw(shape)
        return x.where(torch.rand_like(x) >= self.gate.sigmoid(), 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        gated = logsigmoid(self.gate)
        counted = logsigmoid(-self.gate) + self.counts.log_prob(x)
        # torch.logaddexp(gated, counted), whose second derivative is nan where one of them is far below the other
        return (gated + softplus(counted - gated)).where(x == 0, counted)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        """`(1 - g) (v + g m^2)` for counts of mean `m` and variance `v`."""
        spread = self.counts.variance + self.gate.sigmoid() * self.counts.mean.square()
        return torch.sigmoid(-self.gate) * spread
