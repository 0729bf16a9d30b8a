"""What a page shows of p(x|z), as a function of the latents and the condition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.data.schema import CODED, NARROW, Schema
from pyro_vae.explorer.graph import Graph, graph_of
from pyro_vae.foundation.abstract import context_of, running
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.layers import names_of, places
from pyro_vae.models.vae import VAE
from pyro_vae.plots.tiles import PLANES, is_image
from pyro_vae.trained import Run

MOST_COLUMNS = 200  # of a table whose columns are listed
CHANNELS = 8  # lines beside each other at most
SLENDER = 3  # times longer than it has channels is a series


@dataclass
class Panel:
    """How one field of a datum is shown.

    Attributes:
        name: of the field; empty where the datum is not of several.
        kind: `'picture'`, `'lines'` or `'table'`.
        shape: of what is shown: a picture `(planes, height, width)`, lines `(channels, length)`, a table `(columns,)`.
        columns: of a table the name and kind of each, and of those with categories these.
        outputs: which output of the graph is the `mean`, the standard deviation `std` where there is one, and of a
            table `probabilities` of all columns with categories, one after the other.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    columns: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)


class Decoder:
    """The mean of p(x|z) and what else is shown of it, in the units of the data.

    Latents of several layers are given as the page has them: the top as it is, each other as its distance from its mean
    given the layers above it, in its standard deviations.

    Args:
        run: a trained run.

    Attributes:
        panels: what is shown, one panel for each field.

    Raises:
        InputError: for latents that are no reals.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.vae, self.model = run, run.vae, run.vae.model
        check_latents(run.vae)
        self.views: list[Run] = [*run.fields.values()] or [run]
        self.panels = [_panel(view) for view in self.views]

    @property
    def names(self) -> list[str]:
        """Of the latents."""
        if len(self.model.dims) > 1:
            return names_of(self.model.sites, self.model.dims)
        return [f"z{i}" for i in range(self.model.latent_dim)]

    @property
    def reads_class(self) -> bool:
        """Whether x depends on the class or the target."""
        return self.model.of_x.y

    @property
    def reads_condition(self) -> bool:
        """Whether x depends on the other conditions, at given places of the page's latents."""
        below = any(context_of(layer) for layer in self.model.layers)
        return self.model.of_x.c or below

    def graph(self) -> Graph:
        """The function that `__call__` is, as operations.

        Raises:
            InputError: for a decoder with operations that a page cannot run.
        """
        like = next(self.vae.parameters())
        z = torch.linspace(-1, 1, self.model.latent_dim).to(like)[None]
        c = [like.new_zeros(1, self.vae.context)] if self.vae.context else []
        for given in c:
            given[:, 0] = 1.0
        with torch.no_grad(), running(self.model):
            return graph_of(self, [z, *c])

    def __call__(self, u: Tensor, *c: Tensor) -> list[Tensor]:
        """The outputs, `(1, ...)` each, for latents `(1, latent_dim)` and conditions `(1, context)`."""
        z = self.latents(u, *c)
        p = self.model.given(self.model.read_of(z), *self._read(*c))
        parts = p.parts if self.run.several else [p]
        outputs: list[Tensor] = []
        for panel, view, part in zip(self.panels, self.views, parts, strict=True):
            found = _outputs(panel, view, getattr(part, "whole", part))
            for name, values in found.items():
                panel.outputs[name] = len(outputs)
                outputs.append(values)
        return outputs

    def _read(self, *c: Tensor) -> tuple[Tensor, ...]:
        """What the decoder reads of conditions that are all known."""
        if not context_of(self.model.decoder):
            return ()
        width = self.model.label_width
        if not width:
            return c
        label, rest = c[0][:, :width], c[0][:, width:]
        if not self.model.of_x.y:
            return (rest,)
        return (torch.cat([label, rest], -1) if self.model.of_x.c else label,)

    def latents(self, u: Tensor, *c: Tensor) -> Tensor:
        """z, `(N, latent_dim)`, of latents as the page has them."""
        where = places(self.model.sites, self.model.dims)
        if len(where) == 1:
            return u
        top = next(iter(where))
        values = {top: u[:, where[top]]} | ({"c": c[0]} if c else {})
        for factor in self._lower():
            p = factor.at(values)
            values[factor.site] = p.mean + p.stddev * u[:, where[factor.site]]
        return torch.cat([values[site] for site in where], -1)

    def coordinates(self, z: Tensor, *c: Tensor) -> Tensor:
        """Latents as the page has them, of z."""
        where = places(self.model.sites, self.model.dims)
        if len(where) == 1:
            return z
        u = z.clone()
        for site, p in self._layers(z, c):
            u[:, where[site]] = (z[:, where[site]] - p.mean) / p.stddev
        return u

    def spreads(self, std: Tensor, z: Tensor, *c: Tensor) -> Tensor:
        """Standard deviations of z, `(N, latent_dim)`, as the page counts them, with the layers above as in z."""
        where = places(self.model.sites, self.model.dims)
        if len(where) == 1:
            return std
        counted = std.clone()
        for site, p in self._layers(z, c):
            counted[:, where[site]] = std[:, where[site]] / p.stddev
        return counted

    def _layers(self, z: Tensor, c: tuple[Tensor, ...]) -> list[tuple[str, Any]]:
        """The layers below the top with their distributions given those above."""
        where = places(self.model.sites, self.model.dims)
        values = {site: z[:, place] for site, place in where.items()}
        values |= {"c": c[0]} if c else {}
        return [(factor.site, factor.at(values)) for factor in self._lower()]

    def _lower(self) -> Any:
        """The factors of the layers below the top, from above."""
        below = {*self.model.sites[:-1]}
        return [f for f in self.model.factors() if f.site in below]


def check_latents(vae: VAE) -> None:
    """Raise `InputError` where there is no z of reals to move through."""
    prior, dim = vae.model.prior, vae.model.latent_dim
    if dim == 0:
        raise InputError(
            "the run has a class and no other latent, so that there is no z to explore; take sample"
        )
    if getattr(prior, "levels", None) is not None or getattr(prior, "of_words", False):
        raise InputError(
            "the latents of the run are categories and no reals, between which nothing can be moved; take sample "
            "--kind traversal"
        )


def _panel(view: Run) -> Panel:
    """How the data of a run, or of one of its fields, are shown."""
    shape, name = view.spec.shape, getattr(view, "field", "")
    table = view.table
    if table is not None and _is_listed(view, table):
        columns = [
            {"name": c.name, "kind": c.kind}
            | ({"categories": [str(k) for k in c.categories]} if c.categories else {})
            for c in table.columns
        ]
        return Panel(name, "table", (len(columns),), columns)
    if len(shape) == 2 and _is_series(view):
        return Panel(name, "lines", (min(shape), max(shape)))
    if is_image(shape):
        return Panel(name, "picture", (1, *shape)[-3:])
    if len(shape) == 3 and shape[0] <= PLANES:
        return Panel(name, "picture", tuple(shape))
    return Panel(name, "lines", (1, math.prod(shape)))


def _is_listed(view: Run, table: Schema) -> bool:
    count = len(table.columns)
    named = view.columns is not None and count <= MOST_COLUMNS
    return view.schema is not None or named or count <= NARROW


def _is_series(view: Run) -> bool:
    """Whether data of two dimensions are lines, a few channels of reals, and no picture."""
    stored = Representation[view.config["resolved"]["stored"]]
    few, many = sorted(view.spec.shape)
    real = stored in (Representation.REAL, Representation.POSITIVE)
    return real and few <= CHANNELS and many >= SLENDER * few


def channels_first(panel: Panel, shape: Sequence[int], x: Tensor) -> Tensor:
    """Data `(N, *shape)` as the panel shows them, `(N, *panel.shape)`."""
    if panel.kind == "lines" and len(shape) == 2 and shape[0] > shape[1]:
        return x.transpose(-1, -2)
    return x.reshape(len(x), *panel.shape)


def _outputs(panel: Panel, view: Run, p: Any) -> dict[str, Tensor]:
    """What is shown of p(x|z), by name, in the units of the data."""
    if panel.kind == "table":
        return _of_table(panel, view, p)
    mean = p.mean
    outputs = {"mean": view.bridge.inverse(mean)}
    if panel.kind == "lines" and (std := _std(p)) is not None:
        outputs["std"] = view.bridge.inverse(mean + std) - outputs["mean"]
    shape = view.spec.shape
    return {n: channels_first(panel, shape, values) for n, values in outputs.items()}


def _of_table(panel: Panel, view: Run, p: Any) -> dict[str, Tensor]:
    """The means and standard deviations of columns of numbers, nan elsewhere, and the probabilities of categories."""
    probabilities: list[Tensor] = []
    if view.schema is None:  # columns of one kind
        mean, std = p.mean.double(), _std(p)
        if panel.columns[0]["kind"] in CODED:
            probabilities = [torch.stack([1 - mean, mean], -1).flatten(-2)]
    else:
        of_each = [getattr(q, "whole", q) for q in p.parts]
        pairs = [*zip(of_each, panel.columns, strict=True)]
        coded = [column["kind"] in CODED for column in panel.columns]
        probabilities = [_probabilities(q) for q, c in pairs if c["kind"] in CODED]
        nothing = torch.full((1, 1), math.nan)
        means = [nothing if c else q.mean for c, q in zip(coded, of_each, strict=True)]
        stds = [None if c else _std(q) for c, q in zip(coded, of_each, strict=True)]
        mean = torch.cat([m.double() for m in means], -1)
        std = torch.cat([(nothing if s is None else s).double() for s in stds], -1)
    stored = view.bridge.inverse(mean)
    outputs = {"mean": stored}
    if std is not None:
        outputs["std"] = view.bridge.inverse(mean + std) - stored
    if probabilities:
        outputs["probabilities"] = torch.cat([q.double() for q in probabilities], -1)
    return outputs


def _probabilities(p: Any) -> Tensor:
    """Of the categories of a column, `(1, levels)`."""
    probs: Tensor = p.base_dist.probs
    if probs.dim() == 3:  # (1, column, levels)
        return probs[:, 0]
    return torch.cat([1 - probs, probs], -1)


def _std(p: Any) -> Tensor | None:
    """The standard deviation of each element, where there is one."""
    try:
        return p.variance.sqrt()
    except (NotImplementedError, AttributeError):
        return None
