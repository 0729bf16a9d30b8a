"""Figures after the numbers: one that cannot be drawn costs no numbers and no other figure."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import write_atomically

Make = Callable[[], Figure]


def draw(figures: Mapping[Path, Make]) -> tuple[list[Path], list[str]]:
    """Make figures one by one and write each to its file.

    Returns:
        The files that were written, and for each of the others `figures/NAME.png (why)`.
    """
    drawn, failed = [], []
    for path, make in figures.items():
        try:
            write_atomically(path, make().savefig)
            drawn.append(path)
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            failed.append(f"{path.parent.name}/{path.name} ({kind}{one_line(error)})")
    return drawn, failed
