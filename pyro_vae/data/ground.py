"""What lies below transparent pixels."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyro_vae.data.files import shown
from pyro_vae.foundation.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class Ground(NamedTuple):
    """A colour in bytes that transparent images are laid on."""

    red: int
    green: int
    blue: int

    def of(self, file: str, colour: bool, maximum: float | None) -> np.ndarray:
        """The colour in the numbers of an image, `(3, 1, 1)` or, of a grey one, `(1, 1)`.

        Raises:
            InputError: when the image is grey and the colour is not.
        """
        if not colour and len(set(self)) > 1:
            raise InputError(
                f"{shown(file)} is grey, so that it can be laid on a grey --background only, such as "
                "white, black or #808080"
            )
        planes = np.array(self).reshape(3, 1, 1) if colour else np.array([[self.red]])
        return planes * int(maximum or 255) // 255


def parse_ground(text: str | None) -> Ground | None:
    """A colour by its name or as #rrggbb."""
    from PIL import ImageColor

    if text is None:
        return None
    try:
        colour = ImageColor.getrgb(text)
    except ValueError:
        colour = (0, 0, 0, 0)
    if len(colour) == 4:  # no colour, or one that is transparent itself
        raise InputError(
            f"--background {text} is no colour; use a name such as white or black, or #rrggbb"
        )
    return Ground(*colour)


def opacity_of(image: "Image", raw: str) -> np.ndarray:
    """How opaque each pixel of a loaded image is, `(H, W)`, 0 to 255."""
    key: Any = image.info.get("transparency")
    if image.mode == "P":
        return np.asarray(image.convert("RGBA"))[..., 3]
    if image.mode == "La":
        return np.asarray(image.convert("LA"))[..., 1]
    if image.mode in ("LA", "PA", "RGBA"):
        return np.asarray(image.getchannel("A"))
    array = np.asarray(image)
    if image.mode == "1":
        array = array * 255
    # the key is as in the file, the numbers are scaled to bytes
    if raw[:3] in ("L;2", "L;4"):
        key *= 255 // (2 ** int(raw[2]) - 1)
    clear = (array == np.array(key)).all(-1) if array.ndim == 3 else array == key
    return np.where(clear, 0, 255)


def laid(
    file: str, array: np.ndarray, opacity: np.ndarray, below: np.ndarray | None
) -> np.ndarray:
    """An image laid on a ground, rounded to whole numbers; itself where it is opaque.

    Raises:
        InputError: when a pixel is transparent and there is no ground.
    """
    if (opacity == 255).all():
        return array
    if below is None:
        raise InputError(
            f"{shown(file)} has transparent pixels, whose colour nobody sees; say what lies below them "
            "with --background white, black or another colour"
        )
    share = opacity.astype(np.int64)
    mixed = (array * share + below * (255 - share) + 127) // 255
    return mixed.astype(array.dtype)
