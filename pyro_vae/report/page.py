"""The elements of a page: numbers, tables, figures."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pyro_vae.foundation.html import Html, join, tag
from pyro_vae.plots.lines import drawing_in

SIGNIFICANT = 2  # digits of an error that are shown
MOST_DECIMALS = 8


def _decimals(error: float) -> int:
    return min(max(SIGNIFICANT - 1 - math.floor(math.log10(error)), 0), MOST_DECIMALS)


def number(value: Any, *errors: Any) -> str:
    """A number with as many decimals as its smallest error allows (two digits of it); without errors three.

    >>> number(-22.95113, 0.19), number(-22.95113, 0.19, 0.0021), number(None), number(0.5)
    ('−22.95', '−22.9511', '—', '0.500')
    """
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    known = [e for e in errors if e is not None and 0 < e < math.inf]
    text = f"{value:.{_decimals(min(known)) if known else 3}f}"
    return text.replace("-", "−")


def short(value: Any) -> str:
    """Any value that a file may hold, in a cell: whole numbers in full, others with up to four digits.

    >>> short(1234567), short(0.00012344), short([1, 2.5]), short({"a": True}), short(None)
    ('1,234,567', '0.0001234', '1, 2.5', 'a: yes', '—')
    """
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        if not math.isfinite(value) or value == 0:
            return number(value)
        size = math.floor(math.log10(abs(value)))
        text = f"{value:.4g}" if size < -4 else f"{value:,.{max(3 - size, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
        return text.replace("-", "−")
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {short(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        if len(value) > 12 and all(isinstance(v, int | float) for v in value):
            low, high = short(min(value)), short(max(value))
            return f"{len(value)} numbers from {low} to {high}"
        return ", ".join(map(short, value))
    return str(value)


def rough(value: float | None) -> str:
    """A count that is an estimate: two digits of it, and whole numbers from 10 on.

    >>> rough(27.763), rough(1241.2), rough(1.049)
    ('28', '1,200', '1.0')
    """
    if value is None or not math.isfinite(value) or value <= 0:
        return number(value)
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def code(text: Any) -> Html:
    """A name or a command."""
    return tag("code", text)


def paragraph(*parts: Any, class_: str | None = None) -> Html:
    """A paragraph."""
    return tag("p", *parts, class_=class_)


def bullets(sentences: Iterable[Any]) -> Html:
    """A list of sentences."""
    return tag("ul", *(tag("li", sentence) for sentence in sentences))


def table(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], *, caption: str, text: int = 1
) -> Html:
    """A table whose first column names the row; the first `text` columns hold words, the others numbers."""
    kinds = [None if i < text else "number" for i in range(len(head))]

    def row(cells: Sequence[Any]) -> Html:
        first, *rest = zip(cells, kinds, strict=True)
        others = (tag("td", cell, class_=kind) for cell, kind in rest)
        return tag("tr", tag("th", first[0], scope="row"), *others)

    names = zip(head, kinds, strict=True)
    heads = (tag("th", name, scope="col", class_=kind) for name, kind in names)
    top = tag("thead", tag("tr", *heads)) if any(head) else None
    content = tag("table", tag("caption", caption), top, tag("tbody", *map(row, rows)))
    return tag(
        "div", content, class_="scroll", role="region", aria_label=caption, tabindex="0"
    )


def named(name: Any, meaning: str) -> Html:
    """The first cell of a row, with what it means beneath."""
    return join([tag("span", name), tag("small", meaning) if meaning else None])


def figure(*content: Any, caption: Any, class_: str | None = None) -> Html:
    """Pictures with a caption."""
    return tag("figure", *content, tag("figcaption", caption), class_=class_)


def picture(
    source: Path | Image.Image, alt: str, class_: str | None = None
) -> Html | None:
    """A picture, its bytes in the page; `None` for a file that is no picture.

    Of a file that keeps the drawing of its lines it is that, in which no script runs, as in any image.
    """
    kind = "png"
    if isinstance(source, Path):
        content = source.read_bytes()
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                width, height = image.size
                image.verify()
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                svg = drawing_in(image)
        except (
            OSError,
            SyntaxError,
            ValueError,
        ):  # what Pillow raises for a broken PNG
            return None
        if svg is not None:
            kind, content = "svg+xml", svg.encode()
    else:
        buffer = io.BytesIO()
        source.save(buffer, "PNG")
        content, (width, height) = buffer.getvalue(), source.size
    data = base64.b64encode(content).decode()
    return tag(
        "img",
        src=f"data:image/{kind};base64,{data}",
        alt=alt,
        width=width,
        height=height,
        class_=class_,
    )


def page(title: str, style: str, *content: Any) -> str:
    """A whole page. Its policy lets a browser load nothing and run nothing."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *content), lang='en')}\n"
