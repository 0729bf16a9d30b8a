"""Independent normals whose log-densities take as few operations as there are."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)


class DiagonalNormal(dist.Independent):
    """`N(loc, diag(exp(log_scale)^2))`, both `(..., D)`; the logarithm of the scale is not taken again.

    >>> DiagonalNormal(torch.zeros(2), torch.zeros(2)).log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    def __init__(
        self, loc: Tensor, log_scale: Tensor, *, scale: Tensor | None = None
    ) -> None:
        scale = log_scale.exp() if scale is None else scale
        normal = dist.Normal(loc, scale, validate_args=False)
        super().__init__(normal, 1, validate_args=False)
        self.log_scale = log_scale

    def expand(self, batch_shape: Any, _instance: object = None) -> "DiagonalNormal":
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        shape = torch.Size(batch_shape) + self.event_shape
        loc, scale = (
            self.base_dist.loc.expand(shape),
            self.base_dist.scale.expand(shape),
        )
        return DiagonalNormal(loc, self.log_scale.expand(shape), scale=scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """`-1/2 sum_d ((z_d - loc_d) / scale_d)^2 - sum_d log scale_d - D/2 log(2 pi)`."""
        standard = (value - self.base_dist.loc) / self.base_dist.scale
        constant = self.log_scale.sum(-1) + 0.5 * LOG_2_PI * self.event_shape.numel()
        return -0.5 * standard.square().sum(-1) - constant


class Standard(dist.Independent):
    """`N(0, I)`, made as `Standard(Normal(zeros, ones), 1)`."""

    def log_prob(self, value: Tensor) -> Tensor:
        """`-1/2 sum_d z_d^2 - D/2 log(2 pi)`."""
        return -0.5 * value.square().sum(-1) - 0.5 * LOG_2_PI * self.event_shape.numel()
