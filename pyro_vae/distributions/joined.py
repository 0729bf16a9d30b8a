"""Columns or fields side by side, each with a distribution of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Own
from pyro_vae.distributions.wide import wide
from pyro_vae.foundation.layout import Layout


class Joined(Own):
    """`p(x) = prod_j p_j(x_j)`: the parts of x are independent, and each may be numbers of another kind.

    Args:
        parts: a distribution for each part of x, of batch shape `(...)`, of a column of event shape `(1,)`.
        shape: of x; its elements are those of the parts, one after the other, each row by row.
        like: a number of the type to return; types narrower than float32 return float32.

    >>> import pyro.distributions as dist
    >>> parts = [dist.Normal(torch.zeros(1), 1.0).to_event(1), dist.Poisson(torch.ones(1)).to_event(1)]
    >>> Joined(parts, (2,), like=torch.zeros(())).log_prob(torch.zeros(2))  # -log(2 pi) / 2 - 1
    tensor(-1.9189)
    """

    def __init__(
        self, parts: Sequence[Any], shape: tuple[int, ...], *, like: Tensor
    ) -> None:
        self.parts = list(parts)
        self.dtype = torch.promote_types(like.dtype, torch.float32)
        shapes = tuple(tuple(part.event_shape) for part in parts)
        names = tuple(map(str, range(len(shapes))))
        self.layout = Layout(names, shapes, tuple(shape))
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        super().__init__(batch, torch.Size(shape))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: object = None) -> "Joined":
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        parts = [part.expand(torch.Size(batch_shape)) for part in self.parts]
        return Joined(parts, self.event_shape, like=torch.empty(0, dtype=self.dtype))

    def log_probs(self, x: Tensor) -> Tensor:
        """`log p_j(x_j)` for each part j, `(..., *shape) -> (..., parts)`, in float64."""
        pairs = zip(self.parts, self.layout.parts(wide(x)), strict=True)
        each = [wide(part.log_prob(value)) for part, value in pairs]
        return torch.stack(torch.broadcast_tensors(*each), -1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_probs(x).sum(-1).to(self.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.together([part.sample(sample_shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        return self.together([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self.together([part.variance for part in self.parts])

    def together(self, values: Sequence[Tensor]) -> Tensor:
        """The values of each part as one tensor `(..., *shape)`."""
        return self.layout.together(values).to(self.dtype)
