"""How long a training step takes with each member, against the first: `python -m benchmarks.steps`.

One process, one thread, steps of 100 binary images taken in turn, medians. Prints a table in Markdown.
"""

import argparse
import statistics
import time

import torch

from benchmarks.runs import LATENT_DIM, NETWORK, RUNS
from pyro_vae import SVI, Spec, build
from pyro_vae.spec import parse

BATCH, SHAPE = 100, (28, 28)


def prepare(objective: str = "elbo", **members: str) -> SVI:
    """The step of a fresh pair, with its first call done."""
    vae = build(Spec(SHAPE, LATENT_DIM, network=NETWORK, **members))
    vae.model.prior.initialise(
        torch.rand(max(1, vae.model.prior.examples), *SHAPE).round()
    )
    return SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        parse("objective", objective)(),
        reduction="mean",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        default=40,
        help="timed steps of each member (default: 40)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(BATCH, *SHAPE).round()
    steps = {name: prepare(**choice) for name, choice in RUNS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(options.rounds + 3):
        for name, svi in steps.items():
            started = time.perf_counter()
            svi.step(x)
            if i >= 3:
                seconds[name].append(time.perf_counter() - started)
    first = statistics.median(next(iter(seconds.values())))
    print("| member | ms a step | times the first |\n|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {1000 * median:.1f} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
