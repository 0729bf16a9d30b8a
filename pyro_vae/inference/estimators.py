"""Estimators of log p(x) and of the ELBO, as results that carry their errors."""

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from pyro import poutine
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._abstract import (
    forked_random,
    is_own,
    is_traced,
    localise,
    parameters_of,
    unchecked,
)
from pyro_vae._errors import InputError
from pyro_vae.checks import Number, checked
from pyro_vae.inference.compiled import Compiled
from pyro_vae.inference.diagnostics import pareto_k, tail_length
from pyro_vae.inference.importance import Program, Terms, terms
from pyro_vae.inference.inputs import Call, as_data, rows_within
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.particles import wants_all, way_of
from pyro_vae.networks.products import products_of

if TYPE_CHECKING:
    import arviz

MEMORY = 256 * 2**20
CHUNK = {"cpu": 4096}  # draws decoded at a time: what stays in a processor's caches is faster
LARGEST_CHUNK = 100_000  # elsewhere, and of draws whose weights are summed up
WEIGHTS = 128  # bytes of a draw's weights while they are summed up
REPAID = 1e11  # bytes that compiling has to save the writing of, to be worth its time
PARETO_LIMIT = 0.7


class Bound(NamedTuple):
    """Means over a data set, in nats per datum: `elbo = reconstruction - kl`."""

    elbo: float
    reconstruction: float
    kl: float


def double(t: Tensor) -> Tensor:
    """The same numbers in float64, on the host where the device has no such numbers (MPS)."""
    return (t.cpu() if t.device.type == "mps" else t).double()


def quiet_arviz() -> Any:
    """The module `arviz`, which is slow to import and, in 0.23, announces 1.0 whenever it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def batches(
    x: Any, batch_size: int, order: Tensor | None = None, *, later: bool = False
) -> Iterator[Any]:
    """The data in batches, all of them as they stand or those of `order`; data that can read ahead do.

    With `later` a batch may be a `Later`, which makes it where it is used.
    """
    if isinstance(x, Call):
        yield from x.batches(order, batch_size)
    elif hasattr(x, "batches"):
        way = x.later if later and hasattr(x, "later") else x.batches
        yield from way(torch.arange(len(x)) if order is None else order, batch_size)
    elif order is None:
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size]
    else:
        for index in order.to(getattr(x, "device", "cpu")).split(batch_size):
            yield x.index_select(0, index) if isinstance(x, Tensor) else x[index]


def scored(model: Program, guide: Program, batch: Call, num_particles: int) -> Terms:
    """The terms of a batch.

    Raises:
        InputError: as `terms`, and where the pair scores another number of data than it is given.
    """
    try:
        t = terms(model, guide, *batch.args, num_particles=num_particles, **batch.kwargs)
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
            text = re.search(r"Shape mismatch inside plate.* (\d+) vs (\d+)", str(error))
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
        model: any Pyro model with a data plate, called with a batch of data.
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
    data = Call(as_data(model, x), args, kwargs)
    return mean_bound(model, guide, data, batch_size=batch_size, num_particles=num_particles)


def mean_bound(
    model: Program, guide: Program, x: Any, *, batch_size: int = 1000, num_particles: int = 1
) -> Bound:
    """`elbo` of data that have been checked."""
    total = torch.zeros(2, dtype=torch.float64)

    def take(part: Tensor) -> None:
        total.add_(part.sum(1))

    each_bound(model, guide, x, take, batch_size=batch_size, num_particles=num_particles)
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
) -> None:
    """Give `take` the reconstruction and KL of each datum, batch by batch, `(2, batch)` in float64 on the host."""
    localise(model, guide)
    data = x if isinstance(x, Call) else Call(x)
    most = min(rows_within(data, MEMORY), LARGEST_CHUNK)
    with parameters_of(model, guide):
        rows = min(batch_size, max(1, most // num_particles))
        if called_whole(model, guide, data):
            rows = len(data)
        for batch in data.batches(None, rows):
            total = torch.zeros(2, 1, dtype=torch.float64)
            for count in pieces(num_particles, most):
                t = scored(model, guide, batch, count)
                parts = [double(t.log_px.mean(0)), double((t.log_qz - t.log_pz).mean(0))]
                total = total + torch.stack(parts).cpu() * (count / num_particles)
            take(total)


def pieces(count: int, most: int) -> Iterator[int]:
    """`count` in pieces of at most so many."""
    for done in range(0, count, most):
        yield min(most, count - done)


@torch.no_grad()
def each_objective(
    model: Program, guide: Program, x: Any, objective: Objective, take: Callable[[Tensor], Any]
) -> None:
    """Give `take` the bound of an objective at each datum, batch by batch, `(batch,)` in float64 on the host."""
    localise(model, guide)
    data = x if isinstance(x, Call) else Call(x)
    most = min(1000, rows_within(data, MEMORY))
    with parameters_of(model, guide):
        rows = max(1, most // objective.num_particles)
        if called_whole(model, guide, data):
            rows = len(data)
        for batch in data.batches(None, rows):
            t = scored(model, guide, batch, objective.num_particles)
            take(double(objective.bound(t)).cpu())


class PerDatum:
    """What results share that hold a value, its Monte-Carlo error and its ESS for each of N data."""

    values: Tensor
    standard_errors: Tensor
    ess: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def sound(self) -> Tensor:
        """Which data have a finite value, `(N,)` booleans: a density that underflows has none, and no mean bears it."""
        return self.values.isfinite()

    @property
    def mean(self) -> float:
        """The average log-likelihood of the data that have a finite one, nats per datum."""
        return self.values[self.sound].mean().item()

    @property
    def data_standard_error(self) -> float:
        """How far another sample of N data would move the mean: `std(values) / sqrt(N)`; nan for a single datum."""
        values = self.values[self.sound]
        return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan

    @property
    def monte_carlo_standard_error(self) -> float:
        """How far other draws would move the mean: `sqrt(sum se^2) / N`."""
        errors = self.standard_errors[self.sound]
        return errors.square().sum().sqrt().item() / max(len(errors), 1)

    def intervals(self, level: float = 0.95) -> Tensor:
        """For each datum, where `log p(x)` lies by the spread of its own draws, `(N, 2)`: `value ± t_(ESS - 1) se`.

        The quantile is Student's, with one degree of freedom less than there are effective draws (at least one): of K
        weights only about ESS tell their spread. Coverage of 95 % intervals, linear-Gaussian models, guides that are
        1.3 to 2 times too wide, 40,000 data: 95.0 to 97.1 % for a median ESS from 113 down to 3.4. With 1.96 for t it
        would be 94.5 % from an ESS of 23 up, 93 % at 8 and 89 % at 3.4. A Pareto k above 0.7 is beyond any of this.

        Raises:
            InputError: for a level that is not between 0 and 1.
        """
        reach = _student(self.ess - 1, level) * self.standard_errors
        return torch.stack([self.values - reach, self.values + reach], -1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the mean over all such data lies: `mean ± t_(N - 1) se`, by the spread of the N values.

        That spread holds the Monte-Carlo errors too, so they are not added. It covers the expectation of the
        estimates, which lies `bias` below that of `log p(x)`. Values of few data are too skewed for it: of a
        five-dimensional Gaussian it covers 94.2 % with 30 data, 93.7 % with 20, 92.1 % with 5.

        Raises:
            InputError: for a level that is not between 0 and 1.
        """
        freedom = self.sound.sum().double() - 1
        reach = _student(freedom, level).item() * self.data_standard_error
        return self.mean - reach, self.mean + reach

    def _left_out(self) -> str:
        """A sentence about the data that the mean leaves out, after a space; nothing where there are none."""
        lost = len(self) - int(self.sound.sum())
        verb = "have" if lost > 1 else "has"
        return f" Without {lost} of the data, which {verb} no finite value." if lost else ""

    def _interval(self) -> str:
        return "95 % interval {:.3f} to {:.3f}".format(*self.interval())


def _student(freedom: Tensor, level: float) -> Tensor:
    """The two-sided quantile of Student's t: `P(|t| < q) = level`, with at least one degree of freedom."""
    if not 0 < level < 1:
        raise InputError(f"level={level!r} must lie between 0 and 1")
    return torch.as_tensor(
        stdtrit(freedom.clamp_min(1).numpy(), (1 + level) / 2), dtype=torch.float64
    )


@dataclass(frozen=True)
class LogMarginal(PerDatum):
    """Importance-weighted estimates of `log p(x)` for N data, each with its own errors; nats per datum.

    Attributes:
        values: `log 1/K sum_k w_k`, a lower bound on `log p(x)` in expectation, shape `(N,)`.
        standard_errors: Monte-Carlo standard error of each value, by the delta method.
        ess: effective number of particles, `(sum w)^2 / sum w^2`, between 1 and K.
        pareto_k: tail index of the weights; above 0.7 the value and its standard error are doubtful.
        elbo, reconstruction, kl: the ELBO and its two parts from the same particles.
        num_particles: K; where the data had different numbers of draws, all of them, `(N,)`.
        curve: the bound at fewer particles, `{k: (N,)}` for k = 1, 10, 100, ... below K and for K: the mean of `L_k`
            over groups of the same draws. Empty where data had different proposals.

    Results over shards of data add up: `a + b` holds the data of both.
    """

    values: Tensor
    standard_errors: Tensor
    ess: Tensor
    pareto_k: Tensor
    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    num_particles: int | Tensor
    curve: dict[int, Tensor] = field(default_factory=dict)

    def __add__(self, other: "LogMarginal") -> "LogMarginal":
        joined, added = self.num_particles, other.num_particles
        if not (isinstance(joined, int) and isinstance(added, int)):
            joined = torch.cat([self.particles, other.particles])
        elif joined != added:
            raise InputError(
                f"results with different numbers of particles, {joined} and {added}, cannot be joined"
            )
        columns = {name: torch.cat([v, getattr(other, name)]) for name, v in self.per_datum.items()}
        shared = [k for k in self.curve if k in other.curve]
        curve = {k: torch.cat([self.curve[k], other.curve[k]]) for k in shared}
        return LogMarginal(**columns, num_particles=joined, curve=curve)

    def replaced(self, rows: Tensor, other: "LogMarginal") -> "LogMarginal":
        """The same with the data `rows` (indices, or N booleans) taken from `other`; each datum keeps its own K."""
        columns = {
            name: v.index_put((rows,), getattr(other, name)) for name, v in self.per_datum.items()
        }
        return LogMarginal(
            **columns, num_particles=self.particles.index_put((rows,), other.particles), curve={}
        )

    @property
    def particles(self) -> Tensor:
        """K of each datum, `(N,)` whole numbers."""
        k = self.num_particles
        return k if isinstance(k, Tensor) else torch.full((len(self),), k)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The seven columns by name, each `(N,)`."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("num_particles", "curve")
        }

    @property
    def bias(self) -> float:
        """The delta-method estimate of how far the mean lies below the truth: `-mean(se^2) / 2`, never above 0.

        Source: Nowozin 2018, Debiasing Evidence Approximations.
        """
        return -self.standard_errors[self.sound].square().mean().item() / 2

    @property
    def doubtful(self) -> Tensor:
        """Which data have a Pareto k above 0.7, too few particles to tell, or no finite value, `(N,)` booleans."""
        return ~((self.pareto_k <= PARETO_LIMIT) & self.sound)

    def bits_per_dimension(self, dimensions: int, levels: float = 1) -> float:
        """`(-mean / log 2) / dimensions + log2(levels)`; `levels` is the number of grey levels in one unit of x."""
        return -self.mean / math.log(2) / dimensions + math.log2(levels)

    def verdict(self) -> str:
        """One sentence in words: whether the number can be believed."""
        n, bad = len(self), int(self.doubtful.sum())
        if bad == 0:
            return (
                f"All {n} data have Pareto k of at most {PARETO_LIMIT}: the importance weights that were drawn are "
                "well behaved; a mode of p(z|x) that the guide never visits would not show in them, only in annealing "
                "or in bounds on both sides."
            )
        return (
            f"{bad} of {n} data ({100 * bad / n:.1f} %) have Pareto k above {PARETO_LIMIT}: a few particles carry the "
            "weight, so the mean is probably too low and its Monte-Carlo error too small; draw more particles or use a "
            "guide closer to the posterior."
        )

    def __str__(self) -> str:
        least, most = self.particles.min().item(), self.particles.max().item()
        count = f"{least}" if least == most else f"{least} to {most}"
        return (
            f"log p(x) = {self.mean:.3f} nats per datum, ± {self.data_standard_error:.3f} (data) ± "
            f"{self.monte_carlo_standard_error:.3f} (Monte Carlo), {self._interval()}, "
            f"{count} particles on {len(self)} data, median ESS "
            f"{self.ess[self.sound].nanmedian().item():.0f}. {self.verdict()}{self._left_out()}"
        )

    def to_arviz(self) -> "arviz.InferenceData":
        """An ArviZ `InferenceData`: `log_likelihood.x` holds the values, `sample_stats` the other columns by datum."""
        import xarray

        columns = {k: v.cpu().numpy() for k, v in self.per_datum.items()}
        values = columns.pop("values")
        k = self.num_particles
        attributes = {"num_particles": k} if isinstance(k, int) else {}
        if isinstance(k, Tensor):
            columns["num_particles"] = k.numpy()
        stats = xarray.Dataset({k: ("datum", v) for k, v in columns.items()}, attrs=attributes)
        likelihood = xarray.Dataset({"x": (("chain", "draw", "datum"), values[None, None])})
        return quiet_arviz().InferenceData(log_likelihood=likelihood, sample_stats=stats)


class _Accumulator:
    """Running sums over the particles of B data, so that any number of particles fits in memory; float64 throughout."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self.tail = tail_length(num_particles) + 1
        self.sums: Tensor
        self.largest: Tensor
        self.log_sum_sq: Tensor
        self.log_sum: Tensor | None = None
        self.curve = [_Groups(10**i) for i in range(20) if 10**i < num_particles]

    def add(self, log_weight: Tensor, log_px: Tensor, kl: Tensor) -> None:
        """Take in `(k, B)` more particles."""
        log_w = double(log_weight)
        for groups in self.curve:
            groups.add(log_w)
        sums = torch.stack([double(log_px).sum(0), double(kl).sum(0)])  # (2, B)
        log_sum, log_sum_sq = log_w.logsumexp(0), (2 * log_w).logsumexp(0)
        if self.log_sum is None:
            self.sums, self.log_sum, self.log_sum_sq, largest = sums, log_sum, log_sum_sq, log_w
        else:
            self.sums = self.sums + sums
            self.log_sum = torch.logaddexp(self.log_sum, log_sum)
            self.log_sum_sq = torch.logaddexp(self.log_sum_sq, log_sum_sq)
            largest = torch.cat([self.largest, log_w])
        self.largest = largest.topk(min(self.tail, len(largest)), dim=0).values  # (M + 1, B)

    def result(self) -> LogMarginal:
        k = self.num_particles
        assert self.log_sum is not None
        inverse_ess = (self.log_sum_sq - 2 * self.log_sum).exp()
        variance = (
            (inverse_ess - 1 / k).clamp_min(0) * k / max(k - 1, 1)
        )  # of the mean weight, over its square
        reconstruction, kl = self.sums / k
        columns = {
            "values": self.log_sum - math.log(k),
            "standard_errors": variance.sqrt() if k > 1 else torch.full_like(variance, math.nan),
            "ess": 1 / inverse_ess,
            "pareto_k": pareto_k(self.largest.T),
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
        }
        curve = {groups.size: groups.mean().cpu() for groups in self.curve} | {
            k: columns["values"].cpu()
        }
        return LogMarginal(
            **{name: column.cpu() for name, column in columns.items()}, num_particles=k, curve=curve
        )


class _Groups:
    """The mean over groups of `size` draws of `log 1/size sum w`, whatever the pieces in which the draws come."""

    def __init__(self, size: int) -> None:
        self.size, self.filled, self.count = size, 0, 0
        self.partial: Tensor
        self.total: Tensor | float = 0.0

    def add(self, log_w: Tensor) -> None:
        """Take in `(k, B)` more log-weights."""
        take = min(self.size - self.filled, len(log_w)) if self.filled else 0
        if take:
            self.partial = torch.logaddexp(self.partial, log_w[:take].logsumexp(0))
            self.filled += take
            if self.filled == self.size:
                self._close(self.partial.unsqueeze(0))
        whole = (len(log_w) - take) // self.size
        if whole:
            self._close(
                log_w[take : take + whole * self.size].unflatten(0, (whole, self.size)).logsumexp(1)
            )
        if take + whole * self.size < len(log_w):
            rest = log_w[take + whole * self.size :]
            self.partial, self.filled = rest.logsumexp(0), len(rest)

    def _close(self, log_sums: Tensor) -> None:
        self.total = self.total + log_sums.sum(0)
        self.count, self.filled = self.count + len(log_sums), 0

    def mean(self) -> Tensor:
        assert isinstance(self.total, Tensor)
        return self.total / self.count - math.log(self.size)


class _Allocations(TorchDispatchMode):
    """Adds up the bytes of everything that is computed inside: an upper bound on what it needs at a time."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.bytes += tensor.numel() * tensor.element_size()
        return out


def bytes_of(call: Callable[[], Any]) -> int:
    """Memory for what a call computes when it is not the first; the random streams are left as they were."""
    with forked_random():
        call()  # makes what is kept, such as the choice of a library, which measures with matrices of its own
        with _Allocations() as allocations:
            call()
    return allocations.bytes


def choice(wanted: bool | str, *, repaid: bool) -> bool:
    """Whether to compile, where that may be `'auto'`."""
    if wanted not in (True, False, "auto"):
        raise InputError(f"compile={wanted!r} must be True, False or 'auto'")
    return repaid if isinstance(wanted, str) else wanted


def compiled(
    function: Callable[..., Any], modules: list[nn.Module], name: str, *, asked: bool
) -> Compiled:
    """A function of tensors and of modules that do not change; unasked, a failure is logged and not warned of."""
    state = list(dict.fromkeys(t for m in modules for t in (*m.parameters(), *m.buffers())))
    warn = None if asked else logging.getLogger(__name__).info
    products = products_of(m for program in modules for m in program.modules())
    return Compiled(function, state=lambda: (state, None), name=name, warn=warn, products=products)


def _bytes_per_draw(model: Program, guide: Program, batch: Call) -> tuple[int, bool]:
    """Memory for one particle of one datum, and whether there are latents at all.

    It is the difference between 3 particles and 1, measured on the data given, of which one will do.
    """
    latents = False

    def draw(count: int) -> None:
        nonlocal latents
        t = scored(model, guide, batch, count)
        if any(s.q is not None and s.drawn and s.point for s in t.sites.values()):
            raise InputError(
                "the guide is a point for each datum, without a density to weigh draws by, so log p(x) cannot be "
                "estimated from it; train with another guide, such as MeanField"
            )
        latents = any(s.q is not None for s in t.sites.values())

    one, several = bytes_of(lambda: draw(1)), bytes_of(lambda: draw(3))
    return max((several - one) // 2 // len(batch), 64), latents


@checked
@torch.no_grad()
def log_marginal(
    model: Program,
    guide: Program,
    x: Any,
    *args: Any,
    num_particles: Number = 5000,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Callable[[int], None] | None = None,
    **kwargs: Any,
) -> LogMarginal:
    """Importance-weighted estimate of the marginal log-likelihood of each datum.

    `log p(x) >= E[log 1/K sum_k p(x, z_k) / q(z_k|x)]`, `z_k ~ q(z|x)`, with equality as K grows. Exactly
    `num_particles` are drawn for each datum, in chunks that keep within `memory`. A pair that scores data otherwise
    than it does among others, as where a guide holds numbers for each datum, is called with all of them at once. Of a
    pair without latents the one weight is log p(x) itself, without an error.

    Args:
        model: any Pyro model with a data plate, called with a batch of data.
        guide: its guide, called with the same.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors. A pair that is not of
            this package may take a tuple or a dict of tensors, `program((x, y))`, and data sets of such items.
        *args: what both are called with beside a batch of x, `program(x, y)`; tensors of N rows are cut along with it.
        num_particles: K.
        memory: bytes to keep within (beside the data and the networks).
        compile: weigh by a compiled graph (see `SVI`), or with `'auto'` when there is enough to do to repay the seconds
            that compiling takes: about half a minute of work without.
        progress: called with the number of draws done since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        A `LogMarginal` with N values and their errors.

    Raises:
        InputError: for empty data or data that the likelihood does not accept, for a guide without a density (`Delta`),
            for fewer than one particle, for a memory bound too small for a single draw, for a pair that `terms`
            refuses, or one that draws for another number of data than it is given.

    Source: Burda, Grosse & Salakhutdinov 2015, Importance Weighted Autoencoders, equation 8.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> log_marginal(vae.model, vae.guide, torch.ones(8, 4), num_particles=100).values.shape
    torch.Size([8])
    """
    data = Call(as_data(model, x), args, kwargs)
    choice(compile, repaid=False)
    localise(model, guide)
    with parameters_of(model, guide):
        whole = called_whole(model, guide, data)
        first = data[: len(data) if whole else 1]
        draw, latents = _bytes_per_draw(model, guide, first)
        if not latents:
            num_particles = 1
        with unchecked(model, guide):  # the two measuring calls above were validated
            singly = way_of(model, guide, first.args, first.kwargs).dim is None
            chunks = _Chunks.within(
                memory,
                num_particles=num_particles,
                size=min(len(data), rows_within(data, memory // 4)),
                draw=draw,
                device=first.device,
                singly=singly,
            )
            if whole:
                chunks = chunks.of_all(len(data))
            repaid = num_particles * len(data) * draw >= REPAID
            weigh = _weigher(model, guide, compile, repaid=repaid, singly=singly)
            result: LogMarginal | None = None
            for batch in data.batches(None, chunks.rows):
                accumulator = _Accumulator(num_particles)
                for done in range(0, num_particles, chunks.block):
                    count = min(chunks.block, num_particles - done)
                    accumulator.add(*chunks.weigh(weigh, batch, count, progress))
                part = accumulator.result()
                result = part if result is None else result + part
    assert result is not None
    return result if latents else _exact(result)


def _exact(result: LogMarginal) -> LogMarginal:
    """The values of a pair without latents, which are no estimates."""
    nothing = torch.zeros_like(result.values)
    return replace(
        result, standard_errors=nothing, pareto_k=torch.full_like(result.values, -math.inf)
    )


Weigh = Callable[[Any, Any, int], tuple[list[Tensor], Any]]


def _weigher(
    model: Program, guide: Program, wanted: bool | str, *, repaid: bool, singly: bool
) -> Weigh:
    """`[log w, log p(x|z), log q(z|x) - log p(z)]`, each `(count, batch)`, of a batch of data and a count of draws.

    Only pairs of modules are compiled, since what other programs read is not known, and none that is run for each draw.
    """

    def weigh(args: Any, kwargs: Any, count: int) -> tuple[list[Tensor], Any]:
        with pyro.validation_enabled(False) if is_traced() else nullcontext():  # reads values
            t = scored(model, guide, Call(args[0], args[1:], kwargs), count)
        return [t.log_weight, t.log_px, t.log_qz - t.log_pz], None

    modules = [program for program in (model, guide) if isinstance(program, nn.Module)]
    if singly or len(modules) < 2 or not choice(wanted, repaid=repaid):
        return weigh
    return compiled(weigh, modules, "importance weighting", asked=wanted is True)


class _Chunks(NamedTuple):
    """In what pieces N data with K draws each are weighed: what is decoded at a time, and what is summed up at a time.

    Attributes:
        data, particles: decoded at a time.
        rows, block: data and draws whose weights are summed up at a time, multiples of these or all that there are.
    """

    data: int
    particles: int
    rows: int
    block: int

    @classmethod
    def within(
        cls,
        memory: int,
        *,
        num_particles: int,
        size: int,
        draw: int,
        device: Any,
        singly: bool = False,
    ) -> "_Chunks":
        """For `draw` bytes a draw; the draws are split evenly where that is possible: one shape, one graph.

        `size` is the most data to have at a time. Where draws are made `singly`, each is of as many data as can be.
        """
        tail = (
            4 * 8 * (tail_length(num_particles) + 1)
        )  # one datum's largest weights, and copies while they are merged
        if tail + draw > memory:
            raise InputError(
                f"{num_particles} particles need {_mib(tail + draw)} MiB for a single datum and the memory bound is "
                f"{_mib(memory)} MiB; draw fewer particles or allow more memory"
            )
        most = min(memory // 2 // draw or 1, CHUNK.get(device.type, LARGEST_CHUNK))
        fewest = -(-num_particles // most)
        pieces = next((n for n in range(fewest, 2 * fewest) if num_particles % n == 0), fewest)
        particles = -(-num_particles // pieces)
        if singly:
            particles = max(1, min(num_particles, most // size))
        data = max(1, min(most // particles, size))
        summed = min(memory // 4 // WEIGHTS or 1, LARGEST_CHUNK)
        rows = max(data, min(summed // num_particles, memory // 4 // tail, size) // data * data)
        return cls(
            data,
            particles,
            rows,
            max(particles, min(num_particles, summed // rows) // particles * particles),
        )

    def of_all(self, size: int) -> "_Chunks":
        """The same for a pair that is called with all `size` data at once: fewer draws at a time."""
        particles = max(1, self.data * self.particles // size)
        return _Chunks(
            size, particles, size, particles * max(1, self.rows * self.block // size // particles)
        )

    def weigh(
        self, weigh: Weigh, batch: Call, count: int, progress: Callable[[int], None] | None
    ) -> Tensor:
        """What `weigh` gives for `count` draws of all data of a batch, `(3, count, batch)`."""
        columns = []
        for data in batch.batches(None, self.data) if self.data < len(batch) else (batch,):
            parts = []
            for done in range(0, count, self.particles):
                few = min(self.particles, count - done)
                parts.append(torch.stack(weigh(data.args, data.kwargs, few)[0]))
                if progress is not None:
                    progress(parts[-1][0].numel())
            columns.append(torch.cat(parts, 1))
        return torch.cat(columns, 2)


def _mib(size: int) -> int:
    return -(-size // 2**20)
