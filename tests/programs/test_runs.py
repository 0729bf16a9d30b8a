"""What a run knows: which files are its own, and which data it was trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import X
from pyro_vae import load_data
from pyro_vae.data.fingerprint import fingerprint, row_keys
from pyro_vae.runs import clear, is_run, owned
from reading import contents, mentions, toml

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


FOREIGN = {
    "figures/fig1.svg": "precious",
    "figures/latents.png": "precious",
    "samples/s.wav": "precious",
    "evaluation_notes.md": "notes",
    "evaluation-notes.json": "{}",
    "metrics.csv": "a,b",
}


@pytest.mark.parametrize(
    "config", ['title = "my thesis"', "[resolved]\nversion = 1", "=", ""]
)
@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_foreign_folder_is_no_run(refused, tmp_path, config, options):
    for name, text in {**FOREIGN, "config.toml": config}.items():
        (tmp_path / "proj" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proj" / name).write_text(text)
    assert not is_run(tmp_path / "proj")
    sentence = refused("train", *TINY, "--output", "proj", *options)
    mentions(sentence, "proj holds other files and no run")


def test_overwriting_leaves_what_others_put_into_a_run(call, run):
    assert call("evaluate", "run", "--num-particles", 10).code == 0
    assert call("sample", "run", "--kind", "prior").code == 0
    mine = {"figures/mine.png": b"1", "samples/mine.npy": b"2", "notes.md": b"3"}
    for name, content in mine.items():
        (run / name).write_bytes(content)
    before = contents(run)
    assert set(owned(run)) == set(before) - {run / name for name in mine}
    assert call("train", *TINY, "--output", "run", "--overwrite").code == 0
    assert {name: (run / name).read_bytes() for name in mine} == mine
    assert not list(run.glob("evaluation*"))
    assert not (run / "samples" / "prior.png").exists()


def test_a_link_out_of_a_run_is_not_followed(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "learning_curves.png").write_text("mine")
    shutil.rmtree(run / "figures")
    (run / "figures").symlink_to(outside)
    clear(run)
    assert (outside / "learning_curves.png").read_text() == "mine"
    assert not is_run(run)
    assert [p.name for p in run.iterdir()] == ["figures"]


def test_what_data_are_known_by(tmp_path):
    np.save("a.npy", X)
    (tmp_path / "elsewhere").mkdir()
    np.savez("elsewhere/b.npz", x=X)
    known = fingerprint(load_data("a.npy"))
    assert fingerprint(load_data("elsewhere/b.npz")) == known
    assert fingerprint(load_data("a.npy", stream=True, workers=0)) == known
    other = fingerprint(
        load_data("a.npy", test_fraction=0.3)
    )  # the same rows, divided otherwise
    assert (other["whole"], other["test"] == known["test"]) == (known["whole"], False)
    for x, whole in (
        (X[np.argsort(X[:, 0])], True),
        (X[:, ::-1], False),
        (100 * X, False),
        (X.astype(np.float32), False),
        (-X, False),
    ):
        np.save("a.npy", x)
        found = fingerprint(load_data("a.npy"))
        assert (found["whole"] == known["whole"]) is whole
        assert all(
            found[split] != known[split] for split in ("train", "validation", "test")
        )


def test_equal_rows_have_equal_keys():
    bits = torch.from_numpy(
        np.unique(np.random.default_rng(0).integers(0, 2, (5000, 13)), axis=0)
    )
    assert len(np.unique(row_keys(bits.byte()))) == len(bits)
    assert row_keys(bits[[3, 5, 3]].byte()).tolist()[::2] == 2 * [
        row_keys(bits[3:4].byte())[0]
    ]
    signs = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [2.0, 1.0]], dtype=torch.float64)
    assert len(np.unique(row_keys(signs))) == 3


CHANGES = {
    "holds 61 data where it held 60": np.vstack([X, X[:1]]),
    "holds 59 data where it held 60": X[:-1],
    "the same rows in another order": X[np.argsort(X[:, 0])],
    "other values (other units": 100 * X,
    "of shape (3,)": X[:, :3],
}


@pytest.mark.parametrize("words", CHANGES)
def test_changed_data_are_refused(refused, here, words):
    np.save("data.npy", CHANGES[words])
    np.save("labels.npy", np.arange(len(CHANGES[words])) % 2)
    for program, *options in (
        ("evaluate", "runs/a", "--num-particles", 5),
        ("encode", "runs/a"),
        ("sample", "runs/a"),
        ("train", "--resume", "runs/a", "--epochs", 2),
    ):
        sentence = refused(program, *options)
        mentions(sentence, "data.npy", words)


def test_the_same_data_at_another_place(call, refused, here):
    Path("data.npy").rename("moved.npy")
    assert call("sample", "runs/a", "--kind", "prior", "--kind", "manifold").code == 0
    wanted = ("sample", "runs/a", "--kind", "prior", "--kind", "reconstructions")
    words = ("data.npy", "--data FILE", "--kind prior needs no data")
    mentions(refused(*wanted), *words)
    shutil.rmtree("runs/a/samples")
    said = call("sample", "runs/a")
    assert said.code == 0
    mentions(
        said.out,
        "note: ",
        *words[:2],
        "interpolation, traversal, attributes cannot be drawn",
    )
    assert {p.stem for p in Path("runs/a/samples").glob("*.csv")} == {"prior"}
    mentions(refused("evaluate", "runs/a"), "no longer at", "data.npy", "--data FILE")
    mentions(
        refused("train", "--resume", "runs/a", "--epochs", 2), "data.npy", "--data FILE"
    )
    at = ("--data", "moved.npy")
    assert call("evaluate", "runs/a", "--num-particles", 5, *at).code == 0
    assert call("sample", "runs/a", *at).code == 0
    assert call("encode", "runs/a", *at).code == 0
    assert call("train", "--resume", "runs/a", "--epochs", 2, *at).code == 0
    assert toml(Path("runs/a"))["dataset"] == "../../moved.npy"
    assert call("evaluate", "runs/a", "--num-particles", 5).code == 0
    mentions(refused("train", "--dataset", "digits", *at), "--data", "--dataset")
    Path("far").mkdir()
    Path("moved.npy").rename("far/moved.npy")
    assert call("encode", "runs/a", "--data-dir", "far").code == 0


def test_a_project_moves_as_a_whole(call, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("evaluate", "here/runs/a", "--num-particles", 5).code == 0
    monkeypatch.chdir("/")
    assert call("encode", tmp_path / "here" / "runs" / "a").code == 0
    again = (
        "--config",
        tmp_path / "here/runs/a/config.toml",
        "--output",
        tmp_path / "again",
    )
    assert call("train", *again).code == 0


def test_no_whole_path_is_written_down(project):
    for path in (project / "runs" / "a").rglob("*"):
        if path.suffix in (".toml", ".json", ".html", ".csv"):
            assert str(project) not in path.read_text(), path
    config = toml(project / "runs" / "a")
    assert (config["dataset"], config["labels"]) == (
        "../../data.npy",
        "../../labels.npy",
    )


def test_a_run_of_an_earlier_version(call, refused, here):
    """It has no fingerprint, and whole paths."""
    path = Path("runs/a/config.toml")
    old = path.read_text().partition("[resolved.fingerprint]")[0]
    path.write_text(old.replace("../../data.npy", str(Path("data.npy").resolve())))
    said = call("evaluate", "runs/a", "--num-particles", 5)
    assert said.code == 0
    mentions(said.out, "note: the run is of an earlier version", "cannot be checked")
    np.save("data.npy", X[:-1])
    np.save("labels.npy", np.arange(59) % 2)
    mentions(refused("evaluate", "runs/a"), "holds 59 data where it held 60")


def test_labels_that_have_changed(call, refused, here):
    np.save("labels.npy", np.arange(60) % 3)
    mentions(
        call("evaluate", "runs/a", "--num-particles", 5).out, "note: the labels are not"
    )
    mentions(refused("encode", "runs/a"), "the labels of data.npy are not those")
