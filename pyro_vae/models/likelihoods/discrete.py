"""Likelihoods with a mass: bits and grey levels."""

from typing import Annotated, Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, softplus

from pyro_vae.data.representation import Representation
from pyro_vae.distributions.wide import Wide, wide
from pyro_vae.foundation.abstract import is_traced
from pyro_vae.foundation.checks import between
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.likelihoods.base import Likelihood, units
from pyro_vae.networks import Shape

STEEP = 4.0  # the scale, in levels, below which all that happens does so within
NEAR = 320  # levels around the location
FACTORS = 14  # whose product is taken before its logarithm


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
        return _Bits(
            dist.Bernoulli(logits=logits, validate_args=False),
            len(self.shape),
            validate_args=False,
        )

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        # A pixel that is never lit would start at -inf: start as if it were lit once in a thousand data.
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3)).unsqueeze(0)


class _Bits(dist.Independent):
    """Independent bits, whose log-probability costs few logarithms in a graph."""

    def expand(self, batch_shape: Any, _instance: object = None) -> Distribution:
        return (
            self
            if torch.Size(batch_shape) == self.batch_shape
            else super().expand(batch_shape, _instance)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """`sum_i x_i l_i - log(1 + exp(l_i))`, from the logits l.

        Python would pay more for the passes through memory of `_LogBits` than it saves on logarithms.
        """
        logits, dims = self.base_dist.logits, tuple(range(-len(self.event_shape), 0))
        in_graph = is_traced() and logits.dtype in (torch.float32, torch.float64)
        if in_graph and not value.requires_grad:
            values, logits = torch.broadcast_tensors(value, logits)
            return _LogBits.apply(values.flatten(dims[0]), logits.flatten(dims[0]))  # type: ignore[no-any-return]
        return (value * logits - softplus(logits, threshold=40.0)).sum(dims)


class _LogBits(torch.autograd.Function):
    """`sum_i x_i l_i - max(l_i, 0) - log(1 + exp(-|l_i|))` over the last dimension, x_i being 0 or 1.

    One logarithm is taken of the product of some `1 + exp(-|l_i|)`, each between 1 and 2. The derivative by l_i is
    `x_i - sigmoid(l_i)`. What is left of the first two terms when one is subtracted from the other is added up: their
    sums alone have no digits left for it once the logits are large.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(x, logits)
        groups = -(-logits.shape[-1] // FACTORS)
        factors = pad(
            logits.abs().neg().exp() + 1,
            (0, groups * FACTORS - logits.shape[-1]),
            value=1.0,
        )
        logarithms = factors.unflatten(-1, (FACTORS, groups)).prod(-2).log().sum(-1)
        return (x * logits - logits.clamp_min(0)).sum(-1) - logarithms

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, logits = ctx.saved_tensors
        return None, g.unsqueeze(-1) * (x - logits.sigmoid())


Scale = Literal["element", "network"]
LevelCount = Annotated[int, between(2, 2**16)]  # up to those of 16-bit images


class Levels(Likelihood):
    """Masses on the whole numbers `0, ..., levels - 1`: what the members for grey levels share."""

    support = Representation.LEVELS

    def __init__(self, shape: Shape, *, levels: LevelCount = 256) -> None:
        super().__init__(shape)
        self.levels = levels

    def check(self, x: Tensor) -> None:
        super().check(x)
        highest = int(x.max())  # a Python number: uint8 cannot be compared with 256
        if highest >= self.levels:
            name = type(self).__name__
            raise InputError(
                f"x holds the level {highest}, but {name}(levels={self.levels}) ends at {self.levels - 1}; give it "
                f"levels={highest + 1} or more"
            )


class Categorical(Levels):
    """`p(x|z) = prod_i pi_i[x_i]`, with `pi = softmax(decoder(z))`: grey levels, a free probability for each.

    Args:
        shape: shape of one datum.
        levels: L; the decoder has L outputs for each element.

    Raises:
        InputError: for fewer than two levels.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks (section 3.3).

    >>> Categorical((2,), levels=4)(torch.zeros(4, 2)).log_prob(torch.tensor([0.0, 3.0]))  # 2 log(1/4)
    tensor(-2.7726)
    """

    seen_as = "category"

    def __init__(self, shape: Shape, *, levels: LevelCount = 256) -> None:
        super().__init__(shape, levels=levels)
        self.channels = levels
        self._shares: Tensor | None = None  # of each level, `(*shape, levels)`

    def forward(self, h: Tensor) -> Distribution:
        logits = h.movedim(-len(self.shape) - 1, -1)  # (..., *shape, levels)
        return NumberedCategorical(logits=logits, validate_args=False).to_event(
            len(self.shape)
        )

    def meet(self, x: Tensor) -> None:
        """Keep the share of each level, half a datum more for each."""
        self._shares = shares(x, self.levels)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor | None:
        """The logarithms of the levels' shares, once there were data."""
        return (
            None if self._shares is None else self._shares.log().to(mean).movedim(-1, 0)
        )


def shares(x: Tensor, levels: int) -> Tensor:
    """How often each level stands in each element of x, `(n, *shape) -> (*shape, levels)`, half a datum more for each.

    They add up to 1, and none is 0. What is nan was not seen.
    """
    columns = (column[~column.isnan()].long() for column in x.flatten(1).T)
    counts = (
        torch.stack([column.bincount(minlength=levels) for column in columns]) + 0.5
    )
    shared = counts.double() / counts.sum(-1, keepdim=True)
    return shared.reshape(*x.shape[1:], levels)


class NumberedCategorical(dist.Categorical):
    """A categorical distribution over numbers: with a mean and a variance, and draws of the decoder's type."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        return super().sample(sample_shape).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        return (
            self.probs * torch.arange(self.probs.shape[-1], device=self.probs.device)
        ).sum(-1)

    @property
    def median(self) -> Tensor:
        """The first number that half of the probability does not lie above."""
        return (self.probs.cumsum(-1) < 0.5).sum(-1).clamp_max(self.probs.shape[-1] - 1)

    @property
    def variance(self) -> Tensor:
        levels = torch.arange(self.probs.shape[-1], device=self.probs.device)
        return (self.probs * (levels - self.mean.unsqueeze(-1)).square()).sum(-1)


class LogisticLevels(Levels):
    """Masses on grey levels made of logistic distributions: locations and scales count in units of the data.

    `shift` and `spread`, a quarter of the levels from the middle until `initialise` sets them to the data's mean and
    standard deviation, are one number for all elements: grey levels all have one scale.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, shape: Shape, *, levels: LevelCount = 256) -> None:
        super().__init__(shape, levels=levels)
        self.register_buffer("shift", torch.tensor(levels / 2))
        self.register_buffer("spread", torch.tensor(levels / 4))

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        shift, spread = units(mean, std, standardise=False)
        self.shift.copy_(shift)
        self.spread.copy_(spread)

    def _log_scale_of(self, std: Tensor) -> Tensor:
        """From the standard deviation, `pi / sqrt(3)` times the scale; at least a tenth of a level."""
        return ((std * 3**0.5 / torch.pi).clamp_min(0.1) / self.spread).log()


class DiscretizedLogistic(LogisticLevels):
    """`p(x|z) = prod_i F((x_i + 1/2 - loc_i) / s_i) - F((x_i - 1/2 - loc_i) / s_i)`, F logistic: grey levels.

    The lowest and the highest level take all that lies beyond them, so the mass adds up to 1.

    Args:
        shape: shape of one datum.
        levels: L; `loc = shift + spread * decoder(z)` and `s` count in levels, with the data's mean and standard
            deviation as `shift` and `spread` once `initialise` has seen them.
        scale: where `s` comes from: `'element'` (one learned number for each element) or `'network'` (a second decoder
            channel).

    Raises:
        InputError: for fewer than two levels or another `scale`.

    Source: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, appendix; Salimans
    et al. 2017, PixelCNN++.

    >>> likelihood = DiscretizedLogistic((1,), levels=2)
    >>> round(likelihood(torch.full((1, 1), -1.0)).log_prob(torch.zeros(1)).item(), 4)  # log(1/2)
    -0.6931
    """

    log_scale: Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        levels: LevelCount = 256,
        scale: Literal["element", "network"] = "element",
    ) -> None:
        super().__init__(shape, levels=levels)
        self.channels = 2 if scale == "network" else 1
        if scale == "element":
            self.log_scale = nn.Parameter(torch.full(self.shape, -1.0))

    def forward(self, h: Tensor) -> Distribution:
        loc, *rest = wide(h).unbind(-len(self.shape) - 1)  # each (..., *shape)
        shift, spread = wide(self.shift), wide(self.spread)
        scale = spread * (rest[0] if rest else wide(self.log_scale)).exp()
        rounded = RoundedLogistic(shift + spread * loc, scale, self.levels)
        return Wide(rounded, len(self.shape), like=h)

    def starting_output(self, mean: Tensor, std: Tensor) -> Tensor:
        return torch.stack(
            [(mean - self.shift) / self.spread, self._log_scale_of(std)][
                : self.channels
            ]
        )

    @torch.no_grad()
    def initialise(self, mean: Tensor, std: Tensor, *, standardise: bool) -> None:
        super().initialise(mean, std, standardise=standardise)
        if self.channels == 1:
            self.log_scale.copy_(self._log_scale_of(std))


class RoundedLogistic(TorchDistribution):
    """A logistic distribution rounded to the levels `0, ..., levels - 1`."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  # torch's way
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        # One scale for many data stays one.
        self.loc, self.scale, self.levels = (
            loc,
            scale,
            levels,
        )
        shape = torch.broadcast_shapes(loc.shape, scale.shape)
        super().__init__(shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: object = None) -> "RoundedLogistic":
        return RoundedLogistic(self.loc.expand(batch_shape), self.scale, self.levels)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        with torch.no_grad():
            u = torch.rand(
                self._extended_shape(sample_shape),
                dtype=self.loc.dtype,
                device=self.loc.device,
            )
            return (
                (self.loc + self.scale * torch.logit(u))
                .round()
                .clamp(0, self.levels - 1)
            )

    def log_prob(self, x: Tensor) -> Tensor:
        # log(F(a) - F(b)) = log F(a) + log F(-b) + log(1 - exp(b - a)), and a - b = 1 / scale: nothing cancels.
        a, b = (x + 0.5 - self.loc) / self.scale, (x - 0.5 - self.loc) / self.scale
        below = logsigmoid(a).where(x < self.levels - 1, 0.0)
        above = logsigmoid(-b).where(x > 0, 0.0)
        width = (
            (-torch.expm1(-1 / self.scale))
            .log()
            .where((x > 0) & (x < self.levels - 1), 0.0)
        )
        return below + above + width

    def _above(self, k: Tensor | int) -> Tensor:
        """`P(x > k)`."""
        return torch.sigmoid((self.loc - (k + 0.5)) / self.scale)

    @property
    def mean(self) -> Tensor:
        """`sum_k P(x > k)`, one k at a time: 30 times as fast as one tensor over all levels of many elements."""
        nothing = self.loc.new_zeros(self.batch_shape)
        last = self.levels - 1
        if last <= NEAR:
            return sum((self._above(k) for k in range(last)), nothing)
        first = (self.loc.round() - NEAR // 2).clamp(0, last - NEAR)  # below it, P is 1
        steep = sum((self._above(first + j) for j in range(NEAR)), first + nothing)
        return torch.where(self.scale < STEEP, steep, self._mean_by_integral())

    def _mean_by_integral(self) -> Tensor:
        """Euler and Maclaurin's formula for a sum over midpoints, right to 1e-6 levels for scales above `STEEP`."""
        ends = self.loc / self.scale, (self.loc - (self.levels - 1)) / self.scale
        low, high = (softplus(end, threshold=40.0) * self.scale for end in ends)
        slopes = [-end.sigmoid() * (-end).sigmoid() / self.scale for end in ends]
        return low - high - (slopes[1] - slopes[0]) / 24

    @property
    def variance(self) -> Tensor:
        """`sum_k (2 k + 1) P(x > k) - mean^2`."""
        squares = ((2 * k + 1) * self._above(k) for k in range(self.levels - 1))
        return sum(squares, -self.mean.square()).clamp_min(0)  # type: ignore[union-attr]
