"""`pyro-vae runs`: what it says of whole, half-written, foreign and damaged folders."""

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pyro_vae._cli.listing import main
from pyro_vae._cli.options import run as program
from pyro_vae.foundation.files import holder, locked
from reading import mentions, rows, toml

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


@pytest.fixture
def listed(capsys):
    """The exit code and the outputs of the program."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            program("pyro-vae runs", main, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def found(listed, *arguments):
    code, out, err = listed("--json", *arguments)
    assert (code, err) == (0, "")
    told = json.loads(out)
    return {row["folder"]: row for row in told["runs"]}, told["others"]


def changed(folder, **options):
    """Change options in a run's config.toml."""
    path = folder / "config.toml"
    text = path.read_text()
    for name, value in options.items():
        lines = [
            f"{name} = {value}" if line.startswith(f"{name} =") else line
            for line in text.splitlines()
        ]
        text = "\n".join(lines) + "\n"
    path.write_text(text)


@pytest.fixture
def runs(trained, tmp_path):
    """Three runs that differ in guide, latent_dim and seed, by what their files say."""
    for name in ("a", "deeper/b", "deeper/c"):
        shutil.copytree(trained, tmp_path / name)
    changed(tmp_path / "deeper" / "b", guide='"FullRank()"', latent_dim=7)
    changed(tmp_path / "deeper" / "c", seed=5, epochs=9)
    return tmp_path


def test_a_run_is_told_with_its_numbers(call, trained, tmp_path, listed):
    run = shutil.copytree(trained, tmp_path / "run")
    assert call("evaluate", run, "--num-particles", 5).code == 0
    (row,) = found(listed)[0].values()
    best = max(rows(run), key=lambda r: float(r["score"]))
    summary = json.loads((run / "evaluation.json").read_text())
    marginal = summary["log_marginal"]
    assert (row["folder"], row["state"], row["data"]) == ("run", "finished", "digits")
    assert (row["done"], row["epochs"], row["elbo_of"]) == (2, 2, "validation")
    assert row["elbo"] == pytest.approx(float(best["validation_elbo"]), rel=1e-12)
    assert row["log_p"] == marginal["mean"]
    assert row["standard_error"] == marginal["data_standard_error"]
    assert (row["evaluated"], row["notes"], row["differs"]) == (359, [], "")
    assert row["options"] == {k: v for k, v in toml(run).items() if k != "resolved"}

    table = listed()[1].splitlines()
    assert len(table) == 2
    mentions(table[0], "run", "ELBO", "log p(x)", "date")
    mentions(table[1], "2/2", f"{row['elbo']:.2f}", f"{marginal['mean']:.2f} ± ")

    # An evaluation of weights that are no longer the best, and one of a part.
    (run / "evaluation.json").write_text(json.dumps({**summary, "epoch": 1}))
    if int(best["epoch"]) != 1:
        mentions(found(listed)[0]["run"]["notes"][0], "of epoch 1", "evaluate again")
    part = {**summary, "data": 30}
    (run / "evaluation.json").write_text(json.dumps(part))
    mentions(found(listed)[0]["run"]["notes"][0], "30 of 359 test data")


def on_a_terminal(columns, folder, *command):
    """What a program prints on a terminal that is so wide."""
    here, there = pty.openpty()
    size = struct.pack("HHHH", 40, columns, 0, 0)
    fcntl.ioctl(there, termios.TIOCSWINSZ, size)
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    words = [sys.executable, "-m", *command]
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=there):
        os.close(there)
        said = b""
        with contextlib.suppress(OSError):  # where the other end is closed
            while part := os.read(here, 2**16):
                said += part
    os.close(here)
    return said.decode().splitlines()


def test_a_table_is_no_wider_than_its_terminal(runs, listed):
    whole = listed(runs)[1].splitlines()
    assert max(map(len, whole)) > 80
    narrow = on_a_terminal(80, runs, "pyro_vae", "runs", ".")
    assert max(map(len, narrow)) <= 80
    heads = [line.split() for line in narrow if line.startswith("run ")]
    assert len(heads) == 2
    told = [word for head in heads for word in head[1:]]
    assert told == whole[0].split()[1:]  # each column once, in its order
    for name in ("a", "deeper/b", "deeper/c"):
        assert sum(line.startswith(f"{name} ") for line in narrow) == 2
    wide = on_a_terminal(300, runs, "pyro_vae", "runs", ".")
    assert sum(line.startswith("run ") for line in wide) == 1


def test_runs_are_told_apart_by_what_differs(runs, listed):
    told, others = found(listed)
    assert not others
    assert {name: row["differs"] for name, row in told.items()} == {
        "a": "guide=MeanField, latent_dim=3, seed=0",
        "deeper/b": "guide=FullRank, latent_dim=7, seed=0",
        "deeper/c": "guide=MeanField, latent_dim=3, seed=5",
    }
    assert {row["state"] for row in told.values()} == {"finished", "stopped"}
    assert told["deeper/c"]["state"] == "stopped"
    assert [*found(listed, "deeper", "deeper/b")[0]] == ["deeper/b", "deeper/c"]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["guide=fullrank"], ["deeper/b"]),
        (["guide=MeanField()", "seed=0"], ["a"]),
        (["latent-dim=3.0"], ["a", "deeper/c"]),
        (["state=stopped"], ["deeper/c"]),
        (["data=digits", "name=b"], ["deeper/b"]),
        (["network=mlp(hidden=(16,))"], ["a", "deeper/b", "deeper/c"]),
        (["patience=none"], ["a", "deeper/b", "deeper/c"]),
        (["seed=6"], []),
    ],
)
def test_runs_are_chosen_by_their_options(runs, listed, conditions, names):
    where = [word for text in conditions for word in ("--where", text)]
    assert [*found(listed, *where)[0]] == names


def test_runs_are_sorted(runs, listed):
    numbers = {"a": -3.0, "deeper/b": -1.0}
    for name, mean in numbers.items():
        told = {"log_marginal": {"mean": mean, "data_standard_error": 0.1}}
        path = runs / name / "evaluation.json"
        path.write_text(json.dumps({**told, "data": 9, "data_in_split": 9}))
    # Of c there is the ELBO alone, which is far below.
    assert [*found(listed)[0]] == ["deeper/b", "a", "deeper/c"]
    assert [*found(listed, "--sort", "log_p")[0]] == ["deeper/b", "a", "deeper/c"]
    assert [*found(listed, "--sort", "name")[0]] == ["a", "deeper/b", "deeper/c"]
    assert [*found(listed, "--sort", "state")[0]][-1] == "deeper/c"
    lines = list(csv.DictReader(io.StringIO(listed("--csv")[1])))
    assert [line["folder"] for line in lines] == ["deeper/b", "a", "deeper/c"]
    assert [line["log_p"] for line in lines] == ["-1.0", "-3.0", ""]


def test_a_run_in_progress(runs, listed):
    with locked(runs / "a"):
        assert found(listed)[0]["a"]["state"] == "running"
        code = (
            "from pathlib import Path; from pyro_vae.foundation.files import holder;"
            "print(holder(Path('a')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("process ")
    assert holder(runs / "a") is None
    (runs / "a" / ".lock").write_text("process 1 on nowhere")  # left behind by a kill
    assert found(listed)[0]["a"]["state"] == "finished"
    (runs / "new").mkdir()
    with locked(runs / "new"):
        mentions(found(listed)[1]["new"], "begins a run")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _without_state(path):
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["pyro_vae"])
    del header["progress"]
    save_file(load_file(path), path, {"pyro_vae": json.dumps(header)})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.unlink(), "does not exist"),
        (lambda p: p.write_bytes(b""), "not a checkpoint"),
        (lambda p: p.write_bytes(b"\xff" * 50), "it is damaged"),
        (_cut, "cut off"),
        (lambda p: save_file({}, p), "__metadata__"),
        (_without_state, "progress"),
    ],
)
def test_damaged_checkpoints_are_named(runs, listed, spoil, said):
    spoil(runs / "a" / "last.safetensors")
    row = found(listed)[0]["a"]
    assert (row["state"], row["done"], row["elbo"]) == ("broken", None, None)
    mentions(row["notes"][0], "a/last.safetensors", said)
    code, out, err = listed()
    assert (code, err) == (0, "")
    mentions(out, "note: a: ", said)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"log_marginal": 3}', "nan", "\0"])
def test_damaged_evaluations_are_named(runs, listed, text):
    (runs / "a" / "evaluation.json").write_text(text)
    row = found(listed)[0]["a"]
    assert (row["state"], row["log_p"]) == ("finished", None)
    mentions(row["notes"][0], "a/evaluation.json")


def test_folders_that_are_no_runs_are_named(runs, listed):
    for name in ("other", "broken", "weights", ".hidden"):
        (runs / name).mkdir()
    (runs / "other" / "config.toml").write_text("x = 1")
    (runs / "broken" / "config.toml").write_text("x = ")
    (runs / ".hidden" / "config.toml").write_text("x = 1")
    save_file({}, runs / "weights" / "best.safetensors")
    told, others = found(listed)
    assert len(told) == 3
    assert set(others) == {"other", "broken", "weights"}
    mentions(others["other"], "none that training writes")
    mentions(others["broken"], "not valid TOML")
    mentions(others["weights"], "no config.toml")
    out = listed()[1]
    for name in others:
        mentions(out, f"note: {name} is no run: ")


def test_odd_values_in_a_description(runs, listed):
    changed(runs / "a", epochs='"many"', dataset="[1]", structure="{}", seed="nan")
    code, out, err = listed()
    assert (code, err) == (0, "")
    mentions(out, "2/?")


def test_nothing_is_found(tmp_path, listed):
    assert listed() == (0, "no runs below .\n", "")
    assert found(listed) == ({}, {})
    assert listed("--csv")[1].count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["file"], "file is no folder"),
        (["--where", "gide=iaf"], "did you mean guide?"),
        (["--where", "guide"], "KEY=VALUE"),
        (["--where", "=3"], "KEY=VALUE"),
        (["--sort", "size"], "invalid choice"),
        (["--json", "--csv"], "not allowed with"),
    ],
)
def test_wrong_words_are_one_sentence(tmp_path, listed, arguments, said):
    (tmp_path / "file").write_text("")
    code, out, err = listed(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    mentions(err, said)


def test_runs_are_listed_without_torch(runs):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pyro_vae", "runs", "--csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.count("\n") == 4
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy"}
