"""Distributions over the unit interval, with densities that hold at any parameters."""

import math

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.own import Drawn
from pyro_vae.distributions.stirling import HALF_LOG_2_PI, deviance, remainder, series

# log(sinh(t / 2) / (t / 2)) as a series of t^2, t^4, ...; for |t| < 1 what is left out is below 1e-12.
NORMALISER = (
    1 / 24,
    -1 / 2880,
    1 / 181440,
    -1 / 9676800,
    1 / 479001600,
    -691 / (2730 * 12 * math.factorial(12)),
    1 / (6 * 2 * math.factorial(13)),
)


class LogitContinuousBernoulli(Drawn):
    """The density `exp(h x) h / (exp(h) - 1)` on the unit interval, for a logit h of any size.

    It falls from the bright end by `exp(-|h| y)`, where y is the distance from that end: taken so, nothing overflows.
    Around h = 0, where it is uniform and the quotients are 0 / 0, series stand in. PyTorch's `ContinuousBernoulli`
    takes its normaliser from a probability that cannot come closer to 0 or 1 than float32's rounding error. Source:
    Loaiza-Ganem & Cunningham 2019, The Continuous Bernoulli.

    >>> LogitContinuousBernoulli(torch.tensor(-500.0)).log_prob(torch.tensor(0.0))  # log(500)
    tensor(6.2146)
    """

    support = constraints.unit_interval
    shaped = ("logit",)

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit
        super().__init__(logit.shape)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the series hold, h kept to where they do, and |h| kept to where they do not."""
        near = self.logit.abs() < 1
        return near, self.logit.clamp(-1, 1), self.logit.abs().clamp_min(1)

    def draw(self, shape: torch.Size) -> Tensor:
        """By the inverse of the distribution function, from the bright end: `y = -log(1 - u (1 - exp(-|h|))) / |h|`."""
        h = self.logit.expand(shape)
        t = h.abs()
        u = torch.rand_like(h)
        y = (-torch.log1p(u * torch.expm1(-t)) / t).where(t > 1e-12, u).clamp(0, 1)
        return y.where(h < 0, 1 - y)

    def log_prob(self, x: Tensor) -> Tensor:
        near, h, t = self._parts()
        square = h.square()
        middle = (x - 0.5) * h - square * series(NORMALISER, square)
        y = x.where(self.logit < 0, 1 - x)
        return middle.where(near, t.log() - torch.log(-torch.expm1(-t)) - t * y)

    @property
    def mean(self) -> Tensor:
        """`1 / (1 - exp(-h)) - 1 / h`."""
        near, h, t = self._parts()
        slopes = [2 * n * c for n, c in enumerate(NORMALISER, 1)]
        middle = 0.5 + h * series(slopes, h.square())
        y = 1 / t + torch.exp(-t) / torch.expm1(-t)
        return middle.where(near, y.where(self.logit < 0, 1 - y))

    @property
    def variance(self) -> Tensor:
        """`1 / h^2 - 1 / (4 sinh(h / 2)^2)`."""
        near, h, t = self._parts()
        curvatures = [2 * n * (2 * n - 1) * c for n, c in enumerate(NORMALISER, 1)]
        middle = series(curvatures, h.square())
        return middle.where(near, t.pow(-2) - torch.exp(-t) / torch.expm1(-t).square())


class LogitBeta(Drawn):
    """The beta distribution of mean `sigmoid(logit)` and precision `exp(log_precision)`.

    With Stirling's approximation of each gamma function the leading terms cancel on paper, and what they leave is the
    deviance of `x` from the mean: PyTorch's `Beta`, which subtracts logarithms of gamma functions, loses all digits at
    large precisions.

    >>> round(LogitBeta(torch.tensor(0.0), torch.tensor(0.0)).log_prob(torch.tensor(0.5)).item(), 4)  # log(2 / pi)
    -0.4516
    """

    support = constraints.unit_interval
    shaped = ("logit", "log_precision")

    def __init__(self, logit: Tensor, log_precision: Tensor) -> None:
        self.logit, self.log_precision = logit, log_precision
        super().__init__(logit.shape)

    def draw(self, shape: torch.Size) -> Tensor:
        """`A / (A + B)` for gamma variables A and B of shapes a and b, by logarithms: `log A = log A' + log(U) / a`."""
        m, r = self.logit.expand(shape), self.log_precision.exp()
        log_a, log_b = (
            torch._standard_gamma(c + 1).log() - torch.empty_like(c).exponential_() / c
            for c in (r * m.sigmoid(), r * (-m).sigmoid())
        )
        return (log_a - log_b).sigmoid()

    def log_prob(self, x: Tensor) -> Tensor:
        m, log_m, log_1m = self.mean, logsigmoid(self.logit), logsigmoid(-self.logit)
        log_a, log_b = log_m + self.log_precision, log_1m + self.log_precision
        log_x, log_1x = x.log(), torch.log1p(-x)
        away = deviance(m, x, log_m - log_x) + deviance(
            torch.sigmoid(-self.logit), 1 - x, log_1m - log_1x
        )
        flat = (
            (self.log_precision + log_m + log_1m) / 2 - HALF_LOG_2_PI - log_x - log_1x
        )
        rest = remainder(self.log_precision.exp(), self.log_precision)
        rest = rest - remainder(log_a.exp(), log_a) - remainder(log_b.exp(), log_b)
        return flat - self.log_precision.exp() * away + rest

    @property
    def mean(self) -> Tensor:
        return self.logit.sigmoid()

    @property
    def variance(self) -> Tensor:
        spread = self.mean * (-self.logit).sigmoid()
        return spread / (1 + self.log_precision.exp())
