"""What training notices about itself while it goes on."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyro_vae.inference.epochs import Epoch, Progress

CLOSED = 0.1  # nats: a KL below it carries next to nothing
ROW = 3  # epochs in a row with such a KL, before it is called collapsed
SETTLED = 100  # steps that every run may take to find its feet
SHARE, LEAST = 0.01, 0.2  # of an ELBO, and nats: less than either is noise
WAIT = (
    5  # epochs in a row below the best one, before training and validation are said to drift apart
)


class TrainingWarning(UserWarning):
    """What training noticed about itself; the message says what to do."""


class Remark(NamedTuple):
    """One thing noticed, once in a run.

    Attributes:
        kind: `'collapsed'`, `'overfits'` or `'warm-up'`.
        text: what was seen.
        advice: what to do about it in Python; the programs name an option instead.
    """

    kind: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}; {self.advice}"


def remarks(e: Epoch, progress: Progress, *, steps: int, over: bool) -> Iterator[Remark]:
    """What the epoch that was just closed shows for the first time.

    Args:
        e: the epoch.
        progress: where the run stands after it; the kinds of remarks made are added to it.
        steps: gradient steps done.
        over: whether it was the last epoch.
    """
    nothing = e.kl < CLOSED and e.kl != 0  # a pair without latents has a KL of exactly 0
    progress.closed = progress.closed + 1 if nothing else 0
    below = far_below(e.validation_elbo, progress.best_elbo) and e.elbo > progress.best_training
    progress.apart = progress.apart + 1 if below else 0
    for kind, look in LOOKS.items():
        found = None if kind in progress.said else look(e, progress, steps, over)
        if found is not None:
            progress.said.append(kind)
            yield Remark(kind, *found)


def far_below(elbo: float, best: float) -> bool:
    """Whether one ELBO is lower than another by more than noise; not if there is none."""
    return math.isfinite(best) and best - elbo > max(LEAST, SHARE * abs(best))


Found = tuple[str, str] | None


def _collapse(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if progress.closed < ROW or steps < SETTLED:
        return None
    text = f"KL {abs(e.kl):.2f} nats after {e.epoch} epochs, so the decoder works without latents"
    return text, "wrap the objective in Annealed(objective=..., epochs=10), or lower its beta"


def _drift(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if progress.apart < WAIT:
        return None
    text = (
        f"since epoch {progress.best_epoch} the training ELBO rose from {progress.best_training:.2f} to {e.elbo:.2f} "
        f"and the validation ELBO fell from {progress.best_elbo:.2f} to {e.validation_elbo:.2f}"
    )
    return text, "stop with patience=10, or hold the weights small with weight_decay=1.0"


def _early(e: Epoch, progress: Progress, steps: int, over: bool) -> Found:
    if not over or progress.best is None:
        return None
    if not far_below(progress.best_elbo, progress.early_elbo):
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
