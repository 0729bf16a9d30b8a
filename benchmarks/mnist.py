"""Train and evaluate each member on MNIST with one seed: `python -m benchmarks.mnist FOLDER`.

Runs that the folder holds already are not done again. Prints a table in Markdown. `PYRO_VAE_DATA` names the folder with
the data, as for the programs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.runs import LATENT_DIM, NETWORK, RUNS, seconds_of

EVALUATION = "evaluation-test-limit1000-k5000.json"


def run(program: str, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", f"pyro_vae.{program}", *map(str, arguments)], check=True
    )


def train(folder: Path, choice: dict[str, str], epochs: int, seed: int) -> None:
    members = [
        part for axis, member in choice.items() for part in (f"--{axis}", member)
    ]
    run(
        "train",
        "--dataset",
        "mnist",
        "--likelihood",
        "bernoulli",
        "--binarize",
        "dynamic",
        "--latent-dim",
        LATENT_DIM,
        "--network",
        NETWORK,
        "--batch-size",
        100,
        "--epochs",
        epochs,
        "--seed",
        seed,
        "--compile",
        "yes",
        "--overwrite",
        "--output",
        folder,
        *members,
    )


def row(name: str, folder: Path) -> str:
    seconds = seconds_of(folder)
    if not (folder / EVALUATION).is_file():
        return f"| {name} | | | | | {seconds:.0f} |"
    s = json.loads((folder / EVALUATION).read_text())
    log_p, elbo = s["log_marginal"], s["elbo"]
    return (
        f"| {name} | {log_p['mean']:.2f} ± {log_p['data_standard_error']:.2f} ± "
        f"{log_p['monte_carlo_standard_error']:.3f} | {elbo['mean']:.2f} | {s['kl']['mean']:.1f} | "
        f"{s['latents']['active_units']} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folders = {
        name: options.folder / name.split(",")[0].replace(" ", "-").lower()
        for name in RUNS
    }
    for name, folder in folders.items():
        if not (folder / "metrics.csv").is_file():
            train(folder, RUNS[name], options.epochs, options.seed)
        if not (folder / EVALUATION).is_file() and name != "Delta":
            run("evaluate", folder, "--limit", 1000)
    print(
        "| member | test log p(x) | ELBO | KL | active | seconds |\n|---|---|---|---|---|---|"
    )
    for name, folder in folders.items():
        print(row(name, folder).replace("-", "−"))


if __name__ == "__main__":
    main()
