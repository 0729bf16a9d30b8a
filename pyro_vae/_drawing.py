"""Pictures of a trained run: draws, data made again, ways between data, what each latent and each attribute changes."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._rows import plain
from pyro_vae.data import evenly
from pyro_vae.data.conditions import SHOWN as SHOWN_CATEGORIES
from pyro_vae.data.conditions import spelled
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.schema import Held
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.imputation import draws_given
from pyro_vae.evaluation.question import PerDatum
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.corrupting import corrupted_data
from pyro_vae.inference.ways import Direction, directions
from pyro_vae.networks import Corruption
from pyro_vae.plots.looks import Look
from pyro_vae.trained import FieldRun, Run

BY_COLUMN = ("prior", "reconstructions")  # kinds that have a .csv of tables
CODED = 2000  # data whose codes tell where a way is dense and what an attribute changes
FOR_KL = 500  # data that tell what a latent carries
BANDS = 200  # draws for the band of a series
HEATED = 4  # interpolations of a table
SERIES = 5  # series side by side
MOST_CATEGORIES = 40  # of a label that gives directions
SHOWN = 2000  # rows of data beside draws
AT_A_TIME = 500  # data that are reconstructed
CROSSED = 9  # draws in a row
UNKNOWN = ("", "nan")  # cells of data without a label
FIFTH = 5  # of --count are the data that are read


Beside = Mapping[str, Mapping[str, np.ndarray]]
NONE_BESIDE: Beside = MappingProxyType({})


class Wish(NamedTuple):
    """What is asked of interpolations and of attributes.

    Attributes:
        dense: whether interpolations go by way of where the codes of data are dense.
        attributes: the labels that give directions; all where it is empty.
        controlled: whether what goes along with other labels is left to these.
        beside: labels that stand beside the data, by name and split.
    """

    dense: bool = False
    attributes: tuple[str, ...] = ()
    controlled: bool = False
    beside: Beside = NONE_BESIDE


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
    vae, to = opened.vae, condition_of(opened, given)
    look = look or opened.look()
    if kind == "prior":
        return _draws(opened, count, split, mean=mean, given=given, look=look)
    if kind == "conditions":
        assert opened.conditions is not None
        each, names = opened.conditions.examples(given or {})
        return _titled(
            plots.conditions(
                vae, seen_under(opened, each), names, mean=mean, look=look
            ),
            _shown(opened, given),
        )
    if kind == "manifold" and opened.conditions is not None:
        chosen = _with_usual_class(opened, given)
        held = seen_under(opened, opened.conditions.one(chosen))
        return _titled(plots.manifold(vae, c=held, look=look), in_words(opened, chosen))
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
        return _titled((figure, made), "" if to is None else in_words(opened, given))
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
        return _titled(drawn, under if to is None else in_words(opened, given))
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
            plots.transfer(vae, x, c, seen_under(opened, others), names, look=look),
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
    return _titled(drawn, under if to is None else in_words(opened, given))


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
    vae, to = opened.vae, condition_of(opened, given)
    c = drawn_under(opened, count, split, given)
    x = vae.sample(count, c, mean=mean)
    title = "mean of p(x | z), z from the prior" if mean else "draws from p(x)"
    if c is not None:
        under = f"c of {split} data" if to is None else in_words(opened, given)
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


def labels_of(
    opened: Run, split: str, most: int = CODED, beside: Beside = NONE_BESIDE
) -> dict[str, np.ndarray]:
    """What data of a split are labelled with, by name: their labels, their conditions, their columns of categories.

    Those are left out that have more than 40 categories, or one. What stands `beside` the data, by name and split, is
    added.
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
    for name, parts in beside.items():
        found[name] = parts[split][evenly(most, len(parts[split])).numpy()]
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
    known = labels_of(opened, "train", beside=wish.beside)
    wanted = set(wish.attributes or wish.beside or known)
    beside = {
        name: values
        for name, values in known.items()
        if name in wanted or wish.controlled
    }
    every = directions(_codes(opened), beside, controlled=wish.controlled)
    towards = _worth_drawing([each for each in every if _label_of(each) in wanted])
    here = labels_of(opened, split, SHOWN, beside=wish.beside)
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
    """The first datum that has another category; 0 where none is known to, or where it is a number."""
    label, _, category = name.rpartition("=")
    cells = [str(v) for v in plain(labels[label]).tolist()] if label in labels else []
    no_other = {category, f"{category}.0", *UNKNOWN}
    return next((i for i, cell in enumerate(cells) if cell not in no_other), 0)


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
    shown = torch.stack([opened.shown(v) for v in values])
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
    first = opened.shown(x[rows]).unsqueeze(1)
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


def condition_of(opened: Run, given: Mapping[str, str | float] | None) -> Tensor | None:
    """The condition that is given, `(1, context)`, the columns that are not at their usual values."""
    if opened.conditions is None or not given:
        return None
    return seen_under(opened, opened.conditions.one(given))


def _shown(opened: Run, given: Mapping[str, str | float] | None) -> str:
    """Of pictures under several conditions, what is held fixed, and how many categories are left out."""
    assert opened.conditions is not None
    free = opened.conditions.free(given or {})
    held = in_words(opened, given, but=free)
    column = next((c for c in opened.conditions.columns if c.name == free), None)
    if column is None or len(column.categories) <= SHOWN_CATEGORIES:
        return held
    some = f"the first {SHOWN_CATEGORIES} of {len(column.categories)} categories"
    return ", ".join(filter(None, (some, held)))


def in_words(
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


def seen_under(opened: Run, c: Tensor) -> Tensor:
    """A condition as the run's decoder reads it."""
    return c.to(device=opened.device, dtype=opened.dtype)


def drawn_under(
    opened: Run, count: int, split: str, given: Mapping[str, str | float] | None
) -> Tensor | None:
    """The conditions of draws, `(count, context)`: the one that is given, or those of data spread over a split."""
    if opened.conditions is None:
        return None
    one = condition_of(opened, given)
    if one is not None:
        return one.expand(count, -1)
    if not opened.conditions.required:
        return None
    _, c = fields_of(opened.split(split).first(count)[:])
    if c is None:
        return None
    conditions: Tensor = c[torch.arange(count) % len(c)]
    return conditions


def data_alike(
    opened: Run, split: str, given: Mapping[str, str | float] | None
) -> Tensor:
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
