"""What is done in training to the data that encoders see, so that they learn what is left when it is undone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pyro_vae.foundation.checks import Positive, share
from pyro_vae.foundation.sizes import Declared
from pyro_vae.networks.base import Standardised
from pyro_vae.networks.fields import FieldEncoder

Share = Annotated[float, share(zero=False, one=True)]

_off = ContextVar("_off", default=False)


class Corruption(Declared, ABC):
    """What an encoder sees of x in training: `q(z|x~)`, `x~ ~ C(x~|x)`, drawn anew at each visit.

    The density is that of the clean x, and so are validation, evaluation and all verbs of a pair: only an encoder in
    training mode sees x~. A number is in the units that the encoder counts in: those of the data, where these are bits
    or lie in [0, 1], else standard deviations from the mean, see `Standardised`. What is missing stays missing.

    With a density of z as guide this is the denoising VAE, with a point the denoising autoencoder. Where several
    networks read x, each sees a draw of its own.

    To write one: implement `corrupted`. `Noise` is the simplest example.

    Source: Vincent, Larochelle, Bengio & Manzagol 2008, Extracting and Composing Robust Features with Denoising
    Autoencoders; Im, Ahn, Memisevic & Bengio 2015, Denoising Criterion for Variational Auto-Encoding Framework.
    """

    def __call__(self, x: Tensor, *, standard: bool = False) -> Tensor:
        """`x~` for x of any shape; with `standard` x is counted in standard deviations from its mean."""
        return self.corrupted(x, standard=standard).where(~x.isnan(), x)

    @abstractmethod
    def corrupted(self, x: Tensor, *, standard: bool) -> Tensor:
        """`x~` for x of any shape, by the random numbers of torch; the caller sees to what is nan."""


class Noise(Corruption):
    """`x~ = x + scale e`, `e ~ N(0, 1)` for each element.

    Args:
        scale: of the noise, in the units that the encoder counts in.

    Raises:
        InputError: for a scale that is not positive.

    >>> _ = torch.manual_seed(0)
    >>> Noise(scale=0.1)(torch.tensor([0.5, torch.nan]))
    tensor([0.6541,    nan])
    """

    def __init__(self, *, scale: Positive = 0.3) -> None:
        self.scale = scale

    def corrupted(self, x: Tensor, *, standard: bool) -> Tensor:
        return x + self.scale * torch.randn_like(x)


class Mask(Corruption):
    """`x~ = x` or 0, the latter with probability `share` for each element; in standard units 0 is the mean.

    Args:
        share: of the elements that are blotted out, on average.

    Raises:
        InputError: for a share outside (0, 1].

    >>> _ = torch.manual_seed(0)
    >>> Mask(share=0.5)(torch.ones(6))
    tensor([0., 1., 0., 0., 0., 1.])
    """

    def __init__(self, *, share: Share = 0.5) -> None:
        self.share = share

    def corrupted(self, x: Tensor, *, standard: bool) -> Tensor:
        return x.masked_fill(torch.rand_like(x) < self.share, 0.0)


class Salt(Corruption):
    """Salt and pepper: with probability `share` an element is the largest or the smallest value, each half of the time.

    These are 1 and 0, and in standard units `size` and `-size`.

    Args:
        share: of the elements that are replaced, on average.
        size: in standard units, how far from the mean they then lie.

    Raises:
        InputError: for a share outside (0, 1] or a size that is not positive.

    >>> _ = torch.manual_seed(0)
    >>> Salt(share=0.5)(torch.full((6,), 0.5))
    tensor([1.0000, 0.5000, 0.0000, 0.0000, 1.0000, 0.5000])
    """

    def __init__(self, *, share: Share = 0.1, size: Positive = 2.0) -> None:
        self.share, self.size = share, size

    def corrupted(self, x: Tensor, *, standard: bool) -> Tensor:
        low, high = (-self.size, self.size) if standard else (0.0, 1.0)
        u = torch.rand_like(x)
        peppered = x.masked_fill(u < self.share / 2, low)
        return peppered.masked_fill((u >= self.share / 2) & (u < self.share), high)


@contextmanager
def clean() -> Iterator[None]:
    """Inside, encoders see what they are given, whatever corruption they have."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def readers(body: nn.Module) -> list[nn.Module]:
    """The networks of an encoder body that read data: itself, or that of each field."""
    return [*body.bodies] if isinstance(body, FieldEncoder) else [body]


@contextmanager
def corrupting(
    bodies: Sequence[nn.Module], corruption: Corruption | None
) -> Iterator[None]:
    """Inside, encoder bodies in training mode see corrupted data."""
    undo = [] if corruption is None else _corrupt(bodies, corruption)
    try:
        yield
    finally:
        for back in undo:
            back()


def _corrupt(bodies: Sequence[nn.Module], corruption: Corruption) -> list[Any]:
    """Let bodies see corrupted data; what undoes it."""
    undo: list[Any] = []
    for network in (network for body in bodies for network in readers(body)):
        if isinstance(network, Standardised):
            before = partial(setattr, network, "corruption", network.corruption)
            # What is missing is filled after it.
            network.corruption = partial(_seen, corruption, standard=True)
            undo.append(before)
        else:
            hook = partial(_before, corruption)
            undo.append(network.register_forward_pre_hook(hook).remove)
    return undo


def _before(corruption: Corruption, network: nn.Module, args: Any) -> Any:
    """What a network is called with, x first, in training."""
    x, *others = args
    return (_seen(corruption, x), *others) if network.training else args


def _seen(corruption: Corruption, x: Tensor, *, standard: bool = False) -> Tensor:
    return x if _off.get() else corruption(x, standard=standard)
