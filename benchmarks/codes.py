"""Codes beside reals, with the same networks: `python -m benchmarks.codes FOLDER`, on MNIST or another named set.

The two-part code of a codebook and the log p(x) of categorical codes, beside log p(x) of 50 continuous latents. Runs
and evaluations that the folder holds already are not done again. Prints a table in Markdown. `PYRO_VAE_DATA` names the
folder with the data, as for the programs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.mnist import run
from benchmarks.runs import NETWORK, seconds_of

# Latents and their members, by what is printed.
RUNS: dict[str, list[Any]] = {
    "50 reals, `meanfield`": ["--latent-dim", 50],
    "10 variables of 16 values, `categorical`": [
        *("--latent-dim", 160),
        *("--prior", "categorical(levels=16)", "--guide", "categorical(levels=16)"),
        *("--objective", "annealed(objective=gumbelsoftmax, epochs=1)"),
    ],
    "10 of 16 words, `codebook`": [
        *("--latent-dim", 50, "--guide", "codebook(size=16, groups=10)"),
    ],
    "10 of 256 words, `codebook`": [
        *("--latent-dim", 50, "--guide", "codebook(size=256, groups=10)"),
    ],
    "1 of 512 words, `codebook`": [
        *("--latent-dim", 50, "--guide", "codebook(size=512)"),
    ],
}


def row(name: str, folder: Path, evaluated: Path) -> str:
    """A line of the table."""
    s = json.loads(evaluated.read_text())
    log_p, unused = s["log_marginal"], s["latents"].get("perplexity")
    exact = "" if s["two_part"] else f"{log_p['mean']:.2f}"
    code = f"{s['elbo']['mean']:.2f}" if s["coded"] else ""
    bits = s["bits_per_dimension"]
    used = "" if unused is None else f"{sum(unused) / len(unused):.0f}"
    cells = [
        exact,
        code or f"({s['elbo']['mean']:.2f})",
        f"{s['reconstruction']['mean']:.2f}",
        f"{s['kl']['mean']:.2f}",
        f"{log_p['data_standard_error']:.2f}",
        f"{bits:.4f}",
        used,
        f"{seconds_of(folder):.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |".replace("| -", "| −").replace("(-", "(−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1000, help="test data")
    options = parser.parse_args()
    shared = [
        "--dataset",
        options.dataset,
        "--network",
        NETWORK,
        "--epochs",
        options.epochs,
    ]
    shared += ["--seed", options.seed, "--likelihood", "bernoulli", "--overwrite"]
    lines = [
        "| latents | log p(x) | log p(x, code) (or ELBO) | log p(x\\|z) | KL | ± data | bits per pixel | perplexity | "
        "seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, members in RUNS.items():
        stem = name.split(", ")[0].replace(" ", "-") + "-" + name.split("`")[1]
        folder = options.folder / stem
        evaluated = folder / "judged.json"
        if not evaluated.is_file():
            if not (folder / "metrics.csv").is_file():
                run("train", *shared, "--output", folder, *members)
            asked = ["--limit", options.limit, "--num-particles", 1000]
            run("evaluate", folder, *asked)
            files = folder.glob("evaluation*.json")
            newest = max(files, key=lambda path: path.stat().st_mtime)
            evaluated.write_text(newest.read_text())
        lines.append(row(name, folder, evaluated))
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
