"""What the data are given: columns beside x, as numbers that networks read."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.files import Parts, few
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError

KINDS = ("categorical", "real")
LABEL = ("label", "labels")  # names of the labels of any data
FEW = 20  # kinds of whole numbers that are taken for categories
SHOWN = 12  # categories in a picture
UNKNOWN = -1  # the label of a datum that has none


def asked(text: str | None) -> dict[str, str | None]:
    """The columns that `--condition` names, `a,b=real`, and the kind that is asked for, if any.

    Raises:
        InputError: for an empty name, a column that is named twice, or an unknown kind.

    >>> asked("sex,age=real,'a=b, c'")
    {'sex': None, 'age': 'real', 'a=b, c': None}
    """
    columns: dict[str, str | None] = {}
    if text is None:
        return columns
    option = f"--condition {shown(text)}"
    for part in PART.findall(text) or [""]:
        column = COLUMN.fullmatch(part)
        spellings = column.group(1, 2, 3) if column else ()
        name = next(filter(None, spellings), "").strip()
        if column is None or not name or not SEPARATED.fullmatch(text):
            raise InputError(
                f"{option}: name columns with commas between them, as in a,b; a name with a comma or = stands in quotes"
            )
        kind = column[4]
        if kind is not None and kind not in KINDS:
            raise InputError(
                f"{option}: {name} is {' or '.join(KINDS)}, not {kind!r}; a name with = stands in quotes"
            )
        if name in columns:
            raise InputError(f"{option} names {name} twice")
        columns[name] = kind
    return columns


# A column as it is typed, with commas in quotes; all of them; and its name, in quotes or without, and its kind.
ONE = r"""(?:\s*'[^']*'[^,]*|\s*"[^"]*"[^,]*|[^,]+)"""
PART = re.compile(ONE)
SEPARATED = re.compile(f"{ONE}(?:,{ONE})*")
COLUMN = re.compile(
    r"""\s*(?:'([^']*)'|"([^"]*)"|([^='"][^=]*?))\s*(?:=\s*(\w*)\s*)?"""
)


@dataclass(frozen=True)
class Condition:
    """A column that the data are given: one-hot categories, or a real number in standard units.

    Attributes:
        name: of the column.
        categories: in their order; none for a real number.
        commonest: category of the training data.
        mean, std: of a real number over the training data.
        low, high: its least and largest value there.
        latent: whether it is a y of the model, a class or a real target, which is drawn or summed over where it is not
            known.
    """

    name: str
    categories: tuple[str, ...] = ()
    commonest: str = ""
    mean: float = 0.0
    std: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    latent: bool = False

    @property
    def usual(self) -> str | float:
        """The commonest category, or the mean."""
        return self.commonest if self.categories else self.mean

    @property
    def width(self) -> int:
        """How many numbers of c it makes."""
        return len(self.categories) or 1

    def __str__(self) -> str:
        if not self.categories:
            return f"{self.name} (real, {self.mean:.4g} ± {self.std:.3g})"
        return f"{self.name} ({len(self.categories)} categories: {listed(self.categories, 6)})"

    def encode(self, values: Any, where: str = "datum {}") -> Tensor:
        """Values `(N,)` as they stand in a file -> `(N, width)` in float64.

        Raises:
            InputError: for a missing value, an unknown category, or a text where a number is due; `where` names a datum
                by its place, counted from 0.
        """
        if not self.categories:
            return self._standardised(values, where)
        texts = spelled(values)
        places = {category: i for i, category in enumerate(self.categories)}
        if self.latent:
            places |= {"": UNKNOWN, str(UNKNOWN): UNKNOWN}
        for i, text in enumerate(texts):
            if text not in places:
                what = f"the {self.name} {text!r}" if text else f"no {self.name}"
                raise InputError(
                    f"{where.format(i)} has {what}; the categories are {listed(self.categories)}"
                )
        index = torch.tensor([places[text] for text in texts], dtype=torch.int64)
        c = torch.nn.functional.one_hot(index.clamp_min(0), self.width).double()
        c[index < 0] = math.nan
        return c

    def _standardised(self, values: Any, where: str) -> Tensor:
        cells = np.asarray(values)
        if self.latent and cells.dtype.kind in "OUS":  # what is empty is not known
            cells = np.array([text or "nan" for text in spelled(cells)])
        try:
            numbers = cells.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.name} is a real number, and {where.format(0)} has {shown(str(values[0]))}"
            ) from error
        allowed = np.isfinite(numbers) | (np.isnan(numbers) & self.latent)
        bad = np.flatnonzero(~allowed)
        if len(bad):
            raise InputError(
                f"{where.format(bad[0])} has no {self.name}, or one that is infinite"
            )
        return torch.from_numpy((numbers - self.mean) / self.std)[:, None]

    def strange(self, values: Any) -> str | None:
        """A sentence where real numbers lie more than a standard deviation outside of those of the training data."""
        if self.categories:
            return None
        numbers = np.asarray(values).astype(np.float64)
        low, high = self.low - self.std, self.high + self.std
        far = numbers[(numbers < low) | (numbers > high)]
        if not len(far):
            return None
        count = "" if len(numbers) == 1 else f" in {len(far)} of {len(numbers)} data"
        return (
            f"{self.name} = {far[0]:.6g}{count} lies outside of the training data, where it is from {self.low:.6g} to "
            f"{self.high:.6g}: what the run makes of it has not been learned"
        )

    def decoded(self, c: Tensor) -> np.ndarray:
        """`(N, width)` -> the values `(N,)` that `encode` makes it from, numbers to seven digits."""
        if self.categories:
            return np.array(self.categories)[c.argmax(1).cpu().numpy()]
        numbers = c[:, 0].cpu().double().numpy() * self.std + self.mean
        return np.array([float(f"{number:.7g}") for number in numbers])

    def stored(self, moments: Tensor) -> np.ndarray:
        """Means and standard deviations of a real number in standard units, `(N, 2)`, in those of the column."""
        mean, std = moments.cpu().double().numpy().T
        return np.stack([self.mean + self.std * mean, self.std * std], 1)

    def read(self, text: str) -> str | float:
        """A value that was typed: a category in any case, `1.0` for `1`, or a number.

        Raises:
            InputError: for what is none, as the end of a sentence.
        """
        if not self.categories:
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise InputError(
                    f"{self.name} is a real number, and {shown(text)} is none"
                )
            return number
        same = [c for c in self.categories if c == text]
        alike = [c for c in self.categories if c.lower() == text.lower()]
        as_number = [c for c in self.categories if _same_number(c, text)]
        for meant in (same, alike, as_number):
            if len(meant) == 1:
                return meant[0]
        raise InputError(
            f"{self.name} is one of {listed(self.categories)}, and not {shown(text)}"
        )


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def assigned(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """What `NAME=VALUE` says, or None for no such name; a name may hold an equals sign, and the longest is meant.

    >>> assigned("a=b = 1", ["a", "a=b"]), assigned("c=1", ["a", "a=b"])
    (('a=b', '1'), None)
    """
    for name in sorted(names, key=len, reverse=True):
        rest = text.strip().removeprefix(name).lstrip()
        if text.strip().startswith(name) and rest.startswith("="):
            return name, rest[1:].strip()
    return None


def listed(names: Sequence[str], most: int = SHOWN) -> str:
    """Some names of categories, in quotes where they are more than a word or a number."""
    return few(names, most, _quoted)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.+-]+", name) else repr(name)


def _written(number: float) -> str:
    """A whole number without its point, a number that is missing as nothing."""
    if math.isnan(number):
        return ""
    return str(int(number)) if number.is_integer() else repr(number)


def spelled(values: Any) -> list[str]:
    """Values as the names of categories: whole numbers without a point, texts stripped, missing ones empty.

    >>> spelled(np.array([1.0, 2.5, np.nan])), spelled(np.array([" a", "b"])), spelled([True, False])
    (['1', '2.5', ''], ['a', 'b'], ['True', 'False'])
    """
    array = np.asarray(values)
    if array.dtype.kind == "O":
        return ["" if v is None or v != v else str(v).strip() for v in array.tolist()]  # noqa: PLR0124  # nan
    if array.dtype.kind == "f":
        return [_written(number) for number in array.tolist()]
    return [str(v).strip() for v in array.tolist()]


@dataclass(frozen=True)
class Conditions:
    """All columns that the data are given, side by side: c is `(N, width)`."""

    columns: tuple[Condition, ...]

    @property
    def width(self) -> int:
        """How many numbers each datum is given."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Of the columns that every datum has to have."""
        return tuple(column.name for column in self.columns if not column.latent)

    @property
    def latent(self) -> Condition | None:
        """The y of the model, which stands first, where there is one."""
        return next((column for column in self.columns if column.latent), None)

    def __str__(self) -> str:
        return ", ".join(map(str, self.columns))

    def encode(self, values: Mapping[str, Any], where: str = "datum {}") -> Tensor:
        """Values by column, each `(N,)` -> c, `(N, width)` in float64.

        Raises:
            InputError: for a column that is missing or not among these, and as `Condition.encode`.
        """
        names = ", ".join(self.names)
        for name in values:
            if name not in self.names:
                raise InputError(
                    f"{name} is no condition of this run, whose conditions are {names}"
                )
        for name in self.required:
            if name not in values:
                raise InputError(
                    f"the condition {name} is missing: the run is given {names}"
                )
        count = max(map(len, values.values()), default=1)
        unknown = [""] * count
        every = [c.encode(values.get(c.name, unknown), where) for c in self.columns]
        return torch.cat(every, 1)

    def given(self, texts: Sequence[str]) -> dict[str, str | float]:
        """What `--given NAME=VALUE` says, by column.

        Raises:
            InputError: for another form, an unknown column or value, and a column that is given twice.
        """
        values: dict[str, str | float] = {}
        for text in texts:
            assignment = assigned(text, self.names)
            if assignment is None:
                name, equals, _ = text.partition("=")
                unknown = f"{shown(name)} is no condition of the run"
                raise InputError(
                    f"--given {shown(text)}: {unknown if equals else 'give NAME=VALUE'}; its conditions are "
                    f"{listed(self.names)}"
                )
            name, value = assignment
            if name in values:
                raise InputError(f"--given names {name} twice")
            try:
                values[name] = self.column(name).read(value)
            except InputError as error:
                raise InputError(f"--given {shown(text)}: {error}") from error
        return values

    def column(self, name: str) -> Condition:
        """The column of this name."""
        return self.columns[self.names.index(name)]

    def strange(self, values: Mapping[str, Any]) -> list[str]:
        """Sentences about values by column, each `(N,)`, that are far from those of the training data."""
        sentences = [
            column.strange(values[column.name])
            for column in self.columns
            if column.name in values
        ]
        return [sentence for sentence in sentences if sentence is not None]

    def completed(self, given: Mapping[str, str | float]) -> dict[str, str | float]:
        """All columns, those that are not given at their usual values; a class that is not given stays open."""
        chosen = [c for c in self.columns if not c.latent or c.name in given]
        return {c.name: given.get(c.name, c.usual) for c in chosen}

    def one(self, values: Mapping[str, str | float]) -> Tensor:
        """The c of one datum, `(1, width)`; a column that has no value has its usual one, and a class none."""
        completed = self.completed(values)
        return self.encode({name: [value] for name, value in completed.items()})

    def examples(self, given: Mapping[str, str | float]) -> tuple[Tensor, list[str]]:
        """Some conditions to show side by side, `(n, width)`, and what they are called.

        They are the values of the first column that is not given, its categories or a real number from low to high;
        what else is not given has its usual value.
        """
        name = self.free(given)
        if name is None:
            return self.one(given), [", ".join(f"{k} {v}" for k, v in given.items())]
        free = self.column(name)
        if free.categories:
            values: list[Any] = list(free.categories[:SHOWN])
            words = values
        else:
            values = [free.mean + step * free.std for step in (-2, -1, 0, 1, 2)]
            words = [f"{value:.3g}" for value in values]
        c = torch.cat([self.one({**given, name: value}) for value in values])
        return c, [f"{name} {word}" for word in words]

    def free(self, given: Mapping[str, str | float]) -> str | None:
        """The first column that is not given."""
        return next((name for name in self.names if name not in given), None)

    def decoded(self, c: Tensor) -> dict[str, np.ndarray]:
        """c, `(N, width)` -> the values of each column, `(N,)`; without a class that is not known of all."""
        pieces = c.split([column.width for column in self.columns], 1)
        pairs = zip(self.columns, pieces, strict=True)
        return {k.name: k.decoded(part) for k, part in pairs if not part.isnan().any()}

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, for a file."""
        return [
            {
                "name": c.name,
                "categories": list(c.categories),
                "commonest": c.commonest,
                **({"latent": True} if c.latent else {}),
            }
            if c.categories
            else {
                "name": c.name,
                "mean": c.mean,
                "std": c.std,
                "low": c.low,
                "high": c.high,
                **({"latent": True} if c.latent else {}),
            }
            for c in self.columns
        ]

    @classmethod
    def from_list(cls, columns: Sequence[Mapping[str, Any]]) -> "Conditions":
        """Read `to_list` back."""
        read = [
            Condition(**{**c, "categories": tuple(c.get("categories", ()))})
            for c in columns
        ]
        return cls(tuple(read))


def learned(name: str, values: Parts, kind: str | None) -> tuple[Condition, list[str]]:
    """A column as a condition, from its values in each split, and what is to be said of it.

    Texts and truth values are categories, reals are numbers; whole numbers of at most 20 kinds are categories unless
    `kind` says otherwise. Categories are those of all splits; mean and spread are of the training data.

    Raises:
        InputError: for a column with one value alone, too many categories, or texts that should be numbers.
    """
    train = values["train"]
    every = np.concatenate(list(values.values()))
    if kind == "real" or (kind is None and not is_categorical(name, every)):
        try:
            numbers = train.astype(np.float64)
        except ValueError as error:
            raise InputError(
                f"--condition {name}=real: the column holds texts, such as {shown(str(train[0]))}"
            ) from error
        sound = numbers[np.isfinite(numbers)]
        std = float(sound.std()) if len(sound) else 0.0
        if std == 0:
            raise InputError(
                f"--condition {name}: all training data have the same value: leave it out"
            )
        mean, low, high = map(float, (sound.mean(), sound.min(), sound.max()))
        return Condition(name, mean=mean, std=std, low=low, high=high), []

    kinds, counts = np.unique(spelled(train), return_counts=True)
    categories = in_order({*spelled(every)} - {""})
    if len(categories) < 2:
        raise InputError(
            f"--condition {name}: all data have the same value: leave it out"
        )
    if kind is None and len(categories) > max(FEW, len(every) // 2):
        raise InputError(
            f"--condition {name} has {len(categories):,} categories in {len(every):,} data, so that few would be "
            f"learned: leave it out, or say {name}=categorical or {name}=real"
        )
    unseen = in_order({*categories} - {*kinds.tolist()})
    notes = []
    if unseen:
        notes.append(
            f"condition {name}: no training datum is {listed(unseen, 6)}, so what the model says of it is not learned"
        )
    return Condition(name, tuple(categories), str(kinds[counts.argmax()])), notes


def is_categorical(name: str, values: np.ndarray) -> bool:
    """Whether a column holds categories where nobody says: texts, labels, whole numbers of 20 kinds or fewer."""
    if values.dtype.kind in "bUOS":
        return True
    present = values[values == values]  # noqa: PLR0124  # not nan
    if not (present == np.round(present)).all():
        return False
    return name in LABEL or len(np.unique(present)) <= FEW


def in_order(texts: Iterable[str]) -> list[str]:
    """Names of categories in their order: numbers by their size, before texts."""
    return sorted(texts, key=_order)


def _order(text: str) -> tuple[Any, ...]:
    """A key that puts numbers in their order, and before texts."""
    number = re.fullmatch(r"-?\d+(\.\d+)?", text)
    return (0, float(text), text) if number else (1, 0.0, text)
