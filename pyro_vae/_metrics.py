"""The table of epochs that training writes, `metrics.csv`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import reading
from pyro_vae.inference.epochs import Epoch


def read_metrics(path: Path, epochs: int) -> list[dict[str, float]]:
    """The rows of the first `epochs` epochs; anything later, or cut off by a kill, is dropped."""
    if not path.is_file():
        return []
    with (
        reading(path, "a table of epochs"),
        path.open(newline="", encoding="utf-8") as file,
    ):
        rows = [
            r
            for r in csv.DictReader(file)
            if None not in r.values() and (r["epoch"] or "").isdigit()
        ]
        if rows and not {"elbo", "validation_elbo"} <= rows[0].keys():
            raise InputError(
                f"the file {path} is not a table of epochs: its header is another"
            )
        return [
            {k: float(v) for k, v in row.items() if k in Epoch._fields}
            for row in rows
            if int(row["epoch"]) <= epochs
        ]


def metrics_text(rows: Sequence[dict[str, float]], *, header: bool = True) -> str:
    """Rows of `metrics.csv` as text."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, Epoch._fields, restval="nan")
    if header:
        writer.writeheader()
    writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    return file.getvalue()
