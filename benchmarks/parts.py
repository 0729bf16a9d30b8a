"""Where the time of a compiled training step goes: `python -m benchmarks.parts`.

Of a step inside an epoch, the same without what epochs do, its graph alone, the products of the graph alone, and Adam
alone, which take turns in one process. Medians, and what each part adds as a share of the whole. `--products torch`
has PyTorch's BLAS multiply in the graphs, as they do on a processor where it is as fast as oneDNN.
"""

import argparse
import os
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.contestants import ADAM, Setting, Step, products
from benchmarks.training import timed
from pyro_vae import SVI, VAE
from pyro_vae.data.bridges import DynamicBits
from pyro_vae.data.fields import Split
from pyro_vae.engine.affine import PRODUCTS, use_products, usual_products
from pyro_vae.inference.fit import run_epochs
from pyro_vae.spec import parse

STEPS = 50  # of an epoch that is timed
SETTINGS = [
    *(Setting("MLP", n) for n in (20, 100, 1000)),
    Setting("ConvNet", 100, network="convnet"),
    Setting("IWAE, K = 50", 20, objective="iwae(num_particles=50)"),
]
HEADS = ("products", "rest of the graph", "Adam", "call", "look-up, bits and loop")


def trained(setting: Setting, library: str) -> tuple[VAE, SVI]:
    """A pair with its compiled step."""
    vae = setting.vae()
    use_products(vae, library)
    objective = parse("objective", setting.objective)()
    options = {"reduction": "mean", "compile": True}
    return vae, SVI(vae.model, vae.guide, ADAM, objective, **options)


def epoch(setting: Setting, library: str) -> Step:
    """Steps of an epoch over grey images that are shuffled, and binarized at each visit."""
    _, svi = trained(setting, library)
    size = STEPS * setting.batch_size
    grey = torch.randint(0, 256, (size, *setting.shape), dtype=torch.uint8)
    data = Split(grey, DynamicBits(255.0))

    def steps() -> None:
        epochs = {"epochs": 1, "batch_size": setting.batch_size, "compile": False}
        for _ in run_epochs(svi, data, **epochs):
            pass

    steps.steps = STEPS  # type: ignore[attr-defined]
    return steps


def whole_and_parts(setting: Setting, library: str) -> dict[str, Step]:
    """A step on a batch that is at hand, its graph and its update."""
    _, svi = trained(setting, library)
    x = setting.batches()()
    svi.step(x)
    graph: list[Callable[[], object]] = []
    compiled = svi._compiled
    assert compiled is not None
    entry = compiled._last[1]
    assert entry is not None
    run = entry.run

    def kept(*inputs: Tensor) -> object:
        graph[:] = [lambda: run(*inputs)]
        return run(*inputs)

    entry.run = kept  # type: ignore[assignment]
    svi.step(x)
    entry.run = run
    (_, *gradients), used, _ = svi._differentiated((x,), {})
    parameters = [svi._pair.parameters()[i] for i in used.moved]

    def graph_alone() -> None:
        with torch.no_grad():
            graph[0]()

    return {
        "step": lambda: svi.step(x),
        "graph": graph_alone,
        "Adam": lambda: svi._updates.step(parameters, gradients, fast=True),
    }


def row(setting: Setting, library: str, rounds: int) -> str:
    """What each part adds, in microseconds and as a share of a step of an epoch."""
    multiply = products(setting, by="ours" if library == "onednn" else "")
    steps = {"epoch": epoch(setting, library), **whole_and_parts(setting, library)}
    if multiply is not None:
        steps["products"] = multiply
    found = timed(steps, rounds=rounds, seconds=0.03, device="cpu")
    parts = (
        found.get("products", float("nan")),
        found["graph"] - found.get("products", float("nan")),
        found["Adam"],
        found["step"] - found["graph"] - found["Adam"],
        found["epoch"] - found["step"],
    )
    whole = found["epoch"]
    cells = [f"{1e6 * part:,.0f} ({part / whole:.0%})" for part in parts]
    name = f"{setting.name}, batch {setting.batch_size}"
    return f"| {name} | {1e6 * whole:,.0f} | {' | '.join(cells)} |"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="timings of each part")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--products", choices=PRODUCTS, default=usual_products())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"| step | microseconds | {' | '.join(HEADS)} |\n{'|---' * 7}|")
    for setting in SETTINGS:
        print(row(setting, options.products, options.rounds), flush=True)


if __name__ == "__main__":
    main()
