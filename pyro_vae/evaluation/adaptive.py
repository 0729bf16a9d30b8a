"""Importance weighting that spends its draws on the data that need them, and annealing for what is left."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.data.inputs import Call
from pyro_vae.distributions import Defended
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.annealing import (
    AnnealedEstimate,
    annealable,
    annealed_importance_sampling,
    gradients_per_datum,
)
from pyro_vae.evaluation.question import Answer, Evaluated, Tick, Trained
from pyro_vae.evaluation.refinement import pair_of, quick, refined
from pyro_vae.evaluation.results import PARETO_LIMIT, PARTS, LogMarginal
from pyro_vae.evaluation.weighting import Weighting, holds, latents_of, weighted
from pyro_vae.foundation.abstract import Around, Ignoring, running
from pyro_vae.foundation.checks import (
    MOST,
    Number,
    Positive,
    at_least,
    at_most,
    checked,
    takes,
)
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import called_whole, scored
from pyro_vae.inference.particles import Program
from pyro_vae.inference.shift import RefinedGuide, starting
from pyro_vae.inference.terms import has_density
from pyro_vae.models.program import named

GROWTH = 4  # from one round to the next
ROADS = ("guide", "more draws", "refined", "annealed")
GUIDE, MORE, REFINED, ANNEALED = range(len(ROADS))
DEFENCE = 0.1  # of the draws for a refined q(z|x) come from the prior
LEAST_CHAINS = 25  # fewer have no Pareto k
EFFECTIVE_CHAINS = (
    10  # of an annealed datum that is believed: a standard error of about 0.3 nats
)

# Of rows by their places, and a number of draws.
Weighted = Callable[[Tensor, int], LogMarginal]
Chains = Callable[[Tensor], LogMarginal]


@dataclass(frozen=True)
class Effort:
    """How `log_marginal_adaptive` spent its draws, and on whom.

    Attributes:
        road: which way each datum took, `(N,)` indices into `ROADS`: the guide's own draws, more of these, a refined
            q(z|x) and more draws, or annealing.
        unaffordable: which were bad by the pilot and are left to the guide's own draws all the same, because nothing of
            the budgets was left or, without draws, annealing did no better; `(N,)` booleans.
        doubtful: which are bad in the end, by the draws or chains that make their values, `(N,)` booleans.
        draws: importance draws spent on all data.
        budget: how many were allowed.
        gradients: of `log p(x, z)`, spent on annealing.
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
            f"{refined} a refined q(z|x) and more draws, {annealed} annealed chains; {int(self.doubtful.sum())} stay "
            f"doubtful ({self.bad}). {self.draws} of {self.budget} draws and {self.gradients} of {self.annealing} "
            "gradients for annealing were spent."
        )


@checked
def log_marginal_adaptive(
    pair: Any,
    x: Any,
    *args: Any,
    num_particles: Number = 1000,
    budget: int | None = None,
    limit: float = PARETO_LIMIT,
    standard_error: float | None = None,
    steps: Number = 100,
    rate: Positive = 0.1,
    num_chains: Annotated[int, at_least(LEAST_CHAINS), at_most(MOST)] = 32,
    num_temperatures: Annotated[int, at_least(1), takes(64)] = 300,
    annealing: int | None = None,
    batch_size: Number = 200,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> tuple[LogMarginal, Effort]:
    """`log_marginal` that spends draws where they are needed, and anneals where draws do not help.

    A pilot of `num_particles` draws from the guide chooses the road of each datum. Those with a bad Pareto k get a
    `refine`d q(z|x) and four times the draws; those with a bad standard error alone, or of a guide that cannot be
    refined, four times the draws. Those that are still bad again get four times as many, and so on, the worst first
    where the budget does not suffice for all. What is bad even so is annealed from the prior, again the worst first: if
    pilot chains are good, its value comes from annealed chains. Discrete latents cannot be annealed and stay doubtful.

    All values come from fresh draws or chains. The pilot's would not do: data are bad where a large weight was drawn
    and good where it was missed, so that to replace the bad alone pushes the mean down.

    Refining seeks one mode of the posterior and can leave others out, so a tenth of the draws of these data come from
    the prior instead, for the pairs of this package: where the latents are few, a missed mode then shows in Pareto k.
    Where they are many, a mode that no draw has found leaves no trace; `annealed_importance_sampling` for all data is
    the check.

    The value of an annealed datum is the log of the mean weight of its chains, so its columns `standard_errors`, `ess`
    and `pareto_k` mean the same, with chains for particles; `num_particles` of it is the number of chains. Below 10
    effective chains its Pareto k is set to `inf`: too few to tell. `elbo` and its parts are always those of the guide.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        num_particles: draws for each datum in the pilot, and for the value of each that the pilot finds good.
        budget: importance draws for all data, pilots and values together; by default 10 N `num_particles`. The draws of
            the gradient steps are not counted.
        limit: of the Pareto k.
        standard_error: limit of the Monte-Carlo standard error of each datum, in nats; `None`: any.
        steps: gradient steps, as in `refine`.
        rate: as in `refine`.
        num_chains: annealed for each datum, at least 25.
        num_temperatures: as in `annealed_importance_sampling`.
        annealing: gradients of `log p(x, z)` that pilot chains and chains may take, for all data together; by default
            as many as `budget`. 0: nothing is annealed.
        batch_size: data refined at a time.
        memory: in bytes, as in `log_marginal_refined`.
        compile: weigh by a compiled graph, as in `log_marginal`.
        progress: called with the number of draws weighted since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        A `LogMarginal` with N values, each with its own number of particles; and the `Effort`.

    Raises:
        InputError: as `log_marginal` and `refine`, for a limit that is not positive, for a budget below
            2 N `num_particles` or a negative one for annealing, for fewer than 25 chains, or for a pair that is called
            with all of its data at once.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling (k above 0.7 calls for
    another proposal, or for many more draws); Hesterberg 1995, Weighted Average Importance Sampling and Defensive
    Mixture Distributions (draws from the prior).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> result, effort = log_marginal_adaptive(vae, torch.eye(4), num_particles=100, steps=5)
    >>> effort.draws <= effort.budget
    True
    """
    least = 2 * num_particles * len(x)
    budget = 5 * least if budget is None else budget
    annealing = budget if annealing is None else annealing
    for name, number in (("limit", limit), ("standard_error", standard_error)):
        if number is not None and not (isinstance(number, (int, float)) and number > 0):
            raise InputError(f"{name}={number!r} must be positive")
    _check_least("annealing", annealing, 0)
    _check_least("budget", budget, least, ", two passes over the data")

    def bad(r: LogMarginal) -> Tensor:
        doubtful = ~(r.pareto_k <= limit)
        if standard_error is None:
            return doubtful
        return doubtful | ~(r.standard_errors <= standard_error)

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
    pilot, result = (
        weighted(model, guide, data, num_particles=num_particles, **weighing)
        for _ in range(2)
    )
    rows = bad(pilot).nonzero().flatten()
    proposals = _Proposals(model, guide, data.selected(rows), batch_size, weighing)

    def chains(which: Tensor) -> LogMarginal:
        some = data[rows[which]]
        annealed = annealed_importance_sampling(
            model,
            some.data,
            *some.more,
            num_chains=num_chains,
            num_temperatures=num_temperatures,
            memory=memory,
            compile=compile,
            **some.kwargs,
        )
        return _as_weights(annealed)

    hard = _Hard(pilot.pareto_k[rows], bad)
    if len(rows):
        refinable = proposals.refinable()

        def propose(which: Tensor, k: Tensor) -> Tensor:
            refining = ~(k <= limit) & refinable
            proposals.make(which, refining, steps=steps, rate=rate)
            return refining

        hard.draw(propose, proposals.weighted, num_particles, budget - least, memory)
    if len(rows) and annealable(model, data[rows[:1]]):
        hard.anneal(
            chains, gradients_per_datum(num_chains, num_temperatures), annealing
        )
    of_guide = {name: getattr(result, name) for name in PARTS}
    for which, marginal in hard.values(proposals.weighted, chains):
        result = result.replaced(rows[which], marginal)
    result = replace(result, **of_guide)

    words = f"Pareto k above {limit} or fewer than {EFFECTIVE_CHAINS} effective chains"
    if standard_error is not None:
        words += f" or a standard error above {standard_error}"
    road = torch.zeros(len(data), dtype=torch.long)
    unaffordable = torch.zeros(len(data), dtype=torch.bool)
    road[rows], unaffordable[rows] = hard.road, hard.road == GUIDE
    spent = least + hard.draws
    effort = Effort(
        road, unaffordable, bad(result), spent, budget, hard.gradients, annealing, words
    )
    return result, effort


class _Proposals:
    """The q(z|x) of the hard data that the budget allows one, some of them refined.

    Args:
        model: the model.
        guide: its guide.
        data: the hard data.
        batch_size: refined at a time.
        weighing: further arguments of `weighted`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: Call,
        batch_size: int,
        weighing: dict[str, Any],
    ) -> None:
        self.model, self.guide, self.data = model, guide, data
        self.batch_size, self.weighing = batch_size, weighing
        self.place = torch.zeros(len(data), dtype=torch.long)
        self.q: RefinedGuide | None = None
        self.share: Tensor | None = None
        self.known = True  # what the guide's distributions are made from

    def refinable(self) -> bool:
        """Whether the guide's draws carry gradients to parameters that are known."""
        first = self.data[:1]
        with running(self.model, self.guide), torch.no_grad():
            t = scored(self.model, self.guide, first, 1)
            try:
                starting(self.guide, first)
            except InputError:
                self.known = False
        sites = latents_of(t.sites).values()
        return self.known and all(s.q.has_rsample for s in sites if has_density(s.q))

    def make(self, which: Tensor, refining: Tensor, *, steps: int, rate: float) -> None:
        """Those of the data `which`; of those marked `refining` refined, and a tenth of the draws from the prior.

        Not so where `log q` is slow away from the guide's own draws (`IAF`), or the prior is not known.
        """
        batches = (rows.split(self.batch_size) for rows in (which, refining))
        with running(self.model, self.guide):
            guides = [
                self._made(places, marked, steps=steps, rate=rate)
                for places, marked in zip(*batches, strict=True)
            ]
        self.q = RefinedGuide.joined(guides, self.data)
        self.place[which] = torch.arange(len(which))
        if refining.any() and quick(self.guide) and hasattr(self.model, "prior"):
            like = next(iter(self.q.shift.values()))
            self.share = DEFENCE * refining.to(like)

    def _made(
        self, places: Tensor, marked: Tensor, *, steps: int, rate: float
    ) -> RefinedGuide:
        """The q(z|x) of one batch."""
        batch = self.data[places]
        layout, start = starting(self.guide, batch) if self.known else ({}, {})
        shift = {site: delta.clone() for site, delta in start.items()}
        if marked.any():
            better = refined(
                self.model, self.guide, batch[marked], steps=steps, rate=rate
            )
            for site, delta in shift.items():
                delta[marked.to(delta.device)] = better.shift[site]
        return RefinedGuide(
            self.guide, layout, batch, start=start, shift=shift, improved=marked
        )

    def weighted(self, which: Tensor, count: int) -> LogMarginal:
        """Values of the data `which` by so many draws from their q(z|x)."""
        assert self.q is not None
        at = self.place[which]
        model, guide = self.q.pair(self.model)
        some = self.data.selected(which).named(
            shift={s: d[at] for s, d in self.q.shift.items()}
        )
        if self.share is not None:
            model = Ignoring(model, "share")
            guide = Defending(guide, self.model)
            some = some.named(share=self.share[at])
        return weighted(model, guide, some, num_particles=count, **self.weighing)


class Defending(Around):
    """A guide that draws a `share` of its latents from the prior of a model of this package, `(batch,)`.

    It is called with the share beside the data, which the model is to ignore: `Ignoring(model, "share")`.
    """

    def __init__(self, program: Program, model: Any) -> None:
        super().__init__(program)
        self.model = model

    def forward(self, *args: Any, share: Tensor, **kwargs: Any) -> Any:
        with Defence(self.model, named(args[0], {}), share):
            return self.program(*args, **kwargs)


class Defence(Messenger):
    """Replaces the q of each draw by `Defended`, whose other part is the density of another program of these data."""

    def __init__(self, program: Any, data: dict[str, Tensor], share: Tensor) -> None:
        super().__init__()
        self.factors = {factor.site: factor for factor in program.factors()}
        self.values, self.share = program.known(data), share

    def _defends(self, msg: Any) -> bool:
        """Whether a site is drawn: not one all of whose values are enumerated."""
        drawn = not msg["is_observed"] and not site_is_subsample(msg)
        return drawn and not msg["infer"].get("enumerate")

    def _pyro_sample(self, msg: Any) -> None:
        if self._defends(msg):
            other = self.factors[msg["name"]].at(self.values)
            msg["fn"] = Defended(msg["fn"], other, self.share)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.factors:
            return
        known = self.values.get(name)
        value = msg["value"]
        partly = known is not None and known.is_floating_point()
        self.values[name] = known.where(~known.isnan(), value) if partly else value


class _Hard:
    """The data that the guide's own pilot found bad: what road each of them takes, by further pilots.

    Args:
        k: their Pareto k by that pilot.
        judge: which data of a result are bad.
    """

    def __init__(self, k: Tensor, judge: Callable[[LogMarginal], Tensor]) -> None:
        self.k, self.judge = k, judge
        self.bad = torch.ones(len(k), dtype=torch.bool)  # by the last pilot
        self.road = torch.zeros(len(k), dtype=torch.long)
        self.counts = torch.zeros_like(self.road)
        self.draws = self.gradients = 0

    def draw(
        self,
        propose: Callable[[Tensor, Tensor], Tensor],
        weighted: Weighted,
        count: int,
        budget: int,
        memory: int,
    ) -> None:
        """Pilots from better q(z|x), each with more draws, until all are good or the budget or the memory is spent."""
        left = torch.arange(len(self.k))
        saved = 0  # of a datum's value, the draws that are already paid for
        while len(left):
            count *= GROWTH
            if not holds(count, memory):
                break
            price = 2 * count - saved  # a pilot and a value
            left = left[_worst(self.k[left], (budget - self.draws) // price)]
            if len(left) == 0:
                break
            if saved == 0:  # the first time
                refining = propose(left, self.k[left])
                self.road[left] = torch.where(refining, REFINED, MORE)
            pilot = weighted(left, count)
            self.draws, saved = self.draws + price * len(left), count
            self.counts[left], self.k[left] = count, pilot.pareto_k
            self.bad[left] = self.judge(pilot)
            left = left[self.bad[left]]

    def anneal(self, chains: Chains, price: int, budget: int) -> None:
        """Pilot chains for those that are still bad, of which each run costs `price` gradients."""
        left = self.bad.nonzero().flatten()
        left = left[_worst(self.k[left], budget // max(2 * price, 1))]
        if len(left) == 0:
            return
        good = left[~self.judge(chains(left))]
        self.gradients = price * (len(left) + len(good))
        # Their values by weighting are not needed.
        self.draws -= int(self.counts[good].sum())
        self.road[good] = ANNEALED

    def values(
        self, weighted: Weighted, chains: Chains
    ) -> Iterator[tuple[Tensor, LogMarginal]]:
        """Fresh values of all that left the guide's own draws."""
        drawn = (self.road == MORE) | (self.road == REFINED)
        for count in self.counts[drawn].unique().tolist():
            which = (drawn & (self.counts == count)).nonzero().flatten()
            yield which, weighted(which, count)
        which = (self.road == ANNEALED).nonzero().flatten()
        if len(which):
            yield which, chains(which)


def _check_least(name: str, value: Any, least: int, why: str = "") -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(
            f"{name}={value!r} must be a whole number of at least {least}{why}"
        )


def _worst(k: Tensor, most: int) -> Tensor:
    """Where the largest of these Pareto k are, at most so many."""
    return k.nan_to_num(math.inf).argsort(descending=True)[:most]


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
    """`log p(x)` by weighting that refines, draws more, or anneals, where Pareto k calls for it.

    Args:
        steps: gradient steps for each datum that is refined.
        num_particles: draws for each datum in the pilot; by default those of the evaluation.
    """

    foreseen = False

    def weigh(
        self, run: Trained, data: Evaluated, **options: Any
    ) -> tuple[LogMarginal, Answer]:
        result, effort = log_marginal_adaptive(
            run.vae, data.x, steps=self.steps, **options
        )
        answer = result.answer().plus(
            sentences=[str(effort)],
            columns={"road": effort.road},
            numbers={"effort": str(effort), "roads": effort.roads},
        )
        return result, answer
