"""Named fields of one length, and how they are cut into batches."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.bridges import AsStored, Bridge, Draw
from pyro_vae.data.streams import CHUNK, Derived, Stream, batches
from pyro_vae.data.uniform import uniform
from pyro_vae.engine.compiled import Later
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.html import card, facts

# elements between two states of a generator that are kept, of 5 kB each; more where so many would not do
BLOCK = 2**18
STATES = 2**14


def evenly(n: int, size: int) -> Tensor:
    """Indices of `n` data spread evenly over `size` (all of them where `n` is more), in order."""
    n = min(n, size)
    return torch.arange(n) * size // max(n, 1)


def take(values: Any, index: Tensor) -> Any:
    """Some of the data of a tensor or an array, or of what reads itself, which stays where it is."""
    if isinstance(values, Tensor):
        return values[index.to(values.device)]
    if isinstance(values, np.ndarray):
        return values[index.numpy()]
    return values.take(index)


class Sampled(ABC):
    """Data of which some can be taken."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: Tensor) -> Self:
        """The data `index`, in that order; what is on disk stays there."""

    def first(self, n: int) -> Self:
        """`n` data spread evenly over these (every datum where `n` exceeds their number)."""
        return self.take(evenly(n, len(self)))

    def among(self, kept: Tensor) -> Self:
        """The data for which `kept`, `(N,)` booleans, is true."""
        return self if kept.all() else self.take(kept.nonzero().flatten().cpu())


@dataclass(frozen=True)
class Seen:
    """Stored values, or those that an index names among them, as a likelihood sees them."""

    bridge: Bridge
    dtype: torch.dtype
    draw: Draw | None

    def __call__(self, values: Tensor, index: Tensor | None = None) -> Tensor:
        some = values if index is None else values.index_select(0, index)
        return self.bridge(some, dtype=self.dtype, draw=self.draw)


class Split(Sampled):
    """The data of one split as a likelihood sees them; `len(s)`, `s[indices]`, `s[a:b]`, `s.batches(order, size)`.

    Stored values are kept as they are (bytes stay bytes), resident on the device, or on disk; each access applies the
    bridge, on the device.
    """

    def __init__(
        self,
        values: Tensor | Stream,
        bridge: Bridge,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self.values, self.bridge, self.dtype = values, bridge, dtype
        self.device = torch.device(device or "cpu")
        if isinstance(values, Tensor):
            self.values = values.to(device)
            self.device = self.values.device

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Split({described(self)}; {self.bridge})"

    def _repr_html_(self) -> str:
        return card("Split", described(self), facts({"values": self.bridge}))

    def __getitem__(self, index: Any) -> Tensor:
        return self.bridge(self.values[index].to(self.device), dtype=self.dtype)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """`s[order[:batch_size]]`, and so on; what is on disk is read ahead by workers."""
        for batch in self.later(order, batch_size, draw=None):
            yield batch.made()

    def later(
        self, order: Tensor, batch_size: int, *, draw: Draw | None = uniform
    ) -> Iterator[Later]:
        """The same for training: made from the stored values where they are used, with numbers of their own."""
        seen = Seen(self.bridge, self.dtype, draw)
        if isinstance(self.values, Stream):
            pin = self.device.type == "cuda"
            for v in self.values.batches(order.cpu(), batch_size, pin_memory=pin):
                yield Later(seen, (v.to(self.device, non_blocking=True),), len(v))
        else:
            for index in order.to(self.device).split(batch_size):
                yield Later(seen, (self.values, index), len(index))

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.values, self.bridge, self.dtype, device)

    def fixed(self, seed: int = 0) -> "Split":
        """The same split with its random numbers drawn once and for all, from `seed`: what is evaluated."""
        if not self.bridge.is_random:
            return self
        if isinstance(self.values, Stream):
            fixed: Tensor | Stream = Fixed(self.values, self.bridge, self.dtype, seed)
        else:
            generator = torch.Generator().manual_seed(seed)
            x = self.bridge(self.values.cpu(), dtype=self.dtype, generator=generator)
            fixed = x.to(self.bridge.kept_as(self.values.dtype, self.dtype))
        return Split(fixed, AsStored(), self.dtype, self.device)

    def take(self, index: Tensor) -> "Split":
        return Split(take(self.values, index), self.bridge, self.dtype, self.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each element of x over the split (at most 10,000 data), each of `shape`."""
        few, rows = self.first(10_000), CHUNK // math.prod(self.values.shape[1:])
        mean, std = mean_and_std(few.batches(torch.arange(len(few)), max(1, rows)))
        return mean.to(self.dtype), std.to(self.dtype)


class Fixed(Derived):
    """A stream under a random bridge with its random numbers drawn once, the same as for resident data.

    One generator gives numbers to datum after datum. Its state is kept at every `block`-th of them, so that a datum can
    be had without all those before it.
    """

    def __init__(
        self, of: Stream, bridge: Bridge, dtype: torch.dtype, seed: int
    ) -> None:
        super().__init__(of, of.shape)
        self.bridge, self.dtype = bridge, dtype
        self.block = max(1, BLOCK // math.prod(of.shape[1:]), -(-len(of) // STATES))
        self.states = [torch.Generator().manual_seed(seed).get_state()]

    def read(self, index: np.ndarray) -> Tensor:
        v = self.of.read(index)
        x = torch.empty(v.shape, dtype=self.bridge.kept_as(v.dtype, self.dtype))
        blocks = index // self.block
        for block in np.unique(blocks):
            here = torch.from_numpy(np.flatnonzero(blocks == block))
            rows = torch.from_numpy(index)[here] - int(block) * self.block
            # a bridge draws as many numbers for any value
            beside = v.new_zeros((int(rows.max()) + 1, *v.shape[1:]))
            beside[rows] = v[here]
            x[here] = self._draw(beside, self._state(int(block)))[0][rows].to(x.dtype)
        return x

    def batches(
        self, order: Tensor, batch_size: int, *, pin_memory: bool = False
    ) -> Iterator[Tensor]:
        # here, once, and not in every worker
        self._state((len(self) - 1) // self.block)
        return super().batches(order, batch_size, pin_memory=pin_memory)

    def _draw(self, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`x` for the first data of a block, and the state of the generator after them."""
        generator = torch.Generator()
        generator.set_state(state)
        x = self.bridge(v, dtype=self.dtype, generator=generator)
        return x, generator.get_state()

    def _state(self, block: int) -> Tensor:
        while len(self.states) <= block:
            nothing = torch.zeros((self.block, *self.shape[1:]), dtype=torch.uint8)
            self.states.append(self._draw(nothing, self.states[-1])[1])
        return self.states[block]


class Data(Sampled):
    """N data in fields: `len(d)`, and `d[indices]`, `d[a:b]`, `d.batches(order, size)` of the same structure.

    Fields have names, `{"x": ..., "y": ...}`, or places in a tuple. Each is a tensor with a row for each datum, a
    stream or a `Split`, or a tuple, list or dict of these; all else is handed on whole.

    Raises:
        InputError: where the fields have different numbers of rows, or none.

    >>> data = Data({"x": torch.arange(6.0).view(3, 2), "y": torch.tensor([0, 1, 1])})
    >>> data[1:]
    {'x': tensor([[2., 3.],
            [4., 5.]]), 'y': tensor([1, 1])}
    """

    def __init__(self, fields: Any, name: str = "x") -> None:
        lengths = sorted({len(part) for part in parts_of(fields)})
        if len(lengths) != 1:
            rows = " and ".join(map(str, lengths)) or "no"
            raise InputError(
                f"the parts of {name} have {rows} rows; give tensors with a row for each datum, all of one length"
            )
        if not lengths[0]:
            raise InputError(no_data(name))
        self.fields, self.size, self.name = fields, lengths[0], name

    def __len__(self) -> int:
        return self.size

    def _by_name(self) -> dict[str, str]:
        """Each field in words."""
        named = isinstance(self.fields, dict)
        fields = self.fields if named else {self.name: self.fields}
        each = {name: map(described, parts_of(v)) for name, v in fields.items()}
        return {k: " and ".join(v) or type(fields[k]).__name__ for k, v in each.items()}

    def __repr__(self) -> str:
        told = "; ".join(f"{name}: {words}" for name, words in self._by_name().items())
        return f"Data({told})"

    def _repr_html_(self) -> str:
        return card("Data", f"{self.size:,} data", facts(self._by_name()))

    def __getitem__(self, index: Any) -> Any:
        return cut(self.fields, index, self.size)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Any]:
        """`d[order[:batch_size]]`, and so on; fields on disk are read ahead by workers."""
        return self._read(order, batch_size, later=False)

    def later(self, order: Tensor, batch_size: int) -> Iterator[Any]:
        """The same for training: fields may be made where they are used, see `Split.later`."""
        return self._read(order, batch_size, later=True)

    def _read(self, order: Tensor, batch_size: int, *, later: bool) -> Iterator[Any]:
        read = [
            batches(p, batch_size, order, later=later) for p in parts_of(self.fields)
        ]
        for batch in zip(*read, strict=True):
            parts = iter(batch)  # in the order of `parts_of`
            yield each_part(lambda _: next(parts), self.fields, self.size)  # noqa: B023

    def take(self, index: Tensor) -> "Data":
        return self._with(lambda part: take(part, index))

    def to(self, device: torch.device | str) -> "Data":
        return self._with(lambda p: p if isinstance(p, Stream) else p.to(device))

    def fixed(self, seed: int = 0) -> "Data":
        """The same with the random numbers of its fields drawn once and for all, from `seed`."""
        return self._with(lambda p: p.fixed(seed) if isinstance(p, Split) else p)

    def _with(self, function: Callable[[Any], Any]) -> "Data":
        return Data(each_part(function, self.fields, self.size), self.name)


def described(part: Any) -> str:
    """The number and the shape of some data, and where they are."""
    values = part.values if isinstance(part, Split) else part
    each = tuple(values.shape[1:])
    place = "on disk" if isinstance(values, Stream) else "in memory"
    return f"{len(part):,} of shape {each}, {place}"


def no_data(name: str) -> str:
    """What is said where there are none."""
    return "there are no data" if name == "x" else f"there are no data in {name}"


def each_part(function: Callable[[Any], Any], value: Any, size: int) -> Any:
    """`function` of what has `size` rows, or of that in a tuple, list or dict, in its place; all else as it is."""
    if isinstance(value, dict):
        return {name: each_part(function, part, size) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [each_part(function, part, size) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value) if _has_rows(value) and len(value) == size else value


def cut(value: Any, index: Any, size: int) -> Any:
    """Some rows of what has `size` rows: of a tensor, or of those in a tuple, list or dict; all else as it is."""
    return each_part(lambda part: part[index], value, size)


def parts_of(batch: Any) -> list[Any]:
    """The tensors with rows that a batch is made of: itself, or those in a tuple, list or dict, however nested.

    What is to be made later is none yet.
    """
    if isinstance(batch, Later):
        return []
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (tuple, list)):
        return [part for item in batch for part in parts_of(item)]
    return [batch] if _has_rows(batch) else []


def _has_rows(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.dim() > 0
    return isinstance(part, (Stream, Sampled))


@torch.no_grad()
def mean_and_std(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element over all data in some batches that have it, in float64.

    Source: Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance.
    """
    count: Any = 0  # one for all elements, or where some are nan one for each
    mean, squares = torch.zeros(()), torch.zeros(())
    for batch in batches:
        x = batch.double()
        n, centre, deviations = _about_centre(x)
        shift, total = centre - mean, count + n
        least = _positive(total)
        squares = squares + deviations.square().sum(0)
        squares = squares + shift.square() * (count * n / least)
        mean, count = mean + shift * (n / least), total
    return mean, (squares / _positive(count)).sqrt()


def _about_centre(x: Tensor) -> tuple[Any, Tensor, Tensor]:
    """How many data have each element, its mean over these, and how far each datum is from it: 0 where it is nan."""
    seen = ~x.isnan()
    if seen.all():
        centre = x.mean(0)
        return len(x), centre, x - centre
    n = seen.sum(0).double()
    centre = x.where(seen, 0.0).sum(0) / _positive(n)
    return n, centre, (x - centre).where(seen, 0.0)


def _positive(n: Any) -> Any:
    """Numbers to divide by: 1 in place of 0."""
    return n.clamp_min(1) if isinstance(n, Tensor) else max(n, 1)
