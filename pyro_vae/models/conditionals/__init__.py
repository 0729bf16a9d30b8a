"""Guides q(z|x)."""

from pyro_vae.models.conditionals.base import Guide, HeadGuide
from pyro_vae.models.conditionals.codebook import Codebook
from pyro_vae.models.conditionals.discrete import Categorical
from pyro_vae.models.conditionals.exact import Exact
from pyro_vae.models.conditionals.exact_layers import ExactLayers
from pyro_vae.models.conditionals.experts import MixtureOfExperts, ProductOfExperts
from pyro_vae.models.conditionals.flows import IAF, NSF, Householder, Planar, Sylvester
from pyro_vae.models.conditionals.gaussian import (
    Delta,
    FullRank,
    LowRank,
    MeanField,
    Mixture,
)
from pyro_vae.models.conditionals.layered import Ladder, Layered
from pyro_vae.models.conditionals.local import Local, SemiAmortized
from pyro_vae.models.conditionals.moved import Moved

__all__ = [
    "IAF",
    "NSF",
    "Categorical",
    "Codebook",
    "Delta",
    "Exact",
    "ExactLayers",
    "FullRank",
    "Guide",
    "HeadGuide",
    "Householder",
    "Ladder",
    "Layered",
    "Local",
    "LowRank",
    "MeanField",
    "Mixture",
    "MixtureOfExperts",
    "Moved",
    "Planar",
    "ProductOfExperts",
    "SemiAmortized",
    "Sylvester",
]
