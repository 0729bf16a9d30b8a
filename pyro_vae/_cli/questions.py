"""The questions that the options of evaluation ask."""

from typing import Any

from pyro_vae._config import flag
from pyro_vae.evaluation.adaptive import ENOUGH, Adaptive
from pyro_vae.evaluation.annealing import AIS, BDMC
from pyro_vae.evaluation.gaps import Gaps
from pyro_vae.evaluation.latents import Latents
from pyro_vae.evaluation.outliers import OOD
from pyro_vae.evaluation.posterior import FEWEST, Posterior
from pyro_vae.evaluation.question import Question
from pyro_vae.evaluation.refinement import Refined
from pyro_vae.evaluation.weighting import Weighted, Weighting
from pyro_vae.foundation.checks import annotations, check
from pyro_vae.foundation.errors import InputError
from pyro_vae.spec import parse

# The options that arguments of questions are given by.
PATH = {
    "chains": "chains",
    "temperatures": "temperatures",
    "start": "anneal_from",
    "schedule": "schedule",
}


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
        raise InputError(
            f"log p(x) is weighted in one way, and {named} are asked: leave one out"
        )
    health = [question for question in every if isinstance(question, Latents)]
    rest = [question for question in every if question not in (*weightings, *health)]
    first = weightings[0] if weightings else usual(options.num_particles)
    return first, [*(health or [Latents()]), *rest]


def usual(num_particles: int) -> Weighting:
    """How log p(x) is weighted where nobody says how: few draws do not tell which data need more."""
    first: Weighting = Adaptive() if num_particles >= ENOUGH else Weighted()
    first.unasked = True
    return first


def _short(options: Any) -> list[Question]:
    """The questions that options of their own stand for."""
    found: list[Question] = []
    steps = {"steps": "refine"} if options.refine else {}
    if options.adaptive:
        found.append(_made(Adaptive, options, steps))
    elif options.refine:
        found.append(_made(Refined, options, steps))
    if options.gaps:
        found.append(Gaps())
    if options.ais:
        found.append(_made(AIS, options, PATH))
    if options.bdmc:
        found.append(_made(BDMC, options, {"n": "bdmc", **PATH}))
    if options.ood:
        found.append(_made(OOD, options, {"data": "ood", **steps}))
    if options.posterior:
        found.append(
            _made(Posterior, options, {"n": "posterior", "draws": "posterior_draws"})
        )
    return found


def _made(make: type[Question], options: Any, named: dict[str, str]) -> Question:
    """A question whose arguments are values of options, by whose names they are refused.

    Args:
        make: its class.
        options: those of the command line.
        named: by argument the option that says its value.
    """
    typed = {argument: flag(option) for argument, option in named.items()}
    takes = annotations(make.__init__)
    values = {
        argument: check(typed[argument], getattr(options, option), takes[argument])
        for argument, option in named.items()
    }
    question = make(**values)
    question.typed = typed
    return question
