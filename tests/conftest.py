"""What the tests of the programs share: calling them in process, starting them as processes, a trained run."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # the tensors are tiny: more threads only wait for each other

import contextlib
import importlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pytest

from reading import contents


@pytest.fixture(autouse=True)
def clean_store():
    """Each test starts with an empty parameter store of Pyro's."""
    pyro.clear_param_store()


SMALL = (
    "--network",
    "mlp(hidden=(16,))",
)  # a network for tests that are not about networks


class Said(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    out: str
    err: str


def _call(program: str, *arguments: object) -> Said:
    """Run `python -m pyro_vae.PROGRAM ARGUMENTS` in this process."""
    from pyro_vae._cli.options import run

    main = importlib.import_module(f"pyro_vae.{program}").main
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        run(f"pyro_vae.{program}", main, [str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return Said(end.value.code, out.getvalue(), err.getvalue())


def _start(folder: Path, *command: object) -> subprocess.Popen:
    """Start `python -m COMMAND` in `folder` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def call():
    return _call


@pytest.fixture(scope="session")
def start():
    return _start


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of two epochs on the digits, with three latents; copy it before changing it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    said = _call("train", "--epochs", 2, "--latent-dim", 3, *SMALL, "--output", folder)
    assert (said.code, said.err) == (0, "")
    return folder


@pytest.fixture
def blank_figures(monkeypatch):
    """Figures of programs are made but not drawn: drawing takes most of a short run, and is tested elsewhere."""
    from PIL import Image

    def save(make, path):
        make()
        Image.new("L", (1, 1)).save(path)

    monkeypatch.setattr("pyro_vae._cli.outputs._save", save)


@pytest.fixture
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """An empty folder, for images."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def rng():
    """Random numbers for what is written to files."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture
def train(call, tmp_path):
    """Train into `tmp_path / name` and return that folder."""

    def run(name, *arguments):
        said = call("train", *arguments, "--output", tmp_path / name)
        assert (said.code, said.err) == (0, "")
        return tmp_path / name

    return run


@pytest.fixture
def refused(call, tmp_path):
    """Call a program that must refuse, and return its one sentence; no file may change."""

    def check(program, *arguments, made=()):
        before = contents(tmp_path)
        code, _, err = call(program, *arguments)
        assert code == 2, err
        assert len(err.splitlines()) == 1, err
        assert err.startswith(f"pyro_vae.{program}: ")
        assert "Traceback" not in err
        after = contents(tmp_path)
        assert {p: c for p, c in after.items() if p.name not in made} == before
        return err

    return check


REAL = ("--likelihood", "gaussian", "--network", "mlp(hidden=(8,))", "--latent-dim", 2)
X = np.random.default_rng(0).normal(size=(60, 4))


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A project folder: a table with labels and a run on it, trained from the folder; copy it before changing it."""
    folder = tmp_path_factory.mktemp("project")
    with contextlib.chdir(folder):
        np.save("data.npy", X)
        np.save("labels.npy", np.arange(60) % 2)
        options = ("--dataset", folder / "data.npy", "--labels", folder / "labels.npy")
        assert (
            _call(
                "train",
                *options,
                *REAL,
                "--epochs",
                1,
                "--output",
                folder / "runs" / "a",
            ).code
            == 0
        )
        assert _call("evaluate", "runs/a", "--num-particles", 10, "--report").code == 0
    return folder


@pytest.fixture
def here(project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"
