"""What data are known by: short texts made of their values, the same wherever and however they are stored."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.data.conditions import spelled
from pyro_vae.data.sets import ALL, SPLITS, DataSet
from pyro_vae.data.streams import Stream, chunks
from pyro_vae.foundation.errors import InputError

WORDS = 2**17  # of 8 bytes, worked on at a time: they stay in the cache
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SIZE = 16  # bytes of a fingerprint; two data sets that differ share one with probability 2^-128


def row_keys(values: Tensor | Stream) -> np.ndarray:
    """A number for each datum made of its bytes, `(N,)` of uint64: equal for equal data, different for others.

    Two different data share one with probability 2^-64. Values are read in chunks; those on disk stay there.
    """
    if not len(values):
        return np.zeros(0, np.uint64)
    return np.concatenate([_keys(chunk) for chunk in chunks(values)])


def _keys(chunk: Tensor) -> np.ndarray:
    """The sum over the 8-byte words of a row of `mix(word + place)`, each place with a number of its own."""
    rows = chunk.contiguous().reshape(len(chunk), -1).numpy().view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    words = np.ascontiguousarray(padded).view(np.uint64)
    places = _mixed(np.arange(1, words.shape[1] + 1, dtype=np.uint64) * GOLDEN)
    step = max(1, WORDS // len(places))
    starts = range(0, len(words), step)
    blocks = (_mixed(words[start : start + step] + places) for start in starts)
    return np.concatenate([block.sum(1, dtype=np.uint64) for block in blocks])


def _mixed(v: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, in place: each bit of the result depends on all bits of `v`."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        v ^= v >> np.uint64(shift)
        v *= np.uint64(factor)
    v ^= v >> np.uint64(31)
    return v


def fingerprint(data: DataSet, splits: Sequence[str] | None = None) -> dict[str, str]:
    """What a run keeps of its data, to know them again: independent of file, folder and way of reading.

    Args:
        data: the data set.
        splits: which splits to read; all by default.

    Returns:
        A text for each of `splits`, of its values in their order; where all splits are read, `whole` for all rows in
        whatever order; where there are labels, `labels`, of all of them; where they are given conditions, `condition`.
    """
    every = [split for split in (*SPLITS, ALL) if split in data.values]
    splits = every if splits is None else splits
    kind = f"{data.shape} {next(iter(data.values.values()))[:0].dtype}"
    keys = {split: row_keys(data.values[split]) for split in splits}
    digests = {split: _digest(kind, keys[split]) for split in splits}
    if set(splits) == set(every):
        digests["whole"] = _digest(kind, np.sort(np.concatenate(list(keys.values()))))
    if data.given:
        given = [
            f"{name}\0{v}"
            for name, c in sorted(data.given.items())
            for s in every
            for v in spelled(c[s])
        ]
        digests["condition"] = _digest("\0".join(given))
    if data.labels is not None:
        labels = [str(y) for split in every for y in data.labels[split].tolist()]
        digests["labels"] = _digest("\0".join(labels))
    return digests


def _digest(text: str, keys: np.ndarray | bytes = b"") -> str:
    content = text.encode() + b"\0" + bytes(keys)
    return hashlib.blake2b(content, digest_size=SIZE).hexdigest()


def check_same(
    folder: Path, resolved: Mapping[str, Any], data: DataSet, digests: Mapping[str, str]
) -> list[str]:
    """Compare data with those that a run was trained on.

    Args:
        folder: the run folder.
        resolved: what it keeps: `shape` of a datum, `sizes` of the splits, and the `fingerprint`, which earlier
            versions did not keep.
        data: what was found now.
        digests: its fingerprint, of the splits that matter.

    Returns:
        Sentences for whoever prints a result: on labels that have changed, or a run without a fingerprint.

    Raises:
        InputError: when they are not the same, saying how they differ.
    """
    known = resolved.get("fingerprint") or {}
    shape = tuple(resolved.get("shape", data.shape))
    difference = _difference(known, shape, resolved, data, digests)
    if difference is not None:
        raise InputError(
            f"{data.name} is not what the run {folder} was trained on: it {difference}, so data that were trained on "
            "could stand among those that are held out; put the file back as it was, name a copy of it with --data "
            "FILE, or train anew"
        )
    if not known:
        return [
            "the run is of an earlier version and keeps no fingerprint of its data: whether their values have changed "
            "since cannot be checked"
        ]
    if new_labels(known, digests):
        return ["the labels are not those that were beside the data in training"]
    return []


def new_labels(known: Mapping[str, str], digests: Mapping[str, str]) -> bool:
    """Whether data have other labels than they had in training."""
    return "labels" in known and known["labels"] != digests.get("labels")


def _difference(
    known: Mapping[str, str],
    shape: tuple[int, ...],
    resolved: Mapping[str, Any],
    data: DataSet,
    digests: Mapping[str, str],
) -> str | None:
    """How data differ from those of a run, in words that follow the name of a file; `None` where they do not."""
    if data.shape != shape:
        return f"holds data of shape {data.shape} where they had {shape}"
    sizes = resolved["sizes"]
    now = {split: len(values) for split, values in data.values.items()}
    if sum(now.values()) != sum(sizes.values()):
        return f"holds {sum(now.values())} data where it held {sum(sizes.values())}"
    if now != dict(sizes):
        return (
            f"is divided into {_sizes(now)} where it was divided into {_sizes(sizes)}"
        )
    splits = [split for split in SPLITS if split in digests and split in known]
    if all(digests[split] == known[split] for split in splits):
        same = digests.get("condition") == known.get("condition")
        return None if same else "is given other conditions"
    if "whole" not in digests or "whole" not in known:
        return "holds other values, or the same in another order"
    if digests["whole"] == known["whole"]:
        return "holds the same rows in another order"
    return "holds other values (other units, edited cells, or other rows)"


def _sizes(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{size} {split}" for split, size in sizes.items())
