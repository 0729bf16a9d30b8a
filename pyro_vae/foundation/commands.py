"""Commands and options that the programs offer: quoted for a shell, with what the run needs; without torch."""

import shlex
from collections.abc import Mapping
from typing import Any

from pyro_vae.foundation.trust import AXES, INSIDE, is_ours

# what the weights of a run are made of
READ = tuple(axis for axis in AXES if axis not in ("--objective", "--corrupt"))


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


def trust(config: Mapping[str, Any], axes: tuple[str, ...] = READ) -> list[str]:
    """`['--trust']` where a run with these options names members of other modules, else nothing."""
    members = [str(config.get(axis.removeprefix("--")) or "") for axis in axes]
    modules = [module for member in members for module in INSIDE.findall(member)]
    return [] if all(is_ours(module) for module in modules) else ["--trust"]
