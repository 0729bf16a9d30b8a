"""Deep linear-Gaussian pairs, whose log p(x), posterior and messages between layers are known in closed form."""

from itertools import pairwise

import torch
from torch.distributions import MultivariateNormal

from pyro_vae import MLP, VAE, Gaussian, MeanField, StandardNormal
from pyro_vae.models.conditionals import Ladder, Layered
from pyro_vae.models.priors import GaussianLayer


class Deep:
    """`z_L ~ N(0, I)`, `z_l|z_{l+1} ~ N(W z_{l+1} + b, s^2 I)`, `x|z_1` the same, of orthogonal columns of one length.

    Then what x says of a layer is a Gaussian with a diagonal covariance, and a ladder is the exact posterior.

    Args:
        dims: lengths of x, z1, z2, ..., each no longer than the one before.
        wrong: what is added to the logarithms of the guide's scales.
        guide: `'ladder'`, the exact posterior unless it is `wrong`; `'chain'`, a mean-field guide that is not trained.
    """

    def __init__(self, dims=(6, 4, 2), *, wrong=0.0, guide="ladder"):
        generator = torch.Generator().manual_seed(len(dims))

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.dims, size = dims, dims[0]
        scales = [0.5 + 0.1 * i for i in range(len(dims) - 1)]
        lengths = [1.5 - 0.1 * i for i in range(len(dims) - 1)]
        weights = [
            length * torch.linalg.qr(normal(below, above)).Q
            for below, above, length in zip(dims, dims[1:], lengths, strict=False)
        ]
        shifts = [normal(below) for below in dims[:-1]]

        # Mean and covariance of x, from the top down.
        mean = torch.zeros(dims[-1]).double()
        covariance = torch.eye(dims[-1]).double()
        for w, b, s in zip(weights[::-1], shifts[::-1], scales[::-1], strict=True):
            mean = w @ mean + b
            covariance = w @ covariance @ w.T + s**2 * torch.eye(len(b)).double()
        self.marginal = MultivariateNormal(mean, covariance)

        # The parts, with these numbers in them.
        decoder = MLP((dims[1],), (1, size), hidden=())
        pairs = list(pairwise(dims[1:]))
        networks = [MLP((above,), (2, below), hidden=()) for below, above in pairs]
        layers = [
            GaussianLayer(network, below)
            for network, (below, _) in zip(networks, pairs, strict=True)
        ]
        with torch.no_grad():
            decoder.layers[0].weight.copy_(weights[0])
            decoder.layers[0].bias.copy_(shifts[0])
            for network, w, b, s in zip(
                networks, weights[1:], shifts[1:], scales[1:], strict=True
            ):
                network.layers[0].weight.zero_()
                network.layers[0].weight[: len(b)] = w
                network.layers[0].bias[: len(b)] = b
                network.layers[0].bias[len(b) :] = torch.tensor(s).log()
        made = (
            self._ladder(weights, shifts, scales, wrong)
            if guide == "ladder"
            else self._chain()
        )
        likelihood = Gaussian((size,), scale=scales[0])
        prior = StandardNormal(dims[-1])
        self.vae = VAE(prior, decoder, likelihood, made, layers=layers).double()
        if guide == "ladder":
            self._set(made)

    def _ladder(self, weights, shifts, scales, wrong):
        """The guide, once the messages that go up are known: `m_l = A_l x + a_l`, of one precision each."""
        size = self.dims[0]
        gain, shift = torch.eye(size).double(), torch.zeros(size).double()
        precision, self.messages = float("inf"), []
        for i, (w, b, s) in enumerate(zip(weights, shifts, scales, strict=True)):
            square = float(w[:, 0].square().sum())
            gain, shift = w.T @ gain / square, w.T @ (shift - b) / square
            precision = square / (s**2 + 1 / precision)
            mean, bias, own = gain, shift, precision
            if i == len(weights) - 1:  # the top is multiplied with its prior
                own = precision + 1
                mean, bias = gain * precision / own, shift * precision / own
            self.messages.append((mean, bias, -0.5 * torch.tensor(own).log() + wrong))
        bodies = [MLP((size,), hidden=()) for _ in weights]
        return Ladder(bodies, self.dims[1:])

    def _set(self, guide):
        with torch.no_grad():
            for head, (gain, shift, log_scale) in zip(
                guide.heads, self.messages, strict=True
            ):
                count = len(gain)
                head.weight.zero_()
                head.weight[:count], head.bias[:count] = gain, shift
                head.bias[count:] = log_scale

    def _chain(self):
        torch.manual_seed(0)
        read = [self.dims[0], *self.dims[1:-1]]
        guides = [
            MeanField(MLP((n,), hidden=(16,)), d)
            for n, d in zip(read, self.dims[1:], strict=True)
        ]
        return Layered(guides)

    def sample(self, n):
        """Data of the model itself."""
        return self.marginal.sample((n,))
