"""Likelihoods, p(x|z): the members of `pyro_vae.models.likelihoods` under a short name."""

from pyro_vae.models.likelihoods import *
from pyro_vae.models.likelihoods import __all__
