"""What a person sees while training."""

import math
import shutil
import sys
import time
from typing import Any

from pyro_vae.inference.epochs import Epoch


class Display:
    """Progress: a bar on a terminal, a plain line for each epoch elsewhere.

    `bound` is what its number is called, `judge` what the best epoch is chosen by, shown where it is another.
    """

    def __init__(
        self, epochs: int, first: int, bound: str = "ELBO", judge: str | None = None
    ) -> None:
        self.judge = judge if judge != bound else None
        self.epochs, self.first, self.started, self.bound = (
            epochs,
            first,
            time.perf_counter(),
            bound,
        )
        self.bar: Any = None
        if sys.stderr.isatty():
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

    def epoch(self, e: Epoch) -> None:
        """At the end of an epoch."""
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
        speed = f"{e.images_per_second:,.0f} images/s"
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
        print(f"epoch {e.epoch}/{self.epochs}: {parts}, {left:.0f} s left", flush=True)

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
