"""`python -m pyro_vae.sample RUN`: pictures and arrays from a trained run."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.sample")  # before anything that takes time

from pyro_vae._cli.options import answer, sample_parser

if __name__ == "__main__":
    answer(sample_parser())  # before the imports, which take seconds

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import KINDS, run
from pyro_vae.data import evenly
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import require_writable, subfolder, together
from pyro_vae.foundation.memory import affordable
from pyro_vae.runs import output_folder
from pyro_vae.trained import Run

DATALESS = {"prior", "manifold"}  # kinds that are drawn from the model alone
OF_TABLES = ("prior", "reconstructions")  # kinds of columns of mixed kinds
SHOWN = 2000  # rows of data beside draws
AT_A_TIME = 500  # data that are reconstructed
COPIES = {
    "prior": 2,
    "reconstructions": 2,
    "interpolation": 4,
}  # of data, for each that --count counts
FIFTH = 5  # of --count are the data that are read


def draw(
    opened: Run, kind: str, *, count: int, split: str = "test", mean: bool = True
) -> tuple[Figure, Tensor]:
    """One kind of picture of a run: the figure and the values it shows.

    Args:
        opened: the run, from `open_run`.
        kind: one of `KINDS`.
        count: how many draws from the prior; reconstructions and interpolations take a fifth and a tenth as many.
        split: where data come from.
        mean: for the prior, show the mean of p(x|z) (True) or a draw from it.
    """
    vae = opened.vae
    if kind == "prior":
        x = vae.sample(count, mean=mean)
        title = "mean of p(x | z), z from the prior" if mean else "draws from p(x)"
        return plots.grid(x, columns=min(10, count), title=title), x
    if kind == "manifold":
        return plots.manifold(vae)
    data = opened.split(split)
    if kind == "reconstructions":
        x = data.first(max(count // FIFTH, 1))[:]
        reconstructed = torch.cat([vae.reconstruct(some) for some in x.split(AT_A_TIME)])
        return plots.reconstructions(x, reconstructed), reconstructed
    if kind == "interpolation":
        x = data.first(2 * max(count // 10, 1))[:]
        return plots.interpolation(vae, x[: len(x) // 2 * 2].unflatten(0, (2, -1)).transpose(0, 1))
    return plots.traversal(vae, data.first(1)[:])


def draw_table(
    opened: Run, kind: str, *, count: int, split: str = "test", mean: bool = False
) -> tuple[dict[str, Figure], Tensor, Any]:
    """Draws or reconstructions of a run on a table of mixed kinds.

    Args:
        opened: the run, from `open_run`.
        kind: `'prior'`, `count` draws from p(x), or `'reconstructions'` of as many rows.
        count: how many.
        split: where data come from, beside which draws are shown where they are there.
        mean: for the prior, the mean of p(x|z) and the most probable categories.

    Returns:
        The figures by name, the values `(count, D)`, and the same as a DataFrame.
    """
    assert opened.schema is not None
    columns = opened.schema.columns

    def stored(x: Tensor) -> np.ndarray:
        return opened.bridge.inverse(x).cpu().double().numpy()

    if kind == "reconstructions":
        places = evenly(count, len(opened.split(split)))
        x = opened.split(split)[places]
        made = torch.cat([opened.vae.reconstruct(some) for some in x.split(AT_A_TIME)])
        figure = plots.table_reconstructions(columns, stored(x), stored(made))
        return {kind: figure}, made, opened.frame(made, opened.data.rows[split][places.numpy()])
    made = opened.vae.sample(count, mean=mean)
    tables, names = [stored(made)], ["means of p(x|z)" if mean else "draws from p(x)"]
    try:
        tables.insert(0, stored(opened.split(split).first(SHOWN)[:]))
        names.insert(0, f"{split} data")
    except InputError:  # draws need no data
        pass
    title = " and ".join(names)
    figures = {
        "prior": plots.table_marginals(columns, tables, names, title=title),
        "prior_pairs": plots.table_pairs(columns, tables, names, title=title),
    }
    return figures, made, opened.frame(made)


def _require_memory(opened: Run, kinds: Sequence[str], count: int, split: str) -> None:
    """Raise `InputError` where what `--count` asks for takes more memory than there is."""
    datum = math.prod(opened.spec.shape) + opened.spec.latent_dim
    for kind, copies in COPIES.items():
        if kind in kinds:
            made = count if kind == "prior" else min(count, FIFTH * len(opened.data.values[split]))
            affordable(copies * opened.dtype.itemsize * made * datum, f"--count {count}")


def _kinds(opened: Run, asked: Sequence[str], split: str) -> list[str]:
    """The kinds of pictures that are drawn: those that are asked for, or all that there can be.

    Raises:
        InputError: for one that cannot be drawn, before anything is.
    """
    kinds = [*dict.fromkeys(asked or KINDS)]
    if opened.schema is not None:
        wrong = [kind for kind in asked if kind not in OF_TABLES]
        if wrong:
            raise InputError(
                f"--kind {wrong[0]} is a picture of data of one kind, and the data of the run are columns of mixed "
                f"kinds: choose {' or '.join(OF_TABLES)}"
            )
        kinds = [kind for kind in kinds if kind in OF_TABLES]
    if opened.spec.latent_dim != 2 and "manifold" in kinds:
        if asked:
            raise InputError(
                f"the manifold needs a latent dimension of 2, and the run has {opened.spec.latent_dim}"
            )
        kinds.remove("manifold")
    if set(kinds) <= DATALESS:
        return kinds
    try:
        size = len(opened.split(split))
    except InputError as error:
        raise InputError(f"{error}; --kind prior needs no data") from error
    if size < 2 and "interpolation" in kinds:
        if asked:
            raise InputError(f"an interpolation needs two data and the {split} split has {size}")
        kinds.remove("interpolation")
    opened.announce()
    return kinds


@alone()
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = sample_parser().parse_args(arguments)
    opened = asked(options, data=options.data)
    kinds = _kinds(opened, options.kind or (), options.split)
    _require_memory(opened, kinds, options.count, options.split)
    if options.output is None:
        folder = subfolder(opened.folder, "samples")
    else:
        folder = output_folder("--output", options.output)
    require_writable(folder)
    if opened.schema is not None:
        _write_tables(opened, folder, kinds, options)
        return
    for kind in kinds:
        pyro.set_rng_seed(options.seed)  # each picture is the same whichever others are asked for
        with torch.no_grad():
            figure, values = draw(
                opened, kind, count=options.count, split=options.split, mean=not options.draws
            )
        values = opened.bridge.inverse(values)
        with together() as put:
            put(folder / f"{kind}.png", figure.savefig)
            put(folder / f"{kind}.npy", partial(np.save, arr=values.cpu().numpy()))
        print(f"{folder / kind}.png, .npy  {list(values.shape)}")


def _write_tables(opened: Run, folder: Path, kinds: Sequence[str], options: Any) -> None:
    """Write each kind of table: a .csv with the names and categories of the data, the numbers, and pictures."""
    for kind in kinds:
        pyro.set_rng_seed(options.seed)
        with torch.no_grad():
            figures, values, frame = draw_table(
                opened, kind, count=options.count, split=options.split, mean=False
            )
        values = opened.bridge.inverse(values)
        with together() as put:
            for name, figure in figures.items():
                put(folder / f"{name}.png", figure.savefig)
            put(folder / f"{kind}.npy", partial(np.save, arr=values.cpu().numpy()))
            label = "row" if kind == "reconstructions" else None
            put(
                folder / f"{kind}.csv",
                partial(frame.to_csv, index=label is not None, index_label=label),
            )
        pictures = ", ".join(f"{name}.png" for name in figures)
        print(f"{folder / kind}.csv, .npy, {pictures}  {list(values.shape)}")


if __name__ == "__main__":
    run("pyro_vae.sample", main)
