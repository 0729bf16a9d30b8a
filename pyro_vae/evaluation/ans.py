"""Asymmetric numeral systems: a stack of bits on which symbols are put, and from which they are taken again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from pyro_vae.foundation.errors import InputError

WORD = 32  # bits of a word
LOWEST = np.uint64(1) << np.uint64(WORD)  # heads lie from here up to 2^64
LOW_BITS = LOWEST - np.uint64(1)
SHARED = 12  # bits of precision beyond those that number the values
PRECISIONS = 24, 30  # bits, the least and the most
MOST_VALUES = 2**24  # that an entry may have
NOTHING = 2  # frequency of a value whose probability is 0


class Stack:
    """A stack of bits with several heads, so that many symbols are coded at once: rANS.

    A symbol of frequency f out of `2^r`, which begins at c, takes a head h to `(h // f) 2^r + c + h mod f`, that is
    `log2(2^r / f)` bits up, and back. A head keeps 64 bits at most: its low 32 go as a word onto a tail that all heads
    share. To push and to take are each other's inverse, bit for bit, whichever comes first.

    Args:
        lanes: number of heads.
        seed: of random bits, 32 in each head and as many words below the empty tail as are taken that nobody pushed.

    Source: Duda 2009, Asymmetric Numeral Systems; Giesen 2014, Interleaved Entropy Coders.

    >>> stack = Stack(2)
    >>> empty = stack.heads.copy()
    >>> start, frequency = np.array([0, 3]), np.array([3, 1])  # symbols of probability 3/4 and 1/4
    >>> stack.push(start, frequency, 2)
    >>> place = stack.peek(2, 2)  # 0, 1 and 2 stand for the first symbol, 3 for the other
    >>> place[0] < 3, place[1] == 3
    (np.True_, np.True_)
    >>> stack.drop(start, frequency, 2)
    >>> np.array_equal(stack.heads, empty)
    True
    """

    def __init__(self, lanes: int, *, seed: int = 0) -> None:
        self._random: np.random.Generator | None = np.random.default_rng(seed)
        self.heads = LOWEST + self._random.integers(0, LOWEST, lanes, dtype=np.uint64)
        self.borrowed = 0
        self._net = np.zeros(lanes, np.int64)  # words given to the tail by each head
        self._tail, self._size = np.empty(1024, np.uint32), 0

    @classmethod
    def of(cls, heads: np.ndarray, words: np.ndarray) -> "Stack":
        """The stack that was left with these heads and words, and nothing below them."""
        stack = cls(len(heads))
        stack._random, stack.heads = None, heads.astype(np.uint64)
        stack._tail, stack._size = words.astype(np.uint32), len(words)
        return stack

    @property
    def words(self) -> np.ndarray:
        """The tail, the borrowed words among it."""
        return self._tail[: self._size].copy()

    @property
    def bits(self) -> np.ndarray:
        """What each lane holds, `(lanes,)`: the logarithm of its head, and the words given beyond those taken."""
        return np.log2(self.heads.astype(np.float64)) + WORD * self._net

    def push(self, starts: np.ndarray, frequencies: np.ndarray, precision: int) -> None:
        """Put a symbol on each of the first lanes, of frequency f out of `2^precision` and beginning at `start`."""
        heads, r = self.heads[: len(starts)], np.uint64(precision)
        f = frequencies.astype(np.uint64)
        full = (heads >> (np.uint64(2 * WORD) - r)) >= f
        if full.any():
            self._give(np.flatnonzero(full))
        heads[:] = ((heads // f) << r) + heads % f + starts.astype(np.uint64)

    def peek(self, lanes: int, precision: int) -> np.ndarray:
        """Where the symbols on the first lanes lie among `2^precision` places: each from its start on."""
        low = (np.uint64(1) << np.uint64(precision)) - np.uint64(1)
        return (self.heads[:lanes] & low).astype(np.int64)

    def drop(self, starts: np.ndarray, frequencies: np.ndarray, precision: int) -> None:
        """Take these symbols off the first lanes, which `peek` told."""
        heads, r = self.heads[: len(starts)], np.uint64(precision)
        place = heads & ((np.uint64(1) << r) - np.uint64(1))
        heads[:] = (
            frequencies.astype(np.uint64) * (heads >> r)
            + place
            - starts.astype(np.uint64)
        )
        low = heads < LOWEST
        if low.any():
            self._take(np.flatnonzero(low))

    def blend(self, mask: np.ndarray, precision: int) -> None:
        """Flip the places that `peek` tells where bits of a mask are 1; done twice it is undone."""
        low = (np.uint64(1) << np.uint64(precision)) - np.uint64(1)
        self.heads[: len(mask)] ^= mask & low

    def _give(self, lanes: np.ndarray) -> None:
        """Move the low word of these heads onto the tail."""
        end = self._size + len(lanes)
        if end > len(self._tail):
            self._tail = np.resize(self._tail, 2 * end)
        self._tail[self._size : end] = self.heads[lanes] & LOW_BITS
        self._size = end
        self.heads[lanes] >>= np.uint64(WORD)
        self._net[lanes] += 1

    def _take(self, lanes: np.ndarray) -> None:
        """Move a word from the tail into each of these heads."""
        missing = len(lanes) - self._size
        if missing > 0:
            self._borrow(missing)
        self._size -= len(lanes)
        words = self._tail[self._size : self._size + len(lanes)].astype(np.uint64)
        self.heads[lanes] = (self.heads[lanes] << np.uint64(WORD)) | words
        self._net[lanes] -= 1

    def _borrow(self, count: int) -> None:
        """Find more words below the tail."""
        if self._random is None:
            raise InputError("the code ends before its data do")
        more = self._random.integers(0, 2**WORD, count, dtype=np.uint32)
        self._tail = np.concatenate([more, self._tail[: self._size]])
        self._size += count
        self.borrowed += count


class Entries(ABC):
    """A distribution of vectors of whole numbers, `(rows, entries)`, entry after entry, by distribution functions.

    Each is asked for the entries in their order, once, and told the value of one before it is asked for the next.

    Attributes:
        sizes: how many values each entry has: `0, ..., size - 1`.
    """

    sizes: Sequence[int]

    @abstractmethod
    def below(self, d: int, k: np.ndarray) -> np.ndarray:
        """`P(entry d < k | the entries before)`, for k `(rows,)` from 0 to its size."""

    def take(self, d: int, k: np.ndarray) -> None:  # noqa: B027  # nothing depends on it
        """Know the value of entry d, `(rows,)`."""


class Coding:
    """How entries are coded: each by whole frequencies, which are differences of a rounded distribution function.

    Args:
        entries: what is coded.
        possible: whether every value keeps a frequency of at least 1, so that it can be coded however improbable.
        masks: what the stack is blended with before each entry is taken, `(entries, rows)`: random numbers, with which
            values are draws of the distribution whatever lies on the stack; `None` for nothing.
    """

    def __init__(
        self, entries: Entries, *, possible: bool, masks: np.ndarray | None = None
    ) -> None:
        self.entries, self._least = entries, NOTHING if possible else 0
        self._masks = masks

    def push(self, stack: Stack, values: np.ndarray) -> None:
        """Put vectors `(rows, entries)` on the first lanes, the last entry first."""
        intervals = []
        for d in range(len(self.entries.sizes)):
            k = np.ascontiguousarray(values[:, d])
            intervals.append(self._interval(d, k))
            self.entries.take(d, k)
        for d, (starts, frequencies, precision) in reversed([*enumerate(intervals)]):
            stack.push(starts, frequencies, precision)
            self._blend(stack, d)

    def pop(self, stack: Stack, rows: int) -> np.ndarray:
        """Take vectors `(rows, entries)` off the first lanes."""
        found = np.empty((rows, len(self.entries.sizes)), np.int64)
        for d in range(len(self.entries.sizes)):
            self._blend(stack, d)
            place = stack.peek(rows, precision_of(self.entries.sizes[d]))
            found[:, d] = k = self._find(d, place)
            stack.drop(*self._interval(d, k))
            self.entries.take(d, k)
        return found

    def _blend(self, stack: Stack, d: int) -> None:
        if self._masks is not None:
            stack.blend(self._masks[d], precision_of(self.entries.sizes[d]))

    def _interval(self, d: int, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Start and frequency of the value k of entry d, and the bits of precision that they are out of."""
        start = self._start(d, k)
        return start, self._start(d, k + 1) - start, precision_of(self.entries.sizes[d])

    def _start(self, d: int, k: np.ndarray) -> np.ndarray:
        """`floor(P(entry d < k) (2^r - 2 size)) + 2 k`; without the 2 where some values may be impossible.

        With 1 in place of the 2 a frequency could be 0 where rounding has the distribution function fall.
        """
        size = self.entries.sizes[d]
        whole, least = 1 << precision_of(size), self._least
        below = np.clip(self.entries.below(d, k), 0.0, 1.0)
        start = np.floor(below * (whole - least * size)).astype(np.int64) + least * k
        return np.where(k == 0, 0, np.where(k == size, whole, start))

    def _find(self, d: int, place: np.ndarray) -> np.ndarray:
        """The value of entry d whose interval a place lies in, by bisection."""
        low = np.zeros_like(place)
        high = np.full_like(place, self.entries.sizes[d])
        for _ in range((self.entries.sizes[d] - 1).bit_length()):
            middle = (low + high) // 2
            right = self._start(d, middle) <= place
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        return low


def precision_of(size: int) -> int:
    """Bits out of which the frequencies of so many values are."""
    least, most = PRECISIONS
    return min(max((size - 1).bit_length() + SHARED, least), most)
