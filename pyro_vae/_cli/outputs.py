"""Files after the numbers: one that cannot be made or written costs no numbers and no other file."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import Write, write_atomically
from pyro_vae.plots.lines import TEXT, beside_pixels, drawing_of

Make = Callable[[], Figure]


STYLE: Any = {**TEXT, "pdf.fonttype": 42}
UNDATED: dict[str, dict[str, None]] = {  # the same figure is the same file on any day
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file is named for; text stays text, and no date is written.

    A .png file of lines and points keeps the drawing too, which a report shows.
    """
    svg = drawing_of(figure) if path.suffix == ".png" else None
    kept: dict[str, Any] = {}
    if svg is not None:
        kept["pil_kwargs"] = {"pnginfo": beside_pixels(svg)}
    with rc_context(STYLE):
        figure.savefig(path, metadata=UNDATED.get(path.suffix), **kept)


def draw(
    figures: Mapping[Path, Make], formats: Sequence[str] = ("png",)
) -> tuple[list[Path], list[str]]:
    """Make figures one by one and write each to its files, by the .png, in these formats; none is kept after that.

    Returns:
        The files that were written, and for each of the others `figures/NAME.png (why)`.
    """
    written, failed = [], []
    for path, make in figures.items():
        write = partial(_save, cache(make))
        files = {path.with_suffix(f".{name}"): write for name in formats}
        put = put_each(files, lambda path: f"{path.parent.name}/{path.name}")
        written += put[0]
        failed += put[1]
    return written, failed


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
    save(make(), path)
