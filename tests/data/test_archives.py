"""Arrays, archives, sparse and annotated matrices as people have them: the numbers in the file, or one sentence."""

import zipfile

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from conftest import SMALL
from pyro_vae import InputError, load_data
from pyro_vae.data import own, streams

pytestmark = pytest.mark.usefixtures("blank_figures")

rng = np.random.default_rng(0)
X = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
Y = np.arange(60) % 3
WHOLE = {"test_fraction": 0, "validation_fraction": 0}
PARTS = {"train": slice(40), "validation": slice(40, 50), "test": slice(50, 60)}


@pytest.fixture
def npz(tmp_path):
    """Write an archive and read it; data without splits are not split."""

    def write_and_load(arrays, **options):
        np.savez(tmp_path / "x.npz", **arrays)
        divided = any("train" in name.lower() for name in arrays)
        return load_data(
            str(tmp_path / "x.npz"), **({} if divided else WHOLE), **options
        )

    return write_and_load


@pytest.fixture
def npy(tmp_path):
    def write_and_load(array, **options):
        np.save(tmp_path / "x.npy", array)
        return load_data(str(tmp_path / "x.npy"), **WHOLE, **options)

    return write_and_load


def named(data, labels, *words):
    """An archive with three splits, its arrays named by `data` and `labels` with these words for the splits."""
    found = {}
    for word, part in zip(words, PARTS.values(), strict=True):
        found[data.format(word)] = X[part]
        if labels:
            found[labels.format(word)] = Y[part]
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("train", "validation", "test"),
        ("TRAIN", "dev", "Test"),
    ],
)
@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ("{}", None),
        ("{}", "{}_labels"),
        ("x_{}", "y_{}"),
        ("X_{}", "y_{}"),
        ("{}_images", "{}_labels"),
        ("{}_x", "{}_y"),
        ("data_{}", "targets_{}"),
    ],
)
def test_every_split_of_an_archive_is_its_own(npz, data, labels, words):
    found = npz(named(data, labels, *words))
    for split, part in PARTS.items():
        np.testing.assert_array_equal(found.values[split], X[part])
        if labels:
            np.testing.assert_array_equal(found.labels[split], Y[part])
    assert (found.labels is None) == (labels is None)
    assert f"data from {data.format(words[0])}" in " ".join(found.notes)


@pytest.mark.parametrize(
    "names",
    [("xTrain", "xTest"), ("Xtrain", "Xtest"), ("trainX", "testX"), ("train", "test")],
)
def test_train_and_test_alone(npz, names):
    found = npz(dict(zip(names, (X[:40], X[40:]), strict=True)))
    np.testing.assert_array_equal(found.values["test"], X[40:])
    assert {split: len(v) for split, v in found.values.items()} == {
        "train": 36,
        "validation": 4,
        "test": 20,
    }


OBJECT = np.array({"a": 1}, dtype=object)
TEXTS = np.array(["a", "bb", "c"] * 20)


@pytest.mark.parametrize(
    ("arrays", "options", "labels"),
    [
        ({"x": X}, {}, None),
        ({"X": X, "Y": Y}, {}, Y),
        ({"x": X, "y": Y[:, None]}, {}, Y),
        ({"x": X, "y": np.eye(3)[Y]}, {}, Y),
        ({"x": X, "y": np.eye(3, dtype=bool)[Y]}, {}, Y),
        ({"x": X, "y": Y.astype(float)}, {}, Y),
        ({"x": X, "y": TEXTS}, {}, TEXTS),
        ({"x": X, "y": TEXTS.astype("S")}, {}, TEXTS),
        ({"images": X, "labels": Y}, {}, Y),
        ({"arr_0": X}, {}, None),
        ({"arr_0": X, "arr_1": Y}, {}, Y),
        ({"arr_0": X, "arr_1": TEXTS}, {}, TEXTS),
        (
            {"imgs": X, "latents_values": rng.random((60, 6)), "metadata": OBJECT},
            {},
            None,
        ),
        ({"x": X, "metadata": OBJECT}, {}, None),
        (
            {"x": X, "y": np.array([*"ab", None] * 20, dtype=object)},
            {"drop": "y"},
            None,
        ),
        ({"a": X, "b": Y}, {}, None),
        ({"a": X, "b": Y}, {"labels": "b"}, Y),
        ({"a": X, "b": X[::-1]}, {"key": "a"}, None),
        ({"a": X, "b": X[::-1]}, {"drop": "b"}, None),
        ({"x": X, "images": X[::-1]}, {"key": "x"}, None),
        ({"x": X, "y": Y, "labels": Y[::-1]}, {"labels": "y"}, Y),
        ({"x": X, "kind": Y}, {"labels": "kind"}, Y),
    ],
)
def test_data_and_labels_of_an_archive(npz, arrays, options, labels):
    found = npz(arrays, **options)
    np.testing.assert_array_equal(found.values["train"], X)
    if labels is None:
        assert found.labels is None
    else:
        assert found.labels["train"].tolist() == labels.tolist()


def test_it_says_what_was_left_unread(npz):
    notes = " | ".join(
        npz({"imgs": X, "latents": rng.random((60, 6)), "metadata": OBJECT}).notes
    )
    assert "data from imgs" in notes
    assert (
        "left unread: latents (60, 6), metadata (Python objects, never unpickled)"
        in notes
    )
    assert "3 classes" in " ".join(npz({"x": X, "y": np.eye(3)[Y]}).notes)


def test_labels_of_an_archive_from_a_file(npz, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    found = npz(
        named("{}", None, "train", "val", "test"), labels=str(tmp_path / "y.npy")
    )
    for split, part in PARTS.items():
        np.testing.assert_array_equal(found.labels[split], Y[part])


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": X, "b": X}, {}, r"a, b: name one with --key a"),
        ({"x": X, "images": X}, {}, r"images, x|x, images.*--key"),
        ({"x_train": X, "images_train": X}, {}, r"images_train, x_train.*--key"),
        ({"train": X, "val": X, "valid": X}, {}, r"val, valid.*--drop valid"),
        ({"y": Y}, {}, r"no array of numbers.*it has y \(60,\)"),
        ({"x": OBJECT}, {}, r"x of .*Python objects, which are never unpickled"),
        ({"x": np.array([[1, "a"]], dtype=object)}, {}, r"never unpickled"),
        ({}, {}, "no arrays"),
        ({"x": X, "y": Y, "labels": Y}, {}, r"labels, y|y, labels.*--labels"),
        ({"x": X, "y": rng.random((60, 2))}, {}, r"y of .*shape \(60, 2\).*--drop y"),
        (
            {"x": X, "y": np.array([*"ab", None] * 20, dtype=object)},
            {},
            r"y of .*Python objects.*--drop y",
        ),
        ({"x": X, "y": Y[1:]}, {}, r"60 train data but 59 labels"),
        ({"x": X}, {"key": "z"}, r"--key z.*no such array; it has x \(60, 8, 8\)"),
        ({"x": X}, {"drop": "z"}, r"--drop z.*no such array"),
        ({"x": X}, {"labels": "z"}, r"--labels z"),
        (
            {"x": X + 1j},
            {},
            r"complex128 and not numbers; store real and imaginary parts",
        ),
    ],
)
def test_archives_that_are_not_certain(npz, arrays, options, words):
    with pytest.raises(InputError, match=words) as error:
        npz(arrays, **options)
    assert "\n" not in str(error.value)


def test_an_array_that_memory_does_not_hold_is_refused_by_its_header(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w") as archive,
        archive.open("x.npy", "w") as file,
    ):
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"x of .*takes 8e\+04 GB"):
        load_data(str(tmp_path / "x.npz"))


# Types of numbers.


@pytest.mark.parametrize(
    "kind",
    [
        "f2",
        "f4",
        "f8",
        ">f4",
        ">f8",
        "u1",
        "u2",
        ">u2",
        "i1",
        "i2",
        "u4",
        "i8",
        "u8",
        "?",
        "g",
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_of_numbers_keep_their_values(npy, kind, order):
    dtype = np.dtype(kind)
    array = (
        (rng.normal(size=(40, 4, 3)) * 50).astype(dtype) if dtype.kind == "f" else None
    )
    if array is None:
        high = 2 if kind == "?" else min(np.iinfo(dtype).max, 2**50)
        low = 0 if kind == "?" else max(np.iinfo(dtype).min, -(2**50))
        array = rng.integers(low, high, (40, 4, 3), endpoint=kind != "?").astype(dtype)
    array = np.asarray(array, order=order)
    for stream in (False, True):
        found = npy(array, stream=stream, workers=0).values["train"]
        np.testing.assert_array_equal(
            found[:].numpy().astype(float), array.astype(float)
        )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (X[:, 0] + 1j, "complex128 and not numbers; store real and imaginary parts"),
        (np.zeros((9, 2), "datetime64[s]"), "datetime64.*store times as numbers"),
        (np.zeros((9, 2), "timedelta64[s]"), "timedelta64.*store durations as numbers"),
        (
            np.zeros(9, [("a", "f4"), ("b", "f4")]),
            "fields as columns.*structured_to_unstructured",
        ),
        (np.array([[1, 2]] * 9, dtype=object), "object.*never unpickled"),
        (
            np.array([np.zeros(2), np.zeros(3)], dtype=object),
            "object.*rows of one length",
        ),
        (np.array([["a", "b"]] * 9), "texts into numbers"),
        (np.array([["a", "b"]] * 9, dtype="S"), "texts into numbers"),
        (np.full((9, 2), np.inf, np.float16), "missing or infinite in datum 0"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_types_that_are_no_numbers(npy, array, words, stream):
    with pytest.raises(InputError, match=words):
        npy(array, stream=stream, workers=0)


def test_few_data_of_many_values_are_noted(npy):
    assert any(
        "5 data of 300 values each" in note
        for note in npy(rng.normal(size=(5, 300))).notes
    )


# Colours last.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((16, 12, 3), {}),
        ((16, 12, 1), {}),
        ((16, 12, 2), {"channels": "last"}),
        ((3, 12, 3), {"channels": "last"}),
    ],
)
def test_channels_at_the_end_are_put_in_front(npy, shape, options, stream):
    images = rng.integers(0, 256, (20, *shape), dtype=np.uint8)
    data = npy(images, stream=stream, workers=0, **options)
    assert data.shape == (shape[2], *shape[:2])
    assert isinstance(data.values["train"], streams.Stream) == stream
    np.testing.assert_array_equal(data.values["train"][:], images.transpose(0, 3, 1, 2))
    some = (
        data.values["train"][[3, 1]]
        if not stream
        else data.values["train"][np.array([3, 1])]
    )
    np.testing.assert_array_equal(some, images[[3, 1]].transpose(0, 3, 1, 2))
    assert any("last, put in front" in note for note in data.notes)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 16, 12), {}),
        ((1, 50, 3), {}),
        ((1, 28, 28), {}),
        ((4, 16, 16), {}),
        ((16, 12), {}),
        ((50, 3), {}),
        ((16, 3, 3), {}),
        ((16, 12, 3), {"channels": "first"}),
        ((9, 9, 9), {}),
    ],
)
def test_other_shapes_stay_as_they_are(npy, shape, options):
    images = rng.integers(0, 256, (20, *shape), dtype=np.uint8)
    np.testing.assert_array_equal(npy(images, **options).values["train"], images)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        (
            (16, 16, 4),
            {},
            r"\(16, 16, 4\).*--channels first or --channels last.*alpha.*x\[\.\.\., :3\]",
        ),
        ((16, 16, 2), {}, "--channels first or --channels last"),
        ((3, 12, 1), {}, "--channels"),
        ((16, 16), {"channels": "last"}, r"three axes.*\(16, 16\)"),
        ((16, 16, 3), {"channels": "middle"}, "'middle' must be first or last"),
    ],
)
def test_channels_that_are_not_certain(npy, shape, options, words):
    with pytest.raises(InputError, match=words):
        npy(rng.integers(0, 256, (20, *shape), dtype=np.uint8), **options)


def test_channels_of_an_archive(npz):
    images = rng.integers(0, 256, (30, 16, 12, 3), dtype=np.uint8)
    data = npz({"train": images[:20], "test": images[20:]}, validation_fraction=0)
    np.testing.assert_array_equal(
        data.values["train"], images[:20].transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(
        data.values["test"], images[20:].transpose(0, 3, 1, 2)
    )


# Sparse and annotated matrices.

COUNTS = rng.poisson(0.3, (60, 50))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("dtype", ["i8", "f4", "u1"])
def test_sparse_archives_stay_sparse(tmp_path, kind, dtype):
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(COUNTS.astype(dtype)).asformat(kind))
    data = load_data(str(tmp_path / "x.npz"), **WHOLE)
    values = data.values["train"]
    assert isinstance(values, streams.Stream)
    np.testing.assert_array_equal(values[:], COUNTS)
    np.testing.assert_array_equal(values[np.array([7, 3])], COUNTS[[7, 3]])
    assert data.streamed is None
    assert any("60 x 50" in note and "kept sparse" in note for note in data.notes)
    dense = load_data(str(tmp_path / "x.npz"), stream=False, **WHOLE)
    np.testing.assert_array_equal(dense.values["train"].numpy(), COUNTS)
    assert (data.representation, data.maximum) == (dense.representation, dense.maximum)


def test_sparse_and_dense_divide_alike(tmp_path):
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(COUNTS))
    np.save(tmp_path / "x.npy", COUNTS)
    sparse, dense = (
        load_data(str(tmp_path / "x.npz")),
        load_data(str(tmp_path / "x.npy")),
    )
    bridge = sparse.bridge
    for split, values in dense.values.items():
        np.testing.assert_array_equal(sparse.values[split][:], values)
        np.testing.assert_array_equal(sparse.rows[split], dense.rows[split])
    assert bridge is not None


def test_only_the_rows_that_are_read_are_made_dense(tmp_path):
    places = rng.integers(0, (2000, 2_000_000), (4000, 2)).T
    wide = sp.csr_matrix((rng.normal(size=4000), places), shape=(2000, 2_000_000))
    sp.save_npz(tmp_path / "x.npz", wide)  # 32 GB if it were dense
    from pyro_vae.data.archives import npz as read
    from pyro_vae.data.files import Request

    values = read(tmp_path / "x.npz", Request(str(tmp_path / "x.npz"))).parts["train"]
    np.testing.assert_array_equal(values[np.array([5, 0])], wide[[5, 0]].toarray())
    with pytest.raises(InputError, match="32 GB as a dense matrix"):
        read(tmp_path / "x.npz", Request(str(tmp_path / "x.npz"), stream=False))


def test_rows_in_an_archive_of_ones_own(tmp_path):
    m = sp.csr_matrix(COUNTS)
    np.savez(
        tmp_path / "x.npz",
        data=m.data,
        indices=m.indices,
        indptr=m.indptr,
        shape=m.shape,
    )
    np.testing.assert_array_equal(
        load_data(str(tmp_path / "x.npz"), **WHOLE).values["train"][:], COUNTS
    )


@pytest.mark.parametrize("damage", ["indices", "indptr", "format"])
def test_damaged_sparse_archives(tmp_path, damage):
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(COUNTS))
    arrays = dict(np.load(tmp_path / "x.npz"))
    if damage == "format":
        arrays["format"] = np.array(b"xyz")
    else:
        arrays[damage] = arrays[damage] + 1000
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"x\.npz"):
        load_data(str(tmp_path / "x.npz"))


@pytest.fixture
def h5ad(tmp_path):
    """A maker of .h5ad files with a matrix, layers, cells and genes."""
    ad = pytest.importorskip("anndata")

    def make(x, **layers):
        with pd.option_context("mode.string_storage", "python"):
            ad.settings.allow_write_nullable_strings = True
            return write(x, layers)

    def write(x, layers):
        obs = pd.DataFrame(
            {
                "cell_type": pd.Categorical(["T", "B", "NK"] * 20),
                "depth": np.arange(60),
                "batch": Y,
            },
            index=pd.Index([f"cell{i}" for i in range(60)], dtype=object),
        )
        var = pd.DataFrame(
            index=pd.Index([f"gene{i}" for i in range(50)], dtype=object)
        )
        cells = ad.AnnData(x, obs=obs, var=var)
        cells.obsm["X_pca"] = rng.normal(size=(60, 2))
        for name, layer in layers.items():
            cells.layers[name] = layer
        cells.write_h5ad(tmp_path / "x.h5ad")
        return str(tmp_path / "x.h5ad")

    return make


LOGS = np.log1p(COUNTS).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_h5ad(h5ad, kind):
    path = h5ad(kind(LOGS), counts=kind(COUNTS.astype(np.float32)), raw=kind(COUNTS))
    data = load_data(path, labels="cell_type", **WHOLE)
    np.testing.assert_array_equal(data.values["train"][:], LOGS)
    assert data.names["train"].tolist() == [f"cell{i}" for i in range(60)]
    assert data.columns == tuple(f"gene{i}" for i in range(50))
    assert data.labels["train"].tolist() == ["T", "B", "NK"] * 20
    assert "--layer takes counts" in " ".join(data.notes)
    counts = load_data(path, layer="counts", labels="batch", **WHOLE)
    np.testing.assert_array_equal(counts.values["train"][:], COUNTS)
    assert counts.representation.name == "COUNTS"
    assert counts.labels["train"].tolist() == Y.tolist()
    assert isinstance(counts.values["train"], streams.Stream) == (
        kind is not np.asarray
    )


def test_h5ad_labels_in_a_file_are_matched_by_cell(h5ad, tmp_path):
    lines = [f"cell{i},{y}" for i, y in enumerate(Y)]
    (tmp_path / "y.csv").write_text("\n".join(reversed(lines)))
    data = load_data(h5ad(COUNTS), labels=str(tmp_path / "y.csv"), **WHOLE)
    assert data.labels["train"].tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "countz"}, "no layer countz; it has counts"),
        ({"labels": "celltype"}, "no column of obs in .*cell_type, depth, batch"),
        ({"header": "no"}, "--header is for data in"),
        ({"channels": "last"}, "--channels is for data in"),
    ],
)
def test_h5ad_without_what_is_asked_for(h5ad, options, words):
    with pytest.raises(InputError, match=words):
        load_data(h5ad(COUNTS, counts=COUNTS), **options)


def test_h5ad_that_is_damaged_or_has_no_matrix(h5ad, tmp_path):
    import h5py

    path = h5ad(COUNTS, counts=COUNTS)
    with h5py.File(path, "a") as file:
        del file["X"]
    with pytest.raises(InputError, match="no matrix X; it has counts"):
        load_data(path)
    (tmp_path / "x.h5ad").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"x\.h5ad cannot be read as an \.h5ad file"):
        load_data(path)


def test_h5ad_without_its_package(h5ad, monkeypatch):
    import sys

    path = h5ad(COUNTS)
    monkeypatch.setitem(sys.modules, "anndata.io", None)
    with pytest.raises(InputError, match=r"needs the package anndata.*pip install"):
        load_data(path)


# The command line.


def test_train_and_evaluate_each_kind_of_archive(call, tmp_path, monkeypatch, h5ad):
    monkeypatch.chdir(tmp_path)
    h5ad(sp.csr_matrix(LOGS), counts=sp.csr_matrix(COUNTS))
    sp.save_npz("sparse.npz", sp.csr_matrix(COUNTS))
    np.savez("splits.npz", **named("{}_images", "{}_labels", "train", "val", "test"))
    np.savez("several.npz", a=X, b=X)
    np.save("last.npy", rng.integers(0, 2, (60, 8, 8, 3), dtype=np.uint8))
    bits, counts = (
        ("--binarize", "dynamic", "--likelihood", "bernoulli"),
        ("--likelihood", "poisson"),
    )
    for name, *options in (
        ("x.h5ad", "--layer", "counts", "--labels", "cell_type", *counts),
        ("sparse.npz", *counts),
        ("splits.npz", *bits),
        ("several.npz", "--key", "b", *bits),
        (
            "last.npy",
            "--network",
            "convnet(channels=(4,))",
            "--likelihood",
            "bernoulli",
        ),
    ):
        network = () if "--network" in options else SMALL
        said = call(
            "train",
            "--dataset",
            name,
            *options,
            *network,
            "--epochs",
            1,
            "--latent-dim",
            2,
            "--output",
            "run",
            "--overwrite",
        )
        assert (said.code, said.err) == (0, ""), name
        assert "read       " in said.out
        said = call("evaluate", "run", "--num-particles", 20)
        assert (said.code, said.err) == (0, ""), name


def test_the_kinds_of_files_are_listed_once():
    assert set(own.OWN) >= {
        "labels",
        "header",
        "drop",
        "id",
        "key",
        "layer",
        "channels",
    }
