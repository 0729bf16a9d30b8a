"""Mixtures of Gaussians with independent coordinates, whose draws carry gradients."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Own
from pyro_vae.distributions.wide import wide


class DiagonalMixture(Own):
    """`p(z) = sum_c pi_c N(z; loc_c, diag(scale_c^2))`.

    Draws are reparameterised implicitly: coordinate by coordinate, the conditional distribution function
    `F_d(z_d | z_<d)` of a draw stays what it is while the parameters move, so `dz = -(dF/dz)^-1 dF`, a triangular
    system. Source: Graves 2016, Stochastic Backpropagation through Mixture Density Distributions; Figurnov, Mohamed &
    Mnih 2018, Implicit Reparameterization Gradients.

    Args:
        logits: `(..., C)`, the weights up to their sum.
        loc: `(..., C, D)`.
        scale: `(..., C, D)`.
    """

    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale = loc, scale
        batch = torch.broadcast_shapes(
            logits.shape[:-1], loc.shape[:-2], scale.shape[:-2]
        )
        super().__init__(batch, loc.shape[-1:])

    def log_prob(self, z: Tensor) -> Tensor:
        if self.loc.dim() == 2 and self.scale.dim() == 2:
            # One for all z: by matrix products. Their differences lose (loc / scale)^2 of the digits, more than float32
            # has where components are narrow.
            wide_z, loc, scale = wide(z), wide(self.loc), wide(self.scale)
            precision = scale.pow(-2)
            constant = -0.5 * dimension_term(loc.square() * precision, scale)
            squares = wide_z.square() @ precision.mT
            log_parts = wide_z @ (loc * precision).mT - 0.5 * squares + constant
            log_parts = log_parts.to(z.dtype)
        else:
            x = (z.unsqueeze(-2) - self.loc) / self.scale  # (..., C, D)
            log_parts = -0.5 * dimension_term(x.square(), self.scale)
        log_p = (self.log_weights + log_parts).logsumexp(-1)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        z = self._draw(sample_shape)
        parameters = (self.log_weights, self.loc, self.scale)
        moving = any(parameter.requires_grad for parameter in parameters)
        if not (moving and torch.is_grad_enabled()):
            return z
        with torch.no_grad():
            tail, sign, weights, density = self._conditionals(z)
            # dF_d/dz_j, j < d, through the weights that z_<d gives the components; and dF_d/dz_d.
            centre = (weights * tail).sum(-2, keepdim=True)
            deviation = weights * (tail - centre)  # (..., C, D)
            slope = (self.loc - z.unsqueeze(-2)) / self.scale.square()
            jacobian = (deviation.mT @ slope).tril(-1)
            jacobian = jacobian + torch.diag_embed(sign * density)
        tail, _, weights, _ = self._conditionals(z)
        moved = (weights * tail).sum(-2)
        moved = (moved - moved.detach()).unsqueeze(-1)
        change = torch.linalg.solve_triangular(jacobian, moved, upper=False)
        return z - change.squeeze(-1)

    @torch.no_grad()
    def _draw(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(sample_shape)  # (*sample, *batch, D)
        if self.log_weights.shape[-1] == 1:  # a normal: there is nothing to choose
            loc, scale = self.loc.squeeze(-2), self.scale.squeeze(-2)
            return loc + scale * torch.randn_like(loc.expand(shape))
        noise = self.loc.new_empty(shape[:-1] + self.log_weights.shape[-1:])
        # Gumbel's maximum
        which = (self.log_weights - noise.exponential_().log()).argmax(-1)
        index = which[..., None, None].expand(*shape[:-1], 1, shape[-1])
        wide = (*shape[:-1], *self.loc.shape[-2:])
        loc = self.loc.expand(wide).gather(-2, index).squeeze(-2)
        scale = self.scale.expand(wide).gather(-2, index).squeeze(-2)
        return loc + scale * torch.randn_like(loc)

    def _conditionals(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each coordinate given those before it: the components' tails `(..., C, D)`, on the side where the
        mixture's is small; which side that is; the components' weights; the mixture's density `(..., D)`.
        """
        x = (z.unsqueeze(-2) - self.loc) / self.scale
        log_parts = -0.5 * (x.square() + math.log(2 * math.pi)) - self.scale.log()
        before = log_parts.cumsum(-1) - log_parts
        weights = (self.log_weights.unsqueeze(-1) + before).softmax(-2)
        with torch.no_grad():
            sign = torch.where((weights * x).sum(-2) < 0, 1.0, -1.0).to(z.dtype)
        tail = 0.5 * torch.erfc(-sign.unsqueeze(-2) * x / math.sqrt(2))
        return tail, sign, weights, (weights * log_parts.exp()).sum(-2)

    @property
    def mean(self) -> Tensor:
        mean = (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        spread = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.log_weights.exp().unsqueeze(-1) * spread).sum(-2)


def dimension_term(squares: Tensor, scale: Tensor) -> Tensor:
    """`sum_d squares_d + log(2 pi scale_d^2)`."""
    return (squares + math.log(2 * math.pi) + 2 * scale.log()).sum(-1)
