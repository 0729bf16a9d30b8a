"""Bounds against each other and against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from ppca import PPCA
from pyro_vae import CIWAE, ELBO, IWAE, MIWAE, InputError, Renyi, terms


@pytest.fixture
def t():
    model = PPCA(2, 5, widen=1.5, shift=0.4)
    torch.manual_seed(0)
    return terms(*model.pair, model.sample(300), num_particles=12)


def close(a, b, t):
    torch.testing.assert_close(a.bound(t), b.bound(t), rtol=1e-10, atol=1e-10)


def test_limits(t):
    close(Renyi(alpha=0), IWAE(), t)
    close(Renyi(alpha=1), ELBO(), t)
    close(CIWAE(beta=0), IWAE(), t)
    close(CIWAE(beta=1), ELBO(), t)
    close(MIWAE(groups=1, num_particles=12), IWAE(), t)
    close(MIWAE(groups=12, num_particles=12), ELBO(), t)
    torch.testing.assert_close(Renyi(alpha=1 + 1e-4).bound(t), ELBO().bound(t), rtol=0, atol=1e-2)
    assert (Renyi(alpha=1 + 1e-4).bound(t) < ELBO().bound(t)).all()


def test_order(t):
    """Renyi bounds fall with alpha; the others lie between the ELBO and IWAE, datum by datum."""
    bounds = [Renyi(alpha=a).bound(t) for a in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    assert all((a > b).all() for a, b in pairwise(bounds))
    for objective in (CIWAE(beta=0.3), MIWAE(groups=3, num_particles=12)):
        assert (objective.bound(t) > ELBO().bound(t)).all()
        assert (objective.bound(t) < IWAE().bound(t)).all()


def test_renyi_bound_against_the_closed_form():
    """As K grows, L_alpha -> log p(x) - D_alpha(q || p(z|x)); D_alpha of two Gaussians is known.

    Source: Gil, Alajaji & Linder 2013, Renyi Divergence Measures for Commonly Used Univariate Continuous Distributions.
    """
    alpha, shift, widen = 0.5, 0.4, 1.3
    model = PPCA(1, 3, widen=widen, shift=shift)
    x = model.sample(20)
    v = model.posterior_covariance.item()
    v_q = widen**2 * v
    mixed = (1 - alpha) * v_q + alpha * v
    divergence = (
        0.5 * math.log(v / v_q)
        + 0.5 / (alpha - 1) * math.log(v / mixed)
        + 0.5 * alpha * shift**2 / mixed
    )  # fmt: skip
    torch.manual_seed(0)
    t = terms(*model.pair, x, num_particles=200_000)
    powers = ((1 - alpha) * t.log_weight).exp()
    error = powers.std(0) / powers.mean(0) / len(powers) ** 0.5 / (1 - alpha)
    gap = Renyi(alpha=alpha).bound(t) - (model.marginal.log_prob(x) - divergence)
    assert (gap.abs() < 4.5 * error).all()
    assert error.max() < 0.01


def test_at_the_exact_posterior_every_bound_is_log_p():
    model = PPCA(2, 4)
    x = model.sample(10)
    for objective in (Renyi(alpha=0.3), Renyi(alpha=2.0), CIWAE(), MIWAE(groups=2, num_particles=6)):
        bound = objective.bound(terms(*model.pair, x, num_particles=objective.num_particles))
        torch.testing.assert_close(bound, model.marginal.log_prob(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Renyi(alpha=math.nan), "alpha"),
        (lambda: CIWAE(beta=1.5), "beta"),
        (lambda: MIWAE(groups=3, num_particles=10), "groups=3"),
        (lambda: MIWAE(groups=0), "groups=0"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InputError, match=words):
        make()
