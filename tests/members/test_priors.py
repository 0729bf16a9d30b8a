"""Priors against the same density from elsewhere, and the one that is made of the guide."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture

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
    fit,
    priors,
)
from pyro_vae.inference.seeking import BATCH, seek
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


def codes_of(vae, x):
    """The draws among which a start is sought, as `seek` makes them from this seed, and the seed of its mixture."""
    torch.manual_seed(3)
    with torch.no_grad():
        z = torch.cat([vae.encode(few).sample() for few in x.split(BATCH)])
    return z.double().numpy(), int(torch.randint(2**31, ()))


def test_a_mixture_that_is_sought_is_that_of_scikit_learn():
    """Of two groups far apart: the prior has the density of a mixture that is fitted to the codes by EM."""
    x = torch.randn(300, 4) + 6.0 * (torch.arange(300) % 2)[:, None]
    spec = Spec(
        (4,), 2, "gaussianmixture(components=2, start=1)", likelihood="gaussian"
    )
    vae = build(spec)
    z, seed = codes_of(vae, x)
    torch.manual_seed(3)
    seek(vae, x)
    found = GaussianMixture(
        2, covariance_type="diag", n_init=5, reg_covar=1e-3, random_state=seed
    ).fit(z)
    log_p = vae.model.prior().log_prob(torch.from_numpy(z).float()).detach()
    np.testing.assert_allclose(log_p, found.score_samples(z), rtol=1e-3, atol=1e-3)


def test_a_mixture_is_sought_once_between_two_epochs():
    """The best epoch is one behind it; a prior that is not asked to begins as it is."""
    x = torch.randn(60, 4)
    for start, epochs in ((2, 2), (0, 0), (None, 2)):
        prior = f"gaussianmixture(components=3, start={start})"
        vae = build(Spec((4,), 2, prior, likelihood="gaussian"))
        history = fit(vae, x, epochs=4, batch_size=30)
        before = [math.isnan(epoch.score) for epoch in history]
        assert before == [True] * epochs + [False] * (4 - epochs)


@pytest.mark.parametrize(
    ("context", "options", "given"),
    [
        (2, {"prior": "gaussianmixture(components=3)"}, {"c": torch.randn(60, 2)}),
        (5, {"structure": "clusters(classes=3)"}, {"c": torch.randn(60, 2)}),
        (
            3,
            {
                "prior": "gaussianmixture(components=3)",
                "structure": "labelled(classes=3)",
            },
            {"y": torch.arange(60) % 4 - 1},
        ),
    ],
    ids=["condition", "clusters and condition", "labels"],
)
def test_parts_are_sought_among_codes_of_data_that_are_given_something(
    context, options, given
):
    vae = build(Spec((4,), 2, likelihood="gaussian", context=context, **options))
    before = [p.clone() for p in vae.model.prior.parameters()]
    seek(vae, {"x": torch.randn(60, 4), **given})
    pairs = zip(before, vae.model.prior.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


def test_more_components_than_codes_are_refused():
    vae = build(Spec((4,), 2, "gaussianmixture(components=50, start=1)"))
    with pytest.raises(InputError, match="50 components cannot be sought among"):
        fit(vae, torch.ones(20, 4), epochs=2)
