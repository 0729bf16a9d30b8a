"""Whether an image file is all there; Pillow reads some that are cut off without a word."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# tags of TIFF: where strips and tiles begin, their bytes
OFFSETS, LENGTHS = (273, 324), (279, 325)
CODESTREAM, END = b"\xff\x4f\xff\x51", b"\xff\xd9"  # of JPEG 2000


def is_whole(image: "Image", path: str) -> bool:
    """Whether the file of an image that has been opened, and not yet decoded, holds all of its bytes.

    What Pillow itself finds out when it decodes is not looked for. A PNG is read against its checksums.
    """
    if image.format == "TIFF":
        return _whole_tiff(image, path)
    if image.format == "JPEG2000":
        return _whole_jpeg_2000(path)
    if image.format == "PNG":
        _verify(path)
    return True


def _whole_tiff(image: "Image", path: str) -> bool:
    """Whether the directory of a page, and all strips or tiles that it names, end before the file does."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        order = "little" if file.read(2) == b"II" else "big"
        big = 43 in file.read(2)
        file.seek(tags.offset)
        head, entry = (8, 20) if big else (2, 12)
        entries = int.from_bytes(file.read(head), order)  # type: ignore[arg-type]
    link = 8 if big else 4  # to the next page
    ends = [tags.offset + head + entries * entry + link]
    for offsets, lengths in zip(OFFSETS, LENGTHS, strict=True):
        starts, spans = tags.get(offsets, ()), tags.get(lengths, ())
        ends += [start + span for start, span in zip(starts, spans, strict=False)]
    return max(ends) <= size


def _whole_jpeg_2000(path: str) -> bool:
    """Whether the code ends with its end marker, where its box says or where the file ends."""
    with open(path, "rb") as file:
        content = file.read()
    start = content.find(CODESTREAM)
    end = len(content)
    if content[start - 4 : start] == b"jp2c":
        length = int.from_bytes(content[start - 8 : start - 4], "big")
        end = start - 8 + length if length else end
    return content[end - 2 : end] == END


def _verify(path: str) -> None:
    """Hold a PNG against its checksums; raises what Pillow raises."""
    from PIL import Image

    with Image.open(path, formats=("PNG",)) as again:
        again.verify()


_QUIET = threading.Lock()


@contextmanager
def quiet(image: "Image") -> Iterator[None]:
    """While a compressed TIFF is decoded, keep what libtiff itself prints of damage out of the error output."""
    tiles = getattr(image, "tile", None)
    by_libtiff = tiles and tiles[0][0] == "libtiff"
    # or another thread keeps it quiet
    if not by_libtiff or not _QUIET.acquire(blocking=False):
        yield
        return
    try:
        with _error_output_closed():
            yield
    finally:
        _QUIET.release()


@contextmanager
def _error_output_closed() -> Iterator[None]:
    try:
        original = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
