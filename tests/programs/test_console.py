"""`pyro-vae COMMAND` and `python -m pyro_vae COMMAND`: the programs under one name."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae._cli.console import PROGRAMS
from pyro_vae._config import PRECISIONS
from reading import TINY, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

ROOT = Path(pyro_vae.__file__).parents[1]
SCRIPT = "from pyro_vae._cli.console import main; main()"


def said(*command, script=False):
    start = ["-c", SCRIPT] if script else ["-m", "pyro_vae"]
    done = subprocess.run(
        [sys.executable, *start, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_of_the_package_is_this_program():
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("an installed package")
    with (ROOT / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    module, _, name = scripts.pop("pyro-vae").partition(":")
    assert callable(getattr(import_module(module), name))
    assert not scripts


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_commands_are_listed_with_a_line_each(words):
    code, out, err = said(*words, script=True)
    assert (code, err) == (0, "")
    assert out.startswith("usage: pyro-vae COMMAND")
    lines = out.partition("commands:\n")[2].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [*PROGRAMS]


def test_each_module_with_a_main_is_a_command():
    modules = {
        path.stem
        for path in (ROOT / "pyro_vae").glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert modules - {"__main__"} <= set(PROGRAMS)


@pytest.mark.parametrize(
    ("word", "near"), [("trian", "train"), ("Evaluate", "evaluate"), ("xyz", "")]
)
def test_an_unknown_command_is_one_sentence(word, near):
    code, out, err = said(word, script=True)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"pyro-vae: '{word}' is no command: ")
    assert err.rstrip().endswith(
        f"did you mean {near}?" if near else ", ".join(PROGRAMS)
    )


def test_an_unknown_option_before_the_command():
    code, out, err = said("--verson")
    assert (code, out) == (2, "")
    assert err.startswith("pyro_vae: ")
    mentions(err, "--verson", "--version")


@pytest.mark.parametrize("program", PROGRAMS)
def test_usage_says_how_it_was_called(program):
    """And what it answers without torch it answers at once."""
    code = (
        "import sys\n"
        f"sys.argv = ['', {program!r}, '--help']\n"
        "from pyro_vae._cli.console import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'pyro', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: pyro-vae {program} ")


def test_mistakes_are_those_of_the_program(call):
    for words in (["train", "--guide", "fulrank"], ["compare", "a", "b"]):
        code, out, err = said(*words, script=True)
        program, *rest = words
        plain = call(program, *rest)
        assert (code, out) == (plain.code, plain.out) == (2, "")
        assert err == plain.err.replace(f"pyro_vae.{program}", f"pyro-vae {program}")


def test_a_command_does_what_the_program_does(call):
    options = ["--dry-run", "--latent-dim", 3, "--guide", "fullrank"]
    assert said("train", *options) == call("train", *options)


def test_versions_are_told_at_once(call):
    line = (
        f"pyro-vae {pyro_vae.__version__}, torch {version('torch')}, "
        f"pyro-ppl {version('pyro-ppl')}\n"
    )
    assert said("--version") == (0, line, "")
    for program in ("train", "compare"):
        assert said(program, "--version") == (0, line, "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_a_command_as_it_ends_the_program():
    words = ["train", "--epochs", "100000", *map(str, TINY), "--output", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not process.stdout.readline().startswith("epoch 1/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "pyro-vae train: interrupted\n")
    mentions(out, "stopped and saved")


@pytest.mark.skipif(os.name != "posix", reason="needs bash")
def test_help_whose_reader_has_gone():
    line = f"{sys.executable} -m pyro_vae train --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) in [(141, ""), (0, "")]


@pytest.fixture(scope="module")
def completed():
    """What bash offers for the last of some words."""
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    code, script, err = said("completion", "bash", script=True)
    assert (code, err) == (0, "")

    def complete(*words):
        function = "_shtab_pyro_vae"
        lines = [
            script,
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))})",
            f"COMP_CWORD={len(words) - 1}",
            f'{function} 2>/dev/null; printf "%s\\n" "${{COMPREPLY[@]}}"',
        ]
        done = subprocess.run(
            ["bash"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    return complete


def test_a_shell_completes_commands_options_and_members(completed):
    assert set(completed("pyro-vae", "")) >= set(PROGRAMS)
    assert completed("pyro-vae", "evaluate", "--num-p") == ["--num-particles"]
    assert set(completed("pyro-vae", "train", "--precision", "")) == set(PRECISIONS)
    assert completed("pyro-vae", "train", "--guide", "fu") == ["fullrank"]
    assert "bracket" in completed("pyro-vae", "evaluate", "run", "--ask", "b")


def test_completion_of_an_unknown_shell():
    code, out, err = said("completion", "fish")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    mentions(err, "fish", "bash", "zsh")
