"""Chains of linear-Gaussian latents, written with Pyro alone: log p(x) and the posterior are known."""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


class Levels:
    """`z_L ~ N(0, I)`, `z_l ~ N(A_l z_{l+1}, s^2 I)` down to `z_1`, `x ~ N(W z_1, s^2 I)`, in double precision.

    The guide is the exact posterior `q(z_L | x) q(z_{L-1} | z_L, x) ...`, unless it is widened or shifted.

    Args:
        sizes: of the latents from the top, as in `(2, 3)`.
        dims: length of x.
        noise: s.
        widen: factor on the guide's scales.
        shift: added to the guide's means.
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (2, 3),
        dims: int = 4,
        *,
        noise: float = 0.6,
        widen: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        generator = torch.Generator().manual_seed(sum(sizes) + dims)
        self.sizes, self.dims, self.noise, self.widen, self.shift = (
            sizes,
            dims,
            noise,
            widen,
            shift,
        )
        self.names = [f"z{len(sizes) - i}" for i in range(len(sizes))]
        widths = (*sizes, dims)
        self.maps = [
            torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5
            for a, b in pairwise(widths)
        ]

        # The joint normal of all latents and x, row by row: v = sum of maps of independent noise.
        total = sum(widths)
        root = torch.zeros(total, total, dtype=torch.float64)
        start = 0
        for i, width in enumerate(widths):
            rows = slice(start, start + width)
            root[rows, rows] = torch.eye(width).double() * (noise if i else 1.0)
            if i:
                above = slice(start - widths[i - 1], start)
                root[rows] += self.maps[i - 1] @ root[above]
            start += width
        self.covariance = root @ root.T
        self.marginal = MultivariateNormal(
            torch.zeros(dims).double(), self.covariance[-dims:, -dims:]
        )

    def conditional(self, i: int) -> tuple[Tensor, Tensor]:
        """Of the i-th latent from the top given those above it and x: the map of these, and the covariance."""
        start = sum(self.sizes[:i])
        here = torch.arange(start, start + self.sizes[i])
        given = torch.cat(
            [torch.arange(start), torch.arange(len(self.covariance))[-self.dims :]]
        )
        cross = self.covariance[here][:, given]
        gain = torch.linalg.solve(self.covariance[given][:, given], cross.T).T
        return gain, self.covariance[here][:, here] - gain @ cross.T

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(
                self.names[0],
                dist.Normal(x.new_zeros(self.sizes[0]), 1.0).to_event(1),
            )
            for name, weight in zip(self.names[1:], self.maps, strict=False):
                z = pyro.sample(name, dist.Normal(z @ weight.T, self.noise).to_event(1))
            pyro.sample(
                "x", dist.Normal(z @ self.maps[-1].T, self.noise).to_event(1), obs=x
            )

    def guide(self, x: Tensor) -> None:
        above: list[Tensor] = []
        with pyro.plate("data", len(x), dim=-1):
            for i, name in enumerate(self.names):
                gain, covariance = self.conditional(i)
                lead = above[-1].shape[:-1] if above else x.shape[:-1]
                given = torch.cat([*above, x.expand(*lead, x.shape[-1])], -1)
                root = torch.linalg.cholesky(covariance) * self.widen
                z = pyro.sample(
                    name,
                    dist.MultivariateNormal(
                        given @ gain.T + self.shift, scale_tril=root
                    ),
                )
                above.append(z)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return self.marginal.sample((n,))
