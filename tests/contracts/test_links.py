"""Links in README and docs lead somewhere, and the citation names this version."""

import re
import tomllib
import unicodedata
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)(```+|~~~+).*?^ *\2", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")
SOURCE = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"[a-z]+:")  # https:, mailto:
# mkdocs fills in headings of these pages, and checks the links to them itself.
GENERATED = {"api.md"}
WRITTEN = ROOT / "docs" / "docs.txt"  # by the build of the documentation


def pages():
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "tests" / "README.md",
    ]


def links(page):
    """Where a page links to: outside of code, and not to other sites."""
    text = CODE.sub("", FENCE.sub("", page.read_text()))
    found = [*LINK.findall(text), *SOURCE.findall(text)]
    return [target for target in found if not ELSEWHERE.match(target)]


def slug(heading):
    """The anchor of a heading, as MkDocs makes it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    ascii_ = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_).strip().lower())


@cache
def anchors(page):
    text = FENCE.sub("", page.read_text())
    named = re.findall(r"\{[^}\n]*#([\w.-]+)[^}\n]*\}", text)
    return {slug(h) for h in re.findall(r"^#+ +(.+?) *#*$", text, re.M)} | set(named)


def broken(page):
    """The links of a page that lead nowhere."""
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not (file.exists() or file == WRITTEN) or (
            anchor
            and file.suffix == ".md"
            and file.name not in GENERATED
            and anchor not in anchors(file)
        ):
            lost.append(target)
    return lost


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Of β and *x*\n\n[a](#of-and-x) [b](other.md) `[c](code.md)` [d](#lost)\n\n"
        '```\n[e](fence.md)\n```\n\n![f](f.png) [g](https://g.org) <img src="h.png">'
    )
    assert broken(page) == ["other.md", "#lost", "f.png", "h.png"]


def test_the_citation_names_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    assert all(f"\n  - name: {a['name']}\n" in citation for a in project["authors"])
