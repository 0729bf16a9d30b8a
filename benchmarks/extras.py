"""What is done beside a step: `python -m benchmarks.extras`.

Whole epochs of compiled steps with an average of the weights, shortened gradients, weight decay or a schedule of the
rate, as multiples of an epoch with none of them; the network 784-200-200-50 on 10,000 images of grey levels, all in
turn in one process. Gradients of a length of 1 are shortened in every step, those of a million in none.
"""

import argparse
from typing import Any

import torch

from benchmarks.contestants import ADAM, MLP, Step
from benchmarks.training import timed
from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.data.bridges import DynamicBits
from pyro_vae.data.fields import Split
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.schedules import Schedule, burda, constant, cosine

SIZE = 10_000
PLAIN = "none of them"
EXTRAS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "average=0.999": {"average": 0.999},
    "clip_norm=1": {"clip_norm": 1.0},
    "clip_norm=1000000": {"clip_norm": 1e6},
    "weight_decay=0.0001": {"weight_decay": 1e-4},
    "schedule=cosine": {"schedule": cosine},
    "schedule=burda": {"schedule": burda},
}


def epoch(
    batch_size: int,
    *,
    size: int = SIZE,
    schedule: Schedule = constant,
    **options: Any,
) -> Step:
    """An epoch of steps with some of them."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8)
    data = Split(images, DynamicBits(255.0))
    vae = build(Spec((28, 28), 50, network=MLP))
    svi = SVI(vae.model, vae.guide, ADAM, ELBO(), reduction="mean", **options)
    svi.compile(batch_size=batch_size)

    def run() -> None:
        for _ in run_epochs(
            svi,
            data,
            epochs=1,
            batch_size=batch_size,
            schedule=schedule,
            compile=False,
        ):
            pass

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=15, help="timings of each (default: 15)"
    )
    options = parser.parse_args()
    print(f"| batch | an epoch | {' | '.join(list(EXTRAS)[1:])} |")
    print("|---" * (len(EXTRAS) + 1) + "|")
    for batch_size in (20, 100, 1000):
        steps = {name: epoch(batch_size, **extra) for name, extra in EXTRAS.items()}
        found = timed(steps, rounds=options.rounds, seconds=0.03, device="cpu")
        plain = found[PLAIN]
        cells = [f"{found[name] / plain:.2f}" for name in list(EXTRAS)[1:]]
        print(
            f"| {batch_size} | {1000 * plain:.0f} ms | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
