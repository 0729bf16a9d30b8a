"""Whether an importance-weighted number can be believed: the shape of the largest weights."""

import math

import torch
from torch import Tensor

# By how many roundings of its size a log-weight, a difference of long sums, may be off.
ROUNDINGS = 1024.0


def tail_length(num_particles: int) -> int:
    """How many of the largest weights the Pareto fit looks at: `min(K / 5, 3 sqrt(K))`, rounded up.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling.
    """
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_k(largest: Tensor, computed: torch.dtype | None = None) -> Tensor:
    """The shape k of a generalised Pareto distribution fitted to the largest importance weights.

    Below 0.7 the estimate converges at a practical rate; above it, the mean is dominated by a few draws and neither it
    nor its standard error can be trusted. Values equal ArviZ's `psislw`.

    Args:
        largest: the `tail_length(K) + 1` largest log-weights of each datum, `(..., M + 1)`, in any order; the smallest
            of them is the threshold of the tail.
        computed: the type in which they were computed, whose rounding they carry; `None`: their own.

    Returns:
        k, shape `(...)`: `inf` where fewer than five weights exceed the threshold, as ArviZ has it, and `-inf` where
        all weights are equal up to rounding (the guide is the exact posterior: nothing to fear).

    Source: Zhang & Stephens 2009, A New and Efficient Estimation Method for the Generalized Pareto Distribution.
    """
    log_w = largest.double().sort(-1).values
    rounding = torch.finfo(computed or largest.dtype).eps * (1 + log_w[..., -1].abs())
    log_w = log_w - log_w[..., -1:]
    # Of a single weight nothing is known.
    equal = (-log_w[..., 0] < ROUNDINGS * rounding) & (log_w.shape[-1] > 1)
    threshold = log_w[..., :1].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    in_tail = log_w > threshold
    flat, inside = (
        (log_w.exp() - threshold.exp()).flatten(0, -2),
        in_tail.flatten(0, -2),
    )
    count = inside.sum(-1)
    k = torch.full_like(flat[..., 0], math.inf)
    for m in (
        count.unique().tolist()
    ):  # ties at the threshold shorten the tail of some data: one fit for each length
        if m > 4:
            rows = count == m
            k[rows] = _fit(flat[rows][:, -m:])
    k = k.reshape(equal.shape)
    return k.masked_fill(equal, -math.inf)


def tail_index(log_w: Tensor, computed: torch.dtype | None = None) -> Tensor:
    """`pareto_k` of all weights of each datum, `(K, ...) -> (...)`."""
    most = min(tail_length(len(log_w)) + 1, len(log_w))
    largest = log_w.topk(most, dim=0).values.movedim(0, -1)
    return pareto_k(largest, computed)


def _fit(tail: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for sorted exceedances `(rows, n)`, with the weak prior on k of ArviZ and loo."""
    n = tail.shape[-1]
    m = 30 + int(n**0.5)
    grid = (
        1
        - (
            m / (torch.arange(1, m + 1, dtype=tail.dtype, device=tail.device) - 0.5)
        ).sqrt()
    )
    quartile = tail[:, int(n / 4 + 0.5) - 1]
    b = grid / (3 * quartile[:, None]) + 1 / tail[:, -1:]  # (rows, m)
    k = torch.stack([torch.log1p(-b[:, i, None] * tail).mean(-1) for i in range(m)], -1)
    log_likelihood = n * ((-b / k).log() - k - 1)
    weight = log_likelihood.softmax(-1)
    weight = weight.masked_fill(weight < 10 * torch.finfo(tail.dtype).eps, 0)
    b_mean = (b * weight).sum(-1) / weight.sum(-1)
    shape = torch.log1p(-b_mean[:, None] * tail).mean(-1)
    return (n * shape + 5) / (n + 10)
