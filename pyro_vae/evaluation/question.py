"""What is asked of a trained pair, and what it is answered with: one family of questions, one kind of answer."""

import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from scipy.special import stdtrit
from torch import Tensor

from pyro_vae.data import evenly
from pyro_vae.engine.memory import MEMORY
from pyro_vae.foundation.checks import shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.html import Html, card, grid, lines
from pyro_vae.foundation.memory import affordable
from pyro_vae.foundation.sizes import Declared, given
from pyro_vae.foundation.terminal import in_columns, width_of_terminal

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from pyro_vae.models.vae import VAE

NAMED = 5  # data left out that are named
MATTERS = 0.1  # nats; less is not worth a warning
DISTINCT = 3  # standard errors
ERRORS = {
    "data_standard_error": "data",
    "monte_carlo_standard_error": "Monte Carlo",
}
COLUMNS = {
    "mean": "mean",
    "data_standard_error": "± data",
    "monte_carlo_standard_error": "± Monte Carlo",
}


class Estimate(NamedTuple):
    """A mean, and how far other data and other draws would move it; `None` where that is not known."""

    mean: float
    data_standard_error: float | None = None
    monte_carlo_standard_error: float | None = None

    @classmethod
    def over(cls, values: Tensor) -> "Estimate":
        """The mean over data, `(N,)`; the spread of the values holds the noise of the draws too."""
        return PerDatum(values, None).estimate

    def __str__(self) -> str:
        errors = [f"± {error:.3f}" for error in self[1:] if error is not None]
        return " ".join([f"{self.mean:.3f}", *errors])


class Shown:
    """What says itself in one line at a prompt, and in a notebook as a table, by its answer."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A dataclass writes out all of its fields, unless the class itself has something else.
        cls.__repr__ = cls.__dict__.get("__repr__", Shown.__repr__)  # type: ignore[method-assign]

    def told(self) -> "Answer":
        """What is said of it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.told().line()})"

    def _repr_html_(self) -> str:
        return self.told().html()


class Printed(Shown, ABC):
    """A result that prints itself as its answer."""

    @abstractmethod
    def answer(self) -> "Answer":
        """What it says."""

    def told(self) -> "Answer":
        return self.answer()

    def __str__(self) -> str:
        return str(self.told())


@dataclass(frozen=True)
class Shards:
    """Results over shards of data, which add up: `a + b` holds the data of both.

    Tensors are kept on the host, without their gradients.
    """

    def __post_init__(self) -> None:
        for name, value in self._fields().items():
            object.__setattr__(self, name, on_host(value))

    def __add__(self, other: Self) -> Self:
        pairs = zip(self._fields().items(), other._fields().values(), strict=True)
        return type(self)(
            **{name: _joined(name, mine, theirs) for (name, mine), theirs in pairs}
        )

    def at(self, rows: Any) -> Self:
        """Those of some of the data, by any index."""
        return type(self)(
            **{name: _cut(value, rows) for name, value in self._fields().items()}
        )

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class PerDatum(Shards, Printed):
    """A number for each of N data, with the error that comes from the draws.

    Attributes:
        values: `(N,)`; what is not finite is left out of the means.
        standard_errors: how far other draws would move each value, `(N,)`; `None` where that is not known.

    Tensors are kept on the host, without their gradients.

    Results over shards of data add up: `a + b` holds the data of both.
    """

    values: Tensor
    standard_errors: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The columns by name, each `(N,)`."""
        return {
            name: column
            for name, column in self._fields().items()
            if isinstance(column, Tensor) and not name.startswith("num_")
        }

    @property
    def sound(self) -> Tensor:
        """Which data have a finite value, `(N,)` booleans: a density that underflows has none, and no mean bears it."""
        return self.values.isfinite()

    @property
    def mean(self) -> float:
        """The average of the finite values."""
        return self.values[self.sound].mean().item()

    @property
    def data_standard_error(self) -> float:
        """How far another sample of N data would move the mean: `std(values) / sqrt(N)`; nan for a single datum."""
        values = self.values[self.sound]
        if len(values) < 2:
            return math.nan
        return (values.std() / math.sqrt(len(values))).item()

    @property
    def monte_carlo_standard_error(self) -> float:
        """How far other draws would move the mean: `sqrt(sum se^2) / N`; nan where that is not known."""
        if self.standard_errors is None:
            return math.nan
        errors = self.standard_errors[self.sound]
        return errors.square().sum().sqrt().item() / max(len(errors), 1)

    @property
    def estimate(self) -> Estimate:
        """The mean and its errors."""
        if self.standard_errors is None:
            return Estimate(self.mean, self.data_standard_error)
        return Estimate(
            self.mean, self.data_standard_error, self.monte_carlo_standard_error
        )

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the mean over all such data lies: `mean ± t_(N - 1) se`, by the spread of the N values.

        That spread holds the Monte-Carlo errors too, so they are not added. It covers the expectation of the
        estimates, which for `log p(x)` lies `bias` below the truth. Values of few data are too skewed for it: of a
        five-dimensional Gaussian it covers 94.2 % with 30 data, 93.7 % with 20, 92.1 % with 5.

        Raises:
            InputError: for a level that is not between 0 and 1.
        """
        freedom = self.sound.sum().double() - 1
        reach = student(freedom, level).item() * self.data_standard_error
        return self.mean - reach, self.mean + reach

    def among(self, rows: Tensor) -> "PerDatum":
        """The same with the data outside `rows`, `(N,)` booleans, left out of the means."""
        return PerDatum(self.values.where(rows, math.nan), self.standard_errors)

    def answer(self) -> "Answer":
        about = f"{len(self)} data"
        if not self.sound.any():
            return Answer("A number for each datum", about, sentences=self._left_out())
        rows = {"values": self}
        return Answer("A number for each datum", about, rows, unit="")

    def _left_out(self) -> list[str]:
        """A sentence about the data that the mean leaves out, if there are any."""
        lost = len(self) - int(self.sound.sum())
        if lost == 0:
            return []
        verb = "have" if lost > 1 else "has"
        return [f"Without {lost} of the data, which {verb} no finite value."]


def _cut(value: Any, rows: Any) -> Any:
    """One field of a result, as that of some of its data."""
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Shards):
        return value.at(rows)
    if isinstance(value, dict):
        return {key: column[rows] for key, column in value.items()}
    return value


def _joined(name: str, first: Any, second: Any) -> Any:
    """One field of two results over shards of data, as that of both."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    if isinstance(first, PerDatum):
        return first + second
    if isinstance(first, dict):
        return {
            key: torch.cat([first[key], second[key]]) for key in first if key in second
        }
    if first != second:
        words = name.replace("num_", "numbers of ")
        raise InputError(
            f"results with different {words}, {first} and {second}, cannot be joined"
        )
    return first


def student(freedom: Tensor, level: float) -> Tensor:
    """The two-sided quantile of Student's t: `P(|t| < q) = level`, with at least one degree of freedom."""
    if not 0 < level < 1:
        raise InputError(f"level={level!r} must lie between 0 and 1")
    return torch.as_tensor(
        stdtrit(freedom.clamp_min(1).numpy(), (1 + level) / 2), dtype=torch.float64
    )


def on_host(value: Any) -> Any:
    """A tensor without its gradient and off the GPU; anything else as it is."""
    return value.detach().cpu() if isinstance(value, Tensor) else value


class Drawing(NamedTuple):
    """A figure that is drawn when it is asked for, and what it shows, in words."""

    make: "Callable[[], Figure]"
    caption: str


Row = PerDatum | Estimate | Mapping[str, Any]


@dataclass(frozen=True)
class Answer(Shown):
    """What a question is answered with; text, JSON and the page are made of nothing else.

    Attributes:
        title: what was asked.
        about: of what, and how.
        rows: by name a mean with its errors, or the cells of a row by their column.
        unit: of the means.
        heads: what columns of such cells are called in a table; those that it lacks stand in the JSON alone.
        meanings: what a row says, for a reader who does not know.
        sentences: what else there is to say.
        warnings: what makes a number doubtful, one sentence each.
        figures: by the name of the file.
        columns: what goes into the arrays of an evaluation, a number for each datum, `(N,)`.
        numbers: further plain values for the JSON.
        parts: answers that this one is made of, by name.

    Printed, it is a table with its sentences.
    """

    title: str
    about: str = ""
    rows: Mapping[str, Row] = field(default_factory=dict)
    unit: str = "nats per datum"
    heads: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = ()
    figures: Mapping[str, Drawing] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    parts: "Mapping[str, Answer]" = field(default_factory=dict)

    def told(self) -> "Answer":
        return self

    def line(self) -> str:
        """The title, and of its means the first with its errors."""
        title = ", ".join(filter(None, (self.title, self.about)))
        for name, row in self.rows.items():
            if "mean" in (known := cells(row)):
                errors = [
                    f"± {known[k]:.3f} ({w})" for k, w in ERRORS.items() if k in known
                ]
                return " ".join([f"{title}: {name} {known['mean']:.3f}", *errors])
        return title

    def html(self) -> str:
        """The same tables, sentences and warnings for a notebook."""
        made: list[Any] = []
        for head, group in tables(self.rows, self.heads):
            unit = self.unit if "mean" in head else ""
            texts = [[_text(cell) for cell in row] for row in group]
            made.append(grid([unit, *head.values()], texts))
        made += [lines(self.sentences), lines(self.warnings, before="warning: ")]
        made += [Html(part.html()) for part in self.parts.values()]
        return card(self.title, self.about, *made)

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`: rows, numbers and parts by their names, and the texts."""
        texts = {
            "title": self.title,
            "about": self.about,
            "unit": self.unit if self.rows else "",
            "heads": dict(self.heads),
            "meanings": dict(self.meanings),
            "sentences": list(self.sentences),
            "warnings": list(self.warnings),
            "figures": {
                name: drawing.caption for name, drawing in self.figures.items()
            },
        }
        rows = {name: cells(row) for name, row in self.rows.items()}
        parts = {name: part.to_dict() for name, part in self.parts.items()}
        return {
            **rows,
            **self.numbers,
            **parts,
            **{k: v for k, v in texts.items() if v},
        }

    def plus(self, **more: Any) -> "Answer":
        """The same with more sentences, rows, figures or whatever else, behind its own."""
        joined: dict[str, Any] = {
            name: {**getattr(self, name), **value}
            if isinstance(value, Mapping)
            else (*getattr(self, name), *value)
            for name, value in more.items()
        }
        return replace(self, **joined)

    def __str__(self) -> str:
        lines = [": ".join(filter(None, (self.title, self.about)))]
        for head, group in tables(self.rows, self.heads):
            lines += _aligned(
                [[self.unit if "mean" in head else "", *head.values()], *group]
            )
        lines += self.sentences
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n\n".join(["\n".join(lines), *map(str, self.parts.values())])


def listed(places: Sequence[int]) -> str:
    """The first few of some places, and how many more there are."""
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"{', '.join(map(str, places[:NAMED]))}{more}"


def cells(row: Row) -> dict[str, Any]:
    """A row as plain values by their columns."""
    if isinstance(row, PerDatum):
        row = row.estimate
    if not isinstance(row, Estimate):
        return dict(row)
    return {name: v for name, v in row._asdict().items() if v is not None}


def tables(
    rows: Mapping[str, Row], heads: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], list[list[Any]]]]:
    """Rows as tables: means with means, others with those of the same columns.

    Returns:
        For each table the words above its columns, and its rows, the name of each first.
    """

    def head(item: tuple[str, Row]) -> dict[str, str]:
        known = cells(item[1])
        named = {key: heads[key] for key in known if key in heads}
        if "mean" in known:
            return {**COLUMNS, **named}
        return named if heads else {key: key for key in known}

    for words, group in itertools.groupby(rows.items(), key=head):
        lines = [(name, cells(row)) for name, row in group]
        used = {
            k: word for k, word in words.items() if any(k in line for _, line in lines)
        }
        yield used, [[name, *(line.get(key) for key in used)] for name, line in lines]


def _aligned(lines: list[list[Any]]) -> list[str]:
    """Cells as text, in columns; on a terminal no wider than it is."""
    columns = [[_text(cell) for cell in column] for column in zip(*lines, strict=True)]
    # The first holds the names.
    return in_columns(columns, range(1, len(columns)), width_of_terminal())


def _text(cell: Any) -> str:
    """A cell of a table: in powers of ten where a number is large."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4f}" if abs(cell) < 1e7 else f"{cell:.2g}"


class Trained(Protocol):
    """The run that is asked: a trained pair, and data.

    Attributes:
        vae: the pair.
        config: the options of the training.
        epoch: after which its weights were kept.
    """

    vae: "VAE"
    config: dict[str, Any]
    epoch: int

    def remember(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep plain values with the run, under a name, in place of what was kept there."""

    def remembered(self, name: str) -> dict[str, Any]:
        """What was kept under a name; nothing where nothing was."""

    def split(self, name: str) -> Any:
        """One split of its data, `'train'`, `'validation'` or `'test'`."""

    def outside(self, name: str) -> Any:
        """Other data as the run sees them: all rows of a file, or the test data of a named data set."""


@dataclass(frozen=True)
class Evaluated:
    """The data that are asked about.

    Attributes:
        x: what the likelihood sees, N data.
        rows: their places in the file, counted from 0, `(N,)`.
        called: what the data are called, such as `'digits test'`.
        names: what each datum is called, `(N,)`, or `None`.
        limit: how many of other data are taken, spread evenly, or `None` for all.
        num_particles: draws for each datum, where a question does not say how many.
        memory: bytes to keep within.
        log_marginal: what was found of `log p(x)`, once it was; every later question is of these data.
        whole: the same data with the values that are missing in `x` on purpose, N, or `None`.
        labels: of the data, of any type, `(N,)`, or `None`.
        columns: gives columns beside the data by their names, each `(N,)`, for a text such as `'size,form'`, or those
            that stand for factors for `None`.
    """

    x: Any
    rows: "np.ndarray"
    called: str = "data"
    names: "np.ndarray | None" = None
    limit: int | None = None
    num_particles: int = 5000
    memory: int = MEMORY
    log_marginal: PerDatum | None = None
    whole: Any = None
    labels: "np.ndarray | None" = None
    columns: "Callable[[str | None], dict[str, np.ndarray]] | None" = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def sound(self) -> Tensor:
        """Which data have a finite log p(x), `(N,)` booleans."""
        if self.log_marginal is None:
            return torch.ones(len(self), dtype=torch.bool)
        return self.log_marginal.sound

    def some(self, most: int) -> tuple[Any, Tensor]:
        """At most so many data with a finite log p(x), spread evenly, and their places among all, `(n,)`."""
        places = self.sound.nonzero().flatten()
        few = self.x.among(self.sound).first(most)
        return few, places[evenly(len(few), len(places))]

    def left_out(self, sound: Tensor, what: str) -> list[str]:
        """A sentence about data that have a finite log p(x), and yet no finite value of something else."""
        lost = (~sound & self.sound).nonzero().flatten().tolist()
        if not lost:
            return []
        rows = listed(self.rows[lost].tolist())
        return [
            f"Without finite {what}, and left out: row {rows} of the data (from 0)."
        ]

    def exceeded(self, name: str, other: PerDatum) -> list[str]:
        """A warning where a second estimate of `log p(x)` is clearly higher than the first."""
        if self.log_marginal is None:
            return []
        more = other.mean - self.log_marginal.mean
        errors = [v.monte_carlo_standard_error for v in (other, self.log_marginal)]
        noise = math.hypot(*(error for error in errors if not math.isnan(error)))
        if not more > max(MATTERS, DISTINCT * noise):
            return []
        return [
            f"{name} finds {more:.2f} nats more, beyond {DISTINCT} standard errors: log p(x) is higher than the number "
            "says."
        ]


# What a function calls with how much more is done than at its last call.
Tick = Callable[[int], None] | None

# What a question calls with a unit and how many there are of it: it gives what to call with the units just done.
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], Any]]]


@contextmanager
def unseen(unit: str, total: int | None) -> Iterator[Callable[[int], Any]]:
    """Progress that nobody sees."""
    yield lambda done: None


class Question(Declared, ABC):
    """Something to ask of a trained run: `evaluate --ask "ais(chains=32)"`.

    To write one: implement `ask`. Its arguments are keyword-only, with defaults; their annotations say what they take.
    The command line, the files of an evaluation and the page find it.

    Attributes:
        typed: the options that some of its arguments were given by, `{"chains": "--chains"}`.
        unasked: whether an evaluation asks it of its own accord.
    """

    typed: Mapping[str, str] = MappingProxyType({})
    unasked = False

    @property
    def key(self) -> str:
        """What the answer is called in the files."""
        return type(self).__name__.lower()

    def check(self, run: Trained, data: Evaluated) -> None:  # nothing to check
        """Raise `InputError` where the question cannot be asked of this run, before any work is done."""

    def said(self, *names: str) -> str:
        """Arguments as they were given, `--chains=32` or `chains=32 of AIS`; of several those that were changed."""
        defaults, values = inspect.signature(type(self)).parameters, given(self)
        changed = [name for name in names if values[name] != defaults[name].default]
        chosen = {
            self.typed.get(name, name): shown(values[name]) for name in changed or names
        }
        words = " and ".join(f"{name}={value}" for name, value in chosen.items())
        if all(name.startswith("--") for name in chosen):
            return words
        return f"{words} of {type(self).__name__}"

    def afford(self, size: float, *names: str) -> None:
        """Raise `InputError` where these arguments ask for more bytes than there are."""
        affordable(size, self.said(*names))

    @abstractmethod
    def ask(self, run: Trained, data: Evaluated, progress: Progress = unseen) -> Answer:
        """Work the answer out.

        Args:
            run: the trained pair and its data.
            data: those that are asked about.
            progress: shows how far the work is.
        """

    def __str__(self) -> str:
        """The question as the command line has it, files without their folders."""
        module, name = type(self).__module__, type(self).__name__
        place = "" if module.partition(".")[0] == "pyro_vae" else f"{module}:"
        options = [f"{k}={_public(v)!r}" for k, v in given(self).items()]
        return f"{place}{name}({', '.join(options)})"


def _public(value: Any) -> Any:
    """An argument for others to read: of a whole path the last part."""
    if isinstance(value, tuple):
        return tuple(map(_public, value))
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value
