"""Gradient estimators: what they agree on in expectation, and how their noise behaves."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppca import PPCA
from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    InputError,
    MeanField,
    Objective,
    StandardNormal,
    terms,
    variants,
)
from pyro_vae.inference.objectives import (
    MIWAE,
    PIWAE,
    STL,
    Capacity,
    DReG,
    InfoVAE,
    ReweightedWakeSleep,
)
from pyro_vae.models.conditionals import IAF, Mixture, Sylvester


def gradients(pair, x, objective, parameters, repeats):
    """`repeats` independent gradients of the mean bound: the data are repeated and each copy keeps its own."""
    found = []
    for _ in range(repeats):
        loss = objective.loss_of(
            terms(*pair, x, num_particles=objective.num_particles)
        ) / len(x)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(torch.cat([g.flatten() for g in grads if g is not None]))
    return torch.stack(found)


def agree(a, b, errors=4.5):
    gap = (a.mean(0) - b.mean(0)).abs()
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert (gap < errors * error + 1e-9).all(), (gap / error).max()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PPCA(2, 5, widen=1.3, shift=0.3)


# --- no noise where the guide is exact


def test_stl_has_no_variance_at_the_exact_posterior():
    model = PPCA(3, 6)
    x = model.sample(20)
    guide = [model.vae.guide.head.weight, model.vae.guide.head.bias]
    torch.manual_seed(0)
    for objective in (STL(), STL(num_particles=3), DReG(num_particles=4)):
        assert gradients(model.pair, x, objective, guide, 20).abs().max() < 1e-10
    assert gradients(model.pair, x, ELBO(), guide, 20).std(0).max() > 0.01


# --- the same expectation


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (STL(num_particles=2), ELBO(num_particles=2)),
        (DReG(num_particles=4), IWAE(num_particles=4)),
        (DReG(num_particles=1), ELBO()),
    ],
    ids=["STL", "DReG", "DReG of one particle"],
)
@pytest.mark.parametrize(
    "make", [MeanField, FullRank, Mixture, Sylvester, IAF], ids=lambda m: m.__name__
)
def test_estimators_agree_in_expectation(make, first, second):
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(2),
        MLP((2,), (1, 4), hidden=(5,)),
        Bernoulli((4,)),
        make(MLP((4,), hidden=(5,)), 2),
    ).double()
    for p in vae.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = torch.rand(1, 4).round().double().expand(500, 4)
    parameters = list(vae.parameters())
    pair = vae.model, vae.guide
    agree(
        gradients(pair, x, first, parameters, 100),
        gradients(pair, x, second, parameters, 100),
    )


def test_piwae_is_iwae_for_the_model_and_miwae_for_the_guide(model):
    x = model.sample(2).repeat(200, 1)
    decoder, head = (
        model.vae.model.decoder.layers[0].weight,
        model.vae.guide.head.weight,
    )
    partial = PIWAE(groups=2, num_particles=6)
    for other, parameter in (
        (IWAE(num_particles=6), decoder),
        (MIWAE(groups=2, num_particles=6), head),
    ):
        torch.manual_seed(1)
        a = gradients(model.pair, x, partial, [parameter], 1)
        torch.manual_seed(1)
        b = gradients(model.pair, x, other, [parameter], 1)
        torch.testing.assert_close(
            a, b, rtol=1e-9, atol=1e-12
        )  # from the same draws: the same numbers


def test_wake_sleep_moves_the_model_as_iwae_and_the_guide_towards_the_posterior(model):
    """`E_post[-d log q/dphi]` in closed form: with many particles the weighted draws are draws from the posterior."""
    x = model.sample(1)
    head = model.vae.guide.head
    decoder = model.vae.model.decoder.layers[0].weight
    torch.manual_seed(1)
    a = gradients(
        model.pair, x.expand(50, -1), ReweightedWakeSleep(num_particles=6), [decoder], 1
    )
    torch.manual_seed(1)
    b = gradients(model.pair, x.expand(50, -1), IWAE(num_particles=6), [decoder], 1)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    torch.manual_seed(1)
    ours = gradients(
        model.pair, x, ReweightedWakeSleep(num_particles=50_000), [head.bias], 20
    )
    q = model.vae.encode(x)
    exact = torch.distributions.MultivariateNormal(
        (x - model.b) @ model.gain.T, model.posterior_covariance
    )
    kl = torch.distributions.kl_divergence(
        exact, q
    ).sum()  # its gradient in phi is that of E_post[-log q]
    expected = torch.autograd.grad(kl, head.bias)[0]
    error = ours.std(0) / len(ours) ** 0.5
    assert ((ours.mean(0) - expected).abs() < 4.5 * error + 0.01).all()
    assert expected.abs().max() > 0.1


def test_wake_sleep_needs_no_draws_that_carry_gradients():
    """A latent of two values, summed by hand: the guide's gradient is that of `sum_z p(z|x) log q(z|x)`."""
    logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    likelihood = torch.tensor([0.2, 0.7], dtype=torch.float64)

    def pair_model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            pyro.sample("x", dist.Bernoulli(likelihood[z.long()]), obs=x)

    def pair_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    x = torch.ones(200, dtype=torch.float64)
    torch.manual_seed(0)
    ours = gradients(
        (pair_model, pair_guide), x, ReweightedWakeSleep(num_particles=200), [logit], 50
    )
    joint = torch.tensor([0.6 * 0.2, 0.4 * 0.7]).double()
    posterior = joint[1] / joint.sum()
    expected = -(posterior - torch.sigmoid(logit)).item()
    error = ours.std() / len(ours) ** 0.5
    assert abs(ours.mean() - expected) < 4.5 * error + 2e-3


REFUSED = {
    "independence": "entries that are independent",
    "scored": "draws that carry no gradients",
    "codes": "one-hot codes",
}


@pytest.mark.parametrize("cls", variants(Objective).values(), ids=lambda c: c.__name__)
def test_objectives_on_a_pair_written_by_hand(cls):
    """Two latent sites of one number each, without a vector among them."""
    scale = torch.tensor(0.7, requires_grad=True)

    def pair_model(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def pair_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Normal(x / 2, scale))
            pyro.sample("b", dist.Normal(x / 3, scale))

    objective = cls()
    objective.advance(100)
    t = terms(
        pair_model, pair_guide, torch.randn(6), num_particles=objective.num_particles
    )
    refused = [words for need, words in REFUSED.items() if need in objective.needs]
    refused += ["again from a point"] if cls.__name__ == "Autoencoder" else []
    if refused:
        with pytest.raises(InputError, match=refused[0]):
            objective.check(t)
    else:
        objective.check(t)
        assert objective.bound(t).shape == (6,)
        assert torch.autograd.grad(objective.loss_of(t), scale)[0] != 0


@pytest.mark.parametrize(
    "objective", [STL(), Capacity(), InfoVAE()], ids=lambda o: type(o).__name__
)
def test_draws_that_carry_no_gradients_are_refused_where_they_would_mislead(objective):
    def pair(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.full((), 0.4)))

    with pytest.raises(InputError, match="needs draws that carry gradients"):
        objective.check(terms(pair, pair, torch.ones(3)))


# --- signal and noise


def slope_of_signal_to_noise(make, counts):
    """How the guide's |mean gradient| / std goes with the number of particles: the slope in a log-log plot.

    `z ~ N(0, 1)`, `x|z ~ N(z, 1)`, `q = N(x/2 + b, 2/3)`: in one dimension, where the power law sets in early. Each of
    many copies of one datum has a `b` of its own, and so a gradient of its own.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, section 4.
    """

    def pair_model(x, b):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).to(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def pair_guide(x, b):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2 + b, (2 / 3) ** 0.5))

    torch.manual_seed(0)
    ratios = []
    for count in counts:
        objective, parts = make(num_particles=count), []
        for _ in range(
            count // 8
        ):  # the noise of a ratio: as many gradients as its smallness asks for
            b = torch.full((20_000,), 0.4, dtype=torch.float64, requires_grad=True)
            x = torch.full_like(b, 1.3)
            t = terms(pair_model, pair_guide, x, b, num_particles=count)
            parts.append(torch.autograd.grad(objective.loss_of(t), b)[0])
        g = torch.cat(parts)
        ratios.append(abs(g.mean() / g.std()).item())
    x, y = torch.tensor(counts).double().log(), torch.tensor(ratios).double().log()
    return (
        ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    ).item()


def test_signal_to_noise_falls_under_iwae_and_rises_under_dreg():
    """As K^-1/2 and as K^1/2: Rainforth et al. 2018, theorem 1; Tucker et al. 2018, section 3."""
    counts = (16, 32, 64)
    assert slope_of_signal_to_noise(IWAE, counts) == pytest.approx(-0.5, abs=0.1)
    assert slope_of_signal_to_noise(DReG, counts) == pytest.approx(0.5, abs=0.1)
