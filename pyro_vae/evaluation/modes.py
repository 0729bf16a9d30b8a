"""Gaussians fitted to the posterior of each datum: where its modes are, and how wide."""

import math
import operator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.data.inputs import Call
from pyro_vae.engine.alike import sparing
from pyro_vae.engine.graphs import REPAID, choice, compiled
from pyro_vae.engine.memory import CHUNK, LARGEST_CHUNK, bytes_of, pieces
from pyro_vae.engine.processes import shared
from pyro_vae.evaluation.question import Tick
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.evaluation.weighting import Accumulator
from pyro_vae.foundation.abstract import is_own, running
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.particles import Program, is_point, way_alone
from pyro_vae.inference.scores import Flat, draw, run_of, score
from pyro_vae.inference.terms import double

FILLED = 0.25  # of a block may be filled up
BLOCK = 32  # draws of each row that are weighted at a time
DRAWS = 4  # at which a gradient is averaged, and places from which modes are sought
MOMENTS = 64  # draws that tell mean and width of the guide and of the prior
PRIOR_STEP = 0.3  # widths of the prior that are one of a climb from there
HIGHER = 2.0  # nats by which a climb from the prior has to end above that from the guide to take its place
CLIMB = 0.3  # the first step of a climb, in widths
TOO_WIDE = 0.5  # the least precision of a mode, in those of the prior
LEAST_WIDTH = 0.03  # of a step, in widths of the prior
SHORT_OF = (
    15.0  # nats by which the top of another mode may lie below that of the guide's
)
APART = 9.0  # the least squared distance of two modes, in widths
MODES = 4  # kept of a datum
LARGEST = 256  # reals of a datum, whose square is what a Gaussian takes
LIGHT = 7.0  # nats below the heaviest mode, from where one is left out
SHARE = 0.02  # the least of a mode that is kept
WIDER = 1.05  # than the curvature says: weights with light tails are worth more than narrow ones
DEFENCE = 0.1  # of the draws come from the prior
FOREIGN = 0.25  # of the weight in draws of the prior says that they found what the modes do not hold
MISSED = 0.1  # of the weight in modes other than the first: as much may lie in some that were not found


@dataclass(frozen=True)
class Modes:
    """A mixture of M Gaussians over D reals for each of N data, `sum_m w_m N(z; loc_m, root_m root_m^T)`.

    Attributes:
        log_weights: `(N, M)`; `-inf` for a mode that a datum does not have.
        loc: `(N, M, D)`, the heaviest first.
        root: lower triangles, `(N, M, D, D)`.
        settled: whether the modes were counted, and not as many again as places were looked at, `(N,)` booleans.
    """

    log_weights: Tensor
    loc: Tensor
    root: Tensor
    settled: Tensor

    def __len__(self) -> int:
        return len(self.loc)

    def among(self, rows: Any) -> "Modes":
        """Those of some of the data, by any index."""
        return Modes(
            self.log_weights[rows], self.loc[rows], self.root[rows], self.settled[rows]
        )

    def without(self, missed: Tensor) -> "Modes":
        """The same, with those of some data unsettled, `(N,)` booleans."""
        return replace(self, settled=self.settled & ~missed.to(self.settled.device))

    def sample(self, count: int) -> Tensor:
        """`(count, N, D)`."""
        which = torch.distributions.Categorical(logits=self.log_weights).sample(
            (count,)
        )
        noise = torch.randn(count, *self.loc[:, 0].shape).to(self.loc)
        if self.loc.shape[1] == 1:
            return self.loc[:, 0] + _times(self.root[:, 0], noise)
        rows = torch.arange(len(self), device=which.device)
        root = self.root[rows, which]
        return self.loc[rows, which] + (root @ noise.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Of z, `(count, N, D)`: `(count, N)`."""
        each = []
        for m in range(self.loc.shape[1]):
            loc, root = self.loc[:, m], self.root[:, m]
            each.append(self.log_weights[:, m] + _normal(_inverse(root, z - loc), root))
        return torch.stack(each).logsumexp(0)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob`, and its gradient in z, `(count, N, D)`."""
        each, slopes = [], []
        for m in range(self.loc.shape[1]):
            root = self.root[:, m]
            e = _inverse(root, z - self.loc[:, m])
            each.append(self.log_weights[:, m] + _normal(e, root))
            slopes.append(-_inverse(root.mT, e, upper=True))
        logs = torch.stack(each)
        shares = logs.softmax(0).unsqueeze(-1)
        return logs.logsumexp(0), (shares * torch.stack(slopes)).sum(0)

    def placed(self, u: Tensor) -> Tensor:
        """Reals in widths of the heaviest mode, `(count, N, D)`, as z."""
        return self.loc[:, 0] + _times(self.root[:, 0], u)

    def counted(self, z: Tensor) -> Tensor:
        """Places z in widths of the heaviest mode: the inverse of `placed`."""
        return _inverse(self.root[:, 0], z - self.loc[:, 0])

    def turned(self, slope: Tensor) -> Tensor:
        """A gradient in z, `(count, N, D)`, as that in widths of the heaviest mode."""
        return _times(self.root[:, 0].mT, slope)

    @property
    def log_volume(self) -> Tensor:
        """`log |dz / du|` of `placed`, `(N,)`."""
        return _log_det(self.root[:, 0])


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """`(N, D, D)` times `(count, N, D)`."""
    return (vectors.movedim(0, 1) @ matrix.mT).movedim(1, 0)


def _inverse(triangle: Tensor, vectors: Tensor, *, upper: bool = False) -> Tensor:
    """The inverse of a triangle, `(N, D, D)`, times `(count, N, D)`."""
    columns = vectors.permute(1, 2, 0)
    return torch.linalg.solve_triangular(triangle, columns, upper=upper).permute(
        2, 0, 1
    )


def _log_det(root: Tensor) -> Tensor:
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _normal(e: Tensor, root: Tensor) -> Tensor:
    """`log N` of what lies `e` widths from the middle, `(count, N)`."""
    constant = 0.5 * e.shape[-1] * math.log(2 * math.pi)
    return -0.5 * e.square().sum(-1) - constant - _log_det(root)


class Density:
    """`log p(x, z)` of data at vectors of reals, in blocks of one shape, so that a graph serves them all.

    Args:
        model: any Pyro model whose latents are reals, or of few values, which are summed out.
        call: what it is called with.
        memory: bytes to keep within.
        compile: as in `log_marginal`.
        gradients: how many there will be, for the choice whether to compile.
        progress: called with the number of gradients since its last call.

    Raises:
        InputError: as `Flat`.
    """

    def __init__(
        self,
        model: Program,
        call: Call,
        *,
        memory: int,
        compile: bool | str = "auto",
        gradients: int = 0,
        progress: Tick = None,
    ) -> None:
        self.model, self.progress = model, progress
        one = call[:1]
        self.flat = Flat(model, one)
        row = self._bytes_per_row(one)
        most = CHUNK.get(call.device.type, LARGEST_CHUNK)
        self.at_a_time = min(memory // row or 1, most)
        self.rows = max(1, min(self.at_a_time // BLOCK, len(call)))
        self.draws = max(DRAWS, self.at_a_time // self.rows // DRAWS * DRAWS)
        own = is_own(model)
        self.by_python = (
            sparing(self._sloped) if own else self._sloped,
            sparing(self._valued) if own else self._valued,
        )
        self.slopes, self.values = self.by_python
        self.compiled = (
            choice(compile, repaid=gradients * row >= REPAID)
            and isinstance(model, nn.Module)
            and way_alone(model, one.args, one.kwargs) is not None
        )
        if self.compiled and isinstance(model, nn.Module):
            asked = compile is True
            self.slopes = compiled(
                self._sloped, [model], "the gradient of log p(x, z)", asked=asked
            )
            self.values = compiled(self._valued, [model], "log p(x, z)", asked=asked)

    def _bytes_per_row(self, one: Call) -> int:
        """Memory for a gradient at one place more, by what three and one of them need."""
        z = self.flat.vector(draw(self.model, one, 3))

        def needed(some: Tensor) -> int:
            return bytes_of(lambda: self._sloped(one.args, one.kwargs, some))

        return 64 + max((needed(z) - needed(z[:1])) // 2, 0)

    def _valued(self, args: Any, kwargs: Any, z: Tensor) -> tuple[list[Tensor], None]:
        """`log p(z)` and `log p(x, z)`, both as densities of the reals."""
        values, log_jacobian = self.flat.values(z)
        p = score(self.model, Call(args[0], args[1:], kwargs), values)
        return [p.latent + log_jacobian, p.joint + log_jacobian], None

    def _sloped(self, args: Any, kwargs: Any, z: Tensor) -> tuple[list[Tensor], None]:
        """`log p(x, z)` and its gradient."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            joint = self._valued(args, kwargs, z)[0][1]
            (gradient,) = torch.autograd.grad(joint.sum(), z)
        return [joint.detach(), gradient], None

    def blocks(self, call: Call) -> list[Tensor]:
        """The places of some data in blocks of `rows`; for a graph the last is filled up, where little is missing."""
        places = [*torch.arange(len(call)).split(self.rows)]
        last = places[-1]
        short = self.rows - len(last)
        if self.compiled and short < FILLED * self.rows:
            places[-1] = torch.cat([last, last[:1].expand(short)])
        return places

    def slope(self, block: Call, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log p(x, z)` of a block and its gradient at z, `(count, rows, D)`."""
        if self.progress is not None:
            self.progress(z.shape[:2].numel())
        functions = self.slopes, self.by_python[0]
        values, gradients = self._by_pieces(functions, block, z, DRAWS)
        return values, gradients

    def value(self, block: Call, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log p(z)` and `log p(x, z)` of a block, `(count, rows)`."""
        functions = self.values, self.by_python[1]
        latent, joint = self._by_pieces(functions, block, z, self.draws)
        return latent, joint

    def _by_pieces(
        self, functions: tuple[Any, Any], block: Call, z: Tensor, each: int
    ) -> list[Tensor]:
        """What a graph gives at so many places of a whole block at a time; of other blocks what Python does."""
        graph, plain = functions
        count = len(z)
        whole = self.compiled and len(block) == self.rows
        most = each if whole else max(each, self.at_a_time // len(block))
        short = -count % most if whole else 0
        z = torch.cat([z, z[:1].expand(short, -1, -1)]) if short else z
        function = graph if whole else plain
        parts = [function(block.args, block.kwargs, some)[0] for some in z.split(most)]
        return [torch.cat(column)[:count] for column in zip(*parts, strict=True)]


class Drawn(NamedTuple):
    """What draws of the modes and of the prior give.

    Attributes:
        marginal: `log p(x)`; its weights know no ELBO.
        foreign: the share of the weight that draws of the prior carry, `(N,)`: next to nothing where the modes hold the
            posterior, unless it is as wide as the prior.
    """

    marginal: LogMarginal
    foreign: Tensor

    @property
    def missed(self) -> Tensor:
        """Where there is a mode that was not found, `(N,)` booleans."""
        return self.foreign > FOREIGN


def weighted_from(density: Density, call: Call, modes: Modes, count: int) -> Drawn:
    """`log p(x)` by so many draws of the modes of each datum, a tenth of them of the prior instead.

    The weights are those of the whole mixture, `p(x, z) / ((1 - a) q(z) + a p(z))`, so that none is above `p(x|z) / a`.

    Source: Hesterberg 1995, Weighted Average Importance Sampling and Defensive Mixture Distributions.
    """

    def weigh(index: Tensor) -> tuple[LogMarginal, Tensor]:
        block, some = call[index], modes.among(index)
        sums, of_prior = Accumulator(count), torch.full((len(index),), -math.inf)
        for few in pieces(count, density.draws):
            z = some.sample(few)
            defended = (torch.rand(z.shape[:2]) < DEFENCE).to(z.device)
            prior = density.flat.vector(draw(density.model, block, few))
            z = prior.where(defended.unsqueeze(-1), z)
            latent, joint = map(double, density.value(block, z))
            q = double(some.log_prob(z)) + math.log1p(-DEFENCE)
            log_w = joint - torch.logaddexp(q, latent + math.log(DEFENCE))
            nothing = torch.zeros_like(log_w)
            sums.add(log_w, nothing, nothing)
            heavy = log_w.masked_fill(~defended, -math.inf).logsumexp(0)
            of_prior = torch.logaddexp(of_prior.to(heavy), heavy)
        found = sums.result()
        return found, (of_prior.cpu() - found.values - math.log(count)).exp()

    results, foreign = zip(*shared(density.blocks(call), weigh), strict=True)
    marginal = reduce(operator.add, results).at(slice(len(call)))
    return Drawn(marginal, torch.cat(foreign)[: len(call)])


def bytes_of_modes(size: int) -> int:
    """Memory for the modes of one datum of so many reals, with what is computed on the way."""
    return 8 * MODES * (8 * size * size + 4 * size + 8)


def can_fit(model: Program, guide: Program, call: Call) -> bool:
    """Whether Gaussians can be fitted to the posterior: the guide draws all latents, which are not too many reals."""
    try:
        with running(model, guide):
            flat = Flat(model, call)
            drawn = run_of(guide, call)
    except InputError:
        return False
    parts = flat.parts.keys()
    if flat.size > LARGEST:
        return False
    return parts <= drawn.keys() and not any(
        is_point(drawn[name]["fn"]) for name in parts
    )


class Fit:
    """Finds the modes of the posterior of data, and fits a Gaussian to each.

    From the mean of the guide a climb leads to where the mean of `log p(x, z)` around z is highest, with the guide's
    own width; the curvature there, by differences of gradients, makes the Gaussian. Climbs from draws of the prior, and
    from their mirror images about its mean, show whether there are other modes.

    Args:
        density: of the model.
        guide: where the first climb begins.
        steps: of a climb.
    """

    def __init__(self, density: Density, guide: Program, steps: int) -> None:
        self.density, self.guide, self.steps = density, guide, steps

    def find(self, call: Call) -> Modes:
        """The modes of all data of a call."""
        blocks = self.density.blocks(call)
        found = shared(blocks, lambda block: self._found(call[block]))
        most = max(modes.loc.shape[1] for modes in found)
        return _joined([_padded(modes, most) for modes in found], len(call))

    def elsewhere(self, block: Call, modes: Modes, z: Tensor) -> Tensor:
        """Of which data climbs from z, `(count, rows, D)`, end on other modes than these, `(rows,)` booleans."""
        prior = self.density.flat.vector(draw(self.density.model, block, MOMENTS))
        width = PRIOR_STEP * _width(prior)
        # Draws of a mode lie as far from it as they have dimensions.
        reach = APART + z.shape[-1]
        top = self.density.slope(block, modes.loc[:, 0].expand(DRAWS, -1, -1))[0][0]
        found = torch.zeros_like(modes.settled)
        for start in z.split(DRAWS):
            if len(start) < DRAWS:
                continue
            ends, tops = self._climbed(block, start, width)
            known = torch.zeros_like(tops, dtype=torch.bool)
            for m in range(modes.loc.shape[1]):
                loc, root = modes.loc[:, m], modes.root[:, m]
                known |= _near(loc, ends, root, reach) | _near(loc, start, root, reach)
            found |= ((tops > top - LIGHT) & ~known).any(0)
        return found

    @staticmethod
    def price(steps: int, size: int) -> int:
        """How many gradients of `log p(x, z)` `find` takes for a datum of one mode and so many reals."""
        return DRAWS * (2 * steps + 1 + -(-2 * size // DRAWS))

    def _found(self, block: Call) -> Modes:
        flat = self.density.flat
        model, guide = self.density.model, self.guide
        own = flat.vector(draw(guide, block, MOMENTS))
        prior = flat.vector(draw(model, block, MOMENTS))
        widths = _width(prior)
        narrow = _width(own).clamp(min=LEAST_WIDTH * widths).minimum(widths)

        # The mode of the guide, and what climbs from the prior come to.
        loc, root = self._top(block, own.mean(0), narrow, widths)
        others, tops = self._climbed(block, _starts(prior), PRIOR_STEP * widths)
        top = self.density.slope(block, loc.expand(DRAWS, -1, -1))[0][0]
        high = tops > top - SHORT_OF
        new = _new([loc, *others], root, high)

        # Where one of these ends higher on what seems to be the same mode, the guide was too far off.
        tops = tops.masked_fill(new, -math.inf).nan_to_num(-math.inf, -math.inf)
        highest, best = tops.max(0)
        higher = (highest > top + HIGHER).unsqueeze(-1)
        if higher.any():
            index = best.view(1, -1, 1).expand(1, *loc.shape)
            begin = others.gather(0, index)[0].where(higher, loc)
            place, spread = self._top(block, begin, narrow, widths)
            loc = place.where(higher, loc)
            root = spread.where(higher.unsqueeze(-1), root)
            new = _new([loc, *others], root, high)

        # Those of each datum that have more of them, one after the other.
        places, roots = [loc], [root]
        ranks = new.cumsum(0) * new
        for rank in range(1, min(int(ranks.max()), MODES - 1) + 1):
            chosen = ranks == rank
            there = (others * chosen.unsqueeze(-1)).sum(0)
            begin = there.where(chosen.any(0).unsqueeze(-1), loc)
            place, spread = self._top(block, begin, narrow, widths)
            places.append(place)
            roots.append(spread)
        has = [
            torch.ones_like(new[0]),
            *(ranks.amax(0) >= r for r in range(1, len(places))),
        ]
        once = [(high & _near(place, others, root)).sum(0) == 1 for place in places[1:]]
        evidence = self._evidence(block, places, roots)
        log_weights = torch.stack(evidence, 1).masked_fill(
            ~torch.stack(has, 1), -math.inf
        )
        single = torch.stack([torch.zeros_like(has[0]), *once], 1)
        return _ordered(
            log_weights, torch.stack(places, 1), torch.stack(roots, 1), single
        )

    def _top(
        self, block: Call, start: Tensor, width: Tensor, most: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where the mean of `log p(x, z)` around z is highest, `(rows, D)`, and the root of its Gaussian.

        Args:
            block: the data.
            start: of the climb.
            width: of what is seen of z at a time.
            most: width of the prior.
        """
        # In steps between the two widths: a guide can be narrow and far off.
        step = (width * PRIOR_STEP * most).sqrt().maximum(width)
        loc = self._climbed(block, start.unsqueeze(0), step, noise=width)[0][0]
        return loc, self._root(block, loc, width, most)

    def _climbed(
        self,
        block: Call,
        start: Tensor,
        width: Tensor,
        *,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where Adam comes to from these places, `(M, rows, D)`, and `log p(x, z)` at the last look, `(M, rows)`."""
        z = start.clone()
        first, second = torch.zeros_like(z), torch.zeros_like(z)
        looks = DRAWS // len(z)
        value = z.new_zeros(z.shape[:2])
        for i in range(self.steps):
            around = z.repeat(looks, 1, 1)
            if noise is not None:
                around = around + noise * torch.randn_like(around)
            values, slopes = self.density.slope(block, around)
            slope = width * slopes.unflatten(0, (looks, len(z))).mean(0).nan_to_num(
                0.0, 0.0, 0.0
            )
            value = values.unflatten(0, (looks, len(z))).mean(0)
            first = 0.9 * first + 0.1 * slope
            second = 0.99 * second + 0.01 * slope.square()
            ahead = first / (1 - 0.9 ** (i + 1))
            size = (second / (1 - 0.99 ** (i + 1))).sqrt() + 1e-8
            z = z + CLIMB * (1 - i / self.steps) * width * ahead / size
        return z, value

    def _root(self, block: Call, loc: Tensor, step: Tensor, width: Tensor) -> Tensor:
        """The root of the inverse curvature of `-log p(x, z)`, by differences half a step away, `(rows, D, D)`."""
        size = loc.shape[-1]
        reach = 0.5 * torch.diag_embed(step).movedim(1, 0)  # (D, rows, D)
        short = torch.zeros(-2 * size % DRAWS, *loc.shape).to(loc)
        z = torch.cat([loc + reach, loc - reach, loc + short])
        slopes = self.density.slope(block, z)[1][: 2 * size]
        curvature = -((slopes[:size] - slopes[size:]) / step.T.unsqueeze(-1)).movedim(
            0, 1
        )
        return precise(curvature, width)

    def _evidence(
        self, block: Call, places: list[Tensor], roots: list[Tensor]
    ) -> list[Tensor]:
        """`log p(x)` by a few draws of each of these Gaussians alone, each `(rows,)`."""
        evidence = []
        for loc, root in zip(places, roots, strict=True):
            noise = torch.randn(MOMENTS, *loc.shape).to(loc)
            joint = self.density.value(block, loc + _times(root, noise))[1]
            log_w = (joint - _normal(noise, root)).nan_to_num(-math.inf, -math.inf)
            evidence.append(log_w.logsumexp(0) - math.log(MOMENTS))
        return evidence


def _new(places: list[Tensor], root: Tensor, good: Tensor) -> Tensor:
    """Which of some places but the first lie apart from all before them, `(M, rows)` booleans.

    Args:
        places: each `(rows, D)`.
        root: in whose widths they are compared, `(rows, D, D)`.
        good: which of the others count at all, `(M, rows)`.
    """
    at = _inverse(root, torch.stack(places))
    new = [torch.ones_like(good[0])]
    for k in range(1, len(places)):
        apart = good[k - 1]
        for seen in range(k):
            apart = apart & ~(new[seen] & ((at[k] - at[seen]).square().sum(-1) < APART))
        new.append(apart)
    return torch.stack(new[1:])


def _near(place: Tensor, others: Tensor, root: Tensor, reach: float = APART) -> Tensor:
    """Which of other places, `(M, rows, D)`, are the same mode as this one, `(rows, D)`, in these widths."""
    return _inverse(root, others - place).square().sum(-1) < reach


def _starts(prior: Tensor) -> Tensor:
    """Places on all sides of the mean of some draws, `(DRAWS, rows, D)`.

    Two draws, of which the second has the signs of the first in every other entry and the opposite ones between them,
    and the mirror images of both: two modes in one dimension and four in two are all met.
    """
    mean = prior.mean(0)
    first, second = prior[0] - mean, prior[1] - mean
    signs = torch.ones_like(mean)
    signs[:, 1::2] = -1
    second = second.abs() * first.sign() * signs
    return mean + torch.stack([first, -first, second, -second])


def precise(curvature: Tensor, width: Tensor) -> Tensor:
    """The lower root of the inverse of a precision, `(N, D, D)`, with no eigenvalue below half of the prior's.

    Args:
        curvature: of `-log p(x, z)`, not quite symmetric.
        width: of the prior, `(N, D)`.
    """
    h = (
        width.double().unsqueeze(-1)
        * curvature.double().nan_to_num(0.0, 0.0, 0.0)
        * width.double().unsqueeze(-2)
    )
    values, vectors = torch.linalg.eigh(0.5 * (h + h.mT))
    spread = vectors * values.clamp_min(TOO_WIDE).rsqrt().unsqueeze(-2)
    covariance = (
        width.double().unsqueeze(-1)
        * (spread @ spread.mT)
        * width.double().unsqueeze(-2)
    )
    return WIDER * torch.linalg.cholesky(covariance).to(curvature)


def _width(draws: Tensor) -> Tensor:
    """Standard deviations over draws, which are finite and not 0."""
    return draws.std(0).nan_to_num(1.0, 1.0, 1.0).clamp_min(1e-6)


def _ordered(log_weights: Tensor, loc: Tensor, root: Tensor, single: Tensor) -> Modes:
    """The heaviest first, without those that weigh next to nothing.

    Args:
        log_weights: as of `Modes`, in any order and not of sum 1.
        loc: theirs.
        root: theirs.
        single: to which of them but one climb from the prior has led, `(N, M)` booleans.
    """
    log_weights, order = log_weights.sort(1, descending=True)
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    loc, root, single = loc[rows, order], root[rows, order], single[rows, order]
    has = log_weights.isfinite()
    light = log_weights < log_weights[:, :1] - LIGHT
    if loc.shape[1] > 1:
        light[:, 1:] |= ~_new([*loc.unbind(1)], root[:, 0], has[:, 1:].T).T
    shares = log_weights.masked_fill(light, -math.inf).softmax(1)
    shares = shares.clamp_min(SHARE).masked_fill(light | ~has, 0.0)
    # A datum none of whose modes weighs anything keeps the first.
    lost = ~has[:, 0]
    shares[lost] = 0.0
    shares[lost, 0] = 1.0
    shares, again = (shares / shares.sum(1, keepdim=True)).sort(1, descending=True)
    most = int((shares > 0).sum(1).max())
    shares, again = shares[:, :most], again[:, :most]
    # Where several were met but once, or there was no room for more, others may have been missed.
    full = (shares > 0).sum(1) == MODES
    several = (single[rows, again] & (shares > 0)).sum(1) > 1
    settled = (1 - shares[:, 0] < MISSED) | ~(full | several)
    return Modes(shares.log(), loc[rows, again], root[rows, again], settled)


def _padded(modes: Modes, most: int) -> Modes:
    """The same with room for so many modes."""
    more = most - modes.loc.shape[1]
    if not more:
        return modes
    log_weights = torch.nn.functional.pad(modes.log_weights, (0, more), value=-math.inf)
    loc = torch.cat([modes.loc, modes.loc[:, :1].expand(-1, more, -1)], 1)
    root = torch.cat([modes.root, modes.root[:, :1].expand(-1, more, -1, -1)], 1)
    return Modes(log_weights, loc, root, modes.settled)


def _joined(found: list[Modes], size: int) -> Modes:
    """Modes of blocks of data, of which the last is filled up."""
    most = max(modes.loc.shape[1] for modes in found)
    padded = [_padded(modes, most) for modes in found]
    names = ("log_weights", "loc", "root", "settled")
    return Modes(
        *(
            torch.cat([getattr(modes, name) for modes in padded])[:size]
            for name in names
        )
    )
