"""Clusters of codes beside labels: partitions whose agreement is known, and codes with clusters of their own."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from pyro_vae.evaluation.clustering import (
    MEASURES,
    agreement,
    clustered,
    measures,
    silhouette,
)
from reading import mentions, newest


def groups(apart, n=300, seed=0):
    """Codes about three corners, and which corner each is about."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    return apart * np.eye(3)[labels] + rng.normal(size=(n, 3)), labels


def test_the_same_partition_by_other_names():
    labels = np.random.default_rng(0).integers(4, size=200)
    found = agreement(np.array([2, 0, 3, 1])[labels], labels)
    assert [*found.values()] == pytest.approx([1.0] * 5)


def test_accuracy_is_the_best_of_all_pairings():
    rng = np.random.default_rng(1)
    found, labels = rng.integers(4, size=(2, 50))
    every = itertools.permutations(range(4))
    best = max((np.array(names)[found] == labels).mean() for names in every)
    assert agreement(found, labels)["accuracy"] == pytest.approx(best)


def test_entropies_of_a_partition_by_hand():
    labels, found = np.repeat([0, 1], [4, 4]), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    told = agreement(found, labels)
    # H(cluster) = 3/2 bits, H(cluster | label) = 1/2.
    assert told["homogeneity"] == pytest.approx(1)
    assert told["completeness"] == pytest.approx(1 - 0.5 / 1.5)
    assert told["V-measure"] == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert told["V-measure"] == pytest.approx(
        normalized_mutual_info_score(labels, found)
    )
    assert told["accuracy"] == 0.75
    # 8 pairs together in both of 12 by label and 8 by cluster, of 28.
    expected = 12 * 8 / 28
    assert told["adjusted Rand index"] == pytest.approx(
        (8 - expected) / (10 - expected)
    )


def test_clusters_that_lie_apart_are_found_and_one_cloud_has_none():
    z, labels = groups(30.0)
    far = measures(z, labels, 3)
    assert far["accuracy"] == far["adjusted Rand index"] == 1
    assert far["silhouette of clusters"] == far["silhouette of labels"] > 0.9
    z, labels = groups(0.0, n=2000)
    near = measures(z, labels, 3)
    assert abs(near["adjusted Rand index"]) < 0.01
    assert near["V-measure"] < 0.01
    assert abs(near["silhouette of labels"]) < 0.03
    assert [*near] == [*MEASURES]


def test_silhouettes_by_hand():
    z, one = np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([0, 0, 1, 1])
    each = [(5.5 - 1) / 5.5, (4.5 - 1) / 4.5]
    assert silhouette(z, one) == pytest.approx(np.mean(each))
    assert math.isnan(silhouette(z, np.zeros(4)))
    assert math.isnan(silhouette(z, np.arange(4)))
    assert len(np.unique(clustered(np.ones((9, 2)), 3))) == 1


def test_clusters_of_a_run(call, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    quick = ("--network", "mlp(hidden=(32,))", "--latent-dim", 4, "--epochs", 20)
    call("train", *quick, "--output", "run")
    said = call(
        "evaluate", "run", "--num-particles", 5, "--ask", "clustering(halves=5)"
    )
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "10 clusters by k-means, label, on 359 data")
    found = json.loads(newest(Path("run")).read_text())["clustering"]
    assert found["adjusted Rand index"]["value"] > 0.2
    assert abs(found["adjusted Rand index"]["chance"]) < 0.05
    row = found["accuracy"]
    assert row["low"] < row["value"] < row["high"]
    mentions(
        refused("evaluate", "run", "--ask", "clustering(labels='label=real')"),
        "one column of categories",
    )
