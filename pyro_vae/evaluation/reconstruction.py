"""How far a datum that is made again lies from itself."""

import torch
from torch import Tensor

from pyro_vae.data.inputs import Call, fields_of, once
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    PerDatum,
    Progress,
    Question,
    Trained,
    unseen,
)
from pyro_vae.foundation.abstract import running
from pyro_vae.inference.bounds import scored
from pyro_vae.inference.terms import double

AT_A_TIME = 500
MEANINGS = {
    "squared error": "of a datum, all of its elements together",
    "squared error of an element": "the mean over the elements; lower is better",
    "reconstruction": "log p(x|z) at the datum's own z: no likelihood, as it leaves out what z itself tells",
}


class ReconstructionError(Question):
    """How far data lie from what is made of their own latents: squared errors in the units of x, and `log p(x|z)`.

    What is made of a datum is the mean of `p(x|z)` at one draw of q(z|x), for a guide that is a point at this point. An
    element that is missing counts nothing. None of these numbers is a likelihood of x: a model that copies its data
    has an error of 0, whatever it thinks of others.

    Source: Hotelling 1933, Analysis of a Complex of Statistical Variables into Principal Components (the linear case).
    """

    @torch.no_grad()
    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        model, guide = run.vae.model, run.vae.guide
        squares, counts, logs = [], [], []
        with progress("data", len(data)) as done, running(model, guide):
            for batch in batches(once(data.x), AT_A_TIME):
                x, _ = fields_of(batch)
                square, count = _squares(x, run.vae.reconstruct(batch))
                t = scored(model, guide, Call(batch), 1)
                squares.append(square)
                counts.append(count)
                logs.append(double(t.mean(t.log_px)).cpu())
                done(len(x))
        total, count, log_px = map(torch.cat, (squares, counts, logs))
        rows = {
            "squared error": PerDatum(total, None),
            "squared error of an element": PerDatum(total / count, None),
            "reconstruction": PerDatum(log_px, None),
        }
        return Answer(
            "Reconstruction error",
            f"of {data.called}, {len(data)} data, from their own latents",
            rows,
            unit="squares of the units of x; the last in nats per datum",
            meanings=MEANINGS,
            sentences=[
                "None of these is a likelihood: they say how well data are made again, and not how probable they are."
            ],
            columns={
                "squared_error": total.numpy(),
                "log_px": log_px.numpy(),
            },
        )


def _squares(x: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """The squared error of each datum, and of how many elements; what is missing counts nothing."""
    seen = ~x.isnan()
    squares = double((made - x).square()).where(seen, 0.0).cpu()
    count = seen.flatten(1).sum(1).cpu()
    return squares.flatten(1).sum(1), count.clamp_min(1).double()
