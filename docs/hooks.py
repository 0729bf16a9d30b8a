"""What the documentation build does beside MkDocs: it checks quoted code, and writes lists and tables from the code.

It also writes `docs.txt`, all pages in one file of plain text.

What it finds wrong it logs as errors: `--quiet` hides warnings from `--strict` too.
"""

import inspect
import logging
import pydoc
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r'```python title="(pyro_vae/[^"]+)"\n(.*?)```', re.DOTALL)
MEMBERS = re.compile(r"<!-- members: (\w+) -->")
COMPATIBILITY = "<!-- compatibility -->"
COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
PLAIN = "docs.txt"

log = logging.getLogger("mkdocs.plugins.pyro_vae")
texts: dict[
    str, str
] = {}  # of each page, by its file, as Markdown with all lists filled in


def on_files(files: Any, *, config: Any) -> Any:
    """Announce `docs.txt`, so that pages can link to it; its text is there once all pages are."""
    files.append(File.generated(config, PLAIN, content=""))
    return files


def on_post_build(*, config: Any) -> None:
    """Write `docs.txt`: the pages in the order of the navigation, each under a line with its name."""
    pages = [
        f"{'=' * 100}\n{name}\n{'=' * 100}\n\n{texts[name]}"
        for name in _named(config.nav)
    ]
    (Path(config.site_dir) / PLAIN).write_text("\n\n".join(pages) + "\n")


def _named(nav: Any) -> list[str]:
    """The files of a navigation, groups flattened."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [name for part in parts for name in _named(part)]


def _plain(markdown: str) -> str:
    """A page without what only the site understands: the docstring stands where the site is told to show it."""

    def documented(match: re.Match[str]) -> str:
        found = pydoc.locate(match[1])
        try:
            signature = str(inspect.signature(found))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            signature = ""
        return f"### {match[1]}\n\n{match[1].rpartition('.')[2]}{signature}\n\n{inspect.getdoc(found) or ''}"

    return DIRECTIVE.sub(documented, COMMENT.sub("", markdown)).strip()


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Complain of quoted lines that the code lacks and of names that a page lacks; fill in what is generated."""
    for path, quoted in QUOTE.findall(markdown):
        file = ROOT / path
        lines = (
            {line.strip() for line in file.read_text().splitlines()}
            if file.is_file()
            else set()
        )
        for line in filter(None, map(str.strip, quoted.splitlines())):
            if line not in lines and line != "...":
                log.error(
                    "%s quotes a line that %s does not have: %s",
                    page.file.src_uri,
                    path,
                    line,
                )
    if page.file.src_uri == "api.md":
        listed = set(re.findall(r"^::: .*?(\w+)$", markdown, re.M))
        for name in _public():
            if name not in listed:
                log.error("api.md does not list %s", name)
    for axis in MEMBERS.findall(markdown):
        for name in _names(axis):
            if axis not in ("ask", "corrupt") and f"## {name}\n" not in markdown:
                log.error("%s has no section on %s", page.file.src_uri, name)
    markdown = MEMBERS.sub(lambda match: _members(match[1]), markdown)
    if COMPATIBILITY in markdown:
        markdown = markdown.replace(COMPATIBILITY, _compatibility())
    texts[page.file.src_uri] = _plain(markdown)
    return markdown


def _public() -> list[str]:
    """`pyro_vae.__all__` without its modules, and the members that networks, guides and the like are chosen from."""
    import pyro_vae
    from pyro_vae.spec import FAMILIES

    names = [n for n in pyro_vae.__all__ if not inspect.ismodule(getattr(pyro_vae, n))]
    axes = [axis for axis in FAMILIES if axis not in ("ask", "structure")]
    return [*names, *(name for axis in axes for name in _names(axis))]


def _names(axis: str) -> list[str]:
    from pyro_vae import variants
    from pyro_vae.spec import FAMILIES

    return list(variants(FAMILIES[axis][0]))


def _members(axis: str) -> str:
    """The members of an axis as a list: each as a call with its defaults, and the first line of its docstring."""
    from pyro_vae.foundation.source import summaries

    return "\n".join(f"- `{call}`: {line}" for call, line in summaries(axis).items())


@cache
def _compatibility() -> str:
    """Which guides, priors and objectives fit together, found by trying all on a tiny spec: tables, and refusals."""
    from pyro_vae.spec import Spec, problem

    priors, guides, objectives = _names("prior"), _names("guide"), _names("objective")
    guides = [*guides, "Categorical(enumerate=False)"]  # as where codes are many
    why = {}
    for guide in guides:
        for prior in priors:
            spelled = "vampprior(pseudo_inputs=2)" if prior == "VampPrior" else prior
            spec = Spec((3,), 2, spelled, "mlp(hidden=(4,))", guide=guide)
            built = problem(spec)  # with the ELBO, which asks for nothing
            why |= {(guide, prior, o): built or problem(spec, o) for o in objectives}

    def fitting(guide: str, objective: str) -> list[str]:
        return [prior for prior in priors if not why[guide, prior, objective]]

    def cell(guide: str, objective: str) -> str:
        fit = fitting(guide, objective)
        return (
            "yes"
            if fit == fitting(guide, "ELBO")
            else ", ".join(map("`{}`".format, fit)) or "no"
        )

    columns: dict[
        tuple[str, ...], list[str]
    ] = {}  # objectives that fit the same stand together
    for o in objectives:
        columns.setdefault(tuple(cell(guide, o) for guide in guides), []).append(o)
    by_prior = [
        [guide, *("no" if why[guide, p, "ELBO"] else "yes" for p in priors)]
        for guide in guides
    ]
    by_objective = [
        [guide, *(column[i] for column in columns)] for i, guide in enumerate(guides)
    ]
    refusals: dict[
        str, tuple[str, tuple[str, ...]]
    ] = {}  # one sentence of each kind, the shortest
    for names, sentence in why.items():
        if sentence:
            kind = re.sub(r"\b[A-Z]\w+", "", sentence)
            refusals[kind] = min(
                refusals.get(kind, (sentence, names)),
                (sentence, names),
                key=lambda r: len(r[0]),
            )
    return "\n\n".join(
        [
            "Guides and priors, under an objective that asks for nothing, such as `ELBO`:",
            _table([f"`{p}`" for p in priors], by_prior),
            "Guides and objectives; `yes` stands for every prior that the guide goes with in the table above:",
            _table(
                [", ".join(f"`{o}`" for o in group) for group in columns.values()],
                by_objective,
            ),
            "The refusals, one of each kind:",
            "\n".join(
                f"- `{g}`, `{p}`{'' if why[g, p, 'ELBO'] else f', `{o}`'}: *{sentence}*"
                for sentence, (g, p, o) in refusals.values()
            ),
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [
        ["guide", *head],
        ["---"] * (len(head) + 1),
        *([f"`{first}`", *rest] for first, *rest in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
