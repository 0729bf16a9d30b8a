"""The bar that `fit` shows: which epoch, what ELBO, and how many data in a second."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from shutil import get_terminal_size
from typing import Any

from pyro_vae.engine.processes import here
from pyro_vae.inference.epochs import Epoch

SECONDS = 0.25  # between two pictures of the bar
FORM = "{desc} {percentage:3.0f}%|{bar:16}| {elapsed}<{remaining}, {rate_fmt}{postfix}"
WIDGETS = FORM.replace(
    "{bar:16}", "{bar}"
)  # which becomes one, as wide as there is room

_inside = ContextVar("_inside", default=False)


class Unseen:
    """Shows nothing."""

    def within(self, done: int, size: int, elbo: float) -> None:
        """In the middle of an epoch: `done` of `size` data."""

    def epoch(self, e: Epoch) -> None:
        """At the end of an epoch."""

    def close(self, *, over: bool) -> None:
        """At the end, which is that of a whole training where it is `over`."""


class Bar(Unseen):
    """One bar for all epochs."""

    def __init__(self, epochs: int, size: int) -> None:
        self.epochs, self.done, self.validation = epochs, 0, ""
        make = _tqdm()
        of_widgets = any(base.__module__ == "tqdm.notebook" for base in make.__mro__)
        self.bar: Any = make(
            total=epochs * size,
            desc=self._name(),
            unit=" data",
            unit_scale=True,
            mininterval=SECONDS,
            bar_format=WIDGETS if of_widgets else FORM,
            ncols=None if in_notebook() else get_terminal_size((100, 24)).columns,
        )

    def _name(self) -> str:
        return f"epoch {min(self.done + 1, self.epochs)}/{self.epochs}"

    def within(self, done: int, size: int, elbo: float) -> None:
        self.bar.set_postfix_str(f"ELBO {elbo:.2f}{self.validation}", refresh=False)
        self.bar.update(self.done * size + done - self.bar.n)

    def epoch(self, e: Epoch) -> None:
        self.done = e.epoch
        if not math.isnan(e.validation_elbo):
            self.validation = f", validation {e.validation_elbo:.2f}"
        self.bar.set_postfix_str(f"ELBO {e.elbo:.2f}{self.validation}", refresh=False)
        self.bar.set_description_str(self._name(), refresh=False)

    def close(self, *, over: bool) -> None:
        if over:  # also by patience, or where it was asked to end
            self.bar.total = self.bar.n
            if (widgets := getattr(self.bar, "container", None)) is not None:
                widgets.children[1].max = max(self.bar.n, 1)
            self.bar.set_description_str(
                f"epoch {self.done}/{self.epochs}", refresh=False
            )
        self.bar.leave = (
            self.bar.n > 0
        )  # nothing is left of a training that was refused
        self.bar.refresh()
        self.bar.close()


@contextmanager
def bar_of(epochs: int, size: int, *, asked: bool | None = None) -> Iterator[Unseen]:
    """The bar of a training; one that shows nothing where nobody sees it, and inside another unless it is asked for."""
    wanted = asked
    if wanted is None:
        seen = here().first and (in_notebook() or _on_terminal())
        wanted = seen and not _inside.get()
    bar = Bar(epochs, size) if wanted and epochs else Unseen()
    token, over = _inside.set(True), False
    try:
        yield bar
        over = True
    finally:
        _inside.reset(token)
        bar.close(over=over)


def in_notebook() -> bool:
    """Whether the code runs in a kernel, such as that of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _tqdm() -> Any:
    """The bar of a notebook or of a terminal; where a notebook has no widgets it is text too."""
    from tqdm.auto import tqdm

    return tqdm
