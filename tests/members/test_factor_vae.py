"""FactorVAE: what its discriminator finds of known total correlations, and who is trained by which loss."""

import copy
import math

import pyro.optim
import pytest
import torch

from pyro_vae import (
    MLP,
    SVI,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    fit,
    terms,
)
from pyro_vae.inference.objectives import ELBO, Annealed, FactorVAE

RHO = 0.8
TRUTH = -0.5 * math.log(1 - RHO**2)  # of two normal variables with this correlation


def correlated(n, seed=0):
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    second = RHO * noise[:, 0] + math.sqrt(1 - RHO**2) * noise[:, 1]
    return torch.stack([noise[:, 0], second], 1)


def pair(latents=2):
    torch.manual_seed(0)
    guide = MeanField(MLP((6,), hidden=(16,)), latents)
    decoder = MLP((latents,), (1, 6), hidden=(16,))
    return VAE(StandardNormal(latents), decoder, Bernoulli((6,)), guide)


X = (torch.rand(64, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def test_the_discriminator_finds_the_total_correlation_of_normal_variables():
    torch.manual_seed(0)
    objective = FactorVAE(hidden=(64, 64))
    objective.total_correlation(torch.zeros(1, 2))  # makes the network
    network = objective.learned
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(1500):
        loss = objective.discriminating(correlated(500, step + 1)[None]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    z = correlated(20_000)
    found = objective.total_correlation(z)
    assert found.mean().item() == pytest.approx(TRUTH, abs=0.06)
    # The network is the logarithm of the ratio of densities, point by point.
    joint = torch.distributions.MultivariateNormal(
        torch.zeros(2), torch.tensor([[1, RHO], [RHO, 1]])
    )
    apart = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    truth = joint.log_prob(z) - apart
    inside = z.abs().amax(1) < 2
    assert (found - truth)[inside].square().mean().sqrt() < 0.2
    again = objective.total_correlation(torch.randn(20_000, 2))
    assert again.mean().item() < 0  # minus a KL, of draws of the product


def test_the_bound_is_the_elbo_less_the_network_at_the_draws():
    vae, objective = pair(), FactorVAE(gamma=3.0, num_particles=4)
    t = terms(vae.model, vae.guide, X, num_particles=4)
    torch.testing.assert_close(objective.bound(t), ELBO(num_particles=4).bound(t))
    with torch.no_grad():
        objective.learned[-1].weight.normal_()
        objective.learned[-1].bias.fill_(0.5)
    z = t.sites["z"].value
    expected = ELBO(num_particles=4).bound(t) - 3 * objective.learned(z)[..., 0].mean(0)
    torch.testing.assert_close(objective.bound(t), expected)
    torch.testing.assert_close(objective.loss_of(t), -expected.sum())
    half = t._replace(kl_weight=0.5)
    elbo = ELBO(num_particles=4).bound(half)
    torch.testing.assert_close(
        objective.bound(half), elbo - 1.5 * objective.learned(z)[..., 0].mean(0)
    )


def test_each_loss_reaches_its_own_parameters():
    vae, objective = pair(), FactorVAE(gamma=2.0)
    t = terms(vae.model, vae.guide, X)
    objective.bound(t)
    with torch.no_grad():
        objective.learned[-1].weight.normal_()
    own, mine = [*vae.parameters()], [*objective.learned.parameters()]
    z = t.sites["z"].value

    torch.manual_seed(3)
    loss = objective.loss_of(t)
    found = torch.autograd.grad(loss, own + mine, retain_graph=True)
    plain = -(ELBO().bound(t) - 2 * objective.learned(z)[0, :, 0]).sum()
    wanted = torch.autograd.grad(plain, own, retain_graph=True)
    torch.manual_seed(3)
    told = torch.autograd.grad(objective.discriminating(z.detach()).sum(), mine)
    for g, truth in zip(found, wanted + told, strict=True):
        torch.testing.assert_close(g, truth)


@pytest.mark.parametrize("optim", [torch.optim.Adam, None], ids=["torch", "pyro"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_steps_train_both_networks(optim, wrapped):
    vae, objective = pair(), FactorVAE(hidden=(8,))
    loss = Annealed(objective=objective, epochs=2) if wrapped else objective
    made = (lambda p: optim(p, 1e-2)) if optim else pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(vae.model, vae.guide, made, loss)
    before = copy.deepcopy(objective.learned.state_dict())
    for _ in range(3):
        svi.step(X)
    after = objective.learned.state_dict()
    assert all((after[name] != before[name]).any() for name in before)


def test_a_larger_weight_leaves_less_total_correlation():
    """Of data with correlated factors: q(z) of a linear pair, by the covariance of its normal aggregate."""
    torch.manual_seed(0)
    v = correlated(2000)
    x = torch.cat([v, v], 1) + 0.3 * torch.randn(2000, 4)
    left = []
    for gamma in (0.0, 20.0):
        torch.manual_seed(0)
        guide = MeanField(MLP((4,), hidden=()), 2)
        decoder = MLP((2,), (1, 4), hidden=())
        vae = VAE(StandardNormal(2), decoder, Gaussian((4,), scale=0.5), guide)
        objective = FactorVAE(gamma=gamma, hidden=(32, 32))
        fit(vae, x, objective, epochs=30, batch_size=200, learning_rate=5e-3)
        z = vae.encode(x).sample()
        left.append(-0.5 * math.log(1 - torch.corrcoef(z.T)[0, 1].item() ** 2))
    assert left[0] > 0.02
    assert left[1] < 0.4 * left[0]


def test_the_network_keeps_the_type_of_its_pair_and_what_it_has_learned():
    vae, objective = pair(), FactorVAE(hidden=(8,))
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-2), objective)
    svi.step(X)
    network = objective.learned
    before = copy.deepcopy(network.state_dict())
    z = torch.randn(50, 2, dtype=torch.float64)
    exact = objective.total_correlation(z)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), objective.total_correlation(z.float()))
    objective.discriminating(z[None]).mean().backward()
    for name, value in objective.learned.state_dict().items():
        assert torch.equal(value, before[name])  # of the same type, to the bit
    svi.step(X)
    with pytest.raises(InputError, match="for 2 latents, and these are 3"):
        objective.total_correlation(torch.zeros(4, 3))
    assert objective.learned is network

    vae.double()
    before = copy.deepcopy(network.state_dict())
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-2), objective)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name].double())
    svi.step(X.double())
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_what_has_no_place_for_a_discriminator():
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 1), 1.0).to_event(1))

    with pytest.raises(InputError, match="no z; take ELBO"):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), FactorVAE())
    with pytest.raises(InputError, match=r"gamma=-1.* of FactorVAE"):
        FactorVAE(gamma=-1)
    with pytest.raises(InputError, match="hidden"):
        FactorVAE(hidden=(10**6, 10**6)).connect(build(Spec((4,), 2)).model, None)


def test_a_run_goes_on_with_its_discriminator(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("--objective", "annealed(objective=factorvae(hidden=(8,)), epochs=1)")
    quick = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, *asked)
    call("train", *quick, "--epochs", 3, "--output", "whole")
    call("train", *quick, "--epochs", 3, "--output", "cut", "--compile", "no")
    from safetensors.torch import load_file

    first = load_file("cut/last.safetensors")
    assert first["objective.0.weight"].shape == (8, 2)
    assert not any(
        k.startswith("objective.") for k in load_file("cut/best.safetensors")
    )
    call("train", *quick, "--epochs", 1, "--output", "parts", "--compile", "no")
    said = call("train", "--resume", "parts", "--epochs", 3)
    assert said.code == 0, said.err
    again = load_file("parts/last.safetensors")
    assert again.keys() == first.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0, msg=name)
