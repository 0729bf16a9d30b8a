"""Bounds on log p(x) of real data from both sides."""

import math
import operator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Annotated, Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data.inputs import Call
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.annealing import (
    FEW_LEAPFROGS,
    PRIOR_LEAPFROGS,
    Chains,
    Path,
    Paths,
    chains_along,
    counted_draws,
    gradients_per_datum,
    path_from,
    temperatures,
    upper_bound,
)
from pyro_vae.evaluation.modes import DRAWS, Density, Fit, Modes, can_fit
from pyro_vae.evaluation.question import (
    DISTINCT,
    MATTERS,
    Answer,
    Drawing,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Shards,
    Tick,
    Trained,
    student,
    unseen,
)
from pyro_vae.evaluation.weighting import a_few
from pyro_vae.foundation.abstract import forked_random, running
from pyro_vae.foundation.checks import Number, at_least, checked, takes
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import called_whole
from pyro_vae.inference.pairs import pair_of

STEPS = 100  # of a climb to the mode of a posterior
USUAL_SIZE = 100  # reals of a datum, for what a bracket costs
LEVEL = 0.999  # of the bracket of a datum
MOVES = 30  # of draws of the posterior, after which they are taken for such
TIGHT = 0.3  # nats between the bounds of a datum, up to which it is certified
FEWEST = 5  # data that are asked about unasked
SHARE = 0.5  # of the draws of an evaluation, as gradients, that may be spent unasked
MEANINGS = {
    "lower bound": "by chains from fits to the posterior",
    "upper bound": "by chains back from draws of the posterior",
    "gap": "how far either can be off, on average",
}


@dataclass(frozen=True)
class Bracketed(Shards, Printed):
    """Bounds on `log p(x)` of N data from both sides, `E[lower] <= log p(x) <= E[upper]`; nats, all `(N,)`.

    The upper bound is one as far as its draws are those of the posterior: they come from two places, from fits to it
    and from the prior, and `apart` says how far the bounds by both differ.

    Attributes:
        lower, lower_errors: by annealing from Gaussians fitted to the posterior; Monte-Carlo standard errors.
        upper, upper_errors: by annealing back from draws of the posterior.
        apart: the upper bound by draws that came from the prior, minus that by those that came from the fits.
        missed: whether there are modes that were not fitted, since chains from the prior find clearly more than those
            from fits, or since there are too many; both bounds are by chains from the prior there; booleans.
        ess: effective number of chains of the lower bound.

    Results over shards of data add up.
    """

    lower: Tensor
    lower_errors: Tensor
    upper: Tensor
    upper_errors: Tensor
    apart: Tensor
    missed: Tensor
    ess: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def sound(self) -> Tensor:
        """Between which data both bounds are finite, `(N,)` booleans; the means are over these."""
        return self.lower.isfinite() & self.upper.isfinite()

    @property
    def gap(self) -> Tensor:
        """`upper - lower`."""
        return self.upper - self.lower

    def bounds(self, level: float = LEVEL) -> Tensor:
        """For each datum where `log p(x)` lies, with the noise of both bounds, `(N, 2)`.

        The noise is that of few chains, whose weights are skew: of linear models, and of others with two to 64 modes,
        intervals at 0.999 held all of 1,500 data.

        Raises:
            InputError: for a level that is not between 0 and 1.
        """
        reach = student(self.ess - 1, level)
        low = self.lower - reach * self.lower_errors
        return torch.stack([low, self.upper + reach * self.upper_errors], -1)

    @property
    def certified(self) -> Tensor:
        """Of which data the bounds are within 0.3 nats, `(N,)` booleans."""
        return self.sound & (self.gap.abs() < TIGHT)

    @property
    def rows(self) -> dict[str, PerDatum]:
        """Both bounds and the gap between them, of the `sound` data."""
        noise = (self.lower_errors.square() + self.upper_errors.square()).sqrt()
        columns = {
            "lower bound": PerDatum(self.lower, self.lower_errors),
            "upper bound": PerDatum(self.upper, self.upper_errors),
            "gap": PerDatum(self.gap, noise),
        }
        return {name: column.among(self.sound) for name, column in columns.items()}

    def answer(self) -> Answer:
        """The bounds, and what their gap says."""
        if not self.sound.any():
            nothing = f"None of {len(self)} data has finite bounds."
            return Answer("log p(x) from both sides", sentences=[nothing])
        rows, n = self.rows, len(self)
        low, high = rows["lower bound"], rows["upper bound"]
        lost, missed = n - int(self.sound.sum()), int((self.missed & self.sound).sum())
        apart = self.apart[self.sound]
        warnings = []
        if missed:
            warnings.append(
                f"for {missed} of {n} data the posterior has modes that fits to it do not hold: numbers that weigh "
                "draws of the guide or of fits may be too low"
            )
        return Answer(
            title="log p(x) from both sides",
            about=f"{n} data",
            rows=rows,
            meanings=MEANINGS,
            sentences=[
                f"On these data log p(x) lies between {low.mean:.3f} ± {low.monte_carlo_standard_error:.3f} and "
                f"{high.mean:.3f} ± {high.monte_carlo_standard_error:.3f} nats; the bounds of "
                f"{int(self.certified.sum())} of {n} are within {TIGHT} nats of each other.",
                "The upper bounds by draws of the posterior that came from the prior and from fits differ by "
                f"{apart.median():.3f} in the median and {apart.abs().max():.3f} at most.",
                *([f"{lost} of {n} data have no finite bounds."] if lost else []),
            ],
            warnings=warnings,
            figures={"bracket": self._figure(low.mean, high.mean)},
            numbers={
                "data": n,
                "certified": int(self.certified.sum()),
                "missed": missed,
                "apart": apart.median().item(),
            },
        )

    def _figure(self, low: float, high: float) -> Drawing:
        """The bounds of each datum, drawn; their means in words."""
        from pyro_vae import plots

        bounds = torch.stack([self.lower, self.upper], -1)[self.sound]
        make = partial(plots.brackets, bounds, self.bounds()[self.sound], TIGHT)
        return Drawing(
            make,
            f"Bounds on log p(x) of {len(bounds)} data from both sides, about their middle; on average {low:.3f} and "
            f"{high:.3f} nats.",
        )


@checked
@torch.no_grad()
def log_marginal_bracket(
    pair: Any,
    x: Any,
    *args: Any,
    num_chains: Annotated[int, at_least(4), takes(64)] = 16,
    num_temperatures: Annotated[int, at_least(1), takes(64)] = 64,
    prior_temperatures: Annotated[int, at_least(1), takes(64)] = 300,
    steps: Number = STEPS,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> Bracketed:
    """Bounds on `log p(x)` of each datum from both sides.

    Lower: annealed importance sampling from Gaussians fitted to the posterior. Upper: from a draw of the posterior
    chains run back to the fits, `E[1 / w] = 1 / p(x)`. Such draws are not to be had exactly. Half of them are the ends
    of the chains from the fits, the other half those of chains from the prior; both are drawn again by their weights
    and moved on for 30 moves. Where the two halves give one bound, and chains from the prior find no more than those
    from the fits, it is taken for one. Where they find more, or climbs from their ends lead to modes without a fit,
    both bounds are by chains between prior and posterior.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        num_chains: C of each kind, for each datum.
        num_temperatures: between the fits and the posterior.
        prior_temperatures: between the prior and the posterior.
        steps: of the climb to the posterior's mode.
        memory: bytes to keep within, beside the data and the networks.
        compile: as in `log_marginal`.
        progress: called with the number of gradients since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        The `Bracketed`, in nats.

    Raises:
        InputError: as `annealed_importance_sampling`, for a pair that is called with all of its data at once, or whose
            guide does not draw all latents, or for more than 256 of these.

    Source: Grosse, Ghahramani & Adams 2015, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (with
    exact draws); Grosse, Ancha & Roy 2016, Measuring the Reliability of MCMC Inference with Bidirectional Monte Carlo
    (with approximate ones).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> found = log_marginal_bracket(vae, torch.eye(4), prior_temperatures=60)
    >>> bool(found.gap.abs().max() < 0.5)
    True
    """
    model, guide = pair_of(pair)
    data = Call.of(model, x, args, kwargs).once()
    with running(model, guide), pyro.validation_enabled(False):
        check_bracket(model, guide, data)
        gradients = len(data) * price(
            steps, USUAL_SIZE, num_chains, num_temperatures, prior_temperatures
        )
        options: dict[str, Any] = {"memory": memory, "progress": progress}
        density = Density(model, data, compile=compile, gradients=gradients, **options)
        from_prior = Paths(
            model,
            None,
            data[:1],
            temperatures(prior_temperatures),
            num_chains=num_chains,
            leapfrogs=PRIOR_LEAPFROGS,
            adaptive=True,
            **options,
        )
        from_prior.prepare(data[:1], len(data), compile is True)
        fit = Fit(density, guide, steps)
        betas = temperatures(num_temperatures, "linear")
        results = []
        for index in density.blocks(data):
            block = data[index]
            modes = fit.find(block)
            far = from_prior.chains(block)
            modes = modes.without(fit.elsewhere(block, modes, far.ends))
            path = path_from(density, block, modes, betas, FEW_LEAPFROGS)
            own = chains_along(path, partial(counted_draws, modes), num_chains)
            results.append(_bracketed(own, far, modes))
    return reduce(operator.add, results).at(slice(len(data)))


def _bracketed(own: Chains, other: Chains, modes: Modes) -> Bracketed:
    """The bounds of a block by chains from fits, and by others from the prior.

    Args:
        own: in widths of the heaviest mode.
        other: in the reals of the latents.
        modes: of the block.
    """
    first, second = own.estimate, other.estimate
    reach = [student(e.ess - 1, LEVEL) * e.standard_errors for e in (first, second)]
    noise = reach[0].hypot(reach[1])
    more = second.values - first.values > noise.clamp_min(MATTERS)
    missed = more | ~modes.settled.cpu()
    lower = first.values.where(~missed, second.values)
    lower_errors = first.standard_errors.where(~missed, second.standard_errors)
    ess = first.ess.where(~missed, second.ess)

    # Chains back to the fits, from draws of the posterior that both kinds of chains came to.
    near, near_errors = _upper(own.path, own.resampled())
    far, far_errors = _upper(own.path, modes.counted(other.resampled()))
    halves = torch.stack([-near, -far])
    upper = math.log(2) - halves.logsumexp(0)
    shares = halves.softmax(0)
    upper_errors = (shares[0] * near_errors).hypot(shares[1] * far_errors)

    # Where these do not hold all modes, chains back to the prior.
    if missed.any():
        whole, whole_errors = _upper(other.path, other.resampled())
        upper = upper.where(~missed, whole)
        upper_errors = upper_errors.where(~missed, whole_errors)
    return Bracketed(lower, lower_errors, upper, upper_errors, far - near, missed, ess)


def _upper(path: Path, draws: Tensor) -> tuple[Tensor, Tensor]:
    """The upper bound by chains back from draws that are moved on before, and its errors."""
    upper, errors, _ = upper_bound(path, _moved(path, draws))
    return upper.cpu(), errors.cpu()


def _moved(path: Path, draws: Tensor) -> Tensor:
    """Draws after some moves that keep the posterior, with the steps of the last temperature."""
    if len(path.steps) == 0:
        return draws
    one = torch.ones_like(path.betas[-1])
    place = path.look(draws)
    for _ in range(MOVES):
        place, _ = path.move(place, one, path.steps[-1])
    return place.z


def price(
    steps: int, size: int, chains: int, temperatures: int, prior_temperatures: int
) -> int:
    """How many gradients of `log p(x, z)` the bracket of a datum takes, whose latents are so many reals."""
    near = gradients_per_datum(chains, temperatures, FEW_LEAPFROGS, ways=3)
    far = gradients_per_datum(chains, prior_temperatures, PRIOR_LEAPFROGS)
    moves = 2 * chains * (1 + MOVES * FEW_LEAPFROGS)
    climbs = chains * steps + DRAWS
    return Fit.price(steps, size) + near + far + moves + climbs


def check_bracket(model: Any, guide: Any, data: Call) -> None:
    """Raise `InputError` for a pair to whose posteriors nothing can be fitted."""
    if called_whole(model, guide, data):
        raise InputError(
            "the pair is called with all of its data at once, and bounds from both sides are found for some at a time"
        )
    if not getattr(guide, "has_density", True):
        raise InputError(
            "the guide is a point for each datum, and its draws tell nothing of the posterior; take one with a density"
        )
    if not can_fit(model, guide, data[:1]):
        raise InputError(
            "bounds from both sides need a posterior of at most 256 reals that the guide draws, which this pair does "
            "not have"
        )


def usual_bracket(run: Trained, data: Evaluated) -> "Bracket | None":
    """What is asked unasked, of as many data as half of the draws pay for; `None` where these are too few."""
    question = Bracket()
    temperatures = question.temperatures, question.prior_temperatures
    each = price(STEPS, USUAL_SIZE, question.chains, *temperatures)
    affordable = int(SHARE * len(data) * data.num_particles / each)
    question.n = min(question.n, affordable, len(data))
    if question.n < FEWEST:
        return None
    try:
        question.check(run, data)
    except InputError:
        return None
    question.unasked = True
    return question


class Bracket(Question):
    """Bounds on log p(x) from both sides, on a few of the data: how far the number can be trusted.

    Args:
        n: how many of the data, spread evenly.
        chains: of each kind, for each datum.
        temperatures: between fits to the posterior and the posterior.
        prior_temperatures: between the prior and the posterior.
    """

    def __init__(
        self,
        *,
        n: Number = 20,
        chains: Annotated[int, at_least(4), takes(64)] = 16,
        temperatures: Annotated[int, at_least(1), takes(64)] = 64,
        prior_temperatures: Annotated[int, at_least(1), takes(64)] = 300,
    ) -> None:
        self.n, self.chains = n, chains
        self.temperatures, self.prior_temperatures = temperatures, prior_temperatures

    def check(self, run: Trained, data: Evaluated) -> None:
        few = a_few(run, data)
        with running(run.vae.model, run.vae.guide), forked_random():
            check_bracket(run.vae.model, run.vae.guide, few)

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        few, places = data.some(self.n)
        options: dict[str, Any] = {
            "num_chains": self.chains,
            "num_temperatures": self.temperatures,
            "prior_temperatures": self.prior_temperatures,
        }
        with progress("gradients", None) as done:
            found = log_marginal_bracket(
                run.vae, few, memory=data.memory, progress=done, **options
            )
        columns = {}
        for name, value in (("lower", found.lower), ("upper", found.upper)):
            column = torch.full((len(data),), math.nan, dtype=torch.float64)
            column[places] = value.double()
            columns[name] = column
        told, numbers = self._beside(found, data, places)
        return found.answer().plus(sentences=told, columns=columns, numbers=numbers)

    @staticmethod
    def _beside(
        found: Bracketed, data: Evaluated, places: Tensor
    ) -> tuple[list[str], dict[str, float]]:
        """What the bounds say of the number above, by the same data."""
        marginal = data.log_marginal
        if marginal is None or marginal.standard_errors is None:
            return [], {}
        errors = found.lower_errors.hypot(marginal.standard_errors[places])
        short = PerDatum(found.lower - marginal.values[places], errors)
        short = short.among(found.sound)
        if not short.sound.any():
            return [], {}
        mean = short.mean
        known = (short.data_standard_error, short.monte_carlo_standard_error)
        error = max((e for e in known if not math.isnan(e)), default=0.0)
        numbers = {"short": mean, "short_error": error}
        if mean < max(MATTERS, DISTINCT * error):
            sentence = (
                f"The lower bound minus the number above, of these data: {mean:.3f} ± {error:.3f} nats. The number is "
                "not found to be too low."
            )
            return [sentence], numbers
        sentence = (
            f"The number above, of these data, lies {mean:.3f} ± {error:.3f} nats below their lower bound: that of all "
            "data is too low by about as much."
        )
        return [sentence], numbers
