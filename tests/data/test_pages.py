"""Images that are turned, and files of several pages."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import (
    WHOLE,
    H,
    W,
    refuses,
    stack,
    whole,
)
from pyro_vae import load_data


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


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_pages_are_data(folder, rng, compression):
    written = rng.integers(0, 65536, (3, 4, H, W)).astype(np.uint16)
    for name, arrays in zip("ab", written, strict=False):
        stack(folder / f"{name}.tif", arrays, compression=compression)
    Image.fromarray(written[2, 0]).save(folder / "c.tif")
    data = whole(folder)
    assert np.array_equal(
        data.values["train"], [*written[0], *written[1], written[2, 0]]
    )
    names = [*(f"{name}.tif#{page}" for name in "ab" for page in range(4)), "c.tif"]
    assert data.names["train"].tolist() == names
    assert any(
        "2 files of several pages: each page is a datum" in note for note in data.notes
    )


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
        refuses(
            folder, "2 labels, but there are 6 data", labels=str(tmp_path / "y.csv")
        )
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
    stack(
        folder / f"0{suffix}",
        rng.integers(0, 256, (4, H, W, 3), dtype=np.uint8),
        **options,
    )
    refuses(folder, rf"0{suffix} is an animation, .* save its frames as files")


def test_a_turn_that_is_noted_behind_the_pixels_is_refused(folder):
    """A PNG may say how it is turned after its pixels, which its header then does not tell."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (W, H)).save(folder / "0.png", exif=exif)
    content = (folder / "0.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, rest = content[start:end], content[:start] + content[end:]
    last = rest.index(b"IEND") - 4
    (folder / "0.png").write_bytes(rest[:last] + chunk + rest[last:])
    refuses(folder, r"0\.png is not what its header said")
