"""Bounds whose gradient is estimated in another way than by differentiating the bound."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions.stopped import stopped
from pyro_vae.foundation.checks import Count
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.bounds import divisor
from pyro_vae.inference.terms import Site, Terms, has_density


def stopped_log_q(t: Terms) -> Tensor:
    """`log q(z|x)` as a function of z alone, `(num_particles, batch)`: its parameters carry no gradient.

    It hangs on `Site.seen`, so that a hook there reaches the whole path derivative. A factor of the guide, and the
    log-Jacobian of a latent that is computed from auxiliary draws, depend on parameters only where the draws do.
    """
    values = [_stopped_log_q(s) for s in t.sites.values() if s.q is not None]
    return torch.stack([v.expand(t.log_qz.shape) for v in values]).sum(0)


def _stopped_log_q(s: Site) -> Tensor:
    if s.listed:
        return s.log_q.detach()  # type: ignore[union-attr]
    moved = s.log_q is not None and (
        not s.drawn or (not s.point and not has_density(s.q))
    )
    return s.log_q if moved else stopped(s.q).log_prob(s.seen)  # type: ignore[no-any-return,return-value]


def _of_listed(t: Terms) -> Tensor:
    """`log q` of the enumerated latents, `(num_particles, batch)`."""
    listed = [s.log_q for s in t.sites.values() if s.listed and s.log_q is not None]
    return sum(listed, torch.zeros_like(t.log_qz))


def enumerated_part(t: Terms) -> Tensor:
    """What enumerated latents add to `log w` in a sum over their values, `(num_particles, batch)`: `log q` there.

    It takes part in gradients alone, and balances the `log q` of the weights unless the KL is weighed.
    """
    if t.log_share is None:
        return torch.zeros_like(t.log_qz)
    return t.log_share.masked_fill(t.log_share.isneginf(), 0.0)


def through_latents(t: Terms, change: Callable[[Tensor], Tensor]) -> None:
    """Replace each gradient `g` that comes to a latent from the model by `change(g)`."""
    for site in t.sites.values():
        if site.q is not None and site.seen.requires_grad:
            site.seen.register_hook(change)


def surrogate(value: Tensor, gradient_of: Tensor) -> Tensor:
    """A tensor that is `value` and has the gradient of `gradient_of`."""
    return value.detach() + (gradient_of - gradient_of.detach())


class STL(Objective):
    """The ELBO; its gradient without the score of the guide, so that it has no variance where `q` is exact.

    `log q(z|x)` is differentiated through z alone, at stopped parameters: the term left out has mean zero.

    Args:
        num_particles: draws averaged for each datum.

    Source: Roeder, Wu & Duvenaud 2017, Sticking the Landing.
    """

    takes_shares = True
    needs = ("density", "gradient")
    apart = True

    def bound(self, t: Terms) -> Tensor:
        path = t.log_px + t.weigh(t.log_pz - stopped_log_q(t))
        return t.mean(surrogate(t.log_weight, path))


class DReG(Objective):
    """`L_K` as in `IWAE`; the guide's gradient doubly reparameterised, so that it gets better as K grows.

    With `w_k` normalised to add up to 1: `sum_k w_k^2 dlog w_k/dz_k dz_k/dphi` for the guide and
    `sum_k w_k dlog w_k/dtheta` for the model, `log q` at stopped parameters.

    Args:
        num_particles: K.

    Source: Tucker, Lawson, Gu & Maddison 2018, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.
    """

    needs_draws = True
    takes_shares = True
    needs = ("density", "spread", "gradient", "path")
    apart = True
    own_bound = "IWAE-{K} bound"

    def __init__(self, *, num_particles: Count = 5) -> None:
        super().__init__(num_particles=num_particles)

    def bound(self, t: Terms) -> Tensor:
        weights = t.normalised(t.log_weight.detach()).detach()
        path = t.log_px + t.weigh(t.log_pz - stopped_log_q(t))
        path = path + enumerated_part(t) - t.weigh(_of_listed(t))
        through_latents(
            t, lambda g: g * weights.reshape(weights.shape + (1,) * (g.dim() - 2))
        )
        return surrogate(t.log_mean(t.log_weight), (weights * path).sum(0))


class PIWAE(Objective):
    """`L_MK` as in `IWAE` for the model, and the mean of M bounds of K particles, as in `MIWAE`, for the guide.

    Args:
        groups: M.
        num_particles: M K, the draws for each datum; a multiple of `groups`.

    Raises:
        InputError: when the particles cannot be dealt out to the groups.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    needs_draws = True
    takes_shares = True
    needs = ("density", "spread", "gradient", "path")
    apart = True
    own_bound = "IWAE-{K} bound"

    def __init__(self, *, groups: Count = 8, num_particles: Count = 64) -> None:
        super().__init__(num_particles=num_particles)
        self.groups = divisor(groups, num_particles)

    def bound(self, t: Terms) -> Tensor:
        log_w = t.log_weight.detach()
        all_weights = t.normalised(log_w).detach()
        group_weights = t.normalised(log_w, self.groups).detach()
        group_weights = group_weights / group_weights.sum(0)  # of each group 1
        joint = t.log_px + t.weigh(t.log_pz)
        guide = (group_weights * (t.weigh(t.log_qz) - enumerated_part(t))).sum(0)
        latents = [
            s for s in t.sites.values() if s.q is not None and s.seen.requires_grad
        ]
        if latents:  # the gradient in z with the guide's weights; the one with the model's weights is stopped
            wanted = torch.autograd.grad(
                (group_weights * joint).sum(),
                [s.seen for s in latents],
                retain_graph=True,
            )
            for site, g in zip(latents, wanted, strict=True):
                guide = guide - (g * site.value).reshape(*t.log_qz.shape, -1).sum(
                    (0, 2)
                )
            through_latents(t, torch.zeros_like)
        return surrogate(t.log_mean(t.log_weight), (all_weights * joint).sum(0) - guide)


class ReweightedWakeSleep(Objective):
    """`L_K` as in `IWAE` for the model; the guide follows the posterior, `max sum_k w_k log q(z_k|x)` at fixed draws.

    The weights are normalised for each datum. This is wake-sleep with two wake phases, and it needs no draws that carry
    gradients. For a guide whose density takes a pass for each latent (`IAF`), so does each step.

    Args:
        num_particles: K.

    Source: Bornschein & Bengio 2015, Reweighted Wake-Sleep; Le, Kosiorek, Siddharth, Teh & Wood 2020, Revisiting
    Reweighted Wake-Sleep for Models with Stochastic Control Flow.
    """

    takes_shares = True
    needs = ("density", "spread", "path")
    apart = True
    own_bound = "IWAE-{K} bound"
    score_function = False

    def __init__(self, *, num_particles: Count = 5) -> None:
        super().__init__(num_particles=num_particles)

    def bound(self, t: Terms) -> Tensor:
        weights = t.normalised(t.log_weight.detach()).detach()
        through_latents(t, torch.zeros_like)
        scores: list[Any] = [
            s.log_q if s.listed else s.q.log_prob(s.value.detach())
            for s in t.sites.values()
            if s.q is not None
        ]
        log_q = torch.stack([v.expand(t.log_qz.shape) for v in scores]).sum(0)
        return surrogate(
            t.log_mean(t.log_weight),
            (weights * (t.log_px + t.weigh(t.log_pz) + log_q)).sum(0),
        )
