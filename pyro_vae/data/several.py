"""Data of several fields: arrays of one file, or files that belong together, as one data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.archives import LABEL_WORDS, has_array
from pyro_vae.data.bridges import Bridge, FieldsBridge
from pyro_vae.data.conditions import LABEL
from pyro_vae.data.files import Loaded, Request
from pyro_vae.data.named import NAMED
from pyro_vae.data.own import OWN, options_of
from pyro_vae.data.representation import Representation
from pyro_vae.data.schema import Schema, Wish
from pyro_vae.data.sets import DataSet, assembled, loaded_by
from pyro_vae.data.streams import Stream, Values
from pyro_vae.foundation.commands import option
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.layout import Layout
from pyro_vae.foundation.reading import user_path
from pyro_vae.foundation.sources import Source

NO_LABEL = -1  # what whole numbers of one field hold where it is missing


@dataclass(repr=False)
class FieldSet(DataSet):
    """A data set of several fields, which lie side by side in the values of each split.

    Attributes:
        parts: each field as a data set of its own, with the same rows in the same splits.
    """

    parts: dict[str, DataSet] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(tuple(self.parts), tuple(p.shape for p in self.parts.values()))

    def bridge(
        self,
        likelihood: Any,
        *,
        binarize: str | None = None,
        dequantize: bool = False,
        scale: bool = False,
    ) -> Bridge:
        """The bridge of each field to its likelihood; an option holds for those that it fits.

        Raises:
            InputError: as for one field, and for an option that fits none.
        """
        options: dict[str, Any] = {
            "binarize": binarize,
            "dequantize": dequantize,
            "scale": scale,
        }
        asked = [name for name, value in options.items() if value]
        bridges, taken = [], False
        for part, member in zip(self.parts.values(), likelihood.members, strict=True):
            fits = bool(asked) and _fits(part, member.support, asked[0])
            taken |= fits
            bridges.append(part.bridge(member, **(options if fits else {})))
        if asked and not taken:
            raise InputError(
                f"--{asked[0]} fits none of the fields {', '.join(self.parts)} with their likelihoods"
            )
        return FieldsBridge(layout=self.layout, parts=tuple(bridges))

    def floors(self, bridge: Bridge) -> Tensor | None:
        assert isinstance(bridge, FieldsBridge)
        each = []
        for part, of_part in zip(self.parts.values(), bridge.parts, strict=True):
            floors = part.floors(of_part)
            none = torch.zeros(part.shape, dtype=torch.float64)
            each.append(none if floors is None else floors)
        floors = self.layout.together(each)
        return floors if bool((floors > 0).any()) else None

    def remarks(self, bridge: Bridge) -> list[str]:
        assert isinstance(bridge, FieldsBridge)
        pairs = zip(self.parts.items(), bridge.parts, strict=True)
        return [
            f"{name}: {remark}"
            for (name, part), of_part in pairs
            for remark in part.remarks(of_part)
        ]


def _fits(part: DataSet, support: Representation, option: str) -> bool:
    """Whether an option that changes values makes sense for a field."""
    if part.schema is not None:
        return False
    if option == "binarize":
        wanted = support is Representation.BINARY
        return wanted and part.representation is not Representation.BINARY
    reals = (Representation.REAL, Representation.UNIT)
    return support in reals and part.representation not in reals


def load_several(
    request: Request, where: Mapping[str, Source], *, divide: bool = True
) -> FieldSet:
    """Data of several fields, row by row: by the names of the rows where all files have them, else in their order.

    A one-dimensional array is a column of categories or numbers, in which -1 stands for none. A field that has no value
    in a row (nan, blank, 0 in the array `<field>_mask`, no row of that name) is missing there.

    Args:
        request: what is asked for; an option of files holds for those that it fits.
        where: where each field is.
        divide: as in `load_data`.

    Raises:
        InputError: for fields of different lengths, a row without any, and one that lacks some of its values, which
            `--missing keep` takes.
    """
    _check_options(request, where)
    columns: Any = request.columns or {}
    found = {
        name: _read(request, name, source, where, columns.get(name))
        for name, source in where.items()
    }
    found, matched = _aligned(request.dataset, found)
    parts = {}
    for name, loaded in found.items():
        part = _request(request, name, where[name], where)
        called = _said(request, name, where[name])
        part = replace(part, dataset=called, missing="keep")
        if loaded.schema is None and not isinstance(columns.get(name), Wish):
            part = replace(part, columns=columns.get(name))
        parts[name] = assembled(part, loaded, divide=divide)
    first = next(iter(parts.values()))
    notes = [*_notes(parts), *matched]
    whole: Values = {split: _joined(parts, split) for split in first.values}
    layout = Layout(tuple(parts), tuple(p.shape for p in parts.values()))
    missing, said = _check_missing(request, layout, whole, first)
    notes += said
    values, kept = whole, None
    if request.hide is not None:
        values, note = _hidden(request, layout, whole)
        kept, notes = whole, [*notes, note]
    labels = next((p.labels for p in parts.values() if p.labels is not None), None)
    return FieldSet(
        name=request.dataset,
        values=values,
        labels=labels,
        representation=Representation.FIELDS,
        maximum=1.0,
        named=False,
        source=", ".join(dict.fromkeys(p.source for p in parts.values())),
        rows=first.rows,
        names=next((p.names for p in parts.values() if p.names is not None), None),
        notes=tuple(notes),
        missing=missing,
        whole=kept,
        given=first.given,
        parts=parts,
    )


def available(where: Mapping[str, Source]) -> dict[str, Source]:
    """Those of the fields that an archive has; of other files all."""
    return {
        name: source
        for name, source in where.items()
        if source.array is None
        or source.dataset in NAMED
        or has_array(user_path(source.dataset), source.array)
    }


def with_missing(data: FieldSet, layout: Layout) -> FieldSet:
    """Data with all fields of a layout: those that they do not have are missing in every datum."""
    if [*data.parts] == [*layout.names]:
        return data
    own = data.layout
    values: Values = {}
    for split, x in data.values.items():
        assert isinstance(x, Tensor)
        values[split] = layout.join(own.split(x))
    lacking = [name for name in layout.names if name not in data.parts]
    note = f"{data.name} has no {', '.join(lacking)}, which is missing in every datum"
    return replace(data, values=values, notes=(*data.notes, note))


def _said(request: Request, name: str, source: Source) -> str:
    """What a field is called in sentences; a named data set keeps its name, by which its splits are known."""
    if source.dataset in NAMED:
        return source.dataset
    return f"the field {name} of {request.dataset}" if source.array else source.dataset


def _request(
    request: Request, name: str, source: Source, where: Mapping[str, Source]
) -> Request:
    """What is asked for of one field: the options that its file takes."""
    takes = _options(source)
    options: dict[str, Any] = {
        option: getattr(request, option) if option in takes else None for option in OWN
    }
    # Whole fields may be missing wherever a file can say so.
    options |= {"missing": "keep" if "missing" in takes else None}
    named = source.dataset in NAMED
    options |= {"key": None if named else source.array}
    folder = not named and user_path(source.dataset).is_dir()
    beside = [s.array for n, s in where.items() if n != name and s.array]
    masks = [f"{array}_mask" for array in beside]
    first = name == next(iter(where))
    return replace(
        request,
        **options,
        dataset=source.dataset,
        condition=request.condition if first and source.array else None,
        columns=None,
        stream=False if folder or source.dataset.endswith(".npy") else None,
        background=request.background if folder else None,
        hide=None,
        field=name,
        others=(*beside, *masks),
    )


def _options(source: Source) -> set[str]:
    """The options that tell how to read one field."""
    if source.dataset in NAMED:
        return set()
    if source.array is not None:
        return {"labels", "missing"}
    return {"labels", *options_of(source.dataset)} - {"key"}


def _check_options(request: Request, where: Mapping[str, Source]) -> None:
    """Refuse an option that no file of the fields takes, and fields that a named data set does not have."""
    for dataset in {s.dataset for s in where.values()} & {*NAMED}:
        others = [n for n, s in where.items() if s == (dataset, s.array)]
        images = [n for n in others if where[n].array not in LABEL]
        if len(images) > 1:
            raise InputError(
                f"{dataset} has images and labels, and {' and '.join(images)} cannot both be its images: give "
                f"{option('key', 'image,label')}"
            )
    if request.stream:
        raise InputError("--stream yes: several fields are held in memory")
    files = {s.dataset for s in where.values()}
    own = [f for f in files if f not in NAMED]
    if request.condition is not None and len(files) > 1:
        raise InputError(
            "--condition names columns of one file, and the fields lie in several: put them into one .npz"
        )
    takes = {"key", "missing"}.union(*map(_options, where.values()))
    for name in OWN:
        if getattr(request, name) is not None and name not in takes:
            raise InputError(f"--{name} fits none of {', '.join(sorted(files))}")
    if request.background and not any(user_path(f).is_dir() for f in own):
        raise InputError(
            f"--background is for a folder of images, which none of {', '.join(sorted(files))} is"
        )


def _read(
    request: Request,
    name: str,
    source: Source,
    where: Mapping[str, Source],
    wishes: Any,
) -> Loaded:
    """What a field holds, a column of a table where each datum is one number, truth value or text."""
    asked = _request(request, name, source, where)
    if source.dataset in NAMED:
        loaded = NAMED[source.dataset](replace(asked, key=None))
        if source.array in LABEL:
            if loaded.labels is None:
                raise InputError(f"{source.dataset} has no labels for the field {name}")
            loaded = loaded._replace(parts=loaded.labels)
    else:
        table = source.array is None and "id" in options_of(source.dataset)
        of_table: Any = {} if wishes is None or isinstance(wishes, Wish) else wishes
        loaded = loaded_by(replace(asked, columns=of_table if table else None))
    for values in loaded.parts.values():
        if isinstance(values, Stream):
            raise InputError(
                f"the field {name} stays on disk, and several fields are held in memory: add --stream no"
            )
    if any(len(v.shape) == 1 for v in loaded.parts.values()):
        return _column(name, loaded, wishes)
    return loaded


def _column(
    name: str, loaded: Loaded, wishes: Schema | Mapping[str, Wish] | Wish | None
) -> Loaded:
    """One number, truth value or text for each datum, as a table of one column."""
    import pandas

    arrays = {split: _without_none(np.asarray(v)) for split, v in loaded.parts.items()}
    frames = {split: pandas.DataFrame({name: v}) for split, v in arrays.items()}
    schema: Any = wishes
    if not isinstance(wishes, Schema):
        every = pandas.concat(list(frames.values()))
        asked = {name: wishes} if isinstance(wishes, Wish) else wishes
        schema = Schema.of(every, asked or _as_label(name, every), name, missing=True)
    codes = {s: schema.codes(f, name, missing=True) for s, f in frames.items()}
    labels = {split: np.asarray(v) for split, v in loaded.parts.items()}
    return loaded._replace(parts=codes, schema=schema, labels=labels)


def _as_label(name: str, frame: Any) -> Mapping[str, Wish]:
    """A column that is called a label, and holds few whole numbers, is taken for categories."""
    values = frame[name].dropna().to_numpy()
    if name.lower() not in LABEL_WORDS or values.dtype.kind not in "iuf":
        return {}
    whole = bool((values == np.round(values)).all())
    kinds = len(np.unique(values))
    if not whole or not 2 < kinds <= len(values) // 2:
        return {}
    return {name: Wish("category", (), "a label")}


def _without_none(values: np.ndarray) -> np.ndarray:
    """An array in which -1 among whole numbers from 0 stands for none, which becomes nan."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "U":
        texts = values.astype(object)
        texts[values == ""] = None
        return texts
    if values.dtype.kind == "i" and values.min(initial=0) == NO_LABEL:
        return np.where(values == NO_LABEL, np.nan, values)
    return values


def _aligned(
    dataset: str, found: dict[str, Loaded]
) -> tuple[dict[str, Loaded], list[str]]:
    """Fields with the same rows: matched by name where all have names, else in their order."""
    sizes = {n: {s: len(v) for s, v in f.parts.items()} for n, f in found.items()}
    first = next(iter(sizes.values()))
    named = all(f.names is not None and [*f.parts] == ["train"] for f in found.values())
    if named:
        return _by_name(found)
    for own in sizes.values():
        if own != first:
            raise InputError(
                f"the fields of {dataset} have different numbers of data: {_counts(sizes)}; give a row for each datum "
                "in every field, or names to both"
            )
    several = len({f.source for f in found.values()}) > 1
    return found, ["fields are paired row by row, in their order"] if several else []


def _counts(sizes: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(
        f"{name} {' and '.join(f'{n} {s}' for s, n in own.items())}"
        for name, own in sizes.items()
    )


def _by_name(found: dict[str, Loaded]) -> tuple[dict[str, Loaded], list[str]]:
    """Fields whose rows have names, matched by these; a field without a row of a name is missing there."""
    names = {n: [_stem(x) for x in f.names["train"]] for n, f in found.items()}  # type: ignore[index]
    for name, own in names.items():
        if len({*own}) < len(own):
            twice = next(x for x in own if own.count(x) > 1)
            raise InputError(f"the field {name} has two rows called {twice!r}")
    every = list(dict.fromkeys(x for own in names.values() for x in own))
    shared = [x for x in every if all(x in {*own} for own in names.values())]
    if not shared:
        raise InputError(
            f"the fields {', '.join(found)} have no row of the same name, such as {every[0]!r}: name their rows alike"
        )
    matched = {}
    for name, loaded in found.items():
        places = {x: i for i, x in enumerate(names[name])}
        rows = np.array([places.get(x, -1) for x in every])
        values = np.asarray(loaded.parts["train"])
        there = values[np.clip(rows, 0, None)]
        if (rows < 0).any():
            there = there.astype(np.float64 if there.dtype.kind == "f" else np.float32)
            there[rows < 0] = np.nan
        labels = loaded.labels if (rows >= 0).all() else None
        matched[name] = loaded._replace(
            parts={"train": there},
            names={"train": np.array(every)},
            labels=None if labels is None else {"train": labels["train"][rows]},
        )
    return matched, [f"{len(every)} rows matched by name, {len(shared)} in all fields"]


def _stem(name: Any) -> str:
    """A row's name without the folder and ending of a file."""
    return Path(str(name)).stem


def _notes(parts: Mapping[str, DataSet]) -> list[str]:
    """What is to be said of the fields: of all of them once, of one with its name."""
    every = [note for part in parts.values() for note in part.notes]
    notes = []
    for name, part in parts.items():
        for note in part.notes:
            shared = every.count(note) > 1
            said = note if shared else f"{name}: {note}"
            if said not in notes:
                notes.append(said)
    return notes


def _joined(parts: Mapping[str, DataSet], split: str) -> Tensor:
    """The values of all fields side by side, float32 unless one holds more digits."""
    each: list[Any] = [part.values[split] for part in parts.values()]
    wide = any(v.dtype in (torch.float64, torch.int64) for v in each)
    dtype = torch.float64 if wide else torch.float32
    flat = [v.flatten(1).to(dtype) for v in each]
    joined = torch.cat(flat, 1)
    exact = dtype is torch.float64 and bool(
        (joined.float().double().nan_to_num() == joined.nan_to_num()).all()
    )
    return joined.float() if exact else joined


def _check_missing(
    request: Request, layout: Layout, values: Values, first: DataSet
) -> tuple[bool, list[str]]:
    """Whether single values are missing, and what is to be said of missing fields."""
    partly, absent, total = False, [0] * len(layout.names), 0
    for split, x in values.items():
        assert isinstance(x, Tensor)
        seen = layout.seen(x)
        empty = ~seen.any(1)
        if empty.any():
            row = first.rows[split][int(empty.nonzero()[0])]
            raise InputError(
                f"row {row} (counted from 0) of {request.dataset} has no value in any field: leave that row out"
            )
        for i, part in enumerate(x.split(layout.sizes, 1)):
            holes = part.isnan().any(1) & seen[:, i]
            if holes.any() and not request.keeps_missing:
                row = first.rows[split][int(holes.nonzero()[0])]
                raise InputError(
                    f"row {row} (counted from 0) of {request.dataset} lacks some values of the field "
                    f"{layout.names[i]} and has others: add --missing keep (densities count what was seen)"
                )
            partly |= bool(holes.any())
            absent[i] += int((~seen[:, i]).sum())
        total += len(x)
    pairs = zip(layout.names, absent, strict=True)
    notes = [f"{name} is missing in {n:,} of {total:,} data" for name, n in pairs if n]
    return partly or request.keeps_missing, notes


def _hidden(request: Request, layout: Layout, values: Values) -> tuple[Values, str]:
    """Values of which a share of all fields is hidden, each by itself; of every datum one field at least is left."""
    share = request.hide or 0.0
    if not 0 < share < 1:
        raise InputError(f"--hide {share} must lie between 0 and 1")
    if not 0 <= request.hide_seed < 2**32:
        raise InputError(
            f"--hide-seed {request.hide_seed} must lie between 0 and 2^32 - 1"
        )
    generator = torch.Generator().manual_seed(request.hide_seed)
    holed: Values = {}
    count = total = 0
    for split, x in values.items():
        assert isinstance(x, Tensor)
        seen = layout.seen(x)
        dice = torch.rand(seen.shape, generator=generator)
        # The one that is there with the highest number stays.
        keep = dice.masked_fill(~seen, -1).argmax(1, keepdim=True)
        hide = ((dice < share) & seen).scatter(1, keep, torch.zeros_like(seen))
        wide = torch.repeat_interleave(hide, torch.tensor(layout.sizes), dim=1)
        holed[split] = x.masked_fill(wide, torch.nan)
        count, total = count + int(hide.sum()), total + int(seen.sum())
    return holed, (
        f"{count:,} of {total:,} fields ({100 * count / max(total, 1):.3g} %) hidden on purpose, as a whole"
    )
