"""`python -m pyro_vae.sample RUN`: pictures and arrays from a trained run."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.sample")  # before anything that takes time

from pyro_vae._cli.options import answer, sample_parser

if __name__ == "__main__":
    answer(sample_parser())  # before the imports, which take seconds

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import KINDS, formats, run
from pyro_vae._cli.outputs import save
from pyro_vae._cli.scores import as_csv, plain
from pyro_vae.data import evenly
from pyro_vae.data.conditions import SHOWN as SHOWN_CATEGORIES
from pyro_vae.data.conditions import assigned, listed, spelled
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.schema import Held
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.imputation import draws_given
from pyro_vae.evaluation.question import PerDatum
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import Write, require_writable, subfolder, together
from pyro_vae.foundation.memory import affordable
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.inference.corrupting import check_shown, corrupted_data
from pyro_vae.inference.ways import Direction, directions
from pyro_vae.networks import Corruption
from pyro_vae.plots.looks import Look
from pyro_vae.plots.pictures import has_manifold
from pyro_vae.runs import output_folder, require_data
from pyro_vae.spec import parse
from pyro_vae.trained import FieldRun, Run

if TYPE_CHECKING:
    import pandas

# Kinds that are drawn from the model alone.
DATALESS = {
    "prior",
    "manifold",
    "conditions",
}
CONDITIONAL = {"conditions", "transfer"}  # kinds for runs with conditions
BY_COLUMN = ("prior", "reconstructions")  # kinds that have a .csv of tables
# Kinds that are drawn of tables.
OF_TABLES = (*BY_COLUMN, "interpolation", "traversal", "attributes")
CODED = 2000  # data whose codes tell where a way is dense and what an attribute changes
FOR_KL = 500  # data that tell what a latent carries
BANDS = 200  # draws for the band of a series
HEATED = 4  # interpolations of a table
SERIES = 5  # series side by side
MOST_CATEGORIES = 40  # of a label that gives directions
SHOWN = 2000  # rows of data beside draws
AT_A_TIME = 500  # data that are reconstructed
# Of data, for each that --count counts.
COPIES = {
    "prior": 2,
    "reconstructions": 2,
    "interpolation": 4,
}
CROSSED = 9  # draws in a row
FIFTH = 5  # of --count are the data that are read

Put = Callable[[Path, Write], None]


class Wish(NamedTuple):
    """What is asked of interpolations and of attributes.

    Attributes:
        dense: whether interpolations go by way of where the codes of data are dense.
        attributes: the labels that give directions; all where it is empty.
        controlled: whether what goes along with other labels is left to these.
    """

    dense: bool = False
    attributes: tuple[str, ...] = ()
    controlled: bool = False


NO_WISH = Wish()


def draw(
    opened: Run,
    kind: str,
    *,
    count: int,
    split: str = "test",
    mean: bool = True,
    given: Mapping[str, str | float] | None = None,
    corrupt: Corruption | None = None,
    look: Look | None = None,
    wish: Wish = NO_WISH,
) -> tuple[Figure, Tensor]:
    """One kind of picture of a run: the figure and the values it shows.

    Args:
        opened: the run, from `open_run`.
        kind: one of `KINDS`.
        count: how many draws from the prior; reconstructions and interpolations take a fifth and a tenth as many.
        split: where data come from.
        mean: for the prior, show the mean of p(x|z) (True) or a draw from it.
        given: of a conditional run the conditions to decode with, by column. Without any, draws are under those of the
            data, and what is made of data is under their own; with some, the others are usual ones.
        corrupt: of the kind denoise what data are corrupted by.
        look: what the data are taken for, and their scale; by default `opened.look()`.
        wish: what is asked of interpolations and of attributes.
    """
    vae, to = opened.vae, _condition(opened, given)
    look = look or opened.look()
    if kind == "prior":
        return _draws(opened, count, split, mean=mean, given=given, look=look)
    if kind == "conditions":
        assert opened.conditions is not None
        each, names = opened.conditions.examples(given or {})
        return _titled(
            plots.conditions(vae, _seen(opened, each), names, mean=mean, look=look),
            _shown(opened, given),
        )
    if kind == "manifold" and opened.conditions is not None:
        chosen = _with_usual_class(opened, given)
        held = _seen(opened, opened.conditions.one(chosen))
        return _titled(plots.manifold(vae, c=held, look=look), _words(opened, chosen))
    if kind == "manifold":
        return plots.manifold(vae, look=look)

    # Pictures of data.
    data = opened.split(split)
    if kind == "reconstructions":
        some = data.first(max(count // FIFTH, 1))
        reconstructed = [
            vae.reconstruct(few, to=to) for few in batches(some, AT_A_TIME)
        ]
        made = torch.cat(reconstructed)
        x, c = fields_of(some[:])
        conditional = c is not None or to is not None
        seen = opened.shown(x)
        if look.kind == "series":
            return _series_made_again(opened, some.first(SERIES)[:], to, look), made
        figure = plots.reconstructions(seen, made, conditional=conditional, look=look)
        return _titled((figure, made), "" if to is None else _words(opened, given))
    if kind == "interpolation":
        rows = max(count // 10, 1)
        rows = min(rows, HEATED) if look.kind == "table" else rows
        pairs, c = _with_own_class(opened, data.first(2 * rows)[:])
        both = 2 * (len(pairs) // 2)
        pairs = pairs[:both].unflatten(0, (2, -1)).transpose(0, 1)
        c = None if c is None else c[:both].unflatten(0, (2, -1)).transpose(0, 1)
        under = "each row under the c of its first datum" if c is not None else ""
        through = _codes(opened) if wish.dense else None
        drawn = plots.interpolation(vae, pairs, c=c, to=to, through=through, look=look)
        return _titled(drawn, under if to is None else _words(opened, given))
    if kind == "cross":
        assert isinstance(opened, FieldRun)
        some = data.first(max(count // 10, 1))
        return _crossed(opened, some, mean=mean, look=look)
    if kind == "transfer":
        assert opened.conditions is not None
        x, c = _with_own_class(opened, data.first(max(count // 10, 1))[:])
        assert c is not None
        others, names = opened.conditions.examples(given or {})
        return _titled(
            plots.transfer(vae, x, c, _seen(opened, others), names, look=look),
            _shown(opened, given),
        )
    if kind == "denoise":
        assert corrupt is not None
        return _denoised(opened, data, max(count // 10, 1), corrupt, look)
    if kind == "layers":
        x, c = fields_of(data.first(max(count // 10, 1))[:])
        return plots.layers(vae, x, c=c, look=look)
    if kind == "attributes":
        return _attributes(opened, split, wish, look)
    x, c = _with_own_class(opened, data.first(1)[:])
    under = "under the c of the datum" if c is not None else ""
    known, of_known = _with_own_class(opened, data.first(FOR_KL)[:])
    kl = plots.kl_of_latents(vae, known, c=of_known)
    drawn = plots.traversal(vae, x, c=c, to=to, kl=kl, look=look)
    return _titled(drawn, under if to is None else _words(opened, given))


def _draws(
    opened: Run,
    count: int,
    split: str,
    *,
    mean: bool,
    given: Mapping[str, str | float] | None,
    look: Look,
) -> tuple[Figure, Tensor]:
    """Draws from the prior, series beside those of the data."""
    vae, to = opened.vae, _condition(opened, given)
    c = drawn_under(opened, count, split, given)
    x = vae.sample(count, c, mean=mean)
    title = "mean of p(x | z), z from the prior" if mean else "draws from p(x)"
    if c is not None:
        under = f"c of {split} data" if to is None else _words(opened, given)
        title = f"{title.replace('z)', 'z, c)').replace('p(x)', 'p(x | c)')}, {under}"
    beside = None if given or look.kind != "series" else _data_of(opened, split)
    if beside is not None:
        return _series_beside(opened, split, beside, look), x
    return plots.grid(x, columns=min(10, count), title=title, look=look), x


def _data_of(opened: Run, split: str) -> Tensor | None:
    """Some data of a split, where they are there."""
    try:
        return opened.shown(fields_of(opened.split(split).first(SHOWN)[:])[0])
    except InputError:  # draws need no data
        return None


def _series_beside(opened: Run, split: str, data: Tensor, look: Look) -> Figure:
    """Data of a split beside as many draws from the model, on one scale."""
    count = min(SHOWN, max(BANDS, len(data)))
    drawn = opened.vae.sample(count, drawn_under(opened, count, split, None))
    groups = {f"{split} data": data, "draws from the model": drawn}
    return plots.beside(groups, title="data and draws", look=look)


def _series_made_again(opened: Run, some: Any, to: Tensor | None, look: Look) -> Figure:
    """Series, their reconstructions, and where the likelihood has a spread the band of draws of x given x."""
    vae = opened.vae
    x, c = _with_own_class(opened, some)
    draws = [vae.reconstruct(some, to=to) for _ in range(BANDS)]
    band, title = None, "data, and the mean of p(x | z) over draws of q(z | x)"
    likelihood: Any = vae.model.likelihood
    if not likelihood.coded and not likelihood.sized:  # draws need z and c alone
        z = vae.encode(x, c).sample((BANDS,))
        band = vae.decode(z, c if to is None else to).sample()
        title += "; band: draws of p(x | z)"
    made = torch.stack(draws).mean(0)
    return plots.series(opened.shown(x), made, band, title=title, look=look)


def _codes(opened: Run) -> Tensor:
    """The posterior means of some training data, `(n, D)`."""
    some = opened.split("train").first(CODED)
    means = [
        opened.vae.posterior_mean(*_with_own_class(opened, few))
        for few in batches(some, AT_A_TIME)
    ]
    return torch.cat(means)


def labels_of(opened: Run, split: str, most: int = CODED) -> dict[str, np.ndarray]:
    """What data of a split are labelled with, by name: their labels, their conditions, their columns of categories.

    Those are left out that have more than 40 categories, or one.
    """
    some = opened.split(split).first(most)
    x, c = fields_of(some[:])
    found: dict[str, np.ndarray] = {}
    if opened.data.labels is not None:
        places = evenly(most, len(opened.data.labels[split])).numpy()
        found["label"] = np.asarray(opened.data.labels[split])[places]
    if opened.conditions is not None and c is not None:
        found |= {
            name: np.asarray(v) for name, v in opened.conditions.decoded(c).items()
        }
    columns = () if opened.table is None else opened.table.columns
    stored = opened.numbers(opened.shown(x)) if columns else np.empty((0, 0))
    for column, values in zip(columns, stored.T, strict=False):
        if column.categories:
            found[column.name] = _categories(column, values)
    return {name: values for name, values in found.items() if _gives_directions(values)}


def _categories(column: Held, codes: np.ndarray) -> np.ndarray:
    """The cells of a column of categories as texts; a scale of numbers as these in standard deviations."""
    cells = [column.categories[int(code)] if code == code else None for code in codes]  # noqa: PLR0124  # nan
    numeric = all(isinstance(c, (int, float)) for c in column.categories)
    if numeric and len(column.categories) > 2:
        values = np.array([np.nan if c is None else float(c) for c in cells])
        spread = np.nanstd(values)
        return (values - np.nanmean(values)) / (spread or 1.0)
    return np.array(["" if c is None else str(c) for c in cells])


def _gives_directions(values: np.ndarray) -> bool:
    """Whether a label has two categories or more and few, or is a number."""
    known = {v for v in plain(values).tolist() if v == v and v != ""}  # noqa: PLR0124  # nan
    numbers = any(isinstance(v, float) and v != round(v) for v in known)
    return len(known) > 1 and (numbers or len(known) <= MOST_CATEGORIES)


def _attributes(
    opened: Run, split: str, wish: Wish, look: Look
) -> tuple[Figure, Tensor]:
    """Data that lack an attribute, and what they become towards it."""
    known = labels_of(opened, "train")
    wanted = set(wish.attributes or known)
    beside = {
        name: values
        for name, values in known.items()
        if name in wanted or wish.controlled
    }
    every = directions(_codes(opened), beside, controlled=wish.controlled)
    towards = _worth_drawing([each for each in every if _label_of(each) in wanted])
    here = labels_of(opened, split, SHOWN)
    places = [_without(here, each.name) for each in towards]
    x, c = _with_own_class(opened, opened.split(split).first(SHOWN)[:])
    given = None if c is None else c[places]
    figure, means = plots.arithmetic(opened.vae, x[places], towards, c=given, look=look)
    if wish.controlled and len(beside) > 1:
        return _titled((figure, means), "others controlled for")
    return figure, means


def _label_of(direction: Direction) -> str:
    """The name of the label that a direction is of."""
    return direction.name.rpartition("=")[0] or direction.name


def _worth_drawing(every: Sequence[Direction]) -> list[Direction]:
    """All directions, but of two categories the second alone: the first is its opposite."""
    labels = [_label_of(each) for each in every]
    twice = {label for label in labels if labels.count(label) == 2}
    shown = [i for i, label in enumerate(labels) if label not in twice]
    shown += [
        i for i, label in enumerate(labels) if label in twice and label in labels[:i]
    ]
    return [every[i] for i in sorted(shown)]


def _without(labels: Mapping[str, np.ndarray], name: str) -> int:
    """The first datum without a category; 0 where all have it, or where it is a number."""
    label, _, category = name.rpartition("=")
    cells = [str(v) for v in plain(labels[label]).tolist()] if label in labels else []
    return next(
        (i for i, cell in enumerate(cells) if cell not in (category, f"{category}.0")),
        0,
    )


def _denoised(
    opened: Run, data: Any, count: int, corrupt: Corruption, look: Look
) -> tuple[Figure, Tensor]:
    """Data, what the encoder is given in their place, and what is made of that; and how far each lies from the data."""
    some = data.first(SHOWN)[:]
    x, c = fields_of(some)
    spoiled = corrupted_data(opened.vae.guide, x, corrupt)
    rows = torch.arange(len(x)).split(AT_A_TIME)
    made = torch.cat(
        [opened.vae.reconstruct(spoiled[i], None if c is None else c[i]) for i in rows]
    )
    for what, other in (("corrupted", spoiled), ("denoised", made)):
        squares = (other - x).square().double().flatten(1).nanmean(1)
        error = PerDatum(squares.cpu(), None).estimate
        print(
            f"{what:<10} squared error of an element {error.mean:.4g} ± {error.data_standard_error or math.nan:.2g}, "
            f"{len(x)} data"
        )
    places = evenly(count, len(x))
    values = torch.stack([x, spoiled, made])[:, places]
    shown = torch.stack([opened.shown(v) for v in values]).nan_to_num()
    title = "data, what is left of them, and the mean of p(x | z) at one draw of q(z | what is left)"
    labels = ["data", "corrupted", "denoised"]
    return plots.in_rows(shown, title, labels, look=look), shown


def _crossed(
    opened: FieldRun, some: Any, *, mean: bool, look: Look
) -> tuple[Figure, Tensor]:
    """A field made from the others: in each row that of a datum, where it is there, and draws given its others."""
    x, c = fields_of(some[:])
    bridge: Any = opened.whole.bridge
    layout, name = bridge.layout, opened.field
    others = [other for other in layout.names if other != name]
    known = layout.only(x, *others)
    rows = layout.seen(known).any(1).nonzero().flatten().tolist()
    if not rows:
        raise InputError(f"none of the data shown has a field beside {name}")
    drawn: dict[int, Tensor] = {}
    for i in rows:
        given = None if c is None else c[i]
        try:
            some_draws = draws_given(
                opened.whole.vae, known[i], CROSSED, given, mean=mean
            )
        except InputError as error:  # of one that is too improbable there are none
            refused = error
            continue
        drawn[i] = opened.shown(some_draws.draws)
    if not drawn:
        raise refused
    rows, made = [*drawn], torch.stack([*drawn.values()])
    first = opened.shown(x[rows]).nan_to_num().unsqueeze(1)
    what = "the mean of p(x | z)" if mean else "draws"
    title = f"{name}: the datum's own, and {what} given its {', '.join(others)}"
    labels = [_cells(opened, x[i], others) for i in rows]
    return plots.in_rows(torch.cat([first, made], 1), title, labels, look=look), made


def _cells(opened: FieldRun, x: Tensor, names: Sequence[str]) -> str:
    """What a datum has in fields of a single column, in words."""
    words = []
    for name in names:
        view = opened.whole.fields[name]
        if view.table is not None and len(view.table.columns) == 1:
            cell = view.frame(view.shown(x[None])).iloc[0, 0]
            words.append("" if cell is None else str(cell))
    return ", ".join(words)


def _with_own_class(opened: Run, data: Any) -> tuple[Tensor, Tensor | None]:
    """Data and their condition; where the decoder reads their class, with the most probable one."""
    x, c = fields_of(data)
    return x, opened.vae.completed(x, c) if opened.vae.model.of_x.y else c


def _with_usual_class(
    opened: Run, given: Mapping[str, str | float] | None
) -> dict[str, str | float]:
    """What is given, and where the decoder reads a class the commonest, if none is given."""
    assert opened.conditions is not None
    column = opened.conditions.latent
    if column is None or not opened.vae.model.of_x.y:
        return dict(given or {})
    return {column.name: column.usual, **(given or {})}


def _titled(drawn: tuple[Figure, Tensor], words: str) -> tuple[Figure, Tensor]:
    """A picture with more words behind its title."""
    figure = drawn[0]
    if words and figure.get_suptitle():
        figure.suptitle(f"{figure.get_suptitle()}, {words}", fontsize=10, wrap=True)
    elif words:
        axes = figure.axes[0]
        axes.set_title(f"{axes.get_title()}, {words}", fontsize=10, wrap=True)
    return drawn


def _condition(opened: Run, given: Mapping[str, str | float] | None) -> Tensor | None:
    """The condition that is given, `(1, context)`, the columns that are not at their usual values."""
    if opened.conditions is None or not given:
        return None
    return _seen(opened, opened.conditions.one(given))


def _shown(opened: Run, given: Mapping[str, str | float] | None) -> str:
    """Of pictures under several conditions, what is held fixed, and how many categories are left out."""
    assert opened.conditions is not None
    free = opened.conditions.free(given or {})
    held = _words(opened, given, but=free)
    column = next((c for c in opened.conditions.columns if c.name == free), None)
    if column is None or len(column.categories) <= SHOWN_CATEGORIES:
        return held
    some = f"the first {SHOWN_CATEGORIES} of {len(column.categories)} categories"
    return ", ".join(filter(None, (some, held)))


def _words(
    opened: Run, given: Mapping[str, str | float] | None, *, but: str | None = None
) -> str:
    """Under which condition something is drawn, and which columns of it are at their usual values."""
    assert opened.conditions is not None
    return ", ".join(
        f"{name} = {value if isinstance(value, str) else f'{value:.4g}'}"
        + ("" if name in (given or {}) else " (usual)")
        for name, value in opened.conditions.completed(given or {}).items()
        if name != but
    )


def _seen(opened: Run, c: Tensor) -> Tensor:
    return c.to(device=opened.device, dtype=opened.dtype)


def drawn_under(
    opened: Run, count: int, split: str, given: Mapping[str, str | float] | None
) -> Tensor | None:
    """The conditions of draws, `(count, context)`: the one that is given, or those of data spread over a split."""
    if opened.conditions is None:
        return None
    one = _condition(opened, given)
    if one is not None:
        return one.expand(count, -1)
    if not opened.conditions.required:
        return None
    _, c = fields_of(opened.split(split).first(count)[:])
    if c is None:
        return None
    conditions: Tensor = c[torch.arange(count) % len(c)]
    return conditions


def _alike(opened: Run, split: str, given: Mapping[str, str | float] | None) -> Tensor:
    """Data to show beside draws: those with the categories that are given, and none where a number is given."""
    x, c = fields_of(opened.split(split).first(SHOWN)[:])
    x = opened.shown(x)
    if opened.conditions is None or not given:
        alike: Tensor = x
        return alike
    values = {} if c is None else opened.conditions.decoded(c)
    if opened.conditions.latent is not None and opened.data.labels is not None:
        places = evenly(SHOWN, len(opened.data.labels[split])).numpy()
        named = np.array(spelled(opened.data.labels[split]))[places]
        values[opened.conditions.latent.name] = named
    same = np.ones(len(x), bool)
    for name, value in given.items():
        known = isinstance(value, str) and name in values
        same &= (values[name] == value) if known else False
    return x[torch.from_numpy(same)]


def draw_table(
    opened: Run,
    kind: str,
    *,
    count: int,
    split: str = "test",
    mean: bool = False,
    given: Mapping[str, str | float] | None = None,
) -> tuple[dict[str, Figure], Tensor, "pandas.DataFrame"]:
    """Draws or reconstructions of a run on a table.

    Args:
        opened: the run, from `open_run`.
        kind: `'prior'`, `count` draws from p(x), or `'reconstructions'` of as many rows.
        count: how many.
        split: where data come from, beside which draws are shown where they are there.
        mean: for the prior, the mean of p(x|z) and the most probable categories.
        given: as in `draw`.

    Returns:
        The figures by name, the values `(count, D)`, and the same as a DataFrame, of a conditional run with the
        conditions that each row was made under.
    """
    if kind == "reconstructions":
        return _rows_made_again(opened, count, split, given)
    assert opened.table is not None
    columns = opened.table.columns
    c = drawn_under(opened, count, split, given)
    made = opened.vae.sample(count, c, mean=mean)
    density = "p(x)" if c is None else "p(x|c)"
    tables = [opened.numbers(made)]
    names = ["means of p(x|z)" if mean else f"draws from {density}"]
    try:
        beside = opened.numbers(_alike(opened, split, given))
    except InputError:  # draws need no data
        beside = np.empty((0, len(columns)))
    if len(beside):
        tables.insert(0, beside)
        alike = ", ".join(f"{name} = {value}" for name, value in (given or {}).items())
        names.insert(0, f"{split} data with {alike}" if alike else f"{split} data")
    title = " and ".join(names)
    if given:
        title += f", {_words(opened, given)}"
    figures = {"prior": plots.table_marginals(columns, tables, names, title=title)}
    if len(columns) > 1:
        figures["prior_pairs"] = plots.table_pairs(columns, tables, names, title=title)
    return figures, made, _beside_conditions(opened, opened.frame(made), c)


def _rows_made_again(
    opened: Run, count: int, split: str, given: Mapping[str, str | float] | None
) -> tuple[dict[str, Figure], Tensor, "pandas.DataFrame"]:
    """Some rows of a split, made again under their own conditions or those that are given."""
    assert opened.table is not None
    data, to = opened.split(split), _condition(opened, given)
    places = evenly(count, len(data))
    some = data.take(places)
    made = torch.cat(
        [opened.vae.reconstruct(few, to=to) for few in batches(some, AT_A_TIME)]
    )
    x, c = fields_of(some[:])
    under = c if to is None else to.expand(len(made), -1)
    figure = plots.table_reconstructions(
        opened.table.columns, opened.numbers(opened.shown(x)), opened.numbers(made)
    )
    frame = opened.frame(made, opened.data.rows[split][places.numpy()])
    return {"reconstructions": figure}, made, _beside_conditions(opened, frame, under)


def _beside_conditions(
    opened: Run, frame: "pandas.DataFrame", c: Tensor | None
) -> "pandas.DataFrame":
    """A table of rows with a column for each condition that they were made under."""
    if opened.conditions is None or c is None:
        return frame
    columns = opened.conditions.decoded(c)
    return frame.assign(
        **{name: values for name, values in columns.items() if name not in frame}
    )


def _require_memory(opened: Run, kinds: Sequence[str], count: int, split: str) -> None:
    """Raise `InputError` where what `--count` asks for takes more memory than there is."""
    datum = math.prod(opened.spec.shape) + opened.spec.latent_dim
    for kind, copies in COPIES.items():
        if kind in kinds:
            made = (
                count
                if kind == "prior"
                else min(count, FIFTH * len(opened.data.values[split]))
            )
            affordable(
                copies * opened.dtype.itemsize * made * datum, f"--count {count}"
            )


def corruption_of(opened: Run, text: str | None) -> Corruption | None:
    """What data are corrupted by: what is asked for, or else what the run was trained with; `None` for neither."""
    member = opened.config.get("corrupt") if text is None else text
    return None if member is None else parse("corrupt", member)()


def _with_denoising(
    opened: Run, kinds: list[str], corrupt: Corruption | None, *, wanted: bool
) -> list[str]:
    """The kinds, without `denoise` where nothing says what data are corrupted by, or they could not be shown."""
    if "denoise" not in kinds:
        return kinds
    try:
        if corrupt is None:
            raise InputError(
                'denoise shows corrupted data made whole, and the run was trained without: add --corrupt "noise(0.3)"'
            )
        check_shown(opened.vae.guide, corrupt)
    except InputError:
        if wanted:
            raise
        kinds.remove("denoise")
    return kinds


def _kinds(
    opened: Run,
    wanted: Sequence[str],
    split: str,
    *,
    given: Mapping[str, str | float],
    corrupt: Corruption | None = None,
    wish: Wish = NO_WISH,
) -> list[str]:
    """The kinds of pictures that are drawn: those that are asked for, or all that there can be.

    Raises:
        InputError: for one that cannot be drawn, before anything is.
    """
    kinds = [*dict.fromkeys(wanted or KINDS)]
    if opened.schema is not None:
        wrong = [kind for kind in wanted if kind not in OF_TABLES]
        if wrong:
            raise InputError(
                f"--kind {wrong[0]} is a picture of data of one kind, and the data of the run are columns of mixed "
                f"kinds: choose {' or '.join(OF_TABLES)}"
            )
        kinds = [kind for kind in kinds if kind in OF_TABLES]
    if "cross" in kinds and (
        not isinstance(opened, FieldRun) or opened.table is not None
    ):
        if wanted:
            raise InputError(
                "cross shows pictures of one field made from others, and there are none: the run has one field, or "
                "this one is a table"
            )
        kinds.remove("cross")
    if "layers" in kinds and len(opened.vae.model.dims) < 2:
        if wanted:
            raise InputError(
                "layers shows what each of several layers of latents holds, and the run has one z"
            )
        kinds.remove("layers")
    for kind in CONDITIONAL & set(kinds) if opened.conditions is None else ():
        if wanted:
            raise InputError(
                f"{kind} is for a conditional run, and {opened.folder} has no --condition"
            )
        kinds.remove(kind)
    kinds = _with_denoising(opened, kinds, corrupt, wanted=bool(wanted))
    model = opened.vae.model
    for kind in ("interpolation", "traversal", "attributes"):
        if kind in kinds and not model.latent_dim:
            if wanted:
                raise InputError(
                    f"{kind} moves along a vector z, and the run has none: its class is all that there is"
                )
            kinds.remove(kind)
    if "transfer" in kinds and opened.conditions is not None and not any(model.of_x):
        if wanted:
            raise InputError(
                "transfer shows data under another condition, and the decoder of the run reads none: its classes are "
                "clusters of latents"
            )
        kinds.remove("transfer")
    if "manifold" in kinds and not has_manifold(opened.vae):
        if wanted:
            raise InputError(
                f"the manifold needs a latent dimension of 2, or at most two variables of few values, and the run has "
                f"{opened.spec.latent_dim}"
            )
        kinds.remove("manifold")
    if _without_data(opened, kinds, given) == kinds:
        return kinds
    try:
        size = len(opened.split(split))
    except InputError as error:
        free = _without_data(opened, kinds, given) if not wanted else []
        if free and _data_are_gone(opened):
            left = ", ".join(kind for kind in kinds if kind not in free)
            print(f"note: {error}; without them {left} cannot be drawn")
            return free
        with_given = " with --given" if _needs_conditions(opened) else ""
        raise InputError(f"{error}; --kind prior{with_given} needs no data") from error
    kinds = _with_attributes(opened, kinds, wish, wanted=bool(wanted))
    if size < 2 and "interpolation" in kinds:
        if wanted:
            raise InputError(
                f"an interpolation needs two data and the {split} split has {size}"
            )
        kinds.remove("interpolation")
    opened.announce()
    return kinds


def _without_data(
    opened: Run, kinds: Sequence[str], given: Mapping[str, str | float]
) -> list[str]:
    """Those of some kinds that are drawn from the model alone."""
    free = DATALESS if given or not _needs_conditions(opened) else DATALESS - {"prior"}
    return [kind for kind in kinds if kind in free]


def _data_are_gone(opened: Run) -> bool:
    """Whether the run's own files of data are not to be found."""
    try:
        require_data(opened.request["dataset"], opened.folder)
    except InputError:
        return True
    return False


def _with_attributes(
    opened: Run, kinds: list[str], wish: Wish, *, wanted: bool
) -> list[str]:
    """The kinds, without `attributes` where nothing labels the data."""
    if "attributes" not in kinds:
        return kinds
    if not wanted and opened.data.streamed:  # all training data would be read
        return [kind for kind in kinds if kind != "attributes"]
    try:
        known = labels_of(opened, "train")
    except InputError:
        known = {}
    for name in wish.attributes:
        if name not in known:
            raise InputError(
                f"--attribute {shown(name)} names no label, condition or column of 2 to {MOST_CATEGORIES} categories: "
                f"the run has {listed([*known]) if known else 'none'}"
            )
    if known:
        return kinds
    if wanted:
        raise InputError(
            f"attributes are read from labels, conditions or columns of 2 to {MOST_CATEGORIES} categories, and the "
            "run has none"
        )
    return [kind for kind in kinds if kind != "attributes"]


def _needs_conditions(opened: Run) -> bool:
    """Whether draws have to be given something; a class is drawn where none is given."""
    return opened.conditions is not None and bool(opened.conditions.required)


@alone()
@by_the_command_line
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = sample_parser().parse_args(arguments)
    opened = asked(options, data=options.data)
    given, cells = divided(opened, options.given)
    _say_given(opened, given, every=bool(cells))
    if cells:
        _write_given(opened, cells, given, options)
        return
    wish = Wish(options.way == "dense", (*options.attribute,), options.controlled)
    plan = _plan(opened, options, given, wish)
    folder = _folder(opened, options)
    require_writable(folder)
    for view, kinds in plan:
        look = view.look(options.show_as)
        for kind in kinds:
            # Each is the same whichever others are asked for.
            pyro.set_rng_seed(options.seed)
            with torch.no_grad():
                if look.kind == "table" and kind in BY_COLUMN:
                    _write_table(view, folder, kind, options, given)
                else:
                    made = draw(
                        view,
                        kind,
                        count=options.count,
                        split=options.split,
                        mean=not options.draws,
                        given=given,
                        corrupt=corruption_of(view, options.corrupt),
                        look=look,
                        wish=wish,
                    )
                    _write_picture(view, folder / view.stem(kind), made, options, given)


def _plan(
    opened: Run, options: Any, given: Mapping[str, str | float], wish: Wish
) -> list[tuple[Run, list[str]]]:
    """What is drawn: of the run, or of each of its fields, which kinds."""
    views: list[Run] = [*opened.fields.values()] or [opened]
    plan, refused = [], []
    for view in views:
        try:
            corrupt = corruption_of(view, options.corrupt)
            asked_for: Any = {"given": given, "corrupt": corrupt, "wish": wish}
            kinds = _kinds(view, options.kind or (), options.split, **asked_for)
        except InputError as error:  # of another field there may be such pictures
            refused.append(error)
            continue
        _require_memory(view, kinds, options.count, options.split)
        plan.append((view, kinds))
    if not plan:
        raise refused[0]
    if opened.several:
        opened.announce()
    return plan


def _say_given(opened: Run, given: Mapping[str, str | float], *, every: bool) -> None:
    """Print conditions that are not all named, or `every` one, and which of them are far from the training data's."""
    if opened.conditions is None:
        return
    some = 0 < len(given) < len(opened.conditions.names)
    if (some or every) and (words := _words(opened, given)):
        print(f"given      {words}")
    for sentence in opened.conditions.strange({k: [v] for k, v in given.items()}):
        print(f"note: {sentence}")


def _write_picture(
    opened: Run,
    stem: Path,
    made: tuple[Figure, Tensor],
    options: Any,
    given: Mapping[str, str | float],
) -> None:
    """Write a picture and the values that it shows."""
    figure, values = made
    values = opened.bridge.inverse(values)
    with together() as put:
        _put_figure(put, stem, figure, opened, options)
        array = partial(np.save, arr=values.cpu().numpy())
        put(stem.with_name(f"{stem.name}.npy"), array)
        if stem.name == opened.stem("prior") and opened.conditions is not None:
            import pandas

            c = drawn_under(opened, options.count, options.split, given)
            under = pandas.DataFrame({} if c is None else opened.conditions.decoded(c))
            if len(under.columns):
                put(stem.with_name("prior-given.csv"), as_csv(under))
    also = "".join(f", .{name}" for name in _formats(opened, options)[1:])
    print(f"{stem}.png{also}, .npy  {list(values.shape)}")


def _formats(opened: Run, options: Any) -> tuple[str, ...]:
    """What figures are written as: what is asked for, or what the training was asked for."""
    return options.figures or formats(opened.config.get("figures", "png"))


def _put_figure(
    put: Put, stem: Path, figure: Figure, opened: Run, options: Any
) -> None:
    """Write a figure in each format."""
    for name in _formats(opened, options):
        put(stem.with_name(f"{stem.name}.{name}"), partial(save, figure))


def _write_table(
    opened: Run,
    folder: Path,
    kind: str,
    options: Any,
    given: Mapping[str, str | float],
) -> None:
    """Write a table: a .csv with the names and categories of the data, the numbers, and pictures."""
    figures, values, frame = draw_table(
        opened, kind, count=options.count, split=options.split, given=given
    )
    values = opened.bridge.inverse(values)
    with together() as put:
        for name, figure in figures.items():
            _put_figure(put, folder / opened.stem(name), figure, opened, options)
        stem = opened.stem(kind)
        put(folder / f"{stem}.npy", partial(np.save, arr=values.cpu().numpy()))
        label = "row" if kind == "reconstructions" else None
        put(
            folder / f"{stem}.csv",
            partial(frame.to_csv, index=label is not None, index_label=label),
        )
    pictures = ", ".join(f"{opened.stem(name)}.png" for name in figures)
    print(f"{folder / stem}.csv, .npy, {pictures}  {list(values.shape)}")


def divided(
    opened: Run, texts: Sequence[str]
) -> tuple[dict[str, str | float], list[str]]:
    """What `--given NAME=VALUE` says of conditions, by column, and the texts that are of columns of the data.

    Raises:
        InputError: for what is neither.
    """
    if opened.conditions is None:
        return {}, [*texts]
    names = _columns_of(opened)
    conditions = opened.conditions.names
    cells = []
    for text in texts:
        if assigned(text, conditions) is not None or not names:
            continue
        if assigned(text, names) is None:
            raise InputError(
                f"--given {shown(text)} is NAME=VALUE of none of the conditions of the run ({listed(conditions)}) nor "
                f"of its columns ({listed(names)})"
            )
        cells.append(text)
    return opened.conditions.given([t for t in texts if t not in cells]), cells


def _columns_of(opened: Run) -> list[str]:
    """The columns of a run's table, or of its fields that are tables."""
    tables = [view.table for view in opened.fields.values()] or [opened.table]
    return [name for table in tables if table is not None for name in table.names]


def known_cells(opened: Run, texts: Sequence[str]) -> Tensor:
    """What `--given COLUMN=VALUE` says of a datum, as the likelihood sees it, `(D,)`; nan for the others.

    Raises:
        InputError: for data that are no table, another form, an unknown column or value, a column that is given twice.
    """
    every = _columns_of(opened)
    if not every:
        raise InputError(
            f"--given is for conditions or for the columns of a table, and {opened.folder} has neither"
        )
    for text in texts:
        if assigned(text, every) is None:
            raise InputError(
                f"--given {shown(text)} must be COLUMN=VALUE, with one of the columns of the run: {listed(every)}"
            )
    if not opened.several:
        return _known_cells(opened, texts)
    bridge: Any = opened.bridge
    fields = {}
    for name, view in opened.fields.items():
        own = [] if view.table is None else view.table.names
        of_field = [text for text in texts if assigned(text, own) is not None]
        if of_field:
            fields[name] = _known_cells(view, of_field)[None]
    known: Tensor = bridge.layout.join(fields)[0]
    return known


def _known_cells(opened: Run, texts: Sequence[str]) -> Tensor:
    """`known_cells` of one table."""
    assert opened.table is not None
    names, schema = opened.table.names, opened.schema
    known = torch.full((len(names),), torch.nan, dtype=torch.float64)
    for text in texts:
        said = assigned(text, names)
        assert said is not None
        name, value = said
        place = names.index(name)
        if not known[place].isnan():
            raise InputError(f"--given names {name} twice")
        if schema is not None and schema.columns[place].categories:
            cells = np.array([value], object)
            known[place] = float(
                schema.columns[place].codes(cells, f"--given {text}")[0]
            )
            continue
        try:
            known[place] = float(value)
        except ValueError:
            raise InputError(
                f"--given {shown(text)}: {shown(value)} is no number"
            ) from None
        if not known[place].isfinite():
            raise InputError(
                f"--given {shown(text)}: {shown(value)} is no finite number"
            )
    return opened.bridge(known[None], dtype=opened.dtype)[0]


def _write_given(
    opened: Run,
    cells: Sequence[str],
    given: Mapping[str, str | float],
    options: Any,
) -> None:
    """Write rows of a table drawn given some of its columns, and say how many latents they are made of."""
    known = known_cells(opened, cells)
    folder = _folder(opened, options)
    require_writable(folder)
    pyro.set_rng_seed(options.seed)
    c = None
    if opened.conditions is not None:
        c = _seen(opened, opened.conditions.one(given))
    if not known.isnan().any():
        raise InputError(
            "--given names every column of the table, so that nothing is left to draw"
        )
    try:
        mean = opened.several and not options.draws
        drawn = draws_given(opened.vae, known, options.count, c, mean=mean)
    except InputError as error:
        raise InputError(f"--given {', '.join(cells)}: {error}") from error
    under = None if c is None else c.expand(options.count, -1)
    views: list[Run] = [*opened.fields.values()] or [opened]
    for view in views:
        made = view.shown(drawn.draws)
        values, stem = view.numbers(made), folder / view.stem("given")
        with together() as put:
            put(stem.with_name(f"{stem.name}.npy"), partial(np.save, arr=values))
            if view.table is None:
                what = "mean of p(x | z)" if mean else "draws"
                title = f"{what} given {', '.join(cells)}"
                columns = min(10, len(made))
                look = view.look(options.show_as)
                figure = plots.grid(made, columns=columns, title=title, look=look)
                _put_figure(put, stem, figure, view, options)
            else:
                frame = _beside_conditions(view, view.frame(made), under)
                put(stem.with_name(f"{stem.name}.csv"), as_csv(frame))
        kind = ".png" if view.table is None else ".csv"
        print(f"{stem}{kind}, .npy  {list(values.shape)}, {', '.join(cells)}")
    print(
        f"effective weights: {drawn.ess:.1f}, Pareto k: {drawn.pareto_k:.2f}, log p of what is given: "
        f"{drawn.log_known:.3f}"
    )
    if not drawn.pareto_k <= PARETO_LIMIT:
        print(
            f"warning: Pareto k is above {PARETO_LIMIT}: the rows are made of few latents"
        )


def _folder(opened: Run, options: Any) -> Path:
    """Where the files go."""
    if options.output is None:
        return subfolder(opened.folder, "samples")
    return output_folder("--output", options.output)


if __name__ == "__main__":
    run("pyro_vae.sample", main)
