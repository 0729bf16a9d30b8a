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
DAGGER = "Not ranked: values of it cannot be believed."


def with_error(value: float, error: float, sign: str = "±") -> str:
    """A number with as many digits as its error deserves, and that with two.

    >>> with_error(-89.2345, 0.1234), with_error(-89.2345, 0.0000123), with_error(-1354.2, 12.3)
    ('-89.23 ± 0.12', '-89.2345 ± 0.0000', '-1354 ± 12')
    """
    if not math.isfinite(error):
        return f"{value:.2f}"
    digits = 4 if error <= 0 else min(max(1 - math.floor(math.log10(error)), 0), 4)
    return f"{value:.{digits}f} {sign} {error:.{digits}f}"


def _lines(
    comparison: Comparison, sign: str
) -> tuple[list[str], list[list[str]], bool]:
    """The heads of the table, its lines, and whether something in it is not ranked."""
    several = comparison.of_methods
    heads = [
        "method",
        *(["seeds", "log p(x) ± seeds"] if several else ["log p(x) ± data"]),
    ]
    heads += ["difference ± all", "p"]
    lines, doubt = [], False
    for name, method in comparison.methods.items():
        error = (
            method.seed_standard_deviation if several else method.data_standard_error
        )
        line = [name, *([str(len(method.runs))] if several else [])]
        line.append(with_error(method.mean, error, sign))
        difference = comparison.differences.get(name)
        if difference is None:
            lines.append([*line, "", ""])
            continue
        mark = ""
        if difference.told == IN_DOUBT:
            mark, doubt = "†", True
        line.append(with_error(difference.mean, difference.standard_error, sign) + mark)
        lines.append([*line, f"{difference.p_adjusted:.2g}"])
    return heads, lines, doubt


def _notes(comparison: Comparison, doubt: bool) -> list[str]:
    """What a reader of the table has to know."""
    size = len(comparison.methods[comparison.best].values)
    spread = (
        "mean over seeds with their standard deviation"
        if comparison.of_methods
        else ("mean with the standard error over data; each was trained once")
    )
    notes = [
        f"log p(x) of {size} data, nats: {spread}. Differences to the best, with the error of data, seeds and draws; "
        "p by Student's t, adjusted for the number of pairs.",
        NOTE,
    ]
    return [*notes, f"† {DAGGER}"] if doubt else notes


def _bold(comparison: Comparison, name: str) -> bool:
    """Whether nothing in the table is shown to be better."""
    difference = comparison.differences.get(name)
    return difference is None or not difference.distinguishable


def markdown(comparison: Comparison) -> str:
    """The table in Markdown."""
    heads, lines, doubt = _lines(comparison, "±")
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, line in zip(comparison.methods, lines, strict=True):
        cells = [cell.replace("|", "\\|") for cell in line]
        place = len(heads) - 3
        if _bold(comparison, name):
            cells[place] = f"**{cells[place]}**"
        rows.append(cells)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, " ".join(_notes(comparison, doubt))]) + "\n"


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
    heads, lines, doubt = _lines(comparison, "±")
    rows = [" & ".join(map(_escaped, heads)) + r" \\", r"\midrule"]
    for name, line in zip(comparison.methods, lines, strict=True):
        cells = list(map(_escaped, line))
        place = len(heads) - 3
        if _bold(comparison, name):
            cells[place] = rf"\textbf{{{cells[place]}}}"
        rows.append(" & ".join(cells) + r" \\")
    notes = [f"% {_escaped(note)}" for note in _notes(comparison, doubt)]
    head = rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}"
    body = [head, r"\toprule", *rows, r"\bottomrule", r"\end{tabular}", *notes]
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
