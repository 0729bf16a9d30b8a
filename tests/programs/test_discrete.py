"""Runs whose latents are codes: every program and picture, and the sentences of what they cannot do."""

import json

import numpy as np
import pytest
import torch

from pyro_vae import Spec, build, latent_health, plots
from pyro_vae.distributions import OneHots
from pyro_vae.trained import open_run

CODES = ("--likelihood", "bernoulli", "--epochs", 1)
FEW = ("--prior", "categorical(levels=4)", "--guide", "categorical(levels=4)")
MANY = ("--latent-dim", 40, *FEW, "--objective", "vimco(num_particles=3)")


def test_a_run_of_few_codes_is_exact_throughout(call, train):
    run = train("few", *CODES, *FEW, "--latent-dim", 8)
    said = call("evaluate", run)
    assert (said.code, said.err) == (0, "")
    assert "log p(x), exactly: 359 data" in said.out
    assert "active latents: " in said.out
    assert " of 2 " in said.out  # variables, not entries
    found = json.loads((run / "evaluation.json").read_text())["log_marginal"]
    assert found["monte_carlo_standard_error"] == 0
    for sentence, question in (
        ("latent site 'z' is discrete", "ais(chains=2, temperatures=3)"),
        ("latent site 'z' is discrete", "posterior(n=2)"),
    ):
        said = call("evaluate", run, "--limit", 10, "--ask", question)
        assert said.code == 2
        assert sentence in said.err
        assert said.err.count("\n") == 1
    said = call("sample", run)
    assert (said.code, said.err) == (0, "")
    assert np.load(run / "samples" / "manifold.npy").shape[:2] == (4, 4)
    assert np.load(run / "samples" / "traversal.npy").shape[:2] == (2, 4)
    said = call("encode", run)
    assert (said.code, said.err) == (0, "")


def test_a_run_of_many_codes_says_how_its_gradient_is_taken(call, train):
    said = call("train", "--dry-run", *CODES, *MANY)
    assert "gradient   of draws, as z has 1,048,576 codes: by the score function" in (
        said.out
    )
    run = train("many", *CODES, *MANY)
    said = call("evaluate", run, "--limit", 20, "--num-particles", 50)
    assert (said.code, said.err) == (0, "")
    assert "50 particles on 20 data" in said.out
    said = call("evaluate", run, "--limit", 10, "--ask", "gaps")
    assert said.code == 2
    assert "those of the OneHots do not" in said.err
    said = call("sample", run, "--kind", "manifold")
    assert said.code == 2
    assert "at most two variables" in said.err
    said = call("sample", run)
    assert (said.code, said.err) == (0, "")
    assert np.load(run / "samples" / "traversal.npy").shape[:2] == (10, 4)


def test_relaxed_training_is_resumed_as_if_nothing_had_happened(call, train):
    relaxed = ("--objective", "gumbelsoftmax(epochs=2)", "--latent-dim", 40, *FEW)
    whole = train("whole", *CODES[:2], "--epochs", 3, *relaxed)
    run = train("parts", *CODES, *relaxed)
    said = call("train", "--resume", run, "--epochs", 3)
    assert said.code == 0
    first, second = (open_run(r, checkpoint="last").vae for r in (whole, run))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def pair(levels, variables, shape=(6,)):
    torch.manual_seed(0)
    member = f"categorical(levels={levels})"
    vae = build(Spec(shape, levels * variables, member, guide=member)).double()
    torch.nn.init.normal_(vae.guide.head.weight)
    return vae


def test_interpolation_switches_one_variable_after_the_other():
    vae, seen = pair(3, 4), []
    decode = vae.decode
    vae.decode = lambda z, *c, **more: seen.append(z) or decode(z, *c, **more)
    pairs = torch.rand(5, 2, 6).round().double()
    _, means = plots.interpolation(vae, pairs, steps=9)
    assert means.shape == (5, 9, 6)
    line = seen[0].transpose(0, 1)  # (5, 9, 12)
    assert vae.model.prior().support.check(line).all()
    codes = line.unflatten(-1, (4, 3)).argmax(-1)
    changed = (codes[:, 1:] != codes[:, :-1]).sum((1, 2))
    assert torch.equal(changed, (codes[:, 0] != codes[:, -1]).sum(-1))  # each once


def test_a_traversal_shows_each_value_of_each_variable():
    vae = pair(3, 2)
    _, means = plots.traversal(vae, torch.ones(1, 6).double())
    assert means.shape == (2, 3, 6)
    z = vae.model.prior().enumerate_support(expand=False)
    every = vae.decode(z).mean
    for picture in means.flatten(0, 1):
        assert (every - picture).abs().amax(-1).min() < 1e-12


@pytest.mark.parametrize(("variables", "grid"), [(1, (1, 3)), (2, (3, 3))])
def test_a_manifold_of_codes_shows_all_of_them(variables, grid):
    vae = pair(3, variables)
    _, means = plots.manifold(vae)
    assert means.shape == (*grid, 6)
    assert len(means.flatten(0, 1).unique(dim=0)) == 3**variables


@pytest.mark.parametrize("enumerated", [True, False])
def test_what_codes_carry_is_the_sum_over_them(enumerated):
    """KL, information and activity of a guide that is known, summed by hand over all codes."""
    vae = pair(3, 2)
    vae.guide.listed = enumerated
    x = torch.rand(40, 6).round().double()
    with torch.no_grad():
        q = vae.encode(x)
        p = vae.model.prior()
        z = q.enumerate_support(expand=False)
        log_q, log_p = q.log_prob(z), p.log_prob(z)
        whole = log_q.logsumexp(1, keepdim=True) - torch.tensor(40.0).double().log()
        kl = (log_q.exp() * (log_q - log_p)).sum(0).mean()
        information = (log_q.exp() * (log_q - whole)).sum(0).mean()
        activity = q.probs.var(0).sum(-1)
        each = torch.distributions.kl_divergence(
            OneHots(q.logits.transpose(0, 1).unsqueeze(2)),
            OneHots(p.logits.view(2, 1, 1, 3)),
        ).mean(1)
    torch.manual_seed(0)
    health = latent_health(vae.model, vae.guide, x, draws=2000)
    assert health.kl.mean == pytest.approx(kl.item(), abs=0.02)
    assert health.mutual_information.mean == pytest.approx(information.item(), abs=0.02)
    torch.testing.assert_close(health.activity, activity)
    assert health.kl_per_dimension.tolist() == pytest.approx(each.tolist(), abs=0.02)
