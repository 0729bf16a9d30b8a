"""What the numbers of a data set are, and so which likelihoods may be put on them."""

import math
from enum import Enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


def present(x: Tensor) -> Tensor:
    """The values of `x` that were seen, as it is where none is nan, else in one dimension."""
    if not x.is_floating_point():
        return x
    missing = x.isnan()
    return x[~missing] if missing.any() else x


class Reach(NamedTuple):
    """The least and the greatest of some values, and whether all of them are whole."""

    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def with_those_of(self, v: Tensor) -> "Reach":
        v = present(v)
        if not v.numel():
            return self
        whole = not v.is_floating_point() or bool((v == v.round()).all())
        low, high = float(v.min()), float(v.max())
        return Reach(min(self.low, low), max(self.high, high), self.whole and whole)


class Representation(Enum):
    """The kind of number in `x`: a data set has one, a likelihood asks for one.

    A Bernoulli number and a Gaussian number are measured against different base measures and can't be compared, which
    is why the representation is stored with a run and printed with its result.
    """

    BINARY = "bits (0 or 1)"
    UNIT = "reals in [0, 1]"
    REAL = "reals"
    POSITIVE = "positive reals"
    COUNTS = "counts (0, 1, 2, ...)"
    LEVELS = "grey levels (whole numbers from 0 to a fixed maximum)"
    MIXED = "columns of mixed kinds, each with a likelihood of its own"
    FIELDS = "several fields, each with a likelihood of its own"

    @classmethod
    def of(cls, x: Tensor) -> "Representation":
        """The narrowest representation that holds the data `x`, `(N, *shape)`, whatever type they are stored as.

        Whole numbers from 0 to at most 255 are grey levels in images (data of two dimensions or more), and wherever
        the largest is 255; other whole numbers are counts. What is nan was not seen.

        >>> Representation.of(torch.tensor([0.0, 0.5, 1.0])).name
        'UNIT'
        """
        reach = Reach().with_those_of(x.byte() if x.dtype is torch.bool else x)
        if reach.low > reach.high:  # of no values
            return cls.REAL
        return cls.within(reach, image=x.dim() > 2)

    @classmethod
    def within(cls, reach: Reach, *, image: bool) -> "Representation":
        """What numbers with this reach are, by whether they make an image."""
        low, high, whole = reach
        if not whole or low < 0:
            return cls.UNIT if low >= 0 and high <= 1 else cls.REAL
        if high <= 1:
            return cls.BINARY
        depth = math.log2(high + 1)
        # a camera of 10, 12 or 16 bits
        deep = image and depth > 8 and depth.is_integer()
        grey = high == 255 or (image and high < 255) or deep
        return cls.LEVELS if grey else cls.COUNTS

    def holds(self, x: Tensor) -> bool:
        """Whether every value of `x` is one of this kind."""
        match self:
            case Representation.BINARY:
                return bool(((x == 0) | (x == 1)).all())
            case Representation.UNIT:
                return bool(((x >= 0) & (x <= 1)).all())
            case Representation.REAL | Representation.MIXED | Representation.FIELDS:
                return bool(x.isfinite().all())
            case Representation.POSITIVE:
                return bool(((x > 0) & x.isfinite()).all())
        return bool(((x >= 0) & (x == x.round())).all())

    def admits(self, other: "Representation") -> bool:
        """Whether a likelihood with this support accepts data of the `other` representation.

        Continuous densities do not accept whole numbers: a density can grow without bound on them. Whether reals are
        positive is known once each was looked at, which `holds` does.
        """
        kind = Representation
        whole = {kind.COUNTS, kind.LEVELS, kind.BINARY}
        wider = {
            kind.REAL: {kind.REAL, kind.UNIT},
            kind.POSITIVE: {kind.POSITIVE, kind.REAL, kind.UNIT},
            kind.COUNTS: whole,
            kind.LEVELS: whole,
            kind.MIXED: set(kind) - {kind.FIELDS},
            kind.FIELDS: set(kind),
        }
        return other in wider.get(self, {self})


class Supported(Protocol):
    """A likelihood, as far as data know one: what numbers it takes."""

    support: Representation
