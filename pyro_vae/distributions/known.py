"""Classes and real targets of which some are known."""

import math

import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor


def pinned(p: Categorical, labels: Tensor) -> Categorical:
    """The distribution of a class, with all of its mass on the label where one is known.

    Args:
        p: of any batch shape.
        labels: `(batch,)` whole numbers, -1 where there is none.
    """
    values = torch.arange(p.logits.shape[-1], device=labels.device)
    at_label = torch.where(values == labels.unsqueeze(-1), 0.0, -math.inf)
    logits = torch.where((labels >= 0).unsqueeze(-1), at_label, p.logits)
    return Categorical(logits=logits, validate_args=False)


def set_aside(q: Normal, labels: Tensor) -> Normal:
    """`q(y|x)` where the target is not known, and `N(0, 1)` where it is: a draw there stands for nothing.

    The model draws it from the same, so that it has no part in any weight.
    """
    unknown = labels.isnan()
    loc, scale = q.loc.where(unknown, 0.0), q.scale.where(unknown, 1.0)
    return Normal(loc, scale, validate_args=False)


def is_known(labels: Tensor) -> Tensor:
    """Which labels are known: whole numbers from 0, or reals that are not nan."""
    return ~labels.isnan() if labels.is_floating_point() else labels >= 0


def log_prob_of_known(p: Categorical | Normal, labels: Tensor) -> Tensor:
    """`log p(label)`, and 0 where none is known, `(batch,)`."""
    known = is_known(labels)
    return p.log_prob(labels.where(known, 0)).where(known, 0.0)
