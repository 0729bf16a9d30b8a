"""The real target of each datum as a pair reads it: from labels, of which some may be kept."""

import numpy as np

from pyro_vae.data.classes import Labelling
from pyro_vae.data.conditions import LABEL, Condition
from pyro_vae.data.files import Parts
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError

LEAST = 2  # labels, which have a mean and a deviation


def with_targets(
    labels: Parts, *, keep: int | None = None, seed: int = 0, name: str = LABEL[0]
) -> Labelling:
    """A real target that is called by its column, in units of the deviation of the labels that are kept.

    Args:
        labels: of each split, numbers; nan or an empty text where there is none.
        keep: how many training data keep their labels, at random; by default all.
        seed: of which these are.
        name: of the column.

    Raises:
        InputError: for texts, infinite numbers, labels that are all the same, or fewer labelled data than are to be
            kept.
    """
    every = {split: as_reals(values, name) for split, values in labels.items()}
    train = every["train"]
    there = np.flatnonzero(~np.isnan(train))
    kept = train
    if keep is not None:
        if keep > len(there):
            raise InputError(
                f"--labelled {keep:,}: {len(there):,} of {len(train):,} training data have a label"
            )
        there = np.random.default_rng(seed).permutation(there)[:keep]
        kept = np.full_like(train, np.nan)
        kept[there] = train[there]
    known = train[there]
    if len(known) < LEAST or known.std() == 0:
        given = "" if keep is None else f", of which --labelled keeps {keep}"
        raise InputError(
            f"a real target is counted in units of the deviation of its labels, and those of the training data{given} "
            "have none: it takes two or more that differ"
        )
    mean, std, low, high = map(
        float, (known.mean(), known.std(), known.min(), known.max())
    )
    column = Condition(name, mean=mean, std=std, low=low, high=high, latent=True)
    how = "" if keep is None else ", chosen at random"
    note = f"labels: {len(known):,} of {len(train):,} training data have one{how}"
    return Labelling(column, kept, (note,))


def as_reals(values: np.ndarray, name: str = LABEL[0]) -> np.ndarray:
    """Labels `(N,)` as float64, nan where there is none.

    Raises:
        InputError: for a text that is no number, and for an infinite one.
    """
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
    else:
        numbers = np.array([_number(str(value).strip(), name) for value in values])
    if np.isinf(numbers).any():
        raise InputError(
            f"the labels {name} hold an infinite number: write nothing where there is none"
        )
    return numbers


def _number(text: str, name: str) -> float:
    """A label from its text, nan from an empty one."""
    try:
        return float(text or "nan")
    except ValueError as error:
        raise InputError(
            f"target='real' is given numbers, and the labels {name} hold {shown(text)}: name a column of numbers with "
            "--labels, or leave target out for classes"
        ) from error
