"""Student's t distribution, at any residual and any degrees of freedom."""

import math

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.own import Drawn


class Student(Drawn):
    """`t(x; df, loc, scale)`, for one `df` above 1, the normal distribution where it is large.

    The gamma functions of its normaliser are compared by logarithms, and the square of a residual, which may overflow,
    is not taken: PyTorch's `StudentT` loses its digits from a thousand degrees of freedom on.

    >>> Student(3.0, torch.tensor(0.0), 1.0).log_prob(torch.tensor(0.0))  # log(2 / (pi sqrt(3)))
    tensor(-1.0009)
    """

    support = constraints.real
    shaped = ("loc",)

    def __init__(self, df: float, loc: Tensor, scale: Tensor | float) -> None:
        self.df, self.loc = df, loc
        self.scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        super().__init__(torch.broadcast_shapes(loc.shape, self.scale.shape))

    def draw(self, shape: torch.Size) -> Tensor:
        """`loc + scale N / sqrt(C / df)`, N normal and C a chi-squared variable of `df` degrees of freedom."""
        loc = self.loc.expand(shape)
        half = torch.full_like(loc, self.df / 2)
        noise = self.scale * torch.randn_like(loc)
        return loc + noise * (half / torch._standard_gamma(half)).sqrt()

    def log_prob(self, x: Tensor) -> Tensor:
        """`-(df + 1) / 2 log(1 + w^2)` and the normaliser, with `w^2 = ((x - loc) / scale)^2 / df`."""
        w = ((x - self.loc) / self.scale).abs() / math.sqrt(self.df)
        small, large = w.clamp_max(1), w.clamp_min(1)
        far = 2 * large.log() + torch.log1p(large.pow(-2))
        tail = torch.log1p(small.square()).where(w < 1, far)
        return -(self.df + 1) / 2 * tail - self.scale.log() + _log_peak(self.df)

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        factor = self.df / (self.df - 2) if self.df > 2 else math.inf
        return (self.scale.square() * factor).expand(self.batch_shape)


def _log_peak(df: float) -> float:
    """`log(Gamma((df + 1) / 2) / Gamma(df / 2) / sqrt(df pi))`, which tends to that of the normal distribution."""
    if df > 1e5:  # the series in 1/df, up to a term of 1e-17
        return -math.log(2 * math.pi) / 2 - 1 / (4 * df) + 1 / (24 * df**3)
    return math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
