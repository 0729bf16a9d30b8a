"""Tables of columns of mixed kinds: what each column is taken for, from data to x and back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.representation import Representation
from pyro_vae.data.schema import CODED, Held, Schema, Wish
from pyro_vae.data.sets import DataSet
from pyro_vae.data.usual import usual_likelihood
from pyro_vae.foundation.commands import in_python
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.html import card, preformatted
from pyro_vae.foundation.terminal import in_columns, width_of_terminal
from pyro_vae.spec import Member, parse, parse_columns

USUAL = {
    "real": "gaussian",
    "unit": "gaussian",
    "positive": "lognormal",
    "count": "negativebinomial",
    "bit": "bernoulli",
    "ordinal": "ordinal",
    "category": "categorical",
}
KINDS = {
    Representation.REAL: "real",
    Representation.POSITIVE: "positive",
    Representation.UNIT: "unit",
    Representation.COUNTS: "count",
    Representation.LEVELS: "levels",
    Representation.BINARY: "bit",
}


class Table:
    """A pandas DataFrame as a VAE takes it: what each column holds, the likelihood of each, and `x`.

    Args:
        frame: a DataFrame of numbers, truth values and texts. A name of a column is a text.
        likelihood: what the columns are taken for, in the grammar of `--likelihood`: `'columns'` chooses by what they
            hold, `'columns, income=laplace'` chooses the others, `'age=poisson, sex=bernoulli'` names all.
        missing: whether cells may be missing, which are nan in `x`: for a VAE that is made with `missing=True`.

    Attributes:
        schema: what each column holds.
        likelihood: the likelihood of all, for `Spec(table.shape, likelihood=table.likelihood)`.
        x: the data, `(N, D)`, float64.

    Raises:
        InputError: for a column that is missing, has a missing value, or cannot be what it is to be.

    >>> import pandas
    >>> people = pandas.DataFrame({"age": [31, 45, 27, 60], "sex": ["f", "m", "f", "f"]})
    >>> table = Table(people, "columns, age=poisson")
    >>> print(table)
    column  likelihood   holds                 because
    age     Poisson()    counts                it is asked for
    sex     Bernoulli()  two values: 'f', 'm'  two different texts
    >>> table.x[0].tolist(), table.frame(torch.tensor([[50.0, 1.0]])).values.tolist()
    ([31.0, 0.0], [[50, 'm']])
    """

    def __init__(
        self, frame: Any, likelihood: str = "columns", *, missing: bool = False
    ) -> None:
        wishes = wishes_of(likelihood)
        if wishes is None:
            raise InputError(
                f"likelihood={likelihood!r} is one for all of x: name columns, as in 'age=poisson, sex=bernoulli', or "
                "say 'columns'"
            )
        self.missing = missing
        with _spelled():
            self.schema = Schema.of(frame, wishes, missing=missing)
            self.likelihood = likelihood_of(self.schema, likelihood)
        self.x = self.see(frame)

    @property
    def shape(self) -> tuple[int]:
        """Of one datum."""
        return (len(self.schema.columns),)

    def see(self, frame: Any) -> Tensor:
        """A DataFrame with the same columns as data, `(N, D)`, float64.

        Raises:
            InputError: for a column that is missing, and for cells that it does not know.
        """
        with _spelled():
            return torch.from_numpy(self.schema.codes(frame, missing=self.missing))

    def frame(self, x: Tensor, index: Any = None) -> Any:
        """Data `(N, D)` as a DataFrame with the names, types and categories of this table."""
        return self.schema.frame(x.detach().cpu().double().numpy(), index)

    def __str__(self) -> str:
        return choices(self.schema, self.likelihood)

    def __repr__(self) -> str:
        return f"Table({self._size()}, likelihood={self.likelihood!r})"

    def _repr_html_(self) -> str:
        return card("Table", self._size(), preformatted(str(self)))

    def _size(self) -> str:
        return f"{len(self.x):,} rows of {self.shape[0]} columns"


@contextmanager
def _spelled() -> Iterator[None]:
    """Sentences name parameters in place of options of the command line."""
    try:
        yield
    except InputError as error:
        raise InputError(in_python(str(error))) from None


def wishes_of(likelihood: str | None) -> dict[str, Wish] | None:
    """What columns are to be taken for by `--likelihood`; `None` where it is none of columns."""
    members = _members(likelihood)
    if members is None:
        return None
    return {name: _wish(name, text) for name, text in members.items()}


def _members(likelihood: str | None) -> Mapping[str, Any] | None:
    """The likelihoods of columns as they are asked for, by name."""
    if likelihood is None:
        return None
    named = parse_columns(likelihood)
    if named is not None:
        return named
    known = parse("likelihood", likelihood)
    columns = known.arguments.get("columns") if known.name == "Columns" else None
    return (
        {name: str(m) for name, m in columns.items()}
        if isinstance(columns, dict)
        else None
    )


def _wish(name: str, text: str) -> Wish:
    """What a column is to be taken for, by the likelihood that it is given."""
    member, categories = _with_levels(text)
    try:
        made = member((1,))
    except InputError as error:
        raise InputError(f"--likelihood {name}={text}: {error}") from error
    seen = {"category": "category", "order": "ordinal"}.get(made.seen_as or "")
    kind = seen or KINDS.get(made.support)
    if kind is None:
        raise InputError(f"--likelihood {name}={text} is no likelihood of one column")
    if categories and kind not in CODED:
        raise InputError(f"--likelihood {name}={text}: levels= must be a number")
    return Wish(kind, categories, text)


def _with_levels(text: str) -> tuple[Member, tuple[Any, ...]]:
    """A member, and the names of its levels, where `levels` gives names and no number."""
    member = parse("likelihood", text)
    levels = member.arguments.get("levels")
    if not isinstance(levels, (tuple, list)):
        return member, ()
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise InputError(
            f"--likelihood {text}: levels= must name two levels or more, each once"
        )
    others = {k: v for k, v in member.arguments.items() if k != "levels"}
    return Member(member.name, member.make, others | {"levels": len(levels)}), tuple(
        levels
    )


def likelihood_of(schema: Schema, likelihood: str) -> str:
    """The likelihood of a table, each column's as it was asked for or by what it holds, in the grammar of `parse`.

    Raises:
        InputError: where a column is given none, or another number of levels than it has.
    """
    asked = _members(likelihood) or {}
    chosen = likelihood.strip().lower().startswith("columns")
    missing = [name for name in schema.names if name not in asked]
    if missing and not (chosen and parse_columns(likelihood) is not None):
        raise InputError(
            f"--likelihood names no likelihood for the column {missing[0]!r}: add {missing[0]}=..., begin with columns "
            "to choose the others by what they hold, or leave it out with --drop"
        )
    members = {c.name: _member(c, asked.get(c.name)) for c in schema.columns}
    return f"Columns(columns={members!r})"


def _member(column: Held, asked: str | None) -> Member:
    member, _ = _with_levels(asked or USUAL[column.kind])
    if column.kind not in ("ordinal", "category"):
        return member
    count = len(column.categories)
    levels = member.arguments.get("levels", count)
    if levels != count:
        raise InputError(
            f"--likelihood {column.name}={asked}: the column holds {count} different values; leave levels out, or name "
            "them all, as in levels=('low', 'high')"
        )
    return Member(member.name, member.make, {**member.arguments, "levels": count})


def field_wishes(
    likelihood: str | None, names: Iterable[str]
) -> dict[str, dict[str, Wish] | Wish | None]:
    """What each of several fields is to be taken for: its columns by their names, or the one that it may be.

    Args:
        likelihood: as in `likelihood_of_fields`.
        names: of the fields.
    """
    asked = _of_fields(likelihood)
    wishes: dict[str, dict[str, Wish] | Wish | None] = {}
    for name in names:
        text = asked.get(name)
        members = None if text is None else _members(text)
        wishes[name] = None
        if members is not None:
            wishes[name] = {n: _wish(n, member) for n, member in members.items()}
        elif text is not None:
            with suppress(InputError):  # a likelihood of images is none of a column
                wishes[name] = _wish(name, text)
    return wishes


def _of_fields(likelihood: str | None) -> dict[str, str]:
    """The likelihoods of fields as they are asked for, by name."""
    if likelihood is None:
        return {}
    named = parse_columns(likelihood)
    if named is not None:
        return named
    known = parse("likelihood", likelihood)
    fields = known.arguments.get("fields") if known.name == "Fields" else None
    if not isinstance(fields, dict):
        raise InputError(
            f"--likelihood {likelihood} is one for all of x, and the data are several fields: name them, as in "
            "image=bernoulli, label=categorical"
        )
    return {name: str(member) for name, member in fields.items()}


def likelihood_of_fields(
    parts: Mapping[str, DataSet],
    likelihood: str | None,
    *,
    bits: bool = False,
    density: bool = False,
) -> tuple[str, dict[str, str]]:
    """The likelihood of several fields in the grammar of `parse`, and by field why it is the usual one of its data.

    Args:
        parts: the fields.
        likelihood: `image=bernoulli, label=categorical`, or of some of them; the others get the usual one.
        bits: as in `usual_likelihood`.
        density: as there.

    Raises:
        InputError: for a field that there is not, and a likelihood that does not fit one.
    """
    asked, reasons = _of_fields(likelihood), {}
    if others := asked.keys() - parts.keys():
        raise InputError(
            f"--likelihood names {min(others)}, and the fields are {', '.join(parts)}"
        )
    members = {}
    for name, part in parts.items():
        text = asked.get(name)
        if part.schema is None:
            if text is None:
                text, reasons[name] = usual_likelihood(part, bits=bits, density=density)
            members[name] = parse("likelihood", text)
            continue
        of_columns = "columns" if text is None else text
        if _members(of_columns) is None:
            of_columns = _of_one_column(name, part.schema, of_columns)
        members[name] = parse("likelihood", likelihood_of(part.schema, of_columns))
    shapes = {name: part.shape for name, part in parts.items()}
    return f"Fields(fields={members!r}, shapes={shapes!r})", reasons


def _of_one_column(field: str, schema: Schema, text: str) -> str:
    """The likelihood of a field that is a table of one column, from that of the column."""
    if len(schema.columns) == 1:
        return f"{schema.names[0]}={text}"
    raise InputError(
        f"--likelihood {field}={text}: the field is a table of {len(schema.columns)} columns; name those that are not "
        f"to be found out, as in {field}=columns(columns={{'{schema.names[0]}': {text}, ...}}), or leave it out"
    )


def choices(schema: Schema, likelihood: str) -> str:
    """What each column is taken for, and why, as a table for a person."""
    members = parse("likelihood", likelihood).arguments["columns"]
    lines = [("column", "likelihood", "holds", "because")]
    for column in schema.columns:
        why = column.why or "it is asked for"
        lines.append((column.name, str(members[column.name]), column.describe(), why))
    columns = [*zip(*lines, strict=True)]
    return "\n".join(in_columns(columns, [], width_of_terminal()))
