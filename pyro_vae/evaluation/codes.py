"""How the words of a codebook are used."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions.words import spelled
from pyro_vae.evaluation.question import Answer, Estimate, Printed
from pyro_vae.foundation.checks import checked
from pyro_vae.inference.coding import codes_of
from pyro_vae.models.conditionals.codebook import perplexity

ENCODED = 500  # data at a time
NAMED = 20  # groups whose numbers are printed


@dataclass(frozen=True)
class CodeUse(Printed):
    """How the codes of N data use the words of a codebook of L words in each of G groups.

    Attributes:
        counts: how many data have each word in each group, `(G, L)`.
        length: `-log p(c)` of their codes, nats per datum.
        uniform: `G log L`, the same where all codes are equally likely.
        fitted: whether p(c) was fitted to the codes of training data.
    """

    counts: Tensor
    length: Estimate
    uniform: float
    fitted: bool

    @property
    def perplexity(self) -> Tensor:
        """`exp(-sum_l p_l log p_l)` of each group, `(G,)`: as how many words, equally used, they are worth."""
        return perplexity(self.counts.double())

    @property
    def used(self) -> Tensor:
        """How many words of each group these data have, `(G,)`."""
        return (self.counts > 0).sum(-1)

    def verdict(self) -> str:
        """One sentence in words: whether the words are used."""
        groups, size = self.counts.shape
        mean = self.perplexity.mean()
        return (
            f"The codes are worth {mean:.1f} equally used words of {size}"
            + (f" in each of {groups} groups, on average" if groups > 1 else "")
            + "."
        )

    def answer(self) -> Answer:
        """How the words are used."""
        groups, size = self.counts.shape
        some = slice(NAMED)
        each = ", ".join(f"{value:.1f}" for value in self.perplexity[some])
        used = ", ".join(str(count) for count in self.used[some].tolist())
        more = f", ... of {groups} groups" if groups > NAMED else ""
        of = "p(code) was not fitted, so that all codes are equally likely; fit_codes does it"
        if self.fitted:
            of = f"-log p(code) would be {self.uniform:.3f} if all codes were equally likely"
        return Answer(
            title="What the codes carry",
            about=f"{groups} of {size} words, on {int(self.counts[0].sum())} data",
            rows={"-log p(code)": self.length},
            meanings={"-log p(code)": "what it takes to tell the code of a datum"},
            sentences=[
                of,
                f"perplexity: {each}{more}",
                f"words used: {used}{more}",
                self.verdict(),
            ],
            numbers={
                "data": int(self.counts[0].sum()),
                "words": size,
                "perplexity": self.perplexity.tolist(),
                "used": self.used.tolist(),
                "uniform": self.uniform,
                "fitted": self.fitted,
                "verdict": self.verdict(),
            },
        )


@checked
@torch.no_grad()
def code_use(vae: Any, x: Any) -> CodeUse:
    """How the codes of data use the words of a pair's codebook, and how long they are under its prior.

    Args:
        vae: a pair whose guide is a `Codebook`.
        x: the data, `(N, *shape)`, or a dict of them and their conditions.

    Returns:
        A `CodeUse`.

    Raises:
        InputError: for another guide, or data that the pair does not accept.

    >>> from pyro_vae import Spec, build
    >>> _ = torch.manual_seed(0)
    >>> vae = build(Spec((4,), 6, guide="codebook(size=8, groups=3)"))
    >>> code_use(vae, torch.rand(20, 4).round()).counts.shape
    torch.Size([3, 8])
    """
    codes, size = codes_of(vae, x), vae.guide.size
    counts = torch.stack([column.bincount(minlength=size) for column in codes.T])
    p = vae.model.prior()
    log_p = [
        p.log_prob(spelled(some.to(p.book.device), p.book).flatten(-2))
        for some in codes.split(ENCODED)
    ]
    fitted = vae.model.prior.fitted and not vae.model.prior.training
    length = Estimate.over(-torch.cat(log_p).double())
    return CodeUse(counts, length, p.uniform, fitted)
