"""Do the defaults learn? `python -m benchmarks.defaults`: one change of the default pair at a time, 2 to 100 latents.

Each cell is a short run from the start that the command line gives: 260 steps on digits, 300 on MNIST, enough to tell a
collapse, as latents that are given up have a KL below 0.1 nats by then and stay there; not enough to compare members.
Cells that the results hold already are not run again, and each is written as soon as it is done. Writes
`results-defaults.json` and the table of docs/benchmarks.md. `PYRO_VAE_DATA` names the folder with MNIST.
"""

import argparse
import json
import sys
import time
from typing import Any

import torch

from benchmarks.__main__ import HERE, write
from pyro_vae._cli.training import resolve
from pyro_vae.evaluation.latents import ACTIVE, COLLAPSED, activity
from pyro_vae.foundation.files import write_atomically
from pyro_vae.inference.fit import run_epochs
from pyro_vae.networks import ACTIVATIONS
from pyro_vae.train import prepare

RESULTS = HERE / "results-defaults.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"
LATENTS = (2, 10, 20, 50, 100)
# Epochs over how many rows at most.
SETS = {
    "digits": (20, 10**6),
    "mnist": (1, 30_000),
}

NETWORKS = ("linear", "gatedmlp", "convnet", "gatedconv", "resnet")
GUIDES = (
    "fullrank",
    "lowrank",
    "householder",
    "mixture",
    "planar",
    "sylvester",
    "iaf",
    "nsf",
)
LOCAL = ("semiamortized", "local")
PRIORS = ("laplace", "gaussianmixture", "vampprior", "flow")
REALS = ("gaussian", "laplace", "studentt", "continuousbernoulli", "beta")
LEVELS = ("categorical", "discretizedlogistic", "discretizedlogisticmixture")
COUNTS = ("poisson", "negativebinomial", "zeroinflated")
CHANGES: dict[str, list[str]] = {
    "defaults": [],
    **{f"network {name}": ["--network", name] for name in NETWORKS},
    **{
        f"activation {name}": ["--network", f"mlp(activation='{name}')"]
        for name in ACTIVATIONS
        if name != "relu"
    },
    "one hidden layer": ["--network", "mlp(hidden=(200,))"],
    **{f"guide {name}": ["--guide", name] for name in (*GUIDES, *LOCAL)},
    **{f"prior {name}": ["--prior", name] for name in PRIORS},
    **{f"likelihood {n}": ["--likelihood", n, "--dequantize"] for n in REALS},
    **{f"likelihood {name}": ["--likelihood", name] for name in (*LEVELS, *COUNTS)},
    "binarize threshold": ["--binarize", "threshold"],
    "objective iwae": ["--objective", "iwae"],
    "objective stl": ["--objective", "stl"],
    "seed 1": ["--seed", "1"],
    "seed 2": ["--seed", "2"],
}


def run(dataset: str, latents: int, options: list[str]) -> dict[str, Any]:
    """One cell: validation ELBO and KL in nats per datum, and how many latents are active."""
    epochs, rows = SETS[dataset]
    binarize = (
        []
        if {"--likelihood", "--binarize"} & set(options)
        else ["--binarize", "dynamic"]
    )
    likelihood = [] if "--likelihood" in options else ["--likelihood", "bernoulli"]
    size = ["--latent-dim", str(latents), "--epochs", str(epochs)]
    started = time.process_time()
    job = prepare(
        resolve(["--dataset", dataset, *size, *likelihood, *binarize, *options])[0]
    )
    assert job.validation is not None
    held_out = job.validation.first(500)
    *_, last = run_epochs(
        job.svi,
        job.train.first(rows),
        epochs=epochs,
        validation=held_out,
        compile=False,
    )
    job.vae.eval()
    (moves,) = activity(job.vae.guide, held_out.first(200)[:], draws=20).values()
    return {
        "elbo": round(last.validation_elbo, 2),
        "kl": round(last.validation_kl, 2),
        "active": int((moves > ACTIVE).sum()),
        "collapsed": last.validation_kl < COLLAPSED,
        "seconds": round(time.process_time() - started, 1),
    }


def table(cells: dict[str, Any]) -> str:
    """In Markdown: the KL and the active latents of each cell; a collapsed one stands out."""
    heads = [f"{dataset}, {n}" for dataset in SETS for n in LATENTS]
    heads = [
        head for head in heads if any(key.startswith(f"{head}, ") for key in cells)
    ]
    lines = [f"| | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    for name in CHANGES:
        found = [cells.get(f"{head}, {name}") for head in heads]
        if any(found):
            lines.append(f"| {name} | {' | '.join(map(cell, found))} |")
    return "\n".join(lines)


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    text = f"{found['kl']:.1f} ({found['active']})"
    return f"**{text}**" if found["collapsed"] else text


def save(cells: dict[str, Any]) -> None:
    text = json.dumps({"torch": torch.__version__, "cells": cells}, indent=1) + "\n"
    write_atomically(RESULTS, lambda path: path.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults", description=__doc__
    )
    parser.add_argument("--dataset", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--latents", nargs="+", type=int, choices=LATENTS, default=LATENTS
    )
    parser.add_argument(
        "--only", default="", help="rows whose name begins so, such as 'guide'"
    )
    options = parser.parse_args()
    cells = json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else {}
    for dataset in options.dataset:
        for name, change in CHANGES.items():
            for latents in options.latents:
                key = f"{dataset}, {latents}, {name}"
                if key in cells or not name.startswith(options.only):
                    continue
                cells[key] = run(dataset, latents, change)
                print(key, cells[key], file=sys.stderr, flush=True)
                save(cells)
    write(PAGE, "defaults", table(cells))
    print(table(cells))
    collapsed = [key for key, found in cells.items() if found["collapsed"]]
    print(
        f"\n{len(collapsed)} of {len(cells)} collapsed: {'; '.join(collapsed) or 'none'}"
    )


if __name__ == "__main__":
    main()
