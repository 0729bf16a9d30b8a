"""What people hand over as data: tensors, arrays, tables and data sets, as a pair takes them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_vae.data.conditions import UNKNOWN
from pyro_vae.data.fields import (
    Data,
    Sampled,
    cut,
    evenly,
    mean_and_std,
    no_data,
    parts_of,
)
from pyro_vae.data.streams import batches, pieces
from pyro_vae.engine.processes import here, shared
from pyro_vae.foundation.abstract import context_of, forked_random, is_own
from pyro_vae.foundation.errors import InputError

CHUNK = 2**22  # elements checked at a time
COPIES = 4  # of a datum while it is read: as stored, as a number of the model's type, with noise, as it is used
SAMPLE = 10_000  # data that moments are taken from
UNCONDITIONAL = "c is a condition, and this pair is not conditional"
# data for each number of a condition, at least, that a regression on it needs
PER_CONDITION = 10
LEAST_LEFT = 0.01  # of a standard deviation: a condition that says all
FINE = 1e-3  # of a standard deviation: rounding that moves no density by a thousandth of a nat


def as_data(model: Any, x: Any, *, name: str = "x", values: bool = True) -> Any:
    """The data `x` as `model` takes them: a tensor `(N, *shape)`, or something with a length and batches of such.

    Taken are tensors of any float type, NumPy and SciPy arrays, pandas and other tables, nested lists, and map-style
    data sets. Floats get the type of the model's parameters; a VAE's data also when they are whole numbers or booleans.
    A tensor that fits is returned as it is.

    A VAE of several fields takes them by their names, those that are missing left out or nan where they are; or all in
    one tensor `(N, width)`, in the order of its `layout`.

    A VAE takes one tensor: of items such as image and label, the first counts. A conditional one takes the fields x and
    c, as a dict or as `Data`; one with classes also labels y, -1 where there is none, one with a real target numbers y,
    nan where there is none. An element of x that is nan was not seen, and is taken where the model says `missing`.
    Another pair is called with what is given: a tuple or a dict of tensors with N rows each, and the items of a data
    set as such a tuple or dict.

    Args:
        model: the model; what it says of itself, its likelihood and parameters, decides what is checked.
        x: the data.
        name: what an error calls them.
        values: whether to look at every value and not only at the shape.

    Raises:
        InputError: for what is no data set, for a shape or values that the model does not accept, or for values that
            its float type cannot hold apart.
    """
    x = gathered(model, x, name)
    if is_own(model) and label_width_of(model):
        return _labelled(model, x, name, values)
    if is_own(model) and context_of(model):
        return _conditional(model, x, name, values)
    if is_own(model) and isinstance(x, Mapping) and x.keys() == {"x", "c"}:
        if hasattr(model, "likelihood"):
            raise InputError(UNCONDITIONAL)
        x = x["x"]  # a guide that does not look at the condition
    if isinstance(x, Data):
        x = _only_x(x, name) if is_own(model) else x.fields
    return _unconditional(model, x, name, values)


def gathered(model: Any, x: Any, name: str = "x") -> Any:
    """Data whose fields have names as those that a pair takes: the fields of x joined in one, and the others beside.

    Raises:
        InputError: for a name that is no field, another shape, or fields of different lengths.
    """
    layout = getattr(model, "fields", None) if is_own(model) else None
    fields = x.fields if isinstance(x, Data) else x
    if layout is None or not isinstance(fields, Mapping) or "x" in fields:
        return x
    others = {k: v for k, v in fields.items() if k in ("c", "y")}
    tensors: dict[str, Tensor] = {}
    for field, values in fields.items():
        if field in others:
            continue
        if field not in layout.names:
            raise InputError(
                f"{name} has a field {field}, and the pair knows {', '.join(layout.names)}"
            )
        shape = layout.shapes[layout.names.index(field)]
        tensors[field] = _as_field(values, field, shape, name)
    lengths = {len(tensor) for tensor in tensors.values()}
    if len(lengths) != 1:
        rows = " and ".join(map(str, sorted(lengths))) or "no"
        raise InputError(
            f"the fields of {name} have {rows} rows; give all of one length"
        )
    joined = layout.join(tensors)
    return {"x": joined, **others} if others else joined


def _as_field(values: Any, field: str, shape: tuple[int, ...], name: str) -> Tensor:
    """The values of one field, `(N, *shape)`."""
    tensor = _as_tensor(values, field, missing=True)
    if tensor is None:
        raise InputError(
            f"the field {field} of {name} is a {type(values).__name__}; give a tensor or an array"
        )
    tensor = tensor.unsqueeze(-1) if tensor.dim() == 1 and shape == (1,) else tensor
    _check_shape(tuple(tensor.shape), shape, f"the field {field} of {name}")
    return tensor


def beside_condition(model: Any, x: Any, c: Any) -> Any:
    """Data with their condition c, where there is one."""
    if c is None:
        return x
    return {"x": fields_of(gathered(model, x))[0], "c": c}


def _unconditional(model: Any, x: Any, name: str, values: bool) -> Any:
    """`as_data` of what a pair without a condition takes, or of the field x of another."""
    likelihood, parameter = getattr(model, "likelihood", None), _parameter(model)
    if hasattr(x, "batches"):  # reads itself, such as a Split
        _check_some(likelihood, x, name)
        return x
    if not is_own(model):
        fields = x.tensors if isinstance(x, TensorDataset) and len(x.tensors) > 1 else x
        if isinstance(fields, (tuple, dict)):
            return Data(_parts_as_tensors(fields, parameter, name), name)
    x = _array_like(x, name)
    if isinstance(x, Dataset):
        _not_empty(x, name)
        return Items(x, model, name)
    tensor = _as_tensor(x, name, missing=may_miss(likelihood))
    if tensor is None:  # something else that an index takes batches from
        _check_some(likelihood, x, name)
        return x
    tensor = _for_functions(x, tensor, parameter)
    return _fitted(tensor, likelihood, parameter, name, values=values)


def _conditional(model: Any, x: Any, name: str, values: bool) -> Data:
    """`as_data` of a pair with a condition: the fields x and c."""
    fields = x.fields if isinstance(x, Data) else x
    if not (isinstance(fields, Mapping) and {"x", "c"} <= fields.keys()):
        raise InputError(
            f"this pair is conditional and {name} has no condition: give c beside x, {context_of(model)} numbers for "
            f'each datum, or {name} as {{"x": x, "c": c}}'
        )
    return _with_condition(
        model, fields["x"], as_condition(model, fields["c"]), name, values
    )


def _with_condition(model: Any, x: Any, c: Tensor, name: str, values: bool) -> Data:
    x = _unconditional(model, x, name, values)
    if not parts_of(x):  # what only an index takes batches from
        x = Selected(x, torch.arange(len(x)))
    return Data({"x": x, "c": c}, name)


def _labelled(model: Any, x: Any, name: str, values: bool) -> Any:
    """`as_data` of a pair with classes: x, and c where there are labels or a condition."""
    fields = x.fields if isinstance(x, Data) else x
    if not isinstance(fields, Mapping):
        fields = {"x": x}
    y, c = fields.get("y"), fields.get("c")
    if "x" not in fields:
        raise InputError(f'{name} has no field x: give it as {{"x": x, "y": labels}}')
    if y is not None:
        labels = as_labels(model, y)
        c = (
            labels
            if c is None
            else torch.cat([labels, as_condition(model, c)[:, labels.shape[1] :]], 1)
        )
    elif c is not None:
        c = as_condition(model, c)
    elif context_of(model) > label_width_of(model):
        raise InputError(
            f"this pair is conditional and {name} has no condition: give c beside x, "
            f"{context_of(model) - label_width_of(model)} numbers for each datum"
        )
    if c is None:
        return _unconditional(model, fields["x"], name, values)
    return _with_condition(model, fields["x"], c, name, values)


def classes_of(model: Any) -> int:
    """How many values the class y of a pair has, whose label its condition begins with; 0 without one."""
    return getattr(model, "classes", 0)


def label_width_of(model: Any) -> int:
    """How many numbers of a pair's condition the label of its y takes: K of a class, 1 of a real y; 0 without y."""
    return getattr(model, "label_width", 0)


def labels_of(model: Any, x: Any) -> Tensor | None:
    """The real labels among some data, `(N,)`, as they are stored: y, or a condition of one number for each datum."""
    fields = x.fields if isinstance(x, Data) else x
    if label_width_of(model) != 1 or not isinstance(fields, Mapping):
        return None
    given = fields.get("y", fields.get("c"))
    labels = None if given is None else _as_tensor(given, "y", missing=True)
    return None if labels is None or labels.ndim != 1 else labels


def as_targets(model: Any, y: Any) -> Tensor:
    """Real labels `(N,)`, nan where there is none, as a pair reads them: in standard units, `(N, 1)`.

    Raises:
        InputError: for another shape, or an infinite number.
    """
    parameter = _parameter(model)
    numbers = _as_tensor(y, "y", missing=True)
    if numbers is None or numbers.ndim != 1:
        shape = "" if numbers is None else f" of shape {tuple(numbers.shape)}"
        raise InputError(
            f"y is a {type(y).__name__}{shape}; give a number for each datum, (N,), nan where there is none"
        )
    if numbers.isinf().any():
        row = int(numbers.isinf().nonzero()[0])
        raise InputError(
            f"y is infinite for datum {row} (counted from 0): give a number, nan where there is none"
        )
    standard = model.standardised(numbers)[:, None]
    return standard if parameter is None else standard.to(parameter)


def as_labels(model: Any, y: Any) -> Tensor:
    """Labels `(N,)`, whole numbers with -1 or nan where there is none, as a pair reads them: one-hot or nan, `(N, K)`.

    Raises:
        InputError: for another shape, or a class that there is not.
    """
    if not classes_of(model):
        return as_targets(model, y)
    size, parameter = classes_of(model), _parameter(model)
    codes = _as_tensor(y, "y", missing=True)
    if codes is None or codes.ndim != 1:
        shape = "" if codes is None else f" of shape {tuple(codes.shape)}"
        raise InputError(
            f"y is a {type(y).__name__}{shape}; give a class for each datum, (N,), -1 where there is none"
        )
    codes = codes.nan_to_num(UNKNOWN) if codes.is_floating_point() else codes
    wrong = (codes < UNKNOWN) | (codes >= size) | (codes != codes.round())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"y holds the class {codes[row].item():g} for datum {row} (counted from 0), and the pair knows {size}, "
            f"0 to {size - 1}; -1 where there is none"
        )
    labels = torch.nn.functional.one_hot(codes.long().clamp_min(0), size)
    labels = labels.to(
        torch.get_default_dtype() if parameter is None else parameter.dtype
    )
    labels[codes < 0] = math.nan
    return labels if parameter is None else labels.to(parameter.device)


def may_miss(likelihood: Any) -> bool:
    """Whether elements of the data of a likelihood may be nan, which were not seen."""
    return bool(getattr(likelihood, "missing", False))


def as_condition(model: Any, c: Any) -> Tensor:
    """A condition as a pair reads it, `(N, context)`, of its type and on its device.

    Whole numbers `(N,)` are classes, and become one-hot, where the context is longer than one.

    Raises:
        InputError: for another shape, a class that there is not, or a number that is missing or infinite.
    """
    width, parameter = context_of(model), _parameter(model)
    dtype = getattr(c, "dtype", None)
    if str(dtype) in ("category", "object", "str", "string") or _holds_texts(c):
        raise InputError(
            f"c holds no numbers: give codes from 0, as by pandas.factorize, or {width} numbers for each datum"
        )
    tensor = _as_tensor(c, "c", missing=True)
    if tensor is None:
        raise InputError(
            f"c is a {type(c).__name__}; give numbers, {width} for each datum"
        )
    classes, real = label_width_of(model), label_width_of(model) == 1
    as_stored = real or not tensor.is_floating_point()
    if tensor.ndim == 1 and width == classes and as_stored:
        return as_labels(model, tensor)
    if tensor.ndim == 2 and 0 < tensor.shape[1] == width - classes < width:
        unknown = tensor.new_full(
            (len(tensor), classes), math.nan, dtype=torch.get_default_dtype()
        )
        tensor = torch.cat([unknown, tensor], 1)
    if tensor.ndim == 1 and width > 1 and not tensor.is_floating_point():
        wrong = ((tensor < 0) | (tensor >= width)).nonzero().flatten()
        if len(wrong):
            raise InputError(
                f"c holds the class {tensor[wrong[0]].item()} for datum {wrong[0].item()} (counted from 0), and the "
                f"pair knows {width}, 0 to {width - 1}"
            )
        tensor = torch.nn.functional.one_hot(tensor.long(), width)
    elif tensor.ndim == 1 and width == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 2 or tensor.shape[1] != width:
        codes = ""
        if width > 1 and (tensor.ndim == 1 or not tensor.is_floating_point()):
            codes = ", or codes (N,) as whole numbers"
        raise InputError(
            f"c has shape {tuple(tensor.shape)} and the pair takes (N, {width}){codes}"
        )
    wrong = ~tensor.isfinite()
    if classes:  # the label of a datum may be unknown
        label = tensor[:, :classes]
        wrong[:, :classes] &= ~label.isnan().all(1, keepdim=True)
    bad = wrong.any(1).nonzero().flatten()
    if len(bad):
        raise InputError(
            f"c holds a value that is missing or infinite for datum {bad[0].item()} (counted from 0)"
        )
    return tensor if parameter is None else tensor.to(parameter)


def _holds_texts(c: Any) -> bool:
    if isinstance(c, np.ndarray):
        return c.dtype.kind in "US"
    return isinstance(c, (list, tuple)) and bool(c) and isinstance(c[0], str)


def condition_for(model: Any, c: Any, n: int) -> tuple[Tensor, ...]:
    """`c` as `n` data of a pair read it, `(n, context)`; one for all is repeated. Nothing without a context.

    Raises:
        InputError: as `as_condition`, where it is missing or not wanted, and for another number of data.
    """
    width = context_of(model)
    if not width:
        if c is not None:
            raise InputError(UNCONDITIONAL)
        return ()
    if c is None and width == label_width_of(model):
        c = torch.full((1, width), math.nan)
    if c is None:
        raise InputError(
            f"this pair is conditional: give c, {width} numbers for each datum"
        )
    numbers = torch.as_tensor(c) if isinstance(c, (int, float, list, tuple)) else c
    if isinstance(numbers, Tensor):
        targets = width == label_width_of(model) == 1  # not a row of a condition
        row = numbers.is_floating_point() and numbers.shape == (width,) and not targets
        numbers = numbers[None] if row or numbers.ndim == 0 else numbers
    tensor = as_condition(model, numbers)
    if len(tensor) not in (1, n):
        raise InputError(
            f"c has {len(tensor)} rows for {n} data; give one for all, or one for each"
        )
    return (tensor.expand(n, -1),)


def fields_of(x: Any) -> tuple[Any, Any]:
    """The fields x and c of data, or of a batch of them; `None` for c where there is none."""
    fields = x.fields if isinstance(x, Data) else x
    return (fields["x"], fields.get("c")) if isinstance(fields, Mapping) else (x, None)


def once(x: Any) -> Any:
    """Data that are the same at every look: noise that is drawn anew is drawn once."""
    return x.fixed() if hasattr(x, "fixed") else x


class DataWarning(UserWarning):
    """The data are such that a number may mislead; the message says why and what to do."""


class Items:
    """A map-style data set as data: `len(d)`, `d[indices]`, `d[a:b]`, `d.batches(order, size)`."""

    def __init__(self, dataset: Any, model: Any, name: str) -> None:
        self.dataset, self.model, self.name = dataset, model, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        rows = torch.as_tensor(index).tolist()
        read = getattr(self.dataset, "__getitems__", None)
        items = read(rows) if read else [self.dataset[i] for i in rows]
        return self._stacked(items) if is_own(self.model) else self._together(items)

    def _together(self, items: list[Any]) -> Any:
        """Items of a data set for a pair that takes them as they are: the batch has their structure."""
        first = items[0]
        if isinstance(first, dict):
            return {name: self._together([i[name] for i in items]) for name in first}
        if isinstance(first, (tuple, list)) and len(first) > 1:
            return tuple(map(self._together, map(list, zip(*items, strict=True))))
        return self._stacked(items)

    def _stacked(self, items: list[Any]) -> Tensor:
        """The data that items begin with, as one tensor."""
        data = [_first(item, self.name) for item in items]
        shapes = sorted({str(tuple(datum.shape)) for datum in data})
        if len(shapes) > 1:
            raise InputError(
                f"the data of {self.name} do not have one shape: {', '.join(shapes)}"
            )
        likelihood = getattr(self.model, "likelihood", None)
        parameter = _parameter(self.model)
        return _fitted(torch.stack(data), likelihood, parameter, self.name, values=True)


class Selected(Sampled):
    """Some rows of data that read themselves: `len(d)`, `d[indices]`, `d[a:b]`, `d.batches(order, size)`."""

    def __init__(self, data: Any, rows: Tensor) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.data[self.rows[index]]

    def take(self, index: Tensor) -> "Selected":
        return Selected(self.data, self.rows[index])

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Any]:
        """The data `order` of these in batches."""
        return batches(self.data, batch_size, self.rows[order])


class Call:
    """What a pair is called with, `program(data, *more, **kwargs)`: `len(c)` data, and `c[a:b]` with some of them.

    Tensors of N rows among `more` and `kwargs` are cut with the N data, also in tuples, lists and dicts; all else is
    handed on whole.
    """

    def __init__(
        self, data: Any, more: tuple[Any, ...] = (), kwargs: Any = None
    ) -> None:
        self.data, self.more, self.kwargs = data, more, dict(kwargs or {})
        rows = rows_of([data])
        self.size = len(data) if rows is None else rows

    @classmethod
    def of(
        cls, model: Any, x: Any, more: tuple[Any, ...] = (), kwargs: Any = None
    ) -> "Call":
        """The call of a pair with data of any kind, `program(x, *more, **kwargs)`; a condition c is part of the data.

        Raises:
            InputError: as `as_data`, and for a condition that the pair does not read.
        """
        kwargs = dict(kwargs or {})
        if is_own(model) and {"c", "y"} & kwargs.keys():
            given = {name: kwargs.pop(name) for name in ("y", "c") if name in kwargs}
            if "c" in given and not context_of(model):
                raise InputError(UNCONDITIONAL)
            if "y" in given and not label_width_of(model):
                raise InputError("y holds labels, and this pair has no classes")
            x = {"x": fields_of(gathered(model, x))[0], **given}
        return cls(as_data(model, x), more, kwargs)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> "Call":
        structure = isinstance(self.data, (tuple, list, dict))
        some = self._cut(self.data, index) if structure else self.data[index]
        return self._of(some, index)

    def _cut(self, value: Any, index: Any) -> Any:
        return cut(value, index, self.size)

    def _of(self, data: Any, index: Any) -> "Call":
        """The same with other data, which are those that `index` names."""
        return Call(data, self._cut(self.more, index), self._cut(self.kwargs, index))

    def selected(self, rows: Tensor) -> "Call":
        """The same with some of its data, which are read when they are asked for, where they are not in memory."""
        if isinstance(self.data, (Tensor, tuple, list, dict)):
            return self[rows]
        return self._of(Selected(self.data, rows), rows)

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.data, *self.more)

    def once(self) -> "Call":
        """The same with data that are the same at every look."""
        return Call(once(self.data), self.more, self.kwargs)

    def named(self, **kwargs: Any) -> "Call":
        """The same with more that is given by name."""
        return Call(self.data, self.more, {**self.kwargs, **kwargs})

    @property
    def device(self) -> torch.device:
        """Where the first tensor of its data is."""
        return parts_of(self[:1].data)[0].device

    def batches(self, order: Tensor | None, batch_size: int) -> Iterator["Call"]:
        """The data in batches, all of them as they stand or those of `order`; data that can read ahead do."""
        if not hasattr(self.data, "batches"):
            yield from (self[piece] for piece in pieces(self.size, batch_size, order))
            return
        read = batches(self.data, batch_size, order)
        for piece, some in zip(pieces(self.size, batch_size, order), read, strict=True):
            yield self._of(some, piece)

    def each(self, batch_size: int, work: Callable[["Call"], Any]) -> Iterable[Any]:
        """`work` of each batch of the data as they stand, in order; several processes do it together, see `shared`."""
        if not here().several:
            return map(work, self.batches(None, batch_size))
        starts = range(0, self.size, batch_size)
        rows = [range(i, min(i + batch_size, self.size)) for i in starts]
        return shared(rows, lambda some: work(self[some.start : some.stop]))


def first_rows(x: Any, count: int) -> Any:
    """The first `count` of some data, as data."""
    some = x[torch.arange(min(len(x), count))]
    return Data(some) if isinstance(some, (tuple, dict)) else some


def rows_of(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> int | None:
    """How many data a pair is called with, as `program(*args, **kwargs)`: the length of the first batch among these.

    A batch is a tensor `(N, ...)`, a tuple, list or dict of such, or anything else with a length. `None` where there is
    no batch, and where the tensors of the first do not have one length.

    >>> x, y = torch.zeros(40, 3), torch.zeros(40)
    >>> rows_of([x]), rows_of([(x, y)]), rows_of([], {"x": x}), rows_of([(x, y[:7])]), rows_of([])
    (40, 40, 40, None, None)
    """
    for batch in (*args, *(kwargs or {}).values()):
        if hasattr(batch, "made"):  # a tensor that is made where it is used
            return int(batch.size)
        if parts := parts_of(batch):
            lengths = {len(part) for part in parts}
            return lengths.pop() if len(lengths) == 1 else None
        no_batch = isinstance(batch, (Tensor, str, bytes, Mapping, tuple))
        if hasattr(batch, "__len__") and not no_batch:
            return len(batch)
    return None


def rows_within(x: Any, memory: int) -> int:
    """How many data can be read at a time within `memory` bytes, copies on the way included; at least one."""
    with forked_random():  # a first look must not cost what draws noise its numbers
        first = x[:1]
    parts = parts_of(first.data if isinstance(first, Call) else first)
    size = sum(part.numel() * part.element_size() for part in parts)
    return max(1, memory // max(1, COPIES * size))


def moments(x: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element over the data (at most 10,000, spread evenly), each of `shape`."""
    x = fields_of(x)[0]
    few = evenly(SAMPLE, len(x))
    rows, dtype = _rows(x[few[:1]]), x[few[:1]].dtype
    mean, std = mean_and_std(batches(x, rows, few))
    return mean.to(dtype), std.to(dtype)


def _rows(x: Tensor) -> int:
    """How many of some data are looked at together."""
    return max(1, CHUNK // max(1, math.prod(x.shape[1:])))


def left_by_condition(x: Tensor, c: Tensor, std: Tensor) -> Tensor:
    """The standard deviation of each element, of `shape`, that a linear regression of some data on c leaves.

    It is `std`, that of the data themselves, where the data are too few to tell. What is missing counts as the mean.
    """
    n, width = c.shape
    x = x.where(x.isfinite(), x.nanmean(0))
    if n < PER_CONDITION * (width + 1):
        return std
    with_one = torch.cat([c, c.new_ones(n, 1)], 1).double().cpu()
    y = x.flatten(1).double().cpu()
    residual = y - with_one @ torch.linalg.lstsq(with_one, y, driver="gelsd").solution
    left = (residual.square().sum(0) / (n - width - 1)).sqrt()
    left = left.to(std).reshape(std.shape)
    return torch.minimum(left, std).maximum(LEAST_LEFT * std)


def _parameter(model: Any) -> Tensor | None:
    """A floating parameter of the model, whose type and device are those of its data."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p for p in parameters if p.is_floating_point()), None)


def _only_x(data: Data, name: str) -> Any:
    """The field `x` of data, which is what a VAE takes."""
    names = [*data.fields] if isinstance(data.fields, dict) else []
    if "x" not in names:
        had = ", ".join(map(str, names)) or "no names"
        raise InputError(f"{name} has fields with {had}; a VAE takes the field x")
    return data.fields["x"]


def _array_like(x: Any, name: str) -> Any:
    """`x`, or the part of it that holds the data; a sentence for what is often given and is no data set."""
    if isinstance(x, DataLoader):
        raise InputError(
            f"{name} is a DataLoader; give the data set in it, {name}.dataset, and batch_size="
        )
    if isinstance(x, (str, bytes, Path)):
        raise InputError(
            f"{name}={x!r} is a text and no data; read the file with load_data first"
        )
    if hasattr(x, "representation") and hasattr(x, "split"):  # a DataSet
        raise InputError(
            f"{name} is a data set with splits; give one of them: "
            f"{name}.split('train', {name}.bridge(vae.model.likelihood))"
        )
    if isinstance(x, (tuple, dict)):
        raise InputError(
            f"{name} is a {type(x).__name__} of {len(x)} parts; give the data alone, (N, ...)"
        )
    if isinstance(x, IterableDataset) or not hasattr(x, "__len__"):
        raise InputError(
            f"{name} is a {type(x).__name__}, which cannot be looked up by number; "
            "give a tensor, an array, a table or a map-style data set"
        )
    return x.tensors[0] if isinstance(x, TensorDataset) else x


def _for_functions(x: Any, tensor: Tensor, parameter: Tensor | None) -> Tensor:
    """The tensor of `x`; NumPy's reals get torch's usual type where no parameter of the pair says another."""
    double = tensor.dtype is torch.float64 and not isinstance(x, Tensor)
    usual = parameter is None and double
    return tensor.to(torch.get_default_dtype()) if usual else tensor


def _as_tensor(x: Any, name: str, *, missing: bool = False) -> Tensor | None:
    """A tensor with the values of an array, a table or nested lists; `None` for anything else."""
    if isinstance(x, Tensor):
        return x.to_dense() if x.layout is not torch.strided else x
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):  # a table
        _check_columns(x, name, missing=missing)
        x = x.to_numpy()
    elif hasattr(x, "toarray"):  # a sparse matrix
        x = x.toarray()
    elif isinstance(x, list) or hasattr(x, "__array__"):
        x = _numpy(x, name)
    if not isinstance(x, np.ndarray):
        return None
    if x.dtype == object:
        x = _numpy(x.tolist(), name)
    if x.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {x.dtype} and not numbers")
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        x = x.astype(np.float64)
    # torch computes with signed ones alone
    if x.dtype.kind == "u" and x.dtype.itemsize > 1:
        x = x.astype(np.int64)
    native = np.require(x, x.dtype.newbyteorder("="), ["C"])
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _parts_as_tensors(value: Any, parameter: Tensor | None, name: str) -> Any:
    """A tuple or dict with tensors in place of arrays, tables and lists, of the model's type and on its device."""
    if isinstance(value, dict):
        return {k: _parts_as_tensors(v, parameter, name) for k, v in value.items()}
    if isinstance(value, tuple):
        parts = [_parts_as_tensors(part, parameter, name) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    tensor = _as_tensor(value, name)
    if tensor is None or not tensor.dim():
        return value
    tensor = _for_functions(value, tensor, parameter)
    if not len(tensor):
        return tensor
    return _fitted(tensor, None, parameter, name, values=False)


def _numpy(x: Any, name: str) -> np.ndarray:
    try:
        if isinstance(x, list) and x and isinstance(x[0], Tensor):
            return torch.stack(x).cpu().numpy()
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{name} is no array of numbers of one shape ({error})"
        ) from error
    if array.dtype == object:
        raise InputError(
            f"{name} holds {type(x).__name__} objects and not numbers of one shape"
        )
    return array


def _check_columns(table: Any, name: str, *, missing: bool) -> None:
    """Raise `InputError` for the first column of a table that holds no numbers, or lacks some where none may miss."""
    for column in table.columns:
        values = np.asarray(table[column])
        if values.dtype.kind not in "biuf":
            raise InputError(
                f"column {column!r} of {name} holds {values.dtype} and not numbers; "
                f"leave it out: {name}.drop(columns={column!r})"
            )
        wrong = ~np.isfinite(values)
        if missing:
            wrong &= ~np.isnan(values)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"column {column!r} of {name} holds a value that is missing or infinite "
                f"in row {row} (counted from 0)"
            )


def _first(item: Any, name: str) -> Tensor:
    """The datum of an item, which may be a pair of datum and label."""
    datum = item[0] if isinstance(item, (tuple, list)) and len(item) else item
    if isinstance(datum, dict):
        raise InputError(
            f"an item of {name} is a dict with {', '.join(map(str, datum))}; "
            "give a data set whose items are the data alone, or pairs that begin with them"
        )
    if isinstance(datum, Tensor):
        return datum
    tensor = _as_tensor(np.asarray(datum), name)
    assert tensor is not None
    return tensor


def _not_empty(x: Any, name: str) -> None:
    if len(x) == 0:
        raise InputError(no_data(name))


def _fitted(
    x: Tensor, likelihood: Any, parameter: Tensor | None, name: str, *, values: bool
) -> Tensor:
    """A tensor checked and brought to the model's type and device."""
    if x.ndim == 0:
        raise InputError(
            f"{name} is a single number and no data set; give a batch (N, ...)"
        )
    shape = getattr(likelihood, "shape", None)
    if shape is not None:
        _check_shape(tuple(x.shape), tuple(shape), name)
    _not_empty(x, name)
    if x.is_complex():
        raise InputError(
            f"{name} holds complex numbers; give their real and imaginary parts"
        )
    if parameter is None:
        return x
    exact = likelihood is None and not x.is_floating_point()
    result = x.to(parameter.device) if exact else x.to(parameter)
    if likelihood is not None and values:
        _check_values(x, result, likelihood, name)
    return result


def _check_shape(got: tuple[int, ...], shape: tuple[int, ...], name: str) -> None:
    """Raise `InputError` unless data of shape `got` are `(N, *shape)`, with the way to make them so."""
    if got[1:] == shape:
        return
    wanted = f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"
    way = ""
    if got == shape:
        way = f": this is one datum; give a batch, {name}[None]"
    elif len(shape) == 3 and got[1:] == (*shape[1:], shape[0]):
        way = f": bring the channels to the front, torch.as_tensor({name}).permute(0, 3, 1, 2)"
    elif math.prod(got[1:]) == math.prod(shape):
        way = f": use {name}.reshape({', '.join(map(str, (-1, *shape)))})"
    raise InputError(f"{name} has shape {got} and the model takes {wanted}{way}")


def _check_values(x: Tensor, result: Tensor, likelihood: Any, name: str) -> None:
    """Raise `InputError` for the first datum with a value that the likelihood, or the type of `result`, cannot hold."""
    rows, missing = _rows(x), may_miss(likelihood)
    for start in range(0, len(x), rows):
        seen = result[start : start + rows]
        stored = x[start : start + rows].to(seen.device)
        if stored.is_floating_point():
            good = stored.isfinite() & seen.isfinite()
            if missing:
                good |= stored.isnan()
        else:
            good = seen.to(stored.dtype) == stored
        bad = ~good.reshape(len(stored), -1).all(1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            kind = str(result.dtype).removeprefix("torch.")
            datum = f"in datum {row} (counted from 0)"
            if x[row].isnan().any() and not missing:
                raise InputError(
                    f"{name} holds a value that is missing {datum}: a pair that is made with missing=True, "
                    "VAE(..., missing=True), takes nan for what was not seen"
                )
            raise InputError(
                f"{name} holds a value that is missing, infinite or beyond {kind} {datum}"
            )
        _accepted(likelihood, seen, start, name)
    if x.is_floating_point() and result.dtype is not torch.float64:
        _check_rounding(x, result.dtype, name)


def _accepted(likelihood: Any, x: Tensor, start: int, name: str) -> None:
    """Let the likelihood check `x`; its complaint names the datum, the first of `x` being number `start`."""
    check = getattr(likelihood, "check", None)
    if check is None:
        return
    x = likelihood.filled(x) if may_miss(likelihood) else x
    try:
        check(x)
    except InputError as error:
        for row in range(len(x)):
            try:
                check(x[row : row + 1])
            except InputError:
                text = str(error).replace("x holds", f"{name} holds", 1)
                raise InputError(
                    f"{text}; datum {start + row} (counted from 0) has one"
                ) from error
        raise


def _check_rounding(x: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise `InputError` for an element so far from zero for its spread that `dtype` cannot tell its values apart."""
    if len(x) < 2:
        return
    mean, std = moments(x.double())
    eps = torch.finfo(dtype).eps
    coarse = (eps * mean.abs() > FINE * std) & (std > 0)
    if coarse.any():  # the whole numbers that it holds exactly left out
        coarse &= ~((x == x.round()) & (x.abs() <= 2 / eps) | x.isnan()).all(0)
    if coarse.any():
        place = tuple(coarse.nonzero()[0].tolist())
        index = ", ".join(map(str, place))
        kind = str(dtype).removeprefix("torch.")
        raise InputError(
            f"element ({index}) of {name} lies around {mean[place].item():.4g} with a spread of "
            f"{std[place].item():.2g}, which {kind} rounds too coarsely: subtract "
            f"{name}.mean(0) in float64 first, or take a pair in float64, vae.double()"
        )


def _check_some(likelihood: Any, x: Any, name: str) -> None:
    """Look at the first thousand of data that read themselves."""
    _not_empty(x, name)
    if likelihood is None:
        return
    some = x[: min(1000, rows_within(x, 4 * CHUNK))]
    if not isinstance(some, Tensor):
        raise InputError(f"a slice of {name} is a {type(some).__name__} and no tensor")
    shape = getattr(likelihood, "shape", some.shape[1:])
    _check_shape((len(x), *some.shape[1:]), tuple(shape), name)
    _accepted(likelihood, some, 0, name)
