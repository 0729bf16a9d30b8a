"""The guide against latents that are known: data drawn from the model, and where q(z|x) has what made them."""

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.data.fields import each_part
from pyro_vae.data.inputs import (
    Call,
    as_data,
    fields_of,
    gathered,
    label_width_of,
    may_miss,
)
from pyro_vae.distributions.onehots import OneHots
from pyro_vae.distributions.words import Word
from pyro_vae.engine.memory import CHUNK, LARGEST_CHUNK, MEMORY, bytes_of_one_more
from pyro_vae.evaluation.annealing import SIMULATED, bytes_of_data, template
from pyro_vae.evaluation.question import (
    DISTINCT,
    NAMED,
    Answer,
    Drawing,
    Evaluated,
    Printed,
    Progress,
    Question,
    Shards,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.uniformity import holm, place, shape, spread, two_sided
from pyro_vae.evaluation.weighting import a_few
from pyro_vae.foundation.abstract import context_of, forked_random, is_own, running
from pyro_vae.foundation.checks import MOST, Number, at_least, at_most, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import called_whole
from pyro_vae.inference.pairs import pair_of
from pyro_vae.inference.particles import Program, points_of, way_alone
from pyro_vae.inference.scores import (
    Observed,
    data_axis,
    draw,
    run_of,
    score,
    simulate,
)

LEVEL = 0.05  # of all tests together
LEVELS = (0.5, 0.9, 0.95)  # of regions
INTERVAL = 0.9  # of the intervals of single latents
FEWEST_DATA = 10
FEWEST_DRAWS = 9
ROUNDING = 32.0  # of the type, within which two densities are equal
LIKE = 0.95  # of the ELBOs of simulated data, among which real ones are counted
UNLIKE = 0.8  # of real data within, below which the sentence says so
GUIDE, JOINT = "log q(z|x)", "log p(x, z)"
HEADS = {
    "holds": "holds",
    "error": "±",
    "rank": "mean rank",
    "bias": "bias",
    "spread": "spread",
    "inside": "90 % interval",
    "p": "p",
}
EXPLAINED = [
    "mean rank: how much of q lies below the true value, 0.5 where it is calibrated; bias and spread: mean and "
    "standard deviation of (z - mean of q) / sd of q, 0 and 1.",
    "90 % interval: how often it holds the true latent; p: the least of a row's tests, corrected for their number.",
]
SCOPE = "This tests the guide on data that the model makes, not on those at hand."

DataCount = Annotated[int, at_least(FEWEST_DATA), at_most(MOST)]
DrawCount = Annotated[int, at_least(FEWEST_DRAWS), at_most(MOST)]


class RankTests(NamedTuple):
    """What was found of the ranks of one quantity.

    Attributes:
        place: how far their mean lies from the middle, in standard errors.
        spread: how far they lie at the ends rather than in the middle, in standard errors.
        p: the least of the p-values of all tests of the quantity, corrected for all tests.
        found: which of `'place'`, `'spread'` and `'shape'` are found not to be those of uniform ranks.
    """

    place: float
    spread: float
    p: float
    found: frozenset[str]


@dataclass(frozen=True)
class SimulatedRanks(Shards, Printed):
    """Where the latents that made n data have their ranks among L draws of q(z|x) for each of these.

    Under the exact posterior a rank is `0, ..., L` with equal probability, whatever the model. All latents of a datum
    stand in one vector of length D, site by site; of one-hot codes it has the places of the ones.

    Attributes:
        latents: ranks of each latent, `(n, D)`: how many draws lie below the true one, ties broken at random.
        joint: the same of `log p(x, z)`, and of `log q(z|x)` where it is known, `(n,)` each.
        scores: `(z - mean of the draws) / (their sd)`, scaled to variance 1 for a Gaussian, `(n, D)`; nan for a
            discrete latent.
        right: of discrete latents how much of the draws is the true value, `(n, D)`; nan for others.
        claimed: how much of them two draws agree in, which is the same on average where q is the posterior.
        elbo: of each datum by its draws, `(n,)`; nan where `log q(z|x)` is not known.
        names: of the D latents.
        num_draws: L.
        num_candidates: draws of the guide that each draw is chosen from, by its weight.

    Results over shards of data add up.
    """

    latents: Tensor
    joint: dict[str, Tensor]
    scores: Tensor
    right: Tensor
    claimed: Tensor
    elbo: Tensor
    names: tuple[str, ...]
    num_draws: int
    num_candidates: int = 1

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def discrete(self) -> Tensor:
        """Which latents are, `(D,)` booleans."""
        return ~self.right.isnan().any(0)

    @property
    def bias(self) -> Tensor:
        """The mean of `scores`, `(D,)`; 0 where q is the posterior."""
        return self.scores.mean(0)

    @property
    def spread(self) -> Tensor:
        """The standard deviation of `scores`, `(D,)`: 1 where q is the posterior, above 1 where it is too narrow."""
        return self.scores.std(0)

    def coverage(self, level: float) -> tuple[float, float]:
        """How often the region of highest q(z|x), of this probability, holds the true latents, and a standard error.

        That is the share of ranks of `log q(z|x)` among the upper ones, `level (L + 1)` of them.

        Raises:
            InputError: where `log q(z|x)` is not known, or for a level that is not between 0 and 1.

        Source: Hermans et al. 2022, A Crisis in Simulation-Based Inference? Beware, Your Posterior Approximations Can
        Be Unfaithful.
        """
        if GUIDE not in self.joint:
            raise InputError(
                "log q(z|x) of a given z is not known, so there are no regions of it"
            )
        if not 0 < level < 1:
            raise InputError(f"level={level!r} must lie between 0 and 1")
        inside = _among(
            self.num_draws - self.joint[GUIDE], level * (self.num_draws + 1)
        )
        share = inside.mean().item()
        return share, math.sqrt(share * (1 - share) / len(self))

    def intervals(self, level: float = INTERVAL) -> Tensor:
        """How often the central interval of each latent, of this probability, holds the true one, `(D,)`."""
        ends = torch.minimum(self.latents, self.num_draws - self.latents)
        return 1 - _among(ends, (1 - level) / 2 * (self.num_draws + 1)).mean(0)

    @cached_property
    def tests(self) -> dict[str, RankTests]:
        """What was found of each quantity, by its name: of the latents, then of the densities.

        The place and the spread of the ranks are tested by their means, and their shape by a chi-squared test; of a
        discrete latent the spread is how much less often draws are right than they claim. All tests of all quantities
        together find something in exact posteriors with probability 0.05 at most (Holm).
        """
        ranks = {**dict(zip(self.names, self.latents.T, strict=True)), **self.joint}
        z: dict[str, tuple[float, float]] = {}
        p: dict[tuple[str, str], float] = {}
        for i, (name, some) in enumerate(ranks.items()):
            ends = spread(some, self.num_draws)
            if i < len(self.names) and self.discrete[i]:
                ends = _in_errors(self.claimed[:, i] - self.right[:, i])
            z[name] = (place(some, self.num_draws), ends)
            p[name, "place"] = two_sided(z[name][0])
            p[name, "spread"] = two_sided(ends)
            p[name, "shape"] = shape(some, self.num_draws)
        corrected = dict(zip(p, holm([*p.values()]), strict=True))
        found: dict[str, RankTests] = {}
        for name in ranks:
            each = {
                kind: corrected[name, kind] for kind in ("place", "spread", "shape")
            }
            uneven = frozenset(kind for kind, value in each.items() if value < LEVEL)
            found[name] = RankTests(*z[name], min(each.values()), uneven)
        return found

    @property
    def biased(self) -> list[str]:
        """The latents that q puts too high or too low on average."""
        return [name for name in self.names if "place" in self.tests[name].found]

    @property
    def narrow(self) -> list[str]:
        """The latents of which q is too narrow: it is surer than it may be."""
        return [name for i, name in enumerate(self.names) if self._too(i) > 0]

    @property
    def wide(self) -> list[str]:
        """The latents of which q is too wide."""
        return [name for i, name in enumerate(self.names) if self._too(i) < 0]

    def _too(self, i: int) -> int:
        """Whether q is too narrow in a latent, 1, or too wide, -1."""
        tested = self.tests[self.names[i]]
        if "spread" not in tested.found:
            return 0
        sign = 1 if tested.spread > 0 else -1
        if "place" not in tested.found or self.discrete[i]:
            return sign
        # A shift alone puts ranks at the ends: what is left of the scores without it has to say the same.
        scores = self.scores[:, i] - self.bias[i]
        return sign if sign * _in_errors(scores.square() - 1) > DISTINCT else 0

    @property
    def verdict(self) -> str:
        """`'calibrated'`, or in a few words what the guide is instead."""
        region = self.tests.get(GUIDE)
        off = 0.0 if region is None or "place" not in region.found else region.place
        words = ["biased"] if self.biased else []
        if self.narrow or (off < 0 and not words):
            words.append("too narrow (overconfident)")
        elif off < 0:
            words.append("overconfident")
        if self.wide or (off > 0 and not words):
            words.append("too wide (underconfident)")
        if words:
            return " and ".join(words)
        uneven = any(tested.found for tested in self.tests.values())
        return "not the posterior" if uneven else "calibrated"

    @property
    def reasons(self) -> list[str]:
        """What the verdict is made of, a clause each."""
        clauses = []
        for found, what in (
            (self.biased, "off on average"),
            (self.narrow, "too narrow"),
            (self.wide, "too wide"),
        ):
            if found:
                few = ", ".join(self._worst_first(found)[:NAMED])
                more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
                clauses.append(f"it is {what} in {few}{more}")
        if GUIDE in self.joint:
            share, error = self.coverage(INTERVAL)
            clauses.append(
                f"its 90 % regions hold {100 * share:.1f} ± {100 * error:.1f} % of the true latents"
            )
        if "place" in self.tests[JOINT].found:
            less = self.tests[JOINT].place > 0
            clauses.append(
                f"its draws are {'less' if less else 'more'} probable under p(x, z) than the true latents"
            )
        return clauses

    def _worst_first(self, names: Sequence[str]) -> list[str]:
        """Names of quantities, those that are furthest from uniform first."""
        tests = self.tests
        return sorted(names, key=lambda name: -max(map(abs, tests[name][:2])))

    def answer(self) -> Answer:
        """The verdict, coverage, and the ranks of the densities and of the latents that are furthest off."""
        n, d = self.latents.shape
        named = self._worst_first(self.names)[: 2 * NAMED]
        shown = [name for name in self.names if name in named]
        rows: dict[str, Any] = {}
        if GUIDE in self.joint:
            for level in LEVELS:
                share, error = self.coverage(level)
                rows[f"{100 * level:g} % region"] = {"holds": share, "error": error}
        rows |= {name: self._row(name) for name in (*self.joint, *shown)}
        because = f": {'; '.join(self.reasons)}" if self.reasons else ""
        judged, chosen = "the guide", ""
        if self.num_candidates > 1:
            judged = "the weighted guide"
            chosen = f", each chosen by weight among {self.num_candidates}"
        sentences = [f"On data of the model {judged} is {self.verdict}{because}."]
        for i in self.discrete.nonzero().flatten().tolist()[:NAMED]:
            right, claimed = self.right[:, i].mean(), self.claimed[:, i].mean()
            sentences.append(
                f"A draw of {self.names[i]} is the true value for {100 * right:.1f} % of the data, and by what q says "
                f"of itself for {100 * claimed:.1f} %."
            )
        if d > len(shown):
            sentences.append(
                f"The table has the {len(shown)} of {d} latents that are furthest off."
            )
        return Answer(
            title="Calibration of the guide",
            about=f"{n} data drawn from the model, {self.num_draws} draws of the guide for each{chosen}",
            rows=rows,
            heads=HEADS,
            sentences=[*sentences, SCOPE, *EXPLAINED],
            figures={"calibration": self.drawing()},
            numbers={
                "data": n,
                "num_draws": self.num_draws,
                "num_candidates": self.num_candidates,
                "verdict": self.verdict,
                "latents": list(self.names),
                "bias": self.bias.tolist(),
                "spread": self.spread.tolist(),
                "intervals": self.intervals().tolist(),
                "p": {name: tested.p for name, tested in self.tests.items()},
            },
        )

    def _row(self, name: str) -> dict[str, Any]:
        """What the table says of one quantity."""
        tested = self.tests[name]
        if name in self.joint:
            mean = ((self.joint[name] + 0.5) / (self.num_draws + 1)).mean().item()
            return {
                "rank": mean,
                "bias": None,
                "spread": None,
                "inside": None,
                "p": tested.p,
            }
        i = self.names.index(name)
        real = not self.discrete[i]
        return {
            "rank": ((self.latents[:, i] + 0.5) / (self.num_draws + 1)).mean().item(),
            "bias": self.bias[i].item() if real else None,
            "spread": self.spread[i].item() if real else None,
            "inside": self.intervals()[i].item() if real else None,
            "p": tested.p,
        }

    def drawing(self) -> Drawing:
        """How often regions hold the true latents, and how the ranks of all quantities differ from uniform ones."""
        from pyro_vae import plots

        worst = [n for n in self._worst_first(self.names) if self.tests[n].found][
            :NAMED
        ]
        ranks = dict(zip(self.names, self.latents.T, strict=True))
        make = partial(
            plots.simulated_ranks,
            self.num_draws,
            self.joint,
            ranks,
            worst,
            regions=self.joint.get(GUIDE),
        )
        caption = (
            "How often regions of the guide hold the latents that made data of the model, and cumulative ranks of "
            "these less those of the exact posterior, whose curves lie in the grey bands 95 % of the time."
        )
        return Drawing(make, caption)


def _among(ranks: Tensor, count: float) -> Tensor:
    """Whether ranks are among the first `count` of them; in part, where a rank lies across that number."""
    return (count - ranks.double()).clamp(0, 1)


def _in_errors(values: Tensor) -> float:
    """A mean in standard errors from 0; 0 where all values are 0."""
    error = values.std() / math.sqrt(len(values))
    return (values.mean() / error).item() if error > 0 else 0.0


class _Entries(NamedTuple):
    """What the vector of a latent holds.

    Attributes:
        axis: of the data in its value, counted from the right.
        levels: of a latent of one-hot codes side by side; 0 for others.
        shape: of one datum's numbers.
        discrete: whether it takes values apart from each other.
    """

    axis: int
    levels: int
    shape: torch.Size
    discrete: bool

    @classmethod
    def of(cls, site: Any, axis: int) -> "_Entries":
        """Those of a site of a run."""
        fn = site["fn"]
        levels = 0
        if isinstance(fn, OneHots):
            levels = fn.levels
        elif isinstance(fn, torch.distributions.OneHotCategorical):
            levels = fn.event_shape[-1]
        entries = cls(axis, levels, torch.Size(), bool(fn.support.is_discrete))
        return entries._replace(
            shape=entries._numbers(site["value"].unsqueeze(0)).shape[2:]
        )

    def _numbers(self, value: Tensor) -> Tensor:
        """`(K, *value)` -> `(K, batch, *shape)`."""
        rows = value.movedim(self.axis, 1)
        if not self.levels:
            return rows
        return rows.unflatten(-1, (-1, self.levels)).argmax(-1)

    def vector(self, value: Tensor) -> Tensor:
        """`(K, *value)` -> `(K, batch, D_s)`."""
        return (
            self._numbers(value).flatten(2)
            if self.shape
            else self._numbers(value).unsqueeze(-1)
        )

    def names(self, site: str) -> list[str]:
        """`z[0]`, `z[1]`, ..., or `z` for a latent that is one number."""
        indices = map(list, itertools.product(*map(range, self.shape)))
        return [f"{site}{index}" if index else site for index in indices]


class _Judge:
    """Draws of a guide beside the latents that made some data, and what both weigh.

    Args:
        pair: model and guide.
        call: a datum to look at what the latents are.
        num_draws: L.
        num_candidates: that each is chosen from.

    Raises:
        InputError: for a guide that is a point, or that draws none of the model's latents.
    """

    def __init__(
        self,
        pair: tuple[Program, Program],
        call: Call,
        num_draws: int,
        num_candidates: int,
    ) -> None:
        self.model, self.guide = pair
        self.num_draws, self.num_candidates = num_draws, num_candidates
        with forked_random():
            sites, drawn = run_of(self.model, call), draw(self.guide, call, 2)
            q_sites = run_of(self.guide, call)
        axes = data_axis(sites, call)
        self.entries = {
            name: _Entries.of(site, axes[name])
            for name, site in sites.items()
            if not site["is_observed"] and name in drawn
        }
        if not self.entries:
            raise InputError(
                "the guide draws no latent of the model, so there is nothing to be calibrated"
            )
        points = points_of(self.model, self.guide, call.args, call.kwargs)
        for name in self.entries:
            if name in points or isinstance(q_sites[name]["fn"], Word):
                raise InputError(
                    "the guide is a point for each datum, and no draws of it can be calibrated; take one with a density"
                )
        self.scores = self._scores(call, {name: drawn[name] for name in self.entries})

    def _scores(self, call: Call, values: dict[str, Tensor]) -> bool:
        """Whether the density of the guide is known at values that are given."""
        try:
            with forked_random():
                score(self.guide, call, values)
        except (InputError, NotImplementedError):
            return False
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """Of the latents."""
        each = (entries.names(site) for site, entries in self.entries.items())
        return tuple(itertools.chain.from_iterable(each))

    @property
    def discrete(self) -> Tensor:
        """Which of them are, `(D,)` booleans."""
        kinds = [(e.discrete, e.shape.numel()) for e in self.entries.values()]
        return torch.cat([torch.full((size,), kind) for kind, size in kinds])

    def cost(self, call: Call) -> int:
        """Bytes for a draw of a datum."""

        def some(count: int) -> None:
            values = draw(self.guide, call, count)
            self._densities(call, {name: values[name] for name in self.entries})

        return max(64, bytes_of_one_more(some) // len(call))

    def block(self, call: Call, memory: int) -> int:
        """How many data to look at together."""
        draws = 1 + self.num_draws * self.num_candidates
        most = CHUNK.get(call.device.type, LARGEST_CHUNK)
        if way_alone(self.model, call.args, call.kwargs) is None:
            most *= draws  # which are drawn one by one
        return max(1, min(memory // self.cost(call), most) // draws)

    def _densities(self, call: Call, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The log-densities of values, `(K, batch)` each."""
        found = {}
        if self.scores:
            found[GUIDE] = score(self.guide, call, values).joint
        found[JOINT] = score(self.model, call, values).joint
        return found

    def elbo(self, call: Call) -> Tensor:
        """Of each datum, `(batch,)`."""
        drawn = draw(self.guide, call, self.num_draws * self.num_candidates)
        return _elbo(self._densities(call, {n: drawn[n] for n in self.entries})).cpu()

    def ranks(self, call: Call, true: dict[str, Tensor]) -> SimulatedRanks:
        """Of the latents that made the data of a call, by site, `(1, *value)`."""
        # The true ones are scored before the draws, and in the same way.
        drawn = draw(self.guide, call, self.num_draws * self.num_candidates)
        every = {name: torch.cat([true[name], drawn[name]]) for name in self.entries}
        every_log = self._densities(call, every)
        here, numbers = _first_and_rest(self._vector(every))
        each = {name: _first_and_rest(value) for name, value in every_log.items()}
        logs = {name: rest for name, (_, rest) in each.items()}
        elbo = _elbo(logs)

        # Of the candidates of each draw one is chosen, by its weight.
        if self.num_candidates > 1:
            weights = (logs[JOINT] - logs[GUIDE]).unflatten(0, (self.num_draws, -1))
            chosen = torch.distributions.Categorical(logits=weights.movedim(1, -1))
            first = torch.arange(self.num_draws, device=numbers.device)
            place = chosen.sample() + first.unsqueeze(-1) * self.num_candidates
            wide = place.unsqueeze(-1).expand(-1, -1, numbers.shape[-1])
            numbers = numbers.gather(0, wide)
            logs = {name: value.gather(0, place) for name, value in logs.items()}

        # Where the true ones are among them.
        count = self.num_draws
        width = math.sqrt((1 + 1 / count) * (count - 1) / (count - 3))
        scores = (here - numbers.mean(0)) / (width * numbers.std(0))
        discrete = self.discrete.to(here.device)
        right = (numbers == here).double().mean(0)
        claimed = (numbers == numbers.roll(1, 0)).double().mean(0)
        return SimulatedRanks(
            latents=_rank(here, numbers),
            joint={
                name: _rank(each[name][0], value, rounded=True)
                for name, value in logs.items()
            },
            scores=scores.masked_fill(discrete, math.nan),
            right=right.masked_fill(~discrete, math.nan),
            claimed=claimed.masked_fill(~discrete, math.nan),
            elbo=elbo,
            names=self.names,
            num_draws=self.num_draws,
            num_candidates=self.num_candidates,
        )

    def _vector(self, values: dict[str, Tensor]) -> Tensor:
        """`{site: (K, *value)}` -> `(K, batch, D)`."""
        each = [entries.vector(values[name]) for name, entries in self.entries.items()]
        return torch.cat([part.double() for part in each], -1)


def _first_and_rest(values: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to the true latents, and to the draws."""
    return values[0], values[1:]


def _elbo(logs: dict[str, Tensor]) -> Tensor:
    """`mean_k log p(x, z_k) - log q(z_k|x)`, `(batch,)`; nan where the second is not known."""
    return (logs[JOINT] - logs.get(GUIDE, math.nan)).mean(0)


def _rank(true: Tensor, drawn: Tensor, *, rounded: bool = False) -> Tensor:
    """How many draws lie below the true value, `(...), (L, ...) -> (...)`; of those that are equal a random part."""
    near = torch.zeros_like(true)
    if rounded:
        near = ROUNDING * torch.finfo(true.dtype).eps * (1 + true.abs())
    below = (drawn < true - near).sum(0)
    equal = ((drawn - true).abs() <= near).sum(0)
    return below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).long()


def _unlabelled(model: Program, x: Any) -> Any:
    """Data of a pair with classes or a target as if none had a label, so that it is drawn with the other latents."""
    width = label_width_of(model) if is_own(model) else 0
    x, c = fields_of(x) if is_own(model) else (x, None)
    if c is None:
        return x
    if width:
        c = torch.cat([torch.full_like(c[:, :width], math.nan), c[:, width:]], 1)
    return {"x": x, "c": c}


def _of_the_model(model: Program, call: Call) -> tuple[dict[str, Tensor], Call]:
    """Latents drawn from the prior, and the call with data drawn given these in place of its own.

    Raises:
        InputError: for a pair that is called with something that only follows from what the model observes.
    """
    ours = is_own(model) and hasattr(model, "likelihood")
    before = {} if ours else run_of(model, call)
    latents, observed = simulate(model, call)
    if ours:
        x, c = fields_of(call.data)
        drawn = gathered(model, {name: value for name, (value, _) in observed.items()})
        drawn = drawn["x"] if isinstance(drawn, dict) else drawn
        drawn = drawn.masked_fill(x.isnan(), math.nan)  # what is missing stays so
        data = drawn if c is None else {"x": drawn, "c": c}
        return latents, Call(data, call.more, call.kwargs)
    old = {name: before[name]["value"] for name in observed}
    return latents, _replaced(call, old, observed)


def _replaced(call: Call, old: dict[str, Tensor], observed: Observed) -> Call:
    """A call with what a model observes of it, the `old` values, replaced by other values."""
    used: set[str] = set()

    def other(part: Any) -> Any:
        for name, (value, axis) in observed.items():
            same = isinstance(part, Tensor) and part.numel() == old[name].numel()
            if same and torch.equal(part.flatten(), old[name].flatten().to(part)):
                used.add(name)
                return value.movedim(0, axis).reshape(part.shape).to(part)
        return part

    parts = [
        each_part(other, part, len(call))
        for part in (call.data, call.more, call.kwargs)
    ]
    if left := observed.keys() - used:
        raise InputError(
            f"what the model observes at {min(left)!r} is not what it is called with, so simulated data cannot be put "
            "in its place"
        )
    return Call(*parts)


@checked
@torch.no_grad()
def simulation_based_calibration(
    pair: Any,
    n: DataCount = 1000,
    x: Any = None,
    *args: Any,
    num_draws: DrawCount = 99,
    num_candidates: Number = 1,
    memory: Number = MEMORY,
    progress: Tick = None,
    **kwargs: Any,
) -> SimulatedRanks:
    """Judge a guide by n data drawn from the model, of which the latents are known: `z ~ p(z)`, `x ~ p(x|z)`.

    Such a z is an exact draw of p(z|x). If q(z|x) is the posterior, nothing tells z from draws of q: among L of them
    its rank, in any number that is made of z and x, is uniform on `0, ..., L`. The numbers are each latent, `log p(x,
    z)`, and `log q(z|x)`, whose ranks say how often the regions of highest q hold the truth. A q that ignores x and is
    the prior has uniform ranks in the latents and in log q; log p(x, z) finds it.

    It proves nothing of the model, and is about data like those that the model makes. A guide that is called calibrated
    can be off by less than n data show.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        n: data to draw, 10 or more.
        x: data to call the pair with, in place of which others are drawn: at least n rows. A model of this package
            needs none, unless it is conditional; conditions stay, and what is missing stays missing.
        *args: what both are called with beside these.
        num_draws: L for each datum, 9 or more.
        num_candidates: judge in place of the guide what weighting makes of it: each draw is one of so many of the
            guide's, chosen by the weight `p(x, z) / q(z|x)`.
        memory: bytes to keep within, beside the data and the networks.
        progress: called with the number of data done since its last call.
        **kwargs: what both are called with by name.

    Returns:
        The `SimulatedRanks`.

    Raises:
        InputError: for a pair that is called with all of its data at once, whose guide is a point or draws no latent
            of the model, for an x of fewer than n rows, for candidates of a guide whose density is not known, and as
            `terms`.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman 2018, Validating Bayesian Inference Algorithms with
    Simulation-Based Calibration; Modrák et al. 2023, Simulation-Based Calibration Checking for Bayesian Computation:
    The Choice of Test Quantities Shapes Sensitivity.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> found = simulation_based_calibration(vae, 100)
    >>> found.latents.shape, sorted(found.joint)
    (torch.Size([100, 2]), ['log p(x, z)', 'log q(z|x)'])
    """
    model, guide = pair_of(pair)
    if x is None:
        data = Call(template(model, n, None), args, kwargs)
    else:
        data = Call.of(model, x, args, kwargs).once()
        if len(data) < n:
            raise InputError(
                f"n={n} data are drawn in the place of x, which has {len(data)} rows"
            )
    data = data[:n]
    data = Call(_unlabelled(model, data.data), data.more, data.kwargs)
    with running(model, guide), pyro.validation_enabled(False):
        judge = _judge(model, guide, data, num_draws, num_candidates)
        size = judge.block(data[:1], memory)
        results = []
        for some in data.batches(None, min(n, SIMULATED)):
            latents, call = _of_the_model(model, some)
            for first in range(0, len(call), size):
                rows = torch.arange(first, min(first + size, len(call)))
                true = {
                    name: latents[name].index_select(
                        entries.axis, rows.to(latents[name].device)
                    )
                    for name, entries in judge.entries.items()
                }
                results.append(judge.ranks(call[rows], true))
                if progress is not None:
                    progress(len(rows))
    return reduce(operator.add, results)


def _judge(
    model: Program, guide: Program, data: Call, num_draws: int, num_candidates: int
) -> _Judge:
    """The judge of a pair; `InputError` for one that knows no simulated data."""
    if called_whole(model, guide, data):
        raise InputError(
            "the pair is called with all of its data at once, so its guide knows none that are drawn from the model"
        )
    judge = _Judge((model, guide), data[:1], num_draws, num_candidates)
    if num_candidates > 1 and not judge.scores:
        raise InputError(
            "draws are chosen by weight, and the density of the guide at its draws is not known: take num_candidates=1"
        )
    return judge


class Calibration(Question):
    """Whether the guide is calibrated: ranks of known latents, of data drawn from the model, among draws of q(z|x).

    Args:
        n: how many data are drawn from the model, under the conditions of those that are asked about.
        draws: of the guide, for each.
        candidates: of the guide that each draw is chosen from by its weight; 1 is the guide itself.
    """

    def __init__(
        self, *, n: DataCount = 1000, draws: DrawCount = 99, candidates: Number = 1
    ) -> None:
        self.n, self.draws, self.candidates = n, draws, candidates

    def _template(self, run: Trained, data: Evaluated, n: int) -> Any:
        """Rows of the data, over and over, for their conditions and for what is missing; `None` where all are alike."""
        model = run.vae.model
        if not context_of(model) and not may_miss(model.likelihood):
            return None
        return data.x[torch.arange(n) % len(data)]

    def check(self, run: Trained, data: Evaluated) -> None:
        model, guide = run.vae.model, run.vae.guide
        few = a_few(run, data)
        few = Call(_unlabelled(model, few.data))
        with running(model, guide), forked_random(), torch.no_grad():
            judge = _judge(model, guide, few[:1], self.draws, self.candidates)
            held = judge.cost(few[:1]) * self.draws * self.candidates
        self.afford(held, "draws", "candidates")
        kept = 8 * 4 * len(judge.names)
        self.afford(self.n * kept + bytes_of_data(self.n, model.likelihood.shape), "n")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        with progress("data", self.n) as done:
            found = simulation_based_calibration(
                run.vae,
                self.n,
                self._template(run, data, self.n),
                num_draws=self.draws,
                num_candidates=self.candidates,
                memory=data.memory,
                progress=done,
            )
        sentence, share = self._beside(run, data, found)
        return found.answer().plus(sentences=sentence, numbers=share)

    def _beside(
        self, run: Trained, data: Evaluated, found: SimulatedRanks
    ) -> tuple[list[str], dict[str, float]]:
        """Whether the data that there are look like those of the model to the guide."""
        if found.elbo.isnan().any():
            return [], {}
        model, guide = run.vae.model, run.vae.guide
        few, _ = data.some(self.n)
        call = Call(_unlabelled(model, as_data(model, few)))
        with running(model, guide), torch.no_grad(), pyro.validation_enabled(False):
            judge = _Judge((model, guide), call[:1], self.draws, self.candidates)
            size = judge.block(call[:1], data.memory)
            elbo = torch.cat([judge.elbo(some) for some in call.batches(None, size)])
        tail = (1 - LIKE) / 2
        low, high = (found.elbo.double().quantile(q) for q in (tail, 1 - tail))
        share = ((low <= elbo) & (elbo <= high)).double().mean().item()
        sentence = (
            f"The ELBO of {100 * share:.1f} % of {len(elbo)} {data.called} data lies where the middle {100 * LIKE:g} % "
            f"of those of the model's data lie, {low:.1f} to {high:.1f} nats"
        )
        unlike = (
            ": they are unlike what the model makes, and their posteriors may be too."
        )
        return [sentence + (unlike if share < UNLIKE else ".")], {
            "real_data_within": share
        }
