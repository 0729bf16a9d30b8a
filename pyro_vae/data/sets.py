"""A data set: splits, labels, representation, and the bridge to a likelihood."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.bridges import AsStored, Bridge, ColumnNoise
from pyro_vae.data.conditions import LABEL, Conditions, asked, learned
from pyro_vae.data.fields import Data, Split, evenly, take
from pyro_vae.data.files import Loaded, Parts, Request
from pyro_vae.data.holes import check_holes, hidden
from pyro_vae.data.joined import joined, joined_names
from pyro_vae.data.marginals import ROWS, Columns
from pyro_vae.data.named import FIXED_SIZES, MAXIMA, NAMED
from pyro_vae.data.nature import BYTE, Nature, nature_of
from pyro_vae.data.own import OWN, own
from pyro_vae.data.representation import Representation, Supported
from pyro_vae.data.schema import Schema, Wish
from pyro_vae.data.streams import Stream, Values, stored
from pyro_vae.data.units import Units, each
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.html import card, facts, lines
from pyro_vae.foundation.memory import affordable
from pyro_vae.foundation.reading import user_path
from pyro_vae.foundation.sources import sources

COPIES = 3  # of conditions while they are made: as truths, one-hot, of the model's type
SPLITS = ("train", "validation", "test")
ALL = "all"  # the one split of data that are not divided


@dataclass(repr=False)
class DataSet:
    """A data set, in memory or on disk: stored values and labels by split, and what the values are.

    Attributes:
        name: what the user called it.
        values: tensors `(N, *shape)` by split, or streams that are read like them; a split may be empty.
        labels: arrays `(N,)` by split, or `None`.
        representation: what the stored values are.
        maximum: the largest value they can take (255 for bytes).
        named: whether the field has a default bridge for it; a user's own data have none.
        source: where it was found.
        rows: the place of each datum in the stored part that its split was taken from, counted from 0: its row in a
            file of one's own.
        names: what each datum is called (a file, an id), by split, or `None`.
        notes: one sentence for each thing that was taken for something when the data were read.
        columns: names of the columns of a table, or `None`.
        units: how bits or grey levels are spelled, where the stored values are others (`x / 255`), or `None`.
        schema: what the columns of a table of mixed kinds hold, or `None`.
        missing: whether values may be missing, nan among the stored ones.
        whole: the stored values by split with those that were hidden on purpose, or `None`.
        given: by the name of a column what the data are given, one for each datum, by split.
    """

    name: str
    values: Values
    labels: dict[str, np.ndarray] | None
    representation: Representation
    maximum: float
    named: bool
    source: str
    rows: dict[str, np.ndarray]
    names: dict[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    units: Units | None = None
    schema: Schema | None = None
    missing: bool = False
    whole: Values | None = None
    given: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def _sizes(self) -> str:
        return ", ".join(f"{name} {len(v):,}" for name, v in self.values.items())

    def __repr__(self) -> str:
        kind = self.representation.value
        return f"{type(self).__name__}({self.name}: {self._sizes()}, each {self.shape}, {kind})"

    def _repr_html_(self) -> str:
        """What is known of the data, and the notes of how they were read."""
        rows = {
            "data": self._sizes(),
            "shape": self.shape,
            "values": self.representation.value,
            "missing": "some values may be" if self.missing else "",
            "columns": ", ".join(self.columns or ()),
            "labels": "" if self.labels is None else "one for each datum",
            "given": ", ".join(self.given),
            "on disk": self.streamed,
            "from": self.source,
        }
        return card(type(self).__name__, self.name, facts(rows), lines(self.notes))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._first.shape[1:])

    @property
    def _first(self) -> Tensor | Stream:
        return next(iter(self.values.values()))

    @property
    def streamed(self) -> str | None:
        """A sentence about data that stay on disk."""
        train = self._first
        if not isinstance(train, Stream) or not train.on_disk:
            return None
        count = sum(math.prod(v.shape) for v in self.values.values())
        size = count * train[:0].element_size() / 1e9
        readers = f" by {train.workers} workers" if train.workers else ""
        return f"{size:,.3g} GB, read batch by batch{readers}"

    def split(
        self, name: str, bridge: Bridge, *, dtype: torch.dtype = torch.float32
    ) -> Split:
        """One split under a bridge: for training with fresh bits or noise at each visit, for the others drawn once."""
        split = Split(self.values[name], bridge, dtype)
        if name == "train" and not bridge.drawn_once:
            return split
        return split.fixed((*SPLITS, ALL).index(name))

    def whole_split(
        self, name: str, bridge: Bridge, *, dtype: torch.dtype = torch.float32
    ) -> Split | None:
        """One split as it is evaluated, with the values that were hidden on purpose; `None` where none were."""
        if self.whole is None:
            return None
        seed = (*SPLITS, ALL).index(name)
        return Split(self.whole[name], bridge, dtype).fixed(seed)

    def learned(self, condition: str | None) -> tuple[Conditions | None, list[str]]:
        """The columns of `--condition` as what networks read, and what is to be said of them."""
        if condition is None:
            return None, []
        kinds = asked(condition)
        columns, notes = [], []
        for name, parts in self.given.items():
            column, more = learned(name, parts, kinds.get(name.partition("[")[0]))
            columns.append(column)
            notes += more
        conditions = Conditions(tuple(columns))
        data = sum(map(len, self.values.values()))
        affordable(8 * COPIES * data * conditions.width, f"--condition {condition}")
        return conditions, notes

    def fields(
        self,
        name: str,
        bridge: Bridge,
        conditions: Conditions | None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Split | Data:
        """`split` with what the data are given: the fields x and c, or x alone without conditions.

        Raises:
            InputError: for a condition that is missing or not known, naming the row.
        """
        x = self.split(name, bridge, dtype=dtype)
        if conditions is None or not len(x):
            return x
        values = {k: parts[name] for k, parts in self.given.items() if name in parts}
        if not values and not conditions.required:  # a class, and none is known
            return x
        try:
            c = conditions.encode(values)
        except InputError as error:
            where = re.search(r"datum (\d+)", str(error))
            if where is None:
                raise InputError(f"{self.name}: {error}") from error
            row = self.rows[name][int(where[1])]
            there = f"row {row} (counted from 0) of {self.name}"
            raise InputError(str(error).replace(where[0], there, 1)) from error
        return Data({"x": x, "c": c.to(dtype)})

    def bridge(
        self,
        likelihood: Supported,
        *,
        binarize: str | None = None,
        dequantize: bool = False,
        scale: bool = False,
    ) -> Bridge:
        """The bridge from these data to a likelihood: the one asked for, else the field's default for a named data set.

        Args:
            likelihood: what the data are for.
            binarize: `'dynamic'`, `'static'` or `'threshold'`.
            dequantize: add uniform noise to whole numbers.
            scale: divide by the maximum.

        Raises:
            InputError: when the likelihood does not accept the data, naming the ways out.
        """
        support, holds = likelihood.support, self.representation
        options = {"binarize": binarize, "dequantize": dequantize, "scale": scale}
        asked = [option for option, value in options.items() if value]
        if len(asked) > 1:
            raise InputError("choose one of --binarize, --dequantize and --scale")
        option = asked[0] if asked else None
        kind = binarize or option
        if kind and kind not in Bridge.kinds():
            raise InputError(
                f"--binarize {binarize}: give dynamic, static or threshold"
            )
        if self.schema is not None:
            return self._of_columns(self.schema, support, option)

        # Columns of reals, with noise or without.
        noise = kind == "dequantize"
        if noise and support is Representation.REAL and holds in self._OF_COLUMNS:
            return self._noise()
        real = {Representation.REAL, Representation.UNIT}
        if not kind and holds is Representation.COUNTS and support in real:
            # what stands in the way of all ways out
            self.seen.check(self.name, noise=True)

        # Else one bridge for all values.
        if not kind:
            plain = support.admits(holds) or not self.named
            kind = "none" if plain else self._default(support)
        elif holds is Representation.REAL or (noise and holds is Representation.UNIT):
            raise InputError(
                f"{self.name} holds {holds.value}, which --{option} cannot take"
            )
        bridge = Bridge.kinds()[kind](self.maximum, self.units)
        if not support.admits(bridge.result(holds)):
            raise InputError(self._refusal(support, type(likelihood).__name__, bridge))
        if bridge.plain and holds in real:
            self.seen.check(self.name, noise=False)
            if support is Representation.REAL:
                return replace(bridge, units=self.seen.units)
        return bridge

    def _of_columns(
        self, schema: Schema, support: Representation, option: str | None
    ) -> Bridge:
        """The bridge from columns of mixed kinds: reals are counted in units that float32 can hold."""
        if option:
            raise InputError(
                f"{self.name} is a table of columns of mixed kinds, and --{option} is for data of one kind"
            )
        if support is not Representation.MIXED:
            raise InputError(
                f"{self.name} holds {self.representation.value}: take Columns"
            )
        self.seen.check(self.name, noise=False, mixed=True)
        units = self.seen.units
        if units is not None:  # positive reals are counted from 0
            every = units.shift * (len(schema.columns) // len(units.shift))
            pairs = zip(every, schema.columns, strict=True)
            shifts = [shift if c.kind == "real" else 0.0 for shift, c in pairs]
            units = replace(units, shift=tuple(shifts))
        return AsStored(self.maximum, units)

    _OF_COLUMNS = (Representation.REAL, Representation.UNIT, Representation.COUNTS)

    def _noise(self) -> Bridge:
        """The bridge that adds noise of one step to each column that lies on a lattice."""
        self.seen.check(self.name, noise=True)
        units, steps = self.seen.units, self.seen.steps
        if not any(steps):
            raise InputError(
                f"{self.name} holds reals that lie on no lattice, so that --dequantize has nothing to do"
            )
        steps = steps if units is None else units.of(steps)
        return ColumnNoise(self.maximum, units, steps)

    @cached_property
    def seen(self) -> Columns:
        """The columns of the training data as a density has to know them, from at most 10,000 of them."""
        few = take(self.values["train"], self._some)
        dense = None if self.schema is None else self.schema.dense
        return Columns(few[:].cpu().numpy(), self.columns, dense)

    @property
    def _some(self) -> Tensor:
        return evenly(ROWS, len(self.values["train"]))

    def floors(self, bridge: Bridge) -> Tensor | None:
        """The least scale that a density of x may have for each element, `None` where any is right."""
        dense = (Representation.REAL, Representation.UNIT, Representation.MIXED)
        plain = bridge.plain and self.representation in dense
        if not plain or not any(self.seen.floors):
            return None
        floors = self.seen.floors
        if bridge.units is not None:
            floors = bridge.units.of(floors)
        return each(floors, torch.empty(self.shape), torch.float64).expand(self.shape)

    def remarks(self, bridge: Bridge) -> list[str]:
        """What someone who puts a likelihood on the data by this bridge should know, a sentence each."""
        if bridge.remark:
            return [bridge.remark]
        dense = (Representation.REAL, Representation.MIXED)
        if bridge.result(self.representation) not in dense:
            return []
        rows = self.rows["train"][self._some.numpy()]
        notes = self.seen.remarks(rows, noise=bridge.is_random)
        for split in ("validation", "test"):
            values = self.values[split]
            if isinstance(values, Tensor) and len(values) and len(self.shape) == 1:
                far = self.seen.farthest(values.numpy(), self.rows[split])
                notes += [f"{split} data: {far}"] if far else []
        return notes

    def _default(self, support: Representation) -> str:
        if self.representation is not Representation.LEVELS:
            return "none"
        if support is Representation.BINARY:
            return "dynamic"
        real = support in (Representation.REAL, Representation.UNIT)
        return "dequantize" if real else "none"

    def _refusal(self, support: Representation, likelihood: str, bridge: Bridge) -> str:
        after = bridge.result(self.representation)
        how = "" if bridge.plain else f" after {bridge.kind}"
        if bridge.binarizes:
            how += " binarization"
        spelled = f", spelled so that they are {self.units}," if self.units else ""
        text = (
            f"{self.name} holds {after.value}{how}{spelled} and the {likelihood} likelihood accepts "
            f"{support.value}"
        )
        if not bridge.plain:
            return f"{text}; leave that option out or choose another likelihood"
        real = self.representation is Representation.REAL
        if support is Representation.BINARY and not real:
            return (
                f"{text}: add --binarize dynamic (fresh bits at each visit), --binarize static (bits drawn once) or "
                "--binarize threshold (1 above half), or choose a likelihood for such data"
            )
        if support in (Representation.REAL, Representation.UNIT) and not real:
            return (
                f"{text}: add --dequantize (uniform noise) or --scale (divide by the maximum), "
                "or choose a likelihood"
            )
        return f"{text}; choose a likelihood for such data"


def load_data(
    dataset: str = "digits",
    *,
    data_dir: str | None = None,
    labels: str | None = None,
    condition: str | None = None,
    header: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    drop: str | None = None,
    id: str | None = None,
    key: str | None = None,
    layer: str | None = None,
    channels: str | None = None,
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
    stream: bool | None = None,
    workers: int = 2,
    maximum: int | None = None,
    background: str | None = None,
    columns: "Schema | Mapping[str, Wish] | None" = None,
    missing: str | None = None,
    hide: float | None = None,
    hide_seed: int = 0,
    divide: bool = True,
) -> DataSet:
    """Load a named data set or one's own file or folder, and split it; the splits never change between calls.

    Args:
        dataset: one of `NAMED`, or the path of a file (a table, .npy, .npz or .h5ad) or of a folder of images; or
            several of these by names of their own, as fields, `image=photos,person=people.csv`.
        data_dir: where the files of named data sets lie (else `PYRO_VAE_DATA`, else the cache folder).
        labels: where the labels of one's own data are: a file, a column of a table, an array of a .npz file, a column
            of `obs` in an .h5ad file.
        condition: columns that the data are given and that are no data, with commas between them: of a table, arrays of
            a .npz file, columns of `obs`; `label` for the labels. `name=categorical` and `name=real` say what they are.
        header: `'yes'` or `'no'`: whether a table begins with the names of its columns; by default it is found out.
        delimiter: the sign between the cells of a table, or `'tab'` or `'space'`; by default it is found out.
        decimal: `'.'` or `','`, before the decimals of a table's numbers; by default it is found out.
        drop: columns of a table that are no data, by name or by number from 0, with commas between them; `'none'` where
            a column that would be taken for the names of the rows or for labels is data. Or arrays of a .npz file.
        id: the column of a table that names its rows.
        key: the array of a .npz file that holds the data; by default it is found by its name. Several with commas
            between them are fields, `image,text`, or by other names `image=x,text=captions`; of a named data set
            `label` names its labels. See `pyro_vae.data.several`.
        layer: the layer of an .h5ad file that holds the data, or `'raw'`; by default it is `X`.
        channels: `'first'` or `'last'`, where arrays of images have their channels; by default those of shape
            `(H, W, 3)` and `(H, W, 1)` have them last, and they are put in front.
        validation_fraction: share of the data held out to choose the best epoch.
        test_fraction: share of the data held out for evaluation.
        stream: leave a folder of images or a .npy file on disk and read what is asked for; by default where its values
            take more than a quarter of the memory available.
        background: the colour that transparent images are laid on: `'white'`, `'black'`, any name of CSS, `'#rrggbb'`.
        workers: processes that read streamed data ahead; 0 reads them when they are needed.
        maximum: the largest value that whole numbers can take; by default what the files say, 255 for grey levels
            that reach above 127, else the largest value that occurs.
        columns: of a table of mixed kinds what its columns hold, or what some of them are to be taken for (`{}`: each
            is what it looks like); texts are then categories. By default all data are numbers of one kind. Of several
            fields a dict of these.
        missing: `'keep'` takes data of one's own with values that are missing (blanks, NA, nan, 0 in the array `mask`
            of a .npz file) and leaves nan in their place; by default they are refused.
        hide: a share of all values to hide on purpose, each by itself at random, in every split; `DataSet.whole` has
            them.
        hide_seed: of which they are.
        divide: into splits; `False` leaves all rows together, as one split `'all'`.

    Raises:
        InputError: when the data cannot be found, read or split.

    >>> {split: len(values) for split, values in load_data("digits").values.items()}
    {'train': 1294, 'test': 359, 'validation': 144}
    """
    asked = {name: value for name, value in locals().items() if name != "divide"}
    request = Request(**asked)
    if maximum is not None and maximum < 1:
        raise InputError(f"--maximum {maximum} must be at least 1")
    if workers < 0:
        raise InputError(f"--workers {workers} must be at least 0")
    for option in ("validation_fraction", "test_fraction"):
        value = getattr(request, option)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{option.replace('_', '-')} {value} must lie in [0, 1)")
    from pyro_vae.data.several import load_several

    several = sources(dataset, key)
    if several is not None:
        return load_several(request, several, divide=divide)
    return assembled(request, loaded_by(request), divide=divide)


def loaded_by(request: Request) -> Loaded:
    """What stands in the file or folder, or in the files of a named data set, that a request names."""
    dataset = request.dataset
    named = dataset in NAMED
    for option in OWN if named else ():
        if getattr(request, option) is not None:
            raise InputError(f"--{option} is for your own data, which {dataset} is not")
    if request.background is not None and (named or not user_path(dataset).is_dir()):
        raise InputError(
            f"--background is for a folder of images, which {dataset} is not"
        )
    return NAMED[dataset](request) if named else own(request)


def assembled(request: Request, loaded: Loaded, *, divide: bool = True) -> DataSet:
    """A data set of what was read: its values checked, what they are found out, and divided into splits."""
    dataset, named = request.dataset, request.dataset in NAMED
    keep, columns, stream = request.keeps_missing, request.columns, request.stream
    values = {
        k: v if isinstance(v, Stream) else stored(dataset, v, missing=keep)
        for k, v in loaded.parts.items()
    }
    _check_parts(dataset, values, loaded.labels)
    # A field may be missing as a whole.
    holes = keep and request.field is None
    notes = check_holes(dataset, values, loaded.columns) if holes else []
    if stream and not any(isinstance(v, Stream) for v in values.values()):
        raise InputError(
            f"--stream is for a folder of images or a .npy file, which {request.dataset} is not"
        )
    schema = loaded.schema
    if columns is not None and schema is None:
        schema, values = _as_columns(
            dataset, columns, loaded.columns, values, missing=keep
        )
    known = MAXIMA.get(dataset, BYTE) if named else loaded.maximum
    nature = Nature(Representation.MIXED, 1.0)
    if schema is None:
        nature = nature_of(dataset, values, maximum=request.maximum, known=known)
    whole: Values | None = None
    if request.hide is not None:
        values, whole, note = hidden(dataset, values, request.hide, request.hide_seed)
        notes = [*notes, note]

    # All that is known of each datum goes into its split.
    sizes = {part: len(v) for part, v in values.items()}
    labels_of, names = loaded.labels or None, loaded.names or None
    given = _given(request, loaded, sizes)
    if divide:
        places = _divide(request, sizes)
    else:
        places = {ALL: (ALL, torch.arange(sum(sizes.values())))}
        values = {ALL: joined(values)}
        whole = whole and {ALL: joined(whole)}
        labels_of = labels_of and _end_to_end(labels_of, sizes)
        given = {name: _end_to_end(parts, sizes) for name, parts in given.items()}
        called = joined_names(names, sizes)
        names = None if called is None else {ALL: called}
    called_columns = loaded.columns if schema is None else schema.names
    return DataSet(
        name=dataset,
        values=_picked(values, places),
        labels=_picked(labels_of, places),
        representation=nature.representation,
        maximum=nature.maximum,
        named=named,
        source=loaded.source,
        rows={split: index.numpy() for split, (_, index) in places.items()},
        names=_picked(names, places),
        notes=(*loaded.notes, *notes, *nature.notes),
        columns=None if called_columns is None else tuple(called_columns),
        units=nature.units,
        schema=schema,
        missing=keep or request.hide is not None,
        whole=_picked(whole, places),
        given={name: _picked(parts, places) for name, parts in given.items()},
    )


def _as_columns(
    name: str,
    asked: Schema | Mapping[str, Wish],
    names: Sequence[str] | None,
    values: Values,
    *,
    missing: bool,
) -> tuple[Schema, Values]:
    """An array of numbers `(N, D)` as a table of mixed kinds, whose columns are counted from 0 or have names."""
    import pandas

    shape = tuple(next(iter(values.values())).shape[1:])
    if any(len(v.shape) != 2 for v in values.values()):
        raise InputError(
            f"{name} has data of shape {shape}, and columns of mixed kinds are those of a table"
        )
    called = [str(i) for i in range(shape[0])] if names is None else list(names)
    frames = {
        k: pandas.DataFrame(v[:].numpy(), columns=called) for k, v in values.items()
    }
    schema: Any = asked
    if not isinstance(asked, Schema):
        every = pandas.concat(list(frames.values()))
        schema = Schema.of(every, asked, name, missing=missing)
    codes = {k: schema.codes(f, name, missing=missing) for k, f in frames.items()}
    return schema, {k: torch.from_numpy(numbers) for k, numbers in codes.items()}


def _given(
    request: Request, loaded: Loaded, sizes: Mapping[str, int]
) -> dict[str, Parts]:
    """By column what the data are given, by stored part; `label` are their labels."""
    given = dict(loaded.conditions)
    for name in asked(request.condition):
        if name in given or any(column.startswith(f"{name}[") for column in given):
            continue
        if name not in LABEL:
            what = "such labels" if request.dataset in NAMED else "such column"
            raise InputError(
                f"--condition {name}: {request.dataset} has no {what}; label names its labels"
            )
        if loaded.labels is None:
            raise InputError(
                f"--condition {name}: {request.dataset} has no labels; name them with --labels"
            )
        given[name] = loaded.labels
    for name, parts in given.items():
        for part, values in parts.items():
            if len(values) != sizes.get(part):
                raise InputError(
                    f"--condition {name} has {len(values)} values for {sizes.get(part, 0)} {part} data"
                )
    return given


def _check_parts(name: str, values: Values, labels: Parts | None) -> None:
    for split, v in values.items():
        if len(v.shape) > 0 and len(v) == 0:
            where = f" for {split}" if len(values) > 1 else ""
            raise InputError(f"{name} holds no data{where}")
    shapes = {split: tuple(v.shape[1:]) for split, v in values.items()}
    if any(len(v.shape) < 2 for v in values.values()):
        raise InputError(
            f"{name} must hold one datum in each row, of any shape, but has shape {tuple(values['train'].shape)}"
        )
    if len(set(shapes.values())) > 1 or 0 in shapes["train"]:
        raise InputError(
            f"the data of {name} do not have one shape: {', '.join(f'{s} {v}' for s, v in shapes.items())}"
        )
    for split, of_split in (labels or {}).items():
        if of_split.ndim != 1:
            raise InputError(
                f"the labels of {name} must be one for each datum, but have shape {of_split.shape}"
            )
        if len(of_split) != len(values[split]):
            raise InputError(
                f"{name} has {len(values[split])} {split} data but {len(of_split)} labels"
            )


DEFAULT_FRACTIONS = {"validation": 0.1, "test": 0.2}


Place = tuple[str, Tensor]  # a stored part, and the rows of it


def _divide(request: Request, sizes: dict[str, int]) -> dict[str, Place]:
    """For each split the stored part and the rows it takes; one fixed shuffle where the data have no split."""
    rows = {split: (split, torch.arange(size)) for split, size in sizes.items()}
    for split in ("test", "validation"):
        given = getattr(request, f"{split}_fraction")
        if split in sizes:
            if given is not None:
                raise InputError(
                    f"{request.dataset} has its own {split} data, "
                    f"so --{split}-fraction cannot be used"
                )
            continue
        _, train = rows["train"]
        n = len(train)
        held_out = FIXED_SIZES.get((request.dataset, split)) if given is None else None
        if held_out is None:
            fraction = DEFAULT_FRACTIONS[split] if given is None else given
            held_out = 0 if fraction == 0 else max(1, round(fraction * n))
        if n - held_out < 2:
            what = "datum" if sizes["train"] == 1 else "data"
            raise InputError(
                f"{request.dataset} has {sizes['train']} {what}, too few to divide: "
                "at least two must remain to train on"
            )
        order = torch.from_numpy(np.random.RandomState(0).permutation(n))
        rows[split] = ("train", train[order[:held_out].sort().values])
        rows["train"] = ("train", train[order[held_out:].sort().values])
    return rows


def _picked(parts: Mapping[str, Any] | None, places: Mapping[str, Place]) -> Any:
    """What stored parts have for each split, of values, labels or names; `None` where there are none."""
    if parts is None:
        return None
    picked = {}
    for split, (part, index) in places.items():
        of = parts[part]
        picked[split] = of if len(index) == len(of) else take(of, index)
    return picked


def _end_to_end(parts: Parts, sizes: Mapping[str, int]) -> Parts:
    """Parts as one, in the order of `sizes`."""
    return {ALL: np.concatenate([parts[part] for part in sizes])}
