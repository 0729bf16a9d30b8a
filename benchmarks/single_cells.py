"""scVI beside the same model of ours: `python -m benchmarks.single_cells`, with the packages of the extra `bench`.

700 blood cells and 765 genes, the data that scanpy ships (`pbmc68k_reduced`), their counts recovered from the rounded
logarithms that it stores; given are the library size and the phase of the cell cycle. Both are
`p(z) p(x|z,c,total)` with zero-inflated negative binomial counts, 10 latents, a hidden layer of 128, the same Adam and
batches, without dropout and normalisation. A fifth of the cells is held out, a tenth chooses the epoch. Writes
`results-single-cells.json` and the table of docs/conditions.md.
"""

import argparse
import json
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.__main__ import HERE, write
from pyro_vae import Spec, build, elbo, fit, log_marginal
from pyro_vae.foundation.files import write_atomically

RESULTS = HERE / "results-single-cells.json"
PAGE = HERE.parent / "docs" / "conditions.md"
LATENTS, HIDDEN, BATCH, RATE = 10, 128, 128, 1e-3
PARTICLES = 1000
SCVI, OURS = "scvi-tools", "pyro_vae"


def cells() -> Any:
    """The data with whole counts: `exp(x) - 1` of the raw values in units of the least of each cell."""
    import scanpy

    data = scanpy.datasets.pbmc68k_reduced()
    relative = np.expm1(data.raw.X.toarray().astype(np.float64))
    one = np.array([row[row > 0].min() for row in relative])
    counts = relative / one[:, None]
    whole = counts.round()
    assert np.abs(counts - whole).max() < 0.2, "no counts can be recovered"
    data = data.raw.to_adata()
    data.X = whole.astype(np.float32)
    return data


def divided(n: int, seed: int) -> dict[str, np.ndarray]:
    """The places of the cells of each split, sorted."""
    order = np.random.default_rng(seed).permutation(n)
    test, validation, train = np.split(order, [n // 5, n // 5 + n // 10])
    splits = {"train": train, "validation": validation, "test": test}
    return {name: np.sort(places) for name, places in splits.items()}


def scvi_numbers(
    data: Any, splits: dict[str, np.ndarray], epochs: int
) -> dict[str, float]:
    """Held-out ELBO and log p(x) of scVI by its own methods, nats per cell, and the seconds of its training."""
    from scvi import model as scvi_models

    data = data.copy()
    scvi_models.SCVI.setup_anndata(data, batch_key="phase")
    plain = {"use_batch_norm": "none", "use_layer_norm": "none", "dropout_rate": 0.0}
    model = scvi_models.SCVI(
        data,
        n_hidden=HIDDEN,
        n_latent=LATENTS,
        n_layers=1,
        gene_likelihood="zinb",
        **plain,
    )
    started = time.perf_counter()
    model.train(
        max_epochs=epochs,
        batch_size=BATCH,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        datasplitter_kwargs={"external_indexing": list(splits.values())},
        plan_kwargs={"lr": RATE, "weight_decay": 0.0, "n_epochs_kl_warmup": None},
    )
    seconds = time.perf_counter() - started
    # In one batch: the mean of log p(x) is a mean of batch means there, whatever the batches hold.
    whole = {"batch_size": len(data)}
    numbers = {
        s: float(model.get_elbo(indices=splits[s], **whole))
        for s in ("validation", "test")
    }
    log_px = model.get_marginal_ll(
        indices=splits["test"], n_mc_samples=PARTICLES, **whole
    )
    return {**numbers, "log_px": float(log_px), "seconds": seconds}


def our_numbers(
    x: Tensor, c: Tensor, splits: dict[str, np.ndarray], epochs: int
) -> dict[str, float]:
    """The same of ours."""
    likelihood = "zeroinflated(likelihood=negativebinomial(size='observed'))"
    network = f"mlp(hidden=({HIDDEN},))"
    vae = build(
        Spec(
            (x.shape[1],),
            LATENTS,
            network=network,
            likelihood=likelihood,
            context=c.shape[1],
        )
    )
    of = {s: {"x": x[places], "c": c[places]} for s, places in splits.items()}
    started = time.perf_counter()
    fit(vae, of["train"], epochs=epochs, batch_size=BATCH, learning_rate=RATE)
    seconds = time.perf_counter() - started
    vae.eval()
    numbers = {
        s: elbo(vae.model, vae.guide, of[s], num_particles=10).elbo
        for s in ("validation", "test")
    }
    result = log_marginal(vae.model, vae.guide, of["test"], num_particles=PARTICLES)
    return {**numbers, "log_px": result.estimate.mean, "seconds": seconds}


def measure(seed: int, every: list[int]) -> dict[str, dict[str, float]]:
    """Both, each after the epochs that suit its validation ELBO best."""
    import scvi

    data = cells()
    splits = divided(len(data), seed)
    x = torch.from_numpy(np.asarray(data.X))
    phases, codes = np.unique(data.obs["phase"].astype(str), return_inverse=True)
    c = torch.nn.functional.one_hot(torch.from_numpy(codes), len(phases)).float()
    best: dict[str, dict[str, float]] = {}
    for epochs in every:
        scvi.settings.seed = seed
        results = {SCVI: scvi_numbers(data, splits, epochs)}
        torch.manual_seed(seed)
        results[OURS] = our_numbers(x, c, splits, epochs)
        for name, numbers in results.items():
            print(seed, epochs, name, numbers, flush=True)
            if name not in best or numbers["validation"] > best[name]["validation"]:
                best[name] = {**numbers, "epochs": epochs}
    return best


def text(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table, means and standard deviations over seeds."""
    lines = [
        "| | ELBO | log p(x given c, total) | epochs | ms an epoch |",
        "|---|---|---|---|---|",
    ]
    for name in (SCVI, OURS):
        runs = [result[name] for result in results.values()]

        def over(key: str, runs: list[dict[str, float]] = runs) -> str:
            values = [run[key] for run in runs]
            return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"

        epochs = ", ".join(str(run["epochs"]) for run in runs)
        pace = np.median([1000 * run["seconds"] / run["epochs"] for run in runs])
        lines.append(
            f"| {name} | {over('test')} | {over('log_px')} | {epochs} | {pace:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.single_cells", description=__doc__
    )
    parser.add_argument(
        "--epochs", type=int, nargs="*", default=[25, 50, 100, 200, 400]
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = {}
    for seed in options.seeds:
        results[str(seed)] = measure(seed, options.epochs)
        kept = json.dumps(results, indent=1) + "\n"
        write_atomically(RESULTS, lambda path, kept=kept: path.write_text(kept))  # type: ignore[misc]
    write(PAGE, "single cells", text(results))


if __name__ == "__main__":
    main()
