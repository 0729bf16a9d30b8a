"""A real target y for each datum as a latent of its own, beside the vector z."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.foundation.abstract import context_of, movable
from pyro_vae.foundation.checks import Count, NotNegative
from pyro_vae.foundation.errors import InputError
from pyro_vae.networks import features as width_of

WEIGHT = 1.0  # of labels, beside the bound of a datum
FLOOR = 1e-3  # the least standard deviation of q(y|x), in those of the target


class Units(nn.Module):
    """Mean and standard deviation of labels as they are stored: y is `(label - mean) / std`.

    >>> Units(mean=10.0, std=2.0).standardised(torch.tensor([10.0, 14.0])).tolist()
    [0.0, 2.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    @torch.no_grad()
    def meet(self, labels: Tensor) -> None:
        """Take mean and deviation of labels, `(N,)`, nan where there is none, in place of 0 and 1."""
        known = labels[~labels.isnan()].double()
        if len(known) > 1 and (std := known.std(correction=0)) > 0 and self.plain:
            self.mean.copy_(known.mean())
            self.std.copy_(std)

    @property
    def plain(self) -> bool:
        """Whether labels are counted as they are stored."""
        return float(self.mean) == 0 and float(self.std) == 1

    def standardised(self, labels: Tensor) -> Tensor:
        """`(label - mean) / std`, on the host and in double precision, which keeps numbers far from 0 apart."""
        return (labels.cpu().double() - self.mean.cpu()) / self.std.cpu()

    def stored(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Means and standard deviations of y, `(N,)`, as those of labels, `(N, 2)`."""
        return torch.stack([self.mean + self.std * loc, self.std * scale], -1)


class TargetPrior(nn.Module):
    """`p(y) = N(0, 1)` of a target in standard units. The density of a label is one over labels as they are stored."""

    size = 1  # numbers that a label takes
    log_unit: Tensor

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units = units
        self.register_buffer("log_unit", units.std.log())

    def forward(self) -> dist.Normal:
        zero = torch.zeros_like(self.log_unit)
        return dist.Normal(zero, zero + 1.0, validate_args=False)

    def count_in(self, log_unit: float) -> None:
        """Say that the numbers that the pair is given count labels in a unit with this logarithm, in nats."""
        self.log_unit.copy_(self.units.std.log() + log_unit)


class Regressor(nn.Module):
    """`q(y|x) = N(mu(x), sigma(x)^2)` in standard units of y, both from the features of a network.

    Args:
        network: any module, `(..., *shape) -> (..., features)`; one with a `context` is called with `(x, c)`.
        units: of the labels.
        weight: alpha, by which `log q(label|x)` of a labelled datum is added to what is maximised.
        features: the network's output width, needed only for one that has no `out_shape`.
    """

    size = 1

    def __init__(
        self,
        network: nn.Module,
        units: Units,
        *,
        weight: NotNegative = WEIGHT,
        features: Count | None = None,
    ) -> None:
        super().__init__()
        self.network, self.units, self.weight = network, units, float(weight)
        self.features = width_of(network, features)
        self.head = nn.Linear(self.features, 2)
        with torch.no_grad():  # as wide as p(y), for every datum
            self.head.weight[1] = 0.0
            self.head.bias[1] = 0.0

    @property
    def each(self) -> Tensor:
        """A number, in the type of the parameters."""
        return self.head.bias[:1]

    @property
    def context(self) -> int:
        """How many numbers of a condition the network reads beside x."""
        return context_of(self.network)

    def forward(self, x: Tensor, *c: Tensor) -> dist.Normal:
        parameters = movable("y", lambda: self.head(self.network(x, *c)))
        loc, log_scale = parameters.unbind(-1)
        return dist.Normal(loc, FLOOR + log_scale.exp(), validate_args=False)


class Targets(nn.Module):
    """A real target `y` for each datum: `p(y) = N(0, 1)` in the model and `q(y|x)` in the guide, in standard units.

    The label of a datum is a condition that may be unknown: `c` begins with it, nan where there is none. Where it is
    known the pair's density is `p(x, y)`, over x and labels as they are stored; where it is not it is `p(x)`, and y is
    a latent beside z, drawn from q(y|x).

    Args:
        network: the body of q(y|x), `(..., *shape) -> (..., features)`.
        mean: of the labels of the training data, as they are stored; with 0 and 1 `fit` takes mean and deviation of its
            labels.
        std: their standard deviation.
        weight: alpha; the objective of a labelled datum is `log p(x, y)`'s bound plus `alpha log q(y|x)`, without which
            labels do not train q(y|x).
        features: as in `Regressor`.

    Raises:
        InputError: for a standard deviation that is not positive, or numbers that are not finite.

    Source: Kingma, Rezende, Mohamed & Welling 2014, Semi-Supervised Learning with Deep Generative Models (M2, here with
    a real y, drawn by reparameterisation).

    >>> from pyro_vae import MLP, Gaussian, MeanField, StandardNormal, VAE
    >>> encoder, decoder = MLP((4,), context=1), MLP((2,), (1, 4), context=1)
    >>> targets = Targets(MLP((4,)), mean=150.0, std=70.0)
    >>> vae = VAE(StandardNormal(2), decoder, Gaussian((4,)), MeanField(encoder, 2), classes=targets)
    >>> vae.predict(torch.ones(5, 4)).shape, vae.sample(5, 120.0).shape  # mean and deviation of y; draws given y
    (torch.Size([5, 2]), torch.Size([5, 4]))
    """

    size = 1
    of = ("x",)
    start = 0

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        weight: NotNegative = WEIGHT,
        features: Count | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise InputError(
                f"mean={mean} and std={std} of Targets must be finite, and std positive"
            )
        units = Units(mean=mean, std=std)
        self.prior = TargetPrior(units)
        self.classifier = Regressor(network, units, weight=weight, features=features)
