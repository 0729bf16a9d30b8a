"""Autoencoders: reconstruction alone, with the penalties that keep a code from being a copy."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from pyro_vae.foundation.checks import NotNegative, between
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.terms import Program, Site, Terms

EXACT = 16  # latents up to which the norm of the Jacobian is exact
Activity = Annotated[float, between(1e-6, 1 - 1e-6)]


class Autoencoder(Objective):
    """`log p(x|z) - sparse sum_d KL(target || a_d) - contractive |dz/dx|^2` at the guide's point `z`, without a prior.

    For the guide `Delta`. What is maximised is how well x is made again from z, in nats, which is no bound on log p(x);
    the best epoch is chosen by the reconstruction of the validation data.

    The sparse penalty holds the mean activity `a_d = mean sigmoid(z_d)` of each latent over the batch at `target`, by
    the KL between the two Bernoulli distributions. For an L1 penalty take the objective `ELBO` under the prior
    `Laplace`.

    The contractive penalty is the squared Frobenius norm of the encoder's Jacobian, `sum_{d,i} (dz_d / dx_i)^2`, in the
    units of x: exact up to 16 latents, beyond by `|u^T dz/dx|^2` with one u of random signs for each datum, which is
    right on average. An encoder that normalises over the batch is penalised for what one datum does to the others too.

    Both can be made small by a scale that the decoder undoes: weight decay stands against that.

    Args:
        sparse: weight of the sparse penalty, nats.
        target: the mean activity that it asks for.
        contractive: weight of the contractive penalty.

    Raises:
        InputError: for a negative weight, a target outside (0, 1), latents that are no points, or a model whose prior
            or further layers would learn nothing.

    Source: Bourlard & Kamp 1988, Auto-Association by Multilayer Perceptrons; Lee, Ekanadham & Ng 2008, Sparse Deep
    Belief Net Model for Visual Area V2, and Ng 2011, Sparse Autoencoder (the KL); Rifai, Vincent, Muller, Glorot &
    Bengio 2011, Contractive Auto-Encoders; Hutchinson 1990 (random signs).
    """

    takes_shares = True
    own_bound = "reconstruction"

    def __init__(
        self,
        *,
        sparse: NotNegative = 0.0,
        target: Activity = 0.05,
        contractive: NotNegative = 0.0,
    ) -> None:
        super().__init__(num_particles=1)
        self.sparse, self.target, self.contractive = sparse, target, contractive

    @property
    def across_data(self) -> bool:  # type: ignore[override]
        """Whether the activity of others counts."""
        return self.sparse > 0

    @property
    def tightens(self) -> bool:
        return True

    def check(self, t: Terms) -> None:
        super().check(t)
        points = _points(t)
        for name, site in t.sites.items():
            if site.q is None or site.listed or not site.drawn:
                continue
            if name not in points:
                raise InputError(
                    f"Autoencoder makes x again from a point, and at site {name!r} the guide draws z from a density, "
                    "which would only shrink: take the guide delta, or the objective elbo(beta=0.0)"
                )
        for name, site in points.items():
            if not _reaches(site, t.log_px):
                raise InputError(
                    f"Autoencoder looks at p(x|z) alone, which does not depend on {name!r}, so that this layer would "
                    "learn nothing: take one layer of latents"
                )
        for name, site in points.items():
            _check_prior(name, site)

    def terms_of(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        if not self.contractive or not torch.is_grad_enabled():
            return super().terms_of(model, guide, *args, **kwargs)
        first, *others = args
        given, shift = _with_shift(first)
        t = super().terms_of(model, guide, given, *others, **kwargs)
        points = _points(t)
        if not points:  # which `check` refuses
            return t
        norms = [_squared_jacobian(s.value, shift) for s in points.values()]
        aim = -self.contractive * t.mean(torch.stack(norms).sum(0))
        return t._replace(aim=aim if t.aim is None else t.aim + aim)

    def bound(self, t: Terms) -> Tensor:
        return t.mean(t.log_px)

    def gain_of(self, t: Terms) -> Tensor:
        gain = super().gain_of(t)
        if not self.sparse:
            return gain
        penalty = sum(self._distance(t, s) for s in _points(t).values())
        return gain - self.sparse * penalty

    def _distance(self, t: Terms, site: Site) -> Tensor:
        """`sum_d KL(target || a_d)` of the batch, one number."""
        value = _beside_particles(site.value)
        active = [t.mean(a).mean() for a in value.sigmoid().unbind(-1)]
        a, rho = torch.stack(active), self.target
        # A mean of sigmoids may round to 0 or 1.
        a = a.clamp(1e-6, 1 - 1e-6)
        on = rho * (rho / a).log()
        return (on + (1 - rho) * ((1 - rho) / (1 - a)).log()).sum()


def _points(t: Terms) -> dict[str, Site]:
    """The latents that are points, by name."""
    return {
        name: s
        for name, s in t.sites.items()
        if s.q is not None and s.drawn and s.point and not s.listed
    }


def _beside_particles(value: Tensor) -> Tensor:
    """A latent as `(particles, batch, D)`."""
    return value if value.dim() > 2 else value.unsqueeze(0)


def _check_prior(name: str, site: Site) -> None:
    """Raise `InputError` where the model's distribution of a latent has parameters, to which nobody would listen."""
    if site.p is None or not torch.is_grad_enabled():
        return
    if site.p.log_prob(site.value.detach()).requires_grad:
        raise InputError(
            f"Autoencoder leaves the prior out, and that of {name!r} has parameters, which would learn nothing: take "
            "the prior standardnormal"
        )


def _reaches(site: Site, log_px: Tensor) -> bool:
    """Whether a number depends on a latent, seen from how gradients flow."""
    if not log_px.requires_grad or not site.value.requires_grad:
        return True
    (found,) = torch.autograd.grad(
        log_px.sum(), site.value, allow_unused=True, retain_graph=True
    )
    return found is not None


def _with_shift(data: Any) -> tuple[Any, Tensor]:
    """Data that were moved by nothing, and the zeros that they were moved by, in which they can be differentiated."""
    x = data["x"] if isinstance(data, Mapping) and "x" in data else data
    if not isinstance(x, torch.Tensor):
        raise InputError(
            "the contractive penalty differentiates in x, and the data of this pair are no one tensor x: leave "
            "contractive out"
        )
    shift = torch.zeros_like(x).requires_grad_()
    moved = torch.where(x.isnan(), x, x + shift)
    return ({**data, "x": moved} if isinstance(data, Mapping) else moved), shift


def _squared_jacobian(value: Tensor, shift: Tensor) -> Tensor:
    """`|dz/dx|^2` of each particle and datum, `(particles, batch)`, of z `(particles, batch, D)`."""
    value = _beside_particles(value)
    size = value.shape[-1]

    def square(of: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(of.sum(), shift, create_graph=True)
        return g.square().flatten(1).sum(1)

    each = []
    for z in value.unbind(0):
        if size <= EXACT:
            squares = [square(z[:, d]) for d in range(size)]
            each.append(torch.stack(squares).sum(0))
        else:
            signs = 2.0 * (torch.rand_like(z) < 0.5).to(z) - 1
            each.append(square(signs * z))
    return torch.stack(each)
