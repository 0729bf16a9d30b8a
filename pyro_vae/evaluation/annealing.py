"""Annealed importance sampling of log p(x), and its certificate on simulated data."""

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Annotated, Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.data.inputs import Call, as_data, classes_of, fields_of
from pyro_vae.distributions.hamiltonian import first_step, hamiltonian_move, tuned
from pyro_vae.engine.alike import sparing
from pyro_vae.engine.graphs import REPAID, choice, compiled
from pyro_vae.engine.memory import CHUNK, LARGEST_CHUNK, MEMORY, bytes_of
from pyro_vae.engine.processes import shared
from pyro_vae.evaluation.diagnostics import tail_index
from pyro_vae.evaluation.modes import Density, Modes
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Shards,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import Weighed
from pyro_vae.evaluation.weighting import a_few
from pyro_vae.foundation.abstract import (
    Around,
    context_of,
    forked_random,
    is_own,
    running,
)
from pyro_vae.foundation.checks import Number, at_least, checked, takes
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.bounds import called_whole
from pyro_vae.inference.pairs import model_of
from pyro_vae.inference.particles import Program, is_point, nothing, way_alone
from pyro_vae.inference.scores import (
    Flat,
    Observed,
    Observing,
    draw,
    run_of,
    score,
    simulate,
)
from pyro_vae.inference.terms import double

COPIES = 6  # of the place of a chain while it moves
SIMULATED = 10_000  # data drawn from the model at a time
Temperatures = Annotated[int, at_least(1), takes(64)]
REHEARSAL = {"num_chains": 1, "num_temperatures": 1, "compile": False}
WARM_UP = 30  # moves at the first temperature before step sizes are kept
FEW_LEAPFROGS = 4  # of a move in widths of the posterior
PRIOR_LEAPFROGS = 5  # of a move of chains from the prior, where there are many moves
EVENLY = 0.1  # of the path is divided evenly, where the rest follows what few chains say of it


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
            meanings={
                "log p(x), annealed": "by chains that owe nothing to the guide's shape"
            },
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
class Sandwich(Shards, Printed):
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

    `'adaptive'` begins as the sigmoid.

    Source: Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative Analysis of Decoder-Based Generative Models.
    """
    t = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    if shape == "linear":
        return t
    if shape not in ("adaptive", "sigmoid"):
        raise InputError(
            f"schedule={shape!r} must be 'adaptive', 'sigmoid' or 'linear'"
        )
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

    def density(self, beta: Tensor) -> Tensor:
        """At temperatures `(B,)`."""
        return (1 - beta) * self.start + beta * self.joint

    def gradient(self, beta: Tensor) -> Tensor:
        """Of `density` in z."""
        beta = beta.unsqueeze(-1)
        return (1 - beta) * self.start_gradient + beta * self.joint_gradient


class Path:
    """The densities `start^(1 - beta) joint^beta` of one batch, and moves that keep them.

    Both densities and their gradients are known wherever a chain stands, so a temperature costs no evaluation of its
    own and a move as many as it has steps.

    Attributes:
        betas: temperatures of each datum, `(T + 1, B)`; once it is tuned, as `adaptive` asks.
        steps: lengths of steps, for each temperature between the ends and each datum, `(T - 1, B)`.
    """

    def __init__(
        self,
        look: Callable[[Tensor], _Place],
        betas: Tensor,
        leapfrogs: int,
        *,
        adaptive: bool = False,
    ) -> None:
        self.look, self.leapfrogs, self.adaptive = look, leapfrogs, adaptive
        self.betas = betas.unsqueeze(-1)
        self.steps: Tensor

    def move(self, here: _Place, beta: Tensor, step: Tensor) -> tuple[_Place, Tensor]:
        """One Hamiltonian move with steps of length `step`, `(B,)`: the new place, and whether it was taken."""
        beta = beta.to(here.z)
        moved = hamiltonian_move(
            here,
            self.look,
            step,
            self.leapfrogs,
            density=lambda place: place.density(beta),
            gradient=lambda place: place.gradient(beta),
        )
        return moved.place, moved.accepted

    def tune(self, z: Tensor) -> None:
        """Find the `steps`, and `betas` that are adapted, by chains of their own."""
        self.betas = self.betas.to(z.device).expand(-1, z.shape[1])
        self.steps = z.new_empty(0)
        if len(self.betas) == 2:
            return
        step = torch.full(
            z.shape[1:2],
            first_step(z.shape[-1]),
            dtype=torch.float64,
            device=z.device,
        )
        place, steps = self.look(z), []
        spreads = [_spread(place.difference)]
        for beta in [self.betas[1]] * WARM_UP + [*self.betas[1:-1]]:
            place, accepted = self.move(place, beta, step)
            steps.append(step)
            spreads.append(_spread(place.difference))
            step = tuned(step, accepted.double().mean(0))
        self.steps = torch.stack(steps[WARM_UP:])
        if self.adaptive:
            spread = torch.stack([spreads[0], *spreads[WARM_UP + 1 :]])
            self.betas, self.steps = _respaced(self.betas, spread, self.steps)

    def follow(self, z: Tensor, *, back: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """`log w`, `(C, B)`, the share of accepted moves, `(B,)`, and where chains end, from draws of the start.

        `back`: of the chain run the other way, from posterior draws; then `E[1 / w]` is `1 / p(x)`.
        """
        rises = [*self.betas.diff(dim=0)]
        moves = list(zip(self.betas[1:-1], self.steps, strict=True))
        if back:
            rises.reverse()
            moves.reverse()
        place = self.look(z)
        log_w, accepted = rises[0] * place.difference, []
        for (beta, step), rise in zip(moves, rises[1:], strict=True):
            place, moved = self.move(place, beta, step)
            accepted.append(moved.double().mean(0))
            log_w = log_w + rise * place.difference
        if not accepted:
            return log_w, torch.ones_like(log_w[0]), place.z
        return log_w, torch.stack(accepted).mean(0), place.z


def _spread(difference: Tensor) -> Tensor:
    """The standard deviation over chains, `(C, B) -> (B,)`; 1 for one chain, which has none."""
    if len(difference) == 1:
        return torch.ones_like(difference[0])
    return difference.std(0).nan_to_num(1.0, 1.0, 1.0)


def _respaced(betas: Tensor, spread: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """As many temperatures between which `log w` varies alike, `(T + 1, B)`, and lengths of steps there.

    Where chains mix, a rise `d` at a temperature adds `d^2 var(log p(x, z) - log start(z))` to the variance of `log w`:
    the sum is least where every rise is the same share of `int spread d beta`. A tenth is spread evenly, since the
    spread is that of few chains.

    Args:
        betas: as they are, `(T + 1, B)`.
        spread: of `log p(x, z) - log start(z)` at all of them but the last, `(T, B)`.
        steps: lengths of steps at those between the ends, `(T - 1, B)`.

    Source: Gelman & Meng 1998, Simulating Normalizing Constants (the path of least variance).
    """
    ends = torch.cat([spread, spread[-1:]])
    parts = 0.5 * (ends[1:] + ends[:-1]) * betas.diff(dim=0)
    length = torch.cat([torch.zeros_like(parts[:1]), parts.cumsum(0)])
    length = (1 - EVENLY) * length / length[-1].clamp_min(1e-12) + EVENLY * betas
    length = length / length[-1]
    even = torch.linspace(0, 1, len(betas)).to(betas).unsqueeze(-1).expand_as(betas)
    found = _interpolated(even, length, betas)
    found[0], found[-1] = 0.0, 1.0
    return found, _interpolated(found[1:-1], betas[1:-1], steps)


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The lines through `(x, y)`, each `(K, B)` with x rising, at other places, `(L, B)`; beyond the ends the ends."""
    if len(x) == 1:
        return y.expand(len(at), -1).clone()
    right = torch.searchsorted(x.T.contiguous(), at.T.contiguous()).T.clamp(
        1, len(x) - 1
    )
    low, high = x.gather(0, right - 1), x.gather(0, right)
    share = ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return y.gather(0, right - 1).lerp(y.gather(0, right), share)


def gradients_per_datum(
    num_chains: int, num_temperatures: int, leapfrogs: int = 10, *, ways: int = 1
) -> int:
    """How many gradients of `log p(x, z)` `annealed_importance_sampling` takes for one datum; with two `ways`
    `bidirectional_monte_carlo`.
    """
    between = num_temperatures - 1
    gradients = ways * num_chains * (1 + between * leapfrogs)
    if between:
        gradients += _tuning(num_chains) * (1 + (WARM_UP + between) * leapfrogs)
    return gradients


def _tuning(num_chains: int) -> int:
    """How many chains find the step sizes for so many."""
    return max(num_chains // 2, 1)


def annealable(model: Program, call: Call) -> bool:
    """Whether the latents of a model are reals, which move along gradients."""
    try:
        with running(model):
            Flat(model, call)
    except InputError:
        return False
    return True


def _estimate(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`log 1/C sum w`, its standard error, the effective number of chains and Pareto k, each `(B,)`."""
    chains = len(log_w)
    value = log_w.logsumexp(0) - math.log(chains)
    ratio = (log_w - value).exp()
    error = torch.full_like(value, math.nan)
    if chains > 1:
        error = ratio.std(0) / math.sqrt(chains)
    return value, error, chains / ratio.square().mean(0), tail_index(log_w)


class Paths:
    """Makes the path of each batch: both log-densities and their gradients come from one function, or one graph."""

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        call: Call,
        betas: Tensor,
        *,
        num_chains: int,
        leapfrogs: int,
        adaptive: bool,
        memory: int,
        progress: Tick,
    ) -> None:
        self.adaptive = adaptive
        self.model, self.guide, self.betas = model, guide, betas
        self.num_chains, self.leapfrogs, self.memory = num_chains, leapfrogs, memory
        self.flat = Flat(model, call)
        if guide is not None and _computes(guide, call):
            raise InputError(
                "the guide is a point for each datum, or computes its latents from other draws, so it has no density "
                "at what chains come to; anneal from the prior instead"
            )
        self.progress, self.at_a_time = progress, 1
        programs = [p for p in (self.model, self.guide) if p is not None]
        own = is_own(*programs)
        self.densities = sparing(self._densities) if own else self._densities

    def start(self, call: Call, count: int) -> Tensor:
        """Draws of the start, `(count, batch, D)`."""
        program = self.model if self.guide is None else self.guide
        return self.flat.vector(draw(program, call, count))

    def _densities(
        self, args: Any, kwargs: Any, z: Tensor
    ) -> tuple[list[Tensor], None]:
        """The values and gradients of a `_Place`."""
        call = Call(args[0], args[1:], kwargs)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            values, log_jacobian = self.flat.values(z)
            p = score(self.model, call, values)
            start = p.latent
            if self.guide is not None:
                start = score(self.guide, call, values).joint
            densities = [start + log_jacobian, p.joint + log_jacobian]
            gradients = [
                torch.autograd.grad(density.sum(), z, retain_graph=True)[0]
                for density in densities
            ]
        return [v.detach() for v in (*densities, *gradients)], None

    def prepare(
        self, call: Call, size: int, wanted: bool | str, *, ways: int = 1
    ) -> None:
        """Find how many rows to evaluate at a time, measured on some of the `size` data; compile if that is repaid."""
        with forked_random():
            z = self.start(call, 1)
        needed = bytes_of(lambda: self._densities(call.args, call.kwargs, z))
        row = 64 + needed // len(call)
        most = CHUNK.get(call.device.type, LARGEST_CHUNK)
        self.at_a_time = min(self.memory // row or 1, most)
        temperatures = len(self.betas) - 1
        rows = size * gradients_per_datum(
            self.num_chains, temperatures, self.leapfrogs, ways=ways
        )
        programs = [p for p in (self.model, self.guide) if p is not None]
        modules = [
            p
            for p in programs
            if isinstance(p, nn.Module)
            and way_alone(p, call.args, call.kwargs) is not None
        ]
        repaid = choice(wanted, repaid=rows * row >= REPAID)
        if repaid and len(modules) == len(programs):
            self.densities = compiled(
                self._densities, modules, "annealing", asked=wanted is True
            )

    def batch_size(self) -> int:
        """How many data to anneal at a time, with all their chains.

        Raises:
            InputError: where the places of the chains of a single datum are more than there is memory for.
        """
        held = _bytes_of_chains(self.num_chains, self.flat.size)
        require(held, f"annealing num_chains={self.num_chains} chains", "num_chains")
        steps = 16 * len(self.betas)  # step sizes of each datum
        return max(1, min(self.at_a_time // self.num_chains, self.memory // steps))

    def chains(self, batch: Call) -> "Chains":
        """Chains of one batch."""

        def start(count: int) -> Tensor:
            return self.start(batch, count)

        return chains_along(self.over(batch), start, self.num_chains)

    def over(self, call: Call) -> Path:
        """The path for one batch."""
        chains = max(1, self.at_a_time // len(call))

        def look(z: Tensor) -> _Place:
            densities = []
            for some in z.split(chains):
                if self.progress is not None:
                    self.progress(some.shape[:2].numel())
                densities.append(self.densities(call.args, call.kwargs, some)[0])
            if len(densities) == 1:
                return _Place(z, *densities[0])
            return _Place(z, *map(torch.cat, zip(*densities, strict=True)))

        return Path(look, self.betas, self.leapfrogs, adaptive=self.adaptive)


def path_from(
    density: Density, block: Call, modes: Modes, betas: Tensor, leapfrogs: int
) -> Path:
    """The path of a block of data from Gaussians fitted to their posterior, counted in widths of the heaviest of them.

    In these widths the posterior is nearly round, so that a few steps of a move go through it.
    """
    volume = modes.log_volume

    def look(u: Tensor) -> _Place:
        z = modes.placed(u)
        start, start_slope = modes.log_prob_and_gradient(z)
        joint, slope = density.slope(block, z)
        slopes = modes.turned(start_slope), modes.turned(slope)
        return _Place(u, start + volume, joint + volume, *slopes)

    return Path(look, betas, leapfrogs, adaptive=True)


@torch.no_grad()
def annealed_from(
    density: Density,
    call: Call,
    modes: Modes,
    *,
    num_chains: int,
    num_temperatures: int,
    leapfrogs: int = FEW_LEAPFROGS,
) -> AnnealedEstimate:
    """`log p(x)` by chains from Gaussians fitted to the posterior of each datum."""
    betas = temperatures(num_temperatures, "linear")

    def estimate(index: Tensor) -> AnnealedEstimate:
        some = modes.among(index)
        path = path_from(density, call[index], some, betas, leapfrogs)
        return chains_along(path, partial(counted_draws, some), num_chains).estimate

    results = shared(density.blocks(call), estimate)
    return reduce(operator.add, results).at(slice(len(call)))


def counted_draws(modes: Modes, count: int) -> Tensor:
    """Draws of modes, in their own widths."""
    return modes.counted(modes.sample(count))


def _bytes_of_chains(num_chains: int, size: int) -> int:
    """Memory for the places of the chains of a single datum, whose latents are so many numbers."""
    return num_chains * COPIES * (3 * size + 2) * 8


def bytes_of_data(n: int, shape: Sequence[int]) -> int:
    """Memory for so many simulated data."""
    return 8 * n * math.prod(shape)


def template(model: Program, n: int, x: Any) -> Any:
    """Some rows to call a model with, whose values do not matter."""
    likelihood = getattr(model, "likelihood", None)
    conditional = context_of(model) > classes_of(model)
    if x is None and likelihood is not None and not conditional:
        numbers = [*model.parameters(), *model.buffers()]  # type: ignore[attr-defined]
        like = next((n for n in numbers if n.is_floating_point()), torch.zeros(()))
        require(bytes_of_data(n, likelihood.shape), f"simulating n={n} data", "n")
        return like.new_zeros(n, *likelihood.shape)
    if x is None:
        raise InputError(
            f"data are simulated in the place of some that the model is called with: give x, of {n} rows or more"
        )
    rows = as_data(model, x)
    if len(rows) < n:
        raise InputError(
            f"n={n} data are simulated in the place of x, which has {len(rows)} rows"
        )
    return rows


class _Seeing(Around):
    """A guide that is called as an `Observing` model is, and sees what was simulated in the place of x."""

    def forward(self, x: Any, *args: Any, observed: Observed, **kwargs: Any) -> Any:
        values = [value.movedim(0, axis) for value, axis in observed.values()]
        seen, c = fields_of(x) if is_own(self.program) else (x, None)
        if (
            not isinstance(seen, Tensor)
            or len(values) != 1
            or values[0].shape != seen.shape
        ):
            raise InputError(
                "what the guide sees of simulated data is not known where x is not all that the model observes; "
                "anneal from the prior instead"
            )
        return self.program(
            values[0] if c is None else {"x": values[0], "c": c}, *args, **kwargs
        )


def _computes(guide: Program, call: Call) -> bool:
    """Whether a guide has a latent that is a function of other draws, or always the same."""
    return any(is_point(site["fn"]) for site in run_of(guide, call).values())


class Chains(NamedTuple):
    """What chains of one batch came to.

    Attributes:
        estimate: of `log p(x)`.
        path: that they took.
        log_w: their weights, `(C, B)`.
        ends: where they ended, in the reals of the path, `(C, B, D)`.
    """

    estimate: AnnealedEstimate
    path: Path
    log_w: Tensor
    ends: Tensor

    def resampled(self) -> Tensor:
        """Ends drawn by their weights, `(C, B, D)`: nearly draws of the posterior."""
        which = torch.distributions.Categorical(logits=self.log_w.T.nan_to_num(-1e300))
        index = which.sample((len(self.ends),))
        return self.ends.gather(0, index.unsqueeze(-1).expand_as(self.ends))


def chains_along(path: Path, start: Callable[[int], Tensor], count: int) -> Chains:
    """So many chains along a path, from draws of its start, after as many again for two have tuned it."""
    path.tune(start(_tuning(count)))
    log_w, accepted, ends = path.follow(start(count))
    columns = (*_estimate(log_w), accepted)
    estimate = AnnealedEstimate(*columns, count, len(path.betas) - 1)
    return Chains(estimate, path, log_w, ends)


def upper_bound(path: Path, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`-log 1/C sum 1/w` of chains back from posterior draws, its standard error, and the ESS of `1/w`, `(B,)` each."""
    log_w, *_ = path.follow(draws, back=True)
    value, error, ess, _ = _estimate(-log_w)
    return -value, error, ess


def _sandwich(paths: Paths, batch: Call, exact: Tensor) -> Sandwich:
    """Both bounds of one batch, with `exact` posterior draws, `(1, batch, D)`."""
    chains = paths.chains(batch)
    draws = exact.expand(paths.num_chains, -1, -1)
    upper, error, _ = upper_bound(chains.path, draws)
    return Sandwich(chains.estimate, upper, error)


@checked
@torch.no_grad()
def annealed_importance_sampling(
    model: Program,
    x: Any,
    *args: Any,
    guide: Program | None = None,
    num_chains: Number = 16,
    num_temperatures: Temperatures = 500,
    leapfrogs: Number = 10,
    schedule: str = "adaptive",
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> AnnealedEstimate:
    """Estimate `log p(x)` of each datum by chains from the prior, or the guide, to the posterior.

    `w = prod_t (p(x, z_t) / start(z_t))^(beta_t - beta_t-1)`; between the factors `z` moves by Hamiltonian Monte Carlo
    that leaves `start^(1 - beta_t) p(x, z)^beta_t` as it is. `E[w] = p(x)` whatever the moves; the longer the path, the
    less the weights vary. Step sizes are tuned for each temperature and datum by chains of their own and then kept.

    All latents of a datum move together, as one vector of reals; latents of few values are summed out.

    Args:
        model: any Pyro model with a data plate, called with a batch of data, and differentiable in its latents;
            of a pair it is the model.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what the model is called with beside a batch of x; tensors of N rows are cut along with it.
        guide: start from its draws instead of from the prior's; it draws the same latents.
        num_chains: C for each datum.
        num_temperatures: T steps from the start to the posterior.
        leapfrogs: of each move.
        schedule: `'sigmoid'` or `'linear'`, see `temperatures`, or `'adaptive'`: the chains that tune the steps say for
            each datum where temperatures have to be dense, so that `log w` varies as much between any two.
        memory: bytes to keep within, beside the data and the networks.
        compile: evaluate the densities by a compiled graph, as in `log_marginal`.
        progress: called with the number of gradients of `log p(x, z)` asked for since its last call, of
            `gradients_per_datum` for each datum.
        **kwargs: what the model is called with by name, cut as `args`.

    Returns:
        An `AnnealedEstimate` with N values and their errors.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a guide that is a point or computes
            its latents from other draws, for numbers below 1; for a model without latents that are reals or of few
            values.

    Source: Neal 2001, Annealed Importance Sampling; Wu, Burda, Salakhutdinov & Grosse 2017, On the Quantitative
    Analysis of Decoder-Based Generative Models.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> annealed_importance_sampling(vae.model, torch.ones(3, 4), num_chains=4, num_temperatures=10).values.shape
    torch.Size([3])
    """
    model = model_of(model)
    data = Call.of(model, x, args, kwargs)
    betas = temperatures(num_temperatures, schedule)
    with running(model, guide), pyro.validation_enabled(False):
        whole = called_whole(nothing if guide is None else guide, model, data)
        first = data[: len(data) if whole else 1]
        paths = Paths(
            model,
            guide,
            first,
            betas,
            num_chains=num_chains,
            leapfrogs=leapfrogs,
            adaptive=schedule == "adaptive",
            memory=memory,
            progress=progress,
        )
        paths.prepare(first, len(data), compile)
        at_a_time = len(data) if whole else paths.batch_size()
        estimates = data.each(at_a_time, lambda batch: paths.chains(batch).estimate)
        return reduce(operator.add, estimates)


@checked
@torch.no_grad()
def bidirectional_monte_carlo(
    model: Program,
    n: Number = 50,
    x: Any = None,
    *args: Any,
    guide: Program | None = None,
    num_chains: Number = 16,
    num_temperatures: Temperatures = 500,
    leapfrogs: Number = 10,
    schedule: str = "adaptive",
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> Sandwich:
    """Bounds on `log p(x)` from both sides for `n` data simulated from the model: how far the schedule can be trusted.

    A datum drawn together with its latent has an exact posterior draw, so chains can be run backwards too, and the
    reciprocal of their weights is unbiased for `1 / p(x)`. If the gap is small, annealing with the same settings is
    accurate for data like those that the model makes.

    Args:
        model: as in `annealed_importance_sampling`.
        n: data to simulate.
        x: data to call the model with, in place of which data are simulated: at least n rows. A model of this package
            needs none.
        *args: what the model is called with beside these.
        guide: as there.
        num_chains: as there.
        num_temperatures: as there.
        leapfrogs: as there.
        schedule: as there.
        memory: as there.
        compile: as there.
        progress: as there; chains run two `ways` here.
        **kwargs: what the model is called with by name.

    Raises:
        InputError: as there, and for an `x` of fewer than n rows.

    Source: Grosse, Ghahramani & Adams 2015, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo.
    """
    model = model_of(model)
    betas = temperatures(num_temperatures, schedule)
    bounds: list[Sandwich] = []
    with running(model, guide), pyro.validation_enabled(False):
        data = Call(template(model, n, x), args, kwargs)[:n]
        observing = Observing(model)
        seen = None if guide is None else _Seeing(guide)
        paths: Paths | None = None
        for simulated in data.batches(None, min(n, SIMULATED)):
            latents, observed = simulate(model, simulated)
            call = simulated.named(observed=observed)
            if paths is None:
                paths = Paths(
                    observing,
                    seen,
                    call[:1],
                    betas,
                    num_chains=num_chains,
                    leapfrogs=leapfrogs,
                    adaptive=schedule == "adaptive",
                    memory=memory,
                    progress=progress,
                )
                paths.prepare(call[:1], n, compile, ways=2)
            size = paths.batch_size()
            exact = paths.flat.vector(latents).split(size, 1)
            for z, batch in zip(exact, call.batches(None, size), strict=True):
                bounds.append(_sandwich(paths, batch, z))
    return reduce(operator.add, bounds)


class Annealing(Question):
    """Chains from the prior, or the guide, to the posterior: what the two questions to them share.

    Args:
        chains: for each datum.
        temperatures: steps from the start to the posterior.
        start: where chains start; those from the guide miss what the guide misses.
        schedule: of temperatures; the sigmoid has more of them at both ends, an adaptive one where a datum needs them.
    """

    def __init__(
        self,
        *,
        chains: Number = 16,
        temperatures: Temperatures = 500,
        start: Literal["prior", "guide"] = "prior",
        schedule: Literal["adaptive", "sigmoid", "linear"] = "adaptive",
    ) -> None:
        self.chains, self.temperatures = chains, temperatures
        self.settings = {"schedule": schedule, "start": start}

    def check(self, run: Trained, data: Evaluated) -> None:
        few = a_few(run, data)
        with forked_random():
            self.rehearse(run, few, self.path(run, data) | REHEARSAL)
        with running(run.vae.model), forked_random():
            size = Flat(run.vae.model, few).size
        self.afford(_bytes_of_chains(self.chains, size), "chains")

    @abstractmethod
    def rehearse(self, run: Trained, few: Call, path: dict[str, Any]) -> None:
        """Ask with the shortest of paths: what it refuses, it refuses whatever the numbers."""

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

    def rehearse(self, run: Trained, few: Call, path: dict[str, Any]) -> None:
        annealed_importance_sampling(run.vae.model, few.data, **path)

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
        schedule: Literal["adaptive", "sigmoid", "linear"] = "adaptive",
    ) -> None:
        super().__init__(
            chains=chains, temperatures=temperatures, start=start, schedule=schedule
        )
        self.n = n

    def check(self, run: Trained, data: Evaluated) -> None:
        super().check(run, data)
        self.afford(bytes_of_data(self.n, run.vae.model.likelihood.shape), "n")

    def rehearse(self, run: Trained, few: Call, path: dict[str, Any]) -> None:
        template = few.data if context_of(run.vae.model) else None
        bidirectional_monte_carlo(run.vae.model, 1, template, **path)

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        total = self.n * gradients_per_datum(self.chains, self.temperatures, ways=2)
        model, template = run.vae.model, None
        if context_of(
            model
        ):  # data are simulated under the conditions of those that there are
            template = data.x[torch.arange(self.n) % len(data)]
        with progress("gradients", total) as done:
            sandwich = bidirectional_monte_carlo(
                model, self.n, template, progress=done, **self.path(run, data)
            )
        return sandwich.answer().plus(numbers=self.settings)
