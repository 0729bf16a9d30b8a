"""Published results beside ours: `python -m benchmarks.published FOLDER`.

Trains every recipe of `recipes/` with its seeds, `--only NAME` those named, and evaluates the best weights by 5,000
draws for each test datum, as the publications do, and 500 test data by the default, which says how far that number is
short of log p(x). Runs that the folder holds are not done again, and one that was cut off goes on. `--table` prints
what is there. `PYRO_VAE_DATA` names the folder with the data, as for the programs.
"""

import argparse
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mnist import run
from benchmarks.runs import epochs_of, seconds_of

RECIPES = Path(__file__).parent.parent / "recipes"
ROWS = RECIPES / "published.toml"
PLAIN = "evaluation"  # by 5,000 draws of the guide
SOME = "evaluation-test-limit500-k5000"
HEADS = (
    "recipe",
    "epochs (theirs)",
    "seeds",
    "-log p(x), 5,000 draws",
    "published",
    "distance",
    "-ELBO",
    "active",
    "more by the default",
    "seconds",
    "how sure",
)


def train(name: str, folder: Path, seed: int) -> None:
    """The run of a recipe with one seed; one that was cut off goes on."""
    recipe = RECIPES / f"{name}.toml"
    epochs = tomllib.loads(recipe.read_text())["epochs"]
    if not (folder / "last.safetensors").is_file():
        run(
            "train",
            "--config",
            recipe,
            "--seed",
            seed,
            "--output",
            folder,
            "--overwrite",
        )
    elif not (folder / f"{PLAIN}.json").is_file() and len(epochs_of(folder)) < epochs:
        run("train", "--resume", folder)


def evaluate(folder: Path) -> None:
    """What of the two evaluations is not there."""
    if not (folder / f"{PLAIN}.json").is_file():
        run("evaluate", folder, "--ask", "weighted")
    if not (folder / f"{SOME}.json").is_file():
        run("evaluate", folder, "--limit", 500)


def numbers(folder: Path, bits: bool) -> dict[str, float]:
    """Of one run: what a row averages."""
    s = json.loads((folder / f"{PLAIN}.json").read_text())
    few = json.loads((folder / f"{SOME}.json").read_text())
    with (
        np.load(folder / f"{PLAIN}.npz") as whole,
        np.load(folder / f"{SOME}.npz") as some,
    ):
        of_some = dict(zip(whole["row"], whole["values"], strict=True))
        short = some["values"] - [of_some[row] for row in some["row"]]
    found = {
        "value": s["bits_per_dimension"] if bits else -s["log_marginal"]["mean"],
        "elbo": -s["elbo"]["mean"],
        "active": s["latents"]["active_units"] if "latents" in s else float("nan"),
        "short": float(short.mean()),
        "doubtful": few["pareto_k"]["above_limit"],
        "epochs": len(epochs_of(folder)),
        "seconds": seconds_of(folder),
    }
    return {key: float(value) for key, value in found.items()}


def row(name: str, about: Mapping[str, Any], folder: Path) -> str | None:
    """A line of the table, of the seeds that are there."""
    bits = "unit" in about
    places = [folder / f"{name}-seed{seed}" for seed in about["seeds"]]
    done = [numbers(p, bits) for p in places if (p / f"{SOME}.json").is_file()]
    if not done:
        return None
    means = {key: np.mean([one[key] for one in done]) for key in done[0]}
    spread = (
        f" ± {np.std([one['value'] for one in done], ddof=1):.2f}"
        if len(done) > 1
        else ""
    )
    theirs = f" ({about['epochs']:,})" if "epochs" in about else ""
    cells = [
        f"`{name}`",
        f"{means['epochs']:,.0f}{theirs}",
        str(len(done)),
        f"{means['value']:.2f}{spread}{' bits' if bits else ''}",
        f"{about['published']}",
        f"{means['value'] - about['published']:+.2f}",
        f"{means['elbo']:.2f}",
        f"{means['active']:.0f}",
        f"{means['short']:.2f}",
        f"{means['seconds']:,.0f}",
        ", ".join(filter(None, (about["sure"], about.get("note")))),
    ]
    return f"| {' | '.join(cells)} |".replace(" -", " −")


def main() -> None:
    """Train what is asked for, and print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these recipes")
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of their own")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    rows = tomllib.loads(ROWS.read_text())
    unknown = [name for name in options.only or () if name not in rows]
    if unknown:
        parser.error(f"no recipe {', '.join(unknown)}; there are {', '.join(rows)}")
    for name in options.only or rows:
        if options.seeds:
            rows[name]["seeds"] = options.seeds
        for seed in () if options.table else rows[name]["seeds"]:
            place = options.folder / f"{name}-seed{seed}"
            train(name, place, seed)
            evaluate(place)
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name in options.only or rows:
        line = row(name, rows[name], options.folder)
        if line is not None:
            print(line)


if __name__ == "__main__":
    main()
