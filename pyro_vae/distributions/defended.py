"""A proposal that keeps some draws for the prior."""

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Own


class Defended(Own):
    """`(1 - share) q + share p`: with p the prior, no weight `p(x, z) / q(z|x)` exceeds `p(x|z) / share`.

    Args:
        q: a distribution of batch shape `(...)`, event shape `(D,)`, or `()` for one number.
        p: one of the same event shape; its batch shape is `()`, or that of q up to dimensions at the left.
        share: `(...)`, between 0 and 1.

    Source: Hesterberg 1995, Weighted Average Importance Sampling and Defensive Mixture Distributions.
    """

    support = constraints.real_vector

    def __init__(self, q: Any, p: Any, share: Tensor) -> None:
        self.q, self.share = q, share
        self.p = p.expand(q.batch_shape) if p.batch_shape else p
        super().__init__(q.batch_shape, q.event_shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Defended":
        return Defended(
            self.q.expand(batch_shape), self.p, self.share.expand(batch_shape)
        )

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logaddexp(
            torch.log1p(-self.share) + self.q.log_prob(z),
            self.share.log() + self.p.log_prob(z),
        )

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        shape = self._extended_shape(sample_shape)
        event = len(self.event_shape)
        lead = sample_shape if self.p.batch_shape else shape[: len(shape) - event]
        z, other = self.q.sample(sample_shape), self.p.sample(lead)
        like = z[..., 0] if self.event_shape else z
        chosen = torch.rand_like(like) < self.share
        return torch.where(
            chosen.unsqueeze(-1) if self.event_shape else chosen, other, z
        )
