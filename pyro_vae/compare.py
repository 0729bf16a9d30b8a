"""`python -m pyro_vae.compare RUN RUN ...`: which way to train gives the higher log-likelihood, with the errors."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.compare")  # before anything that takes time

from pyro_vae._cli.options import answer, compare_parser

if __name__ == "__main__":
    answer(compare_parser())  # before the imports, which take seconds

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._cli.options import run
from pyro_vae._evaluations import Evaluation, named, read_evaluation
from pyro_vae._methods import methods_of, read_names
from pyro_vae.data.representation import Representation
from pyro_vae.evaluation.paired import Comparison, compare
from pyro_vae.evaluation.tabled import FORMATS
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import write_atomically
from pyro_vae.runs import check_output


def _fingerprint(summary: Mapping[str, Any]) -> str | None:
    """What the evaluated data are known by, `None` in an evaluation of an earlier version."""
    return summary.get("fingerprint")


def _unchecked(found: Mapping[str, Evaluation]) -> list[str]:
    """A warning about evaluations whose data are known by name only."""
    names = [
        name
        for name, evaluation in found.items()
        if not _fingerprint(evaluation.summary)
    ]
    if not names:
        return []
    told = "has" if len(names) == 1 else "have"
    return [
        f"{', '.join(names)} {told} no fingerprint of the data (evaluated by an earlier version): whether the values "
        "are the same could not be checked; evaluate again"
    ]


def _check_pair(a: str, b: str, found: Mapping[str, Evaluation]) -> None:
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
    holes = [bool(s.get("missing")) for s in (first, other)]
    if holes[0] != holes[1]:
        part, whole = (a, b) if holes[0] else (b, a)
        raise InputError(
            f"{part} has the density of what was seen of data with missing values and {whole} that of whole data: two "
            "kinds of number that cannot be compared"
        )
    masks = ["SelfMasking(" in str(s.get("spec")) for s in (first, other)]
    if masks[0] != masks[1]:
        more, less = (a, b) if masks[0] else (b, a)
        raise InputError(
            f"{more} has the density of the values and of which of them were seen, and {less} that of the values: two "
            "kinds of number that cannot be compared"
        )
    kinds = [Representation[s["representation"]] for s in (first, other)]
    if kinds[0] is not kinds[1]:
        real = (Representation.REAL, Representation.UNIT)
        one, two = (
            f"a {'density' if k in real else 'mass'} of {k.value}" for k in kinds
        )
        raise InputError(f"{one} ({a}) and {two} ({b}) are not comparable")
    given = [s.get("given") or [] for s in (first, other)]
    if given[0] != given[1]:
        one, two = (f"p(x|{', '.join(names)})" if names else "p(x)" for names in given)
        raise InputError(f"{one} ({a}) and {two} ({b}) are not comparable")
    if first["bridge"] != other["bridge"]:
        raise InputError(
            f"{a} sees its data through another bridge than {b}, so their numbers are not comparable: "
            f"{first['bridge']}, and {other['bridge']}"
        )
    sizes = [found[name].sizes for name in (a, b)]
    total = [sum(s.values()) for s in sizes]
    # Split off first.
    alike = sizes[0] == sizes[1] or (split == "test" and total[0] == total[1])
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
        raise InputError(
            f"{a} and {b} were evaluated on different rows of {first['dataset']}"
        )
    if found[a].drawn != found[b].drawn:
        raise InputError(
            f"{a} sees its data in {found[a].drawn} and {b} in {found[b].drawn} (--precision), for which different "
            "bits or noise are drawn, so their values cannot be paired"
        )


def _refinement(found: Mapping[str, Evaluation]) -> list[str]:
    """A warning when q(z|x) was fitted to each datum (`--refine`) for some runs more than for others."""
    steps = {
        name: evaluation.summary.get("refinement_steps") or 0
        for name, evaluation in found.items()
    }
    if len(set(map(str, steps.values()))) <= 1:
        return []
    told = ", ".join(f"{name} {count}" for name, count in steps.items())
    return [
        f"the steps of refinement differ ({told}): the mean is a lower bound that is closer after more of them"
    ]


def _two_part(found: Mapping[str, Evaluation]) -> list[str]:
    """A warning when the values of some runs are two-part codes, and those of others are not."""
    coded = [
        name for name, evaluation in found.items() if evaluation.columns["two_part"]
    ]
    if not coded or len(coded) == len(found):
        return []
    return [
        f"of {', '.join(coded)} the values are log p(x, code), a bound below log p(x): part of the difference is how "
        "far it lies below"
    ]


def _table(path: str) -> Callable[[Comparison], str]:
    """How the table in this file is written."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(
            f"--table {path} must end in one of {known}, which say how it is written"
        )
    return FORMATS[ending]


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = compare_parser().parse_intermixed_args(arguments)

    # Where the result goes.
    output = None if options.json is None else Path(options.json)
    if output is not None:
        check_output(output, "--json")
    tables = {Path(path): _table(path) for path in options.table}
    for path in tables:
        check_output(path, "--table")
        if path == output:
            raise InputError(f"--json and --table name the same file, {path}")

    # Which evaluations are compared.
    runs, methods = read_names(options.runs)
    if len(runs) < 2:
        raise InputError(f"a comparison needs two runs or more, and {runs[0]} is one")
    seen: dict[Path, str] = {}
    for name in runs:
        if (place := Path(name).resolve()) in seen:
            raise InputError(f"{seen[place]} and {name} are the same run")
        seen[place] = name
    places = {name: named(name, options.split) for name in runs}
    found = {name: read_evaluation(*place) for name, place in places.items()}
    for name in runs[1:]:
        _check_pair(runs[0], name, found)

    # The comparison, and what else makes it doubtful.
    doubts: list[str] = []
    if options.apart:
        methods = {name: [name] for name in runs}
    else:
        methods, doubts = methods_of(found, methods)
    result = compare(
        {
            method: {name: found[name].columns for name in names}
            for method, names in methods.items()
        }
    )
    rising = {name: e for name, e in found.items() if result.scores[name].rises}
    doubts += [*_unchecked(found), *_refinement(rising), *_two_part(found)]

    # What is said.
    s = found[runs[0]].summary
    given = s.get("given") or []
    print(
        f"{s['dataset']}, {s['data']} of {s['data_in_split']} {s['split']} data\n"
        f"seen as {Representation[s['representation']].value}, {s['bridge']}\n"
        + (
            f"log p(x) below is log p(x|c), c: {', '.join(map(str, given))}\n"
            if given
            else ""
        )
        + f"\n{result}"
    )
    for sentence in doubts:
        print(f"warning: {sentence}")
    read = ", ".join(str(folder / f"{stem}.json") for folder, stem in places.values())
    print(f"\nread: {read}")

    # What is written.
    texts = {path: write(result) for path, write in tables.items()}
    if output is not None:
        about = {
            k: s[k]
            for k in ("dataset", "split", "data_in_split", "representation", "bridge")
        }
        told = {**about, **result.to_dict(), "warnings": [*result.warnings, *doubts]}
        texts[output] = json.dumps(told, indent=2) + "\n"
    for path, text in texts.items():
        write_atomically(path, partial(_write, text))
    if texts:
        print(f"\nwritten: {', '.join(map(str, texts))}")


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run("pyro_vae.compare", main)
