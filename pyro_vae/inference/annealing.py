"""Annealed importance sampling of log p(x), and its certificate on simulated data."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._abstract import local_parameters, localise
from pyro_vae._errors import InputError
from pyro_vae.inference.estimators import PerDatum, check_data, double

TARGET = 0.65  # acceptance to tune for: Beskos et al. 2013, Optimal Tuning of the Hybrid Monte Carlo Algorithm
LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AnnealedEstimate(PerDatum):
    """Estimates of `log p(x)` for N data by annealed importance sampling; nats per datum.

    Attributes:
        values: `log 1/C sum_c w_c`, a lower bound on `log p(x)` in expectation, shape `(N,)`.
        standard_errors: from the spread over chains, by the delta method.
        ess: effective number of chains, `(sum w)^2 / sum w^2`.
        acceptance: share of accepted moves.
        num_chains: C.
        num_temperatures: intermediate distributions.

    Results over shards of data add up: `a + b` holds the data of both.
    """

    values: Tensor
    standard_errors: Tensor
    ess: Tensor
    acceptance: Tensor
    num_chains: int
    num_temperatures: int

    def __add__(self, other: "AnnealedEstimate") -> "AnnealedEstimate":
        if (self.num_chains, self.num_temperatures) != (other.num_chains, other.num_temperatures):
            raise InputError("results with different chains or temperatures cannot be joined")
        columns = {k: torch.cat([v, getattr(other, k)]) for k, v in self.per_datum.items()}
        return AnnealedEstimate(**columns, num_chains=self.num_chains, num_temperatures=self.num_temperatures)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The four columns by name, each `(N,)`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("num_")}

    def __str__(self) -> str:
        return (
            f"log p(x) = {self.mean:.3f} nats per datum, ± {self.data_standard_error:.3f} (data) ± "
            f"{self.monte_carlo_standard_error:.3f} (Monte Carlo), by {self.num_chains} annealed chains over "
            f"{self.num_temperatures} temperatures on {len(self)} data, acceptance "
            f"{self.acceptance.mean().item():.2f}, median ESS {self.ess.median().item():.1f} chains."
        )


@dataclass(frozen=True)
class Sandwich:
    """Bidirectional Monte Carlo on data simulated from the model: `lower <= log p(x) <= upper` in expectation.

    Attributes:
        lower: annealed importance sampling from the start to the posterior, an `AnnealedEstimate`.
        upper: the same from an exact posterior draw back to the start, `-log 1/C sum_c w_c`, shape `(N,)`.
        upper_errors: its standard errors from the spread over chains, `(N,)`.
    """

    lower: AnnealedEstimate
    upper: Tensor
    upper_errors: Tensor

    @property
    def gap(self) -> float:
        """The mean of `upper - lower`: how far either can be off, in expectation; nats per datum."""
        return (self.upper - self.lower.values).mean().item()

    @property
    def gap_standard_error(self) -> float:
        """Of the mean gap, from the spread over data, which holds that over chains."""
        gaps = self.upper - self.lower.values
        return (gaps.std() / math.sqrt(len(gaps))).item() if len(gaps) > 1 else math.nan

    def __str__(self) -> str:
        return (
            f"On {len(self.upper)} data simulated from the model log p(x) lies between {self.lower.mean:.3f} and "
            f"{self.upper.mean().item():.3f} nats: the schedule of {self.lower.num_temperatures} temperatures leaves a "
            f"gap of {self.gap:.3f} ± {self.gap_standard_error:.3f}."
        )


def temperatures(count: int, shape: str = "sigmoid") -> Tensor:
    """`0 = beta_0 < ... < beta_T = 1`, shape `(count + 1,)`; `'sigmoid'` is denser at both ends than `'linear'`.

    Source: Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative Analysis of Decoder-Based Generative Models.
    """
    if not isinstance(count, int) or count < 1:
        raise InputError(f"num_temperatures={count!r} must be a whole number of at least 1")
    t = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    if shape == "linear":
        return t
    if shape != "sigmoid":
        raise InputError(f"schedule={shape!r} must be 'sigmoid' or 'linear'")
    s = torch.sigmoid(8 * t - 4)
    return (s - s[0]) / (s[-1] - s[0])


class _Path:
    """The densities `start^(1 - beta) joint^beta` of one batch, and moves that keep them.

    Both take latents `(C, B, D)` and return `(C, B)`.
    """

    def __init__(self, start: LogDensity, joint: LogDensity, betas: Tensor, leapfrogs: int) -> None:
        self.start, self.joint, self.betas, self.leapfrogs = start, joint, betas.tolist(), leapfrogs

    def density(self, z: Tensor, beta: float) -> Tensor:
        if beta == 1:
            return self.joint(z)
        return (1 - beta) * self.start(z) + beta * self.joint(z)

    @torch.no_grad()
    def difference(self, z: Tensor) -> Tensor:
        """`log p(x, z) - log start(z)`, in double precision."""
        return double(self.joint(z)) - double(self.start(z))

    def gradient(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.density(z, beta)
            return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    def move(self, z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor]:
        """One Hamiltonian move of `leapfrogs` steps of length `step`, `(B,)`: the new z, and whether it was accepted.

        Source: Neal 2011, MCMC Using Hamiltonian Dynamics.
        """
        step = step[:, None].to(z)
        value, g = self.gradient(z, beta)
        momentum = torch.randn_like(z)
        energy = value - 0.5 * momentum.square().sum(-1)
        new, p = z, momentum + 0.5 * step * g
        for i in range(self.leapfrogs):
            new = new + step * p
            value, g = self.gradient(new, beta)
            p = p + (step if i < self.leapfrogs - 1 else 0.5 * step) * g
        gain = value - 0.5 * p.square().sum(-1) - energy
        accepted = torch.rand_like(gain).log() < gain.nan_to_num(-math.inf)
        return torch.where(accepted[..., None], new, z), accepted

    def tune(self, z: Tensor) -> Tensor:
        """Step sizes for each temperature between the ends and each datum, from chains of their own."""
        if len(self.betas) == 2:
            return z.new_empty(0)
        step = torch.full(z.shape[1:2], 0.5 * z.shape[-1] ** -0.25, dtype=torch.float64, device=z.device)
        found = []
        for beta in [self.betas[1]] * 30 + self.betas[1:-1]:
            z, accepted = self.move(z, beta, step)
            found.append(step)
            step = step * (0.2 * (accepted.double().mean(0) - TARGET)).exp()
        return torch.stack(found[30:])

    def forward(self, z: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """From draws of the start: `log w`, `(C, B)`, and the share of accepted moves, `(B,)`."""
        log_w, accepted = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device), []
        for t in range(1, len(self.betas)):
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * self.difference(z)
            if t < len(self.betas) - 1:
                z, moved = self.move(z, self.betas[t], steps[t - 1])
                accepted.append(moved.double().mean(0))
        return log_w, torch.stack(accepted).mean(0) if accepted else torch.ones_like(log_w[0])

    def backward(self, z: Tensor, steps: Tensor) -> Tensor:
        """From posterior draws: the `log w` of the chain run the other way, `(C, B)`; `E[1 / w]` is `1 / p(x)`."""
        log_w = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
        for t in range(len(self.betas) - 1, 0, -1):
            if t < len(self.betas) - 1:
                z, _ = self.move(z, self.betas[t], steps[t - 1])
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * self.difference(z)
        return log_w


def _estimate(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`log 1/C sum w`, its standard error, and the effective number of chains, each `(B,)`, on the host."""
    chains = len(log_w)
    value = log_w.logsumexp(0) - math.log(chains)
    ratio = (log_w - value).exp()
    error = ratio.std(0) / math.sqrt(chains) if chains > 1 else torch.full_like(value, math.nan)
    return value.cpu(), error.cpu(), (chains / ratio.square().mean(0)).cpu()


def _path(model: Any, guide: Any, x: Tensor, betas: Tensor, leapfrogs: int) -> tuple[_Path, Callable[[int], Tensor]]:
    """The path for one batch, and what draws n starts for each datum, `(n, B, D)`."""
    if not hasattr(model, "log_joint") or not hasattr(model, "prior"):
        raise InputError("annealing needs a model with log_joint and prior, such as that of a VAE")
    p = guide.given(x) if guide is not None else model.prior().expand((len(x),))
    if not getattr(guide, "has_density", True):
        raise InputError("the guide is a point for each datum; anneal from the prior instead")
    return _Path(p.log_prob, lambda z: model.log_joint(x, z), betas, leapfrogs), lambda n: p.sample((n,))


@torch.no_grad()
def annealed_importance_sampling(
    model: Any,
    x: Tensor,
    *,
    guide: Any = None,
    num_chains: int = 16,
    num_temperatures: int = 500,
    leapfrogs: int = 10,
    schedule: str = "sigmoid",
    batch_size: int = 50,
    progress: Callable[[int], None] | None = None,
) -> AnnealedEstimate:
    """Estimate `log p(x)` of each datum by chains from the prior, or the guide, to the posterior.

    `w = prod_t (p(x, z_t) / start(z_t))^(beta_t - beta_t-1)`; between the factors `z` moves by Hamiltonian Monte Carlo
    that leaves `start^(1 - beta_t) p(x, z)^beta_t` as it is. `E[w] = p(x)` whatever the moves; the longer the path, the
    less the weights vary. Step sizes are tuned for each temperature and datum by chains of their own and then kept.

    Args:
        model: the model of a VAE, or anything with `prior()` and `log_joint(x, z)`, differentiable in z.
        x: the data, `(N, *shape)`.
        guide: start from its posteriors instead of from the prior.
        num_chains: C for each datum.
        num_temperatures: T steps from the start to the posterior.
        leapfrogs: of each move.
        schedule: `'sigmoid'` or `'linear'`; see `temperatures`.
        batch_size: data at a time; `num_chains` times as many rows go through the decoder.
        progress: called with the number of data done since its last call.

    Returns:
        An `AnnealedEstimate` with N values and their errors.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a guide that is a point, or for
            numbers below 1.

    Source: Neal 2001, Annealed Importance Sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative
    Analysis of Decoder-Based Generative Models.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> annealed_importance_sampling(vae.model, torch.ones(3, 4), num_chains=4, num_temperatures=10).values.shape
    torch.Size([3])
    """
    check_data(model, x)
    betas = temperatures(num_temperatures, schedule)
    _whole(num_chains=num_chains, leapfrogs=leapfrogs, batch_size=batch_size)
    result: AnnealedEstimate | None = None
    localise(model, guide)
    with local_parameters(), pyro.validation_enabled(False):
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            path, draw = _path(model, guide, batch, betas, leapfrogs)
            steps = path.tune(draw(max(num_chains // 2, 1)))
            log_w, accepted = path.forward(draw(num_chains), steps)
            value, error, ess = _estimate(log_w)
            part = AnnealedEstimate(value, error, ess, accepted.cpu(), num_chains, num_temperatures)
            result = part if result is None else result + part
            if progress is not None:
                progress(len(batch))
    assert result is not None
    return result


@torch.no_grad()
def bidirectional_monte_carlo(
    model: Any,
    n: int = 50,
    *,
    guide: Any = None,
    num_chains: int = 16,
    num_temperatures: int = 500,
    leapfrogs: int = 10,
    schedule: str = "sigmoid",
    batch_size: int = 50,
) -> Sandwich:
    """Bounds on `log p(x)` from both sides for `n` data simulated from the model: how far the schedule can be trusted.

    A datum drawn together with its latent has an exact posterior draw, so chains can be run backwards too, and the
    reciprocal of their weights is unbiased for `1 / p(x)`. If the gap is small, annealing with the same settings is
    accurate for data like those that the model makes.

    Args:
        model: as in `annealed_importance_sampling`.
        n: data to simulate.
        guide: as there.
        num_chains: as there.
        num_temperatures: as there.
        leapfrogs: as there.
        schedule: as there.
        batch_size: as there.

    Raises:
        InputError: as there.

    Source: Grosse, Ghahramani & Adams 2015, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo.
    """
    betas = temperatures(num_temperatures, schedule)
    _whole(n=n, num_chains=num_chains, leapfrogs=leapfrogs, batch_size=batch_size)
    lower: AnnealedEstimate | None = None
    uppers, errors = [], []
    localise(model, guide)
    with local_parameters(), pyro.validation_enabled(False):
        for start in range(0, n, batch_size):
            z = model.prior().sample((min(batch_size, n - start),))
            x = model.likelihood(model.decoder(z)).sample()
            path, draw = _path(model, guide, x, betas, leapfrogs)
            steps = path.tune(draw(max(num_chains // 2, 1)))
            log_w, accepted = path.forward(draw(num_chains), steps)
            part = AnnealedEstimate(*_estimate(log_w), accepted.cpu(), num_chains, num_temperatures)
            lower = part if lower is None else lower + part
            value, error, _ = _estimate(-path.backward(z.expand(num_chains, *z.shape), steps))
            uppers.append(-value)
            errors.append(error)
    assert lower is not None
    return Sandwich(lower, torch.cat(uppers), torch.cat(errors))


def _whole(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} must be a whole number of at least 1")
