"""Likelihoods p(x|z), and the representation of data that each accepts."""

from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.continuous import ContinuousBernoulli, Gaussian, StudentT
from pyro_vae.models.likelihoods.discrete import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    NegativeBinomial,
    Poisson,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
]
