"""What the distributions of this package share."""

from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


class Own(TorchDistribution):
    """A distribution whose arguments are checked before, by the likelihood or guide that makes it."""

    arg_constraints = {}  # noqa: RUF012  # torch's way
    _validate_args = False


class Drawn(Own):
    """One whose draws carry no gradient."""

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.draw(self._extended_shape(sample_shape))

    @abstractmethod
    def draw(self, shape: torch.Size) -> Tensor:
        """A draw of this shape, `(*sample_shape, *batch_shape, *event_shape)`."""
