"""What stored values are: their representation, and the largest value that they can take."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae._errors import InputError
from pyro_vae.data.streams import Stream, chunks
from pyro_vae.models.representation import Representation

BYTE = 255.0


class Nature(NamedTuple):
    """What the values of a data set are.

    Attributes:
        representation: the kind of number.
        maximum: the largest value that they can take.
        notes: one sentence for each thing that was taken for something.
    """

    representation: Representation
    maximum: float
    notes: tuple[str, ...] = ()


class Range(NamedTuple):
    """The least and the greatest of some values, and whether all of them are whole."""

    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def with_those_of(self, v: Tensor) -> "Range":
        whole = self.whole and (not v.is_floating_point() or bool((v == v.round()).all()))
        return Range(min(self.low, float(v.min())), max(self.high, float(v.max())), whole)


def nature_of(
    name: str,
    values: Mapping[str, Tensor | Stream],
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
    found = _range(values, image=image, enough=known if maximum is None else None)
    kind = Representation.within(*found[:2], whole=found.whole, image=image)
    levels = found.whole and found.low >= 0

    # A maximum that is given decides.
    if maximum is not None and not levels:
        raise InputError(
            f"--maximum {maximum} is for whole numbers from 0 up, and {name} holds {kind.value}"
        )
    given = known if maximum is None else maximum
    if given is not None and levels:
        if found.high > given:
            option = f"--maximum {maximum}" if maximum is not None else f"a maximum of {given:g}"
            raise InputError(f"{name} holds the value {found.high:g}, above {option}")
        bits = given == 1 or (maximum is None and kind is Representation.BINARY)
        return Nature(kind, 1.0) if bits else Nature(Representation.LEVELS, float(given))

    # Else the largest value that occurs, or that of bytes where it is near.
    if kind in (Representation.BINARY, Representation.UNIT):
        return Nature(kind, 1.0)
    if kind is not Representation.LEVELS:
        return Nature(kind, found.high)
    top = BYTE if BYTE / 2 < found.high <= BYTE else found.high
    note = f"the values are taken for grey levels from 0 to {top:g}; --maximum N says otherwise"
    return Nature(kind, top, (note,))


def _range(values: Mapping[str, Tensor | Stream], *, image: bool, enough: float | None) -> Range:
    """The range of all values; of bytes only as much of them is read as decides what they are."""
    found = Range()
    bytes_only = all(v[:0].dtype is torch.uint8 for v in values.values())
    decided = 1 if enough == BYTE else BYTE / 2 if image else BYTE - 1
    for v in values.values():
        for part in chunks(v):
            found = found.with_those_of(part)
            if bytes_only and found.high > decided:
                return found
    return found
