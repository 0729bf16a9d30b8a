"""What a report is made of, and what in it gives reason to doubt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.evaluation.question import MATTERS
from pyro_vae.inference.remedies import remedy
from pyro_vae.inference.watch import WAIT, far_below
from pyro_vae.runs import on_run, public_path


@dataclass(frozen=True)
class Facts:
    """All that a report is made of.

    Attributes:
        folder: the run folder.
        s: the content of the evaluation's .json file.
        columns: the arrays of its .npz file, each `(N,)`.
        config: the content of `config.toml`.
        history: the rows of `metrics.csv`.
        pictures: the .png files of `figures/` and `samples/`, by name without ending; samples win.
        data: the evaluated data, in the order of the columns, if at hand.
    """

    folder: Path
    s: dict[str, Any]
    columns: Mapping[str, np.ndarray]
    config: dict[str, Any]
    history: Sequence[Mapping[str, float]]
    pictures: Mapping[str, Path]
    data: Any = None

    @property
    def place(self) -> str:
        """The run folder in words for a reader elsewhere."""
        return public_path(self.folder)

    @property
    def command(self) -> str:
        """The command that repeats the evaluation."""
        split = () if self.s["split"] == "test" else ("--split", self.s["split"])
        known = self.s.get("command")
        return known or on_run("evaluate", self.folder, *split, place=self.place)

    @property
    def resolved(self) -> dict[str, Any]:
        """What the settings came to."""
        resolved = self.config.get("resolved")
        return resolved if isinstance(resolved, dict) else {}

    @property
    def is_table(self) -> bool:
        """Whether the data are columns of mixed kinds."""
        return "table" in self.resolved


def warnings_of(facts: Facts) -> list[str]:
    """Each reason to doubt the run or its number, as a sentence; the gravest first."""
    s, marginal, warnings = facts.s, facts.s["log_marginal"], []
    if marginal["mean"] is None:
        warnings.append("log p(x) is not a finite number for some of the data.")
    if s["pareto_k"]["above_limit"]:
        warnings.append(s["verdict"])
    answers = _mappings(s)
    parts = [part for answer in answers for part in _mappings(answer)]
    for answer in (s, *answers, *parts):
        for warning in answer.get("warnings") or []:
            if warning not in warnings:
                warnings.append(warning)
    curve = [v for v in s.get("curve", {}).values() if v is not None]
    if len(curve) > 1 and curve[-1] - curve[-2] > MATTERS:
        warnings.append(
            f"The bound still rises by {curve[-1] - curve[-2]:.2f} nats at its last step, so log p(x) is higher than "
            "the number says; draw more particles."
        )
    warnings += _training_warnings(facts)
    if s["data"] < s["data_in_split"]:
        warnings.append(
            f"Only {s['data']} of the {s['data_in_split']} {s['split']} data were evaluated."
        )
    return warnings


def _mappings(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [v for v in answer.values() if isinstance(v, Mapping)]


def _training_warnings(facts: Facts) -> list[str]:
    history, asked = facts.history, facts.config.get("epochs")
    if not history:
        return []
    last, first, warnings = history[-1], history[0], []
    held_out = [row for row in history if math.isfinite(_score(row))]
    best = max(held_out, key=_score) if held_out else None
    if best is not None and _apart(history, best):
        warnings.append(
            f"Training and validation drifted apart after epoch {best['epoch']:.0f}, whose weights were kept: the "
            f"training ELBO rose from {best['elbo']:.2f} to {last['elbo']:.2f} and the validation ELBO fell from "
            f"{best['validation_elbo']:.2f} to {last['validation_elbo']:.2f}. Train with "
            f"{remedy('overfits', facts.config)}."
        )
    patience = facts.config.get("patience")
    waited = best is not None and patience and last["epoch"] - best["epoch"] >= patience
    if isinstance(asked, int) and last["epoch"] < asked and not waited:
        warnings.append(
            f"Training stopped after {last['epoch']:.0f} of {asked} epochs."
        )
    steady = last["learning_rate"] > first["learning_rate"] / 2
    if best is last and len(history) > 1 and steady:
        warnings.append(
            "The last epoch was the best on validation data: more epochs would probably help."
        )
    return warnings


def _score(row: Mapping[str, float]) -> float:
    """What the best epoch is chosen by on validation data: nan without them, and inside a warm-up."""
    held_out = row["validation_elbo"]
    return held_out if math.isnan(held_out) else row.get("score", held_out)


def _apart(history: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> bool:
    """Whether the last epochs had a validation ELBO far below that of the best one, and a training ELBO above it."""
    after = [row for row in history if row["epoch"] > best["epoch"]][-WAIT:]
    return len(after) == WAIT and all(
        far_below(
            row["validation_elbo"],
            best["validation_elbo"],
            row.get("validation_noise", math.nan),
        )
        and row["elbo"] > best["elbo"]
        for row in after
    )
