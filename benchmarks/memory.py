"""The peak memory of a large evaluation: `python -m benchmarks.memory --data 10000 --particles 50000`.

A decoder of 2 latents, 8 hidden units and 28 x 28 bits, without training: the memory of a draw is that of its 784
outputs, whatever made them. Prints one line in Markdown.
"""

import argparse
import resource
import sys
import time

import torch

from pyro_vae import Spec, build, log_marginal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=int, default=10_000, help="images (default: 10000)"
    )
    parser.add_argument(
        "--particles", type=int, default=50_000, help="draws for each (default: 50000)"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = build(Spec((28, 28), 2, likelihood="bernoulli", network="mlp(hidden=(8,))"))
    x = torch.rand(options.data, 28, 28).round()
    # The number is in bytes there, in KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    started = time.perf_counter()
    log_marginal(vae.model, vae.guide, x, num_particles=options.particles)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(
        f"| {options.data:,} | {options.particles:,} | {before:.0f} | {peak:.0f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
