"""Which of several models is better: paired differences of their log-likelihoods, datum by datum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.question import COLUMNS, Answer, PerDatum, Printed, cells
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.foundation.errors import InputError

ERRORS = 2  # standard errors that tell two runs apart
HEADS = {
    "doubtful": f"k > {PARETO_LIMIT}",
    "standard_error": "± both",
    "t": "t",
    "p": "p",
    "higher": "better on",
    "lower": "worse on",
    "told": "",
}


@dataclass(frozen=True)
class Scores(PerDatum):
    """`log p(x)` of N data under one model, with the errors of each; nats.

    Attributes:
        values: `(N,)`.
        standard_errors: Monte-Carlo standard error of each value, `(N,)`; nan where it is not known.
        pareto_k: tail index of the importance weights, `(N,)`, or `None` for values that have no such weights.
        num_particles: the least and the most draws for a datum, or `None`.
    """

    standard_errors: Tensor
    pareto_k: Tensor | None = None
    num_particles: tuple[int, int] | None = None

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


@dataclass(frozen=True)
class Difference:
    """How much higher one model's `log p(x)` is than another's on the same N data: `d_i = a_i - b_i`, nats.

    The spread of the `d_i` holds the noise of the particles already, so `standard_error` counts that noise twice: it is
    never too small for it.

    Attributes:
        mean: of the `d_i`, nats per datum.
        data_standard_error: `std(d) / sqrt(N)`.
        monte_carlo_standard_error: `sqrt(sum_i se_ai^2 + se_bi^2) / N`; nan where an error is not known.
        t: `mean / data_standard_error`, the statistic of the paired t-test.
        p: its two-sided p-value, from Student's t with N - 1 degrees of freedom.
        higher: how many data have `d_i > 0`.
        lower: how many data have `d_i < 0`.
    """

    mean: float
    data_standard_error: float
    monte_carlo_standard_error: float
    t: float
    p: float
    higher: int
    lower: int

    @classmethod
    def between(cls, a: Scores, b: Scores) -> "Difference":
        """`a` minus `b`, datum by datum."""
        from scipy import stats

        errors = torch.hypot(a.standard_errors, b.standard_errors)
        d = PerDatum(a.values - b.values, errors)
        mean, error, noise = d.mean, d.data_standard_error, d.monte_carlo_standard_error
        t = 0.0
        if error > 0:
            t = mean / error
        elif mean:
            t = math.copysign(math.inf, mean)
        p = float(2 * stats.t.sf(abs(t), len(d) - 1))
        higher, lower = int((d.values > 0).sum()), int((d.values < 0).sum())
        return cls(mean, error, noise, t, p, higher, lower)

    @property
    def standard_error(self) -> float:
        """Both errors, added in quadrature; that of the data alone where the other is not known."""
        noise = self.monte_carlo_standard_error
        return math.hypot(self.data_standard_error, 0.0 if math.isnan(noise) else noise)

    @property
    def distinguishable(self) -> bool:
        """Whether the mean is more than 2 standard errors away from 0."""
        return abs(self.mean) > ERRORS * self.standard_error


@dataclass(frozen=True)
class Comparison(Printed):
    """Models ranked by their mean `log p(x)` on the same data; prints itself as a table.

    Attributes:
        scores: by name, the highest mean first.
        differences: every other model minus the best one, by name, in the same order.
    """

    scores: dict[str, Scores]
    differences: dict[str, Difference]

    @property
    def ranking(self) -> list[str]:
        """The names, the highest mean first."""
        return list(self.scores)

    @property
    def best(self) -> str:
        """The name with the highest mean."""
        return self.ranking[0]

    def pair(self, a: str, b: str) -> Difference:
        """The model `a` minus the model `b`, for any two names."""
        for name in (a, b):
            if name not in self.scores:
                raise InputError(
                    f"{name!r} was not compared; choose among {', '.join(self.scores)}"
                )
        return Difference.between(self.scores[a], self.scores[b])

    @property
    def warnings(self) -> list[str]:
        """What makes a number doubtful, one sentence each."""
        warnings = []
        counts = {
            name: _range(*s.num_particles)
            for name, s in self.scores.items()
            if s.num_particles is not None and s.rises
        }
        if len(set(counts.values())) > 1:
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
                    f"{name} has no Monte-Carlo errors, so its difference counts the error of the data alone"
                )
        return warnings

    def answer(self) -> Answer:
        """The means of all, and the differences to the best one."""
        rows = {}
        for name, s in self.scores.items():
            share = "" if s.doubtful is None else f"{100 * s.doubtful / len(s):.1f} %"
            rows[name] = {**cells(s), "doubtful": share}
        differences = {}
        for name, d in self.differences.items():
            p = f"{d.p:.2g}" if d.p > 1e-300 else "< 1e-300"
            verdict = "" if d.distinguishable else "not distinguishable"
            keys = (*COLUMNS, "standard_error", "t", "p", "higher", "lower")
            columns = {key: getattr(d, key) for key in keys}
            differences[name] = columns | {"p": p, "told": verdict}
        sentences = [
            "t and p: the paired t-test over the data, two-sided, each difference on its own",
            f"± both: the two errors added in quadrature; not distinguishable: a mean within {ERRORS} of them",
        ]
        to_best = Answer(
            f"Differences to {self.best} on each datum",
            rows=differences,
            heads=HEADS,
            sentences=sentences,
        )
        return Answer(
            "log p(x) of the same data",
            rows=rows,
            heads=HEADS,
            warnings=self.warnings,
            parts={"differences": to_best},
        )

    def to_dict(self) -> dict[str, Any]:
        """All the numbers under plain names, as `--json` writes them; an infinite or undefined one is `None`."""
        return {
            "data": len(self.scores[self.best].values),
            "best": self.best,
            "runs": {
                name: {
                    **_finite(s),
                    "pareto_k_above_limit": s.doubtful,
                    "num_particles": s.num_particles,
                }
                for name, s in self.scores.items()
            },
            "differences_to_best": {
                name: {
                    **_finite(d, "standard_error", "t", "p"),
                    "higher": d.higher,
                    "lower": d.lower,
                    "distinguishable": d.distinguishable,
                }
                for name, d in self.differences.items()
            },
            "warnings": self.warnings,
        }


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _finite(source: Scores | Difference, *names: str) -> dict[str, float | None]:
    """These numbers of a result; `None` for one that is not finite."""
    values = {name: getattr(source, name) for name in (*COLUMNS, *names)}
    return {name: v if math.isfinite(v) else None for name, v in values.items()}


def compare(values: Mapping[str, Any]) -> Comparison:
    """Rank models by their `log p(x)` on the same data, and pair each with the best one datum by datum.

    Args:
        values: by name a `LogMarginal`, a mapping with its arrays (such as an opened `evaluation.npz`), or an array
            `(N,)` of exact log-likelihoods, in nats. Datum i must be the same in all of them, seen in the same way.

    Returns:
        A `Comparison`.

    Raises:
        InputError: for fewer than two models or two data, for arrays of different lengths, or for values that are not
            finite.

    >>> result = compare({"a": np.array([-1.0, -2.0, -3.0]), "b": np.array([-2.0, -2.5, -4.5])})
    >>> result.best, result.differences["b"].mean, round(result.differences["b"].p, 4)
    ('a', -1.0, 0.0742)
    """
    if len(values) < 2:
        raise InputError(
            f"a comparison needs two runs or more, and there {'is 1' if values else 'are none'}"
        )
    scores = {name: _scores(name, given) for name, given in values.items()}
    first, *others = scores
    size = len(scores[first].values)
    for name in others:
        if len(scores[name].values) != size:
            raise InputError(
                f"{first} has values for {size} data and {name} for {len(scores[name].values)}; only values for the "
                "same data can be paired"
            )
    if size < 2:
        raise InputError(f"a comparison needs two data or more, and {first} has {size}")
    ranked = dict(sorted(scores.items(), key=lambda item: -item[1].mean))
    (_, best), *rest = ranked.items()
    differences = {name: Difference.between(other, best) for name, other in rest}
    return Comparison(ranked, differences)


def _scores(name: str, given: Any) -> Scores:
    """Whatever `compare` accepts, as columns of float64."""

    def column(key: str) -> Tensor | None:
        value = (
            given.get(key) if isinstance(given, Mapping) else getattr(given, key, None)
        )
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
    particles = None
    if count is not None and count.numel() and count.isfinite().all():
        particles = (int(count.min()), int(count.max()))
    if errors is None:
        errors = torch.zeros_like(values)
    return Scores(values, errors, k, particles)


def _array(name: str, key: str, value: Any) -> Tensor:
    try:
        plain = value.detach().cpu() if isinstance(value, Tensor) else value
        return torch.tensor(np.asarray(plain, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the {key} of {name} are not an array of numbers: {error}"
        ) from error
