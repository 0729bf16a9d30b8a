"""Likelihoods of counts."""

from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from pyro_vae._errors import InputError
from pyro_vae.models.likelihoods.base import Likelihood
from pyro_vae.models.representation import Representation
from pyro_vae.networks import Shape


class Poisson(Likelihood):
    """`p(x|z) = prod_i rate_i^x_i exp(-rate_i) / x_i!`, with `rate = exp(decoder(z))`: counts.

    >>> Poisson((1,))(torch.zeros(1, 1)).log_prob(torch.zeros(1))  # a rate of 1
    tensor(-1.)
    """

    support = Representation.COUNTS

    def forward(self, h: Tensor) -> Distribution:
        rate = h.squeeze(-len(self.shape) - 1).exp()  # (..., *shape)
        return dist.Poisson(rate, validate_args=False).to_event(len(self.shape))

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        return (
            mean.clamp_min(1e-3).log().unsqueeze(0)
        )  # an element that is always 0 as if it counted 1 in a thousand


class NegativeBinomial(Likelihood):
    """`p(x|z) = prod_i NB(x_i; mean_i(z), r_i)`, variance `mean + mean^2 / r`: counts that vary more than Poisson's.

    Args:
        shape: shape of one datum.
        dispersion: where `r` comes from: `'element'` (one learned number for each element) or `'network'` (a second
            decoder channel). The larger `r`, the closer to Poisson.

    Raises:
        InputError: for another `dispersion`.

    Source: Lopez, Regier, Cole, Jordan & Yosef 2018, Deep Generative Modeling for Single-Cell Transcriptomics.

    >>> round(NegativeBinomial((1,))(torch.zeros(1, 1)).log_prob(torch.zeros(1)).item(), 4)  # mean 1, r = 1: log(1/2)
    -0.6931
    """

    support = Representation.COUNTS

    def __init__(
        self, shape: Shape, *, dispersion: Literal["element", "network"] = "element"
    ) -> None:
        super().__init__(shape)
        self.channels = 2 if dispersion == "network" else 1
        self.log_r = nn.Parameter(torch.zeros(self.shape)) if dispersion == "element" else None

    def forward(self, h: Tensor) -> Distribution:
        log_mean, *rest = h.unbind(-len(self.shape) - 1)  # each (..., *shape)
        log_r = rest[0] if self.log_r is None else self.log_r
        counts = dist.NegativeBinomial(log_r.exp(), logits=log_mean - log_r, validate_args=False)
        return counts.to_event(len(self.shape))

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        log_mean = mean.clamp_min(1e-3).log()
        return torch.stack([log_mean, self._log_r_of(mean, std)][: self.channels])

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        if self.log_r is not None:
            self.log_r.copy_(self._log_r_of(mean, std))

    def _log_r_of(self, mean: Tensor, std: Tensor) -> Tensor:
        """By moments, within what a count can tell: `r = mean^2 / (variance - mean)`."""
        excess = (std.square() - mean).clamp_min(1e-6)
        return (mean.clamp_min(1e-3).square() / excess).clamp(1e-2, 1e3).log()


GATE = 0.1  # where training starts


class ZeroInflated(Likelihood):
    """`p(x|z) = prod_i g_i(z) 1[x_i = 0] + (1 - g_i(z)) p_inner(x_i|z)`: counts with more zeros than `p_inner` expects.

    The decoder's first channel is the logit of the gate `g`; the others are those of `p_inner`.

    Args:
        shape: shape of one datum.
        likelihood: makes `p_inner` from `shape`: a class of counts whose elements are independent, such as `Poisson`
            or `NegativeBinomial`, or a `functools.partial` of one.

    Raises:
        InputError: for a `likelihood` that is not one of counts.

    Source: Lambert 1992, Zero-Inflated Poisson Regression.

    >>> round(ZeroInflated((1,))(torch.zeros(2, 1)).log_prob(torch.zeros(1)).item(), 4)  # log(1/2 + exp(-1) / 2)
    -0.3799
    """

    support = Representation.COUNTS

    def __init__(
        self, shape: Shape, *, likelihood: Callable[[Shape], Likelihood] = Poisson
    ) -> None:
        super().__init__(shape)
        inner = likelihood(self.shape) if callable(likelihood) else None
        if not isinstance(inner, Likelihood) or inner.support is not Representation.COUNTS:
            raise InputError(
                f"likelihood={likelihood!r} of ZeroInflated must be one of counts, such as Poisson"
            )
        self.inner = inner
        self.channels = inner.channels + 1
        self.output_spread = inner.output_spread

    def forward(self, h: Tensor) -> Distribution:
        gate, rest = h.split([1, self.channels - 1], -len(self.shape) - 1)
        counts: Any = self.inner(rest)
        gate = gate.squeeze(-len(self.shape) - 1)  # (..., *shape)
        return _ZeroInflated(gate, counts.base_dist).to_event(len(self.shape))

    def check(self, x: Tensor) -> None:
        self.inner.check(x)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """A gate of one in ten, and the moments that the counts behind it must have."""
        h = self.inner.starting_output(*_behind_the_gate(mean, std))
        return (
            None if h is None else torch.cat([torch.full_like(mean, GATE).logit().unsqueeze(0), h])
        )

    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        self.inner.initialise(*_behind_the_gate(mean, std), standardise=standardise)


def _behind_the_gate(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the inner counts, when a zero in their place has the probability `GATE`."""
    inner = mean / (1 - GATE)
    variance = (std.square() + mean.square()) / (1 - GATE) - inner.square()
    return inner, variance.clamp_min(0).sqrt()


class _ZeroInflated(TorchDistribution):
    """Zero with probability `sigmoid(gate)`, else a draw from `counts`.

    Pyro's `ZeroInflatedDistribution` cannot expand once its mean was asked for, and then has `log 0` at large gates.
    """

    arg_constraints = {"gate": constraints.real}  # noqa: RUF012  # torch's way
    has_rsample = False

    def __init__(self, gate: Tensor, counts: Any) -> None:
        self.gate, self.counts = gate, counts.expand(gate.shape)
        super().__init__(gate.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    def expand(self, batch_shape: Any, _instance: object = None) -> "_ZeroInflated":
        return _ZeroInflated(self.gate.expand(batch_shape), self.counts)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        with torch.no_grad():
            x = self.counts.sample(sample_shape)
            return x.where(torch.rand_like(x) >= self.gate.sigmoid(), 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        gated, counted = logsigmoid(self.gate), logsigmoid(-self.gate) + self.counts.log_prob(x)
        # torch.logaddexp(gated, counted), whose second derivative is nan where one of them is far below the other
        return (gated + softplus(counted - gated)).where(x == 0, counted)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.gate) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        """`(1 - g) (v + g m^2)` for counts of mean `m` and variance `v`."""
        spread = self.counts.variance + self.gate.sigmoid() * self.counts.mean.square()
        return torch.sigmoid(-self.gate) * spread
