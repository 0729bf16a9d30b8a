"""Training steps and codes beside programs that take cores: `python -m benchmarks.busy`.

Steps of an MLP 784-200-200-50 on 100 binary images, compiled and not, and the codes of 10,000 such images, by two
threads and by one, on a machine that does nothing else and beside 1, 2 and 8 processes that compute without end. Each
cell is a process of its own: milliseconds over two seconds, once there was time to see what others do. `--package
FOLDER` times another version of the package, such as a worktree of an older commit; `--only codes` one kind.
"""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.contestants import ADAM, MLP
from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.evaluation.moments import encode

BATCH, SEEN, TIMED = 100, 2.0, 2.0  # data in a step; seconds
LOADS = (0, 1, 2, 8)
CODED = 10_000  # data whose codes are computed at a time
KINDS = ("compiled", "not compiled", "codes")
THREADS = (2, 1)


def milliseconds(threads: int, kind: str) -> float:
    """A step or all codes, their mean over some seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vae = build(Spec((28, 28), 50, network=MLP))
    svi = SVI(vae.model, vae.guide, ADAM, ELBO(), reduction="mean")
    if kind == "compiled":
        svi.compile()
    x = torch.rand(CODED if kind == "codes" else BATCH, 28, 28).round()
    once = partial(encode, vae) if kind == "codes" else svi.step

    def steps(seconds: float) -> int:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds or count < 5:
            once(x)
            count += 1
        return count

    once(x)
    steps(SEEN)
    started = time.perf_counter()
    count = steps(TIMED)
    return 1000 * (time.perf_counter() - started) / count


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    """The table, or one cell of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=Path.cwd(), metavar="FOLDER")
    parser.add_argument("--only", default="", help="kinds whose name begins so")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(milliseconds(int(options.cell[0]), options.cell[1]))
        return
    environment = {**os.environ, "PYTHONPATH": str(options.package)}
    command = [sys.executable, "-m", "benchmarks.busy", "--cell"]
    heads = [f"{n} others" for n in LOADS]
    print(f"| step | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
    kinds = [kind for kind in KINDS if kind.startswith(options.only)]
    for kind, threads in itertools.product(kinds, THREADS):
        cells = []
        for others in LOADS:
            with load(others):
                cell = [*command, str(threads), kind]
                found = subprocess.run(
                    cell,
                    env=environment,
                    cwd=options.package,
                    capture_output=True,
                    check=True,
                )
            cells.append(f"{float(found.stdout):.1f} ms")
        print(f"| {kind}, threads: {threads} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
