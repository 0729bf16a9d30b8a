"""From stored numbers to numbers that 32 bits hold: counted from a shift, in a unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# one number for each element of a datum, or a single one for all of them
Each = tuple[float, ...]


def each(numbers: Each, v: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers in the shape of a datum of `v`, `(*any, *shape)`.

    >>> each((1.0, 2.0), torch.zeros(5, 4, 2), torch.float64).shape
    torch.Size([2])
    """
    t = torch.tensor(numbers, dtype=dtype, device=v.device)
    if len(numbers) == 1:
        return t[0]
    dims = range(1, v.dim() + 1)
    last = next(d for d in dims if math.prod(v.shape[-d:]) == len(numbers))
    return t.reshape(v.shape[-last:])


def alike(numbers: Sequence[float]) -> Each:
    """The numbers, or a single one where all are the same."""
    return tuple(numbers[:1]) if len(set(numbers)) == 1 else tuple(numbers)


@dataclass(frozen=True)
class Units:
    """`x = (v - shift) / unit`, taken in float64 (differences of 64-bit integers are exact), and its inverse.

    Attributes:
        shift, unit: one number for each element of a datum, or one for all.
        whole: whether `x` is a whole number, as for the levels of a lattice.
    """

    shift: Each
    unit: Each
    whole: bool = False

    def __call__(self, v: Tensor) -> Tensor:
        if v.is_floating_point() or any(s != round(s) for s in self.shift):
            centred = v.double() - each(self.shift, v, torch.float64)
        else:
            centred = (v.long() - each(self.shift, v, torch.long)).double()
        x = centred / each(self.unit, v, torch.float64)
        return x.round() if self.whole else x

    def inverse(self, x: Tensor) -> Tensor:
        """The stored numbers, in float64."""
        x = x.double() * each(self.unit, x, torch.float64)
        return x + each(self.shift, x, torch.float64)

    def of(self, widths: Each) -> Each:
        """Differences of stored numbers, one for each element or one for all, in these units."""
        return tuple(np.true_divide(widths, self.unit).tolist())

    def log_abs_det(self, elements: int) -> float:
        """`sum_i log unit_i` over the elements of a datum: a density of v is the density of x less this."""
        total = math.fsum(math.log(u) for u in self.unit)
        return total * elements if len(self.unit) == 1 else total

    def __str__(self) -> str:
        shift, unit = _text("shifts", self.shift), _text("units", self.unit)
        plain = unit == "1" and not self.whole
        return f"stored - {shift}" if plain else f"(stored - {shift}) / {unit}"

    def to_dict(self) -> dict[str, Any]:
        return {"shift": list(self.shift), "unit": list(self.unit), "whole": self.whole}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> "Units":
        shift, unit = (tuple(map(float, table[name])) for name in ("shift", "unit"))
        return cls(shift, unit, bool(table["whole"]))


def _text(name: str, numbers: Each) -> str:
    if len(numbers) > 4:
        return f"{len(numbers)} {name} from {min(numbers):.12g} to {max(numbers):.12g}"
    texts = ", ".join(f"{n:.12g}" for n in numbers)
    return texts if len(numbers) == 1 else f"({texts})"
