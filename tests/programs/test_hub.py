"""Runs to the Hugging Face Hub and back, by its own client against a stand-in."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from hub_server import TOKEN, Hub
from pyro_vae import open_run
from reading import mentions

constants = pytest.importorskip("huggingface_hub.constants")

pytestmark = [
    pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures"),
    pytest.mark.filterwarnings("ignore"),  # those of the client
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_there_and_back(call, hub, here):
    assert call("encode", "runs/a").code == 0
    said = call("push", "runs/a", "me/a", "--private")
    assert said.code == 0, said.err
    mentions(said.out, "config.toml", "best.safetensors", f"{hub.url}/me/a/commit/")
    assert "me/a" in hub.private
    files = hub.repos["me/a"]["main"]
    assert "README.md" in files
    assert not {
        name
        for name in files
        if name.endswith((".html", ".csv")) or "latents.npz" in name
    } - {"metrics.csv"}

    # What tells where data lie, or which they are, stays here.
    config = tomllib.loads(files["config.toml"].decode())
    assert (config["dataset"], config["labels"]) == ("data.npy", "labels.npy")
    assert config["resolved"]["source"] == "data.npy"
    for name, content in files.items():
        assert str(here).encode() not in content, name
    Path("e.npz").write_bytes(files["evaluation.npz"])
    with np.load("e.npz") as arrays:
        assert "label" not in arrays
        assert len(arrays["values"]) == len(arrays["row"])

    # The weights and the numbers come back, and the run evaluates.
    mine = open_run("runs/a")
    assert call("pull", "me/a", "there/b").code == 0
    assert not list(Path("there").glob(".*"))
    theirs = open_run("there/b")
    for made, wanted in zip(
        theirs.vae.state_dict().items(), mine.vae.state_dict().items(), strict=True
    ):
        assert made[0] == wanted[0]
        assert np.array_equal(made[1], wanted[1])
    assert call("compare", "runs/a", "there/b").code == 0
    assert call("evaluate", "there/b", "--num-particles", 10).code == 0
    read = [
        json.loads((Path(run) / "evaluation.json").read_text())["log_marginal"]
        for run in ("runs/a", "there/b")
    ]
    assert read[0] == read[1]


def test_a_branch_and_what_an_earlier_push_left(call, hub, here):
    assert call("push", "runs/a", "me/a", "--revision", "old").code == 0
    for path in Path("runs/a").glob("evaluation*"):
        path.unlink()
    assert call("push", "runs/a", "me/a", "--revision", "old").code == 0
    assert not [f for f in hub.repos["me/a"]["old"] if f.startswith("evaluation")]
    assert not hub.repos["me/a"]["main"]
    shutil.move("runs/a", "mine")
    assert call("pull", "me/a", "--revision", "old").code == 0
    assert Path("runs/a/config.toml").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("push", "nowhere", "me/a"), "nowhere is no run of this package"),
        (("push", "runs/a", "a b"), "'a b' is no name of a repository"),
        (("pull", "me/none", "b"), "me/none does not exist on the Hub"),
        (("pull", "me/a", "runs/a"), "runs/a is there already"),
        (("pull", "me/other", "b"), "me/other is no run of this package"),
        (("pull", "me/other", "b", "--revision", "x"), "no such --revision"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_what_cannot_be_is_one_sentence(refused, hub, here, words, said):
    hub.repos["me/other"] = {"main": {"README.md": b"hello", "config.json": b"{}"}}
    mentions(refused(*words), said)


def test_without_permission_or_the_net(refused, hub, here, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    mentions(refused("push", "runs/a", "me/a"), "does not let this token", "me/a")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    mentions(refused("push", "runs/a", "me/a"), "the Hub cannot be reached")
    mentions(refused("pull", "me/a", "b"), "the Hub cannot be reached")


def test_a_strangers_run_runs_no_code(call, hub, here):
    run = Path(shutil.copytree("runs/a", "c"))
    config = run / "config.toml"
    config.write_text(config.read_text().replace("MeanField()", "theirs:Guide()"))
    Path("theirs.py").write_text("raise SystemExit('it ran')")
    assert call("push", "c", "me/c").code == 0
    said = call("pull", "me/c", "d")
    assert said.code == 0
    assert "--trust" in said.out
