"""What a model makes of latents, as pictures or as lines."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.models.layers import names_of, places
from pyro_vae.models.one_field import OneField
from pyro_vae.models.vae import VAE
from pyro_vae.plots.tiles import grid

ENCODED = 500  # data at a time
MANY = 2**24  # numbers that a decoder gives at a time
LARGEST = 2**30  # bytes of the pictures that one figure shows
MOST_LEVELS = 40  # values of a variable that are shown


def reconstructions(
    x: Tensor, reconstructed: Tensor, *, columns: int = 10, conditional: bool = False
) -> Figure:
    """Data in the odd rows, beneath each its reconstruction; `x` and `reconstructed` are `(n, *shape)`."""
    n = min(len(x), len(reconstructed)) // columns * columns or len(x)
    columns = min(columns, n)
    pairs = torch.stack([x[:n], reconstructed[:n]])  # (2, n, *shape)
    rows = pairs.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)
    labels = ["data", "model"] * (n // columns)
    title = f"data, and the mean of {_density(conditional)} at one draw of q(z | x)"
    return grid(rows, columns=columns, title=title, row_labels=labels)


def values_of(vae: VAE) -> Tensor | None:
    """The values of each of V variables of z where they can be counted, `(V, L, D)`: one-hot codes, or words.

    `None` where z is made of reals.
    """
    prior = vae.model.prior
    if prior.of_words:
        p: Any = prior()
        return p.book.expand(p.slots, -1, -1)
    if prior.levels is None:
        return None
    parameter = next(vae.parameters())
    eye = torch.eye(prior.levels, dtype=parameter.dtype, device=parameter.device)
    return eye.expand(prior.latent_dim // prior.levels, -1, -1)


def has_manifold(vae: VAE) -> bool:
    """Whether all z lie in one picture: two reals, or one or two variables of few values."""
    values = values_of(vae)
    if values is None:
        return vae.model.latent_dim == 2
    return len(values) <= 2 and values.shape[1] <= MOST_LEVELS


def _codes(vae: VAE) -> tuple[Tensor, str]:
    """All codes of one variable, in a row, or of two, in a square, `(rows, columns, latent_dim)`; and their title."""
    values = values_of(vae)
    assert values is not None
    levels = values.shape[1]
    if len(values) == 1:
        return values, f"the {levels} values of z"
    first, second = (some.expand(levels, -1, -1) for some in values)
    codes = torch.cat([first, second.transpose(0, 1)], -1)
    return (
        codes,
        "values of the first variable of z to the right, of the second downwards",
    )


@torch.no_grad()
def manifold(
    vae: VAE, *, side: int = 20, c: Tensor | None = None
) -> tuple[Figure, Tensor]:
    """Means of p(x | z) over the plane of a 2-d latent, z at the normal quantiles of an even grid; (figure, values).

    Of one or two variables of one-hot codes there is a picture for each code. A conditional pair is shown under one
    condition `c`, `(1, context)`.

    Source: Kingma & Welling 2013, figure 4.
    """
    if values_of(vae) is not None:
        codes, where = _codes(vae)
        x = vae.decode(codes, c).mean
        return in_rows(x, f"mean of {_density(c is not None)}, {where}"), x
    parameter = next(vae.parameters())
    elements = math.prod(vae.model.likelihood.shape) * parameter.element_size()
    # Fewer pictures of large data.
    side = max(2, min(side, math.isqrt(LARGEST // elements)))
    u = (
        torch.arange(side, dtype=parameter.dtype, device=parameter.device) + 0.5
    ) / side
    z = torch.special.ndtri(u)
    # (side, side, 2), z[1] upwards
    plane = torch.stack(torch.meshgrid(z, z.flip(0), indexing="xy"), -1)
    x = vae.decode(plane, c).mean
    title = f"mean of {_density(c is not None)}, z[0] to the right, z[1] upwards"
    return in_rows(x, title), x


def _shown(vae: VAE | OneField, x: Tensor) -> Tensor:
    """What a picture shows of data: all of them, or one field."""
    return vae.of(x) if isinstance(vae, OneField) else x


def in_rows(values: Tensor, title: str, labels: Sequence[str] = ()) -> Figure:
    """Data `(rows, columns, *shape)` as they lie."""
    columns = values.shape[1]
    every = values.flatten(0, 1)
    return grid(every, columns=columns, title=title, row_labels=labels)


@torch.no_grad()
def interpolation(
    vae: VAE,
    pairs: Tensor,
    *,
    steps: int = 11,
    c: Tensor | None = None,
    to: Tensor | None = None,
) -> tuple[Figure, Tensor]:
    """From one datum to another along the straight line between draws of their posteriors; `pairs` is `(n, 2, *shape)`.

    One-hot codes have no line between them: their variables are switched over one after the other.

    The data of a conditional pair have the conditions `c`, `(n, 2, context)`; each row is decoded under one condition,
    `to`, `(1, context)`, or that of its first datum.

    Returns the figure and the means of p(x | z), `(n, steps, *shape)`; the data themselves stand at both ends of a row.
    """
    x, given = pairs.flatten(0, 1), None if c is None else c.flatten(0, 1)
    rows = torch.arange(len(x)).split(ENCODED)
    ends = [
        vae.encode(x[i], None if given is None else given[i]).sample() for i in rows
    ]
    z = torch.cat(ends).unflatten(0, (-1, 2))  # (n, 2, latent)
    t = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device)[:, None]
    line = z[:, :1] * (1 - t) + z[:, 1:] * t  # (n, steps, latent)
    values = values_of(vae)
    if values is not None:
        line = _switched(z, len(values), t)
    few = max(1, MANY // (steps * math.prod(pairs.shape[2:])))
    held = to if to is not None or c is None else c[:, 0]
    means = [
        vae.decode(line[i].transpose(0, 1), _rows(held, i)).mean.transpose(0, 1)
        for i in torch.arange(len(line)).split(few)
    ]
    x = torch.cat(means)  # (n, steps, *shape)
    data = _shown(vae, pairs)
    row = torch.cat([data[:, :1], x, data[:, 1:]], 1)
    density = _density(c is not None)
    way = (
        "along a line"
        if values is None
        else "as one variable after the other is switched"
    )
    title = f"data at both ends, between them the mean of {density} {way}"
    return in_rows(row, title), x


def _switched(z: Tensor, variables: int, t: Tensor) -> Tensor:
    """From the first of each pair of codes of V variables, `(n, 2, V D)`, to the second, `(n, steps, V D)`.

    At `t`, `(steps, 1)`, that part of the variables in which the two differ is switched over.
    """
    first, second = (
        z.unflatten(-1, (variables, -1)).unsqueeze(2).unbind(1)
    )  # (n, 1, V, D)
    differ = (first != second).any(-1)
    turn = differ.cumsum(-1) / differ.sum(-1, keepdim=True).clamp_min(1)
    done = (turn <= t + 1e-6).unsqueeze(-1)  # (n, steps, V, 1)
    return second.where(done, first).flatten(-2)


def _density(conditional: bool) -> str:
    return "p(x | z, c)" if conditional else "p(x | z)"


def _rows(c: Tensor | None, index: Tensor) -> Tensor | None:
    """The conditions of some rows; one for all stays."""
    return c if c is None or len(c) == 1 else c[index]


@torch.no_grad()
def conditions(
    vae: VAE, c: Tensor, names: Sequence[str], *, columns: int = 10, mean: bool = True
) -> tuple[Figure, Tensor]:
    """Draws under each of some conditions, `c` `(n, context)`: a row for each, called by `names`.

    Where z does not depend on c, the data of one column share their z. With `mean` the means of p(x | z, c) are shown,
    else draws.

    Returns the figure and the values, `(n, columns, *shape)`.
    """
    conditional = vae.model.prior_reads_c
    z = vae.draw_prior(
        columns, *([c.repeat_interleave(columns, 0)] if conditional else [])
    )
    z = z.unflatten(0, (len(c), columns)) if conditional else z.expand(len(c), -1, -1)
    drawn = [vae.decode(some, given[None]) for some, given in zip(z, c, strict=True)]
    x = torch.stack([p.mean if mean else p.sample() for p in drawn])
    what = "mean of p(x | z, c)" if mean else "draws from p(x | c)"
    title = f"{what}, c in the rows" + ("" if conditional else ", one z in each column")
    return in_rows(x, title, names), x


@torch.no_grad()
def transfer(
    vae: VAE, x: Tensor, c: Tensor, to: Tensor, names: Sequence[str]
) -> tuple[Figure, Tensor]:
    """Data under other conditions: encoded with their own, decoded with each of `to` (style transfer).

    Args:
        vae: a conditional pair.
        x: the data, `(n, *shape)`.
        c: their conditions, `(n, context)`.
        to: the others, `(m, context)`.
        names: what these are called.

    Returns:
        The figure, whose first row shows the data, and the means of p(x | z, c), `(m, n, *shape)`.
    """
    z = vae.encode(x, c).sample()
    means = torch.stack([vae.decode(z, other[None]).mean for other in to])
    title = (
        "data in the first row, below the mean of p(x | z, c) at their z and another c"
    )
    data = _shown(vae, x)[None]
    return in_rows(torch.cat([data, means]), title, ["data", *names]), means


@torch.no_grad()
def traversal(
    vae: VAE,
    x: Tensor,
    *,
    steps: int = 11,
    width: float = 3.0,
    most: int = 40,
    c: Tensor | None = None,
    to: Tensor | None = None,
) -> tuple[Figure, Tensor]:
    """Each latent in turn from `-width` to `width`, the others held at one draw of q(z | x).

    Of several layers those above are held, and those below follow as the means of the model. Of one-hot codes each
    variable takes its values in turn.

    Args:
        vae: the model and its guide.
        x: one datum `(1, *shape)`.
        steps: pictures of each latent.
        width: how far a latent goes.
        most: latents at most, those that change the picture most; fewer where the pictures would take 1 GiB.
        c: of a conditional pair the condition of the datum, `(1, context)`.
        to: another one to decode with.

    Returns:
        The figure, whose rows name the latents, and the means of p(x | z), `(latents, steps, *shape)`.
    """
    z = vae.encode(x, c).sample()  # (1, latent)
    held = c if to is None else to
    elements, listed = math.prod(x.shape[1:]), values_of(vae)
    if listed is None:
        each = z.unsqueeze(-1)  # (1, latents, numbers of each)
        ends = torch.linspace(-width, width, steps, dtype=z.dtype, device=z.device)
        centre, spread = _usual(vae, z, held)
        values = (centre[:, None] + spread[:, None] * ends).unsqueeze(-1)
    else:
        each = z.unflatten(-1, (len(listed), -1))
        values = listed[:, :MOST_LEVELS]  # (V, steps, D)
    steps, count = values.shape[1], each.shape[1]

    def means(latents: Tensor) -> Tensor:
        moved = each.unsqueeze(1).repeat(len(latents), steps, 1, 1)
        moved[torch.arange(len(latents)), :, latents] = values[latents]
        return vae.decode(_followed(vae, moved.flatten(-2), latents, held), held).mean

    # Some latents at a time, so that memory does not grow with the square of their number.
    some = max(1, MANY // (steps * max(count, elements)))
    shown = torch.arange(count)
    kept = max(1, min(most, LARGEST // (steps * elements * z.element_size())))
    if kept < count:
        change = [_range(means(part)) for part in shown.split(some)]
        shown = torch.cat(change).topk(kept).indices.sort().values.cpu()
    pictures = torch.cat([means(part) for part in shown.split(some)])
    way = f"one latent at a time from {-width:g} to {width:g}"
    if _layered(vae):
        way += " standard deviations under the model"
    if listed is not None:
        way = f"one variable at a time, its {listed.shape[1]} values"
    title = f"mean of {_density(c is not None)}, {way}"
    if kept < count:
        title += f" (of {count:,} the {kept} that change it most)"
    names = _names_of_latents(vae)
    labels = [names[i] for i in shown.tolist()]
    return in_rows(pictures, title, labels), pictures


def _layered(vae: VAE) -> bool:
    """Whether z has several layers."""
    return len(getattr(vae.model, "dims", ())) > 1


def _usual(vae: VAE, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each latent of a datum is expected and how widely, `(D,)` each: by the layers above it, or N(0, 1)."""
    centre, spread = torch.zeros_like(z[0]), torch.ones_like(z[0])
    if not _layered(vae):
        return centre, spread
    where = places(vae.model.sites, vae.model.dims)
    values = {site: z[:, place] for site, place in where.items()}
    values |= {} if c is None else {"c": vae.condition(c, len(z))[0]}
    for factor in vae.model.factors()[1 : len(where)]:
        p, place = factor.at(values), where[factor.site]
        centre[place], spread[place] = p.mean[0], p.stddev[0]
    return centre, spread


def _followed(vae: VAE, z: Tensor, latents: Tensor, c: Tensor | None) -> Tensor:
    """Moved latents, `(n, steps, D)`, with the layers below that of each latent as the model expects them."""
    if not _layered(vae):
        return z
    where = places(vae.model.sites, vae.model.dims).values()
    ends = torch.tensor([place.stop for place in where])
    tops = torch.searchsorted(ends, latents.cpu(), right=True) + 1
    rows = [
        vae.continued(each, top, c, mean=True)
        for each, top in zip(z, tops.tolist(), strict=True)
    ]
    return torch.stack(rows)


def _names_of_latents(vae: VAE) -> list[str]:
    """What each latent is called, by its place, of several layers by its layer too."""
    if _layered(vae):
        return names_of(vae.model.sites, vae.model.dims)
    return [f"z[{i}]" for i in range(vae.model.latent_dim)]


@torch.no_grad()
def layers(vae: VAE, x: Tensor, *, c: Tensor | None = None) -> tuple[Figure, Tensor]:
    """Data, and below them what is left of each where fewer and fewer layers of latents are kept.

    Args:
        vae: a pair of several layers.
        x: the data, `(n, *shape)`.
        c: of a conditional pair their conditions, `(n, context)`.

    Returns:
        The figure, and the means of p(x | z), `(layers, n, *shape)`: all layers are kept first, the top alone last.
    """
    count, z = len(vae.model.dims), vae.encode(x, c).sample()
    kept = range(count, 0, -1)
    means = torch.stack([vae.decode(vae.continued(z, top, c), c).mean for top in kept])
    sites = [*places(vae.model.sites, vae.model.dims)]
    names = ["data", *(", ".join(sites[:top]) for top in kept)]
    title = "data, and the mean of p(x | z) where these layers are kept and the others drawn again"
    return in_rows(torch.cat([_shown(vae, x)[None], means]), title, names), means


def _range(means: Tensor) -> Tensor:
    """How far a datum's elements go on average while a latent moves, `(latents,)`, from `(latents, steps, *shape)`."""
    return (means.amax(1) - means.amin(1)).flatten(1).mean(1)
