"""Priors, p(z): the members of `pyro_vae.models.priors` under a short name."""

from pyro_vae.models.priors import *
from pyro_vae.models.priors import __all__
