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
from typing import IO

import numpy as np

from pyro_vae.checkpoint import read_checkpoint
from pyro_vae.engine.threads import cores
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.commands import command
from pyro_vae.foundation.endings import asking
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.terminal import printable
from pyro_vae.runs import is_run

NAME = "seed{}"  # of the folder of a run
BEGINS = "run "  # the line with which training ends what it says of all seeds alike
ENDS = (
    "next:",
    "go on with:",
)  # what begins or holds a line of one seed alone that the end says for all
OWN = ("--seed", "N", "--output", "FOLDER")  # with which what a run is called with ends
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


def runs_in(folder: Path) -> list[Path]:
    """The runs of seeds in a folder, by seed."""
    found = [
        p for p in folder.glob(NAME.format("*")) if p.name[len("seed") :].isdecimal()
    ]
    return sorted(filter(is_run, found), key=lambda path: int(path.name[len("seed") :]))


class Child:
    """A training that runs as a process of its own; what it says is printed with its name before each line.

    Args:
        folder: of its run.
        arguments: of the program.
        threads: how many it computes by.
        say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        threads: int,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.say, self.last = folder, say, ""
        self.quiet = "--quiet" in arguments
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyro_vae.train", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it by us, once
        )
        readers = (
            (self._read_output, self.process.stdout),
            (self._read_errors, self.process.stderr),
        )
        self.readers = [
            threading.Thread(target=f, args=(stream,)) for f, stream in readers
        ]
        for reader in self.readers:
            reader.start()

    def _read_output(self, stream: IO[str]) -> None:
        """Print what is said of this seed alone."""
        begun = self.quiet
        for line in map(str.rstrip, stream):
            if begun and line and not any(end in line for end in ENDS):
                self.say(f"{self.folder.name:7} {line}")
            begun = begun or line.startswith(BEGINS)

    def _read_errors(self, stream: IO[str]) -> None:
        for line in map(str.rstrip, stream):
            self.last = line or self.last
            self.say(f"{self.folder.name:7} {line}")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> None:
        """Until it has ended and all that it said is printed."""
        self.process.wait()
        for reader in self.readers:
            reader.join()


def train_all(commands: dict[Path, list[str]]) -> None:
    """Run trainings side by side, as many as there are cores, and print what they came to.

    Args:
        commands: of each run folder, what the program is called with.

    Raises:
        InputError: where one of them failed, once the others are done.
        KeyboardInterrupt: after Ctrl-C, once all have saved what they have.
    """
    count = min(len(commands), cores())
    threads = max(1, cores() // count)
    folder = next(iter(commands)).parent
    print(
        f"seeds      {len(commands)} runs in {folder}, {count} at a time",
        flush=True,
    )
    started = time.perf_counter()
    children: list[Child] = []
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            print(printable(text), flush=True)

    with asking() as asked:
        waiting = [*commands.items()]
        while waiting or not all(child.ended for child in children):
            while waiting and not asked and sum(not c.ended for c in children) < count:
                place, arguments = waiting.pop(0)
                children.append(Child(place, arguments, threads=threads, say=say))
            if asked:
                waiting.clear()
                _end(children)
            time.sleep(LOOKED)
    for child in children:
        child.wait()
    if asked:
        _say_how_to_go_on(commands)
        raise KeyboardInterrupt
    print("\n".join(_summary(list(commands))))
    seconds = time.perf_counter() - started
    again = command("evaluate", next(iter(commands)))
    print(f"\ndone in {seconds:.0f} s; next, of each: {again}", flush=True)
    _check(children)


def _end(children: Sequence[Child]) -> None:
    """Ask each to save what it has and end, once."""
    for child in children:
        if not child.ended:
            with suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGINT)
    for child in children:
        child.process.wait()


def _say_how_to_go_on(commands: dict[Path, list[str]]) -> None:
    """After Ctrl-C: the runs that are there, and those that had not begun."""
    folder = next(iter(commands)).parent
    begun = [place for place in commands if is_run(place)]
    if begun:
        again = command("train", "--resume", folder)
        print(f"stopped and saved; go on with: {again}", flush=True)
    rest = [place for place in commands if place not in begun]
    if rest:
        words = commands[rest[0]][: -len(OWN)]
        seeds = ",".join(place.name[len("seed") :] for place in rest)
        new = command("train", *words, "--seeds", seeds, "--output", folder)
        print(f"not begun: seeds {seeds}; begin with: {new}", flush=True)


def _check(children: Sequence[Child]) -> None:
    """Raise `InputError` where a run failed, with what the first of them said last."""
    failed = [child for child in children if child.process.returncode]
    if not failed:
        return
    first = failed[0]
    why = first.last.partition(": ")[2] or f"exit code {first.process.returncode}"
    raise InputError(
        f"{len(failed)} of {len(children)} runs failed, {first.folder} first: {why}"
    )


def _summary(folders: Sequence[Path]) -> Iterator[str]:
    """What the best epochs of the runs came to, and their mean with its standard deviation."""
    yield ""
    scores = []
    for folder in folders:
        with suppress(InputError):
            _, header = read_checkpoint(folder / "best.safetensors")
            scores.append(header["score"])
            yield f"{folder.name:7} {header['score']:.2f}, epoch {header['epoch']}"
    if len(scores) > 1:
        spread = np.std(scores, ddof=1)
        yield f"mean    {np.mean(scores):.2f} +- {spread:.2f} (standard deviation over {len(scores)} seeds)"
