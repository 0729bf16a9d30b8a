"""What a terminal can show, and what an exception says of memory; without torch."""

import codecs
import io
import sys

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; any other `RuntimeError` is a mistake of the program."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in ("allocate memory", "out of memory"))
