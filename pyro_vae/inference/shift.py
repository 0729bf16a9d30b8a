"""A guide with its parameters moved, each datum's by an amount of its own."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.transforms import Transform
from torch.distributions.utils import lazy_property

from pyro_vae.data.fields import parts_of
from pyro_vae.data.inputs import Call
from pyro_vae.foundation.abstract import Around, Ignoring, forked_random
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.particles import Program, drawn, is_point, sample_sites
from pyro_vae.inference.terms import kind, plate_of

Deltas = Mapping[str, Tensor]


class Argument(NamedTuple):
    """Some of the numbers that fix a site's distribution and are free to be moved.

    Attributes:
        name: of an argument of the distribution; `None` for what a guide announces.
        transform: from reals to what the argument may be.
        axis: of the data in the reals of a single run, counted from the right.
        shape: of one datum's reals.
        replaced: whether the numbers are replaced and not moved: those of a guide's first latent, which depend on
            nothing but the data, so that the encoder need not run again.
    """

    name: str | None
    transform: Transform | None
    axis: int
    shape: torch.Size
    replaced: bool = False

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.shape.numel()


Layout = Mapping[str, list[Argument]]


class Shift(Messenger):
    """Moves the parameters of each site that has a delta, `(batch, P)`.

    The parameters are what a guide of this package announces, or else the arguments of the site's distribution, each
    mapped to reals by `transform_to` its constraint and put side by side.

    Args:
        deltas: by site.
        layout: of the parameters of each site, by `starting`.
    """

    def __init__(self, deltas: Deltas, layout: Layout) -> None:
        super().__init__()
        self.deltas, self.layout = deltas, layout

    def _pyro_parameters(self, msg: Any) -> None:
        if msg["name"] in self.deltas and self.layout[msg["name"]][0].replaced:
            msg["value"], msg["done"] = self.deltas[msg["name"]], True

    def _pyro_post_parameters(self, msg: Any) -> None:
        if msg["name"] in self.deltas and not self.layout[msg["name"]][0].replaced:
            msg["value"] = msg["value"] + self.deltas[msg["name"]]

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.deltas and self.layout[name][0].name is not None:
            msg["fn"] = _moved(msg["fn"], self.deltas[name], self.layout[name])


class _Parameters(Messenger):
    """Writes down which sites announce their parameters, and which of them before anything is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: dict[str, Tensor] = {}
        self.first: str | None = None
        self.begun = False

    def _pyro_post_parameters(self, msg: Any) -> None:
        self.announced[msg["name"]] = msg["value"]
        if not self.begun:
            self.first = msg["name"]

    def _pyro_sample(self, msg: Any) -> None:
        self.begun = self.begun or not site_is_subsample(msg)


def starting(
    guide: Program, call: Call
) -> tuple[dict[str, list[Argument]], dict[str, Tensor]]:
    """The parameters of each site of a guide that is a draw with a density, and deltas that leave all as it is.

    Raises:
        InputError: for a guide without one, or with a distribution whose arguments are not known.
    """
    with forked_random(), torch.no_grad(), _Parameters() as look:
        trace = poutine.trace(guide).get_trace(*call.args, **call.kwargs)
    sites = sample_sites(trace)
    data = plate_of({}, sites, call.args, call.kwargs).dim
    layout: dict[str, list[Argument]] = {}
    deltas: dict[str, Tensor] = {}
    for name, site in sites.items():
        if name in look.announced:
            value, shape = look.announced[name], look.announced[name].shape[1:]
            replaced = name == look.first
            layout[name] = [Argument(None, None, -1 - len(shape), shape, replaced)]
            deltas[name] = value if replaced else torch.zeros_like(value)
        elif drawn(site) and not is_point(site["fn"]):
            layout[name] = _arguments(name, site["fn"], data)
            size = sum(argument.size for argument in layout[name])
            deltas[name] = _like(site["fn"]).new_zeros(len(call), size)
    if not layout:
        raise InputError(
            "the guide is a point for each datum and has no ELBO to refine; take one with a density"
        )
    return layout, deltas


def _like(d: Any) -> Tensor:
    """A number of a distribution, for its type and device."""
    core = _core(d)
    value: Tensor = getattr(core, _free(core)[0][0])
    return value


def _core(d: Any) -> Any:
    """The distribution whose arguments decide, inside of what only wraps it."""
    while isinstance(d, (torch.distributions.Independent, dist.MaskedDistribution)):
        d = d.base_dist
    if (
        isinstance(d, torch.distributions.TransformedDistribution)
        and not d.arg_constraints
    ):
        return _core(d.base_dist)
    return d


def _arguments(name: str, d: Any, data: int) -> list[Argument]:
    """The arguments of a site's distribution that are real numbers."""
    core = _core(d)
    # Dimensions that a wrapper counts as one event stand at the right of the data among those of the core.
    inner = len(core.batch_shape) - len(d.batch_shape)
    found = []
    for argument, constraint in _free(core):
        value = getattr(core, argument)
        transform = transform_to(constraint)
        reals = transform.inv(value)
        own = reals.dim() - len(core.batch_shape)  # of a vector or matrix
        axis = data - inner - own
        reals = reals.expand(
            torch.broadcast_shapes(reals.shape, core.batch_shape + (1,) * own)
        )
        found.append(
            Argument(argument, transform, axis, reals.movedim(axis, 0).shape[1:])
        )
    if not found:
        raise InputError(
            f"site {name!r} of the guide is a {kind(d)}, whose parameters are not known, so it cannot be refined"
        )
    return found


def _made_from(core: Any) -> dict[str, Any]:
    """The arguments that a distribution was made from, with their constraints: what it does not work out when asked."""
    arguments = {}
    for name, constraint in core.arg_constraints.items():
        lazy = isinstance(inspect.getattr_static(type(core), name, None), lazy_property)
        if name in core.__dict__ or not lazy:
            arguments[name] = constraint
    if {"probs", "logits"} <= arguments.keys():
        del arguments["probs"]
    return arguments


def _free(core: Any) -> list[tuple[str, Any]]:
    """Those of them that can be moved."""
    return [(name, c) for name, c in _made_from(core).items() if _is_free(c)]


def _is_free(constraint: Any) -> bool:
    """Whether any reals can be mapped to what a constraint allows; not so where other arguments decide."""
    try:
        transform_to(constraint)
        return not constraint.is_discrete
    except NotImplementedError:
        return False


def _moved(d: Any, delta: Tensor, layout: list[Argument]) -> Any:
    """The distribution with its arguments moved."""
    if isinstance(d, torch.distributions.Independent):
        return _moved(d.base_dist, delta, layout).to_event(d.reinterpreted_batch_ndims)
    if isinstance(d, dist.MaskedDistribution):
        return _moved(d.base_dist, delta, layout).mask(d._mask)
    if (
        isinstance(d, torch.distributions.TransformedDistribution)
        and not d.arg_constraints
    ):
        return dist.TransformedDistribution(
            _moved(d.base_dist, delta, layout), d.transforms
        )
    arguments = {}
    for piece, argument in zip(
        delta.split([a.size for a in layout], -1), layout, strict=True
    ):
        assert argument.name is not None
        assert argument.transform is not None
        move = (
            piece.unflatten(-1, argument.shape) if argument.shape else piece.squeeze(-1)
        )
        move = move.movedim(0, argument.axis)
        reals = argument.transform.inv(getattr(d, argument.name))
        arguments[argument.name] = argument.transform(reals + move)
    fixed = {name: getattr(d, name) for name in _made_from(d) if name not in arguments}
    return type(d)(**arguments, **fixed, validate_args=False)


class Shifted(Around):
    """A guide that takes what moves its parameters by `shift=`, a delta `(batch, P)` for each site."""

    def __init__(self, program: Program, layout: Layout) -> None:
        super().__init__(program)
        self.layout = layout

    def forward(self, *args: Any, shift: Deltas, **kwargs: Any) -> Any:
        with Shift(shift, self.layout):
            return self.program(*args, **kwargs)


class RefinedGuide(Around):
    """`q(z|x)` for the data it was fitted to, each with variational parameters of its own: a Pyro guide.

    Called with these data it does what the guide does that it came from, with other parameters; so it goes wherever a
    guide goes, `terms` and `log_marginal` among them. It knows no other data; `guide[rows]` is the guide of some of
    them.

    Attributes:
        program: the guide that it came from.
        start: for each site, the parameters of each datum or what they are moved by, as the guide has them, `(N, P)`.
        shift: the same after the fit.
        improved: for which data these were better than the start and were taken, `(N,)` booleans.

    Raises:
        InputError: when called with other data, or with another number of them.
    """

    def __init__(
        self,
        program: Program,
        layout: Layout,
        data: Call,
        *,
        start: Deltas,
        shift: Deltas,
        improved: Tensor,
    ) -> None:
        super().__init__(program)
        self.layout, self.data, self.start = layout, data, start
        self.shift, self.improved = shift, improved

    @classmethod
    def joined(cls, parts: list["RefinedGuide"], data: Call) -> "RefinedGuide":
        """The guide of all data, from those of parts of them one after the other."""

        def together(name: str) -> Deltas:
            deltas = [getattr(part, name) for part in parts]
            return {
                site: torch.cat([delta[site] for delta in deltas]) for site in deltas[0]
            }

        return cls(
            parts[0].program,
            parts[0].layout,
            data,
            start=together("start"),
            shift=together("shift"),
            improved=torch.cat([part.improved for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.improved)

    def __getitem__(self, rows: Any) -> "RefinedGuide":
        """The guide of some of the data; `rows` as for a tensor."""
        return RefinedGuide(
            self.program,
            self.layout,
            self.data[rows],
            start={site: delta[rows] for site, delta in self.start.items()},
            shift={site: delta[rows] for site, delta in self.shift.items()},
            improved=self.improved[rows],
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.check(Call(args[0], args[1:], kwargs))
        with Shift(self.shift, self.layout):
            return self.program(*args, **kwargs)

    def check(self, call: Call) -> None:
        """Raise `InputError` unless a call is with the data that the guide was fitted to."""
        pairs = zip(parts_of(call.data), parts_of(self.data.data), strict=False)
        if len(call) != len(self) or not all(torch.equal(a.to(b), b) for a, b in pairs):
            raise InputError(
                f"this q(z|x) was refined for {len(self)} data and is called with {len(call)} others; "
                "guide[rows] is that of some of them"
            )

    def pair(self, model: Program) -> tuple[Program, Program]:
        """Model and guide that are called with any rows of the data and `shift=` of these."""
        return Ignoring(model, "shift"), Shifted(self.program, self.layout)


def paired(model: Program, guide: Program, call: Call) -> tuple[Program, Program, Call]:
    """The same, with what a refined guide knows of each datum among what both are called with."""
    if not isinstance(guide, RefinedGuide):
        return model, guide, call
    guide.check(call[:])
    return *guide.pair(model), call.named(shift=guide.shift)
