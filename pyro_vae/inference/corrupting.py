"""Training on corrupted data: encoders see x~, densities x."""

from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import Corruption
from pyro_vae.networks.corruptions import corrupting


def bodies_of(guide: Any) -> list[nn.Module]:
    """The networks by which a guide reads data; none where it has no encoder."""
    if not getattr(guide, "amortised", True):
        return []
    if hasattr(guide, "bodies"):
        return [*guide.bodies]
    encoder = getattr(guide, "encoder", None)
    return [] if encoder is None else [encoder]


def corrupted(
    guide: Any, corruption: Corruption | None
) -> AbstractContextManager[None]:
    """Inside, the encoders of a guide in training mode see corrupted data.

    Raises:
        InputError: for a guide without an encoder, and for what is no corruption.
    """
    if corruption is None:
        return corrupting([], None)
    if not isinstance(corruption, Corruption):
        raise InputError(
            f"corrupt={corruption!r} must be a Corruption such as Noise(scale=0.3) of pyro_vae.networks"
        )
    bodies = bodies_of(guide)
    if not bodies:
        raise InputError(
            f"corruption is of what an encoder sees, and the guide {type(guide).__name__} has none"
        )
    return corrupting(bodies, corruption)
