"""The numbers in one image file, as they are stored; what would be converted with loss is refused."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from pyro_vae.data.files import one_line, shown
from pyro_vae.data.ground import Ground, laid, opacity_of
from pyro_vae.data.whole import is_whole, quiet
from pyro_vae.foundation.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM", "JPEG2000")
# formats whose further pictures are the frames of an animation
FILMS = ("PNG", "GIF", "WEBP")
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")
COLOUR = ("RGB", "RGBA", "P", "PA")
OTHER_COLOURS = ("CMYK", "YCbCr", "LAB", "HSV")
# maxima of grey whose steps are whole numbers of a byte's
FINE = {1.0, 3.0, 15.0, 255.0}

# Tags of TIFF and of EXIF, and where Pillow keeps what tells how an image is turned.
SUBFILE, BITS, ORIENTATION, COLOUR_MAP, SAMPLE_FORMAT = 254, 258, 274, 320, 339
NOTES_ON_TURNING = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


@dataclass(frozen=True)
class PixelKind:
    """What the numbers of an image are.

    Attributes:
        colour: whether there are three planes, red, green and blue.
        dtype: the type that holds every number exactly.
        maximum: the largest number that the file's format can hold; `None` where that says nothing.
        indexed: whether the colours come from a palette, so that grey ones are exact as colours too.
    """

    colour: bool
    dtype: str
    maximum: float | None
    indexed: bool = False

    def __str__(self) -> str:
        numbers = self.dtype if self.maximum is None else f"0 to {self.maximum:g}"
        return f"{'colour' if self.colour else 'grey'}, {numbers}"

    def joined(self, other: "PixelKind") -> "PixelKind | None":
        """The kind that holds the numbers of both with the same meaning, or `None` where there is none."""
        both = replace(self, indexed=self.indexed and other.indexed)
        if replace(self, indexed=other.indexed) == other:
            return both
        if self.colour != other.colour:
            grey, colour = (other, self) if self.colour else (self, other)
            return colour if grey.indexed else None
        if {self.maximum, other.maximum} <= FINE:
            return replace(both, maximum=255.0)
        return None


class Page(NamedTuple):
    """What the header says of one picture in a file, before its pixels are read.

    Attributes:
        number: its place in the file.
        size: height and width as people see it, turned as the file says.
        kind: what its numbers are.
        turned: whether it is stored turned or mirrored.
        alpha: whether some pixels may be transparent.
    """

    number: int
    size: tuple[int, int]
    kind: PixelKind
    turned: bool
    alpha: bool


@contextmanager
def opened(file: str) -> Iterator["Image"]:
    """An image file, its header read; whatever goes wrong within becomes one sentence that names it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what does not touch the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("error", message="Truncated File Read")
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                raise InputError(
                    f"{shown(file)} is no regular file; remove it from the folder"
                )
            if status.st_size == 0:
                raise InputError(f"{shown(file)} is empty; copy it anew, or remove it")
            # By its name Pillow would map it into memory, and garble a TIFF that is stored turned.
            with (
                open(file, "rb") as stream,
                Image.open(stream, formats=FORMATS) as image,
            ):
                yield image
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{shown(file)} has more than the {Image.MAX_IMAGE_PIXELS or 0:,} pixels that an image "
            "may have; cut it into smaller ones"
        ) from error
    except Exception as error:  # a damaged file can fail in any part of Pillow
        reason = getattr(error, "strerror", None) or one_line(error)
        if "cannot identify" in reason:
            reason = (
                "it is damaged, or of a format or a type of pixels that is not known"
            )
        raise InputError(
            f"{shown(file)} cannot be read as an image: {shown(reason)}"
        ) from error


def look(file: str) -> tuple[list[Page], int]:
    """The pictures in a file that are data, and how many others (previews, masks) it holds.

    Raises:
        InputError: for a file that cannot be read, an animation, and pixels that cannot be read without loss.
    """
    with opened(file) as image:
        if image.format in FILMS and getattr(image, "is_animated", False):
            raise InputError(
                f"{shown(file)} is an animation, and a file must be one image; save its frames as "
                "files of their own, or remove it"
            )
        if image.format != "TIFF":
            return [page_of(file, image)], getattr(image, "n_frames", 1) - 1
        pages, tiff = [], cast(Any, image)
        for number in range(tiff.n_frames):
            tiff.seek(number)
            smaller_or_mask = tiff.tag_v2.get(SUBFILE, 0) & 0b101
            if not smaller_or_mask:
                _check_whole(file, image)  # before another page of it is decoded
                pages.append(page_of(file, image, number))
        return pages, tiff.n_frames - len(pages)


def page_of(file: str, image: "Image", number: int = 0) -> Page:
    """What the header says of the picture at which an open file stands."""
    unsaid = image.format == "PNG" and not NOTES_ON_TURNING & image.info.keys()
    # else a PNG would be decoded
    turn = 1 if unsaid else image.getexif().get(ORIENTATION, 1)
    # whose size Pillow has turned
    across = turn in (5, 6, 7, 8) and image.format != "TIFF"
    size = (image.width, image.height) if across else (image.height, image.width)
    alpha = image.has_transparency_data
    return Page(number, size, _kind(file, image, alpha), turn in range(2, 9), alpha)


def _kind(file: str, image: "Image", alpha: bool) -> PixelKind:
    """What the numbers of an open image are; refuses those that Pillow would convert with loss."""
    raw, maxval = _coding(image)
    if reason := _loss(file, image, raw, maxval):
        raise InputError(
            f"{shown(file)} {reason}; convert it first, or save the pixels of all images as one "
            "array (N, H, W) or (N, 3, H, W) in a .npy file"
        )
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    if mode in ("P", "PA"):
        table = _palette(image)
        is_grey = bool((table == table[:, :1]).all())
        return PixelKind(not is_grey, "uint8", 255.0, indexed=True)
    if mode in ("RGB", "RGBA"):
        return PixelKind(True, "uint8", float(maxval or 255))
    if mode == "F":
        return PixelKind(False, "float32", None)

    # Whole numbers: signed ones, and those of 32 bits, have no maximum worth knowing.
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if signed or (mode == "I" and image.format == "TIFF"):
        return PixelKind(False, f"{'' if signed else 'u'}int{tags[BITS][0]}", None)
    if mode.startswith("I"):
        bits = 12 if raw == "I;12" else 16
        return PixelKind(False, "uint16", float(maxval or 2**bits - 1))
    bits = 1 if mode == "1" else 8
    if alpha:
        return PixelKind(False, "uint8", 255.0)
    if raw[:3] in ("L;2", "L;4"):
        bits = int(raw[2])
    return PixelKind(False, "uint8", float(maxval or 2**bits - 1))


def _coding(image: "Image") -> tuple[str, int | None]:
    """How the pixels lie in the file, in Pillow's words, and the largest number that a netpbm file declares."""
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return "", None
    arguments = tiles[0][3]
    coding = [arguments] if isinstance(arguments, str) else [*(arguments or [""])]
    declares = image.format == "PPM" and len(coding) == 2
    return str(coding[0]), int(coding[1]) if declares else None


def _loss(file: str, image: "Image", raw: str, maxval: int | None) -> str | None:
    """What Pillow would lose of an open image, as the end of a sentence."""
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    planes, read = len(tags.get(BITS, (1,))), len(image.getbands())
    if mode in OTHER_COLOURS:
        return f"holds {mode} colours, which have no exact red, green and blue"
    if mode not in GREY + COLOUR:
        return f"holds pixels of the kind {mode}, which is not known here"
    if mode in (*COLOUR, "LA", "La") and (";16" in raw or (maxval or 0) > 255):
        return "holds colours or transparency of 16 bits, of which only 8 can be read"
    if planes > read:
        return f"holds {planes} planes, of which only {read} can be read"
    if mode in ("P", "PA") and COLOUR_MAP in tags:
        table = np.array(tags[COLOUR_MAP])
        if (table % 256).any() and (table % 257).any():
            return "has a palette of 16 bits, of which only 8 can be read"
    if image.format == "JPEG2000" and not _plain_depth(file, mode):
        return "holds neither 8 bits a plane nor 16 bits of grey, which JPEG 2000 files must"
    return None


def _plain_depth(file: str, mode: str) -> bool:
    """Whether a JPEG 2000 file has 8 bits a plane, or 16 of grey; Pillow scales all others."""
    with open(file, "rb") as stream:
        head = stream.read(2**16)
    start = head.find(b"\xff\x4f\xff\x51") + 42  # of the planes in the segment SIZ
    planes = int.from_bytes(head[start - 2 : start], "big")
    # Bits less 1, 128 more if signed.
    depths = set(head[start : start + 3 * planes : 3])
    return depths == {15 if mode.startswith("I") else 7}


def _palette(image: "Image") -> np.ndarray:
    """The colours of a palette, `(colours, 3)`; red, green and blue in any order."""
    palette: Any = image.palette
    coding = palette.rawmode or palette.mode
    table = np.frombuffer(bytes(palette.palette), np.uint8)
    if coding == "RGB;L":
        return table[: len(table) // 3 * 3].reshape(3, -1).T
    width = len(coding.partition(";")[0])
    return table[: len(table) // width * width].reshape(-1, width)[:, :3]


def pixels(
    image: "Image", file: str, page: Page, kind: PixelKind, ground: Ground | None
) -> np.ndarray:
    """The numbers of an open file, `(H, W)` or `(3, H, W)`.

    Args:
        image: the file, standing at the page.
        file: its name, for what is said about it.
        page: what its header said before.
        kind: what the numbers are to be: the page's own kind, joined to that of other files.
        ground: the colour that transparent pixels are laid on, or `None` where none may be transparent.

    Raises:
        InputError: for a damaged file, for transparency without a ground, for a file that has changed meanwhile.
    """
    from PIL import ImageOps

    now = page_of(file, image, page.number)
    raw, _ = _coding(image)
    _check_whole(file, image)
    with quiet(image):
        image.load()
    if image.format != "TIFF":  # which Pillow turns by itself
        ImageOps.exif_transpose(image, in_place=True)
    if now != page or (image.height, image.width) != page.size:
        raise InputError(
            f"{shown(file)} is not what its header said; has it changed meanwhile?"
        )
    array = _numbers(image, raw, page.kind, kind)
    if page.alpha:
        below = None if ground is None else ground.of(file, kind.colour, kind.maximum)
        array = laid(file, array, opacity_of(image, raw), below)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{shown(file)} holds a value that is missing or infinite")
    return array


def _check_whole(file: str, image: "Image") -> None:
    if not is_whole(image, file):
        raise InputError(f"{shown(file)} cannot be read as an image: it is cut off")


def _numbers(image: "Image", raw: str, own: PixelKind, kind: PixelKind) -> np.ndarray:
    """The numbers of a loaded image, without its transparency."""
    if image.mode in COLOUR:
        array = np.asarray(image.convert("RGBA" if image.mode[-1] == "A" else "RGB"))
        array = array[..., :3].transpose(2, 0, 1) if kind.colour else array[..., 0]
    elif image.mode in ("LA", "La"):
        array = np.asarray(image.convert("LA"))[..., 0]
    else:
        array = np.asarray(image)
    if image.mode == "1":
        return array.astype(np.uint8) * np.uint8(kind.maximum or 1)

    # Pillow keeps numbers of other types in those of its own, bit by bit.
    if own.maximum is None and array.dtype.itemsize == np.dtype(own.dtype).itemsize:
        return array.view(own.dtype)

    # It scales numbers of fewer bits to the full range and rounds, which can be undone.
    full = 65535 if own.dtype == "uint16" else 255
    if kind.maximum not in (None, full) and raw != "I;12":
        array = np.rint(array * (kind.maximum / full))
    return array.astype(kind.dtype)
