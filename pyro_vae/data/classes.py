"""The class of each datum as a pair with classes reads it: from labels, of which some may be kept, or without any."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pyro_vae.data.conditions import (
    FEW,
    LABEL,
    UNKNOWN,
    Condition,
    in_order,
    listed,
    spelled,
)
from pyro_vae.data.files import Parts
from pyro_vae.foundation.errors import InputError

CLUSTER = "cluster"  # what a class is called that no label names
MOST = 1000  # classes
PER_KIND = 3  # data of each class, at least, on average
REAL = "take them for a real target by --structure \"labelled(target='real')\""


class Labelling(NamedTuple):
    """A class as a condition that may be unknown, and what training is told of it.

    Attributes:
        column: its name and its values.
        kept: the labels of the training data, `(N,)`, empty where there is none; `None` where none is looked at.
        notes: what is to be said of it.
    """

    column: Condition
    kept: np.ndarray | None
    notes: tuple[str, ...]


def without_labels(size: int) -> Labelling:
    """Classes that are called by their numbers, from 0."""
    names = tuple(map(str, range(size)))
    return Labelling(Condition(CLUSTER, names, names[0], latent=True), None, ())


def with_labels(
    labels: Parts,
    size: int | None,
    *,
    keep: int | None = None,
    seed: int = 0,
    name: str = LABEL[0],
) -> Labelling:
    """Classes that are called by labels.

    Args:
        labels: of each split, of any type; nan, -1 or an empty text where there is none.
        size: how many classes there are; by default as many as there are labels. What no label names has a number.
        keep: how many training data keep their labels, as many of each class; by default all.
        seed: of which these are.
        name: of the column.

    Raises:
        InputError: for labels of one kind or of too many, more labels than classes, or fewer labelled data than are to
            be kept.
    """
    every = {split: _named(values) for split, values in labels.items()}
    kinds = in_order({*np.concatenate([*every.values()]).tolist()} - {""})
    if _are_reals(labels, kinds):
        raise InputError(
            f"the labels are {len(kinds):,} different numbers, such as {listed(kinds, 3)}, and hardly classes: {REAL}, "
            "or write them as texts"
        )
    if len(kinds) < 2:
        raise InputError(
            f"the labels name {len(kinds)} class{'' if len(kinds) == 1 else 'es'}, and there have to be 2 or more; "
            f"{UNKNOWN} and what is empty stand for no label"
        )
    if len(kinds) > MOST:
        raise InputError(
            f"the labels have {len(kinds):,} kinds, such as {listed(kinds, 3)}, and classes are {MOST:,} at most: do "
            "they name the data?"
        )
    size = len(kinds) if size is None else size
    if size < len(kinds):
        raise InputError(
            f"the labels name {len(kinds)} classes, {listed(kinds, 6)}, and the structure has {size}: give it "
            f"classes={len(kinds)}, or more"
        )
    train = every["train"]
    kept = train if keep is None else _some(train, kinds, keep, seed)
    counts = Counter(kept[kept != ""].tolist())
    commonest = max(kinds, key=lambda kind: counts[kind])
    names = (*kinds, *(f"{CLUSTER} {i}" for i in range(len(kinds), size)))
    return Labelling(
        Condition(name, names, commonest, latent=True), kept, tuple(_said(kept, kinds))
    )


def _are_reals(labels: Parts, kinds: Sequence[str]) -> bool:
    """Whether labels are numbers that are no classes: many fractions, or whole numbers that occur once or twice."""
    every = np.concatenate([*labels.values()])
    if every.dtype.kind not in "iuf" or len(kinds) <= FEW:
        return False
    present = every[every == every]  # noqa: PLR0124  # not nan
    fractions = bool((present != np.round(present)).any())
    return fractions or len(kinds) > len(present) // PER_KIND


def _named(values: np.ndarray) -> np.ndarray:
    """Labels as texts, empty where there is none."""
    texts = np.array(spelled(values), dtype=str)
    return np.where(texts == str(UNKNOWN), "", texts)


def _some(train: np.ndarray, kinds: Sequence[str], keep: int, seed: int) -> np.ndarray:
    """The same labels with `keep` of them left, as many of each kind."""
    there = int((train != "").sum())
    if keep > there:
        raise InputError(
            f"--labelled {keep:,}: {there:,} of {len(train):,} training data have a label"
        )
    generator = np.random.default_rng(seed)
    queues = [generator.permutation(np.flatnonzero(train == kind)) for kind in kinds]
    # Round by round one of each kind, as long as it has some.
    turns = [
        (turn, kind, row)
        for kind, rows in enumerate(queues)
        for turn, row in enumerate(rows)
    ]
    chosen = [row for _, _, row in sorted(turns)[:keep]]
    kept = np.full_like(train, "")
    kept[chosen] = train[chosen]
    return kept


def _said(kept: np.ndarray, kinds: Sequence[str]) -> list[str]:
    """How many data have a label, and of which kinds there is none."""
    known = int((kept != "").sum())
    notes = [f"labels: {known:,} of {len(kept):,} training data have one"]
    without = [kind for kind in kinds if not (kept == kind).any()]
    if without and known:
        notes.append(f"labels: no training datum has {listed(without, 6)}")
    return notes
