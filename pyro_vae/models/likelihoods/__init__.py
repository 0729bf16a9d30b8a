"""Likelihoods p(x|z), and the representation of data that each accepts."""

from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.likelihoods.columns import Columns
from pyro_vae.models.likelihoods.continuous import (
    Beta,
    ContinuousBernoulli,
    Gaussian,
    Laplace,
    StudentT,
)
from pyro_vae.models.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflated
from pyro_vae.models.likelihoods.discrete import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
)
from pyro_vae.models.likelihoods.fields import Fields
from pyro_vae.models.likelihoods.masked import SelfMasking
from pyro_vae.models.likelihoods.mixture import DiscretizedLogisticMixture
from pyro_vae.models.likelihoods.ordinal import Ordinal
from pyro_vae.models.likelihoods.positive import Gamma, LogNormal

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Fields",
    "Gamma",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "SelfMasking",
    "StudentT",
    "ZeroInflated",
]
