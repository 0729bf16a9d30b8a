"""Probabilistic PCA: the model whose log p(x) and posterior are known, built from the package's own parts."""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae import ELBO, MLP, SVI, VAE, FullRank, Gaussian, StandardNormal


class PPCA:
    """`z ~ N(0, I)`, `x | z ~ N(W z + b, noise^2 I)`, with a guide that is the exact posterior unless it is perturbed.

    Args:
        latent_dim, dims: lengths of z and x.
        noise: standard deviation of x given z.
        widen: factor on the guide's scale.
        shift: added to the guide's mean.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        dims: int = 5,
        *,
        noise: float = 0.7,
        widen: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        generator = torch.Generator().manual_seed(latent_dim * 100 + dims)
        w = torch.randn(dims, latent_dim, generator=generator, dtype=torch.float64)
        b = torch.randn(dims, generator=generator, dtype=torch.float64)
        self.posterior_covariance = torch.linalg.inv(
            torch.eye(latent_dim).double() + w.T @ w / noise**2
        )
        self.gain = (
            self.posterior_covariance @ w.T / noise**2
        )  # E[z | x] = gain (x - b)
        self.b, self.latent_dim = b, latent_dim
        self.marginal = MultivariateNormal(
            b, w @ w.T + noise**2 * torch.eye(dims).double()
        )
        encoder, decoder = (
            MLP((dims,), hidden=()),
            MLP((latent_dim,), (1, dims), hidden=()),
        )
        guide = FullRank(encoder, latent_dim)
        likelihood = Gaussian((dims,), scale=noise)
        self.vae = VAE(StandardNormal(latent_dim), decoder, likelihood, guide).double()
        scale_tril = torch.linalg.cholesky(self.posterior_covariance) * widen
        with torch.no_grad():
            decoder.layers[0].weight.copy_(w)
            decoder.layers[0].bias.copy_(b)
            guide.head.weight.zero_()
            guide.head.weight[:latent_dim] = self.gain
            below = (
                scale_tril[guide.rows, guide.columns]
                / scale_tril.diagonal()[guide.rows]
                * latent_dim**0.5
            )
            guide.head.bias.copy_(
                torch.cat([shift - self.gain @ b, scale_tril.diagonal().log(), below])
            )

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return self.marginal.sample((n,))

    @property
    def pair(self) -> tuple:
        return self.vae.model, self.vae.guide


def assert_gradient_of(vae, x, log_p):
    """The ELBO of an exact guide has the gradient of `log_p`, the mean over x, and no noise."""
    wanted = torch.autograd.grad(log_p, [*vae.parameters()])
    svi = SVI(vae.model, vae.guide, torch.optim.SGD, ELBO(), reduction="mean")
    for _ in range(2):
        vae.zero_grad()
        svi.differentiate(x)
        for p, g in zip(vae.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, -g, rtol=1e-8, atol=1e-8)
