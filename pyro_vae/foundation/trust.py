"""Whose code is run: a file that names a class by its import path does not decide that this class is imported."""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from pyro_vae.foundation.errors import InputError

AXES = (
    "--structure",
    "--prior",
    "--network",
    "--likelihood",
    "--guide",
    "--objective",
    "--corrupt",
)
# of a module; a relative one is none
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
INSIDE = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)\s*:\s*[A-Za-z_]\w*")
LONGEST = 10_000  # characters of a member

# The modules whose code may be run; None for all, as in a program of one's own.
_trusted: ContextVar[Collection[str] | None] = ContextVar("_trusted", default=None)


@contextmanager
def trusting(modules: Collection[str] | None) -> Iterator[None]:
    """Inside, classes come from these modules alone, from this package and from `pyro.infer`; `None`: from anywhere."""
    token = _trusted.set(modules)
    try:
        yield
    finally:
        _trusted.reset(token)


def by_the_command_line(
    main: Callable[[Sequence[str]], None],
) -> Callable[[Sequence[str]], None]:
    """A program's `main`, in which only modules named in this very call are trusted, or with `--trust` all."""

    @functools.wraps(main)
    def call(arguments: Sequence[str]) -> None:
        with trusting(None if "--trust" in arguments else named(arguments)):
            main(arguments)

    return call


def named(arguments: Sequence[str]) -> set[str]:
    """The modules that a command line names as places of members.

    >>> sorted(named(["--guide", "mine:Guide", "--prior=a.b:P(prior='c:Q')", "--output", "d:e"]))
    ['a.b', 'c', 'mine']
    """
    modules: set[str] = set()
    options = (*AXES, "--ask")
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, value = argument.partition("=")
        member = argument if before in options else value
        if before in options or option in options:
            modules |= set(INSIDE.findall(member) if len(argument) <= LONGEST else ())
    return modules


def is_ours(module: str) -> bool:
    """Whether a module is of this package or of Pyro's objectives, whose code runs unasked."""
    return module == "pyro.infer" or module.partition(".")[0] == "pyro_vae"


def check_trusted(axis: str, module: str, name: str) -> None:
    """Raise `InputError` unless the code of `module` may be run."""
    if not NAME.fullmatch(module):
        raise InputError(
            f"--{axis} {module}:{name} must name its module in full, as in my_package.module:{name}"
        )
    trusted = _trusted.get()
    if is_ours(module) or trusted is None or module in trusted:
        return
    raise InputError(
        f"the {axis} {module}:{name} is code of the module {module}, which this call does not name; if you trust who "
        "wrote it, add --trust (in Python trust=True)"
    )
