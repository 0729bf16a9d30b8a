"""As how many processes a program was started, by what torchrun says in the environment; without torch."""

import atexit
import os
import sys
import time
from contextlib import suppress
from typing import NamedTuple, NoReturn, TextIO

from pyro_vae.foundation.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MOST = 10**6  # processes
PAUSE = 10.0  # seconds, in which the first process comes to speak on a busy machine too


class Launch(NamedTuple):
    """Which of how many processes this one is.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local: its number among those of its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0


def launch() -> Launch:
    """What the environment says; one process where it does not say all that several need to find each other.

    Raises:
        InputError: where it says what cannot be.
    """
    if not all(os.environ.get(name) for name in NAMES):
        return Launch()
    rank, world = _whole("RANK"), _whole("WORLD_SIZE")
    if not rank < world:
        raise InputError(f"RANK={rank} must be below WORLD_SIZE={world}")
    local = _whole("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank
    return Launch(rank, world, local)


def is_onlooker() -> bool:
    """Whether this is one of several processes, and not the first, which speaks for all."""
    return world() > 1 and launch().rank > 0


def world() -> int:
    """How many processes there are; 1 where the environment says what cannot be."""
    try:
        return launch().world
    except InputError:
        return 1


def end(code: int, *, last: bool = True) -> NoReturn:
    """End this process with an exit code.

    Of several processes, one that says nothing ends with an error after the one that speaks (`last`): where one ends
    with an error, torchrun kills all others, and nobody might have said why. And they end at once, since threads of
    `torch.distributed` that still run abort a process that takes itself apart.
    """
    if world() == 1:
        sys.exit(code)
    with suppress(KeyboardInterrupt):
        if code and last and getattr(sys.stderr, "name", "") == os.devnull:
            time.sleep(PAUSE)
    with suppress(Exception, KeyboardInterrupt):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def nowhere() -> TextIO:
    """Where what is printed is lost."""
    return open(os.devnull, "w")  # for the whole process


def _whole(name: str) -> int:
    text = os.environ[name]
    if not (text.isdecimal() and int(text) < MOST):
        raise InputError(
            f"{name}={text} in the environment must be a whole number, as torchrun sets it"
        )
    return int(text)
