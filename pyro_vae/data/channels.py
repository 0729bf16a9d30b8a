"""Images of arrays whose colours come last, `(N, H, W, 3)`, put into the order of PyTorch, `(N, 3, H, W)`."""

import numpy as np
from torch import Tensor

from pyro_vae.data.files import Loaded
from pyro_vae.data.streams import Derived, Stream
from pyro_vae.foundation.errors import InputError

COLOURS = (1, 3)


class Moved(Derived):
    """Another stream with the last axis of each datum first."""

    def __init__(self, of: Stream) -> None:
        super().__init__(of, (of.shape[0], of.shape[-1], *of.shape[1:-1]))

    def read(self, index: np.ndarray) -> Tensor:
        return self.of.read(index).movedim(-1, 1).contiguous()


def channels_first(loaded: Loaded, asked: str | None) -> Loaded:
    """The data with their channels in front, as networks and likelihoods of colour take them.

    Args:
        loaded: what a reader found.
        asked: `'first'` or `'last'`, where the channels are; by default `(H, W, 3)` and `(H, W, 1)` have them last.

    Raises:
        InputError: where it is not certain which axis is that of the channels.
    """
    if asked not in (None, "first", "last"):
        raise InputError(f"--channels {asked!r} must be first or last")
    shape = tuple(loaded.parts["train"].shape[1:])
    if asked is not None and len(shape) != 3:
        raise InputError(
            f"--channels is for data of three axes, (C, H, W) or (H, W, C), and those of {loaded.source} have shape "
            f"{shape}"
        )
    last = asked == "last" if asked else _last(shape, loaded.source)
    if not last:
        return loaded
    height, width, colours = shape
    note = (
        f"shape {shape} taken for {height} x {width} with {colours} {'channels' if colours > 1 else 'channel'} last, "
        f"put in front: ({colours}, {height}, {width}); --channels first keeps it"
    )
    moved = {split: _moved(values) for split, values in loaded.parts.items()}
    return loaded._replace(parts=moved, notes=[*loaded.notes, note])


def _moved(values: np.ndarray | Stream) -> np.ndarray | Stream:
    if isinstance(values, Stream):
        return Moved(values)
    return np.ascontiguousarray(np.moveaxis(values, -1, 1))


def _last(shape: tuple[int, ...], source: str) -> bool:
    """Whether the channels of such data are the last axis."""
    if len(shape) != 3:
        return False
    first, middle, last = shape
    if last > 4 or first <= last or middle <= last:
        return False
    if last in COLOURS and first not in COLOURS:
        return True
    if first in COLOURS and last not in COLOURS:
        return False
    way_out = "say --channels first or --channels last"
    if last == 4:
        way_out += ", or leave out the alpha channel, as in x[..., :3]"
    raise InputError(
        f"the data of {source} have shape {shape}: either the first axis or the last may be that of channels; {way_out}"
    )
