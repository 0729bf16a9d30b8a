"""Label files: which label belongs to which datum, and refusal where that is not certain."""

import numpy as np
import pytest
from PIL import Image

from pyro_vae import InputError, load_data

WHOLE = {"test_fraction": 0, "validation_fraction": 0}
KINDS = ["b", "a", "c"] * 4


@pytest.fixture
def arrays(tmp_path):
    """Twelve data, and what writes a label file beside them and reads both."""
    np.save(tmp_path / "x.npy", np.random.RandomState(0).normal(size=(12, 3)))

    def read(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_data(str(tmp_path / "x.npy"), labels=str(path), **WHOLE)

    return read


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("y.txt", "\n".join(KINDS), KINDS),
        ("y.txt", " ".join(KINDS), KINDS),
        ("y.txt", "\r\n".join(KINDS) + "\r\n\r\n", KINDS),
        ("y.txt", "\n".join(f"Iris {k}" for k in KINDS), [f"Iris {k}" for k in KINDS]),
        (
            "y.txt",
            "\n".join(f"Iris {k}" for k in KINDS).encode("utf-16"),
            [f"Iris {k}" for k in KINDS],
        ),
        ("y.txt", ("# kinds\n" + "\n".join(KINDS)).encode("utf-8-sig"), KINDS),
        ("y.csv", "kind\n" + "\n".join(KINDS), KINDS),
        (
            "y.csv",
            ",kind\n" + "\n".join(f"{i},{k}" for i, k in enumerate(KINDS)),
            KINDS,
        ),
        ("y.csv", "\n".join(f"{i + 1};{k}" for i, k in enumerate(KINDS)), KINDS),
        ("y.txt", "\n".join(map(str, range(12))), list(range(12))),
        (
            "y.csv",
            "\n".join(f"{i:03}" for i in range(12)),
            [f"{i:03}" for i in range(12)],
        ),
        ("y.npy", np.arange(12), list(range(12))),
        ("y.npy", np.arange(12.0)[:, None], list(range(12))),
        ("y.npy", np.eye(3)[np.arange(12) % 3], [0, 1, 2] * 4),
        ("y.npy", np.array(KINDS), KINDS),
        ("y.npy", np.array(KINDS, dtype="S"), KINDS),
        ("y.npy", np.arange(12) > 5, [0] * 6 + [1] * 6),
        ("y.npy", np.linspace(0, 1, 12), np.linspace(0, 1, 12).tolist()),
    ],
)
def test_a_label_for_each_datum(arrays, name, content, expected):
    assert arrays(name, content).labels["train"].tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("y.txt", "\n".join(KINDS[1:]), "11 labels, but there are 12 data"),
        ("y.txt", "", "0 labels"),
        (
            "y.csv",
            "\n".join(f"{i},{k},{k}" for i, k in enumerate(KINDS)),
            "3 cells in each line",
        ),
        (
            "y.csv",
            "\n".join(f"r{i},{k}" for i, k in enumerate(KINDS)),
            "no names to match.*--id",
        ),
        ("y.npy", np.zeros((12, 2)), r"shape \(12, 2\)"),
        ("y.npy", np.array(3), r"shape \(\)"),
        ("y.npy", np.zeros(12, complex), "complex128.*numbers or texts"),
        ("y.txt", b"\0\1\2", "no text"),
    ],
)
def test_labels_that_are_not_one_for_each(arrays, name, content, words):
    with pytest.raises(InputError, match=words):
        arrays(name, content)


@pytest.fixture
def folder(tmp_path):
    """A maker of folders of images, each of its own grey value, and of a label file beside them."""

    def make(names, content):
        (tmp_path / "images").mkdir()
        for i, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 20 * i, np.uint8)).save(path)
        (tmp_path / "y.csv").write_text(content)
        data = load_data(
            str(tmp_path / "images"), labels=str(tmp_path / "y.csv"), **WHOLE
        )
        greys = [int(image.flatten()[0]) // 20 for image in data.values["train"]]
        return data, {
            names[grey]: label
            for grey, label in zip(greys, data.labels["train"].tolist(), strict=True)
        }

    return make


NAMES = [f"{i}.png" for i in range(12)]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(f"{name},{i}" for i, name in enumerate(NAMES)),
        "file,label\n" + "\n".join(f"{name},{i}" for i, name in enumerate(NAMES)),
        "\n".join(f"{name};{i}" for i, name in reversed(list(enumerate(NAMES)))),
        "\n".join(f"{name}\t{i}" for i, name in enumerate(NAMES)),
        "\n".join(f"{name} {i}" for i, name in enumerate(NAMES)),
        "id,label\n"
        + "\n".join(f"{i},{i}" for i in range(12)),  # names without their suffix
        "\n".join(f"./{name},{i}" for i, name in enumerate(NAMES)) + "\nother.png,3",
    ],
)
def test_labels_of_files_are_matched_by_name(folder, content):
    data, labels = folder(NAMES, content)
    assert labels == {name: i for i, name in enumerate(NAMES)}
    assert any("matched by name" in note for note in data.notes)
    assert any("1 lines" in note for note in data.notes) == ("other" in content)


def test_labels_without_names_for_files_of_uncertain_order(folder):
    with pytest.raises(InputError, match=r"10\.png or 2\.png number 3.*10\.png,label"):
        folder(NAMES, "\n".join(map(str, range(12))))


def test_labels_without_names_for_files_of_certain_order(folder):
    names = [f"{i:02}.png" for i in range(12)]
    data, labels = folder(names, "\n".join(map(str, range(12))))
    assert labels == {name: i for i, name in enumerate(names)}
    assert any(
        "order of the names of the files: 00.png, 01.png" in note for note in data.notes
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("\n".join(f"{name},1" for name in NAMES[1:]), r"no label for '0\.png'"),
        (
            "\n".join(f"{name},1" for name in NAMES[2:]),
            r"no label for '0\.png' and 1 others",
        ),
        ("\n".join(f"{name},1" for name in [*NAMES, "3.png"]), r"'3\.png' twice"),
        ("\n".join(f"{name},1" for name in [*NAMES, "3"]), r"'3\.png' twice"),
    ],
)
def test_files_without_a_label_or_with_two(folder, content, words):
    with pytest.raises(InputError, match=words):
        folder(NAMES, content)


def test_names_with_folders_are_matched_in_full(folder):
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(4)]
    _, labels = folder(names, "\n".join(f"{name},{i}" for i, name in enumerate(names)))
    assert labels == {name: i for i, name in enumerate(names)}


def test_a_name_of_two_files_is_none(folder):
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(4)]
    with pytest.raises(InputError, match=r"no label for 'a/0\.png' and 7 others"):
        folder(names, "\n".join(f"{i}.png,{i}" for i in range(4)))
