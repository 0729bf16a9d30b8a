"""What is asked of one program: draws of its latents, and the density of values that are given."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from pyro_vae.data.inputs import Call
from pyro_vae.foundation.abstract import Around, forked_random, is_own, lists
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.enumeration import Enumerated, is_summed
from pyro_vae.inference.particles import (
    PARTICLES,
    Particles,
    Program,
    Sites,
    draws_of,
    finite_of,
    is_finite,
    is_point,
    nothing,
    sample_sites,
    way_alone,
)
from pyro_vae.inference.terms import Plate, kind, log_probs, plate_of

Values = Mapping[str, Tensor]

# Of each observed site a value for each datum, the data first, and which axis they have at the site.
Observed = dict[str, tuple[Tensor, int]]


class Densities(NamedTuple):
    """Log-densities of given values for each datum, in nats, each `(num_values, batch)`.

    Attributes:
        latent: `log p(z)`, of the latents alone.
        joint: `log p(x, z)`, of all sites.
    """

    latent: Tensor
    joint: Tensor


class Given(Messenger):
    """Gives the sites of a program their values, `(num_values, *value)`, one of them after the other or all at once.

    A value stands as in a single run of the program; `dim` is the dimension of a plate of values around it, if there is
    one. Observed sites stay observed.
    """

    def __init__(self, values: Values, dim: int | None = None) -> None:
        super().__init__()
        self.values, self.dim = values, dim

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.values:
            return
        value = self.values[msg["name"]]
        if self.dim is not None:
            batch = value.dim() - 1 - msg["fn"].event_dim
            value = value.reshape(
                len(value), *[1] * (-self.dim - 1 - batch), *value.shape[1:]
            )
        msg["value"], msg["done"] = value, True


def draw(program: Program, call: Call, count: int) -> dict[str, Tensor]:
    """`count` draws of each latent of a program for each datum, by site: `(count, *value)`, a value as in a single run.

    Of a model these are draws of its prior, as what is observed stays as it is.
    """
    sites = draws_of(program, call.args, call.kwargs, count)
    return {name: _alone(site, count) for name, site in sites.items()}


def _alone(site: Any, count: int) -> Tensor:
    """Several values of a site without the dimensions that only set their plate apart."""
    value: Tensor = site["value"]
    sizes = {
        f.dim: f.size
        for f in site["cond_indep_stack"]
        if f.vectorized and f.name != PARTICLES
    }
    batch = [sizes.get(d, 1) for d in range(min(sizes, default=0), 0)]
    event = value.shape[value.dim() - site["fn"].event_dim :]
    return value.reshape(count, *batch, *event)


def score(program: Program, call: Call, values: Values) -> Densities:
    """The log-density of given values of a program's latents for each datum, `(num_values, batch)`.

    Finite latents without a value are summed out. Differentiable in the values.

    Works for a model and for a guide, which has no observed sites.

    Args:
        program: a Pyro program of sites in one plate of data.
        call: what it is called with.
        values: by site, `(num_values, *value)`, as `draw` gives them.

    Raises:
        InputError: as `terms`, and for a latent without a value that cannot be summed out.
    """
    count = len(next(iter(values.values()))) if values else 1
    dim = way_alone(program, call.args, call.kwargs) if values else None
    if dim is not None:
        return _scored(program, call, values, count, dim)
    each = [{name: value[k] for name, value in values.items()} for k in range(count)]
    parts = [_scored(program, call, some, None, -2) for some in each]
    return Densities(*(torch.stack(column) for column in zip(*parts, strict=True)))


def _scored(
    program: Program, call: Call, values: Values, count: int | None, dim: int
) -> Densities:
    """The scores of `count` values in a plate at `dim`, or without one of a single run, `(batch,)`."""
    around = nullcontext() if count is None else Particles(count, dim)
    with around, Given(values, None if count is None else dim):
        trace = poutine.trace(_complete(program, call, values)).get_trace(
            *call.args, **call.kwargs
        )
    sites = sample_sites(trace)
    _check(sites, values)
    plate = _plate(sites, call)
    shape = (plate.size,) if count is None else (count, plate.size)
    nothing = torch.zeros((), device=next(iter(sites.values()))["value"].device)

    def total(some: Sites) -> Tensor:
        logs = log_probs(trace, some, plate, count, dim).values()
        return sum(logs, nothing).expand(shape)

    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    if any(
        is_summed(site) for site in latents.values()
    ):  # what is observed has a part in the sum
        return Densities(total(latents), total(sites))
    latent = total(latents)
    observed = {name: site for name, site in sites.items() if name not in latents}
    return Densities(latent, latent + total(observed))


def _complete(program: Program, call: Call, values: Values) -> Program:
    """The program with its finite latents that have no value summed out."""
    if is_own(program) and not lists(program):
        return program
    finite = finite_of(program, nothing, call.args, call.kwargs)
    names = finite.names - values.keys()
    return Enumerated(program, finite._replace(names=names)) if names else program


def _check(sites: Sites, values: Values) -> None:
    """Raise `InputError` for a latent that has neither a value nor a sum, or whose density is not known."""
    for name, site in sites.items():
        if site["is_observed"] or is_summed(site):
            continue
        if name not in values:
            raise InputError(
                f"latent site {name!r} has no value, and its {kind(site['fn'])} takes too many to sum over them"
            )
        if is_point(site["fn"]):
            raise InputError(
                f"site {name!r} is computed from other draws, so its density at a value that is given is not known; "
                "take a program that draws it from a distribution"
            )


class Flat:
    """The latents of a pair as one vector of reals for each datum, and back.

    A latent with constraints, such as a positive one, is mapped to reals by `biject_to` of its support; its vector has
    `D_s` entries, and all of them side by side are `D`.

    Args:
        program: whose latents these are: a model, or a guide.
        call: what it is called with.

    Raises:
        InputError: where there is no latent, or one is discrete.
    """

    def __init__(self, program: Program, call: Call) -> None:
        self.parts: dict[str, _Part] = {}
        sites = run_of(program, call)
        plate = _plate(sites, call)
        for name, site in sites.items():
            if site["is_observed"] or is_finite(site["fn"]):
                continue
            if _is_discrete(site["fn"]):
                raise InputError(
                    f"latent site {name!r} is discrete, a {kind(site['fn'])}, and only reals move along gradients: "
                    "take log p(x) by importance weighting, which is exact where all values are enumerated"
                )
            self.parts[name] = _Part.of(site, plate.dim)
        if not self.parts:
            raise InputError(
                "the latents of this model are discrete, and only reals move along gradients"
            )

    @property
    def size(self) -> int:
        """D."""
        return sum(part.size for part in self.parts.values())

    def vector(self, values: Values) -> Tensor:
        """`{site: (num_values, *value)}` -> `(num_values, batch, D)`."""
        return torch.cat(
            [part.vector(values[name]) for name, part in self.parts.items()], -1
        )

    def values(self, vector: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """`(num_values, batch, D)` -> the values by site, and `log |d values / d vector|`, `(num_values, batch)`."""
        values: dict[str, Tensor] = {}
        total = vector.new_zeros(vector.shape[:-1])
        pieces = vector.split([part.size for part in self.parts.values()], -1)
        for (name, part), piece in zip(self.parts.items(), pieces, strict=True):
            values[name], log_jacobian = part.value(piece)
            if log_jacobian is not None:
                total = total + log_jacobian
        return values, total


class _Part(NamedTuple):
    """One latent among those of a `Flat`.

    Attributes:
        transform: from reals to its support; `None` where that is all reals.
        axis: of the data in a single value, counted from the right.
        shape: of one datum's reals.
    """

    transform: Transform | None
    axis: int
    shape: torch.Size

    @classmethod
    def of(cls, site: Any, data: int) -> "_Part":
        value, fn = site["value"], site["fn"]
        transform = None if _is_real(fn.support) else biject_to(fn.support)
        reals = value if transform is None else transform.inv(value)
        axis = data - fn.event_dim + (value.dim() - reals.dim())
        return cls(transform, axis, reals.movedim(axis, 0).shape[1:])

    @property
    def size(self) -> int:
        return self.shape.numel()

    def vector(self, value: Tensor) -> Tensor:
        reals = value if self.transform is None else self.transform.inv(value)
        rows = reals.movedim(self.axis, 1)
        return rows.reshape(*rows.shape[:2], self.size)

    def value(self, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        reals = (
            vector.unflatten(-1, self.shape).movedim(1, self.axis)
            if self.shape
            else vector.squeeze(-1)
        )
        if self.transform is None:
            return reals, None
        value = self.transform(reals)
        log_jacobian = self.transform.log_abs_det_jacobian(reals, value)
        at = self.axis + reals.dim() - log_jacobian.dim()
        log_jacobian = log_jacobian.movedim(at, 1)
        return value, log_jacobian.flatten(2).sum(
            -1
        ) if log_jacobian.dim() > 2 else log_jacobian


def _plate(sites: Sites, call: Call) -> Plate:
    """The plate of data of a program by itself."""
    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    return plate_of(sites, latents, call.args, call.kwargs)


def run_of(program: Program, call: Call) -> Sites:
    """The sites of one run of a program, which draws no numbers of what is counted."""
    with forked_random(), torch.no_grad():
        return sample_sites(poutine.trace(program).get_trace(*call.args, **call.kwargs))


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)


def _is_discrete(d: Any) -> bool:
    try:
        return bool(d.support.is_discrete)
    except (AttributeError, NotImplementedError):  # no support is told
        return False


def simulate(model: Program, call: Call) -> tuple[dict[str, Tensor], Observed]:
    """Latents drawn from the prior, as `(1, *value)`, and data drawn given these, for each datum of a call.

    What the call holds as data says how many there are and is not looked at otherwise.

    Raises:
        InputError: for a model with a `pyro.factor`, whose density is no product of distributions.
    """
    trace = poutine.trace(poutine.uncondition(model)).get_trace(
        *call.args, **call.kwargs
    )
    sites = sample_sites(trace)
    plate = _plate(sites, call)
    latents: dict[str, Tensor] = {}
    observed: Observed = {}
    for name, site in sites.items():
        if isinstance(getattr(site["fn"], "base_dist", site["fn"]), dist.Unit):
            if not is_own(model):
                raise InputError(
                    f"the model has a factor {name!r}, so data drawn from its sites are not those of its density"
                )
            continue
        if site["infer"].get("was_observed"):
            axis = plate.dim - site["fn"].event_dim
            observed[name] = (site["value"].movedim(axis, 0), axis)
        else:
            latents[name] = site["value"].unsqueeze(0)
    return latents, observed


def data_axis(sites: Sites, call: Call) -> dict[str, int]:
    """Which axis, counted from the right, the data have in a value of each site of a run."""
    plate = _plate(sites, call)
    return {name: plate.dim - site["fn"].event_dim for name, site in sites.items()}


class Observing(Around):
    """A model that is told what was observed, `program(x, observed=...)`, in place of what x says."""

    def forward(self, *args: Any, observed: Observed, **kwargs: Any) -> Any:
        data = {
            name: value.movedim(0, axis) for name, (value, axis) in observed.items()
        }
        with poutine.condition(data=data):
            return self.program(*args, **kwargs)
