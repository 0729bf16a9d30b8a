"""`python -m pyro_vae.impute RUN`: the run's data, or others, with what is missing in them filled in."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.impute")  # before anything that takes time

from pyro_vae._cli.options import answer, impute_parser

if __name__ == "__main__":
    answer(impute_parser())  # before the imports, which take seconds

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import run
from pyro_vae._cli.outputs import put_each
from pyro_vae._cli.scores import (
    GIVEN,
    as_csv,
    as_parquet,
    identity,
    require_pyarrow,
)
from pyro_vae._cli.telling import teller
from pyro_vae._rows import Rows, new_rows, own_rows
from pyro_vae.data import SPLITS
from pyro_vae.data.inputs import fields_of
from pyro_vae.evaluation.imputation import Imputed, imputations
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.runs import check_output
from pyro_vae.trained import Run

if TYPE_CHECKING:
    import pandas

ENDINGS = (".csv", ".parquet", ".npz")


def completed(opened: Run, rows: Rows, **options: Any) -> dict[str, np.ndarray]:
    """Some rows of a run with what is missing filled in, as they are written to a `.npz`, in stored units.

    Args:
        opened: the run.
        rows: its rows, or new ones.
        **options: those of `imputations`.

    Returns:
        `x`, `(N, *shape)`: what was seen as it is stored, the most probable category or the mean of numbers for the
        rest; `mean` and `std` of each element given what was seen, `missing` (booleans) and `draws`, `(draws, N,
        *shape)`; for each datum `ess`, `pareto_k`, its place `row`, and `name` and `label` where it has any.
    """
    found = imputations(opened.vae, rows.x, **options)
    bridge = opened.bridge
    seen = _stored(rows, found)
    unit = bridge.inverse(torch.ones_like(found.std)) - bridge.inverse(
        torch.zeros_like(found.std)
    )

    def back(x: Tensor) -> Tensor:
        return torch.where(found.missing, bridge.inverse(x).double(), seen)

    arrays = {
        "x": back(found.point),
        "mean": back(found.mean),
        "std": found.std.double() * unit,
        "missing": found.missing,
        "draws": back(found.draws),
        "ess": found.ess,
        "pareto_k": found.pareto_k,
    }
    plain = {name: value.numpy() for name, value in arrays.items()}
    return {**plain, **identity(rows)}


def _stored(rows: Rows, found: Imputed) -> Tensor:
    """What was seen, as it is stored where the likelihood sees it so up to its units, in float64."""
    x: Any = fields_of(rows.x)[0]
    values, bridge = x.values, x.bridge
    if bridge.plain and isinstance(values, Tensor):
        return values.cpu().double()
    return bridge.inverse(found.mean).double()


def frame(opened: Run, arrays: dict[str, np.ndarray]) -> "pandas.DataFrame":
    """Completed rows of a table as a table of the same columns, with their categories; `name` first, if they have one.

    Of a conditional run the conditions stand behind them.

    Raises:
        InputError: for data that are no table.
    """
    import pandas

    x = arrays["x"]
    if x.ndim != 2:
        raise InputError(
            f"data of shape {x.shape[1:]} are no table: name a .npz file as --output"
        )
    if opened.schema is not None:
        table = opened.schema.frame(x)
    else:
        names = opened.columns or [str(i) for i in range(x.shape[1])]
        whole = (x == np.round(x)).all(0)
        columns = zip(names, x.T, whole, strict=True)
        table = pandas.DataFrame(
            {n: v.astype(np.int64) if w else v for n, v, w in columns}
        )
    before = [key for key in arrays if key.startswith(GIVEN)]
    given = {key.removeprefix(GIVEN): arrays[key] for key in before}
    table = table.assign(**{n: v for n, v in given.items() if n not in table})
    if "name" in arrays and "name" not in table:
        table.insert(0, "name", arrays["name"])
    return table


def _by_field(opened: Run, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, those with the values of all fields cut into one for each field, such as `image` and `image_std`."""
    if not opened.several:
        return arrays
    cut: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if key not in ("x", "mean", "std", "missing", "draws"):
            # A field may have the name of something that is said of the rows.
            cut.setdefault(key, value)
            continue
        for name, view in opened.fields.items():
            part = view.shown(torch.from_numpy(value)).numpy()
            if key == "x" and view.schema is not None and part.shape[1] == 1:
                cells = view.schema.columns[0].cells(part[:, 0])
                part = np.asarray(cells.tolist())
            cut[name if key == "x" else f"{name}_{key}"] = part
    return cut


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The rows of all splits, in the order of their file where they are of one."""
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    arrays = {
        k: np.concatenate([p[k] for p in parts], int(k == "draws")) for k in shared
    }
    if len(set(arrays["row"].tolist())) < len(arrays["row"]):
        return arrays
    order = np.argsort(arrays["row"])
    return {
        key: value.take(order, int(key == "draws")) for key, value in arrays.items()
    }


def _output(options: Any, opened: Run) -> Path:
    """Where the table goes; every reason why it cannot is found before the work."""
    new = (
        ""
        if options.data is None
        else "-" + re.sub(r"[^\w.+]+", "_", Path(options.data).stem)
    )
    table = len(opened.spec.shape) == 1 and not opened.several
    ending = ".csv" if table else ".npz"
    given = options.output
    path = opened.folder / f"imputed{new}{ending}" if given is None else Path(given)
    if path.suffix not in ENDINGS:
        raise InputError(f"--output {path} must end in .csv, .parquet or .npz")
    if path.suffix != ".npz" and not table:
        what = (
            "several fields" if opened.several else f"data of shape {opened.spec.shape}"
        )
        raise InputError(f"--output {path}: {what} are no table; name a .npz file")
    for each in (path, path.with_suffix(".npz")):
        check_output(each, "--output")
    if path.suffix == ".parquet":
        require_pyarrow(f"--output {path}")
    return path


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@alone()
@by_the_command_line
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = impute_parser().parse_args(arguments)
    opened = asked(options)
    if not opened.vae.model.likelihood.missing:
        raise InputError(
            f"the run {opened.folder} takes no missing values: train with --missing keep, or --hide SHARE to measure"
        )
    output = _output(options, opened)
    new = None if options.data is None else new_rows(opened, options.data)
    if new is not None and options.split is not None:
        raise InputError(
            f"{options.data} is new to the run: all of its rows are taken, and --split {options.split} cannot be used"
        )
    splits = (
        [options.split]
        if options.split
        else [s for s in SPLITS if _has(opened, new, s)]
    )
    every = [new] if new is not None else [own_rows(opened, split) for split in splits]
    opened.announce()
    pyro.set_rng_seed(options.seed)
    settings = {"num_particles": options.num_particles, "draws": options.draws}
    settings["memory"] = options.memory * 2**20
    arrays = _joined([completed(opened, rows, **settings) for rows in every])

    # What was done, and how far to trust it.
    tell = teller(quiet=options.quiet)
    tell(_said(opened, arrays, options.num_particles))
    table = (
        {}
        if output.suffix == ".npz"
        else {output: _writer(output, frame(opened, arrays))}
    )
    written, failed = put_each(
        {
            **table,
            output.with_suffix(".npz"): partial(
                _save, arrays=_by_field(opened, arrays)
            ),
        }
    )
    tell("")
    print(f"written: {', '.join(map(str, written))}")
    if failed:
        raise InputError(f"not written: {', '.join(failed)}")


def _has(opened: Run, new: Rows | None, split: str) -> bool:
    return new is None and len(opened.data.values[split]) > 0


def _writer(path: Path, table: "pandas.DataFrame") -> Any:
    return as_parquet(table) if path.suffix == ".parquet" else as_csv(table)


def _said(opened: Run, arrays: dict[str, np.ndarray], num_particles: int) -> str:
    """The answer to a person: how many values were filled in, and what their weights say."""
    kept = ("missing", "mean", "std", "x", "draws", "ess", "pareto_k")
    missing, mean, std, point, draws, ess, k = (
        torch.from_numpy(arrays[name]) for name in kept
    )
    nothing = torch.full((len(mean),), torch.nan)
    found = Imputed(
        missing, mean, std, point, draws, nothing, None, ess, k, num_particles
    )
    about = found.answer()
    text = [f"{about.title}: {about.about}", *about.sentences]
    return "\n".join([*text, *(f"warning: {w}" for w in about.warnings)])


if __name__ == "__main__":
    run("pyro_vae.impute", main)
