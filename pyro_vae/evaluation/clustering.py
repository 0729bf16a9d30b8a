"""Clusters of codes beside labels: whether what lies together is called the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pyro_vae.data.fields import evenly
from pyro_vae.evaluation.disentanglement import half_samples, interval
from pyro_vae.evaluation.factors import HEADS, factors_of
from pyro_vae.evaluation.moments import encode
from pyro_vae.evaluation.question import (
    Answer,
    Evaluated,
    Printed,
    Progress,
    Question,
    Trained,
    unseen,
)
from pyro_vae.foundation.abstract import forked_random
from pyro_vae.foundation.checks import Draws, Number, checked, share
from pyro_vae.foundation.errors import InputError

STARTS = 5  # of k-means, of which the best is kept
LEAST = 4  # data: a half of them has two
MEASURES: Mapping[str, str] = {
    "accuracy": "clusters and labels paired one to one, as well as possible",
    "adjusted Rand index": "pairs of data that both put together or apart; 0 as by chance, 1: the same partition",
    "V-measure": "mean of the next two; the same as mutual information over the mean entropy",
    "homogeneity": "1: a cluster has one label alone",
    "completeness": "1: a label is in one cluster alone",
    "silhouette of clusters": "how much nearer a code is to its own cluster than to the next; from -1 to 1",
    "silhouette of labels": "the same of the labels in place of clusters",
}


@checked
def clustered(codes: Any, clusters: Number, *, seed: int = 0) -> np.ndarray:
    """The cluster of each code by k-means, `(n,)`, the best of five starts.

    Args:
        codes: `(n, d)`, compared in their own units.
        clusters: how many; of fewer different codes there are as many clusters as these.
        seed: of the starts.
    """
    from sklearn.cluster import KMeans

    z = np.asarray(codes, dtype=np.float64)
    count = min(clusters, len(np.unique(z, axis=0)))
    found: np.ndarray = KMeans(count, n_init=STARTS, random_state=seed).fit_predict(z)
    return found


def agreement(found: Any, labels: Any) -> dict[str, float]:
    """How well a partition agrees with labels, whatever its parts are called.

    Accuracy pairs clusters and labels one to one so that most data agree; the Rand index is adjusted so that it is 0 on
    average for partitions by chance; homogeneity is `1 - H(label|cluster) / H(label)`, completeness
    `1 - H(cluster|label) / H(cluster)`, and the V-measure their harmonic mean.

    Args:
        found: the cluster of each datum, `(n,)`.
        labels: the label of each, `(n,)`.

    Source: Kuhn 1955, The Hungarian Method; Hubert & Arabie 1985, Comparing Partitions; Rosenberg & Hirschberg 2007,
    V-Measure.

    >>> agreement([0, 0, 1, 1], ["b", "b", "a", "a"])["accuracy"]
    1.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import (
        adjusted_rand_score,
        homogeneity_completeness_v_measure,
    )
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, found)
    rows, columns = linear_sum_assignment(-table)
    homogeneity, completeness, v = homogeneity_completeness_v_measure(labels, found)
    return {
        "accuracy": float(table[rows, columns].sum() / table.sum()),
        "adjusted Rand index": float(adjusted_rand_score(labels, found)),
        "V-measure": float(v),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
    }


def silhouette(codes: Any, groups: Any) -> float:
    """The mean of `(b - a) / max(a, b)`: a the mean distance to codes of the own group, b that to the nearest other.

    nan where there is one group alone, or one for each code. Source: Rousseeuw 1987, Silhouettes.
    """
    from sklearn.metrics import silhouette_score

    count = len(np.unique(groups))
    if not 1 < count < len(groups):
        return float("nan")
    return float(silhouette_score(np.asarray(codes), groups))


def measures(codes: np.ndarray, labels: np.ndarray, clusters: int) -> dict[str, float]:
    """All numbers of this module, of k-means with so many clusters, by their names in `MEASURES`."""
    found = clustered(codes, clusters)
    return {
        **agreement(found, labels),
        "silhouette of clusters": silhouette(codes, found),
        "silhouette of labels": silhouette(codes, labels),
    }


@dataclass(frozen=True)
class Clustered(Printed):
    """Measures of k-means on N codes beside their labels.

    Attributes:
        name: of the labels.
        clusters: how many.
        values: by measure.
        replicates: of random halves, clustered anew, `(R, measures)`.
        chance: with the labels of other data.
        num_data: N.
        level: of the intervals.
    """

    name: str
    clusters: int
    values: Mapping[str, float]
    replicates: np.ndarray
    chance: Mapping[str, float]
    num_data: int
    level: float

    def answer(self) -> Answer:
        """Agreement and silhouettes with their intervals."""
        rows = {}
        for i, (name, value) in enumerate(self.values.items()):
            low, high = interval(value, self.replicates[:, i], self.level, least=-1)
            chance = self.chance[name]
            rows[name] = {"value": value, "low": low, "high": high, "chance": chance}
        return Answer(
            title="Clusters of codes beside labels",
            about=f"{self.clusters} clusters by k-means, {self.name}, on {self.num_data} data",
            rows=rows,
            heads=HEADS,
            meanings=MEASURES,
            sentences=[
                f"Intervals of {100 * self.level:g} %, from {len(self.replicates)} random halves of the data, each "
                "clustered anew; by chance: the labels of other data in place of their own."
            ],
            numbers={
                "data": self.num_data,
                "clusters": self.clusters,
                "level": self.level,
            },
        )


class Clustering(Question):
    """Whether codes that lie together have one label: k-means on the means of q(z|x), beside labels.

    Args:
        labels: a column of categories beside the data, as in `'form'`; by default their labels.
        clusters: of k-means; by default as many as there are labels.
        halves: random halves of the data for the intervals.
        level: of the intervals.
        most: data that are looked at, spread evenly.
    """

    def __init__(
        self,
        *,
        labels: str = "label",
        clusters: Draws | None = None,
        halves: Draws = 50,
        level: Annotated[float, share(zero=False)] = 0.95,
        most: Draws = 2000,
    ) -> None:
        self.labels, self.clusters = labels, clusters
        self.halves, self.level, self.most = halves, level, most

    def check(self, run: Trained, data: Evaluated) -> None:
        if not run.vae.model.latent_dim:
            raise InputError("the run has no latents beside its classes")
        if data.columns is not None:
            self._of(data)
        self.afford(8 * self.halves * len(MEASURES), "halves")
        self.afford(8 * (self.clusters or 1), "clusters")

    def _of(self, data: Evaluated) -> tuple[str, np.ndarray]:
        """The name of the labels, and for each datum the number of its own, nan where there is none."""
        found = factors_of(data, self.labels, "labels")
        if len(found.names) != 1 or found.categories != (0,):
            raise InputError(
                f"labels={self.labels!r} of Clustering must name one column of categories, as in labels='form'"
            )
        return found.names[0], found.values[:, 0]

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        name, every = self._of(data)
        places = np.flatnonzero(np.isfinite(every))
        places = places[evenly(min(self.most, len(places)), len(places)).numpy()]
        if len(places) < LEAST:
            raise InputError(
                f"{len(places)} data have a {name}, and {LEAST} are the least"
            )
        if len(np.unique(every[places])) == 1:
            raise InputError(
                f"all of these data have the same {name}: clusters have nothing to be compared with"
            )
        with forked_random():
            means, _ = encode(run.vae, data.x)
        z, labels = means.numpy()[places].astype(np.float64), every[places].astype(int)
        clusters = self.clusters or len(np.unique(labels))
        with progress("halves", self.halves) as done:

            def measure(rows: np.ndarray) -> np.ndarray:
                done(1)
                return np.array([*measures(z[rows], labels[rows], clusters).values()])

            replicates = half_samples(measure, len(z), self.halves)
        others = labels[np.random.default_rng(0).permutation(len(labels))]
        return Clustered(
            name,
            clusters,
            measures(z, labels, clusters),
            replicates,
            measures(z, others, clusters),
            len(z),
            self.level,
        ).answer()
