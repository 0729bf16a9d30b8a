"""Numbers against closed forms: linear-Gaussian models, Gaussian divergences, densities."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from ppca import PPCA
from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    Gaussian,
    MeanField,
    Spec,
    StandardNormal,
    build,
    fit,
    log_marginal,
)
from pyro_vae import elbo as elbo_of
from pyro_vae.inference.schedules import cosine
from pyro_vae.inference.terms import terms


@pytest.mark.parametrize(("latent_dim", "dims"), [(1, 2), (2, 5), (4, 10)])
def test_log_marginal_is_within_its_own_errors(latent_dim, dims):
    model = PPCA(latent_dim, dims, widen=1.2, shift=0.2)
    x = model.sample(50)
    truth = model.marginal.log_prob(x).mean().item()
    scores = []
    for seed in range(20):
        torch.manual_seed(seed)
        result = log_marginal(*model.pair, x, num_particles=500)
        scores.append((result.mean - truth) / result.monte_carlo_standard_error)
    assert max(map(abs, scores)) < 3
    assert (
        0.6 < np.std(scores) < 1.5
    )  # and the errors are not too large either: 20 draws of N(0, 1)


def test_intervals_cover_the_truth():
    model = PPCA(2, 5, widen=1.3, shift=0.2)
    x = model.sample(5000)
    result = log_marginal(*model.pair, x, num_particles=1000)
    inside = (
        result.values - model.marginal.log_prob(x)
    ).abs() < 1.96 * result.standard_errors
    assert (
        0.93 < inside.double().mean().item() < 0.97
    )  # the share itself has a standard error of 0.003


def test_probability_estimate_is_unbiased():
    model = PPCA(2, 3, widen=1.4, shift=0.3)
    x = model.sample(1)
    p_hat = log_marginal(
        *model.pair, x.expand(200_000, -1), num_particles=2
    ).values.exp()
    error = p_hat.std() / math.sqrt(len(p_hat))
    assert abs(p_hat.mean() - model.marginal.log_prob(x).exp()) < 4 * error


def test_exact_guide_gives_log_p_without_noise():
    model = PPCA(3, 6)
    x = model.sample(20)
    result = log_marginal(*model.pair, x, num_particles=10)
    truth = model.marginal.log_prob(x)
    torch.testing.assert_close(result.values, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(result.elbo, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        result.ess, torch.full_like(truth, 10), rtol=1e-6, atol=0
    )
    assert result.pareto_k.max() == -math.inf
    assert result.standard_errors.max() < 1e-6


def test_bounds_are_ordered():
    model = PPCA(2, 5, widen=1.5, shift=0.4)
    x = model.sample(2000)
    truth = model.marginal.log_prob(x)
    torch.manual_seed(1)
    means, errors = [], []
    for objective in (ELBO(), IWAE(num_particles=5), IWAE(num_particles=50)):
        bound = (
            objective.bound(
                terms(*model.pair, x, num_particles=objective.num_particles)
            )
            - truth
        )
        means.append(bound.mean().item())
        errors.append(bound.std().item() / math.sqrt(len(x)))
    assert means[0] + 3 * errors[0] < means[1] - 3 * errors[1]
    assert means[1] + 3 * errors[1] < means[2] - 3 * errors[2]
    assert means[2] < 3 * errors[2]


def test_elbo_of_the_exact_family_is_log_p_plus_the_gaussian_kl():
    """log p(x) - ELBO = KL(q(z|x) || p(z|x)), in closed form for Gaussians."""
    model = PPCA(2, 5, widen=1.3, shift=0.25)
    x = model.sample(500)
    d = model.latent_dim
    shift = torch.full((d,), 0.25).double()
    precision = torch.linalg.inv(model.posterior_covariance)
    kl = 0.5 * (d * 1.3**2 - d + shift @ precision @ shift - 2 * d * math.log(1.3))
    t = terms(*model.pair, x, num_particles=400)
    gap = model.marginal.log_prob(x) - t.log_weight.mean(0)
    error = t.log_weight.std() / math.sqrt(t.log_weight.numel())
    assert abs(gap.mean() - kl) < 4 * error


def test_full_rank_guide_trains_to_log_p():
    """The best ELBO of a linear decoder with isotropic noise is the maximum likelihood of probabilistic PCA.

    Source: Tipping & Bishop 1999; Lucas et al. 2019, Don't Blame the ELBO!
    """
    dims, latent_dim = 5, 2
    x = PPCA(latent_dim, dims).sample(400)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[latent_dim:].mean()
    best = -0.5 * (
        eigenvalues[:latent_dim].log().sum()
        + (dims - latent_dim) * noise.log()
        + dims
        + dims * math.log(2 * math.pi)
    )

    torch.manual_seed(0)
    encoder, decoder = MLP((dims,), hidden=()), MLP((latent_dim,), (1, dims), hidden=())
    vae = VAE(
        StandardNormal(latent_dim),
        decoder,
        Gaussian((dims,), min_scale=1e-9),
        FullRank(encoder, latent_dim),
    ).double()
    options = {"learning_rate": 0.03, "schedule": cosine}
    fit(
        vae, x, epochs=2500, batch_size=400, start=False, **options
    )  # one noise for all columns
    reached = elbo_of(vae.model, vae.guide, x, num_particles=100).elbo
    assert best - 1e-3 < reached < best + 1e-9


def test_monte_carlo_kl_equals_the_closed_form():
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(3), MLP((3,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 3)
    ).double()
    x = torch.rand(5, 4).round().double()
    q = vae.encode(x)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    closed = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)
    t = terms(vae.model, vae.guide, x, num_particles=100_000)
    kl = t.log_qz - t.log_pz
    assert ((kl.mean(0) - closed).abs() < 4 * kl.std(0) / math.sqrt(len(kl))).all()


def test_bernoulli_density_against_scipy():
    torch.manual_seed(0)
    h, x = 3 * torch.randn(7, 1, 2, 3).double(), torch.rand(7, 2, 3).round().double()
    ours = Bernoulli((2, 3))(h).log_prob(x)
    theirs = scipy.stats.bernoulli.logpmf(
        x.numpy(), torch.sigmoid(h[:, 0]).numpy()
    ).sum((1, 2))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.3, "learned", "element", "network"])
def test_gaussian_density_against_scipy(scale):
    torch.manual_seed(0)
    likelihood = Gaussian((2, 3), scale=scale).double()
    h, x = (
        torch.randn(7, likelihood.channels, 2, 3).double(),
        torch.randn(7, 2, 3).double(),
    )
    if isinstance(scale, float):
        expected = scale
    elif scale == "network":
        expected = 1e-3 + h[:, 1].exp().numpy()
    else:
        torch.nn.init.normal_(likelihood.log_scale)
        expected = 1e-3 + likelihood.log_scale.exp().detach().numpy()
    ours = likelihood(h).log_prob(x).detach()
    theirs = scipy.stats.norm.logpdf(x.numpy(), h[:, 0].numpy(), expected).sum((1, 2))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)
    assert likelihood(h).event_shape == (2, 3)


def test_units_of_the_data_change_the_density_by_their_jacobian_only():
    """A model of columns on scales of their own is that of the standardised columns, less the log of the scales."""
    torch.manual_seed(0)
    mean, std = (
        torch.tensor([5.0, -3e4, 1e-3]).double(),
        torch.tensor([2.0, 1e5, 1e-4]).double(),
    )
    x = torch.randn(6, 3).double()
    for scale in ("learned", "element", "network"):
        spec = Spec(
            (3,), 2, likelihood=f"gaussian(scale={scale!r})", network="mlp(hidden=(5,))"
        )
        raw, unit = build(spec).double(), build(spec).double()
        unit.load_state_dict(raw.state_dict())
        for vae, m, s in (
            (raw, mean, std),
            (unit, torch.zeros(3).double(), torch.ones(3).double()),
        ):
            torch.manual_seed(2)
            vae.initialise(m, s, standardise=True)
        values = []
        for vae, data in ((raw, mean + std * x), (unit, x)):
            torch.manual_seed(1)
            values.append(
                log_marginal(*(vae.model, vae.guide), data, num_particles=50).values
            )
        torch.testing.assert_close(values[0] + std.log().sum(), values[1])
