"""Data sets: where they come from, what their numbers are, and how they reach a likelihood."""

from pyro_vae.data.bridges import Bridge
from pyro_vae.data.fields import Data, Split, evenly
from pyro_vae.data.named import EPOCHS, NAMED
from pyro_vae.data.sets import SPLITS, DataSet, load_data

__all__ = [
    "EPOCHS",
    "NAMED",
    "SPLITS",
    "Bridge",
    "Data",
    "DataSet",
    "Split",
    "evenly",
    "load_data",
]
