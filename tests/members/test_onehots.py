"""Several one-hot variables side by side, against one-hot distributions of Pyro and sums over all codes."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.distributions import OneHots
from pyro_vae.distributions.onehots import kl_each

V, L = 3, 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def some(*batch):
    return torch.randn(*batch, V, L).double()


def pyros(logits):
    """The variables one by one, as Pyro has them."""
    return [dist.OneHotCategorical(logits=each) for each in logits.unbind(-2)]


def test_densities_and_entropies_are_those_of_pyros_variables():
    logits = some(5)
    q = OneHots(logits)
    assert (q.batch_shape, q.event_shape) == ((5,), (V * L,))
    z = q.sample((7,))
    parts = z.unflatten(-1, (V, L)).unbind(-2)
    truth = sum(p.log_prob(c) for p, c in zip(pyros(logits), parts, strict=True))
    torch.testing.assert_close(q.log_prob(z), truth)
    torch.testing.assert_close(q.entropy(), sum(p.entropy() for p in pyros(logits)))
    modes = torch.cat([p.mode for p in pyros(logits)], -1)
    assert torch.equal(q.mode, modes)
    assert q.support.check(z).all()
    assert not q.support.check(0.5 * z).any()


def test_the_divergence_is_that_of_pyros_variables():
    first, second = some(5), some()
    q, p = OneHots(first), OneHots(second).expand((5,))
    pairs = zip(pyros(first), pyros(second), strict=True)
    each = torch.stack([kl_divergence(a, b) for a, b in pairs], -1)
    torch.testing.assert_close(kl_each(q, p), each)
    torch.testing.assert_close(kl_divergence(q, p), each.sum(-1))
    z = q.enumerate_support()
    by_sum = (q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).sum(0)
    torch.testing.assert_close(kl_divergence(q, p), by_sum)


def test_all_codes_are_written_out_once_and_have_probability_one_together():
    q = OneHots(some(2))
    z = q.enumerate_support()
    assert z.shape == (L**V, 2, V * L)
    assert len(z[:, 0].unique(dim=0)) == L**V
    torch.testing.assert_close(q.log_prob(z).exp().sum(0), torch.ones(2).double())
    narrow = q.enumerate_support(expand=False)
    assert narrow.shape == (L**V, 1, V * L)
    assert torch.equal(narrow.expand(z.shape), z)
    one = OneHots(some()[:1]).enumerate_support()
    assert torch.equal(one, torch.eye(L).double())


def test_draws_have_the_mean_and_variance_of_the_codes():
    q, n = OneHots(some(2)), 40_000
    z = q.sample((n,))
    error = (q.variance / n).sqrt()
    assert ((z.mean(0) - q.mean).abs() < 4.5 * error).all()
    codes = q.enumerate_support()
    weights = q.log_prob(codes).exp().unsqueeze(-1)
    mean = (weights * codes).sum(0)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, (weights * (codes - mean) ** 2).sum(0))


def test_straight_through_draws_are_codes_with_the_gradient_of_relaxed_ones():
    logits = some(3).requires_grad_()
    temperature = torch.tensor(0.7).double()
    torch.manual_seed(4)
    z = OneHots(logits).straight_through(temperature, (1000,))
    torch.manual_seed(4)
    hard = OneHots(logits).sample((1000,))
    assert torch.equal(z.detach(), hard)
    slopes = torch.randn(V * L).double()
    ours = torch.autograd.grad((z * slopes).sum(), logits)[0]
    torch.manual_seed(4)
    noise = -torch.empty(1000, 3, V, L).double().exponential_().log()
    relaxed = ((logits + noise) / temperature).softmax(-1).flatten(-2)
    truth = torch.autograd.grad((relaxed * slopes).sum(), logits)[0]
    torch.testing.assert_close(ours, truth)


def test_values_without_probability():
    logits = some()
    logits[0, 1] = -math.inf
    logits.requires_grad_()
    q, p = OneHots(logits), OneHots(some())
    z = q.sample((200,))
    assert not z[:, 1].any()
    together = q.log_prob(z).sum() + q.entropy() + kl_divergence(q, p)
    assert together.isfinite()
    assert torch.autograd.grad(together, logits)[0].isfinite().all()
    assert kl_divergence(p, OneHots(logits.detach())) == math.inf
    never = torch.eye(L).double()[[1, 0, 0]].flatten()
    assert q.log_prob(never) == -math.inf


def test_too_many_codes_are_not_written_out():
    q = OneHots(torch.zeros(50, 10))
    assert not q.has_enumerate_support
    assert q.sample().shape == (500,)
    with pytest.raises(NotImplementedError, match="too many codes"):
        q.enumerate_support()
