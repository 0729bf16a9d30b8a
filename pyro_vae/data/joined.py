"""Parts of a data set as one: all of their rows, one after the other."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.streams import Stream, Values


class Joined(Stream):
    """Streams, or streams and tensors, one after the other."""

    def __init__(self, parts: Sequence[Tensor | Stream]) -> None:
        self.parts = parts
        self.workers = max(part.workers for part in parts if isinstance(part, Stream))
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])

    def read(self, index: np.ndarray) -> Tensor:
        rows = torch.empty((len(index), *self.shape[1:]), dtype=self.parts[0][:0].dtype)
        which = np.searchsorted(self.ends, index, side="right")
        for i in np.unique(which):
            here, part = which == i, self.parts[i]
            places = index[here] - self.ends[i] + len(part)
            rows[torch.from_numpy(here)] = part[torch.from_numpy(places)]
        return rows


def joined(parts: Values) -> Tensor | Stream:
    """All rows of all parts, in their order; in memory where all parts are."""
    every = list(parts.values())
    if len(every) == 1:
        return every[0]
    if any(isinstance(part, Stream) for part in every):
        return Joined(every)
    return torch.cat(every)  # type: ignore[arg-type]


def joined_names(
    names: Mapping[str, np.ndarray] | None, sizes: Mapping[str, int]
) -> np.ndarray | None:
    """What each row is called: its own name; else, where there are several parts, its part and its place in it."""
    if names is not None:
        return np.concatenate([names[part] for part in sizes])
    if len(sizes) == 1:
        return None
    called = [f"{part} {i}" for part, size in sizes.items() for i in range(size)]
    return np.array(called)
