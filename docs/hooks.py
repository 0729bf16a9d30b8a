"""What the documentation build does beside MkDocs: it checks quoted code, and lists members from the classes."""

import ast
import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r'```python title="(pyro_vae/[^"]+)"\n(.*?)```', re.DOTALL)
MEMBERS = re.compile(r"<!-- members: (\w+) -->")

log = logging.getLogger("mkdocs.plugins.pyro_vae")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Warn of quoted lines that the code no longer has and of public names that the API page lacks; list members."""
    for path, quoted in QUOTE.findall(markdown):
        file = ROOT / path
        lines = {line.strip() for line in file.read_text().splitlines()} if file.is_file() else set()
        for line in filter(None, map(str.strip, quoted.splitlines())):
            if line not in lines:
                log.warning("%s quotes a line that %s does not have: %s", page.file.src_uri, path, line)
    if page.file.src_uri == "api.md":
        for name in _public():
            if f"::: pyro_vae.{name}\n" not in markdown:
                log.warning("api.md does not list pyro_vae.%s", name)
    return MEMBERS.sub(lambda match: _members(match[1]), markdown)


def _public() -> list[str]:
    """`pyro_vae.__all__`, read without importing it."""
    tree = ast.parse((ROOT / "pyro_vae" / "__init__.py").read_text())
    assigned = (n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    return ast.literal_eval(next(assigned).value)


def _members(axis: str) -> str:
    """The members of an axis as a list: each as a call with its defaults, and the first line of its docstring."""
    from pyro_vae.build import summaries

    return "\n".join(f"- `{call}`: {line}" for call, line in summaries(axis).items())
