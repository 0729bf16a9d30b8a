"""Bounds on log p(x)."""

from typing import Annotated

from torch import Tensor

from pyro_vae.foundation.checks import Count, NotNegative, between
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives.base import Objective, closed_kls
from pyro_vae.inference.terms import Terms


class ELBO(Objective):
    """`L = E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`, both by Monte Carlo, as Pyro's `Trace_ELBO`.

    Args:
        beta: weight of the KL term; with 1 this is the evidence lower bound, above 1 a looser one, below 1 no bound.
            What is reported while training is the plain ELBO, whatever `beta`.
        num_particles: draws averaged for each datum.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes; Higgins et al. 2017, beta-VAE.
    """

    by_particle = True
    takes_shares = True

    def __init__(self, *, beta: NotNegative = 1.0, num_particles: Count = 1) -> None:
        super().__init__(num_particles=num_particles)
        self.beta = beta

    def bound(self, t: Terms) -> Tensor:
        return t.mean(t.log_px + t.weigh(self.beta * (t.log_pz - t.log_qz)))


class MeanFieldELBO(Objective):
    """`L = E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`, the KL in closed form: less noise than the `ELBO`.

    Every latent site needs such a KL: a Gaussian guide (`MeanField`, `FullRank`, `LowRank`, `Local`, `SemiAmortized`)
    under `StandardNormal`, a mean-field one under `Laplace`, codes (`Categorical`) under codes, or a point, whose KL is
    `-log p(z)`.

    Args:
        beta: weight of the KL term, as in `ELBO`.
        num_particles: draws averaged in the first term.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes, equation 7; Pyro's `TraceMeanField_ELBO`.
    """

    by_particle = True
    takes_shares = True
    needs = ("prior", "closed KL")

    def __init__(self, *, beta: NotNegative = 1.0, num_particles: Count = 1) -> None:
        super().__init__(num_particles=num_particles)
        self.beta = beta

    def bound(self, t: Terms) -> Tensor:
        return t.mean(t.log_px) - t.weigh(self.beta * t.mean(closed_kls(t)))


class IWAE(Objective):
    """`L_K = E[log 1/K sum_k p(x, z_k) / q(z_k|x)]`, the importance-weighted bound: tighter as K grows.

    Args:
        num_particles: K; with 1 this is the ELBO.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders.
    """

    by_particle = True
    needs_draws = True
    takes_shares = True
    needs = ("density", "spread")
    own_bound = "IWAE-{K} bound"

    def __init__(self, *, num_particles: Count = 5) -> None:
        super().__init__(num_particles=num_particles)

    def bound(self, t: Terms) -> Tensor:
        return t.log_mean(t.log_weight)


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

    by_particle = True
    takes_shares = True
    needs = ("density", "spread")

    def __init__(self, *, alpha: float = 0.5, num_particles: Count = 5) -> None:
        super().__init__(num_particles=num_particles)
        self.alpha = alpha
        # Between IWAE's and the ELBO.
        self.own_bound = "Rényi-{K} bound" if 0 <= alpha < 1 else None

    def bound(self, t: Terms) -> Tensor:
        power = 1 - self.alpha
        if (
            abs(power) < 1e-6
        ):  # the limit; closer to it the quotient below loses its digits
            return t.mean(t.log_weight)
        return t.log_mean(power * t.log_weight) / power


class CIWAE(Objective):
    """`beta ELBO + (1 - beta) L_K`: between the importance-weighted bound (beta = 0) and the ELBO (beta = 1).

    Args:
        beta: weight of the ELBO, in [0, 1].
        num_particles: K, used by both parts.

    Raises:
        InputError: for a beta outside [0, 1].

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    by_particle = True
    takes_shares = True
    needs = ("density", "spread")
    own_bound = "CIWAE-{K} bound"

    def __init__(
        self, *, beta: Annotated[float, between(0, 1)] = 0.5, num_particles: Count = 5
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.beta = beta

    def bound(self, t: Terms) -> Tensor:
        tight = t.log_mean(t.log_weight)
        return self.beta * t.mean(t.log_weight) + (1 - self.beta) * tight


class MIWAE(Objective):
    """`1/M sum_m log 1/K sum_k w_mk`: the mean of M importance-weighted bounds of K particles each.

    Args:
        groups: M.
        num_particles: M K, the draws for each datum; a multiple of `groups`.

    Raises:
        InputError: when the particles cannot be dealt out to the groups.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    by_particle = True
    needs_draws = True
    takes_shares = True
    needs = ("density", "spread")
    own_bound = "MIWAE-{K} bound"

    def __init__(self, *, groups: Count = 8, num_particles: Count = 64) -> None:
        super().__init__(num_particles=num_particles)
        self.groups = divisor(groups, num_particles)

    def bound(self, t: Terms) -> Tensor:
        return t.log_mean(t.log_weight, self.groups).mean(0)


def divisor(groups: int, num_particles: int) -> int:
    """`groups`, once the particles can be dealt out to them."""
    if num_particles % groups:
        raise InputError(f"groups={groups!r} must divide num_particles={num_particles}")
    return groups
