"""`pyro.infer.SVI` replaced in programs that know nothing of it, and what each SVI did written down."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pyro.infer
import pytest

import pyro_vae

THEIRS = pyro.infer.SVI
MODES = ("Pyro's", "ours", "ours, compiled")
AGAIN = 4  # steps that follow the last one of a test that takes fewer
MADE: list[Any] = []  # every SVI since they were counted last


class EnoughError(Exception):
    """A test has taken the steps that are compared; what it goes on to do is of no matter here."""


class Recorded:
    """An SVI that keeps its first losses and takes no further steps.

    Attributes:
        most: steps that each SVI takes.
        ends: whether a further step ends the program, or gives the last loss again.
        losses: of each step a number, or several; the words of an error.
        seconds: of the processor's time, for each step.
        why: sentences on what could not be compiled.
    """

    most = 12
    ends = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[Any] = []
        self.seconds: list[float] = []
        self.why: list[str] = []
        self.call: Any = None
        MADE.append(self)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        if len(self.losses) >= self.most:
            if self.ends:
                raise EnoughError
            return self.losses[-1]
        self.call = args, kwargs
        started = time.process_time()
        try:
            loss = plain(super().step(*args, **kwargs))
        except Exception as error:
            self.losses.append(f"{type(error).__name__}: {error}"[:200])
            raise
        self.losses.append(loss)
        self.seconds.append(time.process_time() - started)
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        return plain(super().evaluate_loss(*args, **kwargs))

    def told(self) -> dict[str, Any]:
        """What it did, in plain values."""
        graphs = getattr(getattr(self, "_compiled", None), "_graphs", {}).values()
        loss = getattr(self, "objective", getattr(self, "loss", None))
        return {
            "jit": type(loss).__name__.startswith("Jit"),
            "losses": self.losses,
            "seconds": self.seconds,
            "why": self.why,
            "compiled": getattr(self, "compiled", False),
            "graphs": ["machine code" if g.machine else "operations" for g in graphs],
        }


class Theirs(Recorded, THEIRS):
    """Pyro's."""


class Ours(Recorded, pyro_vae.SVI):
    """Ours, uncompiled."""


class Compiled(Ours):
    """Ours, compiled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compile(warn=self.why.append)


def plain(loss: Any) -> Any:
    """A loss as Pyro gives it: a number, or a tuple of them."""
    return tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)


def swap(mode: str, steps: int) -> None:
    """Let every program of this process have the SVI of one of the `MODES`."""
    Recorded.most = steps
    made = dict(zip(MODES, (Theirs, Ours, Compiled), strict=True))[mode]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "pyro" and getattr(module, "SVI", None) is THEIRS:
            module.SVI = made


def seed() -> None:
    """The same random numbers for every mode."""
    pyro.set_rng_seed(0)


class Tests:
    """What pytest is told of the tests of Pyro: each with the same seed, and its SVIs kept by its name.

    Attributes:
        found: what the SVIs of each test did, by its name.
    """

    def __init__(self) -> None:
        Recorded.ends = True
        self.found: dict[str, list[dict[str, Any]]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        MADE.clear()
        seed()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        try:
            result = yield
        except Exception:
            self._keep(item.nodeid)
            raise
        self._keep(item.nodeid)  # but not of a test that was interrupted
        return result

    def _keep(self, name: str) -> None:
        for svi in list(MADE):
            _again(svi)
        if MADE:
            self.found[name] = [svi.told() for svi in MADE]


def _again(svi: Any) -> None:
    """Take the last step again where there were too few for a graph to be used."""
    fine = svi.call is not None and not isinstance(svi.losses[-1], str)
    if fine and len(svi.losses) < AGAIN:
        args, kwargs = svi.call
        try:
            for _ in range(AGAIN):
                svi.step(*args, **kwargs)
        except Exception:
            return  # its words are kept
