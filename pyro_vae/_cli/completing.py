"""What a shell completes after `pyro-vae`: a script that shtab writes from the options of the programs."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from pyro_vae._cli.console import PROGRAMS
from pyro_vae._cli.options import SHELLS, Parser, completion_parser
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.source import FAMILIES, summaries

FOLDERS = ("run", "runs", "folders", "output", "resume", "from_", "data_dir")
FILES = ("data", "config", "csv", "parquet", "netcdf", "table", "json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the script for a shell.

    Raises:
        InputError: where shtab is not installed.
    """
    shell = completion_parser().parse_args(arguments).shell
    try:
        import shtab
    except ImportError:
        raise InputError(
            f"completion needs shtab: pip install 'pyro-vae[completion]', for {' or '.join(SHELLS)}"
        ) from None
    print(shtab.complete(_all_programs(shtab), shell))


def _all_programs(shtab: object) -> argparse.ArgumentParser:
    """A parser whose commands are the programs, with what shtab is told of their options."""
    every = argparse.ArgumentParser(prog="pyro-vae")
    commands = every.add_subparsers()
    for word, program in PROGRAMS.items():
        parser: Parser = getattr(import_module(program.parsers), program.parser)()
        for action in parser._actions:
            _tell(shtab, action)
        # In place of a parser of its own, which would need all options once more.
        commands.add_parser(word, help=program.about, add_help=False)
        commands.choices[word] = parser
        parser.prog = f"pyro-vae {word}"
    return every


def _tell(shtab: object, action: argparse.Action) -> None:
    """What the values of an option are: files, folders, or members by name."""
    takes_text = isinstance(action, argparse._StoreAction | argparse._AppendAction)
    if takes_text and action.dest in FAMILIES:
        action.choices = [call.partition("(")[0] for call in summaries(action.dest)]
    elif action.dest in FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest in FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
