"""What a density has to know of each column: its centre, its spread, and whether its values lie on a lattice.

A density can grow without end on values that repeat: a narrow peak on each is as high as one likes. A scale that is
kept above half a step cannot, since the density at the points of the lattice, times the step, then sums to 1 within
1 %. Where the step is below `1 / FINE` of the spread, the least scale of a likelihood, 1e-3, does that already.
"""

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pyro_vae.data.lattice import is_decimal, lattice
from pyro_vae.data.units import Each, Units, alike
from pyro_vae.foundation.commands import option
from pyro_vae.foundation.errors import InputError

ROWS = 10_000  # data that are looked at
POOLED = 2**18  # values of images that are looked at
FINE = 500  # steps in a standard deviation that make a lattice as good as a continuum
COARSE = 2  # steps in a standard deviation below which a density is no description
BLURRED = 10  # least numbers of the stored type in a standard deviation
REPEATED = 20  # times that each value occurs, on average, where there are few of them
# steps between one value and the next, as a rule, where there are few of them
SPARSE = 8
FAR = 100  # spreads from 0 at which float32 begins to lose a difference
HELD = (1e-10, 1e10)  # spreads that float32 holds, their squares too
HEAVY = 100  # times the spread of the inner half: a deviation that is worth a word


class Column(NamedTuple):
    """One column of a table, or one channel of images.

    Attributes:
        kind: 'real', 'rounded' (a lattice that a density can bear with a least scale), 'coarse' or 'whole' (lattices
            that it cannot), 'few' (different values without a common step), 'constant' or 'empty' (no value was seen).
        centre: the median, exact.
        spread: standard deviation of the inner half of the values, as if they were normal; of all where that is 0.
        step: of the lattice, 0 where there is none.
        different: how many different values were seen.
        repeated: a value that stands out by being repeated, and its share.
        extreme: where a value lies that is far from all others, and the value.
        blurred: the type that the values are stored as, where it is too coarse to hold them.
    """

    kind: str
    centre: float
    spread: float
    step: float
    different: int
    repeated: tuple[float, float] | None = None
    extreme: tuple[int, float] | None = None
    blurred: str = ""


MASS = Column("mass", 0.0, 0.0, 0.0, 0)  # of which nothing needs to be known
EMPTY = Column("empty", 0.0, 0.0, 0.0, 0)


def column(values: np.ndarray, *, whole_too: bool = False) -> Column:
    """What one column is, from its values `(N,)` in the type that they are stored as.

    With `whole_too` whole numbers may be rounded measurements, where their step is small enough for a density. What is
    nan was not seen.
    """
    there = values[~np.isnan(values)] if _real(values) else values
    if not len(there):
        return EMPTY
    different, counts = np.unique(there, return_counts=True)
    centre = different[np.searchsorted(counts.cumsum(), (len(there) + 1) // 2)]
    if len(different) == 1:
        return Column("constant", centre.item(), 0.0, 0.0, 1)

    # Differences from the centre: exact for whole numbers, and small for any.
    real = _real(values)
    exact = np.float64 if real else np.int64
    points = (different.astype(exact) - centre.astype(exact)).astype(np.float64)
    largest = np.abs(points).max()
    root = math.sqrt(np.average((points / largest) ** 2, weights=counts))
    deviation = float(largest * root)
    quartiles = len(there) * np.array([0.25, 0.75])
    low, high = points[np.searchsorted(counts.cumsum(), quartiles)]
    spread = float(high - low) / 1.349 or deviation
    about = {"centre": centre.item(), "spread": spread, "different": len(different)}

    # The lattice of the values, or that of the type that they are stored as.
    if real:
        grid = lattice(different.astype(np.float64), float(np.finfo(values.dtype).eps))
        finest = np.spacing(np.abs(different[[0, -1]]).max())
    else:
        grid = lattice(points, np.finfo(np.float64).eps)
        finest = 1.0
    step = grid.step if grid else float(finest)
    if real and deviation < BLURRED * finest:
        return Column("coarse", step=step, blurred=str(values.dtype), **about)

    # Few values with wide gaps between them: the step of their lattice says nothing of where they are.
    gap = float(np.median(np.diff(points)))
    sparse = grid is None or SPARSE * step < gap
    if sparse and len(different) * REPEATED <= len(there):
        return Column("few", step=0.0, **about)
    if deviation < FINE * step:
        kind = "coarse" if deviation < COARSE * step else "rounded"
        whole = step == round(step) and bool((different == np.round(different)).all())
        if whole and not whole_too:
            kind = "whole"
        return Column(kind, step=step, **about)

    # Reals, unless some of them are out of place.
    most = int(counts.argmax())
    share = counts[most] / len(there)
    stands_out = grid is None and counts[most] >= 10 and share > 0.01
    repeated = (different[most].item(), share) if stands_out else None
    extreme = None
    if largest > HEAVY * spread:
        value = different[int(np.abs(points).argmax())]
        extreme = (int((values == value).argmax()), value.item())
    step = grid.step if grid else 0.0
    return Column("real", step=step, repeated=repeated, extreme=extreme, **about)


def _decade(spread: float) -> float:
    """The power of ten below a positive number."""
    return float(f"1e{math.floor(math.log10(spread))}")


def _real(values: np.ndarray) -> bool:
    return values.dtype.kind == "f"


NOISE = "add --dequantize (uniform noise of one step)"


class Columns:
    """The columns of a table, or the channels of images, and what follows from them for a density.

    Args:
        sample: some of the data, `(N, *shape)`, as they are stored.
        names: of the columns, where they have some.
        dense: the elements that are given a density, where others are given a mass; `None`: all of them.
    """

    def __init__(
        self,
        sample: np.ndarray,
        names: Sequence[str] | None,
        dense: Collection[int] | None = None,
    ) -> None:
        self.shape = sample.shape[1:]
        if len(self.shape) == 1 or dense is not None:
            columns = list(sample.reshape(len(sample), -1).T)
        else:  # one channel after the other, or all as one
            colours = len(self.shape) == 3 and self.shape[0] <= 4
            channels = self.shape[0] if colours else 1
            pixels = sample.reshape(len(sample), channels, -1)
            every = -(-pixels[:, 0].size // POOLED)
            columns = [pixels[:, c].ravel()[::every] for c in range(channels)]
        self.parts = [
            column(np.ascontiguousarray(values), whole_too=dense is not None)
            if dense is None or i in dense
            else MASS
            for i, values in enumerate(columns)
        ]
        self.named = names is not None
        self.names = list(names) if names else [str(i) for i in range(len(columns))]

    def of(self, *kinds: str) -> list[int]:
        """The columns of these kinds."""
        return [i for i, c in enumerate(self.parts) if c.kind in kinds]

    def _spread_out(self, numbers: Sequence[float]) -> Each:
        """One number for each element of a datum, from one for each column or channel."""
        elements = math.prod(self.shape) // len(numbers)
        return alike([n for n in numbers for _ in range(elements)])

    @cached_property
    def units(self) -> Units | None:
        """What to count from and in, so that float32 holds the differences; `None` where it holds them as they are."""
        shifts, units = [], []
        for c in self.parts:
            held = not c.spread or HELD[0] <= c.spread <= HELD[1]
            unit = 1.0 if held else _decade(3 * c.spread)
            far = abs(c.centre) > FAR * c.spread
            decade = _decade(c.spread) if c.spread else 0.0
            if isinstance(c.centre, int):
                decade = max(1, int(decade)) if decade < 2**62 else 0
            shift = round(c.centre / decade) * decade if decade else c.centre
            shifts.append(float(shift if far else 0))
            units.append(unit)
        if not any(shifts) and set(units) == {1.0}:
            return None
        return Units(self._spread_out(shifts), self._spread_out(units))

    @cached_property
    def steps(self) -> Each:
        """The noise that makes a density of each column, in stored units: one step, or none for reals."""
        return self._spread_out([c.step for c in self.parts])

    @cached_property
    def floors(self) -> Each:
        """The least scale of a density of each column, in stored units."""
        rounded = [c.step if c.kind == "rounded" else 0.0 for c in self.parts]
        return self._spread_out([step / 2 for step in rounded])

    def check(self, data: str, *, noise: bool, mixed: bool = False) -> None:
        """Raise `InputError` for columns that no density can be put on, naming them and the ways out.

        Args:
            data: name of the data, for the sentence.
            noise: whether uniform noise of one step is added.
            mixed: whether each column has a likelihood of its own.
        """
        if columns := self.of("empty"):
            raise InputError(
                f"{data} has no value in all training data of {self.listed(columns)}; {self.dropping(columns)}"
            )
        if columns := self.of("constant"):
            raise InputError(
                f"{data} has one value in all data of {self.listed(columns)}, on which a density has no meaning; "
                f"{self.dropping(columns)}"
            )
        if columns := [i for i, c in enumerate(self.parts) if c.blurred]:
            c = self.parts[columns[0]]
            raise InputError(
                f"{data} is stored in numbers of {c.blurred}, which hold the values of {self.listed(columns)} only to "
                f"{c.step:.3g} near {c.centre:.6g}, while they spread by {c.spread:.3g}: write the file in float64, or "
                "take off the offset before"
            )
        if columns := self.of("few"):
            raise InputError(
                f"{data} has only {self.parts[columns[0]].different} different values in {self.listed(columns)}, where "
                f"a density can grow without end: {self._ways(columns, mixed=mixed)}"
            )
        columns = self.of("coarse", "whole")
        if columns and not noise:
            steps, more = self._steps(columns)
            raise InputError(
                f"the values of {data} are whole multiples of a step ({steps}{more}) in {self.listed(columns)}, where "
                f"a density can grow without end: {self._ways(columns, mixed=mixed, noise=NOISE)}"
            )

    def _ways(self, columns: list[int], *, mixed: bool, noise: str = "") -> str:
        """What can be done about columns that no density can be put on."""
        if mixed:
            ways = [
                "name another likelihood for it, which --likelihood columns chooses"
            ]
        elif len(self.shape) == 1:
            ways = [
                "give each column a likelihood of its own (--likelihood columns)",
                noise,
            ]
        else:
            ways = [noise, "choose a likelihood for whole numbers"] if noise else []
        *first, last = [way for way in (*ways, self.dropping(columns)) if way]
        return f"{', '.join(first)}, or {last}" if first else last

    def _steps(self, columns: list[int]) -> tuple[str, str]:
        """The first steps of columns in their order, and a sign that there are more."""
        steps = sorted({self.parts[i].step for i in columns})
        return ", ".join(f"{s:.6g}" for s in steps[:4]), ", ..." if steps[4:] else ""

    def doubt(self) -> str | None:
        """Why a density of these columns can grow without end, in a sentence for someone who calls from code."""
        empty, constant = self.of("empty"), self.of("constant")
        few, stepped = self.of("few"), self.of("coarse", "whole")
        for i in self.of("rounded"):  # levels that were divided, as bytes by 255
            if not is_decimal(float(f"{self.parts[i].step:.4g}")):
                stepped.append(i)
        if empty:
            return f"{self.listed(empty)} has no value in all data, and what is said of it is a guess"
        if constant:
            return f"{self.listed(constant)} has one value in all data, where a density can grow without end"
        if few:
            count = self.parts[few[0]].different
            return f"{self.listed(few)} has only {count} different values, where a density can grow without end"
        if not stepped:
            return None
        step = self.parts[min(stepped)].step
        return (
            f"{self.listed(sorted(stepped))}: the values are whole multiples of a step ({step:.6g}), where a density "
            "can grow without end; add uniform noise of one step, or take a likelihood for whole numbers"
        )

    def remarks(self, rows: np.ndarray, *, noise: bool) -> list[str]:
        """A sentence for each thing that someone who puts a density on the data should know.

        Args:
            rows: the number of each datum of the sample in its file.
            noise: whether uniform noise of one step is added.
        """
        notes = []
        if not noise and (rounded := self.of("rounded")):
            steps, _ = self._steps(rounded)
            notes.append(
                f"{self.listed(rounded)}: values are rounded to {steps}; the scale of a density is kept above half "
                "of that"
            )
        for i, c in enumerate(self.parts):
            if c.extreme:
                row, value = c.extreme
                table = len(self.shape) == 1
                where = f"row {rows[row]} (counted from 0)" if table else "one image"
                notes.append(
                    f"{self.listed([i])}: {value:.6g} in {where} is {abs(value - c.centre) / c.spread:.3g} times as "
                    "far from the median as is usual; is it right? --likelihood studentt bears such values"
                )
            if c.repeated:
                notes.append(
                    f"{self.listed([i])}: {c.repeated[0]:.6g} stands in {100 * c.repeated[1]:.2g} % of the data; if it "
                    "marks missing values, leave those rows out, since a density can put a peak there"
                )
        if len(notes) > 6:
            notes[5:] = [f"and {len(notes) - 5} more such columns"]
        return notes

    def farthest(self, values: np.ndarray, rows: np.ndarray) -> str | None:
        """A sentence on the value of other data, `(N, D)`, that is farthest out, where it is far from all of these."""
        centre = np.array([float(c.centre) for c in self.parts])
        spread = np.array([c.spread or np.inf for c in self.parts])
        far = np.nan_to_num(np.abs((values.astype(np.float64) - centre) / spread))
        row, i = np.unravel_index(far.argmax(), far.shape)
        if far[row, i] <= HEAVY:
            return None
        return (
            f"{self.listed([int(i)])}: {values[row, i]:.6g} in row {rows[row]} (counted from 0) is "
            f"{far[row, i]:.3g} times as far from the median as is usual; is it right?"
        )

    def listed(self, columns: list[int]) -> str:
        """Columns by their names, a few of them."""
        if len(self.shape) > 1:
            return "the channels of the images" if self.parts[1:] else "the images"
        names = ", ".join(self.names[i] for i in columns[:4])
        more = f" and {len(columns) - 4} more" if columns[4:] else ""
        counted = "" if self.named else " (counted from 0)"
        return f"column{'s' if columns[1:] else ''} {names}{more}{counted}"

    def dropping(self, columns: list[int]) -> str:
        """How to leave columns out."""
        if len(self.shape) > 1:
            return "change the images"
        way = f"np.delete(x, {columns}, axis=1)"
        if self.named:
            way = option("drop", ",".join(self.names[i] for i in columns))
        return f"leave {'them' if columns[1:] else 'it'} out ({way})"
