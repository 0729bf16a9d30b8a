"""What the latents of a trained pair do."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae._abstract import forked_random, localise, parameters_of, unchecked
from pyro_vae._errors import InputError
from pyro_vae.inference.estimators import MEMORY, _Allocations, double
from pyro_vae.inference.importance import PARTICLES, Program, has_density, terms
from pyro_vae.inference.inputs import as_data
from pyro_vae.inference.objectives.base import independent

ACTIVE = 0.01
COLLAPSED = 0.1  # nats of KL per datum
SATURATED = 0.9  # of log N, the most that N data can show
WORK = 2**34  # bytes passed through for all pairs of data: ten seconds or so on one core
BATCH = 500
MEAN_DRAWS = 50  # their noise is averaged over the data too


def _covariance(means: Tensor) -> Tensor:
    """Over the data, between two estimates of each posterior mean: `(2, N, ...) -> (...)`."""
    first, second = means - means.mean(1, keepdim=True)
    return (first * second).sum(0) / (len(first) - 1)


@torch.no_grad()
def activity(
    guide: Program, x: Any, *, draws: int = 200, batch_size: int = BATCH
) -> dict[str, Tensor]:
    """How much the posterior mean of each latent varies over the data: `Var_x(E_q[z_d | x])`, by site.

    A latent above `ACTIVE` is said to be active; one that is not carries next to nothing of x. Each mean is taken
    twice, from different draws, and the variance is their covariance, which the noise of the draws does not bias.

    Args:
        guide: any Pyro guide with a data plate at dim -1, called with a batch of data.
        x: the data, `(N, *shape)`, two or more.
        draws: for each datum and mean.
        batch_size: data in memory at a time.

    Returns:
        For each site of the guide a tensor of the shape of one datum's latent.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders, section 5.2.
    """
    x = as_data(guide, x)
    _check_two(x)
    means: dict[str, list[Tensor]] = {}
    localise(guide)
    with parameters_of(guide), unchecked(guide):
        for start in range(0, len(x), batch_size):
            with pyro.plate(PARTICLES, 2 * draws, dim=-2):
                trace = poutine.trace(guide).get_trace(x[start : start + batch_size])
            latents: Any = prune_subsample_sites(trace).iter_stochastic_nodes()
            for name, site in latents:
                halves = double(site["value"]).unflatten(0, (2, draws)).mean(1)  # (2, batch, ...)
                means.setdefault(name, []).append(halves)
    return {name: _covariance(torch.cat(parts, 1)) for name, parts in means.items()}


def _check_two(x: Any) -> None:
    if len(x) < 2:
        raise InputError("a variance over the data needs two of them or more")


class Estimate(NamedTuple):
    """A mean over the data, in nats per datum, and how far another sample of data and draws would move it."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f}"


@dataclass(frozen=True)
class LatentHealth:
    """What the D latents of a trained pair carry; nats per datum.

    The KL that the ELBO pays has two parts, `KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))`, averaged over the data:
    what z says about x, and how far draws from the prior are from the latents that the decoder has seen. `q(z)` is the
    aggregated posterior, the mean of `q(z|x)` over the data.

    Attributes:
        activity: variance of the posterior means over the data, `(D,)`.
        active_interval: from 2.5 % to 97.5 % of the number of active latents, by resampling the data.
        kl: `KL(q(z|x) || p(z))`, averaged over the data.
        kl_per_dimension: its part from each latent, `(D,)`; `None` unless they are independent in guide and prior.
        mutual_information: of x and z under the guide, never above `log mixture_size`; in expectation too low.
        mutual_information_upper: the same with each datum left out of its own `q(z)`; in expectation too high.
        aggregated_kl: `KL(q(z) || p(z))`, in expectation too high by as much as the information is too low.
        num_data: N.
        mixture_size: how many of them `q(z)` is made of; both parts are averages over these.

    Source: Hoffman & Johnson 2016, ELBO Surgery; Poole et al. 2019, On Variational Bounds of Mutual Information (the
    bounds from a known conditional density).
    """

    activity: Tensor
    active_interval: tuple[int, int]
    kl: Estimate
    kl_per_dimension: Tensor | None
    mutual_information: Estimate
    mutual_information_upper: float
    aggregated_kl: Estimate
    num_data: int
    mixture_size: int

    @property
    def active_units(self) -> int:
        """How many latents are active: their posterior means vary over the data by more than `ACTIVE`."""
        return int((self.activity > ACTIVE).sum())

    @property
    def bound(self) -> float:
        """`log mixture_size`: the most information that so many data can show."""
        return math.log(self.mixture_size)

    @property
    def saturated(self) -> bool:
        """Whether the information is within 10 % of its bound, so that the truth may be far above."""
        return self.mutual_information.value > SATURATED * self.bound

    @property
    def collapsed(self) -> bool:
        """Whether no latent is active, or the KL is below 0.1 nats."""
        return self.active_units == 0 or self.kl.value < COLLAPSED

    def verdict(self) -> str:
        """One sentence in words: whether the latents are used."""
        d, information = len(self.activity), self.mutual_information.value
        if self.active_units == 0:
            if information < COLLAPSED:
                carried = "and z carries next to nothing of x"
            else:
                carried = f"although z carries {information:.2f} nats about x, by small moves or not by its mean"
            return (
                f"Collapsed: no latent of {d} is active (the mean of none varies over the data by more than {ACTIVE}), "
                f"{carried}."
            )
        if self.collapsed:
            return f"Collapsed: the KL is below {COLLAPSED} nats per datum, so z carries next to nothing of x."
        if self.saturated:
            return (
                f"{self.active_units} of {d} latents are active and z carries {information:.2f} nats about x or more: "
                f"{self.mixture_size} data show at most {self.bound:.2f}, their logarithm, so this is a lower bound."
            )
        return f"{self.active_units} of {d} latents are active and z carries {information:.2f} nats about x."

    def __str__(self) -> str:
        low, high = self.active_interval
        of = "" if self.mixture_size == self.num_data else f" of {self.num_data}"
        return "\n".join(
            [
                f"active latents: {self.active_units} of {len(self.activity)} ({low} to {high} by resampling the data)",
                f"KL(q(z|x) || p(z)) = {self.kl} nats per datum on {self.num_data} data",
                f"I(x; z) = {self.mutual_information} nats, at most {self.mutual_information_upper:.3f} without each "
                f"datum's own share, from {self.mixture_size}{of} data, whose log is {self.bound:.3f}",
                f"KL(q(z) || p(z)) = {self.aggregated_kl} nats{' or less' if self.saturated else ''}",
                self.verdict(),
            ]
        )


class _Posteriors(NamedTuple):
    """`q(z|x)` of all data, batch by batch, and draws from it with their log-densities."""

    q: list[Any]  # each of batch shape (1, batch)
    z: Tensor  # (K, N, D)
    log_q: Tensor  # (K, N)
    log_p: Tensor
    kl_per_dimension: Tensor | None  # (D,)

    @property
    def kl(self) -> Tensor:
        return (self.log_q - self.log_p).mean(0)


def _posteriors(model: Program, guide: Program, x: Any, draws: int, memory: int) -> _Posteriors:
    found, batches, dimensions = [], [], []
    for start in range(0, len(x), BATCH):
        q, p = _latent(model, guide, x[start : start + BATCH])
        draw = partial(_draw, q, p)
        pieces = [draw(count) for count in _pieces(draws, draw, memory)]
        z, log_q, log_p = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        found.append(q)
        batches.append((z, log_q, log_p))
        if independent(q) and independent(p):
            kl = double(q.base_dist.log_prob(z)) - double(p.base_dist.log_prob(z))
            dimensions.append(kl.mean(0).sum((0, 1)))
    z, log_q, log_p = (torch.cat(parts, 2).squeeze(1) for parts in zip(*batches, strict=True))
    per_dimension = torch.stack(dimensions).sum(0) / len(x) if dimensions else None
    return _Posteriors(found, z, log_q, log_p, per_dimension)


def _draw(q: Any, p: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    z = q.sample((count,))
    return z, double(q.log_prob(z)), double(p.log_prob(z))


def _means(q: Any, memory: int) -> Tensor:
    """Two estimates of each posterior mean, `(2, batch, D)`."""

    def total(count: int) -> Tensor:
        return double(q.sample((count,))).sum(0)

    halves = [sum(map(total, _pieces(MEAN_DRAWS, total, memory))) for _ in range(2)]
    return torch.cat(halves) / MEAN_DRAWS  # type: ignore[arg-type]


def _pieces(count: int, run: Callable[[int], Any], memory: int) -> list[int]:
    """`count` in pieces of as many as `run` takes at a time within `memory`."""
    size = max(1, memory // 2 // _bytes(run))
    return [min(size, count - done) for done in range(0, count, size)]


def _bytes(run: Callable[[int], Any]) -> int:
    """Memory that one more draw needs, measured: half the difference between 3 and 1."""
    needed = []
    for count in (1, 3):
        with forked_random(), _Allocations() as allocations:
            run(count)
        needed.append(allocations.bytes)
    return max((needed[1] - needed[0]) // 2, 64)


def _latent(model: Program, guide: Program, batch: Any) -> tuple[Any, Any]:
    """`q(z|x)` and `p(z)` at the only latent site of a pair, both of batch shape `(1, batch)`."""
    latents = {
        name: site for name, site in terms(model, guide, batch).sites.items() if site.q is not None
    }
    if len(latents) != 1:
        names = ", ".join(map(repr, latents))
        raise InputError(
            f"latent_health looks at one latent site, and the guide has {len(latents)}: {names}"
        )
    name, site = latents.popitem()
    if len(site.q.event_shape) != 1:
        shape = tuple(site.q.event_shape)
        raise InputError(
            f"latent_health looks at vectors, and one latent of site {name!r} has shape {shape}"
        )
    if not has_density(site.q):
        raise InputError(
            "the guide is a point for each datum, without a density, so what its latents carry has no measure in nats; "
            "train with another guide, such as MeanField"
        )
    return site.q, site.p


def _others(posteriors: _Posteriors, memory: int) -> Tensor:
    """`log sum_{j != i} q(z_ki | x_j)` at each draw, `(K, N)`."""
    draws, size = posteriors.log_q.shape
    z = posteriors.z.flatten(0, 1)[:, None, None]  # (K N, 1, 1, D)
    pieces = _pieces(len(z), partial(_pairs, posteriors), memory)
    owners = torch.arange(size, device=posteriors.log_q.device).repeat(draws)
    found = []
    for some, owner in zip(z.split(pieces), owners.split(pieces), strict=True):
        sums, start = [], 0
        for q in posteriors.q:
            log_q = double(q.log_prob(some)).squeeze(1)  # (piece, batch)
            columns = torch.arange(start, start + log_q.shape[1], device=log_q.device)
            sums.append(log_q.masked_fill(owner[:, None] == columns, -math.inf).logsumexp(1))
            start += log_q.shape[1]
        found.append(torch.stack(sums).logsumexp(0))
    return torch.cat(found).unflatten(0, (draws, size))


def _pairs(posteriors: _Posteriors, count: int) -> Tensor:
    """The density of `count` draws at the first batch: what one step of `_others` costs."""
    z = posteriors.z[0, :1].expand(count, -1)[:, None, None]
    return double(posteriors.q[0].log_prob(z)).squeeze(1).logsumexp(1)


def _affordable(posteriors: _Posteriors) -> int:
    """How many data can be paired with one draw of each other within `WORK`."""
    per_pair = _bytes(partial(_pairs, posteriors)) / posteriors.q[0].batch_shape[-1]
    return max(2, math.isqrt(int(WORK / per_pair)))


def _active_counts(means: Tensor, bootstrap: int, memory: int) -> Iterator[Tensor]:
    """The number of active latents in resampled data, some of `bootstrap` at a time."""
    n = means.shape[1]
    first, second = means - means.mean(1, keepdim=True)
    columns = torch.cat([first * second, first, second], -1)  # (N, 3 D)
    rows = max(1, memory // (32 * n))
    for done in range(0, bootstrap, rows):
        index = torch.randint(n, (min(rows, bootstrap - done), n), device=means.device)
        weights = means.new_zeros(index.shape).scatter_add_(
            1, index, means.new_ones(()).expand(index.shape)
        )
        products, a, b = (weights @ columns / n).chunk(3, -1)
        yield ((products - a * b) * n / (n - 1) > ACTIVE).sum(-1)


def _estimate(values: Tensor) -> Estimate:
    return Estimate(values.mean().item(), (values.std() / math.sqrt(len(values))).item())


@torch.no_grad()
def latent_health(
    model: Program,
    guide: Program,
    x: Any,
    *,
    draws: int = 5,
    mixture_size: int | None = None,
    bootstrap: int = 1000,
    memory: int = MEMORY,
) -> LatentHealth:
    """Which latents are active, and the KL with its two parts, each with its error.

    `I(x; z) = E[log q(z|x) - log q(z)]` and `KL(q(z) || p(z)) = E[log q(z) - log p(z)]`, `q(z) = 1/N sum_j q(z|x_j)`,
    over the data x and draws `z ~ q(z|x)`. The density of every draw is taken at every datum, in chunks that keep
    within `memory`. `p(z)` must be the same for all data.

    Args:
        model: any Pyro model with a data plate at dim -1 and one latent vector for each datum.
        guide: its guide, called with the same.
        x: the data, `(N, *shape)`, two or more: a tensor, or anything with a length whose slices are tensors.
        draws: for each datum, beside those for its mean (50 for each of two, as in `activity`).
        mixture_size: how many data, spread evenly, `q(z)` is made of. By default all; where that would take minutes,
            because they are many or the density of the guide is costly (`IAF`), fewer with one draw each.
        bootstrap: how often the data are resampled for the interval of the number of active latents.
        memory: bytes to keep within (beside the data, the networks and the posteriors), if one draw allows.

    Returns:
        A `LatentHealth`.

    Raises:
        InputError: for fewer than two data or data that the likelihood does not accept, for a guide without a density
            (`Delta`), for a pair with several latent sites or with one that is no vector, or for a number below 1
            (mixture_size: below 2).

    Source: Hoffman & Johnson 2016, ELBO Surgery; Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders,
    section 5.2 (the activity).

    >>> from pyro_vae import MLP, VAE, Bernoulli, MeanField, StandardNormal
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> health = latent_health(vae.model, vae.guide, torch.rand(50, 4).round())
    >>> health.activity.shape, health.kl.value < 5
    (torch.Size([2]), True)
    """
    x = as_data(model, x)
    _check_two(x)
    for name, value, least in (
        ("draws", draws, 1),
        ("mixture_size", mixture_size, 2),
        ("bootstrap", bootstrap, 1),
    ):
        if value is not None and (not isinstance(value, int) or value < least):
            raise InputError(f"{name}={value!r} must be a whole number of at least {least}")
    localise(model, guide)
    with parameters_of(model, guide), unchecked(model, guide):
        whole = _posteriors(model, guide, x, draws, memory)
        size, kept = min(mixture_size or len(x), len(x)), draws
        if mixture_size is None and draws * size**2 > (most := _affordable(whole)) ** 2:
            size, kept = min(size, most), 1
        part = whole
        if (size, kept) != (len(x), draws):
            chosen = torch.cat([x[i : i + 1] for i in (j * len(x) // size for j in range(size))])
            part = _posteriors(model, guide, chosen, kept, memory)
        others = _others(part, memory)
        means = torch.cat([_means(q, memory) for q in whole.q], 1)
    log_mean = torch.logaddexp(others, part.log_q) - math.log(size)  # log q(z)
    counts = torch.cat(list(_active_counts(means, bootstrap, memory))).double().sort().values
    interval = (
        int(counts[math.floor(0.025 * (bootstrap - 1))]),
        int(counts[math.ceil(0.975 * (bootstrap - 1))]),
    )
    dimensions = whole.kl_per_dimension
    return LatentHealth(
        activity=_covariance(means).cpu(),
        active_interval=interval,
        kl=_estimate(whole.kl),
        kl_per_dimension=None if dimensions is None else dimensions.cpu(),
        mutual_information=_estimate((part.log_q - log_mean).mean(0)),
        mutual_information_upper=(part.log_q - others).mean().item() + math.log(size - 1),
        aggregated_kl=_estimate((log_mean - part.log_p).mean(0)),
        num_data=len(x),
        mixture_size=size,
    )
