"""What `--quiet` leaves of what a program prints."""

from collections.abc import Callable


def teller(*, quiet: bool) -> Callable[[object], None]:
    """What prints a text; with `quiet` only those of its lines that warn."""

    def tell(text: object) -> None:
        lines = str(text)
        if quiet:
            warn = ("warning: ", "note: ")
            lines = "\n".join(x for x in lines.splitlines() if x.startswith(warn))
        if lines or not quiet:
            print(lines, flush=True)

    return tell
