"""Encoder and decoder bodies: deterministic maps from (..., *in_shape) to (..., *out_shape)."""

from pyro_vae.networks.base import (
    ACTIVATIONS,
    Network,
    Shape,
    Standardised,
    features,
    with_mask,
)
from pyro_vae.networks.conv import ConvNet, GatedConv, ResNet
from pyro_vae.networks.corruptions import Corruption, Mask, Noise, Salt
from pyro_vae.networks.dense import MLP, GatedMLP, Linear
from pyro_vae.networks.fields import FieldDecoder, FieldEncoder

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvNet",
    "Corruption",
    "FieldDecoder",
    "FieldEncoder",
    "GatedConv",
    "GatedMLP",
    "Linear",
    "Mask",
    "Network",
    "Noise",
    "ResNet",
    "Salt",
    "Shape",
    "Standardised",
    "features",
    "with_mask",
]
