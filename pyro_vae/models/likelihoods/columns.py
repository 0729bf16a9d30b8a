"""The likelihood of a table: each column has one of its own."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import BY_LOGARITHM, Likelihood
from pyro_vae.models.likelihoods.continuous import Gaussian
from pyro_vae.models.likelihoods.parted import Parted
from pyro_vae.networks import Shape
from pyro_vae.networks.views import Seen, View


class Columns(Parted):
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

    >>> import torch
    >>> from pyro_vae import Bernoulli
    >>> from pyro_vae.models.likelihoods import Poisson
    >>> likelihood = Columns((2,), columns={"age": Poisson, "married": Bernoulli})
    >>> likelihood(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # -1 - log(2)
    tensor(-1.6931)
    """

    support = Representation.MIXED
    kind = "column"

    def __init__(self, shape: Shape, *, columns: Any = None) -> None:
        count = math.prod(shape)
        if columns is None:
            columns = {str(i): Gaussian for i in range(count)}
        super().__init__(shape, *_members(columns, count))
        widths = self.widths
        # Columns with as many outputs as each other keep the shape of the data: its networks may look at it.
        self.alike = len(set(widths)) == 1
        self.channels = widths[0] if self.alike else 1

    @property
    def output_shape(self) -> Shape:
        return (self.channels, *self.shape) if self.alike else super().output_shape

    @property
    def dense(self) -> list[int] | None:
        return [i for i, member in enumerate(self.members) if member.dense is None]

    @property
    def view(self) -> View | None:
        seen = [_seen(member) for member in self.members]
        plain = all(s.kind in ("number", "tailed") for s in seen)
        return None if plain else View(seen, self.shape)

    def _outputs(self, h: Tensor) -> list[Tensor]:
        if not self.alike:
            return super()._outputs(h)
        return list(h.flatten(h.dim() - len(self.shape)).split(1, -1))

    def point_of(self, member: Any, part: Any) -> Tensor:
        """One number that stands for a column."""
        match _seen(member).kind:
            case "order":
                # Without the mask of what was not seen.
                whole = getattr(part, "whole", part)
                return whole.base_dist.median  # type: ignore[no-any-return]
            case "bit" | "category":
                return part.mode.nan_to_num()  # type: ignore[no-any-return]
        return part.mean  # type: ignore[no-any-return]

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        """Each column counts in units of its own."""
        super().initialise(mean, std, standardise=True)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        flat = super().starting_output(mean, std)
        if not self.alike:
            return flat
        return flat.unflatten(0, (-1, self.channels)).mT.unflatten(-1, self.shape)


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


def _seen(member: Any) -> Seen:
    """How an encoder sees a column of this likelihood."""
    if member.seen_as is not None:
        return Seen(member.seen_as, getattr(member, "levels", 1))
    if member.support is Representation.BINARY:
        return Seen("bit")
    return Seen(BY_LOGARITHM.get(member.support, "number"))
