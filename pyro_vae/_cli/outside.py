"""`evaluate --ood DATASET`: other data as a run would see them, and how well its scores tell them from its own."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae._cli.drawing import Make
from pyro_vae._rows import Rows, seen
from pyro_vae.data import NAMED, Split, load_data, spread
from pyro_vae.data.own import options_for
from pyro_vae.data.sets import ALL
from pyro_vae.evaluation.outliers import Separation, anomaly_scores
from pyro_vae.foundation.errors import InputError
from pyro_vae.trained import Run

TYPICAL = 1000  # training data whose mean log p(x) is typical


def outside(opened: Run, options: Any) -> dict[str, Split]:
    """All rows of each file that `--ood` names, as the run would see them; of a named set the test data.

    Raises:
        InputError: when one cannot be found, when the model cannot take it, or for two of one name.
    """
    if options.ood and options.limit == 1:
        raise InputError("--ood needs two data or more; raise --limit")
    found: dict[str, Split] = {}
    stems: dict[str, str] = {}
    for name in options.ood:
        if (other := stems.setdefault(_stem(name), name)) != name or name in found:
            raise InputError(
                f"--ood {other} and --ood {name} would share the figure ood-{_stem(name)}.png; rename one"
            )
        found[name] = _seen(opened, name, options.data_dir)
    return found


def _stem(name: str) -> str:
    return name if name in NAMED else Path(name).stem


def _seen(opened: Run, name: str, data_dir: str | None) -> Split:
    """All data of a file, or the test data of a named set, as the run sees them."""
    named = name in NAMED
    kept = set() if named else {*options_for(name, opened.request["dataset"])}
    if Path(name).is_dir():
        kept.add("background")
    request: dict[str, Any] = {option: opened.request.get(option) for option in kept}
    request["data_dir"] = data_dir or opened.request.get("data_dir")
    try:
        data = load_data(name, divide=named, **request)
    except InputError as error:
        raise InputError(str(error).replace("--dataset", "--ood")) from error
    split = "test" if named else ALL
    if len(data.values[split]) < 2:
        raise InputError(
            f"--ood {name} holds one datum, and two are needed to tell them from others"
        )
    return seen(opened, data, split, f"--ood {name}", strict=True)


def separations(
    opened: Run, rows: Rows, s: dict[str, Any], options: Any
) -> Iterator[tuple[str, Separation, Make]]:
    """For each data set of `options.ood`: name, scores beside those of `rows`, what makes a figure of both."""
    from pyro_vae import plots

    given = {
        "steps": options.refine or 100,
        "num_particles": options.num_particles,
        "memory": options.memory * 2**20,
    }
    inside = anomaly_scores(opened.vae, rows.x, opened.split("train").first(TYPICAL), **given)
    for name, split in options.ood.items():
        other = split if options.limit is None else split.first(options.limit)
        numbers = spread(len(other), len(split)).tolist()
        scores = anomaly_scores(opened.vae, other, inside.typical, **given)
        found = Separation(
            (f"{s['dataset']} {s['split']}", _stem(name)),
            inside,
            scores,
            (rows.rows.tolist(), numbers),
        )
        yield name, found, partial(plots.separation, found)
