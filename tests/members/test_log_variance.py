"""Log-variances of heads between bounds: the densities, their gradients, and where training starts."""

import math

import pytest
import torch
from torch import nn

from pyro_vae import MLP, VAE, Gaussian, InputError, MeanField, StandardNormal, fit
from pyro_vae.guides import FullRank, LowRank, Mixture

BOUNDS = (-6.0, 2.0)
LEAST, MOST = math.exp(-3.0), math.exp(1.0)  # standard deviations


def with_outputs(guide, outputs):
    """The guide with a head that returns its features."""
    guide.head = nn.Identity()
    return guide.posterior(outputs)


def test_mean_field_is_a_normal_with_its_log_variances_clamped():
    guide = MeanField(MLP((4,)), 3, log_variance=BOUNDS)
    loc, log_scale = torch.randn(5, 3), 4 * torch.randn(5, 3)
    q = with_outputs(guide, torch.cat([loc, log_scale], -1))
    scale = (2 * log_scale).clamp(*BOUNDS).div(2).exp()
    assert ((2 * log_scale < -6) | (2 * log_scale > 2)).any()
    z = torch.randn(5, 3)
    wanted = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), wanted)
    torch.testing.assert_close(q.mean, loc)


@pytest.mark.parametrize("cls", [MeanField, FullRank, LowRank, Mixture])
@pytest.mark.parametrize("end", [-50.0, 50.0])
def test_whatever_the_head_says_variances_stay_between_the_bounds(cls, end):
    guide = cls(MLP((4,)), 3, log_variance=BOUNDS)
    outputs = torch.randn(7, guide.head.out_features)
    bounded = guide.highest.isfinite()
    outputs[:, bounded] = end
    free = outputs.clone().requires_grad_()
    q = with_outputs(guide, free)
    match cls.__name__:
        case "FullRank":
            found = q.scale_tril.diagonal(dim1=-2, dim2=-1)
        case "LowRank":
            found = q._unbroadcasted_cov_diag.sqrt()
        case "Mixture":
            found = q.scale
        case _:
            found = q.stddev
    wanted = torch.full_like(found, LEAST if end < 0 else MOST)
    torch.testing.assert_close(found, wanted)
    q.log_prob(torch.randn(7, 3)).sum().backward()
    assert (free.grad[:, bounded] == 0).all()
    assert (free.grad[:, ~bounded] != 0).any()


@pytest.mark.parametrize("cls", [MeanField, FullRank, LowRank, Mixture])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-9.0, -8.0)])
def test_a_guide_starts_between_its_bounds_where_gradients_flow(cls, bounds):
    """Unbounded it starts at a log-variance of -2, which lies outside of both."""
    guide = cls(MLP((4,)), 3, log_variance=bounds)
    guide.variational_parameters(torch.randn(7, 200)).sum().backward()
    bounded = guide.highest.isfinite()
    start = 2 * guide.head.bias[bounded]
    assert ((start > bounds[0]) & (start < bounds[1])).all()
    assert (guide.head.bias.grad[bounded] != 0).all()


def test_a_guide_without_bounds_is_as_before():
    torch.manual_seed(0)
    free = MeanField(MLP((4,)), 3)
    torch.manual_seed(0)
    wide = MeanField(MLP((4,)), 3, log_variance=(-60, 60))
    assert free.state_dict().keys() == wide.state_dict().keys()
    h = torch.randn(7, 200)
    assert torch.equal(free.posterior(h).stddev, wide.posterior(h).stddev)


def test_a_likelihood_keeps_to_its_bounds_and_its_density_is_a_normal():
    likelihood = Gaussian((3,), scale="network", min_scale=1e-9, log_variance=BOUNDS)
    mean, std = torch.tensor([1.0, -2, 0]), torch.tensor([0.1, 1, 20])
    likelihood.initialise(mean, std, standardise=True)
    h = torch.stack([torch.randn(50, 3), 5 * torch.randn(50, 3)], 1).requires_grad_()
    p, x = likelihood(h), torch.randn(50, 3)
    log_scale = h[:, 1]
    inside = (log_scale > -3) & (log_scale < 1)
    assert 0 < inside.float().mean() < 1
    scale = std * log_scale.clamp(-3, 1).exp()
    wanted = torch.distributions.Normal(mean + std * h[:, 0], scale).log_prob(x)
    torch.testing.assert_close(p.log_prob(x), wanted.sum(-1))
    p.log_prob(x).sum().backward()
    assert ((h.grad[:, 1] != 0) == inside).all()


@pytest.mark.parametrize("bounds", [(1.0, 2.0), (-9.0, -6.0)])
def test_a_likelihood_starts_between_its_bounds(bounds):
    likelihood = Gaussian((3,), scale="network", log_variance=bounds)
    mean, std = torch.zeros(3), torch.ones(3)
    start = likelihood.starting_output(mean, std)
    p = likelihood(start.unsqueeze(0))
    log_variance = 2 * p.base_dist.scale.log()
    assert ((log_variance > bounds[0]) & (log_variance < bounds[1])).all()


def test_a_pair_with_bounds_trains_and_stays_within_them():
    torch.manual_seed(0)
    x = torch.randn(60, 2) @ torch.tensor([[1.0, 1.0], [0.0, 0.01]])
    guide = MeanField(MLP((2,), hidden=(8,)), 1, log_variance=(-3.0, 0.0))
    likelihood = Gaussian((2,), scale="network", log_variance=(-4.0, 2.0))
    decoder = MLP((1,), likelihood.output_shape, hidden=(8,))
    vae = VAE(StandardNormal(1), decoder, likelihood, guide)
    fit(vae, x, epochs=200, learning_rate=0.01)
    variance = vae.guide.given(x).variance.log()
    assert (variance >= -3 - 1e-5).all()
    assert (variance <= 1e-5).all()
    scale = vae.model.likelihood(vae.model.decoder(torch.randn(9, 1))).base_dist.scale
    counted = 2 * (scale / vae.model.likelihood.spread).log()
    assert counted.min() >= -4 - 1e-5
    assert counted.min() < -3.9  # which unbounded it would fall below


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"log_variance": (2, -6)}, "log_variance=.* must be a tuple of 2 numbers"),
        ({"log_variance": (-200, 2)}, "log_variance=.* numbers from -80 to 80"),
        ({"scale": "element", "log_variance": BOUNDS}, "take scale='network'"),
        ({"scale": 1.0, "log_variance": BOUNDS}, "and scale=1.0: take"),
        (
            {"scale": "network", "log_variance": (-20, -15)},
            "lies below min_scale=0.001, whose log-variance is -13.82",
        ),
    ],
)
def test_bounds_that_mean_nothing_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Gaussian((3,), **arguments)
