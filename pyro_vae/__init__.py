"""Variational autoencoders in Pyro: any prior, likelihood, guide and objective; a log-likelihood with its errors."""

from pyro_vae._abstract import AbstractProgram, variants
from pyro_vae._errors import InputError
from pyro_vae.build import Spec, build
from pyro_vae.checkpoint import load
from pyro_vae.data import Bridge, DataSet, Split, load_data
from pyro_vae.inference.diagnostics import pareto_k
from pyro_vae.inference.estimators import LogMarginal, elbo, log_marginal
from pyro_vae.inference.fit import History, fit
from pyro_vae.inference.guides import FullRank, Guide, MeanField
from pyro_vae.inference.importance import Terms, terms
from pyro_vae.inference.objectives import CIWAE, ELBO, IWAE, MIWAE, Objective, Renyi
from pyro_vae.inference.svi import SVI
from pyro_vae.models.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflated,
)
from pyro_vae.models.priors import GaussianMixture, Prior, StandardNormal
from pyro_vae.models.representation import Representation
from pyro_vae.models.vae import VAE, Model
from pyro_vae.networks import MLP, ConvNet, GatedConv, GatedMLP, Linear, Network, ResNet

__version__ = "0.1.0"

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MLP",
    "SVI",
    "VAE",
    "AbstractProgram",
    "Bernoulli",
    "Beta",
    "Bridge",
    "Categorical",
    "ContinuousBernoulli",
    "ConvNet",
    "DataSet",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FullRank",
    "GatedConv",
    "GatedMLP",
    "Gaussian",
    "GaussianMixture",
    "Guide",
    "History",
    "InputError",
    "Likelihood",
    "Linear",
    "LogMarginal",
    "MeanField",
    "Model",
    "NegativeBinomial",
    "Network",
    "Objective",
    "Poisson",
    "Prior",
    "Renyi",
    "Representation",
    "ResNet",
    "Spec",
    "Split",
    "StandardNormal",
    "StudentT",
    "Terms",
    "ZeroInflated",
    "build",
    "elbo",
    "fit",
    "load",
    "load_data",
    "log_marginal",
    "pareto_k",
    "terms",
    "variants",
]
