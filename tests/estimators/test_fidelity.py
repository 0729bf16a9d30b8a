"""Distances of samples and data against closed forms, and what each measure sees of what a model does wrong."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from pyro_vae import InputError
from pyro_vae.evaluation.fidelity import (
    Distances,
    frechet,
    frechet_limit,
    kernel_distance,
    manifolds,
)
from pyro_vae.evaluation.question import Evaluated
from pyro_vae.evaluation.samples import Fidelity
from reading import mentions, newest


def normal(n, d=2, seed=0, loc=0.0, scale=1.0):
    return loc + scale * np.random.default_rng(seed).normal(size=(n, d))


def test_frechet_distance_of_normals_in_closed_form():
    a = normal(200_000, 3, 0) @ np.array([[1.0, 0.5, 0], [0, 1, 0.2], [0, 0, 2]])
    b = normal(200_000, 3, 1) @ np.array([[0.5, 0, 0], [0.3, 1, 0], [0, 0.8, 1]]) + 0.7
    first, second = np.cov(a.T), np.cov(b.T)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    truth = apart + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet(a, b) == pytest.approx(truth, rel=1e-6)
    # Independent numbers: |mu|^2 + sum (s_1 - s_2)^2.
    c = normal(400_000, 2, 2, loc=0.5, scale=np.array([2.0, 3.0]))
    assert frechet(normal(400_000), c) == pytest.approx(0.5 + 1 + 4, rel=0.01)


def test_extrapolation_takes_off_the_bias():
    plain, limits = [], []
    for seed in range(30):
        a, b = normal(400, 8, 2 * seed), normal(400, 8, 2 * seed + 1)
        plain.append(frechet(a, b))
        limits.append(frechet_limit(a, b))
    error = np.std(limits) / math.sqrt(30)
    assert np.mean(plain) > 0.1
    assert abs(np.mean(limits)) < 4 * error + 0.01
    assert abs(np.mean(limits)) < 0.2 * np.mean(plain)


@pytest.mark.parametrize("loc", [0.0, 0.4])
def test_kernel_distance_is_unbiased_and_its_error_is_what_it_says(loc):
    found = [
        kernel_distance(normal(100, 2, 2 * s), normal(100, 2, 2 * s + 1, loc=loc))
        for s in range(300)
    ]
    values = np.array([each.value for each in found])
    # E k(x, y) of independent normals of one and two means, u = x y / 2, by the moments of x and y.
    x, y = np.polynomial.hermite_e.hermegauss(8)
    w = y / y.sum()
    grid = np.stack(np.meshgrid(x, x, x, x, indexing="ij"))
    weight = np.einsum("i,j,k,l->ijkl", w, w, w, w)

    def kernel(first, second):
        dot = (grid[0] + first) * (grid[2] + second)
        dot = dot + (grid[1] + first) * (grid[3] + second)
        return (weight * (dot / 2 + 1) ** 3).sum()

    truth = kernel(0, 0) + kernel(loc, loc) - 2 * kernel(0, loc)
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(300))
    told = math.sqrt(np.mean([each.standard_error**2 for each in found]))
    if loc:
        assert told == pytest.approx(values.std(), rel=0.2)
    else:  # on the safe side, as the part of each datum, of which there is none, is not taken below 0
        assert values.std() < told < 1.5 * values.std()


def test_a_mode_that_is_dropped_is_seen_in_recall_and_coverage_alone():
    def modes(n, seed, of=4):
        rng = np.random.default_rng(seed)
        return 8 * np.eye(4)[rng.integers(of, size=n)] + rng.normal(size=(n, 4))

    whole = manifolds(Distances.of(modes(1000, 0), modes(1000, 1)))
    fewer = manifolds(Distances.of(modes(1000, 0), modes(1000, 1, of=2)))
    for name in ("precision", "recall"):
        assert whole[name] > 0.85, name
    assert whole["density"] == pytest.approx(1, abs=0.1)
    assert whole["coverage"] == pytest.approx(1 - 2**-5, abs=0.03)
    assert fewer["precision"] == pytest.approx(whole["precision"], abs=0.08)
    assert fewer["recall"] == pytest.approx(0.5, abs=0.06)
    assert fewer["coverage"] == pytest.approx(0.5, abs=0.06)
    # Samples of low quality: the other way round.
    noisy = np.where(
        np.arange(1000)[:, None] < 500, modes(1000, 2), normal(1000, 4, 3, scale=30.0)
    )
    low = manifolds(Distances.of(modes(1000, 0), noisy))
    assert low["precision"] == pytest.approx(0.5, abs=0.08)
    assert low["recall"] > 0.85


def test_coverage_is_0_far_away_and_distances_are_those_of_points():
    a, b = normal(20), normal(30, seed=1, loc=50.0)
    found = manifolds(Distances.of(a, b))
    assert set(found.values()) == {0.0}
    exact = ((a[:, None] - b) ** 2).sum(-1)
    np.testing.assert_allclose(Distances.of(a, b).across, exact)
    rows, columns = np.array([3, 1]), np.array([0, 7])
    np.testing.assert_allclose(
        Distances.of(a, b).at(rows, columns).across, exact[np.ix_(rows, columns)]
    )


def test_what_is_no_pair_of_features():
    with pytest.raises(InputError, match="features must be"):
        frechet(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="finite"):
        kernel_distance(np.full((5, 2), np.nan), np.zeros((5, 2)))


def own(tmp_path, monkeypatch):
    text = (
        "def sums(x):\n    return x.flatten(1).sum(1, keepdim=True)\n\n\n"
        "def scalar(x):\n    return x.sum()\n"
    )
    (tmp_path / "looks.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "looks", raising=False)


class Truth:
    """A run whose samples are draws of the distribution of its data, moved by `loc`, and whose data have holes."""

    vae = property(lambda self: self)
    model = property(lambda self: self)
    likelihood = property(lambda self: self)
    view, shape = None, (3,)

    def __init__(self, loc=0.0, holes=0.4):
        self.loc, self.holes, self.random = loc, holes, torch.Generator().manual_seed(0)

    def sample(self, n, c=None):
        mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 1.0]])
        return 5 + torch.randn(n, 3, generator=self.random) @ mix + self.loc

    def split(self, name):
        loc, self.loc = self.loc, 0.0
        x = self.sample(1500)
        self.loc = loc
        gone = torch.rand(x.shape, generator=self.random) < self.holes
        return x.masked_fill(gone, math.nan)


@pytest.mark.parametrize("by", ["data", "pca"])
def test_samples_of_the_true_model_are_no_farther_than_data_with_holes(by):
    found = {}
    for loc in (0.0, 0.5):
        run = Truth(loc)
        answer = Fidelity(by=by, halves=20).ask(run, Evaluated(run.split("test"), []))
        found[loc] = answer.rows
        assert "is missing, and the same is left out of samples" in answer.sentences[-1]
    for name in ("Fréchet distance, extrapolated", "kernel distance"):
        row, other = (found[loc][name] for loc in (0.0, 0.5))
        assert row["low"] < 0.02
        assert abs(row["value"]) < 0.05 < other["low"]
    # Means that are 0.6 * 0.5 apart, in standard deviations of what is there or in the units of the data.
    std = np.sqrt([1, 1, 1.25]) if by == "data" else 1.0
    apart = (np.full(3, 0.3) / std) ** 2
    distance = found[0.5]["Fréchet distance, extrapolated"]["value"]
    assert distance == pytest.approx(apart.sum(), abs=0.08)


def test_samples_of_a_run_beside_its_data(call, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    own(tmp_path, monkeypatch)
    quick = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 2)
    call("train", *quick, "--output", "run")
    for features in ("conv", "pca", "data", "guide", "looks:sums"):
        asked = f"fidelity(by='{features}', halves=4, components=5)"
        said = call("evaluate", "run", "--num-particles", 5, "--ask", asked)
        assert (said.code, said.err) == (0, ""), features
        found = json.loads(newest(Path("run")).read_text())["fidelity"]
        assert found["data"] == 359
        distance, kernel = found["Fréchet distance"], found["kernel distance"]
        assert distance["floor"] > 0
        assert kernel["low"] < kernel["value"] < kernel["high"]
        if features in ("conv", "pca", "data"):
            # A pair that has hardly trained is farther from the data than other data are.
            assert distance["value"] > distance["floor"]
            assert kernel["value"] > kernel["floor"]
    mentions(
        said.out,
        "Samples beside data: 359 of each, by features looks:sums",
        "train, test",
    )
    mentions(
        refused("evaluate", "run", "--ask", "fidelity(by='vgg')"),
        "by='vgg' of Fidelity",
    )
    wrong = call(
        "evaluate",
        "run",
        "--num-particles",
        5,
        "--ask",
        "fidelity(by='looks:scalar')",
    )
    mentions(wrong.err, "features must be (n, d)")
    wrong = call(
        "evaluate",
        "run",
        "--num-particles",
        5,
        "--ask",
        "fidelity(by='nowhere:x')",
    )
    mentions(wrong.err, "nowhere:x cannot be imported")


def test_the_guide_of_a_conditional_run_is_given_its_conditions(
    call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    quick = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
    call("train", *quick, "--condition", "label", "--output", "run")
    options = ("--limit", 40, "--num-particles", 5)
    said = call("evaluate", "run", *options, "--ask", "fidelity(by=guide, halves=3)")
    assert (said.code, said.err) == (0, "")
    (file,) = Path("run").glob("evaluation-*fidelity*.json")
    assert json.loads(file.read_text())["fidelity"]["dimensions"] == 2
