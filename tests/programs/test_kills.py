"""Nothing is lost and nothing is half done, whenever and however a program is stopped."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from pyro_vae._cli import keep as _keep
from pyro_vae.foundation import files as _files
from pyro_vae.foundation.files import MARK, locked
from pyro_vae.inference.svi import SVI
from reading import TINY, contents, mentions, rows, same, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, call):
    """A run of three epochs that nothing disturbed; copy it before changing it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert call("train", "--epochs", 3, *TINY, "--output", folder).code == 0
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def assert_whole(folder):
    """Every file can be read from its first byte to its last, and nothing else lies there."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert not [part for part in path.parts if part.startswith(MARK)], path
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".npz" | ".npy":
                loaded = np.load(path)
                assert path.suffix == ".npy" or all(
                    loaded[k].size for k in loaded.files
                )
            case ".png":
                with Image.open(path) as image:
                    image.load()
            case ".safetensors":
                load_file(path)


class Disk:
    """A disk that is full while the predicate of a file's name says so."""

    def __init__(self, monkeypatch, full):
        self.full, self.refused = full, []
        monkeypatch.setattr(_keep, "write_atomically", self.write)

    def write(self, path, write):
        def half(beside):
            write(beside)
            beside.write_bytes(beside.read_bytes()[:10])
            self.refused.append(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        _files.write_atomically(path, half if self.full(path.name) else write)


def test_a_disk_that_is_full_for_a_while_costs_nothing(call, whole, monkeypatch):
    disk = Disk(
        monkeypatch, lambda name: len(disk.refused) < 2 and name == "best.safetensors"
    )
    said = call("train", "--epochs", 3, *TINY, "--output", "run")
    assert (said.code, said.err) == (0, "")
    assert said.out.count("No space left on device") == 1
    mentions(said.out, "not saved  run/best.safetensors", "training goes on")
    assert same(weights(Path("run")), weights(whole))
    assert same(weights(Path("run"), "best"), weights(whole, "best"))
    assert [r["elbo"] for r in rows(Path("run"))] == [r["elbo"] for r in rows(whole)]
    assert_whole(Path("run"))


def test_a_disk_that_stays_full_keeps_the_checkpoint_before(call, whole, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        Disk(
            patch,
            lambda name: (
                name == "last.safetensors" and (seen.append(name) or len(seen) > 1)
            ),
        )
        said = call("train", "--epochs", 3, *TINY, "--output", "run")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    mentions(
        said.err,
        "run/last.safetensors: No space left on device",
        "--resume goes on from",
    )
    assert_whole(Path("run"))
    assert call("train", "--resume", "run").code == 0
    assert same(weights(Path("run")), weights(whole))
    assert len(rows(Path("run"))) == 3


def test_a_disk_that_is_full_from_the_start(call, monkeypatch):
    Disk(monkeypatch, lambda name: True)
    said = call("train", "--epochs", 3, *TINY, "--output", "run")
    assert said.code == 2
    mentions(said.err, "No space left on device", "config.toml")
    assert not contents(Path("run"))


def test_a_row_that_did_not_fit_is_written_later(tmp_path):
    def whole(path):
        path.write_text("1\n2\n3\n")

    said = []
    keeper = _keep.Keeper(tmp_path, lambda: None, said.append)
    (tmp_path / "rows").mkdir()  # no file, so no line can be added to it
    keeper.append(tmp_path / "rows", "2\n", whole)
    (tmp_path / "rows").rmdir()
    keeper.append(tmp_path / "rows", "3\n", whole)
    keeper.finish()
    assert (tmp_path / "rows").read_text() == "1\n2\n3\n"
    assert len(said) == 1


@pytest.mark.parametrize("failure", ["options", "first epoch"])
def test_overwrite_keeps_the_old_run_until_the_new_one_has_something(
    call, run, monkeypatch, failure
):
    (run / "notes.txt").write_text("mine")
    before = contents(run)
    if failure == "options":
        said = call(
            "train", *TINY, "--output", run, "--overwrite", "--schedule", "nonsense"
        )
    else:
        options = ("--optimizer", "sgd", "--learning-rate", 1e8, "--epochs", 2)
        said = call("train", *TINY, *options, "--output", run, "--overwrite")
        mentions(said.err, "the run that was to be replaced is still in")
    assert said.code == 2
    assert contents(run) == before
    assert call("train", "--epochs", 1, *TINY, "--output", run, "--overwrite").code == 0
    assert len(rows(run)) == 1
    assert (run / "notes.txt").read_text() == "mine"


def test_a_run_without_its_figures_is_finished(call, run):
    said = call("train", "--resume", run)
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "nothing is missing", "has had its epochs", "--epochs")
    before = contents(run)
    shutil.rmtree(run / "figures")
    said = call("train", "--resume", run)
    assert said.code == 0
    mentions(said.out, "learning_curves.png", "next: python -m pyro_vae.evaluate")
    assert {p: c for p, c in contents(run).items() if p.parent != run / "figures"} == {
        p: c for p, c in before.items() if p.parent != run / "figures"
    }
    assert contents(run).keys() == before.keys()


def test_figures_of_fewer_epochs_are_drawn_anew(call, run, monkeypatch):
    old = contents(run / "figures")

    def interrupted(job, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.train.draw_figures", interrupted)
        said = call("train", "--resume", run, "--epochs", 4)
    assert (said.code, contents(run / "figures")) == (130, old)
    assert call("train", "--resume", run).code == 0
    assert contents(run / "figures").keys() == old.keys()
    assert contents(run / "figures") != old


def test_a_figure_that_fails_costs_no_run(call, monkeypatch):
    def broken(*arguments, **options):
        raise ValueError("a label\nthat nobody can draw")

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.plots.reconstructions", broken)
        said = call("train", "--epochs", 1, *TINY, "--output", "run")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    mentions(
        said.err, "training is done and saved in run", "reconstructions.png", "a label"
    )
    figures = {p.stem for p in Path("run/figures").iterdir()}
    assert figures == {"learning_curves", "prior_samples"}
    assert call("train", "--resume", "run").code == 0
    assert Path("run/figures/reconstructions.png").is_file()


def test_one_process_at_a_time_trains_a_run(call, run):
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom pyro_vae.foundation.files import locked\n"
        "with locked(Path('run')):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        before = contents(run)
        for options in (("--resume", "run"), (*TINY, "--output", "run", "--overwrite")):
            said = call("train", *options)
            assert said.code == 2
            assert len(said.err.splitlines()) == 1
            mentions(said.err, f"process {process.pid}", "is training run", "wait")
            assert contents(run) == before
    finally:
        process.kill()
        process.communicate()
    assert (run / ".lock").is_file()
    assert call("train", "--resume", "run").code == 0  # a dead process holds nothing
    assert not (run / ".lock").exists()
    with locked(run):
        mentions(call("train", "--resume", "run").err, "in this process")


def test_a_run_that_was_killed_before_it_wrote_anything_is_started_again(call):
    Path("run/figures").mkdir(parents=True)
    Path("run/.lock").touch()
    Path(f"run/{MARK}0123").mkdir()
    Path(f"run/{MARK}0123/.lock").touch()
    assert call("train", "--epochs", 1, *TINY, "--output", "run").code == 0
    assert_whole(Path("run"))


@pytest.mark.parametrize(
    "program", ["train", "evaluate", "sample", "encode", "compare"]
)
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["Ctrl-C", "kill"],
)
@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="needs to see what is imported"
)
def test_an_interrupt_in_the_first_moments(start, tmp_path, program, number):
    """While libraries are imported, where exceptions come out as others."""
    runs = {"train": 0, "compare": 2}.get(program, 1)
    process = start(tmp_path, f"pyro_vae.{program}", *["run"] * runs)
    while (
        "multiarray" not in Path(f"/proc/{process.pid}/maps").read_text()
    ):  # of NumPy, the first
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == f"pyro_vae.{program}: interrupted\n"


def test_an_interrupt_that_comes_out_as_another_error(call, run, monkeypatch):
    def swallowed(*arguments, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError("worker exited unexpectedly") from None

    monkeypatch.setattr("pyro_vae.encode.encode_run", swallowed)
    said = call("encode", run)
    assert (said.code, said.err) == (130, "pyro_vae.encode: interrupted\n")


def test_interrupts_before_and_after_the_steps(call, monkeypatch):
    def interrupt(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    for where in ("pyro_vae.train.load_data", "pyro_vae.train.draw_figures"):
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupt)
            said = call("train", "--epochs", 1, *TINY, "--output", "run")
        assert (said.code, said.err) == (130, "pyro_vae.train: interrupted\n")
        if Path("run").exists():
            assert_whole(Path("run"))
    assert call("train", "--resume", "run").code == 0


def test_a_second_interrupt_does_not_wait_for_the_step(call, monkeypatch):
    def twice(*arguments, **options):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        raise AssertionError("not reached")

    monkeypatch.setattr(SVI, "step_and_record", twice)
    said = call("train", "--epochs", 1, *TINY, "--output", "run")
    assert (said.code, said.err) == (130, "pyro_vae.train: interrupted\n")
    assert not (Path("run") / ".lock").exists()


def test_halves_of_two_evaluations_are_refused(call, run):
    assert call("evaluate", run, "--num-particles", 5).code == 0
    other = shutil.copytree(run, "other")
    assert call("evaluate", run, "--num-particles", 5, "--seed", 1).code == 0
    seeded = next(run.glob("evaluation-*seed1*.npz"))
    with np.load(run / "evaluation.npz") as mine, np.load(seeded) as theirs:
        halves = {name: mine[name] for name in mine.files}
        halves["standard_errors"] = theirs[
            "standard_errors"
        ]  # the mean alone would not tell
    np.savez(run / "evaluation.npz", **halves)
    said = call("compare", run, other)
    assert said.code == 2
    mentions(said.err, "are not of the same evaluation", "python -m pyro_vae.evaluate")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        (
            "evaluate",
            "run",
            "--num-particles",
            200,
            "--report",
            "--netcdf",
            "run/out.nc",
        ),
        ("sample", "run"),
        ("encode", "run"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_programs_that_are_killed_at_any_moment(call, run, tmp_path, command):
    """Each file that is there is whole, and the same command does its work afterwards.

    In forks of this process, which have all libraries: every moment is one of the work.
    """
    began = time.monotonic()
    assert call(*command).code == 0
    lasts = time.monotonic() - began
    for share in np.linspace(0.05, 1.05, 12):
        process = os.fork()
        if not process:
            try:
                call(*command)
            finally:
                os._exit(0)
        time.sleep(lasts * share)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for left in tmp_path.rglob(f"{MARK}*"):
            assert left.is_dir()
            shutil.rmtree(
                left
            )  # the next call does so in the folders that it writes to
        assert_whole(tmp_path)
    assert call(*command).code == 0
    assert_whole(tmp_path)
