"""How time and memory grow with each size: `python -m benchmarks.scaling`.

Training, evaluation, encoding and sampling of a VAE of two hidden layers on binary data, one size changed at a time,
each measurement a process of its own on one thread. Seconds are those of the processor, medians, so that other
programs hardly move them; memory is the peak beyond what programs and compiler take. A slope is that of the straight
line through the logarithms: 1 where twice the size takes twice as much; in brackets that between the two largest sizes.
`--only training` measures one program; `--ranks 1 2 4` steps that processes share, by the clock.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contestants import ADAM
from pyro_vae import SVI, VAE, Spec, build, log_marginal, log_marginal_adaptive
from pyro_vae.evaluation.moments import encode
from pyro_vae.inference.fit import run_epochs
from pyro_vae.spec import parse

FACTORS = 16  # behind the data
FIRST = 2000  # data that the pair has seen before it is evaluated
ENOUGH = 3.0  # seconds after which nothing is done again
TIMES = 5  # that something is done at most
COMPARABLE = 0.001  # of a MiB or a second: less is taken for so much
HEADS = ("program", "size", "from", "to", "seconds", "slope", "MiB", "slope")


@dataclass(frozen=True)
class Sizes:
    """What a measurement is of."""

    data: int = 2000
    dimensions: int = 784
    latents: int = 20
    hidden: int = 200
    particles: int = 1

    @property
    def network(self) -> str:
        return f"mlp(hidden=({self.hidden}, {self.hidden}))"

    def pair(self) -> VAE:
        """A pair as it is made."""
        torch.manual_seed(0)
        spec = Spec(
            (self.dimensions,),
            self.latents,
            likelihood="bernoulli",
            network=self.network,
        )
        return build(spec)

    def values(self, count: int) -> Tensor:
        """Binary data with a few factors behind them."""
        torch.manual_seed(1)
        directions = torch.randn(FACTORS, self.dimensions)
        x = torch.empty(count, self.dimensions)
        for rows in x.split(1000):
            logits = torch.randn(len(rows), FACTORS) @ directions
            rows.copy_(torch.bernoulli(logits.sub_(1).sigmoid_()))
        return x


def stepping(sizes: Sizes, *, compile: bool) -> tuple[VAE, SVI]:
    """A pair, and what trains it."""
    vae = sizes.pair()
    several = f"iwae(num_particles={sizes.particles})"
    objective = parse("objective", "elbo" if sizes.particles == 1 else several)
    svi = SVI(vae.model, vae.guide, ADAM, objective(), reduction="mean")
    if compile:
        svi.compile(batch_size=100)
        svi.step(torch.zeros(100, sizes.dimensions))
    return vae, svi


def epochs(svi: SVI, x: Tensor) -> None:
    """One of them."""
    for _ in run_epochs(svi, x, epochs=1, batch_size=100, compile=False):
        pass


def trained(sizes: Sizes) -> VAE:
    """A pair that has seen some data."""
    vae, svi = stepping(replace(sizes, particles=1), compile=False)
    epochs(svi, sizes.values(FIRST))
    return vae


def training(sizes: Sizes) -> Callable[[], object]:
    """An epoch of compiled steps on batches of 100."""
    _, svi = stepping(sizes, compile=True)
    freed()
    x = sizes.values(sizes.data)
    return lambda: epochs(svi, x)


def default(sizes: Sizes) -> Callable[[], object]:
    """The value of log p(x) that an evaluation gives by default."""
    vae, x = trained(sizes), sizes.values(sizes.data)
    return lambda: log_marginal_adaptive(
        vae, x, num_particles=sizes.particles, compile=False
    )


def weighted(sizes: Sizes) -> Callable[[], object]:
    """The same by draws of the guide alone."""
    vae, x = trained(sizes), sizes.values(sizes.data)
    count = sizes.particles
    return lambda: log_marginal(
        vae.model, vae.guide, x, num_particles=count, compile=False
    )


def encoding(sizes: Sizes) -> Callable[[], object]:
    """Mean and standard deviation of the latents of data."""
    vae, x = sizes.pair(), sizes.values(sizes.data)
    return lambda: encode(vae, x)


def sampling(sizes: Sizes) -> Callable[[], object]:
    """As many draws from the prior as there are data."""
    vae = sizes.pair()
    return lambda: vae.sample(sizes.data)


PROGRAMS: dict[str, tuple[Callable[[Sizes], Callable[[], object]], Sizes]] = {
    "training": (training, Sizes()),
    "evaluation": (default, Sizes(data=4, particles=5000)),
    "evaluation, draws of the guide": (weighted, Sizes(data=64, particles=1000)),
    "encoding": (encoding, Sizes(data=8000)),
    "sampling": (sampling, Sizes(data=8000)),
}
USUAL: dict[str, tuple[int, ...]] = {
    "dimensions": (196, 784, 3136, 12_544),
    "latents": (8, 32, 128, 512),
    "hidden": (64, 256, 1024, 2048),
}
MANY = {"data": (4000, 16_000, 64_000, 256_000), **USUAL}
SWEPT: dict[str, dict[str, tuple[int, ...]]] = {
    "encoding": MANY,
    "sampling": MANY,
    "training": {
        "data": (1000, 4000, 16_000, 64_000),
        **USUAL,
        "particles": (1, 4, 16, 64),
    },
    "evaluation, draws of the guide": {
        "data": (16, 64, 256, 1024),
        **USUAL,
        "particles": (250, 1000, 4000, 16_000),
    },
    "evaluation": {
        "data": (2, 4, 8, 16),
        "dimensions": (196, 392, 784, 1568),
        "latents": (8, 16, 32, 64),
        "hidden": (64, 128, 256, 512),
        "particles": (500, 2000, 8000, 32_000),
    },
}


# ----------------------------------------------------------------------------------------------------------------------


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through the logarithms of some values over those of sizes, by least squares.

    Values that are too small to be told from nothing are taken for `COMPARABLE`.

    >>> slope([10, 100, 1000], [3, 300, 30_000])
    2.0
    """
    x = np.log(np.asarray(sizes, float))
    y = np.log(np.maximum(values, COMPARABLE))
    x, y = x - x.mean(), y - y.mean()
    return round(float(x @ y / (x @ x)), 6)


def resident(name: str) -> float:
    """`VmRSS` or `VmHWM`, its most so far, in MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def freed() -> None:
    """Let the most so far be what is there now."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(name: str, sizes: Sizes) -> tuple[float, float]:
    """Seconds of the processor, and MiB."""
    torch.set_num_threads(1)
    make, _ = PROGRAMS[name]
    # What is loaded at first use, the compiler with it, is no part of any size.
    small = Sizes(data=100, dimensions=16, latents=2, hidden=8, particles=2)
    make(small)()
    before = resident("VmRSS")
    freed()
    run, seconds = make(sizes), []
    while len(seconds) < TIMES and sum(seconds) < ENOUGH:
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds), resident("VmHWM") - before


def cell(name: str, sizes: Sizes) -> tuple[float, float]:
    """The same in a process of its own."""
    what = json.dumps({"name": name, **asdict(sizes)})
    command = [sys.executable, "-m", "benchmarks.scaling", "--cell", what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, check=False)
    if found.returncode:
        print(found.stderr.decode()[-2000:], file=sys.stderr)
        return math.nan, math.nan
    seconds, memory = json.loads(found.stdout.splitlines()[-1])
    return seconds, memory


def row(name: str, axis: str) -> str:
    """A line of the table."""
    _, usual = PROGRAMS[name]
    sizes = SWEPT[name][axis]
    found = [cell(name, replace(usual, **{axis: size})) for size in sizes]
    seconds, memory = zip(*found, strict=True)
    return line(name, axis, sizes, seconds, memory)


def line(
    name: str,
    axis: str,
    sizes: Sequence[int],
    seconds: Sequence[float],
    memory: Sequence[float],
) -> str:
    """A line of the table in Markdown; slopes over all sizes, and between the largest two."""
    cells = [name, axis, f"{sizes[0]:,}", f"{sizes[-1]:,}"]
    for values, digits in ((seconds, 3), (memory, 0)):
        cells.append(", ".join(f"{value:,.{digits}f}" for value in values))
        last = slope(sizes[-2:], values[-2:])
        cells.append(f"{slope(sizes, values):.2f} ({last:.2f})")
    return f"| {' | '.join(cells)} |".replace("-", "−")


def shared(counts: Sequence[int]) -> None:
    """Steps that so many processes share, by `benchmarks.processes`."""
    for count in counts:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        words = [*command, str(count), "-m", "benchmarks.processes"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *words], env=environment, check=True)


def main() -> None:
    """The table, or one cell of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="programs whose name begins so")
    parser.add_argument("--axis", default="", help="sizes whose name begins so")
    parser.add_argument("--ranks", type=int, nargs="+", metavar="N")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        wanted: dict[str, Any] = options.cell
        print(json.dumps(measured(wanted.pop("name"), Sizes(**wanted))))
        return
    if options.ranks:
        shared(options.ranks)
        return
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|", flush=True)
    for name, axes in SWEPT.items():
        for axis in axes:
            if name.startswith(options.only) and axis.startswith(options.axis):
                print(row(name, axis), flush=True)


if __name__ == "__main__":
    main()
