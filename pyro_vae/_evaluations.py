"""The files of an evaluation: each has its own, and none takes the place of a better one."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.runs import EVALUATION

EXTRAS = ("gaps", "ais", "bdmc", "posterior", "ood")  # what an evaluation can hold beside log p(x)


def headline(split: str) -> str:
    """The name, without ending, of the evaluation that the report and the comparison read for a split."""
    return "evaluation" if split == "test" else f"evaluation-{split}"


def digest(columns: Mapping[str, Any]) -> str:
    """What the arrays of an evaluation are known by: stands in its .json file, so that halves of two are told apart."""
    found = hashlib.sha256()
    for name in ("values", "standard_errors", "pareto_k"):
        found.update(np.ascontiguousarray(columns[name], dtype=np.float64).tobytes())
    return found.hexdigest()[:16]


def plan_of(options: Any, *, refine: int) -> dict[str, Any]:
    """What was asked for that decides the numbers, for `evaluation.json`; `refine` in steps, 0 for none."""
    chains = [options.chains, options.temperatures, options.anneal_from, options.schedule]
    asked = {
        "gaps": options.gaps,
        "ais": options.ais and chains,
        "bdmc": options.bdmc and [options.bdmc, *chains],
        "posterior": options.posterior and [options.posterior, options.posterior_draws],
        "ood": sorted(Path(name).name for name in options.ood) or None,
    }
    return {
        "limit": options.limit,
        "num_particles": options.num_particles,
        "refine": refine,
        "adaptive": options.adaptive,
        "seed": options.seed,
        "checkpoint": options.checkpoint,
        **{name: value for name, value in asked.items() if value},
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
    if whole and _gives_way(_summary(folder / f"{headline(split)}.json"), plan, s["epoch"]):
        return headline(split)
    words = [split, re.sub(r"[^\w.+]+", "_", Path(s["dataset"]).stem)] if new else [split]
    words += [f"limit{plan['limit']}"] if plan["limit"] is not None else []
    words += [f"k{plan['num_particles']}"]
    words += [f"refine{plan['refine']}"] if plan["refine"] and not plan["adaptive"] else []
    words += [f"adaptive{plan['refine']}"] if plan["adaptive"] else []
    words += [f"seed{plan['seed']}"] if plan["seed"] else []
    words += [plan["checkpoint"]] if plan["checkpoint"] != "best" else []
    extras = {name: plan[name] for name in EXTRAS if name in plan}
    if extras:
        mark = hashlib.blake2b(json.dumps(extras).encode(), digest_size=3).hexdigest()
        words += ["+".join(extras), mark]
    stem = "-".join(["evaluation", *words])
    other = _summary(folder / f"{stem}.json")
    if new and other is not None and other.get("fingerprint") != s["fingerprint"]:
        return f"{stem}-{s['fingerprint'][:6]}"  # new data of the same name
    return stem


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _gives_way(old: dict[str, Any] | None, plan: dict[str, Any], epoch: int) -> bool:
    """Whether a headline that stands there is replaced: by its like, by a better one, or where its weights are gone."""
    if old is None or not isinstance(old.get("plan"), dict) or old.get("epoch") != epoch:
        return True
    known = old["plan"]
    strength = ("num_particles", "refine", "adaptive")
    try:
        pairs = [(plan[name], known.get(name) or 0) for name in strength]
        least = all(new >= held for new, held in pairs)
        more = any(new > held for new, held in pairs)
    except TypeError:  # damaged
        return True
    keeps = all(plan.get(name) == known[name] for name in EXTRAS if name in known)
    return least and keeps and (more or plan["seed"] == known.get("seed"))


def evaluations(folder: Path, split: str) -> list[str]:
    """The names of all evaluations of a split in a run folder, the headline first."""
    stems = [p.stem for p in sorted(folder.glob("evaluation*.json"))]
    ours = [s for s in stems if (m := re.fullmatch(EVALUATION, s)) and (m[2] or "test") == split]
    return sorted(ours, key=lambda stem: stem != headline(split))
