"""Objectives that weigh or replace the KL term: made for the latent code, not for a tight bound on log p(x).

They look at whole batches, where a score-function estimator for each datum is wrong: draws must carry gradients.
"""

import math
from typing import Literal

from torch import Tensor

from pyro_vae.foundation.checks import Count, NotNegative
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.terms import Site, Terms


def _latents(t: Terms) -> list[Site]:
    return [
        s for s in t.sites.values() if s.q is not None and s.p is not None and s.drawn
    ]


class FreeBits(Objective):
    """`E_q[log p(x|z)] - sum_d max(nats, KL_d)`, `KL_d` the batch's mean KL of latent d: below `nats` it is free.

    Needs latents that are independent in guide and prior. `KL_d` is taken by Monte Carlo. With `per='layer'`, d runs
    over the layers of latents and not over single ones, and any density will do.

    Args:
        nats: what each latent, or each layer, may use without being penalised.
        per: `'dimension'` or `'layer'`: all of one site together.
        num_particles: draws averaged for each datum.

    Raises:
        InputError: for negative nats.

    Source: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, appendix C.8.
    """

    across_data = True
    needs: tuple[str, ...] = ("prior", "density", "gradient", "independence")

    def __init__(
        self,
        *,
        nats: NotNegative = 0.1,
        per: Literal["dimension", "layer"] = "dimension",
        num_particles: Count = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.nats, self.per = nats, per
        if per == "layer":
            self.needs = ("prior", "density", "gradient")

    def bound(self, t: Terms) -> Tensor:
        bound = t.log_px.mean(0)
        for s in _latents(t):
            kl = self._kl(s)
            bound = bound - t.weigh(kl.mean((0, 1)).clamp_min(self.nats).sum())
        return bound

    def _kl(self, s: Site) -> Tensor:
        """`log q - log p` at draws, `(K, B, D)` of each latent, or `(K, B)` of all together."""
        if self.per == "layer":
            assert s.log_q is not None
            assert s.log_p is not None
            return s.log_q - s.log_p
        log_q: Tensor = s.q.base_dist.log_prob(s.value)
        return log_q - s.p.base_dist.log_prob(s.seen)


class Capacity(Objective):
    """`E_q[log p(x|z)] - gamma |KL - nats|`: the KL of each batch is held at a target.

    Under `Annealed` the target grows from 0 to `nats`.

    Args:
        nats: the target C, per datum.
        gamma: weight of the distance from it.
        num_particles: draws averaged for each datum.

    Raises:
        InputError: for a negative number.

    Source: Burgess et al. 2018, Understanding Disentangling in beta-VAE.
    """

    across_data = True
    takes_shares = True
    needs = ("gradient",)

    def __init__(
        self,
        *,
        nats: NotNegative = 25.0,
        gamma: NotNegative = 10.0,
        num_particles: Count = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.nats, self.gamma = nats, gamma

    def bound(self, t: Terms) -> Tensor:
        kl = t.mean(t.log_qz - t.log_pz).mean()
        return t.mean(t.log_px) - self.gamma * (kl - self.nats * t.kl_weight).abs()


class BetaTC(Objective):
    """`E_q[log p(x|z)] - alpha I(x; z) - beta TC(z) - gamma sum_d KL(q(z_d) || p(z_d))`: the KL in its three parts.

    The parts are the mutual information, the total correlation `KL(q(z) || prod_d q(z_d))` and the KL of each latent's
    marginal. `q(z)` is estimated from the batch: with N data and M in the batch, the datum's own posterior weighs 1/N
    and each of the others (N - 1) / (N (M - 1)), which is unbiased. Needs latents independent in guide and prior.

    Args:
        alpha, beta, gamma: weights of the parts; at 1, 1, 1 this is the ELBO.
        num_particles: draws averaged for each datum.

    Raises:
        InputError: for a negative weight.

    Source: Chen, Li, Grosse & Duvenaud 2018, Isolating Sources of Disentanglement in VAEs.
    """

    across_data = True
    needs = ("prior", "density", "gradient", "independence")

    def __init__(
        self,
        *,
        alpha: NotNegative = 1.0,
        beta: NotNegative = 6.0,
        gamma: NotNegative = 1.0,
        num_particles: Count = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.size = (
            0  # as large as the batch until `prepare` says how many data there are
        )

    def prepare(self, size: int, epochs: int) -> None:
        self.size = size

    def bound(self, t: Terms) -> Tensor:
        bound = t.log_px.mean(0)
        for s in _latents(t):
            information, correlation, marginal = self.decompose(s)
            kl = (
                self.alpha * information
                + self.beta * correlation
                + self.gamma * marginal
            )
            bound = bound - t.weigh(kl.mean(0))
        return bound

    def decompose(self, s: Site) -> tuple[Tensor, Tensor, Tensor]:
        """Each datum's share of the three parts, `(num_particles, batch)`; they add up to `log q(z|x) - log p(z)`."""
        q, m = s.q.base_dist, s.value.shape[1]
        size = max(self.size, m)
        log_own = q.log_prob(s.value)  # (K, B, D)
        # [i, k, j, d] = log q(z_ikd | x_j)
        pairs = q.log_prob(s.value.movedim(1, 0).unsqueeze(2))
        log_weights = pairs.new_full(
            (m, 1, m), math.log((size - 1) / (size * (m - 1))) if m > 1 else 0.0
        )
        log_weights.diagonal(dim1=0, dim2=2).fill_(-math.log(size) if m > 1 else 0.0)
        pairs = pairs + log_weights.unsqueeze(-1)
        # (K, B)
        log_q = (pairs.sum(-1) - (pairs.shape[-1] - 1) * log_weights).logsumexp(2).T
        log_marginals = pairs.logsumexp(2).movedim(0, 1)  # (K, B, D)
        log_p = s.p.base_dist.log_prob(s.seen).sum(-1)
        return (
            log_own.sum(-1) - log_q,
            log_q - log_marginals.sum(-1),
            log_marginals.sum(-1) - log_p,
        )


class InfoVAE(Objective):
    """`E_q[log p(x|z)] - (1 - alpha) KL(q(z|x) || p(z)) - (alpha + weight - 1) MMD(q(z), p(z))`.

    The maximum mean discrepancy compares the batch's draws with as many from the prior, under the kernel
    `k(a, b) = exp(-|a - b|^2 / (2 D))`; its unbiased estimate is added to every datum. With `alpha=1` and a `Delta`
    guide this is the Wasserstein autoencoder.

    Args:
        alpha: 1 drops the KL altogether, 0 keeps all of it.
        weight: lambda; with `alpha + weight = 1` the discrepancy drops out.
        num_particles: draws averaged for each datum.

    Raises:
        InputError: for a weight of the KL or of the discrepancy that is negative.

    Source: Zhao, Song & Ermon 2019, InfoVAE; Gretton et al. 2012, A Kernel Two-Sample Test (the estimate).
    """

    across_data = True
    needs = ("prior", "gradient")

    def __init__(
        self, *, alpha: float = 0.5, weight: float = 10.0, num_particles: Count = 1
    ) -> None:
        super().__init__(num_particles=num_particles)
        if alpha > 1 or alpha + weight < 1:
            raise InputError(
                f"alpha={alpha} and weight={weight} of InfoVAE must keep alpha <= 1 <= alpha + weight"
            )
        self.alpha, self.weight = alpha, weight

    def bound(self, t: Terms) -> Tensor:
        bound = (t.log_px + t.weigh((1 - self.alpha) * (t.log_pz - t.log_qz))).mean(0)
        for s in _latents(t):
            p = s.p.expand(s.value.shape[:2])
            prior = p.rsample() if p.has_rsample else p.sample()
            if s.value.shape[:2].numel() > 1:
                discrepancy = squared_mmd(s.value.flatten(0, 1), prior.flatten(0, 1))
                bound = bound - t.weigh((self.alpha + self.weight - 1) * discrepancy)
        return bound


def squared_mmd(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 between two samples `(n, ...)` under the kernel `exp(-|a - b|^2 / (2 D))`."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        squares = u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T
        return (squares.clamp_min(0) / (-2 * u.shape[1])).exp()

    n = len(a)
    within = kernel(a, a) + kernel(b, b)
    return (within.sum() - within.diagonal().sum()) / (n * (n - 1)) - 2 * kernel(
        a, b
    ).mean()
