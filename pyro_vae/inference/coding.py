"""A prior over the codes of a codebook, fitted to those of data."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from pyro_vae.data.inputs import as_data, once
from pyro_vae.data.streams import batches
from pyro_vae.distributions.words import Chain
from pyro_vae.foundation.abstract import forked_random, running
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.priors import Codes

ENCODED = 500  # data at a time
HELD_OUT = 10  # one datum of so many judges the fit
BATCH = 250
STEPS = 5000  # at most
PATIENCE = 2  # passes without a better one, before the next rate
RATES = (1e-2, 2e-3, 4e-4)
ADDED = [10 ** (i / 4) for i in range(-8, 17)]  # to the number of each code


class CodeLength(NamedTuple):
    """What a datum's code takes on average, in nats.

    Attributes:
        fitted: `-log p(c)` of data that the prior was not fitted to, by `chain_of`.
        uniform: `G log L`, where all codes are equally likely.
        num_data: how many data it was fitted to.
    """

    fitted: float
    uniform: float
    num_data: int

    def __str__(self) -> str:
        return (
            f"p(code) is fitted to the codes of {self.num_data} data: {self.fitted:.2f} nats a code on average, "
            f"{self.uniform:.2f} if all were equally likely"
        )


@torch.no_grad()
def codes_of(vae: Any, data: Any) -> Tensor:
    """The codes of data under a pair with a codebook, whole numbers `(N, G)` on the host.

    Raises:
        InputError: for a pair without a codebook, or data that it does not accept.
    """
    if not isinstance(vae.model.prior, Codes):
        raise InputError(
            f"codes are those of a codebook, and the guide {type(vae.guide).__name__} has none: take the guide "
            "codebook"
        )
    data = once(as_data(vae.model, data, values=False))
    with running(vae.model, vae.guide):
        return torch.cat([vae.encode(x).codes.cpu() for x in batches(data, ENCODED)])


def fit_codes(vae: Any, data: Any, *, seed: int = 0) -> CodeLength:
    """Fit the prior over codes, `Codes`, to the codes of training data; nothing else of the pair changes.

    Of a single group p(c) is the frequency of each code, smoothed as far as data that are left out ask for. Of several,
    each slot begins with these frequencies, and Adam climbs the likelihood of nine tenths of the data as long as the
    last tenth gains.

    Args:
        vae: a pair whose guide is a `Codebook`.
        data: those that it was trained on, `(N, *shape)`; of a conditional pair `{"x": ..., "c": ...}`.
        seed: of what is drawn.

    Raises:
        InputError: for another guide.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, Neural Discrete Representation Learning, section 3.3.
    """
    modes = [(program, program.training) for program in (vae.model, vae.guide)]
    for program, _ in modes:
        program.eval()
    codes = codes_of(vae, data)
    for program, training in modes:
        program.train(training)
    codes = codes.to(vae.guide.words.device)
    prior, size = vae.model.prior, vae.guide.size
    hidden = prior.units if vae.guide.groups > 1 else 0
    with forked_random():
        torch.manual_seed(seed)
        chain, length = chain_of(codes, size, hidden, like=vae.guide.words)
    prior.take(chain)
    return CodeLength(length, prior().uniform, len(codes))


def chain_of(
    codes: Tensor, levels: int, hidden: int, *, like: Tensor | None = None
) -> tuple[Chain, float]:
    """The chain of codes `(N, G)` of so many levels, of the type of a tensor; and their length in nats.

    The length is that of data which the chain was not fitted to: a tenth that is held out, or with independent slots,
    `hidden=0`, each datum by what the others say.
    """
    like = torch.empty(0) if like is None else like
    order = torch.randperm(len(codes)).to(codes.device)
    held = len(codes) // HELD_OUT if hidden else 0
    others, some = codes[order].split([held, len(codes) - held])
    seen = torch.stack([column.bincount(minlength=levels) for column in some.T])
    shares, length = smoothed(seen)
    slots = len(seen)
    start = Chain(
        like.new_empty(slots, levels, hidden).normal_(std=0.1),
        like.new_zeros(slots, hidden),
        like.new_zeros(slots, hidden, levels),
        shares.log().to(like),
    )
    if not held:
        return start, length
    chain = _climbed(start, some, others)
    return chain, -_mean(chain, others)


def smoothed(counts: Tensor) -> tuple[Tensor, float]:
    """Shares of codes that were counted, `(G, L)`, and what a code takes in nats, each datum by what the others say.

    `(n_l + a) / (N + L a)`, where a is that of `ADDED` in each row under which the data are likeliest when each is left
    out in turn, `sum_l n_l log (n_l - 1 + a) / (N - 1 + L a)`.
    """
    n = counts.double().unsqueeze(-1)  # (G, L, 1)
    added = torch.tensor(ADDED, dtype=n.dtype, device=n.device)
    total, all_added = n.sum(1), counts.shape[-1] * added
    # A code that was not seen is left out of no datum.
    each = n * ((n - 1).clamp_min(0) + added).log()
    left_out = each.sum(1) - total * (total - 1 + all_added).log()  # (G, added)
    best = left_out.argmax(-1)
    chosen = added[best].unsqueeze(-1)
    shares = (counts + chosen) / (total + counts.shape[-1] * chosen)
    return shares, -(left_out.amax(-1) / total.squeeze(-1)).sum().item()


def _climbed(start: Chain, codes: Tensor, held_out: Tensor) -> Chain:
    """The chain of the pass that served the data held out best, the start among them; at ever smaller rates."""
    best, kept, steps = _mean(start, held_out), start, 0
    for rate in RATES:
        chain = Chain(*(Parameter(part.clone()) for part in kept))
        adam, waited = torch.optim.Adam(chain, lr=rate), 0
        while waited < PATIENCE and steps < STEPS:
            steps += _pass(chain, adam, codes)
            found = _mean(chain, held_out)
            waited += 1
            if found > best:
                best, waited = found, 0
                kept = Chain(*(part.detach().clone() for part in chain))
    return kept


def _pass(chain: Chain, adam: torch.optim.Adam, codes: Tensor) -> int:
    """Climb the likelihood of the codes once through, and count the steps."""
    batches = torch.randperm(len(codes)).split(BATCH)
    for rows in batches:
        adam.zero_grad()
        (-chain.log_prob(codes[rows.to(codes.device)]).mean()).backward()
        adam.step()
    return len(batches)


@torch.no_grad()
def _mean(chain: Chain, codes: Tensor) -> float:
    """The mean of log p(c) of codes, nats."""
    parts = [chain.log_prob(some).double().sum() for some in codes.split(ENCODED)]
    return torch.stack(parts).sum().item() / len(codes)
