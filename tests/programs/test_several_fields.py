"""The programs on data of several fields."""

import csv
import json

import numpy as np
import pytest
import torch

from conftest import SMALL
from pyro_vae import log_marginal, open_run
from reading import contents

rng = np.random.default_rng(0)
LABEL = np.arange(120) % 3
IMAGE = (rng.random((120, 4, 4)) < np.array([0.1, 0.5, 0.9])[LABEL, None, None]).astype(
    "u1"
)
SIZE = rng.normal(size=(120, 2)) + LABEL[:, None]
FORMULA = "p(z) p(image|z) p(label|z) p(size|z); q(z|image,label,size)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, call):
    """A run on three fields, in the folder of their file."""
    folder = tmp_path_factory.mktemp("several")
    label = LABEL.copy()
    label[:12] = -1
    np.savez(folder / "x.npz", image=IMAGE, label=label, size=SIZE)
    said = call(
        *("train", "--dataset", folder / "x.npz", "--structure", FORMULA, *SMALL),
        *(
            "--objective",
            "subsets()",
            "--latent-dim",
            2,
            "--epochs",
            4,
            "--batch-size",
            16,
        ),
        *("--output", folder / "run"),
    )
    assert said.code == 0, said.err
    (folder / "said.txt").write_text(said.out)
    return folder


def test_training_says_what_each_field_is(folder):
    said = (folder / "said.txt").read_text()
    assert "x.npz image [4, 4], label [1], size [2]: 86 train" in said
    assert "label is missing in 12 of 120 data" in said
    assert "field      image [4, 4]: as stored, bits (0 or 1); Bernoulli()" in said
    assert "Categorical(levels=3)" in said
    assert "Gaussian(scale='element')" in said
    assert FORMULA in said
    figures = {path.name for path in (folder / "run" / "figures").iterdir()}
    assert {"reconstructions-image.png", "prior_samples-label.png"} <= figures
    assert {
        "prior_pairs-size.png",
        "manifold-image.png",
        "posterior_means.png",
    } <= figures


def test_an_evaluation_answers_field_by_field(folder, call):
    said = call("evaluate", folder / "run", "--num-particles", 30)
    assert said.code == 0, said.err
    assert "Field by field: 3 fields of 24 data" in said.out
    kept = json.loads((folder / "run" / "evaluation.json").read_text())
    rows = kept["fieldtable"]
    assert {"image", "label", "size"} <= rows.keys()
    arrays = np.load(folder / "run" / "evaluation.npz")
    alone = arrays["fieldtable_alone_size"]
    assert rows["size"]["alone"] == pytest.approx(alone.mean())
    # As the marginal log-likelihood of the field by itself.
    run = open_run(folder / "run")
    x = run.split("test")[:]
    few = {"size": run.vae.model.fields.split(x)["size"]}
    torch.manual_seed(0)
    truth = log_marginal(run.vae.model, run.vae.guide, few, num_particles=4000)
    assert alone.mean() == pytest.approx(truth.mean, abs=0.3)


def test_samples_are_drawn_of_each_field(folder, call):
    said = call("sample", folder / "run", "--count", 20)
    assert said.code == 0, said.err
    made = {path.name for path in (folder / "run" / "samples").iterdir()}
    assert {"prior-image.png", "prior-label.csv", "cross-image.png"} <= made
    assert {"interpolation-image.npy", "traversal-image.png"} <= made
    assert np.load(folder / "run" / "samples" / "cross-image.npy").shape == (2, 9, 4, 4)
    assert call("sample", folder / "run", "--kind", "cross", "--draws").code == 0
    size = np.load(folder / "run" / "samples" / "prior-size.npy")
    assert size.shape == (20, 2)


def test_what_a_field_says_of_the_others(folder, call):
    said = call("sample", folder / "run", "--given", "label=2", "--count", 30)
    assert said.code == 0, said.err
    with (folder / "run" / "samples" / "given-label.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"2"}
    assert np.load(folder / "run" / "samples" / "given-image.npy").shape == (30, 4, 4)
    said = call("sample", folder / "run", "--given", "kind=2")
    assert said.code == 2
    assert "one of the columns of the run: label, 0, 1" in said.err


def test_new_data_may_lack_fields(folder, call):
    np.savez(folder / "new.npz", image=IMAGE[:9], size=SIZE[:9])
    said = call(
        "evaluate", folder / "run", "--data", folder / "new.npz", "--num-particles", 9
    )
    assert said.code == 0, said.err
    assert "new.npz has no label, which is missing in every datum" in said.out
    said = call("impute", folder / "run", "--data", folder / "new.npz")
    assert said.code == 0, said.err
    found = np.load(folder / "run" / "imputed-new.npz")
    assert found["label"].shape == (9,)
    assert set(found["label"].tolist()) <= {0, 1, 2}
    np.testing.assert_allclose(found["size"], SIZE[:9], rtol=1e-6)
    assert not found["image_missing"].any()
    other = ("--ask", f"ood(data='{folder / 'new.npz'}')", "--num-particles", 9)
    said = call("evaluate", folder / "run", *other)
    assert said.code == 0, said.err
    np.savez(folder / "none.npz", other=IMAGE)
    said = call("evaluate", folder / "run", "--data", folder / "none.npz")
    assert said.code == 2
    assert "none of the fields image, label, size" in said.err


def test_a_run_takes_fields_in_memory(folder):
    run = open_run(folder / "run")
    x = run.see({"image": IMAGE[:5], "label": LABEL[:5]})
    assert x.shape == (5, 19)
    assert x[:, 17:].isnan().all()
    drawn = run.sample(3)
    assert drawn["image"].shape == (3, 4, 4)
    assert [*drawn["label"].columns] == ["label"]


def test_codes_of_all_fields_are_written(folder, call):
    said = call("encode", folder / "run")
    assert said.code == 0, said.err
    assert np.load(folder / "run" / "latents.npz")["test_mean"].shape == (24, 2)


def test_a_run_on_fields_goes_on_to_the_last_digit(folder, call, tmp_path):
    run = open_run(folder / "run").config
    again = [
        *("train", "--dataset", folder / "x.npz", "--key", run["key"], *SMALL),
        *("--objective", "subsets()", "--latent-dim", 2, "--batch-size", 16),
        *("--output", tmp_path / "run"),
    ]
    assert call(*again, "--epochs", 2).code == 0
    said = call("train", "--resume", tmp_path / "run", "--epochs", 4)
    assert said.code == 0, said.err
    first, second = (
        contents(path / "last.safetensors")
        for path in (folder / "run", tmp_path / "run")
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_files_of_fields_may_move(folder, call, tmp_path):
    for name, array in (("a", IMAGE), ("b", SIZE)):
        np.save(tmp_path / f"{name}.npy", array)
    where = f"image={tmp_path / 'a.npy'},size={tmp_path / 'b.npy'}"
    said = call(
        "train", "--dataset", where, *SMALL, "--epochs", 1, "--output", tmp_path / "run"
    )
    assert said.code == 0, said.err
    assert "fields are paired row by row, in their order" in said.out
    (tmp_path / "there").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.npy").rename(tmp_path / "there" / f"{name}.npy")
    said = call("evaluate", tmp_path / "run", "--num-particles", 5)
    assert said.code == 2
    assert "are no longer at" in said.err
    moved = where.replace(str(tmp_path), str(tmp_path / "there"))
    said = call("evaluate", tmp_path / "run", "--num-particles", 5, "--data", moved)
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--key", "image,lable"], "--key lable"),
        (["--key", "image,label", "--likelihood", "bernoulli"], "one for all of x"),
        (
            ["--key", "image,label", "--likelihood", "text=bernoulli"],
            "names text, and the fields",
        ),
        (
            ["--key", "image,label", "--likelihood", "image=poison"],
            "did you mean poisson",
        ),
        (
            ["--key", "image,label", "--network", "words=mlp"],
            "given to words",
        ),
        (
            ["--key", "image,label", "--network", "mlp, convnet"],
            "of the form name=network",
        ),
        (["--key", "image,label", "--prior", "vampprior"], "VampPrior"),
        (
            ["--structure", FORMULA.replace("p(size|z)", "")],
            "q of z|no size|there is no size",
        ),
        (["--objective", "subsets()"], "the data are one"),
    ],
)
def test_what_fits_no_fields(folder, call, tmp_path, options, words):
    dataset = ["digits"] if options[0] == "--objective" else [folder / "x.npz"]
    said = call(
        "train", "--dataset", *dataset, *options, "--epochs", 1, "--output", tmp_path
    )
    assert said.code == 2, said.out
    assert any(word in said.err for word in words.split("|")), said.err


def test_a_formula_and_its_data_agree(folder, call, tmp_path):
    formula = "p(z) p(size|z) p(image|z); q(z|image,size)"
    said = call(
        *("train", "--dataset", folder / "x.npz", "--key", "image,size"),
        *("--structure", formula, "--output", tmp_path),
    )
    assert said.code == 2
    assert "the formula has the fields size, image and the data image, size" in said.err
