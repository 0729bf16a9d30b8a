"""Several latents that are drawn one after the other, as one vector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.distributions.own import Own


class Step(NamedTuple):
    """One of the latents.

    Attributes:
        site: its name.
        place: where it stands in the vector.
        given: its distribution, from the values of those before it by name, each `(..., size)`.
    """

    site: str
    place: slice
    given: Callable[[Mapping[str, Tensor]], Distribution]


class Ancestral(Own):
    """`prod_l p(z_l | those before it)`, all z_l side by side as one vector `(..., D)`.

    Args:
        steps: the latents in the order in which they are drawn; their places may have another order.
        batch_shape: of the first; that of the others follows.
        size: D.

    >>> import pyro.distributions as dist
    >>> top = Step("z2", slice(0, 1), lambda values: dist.Normal(torch.zeros(1), 1.0).to_event(1))
    >>> below = Step("z1", slice(1, 3), lambda values: dist.Normal(values["z2"].expand(2), 1.0).to_event(1))
    >>> Ancestral([top, below], torch.Size(), 3).sample().shape
    torch.Size([3])
    """

    has_rsample = True

    def __init__(
        self, steps: Sequence[Step], batch_shape: torch.Size, size: int
    ) -> None:
        self.steps = steps
        super().__init__(batch_shape, torch.Size([size]))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        batch = torch.Size(sample_shape) + self.batch_shape
        values: dict[str, Tensor] = {}
        for step in self.steps:
            p = step.given(values)
            lacking = batch[: len(batch) - len(p.batch_shape)]
            draw = p.rsample if p.has_rsample else p.sample
            values[step.site] = draw(lacking).expand(*batch, -1)
        return self._together(values)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the log-densities of all latents, each at the values of those before it, `(...)`."""
        values = {step.site: value[..., step.place] for step in self.steps}
        logs = [p.given(values).log_prob(values[p.site]) for p in self.steps]
        return sum(logs[1:], logs[0])

    def _together(self, values: Mapping[str, Tensor]) -> Tensor:
        """The vector, in the order of the places."""
        ordered = sorted(self.steps, key=lambda step: step.place.start)
        return torch.cat([values[step.site] for step in ordered], -1)
