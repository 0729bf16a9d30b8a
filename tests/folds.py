"""A folded normal in each of several dimensions, whose posterior has 2^D modes; log p(x) by quadrature."""

import math

import torch
from torch import nn
from torch.distributions import Normal

from pyro_vae import VAE, Gaussian, MeanField, StandardNormal

NOISE = 0.2


class Folds(nn.Module):
    def forward(self, z):
        return z.abs().unsqueeze(-2)


class Beside(MeanField):
    """Near one mode of each datum, and too narrow for it."""

    def __init__(self, size):
        super().__init__(nn.Identity(), size, features=size)

    def variational_parameters(self, h):
        return torch.cat([0.7 * h, torch.full_like(h, math.log(0.08))], -1)


def folds(size):
    """`x ~ N(|z|, noise^2)` in each of D dimensions: a posterior of 2^D modes."""
    likelihood = Gaussian((size,), scale=NOISE)
    return VAE(StandardNormal(size), Folds(), likelihood, Beside(size)).double()


def log_p_of_folds(x):
    """By the trapezoidal rule, a dimension at a time, `(N, D)` -> `(N,)`."""
    z = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(z) + Normal(z.abs(), NOISE).log_prob(
        x.unsqueeze(-1)
    )
    return torch.trapezoid(density.exp(), z, dim=-1).log().sum(-1)
