"""Estimates of log p(x) by weights, with their errors: what importance weighting and annealing give."""

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.evaluation.question import Answer, Drawing, PerDatum, cells, student

if TYPE_CHECKING:
    import arviz

PARETO_LIMIT = 0.7
FEW_DOUBTFUL = 0.1  # of the data, up to which standard errors tell the bias
SLOWEST = -math.log10(
    0.9
)  # fall of the slope of a bound in a decade of draws, as a power of 10
PARTS = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
MEANINGS = {
    "log p(x)": "how probable the model finds unseen data; higher is better",
    "ELBO": "the bound that training maximises; it lies below log p(x)",
    "reconstruction": "how well a datum is made again from its own latents",
    "KL": "subtracted: how many nats the latents tell beyond the prior",
    "log p(x, code)": "minus a two-part code; it lies below log p(x)",
    "log p(x|code)": "how well a datum is made again from its own words",
    "-log p(code)": "subtracted: what it takes to tell the code",
}
# The same parts where z is words of a codebook.
PARTS_OF_CODES = {
    "elbo": "log p(x, code)",
    "reconstruction": "log p(x|code)",
    "kl": "-log p(code)",
}
TWO_PART = (
    "-log p(x, code) = -log p(code) - log p(x|code) is the length of a two-part code, an upper bound on -log p(x): the "
    "other codes that might give a datum count nothing in it, so log p(x) is higher, by how much is not known."
)


def quiet_arviz() -> Any:
    """The module `arviz`, which is slow to import and, in 0.23, announces 1.0 whenever it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


@dataclass(frozen=True)
class Weighed(PerDatum):
    """Estimates of `log p(x)` by weights: what importance weighting and annealing share.

    Attributes:
        ess: effective number of draws, `(sum w)^2 / sum w^2`, `(N,)`.
        pareto_k: tail index of the weights, `(N,)`.
    """

    standard_errors: Tensor
    ess: Tensor
    pareto_k: Tensor

    @property
    def name(self) -> str:
        """What the values are."""
        return "log p(x)"

    def intervals(self, level: float = 0.95) -> Tensor:
        """For each datum, where `log p(x)` lies by the spread of its own draws, `(N, 2)`: `value ± t_(ESS - 1) se`.

        The quantile is Student's, with one degree of freedom less than there are effective draws (at least one): of K
        weights only about ESS tell their spread. Coverage of 95 % intervals, linear-Gaussian models, guides that are
        1.3 to 2 times too wide, 40,000 data: 95.0 to 97.1 % for a median ESS from 113 down to 3.4. With 1.96 for t it
        would be 94.5 % from an ESS of 23 up, 93 % at 8 and 89 % at 3.4. A Pareto k above 0.7 is beyond any of this.

        Raises:
            InputError: for a level that is not between 0 and 1.
        """
        reach = student(self.ess - 1, level) * self.standard_errors
        return torch.stack([self.values - reach, self.values + reach], -1)

    def _interval(self) -> str:
        """A sentence about where the mean lies."""
        low, high = self.interval()
        return f"{self.name} of all such data: 95 % interval {low:.3f} to {high:.3f}."


def rest_of_curve(curve: dict[int, float]) -> float:
    """How far a bound still rises beyond the most draws, `int_K^inf s(k) dlog k`, in nats.

    Its slope s in `log10 K` is taken to fall by one factor a decade, that between the last two pieces of the curve, and
    by a tenth at least.

    Args:
        curve: the bound by the number of draws, three or more.

    >>> curve = {k: -1.2 * k**-0.3 for k in (10, 100, 1000, 5000)}
    >>> abs(rest_of_curve(curve) - 1.2 * 5000**-0.3) < 0.02
    True
    """
    sizes = sorted(curve)[-3:]
    x = [math.log10(k) for k in sizes]
    y = [curve[k] for k in sizes]
    first, last = ((y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, 1))
    if not last > 0:
        return 0.0
    between = (x[2] - x[0]) / 2
    fall = math.log10(first / last) / between if first > 0 else 0.0
    fall = max(fall, SLOWEST)
    at_end = last * 10 ** (-fall * (x[2] - x[1]) / 2)
    return at_end / (fall * math.log(10))


@dataclass(frozen=True)
class LogMarginal(Weighed):
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
        coded: whether z is words of a codebook, so that `elbo` is `log p(x, code)`, minus the length of a two-part
            code.
        two_part: whether that is all that is known of such a pair, `values` too: a lower bound on `log p(x)`.

    Results over shards of data add up: `a + b` holds the data of both.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    num_particles: int | Tensor
    curve: dict[int, Tensor] = field(default_factory=dict)
    coded: bool = False
    two_part: bool = False

    @property
    def name(self) -> str:
        """What the values are: `log p(x)`, or its lower bound `log p(x, code)`."""
        return "log p(x, code)" if self.two_part else "log p(x)"

    @property
    def parts(self) -> dict[str, str]:
        """What the ELBO and its two parts are called."""
        return PARTS_OF_CODES if self.coded else PARTS

    def __add__(self, other: "LogMarginal") -> "LogMarginal":
        if isinstance(self.num_particles, Tensor) != isinstance(
            other.num_particles, Tensor
        ):
            first, second = (
                replace(r, num_particles=r.particles) for r in (self, other)
            )
            return first + second
        return super().__add__(other)

    def replaced(self, rows: Tensor, other: "LogMarginal") -> "LogMarginal":
        """The same with the data `rows` (indices, or N booleans) taken from `other`; each datum keeps its own K."""
        columns = {
            name: v.index_put((rows,), getattr(other, name))
            for name, v in self.per_datum.items()
        }
        return LogMarginal(
            **columns,
            num_particles=self.particles.index_put((rows,), other.particles),
            curve={},
            coded=self.coded,
            two_part=self.two_part,
        )

    @property
    def particles(self) -> Tensor:
        """K of each datum, `(N,)` whole numbers."""
        k = self.num_particles
        return k if isinstance(k, Tensor) else torch.full((len(self),), k)

    @property
    def count(self) -> str:
        """K in words, such as `500 to 2000`."""
        least, most = int(self.particles.min()), int(self.particles.max())
        return f"{least}" if least == most else f"{least} to {most}"

    @property
    def exact(self) -> bool:
        """Whether nothing was drawn: all values of the latents were summed over, or there are none."""
        return not self.two_part and bool(
            (self.particles == 1).all() and self.pareto_k.isneginf().all()
        )

    @property
    def bias(self) -> float:
        """An estimate of how far the mean lies below the truth, never above 0.

        `-mean(se^2) / 2`, by the delta method, where the weights are well behaved. Where more than a tenth of the data
        are `doubtful` that is far too little, since standard errors miss what no draw has found: there it is what the
        curve of the bound has yet to rise, if its slope in `log K` keeps falling as it did. On linear models this was
        right to a factor of about 2 with guides that cost up to a nat at K; with worse ones it is too small.

        Source: Nowozin 2018, Debiasing Evidence Approximations (the delta method).
        """
        small = self.standard_errors[self.sound].square().mean().item() / 2
        if not self._by_slope:
            return -small
        return -max(small, rest_of_curve(self._mean_curve))

    @property
    def _by_slope(self) -> bool:
        """Whether the bias is that by the curve: of doubtful draws of which it is."""
        many = self.doubtful.float().mean().item() > FEW_DOUBTFUL
        return self._curve_of_values and many and len(self._mean_curve) > 2

    @property
    def _curve_of_values(self) -> bool:
        """Whether the curve ends at the values; else it is that of the guide's own draws, and they are better."""
        if not self.curve:
            return False
        end = self.curve[max(self.curve)]
        return torch.equal(end.nan_to_num(), self.values.nan_to_num())

    @property
    def _mean_curve(self) -> dict[int, float]:
        """The bound at 10 and more draws, over the sound data."""
        return {
            k: bound[self.sound].mean().item()
            for k, bound in self.curve.items()
            if k >= 10
        }

    @property
    def doubtful(self) -> Tensor:
        """Which data have a Pareto k above 0.7, too few particles to tell, or no finite value, `(N,)` booleans."""
        return ~((self.pareto_k <= PARETO_LIMIT) & self.sound)

    def bits_per_dimension(self, dimensions: float, levels: float = 1) -> float:
        """`(-mean / log 2) / dimensions + log2(levels)`; `levels` is the number of grey levels in one unit of x."""
        return -self.mean / math.log(2) / dimensions + math.log2(levels)

    @property
    def equal(self) -> bool:
        """Whether all weights of each datum are equal, as under its posterior."""
        k = self.pareto_k[self.sound]
        return len(k) > 0 and bool((k == -math.inf).all())

    def verdict(self) -> str:
        """One sentence in words: whether the number can be believed."""
        n, bad = len(self), int(self.doubtful.sum())
        if self.two_part:
            return TWO_PART
        if self.exact:
            drawn = "Nothing was drawn: these are sums over all values of the latents, without a Monte-Carlo error."
            one = "log p(x, code) is one term of each sum."
            return f"{drawn} {one}" if self.coded else drawn
        if self.equal:
            return (
                "The weights of a datum are equal up to rounding: the guide is p(z|x) itself, and the number log p(x), "
                "whatever was drawn."
            )
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

    def answer(self) -> Answer:
        """The number, its parts, and how far it can be believed."""
        sound, columns = self.sound, {"num_particles": self.particles, **self.per_datum}
        title = "log p(x) by importance weighting"
        about = f"{self.count} particles on {len(self)} data"
        if self.exact:
            title, about = "log p(x), exactly", f"{len(self)} data"
        if self.two_part:
            title, about = "log p(x, code), a bound on log p(x)", f"{len(self)} data"
        if not sound.any():
            return Answer(
                title,
                about,
                warnings=[self.verdict(), *self._left_out()],
                columns=columns,
            )
        parts = {
            name: PerDatum(getattr(self, name), None).among(sound)
            for name in self.parts
        }
        ess, k, bad = self.ess[sound], self.pareto_k[sound], int(self.doubtful.sum())
        curve = {size: bound[sound].mean().item() for size, bound in self.curve.items()}
        known = k[k < math.inf]
        lost, known = len(k) - len(known), known if len(known) else k
        unknown = f", unknown for {lost}" if lost else ""
        by_slope = ", or more, by the slope of its curve" if self._by_slope else ""
        of_guide = "" if self._curve_of_values else "of the guide's own draws "
        bounds = ", ".join(f"{size}: {mean:.3f}" for size, mean in curve.items())
        return Answer(
            title=title,
            about=about,
            rows={
                self.name: self,
                **{
                    called: parts[name]
                    for name, called in self.parts.items()
                    if called != self.name
                },
            },
            meanings=MEANINGS,
            sentences=[self.verdict()]
            if self.exact or self.two_part or self.equal
            else [
                f"effective particles: median {ess.median():.1f}, least {ess.min():.1f} of {self.count}",
                f"Pareto k: median {known.median():.2f}, largest {known.max():.2f}{unknown}, above {PARETO_LIMIT} "
                f"{'or unknown ' if lost else ''}for {bad} of {len(self)} data",
                f"estimated bias of the bound: {self.bias:.4f} nats{by_slope}",
                *([f"bound {of_guide}at K = {bounds}"] if curve else []),
                *([] if bad else [self.verdict()]),
            ],
            warnings=[self.verdict()] if bad else [],
            figures=self._figures(bounds),
            columns=columns,
            numbers={
                "num_particles": int(self.particles.max()),
                "least_particles": int(self.particles.min()),
                "log_marginal": {
                    **self.estimate._asdict(),
                    "estimated_bias": self.bias,
                },
                "curve": {str(size): mean for size, mean in curve.items()},
                **{name: cells(part) for name, part in parts.items()},
                "ess": {"median": ess.median().item(), "least": ess.min().item()},
                "pareto_k": {
                    "median": k.median().item(),
                    "largest": k.max().item(),
                    "above_limit": bad,
                },
                "verdict": self.verdict(),
                "coded": self.coded,
                "two_part": self.two_part,
            },
        )

    def _figures(self, bounds: str) -> dict[str, Drawing]:
        """The values, their Pareto k, and the bound over K."""
        from pyro_vae import plots

        values, k = self.values[self.sound], self.pareto_k[self.pareto_k.isfinite()]
        n, bad = len(self), int(self.doubtful.sum())
        figures = {
            "log_marginal": Drawing(
                partial(plots.histogram, values, f"{self.name}, nats"),
                f"{self.name} of {len(values)} data, from {values.min():.3f} to {values.max():.3f} nats.",
            )
        }
        if len(k):
            sentence = f"Pareto k of {n} data: {n - bad} at most {PARETO_LIMIT}, {bad} above or unknown."
            make = partial(plots.histogram, k, "Pareto k", limit=PARETO_LIMIT)
            figures["pareto_k"] = Drawing(
                make,
                f"{sentence} Beyond the dashed line the weights cannot be trusted.",
            )
        if self.curve and not (self.exact or self.two_part):
            sentence = (
                "A curve that still rises at its end says that log p(x) is higher."
            )
            what, better = "The bound at fewer draws", None
            if not self._curve_of_values:
                what, better = "The bound of the guide's own draws", self.mean
                sentence = "The line is log p(x) by the draws that were spent where they are needed."
            make = partial(plots.bound_curve, self.curve, better)
            caption = f"{what} ({bounds}). {sentence}".rstrip()
            figures["bound_curve"] = Drawing(make, caption)
        return figures

    def told(self) -> Answer:
        return self.answer().plus(sentences=[self._interval(), *self._left_out()])

    def to_arviz(self) -> "arviz.InferenceData":
        """An ArviZ `InferenceData`: `log_likelihood.x` holds the values, `sample_stats` the other columns by datum."""
        import xarray

        columns = {k: v.cpu().numpy() for k, v in self.per_datum.items()}
        values = columns.pop("values")
        k = self.num_particles
        attributes = {"num_particles": k} if isinstance(k, int) else {}
        if isinstance(k, Tensor):
            columns["num_particles"] = k.numpy()
        stats = xarray.Dataset(
            {k: ("datum", v) for k, v in columns.items()}, attrs=attributes
        )
        likelihood = xarray.Dataset(
            {"x": (("chain", "draw", "datum"), values[None, None])}
        )
        return quiet_arviz().InferenceData(
            log_likelihood=likelihood, sample_stats=stats
        )
