"""Objectives for latents that are codes, whose draws carry no gradients."""

from typing import Annotated, Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.foundation.checks import Count, NotNegative, Positive, at_least
from pyro_vae.inference.objectives.base import Objective, closed_kls
from pyro_vae.inference.terms import Program, Terms
from pyro_vae.models.conditionals import Codebook


class VIMCO(Objective):
    """`L_K` as in `IWAE`, for draws without gradients: the score function, each particle with a baseline of the others.

    The gradient is `grad L_K + sum_k (L_K - L_K without k) grad log q(z_k|x)`, which is unbiased; in `L_K without k`
    the weight of particle k is the geometric mean of the others. On such latents `IWAE` is the same; this one refuses
    those that are better served by another.

    Args:
        num_particles: K, 2 or more.

    Raises:
        InputError: for a single particle.

    Source: Mnih & Rezende 2016, Variational Inference for Monte Carlo Objectives.
    """

    by_particle = True
    needs = ("density", "scored")
    own_bound = "IWAE-{K} bound"

    def __init__(self, *, num_particles: Annotated[int, at_least(2)] = 5) -> None:
        super().__init__(num_particles=num_particles)

    def bound(self, t: Terms) -> Tensor:
        return t.log_mean(t.log_weight)


def gradient_of(guide: Any, objective: Any) -> str | None:
    """In words how the gradient of a guide of codes is taken; `None` where z is made of reals."""
    if isinstance(guide, Codebook):
        return "straight through: that of the decoder at the words goes to the encodings as it is"
    levels = getattr(guide, "levels", None)
    if levels is None or not isinstance(objective, Objective):
        return None
    codes, plain = levels ** (guide.latent_dim // levels), objective.plain
    if guide.listed:
        return f"exact: all {codes} codes of z are summed over"
    count = f"{codes:,}" if codes < MANY else f"{codes:.1e}".replace("e+", " 10^")
    if isinstance(plain, GumbelSoftmax):
        how = "straight through, with the gradient of a relaxed code"
    elif not plain.score_function:
        how = "as the objective has it"
    elif plain.num_particles > 1:
        how = "by the score function, less the baseline of its other draws"
    else:
        how = "by the score function of one draw, which is noisy: take num_particles=5, or the objective gumbelsoftmax"
    return f"of draws, as z has {count} codes: {how}"


MANY = 10**9  # codes whose number is written out


class StraightThrough(Messenger):
    """Gives latents of one-hot codes draws with the gradient of relaxed ones; see `OneHots.straight_through`."""

    def __init__(self, temperature: Tensor) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Any) -> None:
        draw = getattr(msg["fn"], "straight_through", None)
        if draw is not None and msg["value"] is None and not msg["is_observed"]:
            msg["value"] = draw(self.temperature.to(msg["fn"].logits))


class GumbelSoftmax(Objective):
    """`E_q[log p(x|z)] - beta KL(q(z|x) || p(z))`, z one-hot codes whose gradient is that of relaxed ones.

    The decoder sees the code `argmax_l (logits_l + g_l)`, g Gumbel noise, and its gradient goes on to the logits as if
    it had seen `softmax((logits + g) / temperature)`: straight through. The KL is that of the codes, in closed form. So
    every number, also while training, is of codes, and only the gradient of the first term is biased, the less the
    colder; but it is noisier then.

    Args:
        beta: weight of the KL term, as in `ELBO`.
        start: the temperature at the beginning of training.
        end: the temperature after `epochs`, in between it falls by the same factor in each.
        epochs: how long it falls.
        num_particles: draws averaged in the first term.

    In a loop of one's own, call `advance` with the number of epochs done before each step. Source: Jang, Gu & Poole
    2017, Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih & Teh 2017, The Concrete Distribution;
    Bengio, Léonard & Courville 2013, Estimating or Propagating Gradients Through Stochastic Neurons.

    >>> objective = GumbelSoftmax(start=1.0, end=0.25, epochs=10)
    >>> objective.advance(5)
    >>> objective.temperature
    tensor(0.5000)
    """

    needs = ("prior", "codes", "closed KL")
    score_function = False

    def __init__(
        self,
        *,
        beta: NotNegative = 1.0,
        start: Positive = 1.0,
        end: Positive = 0.5,
        epochs: Positive = 50.0,
        num_particles: Count = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.beta, self.start, self.end, self.epochs = beta, start, end, epochs
        self.temperature = torch.tensor(float(start))

    def advance(self, epoch: float) -> None:
        done = min(1.0, epoch / self.epochs)
        self.temperature.fill_(self.start * (self.end / self.start) ** done)

    def terms_of(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        with StraightThrough(self.temperature):
            return super().terms_of(model, guide, *args, **kwargs)

    def bound(self, t: Terms) -> Tensor:
        return t.mean(t.log_px) - t.weigh(self.beta * t.mean(closed_kls(t)))
