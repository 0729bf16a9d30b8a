"""Latents of the model that take few values and that the guide does not draw: summed out, exactly, for each datum."""

import functools
from collections import OrderedDict
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.packed import pack, unpack
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_vae.foundation.abstract import Around, is_own, lists
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.particles import Finite, Particles, Program, Sites, finite_of


class Enumerated(Around):
    """A model in which some latents take all their values at once, in dimensions at the left of all plates."""

    def __init__(self, program: Program, finite: Finite) -> None:
        super().__init__(program)
        self.finite = finite

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        several = any(isinstance(handler, Particles) for handler in _PYRO_STACK)
        with (
            poutine.enum(first_available_dim=self.finite.dim - several),
            poutine.infer_config(config_fn=self._asked),
        ):
            return self.program(*args, **kwargs)

    def _asked(self, site: Any) -> Any:
        return {"enumerate": "parallel"} if site["name"] in self.finite.names else {}


def enumerated(model: Program, guide: Program, args: Any, kwargs: Any) -> Program:
    """The model with those latents `Enumerated` that take few values and that the guide does not draw."""
    if is_own(model, guide) and not lists(model):
        return model
    finite = finite_of(model, guide, args, kwargs)
    return Enumerated(model, finite) if finite.names else model


def is_summed(site: Any) -> bool:
    """Whether a site of a trace holds all values of a latent at once."""
    return site["infer"].get("_enumerate_dim") is not None


def log_sum(
    trace: Trace,
    sites: Sites,
    *,
    data: int,
    particles: int | None,
    shape: tuple[int, ...],
) -> tuple[set[str], Tensor]:
    """`log sum_y p(y) prod_i p(v_i | y)` over all values of the enumerated latents y, by variable elimination.

    Args:
        trace: of the model.
        sites: its sites that have a density.
        data: the dimension of the data plate.
        particles: that of the plate of particles, if there is one.
        shape: of the result: `(num_particles, batch)` or `(batch,)`.

    Returns:
        The names of the sites in the sum, which are the latents y and what depends on them, and the sum for each datum.

    Raises:
        InputError: where an enumerated latent lies outside the plate of data, or a site in the sum is scaled.

    Source: Obermeyer et al. 2019, Tensor Variable Elimination for Plated Factor Graphs (Pyro's contraction).
    """
    trace.symbolize_dims()
    symbols = {f.dim: trace.plate_to_symbol[f.name] for f in _plates(sites)}
    plates = set(symbols.values())

    # Those sites whose density has a dimension that is no plate's.
    logs = {name: _log_prob(site) for name, site in sites.items()}
    dtype = functools.reduce(torch.promote_types, [log.dtype for log in logs.values()])
    factors = {n: pack(log.to(dtype), _symbols(sites[n])) for n, log in logs.items()}
    values = {
        symbol for factor in factors.values() for symbol in factor._pyro_dims
    } - plates
    names = {n for n, f in factors.items() if not values.isdisjoint(f._pyro_dims)}
    names |= {name for name, site in sites.items() if is_summed(site)}

    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in names:
        site = sites[name]
        _check(name, site, data)
        around = frozenset(
            symbols[f.dim] for f in site["cond_indep_stack"] if f.vectorized
        )
        tree.setdefault(around, []).append(factors[name])

    # The sum over all values, and then over what lies in further plates of a datum.
    kept = {symbols[data]: -1}
    if particles is not None:
        kept[symbols[particles]] = -2
    total = torch.zeros(())
    for terms in contract_tensor_tree(tree, values).values():
        for term in terms:
            dims = term._pyro_dims
            inner = [i for i, symbol in enumerate(dims) if symbol not in kept]
            left = term.sum(inner) if inner else term.clone()
            left._pyro_dims = "".join(symbol for symbol in dims if symbol in kept)
            total = total + unpack(left, kept)
    return names, total.expand(shape)


def _plates(sites: Sites) -> list[Any]:
    return [
        f for site in sites.values() for f in site["cond_indep_stack"] if f.vectorized
    ]


def _symbols(site: Any) -> dict[int, str]:
    symbols: dict[int, str] = site["infer"]["_dim_to_symbol"]
    return symbols


def _log_prob(site: Any) -> Tensor:
    """The log-density of a site, a tensor of its own, at least as large as the plates around it."""
    log_prob: Tensor = scale_and_mask(
        site["fn"].log_prob(site["value"]), mask=site["mask"]
    )
    sizes = {f.dim: f.size for f in site["cond_indep_stack"] if f.vectorized}
    around = [sizes.get(d, 1) for d in range(min(sizes, default=0), 0)]
    return log_prob.expand(torch.broadcast_shapes(log_prob.shape, around)).clone()


def _check(name: str, site: Any, data: int) -> None:
    if is_summed(site) and data not in {
        f.dim for f in site["cond_indep_stack"] if f.vectorized
    }:
        raise InputError(
            f"latent site {name!r} lies outside the data plate, so all data share it and none has a weight of its own"
        )
    scale = site["scale"]
    if isinstance(scale, Tensor) or scale != 1:
        raise InputError(
            f"site {name!r} depends on a latent that is summed out, and is scaled; leave poutine.scale out, or let the "
            "guide draw the latent"
        )
