"""Commands and options that the programs offer: quoted for a shell, with what the run needs; without torch."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae._trust import AXES, INSIDE, is_ours
from pyro_vae.runs import description

READ = tuple(
    axis for axis in AXES if axis != "--objective"
)  # what the weights of a run are made of


def option(name: str, value: object) -> str:
    """An option with its value, as it can be pasted.

    >>> option("drop", "flow rate"), option("drop", "-1")
    ("--drop 'flow rate'", '--drop=-1')
    """
    text = str(value)
    return f"--{name}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def command(program: str, *words: object) -> str:
    """A command as it can be pasted."""
    return shlex.join(["python", "-m", f"pyro_vae.{program}", *map(str, words)])


def on_run(program: str, folder: Path, *words: object, place: object = None) -> str:
    """The command of a program that reads a run, with `--trust` where the run needs it.

    Args:
        program: `'evaluate'`, `'sample'` or another that takes a run folder first.
        folder: the run folder.
        words: further options.
        place: what the folder is called in the command; by default its path.
    """
    where = folder if place is None else place
    return command(program, where, *words, *trust(description(folder) or {}))


def trust(config: Mapping[str, Any], axes: tuple[str, ...] = READ) -> list[str]:
    """`['--trust']` where a run with these options names members of other modules, else nothing."""
    members = [str(config.get(axis.removeprefix("--")) or "") for axis in axes]
    modules = [module for member in members for module in INSIDE.findall(member)]
    return [] if all(is_ours(module) for module in modules) else ["--trust"]
