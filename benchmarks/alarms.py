"""False alarms of a comparison: `python -m benchmarks.alarms FOLDER`.

Trains one method, the digits for 30 epochs, with 48 seeds, and evaluates each by 500 draws of the guide for each test
datum. Then sets of these seeds that have none in common are compared, as if they were two methods, again and again: the
share in which two are told apart should be 5 %. Single runs are compared beside them, as trained models.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.mnist import run
from pyro_vae.evaluation.paired import compare

SEEDS = 48
TRIES = 2000
EPOCHS = 30


def runs_of(folder: Path) -> list[dict[str, np.ndarray]]:
    """The evaluations of all seeds, which are trained where they are not there."""
    found = []
    for seed in range(SEEDS):
        place = folder / f"digits-seed{seed}"
        arrays = place / "evaluation.npz"
        if not arrays.is_file():
            options = [
                "--epochs",
                EPOCHS,
                "--seed",
                seed,
                "--output",
                place,
                "--overwrite",
            ]
            run("train", *options)
            run("evaluate", place, "--num-particles", 500)
        with np.load(arrays) as stored:
            found.append(dict(stored))
    return found


def alarms(runs: list[dict[str, np.ndarray]], size: int) -> str:
    """A line of the table: how often sets of so many seeds are told apart."""
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(TRIES):
        chosen = [runs[i] for i in rng.permutation(SEEDS)[: 2 * size]]
        found = compare({"first": chosen[:size], "other": chosen[size:]})
        count += found.pair("first", "other").distinguishable
    return f"| {size} | {100 * count / TRIES:.1f} % |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    runs = runs_of(parser.parse_args().folder)
    spread = np.std([r["values"].mean() for r in runs], ddof=1)
    print(f"means of {SEEDS} seeds: standard deviation {spread:.4f} nats\n")
    print("| seeds of each | told apart |\n|---|---|")
    for size in (1, 2, 3, 5, 10):
        print(alarms(runs, size))


if __name__ == "__main__":
    main()
