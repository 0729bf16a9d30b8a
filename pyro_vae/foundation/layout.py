"""How several fields lie side by side in one vector."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Fields of these names and shapes as one vector `x`, `(..., width)`: field after field, each row by row.

    Where x is no vector it is `(..., *whole)` instead, counted row by row.

    >>> layout = Layout(("image", "label"), ((2, 2), (1,)))
    >>> x = layout.join({"image": torch.ones(3, 2, 2), "label": torch.zeros(3, 1)})
    >>> x.shape, layout.split(x)["image"].shape
    (torch.Size([3, 5]), torch.Size([3, 2, 2]))
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    whole: tuple[int, ...] = ()  # the shape of x, where it is no vector

    @property
    def sizes(self) -> list[int]:
        """How many elements each field has."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def width(self) -> int:
        return sum(self.sizes)

    def parts(self, x: Tensor) -> list[Tensor]:
        """`(..., width)` -> each field, `(..., *shape)`."""
        pairs = zip(self._pieces(x), self.shapes, strict=True)
        return [p if len(shape) == 1 else p.unflatten(-1, shape) for p, shape in pairs]

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each field as a vector."""
        flat = x.flatten(-len(self.whole)) if len(self.whole) > 1 else x
        return flat.split(self.sizes, -1)

    def _wholly(self, pieces: Sequence[Tensor]) -> Tensor:
        """Fields as vectors -> x."""
        flat = torch.cat(list(pieces), -1)
        return flat.unflatten(-1, self.whole) if len(self.whole) > 1 else flat

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """`parts` by name."""
        return dict(zip(self.names, self.parts(x), strict=True))

    def together(self, parts: Sequence[Tensor]) -> Tensor:
        """Each field, `(..., *shape)` -> `(..., width)`."""
        pairs = zip(parts, self.shapes, strict=True)
        flat = [p if len(s) == 1 else p.flatten(p.dim() - len(s)) for p, s in pairs]
        batches = [part.shape[:-1] for part in flat]
        if any(batch != batches[0] for batch in batches[1:]):
            batch = torch.broadcast_shapes(*batches)
            flat = [part.expand(*batch, -1) for part in flat]
        return self._wholly(flat)

    def join(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Fields by name, `(N, *shape)`, as `(N, width)`; a field that is not there is nan, for data without it."""
        some = next(iter(fields.values()))
        dtypes = {part.dtype for part in fields.values() if part.is_floating_point()}
        dtype = max(dtypes, key=lambda d: d.itemsize, default=torch.get_default_dtype())
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            there = fields.get(name)
            if there is None:
                there = torch.full((len(some), *shape), torch.nan, device=some.device)
            parts.append(there.to(dtype))
        return self.together(parts)

    def seen(self, x: Tensor) -> Tensor:
        """Which fields of data are there, of which not all elements are nan: `(..., width)` -> `(..., fields)`."""
        return torch.stack([(~part.isnan()).any(-1) for part in self._pieces(x)], -1)

    def only(self, x: Tensor, *names: str) -> Tensor:
        """Data `(..., width)` without their other fields, which are nan."""
        kept = [
            part if name in names else torch.full_like(part, torch.nan)
            for name, part in zip(self.names, self._pieces(x), strict=True)
        ]
        return self._wholly(kept)

    def kept(self, x: Tensor, keep: Tensor) -> Tensor:
        """Data without the fields for which `keep`, `(..., fields)`, is false, which are nan."""
        pairs = zip(self._pieces(x), keep.unbind(-1), strict=True)
        return self._wholly(
            [part.where(there.unsqueeze(-1), torch.nan) for part, there in pairs]
        )
