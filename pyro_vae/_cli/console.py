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
    "explore": Program(
        "write a page in which to move through the latents",
        "pyro_vae.explore",
        OPTIONS,
        "explore_parser",
    ),
    "impute": Program(
        "fill in what is missing in data",
        "pyro_vae.impute",
        OPTIONS,
        "impute_parser",
    ),
    "export": Program(
        "write encoder and decoder as .pt2 and .onnx files",
        "pyro_vae.export",
        OPTIONS,
        "export_parser",
    ),
    "push": Program(
        "send a run to the Hugging Face Hub",
        "pyro_vae.push",
        OPTIONS,
        "push_parser",
    ),
    "pull": Program(
        "fetch a run from the Hugging Face Hub",
        "pyro_vae.pull",
        OPTIONS,
        "pull_parser",
    ),
    "runs": Program(
        "list the runs below a folder, with their numbers",
        "pyro_vae._cli.listing",
        OPTIONS,
        "runs_parser",
    ),
    "completion": Program(
        "let a shell complete all of this",
        "pyro_vae._cli.completing",
        OPTIONS,
        "completion_parser",
    ),
}


def main(called: str = "pyro-vae") -> NoReturn:
    """Run the command that the command line names.

    Args:
        called: how the list of commands is called, `'pyro-vae'` or `'python -m pyro_vae'`.
    """
    word, *rest = sys.argv[1:] or ["--help"]
    if word in PROGRAMS:
        start(word, f"{called} {word}", rest)
    name = called.removeprefix("python -m ")
    at_once(name)

    from pyro_vae._cli.options import run

    run(name, lambda words: _overview(called, words), [word, *rest])


def start(
    command: str, called: str, arguments: Sequence[str] | None = None
) -> NoReturn:
    """Run a command.

    Args:
        command: one of `PROGRAMS`.
        called: how it is called in its usage.
        arguments: those of the command line behind it; by default all.
    """
    name = called.removeprefix("python -m ")
    at_once(name)

    from pyro_vae._cli.options import answer, run

    # The options are looked at before the imports, which take seconds.
    program = PROGRAMS[command]
    parser: Parser = getattr(import_module(program.parsers), program.parser)()
    parser.prog = called
    answer(parser, arguments)
    run(name, import_module(program.module).main, arguments)


def _overview(called: str, words: Sequence[str]) -> None:
    """Answer `--help` and `--version`, and refuse everything else."""
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
    parser = Parser(
        prog=called,
        takes="COMMAND",
        description="Variational autoencoders in Pyro.",
    )
    parser.epilog = "\n".join(
        [
            "commands:",
            *(f"  {word:<{width}}  {p.about}" for word, p in PROGRAMS.items()),
            "",
            f"{called} COMMAND --help lists its options",
        ]
    )
    parser.parse_args(words)
