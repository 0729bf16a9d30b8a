"""Labels: from a file of their own, and of any shape that people give them."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.files import Parts, Request, read_npy
from pyro_vae.data.text import WHITE, cells, counted_from, read_text
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import user_path

FILE_WORDS = {
    "file",
    "filename",
    "file_name",
    "name",
    "image",
    "image_id",
    "img",
    "path",
    "id",
    "",
}


def separate_labels(
    path: Path,
    request: Request,
    sizes: dict[str, int],
    *,
    names: Parts | None = None,
    files: bool = False,
) -> tuple[Parts | None, list[str]]:
    """Labels from a file of their own, named by --labels, and what was taken for what.

    A label file holds one label for each datum in the order of the data, as a .npy file or as lines of text, or lines
    of two cells, *name, label*, that are matched by name in any order.

    Args:
        path: where the data are.
        request: what was asked for.
        sizes: how many data each split has.
        names: of the data by split, to match by; for files with their folders, as in `a/1.png`.
        files: whether the data are files, whose order is not written anywhere.

    Raises:
        InputError: when there is no such file, when it does not have one label for each datum, when a datum is not
            named in it, or when labels without names would be given to files whose order is not certain.
    """
    if request.labels is None:
        return None, []
    file = user_path(request.labels)
    if not file.is_file():
        raise InputError(
            f"--labels {request.labels} is no file; {path.name} has no labels of that name inside"
        )
    known = None if names is None else np.concatenate([names[split] for split in sizes])
    count = sum(sizes.values())
    labels: np.ndarray | dict[str, str]
    if file.suffix.lower() == ".npy":
        labels, notes = one_each(read_npy(file), str(file))
    else:
        labels, notes = _text_labels(file, count, known)
    if isinstance(labels, np.ndarray):
        labels, more = _in_order(file, labels, count, known if files else None)
    else:
        assert known is not None
        labels, more = _by_name(file, labels, known)
    ends = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, np.split(labels, ends), strict=True)), [*notes, *more]


def one_each(labels: np.ndarray, what: str) -> tuple[np.ndarray, list[str]]:
    """Labels `(N,)` of an array of them: one for each datum, in a column of their own, or one-hot.

    Raises:
        InputError: for any other shape, and for what is neither a number nor a text.
    """
    if labels.dtype.kind not in "biufUS":
        raise InputError(
            f"{what} holds {labels.dtype}; labels must be numbers or texts"
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    notes = []
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and _one_hot(labels):
        notes.append(
            f"{what}: rows of 0 and a single 1, taken for {labels.shape[1]} classes"
        )
        labels = labels.argmax(1)
    if labels.ndim != 1:
        raise InputError(
            f"{what} has shape {labels.shape}; labels must be one for each datum, or rows with a single 1"
        )
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    return labels, notes


def _one_hot(labels: np.ndarray) -> bool:
    bits = ((labels == 0) | (labels == 1)).all()
    return bool(bits and (labels.sum(1, dtype=float) == 1).all())


def _text_labels(
    file: Path, count: int, known: np.ndarray | None
) -> tuple[np.ndarray | dict[str, str], list[str]]:
    """A label for each line, or for each name where lines have two cells."""
    text = read_text(file)
    lines = [line.strip() for line in text.lines if line.strip()]
    for sign in (text.delimiter or ",", ";", "\t", WHITE):
        rows = cells(lines, sign)
        widths = {len(row) for row in rows}
        if sign == WHITE and not _names_first(rows, known):
            continue
        if widths == {2}:
            return _pairs(file, rows, count, known, text.notes)
        if sign != WHITE and len(widths) == 1 and max(widths) > 2 and len(rows) > 1:
            raise InputError(
                f"{file} has {max(widths)} cells in each line; a label file has one label in each, "
                "or the name of a datum and its label"
            )
    alone = [row[0] if row else "" for row in cells(lines, "\t")]
    words = " ".join(lines).split()
    by_words = len(words) == count != len(alone)
    return np.array(words if by_words else alone), text.notes


def _names_first(rows: list[list[str]], known: np.ndarray | None) -> bool:
    """Whether the first of two cells is the name of a datum in some row."""
    if known is None:
        return False
    places = places_of(known)
    return any(len(row) == 2 and row[0] in places for row in rows)


def _pairs(
    file: Path,
    rows: list[list[str]],
    count: int,
    known: np.ndarray | None,
    notes: list[str],
) -> tuple[np.ndarray | dict[str, str], list[str]]:
    """Lines of two cells: names and labels, or places in the order of the data and labels."""
    headed = rows[0][0].lower() in FILE_WORDS
    body = rows[1:] if headed and len(rows) > 1 else rows
    first, labels = zip(*body, strict=True)
    start = counted_from(first)
    if start is not None and len(body) == count and not _names_first(body, known):
        note = f"{file.name}: the first column counts the data from {start}"
        return np.array(labels), [*notes, note]
    if known is None:
        raise InputError(
            f"{file} has two cells in each line, but the data have no names to match; "
            "write one label in each line, or name the column of the data that names its rows with --id"
        )
    twice = _repeated(first)
    if twice:
        raise InputError(f"{file} names {twice[0]!r} twice; each datum has one label")
    return dict(zip(first, labels, strict=True)), notes


def places_of(known: np.ndarray) -> dict[str, int]:
    """The datum of each name: in full, without its folder, and without its suffix, where that is no other's."""
    places: dict[str, int] = {}
    full = [str(name) for name in known]
    last = [name.rpartition("/")[2] for name in full]
    bare = [name.rpartition(".")[0] or name for name in last]
    for names in (full, last, bare):
        others = {*places, *_repeated(names)}
        places |= {name: i for i, name in enumerate(names) if name not in others}
    return places


def _repeated(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once, in their order."""
    return [name for name, times in Counter(names).items() if times > 1]


def _by_name(
    file: Path, labels: dict[str, str], known: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Labels by the names of their data, put into the order of the data."""
    places = places_of(known)
    ordered: list[Any] = [None] * len(known)
    unused = 0
    for name, label in labels.items():
        place = places.get(name.removeprefix("./"))
        if place is None:
            unused += 1
        elif ordered[place] is not None:
            raise InputError(
                f"{file} names {str(known[place])!r} twice; each datum has one label"
            )
        else:
            ordered[place] = label
    missing = [str(known[i]) for i, label in enumerate(ordered) if label is None]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(
            f"{file} has no label for {missing[0]!r}{more}; each datum needs one"
        )
    notes = [f"labels matched by name with the lines of {file.name}"]
    if unused:
        notes.append(
            f"{unused} lines of {file.name} name no datum, such as a header, and are left out"
        )
    return as_numbers(np.array(ordered)), notes


def _in_order(
    file: Path, labels: np.ndarray, count: int, files: np.ndarray | None
) -> tuple[np.ndarray, list[str]]:
    """Labels without names, in the order of the data; a first line too many is a header."""
    notes = []
    if len(labels) == count + 1 and labels.dtype.kind == "U":
        notes.append(f"first line of {file.name} ({labels[0]}) taken for a header")
        labels = labels[1:]
    if len(labels) != count:
        raise InputError(f"{file} has {len(labels)} labels, but there are {count} data")
    if files is not None:
        listed = [str(name) for name in files]
        counted = sorted(listed, key=_natural)
        if listed != counted:
            i = next(i for i, name in enumerate(listed) if name != counted[i])
            raise InputError(
                f"{file} gives labels without names, and the order of the files is not certain: is {listed[i]} or "
                f"{counted[i]} number {i + 1}? Write lines of two cells, as in {listed[i]},label"
            )
        notes.append(
            f"labels in the order of the names of the files: {', '.join(listed[:3])}, ..."
        )
    return as_numbers(labels), notes


def _natural(name: str) -> list[Any]:
    """A key that puts 2.png before 10.png."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces]


def as_numbers(labels: np.ndarray) -> np.ndarray:
    """Whole numbers in place of texts that all are such numbers."""
    if labels.dtype.kind != "U" or not len(labels):
        return labels
    plain = all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", label) for label in labels)
    return labels.astype(np.int64) if plain else labels
