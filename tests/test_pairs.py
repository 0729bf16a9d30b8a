"""Pairs that somebody wrote by hand, or that Pyro makes: their numbers are Pyro's, or the truth, or a sentence."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae import MLP, VAE, Bernoulli, MeanField, StandardNormal, elbo
from pyro_vae._abstract import is_own, parameters_of, unchecked
from pyro_vae.inference.inputs import rows_of


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
