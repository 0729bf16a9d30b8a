"""How long a training step takes with each member, against the first, and compiled: `python -m benchmarks.steps`.

One process, one thread, steps of 100 binary images taken in turn, medians. Prints a table in Markdown.
"""

import argparse
import itertools
import statistics
import time

import torch

from benchmarks.runs import LATENT_DIM, NETWORK, RUNS
from pyro_vae import SVI, Spec, build
from pyro_vae.build import parse

BATCH, SHAPE = 100, (28, 28)


def prepare(objective: str = "elbo", *, compile: bool, **members: str) -> SVI:
    """The step of a fresh pair."""
    vae = build(Spec(SHAPE, LATENT_DIM, network=NETWORK, **members))
    vae.model.prior.initialise(torch.rand(max(1, vae.model.prior.examples), *SHAPE).round())
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        parse("objective", objective)(),
        reduction="mean",
        compile=compile,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each member (default: 40)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(BATCH, *SHAPE).round()
    ways = list(itertools.product(RUNS, (False, True)))
    steps = {way: prepare(**RUNS[way[0]], compile=way[1]) for way in ways}
    for svi in steps.values():
        svi.step(x)  # traces, compiles
    seconds: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, svi in steps.items():
            svi.step(x)  # not timed: the caches are another member's
            started = time.perf_counter()
            svi.step(x)
            seconds[way].append(time.perf_counter() - started)
    medians = {way: 1000 * statistics.median(values) for way, values in seconds.items()}
    first = medians[ways[0]]
    print("| member | ms a step | times the first | compiled | times uncompiled |\n|---|---|---|---|---|")
    for name in RUNS:
        plain, compiled = medians[name, False], medians[name, True]
        print(f"| {name} | {plain:.1f} | {plain / first:.2f} | {compiled:.1f} | {compiled / plain:.2f} |")


if __name__ == "__main__":
    main()
