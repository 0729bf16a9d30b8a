"""Tables of text: .csv, .tsv, .txt and their kin, also compressed; and .parquet."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.columns import Table, loaded
from pyro_vae.data.files import Loaded, Request, few, one_line
from pyro_vae.data.text import (
    DELIMITERS,
    ENDLESS,
    GROUPED,
    NOT_THERE,
    PLAIN,
    TRUTHS,
    WHITE,
    Layout,
    Text,
    cells,
    counted_from,
    is_missing,
    is_number,
    is_value,
    layout,
    read_text,
)
from pyro_vae.foundation.errors import InputError

NAMES_OF_SIGNS = {"tab": "\t", "\\t": "\t", "space": WHITE, " ": WHITE}


def text_table(path: Path, request: Request) -> Loaded:
    """A table of text: one datum in each line, with or without a line of names above.

    Raises:
        InputError: where it is not certain what is what, naming the option that says it.
    """
    for option, choices in {"header": ("yes", "no"), "decimal": (".", ",")}.items():
        value = getattr(request, option)
        if value not in (None, *choices):
            raise InputError(f"--{option} {value!r} must be {' or '.join(choices)}")
    text = read_text(path)
    style = layout(
        path, text, delimiter=_sign(request.delimiter), decimal=request.decimal
    )
    _refuse_two_headers(path, style, request.header)
    names = _header(path, style, request.header)
    headed = names is not None
    if headed:
        first = next(i for i, line in enumerate(text.lines) if line.strip())
        text.lines[first] = ""
    frame = _parse(path, text, style)
    if names is None:
        names = _commented(text, style, frame.shape[1])
    frame, names, trailing = _without_trailing(frame, names)
    width = frame.shape[1]
    note = _layout_in_words(style, names, headed, trailing, width)
    called = [str(column) for column in range(width)] if names is None else names
    if len(called) == width - 1:  # the first column holds the names of the rows
        called = ["", *called]
    if len(called) != width:
        raise InputError(
            f"{path} cannot be read as a table: its first line has {len(called)} cells, but others have {width}"
        )
    table = Table(path, frame, called, names is not None, [note, *text.notes])
    for column in [c for c in range(width) if table.kind(c) == "O"]:
        table.put(column, _typed(table, column, style))
    if request.columns is not None and request.keeps_missing:
        _blank(table)
    return loaded(table, request)


def _blank(table: Table) -> None:
    """Empty the cells of texts whose sign says that nothing was seen, and say so."""
    for column in [c for c in table.left if table.kind(c) == "O"]:
        texts = table.frame[column].astype(str)
        signs = texts.str.lower().isin(NOT_THERE) & (texts != "")
        if signs.any():
            spellings = ", ".join(map(repr, sorted(set(texts[signs]))))
            rows = int(signs.sum())
            table.put(column, texts.where(~signs, ""))
            table.notes.append(
                f"{spellings} in {rows} rows of {table.said(column)} taken for missing"
            )


def parquet(path: Path, request: Request) -> Loaded:
    """A .parquet file, whose columns have names and types; an index that pandas stored names the rows."""
    import pandas

    try:
        frame = pandas.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise InputError(
            f"{path} needs the package pyarrow, which is not installed: pip install pyarrow"
        ) from error
    except Exception as error:
        # of a damaged file pyarrow and pandas complain in ways of their own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{path} cannot be read as a table: {one_line(error)}"
        ) from error
    if not frame.index.equals(pandas.RangeIndex(len(frame))):
        names = [name or "" for name in frame.index.names]
        frame = frame.reset_index(names=names[0] if len(names) == 1 else None)
    names = [str(name) for name in frame.columns]
    frame.columns = range(len(names))
    for column in frame:
        frame[column] = _plain(frame[column])
    return loaded(Table(path, frame, names, True, []), request)


def _sign(given: str | None) -> str | None:
    if given is None:
        return None
    sign = NAMES_OF_SIGNS.get(given.lower(), given)
    if sign != WHITE and (len(sign) != 1 or sign.isalnum() or sign in "\"'.\n\r"):
        raise InputError(
            f"--delimiter {given!r} must be one sign, such as ',' or ';', or one of tab and space"
        )
    return sign


# --------------------------------------------------------------------------------------------------------------------


def _refuse_two_headers(path: Path, style: Layout, asked: str | None) -> None:
    """Raise `InputError` where two lines of words stand above columns of numbers: names, and units or more names."""
    if asked == "no" or len(style.rows) < 4:
        return
    first, second, *body = style.rows
    width, sign = len(second), style.decimal
    body = [row for row in body if len(row) == width]
    if len(body) < 2 or abs(len(first) - width) > 1:
        return
    numeric = _numeric(body, width, sign)
    above = [row[c] for row in (first, second) for c in numeric if c < len(row)]
    words = [second[c] for c in numeric if not is_value(second[c], sign)]
    numbers = any(is_number(cell, sign) for cell in above)
    if 2 * len(words) > len(numeric) and not numbers:
        raise InputError(
            f"{path} has two lines of words above its numbers ({_listed(first)}, then {_listed(second)}): leave one "
            "line of names, and put units into them or remove their line"
        )


def _header(path: Path, style: Layout, asked: str | None) -> list[str] | None:
    """The names of the columns, if the first line holds them."""
    (first, *body), sign = style.rows, style.decimal
    if asked is not None:
        return first if asked == "yes" else None
    values = [is_value(cell, sign) for cell in first]
    if not body:
        return None if any(values) else first
    width = Counter(map(len, body)).most_common(1)[0][0]
    body = [row for row in body if len(row) == width]
    short = width - len(first)
    if short == 1:
        if all(values):
            return None  # a row with a cell too few, which is refused
        first = ["", *first]
    numeric = _numeric(body, min(width, len(first)), sign)
    above = [first[c] for c in numeric]
    words = [cell for cell in above if not is_value(cell, sign)]
    numbers = [cell for cell in above if is_number(cell, sign)]
    certain: bool | None
    if not numeric:
        certain = not any(is_number(cell, sign) for cell in first)
    elif words and not numbers:
        certain = True
    elif words:  # pandas names columns that have no names by their places
        certain = (len(numbers) > 1 and counted_from(numbers) is not None) or None
    elif "" in above:
        only = 0 in numeric and above.count("") == 1 and first[0] == ""
        index = only and counted_from([row[0] for row in body]) is not None
        certain = index or None
    elif len(numbers) < len(above):
        certain = False  # truth values, or signs that a value is missing
    else:
        below = [[row[c] for c in numeric] for row in body]
        certain = _like_names(numbers, below, sign)
    if certain is None:
        raise InputError(
            f"the first line of {path} ({_listed(first)}) may hold the names of the columns or be a datum: "
            "say --header yes or --header no"
        )
    return style.rows[0] if certain else None


def _numeric(body: list[list[str]], width: int, decimal: str) -> list[int]:
    """The columns of the first `width` that hold numbers, and no other cells than can stand among these."""
    numeric = []
    for column in range(width):
        column_cells = [row[column] for row in body]
        values = all(is_value(cell, decimal) for cell in column_cells)
        if values and not all(map(is_missing, column_cells)):
            numeric.append(column)
    return numeric


def _like_names(first: list[str], body: list[list[str]], decimal: str) -> bool | None:
    """Whether a first line of numbers names columns, as years or wavelengths do; `None` where it may."""
    try:
        above = _floats([first], decimal)[0]
        below = _floats(body, decimal)
    except ValueError:  # truth values below, or signs that a value is missing
        return False
    whole = all(re.fullmatch(r"\d+", cell) for cell in first)
    reals = not any(re.fullmatch(r"-?\d+", cell) for row in body for cell in row)
    low, high = below.min(0), below.max(0)
    outside = bool(((above < low) | (above > high)).all())
    beyond = np.maximum(low - above, above - high)
    far = len(body) >= 5 and len(first) > 1 and bool((beyond > high - low).all())
    if _even(above[None])[0] and not _even(below).any() and len(body) > 1:
        return True if outside or (whole and reals) else None
    if whole and reals and outside and (len(first) > 1 or 1900 <= above[0] <= 2100):
        return None
    return None if far else False


def _floats(rows: list[list[str]], decimal: str) -> np.ndarray:
    plain = str.maketrans(decimal, ".", "," if decimal == "." else ".")
    return np.array([[float(cell.translate(plain)) for cell in row] for row in rows])


def _even(rows: np.ndarray) -> np.ndarray:
    """Which rows, of three numbers or more, grow or fall in even steps."""
    if rows.shape[1] < 3:
        return np.zeros(len(rows), bool)
    steps = np.diff(rows, axis=1)
    first = steps[:, :1]
    return ((np.abs(steps - first) <= 1e-6 * np.abs(first)) & (first != 0)).all(1)


def _commented(text: Text, style: Layout, width: int) -> list[str] | None:
    """The names of columns in the last line of comment, as NumPy writes them."""
    if not text.comments or width < 2:
        return None
    names = cells(text.comments[-1:], style.delimiter)[0]
    words = [name for name in names if not is_value(name, style.decimal)]
    return names if len(names) == width and len(words) == width else None


# --------------------------------------------------------------------------------------------------------------------


def _parse(path: Path, text: Text, style: Layout) -> Any:
    """All rows as pandas reads them; cells that are no plain numbers or truth values stay text."""
    import pandas

    try:
        return pandas.read_csv(
            io.StringIO("\n".join(text.lines)),
            header=None,
            sep=r"\s+" if style.delimiter == WHITE else style.delimiter,
            decimal=style.decimal,
            skipinitialspace=True,
            na_filter=False,
            low_memory=False,
        )
    except pandas.errors.EmptyDataError as error:
        raise InputError(f"the file {path} has no rows of data") from error
    except (ValueError, OverflowError) as error:
        reason = one_line(error)
        expected = r"Expected (\d+) fields in line (\d+), saw (\d+)"
        if widths := re.search(expected, reason):
            reason = "line {1} has {2} cells where those before it have {0}".format(
                *widths.groups()
            )
        raise InputError(f"{path} cannot be read as a table: {reason}") from error


def _typed(table: Table, column: int, style: Layout) -> Any:
    """A column of texts as numbers, nan where one is missing, or as truth values, if it holds nothing else."""
    texts = table.frame[column].astype(str).str.strip()
    lower = texts.str.lower()
    missing = lower.isin(NOT_THERE).to_numpy()
    there, other = texts[~missing], "," if style.decimal == "." else "."
    if lower.isin(TRUTHS).all():
        return lower == "true"
    if lower[~missing].isin(TRUTHS).all():
        there = lower[~missing].map(TRUTHS).astype(str)
    plain = there.str.fullmatch(PLAIN[style.decimal]) | there.str.fullmatch(ENDLESS)
    grouped = there.str.fullmatch(GROUPED[style.decimal]) & ~plain
    if not (plain | grouped).all() or (grouped.any() and not style.grouped):
        return texts
    if grouped.any():
        table.notes.append(
            f"{other!r} in the numbers of {table.said(column)} taken to stand between thousands, as in "
            f"{there[grouped].iloc[0]}"
        )
        there = there.str.replace(other, "", regex=False)
    if not missing.any() and there.str.fullmatch(r"[+-]?\d{1,18}").all():
        return there.astype(np.int64)
    numbers = np.full(len(texts), np.nan)
    numbers[~missing] = there.str.replace(style.decimal, ".", regex=False).astype(float)
    return numbers


def _plain(series: Any) -> Any:
    """A typed column as NumPy's numbers or as texts; what is neither stays as it is, to be refused."""
    import pandas

    kind = pandas.api.types.infer_dtype(series, skipna=True)
    if kind in ("integer", "floating", "boolean", "decimal", "mixed-integer-float"):
        if series.dtype.kind in "biuf" and isinstance(series.dtype, np.dtype):
            return series
        whole = {"integer": np.int64, "boolean": np.bool_}.get(kind, np.float64)
        return series.astype(float) if series.isna().any() else series.to_numpy(whole)
    if kind in ("string", "categorical", "empty"):
        return series.astype(object).where(series.notna(), "").astype(str)
    return series.astype("datetime64[ns]") if kind.startswith("date") else series


def _without_trailing(
    frame: Any, names: list[str] | None
) -> tuple[Any, list[str] | None, bool]:
    """The table without a last column that is empty because each line ends with a delimiter."""
    last = frame.shape[1] - 1
    text = frame[last].dtype.kind not in "biuf"
    empty = last > 0 and text and (frame[last] == "").all()
    if names is not None and names[-1:] == [""] and (empty or len(names) == last + 2):
        names = names[:-1]
    if not empty or (names is not None and len(names) > last):
        return frame, names, False
    return frame.drop(columns=last), names, True


def _layout_in_words(
    style: Layout, names: list[str] | None, headed: bool, trailing: bool, width: int
) -> str:
    """What the table was taken for, in one line."""
    if names is None:
        notes = [f"no line of names, {width} {'columns' if width > 1 else 'column'}"]
    else:
        where = "first line" if headed else "last line of comment"
        notes = [f"{where} taken for the names of the columns ({_listed(names)})"]
    if width > 1:
        sign = DELIMITERS.get(style.delimiter, repr(style.delimiter))
        notes.append(f"{sign} between cells")
    if style.decimal == ",":
        notes.append("decimal commas")
    if trailing:
        notes.append("an empty column at the end of each line left out")
    return "; ".join(notes)


def _listed(names: Sequence[str]) -> str:
    return few(names, 4, lambda name: repr(name) if name in ("", " ") else name)
