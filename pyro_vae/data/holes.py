"""Values that are missing: which data may have them, and how many there are."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.streams import CHUNK, Values, batches, chunks
from pyro_vae.foundation.errors import InputError

KEEP = "keep"
HOW = "add --missing keep (densities count what was seen)"  # in sentences that refuse them


def check_holes(name: str, values: Values, columns: Sequence[str] | None) -> list[str]:
    """What is to be said of the missing values of a data set, a sentence.

    Args:
        name: of the data.
        values: `(N, *shape)` by split, nan where a value is missing.
        columns: names of the columns of a table, or `None`.

    Raises:
        InputError: for a datum without any value, and for a column of a table without any.
    """
    shape = next(iter(values.values())).shape[1:]
    missing, total, seen = 0, 0, torch.zeros(shape, dtype=torch.bool)
    for split, stored in values.items():
        done = 0
        for part in chunks(stored):
            there = ~part.isnan()
            empty = (~there.flatten(1).any(1)).nonzero().flatten()
            if len(empty):
                row = done + int(empty[0])
                which = f"{split} " if len(values) > 1 else ""
                raise InputError(
                    f"{which}datum {row} (counted from 0) of {name} has no value at all, so that there is nothing to "
                    "learn from it: leave that row out"
                )
            seen |= there.any(0)
            missing += int((~there).sum())
            total += there.numel()
            done += len(part)
    if len(shape) == 1 and not seen.all():
        place = int((~seen).nonzero()[0])
        called = repr(columns[place]) if columns else f"{place} (counted from 0)"
        raise InputError(f"column {called} of {name} has no values: leave it out")
    if not missing:
        return [f"no value of {name} is missing"]
    return [
        f"{missing:,} of {total:,} values ({100 * missing / total:.3g} %) are missing, and {name} is used without them"
    ]


def share_missing(data: Any) -> float:
    """The share of missing values among all, of data that are cut into batches or of a tensor."""
    missing = total = 0
    for batch in batches(data, max(1, CHUNK // max(1, math.prod(data[:1].shape[1:])))):
        missing += int(batch.isnan().sum())
        total += batch.numel()
    return missing / max(total, 1)


def masked(name: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values of an array, nan where its mask is 0.

    Raises:
        InputError: for a mask of another shape, or of other numbers than 0 and 1.
    """
    if mask.shape != values.shape:
        raise InputError(
            f"the mask of {name} has shape {mask.shape}, and the data have {values.shape}: give 1 where a value was "
            "seen and 0 where it is missing"
        )
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"the mask of {name} holds other values than 1 (seen) and 0 (missing)"
        )
    wide = values if values.dtype.kind == "f" else values.astype(np.float64)
    return np.where(mask.astype(bool), wide, np.asarray(np.nan, wide.dtype))


def hidden(
    name: str, values: Values, share: float, seed: int
) -> tuple[Values, Values, str]:
    """Values of which a share is hidden, the same with none, and a sentence about them.

    Each is hidden by itself, with the same probability: missing completely at random.

    Raises:
        InputError: for a share that is not between 0 and 1, and for data that stay on disk.
    """
    if not 0 < share < 1:
        raise InputError(f"--hide {share} must lie between 0 and 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"--hide-seed {seed} must lie between 0 and 2^32 - 1")
    generator = torch.Generator().manual_seed(seed)
    holed: Values = {}
    count = total = 0
    for part, stored in values.items():
        if not isinstance(stored, Tensor):
            raise InputError(
                f"--hide keeps all values of {name} in memory: add --stream no"
            )
        hide = torch.rand(stored.shape, generator=generator) < share
        exact = stored.dtype in (torch.int64, torch.float64)
        wide = stored.to(torch.float64 if exact else torch.float32)
        holed[part] = wide.masked_fill(hide, math.nan)
        count += int(hide.sum())
        total += hide.numel()
    note = f"{count:,} of {total:,} values ({100 * count / total:.3g} %) of {name} hidden on purpose"
    return holed, values, note
