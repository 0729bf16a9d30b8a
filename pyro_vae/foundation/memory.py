"""How much memory there is, and the words for amounts of it; without torch."""

import math
import os
from pathlib import Path

from pyro_vae.foundation.errors import InputError


def available_memory() -> float:
    """Bytes of memory that can still be taken, as far as the system tells."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    most = math.inf if limit == "max" else float(limit)
    try:
        table = dict(
            line.split(":") for line in Path("/proc/meminfo").read_text().splitlines()
        )
        return min(most, 1024 * float(table["MemAvailable"].split()[0]))
    except (OSError, KeyError):
        return (
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if hasattr(os, "sysconf")
            else most
        )


def require(size: float, what: str, lower: str) -> None:
    """Raise `InputError` where something takes more bytes than there are, before any of them is asked for.

    Args:
        size: the bytes.
        what: takes them.
        lower: what to choose smaller.
    """
    there = available_memory()
    if size > there:
        raise InputError(
            f"{what} takes {in_words(size)} of memory, and {in_words(there)} are available; "
            f"choose a smaller {lower}"
        )


def affordable(size: float, what: str) -> None:
    """Raise `InputError` where what was asked for would take more bytes than there are.

    Args:
        size: the bytes.
        what: asks for them, as it was given: `chains=32 of AIS`.
    """
    there = available_memory()
    if size > there:
        raise InputError(
            f"{what} would take {in_words(size)} of memory, and {in_words(there)} are available"
        )


def in_words(size: float) -> str:
    """An amount of memory for a person.

    >>> in_words(3 * 2**29), in_words(5e40)
    ('1.5 GiB', 'over a million TiB')
    """
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            count = size / unit
            return f"{count:,.1f} {name}" if count < 1e6 else f"over a million {name}"
    return f"{size / 1024:,.0f} KiB"
