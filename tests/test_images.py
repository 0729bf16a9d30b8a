"""Folders of images: every number is the one that was written, or the file is refused in one sentence."""

import os
import shutil
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import InputError, load_data
from pyro_vae.data.images import survey
from pyro_vae.data.pixels import parse_ground

WHOLE = {"test_fraction": 0, "validation_fraction": 0}
N, H, W = 6, 5, 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def whole(folder, **options):
    """All data of a folder in the order of their names, read at once; and the same read from disk."""
    data = load_data(str(folder), **WHOLE, **options)
    streamed = load_data(str(folder), stream=True, workers=0, **WHOLE, **options)
    x, there = data.values["train"], streamed.values["train"]
    assert there[:].dtype == x.dtype
    assert there[:].equal(x)
    assert there[torch.tensor([2, 0, 1, 0])].equal(x[[2, 0, 1, 0]])
    assert (streamed.representation, streamed.maximum) == (data.representation, data.maximum)
    assert streamed.notes == data.notes
    return data


def save(folder, arrays, suffix, mode=None, **options):
    for i, array in enumerate(arrays):
        image = Image.fromarray(array)
        image = image if mode is None else image.convert(mode)
        image.save(folder / f"{i:02}{suffix}", **options)


def png(path, rows, bits, colour, extra=b""):
    """A PNG of samples that are packed in rows of bytes already, which Pillow does not write itself."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = len(rows), {0: 1, 2: 3, 4: 2, 6: 4}[colour] * bits
    width = len(rows[0]) * 8 // width
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    content = chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def transparent_key(value):
    content = b"tRNS" + struct.pack(">H", value)
    return struct.pack(">I", 2) + content + struct.pack(">I", zlib.crc32(content))


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
        (folder / f"{i}.pgm").write_bytes(f"{mode} {W} {H} {maximum}\n".encode() + content)
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


def tiff(path, array, planes=1, photometric=1, extra=()):
    """An uncompressed TIFF of an array, `(H, W)` or `(H, W, planes)`."""
    bits, formats = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    shorts = [(258, (bits,) * planes), (277, (planes,)), (339, (formats,) * planes), *extra]
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
    entries += [struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 279, 4, 1, len(pixels))]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    head = b"II*\0" + struct.pack("<I", start + len(beyond))
    path.write_bytes(head + pixels + beyond + directory)


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


OPAQUE, CLEAR = np.full((H, W), 255, np.uint8), np.zeros((H, W), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_that_is_nowhere_used_is_left_out(folder, rng, suffix, mode):
    if (mode, suffix) == ("LA", ".webp"):
        pytest.skip("WebP has no grey")
    written = rng.integers(0, 256, (N, H, W, len(mode) - 1), dtype=np.uint8)
    for i, array in enumerate(written):
        planes = np.concatenate([array, OPAQUE[..., None]], -1)
        options = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(planes, mode).save(folder / f"{i}{suffix}", **options)
    data = whole(folder)
    if not (suffix == ".webp" and not data.notes):  # its encoder leaves such a plane out itself
        assert f"{N} images with a transparency that is nowhere used" in data.notes
    assert np.array_equal(
        data.values["train"], written.transpose(0, 3, 1, 2).squeeze(1 * (mode == "LA") or ())
    )


def transparent(folder, kind):
    """Black drawings on what is transparent, in the ways that files say so; where they are drawn."""
    drawn = np.random.default_rng(0).random((N, H, 8)) < 0.5
    drawn[:, 0, :2] = [True, False]
    for i, ink in enumerate(drawn):
        file, alpha = folder / f"{i}.png", (ink * 255).astype(np.uint8)
        if kind in ("LA", "RGBA"):
            planes = [np.zeros_like(alpha)] * (len(kind) - 1)
            Image.fromarray(np.stack([*planes, alpha], -1), kind).save(file)
        elif kind in ("palette", "gif"):
            image = Image.fromarray(ink.astype(np.uint8), "P")
            image.putpalette([9, 9, 9, 0, 0, 0])
            image.save(file.with_suffix(".gif" if kind == "gif" else ".png"), transparency=0)
        elif kind == "soft palette":
            image = Image.fromarray(ink.astype(np.uint8), "P")
            image.putpalette([9, 9, 9, 0, 0, 0])
            image.save(file, transparency=bytes([0, 255]))
        elif kind == "1 bit":
            png(file, np.packbits(~ink, axis=1), 1, 0, transparent_key(1))
        elif kind == "4 bits":
            grey = np.where(ink, 0, 5).astype(np.uint8)
            png(file, grey[:, ::2] << 4 | grey[:, 1::2], 4, 0, transparent_key(5))
        elif kind == "8 bits":
            png(file, np.where(ink, 0, 200).astype(np.uint8), 8, 0, transparent_key(200))
        else:
            grey = np.where(ink, 0, 1000).astype(">u2")
            rows = [row.tobytes() for row in grey]
            png(file, rows, 16, 0, transparent_key(1000))
    return drawn


TRANSPARENT = [
    *("LA", "RGBA", "palette", "soft palette", "gif", "1 bit", "4 bits", "8 bits", "16 bits"),
]


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_images_need_a_ground(folder, kind):
    drawn = transparent(folder, kind)
    name = "0.gif" if kind == "gif" else "0.png"
    words = rf"{name} has transparent pixels, .* --background white"
    for stream in (False, True):
        refuses(folder, words, stream=stream)
    most = 65535 if kind == "16 bits" else 255
    for background, below in (("white", most), ("black", 0), ("#808080", 128 * most // 255)):
        data = whole(folder, background=background)
        x = data.values["train"].numpy()
        x = x[:, 0] if kind == "RGBA" else x
        assert np.array_equal(x, np.where(drawn, 0, below))
        assert any(f"laid on {background}" in note for note in data.notes)


def test_half_transparent_pixels_are_mixed_with_the_ground(folder, rng):
    written = rng.integers(0, 256, (N, H, W, 4), dtype=np.uint8)
    save(folder, written, ".png")
    x = whole(folder, background="#ff8000").values["train"].numpy().transpose(0, 2, 3, 1)
    share = written[..., 3:] / 255
    exact = share * written[..., :3] + (1 - share) * np.array([255, 128, 0])
    assert np.abs(x - exact).max() <= 0.5 + 1e-9


def test_grounds_that_cannot_be(folder, rng):
    save(folder, rng.integers(0, 256, (N, H, W, 4), dtype=np.uint8), ".png")
    for background in ("nocolour", "#12", "#ffffff80", ""):
        refuses(folder, "--background .* is no colour", background=background)
    np.save(folder / "x.npy", np.zeros((9, 2)))
    refuses(folder / "x.npy", "--background is for a folder of images", background="white")
    refuses("digits", "--background is for a folder of images", background="white")
    for file in folder.glob("*.png"):
        Image.open(file).convert("LA").save(file)
    refuses(folder, "is grey, so that it can be laid on a grey --background", background="red")


def refuses(folder, words, **options):
    with pytest.raises(InputError, match=words) as error:
        load_data(str(folder), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", ".jpg"), ("CMYK", ".tif"), ("YCbCr", ".tif"), ("LAB", ".tif")]
)
def test_other_colours_are_refused(folder, mode, suffix):
    Image.new(mode, (W, H)).save(folder / f"0{suffix}")
    refuses(folder, rf"0{suffix} holds (CMYK|YCbCr|LAB) colours, .* \.npy file")


@pytest.mark.parametrize(
    ("colour", "planes"), [(2, 3), (4, 2), (6, 4)], ids=["colour", "grey, alpha", "colour, alpha"]
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("turn", range(2, 9))
def test_images_are_read_upright(folder, suffix, turn):
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :8] = 240
    stored[8:, :8] = 120
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(suffix, {})
    for i in range(3):
        Image.fromarray(stored).save(folder / f"{i}{suffix}", exif=exif, **options)
    data = whole(folder)
    upright = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[turn]
    x = data.values["train"].reshape(3, -1, *upright.shape)[:, 0].int()
    error = np.abs(x.numpy() - upright)
    assert error.max() <= (6 if suffix == ".jpg" else 0)
    assert "3 images turned upright, as their EXIF orientation says" in data.notes


def stack(path, arrays, **options):
    first, *others = [Image.fromarray(array) for array in arrays]
    first.save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_pages_are_data(folder, rng, compression):
    written = rng.integers(0, 65536, (3, 4, H, W)).astype(np.uint16)
    for name, arrays in zip("ab", written, strict=False):
        stack(folder / f"{name}.tif", arrays, compression=compression)
    Image.fromarray(written[2, 0]).save(folder / "c.tif")
    data = whole(folder)
    assert np.array_equal(data.values["train"], [*written[0], *written[1], written[2, 0]])
    names = [*(f"{name}.tif#{page}" for name in "ab" for page in range(4)), "c.tif"]
    assert data.names["train"].tolist() == names
    assert any("2 files of several pages: each page is a datum" in note for note in data.notes)


def test_pages_are_read_in_any_order_by_any_process_and_thread(folder, rng):
    written = rng.integers(0, 256, (2, 20, H, W), dtype=np.uint8)
    for name, arrays in zip("ab", written, strict=True):
        stack(folder / f"{name}.tif", arrays)
    data = load_data(str(folder), stream=True, workers=2, **WHOLE).values["train"]
    flat, order = written.reshape(40, H, W), torch.from_numpy(rng.permutation(40))
    wrong = []

    def read():
        for _ in range(10):
            wrong.append(not np.array_equal(data[order], flat[order]))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert np.array_equal(torch.cat(list(data.batches(order, 7))), flat[order])
    for thread in threads:
        thread.join()
    assert wrong == [False] * 20


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a.tif,1", "b.tif,2"], [1, 1, 1, 2, 2, 2]),
        ([f"{file}.tif#{i},{i}" for file in "ba" for i in range(3)], [0, 1, 2] * 2),
        (["x", "y", "z", "x", "y", "z"], ["x", "y", "z"] * 2),
        (["x", "y"], None),
    ],
)
def test_labels_of_pages(folder, tmp_path, rng, lines, expected):
    for name in "ab":
        stack(folder / f"{name}.tif", rng.integers(0, 256, (3, H, W), dtype=np.uint8))
    (tmp_path / "y.csv").write_text("\n".join(lines))
    if expected is None:
        refuses(folder, "2 labels, but there are 6 data", labels=str(tmp_path / "y.csv"))
    else:
        data = load_data(str(folder), labels=str(tmp_path / "y.csv"), **WHOLE)
        assert data.labels["train"].tolist() == expected


def test_smaller_copies_and_masks_are_no_data(folder, rng):
    image = Image.fromarray(rng.integers(0, 256, (H, W), dtype=np.uint8))
    small = image.resize((3, 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    for i in range(3):
        image.save(folder / f"{i}.tif", save_all=True, append_images=[small])
    data = whole(folder)
    assert data.values["train"].shape == (3, H, W)
    assert any("3 pictures inside files left out" in note for note in data.notes)


def test_previews_in_a_photograph_are_no_data(folder, rng):
    for i in range(3):
        arrays = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        stack(folder / f"{i}.jpg", arrays, format="MPO")
    data = whole(folder)
    assert len(data.values["train"]) == 3
    assert any("3 pictures inside files left out" in note for note in data.notes)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
def test_animations_are_refused(folder, rng, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    stack(folder / f"0{suffix}", rng.integers(0, 256, (4, H, W, 3), dtype=np.uint8), **options)
    refuses(folder, rf"0{suffix} is an animation, .* save its frames as files")


def test_the_odd_one_out_is_named(folder, rng):
    save(folder, rng.integers(0, 256, (N, H, W), dtype=np.uint8), ".png")
    Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(folder / "03.png")
    refuses(folder, r"03\.png is colour.* but 00\.png is grey.* 5 of 6 images")
    Image.fromarray(rng.integers(0, 256, (H, W)).astype(np.uint16)).save(folder / "03.png")
    refuses(folder, r"03\.png is grey, 0 to 65535 but 00\.png is grey, 0 to 255")
    Image.fromarray(rng.integers(0, 256, (W, H), dtype=np.uint8)).save(folder / "03.png")
    refuses(folder, r"03\.png has 7 x 5 pixels .* but 00\.png has 5 x 7, as 5 of 6")


def test_grey_stored_as_colour_is_said(folder, rng):
    grey = rng.integers(0, 256, (N, H, W, 1), dtype=np.uint8)
    save(folder, np.repeat(grey, 3, -1), ".png")
    data = whole(folder)
    assert data.values["train"].shape == (N, 3, H, W)
    assert any("grey images stored as colour" in note for note in data.notes)


# Which files are read.


def test_hidden_and_other_files_are_left_out(folder, rng):
    for i, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png"]):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((H, W), i, np.uint8)).save(folder / name)
    for name in ("cat/.ipynb_checkpoints", "__MACOSX/cat", ".git"):
        (folder / name).mkdir(parents=True)
        shutil.copy(folder / "cat/0.png", folder / name / "0-checkpoint.png")
    (folder / "cat" / "._0.png").write_bytes(b"\0\5\26\7" + b"\0" * 100)
    for name in ("Thumbs.db", ".DS_Store", "README.txt", "labels.csv"):
        (folder / name).write_text("no image")
    (folder / "not an image.png").mkdir()
    data = whole(folder)
    assert data.names["train"].tolist() == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert data.labels["train"].tolist() == ["cat", "cat", "dog"]
    assert any(note.startswith("4 hidden images") for note in data.notes)
    assert "2 other files left out (README.txt, labels.csv)" in data.notes
    assert "labels are the names of 2 folders (cat, dog)" in data.notes


def test_a_folder_without_images_says_what_it_has(folder):
    refuses(folder, "holds no images")
    (folder / "x.npy").write_bytes(b"")
    (folder / ".ipynb_checkpoints").mkdir()
    Image.new("L", (W, H)).save(folder / ".ipynb_checkpoints" / "0.png")
    refuses(folder, r"holds no images .*; 1 hidden image .*; 1 other file left out \(x\.npy\)")


def test_links_are_followed_once(folder, tmp_path):
    Image.new("L", (W, H)).save(folder / "0.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (W, H)).save(tmp_path / "elsewhere" / "1.png")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    data = load_data(str(folder), **WHOLE)
    assert data.names["train"].tolist() == ["0.png", "more/1.png"]
    assert any("links to folders that are read anyway" in note for note in data.notes)
    (folder / "gone.png").symlink_to(tmp_path / "nothing")
    refuses(folder, r"gone\.png cannot be read as an image: No such file")


def test_what_is_no_file_is_refused(folder):
    os.mkfifo(folder / "0.png")
    refuses(folder, r"0\.png is no regular file")


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (b"a b ;$(x) 'q\".png", "a b ;$(x) 'q\".png"),
        (b"line\nbreak.png", "line\\nbreak.png"),
        (b"\xff\xfe.png", "\\xff\\xfe.png"),
        ("é😀\u202e.png".encode(), "é😀\\u202e.png"),
    ],
)
def test_any_file_name_can_be_printed(folder, name, printed):
    path = os.path.join(os.fsencode(folder), name)
    with open(path, "wb") as file:
        Image.new("L", (W, H)).save(file, "PNG")
    Image.new("L", (W, H)).save(folder / "other.png")
    data = load_data(str(folder), **WHOLE)
    assert printed in data.names["train"].tolist()
    with open(path, "wb") as file:
        file.write(b"<!doctype html>")
    with pytest.raises(InputError) as error:
        load_data(str(folder))
    assert f"{printed} cannot be read as an image: it is damaged" in str(error.value)
    assert str(error.value).isprintable()
    str(error.value).encode()


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
@pytest.mark.parametrize("classes", [("",), ("a", "b")])
def test_folders_named_after_splits_are_splits(folder, names, classes):
    for i, split in enumerate(names):
        for kind in classes:
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for j in range(4 - i):
                Image.new("L", (W, H), 10 * i + j).save(folder / split / kind / f"{j}.png")
    data = load_data(str(folder))
    sizes = {k: len(v) for k, v in data.values.items()}
    assert sizes == {s: n * len(classes) for s, n in zip(SPLITS, (4, 3, 2), strict=True)}
    for i, split in enumerate(SPLITS):
        assert (data.values[split] // 10 == i).all()
        assert all(name.startswith(names[i] + "/") for name in data.names[split])
    if len(classes) == 1:
        assert data.labels is None
    else:
        assert {k: sorted(set(v)) for k, v in data.labels.items()} == {
            split: ["a", "b"] for split in SPLITS
        }
    assert any("are taken for the splits" in note for note in data.notes)


SPLITS = ("train", "validation", "test")


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (W, H)).save(folder / name)


def test_validation_data_are_taken_from_train_where_there_are_none(folder):
    tree(
        folder,
        *(
            f"{split}/{kind}/{i}.png"
            for split in ("train", "test")
            for kind in "ab"
            for i in range(6)
        ),
    )
    data = load_data(str(folder))
    assert {k: len(v) for k, v in data.values.items()} == {"train": 11, "validation": 1, "test": 12}
    assert sorted(set(data.labels["train"])) == ["a", "b"]
    assert all(name.startswith("train/") for name in data.names["validation"])


def test_a_folder_train_alone_is_divided(folder):
    tree(folder, *(f"train/{kind}/{i}.png" for kind in "ab" for i in range(10)))
    data = load_data(str(folder))
    assert {k: len(v) for k, v in data.values.items()} == {"train": 14, "validation": 2, "test": 4}
    assert sorted(set(data.labels["train"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/0.png", "test/0.png", "more/0.png"], r"and also others, such as more/0\.png"),
        (["train/0.png", "test/0.png", "0.png"], r"and also others, such as 0\.png"),
        (["test/0.png", "val/0.png"], "has test, val but no folder train"),
        (["train/0.png", "val/0.png", "valid/0.png"], "two are one split"),
    ],
)
def test_splits_that_are_not_certain_are_refused(folder, names, words):
    tree(folder, *names)
    refuses(folder, words)


def test_a_class_that_is_called_train_is_a_class(folder):
    tree(folder, *(f"{kind}/{i}.png" for kind in ("train", "bus") for i in range(5)))
    data = load_data(str(folder), **WHOLE)
    assert sorted(set(data.labels["train"])) == ["bus", "train"]


# Damaged files.


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
def test_a_file_that_is_cut_off_is_refused_or_the_same(folder, capfd, suffix, mode, options):
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
