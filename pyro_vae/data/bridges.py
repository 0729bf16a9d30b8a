"""From stored values to what a likelihood sees."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.inputs import mean_and_std
from pyro_vae.data.representation import Representation
from pyro_vae.data.streams import CHUNK, Stream
from pyro_vae.data.uniform import uniform
from pyro_vae.data.units import Each, Units, each
from pyro_vae.engine.compiled import Later

BLOCK = 2**18  # elements between two states of a generator that are kept, of 5 kB each; more where
STATES = 2**14  # so many would not do

Draw = Callable[[Tensor, torch.dtype], Tensor]  # uniform numbers in the shape of a tensor


@dataclass(frozen=True)
class Bridge:
    """How stored numbers `v` become what a likelihood sees, `x`; stored with a run and printed with its result.

    Attributes:
        kind: one of `KINDS`.
        maximum: the largest value that `v` can take, in `units`.
        units: what stored numbers are counted from and in, before anything else is done; `None`: 0 and 1.
        steps: of the noise of `'dequantize'` for each element, where each has a lattice of its own; `x` is then not
            scaled, and log p(x) is a density over the stored numbers.
    """

    kind: str
    maximum: float = 1.0
    units: Units | None = None
    steps: Each = ()

    def __call__(
        self,
        v: Tensor,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        """`x` for stored values `v`; the random bridges draw anew at each call, by `torch.rand` or as `draw` does."""
        v = (v if self.units is None else self.units(v)).to(dtype)
        match self.kind:
            case "dynamic" | "static" if generator is None:  # as below, and faster
                u = draw(v, dtype) if draw else torch.rand(v.shape, dtype=dtype, device=v.device)
                return u.lt(v / self.maximum).to(dtype)
            case "dynamic" | "static":
                return torch.bernoulli(v / self.maximum, generator=generator)
            case "threshold":
                return (v > self.maximum / 2).to(dtype)
            case "scale":
                return v / self.maximum
            case "dequantize":
                u = (
                    draw(v, dtype)
                    if draw
                    else torch.rand(v.shape, dtype=dtype, device=v.device, generator=generator)
                )
                if self.steps:
                    return v + each(self.steps, v, dtype) * u
                step = torch.finfo(dtype).eps / 2  # of torch.rand; x is never rounded to 0 or 1
                return ((v + u.clamp_min(step)) / (self.maximum + 1)).clamp_max(1 - step)
        return v

    @property
    def binarizes(self) -> bool:
        return self.kind in ("dynamic", "static", "threshold")

    def result(self, before: Representation) -> Representation:
        """What `x` is when `v` was `before`."""
        if self.binarizes:
            return Representation.BINARY
        if self.steps:
            return Representation.REAL
        return Representation.UNIT if self.kind in ("scale", "dequantize") else before

    @property
    def levels(self) -> float:
        """Levels in one unit of a stored number or of x, for bits per dimension: 1 unless dequantized.

        Where each element has a step of its own, the geometric mean of their numbers of levels; 1 if one has no step.
        """
        if self.kind != "dequantize":
            return 1
        if not self.steps:
            return int(self.maximum) + 1
        if not all(self.steps):
            return 1
        logs = [math.log(step) for step in self.steps]
        unit = self.log_unit(len(logs)) / len(logs)
        return math.exp(-math.fsum(logs) / len(logs) - unit)

    def counted(self, before: Representation) -> str:
        """What bits per dimension are bits of."""
        if self.kind != "dequantize" or (self.steps and not all(self.steps)):
            return self.result(before).value
        return "steps of each column" if self.steps else f"{self.levels:g} grey levels"

    def log_unit(self, elements: int) -> float:
        """What log p(x) exceeds the log-density of stored numbers by, in nats: `sum_i log |dv_i / dx_i|`.

        It is 0 where x is bits, levels, or scaled to [0, 1]: a mass has no unit, and the last is said with the number.
        """
        real = self.units is not None and not self.units.whole
        return self.units.log_abs_det(elements) if real and self.units else 0.0

    def inverse(self, x: Tensor) -> Tensor:
        """Stored numbers for values that a likelihood gave, where x is not bits made of them or scaled to [0, 1]."""
        plain = self.kind == "none" or bool(self.steps)
        return self.units.inverse(x) if plain and self.units else x

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for TOML; `from_dict` reads them back."""
        more: dict[str, Any] = {"units": self.units.to_dict()} if self.units else {}
        more |= {"steps": list(self.steps)} if self.steps else {}
        return {"bridge": self.kind, "maximum": self.maximum, **more}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> "Bridge":
        """The bridge that `to_dict` described; `KeyError`, `TypeError` or `ValueError` where it did not."""
        units = Units.from_dict(table["units"]) if "units" in table else None
        steps = tuple(float(step) for step in table.get("steps", ()))
        return cls(table["bridge"], float(table["maximum"]), units, steps)

    def __str__(self) -> str:
        kind = "noise" if self.steps else self.kind
        text = BRIDGES[kind].format(maximum=f"{self.maximum:g}", levels=f"{self.maximum + 1:g}")
        if self.units is None:
            return text
        return f"as {self.units}" if kind == "none" else f"{text}, value = {self.units}"


KINDS = ("none", "dynamic", "static", "threshold", "scale", "dequantize")
BRIDGES = {
    "none": "as stored",
    "dynamic": "dynamic binarization (fresh bits at each visit, P(1) = value / {maximum})",
    "static": "static binarization (bits drawn once, P(1) = value / {maximum})",
    "threshold": "binarization by threshold (1 where value > {maximum} / 2)",
    "scale": "scaled to [0, 1] (value / {maximum})",
    "noise": "uniform dequantization (value + step * noise, noise uniform in [0, 1), each column with its own step)",
    "dequantize": "uniform dequantization ((value + noise) / {levels}, noise uniform in [0, 1))",
}


def spread(n: int, size: int) -> Tensor:
    """Indices of `n` data spread evenly over `size` (all of them where `n` is more), in order."""
    n = min(n, size)
    return torch.arange(n) * size // max(n, 1)


def take(values: Any, index: Tensor) -> Any:
    """Some of a tensor's data, or of a stream's, which stay on disk."""
    return values.take(index) if isinstance(values, Stream) else values[index.to(values.device)]


@dataclass(frozen=True)
class Seen:
    """Stored values, or those that an index names among them, as a likelihood sees them."""

    bridge: Bridge
    dtype: torch.dtype
    draw: Draw | None

    def __call__(self, values: Tensor, index: Tensor | None = None) -> Tensor:
        some = values if index is None else values.index_select(0, index)
        return self.bridge(some, dtype=self.dtype, draw=self.draw)


class Split:
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
        self.bridge, self.dtype = bridge, dtype
        self.values = values.to(device) if isinstance(values, Tensor) else values
        self.device = (
            self.values.device if isinstance(self.values, Tensor) else torch.device(device or "cpu")
        )

    def __len__(self) -> int:
        return len(self.values)

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
            for v in self.values.batches(
                order.cpu(), batch_size, pin_memory=self.device.type == "cuda"
            ):
                yield Later(seen, (v.to(self.device, non_blocking=True),), len(v))
        else:
            for index in order.to(self.device).split(batch_size):
                yield Later(seen, (self.values, index), len(index))

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.values, self.bridge, self.dtype, device)

    def fixed(self, seed: int = 0) -> "Split":
        """The same split with its random numbers drawn once and for all, from `seed`: what is evaluated."""
        if self.bridge.kind not in ("dynamic", "static", "dequantize"):
            return self
        if isinstance(self.values, Stream):
            return Split(
                Fixed(self.values, self.bridge, self.dtype, seed),
                Bridge("none"),
                self.dtype,
                self.device,
            )
        generator = torch.Generator().manual_seed(seed)
        x = self.bridge(self.values.cpu(), dtype=self.dtype, generator=generator)
        stored = x.to(torch.uint8) if self.bridge.binarizes else x
        return Split(stored.to(self.device), Bridge("none"), self.dtype)

    def first(self, n: int) -> "Split":
        """`n` data spread evenly over the split (every datum where `n` exceeds its size)."""
        return Split(take(self.values, spread(n, len(self))), self.bridge, self.dtype, self.device)

    def among(self, kept: Tensor) -> "Split":
        """The data for which `kept`, `(N,)` booleans, is true."""
        if kept.all():
            return self
        index = kept.nonzero().flatten().cpu()
        return Split(take(self.values, index), self.bridge, self.dtype, self.device)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each element of x over the split (at most 10,000 data), each of `shape`."""
        few, rows = self.first(10_000), max(1, CHUNK // math.prod(self.values.shape[1:]))
        mean, std = mean_and_std(few.batches(torch.arange(len(few)), rows))
        return mean.to(self.dtype), std.to(self.dtype)


class Fixed(Stream):
    """A stream under a random bridge with its random numbers drawn once, the same as for resident data.

    One generator gives numbers to datum after datum. Its state is kept at every `block`-th of them, so that a datum can
    be had without all those before it.
    """

    def __init__(self, of: Stream, bridge: Bridge, dtype: torch.dtype, seed: int) -> None:
        self.of, self.bridge, self.dtype = of, bridge, dtype
        self.shape, self.workers, self.on_disk = of.shape, of.workers, of.on_disk
        self.block = max(1, BLOCK // math.prod(of.shape[1:]), -(-len(of) // STATES))
        self.states = [torch.Generator().manual_seed(seed).get_state()]

    def read(self, index: np.ndarray) -> Tensor:
        v = self.of.read(index)
        x = torch.empty(v.shape, dtype=torch.uint8 if self.bridge.binarizes else self.dtype)
        blocks = index // self.block
        for block in np.unique(blocks):
            here = torch.from_numpy(np.flatnonzero(blocks == block))
            rows = torch.from_numpy(index)[here] - int(block) * self.block
            beside = v.new_zeros(
                (int(rows.max()) + 1, *v.shape[1:])
            )  # a bridge draws as many numbers for any value
            beside[rows] = v[here]
            x[here] = self._draw(beside, self._state(int(block)))[0][rows].to(x.dtype)
        return x

    def batches(
        self, order: Tensor, batch_size: int, *, pin_memory: bool = False
    ) -> Iterator[Tensor]:
        self._state((len(self) - 1) // self.block)  # here, once, and not in every worker
        return super().batches(order, batch_size, pin_memory=pin_memory)

    def _draw(self, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`x` for the first data of a block, and the state of the generator after them."""
        generator = torch.Generator()
        generator.set_state(state)
        return self.bridge(v, dtype=self.dtype, generator=generator), generator.get_state()

    def _state(self, block: int) -> Tensor:
        while len(self.states) <= block:
            nothing = torch.zeros((self.block, *self.shape[1:]), dtype=torch.uint8)
            self.states.append(self._draw(nothing, self.states[-1])[1])
        return self.states[block]
