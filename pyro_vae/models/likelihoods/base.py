"""What a likelihood is."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.partly import Partly
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.sizes import Declared
from pyro_vae.networks import Shape
from pyro_vae.networks.views import Alike, Kind, View

SEEN = 1_000  # data whose logarithms tell in which units an encoder counts them

DENSE = (Representation.REAL, Representation.POSITIVE, Representation.UNIT)


class Likelihood(Declared, nn.Module, ABC):
    """A likelihood `p(x|z)`: a normalised density or mass over data of `shape`, from the decoder's output.

    To write one: take `shape`, set `support` (the representation of data it accepts) and `channels` (decoder outputs
    per element of x), and return from `forward` a distribution of batch shape `(...)` and event shape `shape`.
    `Bernoulli` is the simplest example. Log-densities are in nats per datum, never averaged over elements.
    """

    support: Representation
    channels: int = 1
    sized: bool = False  # whether the mass is given the total count of the datum, `forward(h, total)`,
    typical_total: Tensor  # and then the total of a draw
    # How much the decoder's outputs vary over the prior when training starts, `None`: as the network has it. A start
    # that guesses wildly costs hundreds of nats; the first thing that the decoder then learns is to ignore z, for good.
    output_spread: float | None = 0.1
    examples: int = 0  # training data that `meet` wants to see before the start
    # How an encoder sees its values as a column of a table, where the numbers that it takes do not say it.
    seen_as: Kind | None = None
    missing: bool = (
        False  # whether elements of x may be nan, which were not seen; a `VAE` says it
    )

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @property
    def output_shape(self) -> Shape:
        """What the decoder returns for one datum: `(channels, *shape)`."""
        return (self.channels, *self.shape)

    @abstractmethod
    def forward(self, h: Tensor) -> Distribution:
        """`(..., channels, *shape)` -> a distribution of batch shape `(...)`, event shape `shape`."""

    def check(self, x: Tensor) -> None:
        """Raise `InputError` unless every value of `x` is one that this likelihood accepts."""
        if not self.support.holds(x):
            name = type(self).__name__
            raise InputError(
                f"x holds values that {name} does not accept: it takes {self.support.value}"
            )

    @property
    def dense(self) -> list[int] | None:
        """The elements of x that have a density and no mass, by their numbers; `None`: all of them."""
        return None if self.support in DENSE else []

    @property
    def view(self) -> View | Alike | None:
        """How an encoder sees x before it is brought to standard units; `None`: as it is.

        Counts and positive reals are seen by their logarithms: beside the others of its kind one of them may be any
        number of spreads away.
        """
        if self.seen_as is not None or self.support not in BY_LOGARITHM:
            return None
        return Alike(BY_LOGARITHM[self.support], self.shape)

    @property
    def looked_at(self) -> int:
        """How many training data are looked at before the start."""
        return max(self.examples, 0 if self.view is None else SEEN)

    @property
    def seen_shape(self) -> Shape:
        """What an encoder is given of one datum."""
        return self.shape if self.view is None else self.view.out_shape

    @property
    def stand_in(self) -> Tensor | float:
        """What stands in the place of an element that was not seen: any value at which the density is finite."""
        return STAND_INS.get(self.support, 0.0)

    def filled(self, x: Tensor) -> Tensor:
        """`x` with the `stand_in` where an element is nan."""
        return torch.where(x.isnan(), self.stand_in, x)

    def partly(self, p: Any) -> Distribution:
        """`p(x_seen|z)` from the `p(x|z)` that `forward` returned: an element of x that is nan counts nothing.

        Raises:
            InputError: where the elements of x are not independent given z.
        """
        if not isinstance(p, dist.Independent) or p.reinterpreted_batch_ndims != len(
            self.shape
        ):
            raise InputError(
                f"{type(self).__name__} gives several elements of x one density, so that none can be left out of it: "
                "for data with missing values choose another likelihood"
            )
        return Partly(p, self.stand_in)

    def unseen(self, p: Any) -> Any:
        """`p(x|z)` of elements given that they were not seen, from what `partly` returned: missing at random, `p`."""
        return p

    def typical(self, p: Any) -> Tensor:
        """One datum that stands for a distribution `p` that `forward` returned: its mean."""
        return p.mean  # type: ignore[no-any-return]

    @property
    def coded(self) -> bool:
        """Whether its values number categories, levels of a scale, or two sides, of which the mean is none."""
        categories = self.seen_as in ("category", "order")
        return categories or self.support is Representation.BINARY

    def point(self, p: Any, weights: Tensor) -> Tensor:
        """One datum that stands for the mixture of the distributions `p`, of batch shape `(K, ...)`, `(..., *shape)`.

        Numbers are taken by their mean; bits, categories and levels of a scale by the most probable.

        Args:
            p: what `forward` or `partly` returned.
            weights: `(K, ...)`, which add up to 1 over K.
        """
        w = weights.reshape(*weights.shape, *[1] * len(self.shape))
        if self.seen_as in ("category", "order"):
            masses = getattr(p, "whole", p).base_dist.probs  # (K, ..., *shape, levels)
            return (w.unsqueeze(-1) * masses).sum(0).argmax(-1)
        mean = (w * p.mean).sum(0)
        return (mean > 0.5).to(mean) if self.coded else mean

    def keep_above(self, floor: Tensor) -> None:
        """Give a density a least scale for each element, in the units of x; what has no scale has none to keep."""

    def meet(self, x: Tensor) -> None:
        """Look at some training data, `(n, *shape)`, before the start, for what moments do not tell."""

    def middle(
        self, mean: Tensor, std: Tensor, some: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What stands for mean and standard deviation of the data at the start, of which `some` may be given."""
        return mean, std

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """The decoder output, of `output_shape`, at which `p(x|z)` has the data's mean and standard deviation.

        Training starts from there; `None` where that has no meaning.
        """
        return None

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        """Set the likelihood's own parameters and units from the mean and standard deviation of each element of x.

        With `standardise` the elements are on scales of their own, so that the decoder's output should count in
        standard deviations; the density stays one over x as it is.
        """


# Kinds of numbers that an encoder sees by a logarithm.
BY_LOGARITHM: dict[Representation, Literal["log", "log1p"]] = {
    Representation.COUNTS: "log1p",
    Representation.POSITIVE: "log",
}

# Values inside of what a likelihood takes, where 0 may lie at its end.
STAND_INS = {Representation.UNIT: 0.5, Representation.POSITIVE: 1.0}


def units(mean: Tensor, std: Tensor, *, standardise: bool) -> tuple[Tensor, Tensor]:
    """A shift and a spread to count in: those of each element, or with `standardise=False` one for all elements."""
    if not standardise:
        center = mean.mean()
        mean, std = center, (std.square() + (mean - center).square()).mean().sqrt()
    return mean, std.where(std > 0, 1.0)
