"""The formulas of the documentation: KaTeX, which is a part of it, sets every one."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
KATEX = DOCS / "assets/katex/katex.min.js"
CHROMIUM = (
    shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
DISPLAYED = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$([^$\n]+)\$")
SETTING = """<pre id="found"></pre><script src="{katex}"></script><script>
const refused = {formulas}.flatMap(([latex, displayMode]) => {{
  try {{ katex.renderToString(latex, {{ displayMode, strict: "error" }}); return []; }}
  catch (error) {{ return [error.message]; }}
}});
document.getElementById("found").textContent = JSON.stringify(refused);
</script>"""


def formulas():
    """`(LaTeX, whether it is displayed)` of all pages."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        yield from ((latex, True) for latex in DISPLAYED.findall(text))
        yield from ((latex, False) for latex in INLINE.findall(CODE.sub("", text)))


def refused(formulas, folder):
    """What KaTeX says of those that it cannot set."""
    page = SETTING.format(katex=KATEX.as_uri(), formulas=json.dumps(list(formulas)))
    (folder / "formulas.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += f"--disable-component-update --disable-sync --user-data-dir={folder / 'profile'} --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), (folder / "formulas.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(
        unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_every_formula_is_set(tmp_path):
    assert len(list(formulas())) > 500
    assert refused(formulas(), tmp_path) == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_a_wrong_formula_is_found(tmp_path):
    (said,) = refused([(r"\fraq{1}{2}", False), (r"\frac12", True)], tmp_path)
    assert r"\fraq" in said


def test_inline_formulas_survive_a_reader_of_markdown():
    """GitHub takes a backslash before punctuation from inline formulas, and a bar in a table ends a cell."""
    for latex, displayed in formulas():
        assert displayed or not re.search(r"\\[^\w\s]|\|", latex), latex


def test_no_setting_of_the_site_stands_twice():
    """The second would win, and such as the style of formulas would be lost."""
    settings = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", settings, re.MULTILINE)
    assert len(keys) == len(set(keys))
    for style in ("katex/katex.css", "style.css", "tutorials.css"):
        assert f"  - assets/{style}\n" in settings
