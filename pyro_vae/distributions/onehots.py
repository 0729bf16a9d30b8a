"""Several categorical variables, their one-hot codes side by side."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.own import Drawn

MOST_CODES = 1_000_000  # that `enumerate_support` writes out


class _Codes(Constraint):
    """Vectors that are `variables` one-hot codes of `levels` numbers side by side."""

    is_discrete = True
    event_dim = 1

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        each = constraints.one_hot.check(value.unflatten(-1, (-1, self.levels)))
        return each.all(-1)


class OneHots(Drawn):
    """`p(z) = prod_v softmax(logits_v)_{c_v}`, z the one-hot codes of `c_1, ..., c_V` side by side.

    Batch shape `(...)`, event shape `(V L,)`: V independent variables of L values each, as a vector that any network
    reads. With one variable it is Pyro's `OneHotCategorical`.

    Args:
        logits: `(..., V, L)`, up to a constant for each variable; -inf for a value that does not occur.

    >>> z = OneHots(torch.zeros(2, 3)).enumerate_support()
    >>> z.shape, z[1].tolist()
    (torch.Size([9, 6]), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], torch.Size([logits.shape[-2:].numel()]))

    @property
    def variables(self) -> int:
        """V."""
        return self.logits.shape[-2]

    @property
    def levels(self) -> int:
        """L."""
        return self.logits.shape[-1]

    @property
    def support(self) -> Constraint:
        return _Codes(self.levels)

    def expand(self, batch_shape: Any, _instance: object = None) -> "OneHots":
        new = super().expand(batch_shape)
        new.logits = self.logits.expand(new._batch_shape + self.logits.shape[-2:])
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """`sum_v log softmax(logits_v)_{c_v}` of codes `(..., V L)`; no gradient goes to the codes."""
        return self.log_each(value).sum(-1)

    def log_each(self, value: Tensor) -> Tensor:
        """`log p(z_v)` of each variable of codes `(..., V L)`, `(..., V)`."""
        chosen = value.unflatten(-1, self.logits.shape[-2:]) > 0.5
        return self.logits.where(chosen, 0.0).sum(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        return self._hard(self._perturbed(shape)).flatten(-2)

    def straight_through(
        self,
        temperature: Tensor,
        sample_shape: Any = torch.Size(),  # noqa: B008  # torch's signature
    ) -> Tensor:
        """Draws whose value is a one-hot code, and whose gradient is that of a relaxed one.

        The code of `argmax_l (logits_l + g_l)`, g Gumbel noise, with the gradient of
        `softmax((logits + g) / temperature)`.

        Source: Jang, Gu & Poole 2017, Categorical Reparameterization with Gumbel-Softmax, section 2.2.
        """
        perturbed = self._perturbed(self._extended_shape(sample_shape))
        soft = (perturbed / temperature).softmax(-1)
        return (self._hard(perturbed) + (soft - soft.detach())).flatten(-2)

    def _perturbed(self, shape: torch.Size) -> Tensor:
        """The logits with Gumbel noise, whose largest is a draw: `(*shape[:-1], V, L)`."""
        noise = self.logits.new_empty(shape[:-1] + self.logits.shape[-2:])
        return self.logits - noise.exponential_().log()

    @staticmethod
    def _hard(perturbed: Tensor) -> Tensor:
        """The one-hot code of the largest of each variable, `(..., V, L)`."""
        places = torch.arange(perturbed.shape[-1], device=perturbed.device)
        return (perturbed.argmax(-1, keepdim=True) == places).to(perturbed.dtype)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the codes are few enough to be written out."""
        return self.variables * math.log(self.levels) <= math.log(MOST_CODES)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All `L^V` codes, `(L^V, *batch, V L)`, or with 1s for the batch; the last variable's changes fastest.

        Raises:
            NotImplementedError: for more than a million.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError(
                f"{self.variables} variables of {self.levels} values have too many codes to be written out"
            )
        place = torch.arange(self.levels**self.variables, device=self.logits.device)
        last = range(self.variables - 1, -1, -1)
        each = torch.stack([place // self.levels**v % self.levels for v in last], -1)
        eye = torch.eye(self.levels, dtype=self.logits.dtype, device=place.device)
        codes = eye[each].flatten(-2)
        codes = codes.reshape(-1, *[1] * len(self.batch_shape), codes.shape[-1])
        return codes.expand(-1, *self.batch_shape, -1) if expand else codes

    @property
    def probs(self) -> Tensor:
        """Of each value of each variable, `(..., V, L)`."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """The probabilities, side by side as the codes are."""
        return self.probs.flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def mode(self) -> Tensor:
        return self._hard(self.logits).flatten(-2)

    def entropy(self) -> Tensor:
        """In nats, summed over the variables."""
        return -_weighted(self.probs, self.logits).sum((-2, -1))


def _weighted(probs: Tensor, values: Tensor) -> Tensor:
    """`p v`, 0 where p is 0, whatever v is."""
    never = probs == 0
    return probs * values.masked_fill(never, 0.0)


def kl_each(q: OneHots, p: OneHots) -> Tensor:
    """`KL(q(z_v) || p(z_v))` of each variable, `(..., V)`."""
    never = q.probs == 0
    ratio = q.logits.masked_fill(never, 0.0) - p.logits.masked_fill(never, 0.0)
    return (q.probs * ratio).sum(-1)


@register_kl(OneHots, OneHots)  # type: ignore[untyped-decorator]
def _kl(q: OneHots, p: OneHots) -> Tensor:
    return kl_each(q, p).sum(-1)
