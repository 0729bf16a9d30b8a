"""Linear-Gaussian pairs: what a model is made of where its posterior is known in closed form."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae.foundation.abstract import forked_random
from pyro_vae.models.likelihoods.continuous import Gaussian
from pyro_vae.models.program import Factor

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


class DeepGaussian(NamedTuple):
    """Layers `z_L ~ N(.)`, `z_l = A z_above + b + s e_l` side by side, the top first: `z = loc + factor e`.

    Attributes:
        loc: the mean of all layers, `(..., D)`.
        factor: lower triangular, `(..., D, D)`: their covariance is `factor factor^T`.
        noise: x given `e ~ N(0, I)`.
    """

    loc: Tensor
    factor: Tensor
    noise: LinearGaussian

    def posterior(self, x: Tensor, *, missing: bool) -> tuple[Tensor, Tensor]:
        """`p(z|x) = N(m, L L^T)` of all layers, as `LinearGaussian.posterior`."""
        e, tril = self.noise.posterior(x, missing=missing)
        moved = (self.factor @ e.unsqueeze(-1)).squeeze(-1)
        return self.loc + moved, self.factor @ tril


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
    lead = _lead(given)
    factors = {factor.site: factor for factor in model.factors()}
    loc, spread = _moments(factors["z"].at(given))
    values = {**given, "z": _points(model, lead).to(loc)}
    weight, bias, scale = _affine_map(_whole(factors["x"].at(values)), lead)
    return LinearGaussian(weight, bias, scale, loc.to(bias), spread.to(bias))


def read_deep(model: Any, given: Mapping[str, Tensor]) -> DeepGaussian:
    """The parts of a linear-Gaussian model of several layers, as `read_linear` reads those of one."""
    lead, size = _lead(given), model.latent_dim
    top, *below, of_x = model.factors()
    loc, spread = _moments(top.at(given))
    factor = pad(torch.diag_embed(spread), (0, size - spread.shape[-1]))
    points = _points(model, lead).to(loc)
    values = {**given, **model.by_site(points)}

    # Each layer is a map of those above, and noise of its own.
    for layer in below:
        weight, bias, scale = _affine_map(layer.at(values), lead)
        start = loc.shape[-1]
        weight = weight[..., :start]
        own = pad(torch.diag_embed(scale), (start, size - start - scale.shape[-1]))
        rows = weight @ factor + own
        loc = torch.cat(
            [loc.expand(*rows.shape[:-2], -1), _moved(weight, loc, bias)], -1
        )
        factor = torch.cat([factor.expand(*rows.shape[:-2], -1, -1), rows], -2)
    weight, bias, scale = _affine_map(_whole(of_x.at(values)), lead)
    loc, factor = loc.to(bias), factor.to(bias)
    standard = torch.zeros_like(loc), torch.ones_like(loc)
    noise = LinearGaussian(weight @ factor, _moved(weight, loc, bias), scale, *standard)
    return DeepGaussian(loc, factor, noise)


def _lead(given: Mapping[str, Tensor]) -> int:
    """How many dimensions of conditions or classes a batch has."""
    return max((v.dim() - (name == "c") for name, v in given.items()), default=0)


def _points(model: Any, lead: int) -> Tensor:
    """Latents at which affine maps are read: 0, and the unit vectors, `(D + 1, ..., D)`."""
    size = model.latent_dim
    points = torch.cat([torch.zeros(1, size), torch.eye(size)])
    return points.reshape(size + 1, *[1] * lead, size)


def _affine_map(p: Any, lead: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, bias and scale of a normal at the points: `(..., N, D)`, `(..., N)` and `(..., N)`."""
    means = p.base_dist.loc.flatten(1 + lead)  # (D + 1, ..., N)
    scale = p.base_dist.scale.expand(p.base_dist.loc.shape)[0].flatten(lead)
    return torch.movedim(means[1:] - means[:1], 0, -1), means[0], scale


def _moved(weight: Tensor, loc: Tensor, bias: Tensor) -> Tensor:
    """`W m + b`."""
    return (weight @ loc.unsqueeze(-1)).squeeze(-1) + bias


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


def _whole(p: Any) -> Any:
    """`p(x|z)` of all elements, also of those that were not seen."""
    return getattr(p, "whole", p)


def _moments(p: Any) -> tuple[Tensor, Tensor]:
    """Mean and scale of independent normals, `(..., D)`."""
    return p.base_dist.loc, p.base_dist.scale.expand(p.base_dist.loc.shape)


def refusal(model: Any) -> str | None:
    """Why the posterior of a model is not known in closed form, as the end of a sentence; `None` where it is known.

    Maps are tried at random weights, so that one counts as affine which is so whatever it learns.
    """
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
        *before, of_x = [f for f in twin.factors() if f.site != "y"]
        top, *below = before
        if not _independent_normals(top.at(given)):
            name = type(model.prior).__name__
            return f"p({top}) is {name} and not Gaussian: take the prior standardnormal"
        for layer in below:
            if not _affine(twin, layer, given):
                return (
                    f"p({layer}) is no Gaussian around a map of the layer above, of one scale: take the network linear "
                    "and the structure chain(scale='element')"
                )
        if not _affine(twin, of_x, given):
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


def _affine(model: Any, factor: Factor, given: Mapping[str, Tensor]) -> bool:
    """Whether a factor is normal, with a mean that is affine in z and a scale that is the same for all z."""
    first, second = torch.randn(2, model.latent_dim).double()
    points = [torch.zeros_like(first), first, second, first + second]
    z = torch.stack(points).reshape(4, *[1] * (1 if given else 0), -1)
    p = _whole(factor.at({**given, **model.by_site(z)}))
    if not _independent_normals(p):
        return False
    loc, scale = p.base_dist.loc, p.base_dist.scale.expand(p.base_dist.loc.shape)
    bent = loc[1] + loc[2] - loc[0] - loc[3]
    near = CLOSE * loc.abs().amax()
    return bool((bent.abs() <= near).all()) and bool(torch.allclose(scale[:1], scale))
