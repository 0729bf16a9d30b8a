"""Elements whose being seen depends on their own values."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.own import Own
from pyro_vae.distributions.partly import Partly
from pyro_vae.distributions.wide import Wide, wide

NODES = 32  # of a quadrature over one element
CANDIDATES = 100  # of which one is chosen for a draw


def _nodes(base: Any) -> tuple[Tensor, Tensor]:
    """Values of each element and the logarithms of their weights, `(J, ..., *shape)`: `E f(x) = sum_j w_j f(x_j)`.

    Those of a normal distribution are Gauss and Hermite's; a bit has two, and the sum is exact.
    """
    if isinstance(base, dist.Normal):
        at, weights = np.polynomial.hermite_e.hermegauss(NODES)
        shape = (-1, *[1] * len(base.batch_shape))
        places = torch.as_tensor(at).to(base.loc).reshape(shape)
        logs = torch.as_tensor(np.log(weights / math.sqrt(2 * math.pi))).to(base.loc)
        return base.loc + base.scale * places, logs.reshape(shape)
    logits = base.logits
    bits = torch.stack([torch.zeros_like(logits), torch.ones_like(logits)])
    return bits, torch.stack([logsigmoid(-logits), logsigmoid(logits)])


class SelfMasked(Partly):
    """`p(x_seen, mask) = prod_seen p_i(x_i) s(x_i) prod_missing E_{p_i}[1 - s(x_i)]`, with `s(x) = sigmoid(a + b x)`.

    Args:
        whole: independent normal distributions, or bits.
        stand_in: as in `Partly`.
        a, b: what an element is seen by, of the shape of one datum.
    """

    def __init__(
        self, whole: Any, stand_in: Tensor | float, a: Tensor, b: Tensor
    ) -> None:
        super().__init__(whole, stand_in)
        self.a, self.b = (wide(t) if isinstance(whole, Wide) else t for t in (a, b))

    def logit(self, x: Tensor) -> Tensor:
        """What `s` is the sigmoid of."""
        return self.a + self.b * x

    def tilted(self) -> tuple[Tensor, Tensor]:
        """Nodes `x_j` of each element, and `log w_j (1 - s(x_j))`, `(J, ..., *shape)`."""
        x, log_w = _nodes(self.whole.base_dist)
        return x, log_w + logsigmoid(-self.logit(x))

    def log_missing(self) -> Tensor:
        """`log E_{p_i}[1 - s(x_i)]` of each element, `(..., *shape)`."""
        return self.tilted()[1].logsumexp(0)

    def log_probs(self, x: Tensor) -> Tensor:
        filled = self.filled(x)
        there = self.whole.base_dist.log_prob(filled) + logsigmoid(self.logit(filled))
        return torch.where(~x.isnan(), there, self.log_missing())


class Unseen(Own):
    """`p_i(x_i) (1 - s(x_i)) / E_{p_i}[1 - s]`: each element of a `SelfMasked`, given that it was not seen.

    Its draws are chosen among 100 of `p_i` by `1 - s`.
    """

    def __init__(self, masked: SelfMasked) -> None:
        self.masked = masked
        super().__init__(masked.batch_shape, masked.event_shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        x, log_weights = self.masked.tilted()
        weights = log_weights.softmax(0)
        mean = (weights * x).sum(0)
        return mean, (weights * (x - mean).square()).sum(0)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Of the elements that are no nan, the others left out."""
        m = self.masked
        filled = m.filled(x)
        tilted = m.whole.base_dist.log_prob(filled) + logsigmoid(-m.logit(filled))
        each = (tilted - m.log_missing()).where(~x.isnan(), 0.0)
        return each.sum(tuple(range(-len(self.event_shape), 0)))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        x = self.masked.whole.base_dist.sample((CANDIDATES, *sample_shape))
        log_w = logsigmoid(-self.masked.logit(x))
        gumbel = -(-torch.rand_like(log_w).clamp_min(1e-30).log()).log()
        return x.gather(0, (log_w + gumbel).argmax(0, keepdim=True)).squeeze(0)
