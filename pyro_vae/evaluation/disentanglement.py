"""How factors that are known stand in codes: one latent for a factor, one factor for a latent."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pyro_vae.foundation.checks import Draws, Number, checked
from pyro_vae.foundation.errors import InputError

BINS = 20  # of codes, and of factors with more values that are no categories
FOLDS = 2  # halves of the data: one to fit by, one to judge on
SURE = 0.001  # a latent tells of a factor where independence has a smaller p
Score = Callable[[np.ndarray, np.ndarray], float]


def _checked(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as matrices of finite numbers with a row for each datum."""
    z, v = (np.asarray(each, dtype=np.float64) for each in (codes, factors))
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not z.size or not v.size:
        raise InputError(
            f"codes and factors must be (n, d) and (n, k), a row for each datum, not {z.shape} and {v.shape}"
        )
    if not (np.isfinite(z).all() and np.isfinite(v).all()):
        raise InputError("codes and factors must be finite numbers")
    return z, v


def discretised(
    values: np.ndarray, bins: int = BINS, categories: tuple[int, ...] = ()
) -> np.ndarray:
    """Each column `(n, m)` as whole numbers from 0: its values, or bins of equally many where there are more than bins.

    Which bin a number falls into is the same after any increasing map of the column. Columns of categories, by their
    places, keep all of their values: these have no order, so that a bin of neighbours would mean nothing.

    >>> discretised(np.array([[0.1], [5.0], [0.2], [4.0]]), bins=2).ravel()
    array([0, 1, 0, 1])
    """
    found = np.empty(values.shape, np.int64)
    for j, column in enumerate(values.T):
        kinds, places = np.unique(column, return_inverse=True)
        if len(kinds) > bins and j not in categories:
            edges = np.quantile(column, np.arange(1, bins) / bins)
            places = np.unique(
                np.searchsorted(edges, column, side="right"), return_inverse=True
            )[1]
        found[:, j] = places
    return found


def _entropy(counts: np.ndarray) -> float:
    """The entropy of frequencies in nats, with Miller and Madow's `(m - 1) / (2 n)` for m values that occur."""
    there = counts[counts > 0]
    p = there / there.sum()
    return float(-(p * np.log(p)).sum() + (len(there) - 1) / (2 * there.sum()))


def mutual_information(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    bins: int = BINS,
) -> tuple[np.ndarray, np.ndarray]:
    """`I(z_i; v_j)` of each latent and factor, `(d, k)`, and the entropy of each factor, `(k,)`, in nats.

    Both are of binned values. Each entropy H is that of the frequencies plus `(m - 1) / (2 n)`, m the number of values
    that occur: `I = H(z) + H(v) - H(z, v)`. Without it I of independent variables would be about
    `(bins - 1)^2 / (2 n)`; with it a small I can be below 0.

    Args:
        codes: `(n, d)`.
        factors: `(n, k)`, numbers; categories as whole numbers.
        categories: which of the factors are categories without an order, by their places.
        bins: of equally many data, for latents, and for factors with more values that are no categories.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers.

    Source: Miller 1955, Note on the Bias of Information Estimates.

    >>> z = np.arange(8.0)[:, None] % 4
    >>> information, entropy = mutual_information(z, z)
    >>> bool(np.isclose(information, entropy).all())
    True
    """
    z, v = _checked(codes, factors)
    z, v = discretised(z, bins), discretised(v, bins, categories)
    of_z = [_entropy(np.bincount(column)) for column in z.T]
    of_v = [_entropy(np.bincount(column)) for column in v.T]
    information = np.empty((z.shape[1], v.shape[1]))
    for i, j in np.ndindex(information.shape):
        pairs = np.bincount(z[:, i] * (v[:, j].max() + 1) + v[:, j])
        information[i, j] = of_z[i] + of_v[j] - _entropy(pairs)
    return information, np.array(of_v)


def _gap(scores: np.ndarray) -> np.ndarray:
    """In each column the largest less the second largest, of a single row the largest."""
    ordered = np.sort(scores, axis=0)[::-1]
    return ordered[0] - (ordered[1] if len(ordered) > 1 else 0.0)


def mig(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    bins: int = BINS,
) -> float:
    """The mutual information gap, `mean_j (I(z_(1); v_j) - I(z_(2); v_j)) / H(v_j)`, of the two best latents.

    Arguments and errors as in `mutual_information`. nan where a factor has one value alone.

    Source: Chen, Li, Grosse & Duvenaud 2018, Isolating Sources of Disentanglement in VAEs.

    >>> v = np.indices((4, 4)).reshape(2, -1).T
    >>> round(mig(v, v), 6)
    1.0
    """
    information, entropy = mutual_information(
        codes, factors, categories=categories, bins=bins
    )
    with np.errstate(invalid="ignore"):
        return float((_gap(information.clip(min=0)) / entropy).mean())


def modularity(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    bins: int = BINS,
) -> float:
    """How far each latent tells of one factor alone: `mean_i 1 - sum_(j != j_i) I_ij^2 / (I_(i j_i)^2 (k - 1))`.

    `j_i` is the factor that latent i tells most of. Latents that tell of no factor are left out: those for which
    independence has a p above `0.001 / (d k)` by the G-test, `2 n I ~ chi^2((bins_z - 1)(bins_v - 1))`; without any
    other the score is 0. With one factor it is nan.

    Arguments and errors as in `mutual_information`.

    Source: Ridgeway & Mozer 2018, Learning Deep Disentangled Embeddings with the F-Statistic Loss.
    """
    from scipy.stats import chi2

    z, v = _checked(codes, factors)
    information, _ = mutual_information(z, v, categories=categories, bins=bins)
    if v.shape[1] < 2:
        return math.nan
    of_z, of_v = discretised(z, bins), discretised(v, bins, categories)
    freedom = np.outer(*(np.maximum(each.max(0), 1) for each in (of_z, of_v)))
    # Miller and Madow's correction took off what 2 n I has on average.
    probable = chi2.sf(2 * len(z) * information + freedom, freedom)
    told = (probable < SURE / information.size).any(1)
    if not told.any():
        return 0.0
    squares = information[told].clip(min=0) ** 2
    most = squares.max(1)
    others = squares.sum(1) - most
    return float((1 - others / (most * (v.shape[1] - 1))).mean())


def sap(codes: Any, factors: Any, *, categories: tuple[int, ...] = ()) -> float:
    """The separated attribute predictability: `mean_j (S_(1)j - S_(2)j)`, of the two that best predict a factor.

    `S_ij` is the squared correlation of latent and factor. For a factor of categories it is how often the category
    whose mean is nearest to the latent is the right one, each category counting the same.

    Args:
        codes: `(n, d)`.
        factors: `(n, k)`.
        categories: which of the factors are categories without an order, by their places.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers.

    Source: Kumar, Sattigeri & Balakrishnan 2018, Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations, where a linear support vector machine finds the thresholds.
    """
    z, v = _checked(codes, factors)
    scores = np.empty((z.shape[1], v.shape[1]))
    for j, factor in enumerate(v.T):
        if j in categories:
            scores[:, j] = _nearest_mean(z, factor)
            if (
                len(scores) == 1
            ):  # there is no second latent, so what it has beyond chance
                scores[:, j] -= 1 / len(np.unique(factor))
            continue
        centred, other = z - z.mean(0), factor - factor.mean()
        spread = (centred**2).sum(0) * (other**2).sum()
        squares = (centred.T @ other) ** 2
        scores[:, j] = np.divide(
            squares, spread, out=np.zeros_like(spread), where=spread > 0
        )
    return float(_gap(scores).mean())


def _nearest_mean(z: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """How often each latent is nearest to the mean of its category, `(d,)`, averaged over the categories."""
    kinds, places = np.unique(factor, return_inverse=True)
    means = np.stack([z[places == kind].mean(0) for kind in range(len(kinds))])
    found = np.abs(z[:, None] - means).argmin(1)  # (n, d)
    right = found == places[:, None]
    each = np.stack([right[places == kind].mean(0) for kind in range(len(kinds))])
    return each.mean(0)


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each 1 at best.

    Attributes:
        disentanglement: `sum_i rho_i (1 - H_k(R_i / sum_j R_ij))`, `rho_i` the share of latent i in all importance.
        completeness: `mean_j (1 - H_d(R_j / sum_i R_ij))`.
        informativeness: the mean over factors of `1 - squared error / variance`, for categories of
            `(accuracy - a) / (1 - a)`, a that of always saying the commonest.
        importance: R, `(d, k)`.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


@checked
def dci(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    by: Literal["forest", "lasso"] = "forest",
    trees: Number = 20,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness by models that predict each factor from all latents.

    `R_ij` is how much latent i matters to the prediction of factor j: in a random forest the mean decrease of impurity,
    in a lasso the size of the coefficient for latents of standard deviation 1. `H_k` is the entropy to base k. Models
    are fitted to half of the data and judged on the others; the disentanglement of one factor, and the completeness of
    one latent, are nan. A lasso, whose penalty is chosen by two folds, leaves out categories of which that half has one
    datum: it never predicts them.

    Args:
        codes: `(n, d)`.
        factors: `(n, k)`.
        categories: which of the factors are categories without an order, by their places.
        by: `'forest'`, or `'lasso'`: L1-regularised linear, for categories logistic, regression.
        trees: in a forest.
        seed: of the halves and of the forests.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers, or fewer than four data.

    Source: Eastwood & Williams 2018, A Framework for the Quantitative Evaluation of Disentangled Representations.
    """
    z, v = _checked(codes, factors)
    first, second = _halves(len(z), seed)
    scale = z.std(0)
    z = (z - z.mean(0)) / np.where(scale > 0, scale, 1.0)
    importance, informed = [], []
    for j, factor in enumerate(v.T):
        model = _model(by, trees, seed, categorical=j in categories)
        fitted = first
        if by == "lasso" and j in categories:
            fitted = first[_counts(factor[first]) >= FOLDS]
        if len(np.unique(factor[fitted])) < 2:
            importance.append(np.zeros(z.shape[1]))
            informed.append(math.nan)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step or two more changes nothing here
            model.fit(z[fitted], factor[fitted])
        importance.append(_importance(model))
        said, truth = model.predict(z[second]), factor[second]
        informed.append(_informed(said, truth, categorical=j in categories))
    r = np.stack(importance, 1)
    rho = r.sum(1) / r.sum() if r.sum() > 0 else np.full(len(r), math.nan)
    return DCI(
        float((rho * _concentration(r)).sum()),
        float(_concentration(r.T).mean()),
        float(np.mean(informed)),
        r,
    )


def _counts(column: np.ndarray) -> np.ndarray:
    """How many data have the value that each has, `(n,)`."""
    _, places, counts = np.unique(column, return_inverse=True, return_counts=True)
    return counts[places]


def _halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data in two halves."""
    if n < 2 * FOLDS:
        raise InputError(
            f"{n} data are too few to fit by one half and judge by another"
        )
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // FOLDS], order[n // FOLDS :]


def _model(by: str, trees: int, seed: int, *, categorical: bool) -> Any:
    """What predicts a factor."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LassoCV, LogisticRegressionCV

    if by == "forest":
        forest = RandomForestClassifier if categorical else RandomForestRegressor
        return forest(trees, max_features=None, min_samples_leaf=2, random_state=seed)
    if not categorical:
        return LassoCV(cv=3, random_state=seed)
    return LogisticRegressionCV(
        Cs=4, cv=2, l1_ratios=(1.0,), solver="saga", random_state=seed
    )


def _importance(model: Any) -> np.ndarray:
    found = getattr(model, "feature_importances_", None)
    return np.abs(np.atleast_2d(model.coef_)).mean(0) if found is None else found


def _informed(said: np.ndarray, truth: np.ndarray, *, categorical: bool) -> float:
    """How much better a prediction is than the mean, or the commonest category: 1 where it is always right."""
    if not categorical:
        spread = truth.var()
        return float(1 - ((said - truth) ** 2).mean() / spread) if spread else math.nan
    usual = np.unique(truth, return_counts=True)[1].max() / len(truth)
    return (
        float(((said == truth).mean() - usual) / (1 - usual)) if usual < 1 else math.nan
    )


def _concentration(r: np.ndarray) -> np.ndarray:
    """`1 - H(row / sum of row)`, the entropy to the base of the number of columns; a row of 0 has 0."""
    size = r.shape[1]
    if size < 2:
        return np.full(len(r), math.nan)
    total = r.sum(1, keepdims=True)
    p = np.divide(r, total, out=np.full(r.shape, 1 / size), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return 1 + (p * logs).sum(1) / math.log(size)


@checked
def explicitness(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    bins: Draws = BINS,
    seed: int = 0,
) -> float:
    """How well each value of each factor is told from the others by all latents: the mean of `2 AUROC - 1`.

    A logistic regression from the latents to the values of a factor, or its bins where they are more, is fitted to one
    half of the data; the areas under the ROC curve of each value against the others are of the other half.

    Arguments and errors as in `mutual_information`; `seed` is that of the halves, of four data or more.

    Source: Ridgeway & Mozer 2018, Learning Deep Disentangled Embeddings with the F-Statistic Loss.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    z, v = _checked(codes, factors)
    first, second = _halves(len(z), seed)
    scale = z.std(0)
    z = (z - z.mean(0)) / np.where(scale > 0, scale, 1.0)
    found = []
    for values in discretised(v, bins, categories).T:
        areas = [math.nan]
        if len(np.unique(values[first])) > 1:
            model = LogisticRegression(max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(z[first], values[first])
            sure = model.predict_proba(z[second])
            truths = [values[second] == kind for kind in model.classes_]
            areas = [
                roc_auc_score(truth, p)
                for truth, p in zip(truths, sure.T, strict=True)
                if truth.any() and not truth.all()
            ] or [math.nan]
        found.append(2 * np.mean(areas) - 1)
    return float(np.mean(found))


@checked
def factor_vae_score(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    group: Draws = 64,
    votes: Number = 800,
    bins: Draws = BINS,
    seed: int = 0,
) -> float:
    """How often the latent that varies least tells which factor was held fixed.

    For each vote a factor is chosen, and a value of it as frequent as in the data; `group` data with that value are
    drawn, and the latent whose variance among them is the smallest share of its variance among all votes for the
    factor. Half of the votes say which factor each latent stands for, by majority; the score is how often that is right
    for the others. Always the same factor would be right `1 / k` of the time.

    The data of a group are drawn from those there are, with replacement where they are fewer than `group`: no
    generator is needed, and factors that go together in the data go together in a group. Values that one datum alone
    has are not voted on: its latents do not vary at all. The score is nan where no factor has others.

    Args:
        codes: `(n, d)`.
        factors: `(n, k)`.
        categories: which of the factors are categories without an order, by their places.
        group: data with a value in common, for each vote.
        votes: of each half.
        bins: of factors with more values that are no categories: there a group has a bin in common.
        seed: of the draws.

    Raises:
        InputError: for arrays that are not two such matrices of finite numbers.

    Source: Kim & Mnih 2018, Disentangling by Factorising.
    """
    z, v = _checked(codes, factors)
    rng = np.random.default_rng(seed)
    spread = z.var(0)
    lively = spread > 0
    if not lively.any():
        return 1.0 / v.shape[1]
    z = z[:, lively] / np.sqrt(spread[lively])
    values = discretised(v, bins, categories)
    # Of each factor the data whose value others have too: a vote takes one of them, and data that are like it.
    shared = [np.flatnonzero(_counts(column) > 1) for column in values.T]
    voted = np.array([j for j, rows in enumerate(shared) if len(rows)])
    if not len(voted):
        return math.nan
    chosen = voted[rng.integers(len(voted), size=2 * votes)]
    least = np.empty(2 * votes, np.int64)
    for vote, j in enumerate(chosen):
        one = shared[j][rng.integers(len(shared[j]))]
        alike = np.flatnonzero(values[:, j] == values[one, j])
        rows = rng.choice(alike, group, replace=len(alike) < group)
        least[vote] = z[rows].var(0).argmin()
    table = np.zeros((z.shape[1], v.shape[1]))
    np.add.at(table, (least[:votes], chosen[:votes]), 1)
    return float((table.argmax(1)[least[votes:]] == chosen[votes:]).mean())


SCORES: Mapping[str, str] = {
    "MIG": "how much more the best latent tells of a factor than the second best, as a share of its entropy",
    "SAP": "how much better the best latent predicts a factor than the second best",
    "modularity": "1: each latent tells of one factor alone",
    "FactorVAE score": "how often the latent that varies least tells which factor is held fixed",
    "explicitness": "how well all latents together tell each value of a factor, linearly; 0 by chance",
    "DCI disentanglement": "1: each latent matters to one factor alone",
    "DCI completeness": "1: one latent alone matters to each factor",
    "DCI informativeness": "how well all latents together predict the factors; 0 by chance",
}


@checked
def scores(
    codes: Any,
    factors: Any,
    *,
    categories: tuple[int, ...] = (),
    bins: Draws = BINS,
    by: Literal["forest", "lasso"] = "forest",
    trees: Number = 20,
    seed: int = 0,
) -> dict[str, float]:
    """All scores of this module by their names in `SCORES`; arguments as in each of them."""
    told = dci(codes, factors, categories=categories, by=by, trees=trees, seed=seed)
    binned: dict[str, Any] = {"categories": categories, "bins": bins}
    found = (
        mig(codes, factors, **binned),
        sap(codes, factors, categories=categories),
        modularity(codes, factors, **binned),
        factor_vae_score(codes, factors, seed=seed, **binned),
        explicitness(codes, factors, seed=seed, **binned),
        told.disentanglement,
        told.completeness,
        told.informativeness,
    )
    return dict(zip(SCORES, found, strict=True))


def half_samples(
    measure: Callable[[np.ndarray], np.ndarray], n: int, replicates: int, seed: int = 0
) -> np.ndarray:
    """A measure of random halves of n data, `(replicates, m)`; `measure` takes the rows of a half.

    The value of a half drawn without replacement lies from that of all data as far as that of all data from the truth,
    to first order: `Var = sigma^2 / n (n / (n / 2) - 1) = sigma^2 / n`. A bootstrap would draw data twice, which
    binned information and held-out data take for structure.

    Source: Politis & Romano 1994, Large Sample Confidence Regions Based on Subsamples under Minimal Assumptions.
    """
    rng = np.random.default_rng(seed)
    return np.stack([measure(rng.permutation(n)[: n // 2]) for _ in range(replicates)])


def interval(
    value: float,
    replicates: np.ndarray,
    level: float = 0.95,
    *,
    least: float = 0,
    most: float = 1,
) -> tuple[float, float]:
    """Where a score lies: its value plus the percentiles of replicates about their own mean, from `least` to `most`.

    About their own mean, since a score of half the data is biased otherwise than one of all.
    """
    known = replicates[np.isfinite(replicates)]
    if len(known) < 2 or not math.isfinite(value):
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = value + np.quantile(known - known.mean(), [tail, 1 - tail])
    return float(np.clip(low, least, most)), float(np.clip(high, least, most))


def by_chance(
    codes: Any, factors: Any, *, repeats: int = 3, seed: int = 0, **options: Any
) -> dict[str, float]:
    """The scores of factors that belong to other data: what codes that know nothing of the factors would get."""
    z, v = _checked(codes, factors)
    rng = np.random.default_rng(seed)
    found = [
        scores(z, v[rng.permutation(len(v))], seed=seed + i, **options)
        for i in range(repeats)
    ]
    return {name: float(np.mean([each[name] for each in found])) for name in SCORES}


__all__ = [
    "DCI",
    "SCORES",
    "by_chance",
    "dci",
    "explicitness",
    "factor_vae_score",
    "half_samples",
    "interval",
    "mig",
    "modularity",
    "mutual_information",
    "sap",
    "scores",
]
