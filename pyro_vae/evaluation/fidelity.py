"""How far samples are from data, by features of both: distances, precision and recall, density and coverage."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.foundation.checks import Draws, Number, checked
from pyro_vae.foundation.errors import InputError

SIZES = 10  # of samples, from which the Fréchet distance is extrapolated
NEIGHBOURS = 5  # of density and coverage
FEW_NEIGHBOURS = 3  # of precision and recall


def _pair(real: Any, fake: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices of finite numbers with the same columns."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (real, fake))
    if (
        a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[1]
        or min(len(a), len(b)) < 2
    ):
        raise InputError(
            f"features must be (n, d) and (m, d), of two data or more each, not {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features must be finite numbers")
    return a, b


def frechet(real: Any, fake: Any) -> float:
    """`|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))`, the Fréchet distance of two normal distributions.

    Means and covariances are those of the samples, which makes it too large: of one distribution it is about
    `c / n`, see `frechet_limit`.

    Args:
        real: features, `(n, d)`.
        fake: features, `(m, d)`.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers.

    Source: Dowson & Landau 1982; Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule Converge to a Local
    Nash Equilibrium.

    >>> a = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(frechet(a, a + 3), 6)
    18.0
    """
    a, b = _pair(real, fake)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    first, second = (np.atleast_2d(np.cov(each.T)) for each in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ second @ root).clip(min=0)
    spread = np.trace(first) + np.trace(second) - 2 * np.sqrt(both).sum()
    return float(apart + spread)


@checked
def frechet_limit(
    real: Any, fake: Any, *, sizes: Draws = SIZES, seed: int = 0
) -> float:
    """The Fréchet distance extrapolated to infinitely many data: the intercept of a line in `1 / n`.

    Both samples are cut to the same random sizes n, evenly spread in `1 / n` from a half of all to all of them. The
    bias of both is then `c / n` to first order, and the line takes it off; what is left can be below 0. Arguments and
    errors as in `frechet`.

    Source: Chong & Forsyth 2020, Effectively Unbiased FID and Inception Score and Where to Find Them.
    """
    a, b = _pair(real, fake)
    rng, most = np.random.default_rng(seed), min(len(a), len(b))
    inverse = np.linspace(1 / most, 2 / most, sizes)
    counts = np.maximum(np.round(1 / inverse).astype(int), 2)
    found = []
    for n in counts:
        rows = (rng.permutation(len(each))[:n] for each in (a, b))
        found.append(frechet(*(each[i] for each, i in zip((a, b), rows, strict=True))))
    if len(np.unique(counts)) < 2:
        return found[0]
    return float(np.polyfit(1 / counts, found, 1)[1])


class Kernel(NamedTuple):
    """The kernel distance and its standard error."""

    value: float
    standard_error: float


def kernel_distance(real: Any, fake: Any) -> Kernel:
    """The squared maximum mean discrepancy under `k(a, b) = (a b / d + 1)^3`, without bias, and its standard error.

    `MMD^2 = 1 / (n (n - 1)) sum_(i != j) h_ij`, `h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)`, is a
    U-statistic, with variance `4 (n - 2) / (n (n - 1)) zeta_1 + 2 / (n (n - 1)) zeta_2`, `zeta_1` the variance of the
    mean of h in one datum and `zeta_2` that of h. zeta_1 is not taken below 0, which makes the error some 30 % too
    large where both are one distribution. Of one distribution it is 0 on average, and can be below 0.

    Args:
        real: features, `(n, d)`.
        fake: features, `(m, d)`; of the larger sample as many are taken as the smaller has.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers.

    Source: Bińkowski, Sutherland, Arbel & Gretton 2018, Demystifying MMD GANs (KID); Gretton et al. 2012, A Kernel
    Two-Sample Test; Hoeffding 1948 (the variance).
    """
    a, b = _pair(real, fake)
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u @ v.T / u.shape[1] + 1) ** 3

    cross = kernel(a, b)
    h = kernel(a, a) + kernel(b, b) - cross - cross.T
    np.fill_diagonal(h, 0.0)
    value = h.sum() / (n * (n - 1))
    of_pairs = max((h**2).sum() / (n * (n - 1)) - value**2, 0.0)
    means = h.sum(1) / (n - 1)
    of_each = max(means.var(ddof=1) - of_pairs / (n - 1), 0.0)
    variance = (4 * (n - 2) * of_each + 2 * of_pairs) / (n * (n - 1))
    return Kernel(float(value), math.sqrt(variance))


class Distances(NamedTuple):
    """Squared distances of real data among each other `(n, n)`, of fakes `(m, m)`, and from real to fake `(n, m)`."""

    real: np.ndarray
    fake: np.ndarray
    across: np.ndarray

    @classmethod
    def of(cls, real: Any, fake: Any) -> "Distances":
        """Those of features `(n, d)` and `(m, d)`."""
        a, b = _pair(real, fake)
        return cls(squares(a, a), squares(b, b), squares(a, b))

    def at(self, rows: np.ndarray, columns: np.ndarray) -> "Distances":
        """Those of some of the real data and some of the fakes."""
        return Distances(
            self.real[np.ix_(rows, rows)],
            self.fake[np.ix_(columns, columns)],
            self.across[np.ix_(rows, columns)],
        )


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances of rows, `(n, m)`."""
    centre = b.mean(0)
    a, b = a - centre, b - centre  # near 0 less is lost to rounding
    every = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return every.clip(min=0)


def _radii(distances: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each from its k-th neighbour, itself not counted, `(n,)`."""
    own = distances.copy()
    np.fill_diagonal(own, np.inf)
    k = min(k, len(own) - 1)
    return np.partition(own, k - 1, axis=1)[:, k - 1]


@checked
def manifolds(
    distances: Distances,
    *,
    few_neighbours: Number = FEW_NEIGHBOURS,
    neighbours: Number = NEIGHBOURS,
) -> dict[str, float]:
    """Precision, recall, density and coverage by balls that reach to the k-th neighbour of their centre.

    Precision is the share of fakes in the ball of some real datum, recall that of real data in the ball of some fake.
    Density is `1 / (k m)` times the sum over fakes of the balls of real data that hold them, coverage the share of real
    data whose ball holds a fake. Of one distribution density is 1 on average and coverage `1 - 2^-k` for many data.

    Args:
        distances: of both samples.
        few_neighbours: k of precision and recall.
        neighbours: k of density and coverage.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models; Naeem et al.
    2020, Reliable Fidelity and Diversity Metrics for Generative Models.
    """
    real, fake, across = distances
    near = across <= _radii(real, few_neighbours)[:, None]
    back = across <= _radii(fake, few_neighbours)
    held = across <= _radii(real, neighbours)[:, None]
    return {
        "precision": float(near.any(0).mean()),
        "recall": float(back.any(1).mean()),
        "density": float(held.sum(0).mean() / min(neighbours, len(real) - 1)),
        "coverage": float(held.any(1).mean()),
    }


def distances_of(real: Any, fake: Any) -> Mapping[str, float]:
    """All numbers of this module by their names in `MEASURES`."""
    return {
        "Fréchet distance": frechet(real, fake),
        "Fréchet distance, extrapolated": frechet_limit(real, fake),
        "kernel distance": kernel_distance(real, fake).value,
        **manifolds(Distances.of(real, fake)),
    }


MEASURES: Mapping[str, str] = {
    "Fréchet distance": "between normal distributions with the moments of the features; too large by about c / n",
    "Fréchet distance, extrapolated": "the same for infinitely many data; around 0 where both are one distribution",
    "kernel distance": "MMD² under (a b / d + 1)³, unbiased; around 0 where both are one distribution",
    "precision": "the share of samples that lie among the data",
    "recall": "the share of data that lie among the samples",
    "density": "how many balls about data hold a sample, by what is expected; 1 for one distribution",
    "coverage": "the share of data with a sample among their nearest neighbours",
}
