"""The columns of a table: which hold data, which names the rows, which labels them."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.conditions import LABEL, asked
from pyro_vae.data.files import Loaded, Parts, Request, few
from pyro_vae.data.holes import HOW
from pyro_vae.data.labels import one_each, separate_labels
from pyro_vae.data.schema import Schema, names_of
from pyro_vae.data.text import are_times, beside_numbers, odd_one, strays
from pyro_vae.foundation.commands import option
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import user_path

ID_NAME = re.compile(
    r"(?i:index|idx|row|rownames?|rowid|obs_names|(.*[\s_.-])?(id|uuid|guid))|.*[a-z](Id|ID)"
)
LABEL_NAME = re.compile(
    r"labels?|class(es)?|targets?|y|species|categor(y|ies)|group|kind|type|variety|diagnosis|"
    r"outcome|clusters?|cell[_ ]?types?|genus",
    re.IGNORECASE,
)
NUMBER_LABEL_NAME = re.compile(r"labels?|class(es)?|targets?", re.IGNORECASE)
STAND_INS = (
    -9,
    -99,
    -999,
    -9999,
    -99999,
    -32768,
    999,
    9999,
    99999,
    32767,
    1e20,
    -1e20,
    1e30,
)
CHECKED = 1000  # rows or columns that are looked at for what is only said
EXACT = 2**53  # whole numbers below it are the same in float64


@dataclass
class Table:
    """Columns of a table that are not yet told apart.

    Attributes:
        path: the file.
        frame: a pandas DataFrame whose columns are numbered.
        names: of its columns.
        headed: whether the file gives these names.
        notes: what was taken for what.
        left: the columns that are data as far as is known.
        kinds: the letters of NumPy for what the columns hold.
    """

    path: Path
    frame: Any
    names: list[str]
    headed: bool
    notes: list[str]
    left: list[int] = field(init=False)
    kinds: list[str] = field(init=False)

    def __post_init__(self) -> None:
        # asking each column takes long
        self.kinds = [dtype.kind for dtype in self.frame.dtypes]
        self.left = list(range(len(self.names)))
        for name, times in Counter(self.names if self.headed else ()).items():
            if times > 1:
                self.notes.append(f"{times} columns have the name {name!r}")

    def find(self, given: str, option: str) -> int:
        """The column that an option names, by its name or by its number from 0."""
        places = [c for c, name in enumerate(self.names) if name == given]
        if len(places) > 1:
            raise InputError(
                f"--{option} {given}: {len(places)} columns of {self.path} have that name; name it by its number, "
                f"counted from 0, as in --{option} {places[0]}"
            )
        if re.fullmatch(r"-?\d{1,9}", given) and not places:
            numbers = (int(given), int(given) + len(self.names))
            places = [number for number in numbers if number in self.left][:1]
        if not places:
            near = difflib.get_close_matches(given, self.names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {_few(self.names)}"
            file = ", and there is no such file" if option == "labels" else ""
            raise InputError(
                f"--{option} {given}: {self.path} has no such column{file}; {hint}"
            )
        if places[0] not in self.left:
            raise InputError(
                f"--{option} {given}: another of --drop, --condition, --id and --labels takes this column"
            )
        return places[0]

    def called(self, column: int) -> str:
        """A column as an option or a sentence names it."""
        return self.names[column] or str(column)

    def pasted(self, name: str, *columns: int) -> str:
        """An option that names columns, as it can be pasted; one whose name is not enough goes by its number."""
        words = []
        for column in columns:
            word = self.called(column)
            clear = "," not in word and self.names.count(word) < 2
            words.append(word if clear else str(column))
        return option(name, ",".join(words))

    def said(self, column: int) -> str:
        """A column in a sentence."""
        name = self.names[column]
        return f"column {name!r}" if name else f"column {column}, without a name,"

    def kind(self, column: int) -> str:
        """The letter of NumPy for what a column holds: `b`, `i`, `u`, `f`; `O` for text, `V` for other objects."""
        kind = self.kinds[column]
        objects = kind == "O" and not isinstance(self.frame[column].iloc[0], str)
        return "V" if objects else kind

    def put(self, column: int, values: Any) -> None:
        """Other values in place of a column's."""
        self.frame[column] = values
        self.kinds[column] = self.frame[column].dtype.kind

    def take(self, column: int) -> np.ndarray:
        """The values of a column that is no data."""
        self.left.remove(column)
        return self.frame[column].to_numpy()


def loaded(table: Table, request: Request) -> Loaded:
    """The data of a table, the names of its rows, and their labels.

    Raises:
        InputError: for a column that holds no numbers, a value that is missing or infinite, and where it is not certain
            what a column is, naming the option that says it.
    """
    if len(table.frame) == 0:
        raise InputError(f"the file {table.path} has no rows of data")
    drop = (request.drop or "").strip()
    guess = drop.lower() != "none" or drop in table.names
    for given in drop.split(",") if drop and guess else ():
        table.left.remove(table.find(given.strip(), "drop"))
    conditions = _conditions(table, request)
    labels = conditions.get(request.labels or "")
    if labels is not None:
        request = replace(request, labels=None)
    names = _names(table, request, guess)
    # where texts are data, and no column is taken for labels
    mixed = request.columns is not None
    if labels is None:
        labels = _labels(table, request, guess and not mixed)
    schema: Schema | None = None
    if mixed:
        schema, values = _mixed(table, request)
    else:
        values = _values(table, missing=request.keeps_missing)
    _note_stand_ins(table, values)
    names_of_rows, split_labels = _all_train(names), _all_train(labels)
    if labels is None:
        sizes = {"train": len(values)}
        split_labels, notes = separate_labels(
            table.path, request, sizes, names=names_of_rows
        )
        table.notes += notes
    return Loaded(
        {"train": values},
        split_labels,
        str(table.path),
        names_of_rows,
        table.notes,
        [table.called(c) for c in table.left] if schema is None else schema.names,
        schema=schema,
        conditions={name: {"train": column} for name, column in conditions.items()},
    )


def _all_train(column: np.ndarray | None) -> Parts | None:
    return None if column is None else {"train": column}


def _conditions(table: Table, request: Request) -> dict[str, np.ndarray]:
    """The columns that --condition names, which are no data; `label` may mean whatever labels there are."""
    columns: dict[str, np.ndarray] = {}
    for name in asked(request.condition):
        if name in LABEL and name not in table.names:
            continue
        column = table.find(name, "condition")
        kind = table.kind(column)
        if kind not in "biufO":
            raise InputError(
                f"--condition {name}: {table.said(column)} of {table.path} holds {table.frame[column].dtype}; give "
                "numbers or texts"
            )
        values = table.take(column)
        columns[name] = values.astype(str) if kind == "O" else values
    return columns


# --------------------------------------------------------------------------------------------------------------------


def _names(table: Table, request: Request, guess: bool) -> np.ndarray | None:
    """What the rows are called: by the column that is asked for, or one that can be nothing else."""
    if request.id is not None:
        return table.take(table.find(request.id, "id")).astype(str)
    label = _column_of_labels(table, request)
    if not guess:
        return None
    columns = [c for c in table.left if c != label and _is_id(table, c)]
    columns = [c for c in columns if table.called(c) not in _asked(request)]
    if len(columns) in (0, len(table.left)):
        _refuse_doubt(table)
        return None
    for column in columns:
        hint = " (--drop none keeps it as data)" if table.kind(column) in "iu" else ""
        table.notes.append(
            f"{table.said(column)} ({_shown(table.frame[column])}) taken for the names of the rows, not for data{hint}"
        )
    return [table.take(column) for column in columns][-1].astype(str)


def _is_id(table: Table, column: int) -> bool:
    """Whether a column names the rows: by its name, or because it has none, or as the first column of texts."""
    name, kind = table.names[column].strip(), table.kind(column)
    unnamed = (column == 0 and name == "") or re.fullmatch(r"Unnamed: \d+", name)
    called_so = table.headed and bool(unnamed or ID_NAME.fullmatch(name))
    first = column == 0 and kind == "O" and not _like_numbers(table.frame[column])
    if not (called_so or first) or kind not in "iuO":
        return False
    blank = kind == "O" and (table.frame[column] == "").any()
    return table.frame[column].is_unique and not blank


def _like_numbers(series: Any) -> bool:
    """Whether texts begin with figures, as in 5 %, 1,2 or 2020-01-01: not what names and labels look like."""
    texts = series.head(CHECKED).astype(str)
    return bool(texts.str.match(r"[^A-Za-z]*\d").mean() > 0.5)


def _refuse_doubt(table: Table) -> None:
    """Refuse a first column that may name the rows or be data; note one that has a name."""
    if 0 not in table.left or len(table.left) < 2:
        return
    if table.headed and table.names[0].strip() == "" and table.kind(0) in "biuf":
        raise InputError(
            f"the first column of {table.path} has no name and may be an index or data: leave it out with --drop 0, "
            "take it for the names of the rows with --id 0, or keep it as data with --drop none"
        )
    for column in table.left[:CHECKED]:
        numbers = table.frame[column].to_numpy()[:CHECKED]
        whole = table.kind(column) in "iu" and len(numbers) >= 3
        if not whole or (np.diff(numbers) != 1).any():
            continue
        if table.headed:
            table.notes.append(
                f"{table.said(column)} counts the rows ({_shown(table.frame[column])}) and is kept as data; "
                f"{table.pasted('drop', column)} leaves it out"
            )
        elif column == 0 and numbers[0] in (0, 1):
            raise InputError(
                f"the first column of {table.path} counts the rows and may be an index or data: leave it out with "
                "--drop 0, take it for the names of the rows with --id 0, or keep it as data with --drop none"
            )


# --------------------------------------------------------------------------------------------------------------------


def _column_of_labels(table: Table, request: Request) -> int | None:
    """The column that --labels names, if it names one and no file."""
    given = request.labels
    if given is None or (given not in table.names and user_path(given).is_file()):
        return None
    return table.find(given, "labels")


def _labels(table: Table, request: Request, guess: bool) -> np.ndarray | None:
    """The labels inside a table: the column that is asked for, or one that can be nothing else."""
    column = _column_of_labels(table, request)
    if column is None and request.labels is None and guess:
        column = _guessed_labels(table)
        if column is not None:
            shown = _shown(table.frame[column].drop_duplicates())
            table.notes.append(
                f"{table.said(column)} ({shown}) taken for labels, not for data"
            )
    if column is None:
        return None
    text = table.kind(column) == "O"
    values = table.take(column)
    labels, notes = one_each(values.astype(str) if text else values, table.said(column))
    table.notes += notes
    return labels


def _guessed_labels(table: Table) -> int | None:
    texts = [c for c in table.left if table.kind(c) == "O"]
    if len(texts) == 1 and len(table.left) > 1:
        column = texts[0]
        last = not table.headed and column == table.left[-1]
        named = table.headed and LABEL_NAME.fullmatch(table.names[column].strip())
        certain = named or (last and not _like_numbers(table.frame[column]))
        kinds = named or len(table.frame) == 1 or not table.frame[column].is_unique
        return column if certain and kinds else None
    if texts or not table.headed or len(table.left) == 1:
        return None
    whole = [c for c in table.left if table.kind(c) in "iub"]
    named_so = [c for c in whole if NUMBER_LABEL_NAME.fullmatch(table.names[c])]
    most = max(2, len(table.frame) // 2)
    columns = [c for c in named_so if table.frame[c].nunique() <= most]
    return columns[0] if len(columns) == 1 else None


# --------------------------------------------------------------------------------------------------------------------


def _asked(request: Request) -> Collection[str]:
    """Names of columns that are certain to be data."""
    columns = request.columns
    if isinstance(columns, Schema):
        return columns.names
    return () if columns is None else columns.keys()


def _mixed(table: Table, request: Request) -> tuple[Schema, np.ndarray]:
    """The columns that are left as those of a table of mixed kinds: what they hold, and their numbers `(N, D)`."""
    if not table.left:
        raise InputError(f"{table.path} has no column that could be data")
    frame = table.frame[table.left]
    frame.columns = [table.called(c) for c in table.left]
    asked, what, missing = request.columns, str(table.path), request.keeps_missing
    schema: Any = asked
    if not isinstance(asked, Schema):
        schema = Schema.of(frame, asked or {}, what, missing=missing)
    others = [name for name in names_of(frame, what) if name not in schema.names]
    if others:
        table.notes.append(
            f"columns that the run does not know left out: {_few(others)}"
        )
    places = {table.called(c): c for c in table.left}
    table.left = [places[name] for name in schema.names if name in places]
    return schema, schema.codes(frame, what, missing=missing)


def _values(table: Table, *, missing: bool) -> np.ndarray:
    """The columns that are left, as numbers; nan where one is `missing`, if that may be."""
    others = [c for c in table.left if table.kind(c) not in "biuf"]
    if len(others) == len(table.left):
        raise InputError(_no_numbers(table, others))
    if others:
        raise InputError(_not_numbers(table, others))
    truths = [c for c in table.left if table.kind(c) == "b"]
    if truths:
        called = _few([table.called(c) for c in truths])
        table.notes.append(f"True and False taken for 1 and 0 (in {called})")
        table.frame = table.frame.astype(dict.fromkeys(truths, np.uint8))
    values = table.frame[table.left].to_numpy()
    if values.dtype.kind == "f":
        _refuse_missing(table, values, kept=missing)
        great = np.fmax.reduce(np.abs(values)) >= EXACT
        for column in np.array(table.left)[great].tolist():
            if table.kind(column) in "iu":
                raise InputError(
                    f"{table.said(column)} of {table.path} holds whole numbers beyond 2^53 among columns of reals, "
                    f"which cannot be kept exactly: leave it out with {table.pasted('drop', column)}"
                )
    return values


def _no_numbers(table: Table, others: Sequence[int]) -> str:
    """Why a table has no column of numbers, and what may be done with its texts."""
    sentence = f"{table.path} has no column of numbers that could be data"
    if not others:
        return sentence
    row, cell = _odd_one(table.frame[others[0]])
    sentence += f": {table.said(others[0])} holds {cell!r} in data row {row}"
    texts = _there(table.frame[others[0]])
    if (sign := beside_numbers(texts)) is not None:
        return f"{sentence}; write its numbers without {sign!r}"
    if are_times(texts):
        return f"{sentence}; write days and times as numbers"
    return f"{sentence}; keep texts as categories with --likelihood columns"


def _not_numbers(table: Table, others: Sequence[int]) -> str:
    slips = [c for c in others if strays(_there(table.frame[c]))]
    column = (slips or others)[0]
    series = table.frame[column]
    row, cell = _odd_one(series)
    if slips:
        words = len(strays(_there(series)))
        return (
            f"{table.said(column)} of {table.path} holds numbers, but {cell!r} in data row {row} (counted from 0); "
            f"rows with such words: {words}: write numbers there, or nothing and {HOW}, or leave the column out "
            f"with {table.pasted('drop', column)}"
        )
    if len(others) > 1:
        names = _few([table.called(c) for c in others])
        return (
            f"the columns {names} of {table.path} do not hold numbers (as {cell!r} in data row {row}, counted from 0): "
            "name one with --labels or --id, and leave the others out with "
            f"{table.pasted('drop', *others[1:4])}; or keep texts as categories with --likelihood columns"
        )
    if table.kind(column) != "O":
        return (
            f"{table.said(column)} of {table.path} holds {series.dtype} and not numbers: leave it out with "
            f"{table.pasted('drop', column)}"
        )
    sign = beside_numbers(_there(series))
    alone = "" if sign is None else f"write its numbers without {sign!r}, "
    return (
        f"{table.said(column)} of {table.path} does not hold numbers, as {cell!r} in data row {row} (counted from 0): "
        f"{alone}take it for labels with {table.pasted('labels', column)}, for the names of the rows with "
        f"{table.pasted('id', column)}, for categories with --likelihood columns, or leave it out with "
        f"{table.pasted('drop', column)}"
    )


def _odd_one(series: Any) -> tuple[int, str]:
    """The first cell of a column that is there and not like a number: its row and what it holds."""
    texts = series.astype(str).to_numpy(object)
    there = np.flatnonzero(series.notna() & (texts != ""))
    row = int(there[odd_one(texts[there]) or 0]) if len(there) else 0
    cell = str(texts[row])
    return row, cell if len(cell) < 30 else cell[:30] + "..."


def _there(series: Any) -> list[str]:
    """The cells of a column of texts that are there."""
    texts = series.astype(str).to_numpy(object)
    return texts[series.notna() & (texts != "")].tolist()


def _refuse_missing(table: Table, values: np.ndarray, *, kept: bool) -> None:
    """Refuse a value that is infinite, or missing where these are not `kept`, naming its column and row."""
    missing = np.isnan(values)
    wrong = np.isinf(values) | (missing.all(0) if kept else missing)
    if not wrong.any():
        return
    column = int(wrong.any(0).argmax())
    row = int(wrong[:, column].argmax())
    rows, columns = (int(wrong.any(axis).sum()) for axis in (1, 0))
    called = table.called(table.left[column])
    dropped = table.pasted("drop", table.left[column])
    if wrong[:, column].all():
        raise InputError(
            f"column {called!r} of {table.path} has no values: leave it out with {dropped}"
        )
    infinite = math.isinf(values[row, column])
    what = "an infinite value" if infinite else "a missing value"
    ways = "" if infinite else f"{HOW}, "
    raise InputError(
        f"column {called!r} of {table.path} has {what} in datum {row} (data row {row}, counted from 0); "
        f"rows with such values: {rows}, columns: {columns}; {ways}fill them in, remove those rows, or leave "
        f"the columns out with {dropped}"
    )


def _note_stand_ins(table: Table, values: np.ndarray) -> None:
    """Note numbers such as -999, far from all others of their column, that often say that a value is missing."""
    for number in STAND_INS:
        equal = values == number
        for place in np.flatnonzero(equal.any(0))[:CHECKED]:
            others = values[~equal[:, place], place]
            near = others[np.abs(others) >= abs(number) / 2] if len(others) else [0]
            if len(near) == 0:
                rows = int(equal[:, place].sum())
                table.notes.append(
                    f"{table.said(table.left[place])} holds {number:g} in {rows} {'rows' if rows > 1 else 'row'}, far "
                    "from its other values, and it is kept as data: if it stands for a missing value, remove those "
                    "rows, or leave those cells empty and add --missing keep"
                )


def _shown(series: Any) -> str:
    """The first values of a column."""
    return ", ".join([*map(str, series.head(3))] + ["..."] * (len(series) > 3))


def _few(names: Sequence[str]) -> str:
    return few(names, 6, repr)
