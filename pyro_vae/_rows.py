"""The rows that a program works on: a split of a run's own data, or other data, as the run would see them."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data import NAMED, Bridge, Data, DataSet, Split, evenly, load_data
from pyro_vae.data.bridges import AsStored, FieldsBridge
from pyro_vae.data.conditions import LABEL, asked, spelled
from pyro_vae.data.fields import take
from pyro_vae.data.files import Request
from pyro_vae.data.fingerprint import fingerprint, row_keys
from pyro_vae.data.holes import HOW, KEEP
from pyro_vae.data.inputs import DataWarning, as_data, fields_of
from pyro_vae.data.named import FACTORS
from pyro_vae.data.nature import Nature, nature_of
from pyro_vae.data.own import may_have_holes, options_for
from pyro_vae.data.representation import Representation, present
from pyro_vae.data.sets import ALL
from pyro_vae.data.several import FieldSet, available, load_several, with_missing
from pyro_vae.data.streams import Stream, chunks, stored
from pyro_vae.data.units import Units
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import user_path
from pyro_vae.foundation.sources import sources
from pyro_vae.runs import public_name
from pyro_vae.trained import Run

REQUEST = {f.name for f in fields(Request)}
NEW = "new"  # what takes the place of the name of a split
NEAR = 1e-3  # of a unit: how far rounding may lead from a level

# What notes on the nature of values say.
OF_NATURE = ("--maximum", "are taken for the bits")
DROPPED = re.compile(
    r"(,? or |: )leave (it|the columns?) out (with --drop .*|\(--drop .*\))$"
)


@dataclass(frozen=True)
class Rows:
    """Data as a run sees them, and what each row is called.

    Attributes:
        dataset: what the data are called.
        split: `'train'`, `'validation'`, `'test'`, or `'new'`.
        x: what the likelihood sees, N data.
        rows: their places in the file, counted from 0, `(N,)`.
        names: their names, `(N,)`, or `None`.
        labels: `(N,)`, or `None`.
        total: how many there are in the split, or in the file.
        fingerprint: of all of these.
        whole: `x` with the values that were hidden in it on purpose, or `None`.
        given: of a conditional run the conditions by column, each `(N,)`.
        read: further columns of all data of the split or the file, see `Rows.columns`.
    """

    dataset: str
    split: str
    x: Split | Data
    rows: np.ndarray
    names: np.ndarray | None
    labels: np.ndarray | None
    total: int
    fingerprint: str
    whole: Split | None = None
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    read: Callable[[str | None], tuple[DataSet, str]] | None = None

    def columns(self, names: str | None) -> dict[str, np.ndarray]:
        """Columns beside the data by their names, as `--condition` names them, each `(N,)`.

        They may be data of the run, or dropped there. By default the factors of a named data set, else the run's
        conditions, else its labels.

        Raises:
            InputError: where there is no such column.
        """
        assert self.read is not None
        data, split = self.read(names)
        places = {row: i for i, row in enumerate(data.rows[split].tolist())}
        mine = [places[row] for row in self.rows.tolist()]
        return {name: parts[split][mine] for name, parts in data.given.items()}

    def first(self, n: int | None) -> "Rows":
        """`n` rows spread evenly over these; all of them for `None`."""
        if n is None or n >= len(self.x):
            return self
        index = evenly(n, len(self.x))
        of_each = {
            name: getattr(self, name)
            for name in ("x", "rows", "names", "labels", "whole")
        }
        some = {name: take(v, index) for name, v in of_each.items() if v is not None}
        given = {name: values[index.numpy()] for name, values in self.given.items()}
        return replace(self, **some, given=given)


def given_of(opened: Run, x: Any) -> dict[str, np.ndarray]:
    """The conditions of data as a run sees them, by column; nothing of a run without any."""
    if opened.conditions is None:
        return {}
    _, c = fields_of(x)
    return {} if c is None else opened.conditions.decoded(c[:])


def strange(opened: Run, given: Mapping[str, Any]) -> list[str]:
    """Sentences about conditions that are far from those of the training data."""
    return [] if opened.conditions is None else opened.conditions.strange(given)


def own_rows(opened: Run, split: str) -> Rows:
    """One split of the data that a run was trained on."""
    x, data = opened.split(split), opened.data
    names = None if data.names is None else data.names[split]
    labels = None if data.labels is None else data.labels[split]
    known = opened.fingerprint[split]
    whole = data.whole_split(split, opened.bridge, dtype=opened.dtype)
    whole = None if whole is None else whole.to(opened.device)
    return Rows(
        opened.name,
        split,
        x,
        data.rows[split],
        names,
        labels,
        len(x),
        known,
        whole,
        given_of(opened, x),
        partial(_beside, opened, split),
    )


def _beside(opened: Run, split: str, names: str | None) -> tuple[DataSet, str]:
    """The run's own data, read again with further columns beside them, and the split in which these are."""
    more = _naming(opened, opened.request, names)
    return load_data(**{**opened.request, **more}), split


def _naming(
    opened: Run, request: Mapping[str, Any], names: str | None
) -> dict[str, Any]:
    """What is asked for beside a request, to have these columns, or those that stand for factors, beside the data.

    Raises:
        InputError: for a column of mixed kinds that is among the data.
    """
    usual = ",".join(FACTORS.get(request["dataset"], ()))
    condition = names or usual or request.get("condition") or LABEL[0]
    own = [] if opened.schema is None else opened.schema.names
    if taken := [name for name in asked(condition) if name in own]:
        raise InputError(
            f"the column {taken[0]} is among the data of the run, and of a table of columns of mixed kinds only those "
            f"can stand beside the data that training left out, as by --drop {taken[0]}"
        )
    dropped = [name.strip() for name in (request.get("drop") or "").split(",")]
    left = [name for name in dropped if name and name not in asked(condition)]
    return {"condition": condition, "drop": ",".join(left) or None}


def _beside_new(
    opened: Run, file: str, labels: str | None, names: str | None
) -> tuple[DataSet, str]:
    """The same of all rows of a file."""
    named = {**opened.request, "dataset": file}
    return _read(opened, file, labels, **_naming(opened, named, names)), ALL


def new_rows(opened: Run, file: str, labels: str | None = None) -> Rows | None:
    """All rows of a file as new data of a run; `None` where they are the run's own data at another place.

    Adds a sentence to `opened.notes`: which of the two it is, and how many rows the run has been trained on.

    Args:
        opened: the run; where `None` is returned, its data are read from `file`.
        file: the file or folder, or the name of a named data set.
        labels: of the rows, as `--labels` of training.

    Raises:
        InputError: when the file cannot be read, the model cannot take it, or it holds the run's rows in another order.
    """
    data = _read(opened, file, labels)
    resolved, found = opened.config["resolved"], fingerprint(data)
    known = resolved["fingerprint"]
    same_size = len(data.values[ALL]) == sum(resolved["sizes"].values())
    own = found["whole"] == known["whole"] if "whole" in known else same_size
    if own and data.shape == opened.spec.shape and _same_conditions(opened, data):
        opened.request |= {"dataset": file} | ({"labels": labels} if labels else {})
        opened.data  # noqa: B018  # refused where its rows stand in another order
        opened.notes.append(
            f"{file} holds the data of the run: its splits are those of training"
        )
        return None
    _check_columns(file, data, resolved.get("columns"))
    x = seen(opened, data, ALL, file)
    # What the values are is the run's to say.
    opened.notes += [n for n in data.notes if not any(word in n for word in OF_NATURE)]
    opened.notes.append(f"new data: {len(x)} of {file}; {_overlap(opened, data)}")
    names, own_labels = (
        None if v is None else v[ALL] for v in (data.names, data.labels)
    )
    rows, given = data.rows[ALL], given_of(opened, x)
    opened.notes += strange(opened, given)
    return Rows(
        public_name(file),
        NEW,
        x,
        rows,
        names,
        own_labels,
        len(x),
        found["whole"],
        given=given,
        read=partial(_beside_new, opened, file, labels),
    )


def _same_conditions(opened: Run, data: DataSet) -> bool:
    """Whether rows that are the run's own are given what they were; with other conditions they are new data."""
    if opened.conditions is None:
        return True
    try:
        own = opened.data
    except InputError:
        return True
    places = np.concatenate([own.rows[split] for split in own.values])
    for name, parts in own.given.items():
        known = np.array(
            spelled(np.concatenate([parts[split] for split in own.values]))
        )
        if name not in data.given or len(places) != len(data.given[name][ALL]):
            return False
        if not np.array_equal(np.array(spelled(data.given[name][ALL]))[places], known):
            return False
    return True


def _read(opened: Run, file: str, labels: str | None, **more: Any) -> DataSet:
    """A file undivided, read as the run's own data were, as far as that is asked for there, and as `more` says."""
    own, path = opened.request, user_path(file)
    alike = (
        file not in NAMED and Path(own["dataset"]).suffix.lower() == path.suffix.lower()
    )
    kept = (
        "data_dir",
        "workers",
        "columns",
        "condition",
        *options_for(file, own["dataset"]),
    )
    if opened.several:
        return _read_fields(opened, file, labels)
    if path.is_dir():
        kept = (*kept, "background")
    request = {k: own[k] for k in kept if k in own and k in REQUEST}
    request |= {k: v for k, v in more.items() if v is not None or k in request}
    if opened.spec.missing and file not in NAMED and may_have_holes(file):
        request["missing"] = KEEP
    # A column, or the name of an array; a file has labels of other rows.
    inside = own.get("labels")
    if labels is None and alike and inside is not None and not Path(inside).is_file():
        try:
            return load_data(file, labels=inside, divide=False, **request)
        except InputError:  # the new data may have no labels
            pass
    try:
        return load_data(file, labels=labels, divide=False, **request)
    except InputError as error:
        raise InputError(_of_new_data(str(error))) from error


def _of_new_data(told: str) -> str:
    """A sentence about data to train on as one about new data, of which no column can be left out.

    >>> _of_new_data("column 'a' of new.csv has no values: leave it out with --drop a")
    "column 'a' of new.csv has no values"
    """
    told = told.replace("--dataset", "--data").replace(HOW, "train with --missing keep")
    if not DROPPED.search(told):
        return told
    told = told.replace("fill them in, remove", "fill them in, or remove")
    return DROPPED.sub("", told)


def _read_fields(
    opened: Run, file: str, labels: str | None, *, divide: bool = False
) -> DataSet:
    """The fields of a file, or of files by the names of the fields; those that it lacks are missing."""
    own, bridge = opened.request, opened.bridge
    assert isinstance(bridge, FieldsBridge)
    several = "=" in file and file not in NAMED and not user_path(file).exists()
    where = sources(file, None if several else own.get("key"), fewest=1)
    if where is None:
        names = ", ".join(bridge.layout.names)
        raise InputError(
            f"{file} is one field, and the run knows {names}: name it, as in {bridge.layout.names[0]}={file}"
        )
    if unknown := [name for name in where if name not in bridge.layout.names]:
        raise InputError(
            f"{file} has a field {unknown[0]}, and the run knows {', '.join(bridge.layout.names)}"
        )
    there = available(where)
    there = {name: there[name] for name in bridge.layout.names if name in there}
    if not there:
        raise InputError(
            f"{file} has none of the fields {', '.join(bridge.layout.names)}"
        )
    shared = ("data_dir", "columns", "background")
    kept: dict[str, Any] = {k: own[k] for k in shared if k in own}
    kept["missing"] = KEEP if opened.spec.missing else None
    request = Request(dataset=file, labels=labels, **kept)
    try:
        data = load_several(request, there, divide=divide)
    except InputError as error:
        told = str(error).replace("--dataset", "--data")
        raise InputError(told.replace(HOW, "train with --missing keep")) from error
    return with_missing(data, bridge.layout)


def _check_columns(file: str, data: DataSet, known: Any) -> None:
    """Raise `InputError` where the columns of a table have other names than those of the run, or another order."""
    if not isinstance(known, list) or data.columns is None:
        return
    extra = [name for name in data.columns if str(name) not in map(str, known)]
    missing = [name for name in known if str(name) not in map(str, data.columns)]
    if len(data.columns) != len(known) and (extra or missing):
        told = [
            f"{what} {', '.join(map(repr, names))}"
            for what, names in (("lacks", missing), ("also has", extra))
            if names
        ]
        raise InputError(
            f"{file} {' and '.join(told)}: give it the columns of the run, {', '.join(map(str, known))}"
        )
    numbered = [
        all(str(name).isdigit() for name in names) for names in (known, data.columns)
    ]
    pairs = zip(known, data.columns, strict=False)
    other = next(((a, b) for a, b in pairs if str(a) != str(b)), None)
    if other is not None and not any(numbered):
        raise InputError(
            f"{file} has the column {other[1]!r} where the run was trained on {other[0]!r}: give it the columns of the "
            f"run, in their order: {', '.join(map(str, known))}"
        )


def _overlap(opened: Run, data: DataSet) -> str:
    """How many of new data the run has been trained on, in words."""
    try:
        trained = opened.data.values["train"]
    except InputError:
        return "whether the run was trained on some of them is not known, for its own data are not here"
    kind, values = trained[:0].dtype, data.values[ALL]
    if isinstance(values, torch.Tensor):
        values = values.to(kind)
    count = int(np.isin(row_keys(values), row_keys(trained)).sum())
    if count == 0:
        return "none of them is a row that the run was trained on"
    return f"{count} of them are rows that the run was trained on, whose log p(x) is too high"


def seen(
    opened: Run, data: DataSet, split: str, what: str, *, strict: bool = False
) -> Split | Data:
    """Other data under the bridge of a run, their random bits or noise drawn once.

    Args:
        opened: the run.
        data: the other data.
        split: of these, which.
        what: what they are called in a message.
        strict: whether they must be of the run's kind as a whole, as another data set must; a few rows of its own kind
            can be whole, or within [0, 1], by chance.

    Raises:
        InputError: when the model cannot take them.
    """
    bridge = _bridge_for(opened, data, split, what, strict=strict)
    return _checked(opened, data, split, bridge, what)


def _bridge_for(
    opened: Run, data: DataSet, split: str, what: str, *, strict: bool
) -> Bridge:
    """The bridge of a run for other data, as far as they are spelled otherwise; of several fields that of each."""
    if isinstance(data, FieldSet) and isinstance(opened.bridge, FieldsBridge):
        bridges = []
        for name, view in opened.fields.items():
            part, said = data.parts.get(name), f"the field {name} of {what}"
            found = view.bridge
            if part is not None:
                found = _bridge_for(view, part, split, said, strict=strict)
            bridges.append(found)
            opened.notes += view.notes
        return replace(opened.bridge, parts=tuple(bridges))
    if data.shape != opened.spec.shape:
        raise InputError(
            f"{what} has data of shape {data.shape}, but the run was trained on {opened.spec.shape}"
        )
    if opened.schema is not None:
        return opened.bridge
    bridge, holds = opened.bridge, data.representation
    own = Representation[opened.config["resolved"]["stored"]]

    # Another data set may spell levels and bits its own way; rows of the run's kind are spelled as the run's.
    values = data.values[split]
    if strict and (bridge.units is None or bridge.units.whole):
        bridge = replace(bridge, units=data.units)
    plain = AsStored(units=bridge.units)
    largest = max(
        float(_there(plain(v, dtype=torch.float64)).max()) for v in chunks(values)
    )
    binary = largest == 1 and _all(Representation.BINARY, values, plain)
    bits = (
        binary and own is not Representation.BINARY and own is not Representation.REAL
    )
    ambiguous = bits and not bridge.plain

    # Bits are taken as they are where the run made bits; all else goes over the run's own bridge.
    if bits and bridge.binarizes:
        bridge, accepted = AsStored(bridge.maximum, bridge.units), True
        opened.notes.append(
            f"{what} holds 0 and 1 alone: they are taken for the bits themselves"
        )
    elif strict:
        support = opened.vae.model.likelihood.support if bridge.plain else own
        accepted = support.admits(holds) and not ambiguous
    else:
        accepted = (
            _spelled(bridge.units, values)
            and _all(own, values, plain)
            and not ambiguous
        )
    if not accepted and holds is own:
        raise InputError(
            f"{what} holds {holds.value} that are spelled otherwise than those of {opened.name}, which go up to "
            f"{bridge.maximum:g}, {bridge}: bring both to one scale"
        )
    if not accepted:
        raise InputError(
            f"{what} holds {holds.value}, but the run was trained on {opened.name}, which holds {own.value}"
        )
    if not bridge.reaches(largest):
        raise InputError(
            f"{what} holds values up to {largest:g}, but those of the run end at {bridge.maximum:g}: bring both to one "
            "scale"
        )
    return bridge


def _checked(
    opened: Run, data: DataSet, split: str, bridge: Bridge, what: str
) -> Split | Data:
    """Data under a bridge, once the model accepts every value."""
    x = (
        data.fields(split, bridge, opened.conditions, dtype=opened.dtype)
        .fixed()
        .to(opened.device)
    )
    try:
        as_data(opened.vae.model, x)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return x


def outside(opened: Run, name: str) -> Split | Data:
    """All data of a file, or the test data of a named set, as the run sees them."""
    named = name in NAMED
    kept = set() if named else {*options_for(name, opened.request["dataset"])}
    if Path(name).is_dir():
        kept.add("background")
    request: dict[str, Any] = {option: opened.request.get(option) for option in kept}
    request |= {
        key: opened.request.get(key) for key in ("data_dir", "columns", "condition")
    }
    try:
        if opened.several:
            data = _read_fields(opened, name, None, divide=named)
        else:
            data = load_data(name, divide=named, **request)
    except InputError as error:
        raise InputError(str(error).replace("--dataset", "--ood")) from error
    x = seen(opened, data, "test" if named else ALL, f"--ood {name}", strict=True)
    opened.notes += strange(opened, given_of(opened, x))
    return x


def see(opened: Run, values: Any, given: Mapping[str, Any] | None) -> Any:
    """Values in memory as a run sees them; see `Run.see`."""
    if opened.several:
        return _see_fields(opened, values, given)
    conditions, columns = opened.conditions, getattr(values, "columns", ())
    names = [] if conditions is None else [k for k in conditions.names if k in columns]
    required = () if conditions is None else conditions.required
    if given is None and names and all(name in names for name in required):
        given, values = values[names], values.drop(columns=names)
    if opened.schema is not None and hasattr(values, "columns"):
        values = opened.schema.codes(values, missing=opened.spec.missing)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    array = np.asarray(values)
    shape = opened.spec.shape
    if array.shape == shape:
        raise InputError(
            f"values of shape {array.shape} are one datum; give a batch of it, of shape {(1, *shape)}: values[None]"
        )
    if array.ndim != len(shape) + 1 or len(array) == 0:
        raise InputError(
            f"values of shape {array.shape} are no batch of data of shape {shape}; give {('N', *shape)}"
        )
    missing = opened.spec.missing
    kept: dict[str, torch.Tensor | Stream] = {
        ALL: stored("the array", array, missing=missing)
    }
    mixed = opened.schema is not None
    nature = (
        Nature(Representation.MIXED, 1.0) if mixed else nature_of("the array", kept)
    )
    rows = {ALL: np.arange(len(array))}
    kind, maximum = nature.representation, nature.maximum
    data = DataSet(
        "the array",
        kept,
        None,
        kind,
        maximum,
        False,
        "memory",
        rows,
        units=nature.units,
    )
    if given is not None and opened.conditions is None:
        raise InputError(
            f"the run {opened.folder} is not conditional, and conditions are given"
        )
    if given is not None:
        every = [*given] if conditions is None else conditions.names
        named = [k for k in every if k in given] if hasattr(given, "columns") else given
        data.given = {name: {ALL: np.asarray(given[name])} for name in named}
    x = seen(opened, data, ALL, "the array")[:]
    for sentence in strange(opened, given_of(opened, x)):
        warnings.warn(sentence, DataWarning, stacklevel=3)
    return x


def _see_fields(opened: Run, values: Any, given: Mapping[str, Any] | None) -> Any:
    """Several fields in memory by their names, as a run sees them; one that is not given is missing."""
    bridge: Any = opened.bridge
    layout = bridge.layout
    if (
        not isinstance(values, Mapping)
        or not values
        or not {*values} <= {*layout.names}
    ):
        raise InputError(
            f"the run has the fields {', '.join(layout.names)}: give a dict of them, as in "
            f"{{{layout.names[0]!r}: ...}}"
        )
    fields = {}
    for name, part in values.items():
        array = part
        view = opened.fields[name]
        if view.schema is not None and not hasattr(part, "columns"):
            import pandas

            array = pandas.DataFrame({view.schema.names[0]: np.asarray(part).ravel()})
        fields[name] = fields_of(see(view, array, None))[0]
    x = layout.join(fields)
    if given is None:
        return x
    return {"x": x, "c": opened.condition(**given)}


def _all(kind: Representation, values: Any, plain: Bridge) -> bool:
    """Whether all values, in the units of a bridge, are of a kind."""
    return all(
        kind.holds(_there(plain(v, dtype=torch.float64))) for v in chunks(values)
    )


def _there(x: torch.Tensor) -> torch.Tensor:
    """The values of a chunk that were seen, or 0 where there is none."""
    found = present(x)
    return found if found.numel() else torch.zeros(1, dtype=x.dtype)


def _spelled(units: Units | None, values: Any) -> bool:
    """Whether all values are on the lattice of `units`, up to rounding."""
    if units is None or not units.whole:
        return True
    return all(
        bool((~((units.inverse(units(v)) - v).abs() > NEAR * max(units.unit))).all())
        for v in chunks(values)
    )


def plain(values: np.ndarray) -> np.ndarray:
    """An array without Python objects, which .npz files hold only pickled: as text, a missing one empty."""
    if values.dtype != object:
        return values
    import pandas

    return np.array(
        ["" if pandas.isna(value) else str(value) for value in values.tolist()],
        dtype=str,
    )
