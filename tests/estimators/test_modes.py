"""Gaussians fitted to posteriors, draws and chains from them, against closed forms and quadrature."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
)

from folds import NOISE, folds, log_p_of_folds
from ppca import PPCA
from pyro_vae import (
    log_marginal,
    log_marginal_adaptive,
)
from pyro_vae.data.inputs import Call
from pyro_vae.evaluation.annealing import annealed_from
from pyro_vae.evaluation.modes import (
    WIDER,
    Density,
    Fit,
    Modes,
    can_fit,
    weighted_from,
)
from pyro_vae.foundation.abstract import running


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def fitted(vae, x, steps=100, memory=2**28):
    """Density, call and modes of some data."""
    with running(vae.model, vae.guide), torch.no_grad():
        call = Call.of(vae.model, x)
        density = Density(vae.model, call, memory=memory)
        return density, call, Fit(density, vae.guide, steps).find(call)


def mixture(count=3, data=2, size=3):
    root = torch.randn(data, count, size, size, dtype=torch.float64).tril()
    root.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    log_weights = torch.randn(data, count, dtype=torch.float64).log_softmax(1)
    loc = torch.randn(data, count, size, dtype=torch.float64)
    return Modes(log_weights, loc, root, torch.ones(data, dtype=torch.bool))


def test_a_mixture_is_that_of_torch():
    modes = mixture()
    truth = MixtureSameFamily(
        Categorical(logits=modes.log_weights),
        MultivariateNormal(modes.loc, scale_tril=modes.root),
    )
    z = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = truth.log_prob(z)
    (slope,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(modes.log_prob(z), expected)
    for found, value in zip(
        modes.log_prob_and_gradient(z), (expected, slope), strict=True
    ):
        torch.testing.assert_close(found, value)
    u = modes.counted(z)
    torch.testing.assert_close(modes.placed(u), z)
    torch.testing.assert_close(modes.log_volume, torch.logdet(modes.root[:, 0]))
    draws = modes.sample(200_000)
    torch.testing.assert_close(draws.mean(0), truth.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.var(0), truth.variance, rtol=0.03, atol=0)


@pytest.mark.parametrize(("latent_dim", "dims"), [(1, 2), (6, 15)])
@pytest.mark.parametrize("memory", [2**28, 2**12], ids=["at once", "in blocks"])
def test_a_linear_model_gives_its_posterior(latent_dim, dims, memory):
    """From a guide that is beside the posterior and has another width."""
    truth = PPCA(latent_dim, dims, widen=0.5, shift=1.0)
    x = truth.sample(7)
    density, _, modes = fitted(truth.vae, x, memory=memory)
    assert (density.rows < 7) == (memory == 2**12)
    exact = MultivariateNormal((x - truth.b) @ truth.gain.T, truth.posterior_covariance)
    assert modes.loc.shape[1] == 1
    assert modes.settled.all()
    covariance = (modes.root @ modes.root.mT)[:, 0] / WIDER**2
    torch.testing.assert_close(
        covariance, exact.covariance_matrix.expand_as(covariance), rtol=1e-6, atol=1e-8
    )
    off = torch.linalg.solve_triangular(
        exact.scale_tril, (modes.loc[:, 0] - exact.mean).unsqueeze(-1), upper=False
    )
    assert off.square().sum((1, 2)).max() < 2.0


def test_draws_and_chains_from_fits_give_the_number_of_a_linear_model():
    truth = PPCA(8, 20, widen=0.4, shift=0.8)
    x = truth.sample(20)
    exact = truth.marginal.log_prob(x)
    vae = truth.vae
    plain = log_marginal(vae.model, vae.guide, x, num_particles=2000)
    assert plain.doubtful.float().mean() > 0.5
    density, call, modes = fitted(vae, x)
    with running(vae.model, vae.guide), torch.no_grad():
        drawn = weighted_from(density, call, modes, 2000)
        chains = annealed_from(density, call, modes, num_chains=32, num_temperatures=16)
    assert not drawn.missed.any()
    assert not drawn.marginal.doubtful.any()
    for result in (drawn.marginal, chains):
        z = (result.values - exact) / result.standard_errors
        assert z.abs().max() < 4.5
        assert result.monte_carlo_standard_error < 0.02


def test_weights_of_chains_are_unbiased_however_bad_the_fit():
    truth = PPCA(2, 3)
    x = truth.sample(1).expand(1500, -1).contiguous()
    density, call, modes = fitted(truth.vae, x, steps=1)
    with running(truth.vae.model), torch.no_grad():
        for count in (1, 3):
            found = annealed_from(
                density, call, modes, num_chains=1, num_temperatures=count
            )
            w = (found.values - truth.marginal.log_prob(x)).exp()
            assert abs(w.mean() - 1) < 4.5 * w.std() / len(w) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 6])
def test_many_modes(size):
    """Two are found; of four some may be missed, and 64 are too many: there chains from the prior give the number."""
    vae = folds(size)
    x = 1.2 + 0.6 * torch.rand(60, size, dtype=torch.float64)
    exact = log_p_of_folds(x)
    plain = log_marginal(vae.model, vae.guide, x, num_particles=1000)
    assert (exact - plain.values).mean() > 0.9 * size * math.log(2)
    _, _, modes = fitted(vae, x)
    counted = modes.log_weights.isfinite().sum(1)
    if size == 1:
        assert (counted == 2).float().mean() > 0.9
    if size == 6:
        assert not modes.settled.any()
    options = {"num_particles": 1000, "annealing": 10**7}
    result, effort = log_marginal_adaptive(vae, x, **options)
    road = "refined" if size == 1 else "annealed"
    assert effort.took(road).float().mean() > 0.7
    low, high = result.intervals(0.95).unbind(-1)
    sound = ~result.doubtful
    assert sound.float().mean() > 0.75
    inside = (low <= exact) & (exact <= high)
    assert inside[sound].float().mean() > 0.8
    assert abs((result.values - exact)[sound].mean()) < 0.1


@pytest.mark.parametrize(("sizes", "widen"), [((8, 20), 0.5), ((40, 80), 1.5)])
def test_the_bias_of_doubtful_draws(sizes, widen):
    """Right to a factor of 2, where the delta method is not."""
    truth = PPCA(*sizes, widen=widen)
    x = truth.sample(200)
    found = log_marginal(*truth.pair, x, num_particles=500)
    bias = found.mean - truth.marginal.log_prob(x).mean().item()
    delta = -found.standard_errors.square().mean().item() / 2
    assert bias < 2 * delta < 0
    assert 2 * bias < found.bias < bias / 2
    assert "or more, by the slope of its curve" in str(found)
    exact = PPCA(*sizes, widen=1.05)
    found = log_marginal(*exact.pair, x, num_particles=500)
    assert found.bias == -found.standard_errors.square().mean().item() / 2


@pytest.mark.slow
def test_compiled_fits_are_those_that_are_not():
    """In blocks of 5, of which the last is filled up where a graph wants it so."""
    truth = PPCA(3, 6, widen=0.5, shift=0.5)
    x, found = truth.sample(10), []
    with running(*truth.pair), torch.no_grad():
        call = Call.of(truth.vae.model, x)
        for wanted in (False, True):
            torch.manual_seed(0)
            density = Density(truth.vae.model, call, memory=2**28, compile=wanted)
            assert density.compiled == wanted
            density.rows = 5
            modes = Fit(density, truth.vae.guide, 20).find(call)
            drawn = weighted_from(density, call, modes, 100)
            chains = annealed_from(
                density, call, modes, num_chains=6, num_temperatures=5
            )
            found.append((modes.loc, modes.root, drawn.marginal.values, chains.values))
        few, some = call[:7], modes.among(slice(7))
        assert len(weighted_from(density, few, some, 100).marginal) == 7
    for eager, graph in zip(*found, strict=True):
        torch.testing.assert_close(graph, eager)


def test_what_cannot_be_fitted():
    wide = PPCA(300, 301)
    x = wide.sample(1)
    assert not can_fit(*wide.pair, Call.of(wide.vae.model, x))
    small = PPCA(2, 3)
    assert can_fit(*small.pair, Call.of(small.vae.model, small.sample(1)))


@pytest.mark.parametrize("size", [1, 2])
def test_climbs_that_end_on_modes_without_a_fit(size):
    """Of all modes of a folded normal, and of all but one."""
    vae = folds(size)
    x = 1.2 + 0.6 * torch.rand(5, size, dtype=torch.float64)
    with running(vae.model, vae.guide), torch.no_grad():
        call = Call.of(vae.model, x)
        fit = Fit(Density(vae.model, call, memory=2**28), vae.guide, 100)

        # Gaussians on modes with these signs, in the order of the starts.
        signs = (
            torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * size)
            .double()
            .view(-1, size)
        )
        loc = signs * x.unsqueeze(1) / (1 + NOISE**2)
        root = NOISE * torch.eye(size).double().expand(5, len(signs), -1, -1)
        weights = torch.zeros(5, len(signs)).double().log_softmax(1)
        whole = Modes(weights, loc, root, torch.ones(5, dtype=torch.bool))
        starts = loc.movedim(1, 0).repeat(8 // len(signs), 1, 1)
        starts = starts + 0.3 * torch.randn_like(starts)
        assert not fit.elsewhere(call, whole, starts).any()
        part = Modes(weights[:, 1:], loc[:, 1:], root[:, 1:], whole.settled)
        assert fit.elsewhere(call, part, starts).all()
