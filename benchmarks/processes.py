"""What processes cost: `torchrun --standalone --nproc-per-node 2 -m benchmarks.processes`.

Of a training step of the usual network on 784 bits, shared by the processes: how long it takes, and which part of that
is the exchange of gradients, with waiting for the slowest process. On one process, started without torchrun, the step
alone. Compiled steps, 200 of them, medians.
"""

import statistics
import time
from typing import Any

import torch

from pyro_vae import ELBO, MLP, SVI, VAE, Bernoulli, MeanField, StandardNormal
from pyro_vae.engine.processes import here, started
from pyro_vae.inference.joint import join

STEPS, WARM = 200, 30
BATCHES = (100, 400, 1600)


def timed(batch_size: int) -> tuple[float, float]:
    """Milliseconds of a step, and of the exchange in it."""
    torch.manual_seed(0)
    x = torch.rand(batch_size, 784).round()
    hidden = (200, 200)
    decoder = MLP((50,), (1, 784), hidden=hidden)
    guide = MeanField(MLP((784,), hidden=hidden), 50)
    vae = VAE(StandardNormal(50), decoder, Bernoulli((784,)), guide)
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        ELBO(),
        reduction="mean",
    )
    exchange = join(svi, x, batch_size)
    mine = here().share(batch_size)
    svi.compile(batch_size=len(mine))
    exchange.meet(batch_size)
    told, inside = exchange.step, []

    def watched(*args: Any) -> Any:
        begun = time.perf_counter()
        found = told(*args)
        inside.append(time.perf_counter() - begun)
        return found

    exchange.step = watched  # type: ignore[method-assign]
    steps = []
    for _ in range(WARM + STEPS):
        begun = time.perf_counter()
        svi.step_and_record(x[mine.start : mine.stop])
        steps.append(time.perf_counter() - begun)
    within = statistics.median(inside[WARM:]) if inside else 0.0
    return 1e3 * statistics.median(steps[WARM:]), 1e3 * within


def main() -> None:
    """Print a table."""
    with started("cpu") as processes:
        for batch_size in BATCHES:
            step, exchange = timed(batch_size)
            if processes.first:
                print(
                    f"{processes.world} processes, batch {batch_size}: {step:.2f} ms a step, {exchange:.2f} of them "
                    f"the exchange ({exchange / step:.0%})"
                )


if __name__ == "__main__":
    main()
