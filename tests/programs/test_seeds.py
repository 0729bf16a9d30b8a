"""Several seeds of one configuration, side by side."""

import os
import signal

import pytest

from pyro_vae import InputError
from pyro_vae._cli.seeds import Seeds, read_seeds
from pyro_vae._methods import read_names
from pyro_vae.checkpoint import checkpoint_path
from reading import TINY, contents, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

SHORT = ("--dataset", "digits", *TINY, "--epochs", 2)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), ("3, 1,2", (3, 1, 2)), ("4294967295", (2**32 - 1,))],
)
def test_seeds_are_read(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0,", "a", "-1", "1.5", "0 1", "4294967296", "²"])
def test_what_is_no_seed_is_told(text):
    with pytest.raises(InputError, match=r"--seeds .* must be whole numbers from 0"):
        read_seeds(text)


def test_a_seed_that_is_named_twice_is_told():
    with pytest.raises(InputError, match="names 7 twice"):
        read_seeds("7,3,7")


@pytest.fixture(scope="module")
def side_by_side(start, tmp_path_factory):
    """Runs of two seeds, and what was printed."""
    folder = tmp_path_factory.mktemp("seeds")
    process = start(
        folder, "pyro_vae.train", *SHORT, "--seeds", "1,4", "--output", "many"
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    return folder / "many", out


def test_each_run_is_as_if_alone(side_by_side, start, tmp_path):
    folder, _ = side_by_side
    alone = start(tmp_path, "pyro_vae.train", *SHORT, "--seed", 4, "--output", "alone")
    alone.communicate(timeout=300)
    assert alone.returncode == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert (folder / "seed4" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()
    names = {
        path.relative_to(tmp_path / "alone") for path in contents(tmp_path / "alone")
    }
    other = folder / "seed1"
    assert {path.relative_to(other) for path in contents(other)} == names


def test_what_they_came_to_is_summed_up(side_by_side):
    folder, out = side_by_side
    assert Seeds.resume(folder, ()).seeds == (1, 4)
    each = [str(folder / name) for name in ("seed1", "seed4")]
    assert read_names([str(folder), "other", f"a={folder},b"]) == (
        [*each, "other", *each, "b"],
        {"a": [*each, "b"]},
    )
    assert read_names([each[0]]) == ([each[0]], {})
    with pytest.raises(InputError, match=r"several seeds: name one .*seed1"):
        checkpoint_path(folder)
    assert out.count("data       digits") == 1
    scores = [
        float(line.split()[1].rstrip(","))
        for line in out.splitlines()
        if line.startswith("seed") and ", epoch" in line
    ]
    mean, spread = sum(scores) / 2, abs(scores[0] - scores[1]) / 2**0.5
    line = next(line for line in out.splitlines() if line.startswith("mean"))
    found = [float(word) for word in (line.split()[1], line.split()[3])]
    assert found == pytest.approx([mean, spread], abs=0.011)


def test_mistakes_are_found_before_anything_begins(call, side_by_side):
    folder, _ = side_by_side
    train = ("train", *SHORT, "--seeds", "0,1")
    wrong = {
        (*train, "--guide", "nope"): "--guide nope is unknown",
        (*train, "--seed", 3): "--seed 3 is one",
        (*train, "--output", folder): "seed1 holds a run already",
        (*train, "--output", folder / "seed1"): "holds one run",
        ("train", "--resume", folder, "--seeds", "0"): "leave --seeds out",
        ("train", "--resume", folder, "--dry-run"): "several seeds",
        ("train", "--resume", folder, "--guide", "iaf"): "--guide cannot change",
        ("train", *SHORT, "--seeds", "0,x"): "--seeds '0,x'",
        ("train", "--seed", "x", "--seeds", "0"): "--seed",
    }
    for arguments, sentence in wrong.items():
        said = call(*arguments)
        assert said.code == 2
        mentions(said.err, sentence)


def test_torchrun_beside_seeds_is_refused(start, tmp_path, monkeypatch):
    names = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    process = start(tmp_path, "pyro_vae.train", *SHORT, "--seeds", "0,1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    mentions(err, "leave torchrun out")


def test_a_dry_run_of_seeds_trains_nothing(call, tmp_path):
    said = call("train", *SHORT, "--seeds", "0,1", "--output", "many", "--dry-run")
    assert said.code == 0
    assert not (tmp_path / "many").exists()


def test_runs_that_fail_are_named_and_the_others_told(start, tmp_path):
    rate = ("--learning-rate", "1e9", "--optimizer", "sgd")
    process = start(
        tmp_path, "pyro_vae.train", *SHORT, *rate, "--seeds", "0,1", "--output", "many"
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "2 of 2 runs failed" in err.splitlines()[-1]
    assert "stopped being finite" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_ctrl_c_ends_all_with_what_they_have(start, call, tmp_path):
    long = ("--dataset", "digits", *TINY, "--epochs", 100_000)
    process = start(
        tmp_path, "pyro_vae.train", *long, "--seeds", "0,1,2,3,4,5", "--output", "many"
    )
    for line in process.stdout:
        if "epoch 1/" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "go on with: python -m pyro_vae.train --resume many" in out
    assert Seeds.resume(tmp_path / "many", ()) is not None
    missing = [
        str(seed)
        for seed in range(6)
        if not (tmp_path / "many" / f"seed{seed}").is_dir()
    ]
    line = next(line for line in out.splitlines() if line.startswith("not begun"))
    assert line.endswith(f"--seeds {','.join(missing)} --output many")


def test_a_reader_that_goes_ends_all_with_what_they_have(start, tmp_path):
    long = ("--dataset", "digits", *TINY, "--epochs", 100_000)
    process = start(
        tmp_path, "pyro_vae.train", *long, "--seeds", "0,1", "--output", "many"
    )
    for line in process.stdout:
        if "epoch 1/" in line:
            break
    process.stdout.close()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 141
    assert "Traceback" not in err
