"""Whether ranks are uniform: tests whose level holds."""

import math

import torch
from scipy.special import chdtrc, ndtr
from torch import Tensor

BINS = 20  # of the test of shape, at most
EXPECTED = 20  # ranks in a bin of it, at least


def place(ranks: Tensor, num_draws: int) -> float:
    """How far the mean of ranks lies from `L / 2`, in standard errors; ranks are `0, ..., L`, `(n,)`."""
    return _standardised(ranks.double(), torch.arange(num_draws + 1.0).double())


def spread(ranks: Tensor, num_draws: int) -> float:
    """How far the mean of `|rank - L / 2|` is too large, in standard errors: positive where ranks are at the ends."""
    middle = num_draws / 2
    every = (torch.arange(num_draws + 1.0).double() - middle).abs()
    return _standardised((ranks.double() - middle).abs(), every)


def _standardised(values: Tensor, every: Tensor) -> float:
    """The mean of some values in standard errors from that of `every` one, which are equally probable."""
    error = every.std(correction=0) / math.sqrt(len(values))
    return ((values.mean() - every.mean()) / error).item()


def shape(ranks: Tensor, num_draws: int) -> float:
    """The p of a chi-squared test of the counts of ranks in up to 20 bins; 1 where there are too few for two."""
    bins = min(BINS, len(ranks) // EXPECTED, num_draws + 1)
    if bins < 2:
        return 1.0

    def counts(values: Tensor) -> Tensor:
        return (values * bins // (num_draws + 1)).bincount(minlength=bins).double()

    expected = counts(torch.arange(num_draws + 1)) * len(ranks) / (num_draws + 1)
    statistic = ((counts(ranks.long()) - expected).square() / expected).sum().item()
    return float(chdtrc(bins - 1, statistic))


def two_sided(z: float) -> float:
    """How probable a standard normal number is that is as far from 0."""
    return float(2 * ndtr(-abs(z)))


def holm(p: list[float]) -> list[float]:
    """p-values of several tests as they count together: below a level by chance no more often than the level says.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(p), 0.0
    for done, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - done) * p[i]))
        adjusted[i] = least
    return adjusted
