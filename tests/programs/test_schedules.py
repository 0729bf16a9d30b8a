"""The rate of each epoch under each schedule, against the formulas of the papers."""

import math
from functools import partial, wraps

import pytest
import torch

from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.schedules import (
    SCHEDULES,
    burda,
    constant,
    cosine,
    step,
    unchecked,
)
from pyro_vae.spec import parse_schedule


def rates(schedule, epochs, steps=1, rate=1.0):
    """Of each step, as the training loop sets them."""
    return [rate * schedule(done / (epochs * steps)) for done in range(epochs * steps)]


def test_burdas_schedule_is_that_of_the_paper():
    """3^i passes over the data at 0.001 10^(-i/7), for i = 0 to 7: 3,280 in all."""
    paper = [0.001 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(paper) == 3280
    assert rates(burda, 3280, rate=0.001) == pytest.approx(paper, rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
@pytest.mark.parametrize("steps", [1, 7])
def test_rounds_of_burda_have_powers_of_three_epochs(rounds, steps):
    lengths = [3**i for i in range(rounds)]
    factors = [10 ** (-i / max(rounds - 1, 1)) for i in range(rounds)]
    each = zip(factors, lengths, strict=True)
    wanted = [factor for factor, epochs in each for _ in range(epochs * steps)]
    schedule = parse_schedule(f"burda(rounds={rounds})")
    assert rates(schedule, sum(lengths), steps) == pytest.approx(wanted, rel=1e-12)


def test_a_run_of_other_length_has_burdas_rounds_in_proportion():
    found = rates(burda, 32_800)
    counts = [sum(math.isclose(r, 10 ** (-i / 7)) for r in found) for i in range(8)]
    assert counts == [10 * 3**i for i in range(8)]


def test_a_warm_up_rises_from_nothing_and_the_schedule_has_the_rest():
    """100 epochs of which 20 are the warm-up: then the 80 of the schedule alone."""
    rise = [i / 20 for i in range(20)]
    for schedule in (constant, cosine, step, burda):
        warm = rates(lambda t, s=schedule: s(t, warmup=0.2), 100)
        assert warm == pytest.approx(rise + rates(schedule, 80), rel=1e-12)


def test_a_warm_up_rises_to_where_the_schedule_begins():
    assert constant(0.05, warmup=0.1) == pytest.approx(0.5)
    assert cosine(0.05, warmup=0.1, floor=0.5) == pytest.approx(0.5)
    half = (0.1 + 1) / 2  # of the rest done
    assert cosine(half, warmup=0.1, floor=0.5) == pytest.approx(0.75)
    assert step(half, warmup=0.1, at=(0.5,), factors=(0.3,)) == pytest.approx(0.3)
    assert step(half - 0.01, warmup=0.1, at=(0.5,), factors=(0.3,)) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_a_warm_up_in_the_grammar(name):
    schedule = parse_schedule(f"{name}(warmup=0.25)")
    assert schedule(0) == 0
    assert schedule(0.125) == pytest.approx(0.5)
    assert parse_schedule(name)(0) == 1


def test_the_optimizer_is_given_the_rates():
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, network="mlp(hidden=(3,))"))
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=9.0),
        ELBO(),
        reduction="mean",
    )
    schedule = parse_schedule("burda(rounds=2, warmup=0.2)")
    found = run_epochs(
        svi, torch.ones(6, 4), epochs=5, learning_rate=0.5, schedule=schedule
    )
    wanted = [0, 0.5, 0.05, 0.05, 0.05]
    assert [epoch.learning_rate for epoch in found] == pytest.approx(wanted)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_without_checks_is_the_same(name):
    schedule = parse_schedule(f"{name}(warmup=0.1)")
    bare = unchecked(schedule)
    assert [bare(i / 50) for i in range(51)] == [schedule(i / 50) for i in range(51)]
    assert unchecked(SCHEDULES[name])(0.3) == SCHEDULES[name](0.3)


def test_a_schedule_of_ones_own_is_left_alone():
    @wraps(cosine)
    def halved(t):
        return cosine(t) / 2

    assert unchecked(halved) is halved
    assert unchecked(partial(halved))(0.25) == cosine(0.25) / 2
