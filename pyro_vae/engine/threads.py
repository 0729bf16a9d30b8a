"""How many threads compute: no more than there are cores that nobody else uses.

Threads that share a piece of work wait for each other at its end, thousands of times a second. Where another program
takes the core of one of them, the others wait until the system gives it back, which takes milliseconds each time: two
threads on two cores of which one is busy need ten times as long as one thread, and more. What does not depend on the
number of threads to the bit is computed by fewer of them then.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LOOKED = 0.5  # seconds between two looks at the processor
SHORTEST = 0.05  # seconds that the first look covers at least
SPARED = 0.3  # of a core that others may use before a thread is given up for them
STATISTICS = Path("/proc/stat")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
IDLE = (
    3,
    4,
)  # the columns of a core in which it did nothing: idle, and waiting for a disk
GUEST = 8  # from here on time is counted that other columns hold too


class Processor:
    """The cores that this process may use, and how many of them others left to it lately.

    Known on Linux; elsewhere all of them count as free.
    """

    def __init__(self) -> None:
        self._cores = _cores()
        self._most = min(float(len(self._cores)), _quota())
        self._free, self._looked = self._most, False
        self._at, self._busy, self._own = time.perf_counter(), self._used(), _own()

    def free(self) -> float:
        """Cores that others did not use since the last look, as it was half a second ago or less."""
        now = time.perf_counter()
        if now - self._at < (LOOKED if self._looked else SHORTEST):
            return self._free
        busy, own = self._used(), _own()
        others = max(0.0, busy - self._busy - (own - self._own)) / (now - self._at)
        self._free, self._looked = min(self._most, len(self._cores) - others), True
        self._at, self._busy, self._own = now, busy, own
        return self._free

    def _used(self) -> float:
        """Seconds that these cores were used since the machine started, by anybody."""
        try:
            lines = STATISTICS.read_text().splitlines()
            tick = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return 0.0
        used = 0
        for line in lines:
            name, *columns = line.split()
            if name in self._cores:
                times = [*map(int, columns[:GUEST])]
                used += sum(times) - sum(times[i] for i in IDLE)
        return used / tick


def _cores() -> set[str]:
    """What the cores that this process may use are called."""
    if not hasattr(os, "sched_getaffinity"):
        return {f"cpu{i}" for i in range(os.cpu_count() or 1)}
    return {f"cpu{i}" for i in os.sched_getaffinity(0)}


def _quota() -> float:
    """How many cores at a time a container may use."""
    try:
        quota, period = QUOTA.read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)


def cores() -> int:
    """How many cores this process may use at a time; one at least."""
    return max(1, int(min(len(_cores()), _quota())))


def _own() -> float:
    """Seconds of a core that this process used, and those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@cache
def _processor() -> Processor:
    return Processor()


def free_threads() -> int:
    """PyTorch's threads, or as many of them as others leave cores to; one at least."""
    most = torch.get_num_threads()
    if most == 1:
        return 1
    return max(1, min(most, math.floor(_processor().free() + SPARED)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """In which PyTorch computes by so many threads."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same, with what is no number in the same places."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    same = torch.equal(a.isnan(), b.isnan())
    return same and torch.equal(a.nan_to_num(), b.nan_to_num())
