"""Bounds on log p(x) of real data from both sides, against closed forms and quadrature."""

import dataclasses

import pytest
import torch
from torch import nn

from folds import folds, log_p_of_folds
from ppca import PPCA
from pyro_vae import InputError, log_marginal, log_marginal_bracket
from pyro_vae.data.bridges import Scaled
from pyro_vae.data.fields import Split
from pyro_vae.evaluation.bracket import (
    FEWEST,
    Bracket,
    price,
    usual_bracket,
)
from pyro_vae.evaluation.question import Evaluated
from switch import Switch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def holds(found, truth):
    low, high = found.bounds().unbind(-1)
    return ((low <= truth) & (truth <= high)).float().mean()


def test_bounds_of_a_linear_model():
    """Under a guide whose draws say nothing: all Pareto k are bad."""
    truth = PPCA(8, 20, widen=0.4, shift=0.8)
    x = truth.sample(20)
    exact = truth.marginal.log_prob(x)
    assert log_marginal(*truth.pair, x, num_particles=500).doubtful.all()
    found = log_marginal_bracket(truth.vae, x, prior_temperatures=60)
    assert holds(found, exact) > 0.94
    assert found.certified.all()
    assert not found.missed.any()
    noise = (found.lower_errors.square() + found.upper_errors.square()).sum().sqrt()
    assert abs(found.gap.mean()) < 4 * noise / len(x)
    assert (found.apart.abs() < 1.0).all()
    assert "the bounds of 20 of 20 are within 0.3 nats" in str(found)
    joined = found + found
    assert len(joined) == 40


@pytest.mark.parametrize("size", [1, 6])
def test_bounds_where_there_are_many_modes(size):
    """Of two both are fitted; 64 are not, chains from the prior say so, and both bounds are theirs."""
    vae = folds(size)
    x = 1.2 + 0.6 * torch.rand(15, size, dtype=torch.float64)
    exact = log_p_of_folds(x)
    count = 300 if size == 6 else 60
    found = log_marginal_bracket(vae, x, prior_temperatures=count)
    assert holds(found, exact) > 0.9
    assert found.missed.float().mean() == (
        1.0 if size == 6 else pytest.approx(0, abs=0.1)
    )
    assert abs((found.lower - exact).mean()) < 0.1
    assert abs((found.upper - exact).mean()) < 0.2
    if size == 6:
        assert "for 15 of 15 data the posterior has modes that fits" in str(found)


def test_a_number_beside_its_bounds():
    """The question says by how much the number above is too low, or that it is not."""
    truth = PPCA(8, 20, widen=0.4, shift=0.8)
    x = truth.sample(30)
    exact = truth.marginal.log_prob(x)
    plain = log_marginal(*truth.pair, x, num_particles=200)
    run = Run(truth.vae)
    data = Evaluated(
        Split(x, Scaled(), torch.float64), torch.arange(30).numpy(), log_marginal=plain
    )
    bracket = Bracket(n=10, prior_temperatures=60)
    answer = bracket.ask(run, data)
    rows = torch.from_numpy(answer.columns["lower"].numpy()).isfinite()
    assert rows.sum() == 10
    short = (exact - plain.values)[rows].mean().item()
    assert answer.numbers["short"] == pytest.approx(short, abs=0.1)
    assert "that of all data is too low by about as much" in str(answer)
    good = dataclasses.replace(plain, values=exact)
    answer = bracket.ask(run, dataclasses.replace(data, log_marginal=good))
    assert "The number is not found to be too low" in str(answer)


class Run(nn.Module):
    """A trained run as far as a question looks at it."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae


def test_what_is_asked_unasked():
    truth = PPCA(2, 3)
    run, each = Run(truth.vae), price(100, 100, 16, 64, 300)
    rows = torch.arange(100).numpy()

    def usual(draws):
        data = Evaluated(truth.sample(100), rows, num_particles=draws)
        return usual_bracket(run, data)

    assert usual(2 * FEWEST * each // 100 - 1) is None
    assert usual(2 * FEWEST * each // 100 + 1).n == FEWEST
    assert usual(10**6).n == 20
    switch = Switch(4, noise=0.2)
    few = Evaluated(switch.vae.sample(10), rows[:10], num_particles=10**7)
    assert usual_bracket(Run(switch.vae), few) is None


def test_what_has_no_bounds():
    switch = Switch(4, noise=0.2)
    with pytest.raises(InputError, match="at most 256 reals that the guide draws"):
        log_marginal_bracket(switch.vae, switch.vae.sample(3))
    truth = PPCA(2, 3)
    with pytest.raises(InputError, match="num_chains=3"):
        log_marginal_bracket(truth.vae, truth.sample(3), num_chains=3)
