"""Random numbers that others draw: how far a stream went, and how to go as far without them."""

from typing import NamedTuple

import torch
from torch import Tensor

PERIOD = 624  # words that the generator of a CPU, MT19937, makes at a time
LEFT = slice(8, 12)  # the bytes of its state that say how many of them are left
MOST = 2**28  # words that are looked for


class Streams(NamedTuple):
    """The states of the random streams: of the CPU, and of the GPU in use, where there is one."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> "Streams":
        """As they are."""
        on_gpu = torch.cuda.is_initialized()
        cuda = torch.cuda.get_rng_state() if on_gpu else None
        return cls(torch.get_rng_state(), cuda)

    def put(self) -> None:
        """Let them be like this."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)

    @property
    def content(self) -> bytes:
        """All of it, to be compared."""
        cuda = b"" if self.cuda is None else self.cuda.numpy().tobytes()
        return self.cpu.numpy().tobytes() + cuda


class Spent(NamedTuple):
    """How far the streams went: in words of 32 bits of the CPU's, in numbers of the GPU's."""

    words: int
    numbers: int

    def skip(self, times: int = 1) -> None:
        """Go so far again, so many times, without drawing what was drawn."""
        _skip(torch.default_generator, self.words * times)
        if self.numbers and times:
            state = torch.cuda.get_rng_state()
            state.view(torch.int64)[1] += self.numbers * times
            torch.cuda.set_rng_state(state)


def spent(before: Streams, after: Streams) -> Spent | None:
    """How far the streams went between two states; `None` where skipping leads to another state, as after a new seed.

    Draws that keep half of a pair of Gaussian numbers for the next call are of that kind.
    """
    words = _words(before.cpu, after.cpu)
    if words is None or (before.cuda is None) != (after.cuda is None):
        return None
    if before.cuda is None or after.cuda is None:
        return Spent(words, 0)
    seed, place = before.cuda.view(torch.int64).tolist()
    same, later = after.cuda.view(torch.int64).tolist()
    return Spent(words, later - place) if seed == same else None


def _words(before: Tensor, after: Tensor) -> int | None:
    """How many words lie between two states of a CPU's generator."""
    generator = torch.Generator()
    generator.set_state(before)
    words = (_left(before) - _left(after)) % PERIOD
    _skip(generator, words)
    while not torch.equal(generator.get_state(), after):
        if words > MOST:
            return None
        _skip(generator, PERIOD)
        words += PERIOD
    return words


def _left(state: Tensor) -> int:
    return int(state[LEFT].view(torch.int32))


def _skip(generator: torch.Generator, words: int) -> None:
    """Draw words of 32 bits, and forget them."""
    for _ in range(words // 2**20):
        torch.empty(2**20, dtype=torch.int32).random_(generator=generator)
    torch.empty(words % 2**20, dtype=torch.int32).random_(generator=generator)
