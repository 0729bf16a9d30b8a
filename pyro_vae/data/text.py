"""Text with cells in it: how it is encoded, what stands between its cells, how its numbers are written."""

import bz2
import csv
import gzip
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from pyro_vae.data.files import one_line, telling
from pyro_vae.data.streams import SHARE
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory

SAMPLE = 2**19  # characters that are looked at to find out how a table is written
SAMPLE_ROWS = 200
LONGEST = 2**22  # characters in the first line
WIDEST = 100_000  # cells in it
WHITE = "white space"
DELIMITERS = {
    ",": "commas",
    ";": "semicolons",
    "\t": "tabs",
    "|": "bars",
    WHITE: "white space",
}
DECIMALS = {".": "points", ",": "commas"}
NOT_THERE = {
    *("", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "missing", "nat"),
    *(
        "?",
        "-",
        "--",
        ".",
        "*",
        "#div/0!",
        "#value!",
        "#ref!",
        "#num!",
        "#name?",
        "#null!",
    ),
}
STRAY = 0.05  # share of the cells of a column of numbers whose words look like slips
TRUTHS = {"true": 1, "false": 0}


class Text(NamedTuple):
    """The lines of a text file: a comment or a blank line is kept as an empty line, so that numbers of lines hold.

    Attributes:
        lines: without their ends.
        comments: the lines that were comments, without the sign that says so.
        notes: what was taken for what.
        delimiter: what the first line of a spreadsheet, as in `sep=;`, says of itself.
    """

    lines: list[str]
    comments: list[str]
    notes: list[str]
    delimiter: str | None


def read_text(path: Path) -> Text:
    """The lines of a file, which may be compressed; UTF-8 or UTF-16, else Western European.

    Raises:
        InputError: for a damaged archive, for bytes that are no text, for a first line of too many characters or cells,
            and for what memory does not hold.
    """
    text, notes = _decoded(path, _content(path))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    longest = text.find("\n") if "\n" in text else len(text)
    widest = max(text.count(sign, 0, longest) for sign in ",;\t| ")
    if longest > LONGEST or widest > WIDEST:
        raise InputError(
            f"the first line of {path} has {longest:,} characters and about {widest + 1:,} cells, too many for a row "
            "of a table; store such data as a .npy file"
        )
    lines = text.split("\n")
    delimiter = None
    if said := re.fullmatch(r"\s*sep=(.)\s*", lines[0]):
        delimiter, lines[0] = said[1], ""
    comments = []
    for i, line in enumerate(lines):
        if line.startswith(("#", "%", "//")):
            comments.append(line.lstrip("#%/").strip())
            lines[i] = ""
    if comments:
        lines_left_out = f"{len(comments)} {'lines' if len(comments) > 1 else 'line'}"
        notes.append(f"{lines_left_out} of comment left out")
    return Text(lines, comments, notes, delimiter)


def _decoded(path: Path, content: bytes) -> tuple[str, list[str]]:
    marks = {
        b"\xef\xbb\xbf": "utf-8-sig",
        b"\xff\xfe\0\0": "utf-32",
        b"\0\0\xfe\xff": "utf-32",
        b"\xff\xfe": "utf-16",
        b"\xfe\xff": "utf-16",
    }
    codes = [code for mark, code in marks.items() if content.startswith(mark)]
    if not codes and b"\0" in content:
        raise InputError(
            f"{path} cannot be read as a table: it holds bytes that are no text"
        )
    try:
        return content.decode(codes[0] if codes else "utf-8"), []
    except UnicodeDecodeError as error:
        if codes:
            raise InputError(
                f"{path} cannot be read as a table: {one_line(error)}"
            ) from error
    return content.decode("latin-1"), ["characters taken for Latin-1, since not UTF-8"]


# --------------------------------------------------------------------------------------------------------------------


def _only_member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    every = [name for name in archive.namelist() if not name.endswith("/")]
    names = [name for name in every if not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise InputError(
            f"{path} must hold one table, but holds {len(names)} files; unpack it"
        )
    return archive.open(names[0])


COMPRESSED: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _only_member,
}


# What they complain with.
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


def kind_of(path: Path) -> str:
    """The suffix of a file that says what it holds, without that of a compression: `.csv` of `x.csv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSED:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def _content(path: Path) -> bytes:
    """All bytes of a file, unpacked; never more than memory can bear."""
    most = int(SHARE * available_memory())
    pieces, size = [], 0
    try:
        with COMPRESSED.get(path.suffix.lower(), lambda p: p.open("rb"))(path) as file:
            while piece := file.read(2**24):
                size += len(piece)
                if size > most:
                    raise InputError(
                        f"{path} holds more than {most / 1e9:.3g} GB of text, too much for memory; "
                        "store such data as a .npy file, which is read batch by batch"
                    )
                pieces.append(piece)
    except (InputError, PermissionError, IsADirectoryError, FileNotFoundError):
        raise
    except DAMAGED as error:
        raise InputError(f"{path} cannot be unpacked: {one_line(error)}") from error
    return b"".join(pieces)


# --------------------------------------------------------------------------------------------------------------------

PLAIN = {
    ".": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    ",": re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?"),
}
GROUPED = {
    ".": re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?"),
    ",": re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?"),
}
DAY = r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2}))"
CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]m)?(Z|[+-]\d{2}:?\d{2})?"
TIME = re.compile(rf"{DAY}([T ]{CLOCK})?|{CLOCK}", re.IGNORECASE)
ENDLESS = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.lower() in NOT_THERE


def is_number(cell: str, decimal: str) -> bool:
    """Whether a cell holds a number, written with this decimal sign; also with its thousands apart."""
    whole = PLAIN[decimal].fullmatch(cell) or GROUPED[decimal].fullmatch(cell)
    return bool(whole or ENDLESS.fullmatch(cell))


def is_value(cell: str, decimal: str) -> bool:
    """Whether a column of numbers can hold this cell: a number, a truth value, or a sign that it is missing."""
    return is_number(cell, decimal) or is_missing(cell) or cell.lower() in TRUTHS


def counted_from(cells: Sequence[str]) -> int | None:
    """0 or 1 where cells count from there; `None` where they do not."""
    for start in (0, 1):
        if list(cells) == [str(i) for i in range(start, start + len(cells))]:
            return start
    return None


def odd_one(cells: Iterable[Any]) -> int | None:
    """The place of the first cell that is not like a number."""
    like = re.compile(r"\s*[+-]?[\d.]+([eE][+-]?\d+)?\s*")
    odd = (i for i, cell in enumerate(cells) if not like.fullmatch(str(cell)))
    return next(odd, None)


def strays(cells: Iterable[Any]) -> list[int]:
    """The places of the words in a column of numbers, where they are so few that they look like slips."""
    there = [str(cell).strip() for cell in cells]
    words = [
        i
        for i, cell in enumerate(there)
        if not (is_missing(cell) or any(is_number(cell, sign) for sign in DECIMALS))
    ]
    return words if len(words) <= STRAY * len(there) else []


def beside_numbers(cells: Iterable[Any]) -> str | None:
    """What stands beside the number in each cell, as '%' in 82 % or 'cm' in 170 cm; `None` where it is not one."""
    number = re.compile(r"[+-]?\d[\d.,]*")
    apart = {number.sub("\0", str(cell), count=1).strip() for cell in cells}
    found = apart.pop() if len(apart) == 1 else ""
    sign = found.replace("\0", " ").strip()
    return sign if "\0" in found and sign and not re.search(r"\d", sign) else None


def are_times(cells: Iterable[Any]) -> bool:
    """Whether all cells look like days or times of a day."""
    return all(TIME.fullmatch(str(cell).strip()) for cell in cells)


def cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The cells of lines, without white space and quotes around them."""
    if delimiter == WHITE:
        lines = [re.sub(r"\s+", " ", line.strip()) for line in lines]
    sign = " " if delimiter == WHITE else delimiter
    rows = csv.reader(lines, delimiter=sign, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows]


class Layout(NamedTuple):
    """How a table is written.

    Attributes:
        delimiter: what stands between cells; one of `DELIMITERS`, or another sign.
        decimal: `'.'` or `','`.
        grouped: whether numbers like 1,234 are thousands for certain.
        rows: the cells of the first rows.
    """

    delimiter: str
    decimal: str
    grouped: bool
    rows: list[list[str]]


def layout(
    path: Path, text: Text, *, delimiter: str | None, decimal: str | None
) -> Layout:
    """Find out how a table is written, as far as it is not said.

    Raises:
        InputError: where it is not certain, naming the option that says it.
    """
    lines = _sample(text.lines)
    if not lines:
        raise InputError(f"the file {path} has no rows of data")
    delimiter = delimiter or text.delimiter or _delimiter(path, lines, decimal)
    with telling(f"{path} cannot be read as a table"):
        rows = cells(lines, delimiter)
    every = [cell for row in rows for cell in row]
    sign, grouped = _decimal(path, delimiter, every, decimal)
    return Layout(delimiter, sign, grouped, rows)


def _sample(lines: list[str]) -> list[str]:
    sample: list[str] = []
    size = 0
    for line in filter(str.strip, lines):
        sample.append(line)
        size += len(line)
        if len(sample) == SAMPLE_ROWS or (size > SAMPLE and len(sample) > 1):
            break
    return sample


def _delimiter(path: Path, lines: list[str], decimal: str | None) -> str:
    """The sign that cuts the lines into equally many cells, most of them numbers."""
    decimals = [decimal] if decimal else list(DECIMALS)
    body = lines[1:] or lines
    alone = [[line.strip().strip("\"'")] for line in body]
    best, best_share = ",", _share(alone, decimals)
    one_column = best_share == 1
    for sign in DELIMITERS:
        try:
            rows = cells(body, sign)
        except csv.Error:
            continue
        share = _share(rows, decimals)
        by_commas = sign == "," and share == 1
        if max(map(len, rows)) > 1 and (share > best_share or by_commas):
            best, best_share = sign, share
        padded = any(re.fullmatch(r"0\d+", row[-1]) for row in rows if len(row) == 2)
        if by_commas and one_column and padded:
            raise InputError(
                f"the commas of {path} may stand between columns or inside numbers, as in {body[0]!r}: "
                "name --delimiter or --decimal"
            )
    return best


def _share(rows: list[list[str]], decimals: list[str]) -> float:
    """The share of cells that numbers can be, in rows of the commonest width; times the share of such rows."""
    width, common = Counter(map(len, rows)).most_common(1)[0]
    regular = [cell for row in rows if len(row) == width for cell in row]
    values = max(sum(is_value(cell, sign) for cell in regular) for sign in decimals)
    return values / max(len(regular), 1) * common / len(rows)


def _decimal(
    path: Path, delimiter: str, texts: list[str], decimal: str | None
) -> tuple[str, bool]:
    """The decimal sign, and whether the other sign stands between thousands for certain."""
    if decimal:
        return decimal, True
    certain = {
        sign: next((c for c in texts if sign in c and _only(c, sign)), None)
        for sign in DECIMALS
    }
    if certain["."] and certain[","]:
        raise InputError(
            f"{path} holds numbers with a decimal point and with a decimal comma ({certain['.']!r}, {certain[',']!r}): "
            "name --decimal, or write them in one way"
        )
    if certain[","]:
        return ",", True
    grouped = [c for c in texts if GROUPED["."].fullmatch(c)]
    single = delimiter != "," and all(c.count(",") == 1 for c in grouped)
    if grouped and single and not certain["."]:
        raise InputError(
            f"the commas in the numbers of {path}, as in {grouped[0]!r}, may be decimal commas or stand between "
            "thousands: name --decimal , or --decimal ."
        )
    return ".", bool(certain["."] or grouped)


def _only(cell: str, decimal: str) -> bool:
    """Whether a cell with this sign is a number only if the sign is that of decimals."""
    other = "," if decimal == "." else "."
    return is_number(cell, decimal) and not is_number(cell, other)
