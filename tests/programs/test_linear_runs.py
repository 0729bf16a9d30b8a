"""Runs with an exact posterior: every program and picture of a mixture without z, and what EM refuses."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

MIXTURE = ("--structure", "p(y) p(x|y); q(y|x)", "--network", "linear")
PPCA = ("--network", "linear", "--likelihood", "gaussian", "--scale")
PPCA += ("--guide", "exact")
BY_EM = ("--optimizer", "em")


def test_every_program_reads_a_finite_mixture(call, train):
    run = train("mixture", *MIXTURE, *BY_EM, "--epochs", 5)
    config = (run / "config.toml").read_text()
    assert "latent_dim = 0" in config
    assert 'guide = "Exact()"' in config
    asked = ("adaptive()", "ais(chains=2, temperatures=5)")
    asks = [word for question in asked for word in ("--ask", question)]
    said = call("evaluate", run, "--limit", 30, "--num-particles", 20, *asks)
    assert (said.code, said.err) == (0, "")
    assert "Collapsed" not in said.out
    (written,) = run.glob("evaluation*.json")
    found = json.loads(written.read_text())["log_marginal"]
    assert found["monte_carlo_standard_error"] == pytest.approx(0, abs=1e-4)
    for program in ("sample", "encode"):
        said = call(program, run)
        assert (said.code, said.err) == (0, "")
    for kind in ("traversal", "interpolation"):
        said = call("sample", run, "--kind", kind)
        assert said.code == 2
        assert "the run has none: its class is all that there is" in said.err


def test_every_program_reads_exact_layers(call, train):
    structure = "chain(dims=(4, 2), scale='element')"
    run = train("layers", *PPCA, "--structure", structure, "--epochs", 3)
    assert 'objective = "ELBO()"' in (run / "config.toml").read_text()
    said = call("evaluate", run, "--limit", 30)
    assert (said.code, said.err) == (0, "")
    assert "the guide is p(z|x) itself" in said.out
    for program in ("sample", "encode"):
        said = call(program, run)
        assert (said.code, said.err) == (0, "")
    said = call("train", "--resume", run, "--epochs", 4)
    assert (said.code, said.err) == (0, "")


def test_imputation_by_equal_weights_says_so(call, train):
    run = train("holed", *PPCA, "--hide", 0.2, "--epochs", 2)
    said = call("impute", run, "--num-particles", 20)
    assert (said.code, said.err) == (0, "")
    assert "least 20.0 of 20; all weights of a datum are equal" in said.out
    assert "-inf" not in said.out


def test_equal_weights_need_no_warning(call, train):
    """In float32, with elements of very different scales, whose log p(x) carries many roundings."""
    options = ("--network", "linear", "--likelihood", "gaussian", "--dequantize")
    run = train("dequantized", *options, "--guide", "exact", *BY_EM, "--epochs", 5)
    said = call("evaluate", run)
    assert (said.code, said.err) == (0, "")
    assert "warning" not in said.out
    assert "the guide is p(z|x) itself" in said.out
    (written,) = run.glob("evaluation*.npz")
    assert (np.load(written)["pareto_k"] == -np.inf).all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((*MIXTURE, "--latent-dim", 5), "--latent-dim 5 is the length of a vector z"),
        ((*MIXTURE, "--guide", "iaf"), "its q(y|x) is exact, so leave the guide out"),
        ((*MIXTURE, "--prior", "flow"), "--prior 'Flow()' is that of a vector z"),
        ((*PPCA, *BY_EM, "--learning-rate", 0.1), "--learning-rate 0.1 goes with"),
        ((*PPCA, *BY_EM, "--schedule", "cosine"), "--schedule 'cosine' goes with"),
        ((*PPCA, *BY_EM, "--objective", "iwae"), "the objective is IWAE"),
        (BY_EM, "EM needs the posterior itself"),
        ((*PPCA, "--likelihood", "laplace"), "Laplace and not Gaussian"),
        ((*PPCA, "--structure", "chain"), "the structure chain(scale='element')"),
        ((*PPCA, *BY_EM, "--structure", "chain(scale='element')"), "several layers"),
    ],
)
def test_what_does_not_go_together_is_said(call, options, why):
    said = call("train", "--dry-run", *options)
    assert said.code == 2
    assert why in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("each", ["em", "em(each='batch')"])
def test_a_resumed_fit_is_the_uninterrupted_one(call, train, each):
    options = (*PPCA, "--optimizer", each, "--batch-size", 300)
    whole = load_file(train("whole", *options, "--epochs", 4) / "last.safetensors")
    run = train("parts", *options, "--epochs", 2)
    said = call("train", "--resume", run, "--epochs", 4)
    assert (said.code, said.err) == (0, "")
    resumed = load_file(run / "last.safetensors")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
