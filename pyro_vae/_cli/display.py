"""What a person sees while training."""

import math
import shutil
import sys
import time
from typing import Any

from pyro_vae.inference.epochs import Epoch

FEW = 20  # epochs of which each has its line
APART = 5.0  # seconds between two lines of more epochs,
SHARE = 0.01  # and the share of all epochs between them;
LATEST = 60.0  # after so many seconds there is one anyway


class Display:
    """Progress: a bar on a terminal, and elsewhere lines.

    Of many epochs the first has a line, then one every few seconds, the last one, and the best one where it had none.

    Args:
        epochs: how many there are.
        first: how many are done before.
        bound: what its number is called.
        judge: what the best epoch is chosen by, shown where it is another.
        unit: what a datum is, in several.
        quiet: show nothing but what is said by `say`.
    """

    def __init__(
        self,
        epochs: int,
        first: int,
        bound: str = "ELBO",
        judge: str | None = None,
        *,
        unit: str = "data",
        quiet: bool = False,
    ) -> None:
        self.judge = judge if judge != bound else None
        self.epochs, self.first, self.bound = epochs, first, bound
        self.unit, self.quiet = unit, quiet
        self.started = time.perf_counter()
        # The epochs that have a line, and when the last of them had it.
        self._shown: set[int] = set()
        self._when = -math.inf
        # The last epoch and the best one, with what is said of them.
        self._last = self._best = (first, "")
        self.bar: Any = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar:16}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(
                total=epochs,
                initial=first,
                bar_format=form,
                ncols=shutil.get_terminal_size((100, 24)).columns,
            )
            self.bar.set_description(f"epoch {first + 1}/{epochs}")
        self.validation = ""

    def within(self, done: int, size: int, elbo: float) -> None:
        """In the middle of an epoch: `done` of `size` data."""
        if self.bar is not None:
            self.bar.n = int(self.bar.n) + min(done / size, 0.999)
            self.bar.set_postfix_str(f"{self.bound} {elbo:.2f}{self.validation}")

    def epoch(self, e: Epoch, *, best: bool = False) -> None:
        """At the end of an epoch, which may be the best so far."""
        self.validation = (
            ""
            if math.isnan(e.validation_elbo)
            else f", validation {e.validation_elbo:.2f}"
        )
        if self.judge is not None and not math.isnan(e.score):
            self.validation += f", {self.judge} {e.score:.2f}"
        if not math.isnan(e.perplexity):
            self.validation += (
                f", perplexity {e.perplexity:.1f}, {e.unused:.0f} words unused"
            )
        if not math.isnan(e.acceptance):
            self.validation += f", moves accepted {e.acceptance:.2f}"
        speed = f"{e.images_per_second:,.0f} {self.unit}/s"
        parts = f"{self.bound} {e.elbo:.2f} = {e.reconstruction:.2f} - {e.kl:.2f}{self.validation}, {speed}"
        if self.bar is not None:
            self.bar.n = e.epoch
            self.bar.set_description(
                f"epoch {min(e.epoch + 1, self.epochs)}/{self.epochs}"
            )
            self.bar.set_postfix_str(parts)
            return
        left = (
            (time.perf_counter() - self.started)
            / (e.epoch - self.first)
            * (self.epochs - e.epoch)
        )
        line = f"epoch {e.epoch}/{self.epochs}: {parts}"
        self._last = (e.epoch, line)
        self._best = self._last if best else self._best
        if self._due(e.epoch):
            self._show(e.epoch, f"{line}, {left:.0f} s left")

    def _due(self, epoch: int) -> bool:
        """Whether an epoch has a line as soon as it ends."""
        if not self._shown or self.epochs - self.first <= FEW:
            return True
        epochs, seconds = epoch - max(self._shown), time.perf_counter() - self._when
        enough = seconds >= APART and epochs >= SHARE * self.epochs
        return enough or seconds >= LATEST or epoch == self.epochs

    def _show(self, epoch: int, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)
        self._shown.add(epoch)
        self._when = time.perf_counter()

    def tell(self, text: str) -> None:
        """A line of its own that `quiet` leaves out."""
        if not self.quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self) -> None:
        """Training has ended: take the bar away, or print the lines of the best and the last epoch where they lack."""
        if self.bar is not None:
            self.bar.close()
            return
        for before, (epoch, line) in (("", self._last), ("best       ", self._best)):
            if line and epoch not in self._shown:
                self._show(epoch, f"{before}{line}")
