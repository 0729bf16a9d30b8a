"""A comparison as a table to paste: Markdown, LaTeX, CSV."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pyro_vae.evaluation.paired import IN_DOUBT, Comparison, Difference, Method

# What a table has of a method, and of its difference to the best one, in the file of plain numbers.
OF_METHOD = (
    "mean",
    "seed_standard_deviation",
    "seed_standard_error",
    "data_standard_error",
    "monte_carlo_standard_error",
    "bias",
    "doubtful",
)
OF_DIFFERENCE = (
    "mean",
    "standard_error",
    "freedom",
    "t",
    "p",
    "p_adjusted",
    "distinguishable",
    "believable",
)
NOTE = "Bold: the best and what cannot be told from it."
DAGGER = "† Not ranked: values of it cannot be believed."


def with_error(value: float, error: float) -> str:
    """A number with as many digits as its error deserves, and that with two.

    >>> with_error(-89.2345, 0.1234), with_error(-89.2345, 0.0000123), with_error(-1354.2, 12.3)
    ('-89.23 ± 0.12', '-89.2345 ± 0.0000', '-1354 ± 12')
    """
    if not math.isfinite(error):
        return f"{value:.2f}"
    digits = 4 if error <= 0 else min(max(1 - math.floor(math.log10(error)), 0), 4)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _heads(comparison: Comparison) -> list[str]:
    """The heads of the table."""
    means = ["log p(x) ± data"]
    if comparison.of_methods:
        means = ["seeds", "log p(x) ± seeds"]
    return ["method", *means, "difference ± all", "p"]


def _line(comparison: Comparison, name: str) -> tuple[list[str], str, list[str]]:
    """A line of the table: what stands before the mean, the mean, and what stands behind it."""
    method, difference = comparison.methods[name], comparison.differences.get(name)
    first, error = [name], method.data_standard_error
    if comparison.of_methods:
        first, error = [name, str(len(method.runs))], method.seed_standard_deviation
    mean = with_error(method.mean, error)
    if difference is None:
        return first, mean, ["", ""]
    mark = "†" if difference.told == IN_DOUBT else ""
    less = with_error(difference.mean, difference.standard_error)
    return first, mean, [less + mark, f"{difference.p_adjusted:.2g}"]


def _notes(comparison: Comparison) -> list[str]:
    """What a reader of the table has to know."""
    size = len(comparison.methods[comparison.best].values)
    spread = "mean with the standard error over data; each was trained once"
    if comparison.of_methods:
        spread = "mean over seeds with their standard deviation"
    notes = [
        f"log p(x) of {size} data, nats: {spread}. Differences to the best, with the error of data, seeds and draws; "
        "p by Student's t, adjusted for the number of pairs.",
        NOTE,
    ]
    if any(d.told == IN_DOUBT for d in comparison.differences.values()):
        notes.append(DAGGER)
    return notes


def _bold(comparison: Comparison, name: str) -> bool:
    """Whether nothing in the table is shown to be better."""
    difference = comparison.differences.get(name)
    return difference is None or bool(difference.told)


def markdown(comparison: Comparison) -> str:
    """The table in Markdown."""
    heads = _heads(comparison)
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name in comparison.methods:
        first, mean, rest = _line(comparison, name)
        mean = f"**{mean}**" if _bold(comparison, name) else mean
        rows.append([cell.replace("|", "\\|") for cell in (*first, mean, *rest)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, " ".join(_notes(comparison))]) + "\n"


LATEX = MappingProxyType(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "†": r"$^\dagger$",
    }
)


def _escaped(text: str) -> str:
    """A text that LaTeX sets as it is; a minus before a number as one."""
    plain = "".join(LATEX.get(sign, sign) for sign in text)
    return f"$-${plain[1:]}" if plain[:1] == "-" and plain[1:2].isdigit() else plain


def latex(comparison: Comparison) -> str:
    r"""The table in LaTeX, for `\usepackage{booktabs}`."""
    heads = _heads(comparison)
    rows = []
    for name in comparison.methods:
        first, mean, rest = _line(comparison, name)
        told = _escaped(mean)
        told = rf"\textbf{{{told}}}" if _bold(comparison, name) else told
        rows.append([*map(_escaped, first), told, *map(_escaped, rest)])
    body = [
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(_escaped, heads)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {_escaped(note)}" for note in _notes(comparison)),
    ]
    return "\n".join(body) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """The numbers as a table for other programs; what is not known is blank."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    prefixed = [
        f"difference_{name}" if name == "mean" else name for name in OF_DIFFERENCE
    ]
    writer.writerow(["method", "seeds", *OF_METHOD, *prefixed])
    for name, method in comparison.methods.items():
        difference = comparison.differences.get(name)
        row = [name, len(method.runs), *_numbers(method, OF_METHOD)]
        writer.writerow([*row, *_numbers(difference, OF_DIFFERENCE)])
    return out.getvalue()


def _numbers(source: Method | Difference | None, names: tuple[str, ...]) -> list[Any]:
    """Plain numbers for the file, blank where one is not known."""
    if source is None:
        return [""] * len(names)
    values = [getattr(source, name) for name in names]
    return [
        "" if v is None or (isinstance(v, float) and math.isnan(v)) else v
        for v in values
    ]


# By the ending of a file.
FORMATS: Mapping[str, Callable[[Comparison], str]] = MappingProxyType(
    {".md": markdown, ".tex": latex, ".csv": comma_separated}
)
