"""Transparent images: what is nowhere transparent is read as it is, the rest is laid on a ground."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pictures import (
    H,
    N,
    W,
    png,
    refuses,
    save,
    whole,
)

pytestmark = pytest.mark.usefixtures("blank_figures")


def transparent_key(value):
    content = b"tRNS" + struct.pack(">H", value)
    return struct.pack(">I", 2) + content + struct.pack(">I", zlib.crc32(content))


OPAQUE, CLEAR = np.full((H, W), 255, np.uint8), np.zeros((H, W), np.uint8)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".png", "RGBA"), (".png", "LA"), (".tif", "RGBA"), (".tif", "LA")],
)
def test_transparency_that_is_nowhere_used_is_left_out(folder, rng, suffix, mode):
    written = rng.integers(0, 256, (N, H, W, len(mode) - 1), dtype=np.uint8)
    for i, array in enumerate(written):
        planes = np.concatenate([array, OPAQUE[..., None]], -1)
        Image.fromarray(planes, mode).save(folder / f"{i}{suffix}")
    data = whole(folder)
    assert f"{N} images with a transparency that is nowhere used" in data.notes
    x = data.values["train"].reshape(N, -1, H, W)
    assert np.array_equal(x, written.transpose(0, 3, 1, 2))


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
            image.save(
                file.with_suffix(".gif" if kind == "gif" else ".png"), transparency=0
            )
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
            png(
                file, np.where(ink, 0, 200).astype(np.uint8), 8, 0, transparent_key(200)
            )
        else:
            grey = np.where(ink, 0, 1000).astype(">u2")
            rows = [row.tobytes() for row in grey]
            png(file, rows, 16, 0, transparent_key(1000))
    return drawn


TRANSPARENT = [
    *(
        "LA",
        "RGBA",
        "palette",
        "soft palette",
        "gif",
        "1 bit",
        "4 bits",
        "8 bits",
        "16 bits",
    ),
]


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_images_need_a_ground(folder, kind):
    drawn = transparent(folder, kind)
    name = "0.gif" if kind == "gif" else "0.png"
    words = rf"{name} has transparent pixels, .* --background white"
    for stream in (False, True):
        refuses(folder, words, stream=stream)
    most = 65535 if kind == "16 bits" else 255
    for background, below in (
        ("white", most),
        ("black", 0),
        ("#808080", 128 * most // 255),
    ):
        data = whole(folder, background=background)
        x = data.values["train"].numpy()
        x = x[:, 0] if kind == "RGBA" else x
        assert np.array_equal(x, np.where(drawn, 0, below))
        assert any(f"laid on {background}" in note for note in data.notes)


def test_half_transparent_pixels_are_mixed_with_the_ground(folder, rng):
    written = rng.integers(0, 256, (N, H, W, 4), dtype=np.uint8)
    save(folder, written, ".png")
    x = (
        whole(folder, background="#ff8000")
        .values["train"]
        .numpy()
        .transpose(0, 2, 3, 1)
    )
    share = written[..., 3:] / 255
    exact = share * written[..., :3] + (1 - share) * np.array([255, 128, 0])
    assert np.abs(x - exact).max() <= 0.5 + 1e-9


def test_grounds_that_cannot_be(folder, rng):
    save(folder, rng.integers(0, 256, (N, H, W, 4), dtype=np.uint8), ".png")
    for background in ("nocolour", "#12", "#ffffff80", ""):
        refuses(folder, "--background .* is no colour", background=background)
    np.save(folder / "x.npy", np.zeros((9, 2)))
    refuses(
        folder / "x.npy", "--background is for a folder of images", background="white"
    )
    refuses("digits", "--background is for a folder of images", background="white")
    for file in folder.glob("*.png"):
        Image.open(file).convert("LA").save(file)
    refuses(
        folder,
        "is grey, so that it can be laid on a grey --background",
        background="red",
    )


def test_the_ground_is_a_run_s_own(folder, call, tmp_path):
    drawn = np.random.default_rng(0).integers(0, 2, (30, H, W, 1), dtype=np.uint8) * 255
    save(folder, np.concatenate([0 * drawn, drawn], -1), ".png", "LA")
    run = tmp_path / "run"
    options = ("--network", "mlp(hidden=(4,))", "--latent-dim", 2, "--epochs", 1)
    said = call("train", "--dataset", folder, *options, "--output", run)
    assert said.code == 2
    assert "--background white" in said.err
    for stream in ("yes", "no"):
        also = (
            "--background",
            "white",
            "--stream",
            stream,
            "--workers",
            0,
            "--overwrite",
        )
        said = call("train", "--dataset", folder, *options, *also, "--output", run)
        assert (said.code, said.err) == (0, "")
        assert "read       30 images with transparency laid on white\n" in said.out
        said = call("evaluate", run, "--num-particles", 10)
        assert (said.code, said.err) == (0, "")
