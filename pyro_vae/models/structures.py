"""Structures: which sites a model and its guide have, and how both are made of parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from pyro_vae.foundation.checks import Count
from pyro_vae.foundation.sizes import Declared
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.priors import Prior
from pyro_vae.models.vae import VAE
from pyro_vae.networks.base import Shape, with_mask


class Parts(NamedTuple):
    """What a structure is filled with: functions that make each part in the size that a factor needs.

    Attributes:
        prior: `latent_dim -> p(z)`.
        encoder: `shape -> network`.
        decoder: `latent_dim, output_shape -> network`.
        likelihood: `shape -> p(x|.)`.
        guide: `encoder, latent_dim -> q(z|.)`.
        missing: whether elements of the data may be missing; then the encoder reads a mask beside them.
    """

    prior: Callable[[Count], Prior]
    encoder: Callable[[Shape], nn.Module]
    decoder: Callable[[Count, Shape], nn.Module]
    likelihood: Callable[[Shape], Likelihood]
    guide: Callable[[nn.Module, Count], Guide]
    missing: bool = False


class Structure(Declared, ABC):
    """The formula of a pair, such as `p(z) p(x|z); q(z|x)`: a class for each, its docstring begins with it.

    To write one: take what it needs as keyword arguments, and make the pair from `Parts`.
    """

    @abstractmethod
    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        """The pair for data of `shape`, with fresh weights; random numbers are drawn part by part, in one order."""


class Vae(Structure):
    """`p(z) p(x|z); q(z|x)`: one vector of latents, one tensor of data.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes.
    """

    def build(self, parts: Parts, shape: Shape, latent_dim: Count) -> VAE:
        likelihood = parts.likelihood(shape)
        seen = likelihood.seen_shape
        encoder = parts.encoder(with_mask(shape, seen) if parts.missing else seen)
        decoder = parts.decoder(latent_dim, likelihood.output_shape)
        guide = parts.guide(encoder, latent_dim)
        prior = parts.prior(latent_dim)
        return VAE(prior, decoder, likelihood, guide, missing=parts.missing)
