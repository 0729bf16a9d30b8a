"""Objectives: a bound on log p(x) is a pure function of the terms."""

from pyro_vae.inference.objectives.annealed import Annealed
from pyro_vae.inference.objectives.autoencoder import Autoencoder
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.bounds import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    MeanFieldELBO,
    Renyi,
)
from pyro_vae.inference.objectives.codes import VIMCO, GumbelSoftmax
from pyro_vae.inference.objectives.factorising import FactorVAE
from pyro_vae.inference.objectives.fields import Subsets
from pyro_vae.inference.objectives.gradients import (
    PIWAE,
    STL,
    DReG,
    ReweightedWakeSleep,
)
from pyro_vae.inference.objectives.penalties import BetaTC, Capacity, FreeBits, InfoVAE

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "STL",
    "VIMCO",
    "Annealed",
    "Autoencoder",
    "BetaTC",
    "Capacity",
    "DReG",
    "FactorVAE",
    "FreeBits",
    "GumbelSoftmax",
    "InfoVAE",
    "MeanFieldELBO",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "Subsets",
]
