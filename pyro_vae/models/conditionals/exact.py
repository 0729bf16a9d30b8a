"""The posterior itself, where it is known in closed form."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Count, Whole
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.classes import Classifier, Reads, beside, with_label
from pyro_vae.models.conditionals.base import Guide
from pyro_vae.models.conditionals.gaussian import full_rank
from pyro_vae.models.linear import LinearGaussian, read_linear, refusal
from pyro_vae.models.targets import Regressor


class Exact(Guide):
    """`q(z|x) = p(z|x)`: the posterior in closed form, of a linear-Gaussian pair or a finite mixture.

    It needs `p(z) = N(m, diag(s^2))`, or `p(z|y)`, and `p(x|z) = N(W z + b, diag(scale^2))` with a scale that does not
    depend on z; with a class y the same for each class, and `q(y|x) = p(y|x)`. Without a vector z the parts of the
    mixture, `p(x|y)`, may be any. It has no parameters: it follows those of the model. Then the ELBO is `log p(x)`,
    whatever is drawn, its gradient has no noise, and one particle says all.

    Args:
        encoder: not used; it stands here because every guide has one.
        latent_dim: the length of `z`; 0 where a class is all that there is.
        features: not used.

    Raises:
        InputError: by the `VAE`, for a model whose posterior has no such form, saying what stands in the way.

    Source: Tipping & Bishop 1999, Probabilistic Principal Component Analysis; Ghahramani & Hinton 1996, The EM
    Algorithm for Mixtures of Factor Analyzers.

    >>> from pyro_vae import VAE, Gaussian, StandardNormal, elbo
    >>> from pyro_vae.networks import Linear
    >>> guide = Exact(Linear((4,)), 2)
    >>> vae = VAE(StandardNormal(2), Linear((2,), (1, 4)), Gaussian((4,)), guide)
    >>> vae.encode(torch.ones(3, 4)).covariance_matrix.shape
    torch.Size([3, 2, 2])
    """

    asks_model = True
    rows: Tensor
    columns: Tensor

    def __init__(
        self, encoder: nn.Module, latent_dim: Whole, *, features: Count | None = None
    ) -> None:
        width = latent_dim * (latent_dim + 3) // 2
        super().__init__(nn.Identity(), latent_dim, features=width)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def connect(self, model: nn.Module) -> None:
        # Looked at, not owned: its parameters stay the model's alone.
        object.__setattr__(self, "_model", model)
        self.check_prior(model.prior)
        self.fields = model.fields  # type: ignore[assignment]

    def check_prior(self, prior: Any) -> None:
        """Raise `InputError` where the posterior of the model, with this prior, has no closed form."""
        if (reason := refusal(self.model)) is not None:
            raise InputError(f"Exact is the posterior in closed form, and {reason}")

    def classify(self, classifier: Classifier | Regressor, reads: Reads) -> None:
        if isinstance(classifier, Classifier):
            classifier = ExactClassifier(self, classifier)
        super().classify(classifier, reads)

    @property
    def bodies(self) -> list[nn.Module]:
        return []

    @property
    def model(self) -> Any:
        """The model whose posterior it is."""
        model = getattr(self, "_model", None)
        if model is None:
            raise InputError("Exact looks at the model: put both into a VAE first")
        return model

    @property
    def context(self) -> int:
        """How many numbers of a condition the model reads."""
        return context_of(getattr(self, "_model", None))

    def posterior(self, h: Tensor) -> Distribution:
        return self.family(h)

    def family(self, parameters: Tensor) -> Distribution:
        if not self.latent_dim:
            return DiagonalNormal(parameters, parameters)
        return full_rank(parameters, self.latent_dim, self.rows, self.columns)  # type: ignore[no-any-return]

    def linear(self, *c: Tensor) -> LinearGaussian:
        """The parts of the model, given a condition that begins with a class where there are some."""
        given = {"c": c[0]} if c else {}
        if self.label_width:
            given = with_label(given, self.label_width)
        return read_linear(self.model, given)

    def parameters_given(self, x: Tensor, *c: Tensor) -> Tensor:
        if not self.latent_dim:
            batch = torch.broadcast_shapes(*(v.shape[:-1] for v in c), x.shape[:1])
            return x.new_zeros(*batch, 0)
        likelihood = self.model.likelihood
        rows = x.flatten(x.dim() - len(likelihood.shape))
        loc, scale_tril = self.linear(*c).posterior(rows, missing=likelihood.missing)
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        below = scale_tril[..., self.rows, self.columns] / diagonal[..., self.rows]
        parts = [loc, diagonal.log(), below * math.sqrt(self.latent_dim)]
        return beside(*parts).to(x.dtype)


class ExactClassifier(Classifier):
    """`q(y|x) = p(y|x)`, from `log p(x, y) = log p(x, y, z) - log p(z|x, y)` at any z.

    Args:
        guide: the posterior of z.
        stands_for: the classifier whose place it takes: its size, weight and condition.
    """

    guide: Any

    def __init__(self, guide: Exact, stands_for: Classifier) -> None:
        nn.Module.__init__(self)
        object.__setattr__(self, "guide", guide)
        self.size, self.asked_weight = stands_for.size, stands_for.asked_weight
        self.weight = float(self.asked_weight or 0.0)
        self.network, self._width = nn.Identity(), stands_for.context

    @property
    def each(self) -> Tensor:
        return self.guide.model.each  # type: ignore[no-any-return]

    @property
    def context(self) -> int:
        return self._width

    def forward(self, x: Tensor, *c: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=self.log_joint(x, *c), validate_args=False)

    def log_joint(self, x: Tensor, *c: Tensor) -> Tensor:
        """`log p(x, y)` of each class, `(batch, K)`."""
        y = torch.arange(self.size, device=x.device).unsqueeze(-1)  # (K, 1)
        q = self.guide.given_class(x, y, *c)
        z = q.mean
        no_label = x.new_full((x.shape[0], self.size), math.nan)
        given = {"c": torch.cat([no_label, *c], -1)}
        values = {"x": x, "y": y, "z": z, **given}
        return (self.guide.model.log_prob(values) - q.log_prob(z)).T
