"""Runs whose latents are words of a codebook: every program, exact resumption, and how their numbers are named."""

import json
import shutil

import numpy as np
import torch

from conftest import SMALL
from pyro_vae._metrics import read_metrics
from pyro_vae.checkpoint import load_weights
from pyro_vae.trained import open_run

MANY = ("--guide", "codebook(size=8, groups=4)", "--latent-dim", 8, *SMALL)
FEW = ("--guide", "codebook(size=6, groups=2)", "--latent-dim", 4, *SMALL)


def test_many_words_from_training_to_the_page(call, trained, tmp_path, blank_figures):
    run, plain = tmp_path / "run", tmp_path / "plain"
    shutil.copytree(trained, plain)
    said = call("train", *MANY, "--epochs", 2, "--output", run)
    assert (said.code, said.err) == (0, "")
    assert "model      Codes()" in said.out  # the prior that goes with the guide
    assert "gradient   straight through" in said.out
    assert "perplexity" in said.out
    assert "words unused" in said.out
    assert "prior      p(code) is fitted to the codes of 1294 data" in said.out
    for row in read_metrics(run / "metrics.csv", 9):
        assert 1 <= row["perplexity"] <= 8
        assert 0 <= row["unused"] <= 32

    # The two-part code, by its name throughout.
    said = call("evaluate", run, "--num-particles", 50, "--report")
    assert (said.code, said.err) == (0, "")
    assert "log p(x, code), a bound on log p(x): 359 data" in said.out
    assert "bits per dimension: at most " in said.out
    assert not any(line.startswith("log p(x) ") for line in said.out.splitlines())
    s = json.loads((run / "evaluation.json").read_text())
    assert (s["two_part"], s["coded"]) == (True, True)
    parts = s["reconstruction"]["mean"] - s["kl"]["mean"]
    assert abs(s["log_marginal"]["mean"] - parts) < 1e-6
    assert len(s["latents"]["perplexity"]) == 4
    assert s["latents"]["fitted"]
    page = (run / "report.html").read_text()
    assert "log p(x, code)" in page
    assert "<strong>log p(x)</strong>" not in page

    said = call("encode", run)
    assert (said.code, said.err) == (0, "")
    with np.load(run / "latents.npz") as kept:
        codes, mean = kept["test_codes"], kept["test_mean"]
        assert not kept["test_std"].any()
    assert codes.shape == (359, 4)
    words = open_run(run).vae.guide.words
    spelled = torch.stack([words[g, codes[:, g]] for g in range(4)], 1).flatten(1)
    np.testing.assert_array_equal(spelled.numpy(), mean)
    said = call("sample", run)
    assert (said.code, said.err) == (0, "")
    assert np.load(run / "samples" / "traversal.npy").shape[:2] == (4, 8)
    last = call("evaluate", run, "--checkpoint", "last", "--limit", 5)
    assert "p(code) was not fitted" in last.out
    assert call("evaluate", plain, "--num-particles", 10).code == 0
    said = call("compare", plain, run)
    assert f"of {run} the values are log p(x, code), a bound below log p(x)" in said.out


def test_few_words_are_summed_over(call, train, blank_figures):
    run = train("few", *FEW, "--epochs", 1)
    said = call("evaluate", run)
    assert (said.code, said.err) == (0, "")
    assert "log p(x), exactly: 359 data" in said.out
    s = json.loads((run / "evaluation.json").read_text())
    assert (s["two_part"], s["coded"]) == (False, True)
    assert s["elbo"]["mean"] < s["log_marginal"]["mean"]
    said = call("sample", run, "--kind", "manifold")
    assert (said.code, said.err) == (0, "")
    assert np.load(run / "samples" / "manifold.npy").shape[:2] == (6, 6)
    for question, sentence in (
        ("ais(chains=2, temperatures=3)", "latent site 'z' is discrete"),
        ("posterior(n=2)", "latent site 'z' is discrete"),
        ("gaps", "there is nothing to refine"),
    ):
        said = call("evaluate", run, "--limit", 10, "--ask", question)
        assert said.code == 2
        assert sentence in said.err
        assert said.err.count("\n") == 1


def test_training_goes_on_as_if_nothing_had_happened(call, train, blank_figures):
    """To the last digit: weights, words, their averages, and the prior that is fitted in the end."""
    members = ("--guide", "codebook(size=64, groups=2, revive=10)", "--latent-dim", 4)
    options = (*members, *SMALL)
    whole = train("whole", *options, "--epochs", 3)
    parts = train("parts", *options, "--epochs", 1)
    said = call("train", "--resume", parts, "--epochs", 3)
    assert said.code == 0
    for name in ("best", "last"):
        file = f"{name}.safetensors"
        first, second = (load_weights(run / file)[0] for run in (whole, parts))
        mine, other = first.state_dict(), second.state_dict()
        assert mine.keys() == other.keys()
        assert (name == "best") == ("model.prior.offset" in mine)
        for key, value in mine.items():
            assert torch.equal(value, other[key]), key
    rows = (read_metrics(run / "metrics.csv", 9) for run in (whole, parts))
    for one, other in zip(*rows, strict=True):
        for key in ("elbo", "validation_elbo", "perplexity", "unused"):
            assert one[key] == other[key]


def test_a_prior_that_was_not_fitted_is_when_the_run_goes_on(
    call, train, blank_figures
):
    run = train("run", *FEW, "--epochs", 1)
    fitted = load_weights(run / "best.safetensors")[0].model.prior
    (run / "best.safetensors").write_bytes((run / "last.safetensors").read_bytes())
    assert not load_weights(run / "best.safetensors")[0].model.prior.fitted
    assert call("train", "--resume", run).code == 0
    again = load_weights(run / "best.safetensors")[0].model.prior
    assert torch.equal(again.offset, fitted.offset)


def test_what_does_not_go_together(refused):
    for arguments, sentence in (
        (("--prior", "standardnormal"), "take the prior codes"),
        (("--latent-dim", 9), "multiple of 4"),
        (("--objective", "iwae"), "all are the same words of a codebook; take ELBO"),
        (("--structure", "labelled"), "a structure without y"),
    ):
        options = [*MANY[:2], "--latent-dim", 8, *arguments]
        assert sentence in refused("train", "--dry-run", *options)
    assert "take the guide codebook" in refused("train", "--prior", "codes")
