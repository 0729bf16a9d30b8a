"""A model with two-valued latents, whose log p(x) is a sum over all their values."""

import itertools
import math

import pyro
import torch
from pyro.distributions import Bernoulli
from torch import Tensor, nn

from pyro_vae import MLP, VAE, Gaussian, Prior


class Coins(Prior):
    """`p(z) = prod_d Bernoulli(z_d; 0.3)`."""

    def forward(self):
        return Bernoulli(
            torch.full((self.latent_dim,), 0.3, dtype=torch.float64)
        ).to_event(1)


class CoinGuide(nn.Module):
    """`q(z|x) = prod_d Bernoulli(z_d; sigmoid(encoder(x)_d))`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def posterior(self, h: Tensor):
        return Bernoulli(logits=h).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(self.encoder(x)))


class Switch:
    """`z_d ~ Bernoulli(0.3)`, `x | z ~ N(W z + b, noise^2 I)`, and a guide that is a logistic regression."""

    def __init__(self, latent_dim: int, *, dims: int = 3, noise: float = 0.7) -> None:
        torch.manual_seed(latent_dim)
        decoder = MLP((latent_dim,), (1, dims), hidden=())
        guide = CoinGuide(MLP((dims,), (latent_dim,), hidden=()))
        self.vae = VAE(
            Coins(latent_dim), decoder, Gaussian((dims,), scale=noise), guide
        ).double()
        self.weight, self.bias, self.noise = (
            decoder.layers[0].weight,
            decoder.layers[0].bias,
            noise,
        )
        with torch.no_grad():
            self.weight.normal_()
        self.values = torch.tensor(
            list(itertools.product((0.0, 1.0), repeat=latent_dim)), dtype=torch.float64
        )

    @torch.no_grad()
    def log_joint(self, x: Tensor) -> Tensor:
        """`log p(x, z)` for all values of z, `(2^D, N)`, written out."""
        mean = (self.values @ self.weight.T + self.bias).unsqueeze(1)  # (2^D, 1, dims)
        log_px = torch.distributions.Normal(mean, self.noise).log_prob(x).sum(-1)
        ones = self.values.sum(-1, keepdim=True)
        return (
            log_px
            + ones * math.log(0.3)
            + (self.values.shape[1] - ones) * math.log(0.7)
        )

    def log_p(self, x: Tensor) -> Tensor:
        return self.log_joint(x).logsumexp(0)

    @torch.no_grad()
    def log_q(self, x: Tensor) -> Tensor:
        """`log q(z|x)` for all values of z, `(2^D, N)`."""
        h = self.vae.guide.encoder(x)
        z = self.values.unsqueeze(1)
        return (
            z * nn.functional.logsigmoid(h) + (1 - z) * nn.functional.logsigmoid(-h)
        ).sum(-1)
