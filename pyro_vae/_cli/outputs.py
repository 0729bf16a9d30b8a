"""Files after the numbers: one that cannot be made or written costs no numbers and no other file."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import Write, write_atomically

Make = Callable[[], Figure]


def draw(figures: Mapping[Path, Make]) -> tuple[list[Path], list[str]]:
    """Make figures one by one and write each to its file.

    Returns:
        The files that were written, and for each of the others `figures/NAME.png (why)`.
    """
    files = {path: partial(_save, make) for path, make in figures.items()}
    return put_each(files, lambda path: f"{path.parent.name}/{path.name}")


def put_each(
    files: Mapping[Path, Write], called: Callable[[Path], str] = str
) -> tuple[list[Path], list[str]]:
    """Write files one by one, each of them whole or not at all.

    Returns:
        Those that were written, and for each of the others `NAME (why)`, by the name that it is `called`.
    """
    written, failed = [], []
    for path, write in files.items():
        try:
            write_atomically(path, write)
            written.append(path)
        except Exception as error:
            failed.append(f"{called(path)} ({reason(error)})")
    return written, failed


def reason(error: Exception) -> str:
    """Why something failed, in words for a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{one_line(error)}"


def _save(make: Make, path: Path) -> None:
    make().savefig(path)
