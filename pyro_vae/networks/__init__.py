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
from pyro_vae.networks.dense import MLP, GatedMLP, Linear

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvNet",
    "GatedConv",
    "GatedMLP",
    "Linear",
    "Network",
    "ResNet",
    "Shape",
    "Standardised",
    "features",
    "with_mask",
]
