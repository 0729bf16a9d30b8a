"""The files of an evaluation: each has its own, and none takes the place of a better one."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.checkpoint import checkpoint_path
from pyro_vae.data.bridges import Bridge
from pyro_vae.data.files import read_npz
from pyro_vae.data.representation import Representation
from pyro_vae.evaluation.adaptive import ENOUGH, Adaptive
from pyro_vae.evaluation.latents import Latents
from pyro_vae.evaluation.question import Question
from pyro_vae.evaluation.refinement import Refined
from pyro_vae.evaluation.weighting import Weighted, Weighting
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import read_json, read_toml
from pyro_vae.runs import EVALUATION, evaluations, headline, on_run

# What one of an earlier version held more.
EXTRAS = (
    "gaps",
    "ais",
    "bdmc",
    "posterior",
    "ood",
)


def digest(columns: Mapping[str, Any]) -> str:
    """What the arrays of an evaluation are known by: stands in its .json file, so that halves of two are told apart."""
    found = hashlib.sha256()
    of_weights = ("values", "standard_errors", "pareto_k")
    for name in of_weights if "values" in columns else sorted(columns):
        if columns[name].dtype.kind == "f":
            numbers = np.ascontiguousarray(columns[name], dtype=np.float64)
            found.update(numbers.tobytes())
    return found.hexdigest()[:16]


def plan_of(
    options: Any, first: Weighting, further: Sequence[Question]
) -> dict[str, Any]:
    """What was asked for that decides the numbers, for `evaluation.json`; `refine` in steps, 0 for none."""
    usual = {
        str(question) for question in (Weighted(), Refined(), Adaptive(), Latents())
    }
    own = [] if isinstance(first, Weighted | Refined | Adaptive) else [first]
    others = [
        question
        for question in (*own, *further)
        if not question.unasked and str(question) not in usual
    ]
    return {
        "limit": options.limit,
        "num_particles": first.num_particles or options.num_particles,
        "refine": first.steps,
        "adaptive": isinstance(first, Adaptive),
        "seed": options.seed,
        "checkpoint": options.checkpoint,
        "asked": [str(question) for question in others],
    }


def stem_of(folder: Path, plan: dict[str, Any], s: dict[str, Any]) -> str:
    """The name, without ending, of an evaluation's files.

    All of a split by the best weights is the headline, unless one stands there that holds more: of more particles, more
    steps of refinement, or further parts, by the same weights. Every other evaluation is named after its options.

    Args:
        folder: the run folder.
        plan: from `plan_of`.
        s: the content of its .json file.
    """
    split, new = s["split"], s["split"] == "new"
    whole = not new and plan["limit"] is None and plan["checkpoint"] == "best"
    if whole and _gives_way(
        _summary(folder / f"{headline(split)}.json"), plan, s["epoch"]
    ):
        return headline(split)
    words = (
        [split, re.sub(r"[^\w.+]+", "_", Path(s["dataset"]).stem)] if new else [split]
    )
    words += [f"limit{plan['limit']}"] if plan["limit"] is not None else []
    words += [f"k{plan['num_particles']}"]
    words += (
        [f"refine{plan['refine']}"] if plan["refine"] and not plan["adaptive"] else []
    )
    words += _weighting_of(plan)
    words += [f"seed{plan['seed']}"] if plan["seed"] else []
    words += [plan["checkpoint"]] if plan["checkpoint"] != "best" else []
    if plan["asked"]:
        mark = hashlib.blake2b(
            json.dumps(plan["asked"]).encode(), digest_size=3
        ).hexdigest()
        names = [
            text.partition("(")[0].rpartition(":")[2].lower() for text in plan["asked"]
        ]
        words += ["+".join(names), mark]
    stem = "-".join(["evaluation", *words])
    other = _summary(folder / f"{stem}.json")
    if new and other is not None and other.get("fingerprint") != s["fingerprint"]:
        return f"{stem}-{s['fingerprint'][:6]}"  # new data of the same name
    return stem


def _weighting_of(plan: dict[str, Any]) -> list[str]:
    """What a name says of a weighting that is not the usual one of so many particles."""
    enough = plan["num_particles"] >= ENOUGH
    if plan["adaptive"]:
        steps, usual = plan["refine"], Adaptive().steps
        return [] if enough and steps in (0, usual) else [f"adaptive{steps}"]
    return ["weighted"] if enough and not plan["refine"] else []


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _gives_way(old: dict[str, Any] | None, plan: dict[str, Any], epoch: int) -> bool:
    """Whether a headline that stands there is replaced: by its like, by a better one, or where its weights are gone."""
    if (
        old is None
        or not isinstance(old.get("plan"), dict)
        or old.get("epoch") != epoch
    ):
        return True
    known = old["plan"]
    strength = ("num_particles", "refine", "adaptive")
    try:
        pairs = [(plan[name], known.get(name) or 0) for name in strength]
        least = all(new >= held for new, held in pairs)
        more = any(new > held for new, held in pairs)
    except TypeError:  # damaged
        return True
    # Of an earlier version.
    held = known.get("asked") or [name for name in EXTRAS if name in known]
    keeps = isinstance(held, list) and all(text in plan["asked"] for text in held)
    return least and keeps and (more or plan["seed"] == known.get("seed"))


@dataclass(frozen=True)
class Evaluation:
    """What `python -m pyro_vae.evaluate` left in a run folder, and what decides which numbers x the run was given.

    Attributes:
        summary: the content of the .json file.
        columns: the arrays of the .npz file, with `num_particles`.
        sizes: of all splits of the data.
        config: the options of the run, from its `config.toml`.
        drawn: the precision in which the bridge draws bits or noise, for other bridges `''`.
    """

    summary: dict[str, Any]
    columns: dict[str, Any]
    sizes: dict[str, int]
    config: dict[str, Any]
    drawn: str


def named(name: str, split: str) -> tuple[Path, str]:
    """The run folder and the name of the evaluation that `name` means: a run, or one of its evaluations' .json files.

    Of a run it is the headline of the split; where there is none, the only other evaluation of the split.

    Raises:
        InputError: when the run has no evaluation of the split, or several and none of them the headline.
    """
    path = Path(name)
    if path.suffix == ".json" and not path.is_dir():
        checkpoint_path(path.parent)
        if not path.is_file():
            raise InputError(f"the evaluation {name} does not exist")
        return path.parent, path.stem
    checkpoint_path(path)
    there = evaluations(path, split)
    if headline(split) in there or len(there) == 1:
        return path, there[0]
    if there:
        raise InputError(
            f"{name} has no evaluation of all of its {split} data, but {len(there)} others; name one of them in place "
            f"of the run: {', '.join(str(path / f'{stem}.json') for stem in there)}"
        )
    raise InputError(
        f"{name} has no evaluation of its {split} data ({headline(split)}.json); run {_again(path, split)}"
    )


def _again(folder: Path, split: str) -> str:
    """The command that makes the headline of a split."""
    option = () if split in ("test", "new") else ("--split", split)
    return on_run("evaluate", folder, *option)


def read_evaluation(folder: Path, name: str) -> Evaluation:
    """The evaluation of this name, which is that of its files without ending."""
    told, arrays = folder / f"{name}.json", folder / f"{name}.npz"
    found = re.fullmatch(EVALUATION, name)
    if found is None:
        raise InputError(f"{told} is no evaluation of this package")
    split = found[2] or "test"
    command = _again(folder, split)
    if not arrays.is_file():
        raise InputError(
            f"{folder} has no evaluation of its {split} data ({arrays.name}); run {command}"
        )
    try:
        summary = read_json(told)
    except InputError as error:
        raise InputError(f"{error}; run {command}") from error
    wanted = {
        "dataset": str,
        "split": str,
        "representation": str,
        "bridge": str,
        "data": int,
        "data_in_split": int,
    }
    for key, kind in wanted.items():
        if not isinstance(summary, dict) or not isinstance(summary.get(key), kind):
            raise InputError(
                f"the file {told} is damaged: it does not say {key!r}; run {command}"
            )
    if (
        summary["split"] != split
        or summary["representation"] not in Representation.__members__
    ):
        raise InputError(
            f"the file {told} is damaged: it is of no {split} data; run {command}"
        )
    columns: dict[str, Any] = dict(read_npz(arrays))
    if "log_marginal" not in summary and "reconstructionerror_squared_error" in columns:
        raise InputError(
            f"{folder} has reconstruction errors and no log p(x), since its guide is a point for each datum: two kinds "
            "of number that cannot be compared; its errors stand in " + told.name
        )
    for key in ("values", "standard_errors", "pareto_k"):
        if (
            key not in columns
            or columns[key].dtype.kind != "f"
            or columns[key].shape != (summary["data"],)
        ):
            raise InputError(
                f"the file {arrays} is damaged: it has no {summary['data']} numbers {key!r}; run {command}"
            )
    for key in ("row", "name", "label"):
        if key in columns and columns[key].shape != (summary["data"],):
            raise InputError(
                f"the file {arrays} is damaged: it has no {summary['data']} of {key!r}; run {command}"
            )
    marginal = summary.get("log_marginal")
    mean, told_mean = (
        columns["values"].mean(),
        marginal.get("mean") if isinstance(marginal, dict) else None,
    )
    if np.isfinite(mean) and not (
        isinstance(told_mean, float) and math.isclose(told_mean, mean, rel_tol=1e-9)
    ):
        raise InputError(
            f"{told} and {arrays} are not of the same evaluation: their means differ; run {command}"
        )
    if summary.get("arrays") not in (None, digest(columns)):
        raise InputError(
            f"{told} and {arrays} are not of the same evaluation: one was replaced without the other; run {command}"
        )
    if isinstance(summary.get("num_particles"), int):
        columns.setdefault("num_particles", summary["num_particles"])
    plan = summary.get("plan")
    if isinstance(plan, dict) and isinstance(plan.get("num_particles"), int):
        columns["asked_particles"] = plan["num_particles"]
    columns["two_part"] = bool(summary.get("two_part"))
    columns["estimated_bias"] = marginal.get("estimated_bias") if marginal else None
    config = read_toml(Path(folder) / "config.toml")
    try:
        resolved = config["resolved"]
        sizes = {name: int(size) for name, size in resolved["sizes"].items()}
        random = Bridge.from_dict(resolved).is_random
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the file {Path(folder) / 'config.toml'} does not describe a run: its table [resolved] is damaged"
        ) from error
    # Only networks compute in bf16.
    precision = "float64" if config.get("precision") == "float64" else "float32"
    return Evaluation(summary, columns, sizes, config, precision if random else "")
