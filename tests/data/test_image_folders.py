"""Folders of images: which files are read, in which split, with which label."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pictures import (
    WHOLE,
    H,
    W,
    refuses,
    whole,
)
from pyro_vae import InputError, load_data


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
    refuses(
        folder,
        r"holds no images .*; 1 hidden image .*; 1 other file left out \(x\.npy\)",
    )


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


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "valid", "testing")]
)
@pytest.mark.parametrize("classes", [("",), ("a", "b")])
def test_folders_named_after_splits_are_splits(folder, names, classes):
    for i, split in enumerate(names):
        for kind in classes:
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for j in range(4 - i):
                Image.new("L", (W, H), 10 * i + j).save(
                    folder / split / kind / f"{j}.png"
                )
    data = load_data(str(folder))
    sizes = {k: len(v) for k, v in data.values.items()}
    assert sizes == {
        s: n * len(classes) for s, n in zip(SPLITS, (4, 3, 2), strict=True)
    }
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
    assert {k: len(v) for k, v in data.values.items()} == {
        "train": 11,
        "validation": 1,
        "test": 12,
    }
    assert sorted(set(data.labels["train"])) == ["a", "b"]
    assert all(name.startswith("train/") for name in data.names["validation"])


def test_a_folder_train_alone_is_divided(folder):
    tree(folder, *(f"train/{kind}/{i}.png" for kind in "ab" for i in range(10)))
    data = load_data(str(folder))
    assert {k: len(v) for k, v in data.values.items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
    assert sorted(set(data.labels["train"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["train/0.png", "test/0.png", "more/0.png"],
            r"and also others, such as more/0\.png",
        ),
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
