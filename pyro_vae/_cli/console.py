"""`pyro-vae COMMAND ...`: the programs under one name, started as `python -m pyro_vae.COMMAND` starts them."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pyro_vae.foundation.endings import at_once

if TYPE_CHECKING:
    from pyro_vae._cli.options import Parser


class Program(NamedTuple):
    """A command: what the list of commands says of it, where its `main` is, and what makes its parser."""

    about: str
    module: str
    parsers: str
    parser: str


OPTIONS = "pyro_vae._cli.options"
PROGRAMS = {
    "train": Program(
        "train a VAE and leave a run folder",
        "pyro_vae.train",
        "pyro_vae._cli.training",
        "make_parser",
    ),
    "evaluate": Program(
        "estimate log p(x) of each datum, with its errors",
        "pyro_vae.evaluate",
        OPTIONS,
        "evaluate_parser",
    ),
    "sample": Program(
        "draw samples, reconstructions, interpolations and more",
        "pyro_vae.sample",
        OPTIONS,
        "sample_parser",
    ),
    "compare": Program(
        "compare evaluated runs, datum by datum",
        "pyro_vae.compare",
        OPTIONS,
        "compare_parser",
    ),
    "encode": Program(
        "write the posterior means of all data",
        "pyro_vae.encode",
        OPTIONS,
        "encode_parser",
    ),
    "impute": Program(
        "fill in what is missing in data",
        "pyro_vae.impute",
        OPTIONS,
        "impute_parser",
    ),
}


def main(called: str = "pyro-vae") -> NoReturn:
    """Run the command that the command line names.

    Args:
        called: how the list of commands is called, `'pyro-vae'` or `'python -m pyro_vae'`.
    """
    word, *rest = sys.argv[1:] or ["--help"]
    known = PROGRAMS.get(word)
    full = called if known is None else f"{called} {word}"
    name = full.removeprefix("python -m ")
    at_once(name)

    from pyro_vae._cli.options import answer, run

    # The list of commands, or a word that is none.
    if known is None:
        run(name, lambda words: _overview(called, words), [word, *rest])

    # A command: its options are looked at before the imports, which take seconds.
    parser: Parser = getattr(import_module(known.parsers), known.parser)()
    parser.prog = full
    answer(parser, rest)
    run(name, import_module(known.module).main, rest)


def _overview(called: str, words: Sequence[str]) -> None:
    """Answer `--help` and `--version`, and refuse everything else."""
    import argparse
    import difflib

    from pyro_vae._cli.options import Parser
    from pyro_vae.foundation.checks import shown
    from pyro_vae.foundation.errors import InputError

    if not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0].lower(), PROGRAMS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{shown(words[0])} is no command: choose one of {', '.join(PROGRAMS)}{hint}"
        )
    width = max(map(len, PROGRAMS))
    lines = [f"  {word:<{width}}  {p.about}" for word, p in PROGRAMS.items()]
    parser = Parser(
        prog=called,
        usage=f"{called} COMMAND ...",
        description="Variational autoencoders in Pyro.",
        epilog="\n".join(
            ["commands:", *lines, "", f"{called} COMMAND --help lists its options"]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args(words)
