"""From stored values to what a likelihood sees."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.models.representation import Representation


@dataclass(frozen=True)
class Bridge:
    """How stored numbers `v` become what a likelihood sees, `x`; stored with a run and printed with its result.

    Attributes:
        kind: one of `BRIDGES`.
        maximum: the largest value that `v` can take.
    """

    kind: str
    maximum: float = 1.0

    def __call__(self, v: Tensor, *, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
        """`x` for stored values `v`; the random bridges draw anew at each call."""
        v = v.to(dtype)
        match self.kind:
            case "dynamic" | "static":
                return torch.bernoulli(v / self.maximum, generator=generator)
            case "threshold":
                return (v > self.maximum / 2).to(dtype)
            case "scale":
                return v / self.maximum
            case "dequantize":
                noise = torch.rand(v.shape, dtype=dtype, device=v.device, generator=generator)
                step = torch.finfo(dtype).eps / 2  # between the values of torch.rand; x is never rounded to 0 or 1
                return ((v + noise.clamp_min(step)) / (self.maximum + 1)).clamp_max(1 - step)
        return v

    @property
    def binarizes(self) -> bool:
        return self.kind in ("dynamic", "static", "threshold")

    def result(self, before: Representation) -> Representation:
        """What `x` is when `v` was `before`."""
        if self.binarizes:
            return Representation.BINARY
        return Representation.UNIT if self.kind in ("scale", "dequantize") else before

    @property
    def levels(self) -> int:
        """Grey levels in one unit of x, for bits per dimension: 1 unless dequantized."""
        return int(self.maximum) + 1 if self.kind == "dequantize" else 1

    def __str__(self) -> str:
        return BRIDGES[self.kind].format(maximum=f"{self.maximum:g}", levels=f"{self.maximum + 1:g}")


BRIDGES = {
    "none": "as stored",
    "dynamic": "dynamic binarization (fresh bits at each visit, P(1) = value / {maximum})",
    "static": "static binarization (bits drawn once, P(1) = value / {maximum})",
    "threshold": "binarization by threshold (1 where value > {maximum} / 2)",
    "scale": "scaled to [0, 1] (value / {maximum})",
    "dequantize": "uniform dequantization ((value + noise) / {levels}, noise uniform in [0, 1))",
}


def spread(n: int, size: int) -> Tensor:
    """Indices of `n` data spread evenly over `size` (all of them where `n` is more), in order."""
    n = min(n, size)
    return torch.arange(n) * size // max(n, 1)


class Split:
    """The data of one split as a likelihood sees them, resident on the device; `len(s)`, `s[indices]`, `s[a:b]`.

    Stored values are kept as they are (bytes stay bytes); each access applies the bridge.
    """

    def __init__(self, values: Tensor, bridge: Bridge, dtype: torch.dtype = torch.float32) -> None:
        self.values, self.bridge, self.dtype = values, bridge, dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Tensor:
        return self.bridge(self.values[index], dtype=self.dtype)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.values.to(device), self.bridge, self.dtype)

    def fixed(self, seed: int = 0) -> "Split":
        """The same split with its random numbers drawn once and for all, from `seed`: what is evaluated."""
        if self.bridge.kind not in ("dynamic", "static", "dequantize"):
            return self
        generator = torch.Generator().manual_seed(seed)
        x = self.bridge(self.values.cpu(), dtype=self.dtype, generator=generator)
        stored = x.to(torch.uint8) if self.bridge.binarizes else x
        return Split(stored.to(self.device), Bridge("none"), self.dtype)

    def first(self, n: int) -> "Split":
        """`n` data spread evenly over the split (every datum where `n` exceeds its size)."""
        return Split(self.values[spread(n, len(self))], self.bridge, self.dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each element of x over the split (at most 10,000 data), each of `shape`."""
        x = self.first(10_000)[:].double()
        return x.mean(0).to(self.dtype), x.std(0, correction=0).to(self.dtype)
