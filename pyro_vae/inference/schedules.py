"""How the learning rate changes while training goes on: factors of it, as functions of the share that is done."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

from pyro_vae.foundation.checks import (
    Positive,
    between,
    checked,
    increasing,
    share,
)
from pyro_vae.foundation.errors import InputError, one_line

Schedule = Callable[[float], float]

Fraction = Annotated[float, share(zero=False)]
WarmUp = Annotated[float, share()]

ROUNDING = 1e-12  # by which a share may lie below the one at which something begins


def _warm_up(t: float, warmup: float) -> tuple[float, float]:
    """What the schedule is multiplied by, and the share that is done of what comes after the warm-up."""
    if t < warmup:
        return t / warmup, 0.0
    return 1.0, (t - warmup) / (1 - warmup)


def _begun(t: float, start: float) -> bool:
    """Whether what begins at a share of the run has begun."""
    return t >= start - ROUNDING


@checked
def constant(t: float, *, warmup: WarmUp = 0.0) -> float:
    """The same rate throughout, after a linear rise from 0 over the share `warmup` of the run."""
    rise, _ = _warm_up(t, warmup)
    return rise


@checked
def cosine(
    t: float,
    *,
    floor: Annotated[float, share(one=True)] = 0.0,
    warmup: WarmUp = 0.0,
) -> float:
    """`floor + (1 - floor) (1 + cos(pi t)) / 2`: from the full rate down to `floor` times it at the end of the run.

    Over the share `warmup` of the run the rate rises linearly from 0 first; t then runs over the rest. Source:
    Loshchilov & Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts.
    """
    rise, t = _warm_up(t, warmup)
    return rise * (floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2)


@checked
def step(
    t: float,
    *,
    at: Annotated[tuple[Fraction, ...], increasing] = (0.7, 0.9),
    factors: tuple[Positive, ...] = (0.3, 0.1),
    warmup: WarmUp = 0.0,
) -> float:
    """`factors[i]` times the rate from the fraction `at[i]` of the run on; by default 0.3 from 70 %, 0.1 from 90 %.

    Over the share `warmup` of the run the rate rises linearly from 0 first; `at` are then fractions of the rest.
    """
    if len(at) != len(factors):
        raise InputError(
            f"at={at} and factors={factors} of step must have as many entries"
        )
    rise, t = _warm_up(t, warmup)
    begun = [f for start, f in zip(at, factors, strict=True) if _begun(t, start)]
    return rise * [1.0, *begun][-1]


@checked
def burda(
    t: float, *, rounds: Annotated[int, between(1, 30)] = 8, warmup: WarmUp = 0.0
) -> float:
    """`10^(-i / (rounds - 1))` times the rate in round i = 0, 1, ..., each round three times as long as the one before.

    Round i takes the share `3^i / (1 + 3 + ... + 3^(rounds - 1))` of the run, whatever its length. The 8 rounds of the
    paper, of `3^i` epochs at `10^(-i / 7)` times the rate, are `epochs=3280`; a run of other length has them in
    proportion: of 328 epochs the last round takes 218.7. A number of epochs of `(3^rounds - 1) / 2` gives each round
    `3^i` epochs. Over the share `warmup` of the run the rate rises linearly from 0 first; the rounds have the rest.

    Source: Burda, Grosse & Salakhutdinov 2016, Importance Weighted Autoencoders, section 5.

    >>> [round(burda(epochs / 3280), 3) for epochs in (0, 1, 4, 13, 40, 121, 364, 1093, 3279)]
    [1.0, 0.72, 0.518, 0.373, 0.268, 0.193, 0.139, 0.1, 0.1]
    """
    rise, t = _warm_up(t, warmup)
    starts = [(3**i - 1) / (3**rounds - 1) for i in range(rounds)]
    i = max(i for i, start in enumerate(starts) if _begun(t, start))
    return rise * 10 ** (-i / max(rounds - 1, 1))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "step": step,
    "burda": burda,
}


def unchecked(schedule: Schedule) -> Schedule:
    """A schedule that has been tried; where it is one of those above without its checks, which take longer than it."""
    if isinstance(schedule, partial):
        return partial(unchecked(schedule.func), *schedule.args, **schedule.keywords)
    own = any(schedule is one for one in SCHEDULES.values())
    return schedule.__wrapped__ if own else schedule  # type: ignore[attr-defined]


def try_out(schedule: Schedule, name: str = "schedule") -> None:
    """Call a schedule over the whole run, before the first step is taken.

    Raises:
        InputError: where it fails, or does not return a finite number that is at least 0.
    """
    for t in (i / 200 for i in range(201)):
        try:
            factor = float(schedule(t))
        except InputError as error:
            raise InputError(f"{name} cannot be used: {error}") from error
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"{name} fails at {t:g} of the run ({said})") from error
        if not 0 <= factor < math.inf:
            raise InputError(
                f"{name} is {factor:g} at {t:g} of the run; it must be a finite number of at least 0"
            )
