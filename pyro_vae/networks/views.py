"""What an encoder sees of numbers on scales of their own, and of columns of different kinds."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_vae.networks.base import Shape

Kind = Literal["number", "tailed", "log", "log1p", "bit", "category", "order"]
SCALED = ("number", "tailed", "log", "log1p")  # what is standardised once it was taken
NORMAL = 3.29  # how wide the middle nine tenths of a normal distribution lie, in its standard deviations


class Seen(NamedTuple):
    """How one column is seen.

    Attributes:
        kind: `'number'`: as it is; `'tailed'`: as it is, in units of its middle nine tenths; `'log'`, `'log1p'`: by its
            logarithm, or that of 1 more; `'bit'`: as 0 or 1; `'category'`: as a 1 in the place of the category, among
            zeros; `'order'`: as a 1 for each threshold passed.
        levels: how many categories or levels there are; 1 for a number.
    """

    kind: Kind
    levels: int = 1

    @property
    def width(self) -> int:
        """How many numbers stand for the column."""
        return {"category": self.levels, "order": self.levels - 1}.get(self.kind, 1)

    def of(self, x: Tensor) -> Tensor:
        """`(..., 1) -> (..., width)`; of any shape where the width is 1."""
        match self.kind:
            case "log":
                return x.clamp_min(torch.finfo(x.dtype).tiny).log()
            case "log1p":
                return x.clamp_min(0).log1p()
            case "category":
                return (x == torch.arange(self.levels, device=x.device)).to(x.dtype)
            case "order":
                return (x > torch.arange(self.levels - 1, device=x.device)).to(x.dtype)
        return x


class Alike:
    """Data whose elements are all seen in one way, `(..., *shape) -> (..., *shape)`: by their logarithms.

    >>> Alike("log1p", (2,))(torch.tensor([0.0, 51.0]))
    tensor([0.0000, 3.9512])
    """

    before = (
        None  # what encoders saw of such data in versions whose weights have no `far`
    )

    def __init__(self, kind: Literal["log", "log1p"], shape: Shape) -> None:
        self.seen, self.out_shape = Seen(kind), tuple(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self.seen.of(x)

    def of_mask(self, mask: Tensor) -> Tensor:
        """Which of the numbers that are seen were there."""
        return mask

    def moments(
        self, mean: Tensor, std: Tensor, some: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what is seen of each element, `shape`.

        They are those of `some` data, `(n, *shape)`; without any, those that a log-normal variable has whose own are
        `mean` and `std`.
        """
        if some is not None:
            return moments(self(some))
        return of_logarithms(mean + (self.seen.kind == "log1p"), std)


class View:
    """Columns as an encoder sees them, `(..., *shape) -> (..., width)`: column after column by its own `Seen`.

    >>> view = View([Seen("number"), Seen("category", 3), Seen("order", 3)], (3,))
    >>> view(torch.tensor([5.0, 1.0, 1.0]))
    tensor([5., 0., 1., 0., 1., 0.])
    """

    def __init__(self, columns: Sequence[Seen], shape: Shape) -> None:
        self.columns, self.shape = list(columns), tuple(shape)
        self.before = self

    @property
    def out_shape(self) -> Shape:
        return (sum(seen.width for seen in self.columns),)

    def __call__(self, x: Tensor) -> Tensor:
        columns = x.flatten(x.dim() - len(self.shape)).split(1, -1)
        pairs = zip(self.columns, columns, strict=True)
        return torch.cat([seen.of(column) for seen, column in pairs], -1)

    def of_mask(self, mask: Tensor) -> Tensor:
        """Which of the numbers that are seen were there, `(..., width)`, from a mask `(..., *shape)`."""
        columns = mask.flatten(mask.dim() - len(self.shape)).split(1, -1)
        pairs = zip(self.columns, columns, strict=True)
        return torch.cat(
            [column.expand(*column.shape[:-1], s.width) for s, column in pairs], -1
        )

    def units(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From data `(n, *shape)` the shift and the spread in which what is seen is counted, and its mean: `(width,)`.

        Those of numbers are their mean and standard deviation, or what `inner` says; bits and categories stay 0 and 1.
        What is nan was not seen.
        """
        seen = self(x).where(self.of_mask(~x.isnan()), torch.nan)
        mean, spread = moments(seen)
        tailed, scaled = (self._of_kind(kinds, x) for kinds in (("tailed",), SCALED))
        if tailed.any():
            middle, width = inner(seen, spread)
            mean, spread = mean.where(~tailed, middle), spread.where(~tailed, width)
        return mean.where(scaled, 0.0), spread.where(scaled & (spread > 0), 1.0), mean

    def _of_kind(self, kinds: Sequence[str], like: Tensor) -> Tensor:
        """Which of the numbers that are seen are of these kinds, `(width,)`."""
        which = [s.kind in kinds for s in self.columns for _ in range(s.width)]
        return torch.tensor(which, device=like.device)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element over data `(n, *shape)`, without those that are nan."""
    there = ~x.isnan()
    if there.all():
        return x.mean(0), x.std(0, unbiased=False)
    count = there.sum(0).clamp_min(1)
    mean = x.where(there, 0.0).sum(0) / count
    spread = ((x - mean).where(there, 0.0).square().sum(0) / count).sqrt()
    return mean, spread


def inner(x: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Median of each element over data `(n, *shape)`, and the standard deviation that its middle nine tenths speak for.

    It is that of a normal variable whose middle nine tenths lie as wide; `std` where they are one value, as of an
    element that is nearly always zero. What is nan is left out.
    """
    last = (~x.isnan()).sum(0, keepdim=True).sub(1).clamp_min(0)
    in_order = x.sort(0).values  # nan stands at the end
    low, middle, high = (
        in_order.gather(0, (last * q).round().long()).squeeze(0)
        for q in (0.05, 0.5, 0.95)
    )
    width = (high - low) / NORMAL
    return middle.nan_to_num(), width.where(width > 0, std)


def of_logarithms(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the logarithm of what is log-normal and has these."""
    mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    variance = (std / mean).square().clamp_min(1e-12).log1p()
    return mean.log() - variance / 2, variance.sqrt()
