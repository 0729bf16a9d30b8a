"""Which runs are seeds of one method: those whose options are the same."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae._config import Config, key
from pyro_vae.foundation.errors import InputError
from pyro_vae.runs import is_run, seeds_in

if TYPE_CHECKING:
    from pyro_vae._evaluations import Evaluation

# What does not make another method: names, places, and how the same numbers are worked out. Data are known by their
# fingerprints.
NO_METHOD = {
    "seed",
    "dataset",
    "data_dir",
    "labels",
    "stream",
    "workers",
    "device",
    "compile",
    "products",
    "output",
    "overwrite",
    "log",
    "figures",
    "show_as",
}
OPTIONS = [option for option in fields(Config) if option.name not in NO_METHOD]
OPTION_NAMES = tuple(key(option.name) for option in OPTIONS)
NAMES = (*OPTION_NAMES, "training data", "labels", "checkpoint")
MARK = 6  # signs of a fingerprint


def read_names(given: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Runs as they were named, and those of methods `NAME=RUN,RUN` by the name; a folder of seeds names all in it.

    Returns:
        All runs in their order, and the runs of each method that was named.

    Raises:
        InputError: for a method without a run, or named twice.
    """
    runs: list[str] = []
    methods: dict[str, list[str]] = {}
    for text in given:
        name, sign, rest = text.partition("=")
        if not sign or Path(text).exists():
            runs += _each(text)
            continue
        if name in methods:
            raise InputError(
                f"{name} is named twice; put its runs in one: {name}=RUN,RUN"
            )
        named = [run for run in rest.split(",") if run]
        methods[name] = [run for folder in named for run in _each(folder)]
        if not name or not methods[name]:
            raise InputError(f"{text!r} is no method; write NAME=RUN,RUN")
        runs += methods[name]
    return runs, methods


def _each(name: str) -> list[str]:
    """A run, or of a folder in which `--seeds` left several each of them."""
    folder = Path(name)
    seeds = {} if is_run(folder) else seeds_in(folder)
    return [str(run) for run in seeds.values()] or [name]


def methods_of(
    found: Mapping[str, "Evaluation"], named: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Runs by their methods.

    Runs with the same options and different seeds are one method, called after the options in which methods differ.
    Runs that share a seed as well stand by themselves: each was evaluated in its own way, or is the same training
    again.

    Args:
        found: the evaluation of each run.
        named: runs of methods that have a name.

    Returns:
        The names of the runs of each method, and warnings.
    """
    methods = {name: list(runs) for name, runs in named.items()}
    taken = {run for runs in named.values() for run in runs}
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, evaluation in found.items():
        if name not in taken:
            alike.setdefault(_options(evaluation), []).append(name)

    # Runs of one seed are no replicates.
    warnings = []
    for options, runs in list(alike.items()):
        seeds = [found[run].config.get("seed") for run in runs]
        if len(set(seeds)) == len(runs):
            continue
        warnings.append(
            f"{', '.join(runs)} have the same options, and some the same seed: each stands by itself"
        )
        del alike[options]
        methods |= {run: [run] for run in runs}

    if all(len(runs) == 1 for runs in alike.values()):
        return methods | {run: [run] for (run,) in alike.values()}, warnings
    labels = differences(list(alike))
    for label, runs in zip(labels, alike.values(), strict=True):
        known = label and label not in methods
        methods[label if known else _common(runs)] = runs
    return methods, warnings


def _options(evaluation: "Evaluation") -> tuple[str, ...]:
    """What makes the method of a run, each of `NAMES` as text."""
    marks = evaluation.config["resolved"].get("fingerprint") or {}
    plan = evaluation.summary.get("plan")
    checkpoint = plan.get("checkpoint") if isinstance(plan, dict) else None
    seen = (str(marks.get(part))[:MARK] for part in ("train", "labels"))
    return (*options_of(evaluation.config), *seen, checkpoint or "best")


def options_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of a run that make its method, each of `OPTION_NAMES` as text."""
    options = []
    for option in OPTIONS:
        value = config.get(key(option.name), option.default)
        # Of each seed another run.
        options.append(str(value is not None if option.name == "from_" else value))
    return tuple(options)


def differences(
    methods: Sequence[tuple[str, ...]], names: Sequence[str] = NAMES
) -> list[str]:
    """For each method what differs among them, as in `guide=IAF, latent_dim=20`."""
    columns = list(zip(*methods, strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    return [
        ", ".join(f"{names[i]}={options[i].removesuffix('()')}" for i in differing)
        for options in methods
    ]


def _common(runs: Sequence[str]) -> str:
    """A name for runs: what their names begin with, else the first name."""
    if len(runs) == 1:
        return runs[0]
    same = os.path.commonprefix(list(runs))  # noqa: RUF071  # sign by sign
    return re.sub(r"(seed)?[\W_\d]*$", "", same) or f"{runs[0]} and its like"
