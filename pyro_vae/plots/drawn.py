"""Pictures of a trained run, or of a pair and its data, as whole figures: they show themselves in a notebook."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import evenly
from pyro_vae.data.inputs import as_data, fields_of
from pyro_vae.data.schema import drawn_by_column, table_of
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.ways import directions
from pyro_vae.plots import pictures
from pyro_vae.plots.looks import LOOKED_AT, Look, look_of
from pyro_vae.plots.numbers import bars, learning_curves, scatter
from pyro_vae.plots.series import beside, series
from pyro_vae.plots.tables import table_marginals, table_pairs, table_reconstructions
from pyro_vae.plots.tiles import grid

AT_A_TIME = 500  # data that are encoded
ROWS = 500  # of a table beside draws
SIDE = 10  # pictures in a row


class _Source:
    """A run or a pair with data, as pictures read them: some data, their conditions and their look."""

    def __init__(self, source: Any, x: Any, split: str, show_as: str | None) -> None:
        self.run = source if hasattr(source, "look") else None
        self.vae: Any = source if self.run is None else source.vae
        if self.run is None and x is None:
            raise InputError(
                "a pair has no data of its own: give them as x, or give a run"
            )
        given = None if x is None else as_data(self.vae.model, x, values=False)
        self.data: Any = source.split(split) if given is None else given
        self.names = list(map(str, getattr(x, "columns", ()))) or None
        self.look: Look = self._look(show_as)

    def _look(self, show_as: str | None) -> Look:
        if self.run is not None:
            found: Look = self.run.look(show_as)
            return found
        # A narrow table is drawn column by column, as that of a run is.
        likelihood = self.vae.model.likelihood
        table = table_of(None, self.names, likelihood.shape, likelihood.support)
        by_column = table is not None and drawn_by_column(None, likelihood.shape)
        columns = table.columns if table is not None and by_column else None
        some = self.first(LOOKED_AT)[0]
        return look_of(likelihood, some, kind=show_as, columns=columns)

    def first(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Some data as the likelihood sees them, and their conditions."""
        data = self.data
        some = data.first(count)[:] if hasattr(data, "first") else _first(data, count)
        x, c = fields_of(some)
        if self.vae.model.of_x.y:  # the decoder reads a class
            c = self.vae.completed(x, c)
        return x, c

    def shown(self, x: Tensor) -> Tensor:
        """What pictures show of data."""
        if self.run is None:
            return x
        shown: Tensor = self.run.shown(x)
        return shown

    def codes(self, count: int) -> Tensor:
        """The posterior means of some data, `(n, D)`."""
        x, c = self.first(count)
        rows = torch.arange(len(x)).split(AT_A_TIME)
        each = [
            self.vae.posterior_mean(x[i], None if c is None else c[i]) for i in rows
        ]
        return torch.cat(each)


def _first(data: Any, count: int) -> Any:
    """Some of data that are a tensor, or that read themselves, spread evenly as those of a run are."""
    rows = evenly(min(count, len(data)), len(data))
    return data[rows.to(data.device) if isinstance(data, Tensor) else rows]


def draw_samples(
    source: Any,
    x: Any = None,
    *,
    count: int = 50,
    split: str = "test",
    show_as: str | None = None,
    pairs: bool = False,
) -> Figure:
    """Draws from the model: means of p(x | z) as pictures; series, and tables column by column, beside the data.

    Args:
        source: a run, from `open_run`, or a `VAE`.
        x: data as the likelihood sees them, `(N, *shape)`; of a run those of `split` by default.
        count: pictures, or draws beside the data (of a table 500 or more).
        split: which data of a run.
        show_as: `'image'`, `'series'` or `'table'`, in place of what the data are taken for.
        pairs: of a table, show those columns two by two whose ranks hang together most.

    Raises:
        InputError: for a pair without data, and for data that cannot be shown so.
    """
    seen = _Source(source, x, split, show_as)
    wide = max(count, ROWS) if seen.look.kind != "image" else count
    data, c = seen.first(wide)
    under = None if c is None else c[torch.arange(wide) % len(c)]
    if seen.look.kind == "image":
        made = seen.vae.sample(count, under, mean=True)
        title = "mean of p(x | z), z from the prior"
        return grid(made, columns=min(SIDE, count), title=title, look=seen.look)
    drawn = seen.vae.sample(wide, under)
    if seen.look.kind == "series":
        groups = {"data": seen.shown(data), "draws from the model": drawn}
        return beside(groups, title="data and draws", look=seen.look)
    tables = [seen.look.numbers(seen.shown(data)), seen.look.numbers(drawn)]
    draw = table_pairs if pairs else table_marginals
    names = ("data", "draws from the model")
    return draw(seen.look.columns, tables, names, title="data and draws")


def draw_reconstructions(
    source: Any,
    x: Any = None,
    *,
    count: int = 20,
    split: str = "test",
    show_as: str | None = None,
) -> Figure:
    """Data, and what they are made again as from one draw of q(z | x). The arguments are those of `draw_samples`."""
    seen = _Source(source, x, split, show_as)
    table = seen.look.kind == "table"
    data, c = seen.first(max(count, ROWS) if table else count)
    made = seen.vae.reconstruct(data, c)
    known = seen.shown(data)
    if table:
        look = seen.look
        return table_reconstructions(
            look.columns, look.numbers(known), look.numbers(made)
        )
    if seen.look.kind == "series":
        return series(
            known[:5], made[:5], title="data and reconstructions", look=seen.look
        )
    conditional = c is not None
    return pictures.reconstructions(
        known, made, conditional=conditional, look=seen.look
    )


def draw_traversal(
    source: Any,
    x: Any = None,
    *,
    steps: int = 11,
    split: str = "test",
    show_as: str | None = None,
) -> Figure:
    """What changes as each latent of the first datum moves, the latents with the largest KL first.

    Latents with a KL below 0.01 nats are left out and counted. The arguments are those of `draw_samples`; steps are
    the values of each latent.
    """
    seen = _Source(source, x, split, show_as)
    data, c = seen.first(AT_A_TIME)
    kl = pictures.kl_of_latents(seen.vae, data, c=c)
    one = None if c is None else c[:1]
    drawn = pictures.traversal(
        seen.vae, data[:1], steps=steps, c=one, kl=kl, look=seen.look
    )
    return drawn[0]


def draw_interpolation(
    source: Any,
    x: Any = None,
    *,
    pairs: int = 5,
    steps: int = 11,
    dense: bool = False,
    split: str = "test",
    show_as: str | None = None,
) -> Figure:
    """From one datum to another through the latents, along a line, or `dense`: by way of the codes of data.

    Data 0 and n, 1 and n + 1, ... are the n `pairs`. The other arguments are those of `draw_samples`.
    """
    seen = _Source(source, x, split, show_as)
    data, c = seen.first(2 * pairs)
    half = len(data) // 2
    ends = torch.stack([data[:half], data[half : 2 * half]], 1)
    given = None if c is None else torch.stack([c[:half], c[half : 2 * half]], 1)
    through = seen.codes(2000) if dense else None
    how: Any = {"steps": steps, "c": given, "through": through, "look": seen.look}
    return pictures.interpolation(seen.vae, ends, **how)[0]


def draw_attributes(
    source: Any,
    labels: Mapping[str, Sequence[Any]] | Sequence[Any],
    x: Any = None,
    *,
    controlled: bool = False,
    split: str = "test",
    show_as: str | None = None,
) -> Figure:
    """What the first datum becomes towards each category of some labels; see `pyro_vae.inference.ways.directions`.

    Args:
        source: a run, from `open_run`, or a `VAE`.
        labels: by name, as of a dict or a DataFrame, or of one kind alone; one for each of the data.
        x: as in `draw_samples`.
        controlled: whether what goes along with other labels is left to these.
        split: as there.
        show_as: as there.

    Raises:
        InputError: as `draw_samples`, and for labels that are not one for each of the data.
    """
    seen = _Source(source, x, split, show_as)
    data, c = seen.first(len(seen.data))
    by_name = isinstance(labels, Mapping) or hasattr(labels, "columns")
    named: Any = labels if by_name else {"label": labels}
    known = {str(name): np.asarray(named[name]) for name in named}
    every = directions(seen.codes(len(data)), known, controlled=controlled)
    same = torch.zeros(len(every), dtype=torch.long)
    given = None if c is None else c[same]
    return pictures.arithmetic(seen.vae, data[same], every, c=given, look=seen.look)[0]


def draw_codes(
    source: Any,
    labels: Sequence[Any] | None = None,
    x: Any = None,
    *,
    latents: tuple[int, int] = (0, 1),
    count: int = 2000,
    split: str = "test",
) -> Figure:
    """The posterior means of data, two latents of them, coloured by labels, where these are given.

    Args:
        source: a run, from `open_run`, or a `VAE`; or the codes themselves, `(N, D)`.
        labels: one for each of the data.
        x: as in `draw_samples`.
        latents: which two.
        count: data at most.
        split: as there.

    Raises:
        InputError: as `draw_samples`, and for labels that are not one for each of the data.
    """
    if isinstance(source, Tensor | np.ndarray):
        codes = torch.as_tensor(source)
        size, what = len(codes), "codes"
    else:
        seen = _Source(source, x, split, None)
        codes = seen.codes(count)
        size, what = len(seen.data), "data"
    named = None if labels is None else np.asarray(labels)
    if named is not None and len(named) != size:
        raise InputError(f"there are {len(named)} labels for {size} {what}")
    if named is not None:
        named = named[evenly(len(codes), len(named)).numpy()]
    figure = scatter(codes[:, list(latents)], named)
    figure.axes[0].set(xlabel=f"z[{latents[0]}]", ylabel=f"z[{latents[1]}]")
    return figure


def draw_training(history: Sequence[Any]) -> Figure:
    """ELBO, reconstruction and KL by epoch, of a history: what `fit` returns, or rows of a run's `metrics.csv`."""
    rows = [row if isinstance(row, Mapping) else _row(row) for row in history]
    if not rows:
        raise InputError("a history without an epoch cannot be drawn")
    return learning_curves(rows)


def draw_result(result: Any, name: str | None = None) -> Figure:
    """A figure of a result that has some, such as that of `log_marginal`, or its terms as bars with errors.

    Args:
        result: what an evaluation returned.
        name: of the figure; the first by default, and `'bars'` for its rows.

    Raises:
        InputError: for a name that the result does not have.
    """
    if not hasattr(result, "figures") and not hasattr(result, "answer"):
        terms = {term: (float(value), 0.0) for term, value in result._asdict().items()}
        return bars({"": terms}, "nats per datum", title=" and ".join(terms))
    answer = result if hasattr(result, "figures") else result.answer()
    names = [*answer.figures, "bars"]
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise InputError(
            f"the result has the figures {', '.join(names)}, and no {chosen!r}"
        )
    if chosen != "bars":
        made: Figure = answer.figures[chosen].make()
        return made
    rows = {
        row: _with_error(each)
        for row, each in answer.rows.items()
        if not isinstance(each, Mapping)
    }
    return bars(
        {"": rows}, "nats per datum", title=f"{answer.title}, ± one standard error"
    )


def _with_error(row: Any) -> tuple[float, float]:
    """The mean of a row and its standard error: over data, which holds the noise of draws, where that is known."""
    estimate = getattr(row, "estimate", row)
    errors = estimate.data_standard_error, estimate.monte_carlo_standard_error
    return estimate.mean, next((error for error in errors if error is not None), 0.0)


def _row(epoch: Any) -> dict[str, float]:
    """An epoch of `fit` as a row of `metrics.csv`."""
    known = epoch._asdict() if hasattr(epoch, "_asdict") else vars(epoch)
    names = ("elbo", "reconstruction", "kl")
    validation = {f"validation_{name}": math.nan for name in names}
    return {
        **validation,
        **{k: v for k, v in known.items() if isinstance(v, int | float)},
    }
