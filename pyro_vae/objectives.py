"""Objectives, bounds on log p(x): the members of `pyro_vae.inference.objectives` under a short name."""

from pyro_vae.inference.objectives import *
from pyro_vae.inference.objectives import __all__
