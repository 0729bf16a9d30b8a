"""Scores of disentanglement against closed forms, quadrature and exact invariants."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import mutual_info_score

from pyro_vae import InputError
from pyro_vae.data.shapes import FORMS, LEVELS, drawn, shapes
from pyro_vae.evaluation.disentanglement import (
    SCORES,
    by_chance,
    dci,
    discretised,
    explicitness,
    factor_vae_score,
    half_samples,
    interval,
    mig,
    modularity,
    mutual_information,
    sap,
    scores,
)
from pyro_vae.evaluation.factors import Factors

RNG = np.random.default_rng(0)


def turned(degrees, n=20_000):
    """Two independent normal factors, and codes that are these turned by an angle."""
    v = np.random.default_rng(1).normal(size=(n, 2))
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return v @ np.array([[c, s], [-s, c]]), v


def of_bins(rho, bins):
    """I of a normal pair, each cut into bins of equal probability, by the distribution function at their corners."""
    edges = np.clip(norm.ppf(np.arange(bins + 1) / bins), -9, 9)
    corners = np.stack(np.meshgrid(edges, edges, indexing="ij"), -1)
    below = multivariate_normal(cov=[[1, rho], [rho, 1]]).cdf(corners)
    cells = np.diff(np.diff(below, axis=0), axis=1)
    return (cells * np.log(cells * bins**2)).sum()


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_information_of_binned_normals_is_that_of_quadrature(rho):
    rng, found = np.random.default_rng(2), []
    for _ in range(40):
        a, b = rng.normal(size=(2, 500, 1))
        pair = mutual_information(a, rho * a + math.sqrt(1 - rho**2) * b, bins=6)
        found.append(pair[0].item())
    error = np.std(found) / math.sqrt(40)
    assert np.mean(found) == pytest.approx(of_bins(rho, 6), abs=4 * error + 0.004)
    if rho == 0:  # uncorrected it would be about (6 - 1)^2 / (2 * 500)
        assert abs(np.mean(found)) < 0.005


def test_information_is_that_of_frequencies_plus_the_correction():
    z, v = RNG.integers(4, size=(100, 1)), RNG.integers(3, size=(100, 1))
    (found,), _ = mutual_information(z, v)
    plain = mutual_info_score(z[:, 0], v[:, 0])
    cells = len(np.unique(4 * v + z))
    assert found[0] == pytest.approx(plain + (4 - 1 + 3 - 1 - (cells - 1)) / 200)


def test_codes_that_are_the_factors_score_1():
    v = np.indices((5, 4, 3, 6)).reshape(4, -1).T.astype(float)
    v = np.concatenate([v] * 3)
    found = scores(v[:, [2, 0, 3, 1]] * [3.0, -1.0, 0.1, 7.0], v, categories=(2,))
    exact = ("MIG", "FactorVAE score", "modularity", "DCI disentanglement")
    for name in exact:
        assert found[name] == pytest.approx(1, abs=1e-6), name
    assert found["SAP"] == pytest.approx((3 + 2 / 3) / 4, abs=0.02)  # a third by chance
    assert found["DCI completeness"] == pytest.approx(1, abs=1e-6)
    assert found["DCI informativeness"] > 0.99
    assert found["explicitness"] > 0.95


def test_factors_turned_by_half_a_right_angle_are_in_both_latents_alike():
    z, v = turned(45)
    found = scores(z, v, bins=10)
    for name in ("MIG", "SAP"):
        assert found[name] == pytest.approx(0, abs=0.02), name
    assert found["modularity"] < 0.1  # 1 less the square of a ratio of equal numbers
    assert found["DCI disentanglement"] < 0.1
    assert found["DCI informativeness"] > 0.95
    assert abs(found["FactorVAE score"] - 0.5) < 0.1


def test_a_smaller_turn_against_quadrature_and_in_closed_form():
    z, v = turned(30)
    near, far = (of_bins(math.cos(math.radians(a)), 8) for a in (30, 60))
    assert mig(z, v, bins=8) == pytest.approx((near - far) / math.log(8), abs=0.01)
    assert modularity(z, v, bins=8) == pytest.approx(1 - (far / near) ** 2, abs=0.01)
    assert sap(z, v) == pytest.approx(math.cos(math.radians(60)), abs=0.02)
    lasso = dci(z, v, by="lasso")  # coefficients are cosine and sine of the angle
    share = math.cos(math.radians(30)) / (
        math.cos(math.radians(30)) + math.sin(math.radians(30))
    )
    entropy = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert lasso.disentanglement == pytest.approx(1 - entropy, abs=0.02)
    assert lasso.completeness == pytest.approx(1 - entropy, abs=0.02)


def test_codes_that_know_nothing_score_what_chance_gives():
    rng = np.random.default_rng(3)
    z, v = rng.normal(size=(1500, 6)), rng.integers(5, size=(1500, 4)).astype(float)
    found, chance = scores(z, v), by_chance(z, v)
    for name in SCORES:
        assert found[name] == pytest.approx(chance[name], abs=0.1), name
    assert found["MIG"] < 0.02
    assert found["modularity"] == 0
    assert chance["FactorVAE score"] == pytest.approx(1 / 4, abs=0.07)


@pytest.mark.parametrize("name", ["mig", "modularity", "sap", "factor"])
def test_order_and_scale_of_latents_do_not_matter(name):
    measure = {
        "mig": mig,
        "modularity": modularity,
        "sap": sap,
        "factor": lambda z, v: factor_vae_score(z, v, votes=200),
    }[name]
    v = RNG.integers(6, size=(800, 3)).astype(float)
    z = np.c_[v + RNG.normal(size=v.shape), RNG.normal(size=(800, 2))]
    moved = z[:, [3, 0, 4, 2, 1]] * np.array([8.0, -2.0, 0.5, 64.0, 1.0])
    assert measure(z, v) == pytest.approx(measure(moved, v), abs=0.01)
    assert 0.05 < measure(z, v) <= 1


def test_bins_are_the_same_after_an_increasing_map():
    z = RNG.normal(size=(999, 2))
    np.testing.assert_array_equal(discretised(z, 7), discretised(np.exp(3 * z), 7))
    assert (np.bincount(discretised(z, 9)[:, 0]) == 111).all()


def test_categories_are_never_merged_however_many():
    rng = np.random.default_rng(4)
    form = rng.integers(60, size=6000)
    v = form[:, None].astype(float)
    told = form % 2  # neighbours differ, so that a bin of them knows nothing
    z = np.stack([told + 0.01 * rng.normal(size=6000), rng.normal(size=6000)], 1)
    information, entropy = mutual_information(z, v, categories=(0,))
    assert information[0, 0] == pytest.approx(math.log(2), abs=0.05)
    assert entropy[0] == pytest.approx(math.log(60), abs=0.02)
    assert mutual_information(z, v)[1][0] == pytest.approx(math.log(20), abs=0.02)
    assert mig(z, v, categories=(0,)) == pytest.approx(
        math.log(2) / math.log(60), abs=0.02
    )
    assert explicitness(z, v, categories=(0,)) > 0.4 > explicitness(z, v) + 0.2
    both = np.c_[v, rng.integers(50, size=6000)]
    assert modularity(z[:, :1], both, categories=(0, 1)) > 0.95
    z[:, 1] = both[:, 1] % 2 + 0.01 * z[:, 1]
    assert factor_vae_score(z, both, categories=(0, 1)) > 0.95
    assert factor_vae_score(z, both) < 0.9


@pytest.mark.parametrize("name", ["z", "wide"])
def test_a_value_that_one_datum_has_does_not_vote(name):
    # Of 40 values in 60 data most are alone; the factor in the other latent has two.
    rng = np.random.default_rng(5)
    v = np.c_[np.r_[np.arange(40.0), np.repeat([40.0, 41.0], 10)], np.arange(60) % 2]
    z = np.c_[rng.normal(size=60), 10 * v[:, 1] + rng.normal(size=60)]
    z[40:, 0] = np.repeat([-2.0, 2.0], 10)
    if name == "wide":  # with variances of 0 the first latent won whichever it was
        z = z[:, ::-1]
    assert factor_vae_score(z, v, categories=(0, 1), votes=300) > 0.95
    only = np.arange(60.0)[:, None]
    assert math.isnan(factor_vae_score(z, only, categories=(0,)))


def test_a_lasso_leaves_out_a_category_of_one_datum():
    z = RNG.normal(size=(200, 2))
    v = (z[:, :1] > 0).astype(float)
    v[0] = 2
    found = dci(z, v, categories=(0,), by="lasso")
    assert found.informativeness > 0.8
    every = np.arange(200.0)[:, None]
    assert math.isnan(dci(z, every, categories=(0,), by="lasso").informativeness)


def test_explicitness_is_linear():
    ring = RNG.uniform(0, 2 * np.pi, 2000)
    inside = RNG.integers(2, size=(2000, 1)).astype(float)
    z = (1 + inside) * np.stack([np.cos(ring), np.sin(ring)], 1)
    assert abs(explicitness(z, inside)) < 0.12
    assert explicitness((z**2).sum(1, keepdims=True), inside) > 0.99


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth, held = sap(*turned(30, 400_000)), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        v = rng.normal(size=(300, 2))
        c, s = math.cos(math.radians(30)), 0.5
        z = v @ np.array([[c, s], [-s, c]])
        each = half_samples(lambda r, z=z, v=v: np.array([sap(z[r], v[r])]), 300, 60)
        low, high = interval(sap(z, v), each[:, 0], 0.9)
        held += low <= truth <= high
    assert 80 <= held <= 98


def test_what_has_no_scores():
    z = np.zeros((6, 2))
    assert math.isnan(modularity(z, z[:, :1]))
    assert scores(z, np.arange(12.0).reshape(6, 2))["modularity"] == 0
    with pytest.raises(InputError, match="a row for each datum"):
        mig(z, np.zeros((5, 2)))
    with pytest.raises(InputError, match="finite"):
        sap(z, z + np.nan)
    with pytest.raises(InputError, match="too few"):
        dci(z[:3], z[:3])


def test_columns_are_numbers_or_categories():
    columns = {
        "form": np.array(["b", "a", ""]),
        "size": np.array([0.5, 1.5, 2.5]),
        "count": np.array([3, 1, 2]),
    }
    found = Factors.of(columns, {"count": "real"})
    assert found.categories == (0,)
    np.testing.assert_array_equal(found.values[:2], [[1, 0.5, 3], [0, 1.5, 1]])
    assert found.known.tolist() == [True, True, False]
    with pytest.raises(InputError, match="form holds texts"):
        Factors.of(columns, {"form": "real"})


def test_shapes_are_what_their_factors_say():
    images, factors = shapes()
    assert images["train"].shape == (10_000, 3, 32, 32)
    every = np.stack([np.concatenate([*parts.values()]) for parts in factors.values()])
    assert len(np.unique(every.astype(str), axis=1).T) == 12_000  # none twice
    light = images["test"].astype(float).sum(1)
    places = np.arange(32) - 15.5
    total = light.sum((1, 2))
    whole = factors["form"]["test"] != "triangle"
    for name, axis in (("x", 1), ("y", 2)):
        centre = (light.sum(axis) * places).sum(1) / total
        assert np.abs(centre - factors[name]["test"])[whole].max() < 0.1
    # The area of an ellipse is pi a b, of a rectangle 4 a b, of a triangle 2 a 1.6 a / 2; b = a / 2.
    shade = images["test"].max(1) / 255.0
    areas = dict(zip(FORMS, (math.pi / 2, 2.0, 1.6), strict=True))
    expected = np.array([areas[form] for form in factors["form"]["test"]])
    expected *= factors["size"]["test"] ** 2
    assert (shade.sum((1, 2)) / expected).mean() == pytest.approx(1, abs=0.02)
    again = {name: parts["test"][:5] for name, parts in factors.items()}
    np.testing.assert_array_equal(drawn(again), images["test"][:5])
    assert {len(levels) for levels in LEVELS.values()} == {8, 5, 6, 3}
