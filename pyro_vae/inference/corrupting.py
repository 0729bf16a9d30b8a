"""Training on corrupted data: encoders see x~, densities x."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import Corruption, FieldEncoder, Standardised
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


@torch.no_grad()
def corrupted_data(guide: Any, x: Tensor, corruption: Corruption) -> Tensor:
    """`x~` in the units of x, `(N, *shape)`: what the encoder of a guide would see in training, for a look at it.

    `vae.reconstruct(corrupted_data(vae.guide, x, corruption))` is x denoised.

    Raises:
        InputError: for a guide without an encoder, and for one that sees x by something else than x in its units, as
            that of tables of several kinds, of counts and of several fields does.
    """
    body = check_shown(guide, corruption)
    if not isinstance(body, Standardised):
        return corruption(x)
    standard = (x - body.shift) / body.spread
    return body.shift + body.spread * corruption(standard, standard=True)


def check_shown(guide: Any, corruption: Corruption) -> Any:
    """The network that reads data, once what it sees of corrupted ones can be shown as data; else `InputError`."""
    corrupted(guide, corruption)  # which may be refused
    body: Any = bodies_of(guide)[0]
    if isinstance(body, FieldEncoder) or getattr(body, "view", None) is not None:
        raise InputError(
            "the encoder sees these data by categories, logarithms or fields, where corrupted ones cannot be shown as "
            "data: denoise is for bits, numbers in [0, 1] and reals"
        )
    return body
