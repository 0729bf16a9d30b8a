"""Tables of text: .csv, .tsv, .txt and their kin, also compressed; and .parquet."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.columns import Table, loaded
from pyro_vae.data.files import Loaded, Request, one_line
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
    first = next(i for i, line in enumerate(text.lines) if line.strip())
    if names is not None:
        text.lines[first] = ""
    frame = _parse(path, text, style)
    headed = names is not None
    if names is None:
        names = _commented(text, style, frame.shape[1])
    frame, names, trailing = _without_trailing(frame, names)
    short = names is not None and len(names) == frame.shape[1] - 1
    if names is not None and len(names) + short != frame.shape[1]:
        raise InputError(
            f"{path} cannot be read as a table: its first line has {len(names)} cells, but others have "
            f"{frame.shape[1]}"
        )
    named = [*([""] * short), *(names or map(str, range(frame.shape[1])))]
    said = _said(style, names, headed, trailing, frame.shape[1])
    table = Table(path, frame, named, names is not None, [said, *text.notes])
    for column in [c for c in range(frame.shape[1]) if table.kind(c) == "O"]:
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
            said = ", ".join(map(repr, sorted(set(texts[signs]))))
            rows = int(signs.sum())
            table.put(column, texts.where(~signs, ""))
            table.notes.append(
                f"{said} in {rows} rows of {table.said(column)} taken for missing"
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
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(
            f"{path} cannot be read as a table: {one_line(error)}"
        ) from error
    except (
        Exception
    ) as error:  # of a damaged file pyarrow and pandas complain in ways of their own
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
    width = len(second)
    body = [row for row in body if len(row) == width]
    if len(body) < 2 or abs(len(first) - width) > 1:
        return
    numeric = [c for c in range(width) if _holds_numbers(body, c, style.decimal)]
    above = [row[c] for row in (first, second) for c in numeric if c < len(row)]
    words = [second[c] for c in numeric if not is_value(second[c], style.decimal)]
    if 2 * len(words) > len(numeric) and not any(
        is_number(c, style.decimal) for c in above
    ):
        raise InputError(
            f"{path} has two lines of words above its numbers ({_listed(first)}, then {_listed(second)}): leave one "
            "line of names, and put units into them or remove their line"
        )


def _header(path: Path, style: Layout, asked: str | None) -> list[str] | None:
    """The names of the columns, if the first line holds them."""
    first, body = style.rows[0], style.rows[1:]
    if asked is not None:
        return first if asked == "yes" else None
    if not body:
        return None if any(is_value(cell, style.decimal) for cell in first) else first
    width = Counter(map(len, body)).most_common(1)[0][0]
    body = [row for row in body if len(row) == width]
    short = width - len(first)
    if short == 1 and all(is_value(cell, style.decimal) for cell in first):
        return None  # a row with a cell too few, which is refused
    first = [""] * short + first if short == 1 else first
    numeric = [
        c
        for c in range(min(width, len(first)))
        if _holds_numbers(body, c, style.decimal)
    ]
    above = [first[c] for c in numeric]
    words = [cell for cell in above if not is_value(cell, style.decimal)]
    numbers = [cell for cell in above if is_number(cell, style.decimal)]
    certain: bool | None
    if not numeric:
        certain = not any(is_number(cell, style.decimal) for cell in first)
    elif words and not numbers:
        certain = True
    elif words:
        certain = _positions(numbers) or None
    elif "" in above:
        index = (
            0 in numeric and above.count("") == 1 and first[0] == "" and _counts(body)
        )
        certain = True if index else None
    elif len(numbers) < len(above):
        certain = False  # truth values, or signs that a value is missing
    else:
        certain = _like_names(
            numbers, [[row[c] for c in numeric] for row in body], style.decimal
        )
    if certain is None:
        raise InputError(
            f"the first line of {path} ({_listed(first)}) may hold the names of the columns or be a datum: "
            "say --header yes or --header no"
        )
    return style.rows[0] if certain else None


def _holds_numbers(body: list[list[str]], column: int, decimal: str) -> bool:
    column_cells = [row[column] for row in body]
    return all(is_value(cell, decimal) for cell in column_cells) and not all(
        is_missing(cell) for cell in column_cells
    )


def _counts(body: list[list[str]]) -> bool:
    """Whether the first column counts the rows, from 0 or 1."""
    column = [row[0] for row in body]
    return any(
        column == [str(i) for i in range(start, start + len(column))]
        for start in (0, 1)
    )


def _positions(numbers: Sequence[str]) -> bool:
    """Whether numbers count from 0 or 1, as pandas names columns that have no names."""
    return len(numbers) > 1 and _counts([[number] for number in numbers])


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
    other = "," if decimal == "." else "."
    return np.array(
        [
            [float(c.replace(other, "").replace(decimal, ".")) for c in row]
            for row in rows
        ]
    )


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
        if widths := re.search(
            r"Expected (\d+) fields in line (\d+), saw (\d+)", reason
        ):
            few, line, many = widths.groups()
            reason = f"line {line} has {many} cells where those before it have {few}"
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
    empty = (
        last > 0 and frame[last].dtype.kind not in "biuf" and (frame[last] == "").all()
    )
    if names is not None and names[-1:] == [""] and (empty or len(names) == last + 2):
        names = names[:-1]
    if not empty or (names is not None and len(names) > last):
        return frame, names, False
    return frame.drop(columns=last), names, True


def _said(
    style: Layout, names: list[str] | None, headed: bool, trailing: bool, width: int
) -> str:
    """What the table was taken for, in one line."""
    if names is None:
        said = [f"no line of names, {width} {'columns' if width > 1 else 'column'}"]
    else:
        where = "first line" if headed else "last line of comment"
        said = [f"{where} taken for the names of the columns ({_listed(names)})"]
    if width > 1:
        said.append(
            f"{DELIMITERS.get(style.delimiter, repr(style.delimiter))} between cells"
        )
    if style.decimal == ",":
        said.append("decimal commas")
    if trailing:
        said.append("an empty column at the end of each line left out")
    return "; ".join(said)


def _listed(names: Sequence[str]) -> str:
    few = [repr(name) if name in ("", " ") else name for name in names[:4]]
    return ", ".join(few) + (f", ... {len(names)} in all" if len(names) > 4 else "")
