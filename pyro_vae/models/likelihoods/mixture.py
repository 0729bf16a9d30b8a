"""The mixture of logistic distributions, rounded to grey levels, for grey and for colour images."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.foundation.checks import Count
from pyro_vae.models.likelihoods.discrete import (
    LevelCount,
    LogisticLevels,
    RoundedLogistic,
)
from pyro_vae.networks import Shape


class DiscretizedLogisticMixture(LogisticLevels):
    """`p(x|z) = prod_i sum_k pi_ik DiscretizedLogistic(x_i; loc_ik, s_ik)`: grey levels with several modes, colours.

    Shapes `(C, H, W)` with C > 1 are colour images: a pixel's colours share one choice of component, and in it the
    location of colour c is `loc_c + sum_{b<c} tanh(a_cb) (x_b - shift)`. There the mean and the variance take the
    locations at the means of the colours before, which is exact but for what the end levels cut off.

    Args:
        shape: shape of one datum.
        levels: L; locations and scales count in levels as in `DiscretizedLogistic`.
        components: K. The decoder has 3 K outputs for each element: logits, which colours average, locations and
            log-scales; in colour `C // 2` K more, from which the `a_cb` are taken.

    Raises:
        InputError: for fewer than two levels or no component.

    Source: Salimans, Karpathy, Chen & Kingma 2017, PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications.

    >>> likelihood = DiscretizedLogisticMixture((1,), levels=2, components=3)
    >>> round(likelihood(torch.full((9, 1), -1.0)).log_prob(torch.zeros(1)).item(), 4)  # log(1/2)
    -0.6931
    """

    def __init__(
        self, shape: Shape, *, levels: LevelCount = 256, components: Count = 5
    ) -> None:
        super().__init__(shape, levels=levels)
        self.components = components
        self.colours = self.shape[0] if len(self.shape) == 3 else 1
        self.channels = components * (3 + self.colours // 2)

    def forward(self, h: Tensor) -> Distribution:
        dim, k = -len(self.shape) - 1, self.components
        sizes = [k, k, k, self.channels - 3 * k]
        # Each (..., its size, *shape).
        logits, loc, log_scale, a = wide(h).split(sizes, dim)
        shift, spread = wide(self.shift), wide(self.spread)
        loc, scale = shift + spread * loc, spread * log_scale.exp()
        if self.colours > 1:
            lower = self._lower(a)
            loc = loc - shift * lower.sum(-3)
            return Wide(
                ColourMixture(logits.mean(-3), loc, scale, lower, self.levels),
                0,
                like=h,
            )
        # (..., *shape, K)
        logits, loc, scale = (part.movedim(dim, -1) for part in (logits, loc, scale))
        logistics = RoundedLogistic(loc, scale, self.levels)
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=logits), logistics, validate_args=False
        )
        return Wide(mixture, len(self.shape), like=h)

    def _lower(self, a: Tensor) -> Tensor:
        """`tanh(a)` as matrices `(..., K, C, C, H, W)` that are zero on and above the diagonal."""
        c, height, width = self.shape
        rows, columns = torch.tril_indices(c, c, -1, device=a.device)
        a = a.reshape(*a.shape[:-4], self.components, -1, height, width)[
            ..., : len(rows), :, :
        ]
        lower = a.new_zeros(*a.shape[:-3], c, c, height, width)
        lower[..., rows, columns, :, :] = a.tanh()
        return lower

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        """Components of one weight and scale, evenly spread around the data's mean; colours independent in each."""
        k = self.components
        offsets = (
            2 * torch.arange(k, dtype=mean.dtype, device=mean.device) + 1 - k
        ) / k  # in (-1, 1)
        offsets = offsets.reshape(k, *[1] * mean.dim())
        loc = (mean + offsets * std - self.shift) / self.spread
        log_scale = self._log_scale_of(
            std * (1 - offsets.square().mean()).sqrt()
        ).expand_as(loc)
        rest = loc.new_zeros(self.channels - 3 * k, *mean.shape)
        return torch.cat([torch.zeros_like(loc), loc, log_scale, rest])


class ColourMixture(TorchDistribution):
    """For each pixel a mixture of chains of rounded logistic distributions, colour by colour.

    Args:
        logits: of the components, `(..., K, H, W)`.
        loc: locations where the colours before are 0, `(..., K, C, H, W)`.
        scale: scales, `(..., K, C, H, W)`.
        lower: what a level of colour b adds to the location of colour c, `(..., K, C, C, H, W)`, zero unless b < c.
        levels: a pixel's colours are `0, ..., levels - 1`.
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = False

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, lower: Tensor, levels: int
    ) -> None:
        self.logits, self.loc, self.scale, self.lower, self.levels = (
            logits,
            loc,
            scale,
            lower,
            levels,
        )
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(
            constraints.integer_interval(0, self.levels - 1), 3
        )

    def expand(self, batch_shape: Any, _instance: object = None) -> "ColourMixture":
        parts = self.logits, self.loc, self.scale, self.lower
        logits, loc, scale, lower = (
            p.expand(*batch_shape, *p.shape[len(self.batch_shape) :]) for p in parts
        )
        return ColourMixture(logits, loc, scale, lower, self.levels)

    def _colour(self, before: Tensor) -> RoundedLogistic:
        """In each component, `(..., K, H, W)`: the next colour, given those `before` it, `(..., K or 1, c, H, W)`."""
        c = before.shape[-3]
        loc = self.loc[..., c, :, :] + (self.lower[..., c, :c, :, :] * before).sum(-3)
        return RoundedLogistic(loc, self.scale[..., c, :, :], self.levels)

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-4)
        colours = [
            self._colour(x[..., :c, :, :]).log_prob(x[..., c, :, :])
            for c in range(self.event_shape[0])
        ]
        return (self.logits.log_softmax(-3) + sum(colours)).logsumexp(-3).sum((-1, -2))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        with torch.no_grad():
            p = self.expand(torch.Size(sample_shape) + self.batch_shape)
            x = p.loc[..., :0, :, :]
            for _ in range(self.event_shape[0]):
                x = torch.cat([x, p._colour(x).sample().unsqueeze(-3)], -3)
            k = dist.Categorical(logits=p.logits.movedim(-3, -1)).sample()[
                ..., None, None, :, :
            ]
            return x.take_along_dim(k, -4).squeeze(-4)

    @property
    def mean(self) -> Tensor:
        return self._mixed(self._means())

    @property
    def variance(self) -> Tensor:
        mean = self._means()
        own = [
            self._colour(mean[..., :c, :, :]).variance
            for c in range(self.event_shape[0])
        ]
        # X = lower x + noise of variance `own`.
        lower = self.lower.movedim((-4, -3), (-2, -1))
        effect = torch.linalg.inv(
            torch.eye(len(own), dtype=lower.dtype, device=lower.device) - lower
        )
        variance = (
            (effect.square() @ torch.stack(own, -1).unsqueeze(-1))
            .squeeze(-1)
            .movedim(-1, -3)
        )
        return self._mixed(variance + mean.square()) - self._mixed(mean).square()

    def _means(self) -> Tensor:
        """In each component, `(..., K, C, H, W)`: the mean of every colour, given the means of those before it."""
        mean = self.loc[..., :0, :, :]
        for _ in range(self.event_shape[0]):
            mean = torch.cat([mean, self._colour(mean).mean.unsqueeze(-3)], -3)
        return mean

    def _mixed(self, values: Tensor) -> Tensor:
        return (self.logits.softmax(-3).unsqueeze(-3) * values).sum(-4)
