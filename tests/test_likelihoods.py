"""Each likelihood against the same density from elsewhere."""

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae import (
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    InputError,
    NegativeBinomial,
    Poisson,
    Spec,
    StudentT,
    build,
    fit,
    load_data,
)


@pytest.fixture
def h():
    return torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_poisson(h):
    x = torch.arange(120.0).reshape(40, 3).double() / 4 // 1
    ours = Poisson((3,)).double()(h[:, :1]).log_prob(x)
    theirs = scipy.stats.poisson.logpmf(x.numpy(), h[:, 0].exp().numpy()).sum(1)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


@pytest.mark.parametrize("dispersion", ["element", "network"])
def test_negative_binomial(h, dispersion):
    likelihood = NegativeBinomial((3,), dispersion=dispersion).double()
    x = torch.arange(120.0).reshape(40, 3).double() // 4
    r = h[:, 1].exp() if dispersion == "network" else torch.ones(3).double()
    p = likelihood(h if dispersion == "network" else h[:, :1])
    theirs = scipy.stats.nbinom.logpmf(x.numpy(), r.numpy(), (r / (r + h[:, 0].exp())).numpy()).sum(1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), theirs, rtol=1e-9)
    torch.testing.assert_close(p.mean.detach(), h[:, 0].exp())
    torch.testing.assert_close(p.variance.detach(), h[:, 0].exp() + h[:, 0].exp() ** 2 / r)


def test_student_t(h):
    x = torch.randn(40, 3).double()
    ours = StudentT((3,), df=3.5, scale=0.7).double()(h[:, :1]).log_prob(x)
    theirs = scipy.stats.t.logpdf(x.numpy(), 3.5, h[:, 0].numpy(), 0.7).sum(1)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


def test_categorical(h):
    x = torch.randint(0, 2, (40, 3)).double()
    ours = Categorical((3,), levels=2).double()(h).log_prob(x)
    theirs = torch.nn.functional.cross_entropy(h, x.long(), reduction="none").neg().sum(1)
    torch.testing.assert_close(ours, theirs)


def test_discretized_logistic_is_a_difference_of_logistic_functions(h):
    levels = 8
    likelihood = DiscretizedLogistic((3,), levels=levels, scale="network").double()
    x = torch.randint(0, levels, (40, 3)).double()
    loc, scale = (
        4 + 2 * h[:, 0].numpy(),
        2 * h[:, 1].exp().numpy(),
    )  # in units of a quarter of the levels, from the middle
    upper = np.where(x == levels - 1, np.inf, x.numpy() + 0.5)
    lower = np.where(x == 0, -np.inf, x.numpy() - 0.5)
    f = scipy.stats.logistic(loc, scale)
    mass = np.where(lower > loc, f.sf(lower) - f.sf(upper), f.cdf(upper) - f.cdf(lower))  # no cancelling
    theirs = np.log(mass).sum(1)
    np.testing.assert_allclose(likelihood(h).log_prob(x).numpy(), theirs, rtol=1e-7)


def test_discretized_logistic_does_not_underflow_far_from_the_data():
    """A hundred scales away the two logistic functions agree to all digits: their difference would be log 0."""
    likelihood = DiscretizedLogistic((1,), levels=256, scale="network")
    h = torch.tensor([[1.6], [-5.0]]).requires_grad_()
    log_p = likelihood(h).log_prob(torch.tensor([3.0]))
    loc, scale = 128 + 64 * 1.6, 64 * np.exp(-5.0)
    expected = -(loc - 3.5) / scale + np.log(-np.expm1(-1 / scale))  # exp(a) (1 - exp(b - a)), a far below 0
    assert log_p.item() == pytest.approx(expected, rel=1e-4)
    log_p.backward()
    assert h.grad.isfinite().all()


def test_continuous_bernoulli_near_one_half():
    """C(p) = 2 artanh(1 - 2p) / (1 - 2p), taken with 50 digits, also where the quotient is 0 / 0."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 50
    for logit in (-5.0, -1e-2, -1e-5, 0.0, 1e-9, 1e-3, 3.0):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        c = 2 if p == mpmath.mpf("0.5") else 2 * mpmath.atanh(1 - 2 * p) / (1 - 2 * p)
        x = mpmath.mpf("0.3")
        expected = float(mpmath.log(c) + x * mpmath.log(p) + (1 - x) * mpmath.log(1 - p))
        ours = ContinuousBernoulli((1,))(torch.tensor([[logit]]).double()).log_prob(torch.tensor([0.3]).double())
        assert ours.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ("studentt(df=1)", "df=1"),
        ("negativebinomial(dispersion='all')", "dispersion='all'"),
        ("categorical(levels=1)", "levels=1"),
        ("discretizedlogistic(scale=2)", "scale=2"),
        ("discretizedlogistic(levels=2.5)", "levels=2.5"),
    ],
)
def test_wrong_arguments(likelihood, words):
    with pytest.raises(InputError, match=words):
        build(Spec((4,), likelihood=likelihood))


def test_too_few_levels_are_said():
    data = load_data("digits")
    vae = build(Spec((8, 8), likelihood="categorical(levels=9)"))
    x = data.split("train", data.bridge(vae.model.likelihood))
    with pytest.raises(InputError, match=r"the level 16, but Categorical\(levels=9\) ends at 8; give it levels=17"):
        fit(vae, x, epochs=1)


@pytest.mark.parametrize(
    "likelihood", ["poisson", "negativebinomial", "categorical(levels=17)", "discretizedlogistic(levels=17)"]
)
def test_grey_levels_train_under_each_mass(likelihood):
    torch.manual_seed(0)
    data = load_data("digits")
    vae = build(Spec((8, 8), 4, likelihood=likelihood))
    train = data.split("train", data.bridge(vae.model.likelihood))
    vae.initialise(*train.moments())
    history = fit(vae, train, epochs=8, learning_rate=2e-3)
    assert history[-1].elbo > history[0].elbo + 10
