"""What a report is made of, and what in it gives reason to doubt."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.schema import drawn_by_column, stored_schema
from pyro_vae.evaluation.question import MATTERS
from pyro_vae.foundation.commands import command, trust
from pyro_vae.foundation.trust import AXES
from pyro_vae.inference.remedies import remedy
from pyro_vae.inference.watch import WAIT, far_below
from pyro_vae.plots.looks import KINDS, kind_of
from pyro_vae.runs import on_run, public_path

# Pictures that show data where these are images.
DATA = {
    *("prior", "prior_samples", "reconstructions", "interpolation", "traversal"),
    *("layers", "manifold", "conditions", "transfer", "cross", "denoise", "imputed"),
}
# What an evaluation of log p(x) says.
NEEDED = ("log_marginal", "elbo", "reconstruction", "kl", "ess", "pareto_k", "spec")


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
        return self.s.get("command") or self.again()

    @property
    def of_pixels(self) -> set[str]:
        """The names of pictures that show data which are images; all others are charts."""
        return DATA if self.drawn_as == "image" else set()

    def again(self, *words: object) -> str:
        """The command that evaluates once more, otherwise."""
        split = () if self.s["split"] == "test" else ("--split", self.s["split"])
        return on_run("evaluate", self.folder, *split, *words, place=self.place)

    def anew(self, options: str) -> str:
        """The command that trains another run with other options, as they were written for a shell."""
        config = f"{self.place}/config.toml"
        given = [*trust(self.config, AXES), "--output", "NEW_FOLDER"]
        return f"{command('train', '--config', config, *given)} {options.partition(', or ')[0]}"

    def resumed(self, *words: object) -> str:
        """The command that goes on with the training."""
        given = trust(self.config, AXES)
        return command("train", "--resume", self.place, *words, *given)

    @property
    def resolved(self) -> dict[str, Any]:
        """What the settings came to."""
        resolved = self.config.get("resolved")
        return resolved if isinstance(resolved, dict) else {}

    @property
    def is_table(self) -> bool:
        """Whether the data are columns of mixed kinds."""
        return "table" in self.resolved

    @property
    def drawn_as(self) -> str:
        """What pictures take the data for: `image`, `series` or `table`; of several fields `image`."""
        asked = self.config.get("show_as")
        if asked in KINDS:
            return str(asked)
        shape = self.resolved.get("shape")
        if not shape or "fields" in self.resolved:
            return "image"
        by_column = drawn_by_column(stored_schema(self.resolved), shape)
        return "table" if by_column else kind_of(shape)


class Gravity(IntEnum):
    """How much of a report a warning puts in doubt; the gravest first."""

    NO_NUMBER = 0
    THE_NUMBER = 1
    AN_ANSWER = 2
    THE_TRAINING = 3
    THE_SAMPLE = 4


class Warned(NamedTuple):
    """A reason to doubt a run or its number.

    Attributes:
        gravity: what it puts in doubt.
        sentence: what was found.
        remedy: the command that helps, where there is one.
    """

    gravity: Gravity
    sentence: str
    remedy: str | None = None


def warnings_of(facts: Facts) -> list[Warned]:
    """Each reason to doubt the run or its number; the gravest first."""
    found = [
        *_of_the_number(facts),
        *_of_the_answers(facts),
        *_of_the_training(facts),
    ]
    s = facts.s
    if s["data"] < s["data_in_split"]:
        sentence = f"Only {s['data']} of the {s['data_in_split']} {s['split']} data were evaluated."
        found.append(Warned(Gravity.THE_SAMPLE, sentence, facts.again()))
    first = {each.sentence: each for each in reversed(found)}
    return sorted(first.values(), key=lambda each: (each.gravity, found.index(each)))


def _of_the_number(facts: Facts) -> Iterator[Warned]:
    s = facts.s
    more = facts.again("--num-particles", 10 * s["num_particles"])
    if s["log_marginal"]["mean"] is None:
        sentence = "log p(x) is not a finite number for some of the data."
        yield Warned(Gravity.NO_NUMBER, sentence)
    if s["pareto_k"]["above_limit"]:
        yield Warned(Gravity.THE_NUMBER, s["verdict"], more)
    curve = [v for v in s.get("curve", {}).values() if v is not None]
    if len(curve) > 1 and curve[-1] - curve[-2] > MATTERS:
        sentence = (
            f"The bound still rises by {curve[-1] - curve[-2]:.2f} nats at its last step, so log p(x) is higher than "
            "the number says; draw more particles."
        )
        yield Warned(Gravity.THE_NUMBER, sentence, more)


def _of_the_answers(facts: Facts) -> Iterator[Warned]:
    answers = _mappings(facts.s)
    parts = [part for answer in answers for part in _mappings(answer)]
    for answer in (facts.s, *answers, *parts):
        remedied = answer.get("remedy")
        command = facts.anew(remedied) if isinstance(remedied, str) else None
        for sentence in answer.get("warnings") or []:
            yield Warned(Gravity.AN_ANSWER, sentence, command)


def _mappings(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [v for v in answer.values() if isinstance(v, Mapping)]


def _of_the_training(facts: Facts) -> Iterator[Warned]:
    history, asked = facts.history, facts.config.get("epochs")
    if not history:
        return
    last, first, gravity = history[-1], history[0], Gravity.THE_TRAINING
    held_out = [row for row in history if math.isfinite(_score(row))]
    best = max(held_out, key=_score) if held_out else None
    if best is not None and _apart(history, best):
        option = remedy("overfits", facts.config)
        sentence = (
            f"Training and validation drifted apart after epoch {best['epoch']:.0f}, whose weights were kept: the "
            f"training ELBO rose from {best['elbo']:.2f} to {last['elbo']:.2f} and the validation ELBO fell from "
            f"{best['validation_elbo']:.2f} to {last['validation_elbo']:.2f}. Train with {option}."
        )
        yield Warned(gravity, sentence, facts.anew(option))
    patience = facts.config.get("patience")
    waited = best is not None and patience and last["epoch"] - best["epoch"] >= patience
    if isinstance(asked, int) and last["epoch"] < asked and not waited:
        sentence = f"Training stopped after {last['epoch']:.0f} of {asked} epochs."
        yield Warned(gravity, sentence, facts.resumed())
    steady = last["learning_rate"] > first["learning_rate"] / 2
    if best is last and len(history) > 1 and steady:
        sentence = "The last epoch was the best on validation data: more epochs would probably help."
        more = facts.resumed("--epochs", 2 * int(last["epoch"]))
        yield Warned(gravity, sentence, more)


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
