"""Images: every number is the one that was written, or the file is refused in one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import (
    H,
    N,
    W,
    png,
    refuses,
    save,
    tiff,
    whole,
)

BYTE_SUFFIXES = [".png", ".PNG", ".bmp", ".gif", ".tif", ".TIFF", ".pgm", ".jp2"]


@pytest.mark.parametrize("suffix", BYTE_SUFFIXES)
def test_grey_bytes(folder, rng, suffix):
    written = rng.integers(0, 256, (N, H, W), dtype=np.uint8)
    save(folder, written, suffix)
    data = whole(folder)
    assert data.values["train"].dtype is torch.uint8
    assert np.array_equal(data.values["train"], written)
    assert data.maximum == 255
    assert data.notes == () or suffix == ".gif"  # which always has a palette


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".jp2"])
def test_colours(folder, rng, suffix):
    written = rng.integers(0, 256, (N, H, W, 3), dtype=np.uint8)
    save(folder, written, suffix, **({"lossless": True} if suffix == ".webp" else {}))
    data = whole(folder)
    assert np.array_equal(data.values["train"], written.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jpe", ".JPG"])
def test_jpeg_is_what_its_decoder_says(folder, rng, suffix):
    save(folder, rng.integers(0, 256, (N, H, W), dtype=np.uint8), suffix)
    seen = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    assert np.array_equal(whole(folder).values["train"], seen)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".pgm", {}),
        (".jp2", {}),
    ],
)
def test_sixteen_bits_are_kept(folder, rng, suffix, options):
    written = rng.integers(0, 65536, (N, H, W)).astype(np.uint16)
    save(folder, written, suffix, **options)
    data = whole(folder)
    assert np.array_equal(data.values["train"], written)
    assert data.maximum == 65535
    assert any("0 to 65535" in note for note in data.notes)


def test_twelve_bits_in_sixteen_are_kept(folder, rng):
    written = rng.integers(0, 4096, (N, H, W)).astype(np.uint16)
    save(folder, written, ".png")
    data = whole(folder)
    assert np.array_equal(data.values["train"], written)
    assert data.maximum == 65535


def test_sixteen_bits_with_the_high_byte_first(folder, rng):
    written = rng.integers(0, 65536, (N, H, W)).astype(np.uint16)
    for i, array in enumerate(written):
        content = array.astype(">u2").tobytes()
        Image.frombytes("I;16B", (W, H), content).save(folder / f"{i}.tif")
    assert np.array_equal(whole(folder).values["train"], written)


@pytest.mark.parametrize("mode", ["P5", "P2"])
@pytest.mark.parametrize("maximum", [7, 200, 4095, 40_000])
def test_a_grey_map_has_the_maximum_that_it_declares(folder, rng, mode, maximum):
    written = rng.integers(0, maximum + 1, (N, H, W))
    for i, array in enumerate(written):
        kind = ">u2" if maximum > 255 else "u1"
        plain = " ".join(map(str, array.ravel())).encode()
        content = array.astype(kind).tobytes() if mode == "P5" else plain
        (folder / f"{i}.pgm").write_bytes(
            f"{mode} {W} {H} {maximum}\n".encode() + content
        )
    data = whole(folder)
    assert np.array_equal(data.values["train"], written)
    assert data.maximum == maximum


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_few_levels(folder, rng, bits):
    written = rng.integers(0, 2**bits, (N, H, 8))
    planes = (written[..., None] >> np.arange(bits)[::-1]) & 1
    for i, array in enumerate(planes):
        png(folder / f"{i}.png", np.packbits(array.reshape(H, -1), axis=1), bits, 0)
    data = whole(folder)
    assert np.array_equal(data.values["train"], written)
    assert data.maximum == 2**bits - 1
    if bits == 1:
        assert data.representation.name == "BINARY"


def test_few_bits_beside_bytes_mean_the_same_grey(folder):
    png(folder / "0.png", np.array([[0b00011011]], np.uint8), 2, 0)
    png(folder / "1.png", np.array([[0x0F, 0x5A]], np.uint8), 4, 0)
    Image.fromarray(np.array([[1, 2, 3, 4]], np.uint8)).save(folder / "2.png")
    data = whole(folder)
    expected = [[0, 85, 170, 255], [0, 255, 85, 170], [1, 2, 3, 4]]
    assert data.values["train"][:, 0].tolist() == expected
    assert any("fewer than 8 bits" in note for note in data.notes)


@pytest.mark.parametrize("suffix", [".tif", ".pfm"])
def test_real_numbers_are_kept(folder, rng, suffix):
    written = rng.normal(size=(N, H, W)).astype(np.float32) * 1e-3
    save(folder, written, suffix)
    data = whole(folder)
    assert np.array_equal(data.values["train"], written)
    assert data.representation.name == "REAL"


def test_reals_that_are_missing_are_refused_with_the_file(folder):
    save(folder, np.full((N, H, W), np.nan, np.float32), ".tif")
    refuses(folder, r"00\.tif holds a value that is missing or infinite")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int8", -128, 128),
        ("int16", -(2**15), 2**15),
        ("int32", -(2**31), 2**31),
        ("uint32", 0, 2**32),
    ],
)
def test_whole_numbers_of_any_type(folder, rng, dtype, low, high):
    written = rng.integers(low, high, (N, H, W)).astype(dtype)
    for i, array in enumerate(written):
        tiff(folder / f"{i}.tif", array)
    assert np.array_equal(whole(folder).values["train"], written)


def test_a_palette_gives_its_colours(folder, rng):
    table = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    written = rng.integers(0, 16, (N, H, W), dtype=np.uint8)
    for suffix in (".png", ".gif", ".bmp", ".tif"):
        for i, array in enumerate(written):
            image = Image.fromarray(array, "P")
            image.putpalette(table.tobytes())
            image.save(folder / f"{i}{suffix}")
    x = whole(folder).values["train"].numpy()
    assert np.array_equal(x, np.repeat(table[written].transpose(0, 3, 1, 2), 4, 0))


def test_a_palette_of_greys_gives_grey(folder, rng):
    table = rng.permutation(256).astype(np.uint8)
    written = rng.integers(0, 256, (N, H, W), dtype=np.uint8)
    for i, array in enumerate(written):
        image = Image.fromarray(array, "P")
        image.putpalette(np.repeat(table, 3).tobytes())
        image.save(folder / f"{i}.png")
    assert np.array_equal(whole(folder).values["train"], table[written])


def test_palettes_of_grey_and_of_colour_together_are_colours(folder):
    for i, colour in enumerate([(7, 7, 7), (1, 2, 3), (9, 9, 9)]):
        image = Image.new("P", (W, H), 0)
        image.putpalette(colour)
        image.save(folder / f"{i}.png")
    x = whole(folder).values["train"]
    assert x[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3], [9, 9, 9]]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", ".jpg"), ("CMYK", ".tif"), ("YCbCr", ".tif"), ("LAB", ".tif")],
)
def test_other_colours_are_refused(folder, mode, suffix):
    Image.new(mode, (W, H)).save(folder / f"0{suffix}")
    refuses(folder, rf"0{suffix} holds (CMYK|YCbCr|LAB) colours, .* \.npy file")


@pytest.mark.parametrize(
    ("colour", "planes"),
    [(2, 3), (4, 2), (6, 4)],
    ids=["colour", "grey, alpha", "colour, alpha"],
)
def test_colours_of_sixteen_bits_are_refused(folder, rng, colour, planes):
    rows = rng.integers(0, 256, (H, W * planes * 2), dtype=np.uint8)
    png(folder / "0.png", rows, 16, colour)
    refuses(folder, r"0\.png holds colours or transparency of 16 bits, of which only 8")


def test_colours_of_sixteen_bits_in_other_formats_are_refused(folder, rng):
    array = rng.integers(0, 65536, (H, W, 3)).astype(np.uint16)
    tiff(folder / "0.tif", array, planes=3, photometric=2)
    refuses(folder, r"0\.tif holds colours .* of 16 bits")
    (folder / "0.tif").unlink()
    head = f"P6 {W} {H} 65535\n".encode()
    (folder / "0.ppm").write_bytes(head + array.astype(">u2").tobytes())
    refuses(folder, r"0\.ppm holds colours .* of 16 bits")


def test_planes_that_would_be_dropped_are_refused(folder, rng):
    array = rng.integers(0, 256, (H, W, 5), dtype=np.uint8)
    tiff(folder / "0.tif", array, planes=5, photometric=2, extra=[(338, (0, 0))])
    refuses(folder, r"0\.tif holds 5 planes, of which only 3")


def test_the_odd_one_out_is_named(folder, rng):
    save(folder, rng.integers(0, 256, (N, H, W), dtype=np.uint8), ".png")
    Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(
        folder / "03.png"
    )
    refuses(folder, r"03\.png is colour.* but 00\.png is grey.* 5 of 6 images")
    Image.fromarray(rng.integers(0, 256, (H, W)).astype(np.uint16)).save(
        folder / "03.png"
    )
    refuses(folder, r"03\.png is grey, 0 to 65535 but 00\.png is grey, 0 to 255")
    Image.fromarray(rng.integers(0, 256, (W, H), dtype=np.uint8)).save(
        folder / "03.png"
    )
    refuses(folder, r"03\.png has 7 x 5 pixels .* but 00\.png has 5 x 7, as 5 of 6")


def test_grey_stored_as_colour_is_said(folder, rng):
    grey = rng.integers(0, 256, (N, H, W, 1), dtype=np.uint8)
    save(folder, np.repeat(grey, 3, -1), ".png")
    data = whole(folder)
    assert data.values["train"].shape == (N, 3, H, W)
    assert any("grey images stored as colour" in note for note in data.notes)
