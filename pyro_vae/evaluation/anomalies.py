"""Which data are anomalies: a threshold that few data like those of training pass."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from scipy.stats import beta
from torch import Tensor

from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.question import (
    Answer,
    Drawing,
    Evaluated,
    Printed,
    Progress,
    Question,
    Trained,
    listed,
    unseen,
)
from pyro_vae.evaluation.refinement import check_refined
from pyro_vae.evaluation.weighting import a_few, check_draws, log_marginal
from pyro_vae.foundation.checks import Number, checked, share
from pyro_vae.foundation.errors import InputError

Rate = Annotated[float, share(zero=False)]
MOST = 2000  # validation data that are scored
ROUNDING = 1e-9  # of a product that may be a whole number
KEPT = "thresholds"  # what a run keeps of them
SCORES = {
    "log_px": "-log p(x)",
    "elbo": "-ELBO",
    "regret": "the likelihood regret",
}


@dataclass(frozen=True)
class Threshold(Printed):
    """A threshold on a score, from n data that are no anomalies, and what it says of N others.

    Attributes:
        known: scores of the n data, in order.
        scores: of the N data, high for an anomaly.
        rate: the false-positive rate that was chosen.
        score: what the score is, in words.
        rows: places of the N data in their file, `(N,)`.
    """

    known: Tensor
    scores: Tensor
    rate: float
    score: str
    rows: Any

    @property
    def rank(self) -> int:
        """k: the threshold is the k-th smallest of the known scores."""
        return math.ceil((len(self.known) + 1) * (1 - self.rate) - ROUNDING)

    @property
    def value(self) -> float:
        """The threshold itself."""
        return self.known[self.rank - 1].item()

    @property
    def p_values(self) -> Tensor:
        """`(1 + #{known >= score}) / (n + 1)`, `(N,)`: at most `rate` just where the score is above the threshold."""
        n = len(self.known)
        below = torch.searchsorted(
            self.known, self.scores.nan_to_num(math.inf), right=False
        )
        return (1 + n - below).double() / (n + 1)

    @property
    def flagged(self) -> Tensor:
        """Which data are anomalies, `(N,)` booleans; a score that is not finite is one."""
        return ~(self.scores <= self.value)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the false-positive rate of these n data lies, 95 %: it is one minus `Beta(k, n + 1 - k)`."""
        of_pass = beta(self.rank, len(self.known) + 1 - self.rank)
        return 1 - float(of_pass.ppf(0.975)), 1 - float(of_pass.ppf(0.025))

    def answer(self) -> Answer:
        """The threshold, how many data are above it, and which."""
        from pyro_vae import plots

        n, count = len(self.known), int(self.flagged.sum())
        low, high = self.interval
        order = self.scores.nan_to_num(math.inf).argsort(descending=True)
        worst = order[:count].tolist()
        which = f": row {listed([int(self.rows[i]) for i in worst])} (from 0), the worst first"
        above = (self.known > self.value).double().mean().item()
        caption = f"{self.score} of the data; right of the line, in red, those that are taken for anomalies."
        draw = partial(
            plots.histogram, self.scores, f"{self.score}, nats", limit=self.value
        )
        return Answer(
            title="Anomalies",
            about=f"{self.score} above the threshold of {n} validation data",
            rows={
                "threshold": {"nats": self.value},
                "of validation data above it": {"share": above},
                "of these data above it": {"share": count / max(len(self.scores), 1)},
            },
            heads={"nats": "nats", "share": "share"},
            sentences=[
                f"{count} of {len(self.scores)} data are anomalies{which if count else ''}.",
                f"Of data like the validation data {100 * self.rate:g} % are taken for anomalies on average, with this "
                f"threshold {100 * low:.2g} to {100 * high:.2g} % (95 %).",
            ],
            figures={"anomalies": Drawing(draw, caption)},
            columns={
                "score": self.scores,
                "p_value": self.p_values,
                "anomaly": self.flagged,
            },
            numbers={"rate": self.rate, "validation_data": n},
        )


@checked
def threshold(
    known: Tensor,
    scores: Tensor,
    *,
    rate: Rate = 0.05,
    score: str = "score",
    rows: Any = None,
) -> Threshold:
    """Tell anomalies by a threshold that data like some known ones pass with probability `rate` at most.

    The threshold is the k-th smallest of n known scores, `k = ceil((n + 1) (1 - rate))`. If a datum and the known ones
    can be exchanged, its score is above with probability `1 - k / (n + 1) <= rate`, whatever the score is.

    Args:
        known: scores of n data that are no anomalies and that the model was not trained on, `(n,)`; what is not finite
            counts as infinite.
        scores: of N others, `(N,)`, high for an anomaly.
        rate: the false-positive rate.
        score: what the score is, in words.
        rows: numbers of the N data, from 0 by default.

    Raises:
        InputError: where n data are too few for such a rate, which takes `1 / rate - 1` of them.

    Source: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World; Bates, Candès, Lei, Romano & Sesia
    2023, Testing for Outliers with Conformal p-Values.

    >>> found = threshold(torch.arange(99.0), torch.tensor([3.0, 200.0]), rate=0.05)
    >>> found.value, found.flagged.tolist(), [round(p, 2) for p in found.p_values.tolist()]
    (94.0, [False, True], [0.97, 0.01])
    """
    known = torch.as_tensor(known).double().nan_to_num(math.inf, posinf=math.inf)
    least = math.ceil(1 / rate - 1 - ROUNDING)
    if len(known) < least:
        raise InputError(
            f"rate={rate:g} takes {least:,} validation data or more, and there are {len(known):,}; choose a higher rate"
        )
    scores = torch.as_tensor(scores).double()
    rows = range(len(scores)) if rows is None else rows
    return Threshold(known.sort().values, scores, rate, score, rows)


class Anomalies(Question):
    """Which data are anomalies, by a threshold that few of the validation data pass; the run keeps it.

    Args:
        rate: the false-positive rate: how many of ordinary data are taken for anomalies.
        score: what is high for an anomaly: `-log p(x)`, minus the ELBO, or the likelihood regret, what fitting q(z|x)
            to the datum gains.
        steps: of the fit, for the regret.
        num_particles: draws for each datum; by default those of the evaluation.
    """

    def __init__(
        self,
        *,
        rate: Rate = 0.05,
        score: Literal["log_px", "elbo", "regret"] = "log_px",
        steps: Number = 100,
        num_particles: Number | None = None,
    ) -> None:
        self.rate, self.score, self.steps = rate, score, steps
        self.num_particles = num_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        if self.score == "regret":
            check_refined(self, run, data)
        else:
            check_draws(self, data, run.vae.model, run.vae.guide, a_few(run, data))
        known: Any = self._stored(run, data)
        if known is None:
            known = run.split("validation").first(MOST)
        threshold(torch.zeros(len(known)), torch.zeros(0), rate=self.rate)

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        stored = self._stored(run, data)
        with progress("data", None) as done:
            if stored is None:
                x = run.split("validation").first(MOST)
                stored = self._scores(run, x, data).sort().values.tolist()
                scores_by_name = {self._name(run, data): stored}
                run.remember(KEPT, run.remembered(KEPT) | scores_by_name)
                done(len(stored))
            scores = self._scores(run, data.x, data)
            done(len(scores))
        known, words = torch.tensor(stored, dtype=torch.float64), SCORES[self.score]
        return threshold(
            known, scores, rate=self.rate, score=words, rows=data.rows
        ).answer()

    def _name(self, run: Trained, data: Evaluated) -> str:
        """What scores are kept under: those of other draws, steps or weights are others."""
        steps = f", {self.steps} steps" if self.score == "regret" else ""
        draws = self.num_particles or data.num_particles
        return f"{self.score}, {draws} draws{steps}, epoch {run.epoch}"

    def _stored(self, run: Trained, data: Evaluated) -> list[float] | None:
        """The scores of the validation data, where the run keeps them."""
        scores = run.remembered(KEPT).get(self._name(run, data))
        if not isinstance(scores, list):
            return None
        return [math.inf if v is None else float(v) for v in scores]

    def _scores(self, run: Trained, x: Any, data: Evaluated) -> Tensor:
        """The score of each datum, `(N,)`, high for an anomaly."""
        draws = self.num_particles or data.num_particles
        options: dict[str, Any] = {"num_particles": draws, "memory": data.memory}
        if self.score == "regret":
            return inference_gaps(run.vae, x, steps=self.steps, **options).amortisation
        marginal = log_marginal(run.vae.model, run.vae.guide, x, **options)
        return -(marginal.values if self.score == "log_px" else marginal.elbo)
