"""Estimators: chunks, exact particle counts, errors, Pareto k."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppca import PPCA
from pyro_vae import InputError, elbo, log_marginal
from pyro_vae.engine.memory import Allocations
from pyro_vae.evaluation import weighting as estimators
from pyro_vae.evaluation.diagnostics import pareto_k, tail_length
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.inference import bounds

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz


def log_weights(k, rows, scale=1.0):
    return scale * torch.randn(
        k, rows, generator=torch.Generator().manual_seed(k), dtype=torch.float64
    )


@pytest.mark.parametrize("k", [25, 100, 1000, 5000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_pareto_k_equals_arviz(k, scale):
    log_w = log_weights(k, 6, scale)
    _, expected = arviz.psislw(log_w.T.numpy().copy())
    largest = log_w.topk(tail_length(k) + 1, dim=0).values.T
    np.testing.assert_allclose(pareto_k(largest).numpy(), expected, atol=1e-6)


def test_pareto_k_with_ties_equals_arviz():
    """Ties at the threshold shorten the tail of some data."""
    log_w = log_weights(100, 4, 2.0)
    threshold = log_w.topk(tail_length(100) + 1, dim=0).values[-1]
    log_w[:, 1] = torch.where(
        log_w[:, 1] <= threshold[1] + 0.5, threshold[1], log_w[:, 1]
    )
    log_w[:, 2] = torch.where(
        log_w[:, 2] < log_w[:, 2].topk(3).values[-1], -5.0, log_w[:, 2]
    )  # three in the tail
    _, expected = arviz.psislw(log_w.T.numpy().copy())
    ours = pareto_k(log_w.topk(tail_length(100) + 1, dim=0).values.T)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)
    assert ours[2] == math.inf


def test_pareto_k_of_equal_weights_is_no_alarm():
    assert pareto_k(torch.full((3, 20), -7.0)).tolist() == [-math.inf] * 3


def accumulate(log_w, chunks):
    accumulator = estimators.Accumulator(len(log_w))
    for chunk in log_w.split(chunks):
        accumulator.add(chunk, 2 * chunk, chunk - 1)
    return accumulator.result()


@pytest.mark.parametrize("chunk", [1, 7, 64, 999])
def test_chunked_equals_unchunked(chunk):
    log_w = log_weights(1000, 5, 2.0)
    whole, parts = accumulate(log_w, 1000), accumulate(log_w, chunk)
    for name, column in whole.per_datum.items():
        torch.testing.assert_close(
            parts.per_datum[name], column, rtol=1e-10, atol=1e-10, msg=name
        )


def test_columns_against_plain_numpy():
    log_w = log_weights(400, 3)
    result = accumulate(log_w, 90)
    w = log_w.exp().numpy()
    np.testing.assert_allclose(result.values.numpy(), np.log(w.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(
        result.ess.numpy(), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-10
    )
    np.testing.assert_allclose(
        result.standard_errors.numpy(), w.std(0, ddof=1) / 20 / w.mean(0), rtol=1e-8
    )
    np.testing.assert_allclose(
        result.reconstruction.numpy(), 2 * log_w.mean(0).numpy(), rtol=1e-10
    )
    np.testing.assert_allclose(result.kl.numpy(), log_w.mean(0).numpy() - 1, rtol=1e-10)
    np.testing.assert_allclose(
        result.elbo.numpy(), (result.reconstruction - result.kl).numpy()
    )
    assert result.mean == pytest.approx(np.log(w.mean(0)).mean())
    assert result.monte_carlo_standard_error == pytest.approx(
        np.sqrt((result.standard_errors.numpy() ** 2).sum()) / 3
    )
    assert result.data_standard_error == pytest.approx(
        result.values.numpy().std(ddof=1) / 3**0.5
    )


def test_weights_far_below_underflow_are_kept():
    log_w = log_weights(100, 2)
    shifted = accumulate(log_w - 5000, 30)
    torch.testing.assert_close(shifted.values, accumulate(log_w, 30).values - 5000)
    assert shifted.standard_errors.isfinite().all()


@pytest.mark.parametrize(
    ("num_particles", "memory"), [(1, 2**20), (777, 2**20), (1001, 60_000), (50, 2**28)]
)
def test_exactly_that_many_particles_are_drawn(num_particles, memory):
    drawn = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            drawn.append(pyro.sample("z", dist.Normal(x / 2, 1.0)).numel())

    x = torch.linspace(-1, 1, 13).double()
    log_marginal(
        model, guide, x, num_particles=num_particles, memory=memory
    )  # tries the pair
    drawn.clear()
    done = []
    result = log_marginal(
        model,
        guide,
        x,
        num_particles=num_particles,
        memory=memory,
        progress=done.append,
    )
    measuring = 18  # one, three and five particles of the first datum, each twice
    assert sum(drawn) - measuring == sum(done) == 13 * num_particles
    assert len(result) == 13
    assert result.num_particles == num_particles


def test_what_only_the_first_call_takes_is_not_counted():
    """Otherwise a library that is chosen in the first call of a network leaves chunks of a few particles."""
    kept = []

    def call():
        if not kept:
            kept.append(torch.ones(10**6).exp())
        torch.ones(1000).exp()

    assert estimators.bytes_of(call) == 2 * 4 * 1000


def test_memory_bound_holds():
    """The chunks keep what is computed at a time below the bound, by the allocations that are counted."""
    model = PPCA(2, 50, widen=1.2)
    x = model.sample(200)
    peaks = []
    real = bounds.terms

    def watched(*args, **kwargs):
        with Allocations() as allocations:
            result = real(*args, **kwargs)
        peaks.append(allocations.bytes)
        return result

    bounds.terms = watched
    try:
        log_marginal(*model.pair, x, num_particles=300, memory=4 * 2**20)
    finally:
        bounds.terms = real
    assert len(peaks) > 10
    assert max(peaks) < 4 * 2**20


def test_measuring_leaves_the_random_stream_alone():
    model = PPCA(2, 3, widen=1.2)
    x = model.sample(4)
    torch.manual_seed(3)
    first = log_marginal(*model.pair, x, num_particles=6)
    torch.manual_seed(3)
    from pyro_vae import terms

    by_hand = terms(*model.pair, x, num_particles=6).log_weight.logsumexp(0) - math.log(
        6
    )
    torch.testing.assert_close(first.values, by_hand.detach())


def test_results_add_up_over_shards():
    model = PPCA(2, 3, widen=1.2)
    x = model.sample(9)
    a, b = (
        log_marginal(*model.pair, part, num_particles=20) for part in (x[:4], x[4:])
    )
    both = a + b
    assert len(both) == 9
    assert both.mean == pytest.approx((4 * a.mean + 5 * b.mean) / 9)
    with pytest.raises(InputError, match="20 and 10"):
        a + log_marginal(*model.pair, x, num_particles=10)


def test_words():
    model = PPCA(2, 5, widen=1.3)
    good = log_marginal(*model.pair, model.sample(20), num_particles=2000)
    assert "well behaved" in str(good)
    bad = log_marginal(
        *PPCA(2, 5, widen=0.2).pair, model.sample(20), num_particles=2000
    )
    assert int(bad.doubtful.sum()) > 10
    assert "too low" in bad.verdict()
    assert f"{bad.mean:.4f}" in str(bad)
    few = log_marginal(
        *model.pair, model.sample(20), num_particles=5
    )  # too few to tell
    assert few.doubtful.all()


def test_bits_per_dimension():
    column = torch.tensor([-10.0, -12.0]).double()
    result = LogMarginal(*[column] * 7, num_particles=1)
    assert result.bits_per_dimension(4) == pytest.approx(11 / math.log(2) / 4)
    assert result.bits_per_dimension(4, levels=256) == pytest.approx(
        11 / math.log(2) / 4 + 8
    )


def test_to_arviz(tmp_path):
    model = PPCA(2, 3, widen=1.2)
    result = log_marginal(*model.pair, model.sample(6), num_particles=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result.to_arviz().to_netcdf(str(tmp_path / "x.nc"))
        back = arviz.from_netcdf(str(tmp_path / "x.nc"))
    np.testing.assert_array_equal(
        back.log_likelihood["x"].values[0, 0], result.values.numpy()
    )
    np.testing.assert_array_equal(
        back.sample_stats["pareto_k"].values, result.pareto_k.numpy()
    )
    assert back.sample_stats.attrs["num_particles"] == 50


def test_elbo_equals_the_closed_form_at_the_exact_posterior():
    model = PPCA(2, 4)
    x = model.sample(30)
    bound = elbo(*model.pair, x, batch_size=7)
    assert bound.elbo == pytest.approx(
        model.marginal.log_prob(x).mean().item(), abs=1e-10
    )
    assert bound.elbo == pytest.approx(bound.reconstruction - bound.kl)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_particles": 0}, "num_particles=0"),
        ({"num_particles": 2.5}, "num_particles=2.5"),
        ({"memory": 100}, "memory bound"),
        ({"compile": "yes"}, "compile='yes' must be True, False or 'auto'"),
        ({"num_particles": 10**15}, "memory bound"),
    ],
)
def test_bad_arguments(options, words):
    model = PPCA(2, 3)
    with pytest.raises(InputError, match=words):
        log_marginal(*model.pair, model.sample(3), **options)


def test_no_data():
    model = PPCA(2, 3)
    for estimate in (log_marginal, elbo):
        with pytest.raises(InputError, match="no data"):
            estimate(*model.pair, torch.zeros(0, 3))


def test_the_curve_is_the_mean_over_groups_of_the_same_draws():
    """However the draws are cut into pieces; against the same mean by one reshape."""
    torch.manual_seed(0)
    log_w = 3 * torch.randn(1000, 4).double()
    for pieces in ([1000], [1] * 30 + [970], [7, 13, 480, 500], [333, 333, 334]):
        accumulator = estimators.Accumulator(1000)
        for part in log_w.split(pieces):
            accumulator.add(part, part, part)
        curve = accumulator.result().curve
        assert list(curve) == [1, 10, 100, 1000]
        for k, bound in curve.items():
            expected = log_w.unflatten(0, (-1, k)).logsumexp(1).mean(0) - math.log(k)
            torch.testing.assert_close(bound, expected, rtol=1e-12, atol=1e-12)


def test_the_curve_rises_from_the_elbo_to_log_p():
    model = PPCA(2, 5, widen=1.4, shift=0.4)
    x = model.sample(300)
    torch.manual_seed(0)
    result = log_marginal(*model.pair, x, num_particles=2500)
    curve = {k: v.mean().item() for k, v in result.curve.items()}
    assert list(curve) == [1, 10, 100, 1000, 2500]
    torch.testing.assert_close(result.curve[1], result.elbo)
    assert torch.equal(result.curve[2500], result.values)
    assert curve[1] < curve[10] < curve[100] < curve[1000] + 1e-3
    assert curve[1000] == pytest.approx(
        model.marginal.log_prob(x).mean().item(), abs=0.01
    )
    both = result + result
    assert both.curve[10].shape == (600,)
