"""The distribution of f(e), where f is a chain of invertible steps: normalizing flows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae.distributions.own import Own


class Step(ABC):
    """One invertible map of a flow, with parameters that may differ from datum to datum.

    Parameters are tensors of shape `(..., *)` that broadcast against the leading dimensions of z.
    """

    has_parameters = True

    @abstractmethod
    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`z` -> `f(z)` and `log |det df/dz|`, shapes `(..., D)` and `(...)`."""

    @abstractmethod
    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`f(z)` -> `z` and `log |det df/dz|` at it: the inverse of `push`, differentiable in z and the parameters."""


class Pushforward(Own):
    """The distribution of `z = f(e)`, `e ~ base`: `log q(z) = log base(e) - log |det df/de|`.

    A draw remembers its own log-density, which comes from the pass that made it. Any other z is traced back through
    the inverses of the steps. Source: Rezende & Mohamed 2015, Variational Inference with Normalizing Flows.

    Args:
        base: the distribution of e, event shape `(D,)`.
        steps: the maps, applied in their order.
    """

    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Any, steps: Sequence[Step]) -> None:
        self.base, self.steps = base, tuple(steps)
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Pushforward":
        return Pushforward(self.base.expand(batch_shape), self.steps)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        z = self.base.rsample(sample_shape)
        log_q = self.base.log_prob(z)
        for step in self.steps:
            z, ladj = step.push(z)
            log_q = log_q - ladj
        self._drawn = z, log_q
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        if self._drawn is not None and z is self._drawn[0]:
            return self._drawn[1]
        log_q: Tensor | float = 0.0
        for step in reversed(self.steps):
            z, ladj = step.pull(z)
            log_q = log_q - ladj
        return self.base.log_prob(z) + log_q


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product over the last dimension."""
    return (a * b).sum(-1)


@torch.no_grad()
def bisect(f: Callable[[Tensor], Tensor], target: Tensor, width: Tensor) -> Tensor:
    """The `a` with `f(a) = target` for an increasing `f` that differs from `a` by at most `width`, elementwise."""
    low, high = target - width, target + width
    for _ in range(40 if target.dtype is torch.float32 else 70):
        middle = (low + high) / 2
        above = f(middle) > target
        low, high = low.where(above, middle), middle.where(above, high)
    return (low + high) / 2


class AffineStep(Step):
    """`f(z) = loc + scale * z`, each `(..., D)`."""

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.loc, z, self.log_scale.exp()), self.log_scale.sum(-1)

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z - self.loc) * (-self.log_scale).exp(), self.log_scale.sum(-1)


class Reflections(Step):
    """`f(z) = loc + H_T ... H_1 z`, `H = I - 2 v v^T / |v|^2`: volume-preserving; `v` is `(..., T, D)`.

    Source: Tomczak & Welling 2016, Improving Variational Auto-Encoders using Householder Flow.
    """

    def __init__(self, loc: Tensor, v: Tensor) -> None:
        self.loc, self.v = loc, v

    def _reflect(self, z: Tensor, order: range) -> Tensor:
        unit = self.v / self.v.norm(dim=-1, keepdim=True)
        for i in order:
            v = unit[..., i, :]
            z = z - 2 * v * dot(v, z).unsqueeze(-1)
        return z

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = self._reflect(z, range(self.v.shape[-2]))
        return self.loc + z, z.new_zeros(z.shape[:-1])

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = self._reflect(z - self.loc, range(self.v.shape[-2])[::-1])
        return z, z.new_zeros(z.shape[:-1])


class PlanarStep(Step):
    """`f(z) = z + u tanh(w.z + b)`, with `u` bent so that `w.u > -1`: then f is invertible.

    The determinant is `1 + w.u (1 - tanh^2)`; the inverse needs the root of one increasing function of one number.
    Source: Rezende & Mohamed 2015, Variational Inference with Normalizing Flows, appendix A.1. Here `u = 0` is the
    identity.
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        self.w, self.b = w, b  # (..., D), (...)
        free = dot(w, u)
        self.slope = softplus(free + 0.5413248546129181) - 1  # log(e - 1): 0 stays 0
        along = (self.slope - free) / dot(w, w).clamp_min(1e-12)
        self.u = u + along.unsqueeze(-1) * w

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(dot(self.w, z) + self.b)
        return z + self.u * h.unsqueeze(-1), torch.log1p(self.slope * (1 - h * h))

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        along = dot(self.w, z)
        slope, b = torch.broadcast_tensors(self.slope, self.b)
        width = slope.abs().expand_as(along)
        root = bisect(lambda a: a + slope * torch.tanh(a + b), along, width)
        h = torch.tanh(root + b)
        with torch.no_grad():
            derivative = 1 + slope * (1 - h * h)
        # a Newton step: it carries the gradient
        root = root - (root + slope * h - along) / derivative
        h = torch.tanh(root + b)
        return z - self.u * h.unsqueeze(-1), torch.log1p(slope * (1 - h * h))


class SylvesterStep(Step):
    """`f(z) = z + Q R tanh(R' Q^T z + b)`, Q with orthonormal columns, R and R' upper triangular.

    The determinant is that of the triangular `I + diag(1 - tanh^2) R' R`; it is positive because `r_ii r'_ii > -1`. The
    inverse solves for the M coordinates along Q one by one, the last first, each the root of an increasing function.
    Source: van den Berg, Hasenclever, Tomczak & Welling 2018, Sylvester Normalizing Flows for Variational Inference.

    Args:
        q: `(..., D, M)`.
        r1, r2: R and R', `(..., M, M)`.
        b: `(..., M)`.
    """

    def __init__(self, q: Tensor, r1: Tensor, r2: Tensor, b: Tensor) -> None:
        self.q, self.r1, self.r2, self.b = q, r1, r2, b

    def _h(self, y: Tensor) -> Tensor:
        return torch.tanh((self.r2 @ y.unsqueeze(-1)).squeeze(-1) + self.b)

    def _along(self, z: Tensor) -> Tensor:
        return (z.unsqueeze(-2) @ self.q).squeeze(-2)

    def _apply(self, h: Tensor) -> Tensor:
        return (self.q @ (self.r1 @ h.unsqueeze(-1))).squeeze(-1)

    def _ladj(self, h: Tensor) -> Tensor:
        r1, r2 = (r.diagonal(dim1=-2, dim2=-1) for r in (self.r1, self.r2))
        return torch.log1p((1 - h * h) * (r1 * r2)).sum(-1)

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self._h(self._along(z))
        return z + self._apply(h), self._ladj(h)

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        target = self._along(z)
        with torch.no_grad():
            y, h = torch.zeros_like(target), torch.zeros_like(target)
            for i in reversed(range(target.shape[-1])):
                goal = target[..., i] - dot(self.r1[..., i, :], h)
                shift = dot(self.r2[..., i, :], y) + self.b[..., i]
                r1, r2 = self.r1[..., i, i], self.r2[..., i, i]
                y[..., i] = bisect(
                    lambda a, r1=r1, r2=r2, shift=shift: (
                        a + r1 * torch.tanh(r2 * a + shift)
                    ),  # type: ignore[misc]
                    goal,
                    r1.abs().expand_as(goal),
                )
                h[..., i] = torch.tanh(r2 * y[..., i] + shift)
            jacobian = self.r1 @ ((1 - h * h).unsqueeze(-1) * self.r2)
            jacobian.diagonal(dim1=-2, dim2=-1).add_(1)
        surplus = y + (self.r1 @ self._h(y).unsqueeze(-1)).squeeze(-1) - target
        surplus = surplus.unsqueeze(-1)  # taken off by a step of Newton's
        step = torch.linalg.solve_triangular(jacobian, surplus, upper=True)
        h = self._h(y - step.squeeze(-1))
        return z - self._apply(h), self._ladj(h)


class Autoregressive(Step):
    """`f(z)_d = m_d(z_<d) + z_d exp(s_d(z_<d))`, from a network `(z, context) -> (m, s)`.

    The inverse needs D passes. Source: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive
    Flow.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        context: Tensor,
    ) -> None:
        self.network, self.context = network, context

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return AffineStep(*self.network(z, self.context)).push(z)

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        e = z
        # after the d-th pass the first d entries are right
        for _ in range(z.shape[-1]):
            e, _ = AffineStep(*self.network(e, self.context)).pull(z)
        _, log_scale = self.network(e, self.context)
        return e, log_scale.sum(-1)


class Zuko(Step):
    """A lazy transform of zuko (from data to noise), turned round; `context` is `None` without conditions."""

    def __init__(self, transform: Any, context: Tensor | None = None) -> None:
        self.transform, self.context = transform, context

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(self.context).inv.call_and_ladj(z)

    def pull(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z, ladj = self.transform(self.context).call_and_ladj(z)
        return z, -ladj
