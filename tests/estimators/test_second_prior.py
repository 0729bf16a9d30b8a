"""A second prior on the codes of a trained pair, against log p(x) in closed form."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical as Choice
from torch.distributions import MixtureSameFamily, MultivariateNormal

from ppca import PPCA
from pyro_vae import (
    IWAE,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    VampPrior,
    build,
    elbo,
    fit,
    guides,
    log_marginal,
    networks,
    priors,
)
from pyro_vae.inference.seeking import begin_prior

WEIGHTS = torch.tensor([0.3, 0.7]).double()
PLACES = torch.tensor([[2.0, 1.0], [-1.5, 0.5]]).double()
WIDTH = 0.4  # of each component of the latents that the data come from


class TwoClusters:
    """Data of the linear model whose z come from two narrow Gaussians, and not from N(0, I)."""

    def __init__(self, noise=0.3):
        self.pair = PPCA(2, 5, noise=noise)
        layer = self.pair.vae.model.decoder.layers[0]
        w, b = layer.weight.detach(), layer.bias.detach()
        covariance = WIDTH**2 * w @ w.T + noise**2 * torch.eye(5).double()
        parts = MultivariateNormal(PLACES @ w.T + b, covariance)
        self.truth = MixtureSameFamily(Choice(WEIGHTS), parts)
        torch.manual_seed(0)
        self.x = self.truth.sample((2000,))
        self.held_out = self.truth.sample((300,))


@pytest.fixture(scope="module")
def known():
    return TwoClusters()


SECOND = {
    "mixture": lambda: priors.GaussianMixture(2, components=2),
    "flow": lambda: priors.Flow(2, kind="nsf", transforms=2, hidden=(32,)),
    "vamp": lambda: VampPrior(2, pseudo_inputs=50),
}


@pytest.mark.parametrize("name", SECOND)
def test_log_p_x_is_recovered_and_all_else_stays(known, name):
    """Against the density that the data come from; under the old prior it is nats away, in closed form."""
    torch.manual_seed(0)
    first = known.pair.vae
    second = first.with_prior(SECOND[name]())
    before = {k: v.clone() for k, v in second.state_dict().items()}
    rate = 0.001 if name == "mixture" else 0.01
    options = {"epochs": 8, "batch_size": 50, "compile": False}
    fit(second, known.x, only="prior", learning_rate=rate, **options)
    for key, value in second.state_dict().items():
        assert key.startswith("model.prior.") or torch.equal(value, before[key]), key

    truth = known.truth.log_prob(known.held_out)
    old = known.pair.marginal.log_prob(known.held_out)
    found = log_marginal(second.model, second.guide, known.held_out, num_particles=500)
    lost = (truth - found.values).mean().item()
    could_gain = (truth - old).mean().item()
    assert could_gain > 0.8
    assert -0.02 < lost < 0.1
    # What the pair itself says of the first prior is the closed form.
    same = log_marginal(*known.pair.pair, known.held_out, num_particles=10)
    assert torch.allclose(same.values, old)


def test_a_flow_begins_no_worse_than_the_first_prior(known):
    """In the units of the codes, of all normals with a diagonal covariance the one that serves the ELBO best."""
    torch.manual_seed(0)
    first, x = known.pair.vae, known.x
    for make in (SECOND["flow"], SECOND["mixture"]):
        second = first.with_prior(make())
        begin_prior(second, x)
        with torch.no_grad():
            gained = elbo(second.model, second.guide, x)
            was = elbo(first.model, first.guide, x)
        assert gained.elbo > was.elbo
    flow = first.with_prior(priors.Flow(2))
    begin_prior(flow, x)
    z = first.encode(x).sample()
    drawn = flow.model.prior().sample((20_000,))
    assert torch.allclose(drawn.mean(0), z.mean(0), atol=0.1)
    assert torch.allclose(drawn.std(0), z.std(0), atol=0.1)


def test_a_bound_of_many_draws_is_climbed_too(known):
    """Where the guide is wrong the ELBO fits its codes, and IWAE the data."""
    torch.manual_seed(0)
    wide = PPCA(2, 5, noise=0.3, widen=2.0).vae
    found = []
    for objective in (None, IWAE(num_particles=20)):
        second = wide.with_prior(priors.GaussianMixture(2, components=2))
        options = {"epochs": 5, "learning_rate": 0.02, "compile": False}
        fit(second, known.x[:1000], objective, only="prior", **options)
        again = (second.model, second.guide, known.held_out)
        found.append(log_marginal(*again, num_particles=500).mean)
    assert found[1] > found[0]


def small(network=None, prior=None, **more):
    body = (
        MLP((6,), hidden=(8,), norm="batch", dropout=0.5)
        if network is None
        else network
    )
    decoder = MLP((2,), (1, 6), hidden=(8,), norm="batch", dropout=0.5)
    return VAE(
        prior or StandardNormal(2), decoder, Bernoulli((6,)), MeanField(body, 2), **more
    )


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_frozen_parts_are_as_in_evaluation(compile):
    """Averages of batch norm stay, and dropout does not happen; compiled and eager."""
    torch.manual_seed(0)
    x = torch.rand(60, 6).round()
    first = small()
    fit(first, x, epochs=2)
    second = first.with_prior(priors.Flow(2, transforms=1, hidden=(4,)))
    before = {k: v.clone() for k, v in second.state_dict().items()}
    seen = []
    first_layer = second.guide.encoder.layers[0]
    handle = first_layer.register_forward_hook(
        lambda module, args, out: seen.append(second.guide.training)
    )
    fit(second, x, only="prior", epochs=2, batch_size=20, compile=compile)
    handle.remove()
    after = second.state_dict()
    kept = [k for k in after if not k.startswith("model.prior.")]
    assert any("running_mean" in k for k in kept)
    assert all(torch.equal(after[k], before[k]) for k in kept)
    assert seen
    assert not any(seen)
    moved = [k for k in before if k.startswith("model.prior.")]
    assert any(not torch.equal(after[k], before[k]) for k in moved)


def test_the_gradient_is_that_of_the_prior_alone(known):
    """By autodiff of `E_q(z|x) log p(z)` at the same draws; other parameters get none."""
    second = known.pair.vae.with_prior(priors.GaussianMixture(2, components=2))
    prior, x = second.model.prior, known.x[:50]
    svi = SVI(
        second.model,
        second.guide,
        lambda p: torch.optim.SGD(p, lr=1.0),
        IWAE(num_particles=1),
        only=prior,
    )
    torch.manual_seed(1)
    svi.differentiate(x)
    found = {k: p.grad for k, p in second.named_parameters() if p.grad is not None}
    assert {k.removeprefix("model.prior.") for k in found} == dict(
        prior.named_parameters()
    ).keys()
    torch.manual_seed(1)
    z = second.guide(x).detach()
    loss = -prior().log_prob(z).sum()
    wanted = torch.autograd.grad(loss, list(prior.parameters()))
    for got, grad in zip(found.values(), wanted, strict=True):
        assert torch.allclose(got, grad)
    assert [p for g in svi.optimizer.param_groups for p in g["params"]] == [
        *prior.parameters()
    ]


def test_going_on_does_not_begin_again(known):
    torch.manual_seed(0)
    second = known.pair.vae.with_prior(priors.Flow(2))
    fit(second, known.x, only="prior", epochs=1)
    place = second.model.prior.place
    fit(second, known.x[:100], only="prior", epochs=1)
    assert second.model.prior.place is place


def point():
    return VAE(
        StandardNormal(2),
        MLP((2,), (1, 6)),
        Bernoulli((6,)),
        guides.Delta(MLP((6,)), 2),
    )


def test_codes_of_a_point_get_their_density():
    """As after a regularised autoencoder: log p(z) of the codes rises."""
    torch.manual_seed(0)
    x = torch.rand(100, 6).round()
    first = point()
    fit(first, x, epochs=5)
    second = first.with_prior(priors.GaussianMixture(2, components=3))
    fit(second, x, only="prior", epochs=2)
    z = first.encode(x).sample()
    assert (
        second.model.prior().log_prob(z).mean() > first.model.prior().log_prob(z).mean()
    )


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (lambda: priors.Flow(3), "latent_dim=3"),
        (lambda: priors.Categorical(2, levels=2), "takes 2 values a variable"),
        (lambda: priors.Codes(2), "Codes is a prior over the codes of a codebook"),
        (lambda: priors.Conditional(2, context=4), None),
    ],
)
def test_priors_that_do_not_fit(prior, words):
    vae = small()
    if words is None:  # a condition that nothing else reads is one for z alone
        assert vae.with_prior(prior()).context == 4
        return
    with pytest.raises(InputError, match=words):
        vae.with_prior(prior())


def test_layers_are_reals():
    spec = Spec((6,), structure="chain(dims=(4,2))", network="mlp(hidden=(8,))")
    with pytest.raises(InputError, match="layers of latents are reals"):
        build(spec).with_prior(priors.Categorical(2, levels=2))
    with pytest.raises(InputError, match="layers of latents are reals"):
        build(replace(spec, prior="categorical(levels=2)"))


def test_what_cannot_be_trained_alone(known):
    vae, x = known.pair.vae, known.x[:20]
    with pytest.raises(
        InputError, match="nothing is learned in the prior StandardNormal"
    ):
        fit(vae, x, only="prior", epochs=1)
    second = vae.with_prior(priors.Flow(2))
    with pytest.raises(InputError, match=r"weight_decay=0\.1 spares the prior"):
        fit(second, x, only="prior", epochs=1, weight_decay=0.1)
    for options in ({"stacked": 2}, {"corrupt": networks.Noise()}):
        with pytest.raises(InputError, match="leave them out"):
            fit(second, x, only="prior", epochs=1, **options)
    with pytest.raises(InputError, match="only='guide'"):
        fit(second, x, only="guide", epochs=1)
    many = vae.with_prior(priors.GaussianMixture(2, components=30))
    with pytest.raises(InputError, match="30 components cannot be sought"):
        fit(many, x, only="prior", epochs=1)
