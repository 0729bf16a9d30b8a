"""Attributes: a table beside data, with a row for each of them, such as 40 marks of a face."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyro_vae.data.labels import FILE_WORDS, as_numbers, places_of
from pyro_vae.data.sets import DataSet
from pyro_vae.data.text import WHITE, cells, read_text
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import user_path

SIGNS = (",", ";", "\t", WHITE)


def attributes_of(data: DataSet, file: str) -> dict[str, dict[str, np.ndarray]]:
    """The columns of a file by name, for the data of each split.

    The first line has the names of the columns. Rows are matched by name where a first column has the names of the
    data, in any order; else they are those of the data as these stand in their file. A line before the names that
    holds the number of rows, as in the file of CelebA, is left out, and so may be the name of the first column.

    Args:
        data: of a run.
        file: of text, its cells set apart by commas, semicolons, tabs or blanks.

    Returns:
        Columns by name, each `(N,)` by split, whole numbers and numbers where all cells are such, else texts.

    Raises:
        InputError: for a file that is none, a row too short or too long, names that no data have or that lack some, and
            another number of rows than data.
    """
    path = user_path(file)
    if not path.is_file():
        raise InputError(f"--attributes {file} is no file")
    head, rows = _table(path)
    names = None if data.names is None else np.concatenate([*data.names.values()])
    if head[0].lower() in FILE_WORDS:
        head, columns = head[1:], [*zip(*rows, strict=True)]
        places = _by_name(path, columns[0], names)
        values = columns[1:]
    else:
        places = _in_order(path, len(rows), data.rows)
        values = [*zip(*rows, strict=True)]
    found: dict[str, dict[str, np.ndarray]] = {}
    ends = np.cumsum([len(some) for some in data.rows.values()])[:-1]
    for name, column in zip(head, values, strict=True):
        ordered = _typed(np.array(column)[places])
        parts = np.split(ordered, ends)
        found[name] = dict(zip(data.rows, parts, strict=True))
    return found


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of columns, the first of them empty where it was left out, and the cells of rows."""
    text = read_text(path)
    lines = [line for line in text.lines if line.strip()]
    if len(lines) > 2 and lines[0].strip() == str(len(lines) - 2):
        lines = lines[1:]
    if len(lines) < 2:
        raise InputError(f"{path} has no row of attributes below the names of columns")
    signs = [text.delimiter] if text.delimiter else SIGNS
    sign = next((s for s in signs if len(cells(lines[1:2], s)[0]) > 1), ",")
    head, *rows = cells(lines, sign)
    if len(rows[0]) == len(head) + 1:
        head = ["", *head]
    for i, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise InputError(
                f"row {i} of {path} has {len(row)} cells below {len(head)} columns"
            )
    if len({*head}) < len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise InputError(f"{path} names the column {shown(twice)} twice")
    return head, rows


def _by_name(
    path: Path, column: tuple[str, ...], names: np.ndarray | None
) -> np.ndarray:
    """The row of each datum, found by its name."""
    if names is None:
        raise InputError(
            f"{path} begins with a column of names, and the data have none: leave the column out, with the rows in the "
            "order of the data"
        )
    known, rows = places_of(names), np.full(len(names), -1)
    for i, name in enumerate(column):
        place = known.get(name.removeprefix("./"))
        if place is not None:
            rows[place] = i
    if (rows < 0).any():
        raise InputError(f"{path} has no row for {shown(str(names[rows < 0][0]))}")
    return rows


def _in_order(path: Path, count: int, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The row of each datum, where they stand as the data do."""
    places = np.concatenate([*rows.values()])
    if len(np.unique(places)) < len(places):
        raise InputError(
            f"the data come in parts that are each counted from 0, so {path} must begin with a column of their names"
        )
    if count not in (len(places), int(places.max(initial=-1)) + 1):
        raise InputError(
            f"{path} has {count} rows of attributes, and there are {len(places)} data"
        )
    return places


def _typed(texts: np.ndarray) -> np.ndarray:
    """Numbers in place of texts that all are such."""
    whole = as_numbers(texts)
    if whole.dtype.kind != "U":
        return whole
    try:
        return whole.astype(np.float64)
    except ValueError:
        return whole
