"""Variances that a network gives, kept between bounds."""

from typing import Annotated

from pyro_vae.foundation.checks import between, increasing

# The least and the largest log sigma^2, which float32 has a sigma^2 for.
Bound = Annotated[float, between(-80, 80)]
Bounds = Annotated[tuple[Bound, Bound], increasing]

# Of the way from one bound to the other: so far a start keeps away from both.
MARGIN = 0.05


def start_within(log_scale: float, log_variance: Bounds | None) -> float:
    """A log sigma to start at, moved between the bounds where it is not: beyond them it would have no gradient.

    >>> start_within(-1.0, (-6.0, 2.0)), start_within(-1.0, (0.0, 2.0))
    (-1.0, 0.05)
    """
    if log_variance is None:
        return log_scale
    low, high = (bound / 2 for bound in log_variance)
    margin = MARGIN * (high - low)
    return min(max(log_scale, low + margin), high - margin)
