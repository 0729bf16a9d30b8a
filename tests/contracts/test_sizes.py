"""Sizes beyond all bounds: done in bounded memory, or refused in one sentence before gigabytes are asked for."""

import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
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
    variants,
)
from pyro_vae.data import Data
from pyro_vae.encode import encode
from pyro_vae.evaluation.latents import activity
from pyro_vae.evaluation.posterior import compare_posterior
from pyro_vae.evaluation.question import Evaluated
from pyro_vae.evaluation.refinement import Spread
from pyro_vae.evaluation.weighting import Weighting
from pyro_vae.foundation.checks import MOST, annotations, words
from pyro_vae.foundation.memory import require
from pyro_vae.spec import parse

pytestmark = pytest.mark.usefixtures("blank_figures")

X = torch.eye(4)
EVERY = {  # each question, and every size that it takes
    "elbo": (
        lambda v, **o: elbo(v.model, v.guide, X, **o),
        ("num_particles", "batch_size"),
    ),
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
        (
            "num_particles",
            "steps",
            "num_chains",
            "num_temperatures",
            "pilot",
            "memory",
        ),
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
    return VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )


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


@pytest.mark.parametrize(
    ("verb", "name"), [(v, n) for v, names in HELD.items() for n in names]
)
@pytest.mark.parametrize("size", [10**10, 10**13])
def test_what_is_held_is_refused_with_its_size(vae, verb, name, size):
    with pytest.raises(
        InputError, match=r"of memory, and [\d.]+ .iB are available"
    ) as error:
        EVERY[verb][0](vae, **{name: size})
    assert name in str(error.value)


def test_what_is_cut_into_batches_takes_any_size(vae):
    few = {"steps": 1, "num_particles": 30, "batch_size": 10**12}
    assert elbo(vae.model, vae.guide, X, batch_size=10**12)
    assert len(log_marginal_refined(vae, X, **few)) == 4
    assert len(inference_gaps(vae, X, **few, elbo_particles=10)) == 4
    assert len(encode(vae, X, batch_size=10**12)[0]) == 4
    assert len(fit(vae, X, epochs=2, batch_size=10**12)) == 2
    assert log_marginal(vae.model, vae.guide, X, num_particles=9, memory=10**14)
    assert latent_health(vae.model, vae.guide, X, mixture_size=10**12)


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident pages are of Linux"
)
def test_draws_are_cut_into_pieces():
    """Many draws of each datum, in a process of its own, take no more memory than fewer, which fill a piece."""
    code = """
        import resource, torch
        from pyro_vae import *
        from pyro_vae.evaluation.latents import activity
        from pyro_vae.guides import IAF
        from pyro_vae.networks import Linear
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
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
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
        options = {
            "num_chains": 100,
            "num_temperatures": 4,
            "leapfrogs": 1,
            "memory": memory,
        }
        found.append(
            annealed_importance_sampling(
                vae.double().model, X[:1].double(), **options
            ).values
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
    with pytest.raises(
        InputError, match=r"a step of 2000 data takes .* smaller batch_size"
    ):
        fit(pair, x, epochs=1, batch_size=2000)
    assert len(fit(pair, x[:20], epochs=1, batch_size=8)) == 1


def test_require_names_what_to_lower():
    with pytest.raises(
        InputError, match=r"^it takes over a million TiB of memory, and .* n$"
    ):
        require(1e30, "it", "n")
    require(1, "it", "n")


QUESTIONS = variants(parse("ask", "gaps").make.__mro__[1])
COUNTED = [
    (name, argument)
    for name, make in QUESTIONS.items()
    for argument, hint in annotations(make.__init__).items()
    if "whole number" in words(hint) and " to " not in words(hint)
]
# What memory cannot hold of any number; the others are done one by one, or are no more than the data.
HELD_AT_A_TIME = {
    *(("AIS", name) for name in ("chains", "temperatures")),
    *(("BDMC", name) for name in ("n", "chains", "temperatures")),
    *(("Posterior", name) for name in ("draws", "chains")),
    *(("Bracket", name) for name in ("chains", "temperatures", "prior_temperatures")),
    ("Classification", "bins"),
    *(("Calibration", name) for name in ("n", "draws", "candidates")),
    *(
        (name, "num_particles")
        for name in (
            "Adaptive",
            "Classification",
            "FieldTable",
            "Gaps",
            "Impute",
            "OOD",
            "Refined",
            "Regression",
        )
    ),
    *((name, "num_particles") for name in ("Anomalies", "Weighted")),
    ("ColumnTable", "draws"),
    *(("Disentanglement", name) for name in ("bins", "halves", "trees")),
    *(("Clustering", name) for name in ("clusters", "halves")),
    *(("Fidelity", name) for name in ("components", "halves")),
}
# What is asked of points too.
OF_POINTS = {
    "Clustering",
    "Disentanglement",
    "Fidelity",
    "Latents",
    "ReconstructionError",
}
QUICK = ("--limit", 12, "--num-particles", 5)


class BegunError(Exception):
    """The work has begun."""


@pytest.fixture
def asked(trained, tmp_path, monkeypatch):
    """A run whose evaluation raises `BegunError` where it begins to work."""

    def begin(*args, **kwargs):
        raise BegunError

    monkeypatch.setattr(Weighting, "ask", begin)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def asked_of(request, call, tmp_path, monkeypatch):
    """The run that a question is asked of: for imputation one with holes, for columns one on a table."""

    def run(name):
        if name not in OWN:
            return request.getfixturevalue("asked")
        small = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
        if name == "ColumnTable":
            np.savetxt(
                tmp_path / "t.csv",
                np.random.default_rng(0).normal(size=(60, 3)),
                header="a b c",
            )
            small = (*small, "--dataset", tmp_path / "t.csv")
        call("train", *OWN[name], *small, "--output", tmp_path / "own")
        request.getfixturevalue("asked")  # from here on nothing begins
        return tmp_path / "own"

    return run


# Questions of runs of a kind, and how such a run is trained and such a pair made.
OWN = {
    "Impute": ("--hide", 0.3),
    "FieldTable": ("--key", "image,label"),
    "ColumnTable": ("--likelihood", "columns"),
    "Classification": ("--structure", "clusters"),
    "Regression": ("--structure", "labelled(target='real')"),
}
COLUMNS = "columns(columns={'a': bernoulli(), 'b': bernoulli(), 'c': bernoulli(), 'd': bernoulli()})"
MADE = {
    "Impute": {"missing": True},
    "FieldTable": {"likelihood": "fields()"},
    "ColumnTable": {"likelihood": COLUMNS},
    "Classification": {"structure": "clusters"},
    "Regression": {"structure": "labelled(target='real')", "context": 1},
}
NEEDED = {"OOD": {"data": "digits"}, "Anomalies": {"rate": 0.5}}


def asked_run(vae):
    """A run of a pair that keeps nothing."""
    return SimpleNamespace(
        vae=vae,
        config={},
        epoch=1,
        outside=lambda n: X,
        split=lambda n: Data(X),
        remembered=lambda n: {},
    )


def question(name, **arguments):
    given = {**NEEDED.get(name, {}), **arguments}
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


@pytest.mark.parametrize(("name", "argument"), COUNTED)
def test_sizes_of_questions_are_refused_before_anything_is_computed(
    refused, call, asked_of, name, argument
):
    asked = asked_of(name)
    beyond = refused(
        "evaluate", asked, *QUICK, "--ask", question(name, **{argument: 10 * MOST})
    )
    assert f"{argument}={10 * MOST} of {name}" in beyond
    largest = ("evaluate", asked, *QUICK, "--ask", question(name, **{argument: MOST}))
    if (name, argument) not in HELD_AT_A_TIME:
        with pytest.raises(BegunError):
            call(*largest)
        return
    sentence = refused(*largest)
    assert f"{argument}={MOST} of {name}" in sentence
    assert "of memory, and" in sentence or "--memory is 256 MiB" in sentence


@pytest.mark.parametrize("name", QUESTIONS)
def test_draws_of_the_evaluation_are_refused_before_anything_is_computed(
    refused, asked, name
):
    options = ("--num-particles", MOST, "--ask", question(name))
    sentence = refused("evaluate", asked, "--limit", 3, *options)
    assert f"--num-particles={MOST} need" in sentence
    assert "--memory is 256 MiB" in sentence


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--ais", "--chains", MOST), f"--chains={MOST} would take"),
        (("--ais", "--temperatures", MOST), f"--temperatures={MOST} would take"),
        (("--bdmc", MOST), f"--bdmc={MOST} would take"),
        (("--bdmc", 2, "--chains", MOST), f"--chains={MOST} would take"),
        (
            ("--posterior", 2, "--posterior-draws", MOST),
            f"--posterior-draws={MOST} would take",
        ),
        (("--memory", MOST), "--memory"),
        (
            ("--memory", 10**9),
            "--memory: '1000000000' is too large: 953,674,316 is the most",
        ),
        (("--limit", 10 * MOST), "--limit"),
        (("--num-particles", 10 * MOST), "--num-particles"),
        (("--refine", 10 * MOST), "--refine"),
    ],
)
def test_options_are_refused_by_their_own_names(refused, asked, options, told):
    assert told in refused("evaluate", asked, *QUICK, *options)


def test_two_sizes_are_named_where_both_were_changed(refused, asked):
    text = question("Posterior", draws=10**9, chains=10**4)
    assert "draws=1000000000 and chains=10000 of Posterior would take" in refused(
        "evaluate", asked, *QUICK, "--ask", text
    )


@pytest.mark.parametrize("name", sorted({*QUESTIONS} - OF_POINTS))
def test_what_a_pair_cannot_be_asked_is_refused_before_anything_is_computed(name):
    vae = build(Spec((4,), 2, guide="delta", **MADE.get(name, {})))
    run = asked_run(vae)
    path = {"start": "guide"} if name in ("AIS", "BDMC") else {}
    asks = parse("ask", question(name, **path))()
    with pytest.raises(InputError, match="the guide is a point"):
        asks.check(run, Evaluated(X, np.arange(4)))


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_can_be_asked_passes_without_a_trace(vae, name):
    vae = build(Spec((4,), 2, **MADE[name])) if name in MADE else vae
    run = asked_run(vae)
    torch.manual_seed(3)
    before = torch.get_rng_state(), {k: v.clone() for k, v in vae.state_dict().items()}
    parse("ask", question(name))().check(run, Evaluated(X, np.arange(4)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in vae.state_dict().items())


@pytest.mark.parametrize("kind", ["prior", "reconstructions", "interpolation"])
def test_counts_of_samples_are_refused_before_anything_is_drawn(
    refused, trained, tmp_path, monkeypatch, kind
):
    run = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr("pyro_vae.foundation.memory.available_memory", lambda: 2**17)
    sentence = refused(
        "sample", run, "--kind", kind, "--kind", "traversal", "--count", 10**6
    )
    assert "--count 1000000 would take" in sentence
    assert "128 KiB are available" in sentence
    beyond = refused("sample", run, "--kind", kind, "--count", 10 * MOST)
    assert "--count" in beyond


def test_reconstructions_and_lines_come_in_pieces(call, trained, tmp_path, monkeypatch):
    """Lines are the same whatever the pieces in which they are decoded."""
    found = []
    for name, numbers in (("whole", 2**24), ("pieces", 2**10)):
        monkeypatch.setattr("pyro_vae.plots.pictures.MANY", numbers)
        monkeypatch.setattr("pyro_vae.sample.AT_A_TIME", numbers // 100)
        options = (
            "--kind",
            "interpolation",
            "--kind",
            "reconstructions",
            "--count",
            100,
        )
        assert call("sample", trained, *options, "--output", tmp_path / name).code == 0
        found.append(np.load(tmp_path / name / "interpolation.npy"))
        assert len(np.load(tmp_path / name / "reconstructions.npy")) == 20
    np.testing.assert_allclose(*found, atol=1e-6)


def test_draws_of_encoding_are_refused_before_anything_is_computed(
    refused, trained, tmp_path
):
    run = shutil.copytree(trained, tmp_path / "run")
    for count in (0, 1, 10 * MOST):
        assert "--num-draws" in refused("encode", run, "--num-draws", count)
