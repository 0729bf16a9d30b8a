"""Latents that are words of a codebook: the point that a guide takes, and a prior over the codes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.onehots import MOST_CODES
from pyro_vae.distributions.own import Drawn, Own

EXACT = "donot_use_mm_for_euclid_dist"  # so that a word is at distance 0 of itself


def nearest(z: Tensor, book: Tensor) -> Tensor:
    """Which word is the nearest to each of some vectors, `(..., G, D)` and `(G or 1, L, D)` to codes `(..., G)`."""
    slots = z.shape[-2]
    points = z.reshape(-1, *z.shape[-2:]).transpose(0, 1)  # (G, N, D)
    words = book.expand(slots, -1, -1)
    distances = torch.cdist(points, words, compute_mode=EXACT)  # (G, N, L)
    return distances.argmin(-1).T.reshape(z.shape[:-1])


def spelled(codes: Tensor, book: Tensor) -> Tensor:
    """The words of codes, `(..., G)` to `(..., G, D)`."""
    slots = codes.shape[-1]
    slot = torch.arange(slots, device=codes.device)
    return book.expand(slots, -1, -1)[slot, codes]


def every_code(slots: int, levels: int, device: Any = None) -> Tensor:
    """All `L^G` codes, `(L^G, G)`; the last slot's changes fastest.

    Raises:
        NotImplementedError: for more than a million.
    """
    if slots * math.log(levels) > math.log(MOST_CODES):
        raise NotImplementedError(
            f"{slots} slots of {levels} values have too many codes to be written out"
        )
    place = torch.arange(levels**slots, device=device)
    last = range(slots - 1, -1, -1)
    return torch.stack([place // levels**g % levels for g in last], -1)


class _Spelled(Constraint):
    """Vectors that are words of a codebook side by side."""

    is_discrete = True
    event_dim = 1

    def __init__(self, book: Tensor, slots: int) -> None:
        self.book, self.slots = book, slots
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        z = value.unflatten(-1, (self.slots, -1))
        return (spelled(nearest(z, self.book), self.book) == z).flatten(-2).all(-1)


class Word(Own):
    """`q(z|x) = 1` for `z = (e_{c_1}, ..., e_{c_G})`, `c_g = argmin_l |h_g - e_l|`: the words nearest to encodings.

    Batch shape `(...)`, event shape `(G D,)`. A draw is these words, and its gradient goes to the encodings as if it
    had been them: straight through.

    Args:
        encodings: h, `(..., G, D)`.
        book: the words e, `(G, L, D)`, or `(1, L, D)` for all slots.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, Neural Discrete Representation Learning, section 3.2.

    >>> Word(torch.tensor([[0.2], [0.9]]), torch.tensor([[[0.0], [1.0]]])).mean
    tensor([0., 1.])
    """

    has_rsample = True

    def __init__(self, encodings: Tensor, book: Tensor) -> None:
        self.encodings, self.book = encodings, book
        self.codes = nearest(encodings.detach(), book)  # (..., G)
        self.words = spelled(self.codes, book)
        size = torch.Size([encodings.shape[-2:].numel()])
        super().__init__(encodings.shape[:-2], size)

    @property
    def support(self) -> Constraint:
        return _Spelled(self.book, self.words.shape[-2])

    def expand(self, batch_shape: Any, _instance: object = None) -> "Word":
        new = super().expand(batch_shape)
        vectors = new._batch_shape + self.words.shape[-2:]
        new.encodings = self.encodings.expand(vectors)
        new.words = self.words.expand(vectors)
        new.codes = self.codes.expand(vectors[:-1])
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at the words, minus infinity elsewhere, `(...)`; no gradient goes anywhere."""
        same = value.unflatten(-1, self.words.shape[-2:]) == self.words
        here = same.flatten(-2).all(-1)
        return torch.zeros_like(here, dtype=value.dtype).masked_fill(~here, -math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        passed = self.encodings - self.encodings.detach()  # 0, with a gradient
        return (self.words + passed).flatten(-2).expand(self._wide(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.mean.expand(self._wide(sample_shape))

    def _wide(self, sample_shape: Any) -> torch.Size:
        return torch.Size(self._extended_shape(sample_shape))

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the codes are few enough to be written out."""
        slots, levels = self.words.shape[-2], self.book.shape[-2]
        return slots * math.log(levels) <= math.log(MOST_CODES)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The words of all codes, `(L^G, *batch, G D)`, or with 1s for the batch."""
        return _every(self.book, self.words.shape[-2], self.batch_shape, expand)

    @property
    def mean(self) -> Tensor:
        return self.words.flatten(-2)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.mean)

    @property
    def mode(self) -> Tensor:
        return self.mean

    def entropy(self) -> Tensor:
        return self.words.new_zeros(self.batch_shape)


def _every(book: Tensor, slots: int, batch: torch.Size, expand: bool) -> Tensor:
    codes = every_code(slots, book.shape[-2], book.device)
    z = spelled(codes, book).flatten(-2)
    z = z.reshape(-1, *[1] * len(batch), z.shape[-1])
    return z.expand(-1, *batch, -1) if expand else z


class Chain(NamedTuple):
    """`p(c) = prod_g softmax(offset_g + out_g tanh(bias_g + sum_{j<g} weight_j[c_j]))_{c_g}` over codes of G slots.

    Each code is given those in the slots before it, by one layer of H hidden units. With H = 0 the slots are
    independent.

    Attributes:
        weight: `(G, L, H)`.
        bias: `(G, H)`.
        out: `(G, H, L)`.
        offset: `(G, L)`.

    Source: Larochelle & Murray 2011, The Neural Autoregressive Distribution Estimator.
    """

    weight: Tensor
    bias: Tensor
    out: Tensor
    offset: Tensor

    def logits(self, codes: Tensor) -> Tensor:
        """Of each slot given the codes before it, up to a constant, `(..., G)` to `(..., G, L)`."""
        slot = torch.arange(codes.shape[-1], device=codes.device)
        seen = self.weight[slot, codes]  # (..., G, H)
        before = seen.cumsum(-2) - seen
        hidden = (self.bias + before).tanh()
        return self.offset + torch.einsum("...gh,ghl->...gl", hidden, self.out)

    def log_prob(self, codes: Tensor) -> Tensor:
        """`log p(c)` in nats, `(..., G)` to `(...)`."""
        log_p = self.logits(codes).log_softmax(-1)
        return log_p.gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(-1)

    @torch.no_grad()
    def sample(self, shape: torch.Size) -> Tensor:
        """Codes, slot after slot, `(*shape, G)`."""
        before = self.bias.new_zeros(*shape, self.bias.shape[-1])
        codes: list[Tensor] = []
        for slot, (bias, out, offset) in enumerate(
            zip(self.bias, self.out, self.offset, strict=True)
        ):
            logits = offset + (bias + before).tanh() @ out
            noise = torch.empty_like(logits).exponential_().log()
            codes.append((logits - noise).argmax(-1))
            before = before + self.weight[slot, codes[-1]]
        return torch.stack(codes, -1)


class Words(Drawn):
    """`p(z) = p(c)`, `z = (e_{c_1}, ..., e_{c_G})` the words of the codes c: equally likely, or of a `Chain`.

    Batch shape `()`, event shape `(G D,)`. A z between the words has the density of the nearest ones.

    Args:
        book: the words e, `(G, L, D)`, or `(1, L, D)` for all slots.
        slots: G.
        chain: p(c); `None` where all codes are equally likely.

    >>> p = Words(torch.tensor([[[0.0], [1.0]]]), 3)
    >>> p.log_prob(torch.tensor([0.0, 1.0, 1.0]))  # -3 log 2
    tensor(-2.0794)
    """

    def __init__(self, book: Tensor, slots: int, chain: Chain | None = None) -> None:
        self.book, self.slots, self.chain = book, slots, chain
        super().__init__(torch.Size(), torch.Size([slots * book.shape[-1]]))

    @property
    def support(self) -> Constraint:
        return _Spelled(self.book, self.slots)

    @property
    def levels(self) -> int:
        """L."""
        return self.book.shape[-2]

    @property
    def uniform(self) -> float:
        """`G log L`: what a code takes, in nats, where all are equally likely."""
        return self.slots * math.log(self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """`log p(c)` of words `(..., G D)`; no gradient goes to these."""
        if self.chain is None:
            return value.new_full(value.shape[:-1], -self.uniform)
        z = value.detach().unflatten(-1, (self.slots, -1))
        return self.chain.log_prob(nearest(z, self.book))

    def draw(self, shape: torch.Size) -> Tensor:
        if self.chain is None:
            each = (*shape[:-1], self.slots)
            codes = torch.randint(self.levels, each, device=self.book.device)
        else:
            codes = self.chain.sample(shape[:-1])
        return spelled(codes, self.book).flatten(-2)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the codes are few enough to be written out."""
        return self.slots * math.log(self.levels) <= math.log(MOST_CODES)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The words of all codes, `(L^G, *batch, G D)`, or with 1s for the batch."""
        return _every(self.book, self.slots, self.batch_shape, expand)


@register_kl(Word, Words)  # type: ignore[untyped-decorator]
def _kl(q: Word, p: Words) -> Tensor:
    return -p.log_prob(q.mean)
