"""From stored values to what a likelihood sees."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.data.units import Each, Units, each
from pyro_vae.foundation.abstract import variants
from pyro_vae.foundation.layout import Layout

NO_FIELDS = Layout((), ())
# uniform numbers in the shape of a tensor
Draw = Callable[[Tensor, torch.dtype], Tensor]


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
        """`x` for stored values `v`; the random bridges draw anew at each call, by `torch.rand` or as `draw` does.

        What is nan, a value that is missing, stays so.
        """
        may_miss = v.is_floating_point() and self.binarizes
        v = (v if self.units is None else self.units(v)).to(dtype)
        noise = Noise(generator, draw)
        if not may_miss:
            return self.apply(v, noise)
        missing = v.isnan()
        bits = self.apply(v.masked_fill(missing, 0), noise)
        return bits.masked_fill(missing, math.nan)

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

    def kept_as(self, stored: torch.dtype, seen: torch.dtype) -> torch.dtype:
        """The type to keep what was drawn in: bits as bytes, unless some may be missing."""
        return torch.uint8 if self.binarizes and not stored.is_floating_point else seen

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

    def log_units(self, shape: tuple[int, ...]) -> Tensor:
        """What `log_unit` adds up: `log |dv_i / dx_i|` of each element, `(*shape,)`."""
        if self.units is None or self.units.whole:
            return torch.zeros(shape, dtype=torch.float64)
        unit = each(self.units.unit, torch.empty(shape), torch.float64)
        return unit.log().expand(shape)

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
        if "fields" in table:
            parts = tuple(map(Bridge.from_dict, table["fields"]))
            names = tuple(str(part["name"]) for part in table["fields"])
            shapes = tuple(tuple(map(int, part["shape"])) for part in table["fields"])
            return FieldsBridge(layout=Layout(names, shapes), parts=parts)
        if "steps" in table:
            return ColumnNoise(maximum, units, tuple(map(float, table["steps"])))
        return Bridge.kinds()[table["bridge"]](maximum, units)

    @staticmethod
    def kinds() -> "dict[str, type[Bridge]]":
        """The bridges by what they are called, those that are made of their maximum and units alone.

        >>> print(Bridge.kinds()["scale"](255))
        scaled to [0, 1] (value / 255)
        """
        family: Any = variants(Bridge).values()
        made_of_more = (ColumnNoise, FieldsBridge)
        return {cls.kind: cls for cls in family if cls not in made_of_more}

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


class Binarization(Bridge):
    """Bits."""

    binarizes = True

    def result(self, before: Representation) -> Representation:
        return Representation.BINARY


class RandomBits(Binarization):
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
        # of torch.rand; x is never rounded to 0 or 1
        step = torch.finfo(v.dtype).eps / 2
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


@dataclass(frozen=True)
class FieldsBridge(Bridge):
    """Of several fields side by side, each over a bridge of its own.

    Attributes:
        layout: where they stand.
        parts: their bridges.
    """

    layout: Layout = NO_FIELDS
    parts: tuple[Bridge, ...] = ()

    kind = "fields"
    words = "each field by itself"

    def __call__(
        self,
        v: Tensor,
        *,
        dtype: torch.dtype,
        generator: torch.Generator | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        pairs = zip(self.parts, self.layout.parts(v), strict=True)
        each = [b(u, dtype=dtype, generator=generator, draw=draw) for b, u in pairs]
        return self.layout.together(each)

    def apply(self, v: Tensor, noise: Noise) -> Tensor:
        return self(v, dtype=v.dtype, generator=noise.generator, draw=noise.draw)

    def result(self, before: Representation) -> Representation:
        return Representation.FIELDS

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        return any(part.is_random for part in self.parts)

    @property
    def drawn_once(self) -> bool:  # type: ignore[override]
        return all(part.drawn_once for part in self.parts if part.is_random)

    def log_unit(self, elements: int) -> float:
        return float(self.log_units((elements,)).sum())

    def log_units(self, shape: tuple[int, ...]) -> Tensor:
        pairs = zip(self.parts, self.layout.shapes, strict=True)
        return self.layout.together([b.log_units(of_part) for b, of_part in pairs])

    def inverse(self, x: Tensor) -> Tensor:
        pairs = zip(self.parts, self.layout.parts(x), strict=True)
        return self.layout.together([part.inverse(u) for part, u in pairs])

    def of(self, name: str) -> Bridge:
        """That of one field."""
        return self.parts[self.layout.names.index(name)]

    def to_dict(self) -> dict[str, Any]:
        fields = [
            {"name": name, "shape": list(shape), **part.to_dict()}
            for name, shape, part in zip(
                self.layout.names, self.layout.shapes, self.parts, strict=True
            )
        ]
        return {**super().to_dict(), "fields": fields}

    def __str__(self) -> str:
        pairs = zip(self.layout.names, self.parts, strict=True)
        return "; ".join(f"{name} {part}" for name, part in pairs)
