"""Sizes beyond all bounds: done in bounded memory, or refused in one sentence before gigabytes are asked for."""

import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    activity,
    annealed_importance_sampling,
    anomaly_scores,
    bidirectional_monte_carlo,
    build,
    elbo,
    fit,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    refine,
)
from pyro_vae.encode import encode
from pyro_vae.evaluation.posterior import compare_posterior
from pyro_vae.evaluation.refinement import Spread
from pyro_vae.foundation.memory import require

X = torch.eye(4)
EVERY = {  # each question, and every size that it takes
    "elbo": (lambda v, **o: elbo(v.model, v.guide, X, **o), ("num_particles", "batch_size")),
    "log_marginal": (
        lambda v, **o: log_marginal(v.model, v.guide, X, **o),
        ("num_particles", "memory"),
    ),
    "log_marginal_refined": (
        lambda v, **o: log_marginal_refined(v, X, **o),
        ("num_particles", "steps", "batch_size", "memory"),
    ),
    "log_marginal_adaptive": (
        lambda v, **o: log_marginal_adaptive(v, X, **o),
        ("num_particles", "steps", "num_chains", "num_temperatures", "batch_size", "memory"),
    ),
    "refine": (
        lambda v, **o: refine(v, X, **o),
        ("steps", "num_particles", "elbo_particles"),
    ),
    "inference_gaps": (
        lambda v, **o: inference_gaps(v, X, **o),
        ("steps", "num_particles", "elbo_particles", "batch_size", "memory"),
    ),
    "anomaly_scores": (
        lambda v, **o: anomaly_scores(v, X, 0.0, **o),
        ("steps", "num_particles", "elbo_particles", "batch_size", "memory"),
    ),
    "annealed_importance_sampling": (
        lambda v, **o: annealed_importance_sampling(v.model, X, **o),
        ("num_chains", "num_temperatures", "leapfrogs", "memory"),
    ),
    "bidirectional_monte_carlo": (
        lambda v, **o: bidirectional_monte_carlo(v.model, **o),
        ("n", "num_chains", "num_temperatures", "leapfrogs", "memory"),
    ),
    "latent_health": (
        lambda v, **o: latent_health(v.model, v.guide, X, **o),
        ("draws", "mixture_size", "bootstrap", "memory"),
    ),
    "activity": (lambda v, **o: activity(v.guide, X, **o), ("draws", "batch_size")),
    "compare_posterior": (
        lambda v, **o: compare_posterior(v.model, v.guide, X[:1], **o),
        ("num_samples", "warmup_steps", "num_chains", "guide_samples"),
    ),
    "encode": (lambda v, **o: encode(v, X, **o), ("draws", "batch_size")),
    "sample": (lambda v, **o: v.sample(**o), ("n",)),
    "posterior_mean": (lambda v, **o: v.posterior_mean(X, **o), ("draws",)),
    "fit": (lambda v, **o: fit(v, X, **{"epochs": 1, **o}), ("epochs", "batch_size")),
}


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE(StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2))


@pytest.mark.parametrize(
    ("verb", "name"), [(v, n) for v, (_, names) in EVERY.items() for n in names]
)
def test_beyond_all_bounds(vae, verb, name):
    """10^20 is one sentence that names the size, and so is what is no number at all."""
    call, _ = EVERY[verb]
    for value in (10**20, -1, 2.5, "3", True, float("nan")):
        with pytest.raises(InputError) as error:
            call(vae, **{name: value})
        sentence = str(error.value)
        assert name in sentence
        assert "\n" not in sentence
        assert len(sentence) < 300


# What would take gigabytes, or a tensor of so many entries, and is refused at once.
HELD = {
    "annealed_importance_sampling": ("num_chains", "num_temperatures"),
    "bidirectional_monte_carlo": ("n", "num_chains", "num_temperatures"),
    "log_marginal_adaptive": ("num_temperatures",),
    "latent_health": ("bootstrap",),
    "compare_posterior": ("num_samples", "num_chains", "guide_samples"),
    "refine": ("num_particles",),
    "sample": ("n",),
}


@pytest.mark.parametrize(("verb", "name"), [(v, n) for v, names in HELD.items() for n in names])
@pytest.mark.parametrize("size", [10**10, 10**13])
def test_what_is_held_is_refused_with_its_size(vae, verb, name, size):
    with pytest.raises(InputError, match=r"of memory, and [\d.]+ .iB are available") as error:
        EVERY[verb][0](vae, **{name: size})
    assert name in str(error.value)


def test_what_is_cut_into_batches_takes_any_size(vae):
    few = {"steps": 1, "num_particles": 30, "batch_size": 10**12}
    assert elbo(vae.model, vae.guide, X, batch_size=10**12)
    assert len(log_marginal_refined(vae, X, **few)) == 4
    assert len(log_marginal_adaptive(vae, X, **few)[0]) == 4
    assert len(inference_gaps(vae, X, **few, elbo_particles=10)) == 4
    assert len(encode(vae, X, batch_size=10**12)[0]) == 4
    assert len(fit(vae, X, epochs=2, batch_size=10**12)) == 2
    assert log_marginal(vae.model, vae.guide, X, num_particles=9, memory=10**14)
    assert latent_health(vae.model, vae.guide, X, mixture_size=10**12)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident pages are of Linux")
def test_draws_are_cut_into_pieces():
    """Many draws of each datum, in a process of its own, take no more memory than fewer, which fill a piece."""
    code = """
        import resource, torch
        from pyro_vae import *
        from pyro_vae.encode import encode
        torch.manual_seed(0)
        vae = VAE(StandardNormal(2), Linear((2,), (1, 4)), Bernoulli((4,)), IAF(Linear((4,)), 2))
        x = torch.eye(4)[:1]
        few = 120_000  # more than a piece
        def run(k):
            elbo(vae.model, vae.guide, x, num_particles=k)
            encode(vae, x, draws=k)
            vae.posterior_mean(x, draws=k)
            activity(vae.guide, x.expand(2, 4), draws=k)
        run(few)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(400_000)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60  # MiB


def test_pieces_give_the_moments_of_all():
    values = torch.randn(50, 3, dtype=torch.float64) + 1e6
    spread = Spread()
    for part in values.split(7):
        spread.add(part)
    torch.testing.assert_close(spread.mean, values.mean(0))
    torch.testing.assert_close(spread.std, values.std(0))


def test_many_chains_are_weighed_in_pieces(vae):
    """With room for a few chains at a time the values are those of all at once, up to rounding."""
    found = []
    for memory in (2**19, 2**28):
        torch.manual_seed(1)
        options = {"num_chains": 100, "num_temperatures": 4, "leapfrogs": 1, "memory": memory}
        found.append(
            annealed_importance_sampling(vae.double().model, X[:1].double(), **options).values
        )
    torch.testing.assert_close(*found)


def test_large_samples_come_in_pieces(vae, monkeypatch):
    from pyro_vae.models import vae as module

    torch.manual_seed(0)
    whole = vae.sample(25, mean=True)
    monkeypatch.setattr(module, "DECODED", 4)
    torch.manual_seed(0)
    torch.testing.assert_close(vae.sample(25, mean=True), whole)
    assert vae.sample(25).shape == (25, 4)
    assert vae.sample(0).shape == (0, 4)


def test_a_step_that_does_not_fit_is_refused_in_code(monkeypatch):
    pair = build(Spec((4,), 60, guide="fullrank", network="mlp(hidden=(4,))"))
    monkeypatch.setattr("pyro_vae.foundation.memory.available_memory", lambda: 2**24)
    x = torch.rand(2000, 4).round()
    with pytest.raises(InputError, match=r"a step of 2000 data takes .* smaller batch_size"):
        fit(pair, x, epochs=1, batch_size=2000)
    assert len(fit(pair, x[:20], epochs=1, batch_size=8)) == 1


def test_require_names_what_to_lower():
    with pytest.raises(InputError, match=r"^it takes over a million TiB of memory, and .* n$"):
        require(1e30, "it", "n")
    require(1, "it", "n")


def test_options_of_the_programs_are_refused_in_time(call, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    for program, *options in (
        ("sample", "--count", 10**12, "--kind", "prior", "--output", tmp_path / "s"),
        ("evaluate", "--limit", 3, "--num-particles", 5, "--ais", "--chains", 10**12),
        ("evaluate", "--limit", 3, "--num-particles", 5, "--ais", "--temperatures", 10**12),
        ("evaluate", "--limit", 3, "--num-particles", 5, "--bdmc", 10**12),
        (
            "evaluate",
            "--limit",
            3,
            "--num-particles",
            5,
            "--posterior",
            1,
            "--posterior-draws",
            10**12,
        ),
    ):
        said = call(program, run, *options)
        assert said.code == 2, options
        assert "of memory, and" in said.err
        assert len(said.err.splitlines()) == 1
