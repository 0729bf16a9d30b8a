"""Images of which the factors are known: a form in a place, of a size, an angle and a colour."""

from functools import cache

import numpy as np

SIDE = 32  # pixels
TRAIN, TEST = 10_000, 2_000  # images
SEED = 0  # of the choice among all combinations
CHUNK = 1000  # images drawn at a time
FORMS = ("ellipse", "rectangle", "triangle")
# The values of each factor: centres in pixels from the middle, half a length in pixels, degrees, hue from red to blue.
LEVELS: dict[str, np.ndarray] = {
    "x": np.linspace(-7.0, 7.0, 8),
    "y": np.linspace(-7.0, 7.0, 8),
    "size": np.linspace(3.5, 6.5, 5),
    "angle": np.linspace(0.0, 75.0, 6),
    "colour": np.linspace(0.0, 2.0 / 3.0, 6),
    "form": np.array(FORMS),
}


def combinations() -> dict[str, np.ndarray]:
    """All 34,560 combinations of the factors, by factor, each `(34560,)`."""
    grids = np.meshgrid(*LEVELS.values(), indexing="ij")
    return dict(zip(LEVELS, (grid.ravel() for grid in grids), strict=True))


def drawn(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Images with these factors, `(N, 3, 32, 32)` bytes: red, green and blue on black, edges one pixel wide.

    A form is the set where a distance `d(u, v)` is below 0, `(u, v)` the pixel in units of the form, turned by its
    angle about its centre. The value of a pixel is `clip(1/2 - d, 0, 1)` times the colour.

    Args:
        factors: `x`, `y`, `size`, `angle`, `colour` and `form`, each `(N,)`.

    >>> first = {name: levels[:1] for name, levels in LEVELS.items()}
    >>> drawn(first).shape
    (1, 3, 32, 32)
    """
    count = len(factors["x"])
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for start in range(0, count, CHUNK):
        rows = slice(start, start + CHUNK)
        some = {name: values[rows] for name, values in factors.items()}
        shade = np.clip(0.5 - _distance(some), 0.0, 1.0)
        colour = _rgb(some["colour"])
        images[rows] = np.round(255 * colour[:, :, None, None] * shade[:, None])
    return images


def _distance(factors: dict[str, np.ndarray]) -> np.ndarray:
    """How far each pixel lies outside of the form, in pixels, `(N, 32, 32)`; below 0 inside."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    across = (places[None, :] - factors["x"][:, None])[:, None, :]
    down = (places[None, :] - factors["y"][:, None])[:, :, None]
    turn = np.deg2rad(factors["angle"])[:, None, None]
    u = np.cos(turn) * across + np.sin(turn) * down
    v = np.cos(turn) * down - np.sin(turn) * across
    length = factors["size"][:, None, None]
    width = 0.5 * length
    # The ellipse by its equation over the length of its gradient.
    scaled = np.sqrt((u / length) ** 2 + (v / width) ** 2)
    slope = np.sqrt((u / length**2) ** 2 + (v / width**2) ** 2)
    outside = scaled * (scaled - 1) / np.maximum(slope, 1e-9)
    ellipse = np.where(slope > 0, outside, -width)
    rectangle = np.maximum(np.abs(u) - length, np.abs(v) - width)
    # The triangle has its tip at u = length and its base at u = -length.
    side = (np.abs(v) - 0.4 * (length - u)) / np.sqrt(1.16)
    triangle = np.maximum(side, -u - length)
    each = {"ellipse": ellipse, "rectangle": rectangle, "triangle": triangle}
    form = factors["form"][:, None, None]
    return np.select([form == name for name in FORMS], [each[name] for name in FORMS])


def _rgb(hue: np.ndarray) -> np.ndarray:
    """Hues in [0, 1) at full saturation and value as red, green and blue, `(N, 3)`."""
    shifts = np.array([0.0, 4.0, 2.0])
    distance = np.abs((6 * hue[:, None] + shifts) % 6 - 3) - 1
    return np.clip(distance, 0.0, 1.0)


@cache
def shapes() -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Images by split, and by factor its values by split: 12,000 of all combinations, none of them twice."""
    every = combinations()
    total = len(every["x"])
    chosen = np.random.RandomState(SEED).permutation(total)[: TRAIN + TEST]
    places = {"train": chosen[:TRAIN], "test": chosen[TRAIN:]}
    factors = {
        name: {split: values[index] for split, index in places.items()}
        for name, values in every.items()
    }
    images = {}
    for split in places:
        images[split] = drawn({name: parts[split] for name, parts in factors.items()})
    return images, factors
