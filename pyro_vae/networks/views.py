"""What an encoder sees of columns that hold numbers of different kinds."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_vae.networks.base import Shape

Kind = Literal["number", "log", "log1p", "bit", "category", "order"]
SCALED = ("number", "log", "log1p")  # what is standardised once it was taken


class Seen(NamedTuple):
    """How one column is seen.

    Attributes:
        kind: `'number'`: as it is; `'log'`, `'log1p'`: by its logarithm, or that of 1 more; `'bit'`: as 0 or 1;
            `'category'`: as a 1 in the place of the category, among zeros; `'order'`: as a 1 for each threshold passed.
        levels: how many categories or levels there are; 1 for a number.
    """

    kind: Kind
    levels: int = 1

    @property
    def width(self) -> int:
        """How many numbers stand for the column."""
        return {"category": self.levels, "order": self.levels - 1}.get(self.kind, 1)

    def of(self, x: Tensor) -> Tensor:
        """`(..., 1) -> (..., width)`."""
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


class View:
    """Columns as an encoder sees them, `(..., *shape) -> (..., width)`: column after column by its own `Seen`.

    >>> view = View([Seen("number"), Seen("category", 3), Seen("order", 3)], (3,))
    >>> view(torch.tensor([5.0, 1.0, 1.0]))
    tensor([5., 0., 1., 0., 1., 0.])
    """

    def __init__(self, columns: Sequence[Seen], shape: Shape) -> None:
        self.columns, self.shape = list(columns), tuple(shape)

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

        Those of numbers are their mean and standard deviation; bits and categories stay 0 and 1. What is nan was not
        seen.
        """
        seen, there = self(x), self.of_mask(~x.isnan())
        if there.all():
            mean, spread = seen.mean(0), seen.std(0, unbiased=False)
        else:
            count = there.sum(0).clamp_min(1)
            mean = seen.where(there, 0.0).sum(0) / count
            spread = ((seen - mean).where(there, 0.0).square().sum(0) / count).sqrt()
        scaled = torch.tensor(
            [s.kind in SCALED for s in self.columns for _ in range(s.width)]
        )
        scaled = scaled.to(x.device)
        return mean.where(scaled, 0.0), spread.where(scaled & (spread > 0), 1.0), mean
