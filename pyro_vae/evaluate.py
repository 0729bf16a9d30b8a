"""`python -m pyro_vae.evaluate RUN`: the marginal log-likelihood of a trained run, with its errors."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.evaluate")  # before anything that takes time

from pyro_vae._cli.options import answer, evaluate_parser

if __name__ == "__main__":
    answer(evaluate_parser())  # before the imports, which take seconds

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure

from pyro_vae import __version__
from pyro_vae._cli.asked import asked
from pyro_vae._cli.drawing import Make, draw
from pyro_vae._cli.options import run
from pyro_vae._cli.outside import outside, separations
from pyro_vae._cli.scores import check_tables, identity, scores, write_tables
from pyro_vae._evaluations import digest, headline, plan_of, stem_of
from pyro_vae._remedies import remedy
from pyro_vae._rows import NEW, Rows, new_rows, own_rows
from pyro_vae.data import NAMED, Split, spread
from pyro_vae.data.representation import Representation
from pyro_vae.engine.memory import MEMORY
from pyro_vae.evaluation.adaptive import Effort, log_marginal_adaptive
from pyro_vae.evaluation.annealing import (
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    gradients_per_datum,
)
from pyro_vae.evaluation.diagnostics import pareto_k
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.latents import LatentHealth, latent_health
from pyro_vae.evaluation.posterior import CHAINS, FEWEST, PosteriorComparison, compare_posterior
from pyro_vae.evaluation.refinement import log_marginal_refined
from pyro_vae.evaluation.results import PARETO_LIMIT, LogMarginal
from pyro_vae.evaluation.weighting import log_marginal
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import subfolder, together, write_atomically
from pyro_vae.inference.bounds import elbo
from pyro_vae.inference.held import far_down
from pyro_vae.runs import check_output, on_run, public_command, public_path
from pyro_vae.trained import Run

MOST = 5  # wild data that are named

__all__ = ["LogMarginal", "elbo", "evaluate", "log_marginal", "main", "pareto_k", "table"]


def evaluate(
    opened: Run,
    *,
    split: str = "test",
    limit: int | None = None,
    data: Split | None = None,
    num_particles: int = 5000,
    memory: int = MEMORY,
    seed: int = 0,
    refine: int | None = None,
    adaptive: bool = False,
) -> tuple[LogMarginal, Effort | None]:
    """`log_marginal` for one split of a run, with a progress bar on a terminal; and how draws were spent, if adaptive.

    Args:
        opened: the run, from `open_run`.
        split: `'train'`, `'validation'` or `'test'`.
        limit: take this many data, spread evenly over the split.
        data: other data, as the run sees them, in place of those of a split.
        num_particles: K, as in `log_marginal`.
        memory: in bytes, as in `log_marginal`.
        seed: of the particles.
        refine: fit q(z|x) to each datum by so many gradient steps first, as `log_marginal_refined`.
        adaptive: spend draws where they are needed, as `log_marginal_adaptive`, refining by `refine` or 100 steps.
    """
    if data is None:
        data = own_rows(opened, split).first(limit).x
    pyro.set_rng_seed(seed)
    vae, options = opened.vae, dict[str, Any](num_particles=num_particles, memory=memory)

    with _progress("particles", None if adaptive else len(data) * num_particles) as options[
        "progress"
    ]:
        if adaptive:
            return log_marginal_adaptive(vae, data, steps=refine or 100, **options)
        if refine is not None:
            return log_marginal_refined(vae, data, steps=refine, **options), None
        return log_marginal(vae.model, vae.guide, data, **options), None


@contextmanager
def _progress(unit: str, total: int | None) -> Iterator[Callable[[int], Any]]:
    """What to call with the number of units done since the last call: it moves a bar, if there is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, disable=None) as bar:
        yield bar.update


def summary(
    opened: Run, result: LogMarginal, rows: Rows, health: LatentHealth | None = None
) -> dict[str, Any]:
    """The numbers of the table under plain names: the content of `evaluation.json`."""
    dimensions, bridge = math.prod(opened.spec.shape), opened.bridge
    levels = bridge.levels
    stored = Representation[opened.config["resolved"]["stored"]]

    sound = result.sound
    if not sound.any():
        raise InputError(
            f"none of the {rows.split} data has a finite log p(x) under the run {opened.folder}: its weights or these "
            "data are not what they were"
        )
    ess, pareto = result.ess[sound], result.pareto_k[sound]

    def part(name: str) -> dict[str, float]:
        column = result.per_datum[name][sound]
        error = column.std().item() / math.sqrt(len(column)) if len(column) > 1 else math.nan
        return {"mean": column.mean().item(), "data_standard_error": error}

    return {
        "run": public_path(opened.folder),
        "epoch": opened.epoch,
        "dataset": rows.dataset,
        "fingerprint": rows.fingerprint,
        "split": rows.split,
        "data": len(result),
        "data_in_split": rows.total,
        "representation": bridge.result(stored).name,
        "bridge": str(bridge),
        "num_particles": int(result.particles.max()),
        "least_particles": int(result.particles.min()),
        "log_marginal": {
            "mean": result.mean,
            "data_standard_error": result.data_standard_error,
            "monte_carlo_standard_error": result.monte_carlo_standard_error,
            "estimated_bias": result.bias,
        },
        "curve": {str(k): bound[sound].mean().item() for k, bound in result.curve.items()},
        "elbo": part("elbo"),
        "reconstruction": part("reconstruction"),
        "kl": part("kl"),
        "bits_per_dimension": result.bits_per_dimension(dimensions, levels),
        "bits_per_dimension_of": bridge.counted(stored),
        "ess": {"median": ess.median().item(), "least": ess.min().item()},
        "pareto_k": {
            "median": pareto.median().item(),
            "largest": pareto.max().item(),
            "above_limit": int(result.doubtful.sum()),
        },
        "verdict": result.verdict(),
        "wild": wild(rows, result.values),
        "latents": None if health is None else _latents(health, opened.config),
        "spec": opened.spec.to_dict(),
    }


def wild(rows: Rows, values: torch.Tensor) -> list[dict[str, Any]]:
    """The data whose log p(x) is not finite or so low that one of them moves the mean: which they are, and a sentence.

    Low is what `far_down` finds.
    """
    sound, deep = values.isfinite(), far_down(values)
    places = (~sound | deep).nonzero().flatten()
    rest = values[sound & ~deep]
    found: list[dict[str, Any]] = []
    for i in places.tolist():
        row, value = int(rows.rows[i]), values[i].item()
        if len(found) == MOST:
            sentence = (
                f"{len(places) - MOST} more data are like that; evaluation.npz has all values."
            )
            found.append({"row": None, "log_marginal": None, "sentence": sentence})
            break
        name = "" if rows.names is None else f" ({rows.names[i]})"
        what = "no finite log p(x) and is left out" if not sound[i] else f"log p(x) = {value:.4g}"
        sentence = (
            f"Row {row}{name} of the data has {what}; without such rows the mean of log p(x) is {rest.mean():.3f}: "
            "look at that row."
        )
        found.append({"row": row, "log_marginal": value, "sentence": sentence})
    return found


def _latents(health: LatentHealth, config: dict[str, Any]) -> dict[str, Any]:
    """The content of `latents` in `evaluation.json`."""
    return {
        "data": health.num_data,
        "active_units": health.active_units,
        "active_interval": list(health.active_interval),
        "activity": health.activity.tolist(),
        "kl": health.kl._asdict(),
        "kl_per_dimension": None
        if health.kl_per_dimension is None
        else health.kl_per_dimension.tolist(),
        "mutual_information": health.mutual_information._asdict(),
        "mutual_information_upper": health.mutual_information_upper,
        "mutual_information_bound": health.bound,
        "aggregated_kl": health.aggregated_kl._asdict(),
        "collapsed": health.collapsed,
        "verdict": health.verdict(),
        "remedy": remedy("collapsed", config) if health.collapsed else None,
    }


def table(s: dict[str, Any]) -> str:
    """The summary as a table for a person."""
    lines = [
        f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']} data, weights of epoch {s['epoch']}",
        f"seen as {Representation[s['representation']].value}, {s['bridge']}",
        "",
        f"{'nats per datum':<26}{'mean':>12}{'± data':>10}{'± Monte Carlo':>16}",
    ]
    marginal, least, most = s["log_marginal"], s["least_particles"], s["num_particles"]
    count = f"{most}" if least == most else f"{least} to {most}"
    rows = [(f"log p(x), K = {count}", marginal), ("ELBO", s["elbo"])]
    rows += [("  reconstruction", s["reconstruction"]), ("  KL", s["kl"])]
    for name, row in rows:
        cells = _cell(row["mean"], 12, 3) + _cell(row["data_standard_error"], 10, 3)
        if "monte_carlo_standard_error" in row:
            cells += _cell(row["monte_carlo_standard_error"], 16, 4)
        lines.append(f"{name:<26}{cells}")
    lines += [
        f"{'bits per dimension':<26}{s['bits_per_dimension']:>12.4f}   ({s['bits_per_dimension_of']})",
        "",
        f"effective particles: median {s['ess']['median']:.1f}, least {s['ess']['least']:.1f} of {count}",
        f"Pareto k: median {s['pareto_k']['median']:.2f}, largest {s['pareto_k']['largest']:.2f}, "
        f"above {PARETO_LIMIT} for {s['pareto_k']['above_limit']} of {s['data']} data",
        f"estimated bias of the bound: {marginal['estimated_bias']:.4f} nats",
        *(
            ["bound at K = " + ", ".join(f"{k}: {v:.3f}" for k, v in s["curve"].items())]
            if s["curve"]
            else []
        ),
        s["verdict"],
        *(w["sentence"] for w in s["wild"]),
    ]
    return "\n".join(lines)


def _cell(number: float, width: int, digits: int) -> str:
    """A number in a column of the table, in powers of ten where it would fill more than its column."""
    text = f"{number:{width}.{digits}f}"
    return text if len(text.strip()) < width else f"{number:{width}.2g}"


def _json(value: Any) -> Any:
    """The same value with everything that JSON has no word for (inf, nan) as null."""
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _options(arguments: Sequence[str]) -> Any:
    options = evaluate_parser().parse_args(arguments)
    if options.posterior_draws < FEWEST:
        raise InputError(
            f"--posterior-draws {options.posterior_draws} is too few: {FEWEST} are the least"
        )
    if options.netcdf is not None:
        options.netcdf = Path(options.netcdf)
        check_output(options.netcdf, "--netcdf")
    check_tables(options)
    if options.labels is not None and options.data is None:
        raise InputError("--labels goes with new data; name their file with --data FILE")
    return options


def _chosen(opened: Run, options: Any) -> Rows:
    """The rows that are evaluated: of new data all, else a split of the run's own."""
    new = None
    if options.data is not None:
        new = new_rows(opened, options.data, options.labels)
    if new is not None and options.split is not None:
        raise InputError(
            f"{options.data} is new to the run: all of its rows are taken, and --split {options.split} cannot be used"
        )
    rows = own_rows(opened, options.split or "test") if new is None else new
    options.split = rows.split
    return rows.first(options.limit)


def _more(
    opened: Run, rows: Rows, options: Any, s: dict[str, Any], columns: dict[str, Any]
) -> dict[str, Make]:
    """What `--gaps` and the options behind it ask for: print it, add it to the files; what makes figures, by name."""
    from pyro_vae import plots

    figures: dict[str, Make] = {}
    model, data = opened.vae.model, rows.x
    annealing = {
        "num_chains": options.chains,
        "num_temperatures": options.temperatures,
        "schedule": options.schedule,
    }
    start = opened.vae.guide if options.anneal_from == "guide" else None
    chains: dict[str, Any] = {"guide": start, "memory": options.memory * 2**20, **annealing}
    annealing["start"] = options.anneal_from
    if options.gaps:
        gaps = inference_gaps(opened.vae, data, num_particles=options.num_particles)
        s["gaps"] = {name: average._asdict() for name, average in gaps.averages.items()}
        print("\n".join(["", str(gaps), *_newly(rows, gaps.sound, columns, "gaps")]), flush=True)
    if options.ais:
        with _progress(
            "gradients", len(data) * gradients_per_datum(options.chains, options.temperatures)
        ) as progress:
            annealed = annealed_importance_sampling(model, data, progress=progress, **chains)
        columns |= {f"ais_{k}": v.numpy() for k, v in annealed.per_datum.items()}
        errors = ("data_standard_error", "monte_carlo_standard_error")
        s["ais"] = {name: getattr(annealed, name) for name in ("mean", *errors)} | annealing
        lost = _newly(rows, annealed.sound, columns, "annealed log p(x)")
        print("\n".join(["", f"Annealed importance sampling: {annealed}", *lost]), flush=True)
    if options.bdmc:
        total = options.bdmc * gradients_per_datum(options.chains, options.temperatures, ways=2)
        with _progress("gradients", total) as progress:
            sandwich = bidirectional_monte_carlo(model, options.bdmc, progress=progress, **chains)
        bounds = dict(zip(("lower", "upper"), sandwich.bounds, strict=True))
        bounds |= {"gap": sandwich.gap}
        s["bdmc"] = {
            "data": options.bdmc,
            **bounds,
            "gap_standard_error": sandwich.gap_standard_error,
        } | annealing
        print(f"\nBidirectional Monte Carlo: {sandwich}", flush=True)
    if options.ood:
        s["ood"] = {}
        for name, found, make in separations(opened, rows, s, options):
            s["ood"][Path(name).name] = found.to_dict()
            figures[f"ood-{Path(name).stem}"] = make
            kind = "test data" if name in NAMED else "rows"
            told = f"{name}: {len(found.outside)} of its {len(options.ood[name])} {kind}"
            print(f"\n{told}\n{found}", flush=True)
    if options.posterior:
        sound = torch.from_numpy(np.isfinite(columns["values"]))
        compared = _compare_posterior(
            opened, data, sound, options.posterior, options.posterior_draws
        )
        s["posterior"] = compared.to_dict()
        print(f"\nThe guide against the posterior: {compared}", flush=True)
        figures["posterior"] = partial(plots.posterior_pairs, compared)
    return figures


@alone()
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    from pyro_vae import plots

    options = _options(arguments)
    opened = asked(options)
    rows = _chosen(opened, options)
    outsiders = outside(opened, options)
    opened.announce()
    result, effort = evaluate(
        opened,
        data=rows.x,
        num_particles=options.num_particles,
        memory=options.memory * 2**20,
        seed=options.seed,
        refine=options.refine,
        adaptive=options.adaptive,
    )
    few = rows.x.among(result.sound).first(1000)
    health = _health(opened, few, result.sound, rows) if len(few) > 1 else None
    s = summary(opened, result, rows, health)
    s |= {"refinement_steps": options.refine or (100 if options.adaptive else None)}
    s |= {"effort": effort and str(effort), "roads": effort and effort.roads}
    columns = {
        **identity(rows),
        "num_particles": result.particles.numpy(),
        **{k: v.numpy() for k, v in result.per_datum.items()},
    }
    columns |= {} if effort is None else {"road": effort.road.numpy()}
    print(
        "\n\n".join(str(part) for part in (table(s), effort, health) if part is not None),
        flush=True,
    )
    if health is not None and health.collapsed:
        print(f"train again with {s['latents']['remedy']}", flush=True)
    plan = plan_of(options, refine=s["refinement_steps"] or 0)
    options.ood = outsiders
    figures = _more(opened, rows, options, s, columns)
    if result.curve:
        figures["bound_curve"] = partial(plots.bound_curve, result.curve)
    if health is not None:
        figures["aggregated_posterior"] = partial(_posterior, opened, few, health)
    s |= {"plan": plan, "seed": options.seed, "checkpoint": options.checkpoint}
    s |= {"versions": _versions(), "command": public_command("evaluate", arguments)}
    stem = stem_of(opened.folder, plan, s)
    written = _write(opened.folder, stem, s, columns)
    written += _tables(opened.folder / stem, rows, columns, result, options)
    drawn, failed = _draw(opened.folder, stem, s, figures)
    written += drawn
    if options.report:
        from pyro_vae.report import write_report

        written.append(opened.folder / f"{stem.replace('evaluation', 'report', 1)}.html")
        write_report(opened.folder, written[-1], evaluation=stem, data=rows.x)
    print(f"\nwritten: {', '.join(map(str, written))}")
    if rows.split != NEW and stem != headline(rows.split):
        print(_beside(opened.folder, rows.split))
    print(f"next: {_next(opened, rows, options)}")
    if failed:
        raise InputError(
            f"the evaluation is done and written to {written[0]}, but not drawn: {', '.join(failed)}"
        )


def _tables(
    stem: Path, rows: Rows, columns: dict[str, Any], result: LogMarginal, options: Any
) -> list[Path]:
    """Write the numbers of each datum to the files that are asked for, of new data also beside the evaluation."""
    each, written = scores(columns, rows.split), []
    if rows.split == NEW:
        written.append(stem.with_name(f"{stem.name}.csv"))
        write_atomically(written[-1], lambda path: each.to_csv(path, index=False))
    written += write_tables(each, options)
    if options.netcdf is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = result.to_arviz()
            write_atomically(options.netcdf, lambda path: tree.to_netcdf(str(path)))
        written.append(options.netcdf)
    return written


def _next(opened: Run, rows: Rows, options: Any) -> str:
    """The command that draws from the run, with the options that say where the run and its data are."""
    moved = options.data if rows.split != NEW else None
    given = {"data": moved, "data-dir": options.data_dir}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    words += ["--checkpoint=last"] if options.checkpoint == "last" else []
    return on_run("sample", opened.folder, *words)


def _write(folder: Path, stem: str, s: dict[str, Any], columns: dict[str, Any]) -> list[Path]:
    """Write the numbers of an evaluation, both files together."""
    told, arrays = folder / f"{stem}.json", folder / f"{stem}.npz"
    s |= {"figures": [], "arrays": digest(columns)}
    with together() as put:
        put(arrays, lambda path: _save_npz(path, columns))
        put(told, partial(_save_json, s=s))
    return [told, arrays]


def _draw(
    folder: Path, stem: str, s: dict[str, Any], figures: dict[str, Make]
) -> tuple[list[Path], list[str]]:
    """Draw the figures of an evaluation and name them in its file; which were drawn, and why others were not.

    The headline's figures lie in `figures/`, others in a folder of their own.
    """
    place = subfolder(folder, "figures")
    if stem != headline(s["split"]) or s["split"] != "test":
        place = subfolder(place, stem)
    drawn, failed = draw({place / f"{name}.png": make for name, make in figures.items()})
    s["figures"] = [path.relative_to(folder).as_posix() for path in drawn]
    write_atomically(folder / f"{stem}.json", partial(_save_json, s=s))
    return drawn, failed


def _beside(folder: Path, split: str) -> str:
    """What an evaluation that is not the headline leaves alone, for a person."""
    name = headline(split)
    if (folder / f"{name}.json").is_file():
        return f"kept: {folder / name}.json, the evaluation that report and comparison read"
    return f"the report and comparison read {name}.json, of all {split} data; there is none yet"


def _versions() -> dict[str, str]:
    return {"pyro_vae": __version__, "pyro": pyro.__version__, "torch": str(torch.__version__)}


def _health(opened: Run, few: Split, sound: torch.Tensor, rows: Rows) -> LatentHealth:
    """The latents of a few of the `sound` rows; what is left out is named by its row in the file."""
    health = latent_health(opened.vae.model, opened.vae.guide, few)
    places = sound.nonzero().flatten().numpy()
    taken = rows.rows[places[spread(len(few), len(places)).numpy()]]
    return replace(health, left_out=tuple(int(taken[i]) for i in health.left_out))


def _posterior(opened: Run, data: Any, health: LatentHealth) -> Figure:
    from pyro_vae import plots

    draws = [opened.vae.encode(data[i : i + 500]).sample() for i in range(0, len(data), 500)]
    prior = opened.vae.model.prior().sample((20_000,))
    return plots.aggregated_posterior(torch.cat(draws), prior, health.activity)


def _newly(rows: Rows, sound: torch.Tensor, columns: dict[str, Any], what: str) -> list[str]:
    """A sentence about data that have a finite log p(x), and yet no finite value of something else."""
    lost = (~sound.numpy() & np.isfinite(columns["values"])).nonzero()[0]
    if len(lost) == 0:
        return []
    some = ", ".join(str(int(rows.rows[i])) for i in lost[:MOST])
    more = f" and {len(lost) - MOST} more" if len(lost) > MOST else ""
    return [f"Without finite {what}, and left out: row {some}{more} of the data (from 0)."]


def _compare_posterior(
    opened: Run, data: Any, sound: torch.Tensor, count: int, draws: int
) -> PosteriorComparison:
    """`compare_posterior` for data spread evenly over the evaluated ones, with a progress bar on a terminal.

    Those without a finite log p(x) have no posterior to draw from; `sound` are the others.
    """
    places = sound.nonzero().flatten()
    numbers = places[spread(count, len(places))].tolist()
    with _progress("draws", len(numbers) * CHAINS * (draws + draws // 2)) as progress:
        compared = compare_posterior(
            opened.vae.model,
            opened.vae.guide,
            data.among(sound).first(count),
            num_samples=draws,
            progress=progress,
        )
    return replace(compared, numbers=numbers)


def _save_json(path: Path, s: dict[str, Any]) -> None:
    path.write_text(json.dumps(_json(s), indent=2) + "\n", encoding="utf-8")


def _save_npz(path: Path, columns: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **columns)


if __name__ == "__main__":
    run("pyro_vae.evaluate", main)
