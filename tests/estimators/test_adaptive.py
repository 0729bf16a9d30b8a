"""The roads of `log_marginal_adaptive` where the posterior has two modes, and where the latent is discrete."""

import math

import pytest
import torch
from scipy.stats import kstest, norm
from torch.distributions import Independent, Normal

from folded import folded, log_p
from pyro_vae import (
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
)
from pyro_vae.distributions import Defended
from pyro_vae.evaluation.adaptive import PRIOR_LEAPFROGS
from pyro_vae.evaluation.annealing import gradients_per_datum
from switch import Switch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def narrow(x):
    """Beside the right mode and too narrow for it: a bad Pareto k."""
    return 0.6 * x, torch.full_like(x, 0.1)


X = torch.linspace(1.5, 2.5, 40, dtype=torch.float64).unsqueeze(-1)


def pilot(vae, num_particles):
    """Which data `log_marginal_adaptive` finds bad with seed 1, by pilot or value, and the greater Pareto k."""
    torch.manual_seed(1)
    looked, value = (
        log_marginal(vae.model, vae.guide, X, num_particles=num_particles).pareto_k
        for _ in range(2)
    )
    torch.manual_seed(1)
    k = looked.maximum(value)
    return ~(k <= 0.5), k


def agrees(result, taken):
    """Each of these values within 4.5 of its errors of the truth, and their mean within 4 of its error."""
    error, se = (result.values - log_p(X))[taken], result.standard_errors[taken]
    assert (error.abs() < 4.5 * se).all()
    assert (error + se.square() / 2).mean().abs() < 4 * se.square().sum().sqrt() / len(
        se
    )
    assert se.square().sum().sqrt() / len(se) < 0.02


def test_draws_from_the_prior_find_the_other_mode():
    """A refined q(z|x) alone sits on one of two modes, has a good Pareto k and is wrong by log 2."""
    vae = folded(narrow)
    alone = log_marginal_refined(vae, X, num_particles=1000)
    assert not alone.doubtful.any()
    assert (log_p(X) - alone.values).mean().item() == pytest.approx(
        math.log(2), abs=0.05
    )
    bad, _ = pilot(vae, 1000)
    result, effort = log_marginal_adaptive(vae, X, num_particles=1000, pilot=1000)
    assert bad.sum() > 25
    assert torch.equal(~effort.took("guide"), bad)
    assert (
        effort.took("refined").sum() >= bad.sum() - 2
    )  # the worst may be annealed in the end
    assert effort.took("guide").sum() == 40 - bad.sum()
    agrees(result, bad)


def test_what_draws_cannot_do_is_annealed():
    """No budget for draws beyond the two passes: the bad data are annealed, as far as that budget goes."""
    vae = folded(narrow)
    price, (bad, k) = gradients_per_datum(64, 50, PRIOR_LEAPFROGS), pilot(vae, 1000)
    n = int(bad.sum())
    options = {
        "num_particles": 1000,
        "pilot": 1000,
        "budget": 2 * 1000 * 40,
        "num_chains": 64,
        "num_temperatures": 50,
    }
    result, effort = log_marginal_adaptive(vae, X, **options, annealing=2 * n * price)
    annealed = effort.took("annealed")
    assert annealed.sum() > 0.7 * n
    assert not (annealed & ~bad).any()
    assert torch.equal(effort.unaffordable, bad & ~annealed)
    assert effort.draws == effort.budget
    assert (
        effort.gradients == (n + annealed.sum()) * price
    )  # all have pilot chains, and the good ones others
    assert result.particles.tolist() == [64 if a else 1000 for a in annealed]
    agrees(result, annealed)
    plain = log_marginal(vae.model, vae.guide, X, num_particles=1000)
    torch.testing.assert_close(
        result.elbo, plain.elbo, rtol=0, atol=1.0
    )  # that of the guide

    torch.manual_seed(1)
    few = 5
    _, effort = log_marginal_adaptive(
        vae, X, **options, annealing=2 * (few + 1) * price - 1
    )
    worst = k.argsort(descending=True)[:few].tolist()
    annealed = effort.took("annealed")
    assert annealed.any()
    assert set(annealed.nonzero().flatten().tolist()) <= set(worst)
    assert effort.gradients == (few + annealed.sum()) * price


def test_the_price_of_annealing_is_what_it_costs():
    vae, done, told = folded(narrow), [], []

    def counted(decoder, inputs):
        (z,) = inputs
        if (
            z.requires_grad and z.shape[-2] == 3
        ):  # one datum alone: its memory is measured
            done.append(z.numel())

    vae.model.decoder.register_forward_pre_hook(counted)
    for chains, temperatures in ((6, 4), (1, 1), (5, 2)):
        options = {
            "num_chains": chains,
            "num_temperatures": temperatures,
            "progress": told.append,
        }
        for ways, run in (
            (1, annealed_importance_sampling),
            (2, bidirectional_monte_carlo),
        ):
            done.clear()
            told.clear()
            run(vae.model, X[:3] if ways == 1 else 3, **options)
            assert (
                sum(done)
                == sum(told)
                == 3 * gradients_per_datum(chains, temperatures, ways=ways)
            )


@pytest.mark.slow
def test_values_are_not_chosen_for_their_draws_or_chains():
    """Many times the same datum: its weights are unbiased for p(x) on every road, although pilots chose the road."""
    x = torch.full((800, 1), 2.0, dtype=torch.float64)
    options = {
        "num_particles": 25,
        "pilot": 25,
        "budget": 800 * 2 * 25 + 400 * 2 * 25,
        "num_chains": 25,
        "num_temperatures": 20,
    }
    result, effort = log_marginal_adaptive(
        folded(narrow), x, **options, annealing=10**9, steps=10
    )
    assert effort.took("refined").sum() > 100
    assert effort.took("annealed").sum() > 60
    for road in ("refined", "annealed"):
        weight = (result.values - log_p(x)).exp()[effort.took(road)]
        assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(len(weight))


def test_discrete_latents_are_not_annealed():
    """They can be neither refined nor annealed: more draws are all there is, and what stays bad is said to be."""
    switch = Switch(8, noise=0.2)
    x = switch.vae.sample(30)
    result, effort = log_marginal_adaptive(switch.vae, x, num_particles=100, pilot=100)
    assert effort.roads["refined"] == effort.roads["annealed"] == effort.gradients == 0
    assert effort.took("more draws").sum() > 10
    assert effort.doubtful.sum() > 5
    assert torch.equal(effort.doubtful, result.doubtful)
    error = (result.values - switch.log_p(x))[~effort.doubtful]
    assert (error.abs() < 4.5 * result.standard_errors[~effort.doubtful]).all()


def test_a_defended_q_is_a_mixture():
    """Its density against SciPy's, its draws against its distribution function, at a share for each datum."""
    q = Independent(Normal(torch.tensor([[2.0], [-1.0]]).double(), 0.1), 1)
    p = Independent(Normal(torch.zeros(1).double(), 1.0), 1)
    share = torch.tensor([0.1, 0.0], dtype=torch.float64)
    mixed = Defended(q, p, share)
    z = mixed.expand((20_000, 2)).sample()
    assert z.shape == (20_000, 2, 1)
    expected = 0.9 * norm(2.0, 0.1).pdf(z[:, 0, 0]) + 0.1 * norm(0.0, 1.0).pdf(
        z[:, 0, 0]
    )
    torch.testing.assert_close(
        mixed.log_prob(z)[:, 0].exp(), torch.from_numpy(expected)
    )
    torch.testing.assert_close(mixed.log_prob(z)[:, 1], q.log_prob(z)[:, 1])
    assert (
        kstest(
            z[:, 0, 0],
            lambda t: 0.9 * norm(2.0, 0.1).cdf(t) + 0.1 * norm(0.0, 1.0).cdf(t),
        ).pvalue
        > 1e-3
    )
    assert kstest(z[:, 1, 0], norm(-1.0, 0.1).cdf).pvalue > 1e-3
