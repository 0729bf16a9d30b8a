"""Which of several ways to train is better: paired differences of log-likelihoods, over data and over seeds."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.question import COLUMNS, Answer, PerDatum, Printed, cells
from pyro_vae.evaluation.results import FEW_DOUBTFUL, PARETO_LIMIT
from pyro_vae.evaluation.uniformity import holm
from pyro_vae.foundation.errors import InputError

LEVEL = 0.05  # of false alarms
BIAS_WITHIN = 2  # the estimate of a bias is right to such a factor
DOUBT = 30  # nats that a doubtful value may be too low: 27 were the most that was seen
SAME = "not distinguishable"
IN_DOUBT = "not ranked"
HEADS = {
    "runs": "seeds",
    "seed_standard_deviation": "sd over seeds",
    "bias": "bias",
    "doubtful": f"k > {PARETO_LIMIT}",
    "seed_standard_error": "± seeds",
    "standard_error": "± all",
    "freedom": "df",
    "t": "t",
    "p": "p",
    "p_adjusted": "p (Holm)",
    "higher": "better on",
    "lower": "worse on",
    "told": "",
}


@dataclass(frozen=True)
class Scores(PerDatum):
    """`log p(x)` of N data under one trained model, with the errors of each; nats.

    Attributes:
        values: `(N,)`.
        standard_errors: Monte-Carlo standard error of each value, `(N,)`; nan where it is not known.
        pareto_k: tail index of the importance weights, `(N,)`, or `None` for values that have no such weights.
        num_particles: the least and the most draws for a datum, or `None`.
        usual_particles: how many were asked for, else their median, or `None`.
        bias: how far the mean is estimated to lie below the truth, nats; 0 or more.
        two_part: whether the values are two-part codes, which lie below log p(x) by an unknown amount.
    """

    standard_errors: Tensor
    pareto_k: Tensor | None = None
    num_particles: tuple[int, int] | None = None
    usual_particles: int | None = None
    bias: float = 0.0
    two_part: bool = False

    @property
    def doubtful(self) -> int | None:
        """How many data have a Pareto k above 0.7 or too few particles to tell."""
        if self.pareto_k is None:
            return None
        return int((~(self.pareto_k <= PARETO_LIMIT)).sum())

    @property
    def rises(self) -> bool:
        """Whether the values rise with the number of particles: not where all weights are equal, as of sums."""
        return self.pareto_k is None or bool((self.pareto_k != -math.inf).any())


class Spread(NamedTuple):
    """How much the mean of a run differs from seed to seed.

    Attributes:
        variance: of the means, nats squared.
        freedom: degrees of freedom of that estimate.
    """

    variance: float
    freedom: int


@dataclass(frozen=True)
class Method:
    """One way to train, by the runs of one or several seeds, R of them, on the same N data.

    Attributes:
        runs: by name.
        borrowed: the spread over seeds of other methods, where this one was trained once.
    """

    runs: dict[str, Scores]
    borrowed: Spread | None = None

    @cached_property
    def table(self) -> Tensor:
        """`log p(x)`, `(R, N)`."""
        return torch.stack([run.values for run in self.runs.values()])

    @property
    def values(self) -> Tensor:
        """The means over runs, `(N,)`."""
        return self.table.mean(0)

    @property
    def mean(self) -> float:
        """Over data and runs."""
        return self.table.mean().item()

    @property
    def data_standard_error(self) -> float:
        """Of the means over runs: `std / sqrt(N)`."""
        return PerDatum(self.values, None).data_standard_error

    @property
    def monte_carlo_standard_error(self) -> float:
        """`sqrt(sum se^2) / (R N)`; nan where an error is not known."""
        squares = [r.monte_carlo_standard_error**2 for r in self.runs.values()]
        return math.sqrt(sum(squares)) / len(squares)

    @property
    def own(self) -> Spread | None:
        """The spread over its own seeds; `None` of a single run."""
        if len(self.runs) < 2:
            return None
        return Spread(self.table.mean(1).var().item(), len(self.runs) - 1)

    @property
    def seed_standard_deviation(self) -> float:
        """Of the means of its runs; nan for a single one."""
        return math.nan if self.own is None else math.sqrt(self.own.variance)

    @property
    def seed_standard_error(self) -> float:
        """How far other seeds would move the mean: their standard deviation over `sqrt(R)`; nan where not known."""
        spread = self.own or self.borrowed
        if spread is None:
            return math.nan
        return math.sqrt(spread.variance / len(self.runs))

    @property
    def interaction(self) -> float:
        """Variance of the mean by what is of one seed and one datum alone, which both other errors hold as well.

        `sum_ri (v_ri - v_r - v_i + v)^2 / ((R - 1) (N - 1)) / (R N)`, 0 for a single run.
        """
        runs, size = self.table.shape
        if runs < 2:
            return 0.0
        rest = self.table - self.table.mean(1, keepdim=True) - self.values + self.mean
        mean_square = rest.square().sum().item() / ((runs - 1) * (size - 1))
        return mean_square / (runs * size)

    @property
    def bias(self) -> float:
        """How far the mean is estimated to lie below the truth, nats."""
        return sum(run.bias for run in self.runs.values()) / len(self.runs)

    @property
    def doubtful(self) -> float | None:
        """The share of values that are doubtful; `None` where no run has weights."""
        counts = [run.doubtful for run in self.runs.values()]
        known = [count for count in counts if count is not None]
        return sum(known) / self.table.numel() if known else None

    @property
    def two_part(self) -> bool:
        """Whether a run's values are two-part codes."""
        return any(run.two_part for run in self.runs.values())


@dataclass(frozen=True)
class Difference:
    """How much higher one method's `log p(x)` is than another's on the same N data; nats.

    The values are taken to be `v_ri = mean + (seed r) + (datum i) + (datum i under this method) + (both)`, all but the
    mean random: the mixed model with seeds within methods, crossed with data. With `d_i` the difference of the means
    over runs, the variance of its mean is `var(d_i) / N + sum_m var_r(v_mr) / R_m`, less what both count, the
    `interaction` of either. Its degrees of freedom are Satterthwaite's. The spreads hold the noise of the draws
    already; where that alone is larger, it is taken. Values of `log p(x)` are too low where they err, so that the lower
    method's bias, twice as large as estimated, is left out of the difference before it is tested.

    Attributes:
        mean: of the `d_i`, nats per datum.
        data_standard_error: `std(d) / sqrt(N)`.
        seed_standard_error: by the spread over seeds; nan where no method was trained twice. The difference is then one
            of trained models, not of methods.
        monte_carlo_standard_error: of the draws; nan where an error is not known.
        standard_error: of all.
        freedom: its degrees of freedom.
        bias: of the lower one, as far as it is allowed for.
        t: what the bias leaves of the mean, in standard errors.
        p: two-sided, by Student's t.
        p_adjusted: the same with regard to all pairs that are compared, by Holm's procedure.
        higher: how many data have `d_i > 0`.
        lower: how many data have `d_i < 0`.
        believable: whether the difference would be told from 0 if each doubtful value of the lower one were 30 nats
            too low; never where a tenth of them are doubtful.

    Source: Satterthwaite 1946, An Approximate Distribution of Estimates of Variance Components; Holm 1979, A Simple
    Sequentially Rejective Multiple Test Procedure.
    """

    mean: float
    data_standard_error: float
    seed_standard_error: float
    monte_carlo_standard_error: float
    standard_error: float
    freedom: float
    bias: float
    t: float
    p: float
    p_adjusted: float
    higher: int
    lower: int
    believable: bool

    @classmethod
    def between(cls, a: Method, b: Method) -> "Difference":
        """`a` minus `b`."""
        from scipy import stats

        # The error, by its components.
        d = PerDatum(a.values - b.values, None)
        seeds = math.hypot(a.seed_standard_error, b.seed_standard_error)
        noise = math.hypot(a.monte_carlo_standard_error, b.monte_carlo_standard_error)
        variance, freedom = _variance(a, b, d.data_standard_error, noise)
        error = math.sqrt(variance)

        # What the bias of the lower one leaves.
        lower = a if d.mean < 0 else b
        other = b if lower is a else a
        bias = BIAS_WITHIN * lower.bias
        left = max(abs(d.mean) - bias, 0.0)
        size = left / error if error > 0 else (math.inf if left else 0.0)
        p = float(2 * stats.t.sf(size, freedom))

        # What its doubtful values leave.
        share = lower.doubtful or 0.0
        enough = left - DOUBT * share > stats.t.isf(LEVEL / 2, freedom) * error
        believable = share <= FEW_DOUBTFUL and bool(enough or not share)
        believable &= other.two_part or not lower.two_part
        return cls(
            mean=d.mean,
            data_standard_error=d.data_standard_error,
            seed_standard_error=seeds,
            monte_carlo_standard_error=noise,
            standard_error=error,
            freedom=freedom,
            bias=bias,
            t=math.copysign(size, d.mean),
            p=p,
            p_adjusted=p,
            higher=int((d.values > 0).sum()),
            lower=int((d.values < 0).sum()),
            believable=believable,
        )

    @property
    def distinguishable(self) -> bool:
        """Whether the mean differs from 0, with false alarms in 5 % of all comparisons."""
        return self.p_adjusted < LEVEL

    @property
    def told(self) -> str:
        """What can be said of it, in words; nothing where it is told from 0."""
        if not self.distinguishable:
            return SAME
        return "" if self.believable else IN_DOUBT

    def reversed(self) -> "Difference":
        """The other way round."""
        return replace(
            self, mean=-self.mean, t=-self.t, higher=self.lower, lower=self.higher
        )


def _variance(a: Method, b: Method, data: float, noise: float) -> tuple[float, float]:
    """The variance of a difference of two means, and its degrees of freedom.

    Args:
        a: one method.
        b: the other.
        data: the standard error of the difference over data.
        noise: its Monte-Carlo standard error, or nan.
    """
    parts = [(data**2, len(a.values) - 1)]
    for method in (a, b):
        spread = method.own or method.borrowed
        if spread is not None:
            parts.append((spread.variance / len(method.runs), spread.freedom))
    seeds = sum(part for part, _ in parts[1:])
    twice = a.interaction + b.interaction
    together = seeds + max(data**2 - twice, 0.0)
    variance = together if math.isnan(noise) else max(together, noise**2)
    weights = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / weights if weights else math.inf
    return variance, max(freedom, 1.0)


@dataclass(frozen=True)
class Comparison(Printed):
    """Methods ranked by their mean `log p(x)` on the same data; prints itself as a table.

    Attributes:
        methods: by name, the highest mean first.
        pairs: the difference of each two, the first of which has the higher mean.
    """

    methods: dict[str, Method]
    pairs: dict[tuple[str, str], Difference]

    @property
    def scores(self) -> dict[str, Scores]:
        """All runs by their names, those of the best method first."""
        runs: dict[str, Scores] = {}
        for method in self.methods.values():
            runs |= method.runs
        return runs

    @property
    def ranking(self) -> list[str]:
        """The names of the methods, the highest mean first."""
        return list(self.methods)

    @property
    def best(self) -> str:
        """The name with the highest mean."""
        return self.ranking[0]

    @property
    def differences(self) -> dict[str, Difference]:
        """Every other method minus the best one, by name, in the same order."""
        return {name: self.pair(name, self.best) for name in self.ranking[1:]}

    @property
    def of_methods(self) -> bool:
        """Whether anything was trained with several seeds."""
        return any(len(method.runs) > 1 for method in self.methods.values())

    def pair(self, a: str, b: str) -> Difference:
        """The method `a` minus the method `b`, for any two names."""
        for name in (a, b):
            if name not in self.methods:
                raise InputError(
                    f"{name!r} was not compared; choose among {', '.join(self.methods)}"
                )
        if (a, b) in self.pairs:
            return self.pairs[a, b]
        if a == b:
            return Difference.between(self.methods[a], self.methods[a])
        return self.pairs[b, a].reversed()

    @property
    def warnings(self) -> list[str]:
        """What makes a number doubtful, one sentence each."""
        warnings = []
        counts = {
            name: _range(*s.num_particles)
            for name, s in self.scores.items()
            if s.num_particles is not None and s.rises
        }
        if len({self.scores[name].usual_particles for name in counts}) > 1:
            numbers = ", ".join(f"{name} {count}" for name, count in counts.items())
            warnings.append(
                f"the numbers of particles differ ({numbers}): the mean is a lower bound that rises with them, so the "
                "run with fewer is at a disadvantage"
            )
        for name, s in self.scores.items():
            if s.doubtful:
                warnings.append(
                    f"{name} has a Pareto k above {PARETO_LIMIT} for {s.doubtful} of {len(s.values)} data: its mean is "
                    "probably too low and its Monte-Carlo error too small"
                )
            if math.isnan(s.monte_carlo_standard_error):
                warnings.append(
                    f"{name} has no Monte-Carlo errors, so its difference counts those of data and seeds alone"
                )
        if any(d.told == IN_DOUBT for d in self.pairs.values()):
            warnings.append(
                f"where it says {IN_DOUBT}, values of the lower one cannot be believed or are bounds of unknown "
                "distance, and may hide as much as the difference; evaluate again by the default, or --ask bracket"
            )
        return warnings

    @property
    def _seeds(self) -> list[str]:
        """What the seeds let a reader conclude."""
        once = [name for name, m in self.methods.items() if len(m.runs) == 1]
        if not self.of_methods:
            return [
                "Each was trained once, so these are differences of trained models. Whether the methods differ takes "
                "several runs of each, with --seed 1, --seed 2, ..."
            ]
        if once:
            return [
                f"{', '.join(once)}: trained once; how far other seeds would move it is taken from the others."
            ]
        return []

    def answer(self) -> Answer:
        """The means of all, and the differences to the best one."""
        rows = {name: self._row(method) for name, method in self.methods.items()}
        parts = {}
        if self.of_methods:
            parts["runs"] = Answer(
                "Single runs",
                rows={
                    name: {**cells(s), "doubtful": _share(s.doubtful, len(s))}
                    for name, s in self.scores.items()
                },
                heads=HEADS,
            )
        alone = []
        if self.differences:
            parts["differences"] = self._differences()
        else:
            alone = [
                "These are seeds of one method, which differ by chance: there is nothing to rank."
            ]
        return Answer(
            "log p(x) of the same data",
            rows=rows,
            heads=HEADS,
            sentences=alone,
            warnings=self.warnings,
            parts=parts,
        )

    def _row(self, method: Method) -> dict[str, Any]:
        """A method's line in the table."""
        row: dict[str, Any] = {key: getattr(method, key) for key in COLUMNS}
        if self.of_methods:
            row["seed_standard_deviation"] = _known(method.seed_standard_deviation)
            row["runs"] = len(method.runs)
        return row | {"doubtful": _share(method.doubtful, 1)}

    def _differences(self) -> Answer:
        """What every other method is short of the best one."""
        rows = {}
        for name, d in self.differences.items():
            row = {key: getattr(d, key) for key in COLUMNS}
            if self.of_methods:
                row["seed_standard_error"] = _known(d.seed_standard_error)
            row |= {"standard_error": d.standard_error, "bias": d.bias, "t": d.t}
            if self.of_methods:
                row["freedom"] = f"{d.freedom:.1f}"
            row["p"] = _p(d.p)
            if len(self.methods) > 2:
                row["p_adjusted"] = _p(d.p_adjusted)
            row |= {"higher": d.higher, "lower": d.lower, "told": d.told}
            rows[name] = row
        errors = "data, seeds and draws" if self.of_methods else "data and draws"
        sentences = [
            f"± all: of {errors}, none counted twice; bias: that of the lower one, twice as large as estimated; "
            "t and p: of what it leaves of the mean, two-sided",
            *self._seeds,
        ]
        if len(self.methods) > 2:
            sentences.insert(
                1,
                f"p (Holm): with regard to all {len(self.pairs)} pairs, compared with {LEVEL}",
            )
        title = f"Differences to {self.best} on each datum"
        return Answer(title, rows=rows, heads=HEADS, sentences=sentences)

    def to_dict(self) -> dict[str, Any]:
        """All the numbers under plain names, as `--json` writes them; an infinite or undefined one is `None`."""
        return {
            "data": len(self.methods[self.best].values),
            "best": self.best,
            "methods": {
                name: {
                    **_finite(m, "seed_standard_deviation", "bias"),
                    "runs": list(m.runs),
                    "doubtful": m.doubtful,
                }
                for name, m in self.methods.items()
            },
            "runs": {
                name: {
                    **_finite(s, "bias"),
                    "pareto_k_above_limit": s.doubtful,
                    "num_particles": s.num_particles,
                }
                for name, s in self.scores.items()
            },
            "differences_to_best": {
                name: {
                    **_finite(d, *NUMBERS),
                    "higher": d.higher,
                    "lower": d.lower,
                    "distinguishable": d.distinguishable,
                    "believable": d.believable,
                }
                for name, d in self.differences.items()
            },
            "warnings": self.warnings,
        }


# Of a difference, beside the mean and two of its errors.
NUMBERS = (
    "seed_standard_error",
    "standard_error",
    "freedom",
    "bias",
    "t",
    "p",
    "p_adjusted",
)


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _share(part: float | None, whole: int) -> str:
    return "" if part is None else f"{100 * part / whole:.1f} %"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _p(p: float) -> str:
    return f"{p:.2g}" if p > 1e-300 else "< 1e-300"


def _finite(source: Any, *names: str) -> dict[str, float | None]:
    """These numbers of a result; `None` for one that is not finite."""
    values = {name: getattr(source, name) for name in (*COLUMNS, *names)}
    return {name: v if math.isfinite(v) else None for name, v in values.items()}


def compare(values: Mapping[str, Any]) -> Comparison:
    """Rank methods by their `log p(x)` on the same data, pairing them datum by datum.

    Args:
        values: by name a result for one run, or a list of such results, one for each seed of a method. A result is a
            `LogMarginal`, a mapping with its arrays (such as an opened `evaluation.npz`), or an array `(N,)` of exact
            log-likelihoods, in nats. Results of seeds may have names, `{"seed 0": result, ...}`. Datum i must be the
            same in all of them, seen in the same way.

    Returns:
        A `Comparison`. Where all were trained once it is one of trained models; with several seeds it is one of
        methods: what to expect of another seed. Where only some have several seeds, the spread of these, pooled, is
        taken for the others.

    Raises:
        InputError: for fewer than two runs or two data, for arrays of different lengths, or for values that are not
            finite.

    >>> result = compare({"a": np.array([-1.0, -2.0, -3.0]), "b": np.array([-2.0, -2.5, -4.5])})
    >>> result.best, result.differences["b"].mean, round(result.differences["b"].p, 4)
    ('a', -1.0, 0.0742)
    >>> seeds = {"a": [np.array([-1.0, -2.0, -3.0]), np.array([-1.1, -2.1, -3.1])], "b": [np.array([-2.0, -2.5, -4.5])]}
    >>> result = compare(seeds)
    >>> [round(m.mean, 2) for m in result.methods.values()], round(result.methods["a"].seed_standard_deviation, 4)
    ([-2.05, -3.0], 0.0707)
    """
    methods = {name: _method(name, given) for name, given in values.items()}
    runs = [(name, run) for m in methods.values() for name, run in m.runs.items()]
    if len(runs) < 2:
        raise InputError(
            f"a comparison needs two runs or more, and there {'is 1' if values else 'are none'}"
        )
    (first, one), *others = runs
    for name, run in others:
        if len(run) != len(one):
            raise InputError(
                f"{first} has values for {len(one)} data and {name} for {len(run)}; only values for the same data can "
                "be paired"
            )
    if len(one) < 2:
        raise InputError(
            f"a comparison needs two data or more, and {first} has {len(one)}"
        )
    methods = _lent(methods)
    ranked = dict(sorted(methods.items(), key=lambda item: -item[1].mean))
    pairs = {
        (a, b): Difference.between(ranked[a], ranked[b])
        for a, b in itertools.combinations(ranked, 2)
    }
    together = holm([d.p for d in pairs.values()])
    adjusted = {
        names: replace(d, p_adjusted=p)
        for (names, d), p in zip(pairs.items(), together, strict=True)
    }
    return Comparison(ranked, adjusted)


def _method(name: str, given: Any) -> Method:
    """Whatever `compare` accepts for a name."""
    return Method(
        {run: _scores(run, result) for run, result in _runs(name, given).items()}
    )


def _runs(name: str, given: Any) -> dict[str, Any]:
    """The results of a method by the names of its runs."""
    if isinstance(given, list | tuple) and given and all(map(_is_result, given)):
        if len(given) == 1:
            return {name: given[0]}
        return {f"{name} [{place}]": result for place, result in enumerate(given)}
    named = isinstance(given, dict) and given and "values" not in given
    if named and all(
        isinstance(result, Mapping | PerDatum) for result in given.values()
    ):
        return dict(given)
    return {name: given}


def _is_result(given: Any) -> bool:
    """Whether it is one of several results, and not one of several numbers."""
    return isinstance(given, Mapping | PerDatum) or np.ndim(given) > 0


def _lent(methods: dict[str, Method]) -> dict[str, Method]:
    """The methods, those that were trained once with the spread over seeds of the others, pooled."""
    known = [m.own for m in methods.values() if m.own is not None]
    if not known:
        return methods
    freedom = sum(spread.freedom for spread in known)
    variance = sum(spread.variance * spread.freedom for spread in known) / freedom
    pooled = Spread(variance, freedom)
    return {
        name: m if m.own is not None else replace(m, borrowed=pooled)
        for name, m in methods.items()
    }


def _scores(name: str, given: Any) -> Scores:
    """Whatever `compare` accepts, as columns of float64."""

    def column(key: str) -> Tensor | None:
        value = _of(given, key)
        return None if value is None else _array(name, key, value)

    plain = isinstance(given, (Tensor, np.ndarray, list, tuple))
    values = _array(name, "values", given) if plain else column("values")
    if values is None:
        raise InputError(f"{name} has no array 'values' of log-likelihoods")
    if values.dim() != 1:
        raise InputError(
            f"the values of {name} must be one for each datum, but have shape {tuple(values.shape)}"
        )
    for row in (~values.isfinite()).nonzero().flatten().tolist():
        raise InputError(
            f"{name} has log p(x) = {values[row]} for datum {row} (counted from 0), which has no difference"
        )
    keys = ("standard_errors", "pareto_k", "num_particles")
    errors, k, count = (None if plain else column(key) for key in keys)
    for key, array in (("standard_errors", errors), ("pareto_k", k)):
        if array is not None and array.shape != values.shape:
            raise InputError(
                f"{name} has {key} of shape {tuple(array.shape)} and values of shape {tuple(values.shape)}"
            )
    particles, usual = None, None
    if count is not None and count.numel() and count.isfinite().all():
        particles = (int(count.min()), int(count.max()))
        asked = None if plain else _of(given, "asked_particles")
        usual = int(count.median()) if asked is None else int(asked)
    if errors is None:
        errors = torch.zeros_like(values)
    two_part = False if plain else bool(_of(given, "two_part"))
    bias = _bias(given, errors)
    return Scores(values, errors, k, particles, usual, bias, two_part)


def _bias(given: Any, errors: Tensor) -> float:
    """How far a result says that its mean lies too low, or the delta method by its errors: `mean(se^2) / 2`."""
    told = _of(given, "estimated_bias", "bias")
    if isinstance(told, float) and math.isfinite(told):
        return abs(told)
    return errors.square().nanmean().nan_to_num().item() / 2


def _of(given: Any, *names: str) -> Any:
    """What a result has under the first of some names that it has."""
    for name in names:
        found = (
            given.get(name)
            if isinstance(given, Mapping)
            else getattr(given, name, None)
        )
        if found is not None:
            return found
    return None


def _array(name: str, key: str, value: Any) -> Tensor:
    try:
        plain = value.detach().cpu() if isinstance(value, Tensor) else value
        return torch.tensor(np.asarray(plain, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the {key} of {name} are not an array of numbers: {error}"
        ) from error
