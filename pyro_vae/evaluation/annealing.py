"""Annealed importance sampling of log p(x), and its certificate on simulated data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.data.inputs import as_data, batches
from pyro_vae.engine.graphs import REPAID, choice, compiled
from pyro_vae.engine.memory import CHUNK, LARGEST_CHUNK, MEMORY, bytes_of
from pyro_vae.evaluation.diagnostics import pareto_k, tail_length
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import Weighed
from pyro_vae.foundation.abstract import local_parameters, localise
from pyro_vae.foundation.checks import Number, at_least, checked, takes
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.terms import double

TARGET = 0.65  # acceptance to tune for: Beskos et al. 2013, Optimal Tuning of the Hybrid Monte Carlo Algorithm
COPIES = 6  # of the place of a chain while it moves
SIMULATED = 10_000  # data drawn from the model at a time
Temperatures = Annotated[int, at_least(1), takes(64)]
WARM_UP = 30  # moves at the first temperature before step sizes are kept


@dataclass(frozen=True)
class AnnealedEstimate(Weighed, Printed):
    """Estimates of `log p(x)` for N data by annealed importance sampling; nats per datum.

    Attributes:
        values: `log 1/C sum_c w_c`, a lower bound on `log p(x)` in expectation, shape `(N,)`.
        standard_errors: from the spread over chains, by the delta method.
        ess: effective number of chains, `(sum w)^2 / sum w^2`; a few of them make the interval wide, not wrong.
        pareto_k: tail index of the chains' weights, as in `LogMarginal`; `inf` for fewer than 25 chains.
        acceptance: share of accepted moves.
        num_chains: C.
        num_temperatures: intermediate distributions.

    Results over shards of data add up: `a + b` holds the data of both.
    """

    acceptance: Tensor
    num_chains: int
    num_temperatures: int

    @property
    def path(self) -> str:
        """The chains in words."""
        return f"{self.num_chains} chains over {self.num_temperatures} temperatures"

    def answer(self) -> Answer:
        """The number, and how the chains went."""
        sound = self.sound
        return Answer(
            title="Annealed importance sampling",
            about=f"{self.path} on {len(self)} data",
            rows={"log p(x), annealed": self},
            meanings={"log p(x), annealed": "by chains that owe nothing to the guide's shape"},
            sentences=[
                self._interval(),
                f"acceptance {self.acceptance[sound].mean().item():.2f}, median ESS "
                f"{self.ess[sound].nanmedian().item():.1f} chains",
                *self._left_out(),
            ],
            columns=self.per_datum,
            numbers={
                **self.estimate._asdict(),
                "num_chains": self.num_chains,
                "num_temperatures": self.num_temperatures,
            },
        )


@dataclass(frozen=True)
class Sandwich(Printed):
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
    def sound(self) -> Tensor:
        """Between which data both bounds are finite, `(N,)` booleans; the means are over these."""
        return self.upper.isfinite() & self.lower.sound

    @property
    def rows(self) -> dict[str, PerDatum]:
        """Both bounds and the gap between them, of the `sound` data; the spread of the gaps holds that over chains."""
        columns = {
            "lower bound": self.lower,
            "upper bound": PerDatum(self.upper, self.upper_errors),
            "gap": PerDatum(self.upper - self.lower.values, None),
        }
        return {name: column.among(self.sound) for name, column in columns.items()}

    @property
    def bounds(self) -> tuple[float, float]:
        """The means of both bounds, nats per datum."""
        return self.rows["lower bound"].mean, self.rows["upper bound"].mean

    @property
    def gap(self) -> float:
        """The mean of `upper - lower`: how far either can be off, in expectation; nats per datum."""
        return self.rows["gap"].mean

    @property
    def gap_standard_error(self) -> float:
        """Of the mean gap, from the spread over data."""
        return self.rows["gap"].data_standard_error

    def answer(self) -> Answer:
        """The bounds, and what their gap says."""
        n, count, (low, high) = len(self.upper), int(self.sound.sum()), self.bounds
        of = f"{n}" if count == n else f"{count} of {n}"
        return Answer(
            title="Bidirectional Monte Carlo",
            about=self.lower.path,
            rows=self.rows,
            sentences=[
                f"On {of} data simulated from the model log p(x) lies between {low:.3f} and {high:.3f} nats: the "
                f"schedule of {self.lower.num_temperatures} temperatures leaves a gap of {self.gap:.3f} ± "
                f"{self.gap_standard_error:.3f}."
            ],
            numbers={
                "data": n,
                "lower": low,
                "upper": high,
                "gap_standard_error": self.gap_standard_error,
                "num_chains": self.lower.num_chains,
                "num_temperatures": self.lower.num_temperatures,
            },
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


class _Place(NamedTuple):
    """Where chains are: latents `(C, B, D)`, both log-densities there `(C, B)`, and their gradients `(C, B, D)`."""

    z: Tensor
    start: Tensor
    joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    @property
    def difference(self) -> Tensor:
        """`log p(x, z) - log start(z)`, in double precision."""
        return double(self.joint) - double(self.start)

    def density(self, beta: float) -> Tensor:
        return (1 - beta) * self.start + beta * self.joint

    def gradient(self, beta: float) -> Tensor:
        return (1 - beta) * self.start_gradient + beta * self.joint_gradient


class _Path:
    """The densities `start^(1 - beta) joint^beta` of one batch, and moves that keep them.

    Both densities and their gradients are known wherever a chain stands, so a temperature costs no evaluation of its
    own and a move as many as it has steps.
    """

    def __init__(self, look: Callable[[Tensor], _Place], betas: Tensor, leapfrogs: int) -> None:
        self.look, self.betas, self.leapfrogs = look, betas.tolist(), leapfrogs

    def move(self, here: _Place, beta: float, step: Tensor) -> tuple[_Place, Tensor]:
        """One Hamiltonian move of `leapfrogs` steps of length `step`, `(B,)`: the new place, and whether it was taken.

        Source: Neal 2011, MCMC Using Hamiltonian Dynamics.
        """
        step = step[:, None].to(here.z)
        momentum = torch.randn_like(here.z)
        energy = here.density(beta) - 0.5 * momentum.square().sum(-1)
        there, p = here, momentum + 0.5 * step * here.gradient(beta)
        for i in range(self.leapfrogs):
            there = self.look(there.z + step * p)
            p = p + (step if i < self.leapfrogs - 1 else 0.5 * step) * there.gradient(beta)
        gain = there.density(beta) - 0.5 * p.square().sum(-1) - energy
        accepted = torch.rand_like(gain).log() < gain.nan_to_num(-math.inf)
        masks = (accepted if t.dim() == accepted.dim() else accepted[..., None] for t in here)
        return _Place(
            *(torch.where(m, new, old) for m, new, old in zip(masks, there, here, strict=True))
        ), accepted

    def tune(self, z: Tensor) -> Tensor:
        """Step sizes for each temperature between the ends and each datum, from chains of their own."""
        if len(self.betas) == 2:
            return z.new_empty(0)
        step = torch.full(
            z.shape[1:2], 0.5 * z.shape[-1] ** -0.25, dtype=torch.float64, device=z.device
        )
        place, found = self.look(z), []
        for beta in [self.betas[1]] * WARM_UP + self.betas[1:-1]:
            place, accepted = self.move(place, beta, step)
            found.append(step)
            step = step * (0.2 * (accepted.double().mean(0) - TARGET)).exp()
        return torch.stack(found[WARM_UP:])

    def forward(self, z: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """From draws of the start: `log w`, `(C, B)`, and the share of accepted moves, `(B,)`."""
        log_w, accepted = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device), []
        place = self.look(z)
        for t in range(1, len(self.betas)):
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * place.difference
            if t < len(self.betas) - 1:
                place, moved = self.move(place, self.betas[t], steps[t - 1])
                accepted.append(moved.double().mean(0))
        return log_w, torch.stack(accepted).mean(0) if accepted else torch.ones_like(log_w[0])

    def backward(self, z: Tensor, steps: Tensor) -> Tensor:
        """From posterior draws: the `log w` of the chain run the other way, `(C, B)`; `E[1 / w]` is `1 / p(x)`."""
        log_w = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
        place = self.look(z)
        for t in range(len(self.betas) - 1, 0, -1):
            if t < len(self.betas) - 1:
                place, _ = self.move(place, self.betas[t], steps[t - 1])
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * place.difference
        return log_w


def gradients_per_datum(
    num_chains: int, num_temperatures: int, leapfrogs: int = 10, *, ways: int = 1
) -> int:
    """How many gradients of `log p(x, z)` `annealed_importance_sampling` takes for one datum; with two `ways`
    `bidirectional_monte_carlo`.
    """
    between = num_temperatures - 1
    tuning = max(num_chains // 2, 1) * (1 + (WARM_UP + between) * leapfrogs) if between else 0
    return tuning + ways * num_chains * (1 + between * leapfrogs)


def _estimate(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`log 1/C sum w`, its standard error, the effective number of chains and Pareto k, each `(B,)`, on the host."""
    chains = len(log_w)
    value = log_w.logsumexp(0) - math.log(chains)
    ratio = (log_w - value).exp()
    error = ratio.std(0) / math.sqrt(chains) if chains > 1 else torch.full_like(value, math.nan)
    largest = log_w.topk(min(tail_length(chains) + 1, chains), dim=0).values.T
    return (
        value.cpu(),
        error.cpu(),
        (chains / ratio.square().mean(0)).cpu(),
        pareto_k(largest).cpu(),
    )


def _discrete(p: Any) -> bool:
    try:
        return bool(p.support.is_discrete)
    except (AttributeError, NotImplementedError):  # no support is told
        return False


def annealable(model: Any) -> bool:
    """Whether there is a path from the prior to the posterior: a joint density of continuous latents."""
    return hasattr(model, "log_joint") and hasattr(model, "prior") and not _discrete(model.prior())


class _Paths:
    """Makes the path of each batch: both log-densities and their gradients come from one function, or one graph."""

    def __init__(
        self,
        model: Any,
        guide: Any,
        betas: Tensor,
        leapfrogs: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        if not hasattr(model, "log_joint") or not hasattr(model, "prior"):
            raise InputError(
                "annealing needs a model with log_joint and prior, such as that of a VAE"
            )
        if not annealable(model):
            raise InputError(
                "annealing moves latents along gradients, and those of this model are discrete"
            )
        if not getattr(guide, "has_density", True):
            raise InputError("the guide is a point for each datum; anneal from the prior instead")
        self.model, self.guide, self.betas, self.leapfrogs = model, guide, betas, leapfrogs
        self.progress, self.at_a_time = progress, 1
        self.densities: Callable[[Tensor, Tensor], tuple[list[Tensor], Any]] = self._densities

    def start(self, x: Tensor) -> Any:
        return self.model.prior().expand((len(x),)) if self.guide is None else self.guide.given(x)

    def _densities(self, x: Tensor, z: Tensor) -> tuple[list[Tensor], None]:
        """The values and gradients of a `_Place`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values = [self.start(x).log_prob(z), self.model.log_joint(x, z)]
            gradients = [
                torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in values
            ]
        return [v.detach() for v in (*values, *gradients)], None

    def prepare(self, x: Tensor, rows: int, memory: int, wanted: bool | str) -> int:
        """How many rows to evaluate at a time, measured on a datum; compiles if `rows` are many in all."""
        row = 64 + bytes_of(lambda: self._densities(x[:1], self.start(x[:1]).sample((1,))))
        modules = [m for m in (self.model, self.guide) if isinstance(m, nn.Module)]
        if choice(wanted, repaid=rows * row >= REPAID) and len(modules) == 2 - (self.guide is None):
            self.densities = compiled(self._densities, modules, "annealing", asked=wanted is True)
        self.at_a_time = min(memory // row or 1, CHUNK.get(x.device.type, LARGEST_CHUNK))
        return self.at_a_time

    def batch_size(self, x: Tensor, num_chains: int, memory: int) -> int:
        """How many data to anneal at a time, with all their chains.

        Raises:
            InputError: where the places of the chains of a single datum are more than there is memory for.
        """
        place = COPIES * (3 * math.prod(self.start(x[:1]).event_shape) + 2) * 8
        require(num_chains * place, f"annealing num_chains={num_chains} chains", "num_chains")
        steps = 16 * len(self.betas)  # step sizes of each datum
        return max(1, min(self.at_a_time // num_chains, memory // steps))

    def over(self, x: Tensor) -> _Path:
        """The path for one batch."""
        chains = max(1, self.at_a_time // len(x))

        def look(z: Tensor) -> _Place:
            parts = []
            for some in z.split(chains):
                if self.progress is not None:
                    self.progress(some.shape[:2].numel())
                parts.append(self.densities(x, some)[0])
            if len(parts) == 1:
                return _Place(z, *parts[0])
            return _Place(z, *(torch.cat(column) for column in zip(*parts, strict=True)))

        return _Path(look, self.betas, self.leapfrogs)


@checked
@torch.no_grad()
def annealed_importance_sampling(
    model: Any,
    x: Any,
    *,
    guide: Any = None,
    num_chains: Number = 16,
    num_temperatures: Temperatures = 500,
    leapfrogs: Number = 10,
    schedule: str = "sigmoid",
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Callable[[int], None] | None = None,
) -> AnnealedEstimate:
    """Estimate `log p(x)` of each datum by chains from the prior, or the guide, to the posterior.

    `w = prod_t (p(x, z_t) / start(z_t))^(beta_t - beta_t-1)`; between the factors `z` moves by Hamiltonian Monte Carlo
    that leaves `start^(1 - beta_t) p(x, z)^beta_t` as it is. `E[w] = p(x)` whatever the moves; the longer the path, the
    less the weights vary. Step sizes are tuned for each temperature and datum by chains of their own and then kept.

    Args:
        model: the model of a VAE, or anything with `prior()` and `log_joint(x, z)`, differentiable in z.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        guide: start from its posteriors instead of from the prior.
        num_chains: C for each datum.
        num_temperatures: T steps from the start to the posterior.
        leapfrogs: of each move.
        schedule: `'sigmoid'` or `'linear'`; see `temperatures`.
        memory: bytes to keep within, beside the data and the networks.
        compile: evaluate the densities by a compiled graph, as in `log_marginal`.
        progress: called with the number of gradients of `log p(x, z)` asked for since its last call, of
            `gradients_per_datum` for each datum.

    Returns:
        An `AnnealedEstimate` with N values and their errors.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a guide that is a point, or for
            numbers below 1; for a model without a joint density, or with discrete latents.

    Source: Neal 2001, Annealed Importance Sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative
    Analysis of Decoder-Based Generative Models.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> annealed_importance_sampling(vae.model, torch.ones(3, 4), num_chains=4, num_temperatures=10).values.shape
    torch.Size([3])
    """
    x = as_data(model, x)
    betas = temperatures(num_temperatures, schedule)
    paths = _Paths(model, guide, betas, leapfrogs, progress)
    result: AnnealedEstimate | None = None
    localise(model, guide)
    with local_parameters(), pyro.validation_enabled(False):
        rows = len(x) * gradients_per_datum(num_chains, num_temperatures, leapfrogs)
        paths.prepare(x[:1], rows, memory, compile)
        batch_size = paths.batch_size(x, num_chains, memory)
        for batch in batches(x, batch_size):
            path, p = paths.over(batch), paths.start(batch)
            steps = path.tune(p.sample((max(num_chains // 2, 1),)))
            log_w, accepted = path.forward(p.sample((num_chains,)), steps)
            part = AnnealedEstimate(*_estimate(log_w), accepted.cpu(), num_chains, num_temperatures)
            result = part if result is None else result + part
    assert result is not None
    return result


@checked
@torch.no_grad()
def bidirectional_monte_carlo(
    model: Any,
    n: Number = 50,
    *,
    guide: Any = None,
    num_chains: Number = 16,
    num_temperatures: Temperatures = 500,
    leapfrogs: Number = 10,
    schedule: str = "sigmoid",
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Callable[[int], None] | None = None,
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
        memory: as there.
        compile: as there.
        progress: as there; chains run two `ways` here.

    Raises:
        InputError: as there.

    Source: Grosse, Ghahramani & Adams 2015, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo.
    """
    betas = temperatures(num_temperatures, schedule)
    paths = _Paths(model, guide, betas, leapfrogs, progress)
    lower: AnnealedEstimate | None = None
    uppers, errors = [], []
    localise(model, guide)
    with local_parameters(), pyro.validation_enabled(False):
        each = math.prod(model.prior().event_shape) + math.prod(model.likelihood.shape)
        require(16 * n * each, f"simulating n={n} data", "n")
        z = model.prior().sample((n,))
        x = torch.cat(
            [model.likelihood(model.decoder(part)).sample() for part in z.split(SIMULATED)]
        )
        rows = n * gradients_per_datum(num_chains, num_temperatures, leapfrogs, ways=2)
        paths.prepare(x[:1], rows, memory, compile)
        batch_size = paths.batch_size(x, num_chains, memory)
        for exact, batch in zip(z.split(batch_size), x.split(batch_size), strict=True):
            path, p = paths.over(batch), paths.start(batch)
            steps = path.tune(p.sample((max(num_chains // 2, 1),)))
            log_w, accepted = path.forward(p.sample((num_chains,)), steps)
            part = AnnealedEstimate(*_estimate(log_w), accepted.cpu(), num_chains, num_temperatures)
            lower = part if lower is None else lower + part
            value, error, *_ = _estimate(
                -path.backward(exact.expand(num_chains, *exact.shape), steps)
            )
            uppers.append(-value)
            errors.append(error)
    assert lower is not None
    return Sandwich(lower, torch.cat(uppers), torch.cat(errors))


class Annealing(Question):
    """Chains from the prior, or the guide, to the posterior: what the two questions to them share.

    Args:
        chains: for each datum.
        temperatures: steps from the start to the posterior.
        start: where chains start; those from the guide miss what the guide misses.
        schedule: of temperatures; the sigmoid has more of them at both ends.
    """

    def __init__(
        self,
        *,
        chains: Number = 16,
        temperatures: Temperatures = 500,
        start: Literal["prior", "guide"] = "prior",
        schedule: Literal["sigmoid", "linear"] = "sigmoid",
    ) -> None:
        self.chains, self.temperatures = chains, temperatures
        self.settings = {"schedule": schedule, "start": start}

    def path(self, run: Trained, data: Evaluated) -> dict[str, Any]:
        """The options of both functions."""
        return {
            "guide": run.vae.guide if self.settings["start"] == "guide" else None,
            "num_chains": self.chains,
            "num_temperatures": self.temperatures,
            "schedule": self.settings["schedule"],
            "memory": data.memory,
        }


class AIS(Annealing):
    """A second opinion on log p(x), by annealed importance sampling.

    Args:
        chains, temperatures, start, schedule: as in `Annealing`.
    """

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        total = len(data) * gradients_per_datum(self.chains, self.temperatures)
        with progress("gradients", total) as done:
            annealed = annealed_importance_sampling(
                run.vae.model, data.x, progress=done, **self.path(run, data)
            )
        weighted = data.log_marginal
        return annealed.answer().plus(
            rows={} if weighted is None else {"log p(x), weighted": weighted},
            sentences=data.left_out(annealed.sound, "annealed log p(x)"),
            warnings=data.exceeded("Annealed importance sampling", annealed),
            numbers=self.settings,
        )


class BDMC(Annealing):
    """Bounds on log p(x) from both sides, for data drawn from the model: how far annealing can be trusted.

    Args:
        n: how many data are drawn.
        chains, temperatures, start, schedule: as in `Annealing`.
    """

    def __init__(
        self,
        *,
        n: Number = 50,
        chains: Number = 16,
        temperatures: Temperatures = 500,
        start: Literal["prior", "guide"] = "prior",
        schedule: Literal["sigmoid", "linear"] = "sigmoid",
    ) -> None:
        super().__init__(chains=chains, temperatures=temperatures, start=start, schedule=schedule)
        self.n = n

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        total = self.n * gradients_per_datum(self.chains, self.temperatures, ways=2)
        with progress("gradients", total) as done:
            sandwich = bidirectional_monte_carlo(
                run.vae.model, self.n, progress=done, **self.path(run, data)
            )
        return sandwich.answer().plus(numbers=self.settings)
