"""A VampPrior on small data: `python -m benchmarks.pseudo_inputs FOLDER`.

The recipe of Tomczak & Welling 2018, with and without its warm-up, on the drawings of `benchmarks.hard` as fixed bits
and on digits: log p(x) of test data under the standard prior and under VampPriors, with paired differences to the
first. Runs that the folder holds are not done again. `PYRO_VAE_DATA` names the folder with the data.
"""

import argparse
import json
from pathlib import Path

from benchmarks.hard import drawings
from benchmarks.mnist import run
from benchmarks.runs import epochs_of
from pyro_vae._evaluations import read_evaluation
from pyro_vae.evaluation.paired import Comparison, compare

WARM = ("--objective", "annealed(epochs=100)")
NORMALISED = (
    "--optimizer",
    "adamnormgrad",
    "--guide",
    "meanfield(log_variance=(-6,2))",
)
RECIPE = (
    *(
        "--latent-dim",
        40,
        "--network",
        "gatedmlp(hidden=(300,300))",
        "--batch-size",
        100,
    ),
    *("--epochs", 660, "--patience", 50, "--learning-rate", 0.0005, "--seed", 0),
)
ROWS: dict[str, tuple[str, ...]] = {
    "standard normal": (),
    "standard normal, warm-up": WARM,
    "VampPrior, 50": ("--prior", "vampprior(pseudo_inputs=50)"),
    "VampPrior, 50, warm-up": ("--prior", "vampprior(pseudo_inputs=50)", *WARM),
    "VampPrior, 500": ("--prior", "vampprior"),
    "VampPrior, 500, warm-up": ("--prior", "vampprior", *WARM),
    "VampPrior, 500, warm-up, normalised": ("--prior", "vampprior", *WARM, *NORMALISED),
}


def place(folder: Path, name: str) -> Path:
    """Where the run of a row is kept."""
    return folder / name.replace(", ", "-").replace(" ", "-").lower()


def stem(limit: int | None) -> str:
    """The name of the evaluation."""
    return "evaluation" if limit is None else f"evaluation-test-limit{limit}-k5000"


def done(folder: Path, dataset: object, limit: int | None) -> Comparison:
    """All rows of one data set, trained and evaluated where they are not there."""
    found = {}
    for name, options in ROWS.items():
        kept = place(folder, name)
        if not (kept / "last.safetensors").is_file():
            run(
                "train",
                "--dataset",
                dataset,
                *RECIPE,
                *options,
                "--output",
                kept,
                "--overwrite",
            )
        if not (kept / f"{stem(limit)}.json").is_file():
            run("evaluate", kept, *(() if limit is None else ("--limit", limit)))
        found[name] = read_evaluation(kept, stem(limit)).columns
    return compare(found)


def table(folder: Path, limit: int | None, comparison: Comparison) -> str:
    """A line for each row: its epochs, validation ELBO, log p(x), and the difference to the first."""
    first, *_ = ROWS
    lines = [
        "| prior | best epoch | validation ELBO | log p(x) | difference |",
        "|---" * 5 + "|",
    ]
    for name in ROWS:
        kept = place(folder, name)
        best = json.loads((kept / f"{stem(limit)}.json").read_text())["epoch"]
        elbo = float(epochs_of(kept)[best - 1]["validation_elbo"])
        mean = comparison.methods[name].mean
        d = comparison.pair(name, first)
        less = "" if name == first else f"{d.mean:.2f} ± {d.standard_error:.2f}"
        told = f" ({d.told})" if less and d.told else ""
        lines.append(f"| {name} | {best} | {elbo:.2f} | {mean:.2f} | {less}{told} |")
    return "\n".join(lines).replace(" -", " −")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "omniglot.npz"
    if not data.is_file():
        drawings(data)
    for name, dataset, limit in (("drawings", data, 100), ("digits", "digits", None)):
        own = folder / name
        print(f"\n{name}\n\n{table(own, limit, done(own, dataset, limit))}")


if __name__ == "__main__":
    main()
