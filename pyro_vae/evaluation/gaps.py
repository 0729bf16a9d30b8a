"""Why an ELBO lies below log p(x): the gaps of the family and of the encoder."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Printed,
    Progress,
    Question,
    Shards,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.refinement import (
    check_refined,
    paired_bounds,
    weighted_refined,
)
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.checks import Draws, Number, Positive, checked
from pyro_vae.inference.pairs import pair_of

MEANINGS = {
    "log p(x)": "weighted from the refined q",
    "L[q*]": "the ELBO of q*, the best of the guide's family for each datum",
    "L[q]": "the ELBO of the guide",
    "approximation": "log p(x) - L[q*]: what a richer family of guides could gain",
    "amortisation": "L[q*] - L[q]: what a better encoder could gain",
    "inference": "log p(x) - L[q]: the sum of the two",
}


@dataclass(frozen=True)
class InferenceGaps(Shards, Printed):
    """What inference loses on each of N data, in nats; all errors are Monte-Carlo standard errors, all shapes `(N,)`.

    Attributes:
        log_marginal: `log p(x)`, weighted from the refined q.
        refined_elbo: `L[q*]`, the ELBO of the refined q, and its errors.
        elbo: `L[q]`, the ELBO of the guide, and its errors.
        amortisation_errors: of `L[q*] - L[q]`, whose draws share their noise.
        improved: for which data the refinement found something better.

    Results over shards of data add up.
    """

    log_marginal: LogMarginal
    refined_elbo: Tensor
    refined_elbo_errors: Tensor
    elbo: Tensor
    elbo_errors: Tensor
    amortisation_errors: Tensor
    improved: Tensor

    def __len__(self) -> int:
        return len(self.elbo)

    @property
    def sound(self) -> Tensor:
        """For which data all is finite, `(N,)` booleans; the averages are over these."""
        bounds = self.refined_elbo.isfinite() & self.elbo.isfinite()
        return self.log_marginal.sound & bounds

    @property
    def approximation(self) -> Tensor:
        """`log p(x) - L[q*]`: what the family cannot reach."""
        return self.log_marginal.values - self.refined_elbo

    @property
    def approximation_errors(self) -> Tensor:
        """From independent draws."""
        return self._beside(self.refined_elbo_errors)

    @property
    def amortisation(self) -> Tensor:
        """`L[q*] - L[q]`: what the encoder misses within the family."""
        return self.refined_elbo - self.elbo

    @property
    def inference(self) -> Tensor:
        """`log p(x) - L[q]`: the sum of the two."""
        return self.log_marginal.values - self.elbo

    @property
    def inference_errors(self) -> Tensor:
        """From independent draws."""
        return self._beside(self.elbo_errors)

    def _beside(self, errors: Tensor) -> Tensor:
        """The errors of log p(x) minus a bound with these."""
        return (self.log_marginal.standard_errors.square() + errors.square()).sqrt()

    @property
    def rows(self) -> dict[str, PerDatum]:
        """The six rows of the table, of the `sound` data."""
        columns = {
            "log p(x)": self.log_marginal,
            "L[q*]": PerDatum(self.refined_elbo, self.refined_elbo_errors),
            "L[q]": PerDatum(self.elbo, self.elbo_errors),
            "approximation": PerDatum(self.approximation, self.approximation_errors),
            "amortisation": PerDatum(self.amortisation, self.amortisation_errors),
            "inference": PerDatum(self.inference, self.inference_errors),
        }
        return {name: column.among(self.sound) for name, column in columns.items()}

    def answer(self) -> Answer:
        """The gaps, and how far they can be believed."""
        n, count = len(self), int(self.sound.sum())
        bad = self.log_marginal.doubtful.any()
        lost = f"of {count} of {n} data; the others have no finite value"
        better = (
            f"q* is better than q for {int(self.improved.sum())} of {n} data. A q* short of the best in its family "
            "counts as approximation what is amortisation; a log p(x) that is too low hides approximation."
        )
        verdict = [self.log_marginal.verdict()]
        return Answer(
            title="Why the ELBO lies below log p(x)",
            about=f"{self.log_marginal.count} particles on {n} data",
            rows=self.rows,
            meanings=MEANINGS,
            sentences=[
                *([lost] if count < n else []),
                better,
                *([] if bad else verdict),
            ],
            warnings=verdict if bad else [],
        )


@checked
def inference_gaps(
    pair: Any,
    x: Any,
    *args: Any,
    steps: Number = 500,
    rate: Positive = 0.1,
    num_particles: Number = 5000,
    elbo_particles: Draws = 1000,
    batch_size: Number = 200,
    memory: Number = MEMORY,
    compile: bool | str = "auto",
    progress: Tick = None,
    **kwargs: Any,
) -> InferenceGaps:
    """How far the ELBO lies below log p(x), and how much of that the family and the encoder each cost.

    `log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q])`: the approximation gap of the best q* in the guide's family
    and the amortisation gap of the encoder. q* is the `refine`d q; log p(x) is weighted from it.

    Args:
        pair: a VAE, or a tuple of a Pyro model and its guide.
        x: the data, `(N, *shape)`, as in `log_marginal`.
        *args: what both are called with beside a batch of x; tensors of N rows are cut along with it.
        steps: gradient steps towards q*, as in `refine`.
        rate: as in `refine`.
        num_particles: K of log p(x), as in `log_marginal`.
        elbo_particles: draws for each of the two ELBOs, 2 or more; none of them took part in the refinement.
        batch_size: data refined at a time.
        memory: in bytes, as in `log_marginal_refined`.
        compile: weigh by a compiled graph, as in `log_marginal`.
        progress: called with the number of draws weighted since its last call.
        **kwargs: what both are called with by name, cut as `args`.

    Returns:
        The `InferenceGaps`, in nats.

    Raises:
        InputError: as `log_marginal_refined`, or for fewer than two `elbo_particles`.

    Source: Cremer, Li & Duvenaud 2018, Inference Suboptimality in Variational Autoencoders.

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> inference_gaps(vae, torch.eye(4), steps=5, num_particles=100, elbo_particles=10).amortisation.shape
    torch.Size([4])
    """
    data, q, marginal, rows = weighted_refined(
        pair,
        x,
        args,
        kwargs,
        steps=steps,
        rate=rate,
        batch_size=batch_size,
        num_particles=num_particles,
        memory=memory,
        compile=compile,
        progress=progress,
    )

    # The two ELBOs of each datum from the same noise.
    model, guide = pair_of(pair)
    columns = []
    with running(model, guide):
        for batch in data.named(start=q.start, shift=q.shift).batches(None, rows):
            deltas = batch.kwargs.pop("start"), batch.kwargs.pop("shift")
            bounds = paired_bounds(*q.pair(model), batch, deltas, elbo_particles)
            noise = [b.std / math.sqrt(elbo_particles) for b in bounds]
            columns.append(
                [bounds[1].mean, noise[1], bounds[0].mean, noise[0], noise[2]]
            )
    best, best_errors, elbo, errors, differences = map(
        torch.cat, zip(*columns, strict=True)
    )
    return InferenceGaps(
        marginal, best, best_errors, elbo, errors, differences, q.improved
    )


class Gaps(Question):
    """Why the ELBO lies below log p(x): the gaps of the guide's family and of its encoder.

    Args:
        steps: gradient steps towards the best q(z|x) of each datum.
        num_particles: draws of log p(x) for each datum; by default those of the evaluation.
        elbo_particles: draws of each ELBO for each datum.
    """

    def __init__(
        self,
        *,
        steps: Number = 500,
        num_particles: Number | None = None,
        elbo_particles: Draws = 1000,
    ) -> None:
        self.steps, self.num_particles = steps, num_particles
        self.elbo_particles = elbo_particles

    def check(self, run: Trained, data: Evaluated) -> None:
        check_refined(self, run, data)

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        count = self.num_particles or data.num_particles
        with progress("particles", len(data) * count) as done:
            gaps = inference_gaps(
                run.vae,
                data.x,
                steps=self.steps,
                num_particles=count,
                elbo_particles=self.elbo_particles,
                memory=data.memory,
                progress=done,
            )
        lost = data.left_out(gaps.sound, "gaps")
        higher = data.exceeded("Weighting from a refined guide", gaps.log_marginal)
        return gaps.answer().plus(sentences=lost, warnings=higher)
