"""Distributions over latents that PyTorch and Pyro lack, or have in a slower or less exact form."""

from pyro_vae.distributions.defended import Defended
from pyro_vae.distributions.mixture import DiagonalMixture
from pyro_vae.distributions.normal import DiagonalNormal, Standard
from pyro_vae.distributions.onehots import OneHots
from pyro_vae.distributions.pushforward import Pushforward, Step
from pyro_vae.distributions.words import Word, Words

__all__ = [
    "Defended",
    "DiagonalMixture",
    "DiagonalNormal",
    "OneHots",
    "Pushforward",
    "Standard",
    "Step",
    "Word",
    "Words",
]
