"""A pair as one thing is its model and its guide, wherever these are taken."""

from types import SimpleNamespace

import pytest
import torch

from pyro_vae import (
    InputError,
    Spec,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    build,
    compare_posterior,
    elbo,
    latent_health,
    log_marginal,
    log_marginal_bracket,
    refine,
    terms,
)

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).round()
OF_BOTH = {
    "terms": lambda *pair: terms(*pair, X).log_weight,
    "elbo": lambda *pair: torch.tensor(elbo(*pair, X)),
    "log_marginal": lambda *pair: log_marginal(*pair, x=X, num_particles=9).values,
    "latent_health": lambda *pair: torch.tensor(latent_health(*pair, X).kl.mean),
    "compare_posterior": lambda *pair: (
        compare_posterior(*pair, X[:1], num_samples=4, kernel="hmc", num_chains=2).draws
    ),
}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build(Spec((4,), 2, network="mlp(hidden=(5,))")).eval()


def numbers(ask, *pair):
    torch.manual_seed(1)
    return ask(*pair)


@pytest.mark.parametrize("name", OF_BOTH)
def test_a_pair_is_asked_as_its_model_and_guide_are(name, vae):
    ask, model, guide = OF_BOTH[name], vae.model, vae.guide
    truth = numbers(ask, model, guide)
    for pair in (vae, (model, guide), SimpleNamespace(model=model, guide=guide)):
        assert torch.equal(numbers(ask, pair), truth)


def test_annealing_takes_the_model_of_a_pair_and_begins_at_its_prior(vae):
    options = {"num_chains": 2, "num_temperatures": 4}
    for ask in (
        lambda m, **guide: (
            annealed_importance_sampling(m, X, **guide, **options).values
        ),
        lambda m, **guide: (
            bidirectional_monte_carlo(m, 4, **guide, **options).lower.values
        ),
    ):
        of_model = numbers(ask, vae.model)
        assert torch.equal(numbers(ask, vae), of_model)
        torch.manual_seed(1)
        assert not torch.equal(ask(vae, guide=vae.guide), of_model)


def test_names_are_taken_as_before(vae):
    torch.manual_seed(1)
    found = log_marginal(model=vae.model, guide=vae.guide, x=X, num_particles=9)
    assert torch.equal(found.values, numbers(OF_BOTH["log_marginal"], vae))
    torch.manual_seed(1)
    found = log_marginal(vae.model, guide=vae.guide, x=X, num_particles=9)
    assert torch.equal(found.values, numbers(OF_BOTH["log_marginal"], vae))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: log_marginal(v, v.guide, X), r"take log_marginal\(vae, \.\.\.\)"),
        (lambda v: log_marginal(v.model, X), "a Model is no pair"),
        (lambda v: elbo(X), "a Tensor is no pair"),
        (lambda v: terms(v.guide, X), "a MeanField is no pair"),
        (lambda v: refine(v.model, X), "a Model is no pair"),
        (lambda v: log_marginal_bracket(X, X), "a Tensor is no pair"),
    ],
)
def test_a_wrong_call_is_told_what_a_pair_is(call, words, vae):
    with pytest.raises(InputError, match=words) as error:
        call(vae)
    assert len(str(error.value).splitlines()) == 1
