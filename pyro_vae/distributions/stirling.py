"""Logarithms of gamma functions and of their quotients, without the large terms that cancel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HALF_LOG_2_PI = math.log(2 * math.pi) / 2
# of 1/a, 1/a^3, ...
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
# from where the first term that is left out, 1 / (156 a^13), is below 2e-14
LARGE = 8.0


def series(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """`c_0 + c_1 x + c_2 x^2 + ...`."""
    *others, last = coefficients
    value = torch.full_like(x, last)
    for coefficient in reversed(others):
        value = value * x + coefficient
    return value


def remainder(a: Tensor, log_a: Tensor) -> Tensor:
    """What Stirling's `(a - 1/2) log(a) - a + log(2 pi) / 2` lacks of `log Gamma(a)`, for any positive a.

    Small a are carried to `a + 8` by `Gamma(a + 1) = a Gamma(a)`: the gamma function itself, and its derivative, would
    take longer than all the rest of a log-mass.
    """
    small = a < LARGE
    shifted = torch.where(small, a + 8, a)
    square = shifted.reciprocal().square()
    few, log_few = a.clamp_max(LARGE), log_a.clamp_max(math.log(LARGE))
    pairs = few * (few + 8)  # (a + 1) (a + 7) = a (a + 8) + 7, and so on
    product = (pairs + 7) * (pairs + 12) * (pairs + 15) * (few + 4)
    carried = (few + 7.5) * (few + 8).log() - 8 - (few + 0.5) * log_few - product.log()
    return series(SERIES, square) / shifted + torch.where(small, carried, 0.0)


def deviance(a: Tensor, b: Tensor, log_ratio: Tensor) -> Tensor:
    """`a log(a / b) + b - a`, from 0 where a and b agree; `log_ratio` is `log(a / b)`, finite also where a is 0.

    Source: Loader 2000, Fast and Accurate Computation of Binomial Probabilities.
    """
    u = log_ratio.clamp(-1, 1)
    near = (u == log_ratio) & (a > 0)
    return torch.where(near, a * (u + torch.expm1(-u)), a * log_ratio + b - a)
