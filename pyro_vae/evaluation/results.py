"""What a question is answered with: a number for each datum, with its errors."""

import math
import warnings
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from pyro_vae.foundation.errors import InputError

if TYPE_CHECKING:
    import arviz

PARETO_LIMIT = 0.7


def quiet_arviz() -> Any:
    """The module `arviz`, which is slow to import and, in 0.23, announces 1.0 whenever it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


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
