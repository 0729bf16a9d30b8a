"""What a run knows: which files are its own, and which data it was trained on."""

import shutil
from pathlib import Path

import pytest

from pyro_vae.runs import clear, is_run, owned
from reading import contents, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

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


@pytest.mark.parametrize("config", ['title = "my thesis"', "[resolved]\nversion = 1", "=", ""])
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
