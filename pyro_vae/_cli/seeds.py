"""`--seeds 0,1,2` of the training program: the same run with each seed, side by side, each a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pyro_vae.checkpoint import read_checkpoint
from pyro_vae.engine.threads import cores
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.commands import command
from pyro_vae.foundation.endings import asking, reader_gone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.terminal import printable
from pyro_vae.runs import is_run, seeds_in

BEGINS = "run "  # the line with which training ends what it says of all seeds alike
AT_THE_END = ("next:", "go on with:")  # what the end says for all, where a seed says it
LOOKED = 0.1  # seconds between two looks at the processes
LAST = 2**32 - 1  # seed


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds with commas between them.

    >>> read_seeds("0, 1,7")
    (0, 1, 7)
    """
    words = [word.strip() for word in text.split(",")]
    if not all(
        re.fullmatch(r"[0-9]{1,10}", word) and int(word) <= LAST for word in words
    ):
        raise InputError(
            f"--seeds {shown(text)} must be whole numbers from 0 to 2^32 - 1 with commas between them, as in 0,1,2"
        )
    seeds = tuple(map(int, words))
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise InputError(f"--seeds {shown(text)} names {twice[0]} twice")
    return seeds


class Seeds(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        folder: in which each has a folder of its own.
        seeds: theirs.
        words: the other options of the program.
        resumed: whether they go on.
    """

    folder: Path
    seeds: tuple[int, ...]
    words: Sequence[str]
    resumed: bool = False

    @classmethod
    def resume(cls, folder: Path, words: Sequence[str]) -> "Seeds | None":
        """Those that a folder holds, where it does."""
        seeds = tuple(seeds_in(folder))
        return cls(folder, seeds, words, resumed=True) if seeds else None

    def place(self, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / f"seed{seed}"

    def options(self, seed: int) -> list[str]:
        """What the program is called with for one seed."""
        place = str(self.place(seed))
        if self.resumed:
            return [*self.words, "--resume", place]
        return [*self.words, "--seed", str(seed), "--output", place]

    def begun(self) -> list[int]:
        """The seeds whose runs are there."""
        return [seed for seed in self.seeds if is_run(self.place(seed))]


class Child:
    """A training that runs as a process of its own; what it says is printed with its name before each line.

    Args:
        name: before the lines.
        options: what the program is called with.
        threads: how many it computes by.
        say: prints a line.
    """

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        *,
        threads: int,
        say: Callable[[str], None],
    ) -> None:
        self.name, self.say, self.last = name, say, ""
        self.quiet = "--quiet" in options
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyro_vae.train", *options],
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it by us, once
        )
        self.readers = [
            threading.Thread(target=self._read_output, args=(self.process.stdout,)),
            threading.Thread(target=self._read_errors, args=(self.process.stderr,)),
        ]
        for reader in self.readers:
            reader.start()

    def _read_output(self, stream: IO[str]) -> None:
        """Print what is said of this seed alone."""
        begun = self.quiet
        for line in map(str.rstrip, stream):
            if begun and line and not any(text in line for text in AT_THE_END):
                self.say(f"{self.name:7} {line}")
            begun = begun or line.startswith(BEGINS)

    def _read_errors(self, stream: IO[str]) -> None:
        for line in map(str.rstrip, stream):
            self.last = line or self.last
            self.say(f"{self.name:7} {line}")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ask it to save what it has and end."""
        if not self.ended:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Until it has ended and all that it said is printed."""
        self.process.wait()
        for reader in self.readers:
            reader.join()


def train_all(runs: Seeds) -> None:
    """Run trainings side by side, as many as there are cores, and print what they came to.

    Raises:
        InputError: where one of them failed, once the others are done.
        KeyboardInterrupt: after Ctrl-C, once all have saved what they have.
    """
    at_a_time = min(len(runs.seeds), cores())
    threads = cores() // at_a_time
    print(f"seeds      {len(runs.seeds)} runs in {runs.folder}, {at_a_time} at a time")
    sys.stdout.flush()
    started = time.perf_counter()
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            print(printable(text), flush=True)

    children: list[Child] = []
    waiting = [*runs.seeds]
    with asking() as asked:
        while waiting or not all(child.ended for child in children):
            if asked or reader_gone(look=True):
                waiting.clear()
                for child in children:
                    child.stop()
                for child in children:
                    child.wait()
            elif waiting and sum(not c.ended for c in children) < at_a_time:
                seed = waiting.pop(0)
                name, options = runs.place(seed).name, runs.options(seed)
                children.append(Child(name, options, threads=threads, say=say))
            else:
                time.sleep(LOOKED)
    for child in children:
        child.wait()
    if asked:
        _say_how_to_go_on(runs)
        raise KeyboardInterrupt
    print("\n".join(["", *_summary(runs), ""]))
    seconds = time.perf_counter() - started
    again = command("evaluate", runs.place(runs.seeds[0]))
    print(f"done in {seconds:.0f} s; next, of each: {again}", flush=True)
    _check(runs, children)


def _say_how_to_go_on(runs: Seeds) -> None:
    """After Ctrl-C: the runs that are there, and those that had not begun."""
    begun = runs.begun()
    if begun:
        again = command("train", "--resume", runs.folder)
        print(f"stopped and saved; go on with: {again}", flush=True)
    rest = ",".join(str(seed) for seed in runs.seeds if seed not in begun)
    if rest:
        options = ("--seeds", rest, "--output", runs.folder)
        new = command("train", *runs.words, *options)
        print(f"not begun: seeds {rest}; begin with: {new}", flush=True)


def _check(runs: Seeds, children: Sequence[Child]) -> None:
    """Raise `InputError` where a run failed, with what the first of them said last."""
    failed = [child for child in children if child.process.returncode]
    if not failed:
        return
    first = failed[0]
    why = first.last.partition(": ")[2] or f"exit code {first.process.returncode}"
    raise InputError(
        f"{len(failed)} of {len(children)} runs failed, {runs.folder / first.name} first: {why}"
    )


def _summary(runs: Seeds) -> Iterator[str]:
    """What the best epochs of the runs came to, and their mean with its standard deviation."""
    scores = []
    for seed in runs.seeds:
        with suppress(InputError):
            place = runs.place(seed)
            _, header = read_checkpoint(place / "best.safetensors")
            scores.append(header["score"])
            yield f"{place.name:7} {header['score']:.2f}, epoch {header['epoch']}"
    if len(scores) > 1:
        spread = np.std(scores, ddof=1)
        yield f"mean    {np.mean(scores):.2f} +- {spread:.2f} (standard deviation over {len(scores)} seeds)"
