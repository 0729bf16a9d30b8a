"""A run that was stopped, killed or extended equals the run that nothing disturbed."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from pyro_vae.foundation.files import write_atomically
from pyro_vae.inference.svi import SVI
from reading import TINY, assert_same_run, everything, rows, same, weights

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")


@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            "--objective",
            "elbo(beta=0)",
            "--learning-rate",
            0.01,
        ),  # its first epoch stays the best
        (
            "--guide",
            "fullrank",
            "--objective",
            "iwae(num_particles=3)",
            "--binarize",
            "static",
        ),
        (
            "--network",
            "mlp(hidden=(8,),dropout=0.2)",
            "--optimizer",
            "sgd(momentum=0.9)",
            "--learning-rate",
            0.001,
        ),
        (
            "--structure",
            "labelled(target='real')",
            "--labelled",
            10,
            "--prior",
            "gaussianmixture(components=3, start=5)",
        ),
        ("--structure", "labelled(spread=True)", "--labelled", 20),
        ("--guide", "moved(moves=2, leapfrogs=2, persistent=True)"),
        (
            "--objective",
            "pyro.infer:TraceMeanField_ELBO",
            "--validation-fraction",
            0,
            "--precision",
            "float64",
        ),
        (
            "--likelihood",
            "gaussian(scale='learned')",
            "--network",
            "convnet(channels=(4,))",
        ),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(call, train, options):
    whole = train("whole", "--epochs", 10, *TINY, *options)
    parts = train("parts", "--epochs", 5, *TINY, *options)
    assert not same(weights(whole), weights(parts))
    assert call("train", "--resume", parts, "--epochs", 10).code == 0
    assert_same_run(whole, parts)


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory, call):
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert call("train", "--epochs", 3, *TINY, "--output", run).code == 0
    return run


@pytest.mark.parametrize(
    ("step", "number"),
    [(1, signal.SIGINT), (13, signal.SIGINT), (20, signal.SIGTERM)],
    ids=["first step", "last of an epoch", "inside an epoch"],
)
def test_interrupt_at_a_step(call, three_epochs, monkeypatch, step, number):
    taken, before = 0, [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(*args, **kwargs):
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), number)
        return take_step(*args, **kwargs)

    take_step = SVI.step_and_record
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_and_record", interrupted)
        said = call("train", "--epochs", 3, *TINY, "--output", "run")
    assert (said.code, taken) == (130, step)
    assert "go on with: python -m pyro_vae.train --resume run" in said.out
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    run = Path("run")
    assert len(rows(run)) == step // 13
    assert (
        call("evaluate", run, "--num-particles", 5, "--limit", 5).code == 0
    )  # with what there is
    assert call("train", "--resume", "run").code == 0
    assert_same_run(three_epochs, run)


def test_kept_chains_go_on_from_inside_an_epoch(call, monkeypatch):
    """Without a guide all that is learned comes from them."""
    guide = "moved(guide=None, moves=2, leapfrogs=2, chains=2, persistent=True)"
    options = ("--epochs", 2, *TINY, "--guide", guide)
    assert call("train", *options, "--output", "whole").code == 0
    taken = 0

    def interrupted(*args, **kwargs):
        nonlocal taken
        taken += 1
        if taken == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(*args, **kwargs)

    take_step = SVI.step_and_record
    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step_and_record", interrupted)
        assert call("train", *options, "--output", "parts").code == 130
    state = load_file("parts/last.safetensors")
    started = state["chains.steps"].isfinite()
    assert len(started) == len(state["chains.z"])
    assert "chains.z" not in load_file("parts/best.safetensors")
    assert call("train", "--resume", "parts").code == 0
    assert_same_run(Path("whole"), Path("parts"))


class Killed(BaseException):
    """What a test raises where a run dies."""


@pytest.mark.parametrize("file", ["best.safetensors", "last.safetensors"])
def test_death_while_a_checkpoint_is_written(
    call, three_epochs, tmp_path, monkeypatch, file
):
    run = tmp_path / "run"
    written = 0

    def die(path, write):
        nonlocal written
        written += path.name == file
        if written == 2:
            write_atomically(path, half)
        write_atomically(path, write)

    def half(path):
        path.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae._cli.keep.write_atomically", die)
        with pytest.raises(Killed):
            call("train", "--epochs", 3, *TINY, "--output", "run")
    with (run / "metrics.csv").open("a") as metrics:
        metrics.write("2,-31")  # a row that was cut off
    for which in ("best", "last"):
        weights(run, which)  # whole files, both of them
    assert call("evaluate", run, "--num-particles", 5, "--limit", 5).code == 0
    assert call("train", "--resume", "run").code == 0
    assert_same_run(three_epochs, run)
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory, call):
    """Options of a run whose epochs last about a second, and that run."""
    folder = tmp_path_factory.mktemp("slow")
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 2, (1000, 2, 3)))
    options = ("--dataset", folder / "x.npy", "--epochs", 3, "--batch-size", 2, *TINY)
    assert call("train", *options, "--output", folder / "run").code == 0
    return options, folder / "run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signal_to_a_process(start, call, tmp_path, slow, number):
    options, whole = slow
    process = start(tmp_path, "pyro_vae.train", *options, "--output", "run")
    while not process.stdout.readline().startswith("epoch 1/3"):
        assert process.poll() is None
    time.sleep(0.1)  # into the second epoch
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    run = tmp_path / "run"
    position = everything(run)[0]["progress"]["position"]
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert position == 0
    else:
        assert process.returncode == 130
        assert err.strip().endswith("interrupted")
        assert "--resume run" in out
        assert 0 < position < 720  # inside that epoch
    assert [row["epoch"] for row in rows(run)] == ["1"]
    assert call("train", "--resume", run).code == 0
    assert_same_run(whole, run)
