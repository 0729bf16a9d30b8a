"""What all pictures of one model share: for what they take its data, and on which scale they draw values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.foundation.errors import InputError

Kind = Literal["image", "series", "table"]
KINDS: tuple[Kind, ...] = ("image", "series", "table")
NARROW = 4  # rows of pixels that an image has at least
ALONG = 4  # times longer than wide an image is at most
LOOKED_AT = 1000  # data that tell the scale


def kind_of(shape: Sequence[int]) -> Kind:
    """What data of a shape are taken for, when nothing says it.

    `(H, W)` is an image unless one side is below 4 or more than 4 times shorter than the other: that is a series of a
    few channels. `(C, H, W)` is an image, `(D,)` a series of one channel.

    >>> kind_of((28, 28)), kind_of((3, 16, 16)), kind_of((2, 64)), kind_of((200, 4)), kind_of((300,))
    ('image', 'image', 'series', 'series', 'series')
    """
    if len(shape) == 3:
        return "image"
    if len(shape) != 2 or min(shape) < NARROW or max(shape) > ALONG * min(shape):
        return "series"
    return "image"


def as_series(x: Tensor, lead: int) -> Tensor:
    """Data `(*lead, *shape)` as `(*lead, channels, times)`: of two sides the longer one is time.

    >>> import torch
    >>> as_series(torch.zeros(7, 200, 4), 1).shape, as_series(torch.zeros(7, 30), 1).shape
    (torch.Size([7, 4, 200]), torch.Size([7, 1, 30]))
    """
    shape = x.shape[lead:]
    if len(shape) == 2:
        return x if shape[0] <= shape[1] else x.transpose(-1, -2)
    if len(shape) == 1:
        return x.unsqueeze(lead)
    return x.flatten(lead + 1) if shape else x[..., None, None]


@dataclass(frozen=True)
class Look:
    """How values of one model are drawn, the same in each picture.

    Attributes:
        kind: what its data are taken for.
        scale: the least and the largest value, of an image black and white; `None`: from 0 to 1, or as far as the
            values of the picture go.
        channels: of a series the least and the largest value of each channel, `(channels, 2)`.
        columns: of a table, see `pyro_vae.plots.tables.Column`.
        stored: from values that the likelihood sees to those of the table, `(N, D)`.
        seen: some data in these units, `(n, D)`: what columns are standardised by.
    """

    kind: Kind = "image"
    scale: tuple[float, float] | None = None
    channels: np.ndarray | None = None
    columns: Sequence[Any] = ()
    stored: Callable[[Tensor], np.ndarray] | None = None
    seen: np.ndarray | None = None

    def numbers(self, x: Tensor) -> np.ndarray:
        """Values in the units of the table."""
        return (self.stored or _plain)(x)


def look_of(
    likelihood: Any,
    x: Tensor | None,
    *,
    kind: str | None = None,
    columns: Sequence[Any] | None = None,
    stored: Callable[[Tensor], np.ndarray] | None = None,
) -> Look:
    """The look of a model: its scale is the range of the likelihood where that has ends, else that of the data.

    Args:
        likelihood: of the model.
        x: some data as the likelihood sees them, `(n, *shape)`; without any a scale without ends is left to each
            picture.
        kind: what the data are taken for, in place of what their shape says.
        columns: what the columns of a table are; its data are then taken for one.
        stored: from what the likelihood sees to the units of the table.

    Raises:
        InputError: for a kind that data of this shape cannot be.
    """
    shape = tuple(likelihood.shape)
    found = kind or ("table" if columns else kind_of(shape))
    if found not in KINDS:
        raise InputError(
            f"data are taken for one of {', '.join(KINDS)}, not for {found!r}"
        )
    if found == "image" and len(shape) not in (2, 3):
        raise InputError(
            f"data of shape {shape} are no images: an image is (H, W) or (C, H, W)"
        )
    if found == "series" and likelihood.support is Representation.MIXED:
        raise InputError(
            "columns of mixed kinds are no series: their values have no scale in common"
        )
    if found == "table" and not columns:
        raise InputError(
            f"data of shape {shape} are no table: a table has one row (D,) for each datum"
        )
    seen = None if x is None or found != "table" else (stored or _plain)(x)
    scale = None if found == "table" else scale_of(likelihood, x)
    channels = None if x is None or found != "series" else _of_channels(x, scale)
    return Look(found, scale, channels, columns or (), stored, seen)  # type: ignore[arg-type]


def _of_channels(x: Tensor, scale: tuple[float, float] | None) -> np.ndarray:
    """The ends of each channel, `(channels, 2)`."""
    each = as_series(x, 1).transpose(0, 1)
    return np.array([ends_of(some) or scale or (0.0, 1.0) for some in each])


def scale_of(likelihood: Any, x: Tensor | None = None) -> tuple[float, float] | None:
    """The least and the largest value that pictures show: the ends of what the likelihood accepts, or of the data."""
    match likelihood.support:
        case Representation.BINARY | Representation.UNIT:
            return 0.0, 1.0
        case Representation.LEVELS:
            return 0.0, float(likelihood.levels - 1)
    return None if x is None else ends_of(x)


def ends_of(x: Tensor) -> tuple[float, float] | None:
    """The least and the largest of finite values; `None` where there are none."""
    there = x[x.isfinite()]
    if not there.numel():
        return None
    low, high = there.min().item(), there.max().item()
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _plain(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def few(values: Sequence[Any], most: int) -> list[int]:
    """Places of at most so many things, spread evenly, the first and the last among them."""
    count = len(values)
    if count <= most:
        return list(range(count))
    step = (count - 1) / (most - 1) if most > 1 else math.inf
    return sorted({round(i * step) for i in range(most)} if most > 1 else {0})


def moments(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, `(D,)`, of what was seen; 1 for a column that does not vary."""
    with np.errstate(invalid="ignore"):
        there = np.isfinite(seen)
        count = np.maximum(there.sum(0), 1)
        mean = np.where(there, seen, 0).sum(0) / count
        spread = np.sqrt(np.where(there, (seen - mean) ** 2, 0).sum(0) / count)
    return mean, np.where(spread > 0, spread, 1.0)
