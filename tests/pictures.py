"""Files of images, written byte by byte where Pillow would not, and folders of them read in both ways."""

import struct
import zlib

import pytest
import torch
from PIL import Image

from pyro_vae import InputError, load_data

WHOLE = {"test_fraction": 0, "validation_fraction": 0}
N, H, W = 6, 5, 7


def whole(folder, **options):
    """All data of a folder in the order of their names, read at once; and the same read from disk."""
    data = load_data(str(folder), **WHOLE, **options)
    streamed = load_data(str(folder), stream=True, workers=0, **WHOLE, **options)
    x, there = data.values["train"], streamed.values["train"]
    assert there[:].dtype == x.dtype
    assert there[:].equal(x)
    assert there[torch.tensor([2, 0, 1, 0])].equal(x[[2, 0, 1, 0]])
    assert (streamed.representation, streamed.maximum) == (
        data.representation,
        data.maximum,
    )
    assert streamed.notes == data.notes
    return data


def refuses(folder, words, **options):
    with pytest.raises(InputError, match=words) as error:
        load_data(str(folder), **options)
    assert "\n" not in str(error.value)


def save(folder, arrays, suffix, mode=None, **options):
    for i, array in enumerate(arrays):
        image = Image.fromarray(array)
        image = image if mode is None else image.convert(mode)
        image.save(folder / f"{i:02}{suffix}", **options)


def stack(path, arrays, **options):
    first, *others = [Image.fromarray(array) for array in arrays]
    first.save(path, save_all=True, append_images=others, **options)


def png(path, rows, bits, colour, extra=b""):
    """A PNG of samples that are packed in rows of bytes already, which Pillow does not write itself."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = len(rows), {0: 1, 2: 3, 4: 2, 6: 4}[colour] * bits
    width = len(rows[0]) * 8 // width
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    content = (
        chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def tiff(path, array, planes=1, photometric=1, extra=()):
    """An uncompressed TIFF of an array, `(H, W)` or `(H, W, planes)`."""
    bits, formats = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    shorts = [
        (258, (bits,) * planes),
        (277, (planes,)),
        (339, (formats,) * planes),
        *extra,
    ]
    shorts += [(256, (array.shape[1],)), (257, (array.shape[0],)), (259, (1,))]
    shorts += [(262, (photometric,)), (278, (array.shape[0],))]
    pixels = array.astype(array.dtype.newbyteorder("<")).tobytes()
    entries, beyond = [], b""
    start = 8 + len(pixels)
    for tag, values in shorts:
        content = struct.pack(f"<{len(values)}H", *values)
        if len(content) > 4:
            place, beyond = struct.pack("<I", start + len(beyond)), beyond + content
        else:
            place = content.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, 3, len(values)) + place)
    entries += [
        struct.pack("<HHII", 273, 4, 1, 8),
        struct.pack("<HHII", 279, 4, 1, len(pixels)),
    ]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    head = b"II*\0" + struct.pack("<I", start + len(beyond))
    path.write_bytes(head + pixels + beyond + directory)
