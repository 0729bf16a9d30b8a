"""Linear-Gaussian pairs: what a model is made of where its posterior is known in closed form."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from pyro_vae.foundation.abstract import forked_random
from pyro_vae.models.likelihoods.continuous import Gaussian

CLOSE = 1e-3  # of its own size, by which a map of float32 may miss an affine one


class LinearGaussian(NamedTuple):
    """`z ~ N(loc, diag(spread^2))`, `x_i|z ~ N(w_i z + b_i, scale_i^2)`, for each condition or class in a batch.

    Attributes:
        weight: w, `(..., X, D)`, of a datum with X elements.
        bias: b, `(..., X)`.
        scale: `(..., X)`.
        loc, spread: of p(z), `(..., D)`.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    loc: Tensor
    spread: Tensor

    def posterior(self, x: Tensor, *, missing: bool) -> tuple[Tensor, Tensor]:
        """`p(z|x) = N(m, L L^T)`: m and L, `(..., batch, D)` and `(..., batch or 1, D, D)`, of data `(batch, X)`.

        `(L L^T)^-1 = diag(spread^-2) + sum_i w_i w_i^T / scale_i^2`. Where elements may be `missing`, those of x that
        are nan are left out of the sum. Source: Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.3.
        """
        left, share = x - self.bias, self.weight / self.scale.square().unsqueeze(-1)
        prior = self.spread.square().reciprocal()
        told = self.weight.mT @ share  # (..., D, D)
        if missing:
            seen = ~x.isnan()
            left = left.where(seen, 0.0)
            told = self.weight.mT @ (share * seen.unsqueeze(-1))
        pulled = _times(left, share) + prior * self.loc
        precision = told + torch.diag_embed(prior)

        # Its inverse by way of a triangular factor, which stays lower.
        identity = torch.eye(precision.shape[-1]).to(precision)
        factor = torch.linalg.cholesky(precision)
        covariance = torch.cholesky_solve(identity, factor)
        return _times(pulled, covariance), torch.linalg.cholesky(covariance)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """`r M` of each row r, `(..., batch, N)`, and its matrix or that of all, `(..., batch or 1, N, K)` or `(N, K)`."""
    if matrix.dim() == 2:
        return rows @ matrix
    if matrix.shape[-3] == 1:
        return rows @ matrix.squeeze(-3)
    return (rows.unsqueeze(-2) @ matrix).squeeze(-2)


def read_linear(model: Any, given: Mapping[str, Tensor]) -> LinearGaussian:
    """The parts of a linear-Gaussian model, read off its distributions at z = 0 and at the unit vectors.

    Args:
        model: a `Model`, for which `refusal` gives no reason.
        given: what its factors are given beside z, by name: a class y `(..., batch)`, a condition c `(batch, width)`.
    """
    lead = max(
        (value.dim() - (name == "c") for name, value in given.items()), default=0
    )
    factors = {factor.site: factor for factor in model.factors()}
    prior = factors["z"].at(given)
    loc, spread = _moments(prior)

    # One row for z = 0, and one for each latent.
    size = model.latent_dim
    points = torch.cat([torch.zeros(1, size), torch.eye(size)]).to(loc)
    points = points.reshape(size + 1, *[1] * lead, size)
    p = _likelihood_at(model, {**given, "z": points})
    means = p.base_dist.loc.flatten(1 + lead)  # (D + 1, ..., X)
    scale = p.base_dist.scale.expand(p.base_dist.loc.shape)[0].flatten(lead)
    weight = torch.movedim(means[1:] - means[:1], 0, -1)
    loc, spread = loc.to(means), spread.to(means)
    return LinearGaussian(weight, means[0], scale, loc, spread)


def axes(weight: Tensor, scale: Tensor) -> Tensor:
    """The rotation R, `(D, D)`, after which the latents of `x = W z + noise` are principal axes, `W R`.

    `R^T W^T diag(scale^-2) W R` is diagonal and falls, so that p(z|x) has independent latents, and the largest weight
    of each column is above zero. With one scale the columns are principal components, from the first.

    Args:
        weight: W, `(X, D)`.
        scale: of the noise, `(X,)`.

    Source: Tipping & Bishop 1999, Probabilistic Principal Component Analysis, appendix A; for factor analysis
    Bartholomew, Knott & Moustaki 2011, Latent Variable Models and Factor Analysis, section 3.3.
    """
    told = weight.mT @ (weight / scale.square().unsqueeze(-1))
    rotation = torch.linalg.eigh(told).eigenvectors.flip(-1)
    turned = weight @ rotation
    largest = turned.gather(0, turned.abs().argmax(0, keepdim=True))
    return rotation * torch.where(largest < 0, -1.0, 1.0).to(rotation)


def _likelihood_at(model: Any, values: Mapping[str, Tensor]) -> Any:
    """`p(x|z)` of all elements, also of those that were not seen."""
    p = next(f for f in model.factors() if f.site == "x").at(values)
    return getattr(p, "whole", p)


def _moments(p: Any) -> tuple[Tensor, Tensor]:
    """Mean and scale of independent normals, `(..., D)`."""
    return p.base_dist.loc, p.base_dist.scale.expand(p.base_dist.loc.shape)


def refusal(model: Any) -> str | None:
    """Why the posterior of a model is not known in closed form, as the end of a sentence; `None` where it is known.

    Maps are tried at random weights, so that one counts as affine which is so whatever it learns.
    """
    if len(model.dims) > 1:
        return "there are several layers of latents: take another guide"
    if model.class_prior is not None and not model.classes:
        return "the target y is a real number: take another guide"
    if not model.latent_dim:  # a finite mixture, whatever its parts are
        return (
            None if model.classes else "latent_dim=0 leaves no latent: take 1 or more"
        )
    if type(model.likelihood) is not Gaussian:
        name = type(model.likelihood).__name__
        return f"p(x|z) is {name} and not Gaussian: take the likelihood gaussian"
    with forked_random(), torch.no_grad():
        twin = _at_random(model)
        given = _any_given(twin)
        prior = {f.site: f for f in twin.factors()}["z"].at(given)
        if not _independent_normals(prior):
            name = type(model.prior).__name__
            return f"p(z) is {name} and not Gaussian: take the prior standardnormal"
        if not _affine(twin, given):
            name = type(model.decoder).__name__
            return (
                f"the decoder {name} makes no map W z + b, or no one scale for all z: take the network linear, and a "
                "scale that is not the network's"
            )
    return None


def _at_random(model: Any) -> Any:
    """A copy of a model with other weights, in float64."""
    twin = copy.deepcopy(model).double()
    for parameter in twin.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    return twin


def _any_given(model: Any) -> dict[str, Tensor]:
    """A class and a condition for a model that reads them."""
    given: dict[str, Tensor] = {}
    width = model.context - model.label_width
    if model.classes:
        given["y"] = torch.zeros(1, dtype=torch.long)
    if width:
        given["c"] = torch.randn(1, width).double()
    return given


def _independent_normals(p: Distribution) -> bool:
    """Whether a distribution is that of independent normals."""
    return isinstance(p, dist.Independent) and isinstance(p.base_dist, dist.Normal)


def _affine(model: Any, given: Mapping[str, Tensor]) -> bool:
    """Whether the mean of `p(x|z)` is affine in z, and its scale the same for all z."""
    first, second = torch.randn(2, model.latent_dim).double()
    points = [torch.zeros_like(first), first, second, first + second]
    z = torch.stack(points).reshape(4, *[1] * (1 if given else 0), -1)
    p = _likelihood_at(model, {**given, "z": z})
    loc, scale = p.base_dist.loc, p.base_dist.scale.expand(p.base_dist.loc.shape)
    bent = loc[1] + loc[2] - loc[0] - loc[3]
    near = CLOSE * loc.abs().amax()
    return bool((bent.abs() <= near).all()) and bool(torch.allclose(scale[:1], scale))
