"""Drawings of lines, bars and points: what they are as SVG, which is sharp at any size and in print."""

import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import _ImageBase
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

MOST_POINTS = 5000  # of a drawing; more are smaller, and quicker, as pixels
MOST_TEXT = 300_000  # characters of a drawing
PIXELS = (_ImageBase, QuadMesh)
NAME = "svg"  # of the text in a .png file
TEXT: Any = {"svg.fonttype": "none", "svg.hashsalt": "pyro_vae"}


def drawing_of(figure: Figure) -> str | None:
    """A figure as SVG; `None` where it shows pixels, or so many points that it is better shown as such.

    >>> from pyro_vae.plots.canvas import single
    >>> figure, axes = single(2, 1)
    >>> _ = axes.plot([0, 1], [0, 1])
    >>> drawing_of(figure).startswith("<svg")
    True
    >>> _ = axes.imshow([[0, 1]])
    >>> drawing_of(figure) is None
    True
    """
    if figure.findobj(lambda artist: isinstance(artist, PIXELS)):
        return None
    clouds: list[Any] = figure.findobj(PathCollection)
    lines: list[Any] = figure.findobj(Line2D)
    points = sum(len(some.get_offsets()) for some in clouds)
    if points + sum(len(line.get_xdata()) for line in lines) > MOST_POINTS:
        return None
    file = io.StringIO()
    with rc_context(TEXT):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = shortened(file.getvalue())
    return svg if len(svg) <= MOST_TEXT else None


def shortened(svg: str) -> str:
    """An SVG of matplotlib without what is said of it, and with places to a hundredth of a point."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)
    return re.sub(r">\s+<", "><", body)


def beside_pixels(svg: str) -> PngInfo:
    """What a .png file keeps of the drawing that it shows."""
    kept = PngInfo()
    kept.add_itxt(NAME, svg, zip=True)
    return kept


def drawing_in(image: Image.Image) -> str | None:
    """The drawing that a .png file keeps, `None` where there is none."""
    found = getattr(image, "text", {}).get(NAME)
    return found if found is not None and found.startswith("<svg") else None
