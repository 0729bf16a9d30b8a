"""Whether ranks are uniform: tests whose level holds, and bands that hold a whole curve."""

import math

import numpy as np
import torch
from scipy.special import chdtrc, ndtr
from scipy.stats import binom
from torch import Tensor

BINS = 20  # of the test of shape, at most
EXPECTED = 20  # ranks in a bin of it, at least
REPLICATES = 10_000  # of uniform ranks, for a band


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


def band(
    n: int, below: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Between what shares the cumulative distribution of n ranks lies at some points, at all of them at once.

    Args:
        n: how many ranks.
        below: what share of uniform ranks lies below each point, rising, `(P,)`.
        level: how often the whole curve lies inside.

    Returns:
        The least and the largest share of the n ranks below the points, `(P,)` each.

    Source: Säilynoja, Bürkner & Vehtari 2022, Graphical Test for Discrete Uniformity and its Applications in
    Goodness-of-Fit Evaluation and Multiple Sample Comparison, by simulation.
    """
    generator = np.random.default_rng(0)
    steps = np.diff(below, prepend=0, append=1)
    counts = generator.multinomial(n, steps, size=REPLICATES).cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, n, below), binom.sf(counts - 1, n, below))
    tail = np.quantile(2 * tails.min(1), 1 - level)
    low, high = binom.ppf(tail / 2, n, below), binom.ppf(1 - tail / 2, n, below)
    return low / n, high / n
