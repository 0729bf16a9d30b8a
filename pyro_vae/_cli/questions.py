"""The questions that the options of evaluation ask."""

from typing import Any

from pyro_vae.evaluation.adaptive import Adaptive
from pyro_vae.evaluation.annealing import AIS, BDMC
from pyro_vae.evaluation.gaps import Gaps
from pyro_vae.evaluation.latents import Latents
from pyro_vae.evaluation.outliers import OOD
from pyro_vae.evaluation.posterior import FEWEST, Posterior
from pyro_vae.evaluation.question import Question
from pyro_vae.evaluation.refinement import Refined
from pyro_vae.evaluation.weighting import Weighted, Weighting
from pyro_vae.foundation.errors import InputError
from pyro_vae.spec import parse


def questions(options: Any) -> tuple[Weighting, list[Question]]:
    """What the options of evaluation ask: how log p(x) is weighted; then what the latents carry, and the rest.

    Raises:
        InputError: for a question that is not known, an argument that it does not take, or two weightings.
    """
    if options.posterior_draws < FEWEST:
        raise InputError(
            f"--posterior-draws {options.posterior_draws} is too few: {FEWEST} are the least"
        )
    every = [*_short(options), *(parse("ask", text)() for text in options.ask)]
    weightings = [question for question in every if isinstance(question, Weighting)]
    if len(weightings) > 1:
        named = " and ".join(map(str, weightings))
        raise InputError(f"log p(x) is weighted in one way, and {named} are asked: leave one out")
    health = [question for question in every if isinstance(question, Latents)]
    rest = [question for question in every if question not in (*weightings, *health)]
    first = weightings[0] if weightings else Weighted()
    return first, [*(health or [Latents()]), *rest]


def _short(options: Any) -> list[Question]:
    """The questions that options of their own stand for."""
    path: dict[str, Any] = {
        "chains": options.chains,
        "temperatures": options.temperatures,
        "start": options.anneal_from,
        "schedule": options.schedule,
    }
    found: list[Question] = []
    if options.adaptive:
        found.append(Adaptive(steps=options.refine or 100))
    elif options.refine:
        found.append(Refined(steps=options.refine))
    if options.gaps:
        found.append(Gaps())
    if options.ais:
        found.append(AIS(**path))
    if options.bdmc:
        found.append(BDMC(n=options.bdmc, **path))
    if options.ood:
        found.append(OOD(data=tuple(options.ood), steps=options.refine or 100))
    if options.posterior:
        found.append(Posterior(n=options.posterior, draws=options.posterior_draws))
    return found
