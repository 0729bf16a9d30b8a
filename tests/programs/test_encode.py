"""The latents of a run as files, as accuracies and as a picture."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from pyro_vae import InputError, Spec, build
from pyro_vae.data import load_data
from pyro_vae.encode import Probes, encode, frame, picture, probe
from pyro_vae.trained import open_run
from reading import TINY, contents, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

PLANE = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
rng = np.random.default_rng(0)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def assert_picture(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 50, path
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_from_a_run_to_its_latents(call, run):
    before = contents(run)
    said = call("encode", run)
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "1294 train, 144 validation, 359 test data",
        "latent dimension 3",
        "logistic regression",
    )
    with np.load(run / "latents.npz", allow_pickle=False) as file:
        arrays = dict(file)
    opened = open_run(str(run), checkpoint="best", device="cpu", data_dir=None)
    assert list(arrays) == [
        f"{split}_{kind}"
        for split in ("train", "validation", "test")
        for kind in ("mean", "std", "rows", "labels")
    ]
    for split, labels in load_data("digits").labels.items():
        x = opened.split(split)[:]
        np.testing.assert_allclose(
            arrays[f"{split}_mean"], opened.vae.posterior_mean(x), rtol=0, atol=1e-5
        )
        with torch.no_grad():
            np.testing.assert_allclose(
                arrays[f"{split}_std"], opened.vae.encode(x).stddev, rtol=1e-5
            )
        np.testing.assert_array_equal(arrays[f"{split}_labels"], labels)
    assert assert_picture(run / "figures" / "latents.png") > 10
    after = contents(run)
    assert after.keys() - before.keys() == {
        run / "latents.npz",
        run / "figures" / "latents.png",
    }
    assert before.items() <= after.items()
    assert call("encode", run).code == 0
    assert contents(run) == after  # the same again
    expected = probe(
        *(
            arrays[f"{split}_{kind}"]
            for split in ("train", "test")
            for kind in ("mean", "labels")
        )
    )
    assert str(expected) in said.out
    assert expected.commonest < expected.neighbours < 1
    assert expected.commonest < expected.linear < 1


@pytest.mark.parametrize("guide", ["meanfield", "fullrank", "mixture", "delta"])
def test_closed_forms(guide):
    vae = build(Spec((6,), 3, guide=guide, network="mlp(hidden=(8,))")).double()
    x = torch.rand(50, 6).double()
    mean, std = encode(vae, x, batch_size=20)
    torch.testing.assert_close(mean, vae.posterior_mean(x))
    with torch.no_grad():
        draws = vae.encode(x).sample((20_000,))
    spread = draws.std(0)
    torch.testing.assert_close(std, spread, rtol=0.05, atol=1e-12)
    assert ((mean - draws.mean(0)).abs() <= 6 * spread / 20_000**0.5 + 1e-12).all()


@pytest.mark.parametrize("guide", ["iaf", "planar"])
def test_draws_where_there_is_no_closed_form(guide):
    vae = build(Spec((6,), 3, guide=guide, network="mlp(hidden=(8,))")).double()
    x = torch.rand(20, 6).double()
    pyro.set_rng_seed(0)
    mean, std = encode(vae, x, draws=400)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(mean, vae.posterior_mean(x, draws=400))
    with torch.no_grad():
        draws = vae.encode(x).sample((20_000,))
    assert ((mean - draws.mean(0)).abs() < 6 * draws.std(0) / 400**0.5).all()
    torch.testing.assert_close(std, draws.std(0), rtol=6 / 800**0.5, atol=0)


def test_a_mean_in_closed_form_without_a_variance(monkeypatch):
    vae = build(Spec((6,), 3, network="mlp(hidden=(8,))"))
    x = torch.rand(9, 6)
    mean, std = encode(vae, x)
    q = type(vae.encode(x))
    monkeypatch.setattr(
        q, "variance", property(lambda self: (_ for _ in ()).throw(NotImplementedError))
    )
    again, drawn = encode(vae, x, draws=2000)
    assert torch.equal(again, mean)
    torch.testing.assert_close(drawn, std, rtol=6 / 4000**0.5, atol=0)


@pytest.mark.parametrize(
    "labels",
    [np.arange(3), np.array(["u", "v", "w"]), np.array(["u", "v", "w"], object)],
)
def test_latents_that_are_the_label(labels):
    index = rng.integers(0, 3, 300)
    z = np.stack([np.cos(2 * index), np.sin(2 * index)], 1) + 0.01 * rng.normal(
        size=(300, 2)
    )
    found = probe(z[:200], labels[index][:200], z[200:], labels[index][200:])
    assert (found.neighbours, found.linear, found.kinds, found.k, found.num_data) == (
        1,
        1,
        3,
        5,
        100,
    )
    commonest = np.bincount(index[:200]).argmax()
    assert found.commonest == (index[200:] == commonest).mean()


def test_latents_that_say_nothing():
    labels = (rng.random(4000) < 0.3).astype(int)
    z = rng.normal(size=(4000, 2))
    found = probe(z[:2000], labels[:2000], z[2000:], labels[2000:])
    assert found.linear == pytest.approx(0.7, abs=6 * found.standard_error(0.7))
    assert found.neighbours < found.commonest + 3 * found.standard_error(
        found.commonest
    )
    assert found.standard_error(0.7) == pytest.approx((0.7 * 0.3 / 2000) ** 0.5)


def test_linear_probe_works_in_standard_deviations():
    labels = rng.integers(0, 2, 400)
    z = np.stack(
        [1e-4 * (labels + 0.1 * rng.normal(size=400)), rng.normal(size=400)], 1
    )
    found = probe(z[:300], labels[:300], z[300:], labels[300:])
    assert found.linear == 1
    assert (
        found.neighbours < 0.8
    )  # neighbours know only the distances of the latents themselves


def test_labels_that_are_missing_or_new():
    z = np.arange(20.0)[:, None]
    labels = np.array([0.0] * 9 + [np.nan] + [1.0] * 10)
    found = probe(z, labels, z, labels)
    assert (found.kinds, found.num_data, found.neighbours) == (2, 19, 1)
    words = np.array(["a"] * 9 + [None] + ["b"] * 10, object)
    assert probe(z, words, z, words) == found
    new = np.where(labels == 1, 7.0, labels)
    assert probe(z, labels, z, new).neighbours == 9 / 19
    assert probe(z[:3], np.array([0, 1, 1]), z[:3], np.array([0, 1, 1])).k == 3


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(300), ["1 kinds"]),
        (np.arange(300.0), ["300 kinds", "2 to 100"]),
        (np.full(300, np.nan), ["no test data with labels"]),
    ],
)
def test_labels_without_probes(labels, words):
    z = rng.normal(size=(300, 2))
    with pytest.raises(InputError) as refusal:
        probe(z, labels, z, labels)
    mentions(str(refusal.value), *words)


def test_unlabelled_data(call, train):
    np.save("x.npy", rng.integers(0, 2, (40, 5)))
    folder = train("run", "--dataset", "x.npy", "--validation-fraction", 0, *PLANE)
    said = call("encode", folder)
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "32 train, 8 test data", "the data have no labels")
    with np.load(folder / "latents.npz") as file:
        assert {k: v.shape for k, v in file.items()} == {
            "train_mean": (32, 2),
            "train_std": (32, 2),
            "train_rows": (32,),
            "test_mean": (8, 2),
            "test_std": (8, 2),
            "test_rows": (8,),
        }
    assert_picture(folder / "figures" / "latents.png")


def test_labels_of_a_table_and_no_test_data(call, train):
    lines = [
        f"{a},{b},{'uv'[i % 2] if i else ''}"
        for i, (a, b) in enumerate(rng.integers(0, 2, (30, 2)))
    ]
    Path("x.csv").write_text("\n".join(["a,b,kind", *lines]))
    folder = train(
        "run",
        "--dataset",
        "x.csv",
        "--labels",
        "kind",
        "--test-fraction",
        0,
        "--epochs",
        1,
        *TINY,
    )
    said = call("encode", folder, "--output", "mine.npz")
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "there are no test data", "mine.npz")
    assert not (folder / "latents.npz").exists()
    with np.load("mine.npz", allow_pickle=False) as file:
        arrays = dict(file)
    found = np.concatenate([arrays["train_labels"], arrays["validation_labels"]])
    assert sorted(np.unique(found)) == ["", "u", "v"]


def test_table_for_parquet():
    arrays = {
        "train_mean": np.zeros((3, 2)),
        "train_std": np.ones((3, 2)),
        "train_labels": np.array(["u", "v", "u"]),
    }
    arrays |= {
        "test_mean": np.full((1, 2), 5.0),
        "test_std": np.ones((1, 2)),
        "test_labels": np.array(["v"]),
    }
    table = frame(arrays)
    assert list(table) == [
        "split",
        "datum",
        "mean_0",
        "mean_1",
        "std_0",
        "std_1",
        "label",
    ]
    assert table["split"].tolist() == ["train"] * 3 + ["test"]
    assert table["datum"].tolist() == [0, 1, 2, 0]
    assert table["mean_1"].tolist() == [0, 0, 0, 5]
    assert table["label"].tolist() == ["u", "v", "u", "v"]
    assert "label" not in frame({k: v for k, v in arrays.items() if "labels" not in k})


def test_parquet_without_its_package(refused, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    mentions(
        refused("encode", "run", "--output", "x.parquet"),
        "pyarrow",
        "pip install",
        ".npz",
    )


def test_parquet(call, run):
    pytest.importorskip("pyarrow")
    import pandas

    assert call("encode", run, "--output", "x.parquet").code == 0
    table = pandas.read_parquet("x.parquet")
    assert table.shape == (1294 + 144 + 359, 3 + 3 + 3 + 1)


@pytest.mark.parametrize(
    ("latent_dim", "label"),
    [(1, "standard deviation"), (2, "z[1]"), (5, "of the variance")],
)
def test_picture(latent_dim, label):
    z = rng.normal(size=(400, latent_dim)) * np.arange(1, latent_dim + 1)
    figure = picture(z, np.ones_like(z), np.where(rng.random(400) < 0.1, np.nan, 1.0))
    mentions(figure.axes[0].get_ylabel(), label)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["1.0", "no label"]


def test_picture_shows_the_principal_components():
    from sklearn.decomposition import PCA

    fit, z = (
        rng.normal(size=(n, 5)) * np.array([1.0, 5.0, 0.5, 3.0, 0.1]) + 7
        for n in (500, 60)
    )
    figure = picture(z, np.ones_like(z), None, fit=fit)
    shown = np.asarray(figure.axes[0].collections[0].get_offsets())
    truth = PCA(2).fit(fit)
    np.testing.assert_allclose(np.abs(shown), np.abs(truth.transform(z)), atol=1e-9)
    mentions(
        figure.axes[0].get_xlabel(), f"{100 * truth.explained_variance_ratio_[0]:.0f} %"
    )


def test_encode_refuses():
    vae = build(Spec((6,), 3, network="mlp(hidden=(8,))"))
    for x, options, word in (
        (torch.zeros(0, 6), {}, "no data"),
        (torch.zeros(2, 6), {"draws": 1}, "draws=1"),
    ):
        with pytest.raises(InputError, match=word):
            encode(vae, x, **options)
    with torch.no_grad():
        vae.guide.head.bias += float("inf")
    with pytest.raises(InputError, match="datum 0"):
        encode(vae, torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["RUN"]),
        (["none"], ["none does not exist"]),
        (["."], ["holds no run"]),
        (["run", "--output", "x.csv"], ["x.csv", ".npz or .parquet"]),
        (["run", "--output", "none/x.npz"], ["folder none does not exist"]),
        (["run", "--output", "folder.npz"], ["is a folder"]),
        (["run", "--num-draws", 1], ["--num-draws", "two or more"]),
        (["run", "--num-draws", 0], ["--num-draws", "at least 1"]),
        (["run", "--outptu", "x.npz"], ["did you mean --output?"]),
    ],
)
def test_wrong_commands(refused, run, arguments, words):
    Path("folder.npz").mkdir()
    mentions(refused("encode", *arguments), *words)


def test_damaged_weights(refused, run):
    (run / "best.safetensors").write_bytes(b"hello")
    mentions(refused("encode", "run"), "run/best.safetensors is damaged")


def test_accuracies_print_themselves():
    text = str(Probes(0.5, 0.75, 0.1, 10, 5, 100))
    mentions(
        text,
        "10 labels on 100 test data",
        "0.5000 ± 0.0500",
        "0.7500 ± 0.0433",
        "0.1000 ± 0.0300",
    )


def test_help(call):
    said = call("encode", "--help")
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "python -m pyro_vae.encode", "--output", "--num-draws")
