"""What the codes of a run say of factors that are known: the question of how far these are disentangled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from pyro_vae.data.conditions import FEW, asked, in_order, is_categorical, spelled
from pyro_vae.data.fields import evenly
from pyro_vae.evaluation.disentanglement import (
    SCORES,
    by_chance,
    half_samples,
    interval,
    mutual_information,
    scores,
)
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
from pyro_vae.foundation.checks import Draws, Number, share
from pyro_vae.foundation.errors import InputError

HEADS = {"value": "value", "low": "interval: from", "high": "to", "chance": "by chance"}
OF_FACTOR = {
    "latent": "best latent",
    "best": "tells, share of entropy",
    "second": "second best",
    "gap": "gap",
}
LEAST = 12  # data: the quarter of them that DCI is fitted to has three
TREE = 1000  # bytes of one, at least
FEW_DATA = 500  # fewer say little about scores of binned values


@dataclass(frozen=True)
class Factors:
    """Factors of N data as numbers.

    Attributes:
        names: k of them.
        values: `(N, k)`, categories by their number, nan where one is not known.
        categories: the places of those without an order.
    """

    names: tuple[str, ...]
    values: np.ndarray
    categories: tuple[int, ...]

    @classmethod
    def of(
        cls, columns: Mapping[str, Any], kinds: Mapping[str, str | None]
    ) -> "Factors":
        """Columns `(N,)` by their names, of a kind that is said or that of `--condition`."""
        values, categories = [], []
        for place, (name, column) in enumerate(columns.items()):
            kind = kinds.get(name)
            array = np.asarray(column)
            if kind == "real" or (kind is None and not is_categorical(name, array)):
                values.append(_numbers(name, array))
                continue
            categories.append(place)
            texts = spelled(array)
            order = {text: i for i, text in enumerate(in_order({*texts} - {""}))}
            values.append(np.array([order.get(text, math.nan) for text in texts]))
        return cls(tuple(columns), np.stack(values, 1), tuple(categories))

    @property
    def known(self) -> np.ndarray:
        """Which data have all of them, `(N,)` booleans."""
        return np.isfinite(self.values).all(1)

    def alone(self, places: np.ndarray) -> dict[str, int]:
        """Of each factor of categories how many of them one alone of the data in some places has.

        Raises:
            InputError: for a factor with one value, or with more categories than half of the data.
        """
        found = {}
        for j, name in enumerate(self.names):
            kinds, counts = np.unique(self.values[places, j], return_counts=True)
            if len(kinds) == 1:
                raise InputError(
                    f"the factor {name} has one value alone in these data: leave it out, as in factors='size,form'"
                )
            if j in self.categories:
                found[name] = int((counts == 1).sum())
            if j in self.categories and len(kinds) > max(FEW, len(places) // 2):
                raise InputError(
                    f"the factor {name} has {len(kinds)} categories in {len(places)} data, so that nothing can be said "
                    "of most of them: leave it out, or if it is a number say factors='size=real'"
                )
        return found


def _numbers(name: str, column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(np.float64)
    except ValueError as error:
        raise InputError(
            f"the factor {name} holds texts, which are categories: leave out =real"
        ) from error


def factors_of(data: Evaluated, names: str | None, called: str = "factors") -> Factors:
    """The factors of the data that are evaluated, by the names of their columns, as the argument `called` has them.

    Raises:
        InputError: where there is none of these columns.
    """
    if data.columns is None:
        raise InputError("these data have no columns beside them that are factors")
    try:
        columns = data.columns(names)
    except InputError as error:
        told = str(error).replace("--condition", called)
        hint = "" if names else "; name columns of the data, as in factors='size,form'"
        raise InputError(told + hint) from error
    return Factors.of(columns, asked(names))


@dataclass(frozen=True)
class Disentangled(Printed):
    """Scores of N codes by name, with their intervals and what chance gives.

    Attributes:
        names: of the factors.
        values: by score.
        replicates: of random halves of the data, `(R, scores)`.
        chance: the scores of the factors of other data.
        information: `I(z_i; v_j)` in nats, `(d, k)`.
        entropy: of each factor, nats, `(k,)`.
        num_data: N.
        level: of the intervals.
        alone: categories of each factor that one datum alone has.
    """

    names: tuple[str, ...]
    values: Mapping[str, float]
    replicates: np.ndarray
    chance: Mapping[str, float]
    information: np.ndarray
    entropy: np.ndarray
    num_data: int
    level: float
    alone: Mapping[str, int]

    def answer(self) -> Answer:
        """Scores, and for each factor which latent tells of it."""
        rows: dict[str, dict[str, Any]] = {}
        for i, (name, value) in enumerate(self.values.items()):
            low, high = interval(value, self.replicates[:, i], self.level)
            chance = self.chance[name]
            rows[name] = {"value": value, "low": low, "high": high, "chance": chance}
        warnings = []
        if self.num_data < FEW_DATA:
            warnings.append(
                f"{self.num_data} data are few for scores of binned values: compare them with what chance gives"
            )
        for name, count in self.alone.items():
            if count:
                warnings.append(
                    f"of {count} of the categories of {name} there is one datum alone: the FactorVAE score and a lasso "
                    "leave these out"
                )
        return Answer(
            title="Disentanglement",
            about=f"of {', '.join(self.names)} in {len(self.information)} latents, on {self.num_data} data",
            rows=rows,
            heads=HEADS,
            meanings=SCORES,
            sentences=[
                f"Intervals of {100 * self.level:g} %, from the scores of {len(self.replicates)} random halves of the "
                "data; by chance: the factors of other data in place of their own."
            ],
            warnings=warnings,
            parts={"factors": self._of_factors()},
            numbers={
                "data": self.num_data,
                "level": self.level,
                "mutual_information": self.information.tolist(),
                "entropy": self.entropy.tolist(),
            },
        )

    def _of_factors(self) -> Answer:
        """For each factor the latents that tell most of it."""
        rows = {}
        for j, name in enumerate(self.names):
            shares = self.information[:, j].clip(min=0) / max(self.entropy[j], 1e-9)
            order = shares.argsort()[::-1]
            best = float(shares[order[0]])
            second = float(shares[order[1]]) if len(order) > 1 else 0.0
            rows[name] = {
                "latent": int(order[0]),
                "best": best,
                "second": second,
                "gap": best - second,
            }
        return Answer(
            title="What latents tell of each factor", rows=rows, heads=OF_FACTOR
        )


class Disentanglement(Question):
    """How far factors that are known stand in latents of their own: MIG, SAP, DCI, modularity, FactorVAE score.

    Codes are the means of q(z|x).

    Args:
        factors: columns, as in `'size,form=categorical'`: factors of a named data set, columns or arrays of the file
            (they may be dropped from the data), or `'label'`; by default those of the data set, else the conditions of
            the run, else the labels.
        bins: of each latent, and of factors with more values that are no categories.
        by: what predicts factors for DCI, `'forest'` or `'lasso'`.
        trees: in each forest.
        halves: random halves of the data for the intervals.
        level: of the intervals.
        most: data that are looked at, spread evenly.
    """

    def __init__(
        self,
        *,
        factors: str | None = None,
        bins: Draws = 20,
        by: Literal["forest", "lasso"] = "forest",
        trees: Number = 20,
        halves: Draws = 50,
        level: Annotated[float, share(zero=False)] = 0.95,
        most: Draws = 2000,
    ) -> None:
        self.factors, self.bins, self.by, self.trees = factors, bins, by, trees
        self.halves, self.level, self.most = halves, level, most

    def check(self, run: Trained, data: Evaluated) -> None:
        if not run.vae.model.latent_dim:
            raise InputError("the run has no latents beside its classes")
        self.afford(8 * self.halves * len(SCORES), "halves")
        self.afford(8 * self.bins, "bins")
        self.afford(TREE * self.trees, "trees")
        if data.columns is not None:
            self._rows(factors_of(data, self.factors))

    def _rows(self, found: Factors) -> np.ndarray:
        """The data that are looked at, by their places.

        Raises:
            InputError: where they are too few, or a factor of theirs has no or too many values.
        """
        places = np.flatnonzero(found.known)
        if len(places) < LEAST:
            raise InputError(
                f"{len(places)} data have all of the factors {', '.join(found.names)}, and {LEAST} are the least"
            )
        places = places[evenly(min(self.most, len(places)), len(places)).numpy()]
        found.alone(places)
        return places

    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        found = factors_of(data, self.factors)
        places = self._rows(found)
        alone = found.alone(places)
        with forked_random():
            means, _ = encode(run.vae, data.x)
        z, v = means.numpy()[places].astype(np.float64), found.values[places]
        options: dict[str, Any] = {
            "categories": found.categories,
            "bins": self.bins,
            "by": self.by,
            "trees": self.trees,
        }
        with progress("halves", self.halves) as done:

            def measure(rows: np.ndarray) -> np.ndarray:
                each = scores(z[rows], v[rows], **options)
                done(1)
                return np.array([*each.values()])

            replicates = half_samples(measure, len(z), self.halves)
        information, entropy = mutual_information(
            z, v, categories=found.categories, bins=self.bins
        )
        return Disentangled(
            found.names,
            scores(z, v, **options),
            replicates,
            by_chance(z, v, **options),
            information,
            entropy,
            len(z),
            self.level,
            alone,
        ).answer()
