"""Likelihoods with a density: reals, and reals in the unit interval."""

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.student import Student
from pyro_vae.distributions.unit import LogitBeta, LogitContinuousBernoulli
from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.foundation.checks import Positive, above
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import SEEN, Likelihood, units
from pyro_vae.models.variances import Bounds, start_within
from pyro_vae.networks import Shape
from pyro_vae.networks.views import inner

Scale = Positive | Literal["learned", "element", "network"]


class LocationScale(Likelihood):
    """Densities of `(x - loc(z)) / scale`: what the members for real data share.

    `loc = shift + spread * decoder(z)`, with `shift = 0` and `spread = 1` until `initialise` sets them to the mean and
    the standard deviation of the data, over all elements or for each; always for each where each has a scale of its
    own, `'element'` and `'network'`. Learned scales count in units of `spread`.

    Args:
        shape: shape of one datum.
        scale: where the scale comes from: a positive number (fixed at it), `'learned'` (one learned number),
            `'element'` (one learned number for each element of x) or `'network'` (a second decoder channel).
        min_scale: the smallest scale that can be learned, in standard deviations of the data; the density of an element
            that never varies would otherwise grow without bound. It has no effect on a fixed scale.

    Raises:
        InputError: for another `scale`, or a `min_scale` that is not positive.
    """

    support = Representation.REAL
    deviation = 1.0  # standard deviation of the density of scale 1
    log_scale: Tensor
    floor: Tensor | None
    shift: Tensor
    spread: Tensor

    def __init__(
        self, shape: Shape, *, scale: Scale = "learned", min_scale: Positive = 1e-3
    ) -> None:
        super().__init__(shape)
        self.scale: Any = scale
        self.min_scale = min_scale
        self.channels = 2 if scale == "network" else 1
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))
        self.register_buffer("floor", None)
        if scale in ("learned", "element"):
            self.log_scale = nn.Parameter(
                torch.zeros(self.shape if scale == "element" else ())
            )

    @abstractmethod
    def density(self, loc: Tensor, scale: Tensor | float) -> Distribution:
        """The distribution of each element, `(..., *shape)`."""

    def forward(self, h: Tensor) -> Distribution:
        loc, *rest = wide(h).unbind(-len(self.shape) - 1)  # each (..., *shape)
        shift, spread = wide(self.shift), wide(self.spread)
        scale: Any = self.scale
        if isinstance(scale, str):
            log_scale = rest[0] if rest else wide(self.log_scale)
            scale = self.scale_of(log_scale, spread)
        density = self.density(torch.addcmul(shift, spread, loc), scale)
        return Wide(density, len(self.shape), like=h)

    def scale_of(self, log_scale: Tensor, spread: Tensor) -> Tensor:
        """The scale of each element in the units of x, of its logarithm in units of `spread`."""
        return self._least(spread) + spread * log_scale.exp()

    @property
    def stand_in(self) -> Tensor:
        return self.shift

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        loc = (mean - self.shift) / self.spread
        return torch.stack([loc, self._log_scale_of(std)][: self.channels])

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        shift, spread = units(mean, std, standardise=standardise)
        if not standardise and self.scale in ("element", "network"):
            # What z moves counts in the units of each element: one that hardly varies would have z say nothing.
            least = self.min_scale * spread.expand(self.shape)
            self.keep_above(least if self.floor is None else least.maximum(self.floor))
            shift, spread = mean, std.where(std > 0, spread)
        self.shift.copy_(shift)
        self.spread.copy_(spread)
        if self.scale in ("learned", "element"):
            typical = self._log_scale_of(std)
            self.log_scale.copy_(
                typical
                if self.scale == "element"
                else (2 * typical).exp().mean().log() / 2
            )

    def keep_above(self, floor: Tensor) -> None:
        """Give each element a least scale of its own, in the units of x: half a step, for values on a lattice."""
        self.floor = floor.to(self.spread).contiguous()  # one number may stand for all

    @property
    def least(self) -> Tensor:
        """The least scale of each element that can be learned, `(*shape,)`."""
        return self._least(wide(self.spread))

    def _least(self, spread: Tensor) -> Tensor:
        least = spread * self.min_scale
        return least if self.floor is None else torch.maximum(least, wide(self.floor))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if self.floor is None:  # a buffer that only some likelihoods have
            self.floor = state_dict.get(f"{prefix}floor")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _log_scale_of(self, std: Tensor) -> Tensor:
        """The `log_scale` of each element at which it has the standard deviation `std`, or the least one."""
        return (std / (self.deviation * self.spread)).clamp_min(self.min_scale).log()


def _positive(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value < float("inf")
    )


class Gaussian(LocationScale):
    """`p(x|z) = prod_i N(x_i; loc_i(z), scale_i)`: real data.

    Args:
        shape: shape of one datum.
        scale: as in `LocationScale`: a positive number, `'learned'`, `'element'` or `'network'`.
        min_scale: as in `LocationScale`.
        log_variance: of `scale='network'` bounds of `log scale^2`, such as `(-7, 2)`, counted as `min_scale` is, in
            standard deviations of the data; what lies beyond a bound is set to it, with a gradient of 0. `None`: no
            bounds but `min_scale`.

    Raises:
        InputError: for a wrong argument, `log_variance` beside another scale, or bounds that `min_scale` leaves nothing
            of.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes, appendix C.2; Rybkin, Daniilidis & Levine 2021,
    Simple and Effective VAE Training with Calibrated Decoders (learned scale).

    >>> Gaussian((2,), scale=1.0)(torch.zeros(1, 2)).log_prob(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """

    def __init__(
        self,
        shape: Shape,
        *,
        scale: Scale = "learned",
        min_scale: Positive = 1e-3,
        log_variance: Bounds | None = None,
    ) -> None:
        super().__init__(shape, scale=scale, min_scale=min_scale)
        self.log_variance = log_variance
        if log_variance is None:
            return
        if scale != "network":
            raise InputError(
                f"log_variance={log_variance} of Gaussian bounds what a network gives, and scale={scale!r}: take "
                "scale='network', or leave log_variance out"
            )
        if log_variance[1] <= 2 * math.log(min_scale):
            raise InputError(
                f"log_variance={log_variance} of Gaussian lies below min_scale={min_scale:g}, whose log-variance is "
                f"{2 * math.log(min_scale):.4g}: give a smaller min_scale"
            )

    def density(self, loc: Tensor, scale: Tensor | float) -> Distribution:
        return dist.Normal(loc, scale, validate_args=False)

    def scale_of(self, log_scale: Tensor, spread: Tensor) -> Tensor:
        scale = super().scale_of(log_scale, spread)
        if self.log_variance is None:
            return scale
        low, high = (spread * math.exp(bound / 2) for bound in self.log_variance)
        return scale.clamp(low, high)

    def _log_scale_of(self, std: Tensor) -> Tensor:
        found = super()._log_scale_of(std)
        if self.log_variance is None:
            return found
        low, high = (
            start_within(end, self.log_variance) for end in (-math.inf, math.inf)
        )
        return found.clamp(low, high)


class Laplace(LocationScale):
    """`p(x|z) = prod_i exp(-|x_i - loc_i(z)| / scale_i) / (2 scale_i)`: real data, absolute instead of squared errors.

    The standard deviation is `sqrt(2) scale`. See `LocationScale` for `scale` (fixed, `'learned'`, `'element'` or
    `'network'`) and `min_scale`. Source: Laplace 1774, Mémoire sur la probabilité des causes par les événements.

    >>> Laplace((2,), scale=1.0)(torch.zeros(1, 2)).log_prob(torch.tensor([0.0, 1.0]))  # -2 log(2) - 1
    tensor(-2.3863)
    """

    deviation = 2**0.5

    def density(self, loc: Tensor, scale: Tensor | float) -> Distribution:
        return dist.Laplace(loc, scale, validate_args=False)


class StudentT(LocationScale):
    """`p(x|z) = prod_i t(x_i; df, loc_i(z), scale_i)`: real data with outliers.

    Training starts from the median and the middle nine tenths of each element, which outliers do not move.

    Args:
        shape: shape of one datum.
        df: degrees of freedom, above 1 so that the mean exists; the smaller, the heavier the tails.
        scale: as in `LocationScale`.
        min_scale: as in `LocationScale`.

    Raises:
        InputError: for `df` of 1 or less, or a wrong `scale` or `min_scale`.

    Source: Lange, Little & Taylor 1989, Robust Statistical Modeling Using the t Distribution.

    >>> StudentT((1,), df=3, scale=1.0)(torch.zeros(1, 1)).log_prob(torch.zeros(1))  # log(2 / (pi sqrt(3)))
    tensor(-1.0009)
    """

    seen_as = "tailed"
    examples = SEEN

    def __init__(
        self,
        shape: Shape,
        *,
        df: Annotated[float, above(1)] = 4.0,
        scale: Scale = "learned",
        min_scale: Positive = 1e-3,
    ) -> None:
        super().__init__(shape, scale=scale, min_scale=min_scale)
        self.df = float(df)

    def density(self, loc: Tensor, scale: Tensor | float) -> Distribution:
        return Student(self.df, loc, scale)

    def middle(
        self, mean: Tensor, std: Tensor, some: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The median, and how wide the middle nine tenths lie: outliers move a mean and a deviation without bound."""
        if some is None:
            return mean, std
        center, width = inner(some, std)
        return center.to(mean), torch.minimum(width.to(std), std)


class ContinuousBernoulli(Likelihood):
    """`p(x|z) = prod_i C(p_i) p_i^x_i (1 - p_i)^(1 - x_i)`, with `p = sigmoid(decoder(z))`: reals in [0, 1].

    The normaliser `C(p) = 2 artanh(1 - 2 p) / (1 - 2 p)` is what the cross-entropy on grey pixels lacks; near `p = 1/2`
    it is taken by its Taylor series. Source: Loaiza-Ganem & Cunningham 2019, The Continuous Bernoulli.

    >>> ContinuousBernoulli((2,))(torch.zeros(1, 2)).log_prob(torch.tensor([0.2, 0.9]))  # uniform at p = 1/2
    tensor(0.)
    """

    support = Representation.UNIT

    def forward(self, h: Tensor) -> Distribution:
        logits = wide(h).squeeze(-len(self.shape) - 1)  # (..., *shape)
        return Wide(LogitContinuousBernoulli(logits), len(self.shape), like=h)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        """The logit whose mean, `1 / (1 - exp(-logit)) - 1 / logit`, is the data's: by bisection."""
        target = mean.double().clamp(1e-3, 1 - 1e-3)
        # Never meets 0, where 0 / 0 stands.
        low, high = (
            torch.full_like(target, -1e3),
            torch.full_like(target, 1e3 + 1),
        )
        for _ in range(80):
            middle = (low + high) / 2
            above = 1 / -torch.expm1(-middle) - 1 / middle > target
            low, high = low.where(above, middle), middle.where(above, high)
        return low.to(mean.dtype).unsqueeze(0)


class Beta(Likelihood):
    """`p(x|z) = prod_i x_i^(a_i - 1) (1 - x_i)^(b_i - 1) / B(a_i, b_i)`: reals strictly between 0 and 1.

    `a = m r` and `b = (1 - m) r`, with the mean `m = sigmoid(h_1)` and the precision `r = exp(h_2)` from the decoder's
    two channels; the variance is `m (1 - m) / (1 + r)`. Source: Ferrari & Cribari-Neto 2004, Beta Regression for
    Modelling Rates and Proportions.

    >>> Beta((1,))(torch.zeros(2, 1)).log_prob(torch.tensor([0.5]))  # a = b = 1/2: log(2 / pi)
    tensor(-0.4516)
    """

    support = Representation.UNIT
    channels = 2

    def forward(self, h: Tensor) -> Distribution:
        # Each (..., *shape).
        logit, log_precision = wide(h).unbind(-len(self.shape) - 1)
        return _OpenUnit(LogitBeta(logit, log_precision), len(self.shape), like=h)

    def check(self, x: Tensor) -> None:
        super().check(x)
        if ((x == 0) | (x == 1)).any():
            raise InputError(
                "x holds 0 or 1, where the density of Beta is infinite or zero: add --dequantize, if these are grey "
                "images, or choose ContinuousBernoulli"
            )

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        mean = mean.clamp(1e-3, 1 - 1e-3)
        precision = mean * (1 - mean) / std.square() - 1
        return torch.stack([mean.logit(), precision.clamp(1e-2, 1e4).log()])


class _OpenUnit(Wide):
    """Over the unit interval without its ends, which rounding would return."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        limits = torch.finfo(self.dtype)
        return super().sample(sample_shape).clamp(limits.tiny, 1 - limits.eps / 2)
