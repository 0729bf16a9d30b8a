"""Each likelihood against the same density from elsewhere."""

import itertools
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import pyro_vae
from pyro_vae import Bernoulli, InputError, Spec, build, fit, load_data
from pyro_vae.foundation.abstract import traced
from pyro_vae.models.likelihoods import (
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gamma,
    Gaussian,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflated,
)


@pytest.fixture
def h():
    return torch.randn(
        40, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("shape", [(1,), (13,), (14,), (5, 3), (28, 28)])
def test_bernoulli_as_python_and_as_a_graph_compute_it(shape):
    torch.manual_seed(0)
    sizes = torch.tensor([1e-9, 0.1, 1, 10, 40, 300], dtype=torch.float64)
    logits = torch.stack(
        [size * torch.randn(1, *shape, dtype=torch.float64) for size in sizes]
    )
    x = torch.rand(6, *shape, dtype=torch.float64).round()
    ones, zeros = (
        torch.from_numpy(scipy.special.log_expit(sign * logits[:, 0].numpy()))
        for sign in (1, -1)
    )
    expected = torch.where(x > 0, ones, zeros).flatten(1).sum(1)
    p = Bernoulli(shape)
    torch.testing.assert_close(p(logits).log_prob(x), expected, rtol=1e-14, atol=1e-15)
    with traced():
        torch.testing.assert_close(
            p(logits).log_prob(x), expected, rtol=1e-14, atol=2e-14
        )


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
    theirs = scipy.stats.nbinom.logpmf(
        x.numpy(), r.numpy(), (r / (r + h[:, 0].exp())).numpy()
    ).sum(1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), theirs, rtol=1e-9)
    torch.testing.assert_close(p.mean.detach(), h[:, 0].exp())
    torch.testing.assert_close(
        p.variance.detach(), h[:, 0].exp() + h[:, 0].exp() ** 2 / r
    )


def test_student_t(h):
    x = torch.randn(40, 3).double()
    ours = StudentT((3,), df=3.5, scale=0.7).double()(h[:, :1]).log_prob(x)
    theirs = scipy.stats.t.logpdf(x.numpy(), 3.5, h[:, 0].numpy(), 0.7).sum(1)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


def test_laplace(h):
    x = torch.randn(40, 3).double()
    likelihood = Laplace((3,), scale="network", min_scale=1e-9).double()
    theirs = scipy.stats.laplace.logpdf(
        x.numpy(), h[:, 0].numpy(), h[:, 1].exp().numpy()
    ).sum(1)
    np.testing.assert_allclose(likelihood(h).log_prob(x).numpy(), theirs, rtol=1e-7)


@pytest.mark.parametrize("scale", [0.7, "network"])
def test_log_normal(h, scale):
    x = torch.randn(40, 3).double().exp()
    likelihood = LogNormal((3,), scale=scale, min_scale=1e-9).double()
    p = likelihood(h if scale == "network" else h[:, :1])
    s = h[:, 1].exp().numpy() if scale == "network" else scale
    theirs = scipy.stats.lognorm.logpdf(x.numpy(), s, scale=h[:, 0].exp().numpy()).sum(
        1
    )
    np.testing.assert_allclose(p.log_prob(x).numpy(), theirs, rtol=1e-7)
    np.testing.assert_allclose(
        p.mean.numpy(), np.exp(h[:, 0].numpy() + s**2 / 2), rtol=1e-7
    )


@pytest.mark.parametrize("concentration", ["element", "network"])
def test_gamma(h, concentration):
    x = torch.randn(40, 3).double().exp()
    likelihood = Gamma((3,), concentration=concentration).double()
    likelihood.initialise(
        torch.full((3,), 5.0), torch.full((3,), 2.5), standardise=True
    )
    p = likelihood(h if concentration == "network" else h[:, :1])
    k = h[:, 1].exp().numpy() if concentration == "network" else 4.0
    theirs = scipy.stats.gamma(k, scale=5 * h[:, 0].exp().numpy() / k)
    ours = p.log_prob(x).detach().numpy()
    np.testing.assert_allclose(ours, theirs.logpdf(x.numpy()).sum(1), rtol=1e-6)
    np.testing.assert_allclose(p.variance.detach().numpy(), theirs.var(), rtol=1e-6)


def test_gamma_draws_at_small_shapes_stay_positive():
    torch.manual_seed(0)
    h = torch.tensor([[0.0], [-7.0]])  # k = 0.001: half of the draws lie below 1e-300
    x = Gamma((1,), concentration="network")(h.expand(1000, 2, 1)).sample()
    assert (x > 0).all()
    assert x.isfinite().all()


def test_ordinal(h):
    likelihood = Ordinal((3,), levels=5).double()
    levels = torch.from_numpy(
        np.random.default_rng(0).choice(5, (500, 3), p=[0.4, 0.3, 0, 0.2, 0.1])
    )
    likelihood.meet(levels)
    b = likelihood.thresholds.detach().numpy()
    assert (np.diff(b) > 0).all()
    x = torch.arange(120.0).reshape(40, 3).double() % 5
    ends = np.concatenate([np.full((3, 1), -np.inf), b, np.full((3, 1), np.inf)], 1)
    k, place = x.numpy().astype(int), h[:, 0].numpy()
    above, below = (ends[np.arange(3), k + i] - place for i in (1, 0))
    theirs = np.log(
        scipy.stats.logistic.cdf(above) - scipy.stats.logistic.cdf(below)
    ).sum(1)
    np.testing.assert_allclose(
        likelihood(h[:, :1]).log_prob(x).detach().numpy(), theirs, rtol=1e-8
    )


@pytest.mark.parametrize("cls", [Ordinal, Categorical])
def test_levels_that_were_met_start_with_their_shares(cls):
    levels = np.random.default_rng(0).choice(4, (500, 2), p=[0.5, 0.3, 0.15, 0.05])
    likelihood = cls((2,), levels=4).double()
    x = torch.from_numpy(levels).double()
    assert likelihood.starting_output(x.mean(0), x.std(0)) is None
    likelihood.meet(x)
    p = likelihood(likelihood.starting_output(x.mean(0), x.std(0)))
    ours = torch.stack([p.log_prob(torch.full((2,), float(k))) for k in range(4)])
    counts = np.stack([np.bincount(column, minlength=4) + 0.5 for column in levels.T])
    shares = np.log(counts / counts.sum(1, keepdims=True)).sum(0)
    np.testing.assert_allclose(ours.detach().numpy(), shares, rtol=1e-6)


@pytest.mark.parametrize("cls", [Gaussian, Laplace])
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("scale", ["learned", "element", "network"])
def test_a_learned_scale_starts_at_the_standard_deviation(cls, standardise, scale):
    mean, std = (
        torch.tensor([0.0, 5.0]).double(),
        torch.tensor([2.0, 2.0 if scale == "learned" else 7.0]).double(),
    )
    likelihood = cls((2,), scale=scale, min_scale=1e-9).double()
    likelihood.initialise(mean, std, standardise=standardise)
    p = likelihood(likelihood.starting_output(mean, std))
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.stddev.detach(), std)


@pytest.mark.parametrize(
    ("dtype", "logit", "log_precision", "x", "tolerance"),
    [
        (torch.float64, 0.0, 0.0, 0.25, 1e-12),
        (torch.float64, -3.0, 2.0, 1e-9, 1e-12),
        (torch.float64, 2.0, 5.0, 0.9, 1e-12),
        (torch.float64, 0.5, 20.0, 0.6224, 1e-6),
        (torch.float64, -300.0, 0.5, 1e-300, 1e-10),  # a = 1e-130
        (
            torch.float32,
            0.3,
            2.9,
            0.5,
            1e-5,
        ),  # a and b on either side of where the series begins
        (torch.float32, 0.0, 14.0, 0.5005, 0.05),  # a precision of a million
        (torch.float32, -80.0, 1.0, 1e-30, 1e-4),
        (torch.float32, 12.0, 0.0, 0.9999, 1e-4),
    ],
)
def test_beta_at_any_precision(dtype, logit, log_precision, x, tolerance):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 200
    h = torch.tensor([[logit], [log_precision]], dtype=dtype).requires_grad_()
    x = torch.tensor([x], dtype=dtype)
    m = 1 / (1 + mpmath.exp(-mpmath.mpf(h[0].item())))
    a, b = (part * mpmath.exp(mpmath.mpf(h[1].item())) for part in (m, 1 - m))
    y = mpmath.mpf(x.item())
    expected = (
        (a - 1) * mpmath.log(y)
        + (b - 1) * mpmath.log(1 - y)
        - mpmath.log(mpmath.beta(a, b))
    )
    log_p = Beta((1,)).to(dtype)(h).log_prob(x)
    assert log_p.item() == pytest.approx(float(expected), abs=tolerance)
    log_p.backward()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beta_draws_never_reach_the_ends(dtype):
    torch.manual_seed(0)
    h = torch.tensor([[0.0, 20.0, -20.0, 0.7], [-9.0, 0.0, 1.0, 0.4]], dtype=dtype)
    likelihood = Beta((4,))
    p = likelihood(h)
    x = p.sample((20_000,))
    assert x.dtype is dtype
    likelihood.check(x)
    assert p.log_prob(x).isfinite().all()
    assert abs(x[:, 0].mean() - 0.5) < 0.02  # a coin, at a precision of 1e-4
    a, b = (h[1].exp() * m for m in (h[0].sigmoid(), (-h[0]).sigmoid()))
    assert (
        scipy.stats.kstest(
            x[:, 3].numpy(), scipy.stats.beta(a[3].item(), b[3].item()).cdf
        ).pvalue
        > 1e-3
    )


def test_beta_starts_at_the_moments_and_refuses_the_ends():
    likelihood = Beta((2,)).double()
    mean, std = torch.tensor([0.2, 0.5]).double(), torch.tensor([0.1, 0.4]).double()
    p = likelihood(likelihood.starting_output(mean, std))
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.stddev, std)
    for end in (0.0, 1.0):
        with pytest.raises(
            InputError, match=r"0 or 1.*--dequantize.*ContinuousBernoulli"
        ):
            likelihood.check(torch.tensor([[0.3, end]]))


def test_zero_inflated(h):
    x = torch.arange(120.0).reshape(40, 3).double() // 30
    gate = h[:, 0].sigmoid().numpy()
    theirs = scipy.stats.poisson.pmf(x.numpy(), h[:, 1].exp().numpy())
    theirs = np.log(gate * (x.numpy() == 0) + (1 - gate) * theirs).sum(1)
    p = ZeroInflated((3,)).double()(h)
    np.testing.assert_allclose(p.log_prob(x).numpy(), theirs, rtol=1e-10)
    _ = p.mean  # Pyro's own cannot expand after that
    assert p.expand((2, 40)).sample((5,)).shape == (5, 2, 40, 3)


@pytest.mark.parametrize("gate", [-200.0, 40.0, 200.0])
def test_zero_inflated_with_a_closed_or_open_gate(gate):
    h = torch.tensor([[gate], [1.0]]).requires_grad_()
    log_p = ZeroInflated((1,))(h).log_prob(torch.tensor([[0.0], [2.0]]))
    closed = scipy.stats.poisson.logpmf([0, 2], np.e)
    assert log_p.tolist() == pytest.approx(
        [0.0, closed[1] - gate] if gate > 0 else closed.tolist(), rel=1e-5
    )
    log_p.sum().backward()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("dispersion", ["element", "network"])
def test_zero_inflated_starts_at_the_moments(dispersion):
    likelihood = ZeroInflated(
        (2,), likelihood=partial(NegativeBinomial, dispersion=dispersion)
    ).double()
    mean, std = torch.tensor([2.0, 5.0]).double(), torch.tensor([3.0, 4.0]).double()
    likelihood.initialise(mean, std, standardise=False)
    p = likelihood(likelihood.starting_output(mean, std))
    torch.testing.assert_close(p.mean.detach(), mean)
    torch.testing.assert_close(p.stddev.detach(), std)


@pytest.mark.parametrize("inner", [Gaussian, Categorical, "poisson", len, None])
def test_zero_inflated_takes_counts(inner):
    with pytest.raises(InputError, match=r"such as (likelihood=)?Poisson"):
        ZeroInflated((2,), likelihood=inner)


def test_categorical(h):
    x = torch.randint(0, 2, (40, 3)).double()
    ours = Categorical((3,), levels=2).double()(h).log_prob(x)
    theirs = (
        torch.nn.functional.cross_entropy(h, x.long(), reduction="none").neg().sum(1)
    )
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
    mass = np.where(
        lower > loc, f.sf(lower) - f.sf(upper), f.cdf(upper) - f.cdf(lower)
    )  # no cancelling
    theirs = np.log(mass).sum(1)
    np.testing.assert_allclose(likelihood(h).log_prob(x).numpy(), theirs, rtol=1e-7)


def test_discretized_logistic_does_not_underflow_far_from_the_data():
    """A hundred scales away the two logistic functions agree to all digits: their difference would be log 0."""
    likelihood = DiscretizedLogistic((1,), levels=256, scale="network")
    h = torch.tensor([[1.6], [-5.0]]).requires_grad_()
    log_p = likelihood(h).log_prob(torch.tensor([3.0]))
    loc, scale = 128 + 64 * 1.6, 64 * np.exp(-5.0)
    expected = -(loc - 3.5) / scale + np.log(
        -np.expm1(-1 / scale)
    )  # exp(a) (1 - exp(b - a)), a far below 0
    assert log_p.item() == pytest.approx(expected, rel=1e-4)
    log_p.backward()
    assert h.grad.isfinite().all()


def logistic_mass(x, loc, scale, levels):
    """Of one level, by numpy: a difference of logistic functions."""
    upper = np.where(x == levels - 1, np.inf, x + 0.5)
    lower = np.where(x == 0, -np.inf, x - 0.5)
    return scipy.stats.logistic.cdf(upper, loc, scale) - scipy.stats.logistic.cdf(
        lower, loc, scale
    )


def test_discretized_logistic_mixture_of_grey_levels():
    h = torch.randn(40, 12, 3).double()
    x = torch.randint(0, 8, (40, 3)).double()
    theirs = 0
    for k in range(4):
        weight = scipy.special.softmax(h[:, :4].numpy(), 1)[:, k]
        loc, scale = 4 + 2 * h[:, 4 + k].numpy(), 2 * h[:, 8 + k].exp().numpy()
        theirs = theirs + weight * logistic_mass(x.numpy(), loc, scale, 8)
    p = DiscretizedLogisticMixture((3,), levels=8, components=4).double()(h)
    np.testing.assert_allclose(p.log_prob(x).numpy(), np.log(theirs).sum(1), rtol=1e-7)


def test_discretized_logistic_mixture_of_colours_is_a_chain_in_each_component():
    h, x = torch.randn(8, 3, 2, 2).double(), torch.randint(0, 8, (3, 2, 2)).double()
    ours = (
        DiscretizedLogisticMixture((3, 2, 2), levels=8, components=2)
        .double()(h)
        .log_prob(x)
    )
    h, x, expected = h.numpy(), x.numpy(), 0.0
    for i, j in itertools.product(range(2), repeat=2):
        weights = scipy.special.softmax(h[:2, :, i, j].mean(1))
        mass = 0.0
        for k in range(2):
            loc, scale = 4 + 2 * h[2 + k, :, i, j], 2 * np.exp(h[4 + k, :, i, j])
            a = np.tanh(h[6 + k, :, i, j])  # green on red, blue on red, blue on green
            red, green = x[:2, i, j] - 4
            loc = loc + np.array([0, a[0] * red, a[1] * red + a[2] * green])
            mass += weights[k] * np.prod(logistic_mass(x[:, i, j], loc, scale, 8))
        expected += np.log(mass)
    assert ours.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("colours", "levels"), [(2, 6), (3, 4), (4, 3)])
def test_discretized_logistic_mixture_of_colours_adds_up_to_one(colours, levels):
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixture(
        (colours, 1, 1), levels=levels, components=2
    ).double()
    p = likelihood(torch.randn(likelihood.channels, colours, 1, 1).double())
    assert (p.batch_shape, p.event_shape) == ((), (colours, 1, 1))
    values = torch.cartesian_prod(*[torch.arange(levels).double()] * colours)
    mass = p.log_prob(values[..., None, None]).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-10)
    n = 40_000
    drawn = p.sample((n,)).flatten(1)
    likelihood.check(drawn)
    index = (drawn * levels ** torch.arange(colours - 1, -1, -1)).sum(1).long()
    frequency = torch.bincount(index, minlength=len(values)) / n
    assert ((frequency - mass).abs() < 4.5 * (mass / n).sqrt() + 2 / n).all()


def test_discretized_logistic_mixture_of_colours_has_the_moments_it_claims():
    """Where no colour comes near an end, by the sum over all colours."""
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixture((3, 1, 1), levels=64, components=2).double()
    h = torch.randn(likelihood.channels, 3, 1, 1).double() / 4
    h[4:6] -= 2.5
    p = likelihood(h)
    x = torch.cartesian_prod(*[torch.arange(64.0).double()] * 3)[..., None, None]
    mass = p.log_prob(x).exp()[:, None, None, None]
    mean = (mass * x).sum(0)
    torch.testing.assert_close(p.mean, mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        p.variance, (mass * (x - mean) ** 2).sum(0), rtol=1e-2, atol=0
    )


def test_discretized_logistic_mixture_of_colours_in_plates():
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixture((3, 4, 5), components=2)
    h = torch.randn(6, 7, likelihood.channels, 3, 4, 5).requires_grad_()
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == ((6, 7), (3, 4, 5))
    x = p.sample()[0]
    log_p = p.log_prob(x)
    assert log_p.shape == (6, 7)
    torch.testing.assert_close(
        log_p[2, 3], likelihood(h[2, 3]).log_prob(x[3]), rtol=1e-4, atol=0
    )
    log_p.sum().backward()
    assert h.grad.isfinite().all()
    assert (
        (h.grad != 0).flatten(0, 1).any(0).all()
    )  # every output of the decoder counts
    assert p.mean.shape == p.variance.shape == (6, 7, 3, 4, 5)
    assert likelihood(h[0, :1]).expand((9, 7)).sample((2,)).shape == (2, 9, 7, 3, 4, 5)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (3, 2, 1)])
@pytest.mark.parametrize("components", [1, 2, 5])
def test_discretized_logistic_mixture_starts_with_components_apart(shape, components):
    likelihood = DiscretizedLogisticMixture(shape, components=components).double()
    mean, std = (
        (100 + 10 * torch.rand(shape)).double(),
        (8 + 4 * torch.rand(shape)).double(),
    )
    likelihood.initialise(mean, std, standardise=False)
    h = likelihood.starting_output(mean, std)
    assert h.shape == (likelihood.channels, *shape)
    loc = h[components : 2 * components]
    assert components == 1 or (loc.diff(dim=0) > 0).all()
    p = likelihood(h)
    torch.testing.assert_close(p.mean, mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        p.variance, std**2 + 1 / 12, rtol=2e-2, atol=0
    )  # of rounding


def test_continuous_bernoulli_near_one_half():
    """C(p) = 2 artanh(1 - 2p) / (1 - 2p), taken with 50 digits, also where the quotient is 0 / 0."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 50
    for logit in (-5.0, -1e-2, -1e-5, 0.0, 1e-9, 1e-3, 3.0):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        c = 2 if p == mpmath.mpf("0.5") else 2 * mpmath.atanh(1 - 2 * p) / (1 - 2 * p)
        x = mpmath.mpf("0.3")
        expected = float(
            mpmath.log(c) + x * mpmath.log(p) + (1 - x) * mpmath.log(1 - p)
        )
        ours = ContinuousBernoulli((1,))(torch.tensor([[logit]]).double()).log_prob(
            torch.tensor([0.3]).double()
        )
        assert ours.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ("studentt(df=1)", "df=1"),
        ("negativebinomial(dispersion='all')", "dispersion='all'"),
        ("categorical(levels=1)", "levels=1"),
        ("discretizedlogistic(scale=2)", "scale=2"),
        ("discretizedlogistic(levels=2.5)", "levels=2.5"),
        ("discretizedlogisticmixture(components=0)", "components=0"),
        ("discretizedlogisticmixture(levels=1)", "levels=1"),
        ("laplace(scale=-1)", "scale=-1"),
    ],
)
def test_wrong_arguments(likelihood, words):
    with pytest.raises(InputError, match=words):
        build(Spec((4,), likelihood=likelihood))


def test_too_few_levels_are_said():
    data = load_data("digits")
    vae = build(Spec((8, 8), likelihood="categorical(levels=9)"))
    x = data.split("train", data.bridge(vae.model.likelihood))
    with pytest.raises(
        InputError,
        match=r"the level 16, but Categorical\(levels=9\) ends at 8; give it levels=17",
    ):
        fit(vae, x, epochs=1)


@pytest.mark.parametrize(
    "likelihood",
    [
        "poisson",
        "negativebinomial",
        "zeroinflated",
        "categorical(levels=17)",
        "discretizedlogistic(levels=17)",
        "discretizedlogisticmixture(levels=17)",
    ],
)
def test_grey_levels_train_under_each_mass(likelihood):
    torch.manual_seed(0)
    data = load_data("digits")
    vae = build(Spec((8, 8), 4, likelihood=likelihood))
    train = data.split("train", data.bridge(vae.model.likelihood))
    vae.initialise(*train.moments())
    history = fit(vae, train, epochs=8, learning_rate=2e-3)
    assert history[-1].elbo > history[0].elbo + 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_all_grey_levels_are_accepted_as_they_are_stored(dtype):
    for name in ("Categorical", "DiscretizedLogistic", "DiscretizedLogisticMixture"):
        getattr(pyro_vae.likelihoods, name)((3,)).check(
            torch.tensor([[0, 238, 255]], dtype=dtype)
        )


@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial", "ZeroInflated"])
def test_counts_given_their_total_have_its_share(name):
    total = torch.tensor([10.0, 0.0, 5.0, 2000.0]).double()
    h = torch.randn(4, 2 if name == "ZeroInflated" else 1, 3).double()
    x = torch.tensor([[1.0, 2, 7], [0, 0, 0], [5, 0, 0], [1000, 600, 400]]).double()
    mean = (total[:, None] * h[:, -1].softmax(1)).numpy()
    if name == "Poisson":
        likelihood = Poisson((3,), size="observed").double()
        mass = scipy.stats.poisson.logpmf(x, mean)
    else:
        counts = NegativeBinomial((3,), size="observed").double()
        counts.log_r.data = torch.tensor([0.5, 0.0, 3.0]).double()
        r = counts.log_r.exp().detach().numpy()
        mass = scipy.stats.nbinom.logpmf(x, r, r / (r + mean))
        likelihood = counts
    if name == "ZeroInflated":
        likelihood = ZeroInflated((3,), likelihood=lambda shape: counts).double()
        gate = h[:, 0].sigmoid().numpy()
        mass = np.log((x.numpy() == 0) * gate + (1 - gate) * np.exp(mass))
    found = likelihood(h, total).log_prob(x)
    torch.testing.assert_close(
        found.detach(), torch.tensor(mass.sum(1)), rtol=1e-6, atol=1e-6
    )
    assert likelihood.sized


def test_a_pair_of_counts_given_their_total():
    torch.manual_seed(0)
    spec = Spec(
        (6,), 2, likelihood="zeroinflated(likelihood=negativebinomial(size='observed'))"
    )
    vae = build(spec).double()
    total = torch.randint(5, 400, (200,))
    x = torch.poisson(total[:, None] * torch.softmax(torch.randn(200, 6), 1)).double()
    fit(vae, x, epochs=2)
    batch = x[:10]
    z = vae.posterior_mean(batch)
    expected = vae.model.likelihood(vae.model.decoder(z), batch.sum(1)).log_prob(batch)
    joint = vae.model.log_prob({"x": batch, "z": z})
    torch.testing.assert_close(joint - vae.model.prior().log_prob(z), expected)
    assert str(vae.model.factors()[1]) == "x|z,total"
    torch.testing.assert_close(
        vae.reconstruct(x).sum(1) / x.sum(1), x.new_ones(200), atol=0.2, rtol=0
    )
    drawn = vae.sample(4000).sum(1).mean()
    assert abs(drawn / x.sum(1).mean() - 1) < 0.15
    assert vae.model(size=3).shape == (3, 6)


@pytest.mark.parametrize("scale", ["element", "network"])
def test_elements_that_hardly_vary_leave_z_to_the_others(scale):
    """As at the border of pictures: in units common to all, what z moves there drowns what the rest would say."""
    torch.manual_seed(0)
    x = 0.002 * torch.randn(1000, 40)
    x[:, :8] += torch.randn(1000, 1) * torch.randn(8)
    vae = build(Spec((40,), 2, likelihood=f"gaussian(scale='{scale}')"))
    vae.initialise(x.mean(0), x.std(0))  # as of a picture, not of a table's columns
    moved = vae.decode(torch.randn(500, 2)).mean.std(0)
    assert (moved < x.std(0)).all()
    least = vae.model.likelihood.least
    assert (least > 0.9e-3 * x.std()).all()  # as under one unit for all
