"""Importance weighting that spends its draws on the data that need them, and annealing for what is left."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.data.inputs import Call, as_data, once
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.annealing import (
    FEW_LEAPFROGS,
    PRIOR_LEAPFROGS,
    AnnealedEstimate,
    annealable,
    annealed_from,
    annealed_importance_sampling,
    gradients_per_datum,
)
from pyro_vae.evaluation.modes import (
    Density,
    Fit,
    Modes,
    bytes_of_modes,
    can_fit,
    weighted_from,
)
from pyro_vae.evaluation.question import Answer, Evaluated, Tick, Trained
from pyro_vae.evaluation.results import PARETO_LIMIT, PARTS, LogMarginal
from pyro_vae.evaluation.weighting import Weighted, Weighting, holds, weighted
from pyro_vae.foundation.abstract import forked_random, running
from pyro_vae.foundation.checks import (
    MOST,
    Number,
    at_least,
    at_most,
    checked,
    takes,
)
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import called_whole, scored
from pyro_vae.inference.pairs import pair_of
from pyro_vae.inference.particles import Program

GROWTH = 4  # from one round to the next
ROUNDS = 5  # at most, where a standard error is asked of fits
FORESEEN = 5000  # gradients of a hard datum, for the choice whether to compile
PILOT = 5  # times as many draws make a value as a pilot
ENOUGH = 1000  # draws of a value whose own tail is looked at
LEAST_PILOT = 500  # fewer draws say little of their tail
ROADS = ("guide", "more draws", "refined", "annealed")
GUIDE, MORE, REFINED, ANNEALED = range(len(ROADS))
LEAST_CHAINS = 25  # fewer have no Pareto k
HINT = 0.05  # of the weight in draws of the prior, where a few draws carry it
MARGIN = 0.1  # of a pilot's Pareto k
OF_GUIDE = (
    0.2  # of that of the guide, to which there is something better that costs little
)
EFFECTIVE_CHAINS = (
    10  # of an annealed datum that is believed: a standard error of about 0.3 nats
)
FEW_TEMPERATURES = 64  # from Gaussians fitted to the posterior, at first

Chains = Callable[[Tensor], LogMarginal]  # of rows by their places
Pair = tuple[Program, Program]
Sizes = tuple[int, int, int]


class Judge(NamedTuple):
    """What makes a value doubtful.

    Attributes:
        limit: of Pareto k.
        standard_error: limit of the Monte-Carlo standard error; `None`: any.
    """

    limit: float
    standard_error: float | None

    def bad(self, r: LogMarginal) -> Tensor:
        """Which data of a result are doubtful."""
        doubtful = ~(r.pareto_k <= self.limit)
        if self.standard_error is None:
            return doubtful
        return doubtful | ~(r.standard_errors <= self.standard_error)

    def shaky(self, pilot: LogMarginal, margin: float = MARGIN) -> Tensor:
        """Which data of a pilot have a Pareto k that is bad, or so near to it that the value's may be."""
        return ~(pilot.pareto_k + margin <= self.limit)

    def needed(self, pilot: LogMarginal, count: int) -> Tensor:
        """How many draws values need, by a pilot: `count`, or four times as many, and so on."""
        if self.standard_error is None:
            return torch.full((len(pilot),), count)
        ratio = pilot.standard_errors / self.standard_error
        times = (ratio.square() * pilot.particles / count).nan_to_num(1.0)
        rounds = times.clamp(1, GROWTH**ROUNDS).log() / math.log(GROWTH)
        return count * GROWTH ** rounds.ceil().long()

    def __str__(self) -> str:
        words = (
            f"Pareto k above {self.limit} or fewer than {EFFECTIVE_CHAINS} "
            "effective chains"
        )
        if self.standard_error is not None:
            words += f" or a standard error above {self.standard_error}"
        return words


@dataclass(frozen=True)
class Effort:
    """How `log_marginal_adaptive` spent its draws, and on whom.

    Attributes:
        road: which way each datum took, `(N,)` indices into `ROADS`: the guide's own draws, more of these, draws from
            Gaussians fitted to its posterior, or annealing.
        unaffordable: which were bad by the pilot and are left to the guide's own draws all the same, because nothing of
            the budgets was left or, without draws, annealing did no better; `(N,)` booleans.
        doubtful: which are bad in the end, by the draws or chains that make their values, `(N,)` booleans.
        draws: importance draws spent on all data.
        budget: how many were allowed.
        gradients: of `log p(x, z)`, spent on fits and on annealing.
        annealing: how many were allowed.
        bad: what that means, in words.
    """

    road: Tensor
    unaffordable: Tensor
    doubtful: Tensor
    draws: int
    budget: int
    gradients: int
    annealing: int
    bad: str

    def took(self, road: str) -> Tensor:
        """Which data took one of the `ROADS`, `(N,)` booleans."""
        return self.road == ROADS.index(road)

    @property
    def roads(self) -> dict[str, int]:
        """How many data took each of the `ROADS`."""
        return {road: int(self.took(road).sum()) for road in ROADS}

    def __str__(self) -> str:
        guide, more, refined, annealed = self.roads.values()
        beyond = int(self.unaffordable.sum())
        needed = f" ({beyond} of them beyond the budget)" if beyond else ""
        return (
            f"{guide} of {len(self.road)} data were left to the guide's own draws{needed}, {more} took more of them, "
            f"{refined} draws of Gaussians fitted to p(z|x), {annealed} annealed chains; {int(self.doubtful.sum())} "
            f"stay doubtful ({self.bad}). {self.draws} of {self.budget} draws and {self.gradients} of {self.annealing} "
            "gradients were spent."
        )


@checked
def log_marginal_adaptive(
    pair: Any,
    x: Any,
    *args: Any,
    num_particles: Number = 5000,
    budget: int | None = None,
    pilot: Number | None = None,
    limit: float = PARETO_LIMIT,
    standard_error: float | None = None,
    steps: Number = 100,
    num_chains: Annotated[int, at_least(LEAST_CHAINS), at_most(MOST)] = 32,
    num_temperatures: Annotated[int, at_least(1), takes(64)] = 300,
    annealing: int | None = None,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> tuple[LogMarginal, Effort]:
    """`log_marginal` that spends draws where they are needed, and anneals where draws do not help.

    A pilot from the guide, of a fifth of the draws, chooses the road of each datum. To the posterior of one with a bad
    Pareto k a Gaussian is fitted: a climb from the guide's mean finds its mode, differences of gradients there its
    curvature, climbs from the prior other modes, each of which gets a Gaussian of its own. The value comes from draws
    of this mixture, a tenth of them from the prior instead; where a pilot of them is bad again, from chains that are
    annealed from it. Where it has so many modes that they cannot be counted, or draws of the prior find one that the
    climbs did not, chains are annealed from the prior. Of
    latents to which nothing can be fitted, such as those of a discrete guide, four times the draws are taken, and as
    many again, and then they are annealed from the prior, if they are reals. Where the budget does not suffice for all,
    the worst come first.

    All values come from fresh draws or chains. The pilot's would not do: data are bad where a large weight was drawn
    and good where it was missed, so that to replace the bad alone pushes the mean down. A pilot is good only where its
    Pareto k is 0.1 below the limit, since that of the value differs from it by about as much, and one of the guide 0.2.
    From 1,000 draws on the guide's values are looked at too, and those that are bad take another road: this costs the
    mean less than a hundredth of a nat, and saves nats of the data whose pilot looked good by chance.

    A mode that neither the guide nor any climb has found leaves no trace: `annealed_importance_sampling` for all data
    is the check.

    The value of an annealed datum is the log of the mean weight of its chains, so its columns `standard_errors`, `ess`
    and `pareto_k` mean the same, with chains for particles; `num_particles` of it is the number of chains. Below 10
    effective chains its Pareto k is set to `inf`: too few to tell. So it is where modes were not counted. `elbo` and
    its parts, and the curve, are always those of the guide.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        num_particles: draws for the value of each datum that is not annealed.
        budget: importance draws for all data, pilots and values together; by default 10 N `num_particles`.
        pilot: draws for each datum in a pilot; by default a fifth of `num_particles`, and at least 500.
        limit: of the Pareto k.
        standard_error: limit of the Monte-Carlo standard error of each datum, in nats; `None`: any.
        steps: of a climb.
        num_chains: annealed for each datum, at least 25.
        num_temperatures: of chains from the prior, and four times as many where these are bad; those from a fit have 64
            and then 256, at most these.
        annealing: gradients of `log p(x, z)` that fits, pilot chains and chains may take, for all data together; by
            default as many as `budget`. 0: nothing is fitted or annealed.
        memory: in bytes, as in `log_marginal`.
        compile: as in `log_marginal`.
        progress: called with the number of draws weighted since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        A `LogMarginal` with N values, each with its own number of particles; and the `Effort`.

    Raises:
        InputError: as `log_marginal`, for a limit that is not positive, for a budget below that of a pilot and a value
            for each datum or a negative one for annealing, for fewer than 25 chains, or for a pair that is called with
            all of its data at once.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling (k above 0.7 calls for
    another proposal, or for many more draws); Hesterberg 1995, Weighted Average Importance Sampling and Defensive
    Mixture Distributions (draws from the prior); Tierney & Kadane 1986, Accurate Approximations for Posterior Moments
    and Marginal Densities (the Gaussian by curvature).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> result, effort = log_marginal_adaptive(vae, torch.eye(4), num_particles=100, steps=5)
    >>> effort.draws <= effort.budget
    True
    """
    usual = max(num_particles // PILOT, min(num_particles, LEAST_PILOT))
    count = usual if pilot is None else pilot
    least = (num_particles + count) * len(x)
    budget = max(10 * num_particles * len(x), least) if budget is None else budget
    annealing = budget if annealing is None else annealing
    for name, number in (("limit", limit), ("standard_error", standard_error)):
        if number is not None and not (isinstance(number, (int, float)) and number > 0):
            raise InputError(f"{name}={number!r} must be positive")
    _check_least("annealing", annealing, 0)
    _check_least("budget", budget, least, ", a pilot and a value for each datum")

    # The pilot says which data are hard; the values of the others come from draws of their own.
    model, guide = pair_of(pair)
    data = Call.of(model, x, args, kwargs).once()
    with running(model, guide):
        if called_whole(model, guide, data):
            scored(model, guide, data[:], 1)  # says what else may be wrong
            raise InputError(
                "the pair is called with all of its data at once, so draws cannot be spent on some of them; take "
                "log_marginal or log_marginal_refined"
            )
    weighing: dict[str, Any] = {
        "memory": memory,
        "compile": compile,
        "progress": progress,
    }
    looked, result = (
        weighted(model, guide, data, num_particles=some, **weighing)
        for some in (count, num_particles)
    )
    judge = Judge(limit, standard_error)
    k = looked.pareto_k
    doubtful = judge.bad(looked) | judge.shaky(looked, OF_GUIDE)
    if num_particles >= ENOUGH:
        doubtful |= judge.bad(result) | judge.shaky(result, OF_GUIDE)
        k = k.maximum(result.pareto_k)
    rows = doubtful.nonzero().flatten()
    left = {"draws": budget - least, "gradients": annealing}
    hard = _Hard(k[rows], judge, **left)
    if len(rows):
        some = data.selected(rows)
        sizes = num_particles, num_chains, num_temperatures
        ways = _Ways(hard, (model, guide), some, sizes, weighing)
        with running(model, guide), torch.no_grad(), pyro.validation_enabled(False):
            ways.take(steps, count)

    # What the hard data came to stands in the place of the guide's own.
    of_guide = {name: getattr(result, name) for name in (*PARTS, "curve")}
    for which, marginal in hard.values:
        result = result.replaced(rows[which], marginal)
    result = replace(result, **of_guide)
    road = torch.zeros(len(data), dtype=torch.long)
    unaffordable = torch.zeros(len(data), dtype=torch.bool)
    road[rows], unaffordable[rows] = hard.road, hard.road == GUIDE
    effort = Effort(
        road,
        unaffordable,
        judge.bad(result),
        budget - hard.draws,
        budget,
        annealing - hard.gradients,
        annealing,
        str(judge),
    )
    return result, effort


class _Hard:
    """The data that the guide's own pilot found bad: what road each of them takes, and what it comes to.

    Args:
        k: their Pareto k by that pilot.
        judge: of what is bad.
        draws, gradients: that are left.
    """

    def __init__(self, k: Tensor, judge: Judge, *, draws: int, gradients: int) -> None:
        self.k, self.judge = k, judge
        self.draws, self.gradients = draws, gradients
        self.road = torch.zeros(len(k), dtype=torch.long)
        self.values: list[tuple[Tensor, LogMarginal]] = []
        self.doubted: list[tuple[Tensor, LogMarginal, int]] = []

    def afford(self, which: Tensor, *, draws: int = 0, gradients: int = 0) -> Tensor:
        """The worst of these, as many as the budgets allow at a price for each, which is paid."""
        most = len(which)
        if draws:
            most = min(most, self.draws // draws)
        if gradients:
            most = min(most, self.gradients // gradients)
        order = self.k[which].nan_to_num(math.inf).argsort(descending=True)
        chosen = which[order[:most]]
        self.draws -= draws * len(chosen)
        self.gradients -= gradients * len(chosen)
        return chosen

    def open(self, which: Tensor) -> Tensor:
        """Those of these that have no value of their own."""
        return which[self.road[which] == GUIDE]

    def settle(
        self, which: Tensor, marginal: LogMarginal, road: int, *, certain: bool = True
    ) -> Tensor:
        """Give these their values; those that are not `certain` and come out bad stay open, and are given back."""
        bad = torch.zeros(len(which), dtype=torch.bool)
        if not certain:
            bad = ~(marginal.pareto_k <= self.judge.limit)
        if bad.any():
            self.doubted.append((which[bad], marginal.at(bad), road))
        if not bad.all():
            self.values.append((which[~bad], marginal.at(~bad)))
            self.road[which[~bad]] = road
        return which[bad]

    def finish(self) -> None:
        """Give those that are still open the last of the values that came out bad."""
        for which, marginal, road in reversed(self.doubted):
            still = self.road[which] == GUIDE
            if still.any():
                self.settle(which[still], marginal.at(still), road)


class _Ways:
    """What can be done about hard data: fits, more draws, and chains.

    Args:
        hard: the data, as they are judged.
        pair: the model and its guide.
        data: the data themselves.
        sizes: draws of a value, chains, and temperatures of chains from the prior.
        weighing: further arguments of `weighted`.
    """

    def __init__(
        self,
        hard: _Hard,
        pair: Pair,
        data: Call,
        sizes: Sizes,
        weighing: dict[str, Any],
    ) -> None:
        self.hard, self.data, self.weighing = hard, data, weighing
        self.model, self.guide = pair
        self.num_particles, self.num_chains, self.num_temperatures = sizes

    def take(self, steps: int, pilot: int) -> None:
        """Fits where they can be had, elsewhere more draws; then chains for what is left."""
        one, hard = self.data[:1], self.hard
        if can_fit(self.model, self.guide, one):
            long_tailed = ~(hard.k + OF_GUIDE <= hard.judge.limit)
            self.fit(long_tailed.nonzero().flatten(), steps, pilot)
        counts, bad = self.draw()
        if annealable(self.model, one):
            self.anneal(bad)
        for count in counts.unique().tolist():
            which = hard.open((counts == count).nonzero().flatten())
            if count and len(which):
                hard.settle(which, self._drawn(which, count), MORE)
        hard.finish()
        # Of those that are annealed the values by draws are not needed.
        hard.draws += int(counts[hard.road == ANNEALED].sum())

    def draw(self) -> tuple[Tensor, Tensor]:
        """How many draws of the guide a value is to have, by rounds of pilots, 0 for the first; and which stay bad."""
        hard, count, saved = self.hard, self.num_particles, 0
        counts = torch.zeros_like(hard.road)
        left = bad = hard.open(torch.arange(len(counts)))
        while len(left) and holds(count * GROWTH, self.weighing["memory"]):
            count *= GROWTH
            # A pilot and a value; of the round before the value is not drawn.
            left = hard.afford(left, draws=2 * count - saved)
            if len(left) == 0:
                break
            found, saved = self._drawn(left, count), count
            counts[left], hard.k[left] = count, found.pareto_k
            good = left[~hard.judge.bad(found)]
            bad = bad[~torch.isin(bad, good)]
            left = left[~torch.isin(left, good)]
        return counts, bad

    def _drawn(self, which: Tensor, count: int) -> LogMarginal:
        some = self.data.selected(which)
        return weighted(
            self.model, self.guide, some, num_particles=count, **self.weighing
        )

    def anneal(self, which: Tensor) -> None:
        """Chains from the prior for these, as far as the budget goes, where pilot chains are good."""
        for count in (self.num_temperatures, GROWTH * self.num_temperatures):
            price = gradients_per_datum(self.num_chains, count, PRIOR_LEAPFROGS)
            left = self.hard.open(which)
            self.anneal_by(left, price, partial(self._from_prior, count))

    def anneal_by(self, which: Tensor, price: int, chains: Chains) -> None:
        """Values by chains for those of these whose pilot chains are good; each run of them costs `price`."""
        chosen = self.hard.afford(which, gradients=2 * price)
        if len(chosen) == 0:
            return
        found, judge = chains(chosen), self.hard.judge
        good = chosen[~(judge.bad(found) | judge.shaky(found))]
        self.hard.gradients += price * (len(chosen) - len(good))
        if len(good):
            self.hard.settle(good, chains(good), ANNEALED, certain=False)

    def _from_prior(self, temperatures: int, which: Tensor) -> LogMarginal:
        some = self.data[which]
        annealed = annealed_importance_sampling(
            self.model,
            some.data,
            *some.more,
            num_chains=self.num_chains,
            num_temperatures=temperatures,
            leapfrogs=PRIOR_LEAPFROGS,
            memory=self.weighing["memory"],
            compile=self.weighing["compile"]
            is True,  # few data, of another number each time
            **some.kwargs,
        )
        return _as_weights(annealed)

    def fit(self, which: Tensor, steps: int, pilot: int) -> None:
        """Values by fits for those of these that the budgets allow them, some at a time."""
        memory = self.weighing["memory"]
        density = Density(
            self.model,
            self.data,
            memory=memory,
            compile=self.weighing["compile"],
            gradients=min(len(which) * FORESEEN, self.hard.gradients),
        )
        size = density.flat.size
        price = {
            "draws": pilot + self.num_particles,
            "gradients": Fit.price(steps, size),
        }
        which = self.hard.afford(which, **price)
        if len(which) == 0:
            return
        for few in which.split(max(1, memory // bytes_of_modes(size))):
            some = self.data.selected(few)
            modes = Fit(density, self.guide, steps).find(some)
            found = weighted_from(density, some, modes, pilot)
            self.hard.k[few] = found.marginal.pareto_k
            hint = self.hard.judge.shaky(found.marginal) & (found.foreign > HINT)
            known = modes.without(found.missed | hint)
            _Fitted(self, few, density, known).take(found.marginal)


class _Fitted:
    """Data with the modes of their posterior, and what these can be used for.

    Args:
        ways: what else can be done about the data.
        which: of the hard data they are.
        density: of the model.
        modes: theirs.
    """

    def __init__(
        self, ways: _Ways, which: Tensor, density: Density, modes: Modes
    ) -> None:
        self.ways, self.hard, self.which = ways, ways.hard, which
        self.density, self.modes = density, modes
        self.place = torch.zeros_like(ways.hard.road)
        self.place[which] = torch.arange(len(which))

    def take(self, pilot: LogMarginal) -> None:
        """Draws where a pilot of them is good; chains where it or they are bad, from the prior where modes are missing.

        What neither makes good keeps its draws.
        """
        hard, ways, settled = self.hard, self.ways, self.modes.settled.cpu()
        shaky = hard.judge.shaky(pilot)
        drawn, rest = self.which[settled & ~shaky], self.which[~settled | shaky]
        bad = self._draw_as_needed(drawn, pilot)
        left = torch.cat([bad, self.which[settled & shaky]])
        ladder = (FEW_TEMPERATURES, GROWTH * FEW_TEMPERATURES)
        for count in sorted({min(most, ways.num_temperatures) for most in ladder}):
            price = gradients_per_datum(ways.num_chains, count, FEW_LEAPFROGS)
            ways.anneal_by(hard.open(left), price, partial(self._annealed, count))
        ways.anneal(self.which[~settled])

        # The draws that were paid for and are not needed, and those that are all there is.
        hard.finish()
        rest, paid = hard.open(rest), len(rest)
        hard.draws += ways.num_particles * (paid - len(rest))
        if len(rest):
            hard.settle(rest, self._drawn(rest, ways.num_particles), REFINED)

    def _draw_as_needed(self, which: Tensor, pilot: LogMarginal) -> Tensor:
        """Values by as many draws of the modes as they need, where the budget has them; those that come out bad."""
        hard, ways = self.hard, self.ways
        needed = hard.judge.needed(pilot, ways.num_particles)[self.place[which]]
        counts = torch.full_like(needed, ways.num_particles)
        for count in needed.unique().tolist():
            wanted = which[needed == count]
            if not holds(count, ways.weighing["memory"]):
                continue
            chosen = hard.afford(wanted, draws=count - ways.num_particles)
            counts[torch.isin(which, chosen)] = count
        lost = [which[:0]]
        for count in counts.unique().tolist():
            some = which[counts == count]
            marginal, certain = self._drawn(some, count), count < ENOUGH
            lost.append(hard.settle(some, marginal, REFINED, certain=certain))
        return torch.cat(lost)

    def _of(self, which: Tensor) -> tuple[Call, Modes]:
        at = self.place[which].to(self.modes.loc.device)
        return self.ways.data.selected(which), self.modes.among(at)

    def _annealed(self, temperatures: int, which: Tensor) -> LogMarginal:
        chains = self.ways.num_chains
        annealed = annealed_from(
            self.density,
            *self._of(which),
            num_chains=chains,
            num_temperatures=temperatures,
        )
        return _as_weights(annealed)

    def _drawn(self, which: Tensor, count: int) -> LogMarginal:
        """Values by so many draws of the modes; they are doubtful where modes are missing."""
        some, modes = self._of(which)
        found = weighted_from(self.density, some, modes, count)
        known = modes.without(found.missed).settled.cpu()
        k = found.marginal.pareto_k.where(known, math.inf)
        return replace(found.marginal, pareto_k=k)


def _check_least(name: str, value: Any, least: int, why: str = "") -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(
            f"{name}={value!r} must be a whole number of at least {least}{why}"
        )


def _as_weights(chains: AnnealedEstimate) -> LogMarginal:
    """Annealed values as those of weights, of which there are as many as chains; they know no ELBO."""
    unknown = torch.full_like(chains.values, math.nan)
    return LogMarginal(
        values=chains.values,
        standard_errors=chains.standard_errors,
        ess=chains.ess,
        pareto_k=chains.pareto_k.masked_fill(chains.ess < EFFECTIVE_CHAINS, math.inf),
        elbo=unknown,
        reconstruction=unknown,
        kl=unknown,
        num_particles=chains.num_chains,
    )


class Adaptive(Weighting):
    """`log p(x)` by weighting that fits Gaussians to the posterior, or anneals, where Pareto k calls for it.

    Args:
        steps: of the climb to the posterior's mode, for each datum that needs it.
        num_particles: draws for each datum; by default those of the evaluation.
    """

    foreseen = False

    def weigh(
        self, run: Trained, data: Evaluated, **options: Any
    ) -> tuple[LogMarginal, Answer]:
        if self.unasked and self._at_once(run, data):
            self.steps = 0  # nothing is fitted
            return Weighted().weigh(run, data, **options)
        result, effort = log_marginal_adaptive(
            run.vae, data.x, steps=self.steps, **options
        )
        plain = effort.took("guide").all() and not effort.doubtful.any()
        answer = result.answer().plus(
            sentences=[] if self.unasked and plain else [str(effort)],
            columns={"road": effort.road},
            numbers={"effort": str(effort), "roads": effort.roads},
        )
        return result, answer

    @staticmethod
    def _at_once(run: Trained, data: Evaluated) -> bool:
        """Whether the pair is called with all of its data at once, and draws cannot be spent on some of them."""
        model, guide = run.vae.model, run.vae.guide
        with running(model, guide), forked_random():
            return called_whole(model, guide, Call(once(as_data(model, data.x))))
