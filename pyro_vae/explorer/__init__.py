"""A trained run as one HTML page in which its decoder runs: a reader moves through z and sees p(x|z)."""

import json
from importlib.resources import files
from typing import Any

from pyro_vae.explorer.contents import Encoded, contents
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.html import Html, tag
from pyro_vae.trained import Run

__all__ = ["LARGEST", "Encoded", "contents", "explorer"]

LARGEST = 50 * 2**20  # bytes of a page


def explorer(run: Run, some: Encoded, *, limit: int = LARGEST) -> str:
    """A run as one HTML page, with weights, data, style and script inside: it loads nothing and needs no server.

    Args:
        run: the trained run.
        some: the data that it shows, with their codes.
        limit: bytes of the page at most.

    Returns:
        The text of the page.

    Raises:
        InputError: for a run whose latents are no reals or whose decoder a page cannot run, and for a larger page.
    """
    held = contents(run, some)
    place = run.folder.resolve().name
    held |= {"title": run.name, "run": place}
    text = _page(held)
    if len(text) > limit:
        weights = len(json.dumps(held["graph"]))
        remedy = "take a smaller --limit"
        if weights > limit / 2:
            remedy = "the run has too many weights"
        raise InputError(
            f"the page would take {_megabytes(len(text))}, of which {_megabytes(weights)} are the decoder's, and "
            f"{_megabytes(limit)} are the most: {remedy}"
        )
    return text


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _page(held: dict[str, Any]) -> str:
    """The page of what it holds."""
    # A script ends at the first `</script`, wherever it stands: no `<` is left in the data.
    data = json.dumps(held, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    title = f"{held['title']} · {held['formula']} · {held['run']}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_file("style.css"))),
    )
    body = tag(
        "body",
        Html(_file("body.html")),
        tag("script", Html(data), type="application/json", id="held"),
        tag("script", Html(_file("network.js"))),
        tag("script", Html(_file("page.js"))),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _file(name: str) -> str:
    return files("pyro_vae.explorer").joinpath(name).read_text(encoding="utf-8")
