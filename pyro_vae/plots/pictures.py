"""What a model makes of latents, as pictures, as lines, or as heat maps of columns."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.inference.objectives.base import independent
from pyro_vae.inference.ways import Direction, dense_way, straight
from pyro_vae.models.layers import names_of, places
from pyro_vae.models.one_field import OneField
from pyro_vae.models.vae import VAE
from pyro_vae.plots.looks import Look, few, kind_of
from pyro_vae.plots.series import along_ways
from pyro_vae.plots.tables import heat_maps
from pyro_vae.plots.tiles import grid

ENCODED = 500  # data at a time
MANY = 2**24  # numbers that a decoder gives at a time
LARGEST = 2**30  # bytes of the pictures that one figure shows
MOST_LEVELS = 40  # values of a variable that are shown
MOST_WAYS = {"series": 8, "table": 8}  # that are drawn beside each other
DEAD = 0.01  # nats of KL below which a latent tells nothing
KL_DRAWS = 20  # of each posterior, for the KL of its latents


def reconstructions(
    x: Tensor,
    reconstructed: Tensor,
    *,
    columns: int = 10,
    conditional: bool = False,
    look: Look | None = None,
) -> Figure:
    """Data in the odd rows, beneath each its reconstruction; `x` and `reconstructed` are `(n, *shape)`."""
    n = min(len(x), len(reconstructed)) // columns * columns or len(x)
    columns = min(columns, n)
    pairs = torch.stack([x[:n], reconstructed[:n]])  # (2, n, *shape)
    rows = pairs.unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)
    labels = ["data", "model"] * (n // columns)
    title = f"data, and the mean of {_density(conditional)} at one draw of q(z | x)"
    return grid(rows, columns=columns, title=title, row_labels=labels, look=look)


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
    vae: VAE, *, side: int = 20, c: Tensor | None = None, look: Look | None = None
) -> tuple[Figure, Tensor]:
    """Means of p(x | z) over the plane of a 2-d latent, z at the normal quantiles of an even grid; (figure, values).

    Of one or two variables of one-hot codes there is a picture for each code. A conditional pair is shown under one
    condition `c`, `(1, context)`.

    Source: Kingma & Welling 2013, figure 4.
    """
    if values_of(vae) is not None:
        codes, where = _codes(vae)
        x = vae.decode(codes, c).mean
        return in_rows(x, f"mean of {_density(c is not None)}, {where}", look=look), x
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
    every = few(range(side), 6)
    ticks = [f"{z[i].item():.1f}" if i in every else "" for i in range(side)]
    return in_rows(x, title, ticks[::-1], ticks=ticks, look=look), x


def _shown(vae: VAE | OneField, x: Tensor) -> Tensor:
    """What a picture shows of data: all of them, or one field."""
    return vae.of(x) if isinstance(vae, OneField) else x


def in_rows(
    values: Tensor,
    title: str,
    labels: Sequence[str] = (),
    *,
    ticks: Sequence[str] = (),
    look: Look | None = None,
) -> Figure:
    """Data `(rows, columns, *shape)` as they lie, with what the columns are called below them."""
    columns = values.shape[1]
    every = values.flatten(0, 1)
    return grid(
        every,
        columns=columns,
        title=title,
        row_labels=labels,
        column_labels=ticks,
        look=look,
    )


def ways(
    values: Tensor,
    title: str,
    labels: Sequence[str],
    *,
    ticks: Sequence[str],
    look: Look | None = None,
) -> Figure:
    """What changes step by step, a row for each way: pictures side by side, lines over each other, or heat maps.

    Args:
        values: `(ways, steps, *shape)`.
        title: above the figure.
        labels: of the ways.
        ticks: of the steps.
        look: what the data are taken for, and their scale.
    """
    look = look or Look(kind_of(values.shape[2:]))
    if look.kind == "image" or not labels:
        return in_rows(values, title, labels, ticks=ticks, look=look)
    most = MOST_WAYS[look.kind]
    if len(values) > most:
        title += f" (the first {most} of {len(values)})"
        values, labels = values[:most], labels[:most]
    if look.kind == "series":
        return along_ways(values, title, labels, ticks=ticks, look=look)
    return heat_maps(values, title, labels, ticks=ticks, look=look)


@torch.no_grad()
def interpolation(
    vae: VAE,
    pairs: Tensor,
    *,
    steps: int = 11,
    c: Tensor | None = None,
    to: Tensor | None = None,
    through: Tensor | None = None,
    look: Look | None = None,
) -> tuple[Figure, Tensor]:
    """From one datum to another along the straight line between draws of their posteriors; `pairs` is `(n, 2, *shape)`.

    With the codes of data in `through`, `(N, D)`, the way bends to where these lie, as `dense_way` does. One-hot codes
    have no line between them: their variables are switched over one after the other.

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
    values = values_of(vae)
    bent = through is not None and values is None
    line = straight(z, steps)
    if through is not None and bent:
        line = dense_way(through, z, steps=steps)
    if values is not None:
        line = _switched(z, len(values), t)
    at_once = max(1, MANY // (steps * math.prod(pairs.shape[2:])))
    held = to if to is not None or c is None else c[:, 0]
    means = [
        _point(vae, line[i].transpose(0, 1), _rows(held, i)).transpose(0, 1)
        for i in torch.arange(len(line)).split(at_once)
    ]
    x = torch.cat(means)  # (n, steps, *shape)
    data = _shown(vae, pairs)
    row = torch.cat([data[:, :1], x, data[:, 1:]], 1)
    density = _density(c is not None)
    way = (
        "as one variable after the other is switched"
        if values is not None
        else "by way of the codes of data"
        if bent
        else "along a line"
    )
    title = f"data at both ends, between them the mean of {density} {way}"
    ticks = ["data", *(f"{step:.1f}" for step in t.flatten().tolist()), "data"]
    labels = (
        [""] * len(row) if look is None or look.kind == "image" else _pairs(len(row))
    )
    return ways(row, title, labels, ticks=ticks, look=look), x


def _pairs(count: int) -> list[str]:
    return [f"pair {i + 1}" for i in range(count)]


def _point(vae: VAE | OneField, z: Tensor, c: Tensor | None) -> Tensor:
    """One datum that stands for p(x | z): its mean, of a category the most probable."""
    p = vae.decode(z, c)
    likelihood: Any = vae.model.likelihood
    if likelihood.support is Representation.MIXED:
        return likelihood.typical(p)  # type: ignore[no-any-return]
    return p.mean


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
    vae: VAE,
    c: Tensor,
    names: Sequence[str],
    *,
    columns: int = 10,
    mean: bool = True,
    look: Look | None = None,
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
    return in_rows(x, title, names, look=look), x


@torch.no_grad()
def transfer(
    vae: VAE,
    x: Tensor,
    c: Tensor,
    to: Tensor,
    names: Sequence[str],
    *,
    look: Look | None = None,
) -> tuple[Figure, Tensor]:
    """Data under other conditions: encoded with their own, decoded with each of `to` (style transfer).

    Args:
        vae: a conditional pair.
        x: the data, `(n, *shape)`.
        c: their conditions, `(n, context)`.
        to: the others, `(m, context)`.
        names: what these are called.
        look: what the data are taken for, and their scale.

    Returns:
        The figure, whose first row shows the data, and the means of p(x | z, c), `(m, n, *shape)`.
    """
    z = vae.encode(x, c).sample()
    means = torch.stack([vae.decode(z, other[None]).mean for other in to])
    title = (
        "data in the first row, below the mean of p(x | z, c) at their z and another c"
    )
    data = _shown(vae, x)[None]
    every = torch.cat([data, means])
    return in_rows(every, title, ["data", *names], look=look), means


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
    kl: Tensor | None = None,
    look: Look | None = None,
) -> tuple[Figure, Tensor]:
    """Each latent in turn from `-width` to `width`, the others held at one draw of q(z | x).

    With the `kl` of each latent those with the largest stand first, and those below 0.01 nats are left out. Of several
    layers those above are held, and those below follow as the means of the model. Of one-hot codes each
    variable takes its values in turn.

    Args:
        vae: the model and its guide.
        x: one datum `(1, *shape)`.
        steps: pictures of each latent.
        width: how far a latent goes.
        most: latents at most, those that change the picture most; fewer where the pictures would take 1 GiB.
        c: of a conditional pair the condition of the datum, `(1, context)`.
        to: another one to decode with.
        kl: of each latent, `(D,)`, of one-hot codes of each variable; see `kl_of_latents`.
        look: what the data are taken for, and their scale.

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
        z = _followed(vae, moved.flatten(-2), latents, held)
        return _point(vae, z, held)

    # Which latents, and in what order.
    kept = max(1, min(most, LARGEST // (steps * elements * z.element_size())))
    shown, left_out = _by_kl(kl, count)
    # Some latents at a time, so that memory does not grow with the square of their number.
    some = max(1, MANY // (steps * max(count, elements)))
    way = f"one latent at a time from {-width:g} to {width:g}"
    if _layered(vae):
        way += " standard deviations under the model"
    if listed is not None:
        way = f"one variable at a time, its {listed.shape[1]} values"
    title = f"mean of {_density(c is not None)}, {way}{left_out}"
    if kept < len(shown) and kl is not None:
        title += f" (the {kept} with the largest KL)"
        shown = shown[:kept]
    elif kept < len(shown):
        change = [_range(means(part)) for part in shown.split(some)]
        shown = torch.cat(change).topk(kept).indices.sort().values.cpu()
        title += f" (of {count:,} the {kept} that change it most)"
    pictures = torch.cat([means(part) for part in shown.split(some)])
    names = _names_of_latents(vae)
    labels = [_with_kl(names[i], kl, i) for i in shown.tolist()]
    ticks = (
        [f"{round(end, 3) + 0:g}" for end in ends.tolist()] if listed is None else []
    )
    ticks = ticks or [str(i) for i in range(steps)]
    return ways(pictures, title, labels, ticks=ticks, look=look), pictures


def _by_kl(kl: Tensor | None, count: int) -> tuple[Tensor, str]:
    """The latents by their KL, without those that carry nothing, and how many these are, in words."""
    if kl is None:
        return torch.arange(count), ""
    order = kl.cpu().argsort(descending=True, stable=True)
    alive = order[kl.cpu()[order] >= DEAD]
    dead = count - len(alive)
    if not len(alive):
        return order, f"; the KL of all {count} is below {DEAD:g} nats"
    return (
        alive,
        f"; {dead} of {count} with a KL below {DEAD:g} nats left out" if dead else "",
    )


def _with_kl(name: str, kl: Tensor | None, i: int) -> str:
    return name if kl is None else f"{name}, KL {kl[i].item():.2f}"


@torch.no_grad()
def kl_of_latents(vae: VAE, x: Tensor, *, c: Tensor | None = None) -> Tensor | None:
    """`E_q[log q(z_d | x) - log p(z_d)]` of each latent, averaged over the data, by draws: nats, `(D,)`.

    `None` where the latents are not independent in guide and prior, which gives none a part of its own, or where there
    are several layers.

    Args:
        vae: the model and its guide.
        x: some data, `(n, *shape)`.
        c: of a conditional pair their conditions, `(n, context)`.
    """
    if _layered(vae) or not vae.model.latent_dim or values_of(vae) is not None:
        return None
    q = vae.encode(x, c)
    given = () if c is None else (c,)
    if vae.model.prior_reads_c and vae.label_width:
        return None
    p: Any = vae.prior_given(*given)
    if not (independent(q) and independent(p)):
        return None
    z = q.sample((KL_DRAWS,))
    each = q.base_dist.log_prob(z) - p.base_dist.log_prob(z)  # (draws, n, D)
    return each.mean((0, 1)).cpu()


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
def layers(
    vae: VAE, x: Tensor, *, c: Tensor | None = None, look: Look | None = None
) -> tuple[Figure, Tensor]:
    """Data, and below them what is left of each where fewer and fewer layers of latents are kept.

    Args:
        vae: a pair of several layers.
        x: the data, `(n, *shape)`.
        c: of a conditional pair their conditions, `(n, context)`.
        look: what the data are taken for, and their scale.

    Returns:
        The figure, and the means of p(x | z), `(layers, n, *shape)`: all layers are kept first, the top alone last.
    """
    count, z = len(vae.model.dims), vae.encode(x, c).sample()
    kept = range(count, 0, -1)
    means = torch.stack([vae.decode(vae.continued(z, top, c), c).mean for top in kept])
    sites = [*places(vae.model.sites, vae.model.dims)]
    names = ["data", *(", ".join(sites[:top]) for top in kept)]
    title = "data, and the mean of p(x | z) where these layers are kept and the others drawn again"
    every = torch.cat([_shown(vae, x)[None], means])
    return in_rows(every, title, names, look=look), means


@torch.no_grad()
def arithmetic(
    vae: VAE,
    x: Tensor,
    towards: Sequence[Direction],
    *,
    steps: Sequence[float] = (-1, -0.5, 0, 0.5, 1, 1.5),
    c: Tensor | None = None,
    look: Look | None = None,
) -> tuple[Figure, Tensor]:
    """What data become as their codes go towards attributes: the mean of p(x | z + t b).

    Args:
        vae: the model and its guide.
        x: the datum that each direction begins at, `(n, *shape)`.
        towards: the n directions, from `directions`.
        steps: t.
        c: of a conditional pair the conditions of the data, `(n, context)`.
        look: what the data are taken for, and their scale.

    Returns:
        The figure, a row for each direction with the datum itself first, and the means, `(n, steps, *shape)`.
    """
    z = vae.posterior_mean(x, c)
    b = torch.stack([each.vector for each in towards]).to(z)
    t = torch.tensor(steps, dtype=z.dtype, device=z.device)[:, None, None]
    means = _point(vae, z + t * b, c).transpose(0, 1)  # (n, steps, *shape)
    every = torch.cat([_shown(vae, x)[:, None], means], 1)
    title = f"data, and the mean of {_density(c is not None)} at z + t b, t below, b towards what the row says"
    ticks = ["data", *(f"{step:+g}" if step else "0" for step in steps)]
    labels = [each.name for each in towards]
    return ways(every, title, labels, ticks=ticks, look=look), means


def _range(means: Tensor) -> Tensor:
    """How far a datum's elements go on average while a latent moves, `(latents,)`, from `(latents, steps, *shape)`."""
    return (means.amax(1) - means.amin(1)).flatten(1).mean(1)
