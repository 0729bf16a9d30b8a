"""A pair as one thing is its model and its guide, wherever these are taken."""

from copy import deepcopy
from types import SimpleNamespace

import pyro
import pytest
import torch

from pyro_vae import (
    ELBO,
    IWAE,
    SVI,
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


def both(model, guide):
    """A pair in each way that it can be given."""
    return [
        (model, guide),
        ((model, guide),),
        (SimpleNamespace(model=model, guide=guide),),
    ]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def stepped(make, vae, options, loss):
    """Losses and weights of three steps of a copy."""
    torch.manual_seed(1)
    twin = deepcopy(vae)
    svi = make(twin, options, loss)
    losses = [float(svi.step(X)) for _ in range(3)]
    return losses, [p.detach().clone() for p in twin.parameters()]


@pytest.mark.parametrize(
    "optim", [adam, pyro.optim.Adam({"lr": 0.01})], ids=["torch", "pyro"]
)
@pytest.mark.parametrize("loss", [IWAE(num_particles=3), pyro.infer.Trace_ELBO()])
def test_steps_of_a_pair_are_those_of_its_model_and_guide(vae, optim, loss):
    ways = {
        "two": lambda v, o, f: SVI(v.model, v.guide, o, f),
        "one": SVI,
        "by name": lambda v, o, f: SVI(v, loss=f, optim=o),
        "a tuple": lambda v, o, f: SVI((v.model, v.guide), o, f),
        "any": lambda v, o, f: SVI(SimpleNamespace(model=v.model, guide=v.guide), o, f),
        "names": lambda v, o, f: SVI(model=v.model, guide=v.guide, optim=o, loss=f),
    }
    found = {name: stepped(make, vae, optim, loss) for name, make in ways.items()}
    losses, weights = found["two"]
    for of_one in found.values():
        assert of_one[0] == losses
        assert all(map(torch.equal, of_one[1], weights))
    before = [p.detach() for p in vae.parameters()]
    assert not all(map(torch.equal, weights, before))


def test_steps_are_those_of_pyro(vae):
    """`pyro.infer.SVI` has no pair as one thing; of a model and a guide it takes the same steps."""
    optim, loss = pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
    of_pyro = stepped(
        lambda v, o, f: pyro.infer.SVI(v.model, v.guide, o, f), vae, optim, loss
    )
    ours = stepped(SVI, vae, optim, loss)
    assert ours[0] == pytest.approx(of_pyro[0], rel=1e-5)
    for a, b in zip(ours[1], of_pyro[1], strict=True):
        torch.testing.assert_close(a, b)


def test_losses_take_a_pair(vae):
    asked = {
        "loss": lambda *pair: torch.tensor(ELBO().loss(*pair, X)),
        "differentiable_loss": lambda *pair: ELBO().differentiable_loss(*pair, X),
        "loss_and_grads": lambda *pair: ELBO().loss_and_grads(*pair, X),
        "call": lambda *pair: ELBO()(*pair)(X),
    }
    for ask in asked.values():
        truth = numbers(ask, vae.model, vae.guide)
        for pair in ((vae,), *both(vae.model, vae.guide)):
            assert torch.equal(numbers(ask, *pair), truth)


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
        (lambda v: SVI(v, v.guide, adam, ELBO()), r"take SVI\(vae, \.\.\.\)"),
        (lambda v: ELBO().loss(v, v.guide, X), r"take loss\(vae, \.\.\.\)"),
        (lambda v: ELBO().loss(v.model, X), "a Model is no pair"),
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
