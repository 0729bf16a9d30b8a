"""What training notices about itself while it goes on."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from pyro_vae.inference.epochs import Epoch, Progress
from pyro_vae.inference.held import ELBO, chance, far_down

CLOSED = 0.1  # nats: a KL below it carries next to nothing
ROW = 3  # epochs in a row with such a KL, before it is called collapsed
SETTLED = 100  # steps that every run may take to find its feet
SHARE, LEAST = 0.01, 0.2  # of an ELBO, and nats: less than either is noise
NAMED = 5  # data in one remark
WAIT = 5  # epochs in a row below the best one, before training and validation are said to drift apart


class TrainingWarning(UserWarning):
    """What training noticed about itself; the message says what to do."""


class Remark(NamedTuple):
    """One thing noticed, once in a run.

    Attributes:
        kind: `'collapsed'`, `'overfits'`, `'warm-up'`, `'wild'`, of a validation datum, or `'unknown'`, of a bound.
        text: what was seen.
        advice: what to do about it in Python; the programs name an option instead.
    """

    kind: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}; {self.advice}"


def remarks(
    e: Epoch, progress: Progress, *, steps: int, over: bool
) -> Iterator[Remark]:
    """What the epoch that was just closed shows for the first time.

    Args:
        e: the epoch.
        progress: where the run stands after it; the kinds of remarks made are added to it.
        steps: gradient steps done.
        over: whether it was the last epoch.
    """
    # A pair without latents has a KL of exactly 0.
    nothing = e.kl < CLOSED and e.kl != 0
    progress.closed = progress.closed + 1 if nothing else 0
    behind = far_below(e.validation_elbo, progress.best_elbo, e.validation_noise)
    below = behind and e.elbo > progress.best_training
    progress.apart = progress.apart + 1 if below else 0
    for kind, look in LOOKS.items():
        found = None if kind in progress.said else look(e, progress, steps, over)
        if found is not None:
            progress.said.append(kind)
            yield Remark(kind, *found)


def wild(
    found: Tensor, progress: Progress, called: Callable[[int], str]
) -> Iterator[Remark]:
    """What is said of single validation data: those without a finite bound are left out, others only named.

    Args:
        found: what each is judged by, `(4, N)`, from `judge`.
        progress: where the run stands; what is left out is added to it.
        called: what a datum is called, by its number.
    """
    lost = (~found.isfinite()).any(0).nonzero().flatten().tolist()
    fresh = [i for i in lost if i not in progress.left_out]
    if fresh:
        progress.leave_out(fresh)
        text = (
            f"{_some(fresh, called)} no finite ELBO; the validation ELBO and the choice of the best epoch go by the "
            "rest"
        )
        yield Remark("wild", text, "look at that datum")
    deep = far_down(found[ELBO]).nonzero().flatten().tolist()
    progress.deep = progress.deep + 1 if deep else 0
    if progress.deep == ROW and "wild" not in progress.said:
        progress.said.append("wild")
        text = (
            f"{_some(deep, called)} an ELBO so low that one datum moves the mean of all, by which the best epoch is "
            "chosen"
        )
        yield Remark("wild", text, "look at that datum")


def _some(rows: Sequence[int], called: Callable[[int], str]) -> str:
    """A few data by name, with their verb."""
    named = ", ".join(called(i) for i in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{named}{more} {'have' if len(rows) > 1 else 'has'}"


def far_below(elbo: float, best: float, noise: float = math.nan) -> bool:
    """Whether one ELBO is lower than another by more than noise; not if there is none.

    `noise` is what the choice of the data explains, nan where it is not known.
    """
    least = max(LEAST, SHARE * abs(best), 0.0 if math.isnan(noise) else noise)
    return math.isfinite(best) and best - elbo > least


Found = tuple[str, str] | None


def _collapse(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if progress.closed < ROW or steps < SETTLED:
        return None
    text = f"KL {abs(e.kl):.2f} nats after {e.epoch} epochs, so the decoder works without latents"
    return (
        text,
        "wrap the objective in Annealed(objective=..., epochs=10), or lower its beta",
    )


def _drift(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if progress.apart < WAIT:
        return None
    text = (
        f"since epoch {progress.best_epoch} the training ELBO rose from {progress.best_training:.2f} to {e.elbo:.2f} "
        f"and the validation ELBO fell from {progress.best_elbo:.2f} to {e.validation_elbo:.2f}"
    )
    return (
        text,
        "stop with patience=10, or hold the weights small with weight_decay=1.0",
    )


def _early(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if not over or progress.best is None:
        return None
    noise = math.nan
    if progress.best_each is not None and progress.early_each is not None:
        noise = chance(
            progress.kept(progress.early_each), progress.kept(progress.best_each[0])
        )
    if not far_below(progress.best_elbo, progress.early_elbo, noise):
        return None
    text = (
        f"epoch {progress.early_epoch}, inside the warm-up, had an ELBO of {progress.early_elbo:.2f}, higher than any "
        f"after it; the weights kept are those of epoch {progress.best_epoch}, with {progress.best_elbo:.2f}"
    )
    return text, "take a shorter warm-up, or none"


LOOKS: dict[str, Callable[[Epoch, Progress, int, bool], Found]] = {
    "collapsed": _collapse,
    "overfits": _drift,
    "warm-up": _early,
}
