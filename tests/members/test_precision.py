"""Every likelihood in float32 against its formula with forty digits, over wide ranges of parameters and values."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from mpmath import mp, mpf

from pyro_vae import (
    VAE,
    InputError,
    Likelihood,
    MeanField,
    StandardNormal,
    likelihoods,
    log_marginal,
    variants,
)
from pyro_vae.data.representation import Representation
from pyro_vae.distributions import DiagonalMixture
from pyro_vae.foundation.abstract import traced
from pyro_vae.models.likelihoods import NegativeBinomial, Poisson
from pyro_vae.networks import Linear

COLUMNS = 100  # of a datum
SHIFT, SPREAD = 300.0, 20.0  # what locations count in


@pytest.fixture(autouse=True)
def forty_digits():
    with mp.workdps(40):
        yield


def log_sigmoid(a):
    return -mp.log1p(mp.exp(-a))


def log_bernoulli(x, h):
    return log_sigmoid(h if x == 1 else -h)


def log_gaussian(x, loc, log_scale):
    scale = SPREAD * (mpf(1e-3) + mp.exp(log_scale))
    return (
        -(((x - SHIFT - SPREAD * loc) / scale) ** 2) / 2
        - mp.log(scale)
        - mp.log(2 * mp.pi) / 2
    )


def log_laplace(x, loc, log_scale):
    scale = SPREAD * (mpf(1e-3) + mp.exp(log_scale))
    return -abs(x - SHIFT - SPREAD * loc) / scale - mp.log(2 * scale)


def log_student(x, loc, log_scale, *, df):
    scale = SPREAD * (mpf(1e-3) + mp.exp(log_scale))
    y, df = (x - SHIFT - SPREAD * loc) / scale, mpf(df)
    peak = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2
    return peak - mp.log(scale) - (df + 1) / 2 * mp.log1p(y**2 / df)


def log_lognormal(x, loc, log_scale):
    scale = mpf(1e-3) + mp.exp(log_scale)
    y = (mp.log(x) - loc) / scale
    return -(y**2) / 2 - mp.log(scale) - mp.log(2 * mp.pi) / 2 - mp.log(x)


def log_gamma(x, log_mean, log_k):
    k, rate = mp.exp(log_k), mp.exp(log_k - log_mean)
    return k * mp.log(rate) + (k - 1) * mp.log(x) - rate * x - mp.loggamma(k)


def log_ordinal(x, h, *, levels):
    """Between two thresholds, which start as the logits of even shares."""
    lower, upper = (
        mp.inf * (2 * end - 1) if k in (0, levels) else mpf(math.log(k / (levels - k)))
        for end, k in enumerate((x, x + 1))
    )
    side = 1 if h < 0 else -1
    far, near = (1 / (1 + mp.exp(side * (end - h))) for end in (upper, lower))
    return mp.log(side * (near - far))


def log_continuous_bernoulli(x, h):
    return mpf(0) if h == 0 else h * x - mp.log(mp.expm1(h) / h)


def log_beta(x, logit, log_precision):
    r = mp.exp(log_precision)
    a, b = r / (1 + mp.exp(-logit)), r / (1 + mp.exp(logit))
    normaliser = mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(r)
    return (a - 1) * mp.log(x) + (b - 1) * mp.log1p(-x) - normaliser


def log_poisson(x, h):
    return x * h - mp.exp(h) - mp.loggamma(x + 1)


def log_negative_binomial(x, log_mean, log_r):
    m, r = mp.exp(log_mean), mp.exp(log_r)
    chosen = mp.loggamma(x + r) - mp.loggamma(r) - mp.loggamma(x + 1)
    return chosen + x * mp.log(m / (m + r)) - r * mp.log1p(m / r)


def log_zero_inflated(x, gate, *h, inner):
    counted = log_sigmoid(-gate) + inner(x, *h)
    return mp.log(mp.exp(log_sigmoid(gate)) + mp.exp(counted)) if x == 0 else counted


def log_categorical(x, *h):
    return h[int(x)] - mp.log(sum(mp.exp(a - max(h)) for a in h)) - max(h)


def log_levels(x, loc, log_scale, *, levels):
    """The difference of two distribution functions, or of two tails, whichever are small."""
    loc, scale = SHIFT + SPREAD * loc, SPREAD * mp.exp(log_scale)
    side = 1 if x > loc else -1
    upper = mp.inf if x == levels - 1 else (x + 0.5 - loc) / scale
    lower = -mp.inf if x == 0 else (x - 0.5 - loc) / scale
    far, near = (1 / (1 + mp.exp(side * end)) for end in (upper, lower))
    return mp.log(side * (near - far))


def log_mixture(x, *h, levels):
    k = len(h) // 3
    weights = [log_categorical(i, *h[:k]) for i in range(k)]
    parts = [
        w + log_levels(x, *h[k + i :: k][:2], levels=levels)
        for i, w in enumerate(weights)
    ]
    return max(parts) + mp.log(sum(mp.exp(part - max(parts)) for part in parts))


class Truth(NamedTuple):
    """A member, its log-density of one element from elsewhere, and where its outputs of the decoder lie.

    Each output is drawn evenly between two bounds; where the third entry is `"sizes"`, its sign is drawn too and the
    bounds are those of the decimal logarithm of its size.
    """

    make: Callable[[tuple[int, ...]], Likelihood]
    log_density: Callable[..., Any]
    ranges: list[tuple]


def member(name: str, **arguments: Any) -> Callable[[tuple[int, ...]], Likelihood]:
    return partial(getattr(likelihoods, name), **arguments)


NB = member("NegativeBinomial", dispersion="network")
LOCATION, SCALE, COUNTS, LOG_R = (-3, 1.5, "sizes"), (-8, 3), (-5, 16.1), (-5, 13.8)
TRUTHS: dict[str, list[Truth]] = {
    "Bernoulli": [Truth(member("Bernoulli"), log_bernoulli, [(-6, 4, "sizes")])],
    "Gaussian": [
        Truth(member("Gaussian", scale="network"), log_gaussian, [LOCATION, SCALE])
    ],
    "Laplace": [
        Truth(member("Laplace", scale="network"), log_laplace, [LOCATION, SCALE])
    ],
    "StudentT": [
        Truth(
            member("StudentT", scale="network", df=df),
            partial(log_student, df=df),
            [LOCATION, SCALE],
        )
        for df in (1.1, 4.0, 1e3, 1e7, 1e15)
    ],
    "LogNormal": [
        Truth(member("LogNormal", scale="network"), log_lognormal, [LOCATION, (-8, 2)])
    ],
    "Gamma": [
        Truth(member("Gamma", concentration="network"), log_gamma, [(-20, 20), log_k])
        for log_k in ((-4, 3), (3, 14), (14, 40))
    ],
    "Ordinal": [
        Truth(
            member("Ordinal", levels=levels),
            partial(log_ordinal, levels=levels),
            [(-2, 1.5, "sizes")],
        )
        for levels in (2, 7, 256)
    ],
    "ContinuousBernoulli": [
        Truth(
            member("ContinuousBernoulli"),
            log_continuous_bernoulli,
            [(low, high, "sizes")],
        )
        for low, high in ((-12, -1), (-1, 1), (1, 4))
    ],
    "Beta": [
        Truth(member("Beta"), log_beta, [(-2, 1.2, "sizes"), precision])
        for precision in ((-10, 3), (3, 14), (14, 30))
    ],
    "Poisson": [Truth(member("Poisson"), log_poisson, [(-20, 16.1)])],
    "NegativeBinomial": [
        Truth(NB, log_negative_binomial, [COUNTS, LOG_R]),
        Truth(NB, log_negative_binomial, [COUNTS, (13.8, 40)]),
        Truth(NB, log_negative_binomial, [(-30, 3), (-30, 3)]),
    ],
    "ZeroInflated": [
        Truth(
            member("ZeroInflated"),
            partial(log_zero_inflated, inner=log_poisson),
            [(-2, 2, "sizes"), (-20, 16.1)],
        ),
        Truth(
            member("ZeroInflated", likelihood=NB),
            partial(log_zero_inflated, inner=log_negative_binomial),
            [(-2, 2, "sizes"), COUNTS, LOG_R],
        ),
    ],
    "Categorical": [
        Truth(member("Categorical", levels=5), log_categorical, [(-3, 3, "sizes")] * 5)
    ],
    "DiscretizedLogistic": [
        Truth(
            member("DiscretizedLogistic", levels=levels, scale="network"),
            partial(log_levels, levels=levels),
            [LOCATION, (-12, 6)],
        )
        for levels in (2, 600, 65_536)
    ],
    "DiscretizedLogisticMixture": [
        Truth(
            member("DiscretizedLogisticMixture", levels=600, components=2),
            partial(log_mixture, levels=600),
            [(-2, 2, "sizes")] * 2 + [LOCATION] * 2 + [(-6, 4)] * 2,
        )
    ],
}
EVERY = [
    pytest.param(truth, id=f"{name}-{i}")
    for name, all_of in TRUTHS.items()
    for i, truth in enumerate(all_of)
]


def test_every_likelihood_has_a_truth():
    of_others = {"Columns", "Fields", "SelfMasking"}  # made of them
    assert {*TRUTHS} | of_others == set(variants(Likelihood))


def outputs(
    truth: Truth, rows: int, columns: int, random: np.random.Generator
) -> torch.Tensor:
    """`(rows, channels, columns)`, float32."""
    parts = []
    for low, high, *how in truth.ranges:
        part = random.uniform(low, high, (rows, columns))
        if how:
            part = 10**part * random.choice([-1, 1], part.shape)
        parts.append(part)
    return torch.tensor(np.stack(parts, 1), dtype=torch.float32)


def prepared(truth: Truth, columns: int) -> Likelihood:
    likelihood = truth.make((columns,))
    for name, value in (("shift", SHIFT), ("spread", SPREAD)):
        if (
            hasattr(likelihood, name)
            and likelihood.support is not Representation.POSITIVE
        ):
            getattr(likelihood, name).fill_(value)
    return likelihood


def values(
    likelihood: Likelihood, h: torch.Tensor, random: np.random.Generator
) -> torch.Tensor:
    """Draws of these parameters, and among them the ends, draws of other parameters and numbers far away."""
    x = likelihood(h).sample()
    other = likelihood(h[random.permutation(len(h))]).sample()
    x = torch.where(torch.rand(x.shape) < 0.1, other, x)
    limits = torch.finfo(torch.float32)
    ends = {
        Representation.REAL: [1e12, -1e12, 0.0, SHIFT],
        Representation.POSITIVE: [limits.tiny, 1e12, 1.0],
        Representation.UNIT: [0.0, 1.0],
        Representation.BINARY: [0.0, 1.0],
        Representation.LEVELS: [0.0, getattr(likelihood, "levels", 1) - 1.0],
        Representation.COUNTS: [0.0, 1.0, 2.0**24 - 1],
    }[likelihood.support]
    if isinstance(likelihood, likelihoods.Beta):
        ends = [limits.tiny, 1 - limits.eps / 2]
    for row, end in enumerate(ends):
        x[row, :2] = end
    likelihood.check(x)
    return x


def truths(truth: Truth, x: torch.Tensor, h: torch.Tensor) -> list[list[Any]]:
    """By row and column."""
    numbers = h.double().movedim(1, -1).tolist()
    return [
        [
            truth.log_density(mpf(a), *map(mpf, outs))
            for a, outs in zip(row, columns, strict=True)
        ]
        for row, columns in zip(x.double().tolist(), numbers, strict=True)
    ]


@pytest.mark.parametrize("truth", EVERY)
def test_a_datum_is_exact_to_a_thousandth_of_a_nat(truth):
    """Or to the rounding of float32, where so many nats have no thousandths."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    h = outputs(truth, 8, COLUMNS, random)
    likelihood = prepared(truth, COLUMNS)
    x = values(likelihood, h, random)
    expected = [sum(row) for row in truths(truth, x, h)]
    for said in (likelihood(h).log_prob(x), in_a_graph(likelihood, h, x)):
        assert said.dtype is torch.float32
        for ours, exact in zip(said.tolist(), expected, strict=True):
            assert abs(ours - exact) <= max(1e-3, 2**-23 * abs(exact)), (
                ours,
                float(exact),
            )


def in_a_graph(
    likelihood: Likelihood, h: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    with traced():
        return likelihood(h).log_prob(x).detach()


@pytest.mark.parametrize("truth", EVERY)
def test_gradients_by_the_decoders_outputs(truth):
    """Against derivatives of the truth."""
    random = np.random.default_rng(1)
    torch.manual_seed(1)
    columns = 8
    h = outputs(truth, 4, columns, random)
    likelihood = prepared(truth, columns)
    x = likelihood(h).sample()
    x = x.clamp(1e-30, 1 - 6e-8) if isinstance(likelihood, likelihoods.Beta) else x
    h.requires_grad_()
    likelihood(h).log_prob(x).sum().backward()
    for row in range(len(h)):
        for column in range(columns):
            at = [mpf(v) for v in h[row, :, column].double().tolist()]
            value = mpf(x[row, column].item())
            for i, ours in enumerate(h.grad[row, :, column].tolist()):

                def along(v, i=i, at=at, value=value):
                    return truth.log_density(value, *at[:i], v, *at[i + 1 :])

                exact = mp.diff(along, at[i], h=mpf(10) ** -12)
                assert ours == pytest.approx(float(exact), rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("truth", EVERY)
def test_draws_and_means_are_finite_and_of_their_kind(truth):
    random = np.random.default_rng(2)
    torch.manual_seed(2)
    h = outputs(truth, 50, 10, random)
    likelihood = prepared(truth, 10)
    p = likelihood(h)
    assert p.mean.dtype is torch.float32
    assert p.mean.isfinite().all()
    likelihood.check(p.sample((3,)))
    assert p.expand((5, 50)).sample().shape == (5, 50, 10)


@pytest.mark.parametrize(
    "h", [-500.0, -20.0, -1.5, -1e-3, 0.0, 1e-8, 0.7, 1.0, 3.0, 100.0, 1e4]
)
def test_the_continuous_bernoulli_adds_up_to_one_and_has_its_moments(h):
    """By quadrature in pieces that halve towards the bright end."""
    p = likelihoods.ContinuousBernoulli((1,))(torch.tensor([[h]], dtype=torch.float64))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    ends = np.concatenate([[0.0], 2.0 ** np.arange(-40, 1)])
    widths = np.diff(ends)
    x = (ends[:-1, None] + widths[:, None] * (nodes + 1) / 2).flatten()
    x = x if h < 0 else 1 - x
    weights = (widths[:, None] * weights / 2).flatten()
    mass = p.log_prob(torch.from_numpy(x)[:, None]).exp().numpy() * weights
    mean = (mass * x).sum()
    variance = (mass * (x - mean) ** 2).sum()
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    single = likelihoods.ContinuousBernoulli((1,))(torch.tensor([[h]]))
    assert single.mean.item() == pytest.approx(mean, rel=1e-6)
    assert single.variance.item() == pytest.approx(variance, rel=1e-6)
    torch.manual_seed(0)
    draws = single.sample((20_000,)).double()
    assert (
        abs(draws.mean().item() - mean) < 4.5 * math.sqrt(variance / len(draws)) + 1e-7
    )
    assert draws.min() >= 0
    assert draws.max() <= 1


@pytest.mark.parametrize("log_scale", [-9.0, 0.0, 1.38, 1.39, 3.0, 12.0])
def test_the_mean_of_many_levels_is_the_sum_over_them(log_scale):
    """At locations on both sides of the ends, and on both sides of the scale where the way changes."""
    likelihood = likelihoods.DiscretizedLogistic((6,), levels=2000, scale="network")
    likelihood.spread.fill_(1.0)
    loc = torch.tensor(
        [-1060.0, -1000.0, -900.3, 0.25, 999.0, 5000.0]
    )  # from the middle
    p = likelihood(torch.stack([loc, torch.full_like(loc, log_scale)]))
    levels = torch.arange(2000.0)[:, None].expand(-1, 6)
    mass = p.base_dist.log_prob(levels.double()).exp()
    expected = (mass * levels).sum(0)
    np.testing.assert_allclose(p.mean.numpy(), expected.numpy(), rtol=2e-7, atol=1e-5)


@pytest.mark.parametrize("cls", [Poisson, NegativeBinomial])
@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6, 1e7])
def test_log_marginal_of_large_counts_that_do_not_depend_on_z(cls, mean):
    """A decoder that ignores z: log p(x) is a sum of masses, and no particle changes it."""
    columns = 100
    vae = VAE(
        StandardNormal(1),
        Linear((1,), (1, columns)),
        cls((columns,)),
        MeanField(Linear((columns,)), 1),
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.model.decoder.output_layer.bias.fill_(math.log(mean))
    torch.manual_seed(0)
    x = vae.sample(5)
    h = mpf(vae.model.decoder.output_layer.bias[0].item())
    known = (
        partial(log_negative_binomial, log_r=mpf(0))
        if cls is NegativeBinomial
        else log_poisson
    )
    expected = [float(sum(known(mpf(v), h) for v in row)) for row in x.tolist()]
    found = log_marginal(vae.model, vae.guide, x, num_particles=4).values.tolist()
    assert found == pytest.approx(expected, abs=1e-3)


def test_counts_that_are_too_large_are_refused():
    for name in ("Poisson", "ZeroInflated"):
        likelihood = getattr(likelihoods, name)((2,))
        likelihood.check(torch.tensor([[2.0**24 - 1, 0]]))
        likelihood.check(torch.tensor([[2**24 + 1, 0]]))
        with pytest.raises(
            InputError,
            match=r"the count 400,000,000, .* below 2\^24 .*--precision float64",
        ):
            likelihood.check(torch.tensor([[4e8, 0]]))
    NegativeBinomial((2,)).check(
        torch.tensor([[4e8, 0]])
    )  # at a mean of 1e7 there are such counts
    for cls in (Poisson, NegativeBinomial):
        with pytest.raises(
            InputError, match=r"the count 1,000,000,000,000, .* below 2\^32"
        ):
            cls((2,)).check(torch.tensor([[1e12, 0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "likelihood", ["negativebinomial", "poisson", "discretizedlogistic"]
)
def test_whole_numbers_that_float32_rounds_are_refused_at_the_door(
    refused, call, tmp_path, likelihood
):
    x = np.random.default_rng(0).poisson(100, (50, 3))
    x[7, 1] = 2**24 + 1
    np.save(tmp_path / "counts.npy", x)
    said = refused(
        "train", "--dataset", tmp_path / "counts.npy", "--likelihood", likelihood
    )
    assert "row 7 (counted from 0)" in said
    assert "counts.npy holds the whole number 16,777,217" in said
    assert "--precision float64" in said
    if likelihood != "discretizedlogistic":
        given = ("--likelihood", likelihood, "--precision", "float64", "--dry-run")
        assert call("train", "--dataset", tmp_path / "counts.npy", *given).code == 0


def test_dark_pixels_are_worth_what_the_best_continuous_bernoulli_says():
    """At a mean of 2 / 256 its logit is -128 and its density e^-128x 128: log(128) - 1 nats a pixel."""
    likelihood = likelihoods.ContinuousBernoulli((16,))
    mean = torch.full((16,), 2 / 256)
    h = likelihood.starting_output(mean, mean)
    torch.testing.assert_close(h, torch.full_like(h, -128.0), rtol=1e-4, atol=0)
    assert likelihood(h).log_prob(mean).item() == pytest.approx(
        16 * (math.log(128) - 1), abs=1e-3
    )


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.003])
def test_a_mixture_of_narrow_normals(scale):
    """As a `VampPrior` becomes where the encoder is sure of its latents."""
    torch.manual_seed(0)
    loc = 3 * torch.randn(30, 20)
    p = DiagonalMixture(torch.randn(30), loc, torch.full((30, 20), scale))
    z = loc.repeat(3, 1) + scale * torch.randn(90, 20)
    parts = scipy.stats.norm.logpdf(
        z.double()[:, None], loc.double(), p.scale[0, 0].item()
    ).sum(-1)
    expected = scipy.special.logsumexp(parts + p.log_weights.double().numpy(), 1)
    np.testing.assert_allclose(p.log_prob(z).numpy(), expected, atol=1e-3, rtol=0)
