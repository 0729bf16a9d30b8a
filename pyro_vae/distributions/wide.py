"""Densities that are computed in float64, whatever the type of the numbers that go in and come out."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


def wide(t: Tensor) -> Tensor:
    """The same numbers in float64; as they are on devices that have no such numbers (MPS)."""
    return t if t.device.type == "mps" else t.double()


class Wide(dist.Independent):
    """A distribution with parameters in float64, over numbers of the type that the decoder's output has.

    In float32 the terms of a log-density, thousands of nats each at a mean of a million counts, lose the digits that
    are left when they cancel. Here each number is widened before anything is subtracted, and the log-density of a datum
    is rounded once, at its end. Elementwise operations in float64 cost little beside the products of a network.

    Args:
        base: the distribution of each element (or of all of them), with parameters that went through `wide`.
        dims: how many of its last batch dimensions belong to one datum.
        like: a number of the type to return; types narrower than float32 return float32.

    >>> p = Wide(dist.Normal(torch.zeros(2).double(), 1e-4), 1, like=torch.zeros(()))
    >>> p.log_prob(torch.zeros(2)).dtype
    torch.float32
    """

    def __init__(self, base: Any, dims: int, *, like: Tensor) -> None:
        super().__init__(base, dims, validate_args=False)
        self.dtype = torch.promote_types(like.dtype, torch.float32)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Wide":
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        dims = self.reinterpreted_batch_ndims
        base = self.base_dist.expand(torch.Size(batch_shape) + self.event_shape[:dims])
        return type(self)(base, dims, like=torch.empty(0, dtype=self.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(wide(value)).to(self.dtype)  # type: ignore[no-any-return]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        with torch.no_grad():
            return super().sample(sample_shape).to(self.dtype)  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return super().rsample(sample_shape).to(self.dtype)  # type: ignore[no-any-return]

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean.to(self.dtype)  # type: ignore[no-any-return]

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance.to(self.dtype)  # type: ignore[no-any-return]
