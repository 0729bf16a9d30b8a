"""What a number that can be believed costs: `python -m benchmarks.roads RUN`.

Every way to log p(x) on the same test data of a trained run, each in a process of its own: seconds, those for each
datum that is certified, and the memory beyond what the programs and the run take. A datum is certified where the Pareto
k of its weights is at most 0.7 and its standard error below 0.1 nats, or its bounds are within 0.3 nats.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae import (
    VAE,
    annealed_importance_sampling,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_bracket,
    log_marginal_refined,
    open_run,
)
from pyro_vae.evaluation.bracket import Bracketed
from pyro_vae.evaluation.results import PARETO_LIMIT, LogMarginal

CLOSE = 0.1
HEADS = ("road", "log p(x)", "certified", "seconds", "seconds a certified datum", "MiB")


def of_guide(vae: VAE, x: Tensor, *, num_particles: int) -> LogMarginal:
    """By draws of the guide alone."""
    return log_marginal(vae.model, vae.guide, x, num_particles=num_particles)


ROADS: dict[str, Callable[[Any, Tensor], Any]] = {
    "5,000 draws of the guide": partial(of_guide, num_particles=5000),
    "50,000 draws of the guide": partial(of_guide, num_particles=50_000),
    "5,000 draws of the refined guide": log_marginal_refined,
    "chains from the prior": lambda vae, x: annealed_importance_sampling(
        vae.model, x, num_chains=32
    ),
    "chains from the guide": lambda vae, x: annealed_importance_sampling(
        vae.model, x, guide=vae.guide, num_chains=32
    ),
    "where they are needed, the default": lambda vae, x: log_marginal_adaptive(vae, x)[
        0
    ],
    "bounds from both sides": log_marginal_bracket,
}


def peak() -> float:
    """The most memory so far, MiB; the number is in bytes on macOS, in KiB elsewhere."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measured(name: str, run: str, limit: int) -> str:
    """A line of the table."""
    opened = open_run(run, device="cpu")
    x = opened.split("test").first(limit)[:]
    before, begun = peak(), time.perf_counter()
    torch.manual_seed(0)
    found = ROADS[name](opened.vae, x)
    seconds = time.perf_counter() - begun
    if isinstance(found, Bracketed):
        count = int(found.certified.sum())
        mean = f"{found.lower.mean():.2f} to {found.upper.mean():.2f}"
    else:
        sure = (found.pareto_k <= PARETO_LIMIT) & (found.standard_errors < CLOSE)
        count, mean = int(sure.sum()), f"{found.mean:.2f}"
    cost = f"{seconds / count:.3f}" if count else "none"
    cells = (
        name,
        mean,
        f"{count} of {len(x)}",
        f"{seconds:.1f}",
        cost,
        f"{peak() - before:.0f}",
    )
    return f"| {' | '.join(cells)} |".replace("-", "−")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="the run folder")
    parser.add_argument(
        "--limit", type=int, default=100, help="test data (default: 100)"
    )
    options = parser.parse_args()
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name in ROADS:
        alone = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=alone) as pool:
            print(
                pool.submit(measured, name, options.run, options.limit).result(),
                flush=True,
            )


if __name__ == "__main__":
    main()
