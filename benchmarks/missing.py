"""Imputation of Wine and Adult beside scikit-learn's ways: `python -m benchmarks.missing`.

Tables and masks are those of Nazábal et al. 2020, of which 20 % or 50 % of all cells are hidden completely at random.
Errors are of the hidden cells: of numbers the root mean squared error in standard deviations of the column, of
categories the share that is wrong, each the mean over columns. One run, one seed, the same cells for all. Writes
`results-missing.json` and the table of docs/missing.md. `PYRO_VAE_DATA` names the folder with `hivae/`.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # the import makes the next one work
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from benchmarks.__main__ import HERE, write
from pyro_vae import IWAE, Spec, Table, build, fit, imputations
from pyro_vae.foundation.files import write_atomically
from pyro_vae.inference.schedules import SCHEDULES

RESULTS = HERE / "results-missing.json"
PAGE = HERE.parent / "docs" / "missing.md"
NAMES = {
    "Wine": [
        *(
            "fixed acidity",
            "volatile acidity",
            "citric acid",
            "residual sugar",
            "chlorides",
        ),
        *(
            "free sulfur dioxide",
            "total sulfur dioxide",
            "density",
            "pH",
            "sulphates",
            "alcohol",
        ),
        *("quality", "colour"),
    ],
    "Adult": [
        *(
            "age",
            "workclass",
            "fnlwgt",
            "education",
            "marital",
            "occupation",
            "relationship",
        ),
        *("race", "sex", "capital gain", "capital loss", "hours"),
    ],
}
ROWS = 6497  # of Adult too: the nearest neighbours of more take hours
SHARES = (20, 50)


def read(name: str, share: int) -> tuple[pandas.DataFrame, np.ndarray, list[bool]]:
    """A table, which of its cells are hidden, `(N, D)`, and which columns are categories."""
    folder = Path(os.environ["PYRO_VAE_DATA"]) / "hivae" / name
    whole = pandas.read_csv(folder / "data.csv", header=None, names=NAMES[name])[:ROWS]
    kinds = pandas.read_csv(folder / "data_types.csv")["type"].tolist()
    hidden = np.zeros(whole.shape, bool)
    cells = np.loadtxt(folder / f"Missing{share}_1.csv", delimiter=",", dtype=int) - 1
    cells = cells[cells[:, 0] < len(whole)]
    hidden[cells[:, 0], cells[:, 1]] = True
    hidden &= whole.notna().to_numpy()  # Adult lacks some of its own
    categories = [kind in ("cat", "ordinal") for kind in kinds]
    for i in np.flatnonzero(
        categories
    ):  # a category that is never seen cannot be guessed
        cells_of = whole.iloc[:, i]
        hidden[:, i] &= cells_of.isin(cells_of[~hidden[:, i]]).to_numpy()
    return whole, hidden, categories


def errors(
    guess: np.ndarray, whole: np.ndarray, hidden: np.ndarray, coded: list[bool]
) -> Any:
    """Of numbers RMSE / std, of categories the share that is wrong, each the mean over columns."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for i, category in enumerate(coded):
        off = (guess[:, i] - whole[:, i])[hidden[:, i]]
        wrong = np.mean(np.abs(off) > 0.5)
        found[category].append(
            wrong if category else np.sqrt(np.mean(off**2)) / whole[:, i].std()
        )
    return {
        "numbers": float(np.mean(found[False])),
        "categories": float(np.mean(found[True])),
    }


def others(holed: np.ndarray, coded: list[bool]) -> dict[str, np.ndarray]:
    """The guesses of scikit-learn, on columns in standard units; those of categories are rounded to one that occurs."""
    mean, std = np.nanmean(holed, 0), np.nanstd(holed, 0)
    x = (holed - mean) / std
    modes = SimpleImputer(strategy="most_frequent").fit_transform(holed)
    ways = {
        "column mean, or mode": SimpleImputer(),
        "KNNImputer()": KNNImputer(),
        "IterativeImputer()": IterativeImputer(random_state=0, max_iter=20),
    }
    found = {}
    for name, way in ways.items():
        guess = way.fit_transform(x) * std + mean
        for i in np.flatnonzero(coded):
            low, high = np.nanmin(holed[:, i]), np.nanmax(holed[:, i])
            guess[:, i] = guess[:, i].round().clip(low, high)
            if name.startswith("column"):
                guess[:, i] = modes[:, i]
        found[name] = guess
    return found


def ours(
    whole: pandas.DataFrame, hidden: np.ndarray, coded: list[bool], epochs: int
) -> tuple[np.ndarray, float]:
    """Our guess, and log p(x_hidden | x_seen) in nats for each hidden cell, numbers in standard units."""
    seen = whole.where(~hidden)
    numbers = [
        name for name, category in zip(whole, coded, strict=True) if not category
    ]
    mean, std = seen[numbers].mean(), seen[numbers].std(ddof=0)
    standard = whole.astype(float)
    standard[numbers] = (whole[numbers] - mean) / std
    likelihood = ", ".join(
        f"{name}={'gaussian' if name in numbers else 'categorical'}" for name in whole
    )
    table = Table(standard.where(~hidden), likelihood, missing=True)
    torch.manual_seed(0)
    vae = build(Spec(table.shape, 10, likelihood=table.likelihood, missing=True))
    options = {"objective": IWAE(num_particles=10), "schedule": SCHEDULES["cosine"]}
    fit(vae, table.x, epochs=epochs, batch_size=200, learning_rate=2e-3, **options)
    found = imputations(
        vae.eval(), table.x, num_particles=500, hidden=table.see(standard)
    )
    guess = table.frame(found.point)
    guess[numbers] = guess[numbers] * std + mean
    assert found.log_hidden is not None
    return guess.to_numpy(float), found.log_hidden.sum().item() / int(hidden.sum())


def measure(name: str, share: int, epochs: int) -> dict[str, Any]:
    """The errors of all ways on one table."""
    whole, hidden, coded = read(name, share)
    holed = whole.to_numpy(float).copy()
    holed[hidden] = np.nan
    found = {}
    for way, guess in others(holed, coded).items():
        found[way] = errors(guess, whole.to_numpy(float), hidden, coded)
    started = time.perf_counter()
    guess, log_hidden = ours(whole, hidden, coded, epochs)
    found["a VAE"] = errors(guess, whole.to_numpy(float), hidden, coded)
    found["a VAE"] |= {
        "log_hidden": log_hidden,
        "seconds": round(time.perf_counter() - started),
    }
    return found


def text(results: dict[str, Any]) -> str:
    """The table of the page."""
    cells = [f"{name} {share} %" for name, of in results.items() for share in of]
    lines = [
        f"| numbers (RMSE / std), categories (share wrong) | {' | '.join(cells)} |",
        f"|---|{'---|' * len(cells)}",
    ]
    every = [of[share] for of in results.values() for share in of]
    for way in every[0]:
        shown = (
            f"{each[way]['numbers']:.3f}, {each[way]['categories']:.3f}"
            for each in every
        )
        lines.append(f"| {way} | {' | '.join(shown)} |")
    nats = (f"{each['a VAE']['log_hidden']:.2f}" for each in every)
    return "\n".join(
        [
            *lines,
            f"| its log p of a hidden cell given those seen | {' | '.join(nats)} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.missing", description=__doc__
    )
    parser.add_argument(
        "--epochs", type=int, default=100, help="of training (default: 100)"
    )
    parser.add_argument(
        "--tables", nargs="*", default=list(NAMES), help="which (default: all)"
    )
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.tables:
        for share in SHARES:
            found = measure(name, share, options.epochs)
            results.setdefault(name, {})[str(share)] = found
            print(name, share, json.dumps(found, indent=2), flush=True)
            kept = json.dumps(results, indent=1) + "\n"
            write_atomically(RESULTS, lambda path, kept=kept: path.write_text(kept))  # type: ignore[misc]
    write(PAGE, "missing", text(results))


if __name__ == "__main__":
    main()
