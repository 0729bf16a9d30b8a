"""A datum without a finite density is named and left out, whatever is asked of the others."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae import (
    InputError,
    Spec,
    annealed_importance_sampling,
    anomaly_scores,
    build,
    inference_gaps,
    log_marginal_adaptive,
    log_marginal_refined,
)
from pyro_vae.evaluation.annealing import AnnealedEstimate, Sandwich
from pyro_vae.evaluation.outliers import Separation
from pyro_vae.evaluation.posterior import compare_posterior
from reading import mentions

WILD = 1e25
REAL = ("--likelihood", "gaussian", "--network", "mlp(hidden=(8,))", "--latent-dim", 2)


@pytest.fixture(scope="module")
def folder(call, tmp_path_factory):
    """A run whose test data have a wild row 7, and new data with a wild row 3."""
    place, rng = tmp_path_factory.mktemp("wild"), np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    test = x[90:].copy()
    test[7] = WILD
    np.savez(place / "x.npz", train=x[:70], validation=x[70:90], test=test)
    other = rng.normal(size=(30, 4)) + 2
    other[3] = WILD
    np.save(place / "other.npy", other)
    options = (
        "--dataset",
        place / "x.npz",
        *REAL,
        "--epochs",
        2,
        "--output",
        place / "run",
    )
    assert call("train", *options).code == 0
    return place


CHAINS = ("--chains", 4, "--temperatures", 5)
ASKED = {
    "refine": ("--refine", 3),
    "adaptive": ("--adaptive",),
    "gaps": ("--gaps",),
    "ais": ("--ais", *CHAINS),
    "ais from the guide": ("--ais", "--anneal-from", "guide", *CHAINS),
    "bdmc": ("--bdmc", 4, *CHAINS),
    "ood": ("--ood", "other.npy"),
    "posterior": ("--posterior", 9, "--posterior-draws", 12),
}


@pytest.mark.parametrize("asked", ASKED)
def test_every_option_keeps_the_rest(call, folder, monkeypatch, asked):
    monkeypatch.chdir(folder)
    said = call("evaluate", "run", "--num-particles", 50, *ASKED[asked], "--limit", 30)
    assert (said.code, said.err) == (0, "")
    assert said.out.count("Row 7 of the data has no finite log p(x)") == 1
    numbers = said.out.replace("median ESS", "")
    assert not re.search(r"(?<![a-z])(nan|inf)(?![a-z])", numbers), said.out
    newest = max(
        Path("run").glob("evaluation*.json"), key=lambda p: p.stat().st_mtime_ns
    )
    s = json.loads(newest.read_text())
    if asked == "gaps":
        assert s["gaps"]["approximation"]["mean"] is not None
        assert "of 29 of 30 data; the others have no finite value" in said.out
    if asked == "ood":
        assert s["ood"]["other.npy"]["log p(x)"]["auroc"] > 0.8
        mentions(
            said.out,
            "left out: row 7 of x.npz test and row 3 of other (counted from 0)",
        )
    if asked == "posterior":
        assert 7 not in s["posterior"]["data"]
        assert len(s["posterior"]["data"]) == 9


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    spec = Spec((4,), 2, network="mlp(hidden=(8,))", likelihood="gaussian(scale=1.0)")
    x = torch.randn(8, 4)
    x[5] = WILD
    return build(spec), x


def test_in_code_every_mean_is_of_the_rest(pair):
    vae, x = pair
    few = {"steps": 2, "num_particles": 20}
    gaps = inference_gaps(vae, x, **few, elbo_particles=5)
    assert gaps.sound.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert all(math.isfinite(v) for row in gaps.rows.values() for v in row.estimate)
    assert math.isfinite(log_marginal_refined(vae, x, **few).mean)
    result, _ = log_marginal_adaptive(vae, x, **few, num_chains=25, num_temperatures=3)
    assert math.isfinite(result.mean)
    annealed = annealed_importance_sampling(
        vae.model, x, num_chains=25, num_temperatures=3
    )
    assert "Without 1 of the data, which has no finite value." in str(annealed)
    assert "nan" not in str(annealed)
    scores = anomaly_scores(vae, x, 0.0, **few, elbo_particles=5)
    found = Separation(("a", "b"), scores, scores)
    assert found.detections["log p(x)"].auroc == pytest.approx(0.5)
    assert found.lost == (
        "Without finite scores, and left out: row 5 of a and row 5 of b (counted from 0)."
    )
    assert found.answer().to_dict()["left_out"] == found.lost


def test_a_datum_that_nuts_cannot_start_at_is_named(pair):
    vae, x = pair
    with pytest.raises(InputError, match=r"finite p.x, z. for datum 1 "):
        compare_posterior(vae.model, vae.guide, x[4:6], num_samples=8, num_chains=2)


def test_a_sandwich_is_of_the_data_with_both_bounds():
    values = torch.tensor([-1.0, -2.0, math.nan, -3.0])
    ones = torch.ones(4)
    lower = AnnealedEstimate(values, ones, ones, ones, ones, 4, 5)
    found = Sandwich(lower, torch.tensor([-0.5, math.inf, 0.0, -2.5]), ones)
    assert found.sound.tolist() == [True, False, False, True]
    assert found.bounds == (-2.0, -1.5)
    assert (found.gap, found.gap_standard_error) == (0.5, 0.0)
    assert "On 2 of 4 data simulated" in str(found)
