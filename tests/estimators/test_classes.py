"""Pairs with a class y beside z: against linear models, whose densities are known, and against Pyro."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Classes,
    Gaussian,
    InputError,
    MeanField,
    StandardNormal,
    annealed_importance_sampling,
    elbo,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    terms,
)
from pyro_vae.networks import Linear
from pyro_vae.models.priors import Conditional

CLASSES, DIMS, LATENT, ROWS = 3, 4, 2, 7
SCALE = 0.6
X = torch.randn(ROWS, DIMS, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.tensor([0, -1, 2, 1, -1, -1, 0])


def labelled(weight=0.0, guide=MeanField, condition=0):
    """`p(y) N(z; 0, I) N(x; W z + V y, 0.6^2)` in float64: M2 with a linear decoder."""
    torch.manual_seed(0)
    context = CLASSES + condition
    decoder = Linear((LATENT,), (1, DIMS), context=context)
    classifier = MLP((DIMS,), hidden=(8,), context=condition)
    classes = Classes(CLASSES, classifier, weight=weight, uniform=False)
    encoder = MLP((DIMS,), hidden=(8,), context=context)
    likelihood = Gaussian((DIMS,), scale=SCALE)
    vae = VAE(
        StandardNormal(LATENT),
        decoder,
        likelihood,
        guide(encoder, LATENT),
        classes=classes,
    ).double()
    with torch.no_grad():
        vae.model.class_prior.logits.copy_(torch.tensor([0.3, -0.5, 0.2]))
    return widened(vae)


@torch.no_grad()
def widened(vae):
    """With q(z|x,y) as wide as the prior, so that weights have a small spread."""
    head = getattr(vae.guide, "head", None)
    if head is not None:
        head.bias[LATENT:] = 0.0
    return vae


def clusters():
    """`p(y) N(z; m_y, s_y^2) N(x; W z, 0.6^2)`: a mixture of Gaussians in a plane."""
    torch.manual_seed(0)
    prior = Conditional(LATENT, hidden=(), context=CLASSES)
    with torch.no_grad():
        prior.network.layers[0].weight.mul_(10)
    classes = Classes(CLASSES, MLP((DIMS,), hidden=(8,)), of=("z",))
    vae = VAE(
        prior,
        Linear((LATENT,), (1, DIMS)),
        Gaussian((DIMS,), scale=SCALE),
        MeanField(MLP((DIMS,), hidden=(8,), context=CLASSES), LATENT),
        classes=classes,
    )
    return widened(vae.double())


def each_class(vae, x):
    """`log p(x, y)` in closed form, `(N, CLASSES)`."""
    y = torch.arange(CLASSES)
    c = torch.eye(CLASSES).double()
    prior = vae.model.prior(c) if vae.model.of_z.y else vae.model.prior()
    loc = prior.mean.expand(CLASSES, LATENT)
    spread = prior.variance.expand(CLASSES, LATENT)
    decoder, zero = vae.model.decoder, torch.zeros(1, LATENT).double()
    given = [c] if vae.model.of_x.y else []
    weight = torch.stack(
        [
            decoder(axis[None], *(g[:1] for g in given))
            - decoder(zero, *(g[:1] for g in given))
            for axis in torch.eye(LATENT).double()
        ],
        -1,
    ).reshape(DIMS, LATENT)
    shift = decoder(zero.expand(CLASSES, -1), *given).reshape(CLASSES, DIMS)
    covariance = weight * spread[:, None, :] @ weight.T
    covariance = covariance + SCALE**2 * torch.eye(DIMS).double()
    p = dist.MultivariateNormal(loc @ weight.T + shift, covariance)
    return p.log_prob(x[:, None]) + vae.model.class_prior().log_prob(y)


PAIRS = {"labelled": labelled, "clusters": clusters}


@pytest.fixture(params=PAIRS)
def vae(request):
    return PAIRS[request.param]()


def near(result, truth, most=0.1):
    """Whether estimates of few data are as near to the truth as their errors say, which are small."""
    assert result.standard_errors.max() < most / 2
    errors = (result.values - truth) / result.standard_errors.clamp_min(most / 15)
    return errors.abs().max() < 5


def test_log_marginal_sums_over_the_classes(vae):
    truth = each_class(vae, X).logsumexp(1)
    assert near(log_marginal(vae.model, vae.guide, X, num_particles=20_000), truth)


def test_log_marginal_of_labelled_data_is_that_of_both(vae):
    each = each_class(vae, X)
    known = each.gather(1, LABELS.clamp_min(0)[:, None]).squeeze(1)
    truth = torch.where(LABELS >= 0, known, each.logsumexp(1))
    data = {"x": X, "y": LABELS}
    assert near(log_marginal(vae.model, vae.guide, data, num_particles=20_000), truth)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda vae, x: log_marginal_refined(vae, x, num_particles=5000),
        lambda vae, x: log_marginal_adaptive(vae, x, num_particles=5000)[0],
        lambda vae, x: annealed_importance_sampling(
            vae.model, x, num_chains=100, num_temperatures=60, compile=False
        ),
    ],
    ids=["refined", "adaptive", "annealed"],
)
@pytest.mark.parametrize("labels", [False, True])
def test_every_estimator_sums_over_the_classes(vae, estimate, labels):
    each = each_class(vae, X)
    known = each.gather(1, LABELS.clamp_min(0)[:, None]).squeeze(1)
    truth = each.logsumexp(1)
    truth = torch.where(LABELS >= 0, known, truth) if labels else truth
    data = {"x": X, "y": LABELS} if labels else X
    assert near(estimate(vae, data), truth, most=0.4)


def test_the_loss_and_its_gradient_are_those_of_pyro(vae):
    """With all labels unknown: the sum over y in each, at the same draws of z."""
    parameters = [p for p in vae.parameters() if p.requires_grad]

    def of(loss):
        torch.manual_seed(3)
        value = loss.differentiable_loss(vae.model, vae.guide, X)
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    mine, gradients = of(ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, others = of(TraceEnum_ELBO(max_plate_nesting=1))
    assert torch.isclose(mine, theirs, atol=1e-10)
    for g, other in zip(gradients, others, strict=True):
        assert torch.allclose(g, other, atol=1e-10)
