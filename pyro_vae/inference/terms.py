"""The one place where model and guide meet and log-probabilities are added up."""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.data.inputs import rows_of
from pyro_vae.foundation.abstract import AIM
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.enumeration import enumerated, is_summed, log_sum
from pyro_vae.inference.pairs import of_pair
from pyro_vae.inference.particles import (
    PARTICLES,
    Listing,
    Program,
    Singles,
    Sites,
    at_once,
    draws_nothing,
    is_point,
    listed_of,
    points_of,
    sample_sites,
    singly,
    takes_particles,
    way_of,
)

__all__ = [
    "PARTICLES",
    "Program",
    "Several",
    "Site",
    "Terms",
    "has_density",
    "kind",
    "terms",
    "traces",
]


def has_density(q: Any) -> bool:
    """Whether a distribution has a density or mass to weigh draws by: not one that is a single point."""
    return not is_point(q.parts[0] if isinstance(q, Several) else q)


def kind(d: Any) -> str:
    """The name of a distribution for a message, whatever it is wrapped in."""
    if isinstance(d, Several):
        return kind(d.parts[0])
    return type(
        d.base_dist if isinstance(d, torch.distributions.Independent) else d
    ).__name__


class Several(torch.distributions.Distribution):
    """The distributions of particles that were drawn one after the other, as one of batch shape `(K, *batch)`."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        first = parts[0]
        shape = torch.Size([len(parts), *first.batch_shape])
        super().__init__(shape, first.event_shape, validate_args=False)

    @staticmethod
    def of(parts: list[Any]) -> Any:
        """The distributions as one; a single one keeps its kind."""
        if len(parts) > 1:
            return Several(parts)
        try:
            return parts[0].expand(torch.Size([1, *parts[0].batch_shape]))
        except NotImplementedError:
            return Several(parts)

    def __repr__(self) -> str:
        return f"Several({self.parts!r})"

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.parts[0].has_rsample)

    @property
    def support(self) -> Any:
        return self.parts[0].support

    @property
    def base_dist(self) -> Any:
        """Of each particle, where it has one."""
        return Several([part.base_dist for part in self.parts])

    @property
    def mean(self) -> Tensor:
        return torch.stack([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return torch.stack([part.variance for part in self.parts])

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Several":
        """The same with the batch that is asked for, `(K, ...)`."""
        return Several(
            [part.expand(torch.Size(batch_shape)[1:]) for part in self.parts]
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._joined(
            [part.rsample(sample_shape) for part in self.parts], self.event_shape
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._joined(
            [part.sample(sample_shape) for part in self.parts], self.event_shape
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Of values `(..., K, *batch, *event)`, those of each particle under its own distribution."""
        at = value.dim() - len(self.batch_shape) - len(self.event_shape)
        if at < 0 or value.shape[at] == 1:
            each = [value if at < 0 else value.select(at, 0)] * len(self.parts)
        else:
            each = list(value.unbind(at))
        pairs = zip(self.parts, each, strict=True)
        return self._joined([part.log_prob(v) for part, v in pairs], torch.Size())

    def _joined(self, tensors: list[Tensor], event: torch.Size) -> Tensor:
        return torch.stack(tensors, -len(self.batch_shape) - len(event))


# Stands among the sites for those of the model that depend on latents which were summed out.
SUMMED = "_summed"


class Site(NamedTuple):
    """One `pyro.sample` site: its value, its distribution under the model and (if latent) under the guide.

    `log_p` and `log_q` have shape `(num_particles, batch)`; `p`, `q` and their log-probabilities are `None` where the
    model or the guide has no such site. `seen` is the value as it went into the model, a view of `value`: a gradient
    hook on it acts on what comes from the model alone.

    `drawn` is False for what the guide observes, such as a `pyro.factor`, which counts in `log q` and is no latent.
    `point` is True where the guide always gives the same value, as `Delta` does, so that there is no density to weigh
    by; a point that moves is a transform of auxiliary draws, with its log-Jacobian as density. `log_share` is
    `log q` whether or not a mask takes it out of the density, where particles have each value of the latent in turn.
    """

    value: Tensor
    p: Any
    q: Any
    log_p: Tensor | None
    log_q: Tensor | None
    seen: Tensor
    drawn: bool = True
    point: bool = False
    log_share: Tensor | None = None

    @property
    def listed(self) -> bool:
        """Whether all of its values are enumerated, and none is a draw."""
        return self.log_share is not None


class Terms(NamedTuple):
    """Everything a bound is made of, for `z_k ~ q(z|x)`; log-probabilities in nats, each `(num_particles, batch)`.

    Attributes:
        log_px: `log p(x|z)`, summed over the observed sites; latents of few values that the guide leaves out are summed
            out here, with all that depends on them.
        log_pz: `log p(z)`, summed over the latent sites.
        log_qz: `log q(z|x)`, summed over the guide's sites.
        sites: every site by name, for objectives that need more than the three sums.
        scale: size of the `data` plate over the size of the batch; 1 unless the pair subsamples inside.
        kl_weight: what `Annealed` weighs `log p(z) - log q(z|x)` by in the objective; 1 otherwise.
        log_share: of a guide whose latents y of few values are enumerated, what each particle counts for in an
            expectation under the guide, `log q(y|x) - log K`: particles are then all N combinations of their values
            with K draws of the other latents each, those of one combination side by side. `None` where all are draws,
            and each counts for `1/K`.
        combinations: N.
        aim: what the guide adds to the objective and to no density, such as the term of a classifier, `(batch,)`.
    """

    log_px: Tensor
    log_pz: Tensor
    log_qz: Tensor
    sites: dict[str, Site]
    scale: float = 1.0
    kl_weight: Tensor | float = 1.0
    log_share: Tensor | None = None
    combinations: int = 1
    aim: Tensor | None = None

    def mean(self, v: Tensor) -> Tensor:
        """`E_q[v]`, `(batch,)`, of `v` at each particle, `(N K, batch)`: exact over what is enumerated."""
        if self.log_share is None:
            return v.mean(0)
        return self._counted(v).sum(0)

    def log_mean(self, log_v: Tensor, groups: int | None = None) -> Tensor:
        """`log E_q[v]`, `(batch,)`; in `groups` of the draws the same of each, `(groups, batch)`."""
        if groups is not None:
            each = self._grouped(log_v, groups)
            return each.logsumexp((0, 2)) + math.log(each.shape[1])
        if self.log_share is None:
            return log_v.logsumexp(0) - math.log(len(log_v))
        return (self.log_share + log_v).logsumexp(0)

    def normalised(self, log_v: Tensor, groups: int | None = None) -> Tensor:
        """The particles' parts in `E_q[v]`, `(N K, batch)`, which add up to 1; or in each of `groups` of the draws."""
        if groups is None:
            return self._shared(log_v).softmax(0)
        each = self._grouped(log_v, groups)  # (N, groups, K / groups, batch)
        return (each - each.logsumexp((0, 2), keepdim=True)).exp().flatten(0, 2)

    def summed(self, v: Tensor) -> Tensor:
        """`E_q[v | the draws]`, `(K, batch)`: summed over what is enumerated."""
        if self.log_share is None:
            return v
        draws = len(v) // self.combinations
        return self._counted(v).unflatten(0, (-1, draws)).sum(0) * draws

    def log_summed(self, log_v: Tensor) -> Tensor:
        """`log E_q[v | the draws]`, `(K, batch)`: K weights that are drawn alike and apart."""
        if self.log_share is None:
            return log_v
        draws = len(log_v) // self.combinations
        each = self._shared(log_v).unflatten(0, (-1, draws))
        return each.logsumexp(0) + math.log(draws)

    def _shared(self, log_v: Tensor) -> Tensor:
        return log_v if self.log_share is None else self.log_share + log_v

    def _counted(self, v: Tensor) -> Tensor:
        """Each particle's part in a mean; what has no share counts nothing, whatever it is."""
        assert self.log_share is not None
        none = self.log_share.isneginf()
        return self.log_share.exp() * v.masked_fill(none, 0.0)

    def _grouped(self, log_v: Tensor, groups: int) -> Tensor:
        """`(N K, batch)`, with its shares, as `(N, groups, K / groups, batch)`; one group where nothing is drawn."""
        groups = min(groups, len(log_v) // self.combinations)
        shared = self._shared(log_v)
        if self.log_share is None:
            shared = shared - math.log(len(log_v))
        return shared.unflatten(0, (self.combinations, groups, -1))

    @property
    def log_weight(self) -> Tensor:
        """`log w = log p(x|z) + kl_weight (log p(z) - log q(z|x))`, shape `(num_particles, batch)`."""
        return self.weigh(self.log_pz - self.log_qz) + self.log_px

    def weigh(self, kl: Tensor) -> Tensor:
        """`kl_weight` times a term that stands for the KL or a part of it."""
        return (
            kl
            if isinstance(self.kl_weight, float) and self.kl_weight == 1
            else self.kl_weight * kl
        )

    @property
    def log_score(self) -> Tensor | None:
        """`log q` summed over the sites that cannot be reparameterised, or `None` where all can."""
        discrete = [
            s.log_q
            for s in self.sites.values()
            if s.log_q is not None and not s.listed and not s.q.has_rsample
        ]
        return torch.stack(discrete).sum(0) if discrete else None


def traces(
    model: Program, guide: Program, *args: Any, num_particles: int, **kwargs: Any
) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, both inside a plate of particles at dim -2: (model, guide)."""
    p, q = at_once(model, guide, args, kwargs, count=num_particles)
    return prune_subsample_sites(p), prune_subsample_sites(q)


@of_pair  # type: ignore[arg-type]  # mypy: **kwargs could hold a model
def terms(
    model: Program, guide: Program, *args: Any, num_particles: int = 1, **kwargs: Any
) -> Terms:
    """Draw `num_particles` latents from the guide for each datum and score them under model and guide.

    Works for any Pyro pair whose sites all lie in one plate of data, whether or not it comes from this package. What
    lies in further plates inside that one is summed for each datum. Sites of `pyro.deterministic` count nothing;
    a `pyro.factor` in the guide is part of `log q`, as in `pyro.infer.Trace_ELBO`.

    Several particles are drawn at once, as a dimension at the left of all plates. A pair of other parts than this
    package's is tried first: where it does not score a draw as it does alone, it is run for each particle.

    Latents of the guide that are marked by `infer={"enumerate": "parallel"}` are not drawn: the particles have all
    their values in turn, each with K draws of the other latents, and a share in every mean that is the guide's
    probability. So sums over them are exact, and no gradient is a score function's. Where these are all latents of the
    guide there is nothing to draw, and K is 1 whatever was asked.

    Args:
        model: Pyro model; or a pair, without a guide behind it.
        guide: Pyro guide.
        *args: what both are called with.
        **kwargs: the same.
        num_particles: K, the number of draws for each datum.

    Returns:
        The `Terms`, per particle and datum; nothing is summed over the batch. The particles are K, or with N
        combinations of enumerated values N K.

    Raises:
        InputError: when a site lies outside the data plate, when model and guide have different latent sites, or when
            sites are scaled differently.

    Warns:
        ParticleWarning: once, when a pair is run for each particle, and when a marked latent is drawn all the same.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> terms(vae.model, vae.guide, torch.ones(8, 4), num_particles=5).log_weight.shape
    torch.Size([5, 8])
    """
    listed = listed_of(model, guide, args, kwargs)
    if listed and draws_nothing(model, guide, args, kwargs):
        num_particles = 1  # others would only repeat it
    count = num_particles * math.prod(listed.values())
    model = enumerated(model, guide, args, kwargs)
    listing = Listing(listed, num_particles) if listed else None
    if takes_particles(model, guide):
        p, q = at_once(model, guide, args, kwargs, count=count, listing=listing)
        scored = _sites(p, q, args, kwargs, lead=count, listed=listed)
        return _summed(scored, count, listing)

    # Another pair: one particle needs no dimension; several have one where that is right.
    dim = None if count == 1 else way_of(model, guide, args, kwargs).dim
    if dim is None:
        singles = singly(
            model, guide, args, kwargs, count=num_particles, listing=listing
        )
        parts = [_sites(p, q, args, kwargs, listed=listed) for p, q in singles.pairs]
        scored = parts[0]._replace(
            sites=_joined([part.sites for part in parts], singles)
        )
    else:
        if listing is not None:
            listing.dim = dim
        p, q = at_once(
            model, guide, args, kwargs, count=count, dim=dim, listing=listing
        )
        scored = _sites(p, q, args, kwargs, lead=count, dim=dim, listed=listed)
    if any(s.q is not None and s.drawn and s.point for s in scored.sites.values()):
        points = points_of(model, guide, args, kwargs)
        sites = {
            n: s._replace(point=s.point and n in points)
            for n, s in scored.sites.items()
        }
        scored = scored._replace(sites=sites)
    _check_auxiliary(scored.sites)
    return _summed(scored, count, listing)


class _Scored(NamedTuple):
    """The sites of one run of a pair, and of the plate of data its size and scale."""

    sites: dict[str, Site]
    size: int
    scale: float
    like: Tensor  # a value, for type and device
    aim: Tensor | None = None  # what stands in no density


def _sites(
    model_trace: Trace,
    guide_trace: Trace,
    args: Any,
    kwargs: Any,
    *,
    lead: int | None = None,
    dim: int = -2,
    listed: Collection[str] = (),
) -> _Scored:
    """The sites of a run, their log-probabilities `(particles, batch)`, or `(batch,)` without a plate of particles.

    `lead` is the number of particles and `dim` their dimension, where there is one; `listed` are sites of the guide.
    """
    q_sites, p_sites = sample_sites(guide_trace), sample_sites(model_trace)
    p_sites, q_sites = _less_given(p_sites, q_sites)
    plate = plate_of(p_sites, q_sites, args, kwargs)
    _check_names(p_sites, q_sites)

    p_logs = log_probs(model_trace, p_sites, plate, lead, dim)
    q_logs = log_probs(guide_trace, q_sites, plate, lead, dim)
    of_values = {
        name: _log_prob(name, _unmasked(q_sites[name]), plate, lead, dim)
        for name in listed
    }
    aims = [
        -q_logs.pop(name)
        for name, site in q_sites.items()
        if site["infer"].get(AIM, False)
    ]
    q_sites = {name: site for name, site in q_sites.items() if name in q_logs}
    aim = torch.stack(aims).sum(0) if aims else None
    sites: dict[str, Site] = {}
    if SUMMED in p_logs:
        total = p_logs[SUMMED]
        sites[SUMMED] = Site(total, None, None, total, None, total, drawn=False)
    for name in {**q_sites, **p_sites}:
        p_site, q_site = p_sites.get(name), q_sites.get(name)
        if q_site is None and name not in p_logs:  # in the sum
            continue
        first: Any = q_site or p_site
        last: Any = p_site or q_site
        sites[name] = Site(
            first["value"],
            p_site and p_site["fn"],
            q_site and q_site["fn"],
            log_p=p_logs.get(name),
            log_q=q_logs.get(name),
            seen=last["value"],
            drawn=q_site is None or not q_site["is_observed"],
            point=q_site is not None and not has_density(q_site["fn"]),
            log_share=of_values.get(name),
        )
    like = next(iter(sites.values())).value
    return _Scored(sites, plate.size, plate.scale, like, aim)


def _joined(parts: list[dict[str, Site]], singles: Singles) -> dict[str, Site]:
    """The sites of particles that were drawn one after the other, side by side."""

    def together(found: list[Any]) -> Any:
        if found[0] is None:
            return None
        if isinstance(found[0], Tensor):
            return torch.stack(found)
        return Several.of(found)

    sites: dict[str, Site] = {}
    for name, site in parts[0].items():
        others = [part[name] for part in parts]
        columns = {
            field: together([getattr(s, field) for s in others])
            for field in ("p", "q", "log_p", "log_q", "log_share")
        }
        observed = name not in singles.values
        value = (
            torch.stack([s.value for s in others]) if observed else singles.values[name]
        )
        seen = value if observed else singles.seen[name]
        sites[name] = site._replace(value=value, seen=seen, **columns)
    return sites


def _summed(scored: _Scored, count: int, listing: Listing | None) -> Terms:
    """The three sums over the sites, and the shares of particles that stand for values which are enumerated."""
    shape = (count, scored.size)
    log_share, sites = None, scored.sites
    if listing is not None:
        log_share, sites = _shares(sites, listing, shape)

    def total(logs: list[Tensor]) -> Tensor:
        nothing = scored.like.new_zeros(()).expand(shape)
        return sum(logs[1:], logs[0]) if logs else nothing

    latent = [s for s in sites.values() if s.q is not None]
    observed = [s for s in sites.values() if s.q is None]
    return Terms(
        total([s.log_p for s in observed if s.log_p is not None]),
        total([s.log_p for s in latent if s.log_p is not None]),
        total([s.log_q for s in latent if s.log_q is not None]),
        sites,
        scored.scale,
        log_share=log_share,
        combinations=1 if listing is None else listing.combinations,
        aim=None if scored.aim is None else scored.aim.expand(shape).mean(0),
    )


def _shares(
    sites: dict[str, Site], listing: Listing, shape: tuple[int, int]
) -> tuple[Tensor, dict[str, Site]]:
    """`log q(y|x) - log K` of the enumerated latents y; and the sites, a value without probability with no density.

    So that what counts nothing is finite: its `log p` and `log q` are 0 and not minus infinity.
    """
    listed: Any = {name: sites[name] for name in listing.listed}
    logs = [site.log_share.expand(shape) for site in listed.values()]
    log_share = torch.stack(logs).sum(0) - math.log(listing.num_particles)
    none = log_share.isneginf()
    left = dict(sites)
    for name, site in listed.items():
        log_p = None if site.log_p is None else site.log_p.expand(shape)
        left[name] = site._replace(
            log_p=None if log_p is None else log_p.masked_fill(none, 0.0),
            log_q=site.log_q.expand(shape).masked_fill(none, 0.0),
        )
    return log_share, left


def _unmasked(site: Any) -> dict[str, Any]:
    """A site as it is without masks."""
    fn = site["fn"]
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    return {**site, "fn": fn, "mask": None}


def _check_names(p_sites: Sites, q_sites: Sites) -> None:
    """Raise `InputError` where model and guide do not draw the same latents."""
    drawn_by_guide = {name for name, s in q_sites.items() if not s["is_observed"]}
    missing = sorted(
        n
        for n, s in p_sites.items()
        if not s["is_observed"] and n not in drawn_by_guide and not is_summed(s)
    )
    if missing:
        text = f"latent site {missing[0]!r} of the model does not stand in the guide"
        if missing[0].endswith("_unobserved"):
            text += "; draw what is not observed there, or leave it out by poutine.mask"
        raise InputError(text)
    extra = sorted(
        n
        for n in drawn_by_guide - p_sites.keys()
        if not q_sites[n]["infer"].get("is_auxiliary")
    )
    if extra:
        raise InputError(f"site {extra[0]!r} of the guide does not stand in the model")


def _check_auxiliary(sites: dict[str, Site]) -> None:
    """Raise `InputError` where draws of the guide alone are not what a latent is computed from."""
    auxiliary = [n for n, s in sites.items() if s.p is None and s.drawn and not s.point]
    moves = any(
        s.p is not None and s.q is not None and not has_density(s.q)
        for s in sites.values()
    )
    if auxiliary and not moves:
        raise InputError(
            f"the guide draws the auxiliary site {auxiliary[0]!r} and no latent is a function of it (a Delta), so "
            "p(x, z) / q is no weight; leave it out of the guide's sites by poutine.block where it should not count"
        )


def _plates(site: Any) -> dict[int, Any]:
    """The plates around a site by their dimension, less the one of particles."""
    stack = site["cond_indep_stack"]
    return {f.dim: f for f in stack if f.vectorized and f.name != PARTICLES}


def _less_given(p_sites: Sites, q_sites: Sites) -> tuple[Sites, Sites]:
    """Without global sites that both programs were given by `poutine.condition`: what is asked for is given these."""
    observed = [
        name
        for name, site in q_sites.items()
        if site["is_observed"] and name in p_sites
    ]
    given = {n for n in observed if not _plates(q_sites[n]) and not _plates(p_sites[n])}
    if not given:
        return p_sites, q_sites
    p_left = {name: s for name, s in p_sites.items() if name not in given}
    return p_left, {name: s for name, s in q_sites.items() if name not in given}


class Plate(NamedTuple):
    """The plate of data: its dimension, its size, the scale of all sites, and whether they lie in no other plate."""

    dim: int
    size: int
    scale: float
    only: bool


def plate_of(p_sites: Sites, q_sites: Sites, args: Any, kwargs: Any) -> Plate:
    """The plate that all sites share: the one as long as the batch, or the outermost."""
    sites = [*q_sites.items(), *p_sites.items()]
    if not sites:
        raise InputError(
            "model and guide have no sample sites, so there is nothing to infer"
        )
    found = [
        {(f.dim, f.size): None for f in _plates(site).values()} for _, site in sites
    ]
    shared = [key for key in found[0] if all(key in other for other in found[1:])]
    if not shared:
        _refuse(p_sites, q_sites)
    if len(shared) > 1:
        rows = rows_of(args, kwargs)
        shared = [key for key in shared if key[1] == rows] or shared
    first, scale = sites[0][0], _scale(*sites[0])
    for name, site in sites[1:]:
        other = _scale(name, site)
        if other != scale and not math.isclose(other, scale, rel_tol=1e-6):
            raise InputError(
                f"sites {first!r} and {name!r} are scaled differently; weigh the KL by ELBO(beta=...)"
            )
    (dim, size), only = shared[0], max(map(len, found)) == 1
    return Plate(dim, size, scale, only)


def _scale(name: str, site: Any) -> float:
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() > 1:
        raise InputError(
            f"site {name!r} is scaled by a tensor of shape {tuple(scale.shape)}, and one datum by another than the "
            "next; take pyro.infer.Trace_ELBO, or scale all data alike"
        )
    return float(scale)


def _refuse(p_sites: Sites, q_sites: Sites) -> None:
    """Raise the `InputError` of sites that share no plate."""
    sites = {**q_sites, **p_sites}
    outside = [name for name, site in sites.items() if not _plates(site)]
    if not outside:
        first = next(iter(sites))
        one = next(iter(_plates(sites[first]).values()))
        for name, site in sites.items():
            other = _plates(site)
            if (one.dim, one.size) not in [(f.dim, f.size) for f in other.values()]:
                sizes = f"{one.size} and {next(iter(other.values())).size}"
                raise InputError(
                    f"sites {first!r} and {name!r} lie in data plates of different sizes, {sizes}"
                )
        raise InputError(
            "the sites of the guide lie in another plate than those of the model"
        )
    in_loop = [
        n
        for n in outside
        if any(not f.vectorized for f in sites[n]["cond_indep_stack"])
    ]
    if in_loop:
        raise InputError(
            f"site {in_loop[0]!r} lies in a loop over a plate, outside the data plate; "
            "draw all data at once in a pyro.plate at dim=-1"
        )
    latent = [n for n in outside if n in q_sites and not q_sites[n]["is_observed"]]
    if not latent or len(outside) == len(sites):
        raise InputError(
            f"site {outside[0]!r} lies outside the data plate; put it in a pyro.plate at dim=-1"
        )
    raise InputError(_global(latent, p_sites))


def _global(latent: list[str], p_sites: Sites) -> str:
    """Why latents outside the data plate cannot be weighed, and what can be done."""
    both = [name for name in latent if name in p_sites]
    if not both:
        return (
            f"the guide draws the latents of all data at once, at site {latent[0]!r} outside the data plate, so none "
            "has a weight of its own: take a guide with a site for each datum, such as AutoNormal"
        )
    given = ", ".join(f"{name!r}: {name}" for name in both)
    if both == latent:
        how = f"poutine.condition(model, data={{{given}}}) and poutine.condition(guide, data={{{given}}})"
    else:  # a transform: what it is made of is left out too
        how = (
            f"poutine.block(poutine.condition(model, data={{{given}}}), hide={both}) and "
            f"poutine.block(guide, hide={latent})"
        )
    return (
        f"latent site {latent[0]!r} lies outside the data plate, so all data share it and none has a weight of its "
        f"own: train with pyro.infer.Trace_ELBO, and evaluate what is given a draw of it, {how}"
    )


def log_probs(
    trace: Trace, sites: Sites, plate: Plate, lead: int | None, dim: int
) -> dict[str, Tensor]:
    """The log-probability of each site of a program for each datum; those in a sum stand together under `SUMMED`."""
    logs: dict[str, Tensor] = {}
    together: set[str] = set()
    if any(is_summed(site) for site in sites.values()):
        shape = (plate.size,) if lead is None else (lead, plate.size)
        particles = None if lead is None else dim
        together, total = log_sum(
            trace, sites, data=plate.dim, particles=particles, shape=shape
        )
        logs[SUMMED] = total
    for name, site in sites.items():
        if name not in together:
            logs[name] = _log_prob(name, site, plate, lead, dim)
    return logs


def _log_prob(name: str, site: Any, plate: Plate, lead: int | None, dim: int) -> Tensor:
    """The log-probability of a site for each datum, `(particles, batch)` or `(batch,)`, inner plates summed."""
    log_prob: Tensor = scale_and_mask(_density(name, site), mask=site["mask"])
    wanted = (plate.size,) if lead is None else (lead, plate.size)
    if plate.only and plate.dim == -1 and log_prob.shape == wanted:
        return log_prob

    # As large as the plates around the site; a dimension that is none of theirs was not declared.
    sizes = {d: f.size for d, f in _plates(site).items()} | (
        {} if lead is None else {dim: lead}
    )
    shape = [sizes.get(d, 1) for d in range(min(sizes), 0)]
    loose = [
        d
        for d in range(-log_prob.dim(), 0)
        if log_prob.shape[d] != 1 and d not in sizes
    ]
    if loose:
        raise InputError(
            f"site {name!r} has log-probabilities of shape {tuple(log_prob.shape)}, not (particles, data) = "
            f"{(lead or 1, plate.size)}; declare the event dimensions with .to_event()"
        )
    if log_prob.dim() > len(shape):
        log_prob = log_prob.reshape(log_prob.shape[log_prob.dim() - len(shape) :])
    log_prob = log_prob.expand(shape)

    # What is left are the particles, which lie furthest to the left, and the data.
    kept = {plate.dim} | (set() if lead is None else {dim})
    others = [d for d in range(-len(shape), 0) if d not in kept]
    return log_prob.sum(others) if others else log_prob


def _density(name: str, site: Any) -> Tensor:
    """The log-probability of the value of a site, whose event has to be as large as that of the distribution."""
    p, value = site["fn"], site["value"]
    try:
        log_prob: Tensor = p.log_prob(value)
    except (ValueError, RuntimeError) as error:
        size = len(p.event_shape)
        event = tuple(value.shape[value.dim() - size :])
        if event == tuple(p.event_shape):
            raise
        raise InputError(
            f"at site {name!r} a value of shape {event} meets a distribution of values of shape "
            f"{tuple(p.event_shape)}: model and guide must agree on it"
        ) from error
    return log_prob


def double(t: Tensor) -> Tensor:
    """The same numbers in float64, on the host where the device has no such numbers (MPS)."""
    return (t.cpu() if t.device.type == "mps" else t).double()
