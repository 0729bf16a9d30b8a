"""Columns side by side, each with a distribution of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Own
from pyro_vae.distributions.wide import wide


class Joined(Own):
    """`p(x) = prod_j p_j(x_j)`: the elements of x are independent, and each may be a number of another kind.

    Args:
        parts: a distribution for each element of x, of batch shape `(...)` and event shape `(1,)`.
        shape: of x; its elements are counted row by row.
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
        """`log p_j(x_j)` for each element j, `(..., *shape) -> (..., D)`, in float64."""
        columns = wide(x).flatten(x.dim() - len(self.event_shape)).split(1, -1)
        each = [
            part.log_prob(column)
            for part, column in zip(self.parts, columns, strict=True)
        ]
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

    def together(self, columns: Sequence[Tensor]) -> Tensor:
        """A number of each element, `(..., 1)`, as one tensor `(..., *shape)`."""
        each = torch.broadcast_tensors(*columns)
        return torch.cat(each, -1).unflatten(-1, self.event_shape).to(self.dtype)
