"""What the latents of a trained pair do."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.inputs import (
    Call,
    as_data,
    fields_of,
    once,
    rows_of,
    rows_within,
)
from pyro_vae.data.streams import batches
from pyro_vae.distributions import OneHots
from pyro_vae.engine.memory import LARGEST_CHUNK, MEMORY, Allocations, pieces
from pyro_vae.evaluation.carried import Carried, Layer, carried, layers
from pyro_vae.evaluation.codes import code_use
from pyro_vae.evaluation.question import (
    Answer,
    Drawing,
    Estimate,
    Evaluated,
    Printed,
    Progress,
    Question,
    Trained,
    listed,
    unseen,
)
from pyro_vae.evaluation.weighting import is_word, latents_of
from pyro_vae.foundation.abstract import (
    forked_random,
    localise,
    parameters_of,
    running,
    unchecked,
)
from pyro_vae.foundation.checks import (
    MOST,
    Draws,
    Number,
    at_least,
    at_most,
    checked,
    takes,
)
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import require
from pyro_vae.inference.bounds import called_whole, scored
from pyro_vae.inference.objectives.base import independent
from pyro_vae.inference.pairs import of_pair
from pyro_vae.inference.particles import draws_of, nodes_of, nothing
from pyro_vae.inference.remedies import remedy
from pyro_vae.inference.scores import Flat, draw, score
from pyro_vae.inference.terms import (
    PARTICLES,
    SUMMED,
    Program,
    Site,
    double,
    has_density,
    traces,
)
from pyro_vae.models.conditionals import Codebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVE = 0.01
COLLAPSED = 0.1  # nats of KL per datum
SATURATED = 0.9  # of log N, the most that N data can show
# Bytes passed through for all pairs of data: ten seconds or so on one core.
WORK = 2**34
BATCH = 500
MEAN_DRAWS = 50  # their noise is averaged over the data too


class _Moments:
    """Sums over data from which the covariance of two estimates of each posterior mean follows, chunk by chunk.

    Counted from the means of the first chunk, so that no digits are lost far from 0.
    """

    def __init__(self) -> None:
        self.size = 0
        self.shift: Tensor
        self.sums = torch.zeros(())  # of both products and of each, (3, ...)

    def columns(self, means: Tensor) -> Tensor:
        """`(2, n, ...)` means of n data -> what is summed up over them, `(n, 3, ...)`."""
        if self.size == 0:
            self.shift = means.mean(1, keepdim=True)
        first, second = means - self.shift
        return torch.stack([first * second, first, second], 1)

    def add(self, means: Tensor) -> Tensor:
        """Take in the `(2, n, ...)` means of n more data, and return their `columns`."""
        columns = self.columns(means)
        self.size += means.shape[1]
        self.sums = self.sums + columns.sum(0)
        return columns

    def covariance(self) -> Tensor:
        """Over the data so far."""
        products, first, second = self.sums
        return (products - first * second / self.size) / (self.size - 1)


@checked
@torch.no_grad()
def activity(
    guide: Program, x: Any, *, draws: Number = 200, batch_size: Number = BATCH
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
    x = once(as_data(guide, x))
    _check_two(x)
    by_site: dict[str, _Moments] = {}
    localise(guide)
    with parameters_of(guide), unchecked(guide):
        whole = called_whole(nothing, guide, Call(x))
        rows = len(x) if whole else min(batch_size, rows_within(x, MEMORY))
        for batch in batches(x, rows):
            for name, means in _guide_means(guide, batch, draws).items():
                by_site.setdefault(name, _Moments()).add(means)
    return {name: moments.covariance() for name, moments in by_site.items()}


def _guide_means(guide: Program, batch: Any, draws: int) -> dict[str, Tensor]:
    """Two estimates of the posterior mean at each site, `(2, batch, ...)`, each from so many draws."""
    size = rows_of([batch]) or 1
    if 2 * draws * size <= LARGEST_CHUNK * 4:  # all at once
        values = _guide_draws(guide, batch, 2 * draws)
        return {
            k: double(v).unflatten(0, (2, draws)).mean(1) for k, v in values.items()
        }
    halves: list[dict[str, Tensor]] = []
    for _ in range(2):
        total: dict[str, Tensor] = {}
        for count in pieces(draws, max(1, LARGEST_CHUNK // size)):
            for name, value in _guide_draws(guide, batch, count).items():
                total[name] = total.get(name, 0.0) + double(value).sum(0)
        halves.append(total)
    return {k: torch.stack([half[k] for half in halves]) / draws for k in halves[0]}


def _guide_draws(guide: Program, batch: Any, count: int) -> dict[str, Tensor]:
    """Draws of each site of a guide, `(count, batch, ...)`."""
    sites = draws_of(guide, (batch,), {}, count)
    for name, site in sites.items():
        if not any(
            f.vectorized and f.name != PARTICLES for f in site["cond_indep_stack"]
        ):
            raise InputError(
                f"site {name!r} of the guide lies outside the data plate, so no datum has a mean of its own there"
            )
    return {name: site["value"] for name, site in sites.items()}


def _check_two(x: Any) -> None:
    if len(x) < 2:
        raise InputError("a variance over the data needs two of them or more")


@dataclass(frozen=True)
class LatentHealth(Printed):
    """What the D latents of a trained pair carry; nats per datum. Of one-hot codes a latent is a variable.

    The KL that the ELBO pays has two parts, `KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))`, averaged over the data:
    what z says about x, and how far draws from the prior are from the latents that the decoder has seen. `q(z)` is the
    aggregated posterior, the mean of `q(z|x)` over the data.

    Attributes:
        activity: variance of the posterior means over the data, `(D,)`; of a variable of one-hot codes that of its
            probabilities, added up.
        active_interval: from 2.5 % to 97.5 % of the number of active latents, by resampling the data.
        kl: `KL(q(z|x) || p(z))`, averaged over the data.
        kl_per_dimension: its part from each latent, `(D,)`; `None` unless they are independent in guide and prior.
        mutual_information: of x and z under the guide, never above `log mixture_size`; in expectation too low.
        mutual_information_upper: the same with each datum left out of its own `q(z)`; in expectation too high.
        aggregated_kl: `KL(q(z) || p(z))`, in expectation too high by as much as the information is too low.
        num_data: N, without what is left out.
        left_out: the data whose posterior or prior density is not finite, by their places counted from 0.
        others: what the classes beside these latents carry, or a real target, which also is one of them.
        layers: what each of several latent sites costs, in the order in which they stand in these D.
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
    left_out: tuple[int, ...] = ()
    others: tuple[Carried, ...] = ()
    layers: tuple[Layer, ...] = ()

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
        return self.mutual_information.mean > SATURATED * self.bound

    @property
    def collapsed(self) -> bool:
        """Whether no latent is active, or the KL is below 0.1 nats."""
        return self.active_units == 0 or self.kl.mean < COLLAPSED

    def verdict(self) -> str:
        """One sentence in words: whether the latents are used."""
        d, information = len(self.activity), self.mutual_information.mean
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

    def answer(self) -> Answer:
        """What the latents carry."""
        (low, high), d = self.active_interval, len(self.activity)
        of = "" if self.mixture_size == self.num_data else f" of {self.num_data}"
        bound = (
            "; or less, for the information is near its bound" if self.saturated else ""
        )
        used = {"activity": self.activity.tolist()}
        if self.kl_per_dimension is not None:
            used["kl_per_dimension"] = self.kl_per_dimension.tolist()
        return Answer(
            title="What the latents carry",
            about=f"{d} of them, on {self.num_data} data",
            rows={
                "KL(q(z|x) || p(z))": self.kl,
                "I(x; z)": self.mutual_information,
                "KL(q(z) || p(z))": self.aggregated_kl,
                **{f"KL of {layer.site}": layer.kl for layer in self.layers},
                **{k: row for other in self.others for k, row in other.rows.items()},
            },
            meanings={
                "KL(q(z|x) || p(z))": "what the ELBO pays; the sum of the two below",
                "I(x; z)": "mutual information: what z tells about x",
                "KL(q(z) || p(z))": "how far all posteriors are from the prior; what a better prior could save",
                **{
                    f"KL of {layer.site}": "its part of the KL: given the layers before it, in guide and model"
                    for layer in self.layers
                },
            },
            sentences=[
                f"active latents: {self.active_units} of {d} ({low} to {high} by resampling the data)",
                f"I(x; z) is at most {self.mutual_information_upper:.3f} without each datum's own share, from "
                f"{self.mixture_size}{of} data, whose log is {self.bound:.3f}{bound}",
                *self._by_layer(),
                *self._lost(),
                *(sentence for other in self.others for sentence in other.sentences),
                *([] if self.collapsed else [self.verdict()]),
            ],
            warnings=[self.verdict()] if self.collapsed else [],
            figures={"used_latents": self._figure()},
            numbers={
                "data": self.num_data,
                "active_units": self.active_units,
                "active_interval": list(self.active_interval),
                **used,
                "mutual_information_upper": self.mutual_information_upper,
                "mutual_information_bound": self.bound,
                "collapsed": self.collapsed,
                "verdict": self.verdict(),
                **self._numbers_of_layers(),
                **{k: v for other in self.others for k, v in other.numbers.items()},
            },
        )

    def _figure(self) -> Drawing:
        """The latents in order of their KL, or of their activity where they have none of their own."""
        from pyro_vae import plots

        used, label = self.kl_per_dimension, "KL, nats per datum"
        if used is None:
            used, label = self.activity, "variance of the posterior mean"
        names = [
            f"{layer.site}_{i}" for layer in self.layers for i in range(layer.size)
        ]
        active = self.activity > ACTIVE
        make = partial(plots.use_of_latents, used, active, label, names or None)
        caption = f"The latents in order: {label}. Latents without a bar carry next to nothing."
        return Drawing(make, caption)

    def active_of(self) -> dict[str, tuple[int, int]]:
        """Of each of several layers how many latents are active, and how many there are."""
        found, start = {}, 0
        for layer in self.layers:
            activity = self.activity[start : start + layer.size]
            found[layer.site] = (int((activity > ACTIVE).sum()), layer.size)
            start += layer.size
        return found

    def _by_layer(self) -> list[str]:
        """A sentence about the layers, where there are several."""
        if not self.layers:
            return []
        parts = [
            f"{site} {used} of {size}"
            for site, (used, size) in self.active_of().items()
        ]
        return [f"active latents by layer: {', '.join(parts)}"]

    def _numbers_of_layers(self) -> dict[str, Any]:
        """Plain values of each layer, where there are several."""
        if not self.layers:
            return {}
        active = self.active_of()
        return {
            "layers": {
                layer.site: {
                    "latents": layer.size,
                    "active_units": active[layer.site][0],
                    "kl": layer.kl.mean,
                }
                for layer in self.layers
            }
        }

    def _lost(self) -> list[str]:
        """A sentence about the data that are left out, if there are any."""
        if not self.left_out:
            return []
        places = listed(self.left_out)
        return [f"without datum {places} (counted from 0), whose q(z|x) is not finite"]


class _Joint:
    """Several latents of a pair as one vector of reals `(..., D)`, drawn and scored by running a program.

    Has what is asked of a distribution here: draws, and the log-density of vectors.
    """

    def __init__(self, program: Program, call: Call, flat: Flat) -> None:
        self.program, self.call, self.flat = program, call, flat
        self.batch_shape = torch.Size([1, len(call)])
        self.event_shape = torch.Size([flat.size])

    def sample(self, shape: tuple[int]) -> Tensor:
        """`(count,)` -> `(count, 1, batch, D)`."""
        return self.flat.vector(draw(self.program, self.call, *shape)).unsqueeze(1)

    def log_prob(self, z: Tensor) -> Tensor:
        """`(count, 1, batch, D)`, or 1 for the batch -> `(count, 1, batch)`."""
        z = z.squeeze(1)
        values, log_jacobian = self.flat.values(z.expand(len(z), len(self.call), -1))
        scores = score(self.program, self.call, values)
        return (scores.latent + log_jacobian).unsqueeze(1)


class _Posteriors(NamedTuple):
    """`q(z|x)` of some data, batch by batch, and draws from it with their log-densities."""

    q: list[Any]  # each of batch shape (1, batch)
    z: Tensor  # (K, N, D)
    log_q: Tensor  # (K, N)
    log_p: Tensor

    @classmethod
    def joined(cls, by_batch: "list[tuple[Any, _Draws]]") -> "_Posteriors":
        """The posteriors of all batches, each with its draws."""
        columns = zip(*(draws for _, draws in by_batch), strict=True)
        draws = [torch.cat(column, 2).squeeze(1) for column in columns]
        return cls([q for q, _ in by_batch], *draws)


_Draws = Sequence[Tensor]  # z, log q and log p, each of (count, 1, batch)


def _together(some: Iterable[_Draws]) -> _Draws:
    """Draws of one batch that came in pieces."""
    return list(map(torch.cat, zip(*some, strict=True)))


def _posteriors(
    model: Program, guide: Program, x: Any, draws: int, memory: int
) -> _Posteriors:
    by_batch = []
    for batch in _batches(x, memory):
        q, p = _latent(model, guide, batch)
        by_batch.append((q, _together(_drawn(q, p, draws, memory))))
    return _Posteriors.joined(by_batch)


def _batches(x: Any, memory: int) -> Iterator[Any]:
    rows = min(BATCH, rows_within(x, max(memory, MEMORY)))
    return batches(x, rows)


class _Look:
    """The first look at all data: the KL of each, and whether it is finite; no draws are kept beyond `most` numbers.

    Attributes:
        kl: `log q(z|x) - log p(z)`, averaged over the draws, `(N,)`.
        kl_per_dimension: the same for each latent, averaged over the data with a finite KL, `(D,)`, or `None`.
        levels: values of each variable where the latents are one-hot codes, or `None`.
        kept: the posteriors and draws of all data, if the mixture can be made of all of them.
        affordable: how many data can be paired with one draw of each other.
    """

    def __init__(
        self,
        pair: tuple[Program, Program],
        x: Any,
        draws: int,
        memory: int,
        wanted: int | None,
    ) -> None:
        self.affordable = 0
        self.kept: _Posteriors | None = None
        size, kls, dimensions = len(x), [], []
        by_batch: list[tuple[Any, _Draws]] = []
        for batch in _batches(x, memory):
            q, p = _latent(*pair, batch)
            total, by_latent = torch.zeros(()), torch.zeros(())
            log_each, some = _log_each(q, p), []
            self.levels = q.levels if isinstance(q, OneHots) else None
            for drawn in _drawn(q, p, draws, memory):
                z, log_q, log_p = drawn
                total = total + (log_q - log_p).sum(0)[0]
                if log_each is not None:
                    log_qs, log_ps = log_each(z)
                    kl = double(log_qs) - double(log_ps)
                    by_latent = by_latent + kl.sum(0)[0]
                if self.affordable == 0:
                    self.affordable = _affordable(_Posteriors.joined([(q, drawn)]))
                    keeps = _whole(wanted, size, draws, self.affordable)
                    if keeps or wanted is not None:
                        held = min(wanted or size, size) * draws * (z.shape[-1] + 2)
                        what = f"latent_health with draws={draws}, each held beside the others,"
                        require(8 * held, what, "draws or mixture_size")
                if keeps:
                    some.append(drawn)
            kls.append(total / draws)
            if log_each is not None:
                sound = kls[-1].isfinite()
                dimensions.append((by_latent / draws)[sound].sum(0))
            if keeps:
                by_batch.append((q, _together(some)))
        self.kl = torch.cat(kls)
        count = int(self.kl.isfinite().sum())
        self.kl_per_dimension = (
            torch.stack(dimensions).sum(0) / count if dimensions else None
        )
        if keeps and count == size:
            self.kept = _Posteriors.joined(by_batch)


def _log_each(q: Any, p: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """The log-densities of each latent under guide and prior, `(..., D)`, where they are independent in both."""
    if isinstance(q, OneHots) and isinstance(p, OneHots):
        return lambda z: (q.log_each(z), p.log_each(z))
    if independent(q) and independent(p):
        return lambda z: (q.base_dist.log_prob(z), p.base_dist.log_prob(z))
    return None


def by_variable(values: Tensor, levels: int | None) -> Tensor:
    """What adds up over the entries of a one-hot code, `(..., V L)` to `(..., V)`; as it is where there are none."""
    return values if levels is None else values.unflatten(-1, (-1, levels)).sum(-1)


def _whole(wanted: int | None, size: int, draws: int, affordable: int) -> bool:
    """Whether `q(z)` is made of all data, with all draws of each."""
    return (wanted or size) >= size and (
        wanted is not None or draws * size**2 <= affordable**2
    )


def _drawn(q: Any, p: Any, draws: int, memory: int) -> Iterator[_Draws]:
    """Draws from `q(z|x)` with their log-densities, as many at a time as memory allows."""

    def draw(count: int) -> _Draws:
        z = q.sample((count,))
        return z, double(q.log_prob(z)), double(p.log_prob(z))

    return map(draw, _pieces(draws, draw, memory))


def _means(q: Any, memory: int) -> Tensor:
    """Two estimates of each posterior mean, `(2, batch, D)`; those of codes are exact."""
    if isinstance(q, OneHots):
        return double(q.mean).expand(2, -1, -1)

    def total(count: int) -> Tensor:
        return double(q.sample((count,))).sum(0)

    halves = [sum(map(total, _pieces(MEAN_DRAWS, total, memory))) for _ in range(2)]
    return torch.cat(halves) / MEAN_DRAWS  # type: ignore[arg-type]


def _pieces(count: int, run: Callable[[int], Any], memory: int) -> Iterator[int]:
    """`count` in pieces of as many as `run` takes at a time within `memory`."""
    return pieces(count, max(1, memory // 2 // _bytes(run)))


def _bytes(run: Callable[[int], Any]) -> int:
    """Memory that one more draw needs, measured: half the difference between 3 and 1."""
    needed = []
    for count in (1, 3):
        with forked_random(), Allocations() as allocations:
            run(count)
        needed.append(allocations.bytes)
    return max((needed[1] - needed[0]) // 2, 64)


def _latent(model: Program, guide: Program, batch: Call) -> tuple[Any, Any]:
    """`q(z|x)` and `p(z)` of the latents of a pair, both of batch shape `(1, batch)`."""
    sites = scored(model, guide, batch, 1).sites
    latents = {n: s for n, s in latents_of(sites).items() if s.p is not None}
    if not latents:
        raise InputError("latent_health looks at latents, and the guide has none")
    if any(is_word(each) for each in latents.values()):
        raise InputError(
            "the latents are words of a codebook, whose use is told by code_use; they have no means that are active"
        )
    (name, site), *others = latents.items()
    if site.listed and not others and SUMMED not in sites:
        p, q = traces(model, guide, *batch.args, num_particles=1, **batch.kwargs)
        return nodes_of(q)[name]["fn"], nodes_of(p)[name]["fn"]
    if (
        others
        or SUMMED in sites
        or len(site.q.event_shape) != 1
        or len(site.q.batch_shape) != 2
    ):
        return _several(model, guide, batch, latents)
    if not has_density(site.q) and not site.point:
        raise InputError(
            f"the guide computes {name!r} from auxiliary draws, so its density at the latents of other data is not "
            "known; take a guide that draws it from a distribution"
        )
    if site.point:
        raise InputError(
            "the guide is a point for each datum, without a density, so what its latents carry has no measure in nats; "
            "train with another guide, such as MeanField"
        )
    return site.q, site.p


def _sizes(model: Program, guide: Program, x: Any) -> dict[str, int]:
    """The latent sites of reals of a pair and how many each has, as they stand side by side."""
    few = next(iter(_batches(x, MEMORY)))
    with forked_random():
        sites = latents_of(scored(model, guide, few, 1).sites)
        real = {n for n, s in sites.items() if not s.listed and s.p is not None}
        if len(real) < 2:
            return {}
        return {n: part.size for n, part in Flat(model, few).parts.items() if n in real}


def _several(
    model: Program, guide: Program, batch: Call, latents: dict[str, Site]
) -> tuple[_Joint, _Joint]:
    """`q(z|x)` and `p(z)` of several latents together."""
    for name, site in latents.items():
        if site.point or not has_density(site.q):
            raise InputError(
                f"latent {name!r} of the guide is a point, or computed from auxiliary draws, so its density at the "
                "latents of other data is not known; take a guide that draws it from a distribution"
            )
    flat = Flat(model, batch)
    return _Joint(guide, batch, flat), _Joint(model, batch, flat)


def _others(posteriors: _Posteriors, memory: int) -> Tensor:
    """`log sum_{j != i} q(z_ki | x_j)` at each draw, `(K, N)`."""
    draws, size = posteriors.log_q.shape
    z = posteriors.z.flatten(0, 1)[:, None, None]  # (K N, 1, 1, D)
    sizes = list(_pieces(len(z), partial(_pairs, posteriors), memory))
    owners = torch.arange(size, device=posteriors.log_q.device).repeat(draws)
    totals = []
    for some, owner in zip(z.split(sizes), owners.split(sizes), strict=True):
        sums, start = [], 0
        for q in posteriors.q:
            log_q = double(q.log_prob(some)).squeeze(1)  # (piece, batch)
            columns = torch.arange(start, start + log_q.shape[1], device=log_q.device)
            sums.append(
                log_q.masked_fill(owner[:, None] == columns, -math.inf).logsumexp(1)
            )
            start += log_q.shape[1]
        totals.append(torch.stack(sums).logsumexp(0))
    return torch.cat(totals).unflatten(0, (draws, size))


def _pairs(posteriors: _Posteriors, count: int) -> Tensor:
    """The density of `count` draws at the first batch: what one step of `_others` costs."""
    z = posteriors.z[0, :1].expand(count, -1)[:, None, None]
    return double(posteriors.q[0].log_prob(z)).squeeze(1).logsumexp(1)


def _affordable(posteriors: _Posteriors) -> int:
    """How many data can be paired with one draw of each other within `WORK`."""
    per_pair = _bytes(partial(_pairs, posteriors)) / posteriors.q[0].batch_shape[-1]
    return max(2, math.isqrt(int(WORK / per_pair)))


class _Bootstrap:
    """The number of active latents in resampled data, from sums over the data chunk by chunk.

    A chunk gets a binomial share of the draws that are left, so that all chunks together are one multinomial sample.
    """

    def __init__(
        self, bootstrap: int, size: int, memory: int, levels: int | None = None
    ) -> None:
        self.size, self.left, self.memory, self.levels = size, size, memory, levels
        self.draws = torch.full((bootstrap,), float(size), dtype=torch.float64)
        self.sums = torch.zeros(())

    def add(self, columns: Tensor) -> None:
        """Take in what is summed up over n more data, `(n, 3, D)`."""
        n = len(columns)
        taken = self.draws
        if n < self.left:
            taken = torch.binomial(taken, torch.full_like(taken, n / self.left))
        self.draws, self.left = self.draws - taken, self.left - n
        rows, sums = max(1, self.memory // (32 * n)), []
        for counts in taken.to(columns.device).split(rows):
            most = int(counts.max())
            index = torch.randint(n, (len(counts), most), device=columns.device)
            counted = torch.arange(most, device=columns.device) < counts[:, None]
            weights = columns.new_zeros(len(counts), n)
            weights.scatter_add_(1, index, counted.to(columns))
            sums.append(weights @ columns.flatten(1))
        self.sums = self.sums + torch.cat(sums)

    def counts(self) -> Tensor:
        """How many latents are active in each sample, `(bootstrap,)`."""
        products, first, second = (self.sums / self.size).chunk(3, -1)
        variances = (products - first * second) * self.size / (self.size - 1)
        return (by_variable(variances, self.levels) > ACTIVE).sum(-1)


def _sound_means(
    model: Program, guide: Program, x: Any, sound: Tensor, memory: int
) -> Iterator[Tensor]:
    """Two estimates of the posterior mean of the data that are `sound`, `(2, batch, D)`, batch by batch."""
    left = sound
    for batch in _batches(x, memory):
        with forked_random():  # what is drawn to find q costs no numbers
            q, _ = _latent(model, guide, batch)
        means = _means(q, memory)
        mask, left = left.tensor_split([means.shape[1]])
        if mask.any():
            yield means[:, mask]


@of_pair  # type: ignore[arg-type]  # mypy: **kwargs could hold a model
@checked
@torch.no_grad()
def latent_health(
    model: Program,
    guide: Program,
    x: Any,
    *args: Any,
    draws: Number = 5,
    mixture_size: Annotated[int, at_least(2), at_most(MOST)] | None = None,
    bootstrap: Annotated[int, at_least(1), takes(64)] = 1000,
    memory: Number = MEMORY,
    **kwargs: Any,
) -> LatentHealth:
    """Which latents are active, and the KL with its two parts, each with its error.

    `I(x; z) = E[log q(z|x) - log q(z)]` and `KL(q(z) || p(z)) = E[log q(z) - log p(z)]`, `q(z) = 1/N sum_j q(z|x_j)`,
    over the data x and draws `z ~ q(z|x)`. The density of every draw is taken at every datum, in chunks that keep
    within `memory`. `p(z)` must be the same for all data. Several latents, and those that are no vectors, stand side by
    side as one vector of reals.

    Args:
        model: any Pyro model with a data plate; or a pair, without a guide behind it.
        guide: its guide, called with the same.
        x: the data, `(N, *shape)`, two or more: a tensor, or anything with a length whose slices are tensors.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        draws: for each datum, beside those for its mean (50 for each of two, as in `activity`).
        mixture_size: how many data, spread evenly, `q(z)` is made of. By default all; where that would take minutes,
            because they are many or the density of the guide is costly (`IAF`), fewer with one draw each.
        bootstrap: how often the data are resampled for the interval of the number of active latents.
        memory: bytes to keep within, if one draw allows: beside the data, the networks, a few numbers for each datum,
            and the posteriors and draws that `q(z)` is made of. Data beyond these are read in batches, twice.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        A `LatentHealth`.

    Raises:
        InputError: for fewer than two data or data that the likelihood does not accept, for a guide without a density
            (`Delta`), or for a number below 1 (mixture_size: below 2).

    Source: Hoffman & Johnson 2016, ELBO Surgery; Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders,
    section 5.2 (the activity).

    >>> from pyro_vae import MLP, VAE, Bernoulli, MeanField, StandardNormal
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> health = latent_health(vae.model, vae.guide, torch.rand(50, 4).round())
    >>> health.activity.shape, health.kl.mean < 5
    (torch.Size([2]), True)
    """
    data = Call.of(model, x, args, kwargs).once()
    _check_two(data)
    with running(model, guide):
        look = _Look((model, guide), data, draws, memory, mixture_size)
        there = look.kl.isfinite().nonzero().flatten().cpu()
        n = len(there)
        if n < 2:
            raise InputError(
                f"{n} of {len(data)} data have a finite KL(q(z|x) || p(z)), and two are the least to look at"
            )
        size, per_datum = min(mixture_size or n, n), draws
        if not mixture_size and not _whole(None, n, draws, look.affordable):
            size, per_datum = min(n, look.affordable), 1
        with forked_random():
            sound = data.selected(there) if n < len(data) else data
            others_of = carried(model, guide, _batches(sound, memory))
            # A y tells of itself.
            sizes = {} if others_of else _sizes(model, guide, data)
            of_layers = layers(model, guide, _batches(sound, memory), sizes, draws)
        posteriors = look.kept
        if posteriors is None:
            chosen = there[torch.arange(size) * n // size]
            posteriors = _posteriors(model, guide, data[chosen], per_datum, memory)
        others = _others(posteriors, memory)
        moments, resampled = _Moments(), _Bootstrap(bootstrap, n, memory, look.levels)
        for means in _sound_means(model, guide, data, look.kl.isfinite(), memory):
            resampled.add(moments.add(means).flatten(2))
    log_mean = torch.logaddexp(others, posteriors.log_q) - math.log(size)  # log q(z)
    counts = resampled.counts().sort().values.tolist()
    upper = (posteriors.log_q - others).mean().item()
    low, high = math.floor(0.025 * (bootstrap - 1)), math.ceil(0.975 * (bootstrap - 1))
    dimensions = look.kl_per_dimension
    if of_layers and all(each.kl_per_dimension is not None for each in of_layers):
        parts: list[Any] = [each.kl_per_dimension for each in of_layers]
        dimensions = torch.cat(parts)
    lost = (~look.kl.isfinite()).nonzero().flatten().tolist()
    return LatentHealth(
        activity=by_variable(moments.covariance(), look.levels).cpu(),
        active_interval=(counts[low], counts[high]),
        kl=Estimate.over(look.kl[look.kl.isfinite()]),
        kl_per_dimension=None if dimensions is None else dimensions.cpu(),
        mutual_information=Estimate.over((posteriors.log_q - log_mean).mean(0)),
        mutual_information_upper=upper + math.log(size - 1),
        aggregated_kl=Estimate.over((log_mean - posteriors.log_p).mean(0)),
        num_data=n,
        mixture_size=size,
        left_out=tuple(lost),
        others=tuple(others_of),
        layers=tuple(of_layers),
    )


class Latents(Question):
    """What the latents carry: how many are active, and the KL in its two parts; of a codebook how its words are used.

    Args:
        most: data that are looked at, spread evenly.
    """

    def __init__(self, *, most: Draws = 1000) -> None:
        self.most = most

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        few, places = data.some(self.most)
        if isinstance(run.vae.guide, Codebook):
            return code_use(run.vae, few).answer()
        health = latent_health(run.vae.model, run.vae.guide, few)
        rows = data.rows[places.numpy()]
        health = replace(health, left_out=tuple(int(rows[i]) for i in health.left_out))
        if not run.vae.model.latent_dim:  # a class is all that there is
            said = [s for other in health.others for s in other.sentences]
            return replace(health.answer(), warnings=[], figures={}, sentences=said)
        caption = (
            "The posteriors of all data together (blue) and the prior (black), latent by latent. Where they differ, "
            "draws from the prior are unlike what the decoder has learned from."
        )
        make = partial(_aggregated, run, few, health)
        figures = {"aggregated_posterior": Drawing(make, caption)}
        answer = health.answer().plus(figures=figures)
        if not health.collapsed:
            return answer
        option = remedy("collapsed", run.config)
        warning = f"{health.verdict()} Train again with {option}."
        return replace(answer, warnings=[warning]).plus(numbers={"remedy": option})


def _of_prior(vae: Any, batch: Any, count: int) -> Tensor:
    """So many draws of z from the model for each datum, under its condition, `(count batch, latent_dim)`."""
    x, c = fields_of(batch)
    given = [each.repeat(count, 1) for each in vae.condition(c, len(x))]
    return vae.draw_prior(count * len(x), *given)


def _aggregated(run: Trained, x: Any, health: LatentHealth) -> "Figure":
    """A draw of q(z|x) for each datum over draws of the prior."""
    from pyro_vae import plots

    batches_of_x = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    draws = [run.vae.encode(batch).sample() for batch in batches_of_x]
    of_each = math.ceil(20_000 / len(x))
    every = torch.cat([_of_prior(run.vae, batch, of_each) for batch in batches_of_x])
    drawn = torch.cat(draws)
    levels = getattr(run.vae.guide, "levels", None)
    if levels is not None:
        drawn, every = (
            z.unflatten(-1, (-1, levels)).argmax(-1) for z in (drawn, every)
        )
    of_z = health.activity[-drawn.shape[1] :]  # without a real target, which is first
    return plots.aggregated_posterior(drawn, every, of_z)
