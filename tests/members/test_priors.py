"""Priors against the same density from elsewhere, and the one that is made of the guide."""

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    InputError,
    MeanField,
    Spec,
    VampPrior,
    build,
    priors,
)
from pyro_vae.models.conditionals import Delta
from pyro_vae.models.priors import Flow


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_laplace():
    z = 2 * torch.randn(50, 3).double()
    ours = priors.Laplace(3).double()()
    theirs = scipy.stats.laplace.logpdf(z.numpy(), 0, 0.5**0.5).sum(1)
    np.testing.assert_allclose(ours.log_prob(z).numpy(), theirs, rtol=1e-6)
    torch.testing.assert_close(ours.variance, torch.ones(3).double())


@pytest.mark.parametrize("kind", ["realnvp", "nsf", "maf"])
@pytest.mark.parametrize("d", [1, 3])
def test_flow_density_is_the_noise_times_the_determinant_by_autodiff(kind, d):
    prior = Flow(d, kind=kind, transforms=3, hidden=(8,)).double()
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.4)
    q = prior()
    z = torch.randn(4, d).double()
    to_noise = prior.flow(None)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: to_noise(z).sum(0), z
    ).movedim(1, 0)
    noise = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(z)).sum(-1)
    torch.testing.assert_close(
        q.log_prob(z), noise + torch.linalg.slogdet(jacobian).logabsdet
    )
    drawn = q.expand((6,)).rsample()
    torch.testing.assert_close(
        q.log_prob(drawn.clone()), q.expand((6,)).log_prob(drawn)
    )


@pytest.mark.parametrize("make", [MeanField, FullRank], ids=lambda m: m.__name__)
def test_vamp_prior_is_the_mixture_of_the_guides_posteriors(make):
    vae = VAE(
        VampPrior(2, pseudo_inputs=6),
        MLP((2,), (1, 4)),
        Bernoulli((4,)),
        make(MLP((4,)), 2),
    ).double()
    z = torch.randn(9, 2).double()
    each = vae.encode(vae.model.prior.pseudo_inputs).expand((9, 6)).log_prob(z[:, None])
    torch.testing.assert_close(
        vae.model.prior().log_prob(z), each.logsumexp(1) - np.log(6)
    )


def test_vamp_prior_starts_from_data_in_the_units_of_the_encoder():
    vae = build(
        Spec((3,), 2, prior="vampprior(pseudo_inputs=5)", likelihood="gaussian")
    )
    x = 1000 + 50 * torch.randn(40, 3)
    vae.initialise(x.mean(0), x.std(0), standardise=True, examples=x)
    assert vae.model.prior.pseudo_inputs.abs().max() < 5
    mixed = vae.encode(x[:5])
    z = torch.randn(7, 2)
    expected = mixed.expand((7, 5)).log_prob(z[:, None]).logsumexp(1) - np.log(5)
    torch.testing.assert_close(vae.model.prior().log_prob(z), expected)
    with pytest.raises(InputError, match="pseudo_inputs=4 or fewer"):
        vae.initialise(x.mean(0), x.std(0), examples=x[:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VampPrior(2, pseudo_inputs=0), "pseudo_inputs=0"),
        (VampPrior(2), "put both into a VAE"),
        (lambda: Flow(2, kind="glow"), "kind='glow'"),
        (lambda: Flow(2, transforms=0), "transforms=0"),
        (lambda: Flow(2, hidden=(0,)), "hidden"),
        (
            lambda: VAE(
                VampPrior(2), MLP((2,), (1, 4)), Bernoulli((4,)), Delta(MLP((4,)), 2)
            ),
            "are points",
        ),
        (
            lambda: VAE(
                VampPrior(2),
                MLP((2,), (1, 4)),
                Bernoulli((4,)),
                MeanField(torch.nn.Linear(4, 3), 2, features=3),
            ),
            "give VampPrior shape=",
        ),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InputError, match=words):
        make()
