"""What training tells of its epochs, which of them is the best, and where a run stands."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from pyro_vae.foundation.html import card, curve, grid, lines


class Epoch(NamedTuple):
    """What one epoch did; log-probabilities in nats per datum, un-annealed whatever was optimised.

    ELBO, reconstruction and KL are means over the steps of the epoch (for an ELBO of Pyro's, which keeps its terms to
    itself: over the first thousand data after it; of chains without a guide over the first hundred). `loss` is the mean
    of the objective's loss per datum; the
    `validation_*` are nan without validation data. `score` is what the best epoch is chosen by: the ELBO, or the bound
    that is optimised where the objective has one of its own (`Objective.judges`), on validation data if there are any;
    nan inside a warm-up, whose epochs cannot be the best. `validation_noise` is how far `validation_elbo` can lie below
    that of the best epoch so far by the choice of the validation data alone (`held.chance`). Of a pair with a codebook
    `perplexity` is that of the codes of the epoch, and `unused` how many words no datum took; nan of any other. Of a
    pair whose draws are `Moved`, `acceptance` is the share of moves that were accepted.
    """

    epoch: int
    elbo: float
    reconstruction: float
    kl: float
    loss: float
    validation_elbo: float
    validation_reconstruction: float
    validation_kl: float
    score: float
    learning_rate: float
    seconds: float
    images_per_second: float
    validation_noise: float = math.nan
    perplexity: float = math.nan
    unused: float = math.nan
    acceptance: float = math.nan

    @property
    def held_out(self) -> float:
        """The validation ELBO, or the training ELBO where there are no validation data."""
        return self.elbo if math.isnan(self.validation_elbo) else self.validation_elbo


HEADS = {
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "validation_elbo": "validation ELBO",
    "learning_rate": "rate",
    "seconds": "seconds",
}


class History(list[Epoch]):
    """The epochs of a run in order; `history.best` has the highest score: the last one, if all lie in a warm-up.

    With the `progress` that the run ended with, the best is what that says: scores of epochs before and after a
    validation datum was left out are of different data.
    """

    def __init__(
        self, epochs: Iterable[Epoch] = (), progress: "Progress | None" = None
    ) -> None:
        super().__init__(epochs)
        self._progress = progress

    @property
    def best(self) -> Epoch:
        if self._progress is not None and self._progress.left_out:
            return next(
                epoch for epoch in self if epoch.epoch == self._progress.best_epoch
            )
        judged = [epoch for epoch in self if not math.isnan(epoch.score)]
        return max(judged, key=lambda epoch: epoch.score) if judged else self[-1]

    @property
    def _length(self) -> str:
        seconds = sum(epoch.seconds for epoch in self)
        plural = "" if len(self) == 1 else "s"
        return f"{len(self)} epoch{plural}, {seconds:.1f} s"

    def __repr__(self) -> str:
        if not self:
            return "History(0 epochs)"
        last, best = self[-1], self.best
        what = "ELBO" if math.isnan(best.validation_elbo) else "validation ELBO"
        found = f"best epoch {best.epoch}, {what} {best.held_out:.3f}"
        return f"History({self._length}; ELBO {last.elbo:.3f}; {found})"

    def _repr_html_(self) -> str:
        """The ELBO by epoch as a curve, and the numbers of the first, the best and the last epoch."""
        if not self:
            return card("History", "0 epochs")
        chosen = {self[0].epoch: "first", self[-1].epoch: "last"}
        chosen[self.best.epoch] = "best"
        rows = [e for e in self if e.epoch in chosen]
        heads = {k: v for k, v in HEADS.items() if any(_known(e, k) for e in rows)}
        series = {"training ELBO": [e.elbo for e in self]}
        if "validation_elbo" in heads:
            series["validation ELBO"] = [e.validation_elbo for e in self]
        best = next(i for i, e in enumerate(self) if e.epoch == self.best.epoch)
        drawn = curve(series, mark=best)
        dashed = ", of validation data dashed" if len(series) > 1 else ""
        cells = [
            [f"{chosen[e.epoch]}, {e.epoch}", *(f"{getattr(e, k):.4g}" for k in heads)]
            for e in rows
        ]
        below = [f"ELBO by epoch{dashed}; the dot is the best"] if drawn else []
        return card(
            "History",
            self._length,
            drawn,
            lines(below),
            grid(["epoch", *heads.values()], cells),
        )


def _known(epoch: Epoch, name: str) -> bool:
    return not math.isnan(getattr(epoch, name))


@dataclass
class Progress:
    """Where a run stands: all that training changes beside the parameters, the optimizer and the random state."""

    epoch: int = 0  # whole epochs done
    order: Tensor | None = None  # the data order of the epoch under way, on the host
    position: int = 0  # how many of its data are done
    # Of them: loss, reconstruction, KL.
    totals: tuple[float, float, float] = (
        0.0,
        0.0,
        0.0,
    )
    seconds: float = 0.0  # spent on them
    compiled: bool | None = None  # whether steps are compiled, once that is decided

    best_epoch: int = 0  # the one to keep: the latest as long as a warm-up lasts
    best: float | None = None  # its score; None inside a warm-up
    best_elbo: float = -math.inf  # its held-out ELBO
    best_training: float = -math.inf  # its training ELBO
    waited: int = 0  # epochs since then that could have been the best
    early_epoch: int = 0  # the epoch of a warm-up with the highest held-out ELBO
    early_elbo: float = -math.inf  # that ELBO
    closed: int = 0  # epochs in a row in which the latents carried nothing
    apart: int = 0  # epochs in a row in which training and validation had drifted apart
    said: list[str] = field(default_factory=list)  # the kinds of remarks that were made

    # Validation data without a finite bound.
    left_out: list[int] = field(default_factory=list)
    deep: int = 0  # epochs in a row in which one validation datum moved the mean of all
    best_each: Tensor | None = None  # of the best epoch: ELBO and score of each, (2, N)
    early_each: Tensor | None = None  # of the early one: ELBO of each, (N,)

    def finished(self, epochs: int, patience: int | None = None) -> bool:
        """Whether a run of so many epochs is over, or has waited as long for a better one as it may."""
        exhausted = patience is not None and self.waited >= patience
        return self.order is None and (self.epoch >= epochs or exhausted)

    def kept(self, each: Tensor) -> Tensor:
        """Values of validation data, `(..., N)`, without those that are left out."""
        if not self.left_out:
            return each
        out = set(self.left_out)
        return each[..., [i for i in range(each.shape[-1]) if i not in out]]

    def leave_out(self, rows: Sequence[int]) -> None:
        """Judge by the validation data without some more, the epochs that are done too."""
        self.left_out = sorted({*self.left_out, *rows})
        if self.best_each is not None and self.best is not None:
            self.best_elbo, self.best = self.kept(self.best_each).mean(1).tolist()
        if self.early_each is not None:
            self.early_elbo = self.kept(self.early_each).mean().item()

    def close(self, e: Epoch, each: Tensor | None = None) -> None:
        """Count an epoch as done, and judge it; `each` holds ELBO and score of each validation datum, `(2, N)`."""
        self.epoch, self.order, self.position = e.epoch, None, 0
        self.totals, self.seconds = (0.0, 0.0, 0.0), 0.0
        if math.isnan(e.score):
            if self.best is None:
                self.best_epoch = e.epoch
            if e.held_out > self.early_elbo:
                self.early_epoch, self.early_elbo = e.epoch, e.held_out
                self.early_each = None if each is None else each[0]
        elif self.best is None or e.score > self.best:
            self.best_epoch, self.best, self.waited = e.epoch, e.score, 0
            self.best_elbo, self.best_training = e.held_out, e.elbo
            self.best_each = each
        else:
            self.waited += 1
