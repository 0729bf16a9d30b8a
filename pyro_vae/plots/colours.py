"""Colours that people with any kind of colour vision tell apart, and marks for more classes than there are colours.

Source: Okabe & Ito 2008, Color Universal Design; Nuñez, Anderton & Renslow 2018, Optimizing colormaps with
consideration for color vision deficiency (cividis).
"""

from typing import Any

COLOURS = (  # of Okabe and Ito without the yellow, which is faint on white
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",  # black
)
DATA, MODEL = COLOURS[:2]
GREY = "0.6"
MISSING = COLOURS[5]  # of pixels that were not seen: no grey on any scale
VALUES = "viridis"  # of numbers along a way
SPREAD = "cividis"  # of numbers around a middle
MARKS = ("o", "^", "s", "D", "v", "P", "X", "*")
MOST_CLASSES = len(COLOURS) * len(MARKS)


def colour(i: int) -> str:
    """The colour of the i-th of some things, from 0; after the last they begin again."""
    return COLOURS[i % len(COLOURS)]


def class_style(i: int) -> dict[str, Any]:
    """Colour and mark of the i-th class: no two of the first 56 have the same.

    >>> class_style(0)["color"] == class_style(7)["color"], class_style(0)["marker"], class_style(7)["marker"]
    (True, 'o', '^')
    """
    return {"color": colour(i), "marker": MARKS[i // len(COLOURS) % len(MARKS)]}
