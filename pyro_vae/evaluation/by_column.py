"""What a model makes of each column of a table: how well it is made again, and how much it surprises."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.inputs import Call, as_data, fields_of, once
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.diagnostics import tail_index
from pyro_vae.evaluation.question import (
    Answer,
    Estimate,
    Evaluated,
    Printed,
    Progress,
    Question,
    Tick,
    Trained,
    unseen,
)
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.evaluation.weighting import values_of
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.checks import Draws, Number, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.bounds import scored
from pyro_vae.models.likelihoods import Columns

COPIES = 6  # of the log-densities of all columns at all draws, while they are weighed
HEADS = {
    "reconstruction": "E_q log p(x_j|z)",
    "reconstruction_error": "± data",
    "surprise": "-log p(x_j|others)",
    "surprise_error": "± data",
    "largest": "largest",
    "row": "in row",
    "of": "log p is of a",
}


@dataclass(frozen=True)
class ByColumn(Printed):
    """Two numbers for each cell of a table, in nats, all of shape `(N, D)`; nan where a cell has no value.

    Attributes:
        names: of the D columns.
        reconstruction: `E_q[log p(x_j|z)]`: how well the cell is made again from the latents of its own row. Their sum
            over the columns is the reconstruction of the ELBO.
        surprise: `-log p(x_j | x_others)`: how improbable the cell is beside the others of its row; high for an
            anomaly.
        pareto_k: tail index of the weights by which the surprise was found.
        dense: which columns have a density, over their stored unit; the others have a mass.
        rows: the number of each datum in its file, `(N,)`.
    """

    names: Sequence[str]
    reconstruction: Tensor
    surprise: Tensor
    pareto_k: Tensor
    dense: Sequence[bool]
    rows: Any

    def __len__(self) -> int:
        return len(self.reconstruction)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Each column's two numbers, `(N,)` each, by names such as `surprise_age`."""
        return {
            f"{what}_{name}": getattr(self, what)[:, j]
            for what in ("reconstruction", "surprise")
            for j, name in enumerate(self.names)
        }

    def answer(self) -> Answer:
        """Column by column, and the cells that surprise most."""
        doubtful = int((self.pareto_k > PARETO_LIMIT).sum())
        cells = self.pareto_k.numel()
        warning = (
            f"{doubtful} of {cells} cells have weights with a Pareto k above {PARETO_LIMIT}: their surprise may be "
            'wrong; draw more particles, as in --ask "columntable(draws=5000)".'
        )
        return Answer(
            title="Column by column",
            about=f"{len(self.names)} columns on {len(self)} data, in nats",
            rows={name: self._row(j) for j, name in enumerate(self.names)},
            heads=HEADS,
            meanings=dict.fromkeys(
                self.names,
                "how well its cells are made again, and how improbable they are beside the others of their rows",
            ),
            sentences=[
                "-log p(x_j|others) is the score of an anomaly: what a cell is beside the others of its row. A density "
                "is one over the unit in which its column is stored, so that only columns of one unit compare."
            ],
            warnings=[warning] if doubtful > cells / 100 else [],
            columns=self.per_datum,
        )

    def _row(self, j: int) -> dict[str, Any]:
        reconstruction, surprise = (
            Estimate.over(values[:, j])
            for values in (self.reconstruction, self.surprise)
        )
        worst = int(self.surprise[:, j].nan_to_num(-math.inf).argmax())
        return {
            "reconstruction": reconstruction.mean,
            "reconstruction_error": reconstruction.data_standard_error,
            "surprise": surprise.mean,
            "surprise_error": surprise.data_standard_error,
            "largest": self.surprise[worst, j].item(),
            "row": int(self.rows[worst]),
            "of": "density" if self.dense[j] else "mass",
        }


@checked
@torch.no_grad()
def by_column(
    vae: Any,
    x: Any,
    *,
    draws: Draws = 1000,
    log_units: Any = None,
    memory: Number = MEMORY,
    progress: Tick = None,
) -> ByColumn:
    """What a VAE of columns makes of each cell of a table, from draws `z_k ~ q(z|x)` with weights `w_k`.

    `log p(x_j|x_others) = log sum_k w_k - log sum_k w_k / p(x_j|z_k)`, `w_k = p(x, z_k) / q(z_k|x)`: what is known of z
    without the cell itself comes from the same draws.

    Args:
        vae: whose likelihood is `Columns`.
        x: the data, `(N, *shape)`.
        draws: K, for each datum.
        log_units: the logarithm of the unit in which each column of x is counted, `(D,)`; by default that is the stored
            one.
        memory: bytes to keep within.
        progress: called with the number of data done since its last call.

    Raises:
        InputError: for another likelihood, and for a guide without a density or without an encoder.

    >>> from pyro_vae import Spec, build
    >>> vae = build(Spec((2,), 2, likelihood="columns(columns={'a': poisson(), 'b': gaussian()})"))
    >>> by_column(vae, torch.ones(5, 2), draws=10).surprise.shape
    torch.Size([5, 2])
    """
    likelihood = _likelihood(vae)
    data = once(as_data(vae.model, x))
    units = torch.as_tensor(
        0.0 if log_units is None else log_units, dtype=torch.float64
    )
    size = max(1, int(memory / (8 * COPIES * draws * len(likelihood.names))))
    cells = []
    with running(vae.model, vae.guide):
        for start in range(0, len(data), size):
            cells.append(_weighed(vae, data[start : start + size], draws, units))
            if progress:
                progress(cells[-1].shape[1])
    reconstruction, surprise, k = torch.cat(cells, 1).cpu()
    dense = [i in (likelihood.dense or ()) for i in range(len(likelihood.names))]
    return ByColumn(
        likelihood.names, reconstruction, surprise, k, dense, torch.arange(len(data))
    )


def _likelihood(vae: Any) -> Columns:
    """The likelihood of a VAE, once it is one of columns and its guide can be drawn from."""
    likelihood, guide = vae.model.likelihood, vae.guide
    if not isinstance(likelihood, Columns):
        raise InputError(
            f"the likelihood {type(likelihood).__name__} is one for all of x, and of columns only Columns knows"
        )
    if not guide.has_density:
        raise InputError(
            "the guide is a point for each datum, and columns are weighed by draws of q(z|x): train with another "
            "guide, such as MeanField"
        )
    if not guide.amortised:
        raise InputError(
            f"columns are weighed by draws of q(z|x), and {type(guide).__name__} has none for any datum: train with "
            "another guide, such as MeanField"
        )
    return likelihood


def _weighed(vae: Any, batch: Any, draws: int, units: Tensor) -> Tensor:
    """Reconstruction, surprise and Pareto k of the cells of some data, `(3, B, D)`."""
    x, _ = fields_of(batch)
    t = scored(vae.model, vae.guide, Call(batch), draws)
    p = vae.model.at("x", batch, **values_of(t))
    each = (p.log_probs(x) - units.to(x.device)).double()  # (K, B, D)
    log_w = (t.log_pz - t.log_qz).double() + each.sum(-1)
    if t.log_share is not None:  # of classes, which are enumerated
        log_w = log_w + t.log_share
    without = log_w.unsqueeze(-1) - each  # of the other columns alone
    surprise = without.logsumexp(0) - log_w.logsumexp(0).unsqueeze(-1)
    there = ~x.flatten(1).isnan()
    reconstruction = torch.stack([t.mean(column) for column in each.unbind(-1)], -1)
    cells = torch.stack([reconstruction, surprise, tail_index(without, t.log_pz.dtype)])
    return cells.where(there, math.nan)


class ColumnTable(Question):
    """Each column of a table of mixed kinds: how well it is made again, and which cells surprise beside the others.

    It is asked of every run on such a table.

    Args:
        draws: for each datum.
    """

    def __init__(self, *, draws: Draws = 1000) -> None:
        self.draws = draws

    def check(self, run: Trained, data: Evaluated) -> None:
        columns = len(_likelihood(run.vae).names)
        self.afford(8 * COPIES * self.draws * columns, "draws")

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        units = getattr(getattr(run, "bridge", None), "units", None)
        count = len(_likelihood(run.vae).names)
        unit = (1.0,) if units is None else units.unit
        widths = unit * (count // len(unit))
        with progress("data", len(data)) as done:
            columns = by_column(
                run.vae,
                data.x,
                draws=self.draws,
                log_units=[math.log(width) for width in widths],
                memory=data.memory,
                progress=done,
            )
        return replace(columns, rows=data.rows).answer()
