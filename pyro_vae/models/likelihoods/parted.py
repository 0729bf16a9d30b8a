"""Likelihoods of data that consist of parts, each with a likelihood of its own."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions.joined import Joined
from pyro_vae.distributions.wide import wide
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.layout import Layout
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.networks import Shape

LOOKED_AT = 10_000  # data from which shares of categories are taken


class Parted(Likelihood):
    """`p(x|z) = prod_j p_j(x_j|z)`: data of parts that are independent given z, each with a likelihood `p_j`.

    Attributes:
        kind: what an error calls a part.
        names: of the parts.
        members: their likelihoods, in the order in which the parts stand in x.
        layout: where they stand.
    """

    kind = "part"
    examples = LOOKED_AT

    def __init__(self, shape: Shape, names: Any, members: Any) -> None:
        super().__init__(shape)
        self.names, self.members = tuple(names), nn.ModuleList(members)
        shapes = tuple(member.shape for member in members)
        self.layout = Layout(self.names, shapes, self.shape)
        outputs = tuple(tuple(member.output_shape) for member in members)
        self.output_layout = Layout(self.names, outputs)

    @property
    def output_shape(self) -> Shape:
        return (self.output_layout.width,)

    def forward(self, h: Tensor) -> Distribution:
        pairs = zip(self._members(), self._outputs(wide(h)), strict=True)
        return self._joined([member(o) for member, o in pairs], like=h)

    def _members(self) -> list[Any]:
        return list(self.members)

    def _outputs(self, h: Tensor) -> list[Tensor]:
        """Each part's outputs of the decoder, `(..., *output_shape)` of its member."""
        return self.output_layout.parts(h)

    def _joined(self, parts: Sequence[Any], like: Tensor) -> Joined:
        return Joined(parts, self.shape, like=like)

    def _each(self, x: Tensor) -> Iterator[tuple[str, Any, Tensor]]:
        """Each part's name, its likelihood, and what `x`, `(..., *shape)`, holds of it."""
        return zip(self.names, self._members(), self.layout.parts(x), strict=True)

    def filled(self, x: Tensor) -> Tensor:
        return self.layout.together(
            [m.filled(values) for _, m, values in self._each(x)]
        )

    def partly(self, p: Any) -> Distribution:
        return self._changed(p, "partly")

    def unseen(self, p: Any) -> Any:
        return self._changed(p, "unseen")

    def _changed(self, p: Any, method: str) -> Joined:
        """`p` with each part as a method of its likelihood returns it."""
        pairs = zip(self._members(), p.parts, strict=True)
        parts = [getattr(member, method)(part) for member, part in pairs]
        return self._joined(parts, like=torch.empty(0, dtype=p.dtype))

    def typical(self, p: Any) -> Tensor:
        """The mean of each number, of an ordered scale the median, and of categories the most probable."""
        pairs = zip(self._members(), p.parts, strict=True)
        return p.together([self.point_of(member, part) for member, part in pairs])

    def point_of(self, member: Any, part: Any) -> Tensor:
        """What stands for the distribution of a part."""
        return member.typical(part)  # type: ignore[no-any-return]

    def point(self, p: Any, weights: Tensor) -> Tensor:
        pairs = zip(self._members(), p.parts, strict=True)
        return self.layout.together(
            [m.point(part, weights).to(weights) for m, part in pairs]
        )

    def check(self, x: Tensor) -> None:
        for name, member, values in self._each(x):
            try:
                member.check(values)
            except InputError as error:
                raise InputError(f"{self.kind} {name}: {error}") from error

    def middle(
        self, mean: Tensor, std: Tensor, some: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Those of each part."""
        few = mean.unsqueeze(0) if some is None else some
        each = zip(*map(self._each, (mean, std, few)), strict=True)
        pairs = [
            member.middle(m, s, None if some is None else values)
            for (_, member, m), (_, _, s), (_, _, values) in each
        ]
        means, stds = zip(*pairs, strict=True)
        return self.layout.together(means), self.layout.together(stds)

    def meet(self, x: Tensor) -> None:
        for _, member, values in self._each(x):
            member.meet(values)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        """That of each part; 0 where it has none."""
        each = []
        moments = zip(self._each(mean), self._each(std), strict=True)
        for (_, member, m), (_, _, s) in moments:
            h = member.starting_output(m, s)
            each.append(mean.new_zeros(member.output_shape) if h is None else h)
        return self.output_layout.together(each)

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        """Each part counts in units of its own."""
        moments = zip(self._each(mean), self._each(std), strict=True)
        for (_, member, m), (_, _, s) in moments:
            member.initialise(m, s, standardise=standardise)

    def keep_above(self, floor: Tensor) -> None:
        for _, member, least in self._each(floor):
            if bool((least > 0).any()):
                member.keep_above(least)

    @property
    def widths(self) -> list[int]:
        """How many outputs of the decoder each part takes."""
        return [math.prod(shape) for shape in self.output_layout.shapes]
