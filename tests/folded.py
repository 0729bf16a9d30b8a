"""A folded normal: `z ~ N(0, 1)`, `x | z ~ N(|z|, noise^2)`, whose posterior has two modes; log p(x) by quadrature."""

import torch
from torch import Tensor, nn

from pyro_vae import VAE, Gaussian, MeanField, StandardNormal

NOISE = 0.4


class Folded(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.abs().unsqueeze(-1)


class Table(MeanField):
    """`q(z|x) = N(m(x), s(x)^2)`, by a function of x that returns `(m, s)`."""

    def __init__(self, choose) -> None:
        super().__init__(nn.Identity(), 1, features=1)
        self.choose = choose

    def variational_parameters(self, h: Tensor) -> Tensor:
        mean, scale = self.choose(h)
        return torch.cat([mean, scale.log()], -1)


def folded(choose) -> VAE:
    return VAE(
        StandardNormal(1), Folded(), Gaussian((1,), scale=NOISE), Table(choose)
    ).double()


def log_p(x: Tensor) -> Tensor:
    """By the trapezoidal rule on 40,001 points, `(N, 1)` -> `(N,)`."""
    z = torch.linspace(-10, 10, 40_001, dtype=torch.float64)
    normal = torch.distributions.Normal
    density = normal(0.0, 1.0).log_prob(z) + normal(z.abs(), NOISE).log_prob(x)
    return torch.trapezoid(density.exp(), z, dim=-1).log()
