"""Guides, q(z|x): the members of `pyro_vae.models.conditionals` under a short name."""

from pyro_vae.models.conditionals import *
from pyro_vae.models.conditionals import __all__
