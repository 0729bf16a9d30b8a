"""Objectives: a bound on log p(x) is a pure function of the terms."""

import math
from abc import ABC, abstractmethod
from typing import Any

import pyro.infer
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._errors import InputError
from pyro_vae.inference.importance import Program, Terms, terms, traces


class Objective(pyro.infer.ELBO, ABC):
    """A bound to be maximised; an instance of `pyro.infer.ELBO`, so that it works wherever Pyro takes one.

    To write one: implement `bound`, from the `Terms` of `num_particles` draws to one number for each datum. `ELBO` is
    the simplest example. `objective(model, guide)` is a torch module whose call returns the loss, minus the bound
    summed over the batch; `SVI` and `pyro.infer.SVI` take the objective as their `loss`.

    Latent sites that cannot be reparameterised get the score-function estimator: the gradient is
    `grad bound + bound * grad sum_k log q(z_k|x)`, unbiased for every bound.

    Args:
        num_particles: K, the number of latent draws for each datum.
    """

    def __init__(self, *, num_particles: int = 1) -> None:
        if not isinstance(num_particles, int) or num_particles < 1:
            raise InputError(f"num_particles={num_particles!r} must be a whole number of at least 1")
        super().__init__(num_particles=num_particles)

    @abstractmethod
    def bound(self, t: Terms) -> Tensor:
        """`(num_particles, batch)` terms -> `(batch,)` bound, in nats per datum."""

    def loss_of(self, t: Terms) -> Tensor:
        """The scalar to be differentiated: minus the bound, summed over the batch (and scaled to the whole plate)."""
        bound = self.bound(t)
        if t.log_score is not None:
            score = t.log_score.sum(0)
            bound = bound + bound.detach() * (score - score.detach())
        loss = -bound.sum()
        return loss if t.scale == 1 else t.scale * loss

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of one draw of the terms, as a tensor: nothing is read back to the host."""
        return self.loss_of(terms(model, guide, *args, num_particles=self.num_particles, **kwargs))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, after adding its gradient to the parameters (the call that `pyro.infer.SVI` makes)."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return traces(model, guide, *args, num_particles=self.num_particles, **kwargs)


class ELBO(Objective):
    """`L = E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`, both by Monte Carlo, as Pyro's `Trace_ELBO`.

    Args:
        beta: weight of the KL term; with 1 this is the evidence lower bound, otherwise no bound on log p(x). What is
            reported while training is the plain ELBO, whatever `beta`.
        num_particles: draws averaged for each datum.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes; Higgins et al. 2017, beta-VAE.
    """

    def __init__(self, *, beta: float = 1.0, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)
        if not isinstance(beta, (int, float)) or not 0 <= beta < math.inf:
            raise InputError(f"beta={beta!r} must be a number of at least 0")
        self.beta = beta

    def bound(self, t: Terms) -> Tensor:
        return (t.log_px + self.beta * (t.log_pz - t.log_qz)).mean(0)


class IWAE(Objective):
    """`L_K = E[log 1/K sum_k p(x, z_k) / q(z_k|x)]`, the importance-weighted bound: tighter as K grows.

    Args:
        num_particles: K; with 1 this is the ELBO.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders.
    """

    def __init__(self, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def bound(self, t: Terms) -> Tensor:
        return t.log_weight.logsumexp(0) - math.log(len(t.log_weight))


class Renyi(Objective):
    """`L_alpha = 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha)`, between IWAE (alpha = 0) and the ELBO (alpha = 1).

    Args:
        alpha: order of the divergence; a lower bound on log p(x) in expectation for alpha of 0 or more. Negative values
            overshoot it in the limit of many particles.
        num_particles: K.

    Raises:
        InputError: for an alpha that is not a finite number.

    Source: Li & Turner 2016, Renyi Divergence Variational Inference.
    """

    def __init__(self, *, alpha: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise InputError(f"alpha={alpha!r} must be a finite number")
        self.alpha = alpha

    def bound(self, t: Terms) -> Tensor:
        power = 1 - self.alpha
        if abs(power) < 1e-6:  # the limit; closer to it the quotient below loses its digits
            return t.log_weight.mean(0)
        return ((power * t.log_weight).logsumexp(0) - math.log(len(t.log_weight))) / power


class CIWAE(Objective):
    """`beta ELBO + (1 - beta) L_K`: between the importance-weighted bound (beta = 0) and the ELBO (beta = 1).

    Args:
        beta: weight of the ELBO, in [0, 1].
        num_particles: K, used by both parts.

    Raises:
        InputError: for a beta outside [0, 1].

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    def __init__(self, *, beta: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        if not isinstance(beta, (int, float)) or not 0 <= beta <= 1:
            raise InputError(f"beta={beta!r} must lie in [0, 1]")
        self.beta = beta

    def bound(self, t: Terms) -> Tensor:
        tight = t.log_weight.logsumexp(0) - math.log(len(t.log_weight))
        return self.beta * t.log_weight.mean(0) + (1 - self.beta) * tight


class MIWAE(Objective):
    """`1/M sum_m log 1/K sum_k w_mk`: the mean of M importance-weighted bounds of K particles each.

    Args:
        groups: M.
        num_particles: M K, the draws for each datum; a multiple of `groups`.

    Raises:
        InputError: when the particles cannot be dealt out to the groups.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    def __init__(self, *, groups: int = 8, num_particles: int = 64) -> None:
        super().__init__(num_particles=num_particles)
        if not isinstance(groups, int) or groups < 1 or num_particles % groups:
            raise InputError(f"groups={groups!r} must divide num_particles={num_particles}")
        self.groups = groups

    def bound(self, t: Terms) -> Tensor:
        log_w = t.log_weight.unflatten(0, (self.groups, -1))  # (M, K, B)
        return (log_w.logsumexp(1) - math.log(log_w.shape[1])).mean(0)
