"""What stored values are: their representation, and the largest value that they can take."""

import math
from typing import NamedTuple

import numpy as np
import torch

from pyro_vae.data.fields import evenly
from pyro_vae.data.lattice import Lattice, is_decimal, lattice
from pyro_vae.data.marginals import POOLED, ROWS, SPARSE
from pyro_vae.data.representation import Reach, Representation, present
from pyro_vae.data.streams import Values, chunks
from pyro_vae.data.units import Units, alike
from pyro_vae.foundation.errors import InputError

BYTE = 255.0
LEVELS = 2**16  # no image has more
NEAR = 0.05  # steps by which a value may miss its place
FEWEST = 10  # columns of a table that is taken for flat images, and times that a level occurs in it on average


class Nature(NamedTuple):
    """What the values of a data set are.

    Attributes:
        representation: the kind of number.
        maximum: the largest value that they can take.
        notes: one sentence for each thing that was taken for something.
        units: how the values are spelled, where they are bits or levels in another spelling (`x / 255`).
    """

    representation: Representation
    maximum: float
    notes: tuple[str, ...] = ()
    units: Units | None = None


def nature_of(
    name: str,
    values: Values,
    *,
    maximum: int | None = None,
    known: float | None = None,
) -> Nature:
    """What all values of a data set together are.

    Args:
        name: of the data set, for messages.
        values: `(N, *shape)` by split.
        maximum: the largest value of whole numbers, as the user says.
        known: the same, as the files or the name of the data set say.

    Raises:
        InputError: when the values do not fit the maximum.
    """
    image = len(next(iter(values.values())).shape) > 2
    reach = _range(values, image=image, enough=known if maximum is None else None)
    if maximum is None and (units := _two_values(values, reach)):
        note = f"the two values {reach.low:.6g} and {reach.high:.6g} are taken for the bits 0 and 1"
        return Nature(Representation.BINARY, 1.0, (note,), units)
    spelled = None if reach.whole else _levels(values, image=image)
    if spelled is not None:
        units, high = spelled
        top = maximum or (BYTE if BYTE / 2 < high <= BYTE else high)
        if high > top:
            raise InputError(
                f"{name} holds the level {high}, above --maximum {maximum}"
            )
        note = f"the values {units} are taken for grey levels from 0 to {top:g}; --maximum N says otherwise"
        return Nature(Representation.LEVELS, float(top), (note,), units)
    return _grey(name, reach, image=image, maximum=maximum, known=known)


def _grey(
    name: str, reach: Reach, *, image: bool, maximum: int | None, known: float | None
) -> Nature:
    """What values in a range are, and the largest that they can take."""
    kind = Representation.within(reach, image=image)
    levels = reach.whole and reach.low >= 0

    # A maximum that is given decides.
    if maximum is not None and not levels:
        raise InputError(
            f"--maximum {maximum} is for whole numbers from 0 up, and {name} holds {kind.value}"
        )
    given = known if maximum is None else maximum
    if given is not None and levels:
        if reach.high > given:
            limit = (
                f"a maximum of {given:g}" if maximum is None else f"--maximum {maximum}"
            )
            raise InputError(f"{name} holds the value {reach.high:g}, above {limit}")
        if given == 1 or (maximum is None and kind is Representation.BINARY):
            return Nature(kind, 1.0)
        return Nature(Representation.LEVELS, float(given))

    # Else the largest value that occurs, or that of bytes where it is near.
    if kind in (Representation.BINARY, Representation.UNIT):
        return Nature(kind, 1.0)
    if kind is not Representation.LEVELS:
        return Nature(kind, reach.high)
    top = BYTE if BYTE / 2 < reach.high <= BYTE else reach.high
    note = f"the values are taken for grey levels from 0 to {top:g}; --maximum N says otherwise"
    return Nature(kind, top, (note,))


def _sample(values: Values) -> np.ndarray:
    """Some of the values, `(n, D)`, from data spread evenly over all of them."""
    train = next(iter(values.values()))
    most = min(ROWS, max(2, POOLED // math.prod(train.shape[1:])))
    return train[evenly(most, len(train))].flatten(1).numpy()


def _different(sample: np.ndarray) -> np.ndarray:
    """The different values that were seen, in order."""
    different = np.unique(sample)
    return different[~np.isnan(different)] if different.dtype.kind == "f" else different


def _two_values(values: Values, reach: Reach) -> Units | None:
    """How bits are spelled, where there are two values and they are not 0 and 1."""
    if (reach.low, reach.high) == (0, 1) or not reach.low < reach.high:
        return None
    ends = torch.tensor([reach.low, reach.high], dtype=torch.float64)
    if len(_different(_sample(values))) > 2:
        return None
    for v in values.values():
        for part in chunks(v):
            if not torch.isin(present(part).double(), ends).all():
                return None
    return Units((reach.low,), (reach.high - reach.low,), whole=True)


def _levels(values: Values, *, image: bool) -> tuple[Units, int] | None:
    """How grey levels are spelled, and the highest of them, where all values lie on a lattice, or those of a channel.

    A lattice of a step that people round to is one of rounded measurements, and is none of levels.
    """
    sample = _sample(values)
    shape = next(iter(values.values())).shape[1:]
    colours = shape[0] if len(shape) == 3 and shape[0] <= 4 else 1
    for channels in dict.fromkeys((1, colours)):
        samples = np.split(sample, channels, axis=1)
        grids = [grid for s in samples if (grid := _grid(s, image=image))]
        if len(grids) == channels:
            return _spelled(values, grids, math.prod(shape) // channels)
    return None


def _grid(sample: np.ndarray, *, image: bool) -> Lattice | None:
    """The lattice of levels on which some values lie."""
    different = _different(sample).astype(np.float64)
    if len(different) <= 2:
        return None
    grid = lattice(different, float(np.finfo(sample.dtype).eps))
    if grid is None or is_decimal(grid.step) or grid.high >= LEVELS:
        return None
    scarce = sample.shape[1] < FEWEST or len(different) * FEWEST > sample.size
    sparse = float(np.median(np.diff(different))) > SPARSE * grid.step
    return None if sparse or (scarce and not image) else grid


def _spelled(
    values: Values, grids: list[Lattice], size: int
) -> tuple[Units, int] | None:
    """The units of levels on the lattices of channels, of `size` elements each, once all values are found on them."""
    steps = torch.tensor([grid.step for grid in grids], dtype=torch.float64)[:, None]
    low = torch.full_like(steps, math.inf)
    high = torch.full_like(steps, -math.inf)
    for v in values.values():
        for part in chunks(v):
            flat = part.double().reshape(len(part), len(grids), size)
            k = (flat - torch.tensor([grid.origin for grid in grids])[:, None]) / steps
            if ((k - k.round()).abs() > NEAR).any():
                return None
            low = torch.minimum(low, flat.nan_to_num(math.inf).amin((0, 2))[:, None])
            high = torch.maximum(high, flat.nan_to_num(-math.inf).amax((0, 2))[:, None])

    # Levels are counted from 0 where that is one of them, else from the least value.
    k = low / steps
    low = low.where((low < 0) | ((k - k.round()).abs() > NEAR / 10), 0.0)
    top = int(((high - low) / steps).round().max())
    shift, unit = (alike(t.expand(-1, size).flatten().tolist()) for t in (low, steps))
    return Units(shift, unit, whole=True), top


def _range(values: Values, *, image: bool, enough: float | None) -> Reach:
    """The range of all values; of bytes only as much of them is read as decides what they are."""
    reach = Reach()
    bytes_only = all(v[:0].dtype is torch.uint8 for v in values.values())
    decided = BYTE / 2 if image else BYTE - 1
    if enough == BYTE:
        decided = 1
    for v in values.values():
        for part in chunks(v):
            reach = reach.with_those_of(part)
            if bytes_only and reach.high > decided:
                return reach
    return reach
