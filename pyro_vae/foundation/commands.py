"""Commands and options that the programs offer: quoted for a shell, with what the run needs; without torch."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pyro_vae.foundation.trust import AXES, INSIDE, is_ours

# what the weights of a run are made of
READ = tuple(axis for axis in AXES if axis not in ("--objective", "--corrupt"))

# What stands in sentences about options of the command line that functions of Python do not have.
FOREIGN = re.compile(
    r" \(--drop [^)]*\)|, add --dequantize \([^)]*\)|; --maximum N says otherwise"
    r"|(, )?take it for the names of the rows \(--id .*?\)(?= or)"
)
OPTION = re.compile(
    r"--([a-z][a-z-]*)(?: (?=[\w'\"(])(?!is |has |must |names |takes ))?"
)


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


def in_python(text: str) -> str:
    """A sentence about options of the command line as one about parameters of a function.

    >>> in_python("add --missing keep, or leave it out (--drop a)")
    'add missing=True, or leave it out'
    """
    text = FOREIGN.sub("", text).replace("--missing keep", "missing=True")
    return OPTION.sub(_as_parameter, text)


def _as_parameter(found: re.Match[str]) -> str:
    return found[1].replace("-", "_") + ("=" if found[0].endswith(" ") else "")


def trust(config: Mapping[str, Any], axes: tuple[str, ...] = READ) -> list[str]:
    """`['--trust']` where a run with these options names members of other modules, else nothing."""
    members = [str(config.get(axis.removeprefix("--")) or "") for axis in axes]
    modules = [module for member in members for module in INSIDE.findall(member)]
    return [] if all(is_ours(module) for module in modules) else ["--trust"]
