"""Annealed importance sampling and bidirectional Monte Carlo against closed forms."""

import numpy as np
import pytest
import torch

from ppca import PPCA
from pyro_vae import InputError, Spec, build
from pyro_vae.evaluation.annealing import annealed_importance_sampling as ais
from pyro_vae.evaluation.annealing import bidirectional_monte_carlo as bdmc
from pyro_vae.evaluation.annealing import temperatures


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("latent_dim", "dims"), [(1, 2), (2, 5), (4, 10)])
@pytest.mark.parametrize(
    "from_guide", [False, True], ids=["from the prior", "from the guide"]
)
def test_ais_is_within_its_errors(latent_dim, dims, from_guide):
    model = PPCA(latent_dim, dims, widen=1.3, shift=0.3)
    x = model.sample(40)
    guide = model.vae.guide if from_guide else None
    found = ais(
        model.vae.model,
        x,
        guide=guide,
        num_chains=32,
        num_temperatures=120,
        leapfrogs=5,
    )
    truth = model.marginal.log_prob(x)
    gap = found.mean - truth.mean().item()
    assert (
        abs(gap)
        < 4 * found.monte_carlo_standard_error
        + found.standard_errors.square().mean().item()
    )
    assert found.monte_carlo_standard_error < 0.1
    z = ((found.values - truth) / found.standard_errors).numpy()
    assert 0.5 < np.std(z) < 2
    assert 0.4 < found.acceptance.mean() < 0.95


def test_ais_from_the_exact_posterior_has_no_noise():
    model = PPCA(3, 6)
    x = model.sample(10)
    found = ais(
        model.vae.model,
        x,
        guide=model.vae.guide,
        num_chains=4,
        num_temperatures=20,
        leapfrogs=3,
    )
    torch.testing.assert_close(
        found.values, model.marginal.log_prob(x), rtol=0, atol=1e-9
    )
    assert found.standard_errors.max() < 1e-9
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, 4.0))


def test_one_temperature_is_importance_sampling_from_the_prior():
    model = PPCA(2, 3)
    x = model.sample(20)
    found = ais(model.vae.model, x, num_chains=20_000, num_temperatures=1)
    truth = model.marginal.log_prob(x)
    assert ((found.values - truth).abs() < 5 * found.standard_errors + 0.01).all()


def test_weights_are_unbiased_however_bad_the_path():
    model = PPCA(1, 2)
    x = model.sample(1).expand(20_000, -1)
    found = ais(model.vae.model, x, num_chains=1, num_temperatures=3, leapfrogs=2)
    p = found.values.exp()
    assert (
        abs(p.mean() - model.marginal.log_prob(x[:1]).exp())
        < 4.5 * p.std() / len(p) ** 0.5
    )


def test_bidirectional_bounds_hold_the_truth_between_them():
    model = PPCA(3, 6)
    gaps = []
    for count in (10, 400):
        torch.manual_seed(0)
        found = bdmc(
            model.vae.model, 30, num_chains=8, num_temperatures=count, leapfrogs=5
        )
        torch.manual_seed(0)
        z = model.vae.model.prior().sample((30,))  # the data are drawn first
        x = model.vae.model.likelihood(model.vae.model.decoder(z)).sample()
        truth = model.marginal.log_prob(x).mean().item()
        assert found.lower.mean < truth + 4 * found.lower.monte_carlo_standard_error
        assert (
            found.upper.mean()
            > truth - 4 * found.upper_errors.square().sum().sqrt() / 30
        )
        gaps.append(found.gap)
        assert found.gap > -4 * found.gap_standard_error
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.1
    assert f"gap of {gaps[1]:.3f}" in str(found)


@pytest.mark.parametrize(
    "prior",
    ["gaussianmixture(components=3)", "flow", "vampprior(pseudo_inputs=4)", "laplace"],
)
def test_every_kind_of_prior_can_be_annealed(prior):
    vae = build(Spec((4,), 2, prior=prior, likelihood="poisson"))
    x = vae.sample(6)
    found = ais(vae.model, x, num_chains=4, num_temperatures=10)
    assert found.values.isfinite().all()
    assert (found + found).values.shape == (12,)


def test_schedules():
    for shape in ("linear", "sigmoid"):
        betas = temperatures(50, shape)
        assert (betas[0], betas[-1], len(betas)) == (0, 1, 51)
        assert (betas.diff() > 0).all()
    assert temperatures(50)[1] < temperatures(50, "linear")[1]


def test_nothing_of_the_model_changes():
    vae = build(Spec((4,), 2))
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    ais(vae.model, torch.ones(3, 4), num_chains=2, num_temperatures=5)
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_chains": 0}, "num_chains=0"),
        ({"num_temperatures": 0}, "num_temperatures=0"),
        ({"schedule": "square"}, "schedule='square'"),
        ({"leapfrogs": 1.5}, "leapfrogs=1.5"),
        ({"guide": build(Spec((4,), 2, guide="delta")).guide}, "anneal from the prior"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        ais(build(Spec((4,), 2)).model, torch.ones(2, 4), **arguments)


def test_a_model_without_sites():
    with pytest.raises(InputError, match="no sample sites"):
        ais(lambda x: None, torch.ones(2, 4))
