"""A distribution of elements of which some were not seen."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions.own import Own
from pyro_vae.distributions.wide import Wide, wide


class Partly(Own):
    """`log p(x_seen) = sum_i 1[x_i is no nan] log p_i(x_i)`: an element that is nan was not seen and counts nothing.

    The elements are independent, so that this is the density of those that were seen, the others integrated out. A
    stand-in takes the place of nan before the density is computed: what is masked afterwards has a gradient of nan.

    Args:
        whole: the distribution of all elements, independent of one another.
        stand_in: a value for each element, or one for all, at which the density and its gradient are finite.

    >>> import pyro.distributions as dist
    >>> p = Partly(dist.Normal(torch.zeros(2), 1.0).to_event(1), stand_in=0.0)
    >>> p.log_prob(torch.tensor([[0.0, 0.0], [0.0, torch.nan]]))  # -log(2 pi), and half of it
    tensor([-1.8379, -0.9189])
    """

    shaped = ("whole",)

    def __init__(self, whole: Any, stand_in: Tensor | float) -> None:
        self.whole, self.stand_in = whole, stand_in
        super().__init__(whole.batch_shape, whole.event_shape)

    has_rsample = property(attrgetter("whole.has_rsample"))
    support = property(attrgetter("whole.support"))
    mean = property(attrgetter("whole.mean"))
    mode = property(attrgetter("whole.mode"))
    variance = property(attrgetter("whole.variance"))

    def filled(self, x: Tensor) -> Tensor:
        """`x` as the elements' distribution takes it, with the stand-in for what was not seen."""
        filled = torch.where(x.isnan(), self.stand_in, x)
        return wide(filled) if isinstance(self.whole, Wide) else filled

    def log_probs(self, x: Tensor) -> Tensor:
        """`log p_i(x_i)` for each element, `(..., *shape)`, 0 for those that were not seen."""
        there = self.whole.base_dist.log_prob(self.filled(x))
        return there.where(~x.isnan(), 0.0)  # type: ignore[no-any-return]

    def log_prob(self, x: Tensor) -> Tensor:
        dims = tuple(range(-len(self.event_shape), 0))
        total = self.log_probs(x).sum(dims)
        return total.to(self.whole.dtype) if isinstance(self.whole, Wide) else total

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.whole.sample(sample_shape)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.whole.rsample(sample_shape)  # type: ignore[no-any-return]
