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
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import KINDS, formats, run
from pyro_vae._cli.outputs import save
from pyro_vae._cli.scores import as_csv
from pyro_vae._drawing import (
    AT_A_TIME,
    BY_COLUMN,
    FIFTH,
    MOST_CATEGORIES,
    NO_WISH,
    Wish,
    condition_of,
    data_alike,
    draw,
    drawn_under,
    in_words,
    labels_of,
    seen_under,
)
from pyro_vae.data import evenly
from pyro_vae.data.attributes import attributes_of
from pyro_vae.data.conditions import assigned, listed
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.imputation import draws_given
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import Write, require_writable, subfolder, together
from pyro_vae.foundation.memory import affordable
from pyro_vae.foundation.trust import by_the_command_line
from pyro_vae.inference.corrupting import check_shown
from pyro_vae.networks import Corruption
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
# Kinds that are drawn of tables.
OF_TABLES = (*BY_COLUMN, "interpolation", "traversal", "attributes")
# Of data, for each that --count counts.
COPIES = {
    "prior": 2,
    "reconstructions": 2,
    "interpolation": 4,
}

Put = Callable[[Path, Write], None]


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
        beside = opened.numbers(data_alike(opened, split, given))
    except InputError:  # draws need no data
        beside = np.empty((0, len(columns)))
    if len(beside):
        tables.insert(0, beside)
        alike = ", ".join(f"{name} = {value}" for name, value in (given or {}).items())
        names.insert(0, f"{split} data with {alike}" if alike else f"{split} data")
    title = " and ".join(names)
    if given:
        title += f", {in_words(opened, given)}"
    figures = {"prior": plots.table_marginals(columns, tables, names, title=title)}
    if len(columns) > 1:
        figures["prior_pairs"] = plots.table_pairs(columns, tables, names, title=title)
    return figures, made, _beside_conditions(opened, opened.frame(made), c)


def _rows_made_again(
    opened: Run, count: int, split: str, given: Mapping[str, str | float] | None
) -> tuple[dict[str, Figure], Tensor, "pandas.DataFrame"]:
    """Some rows of a split, made again under their own conditions or those that are given."""
    assert opened.table is not None
    data, to = opened.split(split), condition_of(opened, given)
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
        known = labels_of(opened, "train", beside=wish.beside)
    except InputError:
        known = {}
    for name in wish.attributes:
        if name not in known:
            raise InputError(
                f"--attribute {shown(name)} names no label, condition or column of 2 to {MOST_CATEGORIES} categories: "
                f"the run has {listed([*known]) if known else 'none'}"
            )
    if wish.beside and not {*wish.beside} & {*known}:
        raise InputError(
            f"--attributes: no column of the file is of numbers or of 2 to {MOST_CATEGORIES} categories"
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
    if options.attributes is not None:
        wish = wish._replace(beside=attributes_of(opened.data, options.attributes))
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
    if (some or every) and (words := in_words(opened, given)):
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
        c = seen_under(opened, opened.conditions.one(given))
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
