"""What the columns of a table of mixed kinds hold, and how their cells become numbers and numbers cells again."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae.data.files import few
from pyro_vae.data.holes import HOW
from pyro_vae.data.marginals import ROWS
from pyro_vae.data.marginals import column as marginal
from pyro_vae.data.representation import Representation
from pyro_vae.data.text import TRUTHS, are_times, beside_numbers, odd_one, strays
from pyro_vae.foundation.commands import option
from pyro_vae.foundation.errors import InputError

KINDS = {
    "real": "reals",
    "positive": "positive reals",
    "unit": "reals in [0, 1]",
    "count": "counts",
    "levels": "whole numbers",
    "bit": "two values",
    "ordinal": "ordered scale",
    "category": "categories",
}
# kinds whose cells are named, and stored as codes from 0
CODED = ("bit", "ordinal", "category")
FEW = 20  # different numbers that make an ordered scale
LEVELS = 256  # the same, of reals that repeat so much that no density describes them
SCALE = 100  # the same, of whole numbers that vary less than counts do
REPEATED = 20  # times that each of a few reals stands in a column, on average
EXACT = 2**24  # counts below it are the same in float32
SKEWED = 1.0  # skewness from where positive reals are looked at by their logarithms
MOST = 2**16  # categories
SHOWN = 5  # categories that a sentence names
NARROW = 24  # columns of one kind that are drawn each by itself; more are lines

Cell = str | int | float | bool


@dataclass(frozen=True)
class Wish:
    """What a column is to be taken for.

    Attributes:
        kind: one of those of `Held`.
        categories: the cells that it may hold, by their codes; empty: those that it holds, in their order.
        called: how the wish was spelled, for sentences.
    """

    kind: str
    categories: tuple[Cell, ...] = ()
    called: str = ""


@dataclass(frozen=True)
class Held:
    """What one column holds.

    Attributes:
        name: of the column.
        kind: one of `KINDS`; those that are `CODED` have cells with names, the others numbers as they are.
        categories: these names by their codes: texts, numbers or truth values.
        why: what speaks for the kind, in words; empty where it was asked for.
    """

    name: str
    kind: str
    categories: tuple[Cell, ...] = ()
    why: str = ""

    def codes(
        self, cells: np.ndarray, what: str, *, missing: bool = False
    ) -> np.ndarray:
        """The cells `(N,)` as numbers in float64; `what` they are of, for sentences.

        With `missing` a cell may be missing, and is nan.

        Raises:
            InputError: for a cell that is missing, no number, or no category that is known.
        """
        if missing:
            there = present(cells)
            codes = np.full(len(cells), np.nan)
            if there.any():  # each row keeps its number, for sentences
                filled = np.where(there, cells, cells[there.argmax()])
                codes[there] = self.codes(filled, what)[there]
            return codes
        if not self.categories:
            return _numbers(cells, self.name, what)
        _refuse_missing(cells, self.name, what)
        key = str if self._texts else _number
        by_key = {key(c): float(i) for i, c in enumerate(self.categories)}
        codes = np.array([by_key.get(key(c), np.nan) for c in cells.tolist()])
        unknown = np.isnan(codes)
        if unknown.any():
            row = int(unknown.argmax())
            raise InputError(
                f"column {self.name!r} of {what} holds {_said(cells[row])} in data row {row} (counted from 0), "
                f"which is none of its categories: {_listed(self.categories)}"
            )
        return codes

    @property
    def _texts(self) -> bool:
        return any(isinstance(c, str) for c in self.categories)

    def cells(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers `(N,)` that a likelihood gave, as cells of the table; nan, a missing one, is `None`."""
        lost = np.isnan(numbers)
        if self.categories and lost.any():
            cells = self.cells(np.where(lost, 0, numbers)).astype(object)
            cells[lost] = None
            return cells
        if self.categories:
            places = np.clip(np.round(numbers), 0, len(self.categories) - 1).astype(int)
            return np.array(self.categories, object if self._texts else None)[places]
        counted = self.kind in ("count", "levels")
        whole = counted and bool((numbers == np.round(numbers)).all())
        return numbers.astype(np.int64) if whole else numbers

    def describe(self) -> str:
        """What it holds, for a person."""
        words = KINDS[self.kind]
        return f"{words}: {_listed(self.categories)}" if self.categories else words

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for TOML."""
        categories = {"categories": list(self.categories)} if self.categories else {}
        return {"name": self.name, "kind": self.kind, **categories}


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order in which they are elements of x."""

    columns: tuple[Held, ...]

    @classmethod
    def of(
        cls,
        frame: Any,
        wishes: Mapping[str, Wish],
        what: str = "the table",
        *,
        missing: bool = False,
    ) -> "Schema":
        """What the columns of a pandas DataFrame hold, each by what is wished of it, or by what it holds.

        With `missing` some cells may be missing.

        Raises:
            InputError: for a wish for no column, and for a column that can be none of this.
        """
        names = names_of(frame, what)
        for name in wishes:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                nearest = f"did you mean {near[0]!r}?" if near else ""
                raise InputError(
                    f"{what} has no column {name!r}: {nearest or f'it has {_listed(names)}'}"
                )
        columns = [
            held(name, cells_of(frame, name), wishes.get(name), what, missing=missing)
            for name in names
        ]
        return cls(tuple(columns))

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def dense(self) -> list[int]:
        """The columns that have a density, by their places."""
        kinds = ("real", "positive", "unit")
        return [i for i, column in enumerate(self.columns) if column.kind in kinds]

    def codes(
        self, frame: Any, what: str = "the table", *, missing: bool = False
    ) -> np.ndarray:
        """A DataFrame as numbers `(N, D)`, float64; its columns may stand in any order.

        With `missing` a cell may be missing, and is nan.

        Raises:
            InputError: for a column that is missing, and for cells that it cannot hold.
        """
        names = names_of(frame, what)
        for name in self.names:
            if name not in names:
                raise InputError(
                    f"{what} has no column {name!r}: give it {_listed(self.names, most=20)}"
                )
        each = [
            column.codes(cells_of(frame, column.name), what, missing=missing)
            for column in self.columns
        ]
        return np.stack(each, 1)

    def frame(self, x: Any, index: Any = None) -> Any:
        """Numbers `(N, D)` as a DataFrame with the names, types and categories of the table."""
        import pandas

        numbers = np.asarray(x, np.float64)
        cells = map(Held.cells, self.columns, numbers.T)
        return pandas.DataFrame(dict(zip(self.names, cells, strict=True)), index=index)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain values, for TOML; `from_dicts` reads them back."""
        return [column.to_dict() for column in self.columns]

    @classmethod
    def from_dicts(cls, columns: Sequence[Mapping[str, Any]]) -> "Schema":
        """The schema that `to_dicts` described; `KeyError`, `TypeError` or `ValueError` where it did not."""
        read = []
        for c in columns:
            if not isinstance(c["name"], str) or c["kind"] not in KINDS:
                raise ValueError("a column has a name and a kind")
            categories = tuple(c.get("categories", ()))
            if (c["kind"] in CODED) != bool(categories):
                raise ValueError("categories go with kinds that have some")
            read.append(Held(c["name"], c["kind"], categories))
        return cls(tuple(read))


# What a column holds in a table whose columns are all of one kind; the others are reals.
OF_ONE_KIND = {
    Representation.BINARY: "bit",
    Representation.UNIT: "unit",
    Representation.POSITIVE: "positive",
    Representation.COUNTS: "count",
    Representation.LEVELS: "levels",
}


def table_of(
    schema: Schema | None,
    names: Sequence[Any] | None,
    shape: Sequence[int],
    kind: Representation,
) -> Schema | None:
    """What the columns of data hold, of mixed kinds or all of one; `None` where a datum is no row of a table.

    Columns without names have their places, from 0.
    """
    if schema is not None or len(shape) != 1:
        return schema
    of_each = OF_ONE_KIND.get(kind, "real")
    categories = (0, 1) if of_each == "bit" else ()
    called = names or range(shape[0])
    return Schema(tuple(Held(str(name), of_each, categories) for name in called))


def drawn_by_column(schema: Schema | None, shape: Sequence[int]) -> bool:
    """Whether pictures show each column by itself: of mixed kinds, or few of one; other data are images or lines."""
    return schema is not None or (len(shape) == 1 and shape[0] <= NARROW)


def stored_schema(resolved: Mapping[str, Any]) -> Schema | None:
    """The schema in the table [resolved] of a run; `None` where its data are no table of mixed kinds.

    Raises:
        InputError: where it is damaged.
    """
    if resolved.get("table") is None:
        return None
    try:
        return Schema.from_dicts(resolved["table"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the run does not say what the columns of its table hold: [[resolved.table]] in its config.toml is damaged"
        ) from error


def stored_columns(resolved: Mapping[str, Any]) -> Any:
    """`stored_schema` of a run; of one on several fields that of each, by its name."""
    fields = resolved.get("fields")
    if fields is None:
        return stored_schema(resolved)
    return {str(field["name"]): stored_schema(field) for field in fields}


def names_of(frame: Any, what: str) -> list[str]:
    """The names of a DataFrame's columns, once they are different."""
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{what} has two columns {twice!r}: give each a name of its own"
        )
    return names


def cells_of(frame: Any, name: str) -> np.ndarray:
    """One column of a DataFrame, `(N,)`: numbers or truth values, or Python objects."""
    places = [str(column) for column in frame.columns]
    series = frame.iloc[:, places.index(name)]
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        return series.to_numpy()
    plain = series.astype(object).where(series.notna(), None).tolist()
    there = [cell for cell in plain if cell is not None]
    complete = len(there) == len(plain)
    truths = [isinstance(cell, (bool, np.bool_)) for cell in there]
    if there and all(truths):
        return np.array(plain, bool if complete else float)
    if there and not any(truths) and all(isinstance(c, (int, float)) for c in there):
        return np.array(plain, None if complete else float)
    return np.array([cell if cell is None else str(cell) for cell in plain], object)


def present(cells: np.ndarray) -> np.ndarray:
    """Which cells of a column are not missing, `(N,)` booleans."""
    if cells.dtype.kind == "f":
        return ~np.isnan(cells)
    if cells.dtype.kind in "biu":
        return np.ones(len(cells), bool)
    return np.array([cell is not None and cell != "" for cell in cells.tolist()], bool)


def held(
    name: str, cells: np.ndarray, wish: Wish | None, what: str, *, missing: bool = False
) -> Held:
    """What one column holds: by the wish for it, or by its cells, of which some may be `missing`."""
    every, there = cells, present(cells)
    if missing and there.any():
        cells = cells[there]
    _refuse_missing(cells, name, what)
    text = cells.dtype.kind not in "biuf"
    if text and (wish is None or wish.kind not in CODED):
        _refuse_slips(every, name, what)
    whole = not text and bool((cells == np.round(cells)).all())
    different: list[Any] = sorted(set(cells.tolist()))
    if whole and cells.dtype.kind != "b":
        different = [int(value) for value in different]
    if len(every) == 1:
        raise InputError(f"{what} has one row, too few to see what its columns hold")
    if len(different) == 1:
        raise InputError(
            f"column {name!r} of {what} holds {_said(different[0])} in every row, of which there is nothing to learn: "
            f"leave it out ({option('drop', name)})"
        )
    if wish is not None:
        column = _wished(name, cells, different, wish, what)
        if column.categories:  # refused where they do not hold all cells
            column.codes(every, what, missing=missing)
        return column
    if text:
        return _texts(name, len(cells), different, what)
    if len(different) == 2:
        why = "truth values" if cells.dtype.kind == "b" else "two different numbers"
        return Held(name, "bit", tuple(different), why)
    kind, why = (_whole if whole else _reals)(name, cells.astype(np.float64), different)
    return Held(name, kind, tuple(different) if kind in CODED else (), why)


def _refuse_slips(cells: np.ndarray, name: str, what: str) -> None:
    """Refuse a column of numbers with a few words among them, which would make each number a category."""
    there = np.flatnonzero(present(cells))
    words = strays(cells[there].tolist())
    if not words:
        return
    row = int(there[words[0]])
    raise InputError(
        f"column {name!r} of {what} holds numbers, but {_said(cells[row])} in data row {row} (counted from 0); rows "
        f"with such words: {len(words)}: write numbers there, or nothing and {HOW}, take all of them for categories "
        f"({name}=categorical behind the likelihood), or leave the column out ({option('drop', name)})"
    )


def _texts(name: str, rows: int, different: list[str], what: str) -> Held:
    count = len(different)
    out = f"leave it out ({option('drop', name)})"
    if count > FEW and are_times(different):
        raise InputError(
            f"column {name!r} of {what} holds {count} different days or times, such as {_said(different[0])}: write "
            "them as numbers, as of the days since the first, take them for categories "
            f"({name}=categorical behind the likelihood), or {out}"
        )
    if count > max(FEW, rows // 2) or count > MOST:
        sign = beside_numbers(different)
        alone = "" if sign is None else f"write its numbers without {sign!r}, "
        raise InputError(
            f"column {name!r} of {what} holds {count} different texts in {rows} rows, such as {_said(different[0])}: "
            f"{alone}take it for the names of the rows ({option('id', name)}) or {out}"
        )
    kind, number = ("bit", "two") if count == 2 else ("category", count)
    return Held(name, kind, tuple(different), f"{number} different texts")


def _whole(name: str, cells: np.ndarray, different: list[Any]) -> tuple[str, str]:
    """What whole numbers are: a scale of few of them, counts, or rounded reals."""
    low, high, count = different[0], different[-1], len(different)
    ends = f"whole numbers from {low} to {high}"
    # counts begin at 0, scales and codes at 1 as a rule
    most = FEW // 2 if low == 0 else FEW
    if count <= most and high - low < 2 * count:
        ways = f"{name}=categorical if they are codes, {name}=negativebinomial if they count"
        return "ordinal", f"{count} {ends}; {ways}"
    if low >= 0 and high < EXACT and cells.var() >= cells.mean():
        return "count", f"{ends}, which vary as counts do"
    if count <= SCALE:
        return "ordinal", f"{count} {ends}, which vary less than counts do"
    beyond = "some below 0" if low < 0 else "varying less than counts"
    if high >= EXACT:
        beyond = "large"
    return "real", f"{ends}, {beyond}: as if they were rounded"


def _reals(name: str, cells: np.ndarray, different: list[Any]) -> tuple[str, str]:
    """What reals are: a few that repeat, skewed positive ones, or any."""
    low, high, count = different[0], different[-1], len(different)
    repeated = f"only {count} different numbers"
    if count <= FEW and count * REPEATED <= len(cells):
        return "ordinal", repeated
    # a part of these rows must not repeat more
    twice = np.tile(cells[:: -(-len(cells) // ROWS)], 2)
    if count <= LEVELS and marginal(twice).kind in ("few", "coarse"):
        return "ordinal", f"{repeated}, where a density could grow"
    ends = f"from {low:.4g} to {high:.4g}"
    if low > 0 and _skewness(cells) > SKEWED > abs(_skewness(np.log(cells))):
        return "positive", f"{ends}, skewed, their logarithms less"
    return "real", ends


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(values.std(), 1e-300) ** 3)


def _wished(
    name: str, cells: np.ndarray, different: list[Any], wish: Wish, what: str
) -> Held:
    """A column of the kind that is asked for."""
    text = cells.dtype.kind not in "biuf"
    if wish.kind not in CODED:
        if text:
            raise InputError(
                f"column {name!r} of {what} holds texts such as {_said(different[0])}, which {wish.called} cannot be "
                f"put on: {name}=categorical takes them for categories"
            )
        return Held(name, wish.kind)
    if wish.kind == "bit" and len(different) != 2:
        raise InputError(
            f"column {name!r} of {what} holds {len(different)} different values ({_listed(different)}), and "
            f"{wish.called} takes two"
        )
    if wish.kind == "ordinal" and text and not wish.categories:
        raise InputError(
            f"column {name!r} of {what} holds texts, whose order is not known: say it, as in "
            f"{name}=ordinal(levels={tuple(different[:3])!r})"
        )
    if len(different) > MOST:
        raise InputError(
            f"column {name!r} of {what} holds {len(different)} different values, too many for {wish.called}"
        )
    return Held(name, wish.kind, wish.categories or tuple(different))


def _numbers(cells: np.ndarray, name: str, what: str) -> np.ndarray:
    """Numbers in float64, once all are there."""
    _refuse_missing(cells, name, what)
    if cells.dtype.kind not in "biuf":
        wrong = odd_one(cells.tolist()) or 0
        raise InputError(
            f"column {name!r} of {what} holds {_said(cells[wrong])} in data row {wrong} (counted from 0), which is no "
            "number"
        )
    return cells.astype(np.float64)


def _refuse_missing(cells: np.ndarray, name: str, what: str) -> None:
    """Refuse a cell that is missing or infinite, naming its column and row."""
    numbers = cells.dtype.kind == "f"
    wrong = ~(np.isfinite(cells) if numbers else present(cells))
    if not wrong.any():
        return
    row = int(wrong.argmax())
    infinite = numbers and bool(np.isinf(cells[row]))
    value = "an infinite value" if infinite else "no value"
    ways = "" if infinite else f"{HOW}, "
    raise InputError(
        f"column {name!r} of {what} has {value} in data row {row} (counted from 0); rows with such values: "
        f"{int(wrong.sum())}; {ways}fill them in, remove those rows, or leave the column out ({option('drop', name)})"
    )


def _number(cell: Any) -> float | str:
    """What a cell is known by among numbers, so that 1, 1.0 and True are one."""
    try:
        return float(TRUTHS.get(str(cell).lower(), cell))
    except (TypeError, ValueError):
        return str(cell)


def _said(cell: Any) -> str:
    text = repr(cell.item() if isinstance(cell, np.generic) else cell)
    return text if len(text) <= 30 else f"{text[:30]}..."


def _listed(cells: Sequence[Any], most: int = SHOWN) -> str:
    return few(cells, most, lambda c: _said(c) if isinstance(c, str) else str(c))
