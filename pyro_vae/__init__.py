"""Variational autoencoders in Pyro: any prior, likelihood, guide and objective; a log-likelihood with its errors."""

from pyro_vae._abstract import AbstractProgram, variants
from pyro_vae._errors import InputError
from pyro_vae.build import Spec, build
from pyro_vae.checkpoint import load
from pyro_vae.data import Bridge, DataSet, Split, load_data
from pyro_vae.inference.adaptive import Effort, log_marginal_adaptive
from pyro_vae.inference.annealing import (
    AnnealedEstimate,
    Sandwich,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
)
from pyro_vae.inference.compiled import CompileWarning
from pyro_vae.inference.diagnostics import pareto_k
from pyro_vae.inference.estimators import LogMarginal, elbo, log_marginal
from pyro_vae.inference.fit import History, fit
from pyro_vae.inference.gaps import Gaps, inference_gaps
from pyro_vae.inference.guides import (
    IAF,
    NSF,
    Delta,
    FullRank,
    Guide,
    Householder,
    Local,
    LowRank,
    MeanField,
    Mixture,
    Planar,
    SemiAmortized,
    Sylvester,
)
from pyro_vae.inference.importance import Terms, terms
from pyro_vae.inference.latents import LatentHealth, activity, latent_health
from pyro_vae.inference.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    STL,
    Annealed,
    BetaTC,
    Capacity,
    DReG,
    FreeBits,
    InfoVAE,
    MeanFieldELBO,
    Objective,
    Renyi,
    ReweightedWakeSleep,
)
from pyro_vae.inference.outliers import AnomalyScores, Detection, Separation, anomaly_scores, detection
from pyro_vae.inference.refinement import RefinedGuide, log_marginal_refined, refine
from pyro_vae.inference.svi import SVI
from pyro_vae.models import likelihoods, priors
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
from pyro_vae.models.priors import Flow, GaussianMixture, Prior, StandardNormal, VampPrior
from pyro_vae.models.representation import Representation
from pyro_vae.models.vae import VAE, Model
from pyro_vae.networks import MLP, ConvNet, GatedConv, GatedMLP, Linear, Network, ResNet

__version__ = "0.1.0"

__all__ = [
    "CIWAE",
    "ELBO",
    "IAF",
    "IWAE",
    "MIWAE",
    "MLP",
    "NSF",
    "PIWAE",
    "STL",
    "SVI",
    "VAE",
    "AbstractProgram",
    "Annealed",
    "AnnealedEstimate",
    "AnomalyScores",
    "Bernoulli",
    "Beta",
    "BetaTC",
    "Bridge",
    "Capacity",
    "Categorical",
    "CompileWarning",
    "ContinuousBernoulli",
    "ConvNet",
    "DReG",
    "DataSet",
    "Delta",
    "Detection",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Effort",
    "Flow",
    "FreeBits",
    "FullRank",
    "Gaps",
    "GatedConv",
    "GatedMLP",
    "Gaussian",
    "GaussianMixture",
    "Guide",
    "History",
    "Householder",
    "InfoVAE",
    "InputError",
    "LatentHealth",
    "Likelihood",
    "Linear",
    "Local",
    "LogMarginal",
    "LowRank",
    "MeanField",
    "MeanFieldELBO",
    "Mixture",
    "Model",
    "NegativeBinomial",
    "Network",
    "Objective",
    "Planar",
    "Poisson",
    "Prior",
    "RefinedGuide",
    "Renyi",
    "Representation",
    "ResNet",
    "ReweightedWakeSleep",
    "Sandwich",
    "SemiAmortized",
    "Separation",
    "Spec",
    "Split",
    "StandardNormal",
    "StudentT",
    "Sylvester",
    "Terms",
    "VampPrior",
    "ZeroInflated",
    "activity",
    "annealed_importance_sampling",
    "anomaly_scores",
    "bidirectional_monte_carlo",
    "build",
    "detection",
    "elbo",
    "fit",
    "inference_gaps",
    "latent_health",
    "likelihoods",
    "load",
    "load_data",
    "log_marginal",
    "log_marginal_adaptive",
    "log_marginal_refined",
    "pareto_k",
    "priors",
    "refine",
    "terms",
    "variants",
]
