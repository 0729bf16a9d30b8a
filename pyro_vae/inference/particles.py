"""How a pair draws several particles: all at once where that gives what single draws give, else one after the other."""

import math
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae.foundation.abstract import (
    MOST_LISTED,
    AbstractProgram,
    Around,
    forked_random,
    is_own,
    lists,
)

PARTICLES = "particles"
PAIRS = 64  # that are remembered, and for each of them
SHAPES = 32  # as many kinds of batches
TRIED = 3  # particles that a pair is tried with
# Rounding of a log-probability, relative.
EXACT = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
}

Program = Callable[..., Any]
Sites = dict[str, Any]


class ParticleWarning(UserWarning):
    """A pair is run once for each particle; the message says why, and what it costs."""


class Particles(IndepMessenger):
    """`pyro.plate("particles", size, dim=dim)` without a site of its own for indices that nobody reads."""

    def __init__(self, size: int, dim: int = -2) -> None:
        super().__init__(PARTICLES, size, dim=dim)

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        shape = getattr(msg["fn"], "batch_shape", (self.size, None))
        if len(shape) != 2 or shape[0] != self.size:
            BroadcastMessenger._pyro_sample(msg)


class Way(NamedTuple):
    """How a pair draws particles of batches of one kind.

    Attributes:
        dim: of the plate of particles, at the left of all others; `None` to draw one after the other.
        modes: the modules that ran when this was found, and whether each was in training mode.
    """

    dim: int | None
    modes: tuple[tuple[Any, bool], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the modules that are left are in the mode in which this was found."""
        found = ((module(), training) for module, training in self.modes)
        return all(
            module is None or module.training == training for module, training in found
        )


AT_ONCE = Way(-2)
SINGLY = Way(None)


class Finite(NamedTuple):
    """The latents of a pair that take few values.

    Attributes:
        names: of those that the guide leaves to the model, which are summed out there.
        dim: the first dimension at the left of all plates of the pair.
        listed: of those that the guide draws and that are to be enumerated, how many values each takes.
        exact: whether these are all that the guide draws.
    """

    names: frozenset[str]
    dim: int
    listed: Mapping[str, int] = MappingProxyType({})
    exact: bool = False


class Listing(Messenger):
    """Gives latents of few values all of these in turn, one in each particle, in the place of draws.

    With N combinations of their values and K draws of the other latents there are `N K` particles, those of one
    combination side by side. What a combination weighs is its probability under the guide.

    Args:
        listed: how many values each of these sites of a guide takes.
        num_particles: K.
        dim: of the plate of particles.
    """

    def __init__(
        self, listed: Mapping[str, int], num_particles: int, dim: int = -2
    ) -> None:
        super().__init__()
        self.listed, self.num_particles, self.dim = listed, num_particles, dim
        self.combinations = math.prod(listed.values())
        self.alone: int | None = None  # the particle that is run by itself

    @property
    def size(self) -> int:
        """N K."""
        return self.combinations * self.num_particles

    def _pyro_sample(self, msg: Any) -> None:
        count, fn = self.listed.get(msg["name"]), msg["fn"]
        if count is None or msg["is_observed"] or msg["value"] is not None:
            return
        values = fn.enumerate_support(expand=False).reshape(count, *fn.event_shape)
        if self.alone is not None:
            value = values[int(self._place(msg["name"], torch.tensor(self.alone)))]
            msg["value"] = value.expand(fn.batch_shape + fn.event_shape)
            return
        places = self._place(msg["name"], torch.arange(self.size, device=values.device))
        inner = [1] * (-self.dim - 1)
        msg["value"] = values[places].reshape(self.size, *inner, *fn.event_shape)

    def _place(self, name: str, particle: Tensor) -> Tensor:
        """Which value of a site a particle has: the last site's changes fastest."""
        sites = [*self.listed]
        after = [self.listed[other] for other in sites[sites.index(name) + 1 :]]
        combination = particle // self.num_particles
        return (combination // math.prod(after)) % self.listed[name]


class _Known:
    """What is known of a pair that is not of this package."""

    def __init__(self) -> None:
        self.ways: OrderedDict[Hashable, Way] = OrderedDict()
        self.points: OrderedDict[Hashable, frozenset[str]] = OrderedDict()
        self.together: bool | None = None
        self.finite: OrderedDict[Hashable, Finite] = OrderedDict()
        self.said: set[str] = set()

    def say(self, about: str, text: str) -> None:
        """Warn once of each thing."""
        if about not in self.said:
            self.said.add(about)
            warnings.warn(text, ParticleWarning, stacklevel=6)


class _Memory:
    """`_Known` of the last pairs, held as long as they live. A bound method is its object and its function."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[Hashable, tuple[list[Any], _Known]] = OrderedDict()

    def of(self, *programs: Program) -> _Known:
        """What is known of a pair; of programs that nothing can point to weakly, nothing is remembered."""
        parts = [part for program in programs for part in _identity(program)]
        key = tuple(id(part) for part in parts)
        references, known = self._pairs.get(key, ([], None))
        if known is None or any(
            r() is not p for r, p in zip(references, parts, strict=True)
        ):
            known = _Known()
            try:
                self._pairs[key] = ([weakref.ref(part) for part in parts], known)
            except TypeError:
                return known
        self._pairs.move_to_end(key)
        while len(self._pairs) > PAIRS:
            self._pairs.popitem(last=False)
        return known


_memory = _Memory()


def _identity(program: Any) -> tuple[Any, ...]:
    if isinstance(program, Around):
        return _identity(program.program)
    owner, function = (
        getattr(program, "__self__", None),
        getattr(program, "__func__", None),
    )
    return (program,) if owner is None or function is None else (owner, function)


# Modules of torch that treat all dimensions but the last, or each element, alike.
_ELEMENTWISE = {
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LayerNorm,
    nn.LeakyReLU,
    nn.Linear,
    nn.LogSigmoid,
    nn.Mish,
    nn.RMSNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
}
_CONTAINERS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
)
# Whose modules take any leading dimensions as parts of ours.
_TRUSTED = (
    "pyro_vae",
    "pyro",
    "zuko",
)


def _takes_leading(module: nn.Module) -> bool:
    """Whether a part of a program of this package is known to take dimensions at the left of the data."""
    if isinstance(module, (AbstractProgram, Around)) or type(module) in _CONTAINERS:
        return all(_takes_leading(child) for child in module.children())
    bases = {cls.__module__.partition(".")[0] for cls in type(module).__mro__}
    return type(module) in _ELEMENTWISE or not bases.isdisjoint(_TRUSTED)


_own: "weakref.WeakKeyDictionary[Any, tuple[Any, bool]]" = weakref.WeakKeyDictionary()


def listed_of(
    model: Program, guide: Program, args: Any, kwargs: Any
) -> Mapping[str, int]:
    """The latents of a guide that are enumerated, and how many values each takes; found out at the first call."""
    if is_own(guide) and not lists(guide):
        return {}
    return finite_of(model, guide, args, kwargs).listed


def draws_nothing(model: Program, guide: Program, args: Any, kwargs: Any) -> bool:
    """Whether all latents of a guide are enumerated, so that one particle says all."""
    if is_own(guide) and not lists(guide):
        return False
    return finite_of(model, guide, args, kwargs).exact


def takes_particles(model: Program, guide: Program) -> bool:
    """Whether a pair is of this package and of parts that are known to take any leading dimensions."""
    if not is_own(model, guide):
        return False
    reference, answer = _own.get(model, (None, False))
    if reference is None or reference() is not guide:
        programs = [
            program for program in (model, guide) if isinstance(program, nn.Module)
        ]
        answer = all(_takes_leading(program) for program in programs)
        _own[model] = (weakref.ref(guide), answer)
    return answer


class _Untouched(TorchFunctionMode):
    """Leaves the buffers of all modules that run inside as they were, and drops nothing out.

    With `still`, batch normalisation takes its running statistics, so that no datum sees the others.
    """

    dropouts = (
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
    )

    def __init__(self, *, still: bool = False) -> None:
        super().__init__()
        self.still = still
        self.modules: dict[nn.Module, dict[str, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.dropouts:
            return args[0] if args else kwargs["input"]
        if (
            self.still and func is F.batch_norm and args[1] is not None
        ):  # running statistics
            kwargs = {**kwargs, "training": False}
        return func(*args, **kwargs)

    def __enter__(self) -> "_Untouched":
        register = nn.modules.module.register_module_forward_pre_hook
        self._hook = register(self._remember)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hook.remove()
        with torch.no_grad():
            for module, buffers in self.modules.items():
                for name, value in buffers.items():
                    module._buffers[name].copy_(value)  # type: ignore[union-attr]

    def _remember(self, module: nn.Module, _: Any) -> None:
        if module not in self.modules:
            buffers = {
                n: b.detach().clone()
                for n, b in module._buffers.items()
                if b is not None
            }
            self.modules[module] = buffers

    @property
    def modes(self) -> tuple[tuple[Any, bool], ...]:
        return tuple((weakref.ref(module), module.training) for module in self.modules)


@contextmanager
def _aside() -> Iterator[None]:
    """Run something that is no part of what is counted, or written down as a graph, and draws no numbers of it."""
    with forked_random(), _disable_current_modes():
        yield


def drawn(site: Any) -> bool:
    """Whether a site of a trace is a draw from a distribution, not an observation and no choice of a subsample."""
    return (
        site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
    )


def nodes_of(trace: Trace) -> dict[str, Any]:
    """The sites of a trace by name."""
    nodes: Any = trace.nodes
    return nodes  # type: ignore[no-any-return]


def sample_sites(trace: Trace) -> Sites:
    """The sample sites of a trace that have a density, by name."""
    sites: Any = prune_subsample_sites(trace).nodes.items()
    return {
        name: site
        for name, site in sites
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    }


def shown(trace: Trace, change: Callable[[str, Any], Any]) -> Trace:
    """A copy of a trace in which the value of each draw is `change(name, value)`."""
    seen = trace.copy()
    for name, site in seen.nodes.items():
        if drawn(site) and isinstance(site["value"], Tensor):
            seen.nodes[name] = {**site, "value": change(name, site["value"])}
    return seen


def _kept(trace: Trace, wanted: Callable[[Any], bool]) -> Trace:
    """A copy of a trace with some of its sample sites, and nothing else."""
    kept = trace.copy()
    for name, site in list(kept.nodes.items()):
        if site["type"] != "sample" or not wanted(site):
            kept.remove_node(name)
    return kept


def _chosen(trace: Trace) -> Trace:
    """Only what plates chose as their subsample."""
    return _kept(trace, site_is_subsample)


def at_once(
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    *,
    count: int,
    dim: int = -2,
    listing: Listing | None = None,
) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, both in a plate of particles: (model, guide).

    With a `listing` of latents the particles are as many as it says.
    """
    with Particles(count if listing is None else listing.size, dim):
        with listing or nullcontext():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        seen = shown(guide_trace, lambda _, v: v.view_as(v) if v.requires_grad else v)
        model_trace = poutine.trace(poutine.replay(model, trace=seen)).get_trace(
            *args, **kwargs
        )
    return model_trace, guide_trace


class Singles(NamedTuple):
    """Draws that were made one after the other.

    Attributes:
        pairs: traces of (model, guide).
        values: of each latent, `(count, ...)` for all draws.
        seen: views of these, of which the models saw slices: a gradient hook on one acts on what comes from them alone.
    """

    pairs: list[tuple[Trace, Trace]]
    values: dict[str, Tensor]
    seen: dict[str, Tensor]


def singly(
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    *,
    count: int,
    listing: Listing | None = None,
) -> Singles:
    """`count` draws, or those that a `listing` says, all of one subsample where the pair chooses one."""
    guides: list[Trace] = []
    for particle in range(count if listing is None else listing.size):
        run = poutine.replay(guide, trace=_chosen(guides[0])) if guides else guide
        if listing is not None:
            listing.alone = particle
        with listing or nullcontext():
            guides.append(poutine.trace(run).get_trace(*args, **kwargs))
    names = [name for name, site in guides[0].nodes.items() if drawn(site)]
    values = {
        name: torch.stack([nodes_of(g)[name]["value"] for g in guides])
        for name in names
    }
    seen = {name: v.view_as(v) if v.requires_grad else v for name, v in values.items()}
    pairs: list[tuple[Trace, Trace]] = []
    for k, trace in enumerate(guides):
        of_run = shown(trace, lambda name, _, k=k: seen[name][k])  # type: ignore[misc]
        run = poutine.replay(model, trace=of_run)
        pairs.append((poutine.trace(run).get_trace(*args, **kwargs), trace))
    return Singles(pairs, values, seen)


def _kind(value: Any) -> Hashable:
    """What tells batches apart that a pair may treat differently: shapes, and plain values."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(_kind(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, _kind(part)) for name, part in value.items())
    if isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__qualname__


def way_of(model: Program, guide: Program, args: Any, kwargs: Any) -> Way:
    """How a pair draws several particles of a batch of this kind; found out at the first.

    A vectorised draw has to score as each of its particles does alone, under the guide and under the model. A pair that
    failed in this once is run for each particle from then on, which a `ParticleWarning` says.
    """
    if takes_particles(model, guide):
        return AT_ONCE
    known = _memory.of(model, guide)
    known.ways = OrderedDict((key, way) for key, way in known.ways.items() if way.holds)
    if any(way.dim is None for way in known.ways.values()):
        return SINGLY
    key = _kind([args, kwargs])
    if key not in known.ways:
        known.ways[key], reason = _tried(model, guide, args, kwargs)
        if reason:
            known.say(
                "particles",
                f"the pair is run once for each particle, which takes as many times as long: {reason}",
            )
        _forget(known.ways)
    return known.ways[key]


def _tried(model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Way, str]:
    """The way that a batch takes, and why it is the slow one."""
    with _aside(), _Untouched() as untouched:
        ((p, q),) = singly(model, guide, args, kwargs, count=1).pairs
        sites = [*sample_sites(p).values(), *sample_sites(q).values()]
        plates = [f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized]
        dim = min(plates, default=-1) - 1
        with _unlike(untouched.modules, p, q):
            reason = _difference(model, guide, args, kwargs, alone=(p, q), dim=dim)
    return Way(None if reason else dim, untouched.modes), reason


@contextmanager
def _unlike(modules: Iterable[nn.Module], *traces: Trace) -> Iterator[None]:
    """Let no parameter be one number throughout, such as zero, behind which differences would hide.

    Those of the modules and traces are moved by some noise and put back.
    """
    found: list[Any] = [p for module in modules for p in module._parameters.values()]
    for trace in traces:
        values = [
            site["value"]
            for site in nodes_of(trace).values()
            if site["type"] == "param"
        ]
        found += [
            v.unconstrained() if hasattr(v, "unconstrained") else v for v in values
        ]
    leaves = [
        p for p in dict.fromkeys(found) if p is not None and p.is_leaf and p.numel()
    ]
    flat = [
        p.data
        for p in leaves
        if p.is_floating_point() and bool((p == p.flatten()[0]).all())
    ]
    before = [p.clone() for p in flat]
    for p in flat:
        p.add_(torch.randn_like(p), alpha=0.1)
    try:
        yield
    finally:
        for p, value in zip(flat, before, strict=True):
            p.copy_(value)


def _difference(
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    *,
    alone: tuple[Trace, Trace],
    dim: int,
) -> str:
    """Why particles cannot be drawn at once, in words; empty where they can."""
    try:
        p, q = at_once(model, guide, args, kwargs, count=TRIED, dim=dim)
    except Exception as error:
        return (
            f"it fails where particles are a dimension at the left of the data ({_said(error)}); networks that take "
            "any leading dimensions are faster"
        )
    for k in (0, TRIED - 1):
        try:
            name = _apart(
                model, guide, args, kwargs, alone=alone, together=(p, q), dim=dim, k=k
            )
        except Exception as error:
            return f"one of several draws cannot be scored alone ({_said(error)})"
        if name is not None:
            return (
                f"where particles are a dimension at the left of the data, site {name!r} has another density than "
                "with one particle, as when z[:, 0] stands for z[..., 0] or a layer looks across the batch"
            )
    return ""


def _said(error: Exception) -> str:
    """An error of a pair in a few words, less what Pyro adds on shapes."""
    said = " ".join(str(error).partition("Trace Shapes:")[0].split()) or "no message"
    return f"{type(error).__name__}: {said[:150]}"


def _apart(
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    *,
    alone: tuple[Trace, Trace],
    together: tuple[Trace, Trace],
    dim: int,
    k: int,
) -> str | None:
    """The first site at which particle k of several scores otherwise than by itself."""
    p, q = together

    def single(name: str, value: Tensor) -> Tensor:
        batch = value.dim() - nodes_of(q)[name]["fn"].event_dim
        value = value.select(batch + dim, k) if batch >= -dim else value
        return value.reshape(nodes_of(alone[1])[name]["value"].shape)

    # A transform of other draws is computed again: its density is that of a single value.
    run = poutine.replay(
        guide, trace=_kept(shown(q, single), lambda s: not is_point(s["fn"]))
    )
    q_alone = poutine.trace(run).get_trace(*args, **kwargs)
    run = poutine.replay(model, trace=shown(q, single))
    p_alone = poutine.trace(run).get_trace(*args, **kwargs)

    # Every site, under the guide and then under the model.
    for several, one in ((q, q_alone), (p, p_alone)):
        sites, others = sample_sites(several), sample_sites(one)
        if sites.keys() != others.keys():
            return sorted(sites.keys() ^ others.keys())[0]
        for name, site in sites.items():
            ours = _measured(site)
            if ours.dim() >= -dim:
                ours = ours.select(dim, k if ours.shape[dim] > 1 else 0)
            if not _equal(ours, _measured(others[name])):
                return name
    return None


def _measured(site: Any) -> Tensor:
    """The log-probability of a site; for a point its density there and then, and its place is looked at too."""
    fn: Any = site["fn"]
    if drawn(site) and is_point(fn) and isinstance(fn, dist.Delta):
        batch = fn.v.reshape(*fn.batch_shape, -1).sum(-1)
        return batch + fn.log_density
    log_prob: Tensor = scale_and_mask(fn.log_prob(site["value"]), mask=site["mask"])
    return log_prob


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        return False
    bound = EXACT.get(a.dtype, 0.05)
    return torch.allclose(a, b, rtol=bound, atol=bound, equal_nan=True)


def is_point(q: Any) -> bool:
    """Whether a distribution is a single point."""
    return isinstance(getattr(q, "base_dist", q), dist.Delta)


def points_of(model: Program, guide: Program, args: Any, kwargs: Any) -> frozenset[str]:
    """The sites of a guide that are the same in every draw, as in `AutoDelta`: they have no density to weigh by.

    A point that moves is a transform of other draws, as in `AutoNormal`, and carries its log-Jacobian as density. Where
    neither these draws nor a density of the point can be seen, it counts as one without.
    """
    known, key = _memory.of(model, guide).points, _kind([args, kwargs])
    if key not in known:
        with _aside(), _Untouched():
            first = poutine.trace(guide).get_trace(*args, **kwargs)
            run = poutine.replay(guide, trace=_chosen(first))
            second = poutine.trace(run).get_trace(*args, **kwargs)
        names = [n for n, s in first.nodes.items() if drawn(s) and is_point(s["fn"])]
        sites, others = nodes_of(first), nodes_of(second)
        still = {n for n in names if torch.equal(sites[n]["value"], others[n]["value"])}
        dense = [
            s
            for s in sample_sites(first).values()
            if not drawn(s) or not is_point(s["fn"])
        ]
        if not dense:
            still |= {
                n for n in names if not sites[n]["fn"].log_prob(sites[n]["value"]).any()
            }
        known[key] = frozenset(still)
        _forget(known)
    return known[key]


def _forget(known: "OrderedDict[Hashable, Any]") -> None:
    """Keep what is known of the last kinds of batches."""
    while len(known) > SHAPES:
        known.popitem(last=False)


def wants_all(
    model: Program, guide: Program, part: Callable[[slice], tuple[Any, Any]], size: int
) -> bool:
    """Whether a pair has to be called with all data at once: it does not score some of them as it does among others.

    So a guide that holds numbers for each datum, or a network that looks across the batch. `part` gives what the pair
    is called with for some of the `size` data.
    """
    if is_own(model, guide) or size < 2:
        return False
    known = _memory.of(model, guide)
    if known.together is None:
        few = min(size, 8)
        some, less = part(slice(0, few)), part(slice(1, few))
        with _aside(), _Untouched(still=True) as untouched:
            try:
                (pair,) = singly(model, guide, *some, count=1).pairs
                with _unlike(untouched.modules, *pair):
                    known.together = _depends(model, guide, some, less, few)
            except Exception:  # with some of its data it cannot be run at all
                known.together = True
    return known.together


def _depends(model: Program, guide: Program, some: Any, less: Any, few: int) -> bool:
    """Whether the data from the second on score otherwise where the first is left out."""
    ((p, q),) = singly(model, guide, *some, count=1).pairs

    def later(name: str, value: Tensor) -> Tensor:
        site = nodes_of(q)[name]
        at: int = value.dim() - site["fn"].event_dim + _data_dim(site, few)
        return value.narrow(at, 1, few - 1)

    given = _kept(shown(q, later), drawn)
    moves = _kept(given, lambda s: not is_point(s["fn"]))
    q_less = poutine.trace(poutine.replay(guide, trace=moves)).get_trace(
        *less[0], **less[1]
    )
    run = poutine.replay(model, trace=given)
    p_less = poutine.trace(run).get_trace(*less[0], **less[1])
    for full, part in ((q, q_less), (p, p_less)):
        others = sample_sites(part)
        for name, site in sample_sites(full).items():
            log_prob = _measured(site)
            at = log_prob.dim() + _data_dim(site, few)
            if not _equal(log_prob.narrow(at, 1, few - 1), _measured(others[name])):
                return True
    return False


def _data_dim(site: Any, few: int) -> int:
    """The dimension of the data among those of a site's batch, from the right."""
    return next(
        f.dim for f in site["cond_indep_stack"] if f.vectorized and f.size == few
    )


def finite_of(model: Program, guide: Program, args: Any, kwargs: Any) -> Finite:
    """The latents of a pair that take few values; found out at the first batch of each kind."""
    known, key = _memory.of(model, guide), _kind([args, kwargs])
    if key not in known.finite:
        with _aside(), _Untouched():
            q = poutine.trace(guide).get_trace(*args, **kwargs)
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(*args, **kwargs)
        latents = {name for name, site in q.nodes.items() if drawn(site)}
        names = frozenset(
            name
            for name, site in sample_sites(p).items()
            if name not in latents and not site["is_observed"] and is_finite(site["fn"])
        )
        sites = [*sample_sites(p).values(), *sample_sites(q).values()]
        plates = [f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized]
        listed, reasons = _listed(q)
        for reason in reasons:
            known.say(
                reason, f"{reason}: it is drawn, and its gradient is a score function's"
            )
        exact = bool(listed) and latents == listed.keys()
        known.finite[key] = Finite(names, min(plates, default=-1) - 1, listed, exact)
        _forget(known.finite)
    return known.finite[key]


def _listed(guide: Trace) -> tuple[dict[str, int], list[str]]:
    """The draws of a guide that are to be enumerated, `infer={"enumerate": ...}`, and how many values each takes.

    Also why others are drawn all the same: a site has no list of values, or lies in a plate within that of the data,
    whose entries have a value each, or all combinations are too many.
    """
    listed: dict[str, int] = {}
    reasons = []
    for name, site in sample_sites(guide).items():
        if not drawn(site) or not site["infer"].get("enumerate"):
            continue
        plates = [f for f in site["cond_indep_stack"] if f.vectorized]
        if not _has_list(site["fn"]):
            reasons.append(f"site {name!r} of the guide has no list of its values")
        elif len(plates) > 1:
            reasons.append(
                f"site {name!r} of the guide has many values for each datum, one in each place of a plate"
            )
        else:
            listed[name] = len(site["fn"].enumerate_support(expand=False))
    combinations = math.prod(listed.values())
    if combinations <= MOST_LISTED:
        return listed, reasons
    many = f"the guide's latents {', '.join(listed)} take {combinations:,} combinations of values, more than the "
    return {}, [*reasons, f"{many}{MOST_LISTED:,} that are summed over exactly"]


def _has_list(d: Any) -> bool:
    if not d.has_enumerate_support:
        return False
    try:
        return len(d.enumerate_support(expand=False)) > 0
    except NotImplementedError:
        return False


def is_finite(d: Any) -> bool:
    """Whether a distribution lists its values: one number a draw, of few values."""
    return bool(getattr(d, "has_enumerate_support", False)) and not d.event_shape


def way_alone(program: Program, args: Any, kwargs: Any) -> int | None:
    """The dimension of several values in a program by itself, or `None` where it is run for each of them."""
    if is_own(program) and isinstance(program, nn.Module) and _takes_leading(program):
        return -2
    return way_of(nothing, program, args, kwargs).dim


def draws_of(guide: Program, args: Any, kwargs: Any, count: int) -> Sites:
    """The draws of a guide by itself, sites whose values are `(count, ...)`, by name; those of auxiliary sites too."""
    dim = way_alone(guide, args, kwargs)
    if dim is None:
        singles = singly(nothing, guide, args, kwargs, count=count)
        sites = sample_sites(singles.pairs[0][1])
        return {
            n: {**s, "value": singles.values[n]} for n, s in sites.items() if drawn(s)
        }
    with Particles(count, dim):
        sites = sample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    return {name: site for name, site in sites.items() if drawn(site)}


def nothing(*args: Any, **kwargs: Any) -> None:
    """The model of a guide by itself."""
