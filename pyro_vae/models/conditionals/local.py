"""Guides that look at the model: variational parameters fitted to each datum by gradient steps on its ELBO."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.distributions.stopped import stopped
from pyro_vae.foundation.abstract import AbstractProgram, context_of
from pyro_vae.foundation.checks import Count, Positive, Steps
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.gaussian import MeanField


class _Refined(Guide):
    """What the two guides share: a model to ask, and the gradient of each datum's ELBO."""

    asks_model = True
    steps: int

    def connect(self, model: nn.Module) -> None:
        # Looked at, not owned: its parameters stay the model's alone.
        object.__setattr__(self, "_model", model)
        super().connect(model)

    @property
    def context(self) -> int:
        """How many numbers of a condition the model reads, or the encoder."""
        return max(context_of(getattr(self, "_model", None)), context_of(self.encoder))

    def _gradient(
        self,
        data: Mapping[str, Tensor],
        parameters: Tensor,
        family: Callable[[Tensor], Any],
        *,
        twice: bool,
    ) -> Tensor:
        """The gradient of every datum's one-draw ELBO in its own `parameters`, `(batch, P)`.

        `twice` keeps what is needed to differentiate it once more. `Local`, whose density costs nothing at any latent,
        leaves out the score of q, as `STL` does: less noise.
        """
        model = getattr(self, "_model", None)
        if model is None:
            raise InputError(
                f"{type(self).__name__} looks at the model: put both into a VAE first"
            )
        q = family(parameters)
        z = q.rsample()
        bound = model.log_prob({**data, "z": z}) - (
            q if self.amortised else stopped(q)
        ).log_prob(z)
        return torch.autograd.grad(bound.sum(), parameters, create_graph=twice)[0]


class Local(_Refined):
    """`q(z|x) = N(z; loc_x, diag(scale_x^2))`, free numbers for each datum: classic inference, without an encoder.

    At each visit of a datum its `loc_x` and `log scale_x` are fitted by `steps` steps of Adam on its own ELBO, ever
    shorter ones, from a start that all data share and that is learned; training and evaluation do the same. Nothing is
    stored for a datum, so that new data need no special treatment, and none of the cost is amortised either.

    Args:
        encoder: not used; it stands here because every guide has one.
        latent_dim: the length of `z`.
        steps: gradient steps for each datum.
        rate: about how far the first step moves a parameter; the rate falls to 0 with the last.
        features: not used.

    Raises:
        InputError: for fewer than one step or a rate that is not positive.

    Source: Hoffman, Blei, Wang & Paisley 2013, Stochastic Variational Inference (the local step, here by gradients);
    Kim, Wiseman, Miller, Sontag & Rush 2018, Semi-Amortized Variational Autoencoders (as the baseline SVI).
    """

    amortised = False

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        steps: Steps = 50,
        rate: Positive = 0.15,
        features: Count | None = None,
    ) -> None:
        super().__init__(nn.Identity(), latent_dim, features=2 * latent_dim)
        self.steps, self.rate = steps, rate
        self.start = nn.Parameter(torch.zeros(2 * latent_dim))

    def posterior(self, h: Tensor) -> Distribution:
        return self.family(h)

    def family(self, parameters: Tensor) -> Distribution:
        return DiagonalNormal(*parameters.chunk(2, -1))

    def parameters_given(self, x: Tensor, *c: Tensor) -> Tensor:
        data = dict(zip("xc", (x, *c), strict=False))
        lead = c[0].shape[:-2] if c else ()  # of classes that are enumerated
        start = self.start.expand(*lead, len(x), -1)
        with torch.enable_grad():
            at = start.detach().clone().requires_grad_()
            first, second = torch.zeros_like(at), torch.zeros_like(at)
            for i in range(1, self.steps + 1):  # Adam
                g = self._gradient(data, at, self.family, twice=False)
                first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g * g
                move = first / (1 - 0.9**i) / ((second / (1 - 0.99**i)).sqrt() + 1e-8)
                at = (
                    (at + self.rate * (1 - (i - 1) / self.steps) * move)
                    .detach()
                    .requires_grad_()
                )
        return start + (at.detach() - start.detach())


class SemiAmortized(_Refined):
    """The posterior of an amortised `guide`, then `steps` gradient steps on the datum's ELBO in its parameters.

    The steps are `parameters + rate * gradient`, the gradient cut to a length of 5 for each datum and the rate learned.
    They are taken in training and in evaluation alike, and training differentiates through them, as the source does by
    finite differences.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        guide: the amortised guide, a class or any function of encoder and latent_dim: by default `MeanField`.
        steps: gradient steps.
        rate: the length of a step at the start of training.
        features: as in `Guide`.

    Raises:
        InputError: for fewer than one step, a rate that is not positive, or a guide that has no such parameters.

    Source: Kim, Wiseman, Miller, Sontag & Rush 2018, Semi-Amortized Variational Autoencoders.

    >>> from pyro_vae import MLP, FullRank
    >>> type(SemiAmortized(MLP((4,)), 2, guide=FullRank, steps=3).start).__name__
    'FullRank'
    """

    encoder: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        guide: Callable[..., Guide] = MeanField,
        steps: Steps = 5,
        rate: Positive = 0.01,
        features: Count | None = None,
    ) -> None:
        AbstractProgram.__init__(self)
        self.classifier = None
        self.start = guide(
            encoder, latent_dim, **({} if features is None else {"features": features})
        )
        name = type(self.start).__name__
        if self.start.asks_model or not self.start.has_density:
            raise InputError(
                f"SemiAmortized cannot refine {name}; give it an amortised guide such as MeanField"
            )
        if self.start.discrete:
            raise InputError(
                f"SemiAmortized follows reals that carry gradients, and the draws of {name} are codes"
            )
        if not self.start.smooth:
            raise InputError(
                f"SemiAmortized differentiates through gradients, which {name} does not carry twice"
            )
        self.latent_dim, self.features, self.steps = (
            latent_dim,
            self.start.features,
            steps,
        )
        self.quick_density = self.start.quick_density
        self.log_rate = nn.Parameter(torch.tensor(float(rate)).log())

    def connect(self, model: nn.Module) -> None:
        object.__setattr__(self, "_model", model)
        self.start.connect(model)
        self.fields = self.start.fields
        self._connect_classifier(model.likelihood)

    def __getattr__(self, name: str) -> Any:
        return self.start.encoder if name == "encoder" else super().__getattr__(name)

    def _read_by_start(self, *c: Tensor) -> tuple[Tensor, ...]:
        """What of a class and a condition the amortised guide's encoder reads."""
        width = context_of(self.start.encoder)
        if not width or width == c[0].shape[-1]:
            return c if width else ()
        classes = (
            slice(0, width)
            if width == self.label_width
            else slice(self.label_width, None)
        )
        return (c[0][..., classes],)

    def posterior(self, h: Tensor) -> Distribution:
        return self.start.posterior(h)

    def variational_parameters(self, h: Tensor) -> Tensor:
        return self.start.variational_parameters(h)

    def family(self, parameters: Tensor) -> Distribution:
        return self.start.family(parameters)

    def parameters_given(self, x: Tensor, *c: Tensor) -> Tensor:
        train, data = torch.is_grad_enabled(), dict(zip("xc", (x, *c), strict=False))
        at = self.start.parameters_given(x, *self._read_by_start(*c))
        with torch.enable_grad():
            for _ in range(self.steps):
                at = at if train else at.detach().requires_grad_()
                g = self._gradient(data, at, self.start.family, twice=train)
                length = g.norm(dim=-1, keepdim=True)
                at = at + self.log_rate.exp() * g * (5 / (length + 1e-12)).clamp_max(1)
        return at if train else at.detach()
