"""What the distributions of this package share."""

import copy
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


class Own(TorchDistribution):
    """A distribution whose arguments are checked before, by the likelihood or guide that makes it.

    Attributes:
        shaped: the names of those that have the shape of a batch; the others broadcast against them.
    """

    arg_constraints = {}  # noqa: RUF012  # torch's way
    _validate_args = False
    shaped: ClassVar[tuple[str, ...]] = ()

    def expand(self, batch_shape: Any, _instance: object = None) -> Self:
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        for name in self.shaped:
            setattr(new, name, getattr(self, name).expand(new._batch_shape))
        return new


class Drawn(Own):
    """One whose draws carry no gradient."""

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.draw(self._extended_shape(sample_shape))

    @abstractmethod
    def draw(self, shape: torch.Size) -> Tensor:
        """A draw of this shape, `(*sample_shape, *batch_shape, *event_shape)`."""
