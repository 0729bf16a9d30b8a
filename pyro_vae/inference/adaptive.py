"""Importance weighting that spends its draws on the data that need them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._errors import InputError
from pyro_vae.inference.estimators import MEMORY, PARETO_LIMIT, LogMarginal, log_marginal
from pyro_vae.inference.guides.base import at_least_one
from pyro_vae.inference.refinement import RefinedGuide, batches, refine
from pyro_vae.models.vae import VAE

GROWTH = 4  # from one round to the next


@dataclass(frozen=True)
class Effort:
    """How `log_marginal_adaptive` spent its draws, and on whom.

    Attributes:
        refined: which data took a refined q(z|x) and more draws, `(N,)` booleans.
        unaffordable: which needed it beyond the budget, `(N,)` booleans.
        doubtful: which are bad in the end, by the draws that make their values, `(N,)` booleans.
        draws: importance draws spent on all data.
        budget: how many were allowed.
        bad: what that means, in words.
    """

    refined: Tensor
    unaffordable: Tensor
    doubtful: Tensor
    draws: int
    budget: int
    bad: str

    def __str__(self) -> str:
        n, refined, beyond = len(self.refined), int(self.refined.sum()), int(self.unaffordable.sum())
        needed = f", {beyond} needed that beyond the budget" if beyond else ""
        return (
            f"{n - refined - beyond} of {n} data were left to the guide's own draws, {refined} took a refined q(z|x) "
            f"and more draws{needed}; {int(self.doubtful.sum())} stay doubtful ({self.bad}). "
            f"{self.draws} of {self.budget} draws were spent."
        )


def log_marginal_adaptive(
    vae: VAE,
    x: Any,
    *,
    num_particles: int = 1000,
    budget: int | None = None,
    limit: float = PARETO_LIMIT,
    standard_error: float | None = None,
    steps: int = 100,
    rate: float = 0.1,
    batch_size: int = 200,
    memory: int = MEMORY,
    progress: Callable[[int], None] | None = None,
) -> tuple[LogMarginal, Effort]:
    """`log_marginal` that spends draws where they are needed.

    A pilot of `num_particles` draws from the guide chooses the road of each datum. Those with a bad Pareto k or
    standard error get a `refine`d q(z|x) and four times the draws; those that are still bad again four times as many,
    and so on, the worst first where the budget does not suffice for all. The values come from fresh draws. The pilot's
    would not do: data are bad where a large weight was drawn and good where it was missed, so that to replace the bad
    alone pushes the mean down.

    Args:
        vae: the pair.
        x: the data, `(N, *shape)`: a tensor, or anything with a length whose slices are tensors.
        num_particles: draws for each datum in the pilot, and for the value of each that the pilot finds good.
        budget: importance draws for all data, pilots and values together; by default 10 N `num_particles`. The draws of
            the gradient steps are not counted.
        limit: of the Pareto k.
        standard_error: limit of the Monte-Carlo standard error of each datum, in nats; `None`: any.
        steps: gradient steps, as in `refine`.
        rate: as in `refine`.
        batch_size: data looked up, and refined, at a time.
        memory: in bytes, as in `log_marginal_refined`.
        progress: called with the number of draws weighted since its last call.

    Returns:
        A `LogMarginal` with N values, each with its own number of particles; and the `Effort`.

    Raises:
        InputError: as `log_marginal_refined`, for a limit that is not positive, or for a budget below
            2 N `num_particles`.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling (k above 0.7 calls for
    another proposal, or for many more draws).

    >>> from pyro_vae import MLP, Bernoulli, MeanField, StandardNormal, VAE
    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    >>> result, effort = log_marginal_adaptive(vae, torch.eye(4), num_particles=100, steps=5)
    >>> effort.draws <= effort.budget
    True
    """
    for name, value in (("limit", limit), ("standard_error", standard_error)):
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            raise InputError(f"{name}={value!r} must be positive")
    at_least_one("log_marginal_adaptive", num_particles=num_particles)
    least = 2 * num_particles * len(x)
    budget = 5 * least if budget is None else budget
    if not isinstance(budget, int) or budget < least:
        raise InputError(f"budget={budget!r} must be a whole number of at least {least}, two passes over the data")

    def bad(r: LogMarginal) -> Tensor:
        doubtful = ~(r.pareto_k <= limit)
        return doubtful if standard_error is None else doubtful | ~(r.standard_errors <= standard_error)

    def weighted(guide: Any, data: Tensor, count: int) -> LogMarginal:
        return log_marginal(vae.model, guide, data, num_particles=count, memory=memory, progress=progress)

    pilot: LogMarginal | None = None
    result: LogMarginal | None = None
    kept: list[Tensor] = []
    for batch in batches(vae, x, batch_size):
        part, final = (weighted(vae.guide, batch, num_particles) for _ in range(2))
        kept.append(batch[bad(part).to(batch.device)])
        pilot, result = (part, final) if pilot is None or result is None else (pilot + part, result + final)
    assert pilot is not None
    assert result is not None
    needed, spent = bad(pilot), least
    counts = result.particles.clone()
    rows, ranks, hard = needed.nonzero().flatten(), pilot.pareto_k[needed], torch.cat(kept)
    chosen, guides, guide = rows, None, None
    count, saved = num_particles, 0  # draws of a round, and those of a datum's value that are already paid for
    while len(rows):
        count *= GROWTH
        price = 2 * count - saved  # a pilot and a value
        worst = ranks.nan_to_num(math.inf).argsort(descending=True)[: (budget - spent) // price]
        if len(worst) == 0:
            break
        rows = rows[worst]
        if guide is None:
            guide = _in_batches(vae, hard[worst.to(hard.device)], batch_size, steps=steps, rate=rate)
            chosen, guides = rows, guide
        else:
            guide = guide[worst.to(hard.device)]
        part = weighted(guide, guide.x, count)
        counts[rows], spent, saved = count, spent + price * len(rows), count
        still = bad(part)
        rows, ranks, guide = rows[still], part.pareto_k[still], guide[still.to(hard.device)]
    refined = torch.zeros_like(needed)
    if guides is not None:
        refined[chosen] = True
        for count in counts[chosen].unique().tolist():
            mine = counts[chosen] == count
            guide = guides[mine.to(hard.device)]
            result = result.replaced(chosen[mine], weighted(guide, guide.x, count))
    words = f"Pareto k above {limit}"
    words += "" if standard_error is None else f" or a standard error above {standard_error}"
    return result, Effort(refined, needed & ~refined, bad(result), spent, budget, words)


def _in_batches(vae: VAE, x: Tensor, batch_size: int, *, steps: int, rate: float) -> RefinedGuide:
    """`refine`, a part of the data at a time."""
    parts = [refine(vae, batch, steps=steps, rate=rate) for batch in x.split(batch_size)]
    parameters, improved = (torch.cat([getattr(p, name) for p in parts]) for name in ("parameters", "improved"))
    return RefinedGuide(x, parameters, parts[0].family, improved)
