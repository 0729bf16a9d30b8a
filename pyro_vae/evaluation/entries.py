"""Distributions of latents and of data, entry after entry, as an entropy coder reads them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import betaincc, expit, gammaincc, ndtr, ndtri
from torch import Tensor

from pyro_vae.distributions.counts import (
    LogNegativeBinomial,
    LogPoisson,
    ZeroInflatedCounts,
)
from pyro_vae.distributions.joined import Joined
from pyro_vae.distributions.mixture import DiagonalMixture
from pyro_vae.distributions.onehots import OneHots
from pyro_vae.distributions.partly import Partly
from pyro_vae.evaluation.ans import Entries
from pyro_vae.models.likelihoods.discrete import RoundedLogistic
from pyro_vae.models.likelihoods.mixture import ColourMixture

MOST_LISTED = 2**16  # values whose masses are written out

Function = Callable[[np.ndarray], np.ndarray]


def _laplace(x: np.ndarray) -> np.ndarray:
    """The distribution function of a Laplace variable."""
    tail = 0.5 * np.exp(-np.abs(x))
    return np.where(x < 0, tail, 1 - tail)


# Distribution functions at location 0 and scale 1.
STANDARD: dict[type, Function] = {
    dist.Normal: ndtr,
    dist.Laplace: _laplace,
    dist.Logistic: expit,
}


class Grid:
    """Buckets of reals: for each latent `2^bits` of them, equally likely under a normal distribution.

    Args:
        loc: the middle of the buckets of each latent, `(D,)`.
        scale: the standard deviation of that normal, `(D,)`.
        bits: b.

    Source: Townsend, Bird & Barber 2019, appendix B.
    """

    def __init__(self, loc: np.ndarray, scale: np.ndarray, bits: int) -> None:
        self.loc, self.scale, self.size = loc, scale, 1 << bits
        self._edges = ndtri(np.arange(self.size + 1) / self.size)
        self._middles = ndtri((np.arange(self.size) + 0.5) / self.size)

    def edge(self, d: int, k: np.ndarray) -> np.ndarray:
        """Where bucket k of latent d begins."""
        return self.loc[d] + self.scale[d] * self._edges[k]

    def middle(self, d: int, k: np.ndarray) -> np.ndarray:
        """The real that stands for bucket k of latent d."""
        return self.loc[d] + self.scale[d] * self._middles[k]

    def middles(self, k: np.ndarray) -> Tensor:
        """The reals that stand for buckets, `(rows, D)`."""
        return torch.from_numpy(self.loc + self.scale * self._middles[k])


def by_entry(values: Tensor, batch: tuple[int, ...], dims: int) -> np.ndarray:
    """Parameters whose last `dims` dimensions are of entries as `(..., rows)`, the rows side by side in memory."""
    own = values.shape[values.dim() - dims :]
    wide = values.detach().double().expand(*batch, *own)
    return np.ascontiguousarray(wide.flatten(0, len(batch) - 1).movedim(0, -1).numpy())


class Buckets(Entries):
    """Which buckets independent reals fall into.

    Args:
        loc: of each real, `(D, rows)`.
        scale: the same.
        grid: the buckets.
        function: the distribution function at location 0 and scale 1.
    """

    def __init__(
        self, loc: np.ndarray, scale: np.ndarray, grid: Grid, function: Function
    ) -> None:
        self.sizes = [grid.size] * len(loc)
        self._loc, self._scale = loc, scale
        self._grid, self._function = grid, function

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        edge = self._grid.edge(d, k)
        return self._function((edge - self._loc[d]) / self._scale[d])


class DependentBuckets(Entries):
    """Which buckets the entries of a normal vector `N(loc, L L^T)` fall into, each given the middles of those before.

    Args:
        loc: `(D, rows)`.
        scale_tril: L, `(D, D, rows)`.
        grid: the buckets.
    """

    def __init__(self, loc: np.ndarray, scale_tril: np.ndarray, grid: Grid) -> None:
        self.sizes = [grid.size] * len(loc)
        self._loc, self._scale, self._grid = loc.copy(), scale_tril, grid

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        edge = self._grid.edge(d, k)
        return ndtr((edge - self._loc[d]) / self._scale[d, d])

    def take(self, d: int, k: np.ndarray) -> None:
        noise = (self._grid.middle(d, k) - self._loc[d]) / self._scale[d, d]
        self._loc[d + 1 :] += self._scale[d + 1 :, d] * noise


class Mixed(Entries):
    """A mixture: the entries given their component, whose probability follows from the entries before.

    Args:
        weights: of the components, `(groups, rows, C)`.
        parts: the entries of all components, of `rows * C` rows.
        together: entries that share one choice of component, a group; the next group chooses anew.
    """

    def __init__(self, weights: np.ndarray, parts: Entries, together: int) -> None:
        self.sizes = parts.sizes
        self._every, self._parts, self._together = weights, parts, together
        self._weights = weights[0]

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        return (self._weights * self._each(d, k)).sum(1)

    def take(self, d: int, k: np.ndarray) -> None:
        self._parts.take(d, np.repeat(k, self._weights.shape[1]))
        group, rest = divmod(d + 1, self._together)
        if not rest:
            self._weights = self._every[group % len(self._every)]
            return
        joint = self._weights * (self._each(d, k + 1) - self._each(d, k))
        total = joint.sum(1, keepdims=True)
        # Of a bucket that is out of reach of all components none is told.
        known = total > 0
        self._weights = np.where(
            known, joint / np.where(known, total, 1), self._weights
        )

    def _each(self, d: int, k: np.ndarray) -> np.ndarray:
        """`P(entry d < k)` in each component, `(rows, C)`."""
        each = self._parts.below(d, np.repeat(k, self._weights.shape[1]))
        return each.reshape(self._weights.shape)


class Listed(Entries):
    """Independent entries of few values, whose masses are written out.

    Args:
        log_masses: `(rows, entries, values)`.
        complete: whether these are all values; otherwise one more stands for the rest.
    """

    def __init__(self, log_masses: Tensor, *, complete: bool = True) -> None:
        _, entries, values = log_masses.shape
        self.sizes = [values + (not complete)] * entries
        masses = log_masses.detach().double().exp().transpose(0, 1)
        self._masses = np.ascontiguousarray(masses.numpy())
        self._at, self._sums = -1, np.empty((0, 0))

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        if d != self._at:
            sums = np.cumsum(self._masses[d], 1)
            self._at, self._sums = d, np.pad(sums, ((0, 0), (1, 0)))
        last = self._sums.shape[1] - 1
        return np.take_along_axis(self._sums, np.minimum(k, last)[:, None], 1)[:, 0]


class Bits(Entries):
    """Independent bits.

    Args:
        zero: the probability of 0, `(entries, rows)`.
    """

    def __init__(self, zero: np.ndarray) -> None:
        self.sizes = [2] * len(zero)
        self._zero = zero

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        return np.where(k == 1, self._zero[d], k > 1)


class GreyLevels(Entries):
    """Independent rounded logistic variables, parameters `(entries, rows)`."""

    def __init__(self, loc: np.ndarray, scale: np.ndarray, levels: int) -> None:
        self.sizes = [levels] * len(loc)
        self._loc, self._scale, self._levels = loc, scale, levels

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        inside = expit((k - 0.5 - self._loc_of(d)) / self._scale[d])
        return np.where(k == 0, 0.0, np.where(k == self._levels, 1.0, inside))

    def _loc_of(self, d: int) -> np.ndarray:
        return self._loc[d]


class Colours(GreyLevels):
    """The colours of pixels, one after the other: the location of a colour moves with the levels of those before.

    Args:
        loc: where the colours before are 0, `(pixels * colours, rows)`, the colours of a pixel side by side.
        scale: the same.
        lower: what a level of colour b adds to the location of colour c, `(pixels, c, b, rows)`.
        levels: of each colour.
    """

    def __init__(
        self, loc: np.ndarray, scale: np.ndarray, lower: np.ndarray, levels: int
    ) -> None:
        super().__init__(loc, scale, levels)
        self._lower, self._before = lower, np.zeros(lower.shape[2:])

    def _loc_of(self, d: int) -> np.ndarray:
        pixel, colour = divmod(d, len(self._before))
        moved: np.ndarray = self._loc[d]
        for b in range(colour):
            moved = moved + self._lower[pixel, colour, b] * self._before[b]
        return moved

    def take(self, d: int, k: np.ndarray) -> None:
        self._before[d % len(self._before)] = k


class Counted(Entries):
    """Independent counts from 0 to the greatest of the data; one more value stands for all that are greater.

    Args:
        function: `P(entry d < k)` for k from 1.
        entries: how many.
        most: the greatest.
    """

    def __init__(
        self, function: Callable[[int, np.ndarray], np.ndarray], entries: int, most: int
    ) -> None:
        self.sizes = [most + 2] * entries
        self._function = function

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        return np.where(k == 0, 0.0, self._function(d, np.maximum(k, 1)))


class Joint(Entries):
    """Independent parts, one after the other."""

    def __init__(self, parts: Sequence[Entries]) -> None:
        self.sizes = [size for part in parts for size in part.sizes]
        self._places = [(p, d) for p in parts for d in range(len(p.sizes))]

    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        part, place = self._places[d]
        return part.below(place, k)

    def take(self, d: int, k: np.ndarray) -> None:
        part, place = self._places[d]
        part.take(place, k)


def entries_of_latent(
    p: Any, batch: tuple[int, ...], grid: Grid | None
) -> Entries | None:
    """A distribution of a latent by its entries; `None` where its distribution functions are not known.

    Args:
        p: of a batch shape that expands to `batch`.
        batch: `(rows,)`, or `(rows, C)` for components.
        grid: of the reals; `None` where there are none.
    """
    base = getattr(p, "base_dist", p)
    if isinstance(p, OneHots):
        return _listed_latents(p.logits, batch)
    if isinstance(p, dist.Categorical):  # of a class
        return _listed_latents(p.logits.unsqueeze(-2), batch)
    if grid is None:
        return None
    if isinstance(p, dist.Independent) and type(base) in STANDARD:
        loc, scale = (by_entry(v, batch, 1) for v in (base.loc, base.scale))
        return Buckets(loc, scale, grid, STANDARD[type(base)])
    if isinstance(p, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        loc, scale = by_entry(p.loc, batch, 1), by_entry(p.scale_tril, batch, 2)
        return DependentBuckets(loc, scale, grid)
    if isinstance(p, DiagonalMixture):
        normals = dist.Normal(p.loc, p.scale, validate_args=False).to_event(1)
        return _mixed_latents(p.log_weights, normals, batch, grid)
    if isinstance(p, dist.MixtureSameFamily):
        logits = p.mixture_distribution.logits
        return _mixed_latents(logits, p.component_distribution, batch, grid)
    return None


def _listed_latents(logits: Tensor, batch: tuple[int, ...]) -> Entries:
    """Variables of few values, logits `(..., variables, values)`."""
    wide = logits.log_softmax(-1).expand(*batch, *logits.shape[-2:])
    return Listed(wide.flatten(0, len(batch) - 1))


def _mixed_latents(
    logits: Tensor, parts: Any, batch: tuple[int, ...], grid: Grid | None
) -> Entries | None:
    """A mixture over its last batch dimension; its components are rows of their own."""
    components = logits.shape[-1]
    each = entries_of_latent(parts, (*batch, components), grid)
    if each is None or len(batch) > 1:
        return None
    weights = logits.detach().double().softmax(-1).expand(1, *batch, components)
    return Mixed(np.ascontiguousarray(weights.numpy()), each, max(1, len(each.sizes)))


def entries_of_data(p: Any, most: int) -> tuple[Entries, np.ndarray] | None:
    """`p(x|z)` by its entries, and which element of x each of them is; `None` where x has a density.

    Args:
        p: of batch shape `(rows,)`.
        most: the greatest value of the data.
    """
    if isinstance(p, Joined):
        return _joined(p, most)
    if type(p) is Partly:  # of data that may have missing values, and have none
        return entries_of_data(p.whole, most)
    base = getattr(p, "base_dist", p)
    if isinstance(base, ColourMixture):
        return _colours(base)
    order = np.arange(p.event_shape.numel())
    if len(p.event_shape) and not isinstance(p, dist.Independent):
        return None
    entries = _elements(base, (p.batch_shape[0], len(order)), most)
    return None if entries is None else (entries, order)


def _joined(p: Joined, most: int) -> tuple[Entries, np.ndarray] | None:
    """Columns or fields."""
    found = [entries_of_data(part, most) for part in p.parts]
    parts, orders, first = [], [], 0
    for each in found:
        if each is None:
            return None
        parts.append(each[0])
        orders.append(first + each[1])
        first += len(each[1])
    return Joint(parts), np.concatenate(orders)


def _elements(p: Any, shape: tuple[int, int], most: int) -> Entries | None:
    """Independent elements, each of a distribution of batch shape `(rows, *event)`; `shape` is `(rows, elements)`."""

    def of(values: Tensor) -> np.ndarray:
        """Parameters of each element as `(elements, rows)`."""
        whole = values.detach().double().expand(p.batch_shape)
        return np.ascontiguousarray(whole.reshape(shape).T.numpy())

    if isinstance(p, dist.Bernoulli):
        return Bits(expit(-of(p.logits)))
    if isinstance(p, dist.Categorical):
        return Listed(p.logits.reshape(*shape, -1))
    if isinstance(p, RoundedLogistic):
        return GreyLevels(of(p.loc), of(p.scale), p.levels)
    if isinstance(p, dist.MixtureSameFamily) and isinstance(
        p.component_distribution, RoundedLogistic
    ):
        return _mixed_levels(p, shape)
    if (function := _counting(p, of)) is not None:
        return Counted(function, shape[1], most)
    return _written_out(p, shape, most)


def _mixed_levels(p: Any, shape: tuple[int, int]) -> Entries:
    """Grey levels of a mixture of rounded logistic variables each."""
    parts, logits = p.component_distribution, p.mixture_distribution.logits

    def of(values: Tensor) -> np.ndarray:
        """`(rows, *event, K)` as `(elements, rows, K)`."""
        whole = values.detach().double().expand(parts.batch_shape)
        return np.ascontiguousarray(whole.reshape(*shape, -1).transpose(0, 1).numpy())

    loc, scale = (of(v).reshape(shape[1], -1) for v in (parts.loc, parts.scale))
    each = GreyLevels(loc, scale, parts.levels)
    return Mixed(of(logits.softmax(-1)), each, 1)


def _colours(p: ColourMixture) -> tuple[Entries, np.ndarray]:
    """Colour images, pixel after pixel, the colours of each side by side."""
    rows, components, colours, height, width = p.loc.shape
    pixels = height * width

    def of(values: Tensor) -> np.ndarray:
        """`(rows, K, C, ..., H, W)` as `(pixels, C, ..., rows * K)`."""
        flat = values.detach().double().flatten(-2).flatten(0, 1)
        return np.ascontiguousarray(flat.movedim((-1, 0), (0, -1)).numpy())

    loc, scale = (of(v).reshape(pixels * colours, -1) for v in (p.loc, p.scale))
    weights = of(p.logits.softmax(1)).reshape(pixels, rows, components)
    parts = Colours(loc, scale, of(p.lower), p.levels)
    order = np.arange(colours * pixels).reshape(colours, pixels).T.flatten()
    return Mixed(weights, parts, colours), order


def _counting(
    p: Any, of: Callable[[Tensor], np.ndarray]
) -> Callable[[int, np.ndarray], np.ndarray] | None:
    """`P(x_d < k)` for k from 1, of a distribution of counts; `None` for another."""
    if isinstance(p, ZeroInflatedCounts):
        gate, inner = of(p.gate.sigmoid()), _counting(p.counts, of)
        if inner is None:
            return None
        return lambda d, k: gate[d] + (1 - gate[d]) * inner(d, k)
    if isinstance(p, LogPoisson):
        mean = of(p.mean)
        return lambda d, k: gammaincc(k, mean[d])
    if isinstance(p, LogNegativeBinomial):
        r, share = of(p.log_r.exp()), of((p.log_mean - p.log_r).sigmoid())
        return lambda d, k: betaincc(k, r[d], share[d])
    return None


def _written_out(p: Any, shape: tuple[int, int], most: int) -> Entries | None:
    """Elements of another distribution of whole numbers, their masses at 0, ..., most taken by `log_prob`."""
    if not p.support.is_discrete or most >= MOST_LISTED:
        return None
    like = p.mean
    each = [p.log_prob(torch.full_like(like, k)) for k in range(most + 1)]
    return Listed(torch.stack(each, -1).reshape(*shape, -1), complete=False)
