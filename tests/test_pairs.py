"""Pairs that somebody wrote by hand, or that Pyro makes: their numbers are Pyro's, or the truth, or a sentence."""

import functools
import gc
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    VAE,
    Bernoulli,
    MeanField,
    Objective,
    StandardNormal,
    elbo,
    terms,
    variants,
)
from pyro_vae._abstract import is_own, parameters_of, unchecked
from pyro_vae.inference.importance import Several
from pyro_vae.inference.inputs import rows_of
from pyro_vae.inference.particles import ParticleWarning, way_of


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def normal(x):
    """x ~ N(z, 1), z ~ N(0, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact(x):
    """The posterior of `normal`."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


class Shifted(PyroModule):
    """A Pyro module with a PyroParam of its own and a parameter in Pyro's store."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.5**0.5), dist.constraints.positive)

    def forward(self, x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, self.scale))


def test_a_pair_is_own_when_both_programs_are():
    vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    assert is_own(vae.model, vae.guide)
    for foreign in (exact, Shifted(), poutine.scale(vae.guide, scale=0.5), vae.guide.__call__):
        assert not is_own(vae.model, foreign)


def test_a_foreign_pair_runs_under_the_settings_of_the_user():
    vae = VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))
    with pyro.settings.context(module_local_params=False, validate_poutine=True):
        with parameters_of(vae.model, vae.guide), unchecked(vae.model, vae.guide):
            assert pyro.settings.get("module_local_params")
            assert not pyro.settings.get("validate_poutine")
        with parameters_of(normal, exact), unchecked(normal, exact):
            assert not pyro.settings.get("module_local_params")
            assert pyro.settings.get("validate_poutine")
    with (
        pyro.settings.context(module_local_params=True),
        parameters_of(normal, exact),
    ):
        assert pyro.settings.get("module_local_params")


@pytest.mark.parametrize(
    "wrapped", [lambda g: g, lambda g: poutine.scale(g, scale=1.0), functools.partial]
)
def test_a_module_that_calls_param_is_evaluated_however_it_is_wrapped(wrapped):
    x = torch.randn(30)
    truth = dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
    assert elbo(normal, wrapped(Shifted()), x, num_particles=3).elbo == pytest.approx(truth, 1e-5)
    assert "shift" in pyro.get_param_store()


def test_rows_are_those_of_the_first_batch():
    x, y = torch.zeros(40, 3), torch.zeros(40)
    assert rows_of([x, y[:7]]) == rows_of([[x, y]]) == rows_of([{"x": x, "z": (y, y)}]) == 40
    assert rows_of([torch.tensor(1.0), (x, torch.tensor(0.5))]) == 40
    assert rows_of([None, 3, "text"], {"beta": 0.5, "x": x}) == 40
    assert rows_of([nn.Linear(2, 2)]) is None
    assert rows_of([(x, y[:7])]) is None


def column(x):
    """`normal` with a latent that is a vector of one entry, read from the left."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)


def exact_column(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))


def marginal(x):
    """log p(x) of `normal`."""
    return dist.Normal(0.0, 2**0.5).log_prob(x)


def network_pair(decoder, encoder, shape):
    """A pair of functions around two networks, with two latents and unit noise."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(len(shape)), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        h = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h[:, :2], h[:, 2:].exp()).to_event(1))

    return model, guide


def batch_norm():
    decoder = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    return *network_pair(decoder, nn.Linear(3, 4), (3,)), torch.randn(64, 3)


def convolution():
    decoder = nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2, 2)
    )
    encoder = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.Flatten(), nn.Linear(16, 4))
    return *network_pair(decoder, encoder, (1, 4, 4)), torch.randn(8, 1, 4, 4)


def single_column():
    return column, exact_column, torch.randn(40)


def softmax():
    decoder = nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=1))
    return *network_pair(decoder, nn.Linear(3, 4), (3,)), torch.randn(10, 3)


def test_any_leading_dimensions_are_taken_at_once():
    pair = network_pair(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Linear(3, 4), (3,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = terms(*pair, torch.randn(6, 3), num_particles=5)
    assert not isinstance(t.sites["z"].q, Several)
    assert t.log_weight.shape == (5, 6)


@pytest.mark.parametrize("pair", [batch_norm, convolution, single_column, softmax])
def test_one_particle_is_a_draw_of_pyro(pair):
    model, guide, x = pair()
    for loss, theirs in ((ELBO(), Trace_ELBO()), (IWAE(num_particles=1), Trace_ELBO())):
        torch.manual_seed(3)
        ours = loss.differentiable_loss(model, guide, x)
        torch.manual_seed(3)
        torch.testing.assert_close(ours, theirs.differentiable_loss(model, guide, x))


@pytest.mark.parametrize("pair", [batch_norm, convolution, single_column, softmax])
def test_several_particles_of_a_pair_that_takes_no_dimension_are_draws_of_pyro(pair):
    model, guide, x = pair()
    with pytest.warns(ParticleWarning, match="run once for each particle"):
        terms(model, guide, x, num_particles=2)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        torch.manual_seed(3)
        t = terms(model, guide, x, num_particles=4)
    torch.manual_seed(3)
    draws, expected = [], []
    for _ in range(4):
        draws.append(poutine.trace(guide).get_trace(x))
    for q in draws:
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
        p.compute_log_prob()
        q.compute_log_prob()
        pair = [p.nodes[n]["log_prob"] for n in ("x", "z")]
        expected.append(pair[0] + pair[1] - q.nodes["z"]["log_prob"])
    torch.testing.assert_close(t.log_weight, torch.stack(expected))


def test_trying_a_pair_leaves_buffers_and_random_numbers_alone():
    x = torch.randn(6, 3)
    decoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    pair = network_pair(decoder, nn.Linear(3, 4), (3,))
    torch.manual_seed(1)
    with pytest.warns(ParticleWarning):
        way_of(*pair, (x,), {})
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert decoder[1].num_batches_tracked == 0
    assert torch.equal(decoder[1].running_mean, torch.zeros(5))


def test_batch_normalisation_in_evaluation_mode_and_dropout_are_tried_as_they_are():
    decoder = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    pair = network_pair(decoder, nn.Linear(3, 4), (3,))
    assert way_of(*pair, (torch.randn(6, 3),), {}).dim == -2
    flat = nn.Sequential(nn.Linear(2, 5), AnyLeading(nn.BatchNorm1d(5)), nn.Linear(5, 3))
    pair = network_pair(flat, nn.Linear(3, 4), (3,))
    with pytest.warns(ParticleWarning):
        assert way_of(*pair, (torch.randn(6, 3),), {}).dim is None
    flat.eval()
    assert way_of(*pair, (torch.randn(6, 3),), {}).dim == -2


class AnyLeading(nn.Module):
    """A layer for matrices, applied to tensors of any leading dimensions."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        return self.layer(h.flatten(0, -2)).view(h.shape)


def test_what_is_known_of_a_pair_goes_with_it():
    class Pair:
        def model(self, x):
            column(x)

        def guide(self, x):
            exact_column(x)

    pair = Pair()
    x = torch.randn(5)
    with pytest.warns(ParticleWarning):
        terms(pair.model, pair.guide, x, num_particles=2)
    with warnings.catch_warnings():  # a bound method is another object at each access
        warnings.simplefilter("error")
        terms(pair.model, pair.guide, x, num_particles=2)
    gone = weakref.ref(pair)
    del pair
    gc.collect()
    assert gone() is None


def test_the_error_of_a_pair_that_cannot_be_run_is_its_own():
    def broken(x):
        raise LookupError("nothing here")

    with pytest.raises(LookupError, match="nothing here"):
        terms(broken, exact, torch.zeros(3), num_particles=2)


OBJECTIVES = sorted(variants(Objective).values(), key=lambda cls: cls.__name__)


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
@pytest.mark.parametrize("cls", OBJECTIVES, ids=lambda cls: cls.__name__)
def test_objectives_of_particles_drawn_one_by_one_are_those_of_particles_at_once(cls):
    scale = torch.tensor(0.6, requires_grad=True)

    def pair(read):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(read(z), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                q = dist.Normal(x[:, None] / 2, scale.expand(len(x), 1))
                pyro.sample("z", q.to_event(1))

        return model, guide

    # Sixteen normal numbers at a time are the same whether drawn alone or among others.
    objective, x, found = cls(), torch.randn(16), []
    objective.advance(100)
    for read, one_by_one in ((lambda z: z[..., 0], False), (lambda z: z[:, 0], True)):
        model, guide = pair(read)
        way_of(model, guide, (x,), {})
        assert (way_of(model, guide, (x,), {}).dim is None) == one_by_one
        torch.manual_seed(2)
        t = terms(model, guide, x, num_particles=objective.num_particles)
        objective.check(t)
        loss = objective.loss_of(t)
        found.append((loss.detach(), *torch.autograd.grad(loss, scale)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
