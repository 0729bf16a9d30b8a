"""Held-out data, datum by datum: what the best epoch is chosen by, and how far chance alone moves it."""

import math
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from pyro_vae.engine.alike import Alike
from pyro_vae.inference.bounds import each_bound, each_objective
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.terms import Program

ELBO, RECONSTRUCTION, KL, SCORE = range(4)  # the rows of what `judge` returns
UNLIKELY = 1e-4  # how often chance alone goes beyond `chance`, in one epoch
WILD = 100  # distances of the quartiles below the median


def judge(
    model: Program,
    guide: Program,
    x: Any,
    objective: Objective | None,
    alike: Alike | None = None,
) -> Tensor:
    """ELBO, reconstruction, KL and score of each of N held-out data, `(4, N)`, nats, float64 on the host.

    Args:
        model: as in `elbo`.
        guide: as in `elbo`.
        x: the data, checked.
        objective: whose bound is the score; `None` where the ELBO is.
        alike: calls the pair by as many threads as others leave room for; by default all compute.
    """
    parts: list[Tensor] = []
    each_bound(model, guide, x, parts.append, alike=alike)
    reconstruction, kl = torch.cat(parts, 1)
    bound = score = reconstruction - kl
    if objective is not None:
        scores: list[Tensor] = []
        each_objective(model, guide, x, objective, scores.append, alike=alike)
        score = torch.cat(scores)
    return torch.stack([bound, reconstruction, kl, score])


def chance(best: Tensor | None, now: Tensor) -> float:
    """How far the mean of `now` can lie below that of `best` because of which N data were held out, nats.

    `t_{N-1}(1 - 1e-4) std(best - now) / sqrt(N)`: the same data under two models, so that what is hard about a datum
    under both does not count. Without `best` the two are taken for independent, with the spread of `now`.

    Args:
        best: `(N,)`, or `None`.
        now: `(N,)`.

    Returns:
        A number of nats; `inf` for fewer than two data, which tell no spread.
    """
    n = len(now)
    if n < 2:
        return math.inf
    spread = math.sqrt(2) * now.std() if best is None else (best - now).std()
    return float(stdtrit(n - 1, 1 - UNLIKELY)) * float(spread) / math.sqrt(n)


def far_down(values: Tensor) -> Tensor:
    """Which finite values, `(N,)`, lie so low that one of them moves the mean: `(N,)` booleans.

    They lie more than 100 times the distance of the quartiles below the median, and move the mean by more than 1 nat.
    """
    sound = values.isfinite()
    if not sound.any():
        return sound
    low, median, high = values[sound].quantile(values.new_tensor([0.25, 0.5, 0.75]))
    below = median - values
    return sound & (below > WILD * (high - low)) & (below / len(values) > 1)
