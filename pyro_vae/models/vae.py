"""The generative model and the pair: plain Pyro."""

from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae._abstract import AbstractProgram
from pyro_vae._errors import InputError
from pyro_vae.inference.guides.base import Guide
from pyro_vae.inference.inputs import SAMPLE, as_data, moments
from pyro_vae.models.likelihoods.base import Likelihood, units
from pyro_vae.models.priors import Prior
from pyro_vae.models.representation import Representation
from pyro_vae.networks import Network, Standardised


class Model(AbstractProgram):
    """The Pyro model `p(z) p(x|z)`: sites `z` and `x` in the plate `data`.

    Args:
        prior: `p(z)`.
        decoder: any module, `(..., latent_dim) -> (..., channels, *shape)`.
        likelihood: `p(x|z)` from the decoder's output.
    """

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """`log p(x|z) + log p(z)`: `(batch, *shape)` and `(..., batch, latent_dim)` -> `(..., batch)`."""
        return self.likelihood(self.decoder(z)).log_prob(x) + self.prior().log_prob(z)


class VAE(AbstractProgram):
    """A variational autoencoder: a model `p(z) p(x|z)` and a guide `q(z|x)`, one module with one `state_dict`.

    Args:
        prior: `p(z)`, for example `StandardNormal(16)`.
        decoder: any module, `(..., latent_dim) -> (..., channels, *shape)`.
        likelihood: `p(x|z)`, for example `Bernoulli((28, 28))`.
        guide: `q(z|x)`, for example `MeanField(encoder, 16)`.

    Raises:
        InputError: for a prior that cannot be made from the guide (`VampPrior`).

    Swapping a part is one word; everything else stays:

    >>> from pyro_vae import MLP, Bernoulli, FullRank, StandardNormal
    >>> encoder, decoder = MLP((28, 28)), MLP((16,), (1, 28, 28))
    >>> vae = VAE(StandardNormal(16), decoder, Bernoulli((28, 28)), FullRank(encoder, 16))
    >>> vae.sample(3).shape
    torch.Size([3, 28, 28])
    """

    guide: Any  # a Guide, or any module with `encoder`, `posterior` and a Pyro program as its call

    def __init__(
        self, prior: Prior, decoder: nn.Module, likelihood: Likelihood, guide: nn.Module
    ) -> None:
        super().__init__()
        self.model = Model(prior, decoder, likelihood)
        self.guide = guide
        for part, other in ((prior, guide), (guide, self.model)):
            if isinstance(part, Prior | Guide):
                part.connect(other)  # type: ignore[arg-type]
        self._first = [p.detach().flatten()[:8].clone() for p in self.parameters()]

    @property
    def fresh(self) -> bool:
        """Whether all weights are still as they were made: neither trained, nor loaded, nor set from data.

        Seen from their first values; a decoder that was trained before has a bias in its last layer.
        """
        if not all(p.requires_grad for p in self.parameters()):
            return False
        layer = getattr(self.model.decoder, "output_layer", None)
        if layer is not None and layer.bias is not None and bool(layer.bias.any()):
            return False
        now = [p.detach().flatten()[:8] for p in self.parameters()]
        pairs = zip(self._first, now, strict=False)
        return len(now) == len(self._first) and all(torch.equal(a.to(b), b) for a, b in pairs)

    def forward(self, x: Tensor) -> Distribution:
        """`p(x'|z)` at one draw `z ~ q(z|x)`: encode, sample, decode."""
        return self.decode(self.guide(x))

    def encode(self, x: Tensor) -> Distribution:
        """`q(z|x)`: `(batch, *shape)` -> a distribution of batch shape `(batch,)`, event shape `(latent_dim,)`."""
        guide, x = self.guide, as_data(self.model, x, values=False)
        return guide.given(x) if isinstance(guide, Guide) else guide.posterior(guide.encoder(x))

    def decode(self, z: Tensor) -> Distribution:
        """`p(x|z)`: `(..., latent_dim)` -> a distribution of batch shape `(...)`, event shape `shape`.

        Raises:
            InputError: for latents of another length.
        """
        z = torch.as_tensor(z, dtype=self._type.dtype, device=self._type.device)
        latent_dim = self.model.prior.latent_dim
        if z.ndim == 0 or z.shape[-1] != latent_dim:
            raise InputError(
                f"z has shape {tuple(z.shape)} and the model takes (..., {latent_dim})"
            )
        return self.model.likelihood(self.model.decoder(z))

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """`n` draws from `p(x)`, shape `(n, *shape)`; with `mean=True` the mean of `p(x|z)` at `n` draws of `z`."""
        p = self.decode(self.model.prior().sample((n,)))
        return p.mean if mean else p.sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of `p(x'|z)` at one draw `z ~ q(z|x)`: `(batch, *shape) -> (batch, *shape)`."""
        return self(as_data(self.model, x, values=False)).mean

    @torch.no_grad()
    def posterior_mean(self, x: Tensor, *, draws: int = 100) -> Tensor:
        """`E[z|x]` under the guide, `(batch, latent_dim)`: in closed form, or by `draws` draws where there is none."""
        q = self.encode(x)
        try:
            return q.mean
        except NotImplementedError:
            return q.sample((draws,)).mean(0)

    @property
    def _type(self) -> Tensor:
        return next(p for p in self.parameters() if p.is_floating_point())

    def start(self, x: Any) -> None:
        """`initialise` from the data `x`, `(N, *shape)`, as the training program does; `fit` calls it where `fresh`.

        Reals beyond [0, 1] count as columns on scales of their own.
        """
        x = as_data(self.model, x)
        mean, std = moments(x)
        n, wanted = len(x), self.model.prior.examples
        some = x[: min(n, SAMPLE)]
        count = min(n, wanted)
        examples = x[torch.arange(count) * n // count] if wanted else None
        real = Representation.of(some) is Representation.REAL
        self.initialise(mean, std, standardise=real, examples=examples)

    @torch.no_grad()
    def initialise(
        self,
        mean: Tensor,
        std: Tensor,
        *,
        standardise: bool = False,
        examples: Tensor | None = None,
    ) -> None:
        """Start from the data's `mean` and standard deviation `std`, each of shape `shape`, instead of from zero.

        Sets the decoder's last layer (where it is a `Network` that has one), the likelihood's scale, and the units of a
        `Standardised` encoder: one for all elements, or with `standardise`, for elements on scales of their own, one
        for each. Then the decoder works in standard deviations too; p(x|z) stays a density over x as it is. A
        `VampPrior` takes `examples`, `(n, *shape)`, as its pseudo-inputs.
        """
        likelihood, decoder = self.model.likelihood, self.model.decoder
        likelihood.initialise(mean, std, standardise=standardise)
        if isinstance(self.guide.encoder, Standardised):
            shift, spread = units(mean, std, standardise=standardise)
            self.guide.encoder.shift.copy_(shift)
            self.guide.encoder.spread.copy_(spread)
        if examples is not None:
            self.model.prior.initialise(examples)
        h = likelihood.starting_output(mean, std)
        if isinstance(decoder, Network) and likelihood.output_spread is not None:
            decoder.set_output_spread(likelihood.output_spread, self.model.prior().sample((256,)))
        if isinstance(decoder, Network) and h is not None:
            decoder.set_output_bias(h)
