"""The likelihood of an ordered scale."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.models.likelihoods.discrete import (
    LevelCount,
    Levels,
    NumberedCategorical,
    shares,
)
from pyro_vae.networks import Shape

LEAST_GAP = 1e-4  # between two thresholds at the start, where a level does not occur


class Ordinal(Levels):
    """`p(x_i <= k | z) = sigmoid(b_ik - h_i)`, with `b_i0 < b_i1 < ...` and `h = decoder(z)`: an ordered scale.

    The thresholds `b` are learned for each element of x; the decoder moves all levels of an element together, up or
    down. At any thresholds the masses add up to 1.

    Args:
        shape: shape of one datum.
        levels: L, the number of levels of the scale; there are L - 1 thresholds.

    Raises:
        InputError: for fewer than two levels.

    Source: McCullagh 1980, Regression Models for Ordinal Data.

    >>> p = Ordinal((1,), levels=4)(torch.zeros(1, 1))
    >>> [round(p.log_prob(torch.tensor([k])).item(), 4) for k in (0.0, 3.0)]  # log(1/4)
    [-1.3863, -1.3863]
    """

    seen_as = "order"

    def __init__(self, shape: Shape, *, levels: LevelCount = 256) -> None:
        super().__init__(shape, levels=levels)
        even = torch.logit(torch.arange(1, levels, dtype=torch.float64) / levels)
        even = even.to(torch.get_default_dtype()).expand(*self.shape, -1)
        self.first = nn.Parameter(even[..., 0].clone())
        self.log_gaps = nn.Parameter(even.diff(dim=-1).log())
        self._met = False

    @property
    def thresholds(self) -> Tensor:
        """`b`, `(*shape, levels - 1)`, rising, in float64."""
        first = wide(self.first).unsqueeze(-1)
        return torch.cat([first, first + wide(self.log_gaps).exp().cumsum(-1)], -1)

    def forward(self, h: Tensor) -> Distribution:
        place = wide(h).squeeze(-len(self.shape) - 1).unsqueeze(-1)  # (..., *shape, 1)
        levels = NumberedCategorical(
            logits=self._log_masses(place), validate_args=False
        )
        return Wide(levels, len(self.shape), like=h)

    def _log_masses(self, h: Tensor) -> Tensor:
        """`log(F(b_k - h) - F(b_(k-1) - h)) = log F(b_k - h) + log F(h - b_(k-1)) + log(1 - exp(b_(k-1) - b_k))`."""
        b = self.thresholds - h  # (..., *shape, levels - 1)
        end = torch.zeros_like(b[..., :1])
        below = torch.cat([logsigmoid(b), end], -1)
        above = torch.cat([end, logsigmoid(-b)], -1)
        width = (
            (-torch.expm1(-wide(self.log_gaps).exp())).log().expand(*b.shape[:-1], -1)
        )
        return below + above + torch.cat([end, width, end], -1)

    @torch.no_grad()
    def meet(self, x: Tensor) -> None:
        """Put the thresholds where they give each level its share of the data, half a datum more for each."""
        b = torch.logit(shares(x, self.levels).cumsum(-1)[..., :-1])
        self.first.copy_(b[..., 0])
        self.log_gaps.copy_(b.diff(dim=-1).clamp_min(LEAST_GAP).log())
        self._met = True

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """0 once the thresholds are those of data."""
        return torch.zeros_like(mean).unsqueeze(0) if self._met else None
