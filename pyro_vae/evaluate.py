"""`python -m pyro_vae.evaluate RUN`: the marginal log-likelihood of a trained run, with its errors."""

import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro

from pyro_vae._errors import InputError
from pyro_vae._program import Run, open_run, run, run_parser, whole
from pyro_vae.checkpoint import write_atomically
from pyro_vae.data import SPLITS
from pyro_vae.inference.diagnostics import pareto_k
from pyro_vae.inference.estimators import MEMORY, PARETO_LIMIT, LogMarginal, elbo, log_marginal
from pyro_vae.inference.latents import ACTIVE, activity
from pyro_vae.models.representation import Representation

__all__ = ["LogMarginal", "elbo", "evaluate", "log_marginal", "main", "pareto_k", "table"]


def evaluate(
    opened: Run,
    *,
    split: str = "test",
    limit: int | None = None,
    num_particles: int = 5000,
    memory: int = MEMORY,
    seed: int = 0,
) -> LogMarginal:
    """`log_marginal` for one split of a run, with a progress bar on a terminal.

    Args:
        opened: the run, from `open_run`.
        split: `'train'`, `'validation'` or `'test'`.
        limit: take this many data, spread evenly over the split.
        num_particles: K, as in `log_marginal`.
        memory: in bytes, as in `log_marginal`.
        seed: of the particles.
    """
    data = opened.split(split)
    data = data if limit is None else data.first(limit)
    pyro.set_rng_seed(seed)
    model, guide = opened.vae.model, opened.vae.guide
    if not sys.stderr.isatty():
        return log_marginal(model, guide, data, num_particles=num_particles, memory=memory)
    from tqdm import tqdm

    with tqdm(total=len(data) * num_particles, unit=" particles", unit_scale=True, leave=False) as bar:
        return log_marginal(model, guide, data, num_particles=num_particles, memory=memory, progress=bar.update)


def summary(opened: Run, result: LogMarginal, split: str) -> dict[str, Any]:
    """The numbers of the table under plain names: the content of `evaluation.json`."""
    variances = activity(opened.vae.guide, opened.split(split).first(1000))["z"] if len(result) > 1 else None
    dimensions, bridge = math.prod(opened.spec.shape), opened.bridge
    levels = bridge.levels

    def part(name: str) -> dict[str, float]:
        column = result.per_datum[name]
        error = column.std().item() / math.sqrt(len(result)) if len(result) > 1 else math.nan
        return {"mean": column.mean().item(), "data_standard_error": error}

    return {
        "run": str(opened.folder),
        "epoch": opened.epoch,
        "dataset": opened.data.name,
        "split": split,
        "data": len(result),
        "data_in_split": len(opened.data.values[split]),
        "representation": bridge.result(opened.data.representation).name,
        "bridge": str(bridge),
        "num_particles": result.num_particles,
        "log_marginal": {
            "mean": result.mean,
            "data_standard_error": result.data_standard_error,
            "monte_carlo_standard_error": result.monte_carlo_standard_error,
            "estimated_bias": result.bias,
        },
        "elbo": part("elbo"),
        "reconstruction": part("reconstruction"),
        "kl": part("kl"),
        "bits_per_dimension": result.bits_per_dimension(dimensions, levels),
        "bits_per_dimension_of": f"{levels} grey levels"
        if levels > 1
        else bridge.result(opened.data.representation).value,
        "ess": {"median": result.ess.median().item(), "least": result.ess.min().item()},
        "pareto_k": {
            "median": result.pareto_k.median().item(),
            "largest": result.pareto_k.max().item(),
            "above_limit": int(result.doubtful.sum()),
        },
        "verdict": result.verdict(),
        "active_units": None if variances is None else int((variances > ACTIVE).sum()),
        "spec": opened.spec.to_dict(),
    }


def table(s: dict[str, Any]) -> str:
    """The summary as a table for a person."""
    lines = [
        f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']} data, weights of epoch {s['epoch']}",
        f"seen as {Representation[s['representation']].value}, {s['bridge']}",
        "",
        f"{'nats per datum':<26}{'mean':>12}{'± data':>10}{'± Monte Carlo':>16}",
    ]
    marginal = s["log_marginal"]
    rows = [(f"log p(x), K = {s['num_particles']}", marginal), ("ELBO", s["elbo"])]
    rows += [("  reconstruction", s["reconstruction"]), ("  KL", s["kl"])]
    for name, row in rows:
        monte_carlo = f"{row['monte_carlo_standard_error']:>16.4f}" if "monte_carlo_standard_error" in row else ""
        lines.append(f"{name:<26}{row['mean']:>12.3f}{row['data_standard_error']:>10.3f}{monte_carlo}")
    lines += [
        f"{'bits per dimension':<26}{s['bits_per_dimension']:>12.4f}   ({s['bits_per_dimension_of']})",
        "",
        f"effective particles: median {s['ess']['median']:.1f}, least {s['ess']['least']:.1f} of {s['num_particles']}",
        f"Pareto k: median {s['pareto_k']['median']:.2f}, largest {s['pareto_k']['largest']:.2f}, "
        f"above {PARETO_LIMIT} for {s['pareto_k']['above_limit']} of {s['data']} data",
        f"estimated bias of the bound: {marginal['estimated_bias']:.4f} nats",
        s["verdict"],
    ]
    if s["active_units"] is not None:
        lines.append(
            f"active latents: {s['active_units']} of {s['spec']['latent_dim']} (posterior means vary over the data by "
            f"more than {ACTIVE})"
        )
    return "\n".join(lines)


def _json(value: Any) -> Any:
    """The same value with everything that JSON has no word for (inf, nan) as null."""
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    parser = run_parser("evaluate", "Estimate log p(x) of each datum by importance weighting; say how far to trust it.")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which data (default: test)")
    parser.add_argument("--limit", type=whole, metavar="N", help="at most N data, spread evenly over the split")
    parser.add_argument(
        "--num-particles", type=whole, default=5000, metavar="K", help="draws for each datum (default: 5000)"
    )
    parser.add_argument(
        "--memory", type=whole, default=MEMORY // 2**20, metavar="MiB", help="memory bound (default: 256)"
    )
    parser.add_argument("--netcdf", metavar="FILE", help="also write an ArviZ InferenceData")
    options = parser.parse_args(arguments)
    opened = open_run(options.run, checkpoint=options.checkpoint, device=options.device, data_dir=options.data_dir)
    netcdf = None if options.netcdf is None else Path(options.netcdf)
    if netcdf is not None and not netcdf.parent.is_dir():
        raise InputError(f"--netcdf {netcdf}: the folder {netcdf.parent} does not exist")
    if netcdf is not None and netcdf.is_dir():
        raise InputError(f"--netcdf {netcdf} is a folder; name a file")
    result = evaluate(
        opened,
        split=options.split,
        limit=options.limit,
        num_particles=options.num_particles,
        memory=options.memory * 2**20,
        seed=options.seed,
    )
    s = summary(opened, result, options.split)
    print(table(s))
    text = json.dumps(_json({**s, "seed": options.seed, "checkpoint": options.checkpoint}), indent=2)
    stem = "evaluation" if options.split == "test" else f"evaluation-{options.split}"
    written = [opened.folder / f"{stem}.json", opened.folder / f"{stem}.npz"]
    write_atomically(written[0], lambda path: path.write_text(text + "\n"))
    columns = {k: v.numpy() for k, v in result.per_datum.items()}
    write_atomically(written[1], lambda path: _save_npz(path, columns))
    if netcdf is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result.to_arviz().to_netcdf(str(netcdf))
        written.append(netcdf)
    print(f"\nwritten: {', '.join(map(str, written))}\nnext: python -m pyro_vae.sample {opened.folder}")


def _save_npz(path: Path, columns: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **columns)


if __name__ == "__main__":
    run("pyro_vae.evaluate", main)
