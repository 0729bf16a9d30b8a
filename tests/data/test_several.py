"""Data of several fields: arrays of one file or files that belong together, paired, and what is missing in them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import InputError, load_data
from pyro_vae.data.bridges import Bridge
from pyro_vae.likelihoods import Bernoulli, Columns, Fields, Gaussian

rng = np.random.default_rng(0)
N = 40
WHOLE = {"test_fraction": 0, "validation_fraction": 0}
ARRAYS = {
    "image": rng.integers(0, 256, (N, 4, 4), dtype=np.uint8),
    "text": rng.integers(0, 2, (N, 6)),
    "label": np.arange(N) % 3,
    "size": rng.normal(size=(N, 2)),
}


AGES = [31.7, 8.21, 55.03, 19.9, 44.44, 2.6]


@pytest.fixture
def npz(tmp_path):
    """Write an archive and read fields of it."""

    def write_and_load(key, changed=None, **options):
        np.savez(tmp_path / "x.npz", **{**ARRAYS, **(changed or {})})
        return load_data(str(tmp_path / "x.npz"), key=key, **{**WHOLE, **options})

    return write_and_load


def held(data, name):
    """What the training data hold of a field."""
    return data.layout.split(data.values["train"])[name].numpy()


def test_arrays_of_an_archive_are_fields(npz):
    data = npz("image,text,label,size")
    assert data.shape == (16 + 6 + 1 + 2,)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(held(data, name).squeeze(), array)
    kinds = [part.representation.name for part in data.parts.values()]
    assert kinds == ["LEVELS", "BINARY", "MIXED", "REAL"]
    assert data.parts["label"].schema.columns[0].kind == "category"
    assert data.labels["train"].tolist() == ARRAYS["label"].tolist()


def test_a_field_may_have_another_name_than_its_array(npz):
    data = npz("picture=image, words=text")
    np.testing.assert_array_equal(held(data, "picture"), ARRAYS["image"])
    assert any("left unread: " in note and "size" in note for note in data.notes)


def test_fields_are_divided_as_one_field_is(npz, tmp_path):
    data = npz("image,label", test_fraction=0.25, validation_fraction=0.1)
    alone = load_data(
        str(tmp_path / "x.npz"),
        key="image",
        test_fraction=0.25,
        validation_fraction=0.1,
    )
    for split, values in alone.values.items():
        both = data.layout.split(data.values[split])["image"]
        assert both.equal(values.float())
        assert data.rows[split].tolist() == alone.rows[split].tolist()


def test_a_named_data_set_and_its_labels_are_fields():
    data, alone = load_data("digits", key="image,label"), load_data("digits")
    test = data.layout.split(data.values["test"])
    assert test["image"].equal(alone.values["test"].float())
    assert test["label"][:, 0].tolist() == alone.labels["test"].tolist()


def test_a_named_data_set_has_one_field_of_images():
    with pytest.raises(InputError, match="image and lable cannot both be its images"):
        load_data("digits", key="image,lable")


def test_texts_and_truth_values_are_categories(npz):
    words = np.array(["cat", "dog", "", "owl"])[np.arange(N) % 4]
    data = npz("text,word", {"word": words})
    column = data.parts["word"].schema.columns[0]
    assert column.categories == ("cat", "dog", "owl")
    assert np.isnan(held(data, "word")[2, 0])
    assert "word is missing in 10 of 40 data" in data.notes


@pytest.mark.parametrize("shape", [(N,), (N, 4, 4)])
def test_a_field_is_missing_where_its_mask_is_0(npz, shape):
    mask = np.ones(shape)
    mask[3] = 0
    data = npz("image,label", {"image_mask": mask})
    assert np.isnan(held(data, "image")[3]).all()
    assert not np.isnan(held(data, "image")[4]).any()
    assert any("image is missing in 1 of 40 data" in note for note in data.notes)


def test_minus_one_among_codes_is_none(npz):
    label = ARRAYS["label"].copy()
    label[:5] = -1
    data = npz("image,label", {"label": label})
    assert np.isnan(held(data, "label")[:5]).all()
    assert held(data, "label")[5:, 0].tolist() == label[5:].tolist()


def test_some_values_of_a_field_may_be_missing_where_that_is_asked_for(npz):
    size = ARRAYS["size"].copy()
    size[7, 0] = np.nan
    with pytest.raises(
        InputError, match=r"row 7 .*lacks some values of the field size.*keep"
    ):
        npz("text,size", {"size": size})
    data = npz("text,size", {"size": size}, missing="keep")
    assert data.missing
    assert np.isnan(held(data, "size")[7]).tolist() == [True, False]


def test_a_datum_has_some_field(npz):
    label, size = ARRAYS["label"].copy(), ARRAYS["size"].copy()
    label[9], size[9] = -1, np.nan
    with pytest.raises(InputError, match=r"row 9 .*has no value in any field"):
        npz("label,size", {"label": label, "size": size})


def test_whole_fields_are_hidden_and_never_all(npz):
    data = npz("image,text,label", hide=0.7)
    seen, whole = data.layout.seen(data.values["train"]), data.whole["train"]
    assert seen.any(1).all()
    assert 0.4 < (~seen).double().mean().item() < 0.7
    kept = data.layout.kept(whole, seen)
    torch.testing.assert_close(kept, data.values["train"], equal_nan=True)
    assert any("hidden on purpose, as a whole" in note for note in data.notes)


@pytest.fixture
def files(tmp_path):
    """A folder of six images, and a table of six rows that name five of them."""
    (tmp_path / "photos").mkdir()
    for i in range(6):
        picture = Image.fromarray(np.full((4, 4), 40 * i, np.uint8))
        picture.save(tmp_path / "photos" / f"p{i}.png")

    def table(names, ending="csv"):
        with (tmp_path / f"t.{ending}").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "age", "kind"])
            rows.writerows([n, AGES[i], "ab"[i % 2]] for i, n in enumerate(names))
        return f"photo={tmp_path / 'photos'}, person={tmp_path / 't.csv'}"

    return table


def test_a_table_and_images_are_matched_by_name(files):
    where = files(["p4.png", "p1.png", "p0", "p3.png", "p2.png", "q.png"])
    data = load_data(where, id="file", **WHOLE)
    rows = dict(zip(data.names["train"].tolist(), data.values["train"], strict=True))
    assert rows["p4"][0] == 160
    assert rows["p4"][16:].tolist() == [pytest.approx(AGES[0]), 0.0]
    assert rows["p5"][16:].isnan().all()
    assert rows["q"][:16].isnan().all()
    assert "7 rows matched by name, 5 in all fields" in data.notes


def test_without_names_rows_are_paired_in_their_order(files):
    where = files(["a", "b", "a", "b", "a", "b"])
    data = load_data(where, drop="file", **WHOLE)
    assert data.values["train"][:, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert data.values["train"][:, 16].tolist() == pytest.approx(AGES)
    assert "fields are paired row by row, in their order" in data.notes


def test_names_that_do_not_meet(files):
    with pytest.raises(InputError, match="no row of the same name"):
        load_data(files(list("abcdef")), id="file", **WHOLE)
    with pytest.raises(InputError, match="two rows called 'a'"):
        load_data(files(list("abcdea")), id="file", **WHOLE)
    with pytest.raises(InputError, match="photo 6 train, person 5 train"):
        load_data(files(list("ababa")), drop="file", **WHOLE)


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        ("image,images", {}, "--key images: .*x.npz has no such array; it has image"),
        ("image,image", {}, "two fields called image"),
        ("x=image,text", {}, "a field called x.*image=x"),
        ("a-b=image,text", {}, "letters, digits and _"),
        ("image,text", {"stream": True}, "--stream yes: several fields"),
        ("image,text", {"delimiter": ";"}, "--delimiter fits none of"),
        (
            "image,text",
            {"background": "white"},
            "--background is for a folder of images",
        ),
        ("image,text", {"hide": 1.5}, "--hide 1.5 must lie between 0 and 1"),
    ],
)
def test_fields_that_cannot_be_read(npz, key, options, words):
    with pytest.raises(InputError, match=words):
        npz(key, **options)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("image=,label=x.csv", "no file for image"),
        ("image=x.csv", "has one field"),
        ("image=nowhere.csv,label=nothing.csv", "nowhere.csv does not exist"),
    ],
)
def test_files_that_are_none(dataset, words):
    with pytest.raises(InputError, match=words):
        load_data(dataset)


def test_each_field_goes_over_a_bridge_of_its_own(npz):
    data = npz("image,label,size")
    label = {"label": Gaussian}
    members = {"image": Bernoulli, "label": lambda s: Columns(s, columns=label)}
    shapes = {name: part.shape for name, part in data.parts.items()}
    likelihood = Fields(data.shape, fields={**members, "size": Gaussian}, shapes=shapes)
    bridge = data.bridge(likelihood, binarize="threshold")
    x = data.layout.split(data.split("train", bridge)[:])
    np.testing.assert_array_equal(x["image"].numpy(), ARRAYS["image"] > 127.5)
    np.testing.assert_allclose(
        bridge.inverse(data.split("train", bridge)[:])[:, -2:],
        ARRAYS["size"],
        rtol=1e-6,
    )
    assert Bridge.from_dict(bridge.to_dict()) == bridge
    with pytest.raises(InputError, match=r"image.* holds grey levels"):
        data.bridge(likelihood)
    other = Fields(
        (8,),
        fields={"text": Bernoulli, "size": Gaussian},
        shapes={"text": (6,), "size": (2,)},
    )
    with pytest.raises(
        InputError, match="--binarize fits none of the fields text, size"
    ):
        npz("text,size").bridge(other, binarize="dynamic")
