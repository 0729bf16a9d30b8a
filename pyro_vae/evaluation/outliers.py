"""Data unlike the training data: scores of each datum, and how well they tell two data sets apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pyro_vae.data import NAMED, evenly
from pyro_vae.data.inputs import as_data
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_vae.evaluation.question import (
    Answer,
    Drawing,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Tick,
    Trained,
    listed,
    unseen,
)
from pyro_vae.evaluation.refinement import check_refined, log_marginal_refined
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.foundation.checks import Draws, Number, Positive, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.pairs import pair_of

HEADS = {
    "mean_inside": "mean inside",
    "mean_outside": "outside",
    "inside_if": "inside if",
    "auroc": "AUROC",
    "low": "95 % interval: from",
    "high": "to",
    "fpr": "FPR at 95 % TPR",
}
TYPICAL = 1000  # training data whose mean log p(x) is typical
LEVEL = 0.05  # 1 - LEVEL: coverage of an interval, and the true positive rate of the threshold
QUANTILE = 1.959964  # of the normal distribution at 1 - LEVEL / 2
CLEAR = 0.9  # an AUROC below it is said to be weak
# Of data like the training data.
HIGHER_INSIDE = {
    "log p(x)": True,
    "ELBO": True,
    "regret": False,
    "typicality": False,
}


@dataclass(frozen=True)
class AnomalyScores(Printed):
    """How unlike the training data each of N data is; nats, all shapes `(N,)`.

    Attributes:
        gaps: `log p(x)`, `L[q*]` and `L[q]`, with their errors.
        typical: the mean `log p(x)` of training data.
    """

    gaps: InferenceGaps
    typical: float

    def __len__(self) -> int:
        return len(self.gaps)

    @property
    def log_marginal(self) -> Tensor:
        """`log p(x)`, weighted from the refined q; low for an outlier, if not as a rule."""
        return self.gaps.log_marginal.values

    @property
    def elbo(self) -> Tensor:
        """`L[q]`, the ELBO of the guide; low for an outlier, if not as a rule."""
        return self.gaps.elbo

    @property
    def regret(self) -> Tensor:
        """`L[q*] - L[q]`; high for an outlier; below 0 by no more than the errors, `gaps.amortisation_errors`."""
        return self.gaps.amortisation

    @property
    def typicality(self) -> Tensor:
        """`|log p(x) - typical|`; high for an outlier."""
        return (self.log_marginal - self.typical).abs()

    @property
    def sound(self) -> Tensor:
        """Which data have all four scores, `(N,)` booleans: a density that underflows tells no two data apart."""
        return self.gaps.sound

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The four scores by the names of the table."""
        scores = self.log_marginal, self.elbo, self.regret, self.typicality
        return dict(zip(HIGHER_INSIDE, scores, strict=True))

    def answer(self) -> Answer:
        scores = self.per_datum.items()
        return Answer(
            title="Scores of outliers",
            about=f"{len(self)} data",
            rows={name: PerDatum(score, None) for name, score in scores},
        )


@checked
def anomaly_scores(
    pair: Any,
    x: Any,
    train: Any,
    *,
    steps: Number = 100,
    rate: Positive = 0.1,
    num_particles: Number = 5000,
    elbo_particles: Draws = 100,
    batch_size: Number = 200,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> AnomalyScores:
    """Four scores of how unlike its training data a model finds each datum.

    - `log p(x)`, low for an outlier. It is weighted from the refined q*: away from the training data the guide is far
      from the posterior, and `log p(x)` weighted from it would be too low just for outliers.
    - The ELBO `L[q]`, low for an outlier.
    - The likelihood regret `L[q*] - L[q]`, high for an outlier: what fitting q(z|x) to the datum gains.
    - The typicality `|log p(x) - mean of log p over training data|`, high for an outlier: data that are too probable
      count as well.

    `log p(x)` and the ELBO alone can fail: simple data may be more probable than the training data themselves.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        train: training data of the same kind, some hundreds suffice; or `typical` of an earlier result.
        steps: gradient steps towards q*, as in `refine`.
        rate: as in `refine`.
        num_particles: K of log p(x), as in `log_marginal`.
        elbo_particles: draws for each of the two ELBOs, 2 or more.
        batch_size: data refined at a time.
        memory: in bytes, as in `log_marginal_refined`.
        progress: called with the number of draws weighted since its last call.

    Returns:
        The `AnomalyScores`, in nats.

    Raises:
        InputError: as `inference_gaps`.

    Source: Xiao, Yan & Amit 2020, Likelihood Regret; Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019, Detecting
    Out-of-Distribution Inputs to Deep Generative Models Using Typicality.

    >>> import torch
    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> first = anomaly_scores(vae, torch.eye(4), torch.eye(4), steps=5, num_particles=100)
    >>> anomaly_scores(vae, torch.ones(3, 4), first.typical, steps=5, num_particles=100).regret.shape
    torch.Size([3])
    """
    options: dict[str, Any] = {
        "steps": steps,
        "rate": rate,
        "batch_size": batch_size,
        "num_particles": num_particles,
        "memory": memory,
        "progress": progress,
    }
    if isinstance(train, int | float):
        typical = float(train)
    else:
        seen = as_data(pair_of(pair)[0], train, name="train")
        typical = log_marginal_refined(pair, seen, **options).mean
    gaps = inference_gaps(pair, x, elbo_particles=elbo_particles, **options)
    return AnomalyScores(gaps, typical)


class Detection(NamedTuple):
    """How well a score tells data inside a distribution from data outside.

    Attributes:
        auroc: the probability that a datum inside has the higher score, ties counting half.
        standard_error: of it, from the choice of both samples.
        low, high: its 95 % interval.
        fpr: the share of data outside that pass at the highest threshold that at least 95 % of those inside pass.

    All are nan where a score is not a number.
    """

    auroc: float
    standard_error: float
    low: float
    high: float
    fpr: float


def detection(inside: Any, outside: Any) -> Detection:
    """The area under the ROC curve of a score, `P(s > t) + P(s = t) / 2`, with its interval; and the FPR at 95 % TPR.

    The standard error is that of DeLong; the interval is symmetric on the logit scale, and so stays within [0, 1]. When
    the samples do not overlap, DeLong's error is 0, and the interval is the exact one from `min(n, m)` independent
    pairs, all of them in the same order.

    Args:
        inside: n scores of data inside, two or more; higher ones mean inside.
        outside: m scores of data outside, two or more.

    Returns:
        A `Detection`.

    Raises:
        InputError: for scores that are not one for each datum, or fewer than two.

    Source: DeLong, DeLong & Clarke-Pearson 1988, Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves; Sun & Xu 2014, Fast Implementation of DeLong's Algorithm (by midranks); Pepe 2003, The
    Statistical Evaluation of Medical Tests (the logit scale).

    >>> detection([3.0, 2.0, 2.0], [2.0, 1.0]).auroc
    0.8333333333333334
    """
    from scipy.stats import rankdata

    s, t = (np.asarray(v, dtype=np.float64) for v in (inside, outside))
    for v in (s, t):
        if v.ndim != 1 or len(v) < 2:
            raise InputError(
                f"an AUROC needs two data or more on each side, one score for each, not shape {v.shape}"
            )
    if np.isnan(s).any() or np.isnan(t).any():
        return Detection(*[math.nan] * 5)
    n, m = len(s), len(t)
    ranks = rankdata(np.concatenate([s, t]))
    # Shares of the data outside below each datum inside, (n,), and of those inside above each outside, (m,).
    below = (ranks[:n] - rankdata(s)) / m
    above = 1 - (ranks[n:] - rankdata(t)) / n
    area = float(below.mean())
    error = math.sqrt(below.var(ddof=1) / n + above.var(ddof=1) / m)
    low, high = _interval(area, error, min(n, m))
    threshold = np.sort(s)[n - -(-95 * n // 100)]
    return Detection(area, error, low, high, float((t >= threshold).mean()))


def _interval(area: float, error: float, pairs: int) -> tuple[float, float]:
    """95 % of an AUROC."""
    if area in (0.0, 1.0):
        least = (LEVEL / 2) ** (1 / pairs)
        return (least, 1.0) if area else (0.0, 1 - least)
    centre, width = math.log(area / (1 - area)), QUANTILE * error / (area * (1 - area))
    return _logistic(centre - width), _logistic(centre + width)


def _logistic(v: float) -> float:
    return math.exp(-np.logaddexp(0.0, -v))


@dataclass(frozen=True)
class Separation(Printed):
    """How well the four scores tell data outside the distribution from data inside; prints itself as a table.

    Attributes:
        names: of the two data sets, inside and outside.
        inside: scores of data from the distribution of the training data, not among them.
        outside: scores of other data.
        rows: what the data on each side are called by, whole numbers; by default their places, counted from 0.
    """

    names: tuple[str, str]
    inside: AnomalyScores
    outside: AnomalyScores
    rows: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None)

    @property
    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each score of the data inside, `(n,)`, and of those outside, `(m,)`; of the `sound` ones."""
        sides = [
            {name: scores[side.sound] for name, scores in side.per_datum.items()}
            for side in (self.inside, self.outside)
        ]
        return {name: (sides[0][name], sides[1][name]) for name in HIGHER_INSIDE}

    @property
    def lost(self) -> str | None:
        """A sentence when some data have no finite score, naming the first of them."""
        phrases = []
        sides = zip(self.names, (self.inside, self.outside), self.rows, strict=True)
        for name, scores, rows in sides:
            places = (~scores.sound).nonzero().flatten().tolist()
            if places:
                numbers = places if rows is None else [int(rows[i]) for i in places]
                named = listed(numbers)
                phrases.append(f"row{'s' if places[1:] else ''} {named} of {name}")
        if not phrases:
            return None
        return f"Without finite scores, and left out: {' and '.join(phrases)} (counted from 0)."

    @property
    def detections(self) -> dict[str, Detection]:
        """The `Detection` of each score, each in its own direction: an AUROC above 0.5 is better than chance."""
        return {
            name: detection(a, b) if HIGHER_INSIDE[name] else detection(-a, -b)
            for name, (a, b) in self.pairs.items()
        }

    @property
    def failure(self) -> str | None:
        """A sentence when `log p(x)` does not tell the data outside from those inside; `None` when it does.

        It fails where its AUROC lies below 0.5 with its whole interval, and is weak where the AUROC is below 0.9 or
        more than half of the data outside pass at 95 % TPR.
        """
        detections = self.detections
        own = detections["log p(x)"]
        if own.high < 0.5:
            return (
                f"The model gives higher log p(x) to {self.names[1]} than to its own {self.names[0]} data; log p(x) "
                "alone does not detect them (Nalisnick et al. 2019)."
            )
        if not (own.auroc < CLEAR or own.fpr > 0.5):
            return None
        verdict = (
            f"log p(x) hardly tells {self.names[1]} from {self.names[0]}: its AUROC is {own.auroc:.2f}, and at the "
            f"threshold that 95 % of the data inside pass, {100 * own.fpr:.0f} % of those outside pass too"
        )
        name, best = max(detections.items(), key=lambda item: item[1].auroc)
        if best.low > own.high:
            return f"{verdict}; the {name} does better (AUROC {best.auroc:.2f}, {100 * best.fpr:.0f} % pass)."
        return f"{verdict}; no other score does better."

    @property
    def doubt(self) -> str | None:
        """A sentence when some `log p(x)` have a Pareto k above 0.7."""
        phrases, bad = [], 0
        for name, side in zip(self.names, (self.inside, self.outside), strict=True):
            count = int(side.gaps.log_marginal.doubtful.sum())
            phrases.append(f"{count} of {len(side)} {name} data")
            bad += count
        if bad == 0:
            return None
        return f"Pareto k is above {PARETO_LIMIT} for {' and '.join(phrases)}: their log p(x) is probably too low."

    @property
    def table(self) -> dict[str, dict[str, Any]]:
        """For each score its means on both sides in nats, and its `Detection`."""
        rows, pairs = {}, self.pairs
        for name, d in self.detections.items():
            inside, outside = pairs[name]
            rows[name] = {
                "mean_inside": inside.mean().item(),
                "mean_outside": outside.mean().item(),
                "higher_inside": HIGHER_INSIDE[name],
                "inside_if": "higher" if HIGHER_INSIDE[name] else "lower",
                "auroc": d.auroc,
                "auroc_standard_error": d.standard_error,
                "low": d.low,
                "high": d.high,
                "fpr": d.fpr,
            }
        return rows

    def answer(self) -> Answer:
        """How well each score tells the two sides apart, and where `log p(x)` fails."""
        (a, b), (n, m) = self.names, (len(self.inside), len(self.outside))
        return Answer(
            title=b,
            about=f"inside: {n} of {a}; outside: {m} of {b}; typical log p(x) {self.inside.typical:.3f}",
            rows=self.table,
            heads=HEADS,
            sentences=[sentence for sentence in (self.failure, self.lost) if sentence],
            warnings=[self.doubt] if self.doubt else [],
            figures={f"ood-{b}": self._drawing()},
            numbers={
                "data": m,
                "typical": self.inside.typical,
                "verdict": self.failure,
                "left_out": self.lost,
            },
        )

    def _drawing(self) -> Drawing:
        from pyro_vae import plots

        areas = {name: score.auroc for name, score in self.detections.items()}
        make = partial(plots.separation, self.names, self.pairs, areas)
        a, b = self.names
        return Drawing(make, f"The four scores of {a} and of {b}.")


class OOD(Question):
    """How well the model tells other data from those evaluated.

    Args:
        data: of which files all rows are scored; or of which named data sets the test data.
        steps: gradient steps towards the best q(z|x) of each datum.
        num_particles: draws of log p(x) for each datum; by default those of the evaluation.
    """

    def __init__(
        self,
        *,
        data: str | tuple[str, ...] = (),
        steps: Number = 100,
        num_particles: Number | None = None,
    ) -> None:
        self.data = (data,) if isinstance(data, str) else data
        self.steps, self.num_particles = steps, num_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        if not self.data:
            raise InputError(
                "ood needs data to score, as in --ask \"ood(data='other.npy')\""
            )
        if len(data) < 2:
            raise InputError("ood needs two data or more; raise --limit")
        stems: dict[str, str] = {}
        for name in self.data:
            stem, called = stem_of(name), self._called(name)
            if stem in stems:
                raise InputError(
                    f"{stems[stem]} and {called} would share the figure ood-{stem}.png; rename one"
                )
            stems[stem] = called
            if len(self._outside(run, name)) < 2:
                raise InputError(
                    f"{called} holds one datum, and two are needed to tell them from others"
                )
        check_refined(self, run, data)

    def _called(self, name: str) -> str:
        """Some data as they were given, `--ood other.npy` or `data='other.npy' of OOD`."""
        return f"--ood {name}" if "data" in self.typed else f"data={name!r} of OOD"

    def _outside(self, run: Trained, name: str) -> Any:
        """The data, refused as they were given."""
        try:
            return run.outside(name)
        except InputError as error:
            message = str(error).replace(f"--ood {name}", self._called(name))
            raise InputError(message) from error

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        options: dict[str, Any] = {
            "steps": self.steps,
            "num_particles": self.num_particles or data.num_particles,
            "memory": data.memory,
        }
        inside = anomaly_scores(
            run.vae, data.x, run.split("train").first(TYPICAL), **options
        )
        separations = {}
        for name in self.data:
            every = run.outside(name)
            other = every if data.limit is None else every.first(data.limit)
            separation = Separation(
                (data.called, stem_of(name)),
                inside,
                anomaly_scores(run.vae, other, inside.typical, **options),
                (data.rows.tolist(), evenly(len(other), len(every)).tolist()),
            )
            kind = "test data" if name in NAMED else "rows"
            sentence = f"{name}: {len(other)} of its {len(every)} {kind}"
            separations[Path(name).name] = separation.answer().plus(
                sentences=[sentence]
            )
        return Answer(title="Data unlike the training data", parts=separations)


def stem_of(name: str) -> str:
    """What other data are called: a named data set, or a file without its folder and ending."""
    return name if name in NAMED else Path(name).stem
