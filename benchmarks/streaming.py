"""Data larger than memory: `python -m benchmarks.streaming FOLDER --gigabytes 6`.

Rows of 784 float32 in a .npy file that is written to FOLDER, read in each of several ways, and removed. Before each the
system forgets what it holds of the file, and each is a process of its own: rows and megabytes a second, over so many
seconds at most, and the memory of this process and its workers beyond what the programs take. What the system keeps of
the file while memory is free is no part of that.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from benchmarks.contestants import ADAM, MLP
from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.data import Split
from pyro_vae.data.bridges import AsStored
from pyro_vae.data.streams import Mapped, batches, chunks

WIDTH = 784
PIECE = 2**24  # bytes of the plain reading at a time
RESIDENT = 50_000  # data of the training that has them in memory
LOOKED = 0.1  # seconds between two looks at the memory
PRIVATE = ("Pss_Anon", "Pss_Shmem")  # shared pages divided among those that share them
HEADS = ("reading", "data a second", "MB/s", "MiB", "GB read")


def written(path: Path, rows: int) -> None:
    """Write the file, some rows at a time."""
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((16, WIDTH), dtype=np.float32)
    shape = (rows, WIDTH)
    array = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
    for start in range(0, rows, 50_000):
        codes = generator.standard_normal(
            (min(50_000, rows - start), 16), dtype=np.float32
        )
        array[start : start + 50_000] = codes @ directions / 4
    array.flush()


def forget(path: Path) -> None:
    """Have the system drop what it holds of the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def private() -> float:
    """MiB that belong to this process and its workers alone."""
    own = [
        os.getpid(),
        *(child.pid or 0 for child in multiprocessing.active_children()),
    ]
    total = 0
    for process in own:
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        table = dict(line.split(":", 1) for line in text.splitlines()[1:])
        total += sum(int(table[name].split()[0]) for name in PRIVATE)
    return total / 2**10


def plain(path: Path) -> Iterator[int]:
    """The file from its start to its end, nothing done to it; bytes as they are read."""
    buffer = bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            yield size


def in_order(path: Path, workers: int) -> Iterator[int]:
    """All data as they stand, as all are passed over before training."""
    for chunk in chunks(Mapped(path, workers)):
        yield chunk.nbytes


def shuffled(path: Path, workers: int, batch_size: int) -> Iterator[int]:
    """Batches of a random order, as training reads them."""
    stream = Mapped(path, workers)
    for batch in batches(stream, batch_size, torch.randperm(len(stream))):
        yield batch.nbytes


def trained(path: Path, workers: int, batch_size: int) -> Iterator[int]:
    """Compiled steps of the network 784-200-200-50 on these batches; of the first rows, in memory, without workers."""
    torch.manual_seed(0)
    vae = build(Spec((WIDTH,), 50, likelihood="gaussian", network=MLP))
    svi = SVI(vae.model, vae.guide, ADAM, ELBO(), reduction="mean")
    svi.compile(batch_size=batch_size)
    stream = Mapped(path, workers)
    data = Split(stream if workers else stream[:RESIDENT], AsStored())
    svi.step(data[:batch_size])
    yield 0  # from here on it counts
    while True:
        for batch in data.later(torch.randperm(len(data)), batch_size):
            svi.step(batch)
            yield batch.size * WIDTH * 4


WAYS: dict[str, tuple[Callable[..., Iterator[int]], tuple[int, ...]]] = {
    "plain, from start to end": (plain, ()),
    "in order": (in_order, (0,)),
    "in order, 2 workers": (in_order, (2,)),
    "shuffled, batches of 100": (shuffled, (0, 100)),
    "shuffled, batches of 100, 2 workers": (shuffled, (2, 100)),
    "shuffled, batches of 1,000, 2 workers": (shuffled, (2, 1000)),
    "training, batches of 100, 2 workers": (trained, (2, 100)),
    "training, batches of 100, data in memory": (trained, (0, 100)),
}


def measured(name: str, path: Path, seconds: float) -> str:
    """A line of the table."""
    function, options = WAYS[name]
    forget(path)
    before = most = private()
    with closing(function(path, *options)) as reading:
        next(reading)  # workers are there, and steps compiled
        begun, total, looked = time.perf_counter(), 0, 0.0
        for size in reading:
            total, taken = total + size, time.perf_counter() - begun
            if taken > looked + LOOKED:
                looked, most = taken, max(most, private())
            if taken > seconds:
                break
    cells = (
        name,
        f"{total / taken / WIDTH / 4:,.0f}",
        f"{total / taken / 1e6:,.0f}",
        f"{most - before:,.0f}",
        f"{total / 1e9:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each way")
    parser.add_argument("--only", default="", help="ways whose name begins so")
    parser.add_argument("--keep", action="store_true", help="leave the file there")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = options.folder / "streaming.npy"
    if options.way:
        print(measured(options.way, path, options.seconds))
        return
    if not path.exists():
        written(path, round(options.gigabytes * 1e9 / WIDTH / 4))
    command = [sys.executable, "-m", "benchmarks.streaming", *sys.argv[1:], "--way"]
    try:
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|", flush=True)
        for name in filter(lambda name: name.startswith(options.only), WAYS):
            subprocess.run([*command, name], check=True)
    finally:
        if not options.keep:
            path.unlink()


if __name__ == "__main__":
    main()
