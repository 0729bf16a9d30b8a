"""Tutorials: `docs/tutorials/NAME.py`, in cells marked by `# %%`, become pages with outputs, and notebooks beside them.

A line `# %%` begins a cell of code, `# %% [markdown]` one of text, whose lines begin with `#`, and
`# %% tags=["hidden"]` one of code that the notebook has and the page leaves out. Each notebook runs in a kernel of its
own when the site is built; what it gave is kept in `.cache` as long as neither it nor the package changes.
"""

import base64
import hashlib
import html
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "docs" / "tutorials"
CACHE = ROOT / ".cache" / "tutorials"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
LIMIT = 300  # seconds of a cell
WIDGETS = "ignore:IProgress not found"  # bars are off
MARK = re.compile(r"^# %%(.*)\n", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]+\)")  # to another page of the site
FIRST_HEADING = re.compile(r"\A(# .*\n)")


def on_files(files: Any, *, config: Any, **_: Any) -> Any:
    """Add the page, the notebook and the pictures of each tutorial."""
    from mkdocs.structure.files import File

    for source in sorted(SOURCES.glob("*.py")):
        book = executed(source)
        name = f"tutorials/{source.stem}"
        text, pictures = page(book, source.stem)
        contents = {f"{name}.md": text, f"{name}.ipynb": nbformat.writes(apart(book))}
        contents |= {f"tutorials/{path}": png for path, png in pictures.items()}
        for path, content in contents.items():
            files.append(File.generated(config, path, content=content))
    return files


def read(source: Path) -> Any:
    """A source as a notebook without outputs."""
    _, *parts = MARK.split(source.read_text())
    cells = []
    for place, (kind, body) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if "[markdown]" in kind:
            text = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
            cell = nbformat.v4.new_markdown_cell(text)
        else:
            cell = nbformat.v4.new_code_cell(body.strip())
            cell.metadata["tags"] = ["hidden"] if "hidden" in kind else []
        cell.id = f"cell-{place}"  # the same at every build
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def executed(source: Path) -> Any:
    """The notebook with its outputs, run now or as it is kept."""
    kept = CACHE / f"{source.stem}-{_fingerprint(source)}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    book = read(source)
    _run(book)
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{source.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(book, kept)
    return book


def _fingerprint(source: Path) -> str:
    """Changes with the source, the package, this file and the versions that are pinned."""
    package = sorted((ROOT / "pyro_vae").rglob("*.py"))
    files = [source, Path(__file__), ROOT / "constraints.txt", *package]
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()[:16]


def _run(book: Any) -> None:
    """Execute all cells in an empty folder, by the Python that runs here whatever kernels a user has."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    specs = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_name=KERNEL["name"], kernel_spec_manager=specs)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        env |= {"IPYTHONDIR": folder, "PYTHONWARNINGS": WIDGETS}
        client = NotebookClient(
            book,
            km=manager,
            timeout=LIMIT,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
        )
        client.execute(env=env, cleanup_kc=True)
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # the times of day


def apart(book: Any) -> Any:
    """The notebook by itself: links to pages of the site are plain words, since those pages are not beside it."""
    book = nbformat.from_dict(book)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(r"\1", cell.source)
    return book


def page(book: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by their paths beside the page."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif "hidden" not in cell.metadata["tags"]:
            parts.append(f"```python\n{cell.source}\n```")
            parts += _shown(cell.outputs, name, pictures)
    line = f"[Download the notebook]({name}.ipynb){{ .notebook download }}"
    text = FIRST_HEADING.sub(rf"\1\n{line}\n", "\n\n".join(parts) + "\n", count=1)
    return text, pictures


def _shown(outputs: Any, name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """What a cell gave, each output in the richest form that a page can show."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            path = f"{name}-{len(pictures) + 1}.png"
            pictures[path] = base64.b64decode(data["image/png"])
            yield f"![]({path}){{ .output }}"
        elif "text/html" in data:
            lines = filter(str.strip, data["text/html"].splitlines())
            yield '<div class="output">\n' + "\n".join(lines) + "\n</div>"
        else:
            text = html.escape(output.get("text") or data["text/plain"], quote=False)
            yield f'<pre class="output">{text.rstrip()}</pre>'
