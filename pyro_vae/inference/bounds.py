"""Bounds of each datum and their means over a data set."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.inputs import Call, rows_within
from pyro_vae.engine.alike import Alike, by_all_threads
from pyro_vae.engine.memory import LARGEST_CHUNK, MEMORY, pieces
from pyro_vae.foundation.abstract import forked_random, is_own, localise, parameters_of
from pyro_vae.foundation.checks import Number, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.pairs import of_pair
from pyro_vae.inference.particles import Program, listed_of, wants_all
from pyro_vae.inference.shift import paired
from pyro_vae.inference.terms import Terms, double, terms


class Bound(NamedTuple):
    """Means over a data set, in nats per datum: `elbo = reconstruction - kl`."""

    elbo: float
    reconstruction: float
    kl: float


def scored(model: Program, guide: Program, batch: Call, num_particles: int) -> Terms:
    """The terms of a batch.

    Raises:
        InputError: as `terms`, and where the pair scores another number of data than it is given.
    """
    try:
        t = terms(
            model, guide, *batch.args, num_particles=num_particles, **batch.kwargs
        )
    except InputError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        sizes = set() if is_own(model, guide) else _sizes(guide, batch)
        if sizes and len(batch) not in sizes:
            raise InputError(_other_size(max(sizes), len(batch))) from error
        raise
    if t.log_px.shape[1] != len(batch):
        raise InputError(_other_size(t.log_px.shape[1], len(batch)))
    return t


def _other_size(found: int, given: int) -> str:
    return (
        f"the pair draws for {found} data and is called with {given}: it holds numbers for each of its data, or "
        "chooses some of them itself; give all the data that it was made for, and no others"
    )


def _sizes(guide: Program, batch: Call) -> set[int]:
    """How many data a guide draws for, by the plates around its sites; nothing where it fails for another reason."""
    with forked_random():
        try:
            found = poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)
        except Exception as error:
            text = re.search(
                r"Shape mismatch inside plate.* (\d+) vs (\d+)", str(error)
            )
            return set() if text is None else {int(text[2])}
    nodes: Any = found.nodes
    stacks = [s["cond_indep_stack"] for s in nodes.values() if s["type"] == "sample"]
    return {f.size for stack in stacks for f in stack if f.vectorized}


def called_whole(model: Program, guide: Program, data: Call) -> bool:
    """Whether a pair has to be called with all data at once."""

    def part(rows: slice) -> tuple[Any, Any]:
        some = data[rows]
        return some.args, some.kwargs

    return wants_all(model, guide, part, len(data))


def combinations(model: Program, guide: Program, data: Call) -> int:
    """How many combinations of values are enumerated of each datum: for so many a row of data is decoded."""
    first = data[:1]
    return math.prod(listed_of(model, guide, first.args, first.kwargs).values())


@of_pair  # type: ignore[arg-type]  # mypy: **kwargs could hold a model
@checked
def elbo(
    model: Program,
    guide: Program,
    x: Any,
    *args: Any,
    batch_size: Number = 1000,
    num_particles: Number = 1,
    **kwargs: Any,
) -> Bound:
    """The ELBO of a data set by Monte Carlo, `E_q[log p(x|z)] - E_q[log q(z|x) - log p(z)]`, averaged over the data.

    A pair that scores data otherwise than it does among others, as where a guide holds numbers for each datum, is
    called with all of them at once.

    Args:
        model: any Pyro model with a data plate, called with a batch of data; or a pair, without a guide behind it.
        guide: its guide, called with the same.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors. A pair that is not of
            this package may take a tuple or a dict of tensors, `program((x, y))`, and data sets of such items.
        *args: what both are called with beside a batch of x, `program(x, y)`; tensors of N rows are cut along with it.
        batch_size: data in memory at a time, fewer where they are large.
        num_particles: draws for each datum.
        **kwargs: the same by name.

    Raises:
        InputError: for an empty `x`, values that the model's likelihood does not accept, a pair that `terms` refuses,
            or one that draws for another number of data than it is given.
    """
    data = Call.of(model, x, args, kwargs)
    return mean_bound(
        *paired(model, guide, data), batch_size=batch_size, num_particles=num_particles
    )


def mean_bound(
    model: Program,
    guide: Program,
    x: Any,
    *,
    batch_size: int = 1000,
    num_particles: int = 1,
) -> Bound:
    """`elbo` of data that have been checked."""
    total = torch.zeros(2, dtype=torch.float64)

    def take(part: Tensor) -> None:
        total.add_(part.sum(1))

    each_bound(
        model, guide, x, take, batch_size=batch_size, num_particles=num_particles
    )
    reconstruction, kl = (total / len(x)).tolist()
    return Bound(reconstruction - kl, reconstruction, kl)


@torch.no_grad()
def each_bound(
    model: Program,
    guide: Program,
    x: Any,
    take: Callable[[Tensor], Any],
    *,
    batch_size: int = 1000,
    num_particles: int = 1,
    alike: Alike | None = None,
) -> None:
    """Give `take` the reconstruction and KL of each datum, batch by batch, `(2, batch)` in float64 on the host."""
    localise(model, guide)
    data = x if isinstance(x, Call) else Call(x)
    most = min(rows_within(data, MEMORY), LARGEST_CHUNK)
    call = by_all_threads if alike is None else alike

    def parts(batch: Call, count: int) -> list[Tensor]:
        t = scored(model, guide, batch, count)
        return [double(t.mean(t.log_px)), double(t.mean(t.log_qz - t.log_pz))]

    with parameters_of(model, guide):
        rows = len(data)
        if not called_whole(model, guide, data):
            each = num_particles * combinations(model, guide, data)
            rows = min(batch_size, max(1, most // each))

        def bound(batch: Call) -> Tensor:
            total = torch.zeros(2, 1, dtype=torch.float64)
            for count in pieces(num_particles, most):
                found = call((len(batch), count), partial(parts, batch, count))
                total = total + torch.stack(found).cpu() * (count / num_particles)
            return total

        for total in data.each(rows, bound):
            take(total)


@torch.no_grad()
def each_objective(
    model: Program,
    guide: Program,
    x: Any,
    objective: Objective,
    take: Callable[[Tensor], Any],
    *,
    alike: Alike | None = None,
) -> None:
    """Give `take` the bound of an objective at each datum, batch by batch, `(batch,)` in float64 on the host."""
    localise(model, guide)
    data = x if isinstance(x, Call) else Call(x)
    most = min(1000, rows_within(data, MEMORY))
    with parameters_of(model, guide):
        rows = len(data)
        if not called_whole(model, guide, data):
            each = objective.num_particles * combinations(model, guide, data)
            rows = max(1, most // each)
        call = by_all_threads if alike is None else alike

        def values(batch: Call) -> list[Tensor]:
            t = scored(model, guide, batch, objective.num_particles)
            return [double(objective.bound(t)).cpu()]

        def bound(batch: Call) -> Tensor:
            way = (type(objective), len(batch))
            return call(way, partial(values, batch))[0]

        for found in data.each(rows, bound):
            take(found)
