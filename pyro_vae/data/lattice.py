"""Values that lie on a lattice: an origin and whole multiples of a step."""

import math
from typing import NamedTuple

import numpy as np

# units in the last place by which a value that was computed may miss its place
ROUNDING = 16
FINEST = 8  # steps are at least so many times the rounding: what is finer cannot be told from it


class Lattice(NamedTuple):
    """`origin + k step` for whole `k`, which all of some values are; the origin is the least of them."""

    origin: float
    step: float
    high: int  # k of the greatest value


def lattice(values: np.ndarray, precision: float) -> Lattice | None:
    """The coarsest lattice that holds the different `values`, or `None` where there is none.

    Args:
        values: different numbers in rising order, float64, two or more.
        precision: relative spacing of the type that they were stored as, `np.finfo(dtype).eps`.

    The step is the greatest common divisor of the differences, by Euclid's algorithm on all of them at once, down to
    the rounding of the values.

    >>> lattice(np.array([0.1, 0.4, 1.0]), np.finfo(float).eps)
    Lattice(origin=0.1, step=0.3, high=3)
    """
    low, width = values[0], values[-1] - values[0]
    rounding = ROUNDING * precision * float(np.abs(values[[0, -1]]).max())
    gaps = np.diff(values)
    step, rest = float(gaps.min()), gaps
    while step > FINEST * rounding:
        k = np.round(rest / step)
        rest = np.abs(rest - step * k)
        # the error of a multiple of the step grows with the multiple
        rest = rest[rest > np.minimum(rounding * (1 + k) / 4, step / 8)]
        if not len(rest):
            high = int(np.round(gaps / step).sum())
            step = _plain(width / high, low, width)
            places = low + step * np.round((values - low) / step)
            fits = np.abs(values - places).max() <= rounding
            return Lattice(float(low), step, high) if fits else None
        rest = np.append(rest, step)
        step = float(rest.min())
    return None


def _plain(step: float, low: float, width: float) -> float:
    """The step as it is written with few digits, where that is the same within rounding."""
    short = float(f"{step:.9g}")
    same = abs(short - step) * width / step < 1e-12 * (abs(low) + width)
    return short if same else float(step)


def is_decimal(step: float) -> bool:
    """Whether a step is one of those that people round to: 1, 2 or 5 times a power of ten.

    >>> [is_decimal(step) for step in (0.1, 0.05, 1.0, 1 / 16, 1 / 255)]
    [True, True, True, False, False]
    """
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    return any(abs(mantissa - digit) < 1e-6 for digit in (1, 2, 5))
