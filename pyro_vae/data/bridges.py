"""From stored values to what a likelihood sees."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.inputs import mean_and_std
from pyro_vae.data.representation import Representation
from pyro_vae.data.streams import CHUNK, Stream
from pyro_vae.data.uniform import uniform
from pyro_vae.data.units import Each, Units, each
from pyro_vae.engine.compiled import Later
from pyro_vae.foundation.abstract import variants

BLOCK = 2**18  # elements between two states of a generator that are kept, of 5 kB each; more where
STATES = 2**14  # so many would not do

Draw = Callable[[Tensor, torch.dtype], Tensor]  # uniform numbers in the shape of a tensor


class Noise(NamedTuple):
    """Where a random bridge takes its numbers from: `draw`, else the generator, else that of torch."""

    generator: torch.Generator | None
    draw: Draw | None

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers in [0, 1) in the shape, type and place of a tensor."""
        if self.draw:
            return self.draw(like, like.dtype)
        return torch.rand(
            like.shape, dtype=like.dtype, device=like.device, generator=self.generator
        )

    def bits(self, p: Tensor) -> Tensor:
        """1 with probability `p`, else 0."""
        if self.generator is None:  # as below, and faster
            return self.uniform(p).lt(p).to(p.dtype)
        return torch.bernoulli(p, generator=self.generator)


@dataclass(frozen=True)
class Bridge(ABC):
    """How stored numbers `v` become what a likelihood sees, `x`; stored with a run and printed with its result.

    Attributes:
        maximum: the largest value that `v` can take, in `units`.
        units: what stored numbers are counted from and in, before anything else is done; `None`: 0 and 1.
        kind: what `config.toml` and the options of training call it.
        words: what is printed of it; `bridge` in it is the bridge.
        plain: whether `x` is `v` itself.
        same_scale: whether `x` is counted as `v` is, so that `maximum` is no limit.
        binarizes: whether `x` is bits.
        is_random: whether bits or noise are drawn.
        drawn_once: whether they are so for training too.
        remark: what someone who puts a density on `x` should know, in a sentence.
    """

    maximum: float = 1.0
    units: Units | None = None

    kind: ClassVar[str]
    words: ClassVar[str]
    plain: ClassVar[bool] = False
    same_scale: ClassVar[bool] = False
    binarizes: ClassVar[bool] = False
    is_random: ClassVar[bool] = False
    drawn_once: ClassVar[bool] = False
    remark: ClassVar[str] = ""

    def __call__(
        self,
        v: Tensor,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        """`x` for stored values `v`; the random bridges draw anew at each call, by `torch.rand` or as `draw` does."""
        v = v if self.units is None else self.units(v)
        return self.apply(v.to(dtype), Noise(generator, draw))

    @abstractmethod
    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        """`x` for values `v` in `units`, of a float type."""

    @abstractmethod
    def result(self, before: Representation) -> Representation:
        """What `x` is when `v` was `before`."""

    @property
    def levels(self) -> float:
        """Levels in one unit of a stored number or of x, for bits per dimension: 1 unless dequantized."""
        return 1

    def counted(self, before: Representation) -> str:
        """What bits per dimension are bits of."""
        return self.result(before).value

    def reaches(self, largest: float) -> bool:
        """Whether stored numbers, in `units`, may be as large as that."""
        return self.same_scale or largest <= self.maximum

    def log_unit(self, elements: int) -> float:
        """What log p(x) exceeds the log-density of stored numbers by, in nats: `sum_i log |dv_i / dx_i|`.

        It is 0 where x is bits, levels, or scaled to [0, 1]: a mass has no unit, and the last is said with the number.
        """
        if self.units is None or self.units.whole:
            return 0.0
        return self.units.log_abs_det(elements)

    def inverse(self, x: Tensor) -> Tensor:
        """Stored numbers for values that a likelihood gave, where x is not bits made of them or scaled to [0, 1]."""
        return self.units.inverse(x) if self.same_scale and self.units else x

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for TOML; `from_dict` reads them back."""
        units = {"units": self.units.to_dict()} if self.units else {}
        return {"bridge": self.kind, "maximum": self.maximum, **units}

    @staticmethod
    def from_dict(table: dict[str, Any]) -> "Bridge":
        """The bridge that `to_dict` described; `KeyError`, `TypeError` or `ValueError` where it did not."""
        units = Units.from_dict(table["units"]) if "units" in table else None
        maximum = float(table["maximum"])
        if "steps" in table:
            return ColumnNoise(maximum, units, tuple(float(step) for step in table["steps"]))
        return Bridge.kinds()[table["bridge"]](maximum, units)

    @staticmethod
    def kinds() -> "dict[str, type[Bridge]]":
        """The bridges by what they are called, those that are made of their maximum and units alone.

        >>> print(Bridge.kinds()["scale"](255))
        scaled to [0, 1] (value / 255)
        """
        family: Any = variants(Bridge).values()
        return {cls.kind: cls for cls in family if cls is not ColumnNoise}

    def __str__(self) -> str:
        text = self.words.format(bridge=self)
        return text if self.units is None else f"{text}, value = {self.units}"


class AsStored(Bridge):
    """`x = v`."""

    kind, words = "none", "as stored"
    plain = same_scale = True

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return v

    def result(self, before: Representation) -> Representation:
        return before

    def __str__(self) -> str:
        return self.words if self.units is None else f"as {self.units}"


class Binarization(Bridge, ABC):
    """Bits."""

    binarizes = True

    def result(self, before: Representation) -> Representation:
        return Representation.BINARY


class RandomBits(Binarization, ABC):
    """`x ~ Bernoulli(v / maximum)`."""

    is_random = True

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return noise.bits(v / self.maximum)


class DynamicBits(RandomBits):
    """`x ~ Bernoulli(v / maximum)`, anew at each visit (Salakhutdinov & Murray 2008)."""

    kind = "dynamic"
    words = "dynamic binarization (fresh bits at each visit, P(1) = value / {bridge.maximum:g})"


class StaticBits(RandomBits):
    """`x ~ Bernoulli(v / maximum)`, once and for all."""

    kind = "static"
    words = "static binarization (bits drawn once, P(1) = value / {bridge.maximum:g})"
    drawn_once = True


class Threshold(Binarization):
    """`x = 1` where `v > maximum / 2`, else 0."""

    kind = "threshold"
    words = "binarization by threshold (1 where value > {bridge.maximum:g} / 2)"

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return (v > self.maximum / 2).to(v.dtype)


class Scaled(Bridge):
    """`x = v / maximum`."""

    kind, words = "scale", "scaled to [0, 1] (value / {bridge.maximum:g})"
    remark = (
        "whole numbers that are scaled lie on a lattice, where a density can grow without end, so that its "
        "value says little; --dequantize adds noise of one step"
    )

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return v / self.maximum

    def result(self, before: Representation) -> Representation:
        return Representation.UNIT


class Dequantized(Bridge):
    """`x = (v + u) / (maximum + 1)`, `u` uniform in [0, 1): levels spread over the unit interval."""

    kind = "dequantize"
    words = "uniform dequantization ((value + noise) / {bridge.levels:g}, noise uniform in [0, 1))"
    is_random = True

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(v)
        step = torch.finfo(v.dtype).eps / 2  # of torch.rand; x is never rounded to 0 or 1
        return ((v + u.clamp_min(step)) / (self.maximum + 1)).clamp_max(1 - step)

    def result(self, before: Representation) -> Representation:
        return Representation.UNIT

    @property
    def levels(self) -> float:
        return int(self.maximum) + 1

    def counted(self, before: Representation) -> str:
        return f"{self.levels:g} grey levels"


@dataclass(frozen=True)
class ColumnNoise(Bridge):
    """`x = v + step * u`, `u` uniform in [0, 1): log p(x) is a density over the stored numbers.

    Attributes:
        steps: of the lattice of each element, in `units`, or one for all; 0 for none.
    """

    steps: Each = ()

    kind = Dequantized.kind
    words = (
        "uniform dequantization (value + step * noise, noise uniform in [0, 1), "
        "each column with its own step)"
    )
    same_scale = is_random = True

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return v + each(self.steps, v, v.dtype) * noise.uniform(v)

    def result(self, before: Representation) -> Representation:
        return Representation.REAL

    @property
    def levels(self) -> float:
        """The geometric mean of the elements' numbers of levels in one unit; 1 where one has no step."""
        if not all(self.steps):
            return 1
        logs = [math.log(step) for step in self.steps]
        unit = self.log_unit(len(logs)) / len(logs)
        return math.exp(-math.fsum(logs) / len(logs) - unit)

    def counted(self, before: Representation) -> str:
        return "steps of each column" if all(self.steps) else super().counted(before)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "steps": list(self.steps)}


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
        if not self.bridge.is_random:
            return self
        if isinstance(self.values, Stream):
            return Split(
                Fixed(self.values, self.bridge, self.dtype, seed),
                AsStored(),
                self.dtype,
                self.device,
            )
        generator = torch.Generator().manual_seed(seed)
        x = self.bridge(self.values.cpu(), dtype=self.dtype, generator=generator)
        stored = x.to(torch.uint8) if self.bridge.binarizes else x
        return Split(stored.to(self.device), AsStored(), self.dtype)

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
