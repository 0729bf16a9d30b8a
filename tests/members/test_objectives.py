"""Bounds against each other and against closed forms."""

import math
from itertools import pairwise

import pyro.infer
import pytest
import torch

from ppca import PPCA
from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    StandardNormal,
    fit,
    terms,
)
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import (
    CIWAE,
    MIWAE,
    PIWAE,
    Annealed,
    BetaTC,
    Capacity,
    FreeBits,
    InfoVAE,
    Renyi,
)
from pyro_vae.inference.objectives.penalties import squared_mmd


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
    torch.testing.assert_close(
        Renyi(alpha=1 + 1e-4).bound(t), ELBO().bound(t), rtol=0, atol=1e-2
    )
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
    )
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
    for objective in (
        Renyi(alpha=0.3),
        Renyi(alpha=2.0),
        CIWAE(),
        MIWAE(groups=2, num_particles=6),
    ):
        bound = objective.bound(
            terms(*model.pair, x, num_particles=objective.num_particles)
        )
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


# --- penalised objectives


def pair_of(n=40, latent_dim=3):
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(latent_dim),
        MLP((latent_dim,), (1, 5)),
        Bernoulli((5,)),
        MeanField(MLP((5,)), latent_dim),
    ).double()
    return vae, torch.rand(n, 5).round().double()


def test_parts_of_beta_tc_add_up_to_the_kl():
    vae, x = pair_of()
    t = terms(vae.model, vae.guide, x, num_particles=7)
    for size in (0, 40, 5000):
        objective = BetaTC()
        objective.prepare(size, 1)
        parts = objective.decompose(t.sites["z"])
        torch.testing.assert_close(sum(parts), t.log_qz - t.log_pz)
        assert all(part.shape == (7, 40) for part in parts)
    close(BetaTC(alpha=1, beta=1, gamma=1), ELBO(), t)


def test_parts_of_beta_tc_over_all_data_are_those_of_the_mixture_of_their_posteriors():
    """With every datum in the batch q(z) is a mixture of 40 Gaussians: the density of torch, and its marginals."""
    vae, x = pair_of()
    t = terms(vae.model, vae.guide, x, num_particles=3)
    objective = BetaTC()
    objective.prepare(40, 1)
    information, correlation, marginal = objective.decompose(t.sites["z"])
    q = vae.encode(x).base_dist
    even = torch.distributions.Categorical(logits=torch.zeros(40).double())

    def mixture(loc, scale):
        parts = torch.distributions.Independent(
            torch.distributions.Normal(loc, scale), 1
        )
        return torch.distributions.MixtureSameFamily(even, parts)

    z = t.sites["z"].value
    log_q = mixture(q.loc, q.scale).log_prob(z)
    log_marginals = sum(
        mixture(q.loc[:, [d]], q.scale[:, [d]]).log_prob(z[..., [d]]) for d in range(3)
    )
    torch.testing.assert_close(information, t.log_qz - log_q)
    torch.testing.assert_close(correlation, log_q - log_marginals)
    torch.testing.assert_close(marginal, log_marginals - t.log_pz)


def test_batches_estimate_the_aggregated_posterior_without_bias():
    """The mean of the estimated q(z) of one datum's draw over random batches is q(z) over all data."""
    vae, x = pair_of(12)
    q = vae.encode(x).base_dist
    z = q.sample()[0]
    truth = q.log_prob(z).sum(-1).exp().mean()
    objective = BetaTC()
    objective.prepare(12, 1)
    drawn = terms(vae.model, vae.guide, x[:5]).sites["z"]
    found = []
    for _ in range(4000):
        rest = 1 + torch.randperm(11)[:4]
        batch = torch.cat([torch.zeros(1, dtype=torch.long), rest])
        part = torch.distributions.Normal(q.loc[batch], q.scale[batch])
        value = torch.cat([z[None], part.sample()[1:]])[None]
        wide = torch.distributions.Independent(
            torch.distributions.Normal(part.loc[None], part.scale[None]), 1
        )
        site = drawn._replace(value=value, seen=value, q=wide)
        information, _, _ = objective.decompose(site)
        found.append((part.log_prob(z)[0].sum() - information[0, 0]).exp().detach())
    found = torch.stack(found)
    assert abs(found.mean() - truth) < 4.5 * found.std() / len(found) ** 0.5


def test_free_bits():
    vae, x = pair_of()
    t = terms(vae.model, vae.guide, x, num_particles=5)
    site = t.sites["z"]
    kl = (
        site.q.base_dist.log_prob(site.value) - site.p.base_dist.log_prob(site.value)
    ).mean((0, 1))
    threshold = (
        kl.sort().values[1].item() + 1e-6
    )  # two of the three latents fall below it
    expected = t.log_px.mean(0) - (2 * threshold + kl.max())
    torch.testing.assert_close(FreeBits(nats=threshold).bound(t), expected)
    head = vae.guide.head.weight
    free = torch.autograd.grad(
        FreeBits(nats=100.0).bound(t).sum(), head, retain_graph=True
    )[0]
    plain = torch.autograd.grad(t.log_px.mean(0).sum(), head)[0]
    torch.testing.assert_close(
        free, plain
    )  # below the threshold the KL pulls at nothing


def test_capacity():
    vae, x = pair_of()
    t = terms(vae.model, vae.guide, x, num_particles=5)
    kl = (t.log_qz - t.log_pz).mean()
    torch.testing.assert_close(
        Capacity(nats=4.0, gamma=7.0).bound(t), t.log_px.mean(0) - 7 * (kl - 4).abs()
    )


def test_discrepancy_of_two_gaussians_against_its_closed_form():
    """E k(a, b) = (1 + (s^2 + t^2) / D)^(-D/2) for a ~ N(0, s^2 I), b ~ N(0, t^2 I)."""
    d, s = 4, 1.5

    def mean_kernel(u, v):
        return (1 + (u * u + v * v) / d) ** (-d / 2)

    truth = mean_kernel(s, s) + mean_kernel(1, 1) - 2 * mean_kernel(s, 1)
    torch.manual_seed(0)
    for factor, expected in ((s, truth), (1.0, 0.0)):
        found = torch.stack(
            [
                squared_mmd(
                    factor * torch.randn(20, d).double(), torch.randn(20, d).double()
                )
                for _ in range(4000)
            ]
        )
        assert abs(found.mean() - expected) < 4.5 * found.std() / len(found) ** 0.5


def test_info_vae():
    vae, x = pair_of()
    t = terms(vae.model, vae.guide, x, num_particles=5)
    close(InfoVAE(alpha=0.0, weight=1.0), ELBO(), t)
    torch.manual_seed(3)
    with_discrepancy = InfoVAE(alpha=1.0, weight=10.0).bound(t)
    torch.manual_seed(3)
    prior = t.sites["z"].p.expand((5, 40)).rsample()
    expected = t.log_px.mean(0) - 10 * squared_mmd(
        t.sites["z"].value.flatten(0, 1), prior.flatten(0, 1)
    )
    torch.testing.assert_close(with_discrepancy, expected)
    single = terms(vae.model, vae.guide, x[:1])
    assert (
        InfoVAE().bound(single).isfinite().all()
    )  # one draw has no discrepancy to estimate


# --- annealing


def test_annealed_weighs_the_kl_where_the_objective_has_it(t):
    weighed = t._replace(kl_weight=0.3)
    for inner, expected in (
        (ELBO(beta=2.0), ELBO(beta=0.6).bound(t)),
        (
            IWAE(),
            IWAE().bound(t._replace(log_pz=0.3 * t.log_pz, log_qz=0.3 * t.log_qz)),
        ),
        (Capacity(nats=10.0), Capacity(nats=3.0).bound(t)),
    ):
        annealed = Annealed(objective=inner, epochs=10)
        annealed.advance(3)
        torch.testing.assert_close(annealed.bound(t), expected)
        torch.testing.assert_close(inner.bound(weighed), expected)


def test_shapes_of_annealing():
    linear, cyclical = Annealed(epochs=4), Annealed(epochs=4, shape="cyclical")
    seen = []
    for epoch in (0, 1, 2, 3, 4, 5, 7, 9):
        linear.advance(epoch)
        cyclical.advance(epoch)
        seen.append((linear.weight.item(), cyclical.weight.item()))
    assert seen == [
        (0, 0),
        (0.25, 0.5),
        (0.5, 1),
        (0.75, 1),
        (1, 0),
        (1, 0.5),
        (1, 1),
        (1, 0.5),
    ]


def test_what_is_reported_is_the_plain_elbo():
    vae, x = pair_of(200)
    learned = []
    for objective in (ELBO(), Annealed(epochs=1)):
        torch.manual_seed(0)
        svi = SVI(
            vae.model,
            vae.guide,
            lambda p: torch.optim.SGD(p, lr=1e-12),
            objective,
            reduction="mean",
        )
        learned.append(next(run_epochs(svi, x, epochs=1, learning_rate=1e-12)))
    assert learned[0].elbo == pytest.approx(learned[1].elbo, rel=1e-6)
    assert learned[0].loss != pytest.approx(learned[1].loss, rel=1e-3)
    assert learned[0].loss == pytest.approx(-learned[0].elbo, rel=1e-6)


def test_a_warm_up_longer_than_the_run():
    vae, x = pair_of()
    with pytest.raises(InputError, match="takes 11 epochs and the run has 10"):
        fit(vae, x, Annealed(epochs=11), epochs=10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FreeBits(nats=-1.0), "nats=-1.0 of FreeBits"),
        (lambda: Capacity(gamma="high"), "gamma='high' of Capacity"),
        (lambda: BetaTC(beta=-1), "beta=-1 of BetaTC"),
        (lambda: InfoVAE(alpha=2.0), "alpha <= 1"),
        (lambda: Annealed(shape="square"), "shape='square'"),
        (lambda: Annealed(epochs=0), "epochs=0"),
        (lambda: Annealed(objective=pyro.infer.Trace_ELBO), "wraps an Objective"),
        (lambda: PIWAE(groups=3, num_particles=10), "groups=3"),
    ],
)
def test_wrong_arguments_of_the_others(make, words):
    with pytest.raises(InputError, match=words):
        make()
