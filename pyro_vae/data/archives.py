"""Arrays of NumPy: .npy and .npz."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyro_vae.data.channels import channels_first
from pyro_vae.data.conditions import asked
from pyro_vae.data.files import (
    Loaded,
    Parts,
    Request,
    read_header,
    read_npy,
    reading_npz,
    telling,
)
from pyro_vae.data.holes import masked
from pyro_vae.data.labels import one_each, separate_labels
from pyro_vae.data.sparse import sparse_values
from pyro_vae.data.streams import Mapped, stays_on_disk
from pyro_vae.foundation.commands import option
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory
from pyro_vae.foundation.reading import user_path

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
DATA_WORDS = (
    "x",
    "image",
    "images",
    "img",
    "imgs",
    "data",
    "input",
    "inputs",
    "features",
    "arr_0",
)
MASK = "mask"  # what the array is called that is 1 where a value was seen
LABEL_WORDS = ("y", "label", "labels", "target", "targets", "class", "classes")
SPARSE = {"format", "shape", "data"}  # as SciPy stores a matrix
ROWS = {"data", "indices", "indptr", "shape"}  # as others do


def npy(path: Path, request: Request) -> Loaded:
    """One array `(N, ...)`, left on disk where memory would run short."""
    on_disk = stays_on_disk(path.stat().st_size, request.stream)
    missing = request.keeps_missing
    values = (
        Mapped(path, request.workers, missing=missing) if on_disk else read_npy(path)
    )
    labels, notes = separate_labels(path, request, _sizes({"train": values}))
    if len(values.shape) == 2 and 0 < 10 * values.shape[0] <= values.shape[1]:
        count, width = values.shape
        notes.append(
            f"shape {count} x {width} taken for {count} data of {width} values each"
        )
    loaded = Loaded({"train": values}, labels, str(path), notes=notes)
    return channels_first(loaded, request.channels)


def _sizes(arrays: Mapping[str, np.ndarray | Mapped]) -> dict[str, int]:
    """How many data each split has."""
    return {
        split: array.shape[0] if array.shape else 0 for split, array in arrays.items()
    }


# --------------------------------------------------------------------------------------------------------------------


class StoredArray(NamedTuple):
    """What an array in an archive is, by its header and its name.

    Attributes:
        shape: of the array.
        dtype: of the array.
        split: that its name says, as in `x_train`, or `None`.
        word: what else its name says, in small letters.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    split: str | None
    word: str

    @property
    def could_be_data(self) -> bool:
        other = self.word in LABEL_WORDS or self.word == MASK
        return self.dtype.kind in "biuf" and len(self.shape) > 1 and not other

    def __str__(self) -> str:
        unread = "(Python objects, never unpickled)"
        return unread if self.dtype.hasobject else str(self.shape)


def npz(path: Path, request: Request) -> Loaded:
    """An archive of arrays with names: data, with their splits and labels if it has them, or a sparse matrix of SciPy.

    Only what is needed is read. Objects are never unpickled.

    Raises:
        InputError: where it is not certain which array holds the data or the labels, naming the option.
    """
    members = _members(path)
    if members.keys() >= SPARSE or members.keys() >= ROWS:
        return _sparse(path, members, request)
    for name in map(str.strip, request.drop.split(",") if request.drop else ()):
        if name not in members:
            raise InputError(
                f"--drop {name}: {path} has no such array; {_has(members)}"
            )
        del members[name]
    given = _conditions(path, members, request)
    for group in given.values():
        for name in group.values():
            if name != request.labels:
                members.pop(name, None)
    keys = _data(path, members, request.key)
    label_keys, notes = _labels(path, members, keys, request)
    arrays = {split: _read(path, key, members[key]) for split, key in keys.items()}
    labels: Parts | None
    if label_keys:
        labels = {}
        for split, key in label_keys.items():
            labels[split], more = _one_each(path, key, members[key])
            notes += more
        notes.append(f"labels from {', '.join(label_keys.values())}")
    else:
        labels, more = separate_labels(path, request, _sizes(arrays))
        notes += more
    masks = _masks(path, members, keys, request) if request.keeps_missing else {}
    for split, key in masks.items():
        mask = _read(path, key, members[key])
        if mask.ndim == 1 and request.field is not None:  # of a whole field
            mask = mask.reshape(-1, *[1] * (arrays[split].ndim - 1))
            mask = np.broadcast_to(mask, (len(mask), *arrays[split].shape[1:]))
        arrays[split] = masked(f"{keys[split]} of {path}", arrays[split], mask)
        notes.append(f"what is 0 in {key} taken for missing in {keys[split]}")
    used = {*keys.values(), *label_keys.values(), *masks.values(), *request.others}
    unread = [
        f"{name} {member}" for name, member in members.items() if name not in used
    ]
    if unread:
        more_unread = f" and {len(unread) - 6} more" if len(unread) > 6 else ""
        notes.append(f"left unread: {', '.join(unread[:6])}{more_unread}")
    notes = [f"data from {', '.join(keys.values())}", *notes]
    conditions: dict[str, Parts] = {}
    for name, group in given.items():
        conditions |= _columns(path, name, group, keys)
    loaded = Loaded(arrays, labels, str(path), notes=notes, conditions=conditions)
    return channels_first(loaded, request.channels)


def _conditions(
    path: Path, members: Mapping[str, StoredArray], request: Request
) -> dict[str, dict[str, str]]:
    """The array of each split, or the one for all, of each name in --condition that the archive has."""
    groups: dict[str, dict[str, str]] = {}
    for name in asked(request.condition):
        group = _by_split(path, members, name.lower())
        if name in members:
            group = {"train": name}
        if group:
            groups[name] = group
    return groups


def _columns(
    path: Path, name: str, group: Mapping[str, str], keys: Mapping[str, str]
) -> dict[str, Parts]:
    """The columns of a condition, `(N,)` or `(N, columns)` for each split of the data, by their names."""
    if group.keys() != keys.keys():
        raise InputError(
            f"--condition {name}: {path} has it for {', '.join(group)} data, and data for {', '.join(keys)}"
        )
    members, columns = _members(path), {}
    for split, key in group.items():
        array = _read(path, key, members[key])
        if array.dtype.kind not in "biufUS" or array.ndim not in (1, 2):
            raise InputError(
                f"--condition {name}: {key} of {path} has shape {array.shape} and holds {array.dtype}; give numbers or "
                "texts, (N,) or (N, columns)"
            )
        texts = array.dtype.kind == "S"
        columns[split] = np.char.decode(array, "utf-8") if texts else array
    if next(iter(columns.values())).ndim == 1:
        return {name: columns}
    widths = {array.shape[1:] for array in columns.values()}
    if len(widths) != 1:
        raise InputError(
            f"--condition {name}: {path} has it in other shapes for other splits"
        )
    (width,) = widths.pop()
    return {
        name if width == 1 else f"{name}[{i}]": {s: v[:, i] for s, v in columns.items()}
        for i in range(width)
    }


def _members(path: Path) -> dict[str, StoredArray]:
    """The arrays of an archive by name; only their headers are read."""
    arrays = {}
    complaint = f"{path} is not a .npz file of numbers"
    with telling(complaint, PermissionError), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    shape, dtype = read_header(file)
                key = name.removesuffix(".npy")
                arrays[key] = StoredArray(shape, dtype, *_words(key))
    return arrays


def has_array(path: Path, key: str) -> bool:
    """Whether an archive has an array of this name, for all data or for a split; of other files it is not known."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return True
    members = _members(path)
    return key in members or any(m.split and m.word == key for m in members.values())


def _words(name: str) -> tuple[str | None, str]:
    """The split and the rest of what a name says: `('train', 'x')` of `x_train`, `XTrain` and `trainX`."""
    spaced = re.sub(
        r"([a-z\d])([A-Z])|([XxYy])(?=(?i:train|valid|val|test))", r"\1\3_\2", name
    )
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    splits = [word for word in words if word in SPLIT_WORDS]
    if len(splits) != 1:
        return None, "_".join(words)
    return SPLIT_WORDS[splits[0]], "_".join(word for word in words if word != splits[0])


def _read(path: Path, key: str, member: StoredArray) -> np.ndarray:
    """One array of an archive."""
    if member.dtype.hasobject:
        raise InputError(
            f"{key} of {path} holds Python objects, which are never unpickled: store it as numbers or texts, as by "
            f"np.array({key}.tolist())"
        )
    size = member.dtype.itemsize * int(np.prod(member.shape, dtype=object))
    if size > available_memory():
        raise InputError(
            f"{key} of {path} takes {size / 1e9:.3g} GB, too much for memory"
        )
    with reading_npz(path) as archive:
        return archive[key]


# --------------------------------------------------------------------------------------------------------------------


def _data(
    path: Path, members: dict[str, StoredArray], key: str | None
) -> dict[str, str]:
    """The array of each split; all that has no splits is for training."""
    if key is not None:
        divided = key in members and members[key].split
        group = _by_split(path, members, members[key].word if divided else key.lower())
        if key in members and (members[key].split is None or "train" not in group):
            return {"train": key}
        if "train" not in group:
            raise InputError(f"--key {key}: {path} has no such array; {_has(members)}")
        return group
    train = [member for member in members.values() if member.split == "train"]
    groups = sorted({m.word for m in train} & {"", *DATA_WORDS})
    if not groups:  # of another name
        groups = [member.word for member in train if member.could_be_data]
    plain = _undivided(members, DATA_WORDS)
    if not groups and not plain:
        plain = [name for name, member in members.items() if member.could_be_data]
    candidates = [_by_split(path, members, word)["train"] for word in groups] + plain
    if len(candidates) > 1:
        raise InputError(
            f"{path} has several arrays that may be the data, {', '.join(candidates)}: "
            f"name one with {option('key', candidates[0])}"
        )
    if not candidates:
        raise InputError(
            f"{path} has no array of numbers (N, ...) that could be the data; {_has(members)}"
        )
    return _by_split(path, members, groups[0]) if groups else {"train": candidates[0]}


def _masks(
    path: Path,
    members: Mapping[str, StoredArray],
    keys: dict[str, str],
    request: Request,
) -> dict[str, str]:
    """The array of each split that says which of its values were seen, where there is one.

    That of one of several fields bears its name, `image_mask`.
    """
    if request.field is not None:
        named = {split: f"{key}_{MASK}" for split, key in keys.items()}
        return {split: name for split, name in named.items() if name in members}
    if members[keys["train"]].split is None:
        return {"train": MASK} if MASK in members else {}
    return {s: key for s, key in _by_split(path, members, MASK).items() if s in keys}


def _undivided(members: Mapping[str, StoredArray], words: Sequence[str]) -> list[str]:
    """The arrays of all data whose names are one of these words."""
    return [n for n, m in members.items() if m.split is None and m.word in words]


def _by_split(
    path: Path, members: Mapping[str, StoredArray], word: str
) -> dict[str, str]:
    """The arrays whose names say a split and this word."""
    by_split: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        names = [n for n, m in members.items() if (m.split, m.word) == (split, word)]
        if len(names) > 1:
            raise InputError(
                f"{path} has several arrays of {split} data, {', '.join(names)}: leave out all but one with "
                f"{option('drop', ','.join(names[1:]))}"
            )
        if names:
            by_split[split] = names[0]
    return by_split


def _labels(
    path: Path, members: dict[str, StoredArray], keys: dict[str, str], request: Request
) -> tuple[dict[str, str], list[str]]:
    """The array of labels for each split, if the archive has them for all."""
    given = request.labels
    splits = members[next(iter(keys.values()))].split is not None
    if given is not None and splits:
        word = members[given].word if given in members else given.lower()
        group = _by_split(path, members, word)
        if group.keys() >= keys.keys():
            return {split: group[split] for split in keys}, []
        if not user_path(given).is_file():
            wanted = ", ".join(f"{name}_{given}" for name in keys.values())
            raise InputError(
                f"{path} has no arrays {wanted} for --labels {given}; {_has(members)}"
            )
        return {}, []
    if given is not None:
        return ({"train": given}, []) if given in members else ({}, [])
    if splits:
        words = {m.word for m in members.values() if m.split and m.word in LABEL_WORDS}
        groups = [_by_split(path, members, word) for word in sorted(words)]
        whole = [group for group in groups if group.keys() >= keys.keys()]
        incomplete = [n for g in groups if g not in whole for n in g.values()]
        notes = []
        if incomplete:
            notes.append(f"{', '.join(incomplete)} are not labels for all splits")
        _refuse_several(path, [group["train"] for group in whole])
        return {split: group[split] for group in whole for split in keys}, notes
    plain = _undivided(members, LABEL_WORDS)
    if not plain and keys["train"] == "arr_0" and _like_labels(members):
        plain = ["arr_1"]
    _refuse_several(path, plain)
    return dict(zip(keys, plain, strict=False)), []


def _like_labels(members: Mapping[str, StoredArray]) -> bool:
    """Whether arr_1, the only array beside arr_0, has one whole number or text for each datum."""
    if members.keys() != {"arr_0", "arr_1"}:
        return False
    count, labels = members["arr_0"].shape[0], members["arr_1"]
    return labels.dtype.kind in "biuUS" and labels.shape in ((count,), (count, 1))


def _refuse_several(path: Path, names: Sequence[str]) -> None:
    if len(names) > 1:
        raise InputError(
            f"{path} has several arrays that may be the labels, {', '.join(names)}: "
            f"name one with {option('labels', names[0])}"
        )


def _one_each(
    path: Path, key: str, member: StoredArray
) -> tuple[np.ndarray, list[str]]:
    """The labels in an array; what cannot be labels can be left out."""
    try:
        return one_each(_read(path, key, member), f"{key} of {path}")
    except InputError as error:
        raise InputError(f"{error}; {option('drop', key)} leaves it out") from error


def _has(members: Mapping[str, StoredArray]) -> str:
    arrays = [f"{name} {member}" for name, member in members.items()]
    return f"it has {', '.join(arrays[:12]) or 'no arrays'}"


# --------------------------------------------------------------------------------------------------------------------


def _sparse(path: Path, members: Mapping[str, StoredArray], request: Request) -> Loaded:
    """A matrix that scipy.sparse.save_npz wrote, or one in its compressed rows."""
    import scipy.sparse

    with telling(f"{path} is not a sparse matrix", PermissionError):
        if "format" in members:
            matrix = scipy.sparse.load_npz(path)
        else:
            keys = ("data", "indices", "indptr", "shape")
            *rows, shape = (_read(path, key, members[key]) for key in keys)
            matrix = scipy.sparse.csr_array(tuple(rows), shape=tuple(shape))
    values, note = sparse_values(path, matrix, request.stream)
    labels, notes = separate_labels(path, request, {"train": matrix.shape[0]})
    return Loaded({"train": values}, labels, str(path), notes=[note, *notes])
