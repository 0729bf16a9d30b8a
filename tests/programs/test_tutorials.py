"""The tutorials run without an error or a warning, and their pages have what the notebooks gave."""

import base64
import sys
from pathlib import Path

import pytest

for needed in ("nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(needed)

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = sorted(path.stem for path in (DOCS / "tutorials").glob("*.py"))
PICTURES = {
    "counts": 4,
    "first-vae": 5,
    "own-guide": 2,
    "own-images": 7,
    "own-table": 5,
}


@pytest.fixture(scope="module")
def tutorials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(DOCS), *sys.path])
        import tutorials
    return tutorials


@pytest.mark.parametrize("name", NAMES)
def test_runs_without_a_warning_and_shows_its_pictures(tutorials, name):
    book = tutorials.executed(DOCS / "tutorials" / f"{name}.py")
    outputs = [o for cell in book.cells for o in cell.get("outputs", ())]
    assert [o for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.get("name") == "stderr"] == []
    text, pictures = tutorials.page(book, name)
    assert len(pictures) == PICTURES[name]
    for path, png in pictures.items():
        assert f"![]({path})" in text
        assert png.startswith(b"\x89PNG")
        assert len(png) > 5000
    # The last cell holds the claims of the text to the numbers: the notebook has it, the page does not.
    assert book.cells[-1].metadata["tags"] == ["hidden"]
    assert "assert " in book.cells[-1].source
    assert "assert " not in text
    assert f"({name}.ipynb)" in text


SOURCE = """# %% [markdown]
# # Title
#
# A [link](../data.md) and $x$.

# %%
print(1 < 2)

# %%
import warnings

warnings.warn("careful")

# %% tags=["hidden"]
assert True
"""


def test_a_source_becomes_a_notebook_and_a_page(tutorials, tmp_path):
    source = tmp_path / "small.py"
    source.write_text(SOURCE)
    book = tutorials.read(source)
    assert [c.cell_type for c in book.cells] == ["markdown", "code", "code", "code"]
    assert book.cells[0].source == "# Title\n\nA [link](../data.md) and $x$."
    assert tutorials.apart(book).cells[0].source == "# Title\n\nA link and $x$."
    png = base64.b64encode(b"picture").decode()
    told = {"output_type": "display_data", "data": {"image/png": png}, "metadata": {}}
    book.cells[1].outputs = [
        {"output_type": "stream", "name": "stdout", "text": "a < b\n"},
        told,
    ]
    text, pictures = tutorials.page(tutorials.nbformat.from_dict(book), "small")
    assert pictures == {"small-1.png": b"picture"}
    assert text.startswith("# Title\n\n[Download the notebook](small.ipynb)")
    assert '<pre class="output">a &lt; b</pre>' in text
    assert "assert True" not in text


def test_an_error_ends_the_build_and_a_warning_is_told(
    tutorials, tmp_path, monkeypatch
):
    from nbclient.exceptions import CellExecutionError

    monkeypatch.setattr(tutorials, "CACHE", tmp_path / "cache")
    source = tmp_path / "small.py"
    source.write_text(SOURCE)
    book = tutorials.executed(source)
    assert "careful" in book.cells[2].outputs[0].text
    kept = list((tmp_path / "cache").iterdir())
    assert tutorials.executed(source) == book
    source.write_text(SOURCE.replace("assert True", "assert False"))
    with pytest.raises(CellExecutionError, match="AssertionError"):
        tutorials.executed(source)
    assert list((tmp_path / "cache").iterdir()) == kept
