"""What the numbers of a data set are, and so which likelihoods may be put on them."""

from enum import Enum

import torch
from torch import Tensor


class Representation(Enum):
    """The kind of number in `x`: a data set has one, a likelihood asks for one.

    A Bernoulli number and a Gaussian number are measured against different base measures and can't be compared, which
    is why the representation is stored with a run and printed with its result.
    """

    BINARY = "bits (0 or 1)"
    UNIT = "reals in [0, 1]"
    REAL = "reals"
    COUNTS = "counts (0, 1, 2, ...)"
    LEVELS = "grey levels (whole numbers from 0 to a fixed maximum)"

    @classmethod
    def of(cls, x: Tensor) -> "Representation":
        """The narrowest representation that holds `x`; whole numbers stored as `uint8` are grey levels.

        >>> Representation.of(torch.tensor([0.0, 0.5, 1.0])).name
        'UNIT'
        """
        if x.dtype is torch.bool:
            return cls.BINARY
        low, high = x.min(), x.max()
        if x.dtype is torch.uint8:
            return cls.LEVELS if high > 1 else cls.BINARY
        whole = not x.is_floating_point() or bool((x == x.round()).all())
        if whole and low >= 0:
            return cls.BINARY if high <= 1 else cls.COUNTS
        return cls.UNIT if low >= 0 and high <= 1 else cls.REAL

    def joined(self, other: "Representation") -> "Representation":
        """The narrowest representation of two sets of values together, stored as the same type."""
        kinds = {self, other} - {Representation.BINARY}
        return (
            kinds.pop()
            if len(kinds) == 1
            else Representation.REAL
            if kinds
            else Representation.BINARY
        )

    def holds(self, x: Tensor) -> bool:
        """Whether every value of `x` is one of this kind."""
        match self:
            case Representation.BINARY:
                return bool(((x == 0) | (x == 1)).all())
            case Representation.UNIT:
                return bool(((x >= 0) & (x <= 1)).all())
            case Representation.REAL:
                return bool(x.isfinite().all())
        return bool(((x >= 0) & (x == x.round())).all())

    def admits(self, other: "Representation") -> bool:
        """Whether a likelihood with this support accepts data of the `other` representation.

        Continuous densities do not accept whole numbers: a density can grow without bound on them.
        """
        whole = {Representation.COUNTS, Representation.LEVELS, Representation.BINARY}
        wider = {
            Representation.UNIT: {Representation.UNIT},
            Representation.REAL: {Representation.REAL, Representation.UNIT},
            Representation.COUNTS: whole,
            Representation.LEVELS: whole,
        }
        return other in wider.get(self, {self})
