"""Likelihoods p(x|z), and the representation of data that each accepts."""

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae._errors import InputError
from pyro_vae.models.representation import Representation
from pyro_vae.networks import Shape


class Likelihood(nn.Module, ABC):
    """A likelihood `p(x|z)`: a normalised density or mass over data of `shape`, from the decoder's output.

    To write one: take `shape`, set `support` (the representation of data it accepts) and `channels` (decoder outputs per
    element of x), and return from `forward` a distribution of batch shape `(...)` and event shape `shape`. `Bernoulli` is
    the simplest example. Log-densities are in nats per datum, never averaged over elements.
    """

    support: Representation
    channels: int = 1

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def forward(self, h: Tensor) -> Distribution:
        """`(..., channels, *shape)` -> a distribution of batch shape `(...)`, event shape `shape`."""

    def check(self, x: Tensor) -> None:
        """Raise `InputError` unless every value of `x` is one that this likelihood accepts."""
        if not self.support.holds(x):
            name = type(self).__name__
            raise InputError(f"x holds values that the {name} likelihood does not accept: it takes {self.support.value}")

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """The decoder output `(channels, *shape)` at which `p(x|z)` has the data's mean and standard deviation.

        Training starts from there; `None` where that has no meaning.
        """
        return None

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:  # noqa: B027  # most have nothing to set
        """Set the likelihood's own parameters and units from the mean and standard deviation of each element of x.

        With `standardise` the elements are on scales of their own, so that the decoder's output should count in
        standard deviations; the density stays one over x as it is.
        """


class Bernoulli(Likelihood):
    """`p(x|z) = prod_i p_i^x_i (1 - p_i)^(1 - x_i)`, with `p = sigmoid(decoder(z))`: binary data.

    For grey images choose a binarization; the sum over pixels of grey values is not the density of anything. Source:
    Kingma & Welling 2013, Auto-Encoding Variational Bayes, appendix C.1.

    >>> Bernoulli((2,))(torch.zeros(1, 2)).log_prob(torch.ones(2))  # 2 log(1/2)
    tensor(-1.3863)
    """

    support = Representation.BINARY

    def forward(self, h: Tensor) -> Distribution:
        logits = h.squeeze(-len(self.shape) - 1)  # (..., *shape)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(len(self.shape))

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        # A pixel that is never lit would start at -inf: start as if it were lit once in a thousand data.
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3)).unsqueeze(0)


class Gaussian(Likelihood):
    """`p(x|z) = prod_i N(x_i; loc_i(z), scale_i)`: real data.

    `loc = shift + spread * decoder(z)`, with `shift = 0` and `spread = 1` unless the data are on scales of their own, when
    `initialise` sets them to the mean and standard deviation of each element. Learned scales count in units of `spread`.

    Args:
        shape: shape of one datum.
        scale: where the standard deviation comes from: a positive number (fixed at it), `'learned'` (one learned number),
            `'element'` (one learned number for each element of x) or `'network'` (a second decoder channel).
        min_scale: the smallest standard deviation that can be learned, in units of `spread`; the density of an element that never varies would
            otherwise grow without bound. It has no effect on a fixed scale.

    Raises:
        InputError: for another `scale`, or a `min_scale` that is not positive.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes, appendix C.2; Rybkin, Daniilidis & Levine 2021, Simple
    and Effective VAE Training with Calibrated Decoders (learned scale).

    >>> Gaussian((2,), scale=1.0)(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    support = Representation.REAL
    log_scale: Tensor
    shift: Tensor
    spread: Tensor

    def __init__(self, shape: Shape, *, scale: float | str = "learned", min_scale: float = 1e-3) -> None:
        super().__init__(shape)
        if scale not in ("learned", "element", "network") and (isinstance(scale, str) or not 0 < scale < float("inf")):
            choices = "a positive number, 'learned', 'element' or 'network'"
            raise InputError(f"scale={scale!r} of the Gaussian likelihood must be {choices}")
        if not 0 < min_scale < float("inf"):
            raise InputError(f"min_scale={min_scale!r} of the Gaussian likelihood must be positive")
        self.scale: Any = scale
        self.min_scale = min_scale
        self.channels = 2 if scale == "network" else 1
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))
        if scale in ("learned", "element"):
            self.log_scale = nn.Parameter(torch.zeros(self.shape if scale == "element" else ()))

    def forward(self, h: Tensor) -> Distribution:
        loc, *rest = h.unbind(-len(self.shape) - 1)  # each (..., *shape)
        fixed = not isinstance(self.scale, str)
        scale = self.scale if fixed else self.spread * (self.min_scale + (rest[0] if rest else self.log_scale).exp())
        return dist.Normal(torch.addcmul(self.shift, self.spread, loc), scale, validate_args=False).to_event(len(self.shape))

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        loc = (mean - self.shift) / self.spread
        return torch.stack([loc, self._log_scale_of(std)][: self.channels])

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        if standardise:
            self.shift.copy_(mean)
            self.spread.copy_(std.where(std > 0, 1.0))
        if self.scale in ("learned", "element"):
            typical = self._log_scale_of(std)
            self.log_scale.copy_(typical if self.scale == "element" else (2 * typical).exp().mean().log() / 2)

    def _log_scale_of(self, std: Tensor) -> Tensor:
        """The `log_scale` of each element at which it has the standard deviation `std`, or the least one."""
        return (std / self.spread).clamp_min(self.min_scale).log()
