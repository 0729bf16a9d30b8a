"""Damaged images: refused, or read as if they were whole."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pictures import (
    WHOLE,
    H,
    W,
    png,
    refuses,
    stack,
)
from pyro_vae import InputError, load_data
from pyro_vae.data.ground import parse_ground
from pyro_vae.data.images import survey


def test_too_many_pixels_are_refused(folder):
    png(folder / "0.png", [b""], 8, 0)
    content = (folder / "0.png").read_bytes()
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (folder / "0.png").write_bytes(content[:16] + head + check + content[33:])
    refuses(folder, r"0\.png has more than the 89,478,485 pixels")
    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (folder / "0.png").write_bytes(content[:16] + head + check + content[33:])
    refuses(folder, r"0\.png has more than the 89,478,485 pixels")


def test_the_format_is_read_off_the_content(folder):
    Image.new("L", (W, H), 9).save(folder / "0.jpg", "PNG")
    Image.new("L", (W, H), 9).save(folder / "1.png", "TIFF")
    assert (load_data(str(folder), **WHOLE).values["train"] == 9).all()
    (folder / "0.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 7\n")
    refuses(folder, r"0\.jpg cannot be read as an image")  # PostScript is a program


def cut(name, mode, **options):
    return pytest.param(
        name, mode, options, id=f"{mode}{name}-{'-'.join(map(str, options.values()))}"
    )


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        *(cut(".png", mode) for mode in ("L", "RGBA", "P", "1", "I;16")),
        *(cut(".jpg", mode, quality=90) for mode in ("L", "RGB")),
        cut(".jpg", "RGB", progressive=True),
        *(cut(".bmp", mode) for mode in ("L", "RGB", "1")),
        *(cut(".gif", mode) for mode in ("L", "P")),
        *(cut(".tif", mode) for mode in ("L", "RGB", "I;16", "F")),
        *(cut(".tif", mode, compression="tiff_lzw") for mode in ("L", "P", "F")),
        cut(".tif", "RGB", compression="jpeg"),
        cut(".tif", "1", compression="group4"),
        cut(".webp", "RGB", lossless=True),
        cut(".webp", "RGBA", quality=80),
        *(cut(".jp2", mode) for mode in ("L", "RGB")),
        *(cut(".ppm", mode) for mode in ("L", "RGB", "1")),
        cut(".pfm", "F"),
    ],
)
def test_a_file_that_is_cut_off_is_refused_or_the_same(
    folder, capfd, suffix, mode, options
):
    source = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(source)
    image = image.convert("L") if mode in ("I;16", "F") else image
    file = folder / f"0{suffix}"
    image.convert(mode).save(file, **options)
    content, x = file.read_bytes(), read(file)
    end = len(content)
    lengths = {int(n) for n in np.linspace(0, end - 1, 100)} | set(range(end - 25, end))
    same = 0
    for length in lengths:
        file.write_bytes(content[:length])
        found = read(file)
        if isinstance(found, str):
            assert found.startswith(str(file))
            assert "\n" not in found
        else:
            assert found.equal(x)
            same += 1
    assert same < 30
    assert capfd.readouterr().err == ""


def read(file):
    """The pixels of a file, or the sentence that refuses it."""
    try:
        images, _ = survey(file.parent, [file.name], parse_ground("white"))
        return images[:]
    except InputError as error:
        return str(error)


def test_a_stack_that_is_cut_off_is_refused(folder, rng, capfd):
    file = folder / "0.tif"
    stack(
        file, rng.integers(0, 256, (4, 12, 12), dtype=np.uint8), compression="tiff_lzw"
    )
    content, x = file.read_bytes(), read(file)
    assert len(x) == 4
    for length in range(0, len(content), 3):
        file.write_bytes(content[:length])
        assert isinstance(read(file), str), length
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".tif", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_a_bit_that_is_wrong_makes_one_sentence_at_most(
    folder, rng, capfd, suffix, options
):
    file = folder / f"0{suffix}"
    Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(
        file, **options
    )
    content, x = bytearray(file.read_bytes()), read(file)
    for place in rng.choice(len(content), 100):
        bit = 1 << rng.integers(8)
        content[place] ^= bit
        file.write_bytes(content)
        found = read(file)
        content[place] ^= bit
        assert "\n" not in str(found) if isinstance(found, str) else True
        if suffix == ".png":  # which has checksums
            assert isinstance(found, str) or found.equal(x)
    assert capfd.readouterr().err == ""


def test_an_empty_file_is_said_to_be_empty(folder):
    (folder / "0.png").touch()
    refuses(folder, r"0\.png is empty; copy it anew")
