"""The likelihood of a table: each column has one of its own."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.joined import Joined
from pyro_vae.distributions.wide import wide
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import BY_LOGARITHM, Likelihood
from pyro_vae.models.likelihoods.continuous import Gaussian
from pyro_vae.networks import Shape
from pyro_vae.networks.views import Seen, View

LOOKED_AT = 10_000  # data from which shares of categories are taken


class Columns(Likelihood):
    """`p(x|z) = prod_j p_j(x_j|z)`: a table, each column j with a likelihood `p_j` of its own.

    Reals, counts, ordered scales and categories may stand side by side. Each `p_j` is a normalised density or mass, so
    that their logarithms add up; the encoder sees numbers in standard units, counts and positive reals by their
    logarithms, categories one-hot.

    Args:
        shape: shape of one datum.
        columns: for each element of x, by the name of its column, what makes its likelihood from the shape `(1,)`: a
            class such as `Poisson`, or a `functools.partial` of one. By default each is a `Gaussian`.

    Raises:
        InputError: for another number of columns, or a column that is given no likelihood.

    Source: Nazábal, Olmos, Ghahramani & Valera 2020, Handling Incomplete Heterogeneous Data Using VAEs.

    >>> from pyro_vae import Bernoulli
    >>> from pyro_vae.models.likelihoods import Poisson
    >>> likelihood = Columns((2,), columns={"age": Poisson, "married": Bernoulli})
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # -1 - log(2)
    tensor(-1.6931)
    """

    support = Representation.MIXED
    examples = LOOKED_AT

    def __init__(self, shape: Shape, *, columns: Any = None) -> None:
        super().__init__(shape)
        count = math.prod(self.shape)
        if columns is None:
            columns = {str(i): Gaussian for i in range(count)}
        self.names, members = _members(columns, count)
        self.members = nn.ModuleList(members)
        widths = [math.prod(member.output_shape) for member in members]
        # Columns with as many outputs as each other keep the shape of the data: its networks may look at it.
        self.alike = len(set(widths)) == 1
        self.channels = widths[0] if self.alike else 1
        self.widths = widths

    @property
    def output_shape(self) -> Shape:
        return (self.channels, *self.shape) if self.alike else (sum(self.widths),)

    @property
    def dense(self) -> list[int] | None:
        return [i for i, member in enumerate(self.members) if member.dense is None]

    @property
    def view(self) -> View | None:
        seen = [_seen(member) for member in self.members]
        plain = all(s.kind in ("number", "tailed") for s in seen)
        return None if plain else View(seen, self.shape)

    def forward(self, h: Tensor) -> Distribution:
        return Joined([m(o) for m, o in self._outputs(wide(h))], self.shape, like=h)

    def _outputs(self, h: Tensor) -> list[tuple[Any, Tensor]]:
        """Each column's likelihood and its outputs of the decoder, `(..., channels, 1)`."""
        if self.alike:
            # (..., channels, 1)
            each = h.flatten(h.dim() - len(self.shape)).split(1, -1)
        else:
            each = tuple(o.unsqueeze(-1) for o in h.split(self.widths, -1))
        return list(zip(self.members, each, strict=True))

    def filled(self, x: Tensor) -> Tensor:
        each = [member.filled(values) for _, member, values in self._of_columns(x)]
        return torch.cat(each, -1).reshape(x.shape)

    def partly(self, p: Any) -> Distribution:
        members: Any = self.members
        parts = [
            member.partly(part) for member, part in zip(members, p.parts, strict=True)
        ]
        return Joined(parts, self.shape, like=torch.empty(0, dtype=p.dtype))

    def unseen(self, p: Any) -> Any:
        members: Any = self.members
        parts = [
            member.unseen(part) for member, part in zip(members, p.parts, strict=True)
        ]
        return Joined(parts, self.shape, like=torch.empty(0, dtype=p.dtype))

    def typical(self, p: Any) -> Tensor:
        """The mean of each number, of an ordered scale the median, and of categories the most probable."""
        pairs = zip(self.members, p.parts, strict=True)
        return p.together([_typical(member, part) for member, part in pairs])

    def point(self, p: Any, weights: Tensor) -> Tensor:
        members: Any = self.members
        parts = [
            m.point(part, weights) for m, part in zip(members, p.parts, strict=True)
        ]
        return torch.cat([part.to(weights) for part in parts], -1).unflatten(
            -1, self.shape
        )

    def check(self, x: Tensor) -> None:
        for name, member, values in self._of_columns(x):
            try:
                member.check(values)
            except InputError as error:
                raise InputError(f"column {name}: {error}") from error

    def middle(
        self, mean: Tensor, std: Tensor, some: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Those of each column."""
        few = mean.unsqueeze(0) if some is None else some
        each = zip(*map(self._of_columns, (mean, std, few)), strict=True)
        pairs = [
            member.middle(m, s, None if some is None else values)
            for (_, member, m), (_, _, s), (_, _, values) in each
        ]
        means, stds = zip(*pairs, strict=True)
        return (
            torch.cat(means, -1).reshape(mean.shape),
            torch.cat(stds, -1).reshape(mean.shape),
        )

    def meet(self, x: Tensor) -> None:
        for _, member, values in self._of_columns(x):
            member.meet(values)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        """That of each column; 0 where it has none."""
        each = []
        moments = zip(self._of_columns(mean), self._of_columns(std), strict=True)
        for (_, member, m), (_, _, s) in moments:
            h = member.starting_output(m, s)
            each.append(mean.new_zeros(member.output_shape) if h is None else h)
        if self.alike:
            return torch.cat(each, -1).unflatten(-1, self.shape)
        return torch.cat([h.flatten() for h in each])

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        """Each column counts in units of its own."""
        moments = zip(self._of_columns(mean), self._of_columns(std), strict=True)
        for (_, member, m), (_, _, s) in moments:
            member.initialise(m, s, standardise=True)

    def keep_above(self, floor: Tensor) -> None:
        for _, member, least in self._of_columns(floor):
            if bool((least > 0).any()):
                member.keep_above(least)

    def _of_columns(self, x: Tensor) -> list[tuple[str, Any, Tensor]]:
        """Each column's name, its likelihood, and what `x`, `(..., *shape)`, holds of it, `(..., 1)`."""
        columns = x.flatten(x.dim() - len(self.shape)).split(1, -1)
        return list(zip(self.names, self.members, columns, strict=True))


def _members(columns: Any, count: int) -> tuple[tuple[str, ...], list[Likelihood]]:
    """The names of columns, and the likelihood of each."""
    if not isinstance(columns, Mapping) or not all(
        isinstance(name, str) for name in columns
    ):
        raise InputError(
            f"columns={shown(columns)} of Columns must name columns and what makes the likelihood of each, as in "
            "{'age': Poisson}"
        )
    if len(columns) != count:
        raise InputError(
            f"columns= of Columns names {len(columns)} columns, and a datum has {count} elements"
        )
    members = []
    for name, make in columns.items():
        member = make((1,)) if callable(make) else None
        if not isinstance(member, Likelihood) or member.support is Representation.MIXED:
            raise InputError(
                f"columns= of Columns gives {name!r} the likelihood {shown(make)}, and it must be one of a "
                "single kind of number, such as Gaussian"
            )
        members.append(member)
    return tuple(columns), members


def _typical(member: Any, part: Any) -> Tensor:
    """One number that stands for a column."""
    match _seen(member).kind:
        case "order":
            # Without the mask of what was not seen.
            whole = getattr(part, "whole", part)
            return whole.base_dist.median  # type: ignore[no-any-return]
        case "bit" | "category":
            return part.mode.nan_to_num()  # type: ignore[no-any-return]
    return part.mean  # type: ignore[no-any-return]


def _seen(member: Any) -> Seen:
    """How an encoder sees a column of this likelihood."""
    if member.seen_as is not None:
        return Seen(member.seen_as, getattr(member, "levels", 1))
    if member.support is Representation.BINARY:
        return Seen("bit")
    return Seen(BY_LOGARITHM.get(member.support, "number"))
