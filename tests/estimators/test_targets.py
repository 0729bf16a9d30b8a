"""Pairs with a real target y beside z: against linear models, whose densities are known."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Gaussian,
    Guide,
    InputError,
    MeanField,
    StandardNormal,
    Targets,
    annealed_importance_sampling,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    terms,
    variants,
)
from pyro_vae.data.inputs import as_data
from pyro_vae.inference.objectives import Objective
from pyro_vae.networks import Linear

GUIDES = [g for g in variants(Guide).values() if g.__name__ != "Categorical"]
DIMS, LATENT, ROWS = 4, 2, 7
SCALE, MEAN, STD = 2.0, 150.0, 70.0
X = torch.randn(ROWS, DIMS, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.tensor([100.0, math.nan, 250.0, 3.5, math.nan, math.nan, 160.0]).double()
KNOWN = ~LABELS.isnan()


def linear(weight=0.0, guide=MeanField, condition=0, scale=SCALE):
    """`N(y; 0, 1) N(z; 0, I) N(x; W z + v y + b, 2^2)` in float64, labels y in units of 70 around 150."""
    torch.manual_seed(0)
    context = 1 + condition
    decoder = Linear((LATENT,), (1, DIMS), context=context)
    regressor = MLP((DIMS,), hidden=(8,), context=condition)
    targets = Targets(regressor, mean=MEAN, std=STD, weight=weight)
    encoder = MLP((DIMS,), hidden=(8,), context=context)
    vae = VAE(
        StandardNormal(LATENT),
        decoder,
        Gaussian((DIMS,), scale=scale),
        guide(encoder, LATENT),
        classes=targets,
    ).double()
    head = getattr(vae.guide, "head", None)
    if head is not None:  # as wide as the prior, so that weights have a small spread
        with torch.no_grad():
            head.bias[LATENT:] = 0.0
    return vae


def parts(vae):
    """W, v and b of the decoder."""
    decode = vae.model.decoder
    with torch.no_grad():

        def at(z, y):
            return decode(z.double(), y.double()).squeeze(0)

        none = torch.zeros(1, LATENT), torch.zeros(1, 1)
        b = at(*none)
        w = torch.cat([at(e[None], none[1]) - b for e in torch.eye(LATENT)]).T
        v = (at(none[0], torch.ones(1, 1)) - b)[0]
    return w, v, b[0]


def truth(vae, x, labels=None):
    """`log p(x)`, and of data with a label `log p(x, label)`: y and z integrated out by hand."""
    w, v, b = parts(vae)
    noise = vae.model.likelihood.scale**2 * torch.eye(DIMS).double()
    alone = dist.MultivariateNormal(b, w @ w.T + torch.outer(v, v) + noise).log_prob(x)
    if labels is None:
        return alone
    y = (labels.nan_to_num() - MEAN) / STD
    p = dist.MultivariateNormal(y[:, None] * v + b, w @ w.T + noise)
    of_label = dist.Normal(MEAN, STD).log_prob(labels.nan_to_num())
    return torch.where(labels.isnan(), alone, p.log_prob(x) + of_label)


def posterior(vae, x):
    """`p(y|x)`, and `p(z|x,y)` as a function of y, by the rules for Gaussians."""
    w, v, b = parts(vae)
    noise = w @ w.T + SCALE**2 * torch.eye(DIMS).double()
    of_x = torch.linalg.solve(noise, v)
    variance = 1 / (1 + v @ of_x)
    q_y = dist.Normal(variance * (x - b) @ of_x, variance.sqrt())
    precision = torch.eye(LATENT).double() + w.T @ w / SCALE**2

    def of_z(y):
        left = x - b - y.unsqueeze(-1) * v
        loc = torch.linalg.solve(precision, w.T) @ left.unsqueeze(-1) / SCALE**2
        return dist.MultivariateNormal(loc.squeeze(-1), precision_matrix=precision)

    return q_y, of_z


def exact():
    """With the posterior of the linear model as its guide."""
    vae = linear()
    vae.guide.classifier.forward = lambda x: posterior(vae, x)[0]
    vae.guide.given_class = lambda x, y: posterior(vae, x)[1](y)
    return vae


def near(result, wanted, most=0.1):
    """Whether estimates of few data are as near to the truth as their errors say, which are small."""
    assert result.standard_errors.max() < most / 2
    errors = (result.values - wanted) / result.standard_errors.clamp_min(most / 15)
    return errors.abs().max() < 5


ESTIMATES = {
    "plain": lambda vae, x: log_marginal(vae.model, vae.guide, x, num_particles=40_000),
    "refined": lambda vae, x: log_marginal_refined(vae, x, num_particles=5000),
    "adaptive": lambda vae, x: log_marginal_adaptive(vae, x, num_particles=5000)[0],
    "annealed": lambda vae, x: annealed_importance_sampling(
        vae.model, x, num_chains=64, num_temperatures=80, leapfrogs=6, compile=False
    ),
}


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
@pytest.mark.parametrize("labels", [False, True])
def test_every_estimator_integrates_over_the_target(estimate, labels):
    """In a batch where some targets are missing each datum has its own density, `log p(x)` or `log p(x, label)`."""
    vae = linear()
    data = {"x": X, "y": LABELS} if labels else X
    wanted = truth(vae, X, LABELS if labels else None)
    assert near(estimate(vae, data), wanted, most=0.6)


def test_each_weight_is_the_truth_where_the_guide_is_the_posterior():
    """With `q(y|x) = p(y|x)` and `q(z|x,y) = p(z|x,y)` a weight is p(x), and of a labelled datum p(x, label)."""
    vae = exact()
    for labels in (None, LABELS):
        data = X if labels is None else {"x": X, "y": labels}
        t = terms(vae.model, vae.guide, as_data(vae.model, data)[:], num_particles=5)
        wanted = truth(vae, X, labels).expand(5, -1)
        assert torch.allclose(t.log_weight, wanted, atol=1e-9)


def test_hard_data_are_weighed_by_draws_of_the_prior_too():
    """A guide that is far too narrow: refined, and defended at both latents, log p(x, label) is right."""
    vae = linear(scale=0.5)
    with torch.no_grad():
        vae.guide.head.bias[LATENT:] = -3.0
    data = {"x": X, "y": LABELS}
    found, roads = log_marginal_adaptive(vae, data, num_particles=5000)
    refined = roads.road == 2
    assert refined.any()
    errors = (found.values - truth(vae, X, LABELS))[refined]
    assert (errors.abs() < 5 * found.standard_errors[refined] + 0.02).all()
    assert (found.standard_errors[refined] < 0.1).all()


# Those that look at each latent by itself, or take codes alone.
REFUSING = {"BetaTC", "FreeBits", "DReG", "PIWAE", "STL", "ReweightedWakeSleep"}
REFUSING |= {"GumbelSoftmax", "VIMCO"}
OBJECTIVES = [o for name, o in sorted(variants(Objective).items())]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.__name__)
def test_every_objective_takes_targets_or_says_why_not(objective):
    vae = linear(weight=3.0)
    data = as_data(vae.model, {"x": X, "y": LABELS})[:]
    svi = SVI(vae.model, vae.guide, partial(torch.optim.Adam, lr=1e-3), objective())
    if objective.__name__ in REFUSING:
        with pytest.raises(InputError, match=r"site 'y'|'z' depends on 'y'"):
            svi.step(data)
        return
    before = [p.clone() for p in vae.parameters()]
    assert svi.step(data).isfinite()
    for old, new in zip(before, vae.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.__name__)
def test_every_guide_takes_targets(guide):
    """A step and an estimate with targets that some data have; a guide that cannot says so."""
    vae = linear(weight=1.0, guide=guide)
    data = {"x": X, "y": LABELS}
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-3), ELBO())
    assert svi.step(as_data(vae.model, data)[:]).isfinite()
    if vae.guide.has_density:
        found = log_marginal(vae.model, vae.guide, data, num_particles=200).values
        assert (found < truth(vae, X, LABELS) + 1).all()
