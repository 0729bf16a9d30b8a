"""The gamma distribution by its mean, at any shape."""

import math

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Drawn
from pyro_vae.distributions.stirling import HALF_LOG_2_PI, deviance, remainder

LEAST = math.log(1e-300)  # of what float64 holds


class LogGamma(Drawn):
    """The gamma distribution of mean `m = exp(log_mean)` and shape `k = exp(log_shape)`, variance `m^2 / k`.

    `log p(x) = log(k) / 2 - log(2 pi) / 2 - R(k) - (k log(m / x) + k x / m - k) - log(x)`, with what Stirling's
    formula lacks of `log Gamma(k)` as `R`: the terms that grow with k and cancel are taken off on paper.

    >>> LogGamma(torch.tensor(0.0), torch.tensor(0.0)).log_prob(torch.tensor(2.0))  # exp(-x)
    tensor(-2.)
    """

    support = constraints.positive
    shaped = ("log_mean",)

    def __init__(self, log_mean: Tensor, log_shape: Tensor) -> None:
        # one k for many data stays one number
        self.log_mean, self.log_shape = log_mean, log_shape
        super().__init__(torch.broadcast_shapes(log_mean.shape, log_shape.shape))

    def draw(self, shape: torch.Size) -> Tensor:
        """`m / k` times a gamma variable of shape k, by `G(k) = G(k + 1) U^(1 / k)` where k is small."""
        log_k = self.log_shape.expand(shape)
        above = torch._standard_gamma((log_k.exp() + 1).contiguous()).log()
        log_g = above + torch.rand_like(above).clamp_min(1e-300).log() / log_k.exp()
        return (self.log_mean - log_k + log_g).clamp(LEAST, -LEAST).exp()

    def log_prob(self, x: Tensor) -> Tensor:
        k, log_x = self.log_shape.exp(), x.log()
        scaled = (self.log_shape + log_x - self.log_mean).exp()
        apart = deviance(k, scaled, self.log_mean - log_x)
        peak = self.log_shape / 2 - HALF_LOG_2_PI - remainder(k, self.log_shape)
        return peak - apart - log_x

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return (2 * self.log_mean - self.log_shape).exp().expand(self.batch_shape)
