"""Results do not depend on who reads what a program prints."""

import errno
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae._cli.options import run as program
from pyro_vae.foundation.endings import Output, lasting_output, reader_gone
from pyro_vae.train import main
from reading import TINY, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")
EVALUATE = "evaluate run --num-particles 5 --limit 20"
FULL = "No space left on device"


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Broken:
    """A standard output that takes so many writes and no more."""

    def __init__(self, error, after=0):
        self.error, self.left = error, after

    def write(self, text):
        if self.left == 0:
            raise self.error
        self.left -= 1

    def flush(self):
        pass


def ended(work, stream, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as end:
            program("pyro_vae.x", work, [])
    return end.value.code


@pytest.mark.parametrize(
    "ending",
    [
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (
            OSError(28, FULL),
            2,
            f"pyro_vae.x: standard output cannot be written to: {FULL}\n",
        ),
    ],
    ids=["no reader", "full"],
)
@pytest.mark.parametrize("after", [0, 3])
def test_work_goes_on_without_a_reader(monkeypatch, capsys, ending, after):
    error, code, said = ending
    done = []

    def work(arguments):
        for i in range(5):
            print(f"line {i}", flush=True)
            done.append(i)

    assert ended(work, Broken(error, after), monkeypatch) == code
    assert done == list(range(5))
    assert capsys.readouterr().err == said


def test_a_mistake_is_told_on_a_full_output_too(monkeypatch, capsys):
    def fail(arguments):
        print("line")
        raise FileNotFoundError(2, "No such file or directory", "x.csv")

    assert ended(fail, Broken(OSError(28, FULL)), monkeypatch) == 2
    assert capsys.readouterr().err == "pyro_vae.x: x.csv: No such file or directory\n"


def test_other_failures_of_printing_are_not_hidden():
    output = Output(
        Broken(UnicodeEncodeError("ascii", "±", 0, 1, "ordinal not in range"))
    )
    with pytest.raises(UnicodeEncodeError):
        output.write("±")


def test_standard_output_comes_back():
    before = sys.stdout
    with lasting_output() as output:
        print("x")
        assert sys.stdout is output
    assert sys.stdout is before


@pytest.fixture
def shell(trained, tmp_path):
    """A line of bash, `pyro_vae` being the start of a command: the exit code of its first command, and both outputs."""
    shutil.copytree(trained, tmp_path / "run")

    def call(line):
        script = f'pyro_vae() {{ {sys.executable} -m pyro_vae."$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"pyro_vae {EVALUATE} | head -1 >/dev/null", 141, ""),
        slow(f"pyro_vae {EVALUATE} | true", 141, ""),
        (f"pyro_vae {EVALUATE} >/dev/full", 2, FULL),
        slow(f"pyro_vae {EVALUATE} >&-", 0, ""),
        slow(f"pyro_vae {EVALUATE} >&- 2>&- <&-", 0, ""),
        slow(f"pyro_vae {EVALUATE} >/dev/full 2>/dev/full", 2, ""),
        slow(
            f"nohup env {sys.executable} -m pyro_vae.{EVALUATE} >/dev/null </dev/null",
            0,
            "",
        ),
    ],
    ids=["head", "true", "full", "no stdout", "nothing at all", "all full", "nohup"],
)
def test_evaluation_is_saved_whoever_reads(shell, line, code, said):
    found, _, err = shell(line)
    assert (found, "Traceback" in err, "Exception" in err) == (code, False, False), err
    assert len(err.splitlines()) == bool(said), err
    mentions(err, said)
    for pattern in (
        "evaluation*.json",
        "evaluation*.npz",
        "figures/**/bound_curve.png",
    ):
        assert next(Path("run").glob(pattern)).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "to", "code"),
    [
        ("sample run", "| true", 141),
        ("encode run", ">/dev/full", 2),
        ("train --epochs 2 --output new", ">&-", 0),
    ],
)
def test_other_programs_without_a_reader(shell, program, to, code):
    found, _, err = shell(f"pyro_vae {program} {to}")
    assert (found, "Traceback" in err, "Exception" in err) == (code, False, False), err
    assert len(err.splitlines()) <= 1


@pytest.mark.parametrize(
    ("to", "code"), [("| true", 141), (">/dev/full", 2), (">&-", 0)]
)
def test_help_without_a_reader(shell, to, code):
    found, _, err = shell(f"pyro_vae train --help {to}")
    assert (found, "Traceback" in err, "Exception" in err) == (code, False, False), err


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs poll")
def test_a_reader_that_goes_is_noticed_without_writing(monkeypatch):
    there, here = os.pipe()
    with os.fdopen(here, "w") as stream, monkeypatch.context() as patch:
        output = Output(stream)
        patch.setattr(sys, "stdout", output)
        assert not reader_gone(look=True)
        os.close(there)
        assert not reader_gone()  # nothing was lost yet
        assert reader_gone(look=True)
        assert reader_gone()
        assert output.error.errno == errno.EPIPE


def test_a_training_whose_reader_goes_stops_and_can_go_on(call, monkeypatch):
    stream = Broken(BrokenPipeError(32, "Broken pipe"), after=5)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as end:
            program(
                "pyro_vae.train",
                main,
                [*map(str, TINY), "--epochs", "50", "--output", "run"],
            )
    assert end.value.code == 141
    assert 0 < len(Path("run/metrics.csv").read_text().splitlines()) < 40
    assert call("train", "--resume", "run", "--epochs", 50).code == 0
