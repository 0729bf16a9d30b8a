"""`python -m pyro_vae.compare RUN RUN ...`: which run has the higher log-likelihood, with the errors."""

from pyro_vae._endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.compare")  # before anything that takes time

from pyro_vae._options import answer, compare_parser

if __name__ == "__main__":
    answer(compare_parser())  # before the imports, which take seconds

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import InputError
from pyro_vae._evaluations import digest, evaluations, headline
from pyro_vae._files import write_atomically
from pyro_vae._options import run
from pyro_vae._reading import read_json, read_toml
from pyro_vae.checkpoint import checkpoint_path
from pyro_vae.data.files import read_npz
from pyro_vae.inference.paired import compare
from pyro_vae.models.representation import Representation
from pyro_vae.runs import EVALUATION, check_output, on_run

RANDOM = ("dynamic", "static", "dequantize")  # bridges that draw bits or noise


@dataclass(frozen=True)
class _Evaluation:
    """What `python -m pyro_vae.evaluate` left in a run folder, and what decides which numbers x the run was given.

    Attributes:
        summary: the content of the .json file.
        columns: the arrays of the .npz file, with `num_particles`.
        sizes: of all splits of the data.
        drawn: the precision in which the bridge draws bits or noise, for other bridges `''`.
    """

    summary: dict[str, Any]
    columns: dict[str, Any]
    sizes: dict[str, int]
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


def read_evaluation(folder: Path, name: str) -> _Evaluation:
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
            raise InputError(f"the file {told} is damaged: it does not say {key!r}; run {command}")
    if summary["split"] != split or summary["representation"] not in Representation.__members__:
        raise InputError(f"the file {told} is damaged: it is of no {split} data; run {command}")
    columns: dict[str, Any] = dict(read_npz(arrays))
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
    config = read_toml(Path(folder) / "config.toml")
    try:
        resolved = config["resolved"]
        sizes = {name: int(size) for name, size in resolved["sizes"].items()}
        random = resolved["bridge"] in RANDOM
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the file {Path(folder) / 'config.toml'} does not describe a run: its table [resolved] is damaged"
        ) from error
    precision = (
        "float64" if config.get("precision") == "float64" else "float32"
    )  # bf16 is of the networks alone
    return _Evaluation(summary, columns, sizes, precision if random else "")


def _fingerprint(summary: Mapping[str, Any]) -> str | None:
    """What the evaluated data are known by, `None` in an evaluation of an earlier version."""
    return summary.get("fingerprint")


def _unchecked(found: Mapping[str, _Evaluation]) -> list[str]:
    """A warning about evaluations whose data are known by name only."""
    names = [name for name, evaluation in found.items() if not _fingerprint(evaluation.summary)]
    if not names:
        return []
    told = "has" if len(names) == 1 else "have"
    return [
        f"{', '.join(names)} {told} no fingerprint of the data (evaluated by an earlier version): whether the values "
        "are the same could not be checked; evaluate again"
    ]


def _check_pair(a: str, b: str, found: Mapping[str, _Evaluation]) -> None:
    """Raise `InputError` unless both runs were evaluated on the same numbers x.

    The random bits or noise of a split are drawn once for all of its data, from a fixed seed, and data of a `--limit`
    are spread evenly over it; so fingerprint, split, sizes, bridge and precision decide what x is. An evaluation of an
    earlier version has no fingerprint: there only the name of the data can be compared.
    """
    first, other = found[a].summary, found[b].summary
    split = first["split"]
    if split != other["split"]:
        raise InputError(f"{a} is of {split} data and {b} of {other['split']} data")
    known = _fingerprint(first) and _fingerprint(other)
    if not known and first["dataset"] != other["dataset"]:
        raise InputError(
            f"{a} was evaluated on {first['dataset']} and {b} on {other['dataset']}: not the same data"
        )
    kinds = [Representation[s["representation"]] for s in (first, other)]
    if kinds[0] is not kinds[1]:
        real = (Representation.REAL, Representation.UNIT)
        one, two = (f"a {'density' if k in real else 'mass'} of {k.value}" for k in kinds)
        raise InputError(f"{one} ({a}) and {two} ({b}) are not comparable")
    if first["bridge"] != other["bridge"]:
        raise InputError(
            f"{a} sees its data through another bridge than {b}, so their numbers are not comparable: "
            f"{first['bridge']}, and {other['bridge']}"
        )
    sizes = [found[name].sizes for name in (a, b)]
    total = [sum(s.values()) for s in sizes]
    alike = sizes[0] == sizes[1] or (split == "test" and total[0] == total[1])  # split off first
    same = alike if not known else alike or _fingerprint(first) == _fingerprint(other)
    if not same or first["data_in_split"] != other["data_in_split"]:
        one, two = (", ".join(f"{n} {name}" for name, n in s.items()) for s in sizes)
        raise InputError(
            f"{a} and {b} divide {first['dataset']} differently, so their {split} data are not the same: {one}, and "
            f"{two}"
        )
    if known and _fingerprint(first) != _fingerprint(other):
        raise InputError(
            f"{a} and {b} were not evaluated on the same data: the {split} data of {first['dataset']} ({a}) and of "
            f"{other['dataset']} ({b}) differ, be it in units, rows or order; train both on the same file"
        )
    if first["data"] != other["data"]:
        raise InputError(
            f"{a} was evaluated on {first['data']} {split} data and {b} on {other['data']}; evaluate both with the "
            "same --limit"
        )
    rows, others = (found[name].columns.get("row") for name in (a, b))
    if rows is not None and others is not None and not np.array_equal(rows, others):
        raise InputError(f"{a} and {b} were evaluated on different rows of {first['dataset']}")
    if found[a].drawn != found[b].drawn:
        raise InputError(
            f"{a} sees its data in {found[a].drawn} and {b} in {found[b].drawn} (--precision), for which different "
            "bits or noise are drawn, so their values cannot be paired"
        )


def _refinement(found: Mapping[str, _Evaluation]) -> list[str]:
    """A warning when q(z|x) was fitted to each datum (`--refine`) for some runs more than for others."""
    steps = {
        name: evaluation.summary.get("refinement_steps") or 0 for name, evaluation in found.items()
    }
    if len(set(map(str, steps.values()))) == 1:
        return []
    told = ", ".join(f"{name} {count}" for name, count in steps.items())
    return [
        f"the steps of refinement differ ({told}): the mean is a lower bound that is closer after more of them"
    ]


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = compare_parser().parse_intermixed_args(arguments)
    output = None if options.json is None else Path(options.json)
    if output is not None:
        check_output(output, "--json")
    if len(options.runs) < 2:
        raise InputError(f"a comparison needs two runs or more, and {options.runs[0]} is one")
    first, *others = options.runs
    seen: dict[Path, str] = {}
    for name in options.runs:
        if (place := Path(name).resolve()) in seen:
            raise InputError(f"{seen[place]} and {name} are the same run")
        seen[place] = name
    places = {name: named(name, options.split) for name in options.runs}
    found = {name: read_evaluation(*place) for name, place in places.items()}
    for name in others:
        _check_pair(first, name, found)
    result = compare({name: evaluation.columns for name, evaluation in found.items()})
    warnings = [*result.warnings, *_unchecked(found), *_refinement(found)]
    s = found[first].summary
    print(
        f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']} data\n"
        f"seen as {Representation[s['representation']].value}, {s['bridge']}\n\n{result}"
    )
    for sentence in warnings[len(result.warnings) :]:
        print(f"warning: {sentence}")
    read = ", ".join(str(folder / f"{stem}.json") for folder, stem in places.values())
    print(f"\nread: {read}")
    if output is not None:
        about = {k: s[k] for k in ("dataset", "split", "data_in_split", "representation", "bridge")}
        text = json.dumps({**about, **result.to_dict(), "warnings": warnings}, indent=2)
        write_atomically(output, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        print(f"\nwritten: {output}")


if __name__ == "__main__":
    run("pyro_vae.compare", main)
