"""As how many processes a program was started, by what torchrun says in the environment; without torch."""

import os
import sys
import time
from contextlib import suppress
from typing import NamedTuple, TextIO

from pyro_vae.foundation.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MOST = 10**6  # processes
PAUSE = 2.0  # seconds


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
    try:
        return launch().rank > 0
    except InputError:
        return False


def give_way() -> None:
    """Of several processes, let one that says nothing end a moment later than the one that speaks.

    Where one ends with an error, torchrun ends all others, and nobody might have said why.
    """
    if getattr(sys.stderr, "name", "") == os.devnull and launch().world > 1:
        with suppress(KeyboardInterrupt):
            time.sleep(PAUSE)


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
