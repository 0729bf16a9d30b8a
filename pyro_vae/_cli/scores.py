"""Numbers for each row of a data set, as a table in a file."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae._rows import plain
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import Write
from pyro_vae.runs import check_output

if TYPE_CHECKING:
    import pandas

# What the arrays of an evaluation are called in a table; the others keep their names.
NAMES = {
    "row": "row",
    "name": "name",
    "split": "split",
    "label": "label",
    "values": "log_px",
    "standard_errors": "log_px_standard_error",
    "elbo": "elbo",
    "reconstruction": "reconstruction",
    "kl": "kl",
    "pareto_k": "pareto_k",
    "ess": "ess",
    "num_particles": "num_particles",
}


GIVEN = "given_"  # how the name of a condition begins in a table


def identity(rows: Any) -> dict[str, np.ndarray]:
    """Which row of the file each datum is: `row`, and where there are any `name`, `label` and `given_...`, each `(N,)`.

    The last are what it is given, a condition each.
    """
    columns = {"row": rows.rows, "name": rows.names, "label": rows.labels}
    columns |= {f"{GIVEN}{name}": values for name, values in rows.given.items()}
    return {key: plain(values) for key, values in columns.items() if values is not None}


def scores(columns: Mapping[str, np.ndarray], split: str) -> "pandas.DataFrame":
    """The arrays of an evaluation as a table with a line for each datum: which row it is, its split, its numbers."""
    import pandas

    given: dict[str, Any] = {**columns, "split": split}
    known = {"row", "name", "split", "label"}
    order = [
        *(key for key in NAMES if key in known and key in given),
        *(key for key in columns if key.startswith(GIVEN)),
        *(key for key in NAMES if key not in known and key in given),
        *(key for key in columns if key not in NAMES and not key.startswith(GIVEN)),
    ]
    return pandas.DataFrame({NAMES.get(key, key): given[key] for key in order})


def check_tables(options: Any) -> None:
    """Raise `InputError` where `--csv` or `--parquet` of `options` cannot be written, before the work is done."""
    for option in ("csv", "parquet"):
        path = getattr(options, option)
        if path is None:
            continue
        setattr(options, option, Path(path))
        check_output(Path(path), f"--{option}")
        if option == "parquet":
            require_pyarrow(f"--parquet {path}")


def require_pyarrow(what: str) -> None:
    try:
        importlib.import_module("pyarrow")
    except ImportError:
        raise InputError(
            f"{what} needs the package pyarrow, which is missing: pip install pyarrow, or name a .npz or .csv file"
        ) from None


def table_files(table: "pandas.DataFrame", options: Any) -> dict[Path, Write]:
    """By the files that `--csv` and `--parquet` of `options` name, what writes a table to each."""
    writers = {options.csv: as_csv(table), options.parquet: as_parquet(table)}
    return {path: write for path, write in writers.items() if path is not None}


def as_csv(table: "pandas.DataFrame") -> Write:
    """What writes a table as text."""
    return lambda path: table.to_csv(path, index=False)


def as_parquet(table: "pandas.DataFrame") -> Write:
    """What writes a table as a .parquet file."""
    return lambda path: table.to_parquet(path, engine="pyarrow", index=False)
