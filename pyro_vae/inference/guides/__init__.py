"""Guides q(z|x)."""

from pyro_vae.inference.guides.base import Guide, HeadGuide
from pyro_vae.inference.guides.flows import IAF, NSF, Householder, Planar, Sylvester
from pyro_vae.inference.guides.gaussian import Delta, FullRank, LowRank, MeanField, Mixture
from pyro_vae.inference.guides.local import Local, SemiAmortized

__all__ = [
    "IAF",
    "NSF",
    "Delta",
    "FullRank",
    "Guide",
    "HeadGuide",
    "Householder",
    "Local",
    "LowRank",
    "MeanField",
    "Mixture",
    "Planar",
    "SemiAmortized",
    "Sylvester",
]
