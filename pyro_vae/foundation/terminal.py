"""What a terminal can show, and what an exception says of memory; without torch."""

import codecs
import io
import shutil
import sys
from collections.abc import Sequence

# What a terminal without these signs gets in their place; any other is escaped.
PLAIN = {
    "±": "+/-",
    "…": "...",
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "·": "*",
    "’": "'",
    "≤": "<=",
    "≥": ">=",
}
PLAIN |= {"█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|")}


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    plain = "".join(PLAIN.get(sign, sign) for sign in wanted)
    return plain.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("pyro_vae.plain", _in_plain_signs)


def ready() -> None:
    """Let any text be printed, also where the terminal speaks ASCII alone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pyro_vae.plain")


def printable(text: str) -> str:
    r"""The text in one line: signs that no terminal shows, such as a line's end in a file's name, are escaped.

    >>> print(printable("a\nb ± c"))
    a\nb ± c
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def width_of_terminal() -> int | None:
    """How many signs stand beside each other where a program prints; `None` where that is a file or a pipe."""
    there = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if there else None


def in_columns(
    columns: Sequence[Sequence[str]], numbers: Sequence[int], width: int | None
) -> list[str]:
    r"""Lines of a table; where they are wider than a terminal the last columns follow in tables below.

    Each of these begins with the first column again, which names the rows.

    Args:
        columns: of texts, each from its head on.
        numbers: places of the columns that stand at the right.
        width: of the terminal; `None` for as wide as the table is.

    >>> columns = [["run", "a"], ["ELBO", "-1.5"], ["differs in", "guide=IAF"]]
    >>> print("\n".join(in_columns(columns, [1], 16)))
    run  ELBO
    a    -1.5
    <BLANKLINE>
    run  differs in
    a    guide=IAF
    """
    padded = []
    for i, column in enumerate(columns):
        widest = max(map(len, column))
        adjust = str.rjust if i in numbers else str.ljust
        padded.append([adjust(cell, widest) for cell in column])

    # Which columns stand in one table.
    names, *others = padded
    tables: list[list[list[str]]] = [[names]]
    room = len(names[0])
    for column in others:
        needed = 2 + len(column[0])
        if width is not None and len(tables[-1]) > 1 and room + needed > width:
            tables.append([names])
            room = len(names[0])
        tables[-1].append(column)
        room += needed

    made: list[str] = []
    for table in tables:
        made += [""] if made else []
        made += ["  ".join(line).rstrip() for line in zip(*table, strict=True)]
    return made


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; any other `RuntimeError` is a mistake of the program."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in ("allocate memory", "out of memory"))
