"""The average of weights over the steps of a training."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Annotated

import torch
from torch import Tensor

from pyro_vae.engine.threads import free_threads, threads
from pyro_vae.foundation.checks import checked, share

# Of an average: the nearer to 1, the longer it remembers, `1 / (1 - decay)` steps.
Memory = Annotated[float, share(zero=False)]


class Average:
    """The exponential moving average of weights, `(1 - d) sum_{s <= t} d^(t - s) w_s / (1 - d^t)` after step t.

    The divisor corrects the bias of a sum that begins empty: after one step this is the weights, while t is below
    `1 / (1 - d)` nearly the mean of all, and later that of about the last `1 / (1 - d)`. Noise of the steps averages
    out as it would at a smaller rate, while the weights themselves move on at theirs.

    Args:
        decay: d, between 0 and 1.

    Attributes:
        steps: t, how many steps it follows so far.

    Raises:
        InputError: for another decay.

    Source: Kingma & Ba 2015, Adam, section 7.2; Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by
    Averaging.

    >>> weights, average = torch.zeros(1), Average(0.5)
    >>> for value in (1.0, 4.0):
    ...     average.follow([weights.fill_(value)])
    >>> average.of(weights)  # (0.25 1 + 0.5 4) / 0.75
    tensor([3.])
    """

    @checked
    def __init__(self, decay: Memory) -> None:
        self.decay, self.steps = decay, 0
        self._weights: list[Tensor] = []
        self._averages: list[Tensor] = []

    @torch.no_grad()
    def follow(self, weights: Sequence[Tensor]) -> None:
        """Take in the weights as they are after one more step."""
        self.take_in(weights)
        self.steps += 1
        # The recursion of the sum above: first the new weights alone, in the end 1 - d of them.
        fresh = (1 - self.decay) / -math.expm1(self.steps * math.log(self.decay))
        with threads(free_threads()):
            torch._foreach_lerp_(self._averages, self._weights, fresh)

    def take_in(self, weights: Sequence[Tensor]) -> None:
        """Say which tensors are averaged; new ones begin with their values of now."""
        same = len(weights) == len(self._weights)
        if same and all(map(is_, weights, self._weights)):
            return
        self._averages = [
            (w.detach().clone() if (known := self._find(w)) is None else known)
            for w in weights
        ]
        self._weights = list(weights)

    def of(self, weights: Tensor) -> Tensor:
        """The average of a tensor; itself where it has none."""
        found = self._find(weights) if self.steps else None
        return weights if found is None else found

    def _find(self, weights: Tensor) -> Tensor | None:
        pairs = zip(self._weights, self._averages, strict=True)
        return next((average for w, average in pairs if w is weights), None)

    def restart(self) -> None:
        """Forget all steps: what was set outright is no noise to be averaged out."""
        self.steps = 0

    @torch.no_grad()
    def keep(self) -> None:
        """Let the weights be their average from now on."""
        if self.steps:
            torch._foreach_copy_(self._weights, self._averages)

    @contextmanager
    def put(self) -> Iterator[None]:
        """In which the weights are their average, in place: whoever holds them, such as a graph, reads it."""
        if not self.steps:
            yield
            return
        own = [w.detach().clone() for w in self._weights]
        self.keep()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, own)
