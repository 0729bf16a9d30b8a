"""`python -m pyro_vae.explore RUN`: a page in which a reader moves through the latents of a run."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.explore")  # before anything that takes time

from pyro_vae._cli.options import answer, explore_parser

if __name__ == "__main__":
    answer(explore_parser())  # before the imports, which take seconds

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import DRAWS, run
from pyro_vae._cli.telling import teller
from pyro_vae._rows import Rows, new_rows, own_rows
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.moments import moments_of
from pyro_vae.explorer import Encoded, explorer
from pyro_vae.explorer.decoder import check_latents
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import write_atomically
from pyro_vae.models.conditionals.layered import Layers
from pyro_vae.models.layers import places
from pyro_vae.models.program import named
from pyro_vae.models.vae import VAE
from pyro_vae.runs import check_output
from pyro_vae.trained import Run

BYTES = 2_000_000  # of the data in a page, unless --limit says how many there are
USUAL, FEWEST = 1000, 50  # data
BATCH = 500  # data that are encoded at a time


def page(opened: Run, *, split: str = "test", limit: int | None = None) -> str:
    """The page of a run as text, with some data of a split.

    Args:
        opened: the run, from `open_run`, on the CPU.
        split: `'train'`, `'validation'` or `'test'`.
        limit: as in `encoded`.

    Raises:
        InputError: as `explorer`, and for data that cannot be found.
    """
    return explorer(opened, encoded(opened, own_rows(opened, split), limit))


@torch.no_grad()
def encoded(opened: Run, rows: Rows, limit: int | None = None) -> Encoded:
    """Some data of a run with their codes.

    Args:
        opened: the run.
        rows: the data.
        limit: how many of them, spread evenly; by default 1,000, fewer of large data, at least 50.

    Raises:
        InputError: for a posterior that is not finite.
    """
    some = rows.first(usual_limit(opened) if limit is None else limit)
    x, c = fields_of(some.x[:])
    means, stds = [], []
    for few in batches(some.x, BATCH):
        mean, std = _moments(opened.vae, few)
        means.append(mean)
        stds.append(std)
    if opened.vae.label_width:
        c = opened.vae.completed(x, c)
    if not all(part.isfinite().all() for part in (*means, *stds)):
        raise InputError(
            "the guide gives some of the data a posterior that is not finite"
        )
    c = None if c is None else c.cpu()
    return Encoded(some, x.cpu(), c, torch.cat(means).cpu(), torch.cat(stds).cpu())


def _moments(vae: VAE, few: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of q(z|x), `(N, latent_dim)`; of several layers given the means of those before."""
    if not isinstance(vae.guide, Layers):
        return _spread(vae.encode(*fields_of(few)))
    values, each = vae.guide.known(named(few, {})), {}
    for factor in vae.guide.factors():
        each[factor.site] = _spread(factor.at(values))
        values[factor.site] = each[factor.site][0]
    sites = places(vae.model.sites, vae.model.dims)
    mean, std = (torch.cat([each[s][i] for s in sites], -1) for i in range(2))
    return mean, std


def _spread(q: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent."""
    mean, variance = moments_of(q, DRAWS)
    return mean, variance.clamp_min(0).sqrt()


def usual_limit(opened: Run) -> int:
    """How many data a page holds unless it is said."""
    size = math.prod(opened.spec.shape)
    table = opened.table is not None
    return min(USUAL, max(FEWEST, BYTES // (4 * size if table else size)))


@alone()
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = explore_parser().parse_args(arguments)
    if options.labels is not None and options.data is None:
        raise InputError(
            "--labels goes with new data; name their file with --data FILE"
        )
    opened = asked(options)
    check_latents(opened.vae)
    output = _output(options.output, opened.folder)
    new = (
        None if options.data is None else new_rows(opened, options.data, options.labels)
    )
    rows = own_rows(opened, options.split) if new is None else new
    opened.announce()
    pyro.set_rng_seed(options.seed)
    some = encoded(opened, rows, options.limit)
    opened.vae.to("cpu")
    text = explorer(opened, some)
    write_atomically(output, lambda path: path.write_text(text, encoding="utf-8"))
    tell = teller(quiet=options.quiet)
    tell(f"{rows.dataset}: {len(some.x)} of {rows.total} {rows.split} data")
    tell(f"latent dimension {opened.spec.latent_dim}, weights of epoch {opened.epoch}")
    print(f"written: {output}, {len(text.encode()) / 1e6:.1f} MB")


def _output(given: str | None, folder: Path) -> Path:
    """Where the page goes; every reason why it cannot is found before the work."""
    path = folder / "explorer.html" if given is None else Path(given)
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"--output {path} must end in .html")
    check_output(path, "--output")
    return path


if __name__ == "__main__":
    run("pyro_vae.explore", main)
