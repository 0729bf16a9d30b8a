"""Classes of which some are known."""

import math

import torch
from pyro.distributions import Categorical
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


def log_prob_of_known(p: Categorical, labels: Tensor) -> Tensor:
    """`log p(label)`, and 0 where none is known, `(batch,)`."""
    return p.log_prob(labels.clamp_min(0)).where(labels >= 0, 0.0)
