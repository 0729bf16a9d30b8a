"""A whole training epoch against its bare steps: what data, binarization and logging cost."""

from typing import Any

import torch

from benchmarks.contestants import ADAM, MLP, Step
from benchmarks.training import timed
from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.data.bridges import DynamicBits
from pyro_vae.data.fields import Split
from pyro_vae.inference.fit import run_epochs

SIZE, BATCH = 10_000, 100


def contestants(device: str) -> dict[str, Step]:
    """An epoch of grey bytes on the device, shuffled and binarized anew; and as many steps on batches made before."""
    torch.manual_seed(0)
    data = Split(
        torch.randint(0, 256, (SIZE, 28, 28), dtype=torch.uint8), DynamicBits(255.0)
    ).to(device)
    batches = [data[torch.arange(i, i + BATCH)] for i in range(0, SIZE, BATCH)]

    def svi() -> SVI:
        vae = build(Spec((28, 28), 50, network=MLP)).to(device)
        return SVI(vae.model, vae.guide, ADAM, ELBO(), reduction="mean", compile=True)

    whole, bare = svi(), svi()

    def epoch() -> None:
        for _ in run_epochs(whole, data, epochs=1, batch_size=BATCH, compile=False):
            pass

    def steps() -> None:
        for batch in batches:
            bare.step(batch)

    return {"whole epoch": epoch, "bare steps": steps}


def run(*, rounds: int, device: str) -> tuple[str, dict[str, Any]]:
    """A sentence, and the medians in seconds."""
    medians = timed(contestants(device), rounds=rounds, seconds=0.03, device=device)
    ratio = medians["whole epoch"] / medians["bare steps"]
    text = f"An epoch of {SIZE:,} images takes {ratio:.2f} times as long as its {SIZE // BATCH} steps alone."
    return text, {"size": SIZE, "batch_size": BATCH, "seconds": medians}
