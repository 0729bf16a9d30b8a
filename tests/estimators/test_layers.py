"""Several layers of latents: every estimator against deep linear-Gaussian pairs in closed form."""

import pyro
import pytest
import torch

from deep import Deep
from pyro_vae import (
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    elbo,
    fit,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_refined,
)

DEPTHS = [
    (6, 4, 2),
    (6, 5, 4, 2),
    (7, 6, 5, 4, 3, 2),
]  # of x, then of 2, 3 and 5 layers
depths = pytest.mark.parametrize("dims", DEPTHS, ids=["2", "3", "5"])


@depths
def test_a_ladder_is_the_exact_posterior_where_messages_are_gaussian(dims):
    """Every weight is p(x): the bound is tight, and its error nothing."""
    deep = Deep(dims)
    x = deep.sample(20)
    truth = deep.marginal.log_prob(x)
    assert elbo(*pair(deep), x).elbo == pytest.approx(truth.mean().item())
    found = log_marginal(*pair(deep), x, num_particles=3)
    torch.testing.assert_close(found.values, truth)


@depths
def test_each_layer_is_a_site_whose_densities_add_up(dims):
    deep = Deep(dims)
    x = deep.sample(4)
    trace = pyro.poutine.trace(deep.vae.model).get_trace(x)
    trace.compute_log_prob()
    latents = [f"z{i}" for i in range(len(dims) - 1, 0, -1)]
    assert [*trace.stochastic_nodes, *trace.observation_nodes] == [
        "data",
        *latents,
        "x",
    ]
    values = {name: trace.nodes[name]["value"] for name in latents}
    total = sum(trace.nodes[name]["log_prob"] for name in (*latents, "x"))
    torch.testing.assert_close(total, deep.vae.model.log_prob({"x": x, **values}))
    z = torch.cat([values[name] for name in latents], -1)
    log_p = deep.vae.prior_given().log_prob(z) + deep.vae.decode(z).log_prob(x)
    torch.testing.assert_close(log_p, total)


@depths
def test_weights_over_all_layers_find_log_p(dims):
    """Of a guide that is wider than the posterior at every layer."""
    deep = Deep(dims, wrong=0.3)
    x = deep.sample(20)
    torch.manual_seed(0)
    found = log_marginal(*pair(deep), x, num_particles=20_000)
    off = (found.values - deep.marginal.log_prob(x)).abs()
    assert (off < 4 * found.standard_errors + 1e-3).all()
    assert elbo(*pair(deep), x).elbo < deep.marginal.log_prob(x).mean()


@pytest.mark.parametrize("guide", ["ladder", "chain"])
def test_refinement_moves_all_layers(guide):
    deep = Deep((6, 4, 2), wrong=1.0, guide=guide)
    x = deep.sample(8)
    truth = deep.marginal.log_prob(x)
    torch.manual_seed(0)
    found = log_marginal_refined(deep.vae, x, steps=200, num_particles=2000)
    assert ((found.values - truth).abs() < 4 * found.standard_errors + 0.02).all()
    assert found.elbo.mean() > elbo(*pair(deep), x).elbo


def test_annealing_closes_the_bracket_over_all_layers():
    deep = Deep((6, 4, 2))
    x = deep.sample(3)
    torch.manual_seed(0)
    way = {"num_chains": 20, "num_temperatures": 100, "leapfrogs": 5}
    found = bidirectional_monte_carlo(deep.vae.model, 3, x, **way)
    errors = (found.upper_errors**2 + found.lower.standard_errors**2).sqrt()
    assert ((found.upper - found.lower.values).abs() < 4 * errors + 0.05).all()
    annealed = annealed_importance_sampling(deep.vae.model, x, **way)
    off = (annealed.values - deep.marginal.log_prob(x)).abs()
    assert (off < 4 * annealed.standard_errors + 0.05).all()


def test_the_gaps_of_a_ladder_that_is_wrong():
    deep = Deep((6, 4, 2), wrong=0.5)
    x = deep.sample(10)
    torch.manual_seed(0)
    found = inference_gaps(deep.vae, x)
    truth = deep.marginal.log_prob(x).mean()
    assert abs(found.log_marginal.values.mean() - truth) < 0.05
    assert found.amortisation.mean() > 5 * found.approximation.mean().abs()


def test_the_kl_of_each_layer():
    deep = Deep((6, 4, 2))
    x = deep.sample(300)
    torch.manual_seed(0)
    found = latent_health(*pair(deep), x, draws=20)
    assert [layer.site for layer in found.layers] == ["z2", "z1"]
    total = sum(layer.kl.mean for layer in found.layers)
    assert total == pytest.approx(found.kl.mean, abs=0.1)
    assert found.kl_per_dimension.sum() == pytest.approx(total, abs=1e-6)
    assert found.active_of() == {"z2": (2, 2), "z1": (4, 4)}
    # Of the top in closed form: q(z2|x) = N(m(x), v I) under N(0, I).
    gain, shift, log_scale = deep.messages[-1]
    variance = (2 * log_scale).exp()
    mean = x @ gain.T + shift
    kl = 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1)
    top = found.layers[0].kl
    assert abs(top.mean - kl.mean()) < 0.05
    assert found.mutual_information.mean < found.kl.mean


def test_a_chain_learns_the_density():
    """Trained by its defaults in code, the ELBO comes near log p(x)."""
    deep = Deep((6, 4, 2), guide="chain")
    x = deep.sample(2000)
    for part in (deep.vae.model.layers, deep.vae.model.decoder):
        part.requires_grad_(False)
    torch.manual_seed(0)
    fit(deep.vae, x, epochs=60, learning_rate=3e-3, start=False)
    found = elbo(*pair(deep), x, num_particles=20)
    assert 0 < deep.marginal.log_prob(x).mean() - found.elbo < 0.5


def test_what_is_kept_of_the_top_is_kept():
    deep = Deep((6, 5, 4, 2))
    z = deep.vae.encode(deep.sample(5)).sample()
    for top, kept in ((1, 2), (2, 6), (3, 11)):
        made = deep.vae.continued(z, top)
        assert made[:, :kept].equal(z[:, :kept])
        assert (made[:, kept:] != z[:, kept:]).all()
    above = deep.vae.continued(z, 2, mean=True)
    torch.testing.assert_close(above[:, 6:], deep.vae.model.layers[0](z[:, 2:6]).mean)
    assert deep.vae.reconstruct(deep.sample(5), top=1).shape == (5, 6)


def pair(deep):
    return deep.vae.model, deep.vae.guide
