"""What comes from outside runs no code, writes nowhere else, and ends in a sentence, whatever is in it."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pyro_vae import InputError, MeanField, load
from pyro_vae._cli.options import _sentences
from pyro_vae._evaluations import named
from pyro_vae.checkpoint import load_weights
from pyro_vae.foundation.commands import trust
from pyro_vae.foundation.reading import read_json, read_toml, user_path
from pyro_vae.foundation.terminal import printable
from pyro_vae.foundation.trust import AXES, trusting
from pyro_vae.runs import on_run
from pyro_vae.spec import parse
from reading import contents, mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

QUICK = ("--limit", 4, "--num-particles", 3)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def rewrite(path, change):
    """Change the tensors and the header of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pyro_vae"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header = change(header, tensors) or header
    save_file(tensors, path, metadata={"pyro_vae": json.dumps(header)})


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\n"
        "from pyro_vae import MeanField\nclass Mine(MeanField):\n    '''Mine.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return "mine:Mine"


def name_it(run, guide):
    for which in ("best", "last"):
        rewrite(
            run / f"{which}.safetensors", lambda h, t: h["spec"].update(guide=guide)
        )
    config = run / "config.toml"
    config.write_text(
        config.read_text().replace('guide = "MeanField()"', f'guide = "{guide}"')
    )
    assert guide in config.read_text()


@pytest.mark.parametrize("program", ["evaluate", "sample", "encode"])
def test_a_module_that_a_run_names_is_not_imported(refused, run, mine, program):
    name_it(run, f"{mine}()")
    mentions(
        refused(program, "run", "--data-dir", "."),
        "guide mine:Mine",
        "--trust",
        "trust=True",
    )
    assert not Path("imported").exists()
    assert "mine" not in sys.modules


def test_training_imports_what_this_call_names(refused, call, run, mine):
    name_it(run, f"{mine}()")
    mentions(refused("train", "--resume", "run", "--epochs", 3), "mine:Mine", "--trust")
    mentions(
        refused("train", "--config", "run/config.toml", "--output", "new"), "--trust"
    )
    assert not Path("imported").exists()
    assert call("train", "--resume", "run", "--epochs", 3, "--trust").code == 0
    assert Path("imported").exists()
    tiny = ("--network", "mlp(hidden=4)", "--latent-dim", 2, "--epochs", 1)
    said = call("train", *tiny, "--guide", mine, "--output", "a; b")
    assert said.code == 0
    assert "next: python -m pyro_vae.evaluate 'a; b' --trust" in said.out
    evaluated = call("evaluate", "a; b", *QUICK, "--trust", "--checkpoint", "last")
    assert evaluated.code == 0
    command = evaluated.out.rpartition("next: ")[2].strip()
    assert command == "python -m pyro_vae.sample 'a; b' --checkpoint=last --trust"
    _, _, program, *rest = shlex.split(command)
    assert call(program.partition(".")[2], *rest, "--count", 4).code == 0


def test_every_printed_command_has_what_the_run_needs(run, mine, tmp_path):
    name_it(run, f"{mine}()")
    where = tmp_path / "a b"
    run.rename(where)
    assert (
        on_run("sample", where, place="a b")
        == "python -m pyro_vae.sample 'a b' --trust"
    )
    with pytest.raises(
        InputError, match=r"run python -m pyro_vae.evaluate 'a b' --trust$"
    ):
        named("a b", "test")
    assert trust({"objective": "pyro.infer:Trace_ELBO()"}, AXES) == []
    assert trust({"objective": "annealed(objective='other:X')"}, AXES) == ["--trust"]
    assert trust({"objective": "other:X()"}) == []  # the weights alone need none


def test_load_in_code(run, mine):
    name_it(run, f"{mine}()")
    with pytest.raises(InputError, match="trust=True"):
        load(run)
    assert not Path("imported").exists()
    assert isinstance(load(run, trust=True).guide, MeanField)
    assert parse("guide", mine).name == mine  # in code of one's own


@pytest.mark.parametrize(
    "text", ["..:X", ".a:X", "a b:X", "1:X", "os.path/:X", ":X", "a..b:X"]
)
def test_relative_and_odd_modules(text):
    with pytest.raises(InputError, match="must name its module in full"):
        parse("prior", text)


def test_objectives_of_pyro_need_no_trust():
    with trusting(()):
        assert parse("objective", "pyro.infer:Trace_ELBO(num_particles=2)")
        assert parse("objective", "pyro_vae.inference.objectives:ELBO(beta=2)")
        with pytest.raises(InputError, match="--trust"):
            parse("objective", "pyro.contrib.easyguide:X")
        with pytest.raises(InputError, match="--trust"):
            parse("objective", "annealed(objective='antigravity:X')")
    assert "antigravity" not in sys.modules


def test_a_module_that_fails_ends_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError, match=r"broken_module:X cannot be imported .division"
    ):
        parse("guide", "broken_module:X")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("evaluate", ["run", "--netcdf", "run/best.safetensors"]),
        ("evaluate", ["run", "--netcdf", "run/config.toml"]),
        ("evaluate", ["run", "--netcdf", "link/metrics.csv"]),
        ("compare", ["run", "other", "--json", "run/best.safetensors"]),
        ("compare", ["run", "other", "--table", "run/metrics.csv"]),
        ("compare", ["run", "other", "--json", "other/config.toml"]),
        ("encode", ["run", "--output", "run/best.safetensors"]),
        ("sample", ["run", "--output", "run"]),
        ("sample", ["run", "--output", "other/figures"]),
        ("sample", ["run", "--output", "other"]),
    ],
)
def test_no_output_is_written_over_a_run(refused, run, program, arguments):
    shutil.copytree(run, "other")
    Path("link").symlink_to("run")
    option = next(a for a in arguments if a.startswith("--"))
    mentions(refused(program, *arguments), option)


def test_a_link_inside_a_run_is_not_written_through(call, run, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "bound_curve.png").write_text("mine")
    shutil.rmtree(run / "figures")
    (run / "figures").symlink_to(tmp_path / "precious")
    (run / "evaluation.json").symlink_to(tmp_path / "precious" / "mine.json")
    assert call("evaluate", "run", *QUICK).code in (0, 2)
    assert contents(tmp_path / "precious") == {
        tmp_path / "precious" / "bound_curve.png": b"mine"
    }


def test_a_file_starts_no_sixty_processes(run):
    from pyro_vae.trained import open_run

    config = run / "config.toml"
    config.write_text(config.read_text().replace("workers = 2", "workers = 60"))
    assert "workers = 60" in config.read_text()
    assert open_run("run").request["workers"] == 2


# What a checkpoint says of itself.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, t: h.pop("epoch"), ["damaged", "epoch=None"]),
        (lambda h, t: h.update(epoch="many"), ["damaged", "epoch='many'"]),
        (lambda h, t: h.update(epoch=-1), ["damaged", "epoch=-1"]),
        (lambda h, t: h.update(best="high"), ["damaged", "best='high'"]),
        (lambda h, t: h.update(spec=5), ["damaged", "spec=5"]),
        (lambda h, t: h.update(format=[1]), ["format"]),
        (lambda h, t: h["spec"].update(prior=5), ["prior=5", "a text"]),
        (lambda h, t: h["spec"].update(prior=None), ["prior=None"]),
        (lambda h, t: h["spec"].update(guide="..:X"), ["in full"]),
        (lambda h, t: h["spec"].update(guide="(" * 10**5), ["guide"]),
        (lambda h, t: h["spec"].update(shape=[10**6, 10**6]), ["memory"]),
        (lambda h, t: h["spec"].update(shape=[10**30]), ["memory"]),
        (lambda h, t: h["spec"].update(shape="ab"), ["shape='ab'"]),
        (lambda h, t: h["spec"].update(shape=[8, 8.5]), ["shape="]),
        (lambda h, t: h["spec"].update(shape=[[8], 8]), ["shape="]),
        (lambda h, t: h["spec"].update(shape=None), ["shape=None"]),
        (lambda h, t: h["spec"].update(latent_dim=10**9), ["latent_dim|memory"]),
        (lambda h, t: h["spec"].update(latent_dim=True), ["latent_dim=True"]),
        (lambda h, t: h["spec"].update(colour="red"), ["colour"]),
        (lambda h, t: h["spec"].update(network="mlp(hidden=(10**9,))"), ["network"]),
        (lambda h, t: h["spec"].update(network="mlp(hidden=(100000000,))"), ["memory"]),
        (
            lambda h, t: h["spec"].update(prior="flow(transforms=1000)"),
            ["memory|tensors"],
        ),
        (lambda h, t: h["spec"].update(likelihood="poisson(rate=3)"), ["rate"]),
        (
            lambda h, t: t.update({k: v[:1] for k, v in t.items() if v.dim() == 2}),
            ["fit"],
        ),
        (
            lambda h, t: [
                v.fill_(torch.nan) for v in t.values() if v.is_floating_point()
            ],
            ["finite"],
        ),
        (
            lambda h, t: [v.fill_(torch.inf) for k, v in t.items() if "head" in k],
            ["finite"],
        ),
        (lambda h, t: [t.pop(k) for k in list(t)[:3]], ["fit"]),
    ],
)
def test_headers_and_weights(refused, run, change, words):
    rewrite(run / "best.safetensors", lambda h, t: change(h, t) and None)
    sentence = refused("evaluate", "run", *QUICK)
    assert "run/best.safetensors" in sentence
    assert len(sentence) < 500
    for word in words:
        assert any(w in sentence for w in word.split("|")), sentence
    with pytest.raises(InputError):
        load("run")


def mutations(seed, text):
    """A text with a few of its bytes changed, and its values replaced by others."""
    chance = random.Random(seed)
    data = bytearray(text.encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 8)] = bytes(
            chance.randrange(256) for _ in range(chance.randint(0, 4))
        )
    return bytes(data)


VALUES = [
    0,
    -1,
    10**30,
    1e308,
    None,
    True,
    "",
    "x",
    "..",
    [],
    [[]],
    {},
    {"a": 1},
    [10**6] * 4,
    "a\nb",
    "\udce9",
]


def changed(seed, values):
    """A nested table with one of its values replaced."""
    chance = random.Random(seed)
    values = json.loads(json.dumps(values))
    at = values
    while True:
        key = chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.7:
            at = at[key]
            continue
        at[key] = chance.choice(VALUES)
        return values


def few_and_many(few, many):
    return [
        *range(few),
        *(pytest.param(i, marks=pytest.mark.slow) for i in range(few, many)),
    ]


def ends_well(call, *arguments):
    """The program does its work, or says in one line why not."""
    said = call(*arguments)
    assert said.code in (0, 2)
    if said.code == 2:
        assert len(said.err.splitlines()) == 1
        assert len(said.err) < 600, said.err


@pytest.mark.parametrize("seed", few_and_many(12, 100))
def test_mutated_headers(call, run, seed):
    for which in ("best", "last"):
        rewrite(run / f"{which}.safetensors", lambda h, t: changed(seed, h))
    ends_well(call, "evaluate", "run", *QUICK)
    ends_well(call, "train", "--resume", "run", "--epochs", 3, "--dry-run")


@pytest.mark.parametrize("seed", few_and_many(12, 100))
def test_mutated_configurations(call, run, seed):
    config = run / "config.toml"
    config.write_bytes(mutations(seed, config.read_text()))
    ends_well(call, "evaluate", "run", *QUICK)
    ends_well(call, "train", "--config", "run/config.toml", "--dry-run")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"x = " + b"[" * 10**5,
        b"a" * 10**6,
        b"latent_dim = " + b"9" * 5000,
        b"latent_dim = 1_000_000_000_000_000_000_000",
        b"epochs = 100000000000000000000",
        b"batch_size = 99999999999999999999",
        b"learning_rate = 1e999",
        b"learning_rate = nan",
        b"workers = -1",
        b"workers = 100000",
        b"seed = -5",
        b"guide = ['meanfield']",
        b"prior = {a = 1}",
        b"dataset = 2020-01-01",
        b"dataset = 'a\\nb'",
        b'dataset = "a\\u0000b"',
        b"network = '" + b"(" * 10**5 + b"'",
        b"validation_fraction = 1e308",
        b"trust = true",
        b"resolved = 3",
        b"[resolved]\nx = 1\n[dataset]\ny = 2",
    ],
    ids=range(22),
)
def test_configurations(refused, tmp_path, content):
    Path("c.toml").write_bytes(content)
    sentence = refused("train", "--config", "c.toml", "--output", "new")
    assert len(sentence) < 600


def test_what_is_no_file(refused, run, tmp_path):
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for name, word in (
        ("pipe", "a pipe or device"),
        ("folder", "a folder"),
        ("none", "not exist"),
    ):
        mentions(refused("train", "--config", name), name, word)
        with pytest.raises(InputError, match=word):
            read_json(Path(name))
    (run / "config.toml").unlink()
    os.mkfifo(run / "config.toml")
    mentions(refused("evaluate", "run", *QUICK), "config.toml")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        b"\xff\xfe\x00\x01",
        b"epoch,elbo\n1,2\n",
        b"epoch,elbo\n1,two\n",
        b"a" * 200_000,
        b"epoch\n" + b"1\n" * 3,
    ],
)
def test_junk_in_the_table_of_epochs(call, run, content):
    (run / "metrics.csv").write_bytes(content)
    before = (run / "last.safetensors").read_bytes()
    said = call("train", "--resume", "run", "--epochs", 3)
    assert said.code in (0, 2)
    if said.code == 2:
        mentions(said.err, "run/metrics.csv")
        assert len(said.err.splitlines()) == 1
        assert (run / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"[" * 10**5, b"\xff\xfe", b"{}", b'{"split": 3}', b"9" * 5000],
)
def test_junk_in_an_evaluation(refused, call, run, content):
    assert call("evaluate", "run", "--num-particles", 3).code == 0
    shutil.copytree("run", "other")
    Path("other/evaluation.json").write_bytes(content)
    mentions(
        refused("compare", "run", "other"), "other/evaluation.json", "run python -m"
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"train": np.zeros((4, 784))},
        {
            "train": np.zeros((4, 7)),
            "valid": np.zeros((4, 7)),
            "test": np.zeros((4, 7)),
        },
        {"train": np.array("x"), "valid": np.array(1), "test": np.array(2)},
    ],
)
def test_a_damaged_named_set(refused, arrays):
    folder = Path("sets/binarized_mnist")
    folder.mkdir(parents=True)
    np.savez(folder / "binarized_mnist.npz", **arrays)
    mentions(
        refused("train", "--dataset", "binarized-mnist", "--data-dir", "sets"),
        "binarized_mnist.npz",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        b"\0\0\x08\x03" + b"\xff" * 12,
        b"\x1f\x8b\x08junk",
        b"\0\0\x08\xff",
    ],
)
def test_damaged_idx_files(refused, content):
    folder = Path("sets/MNIST/raw")
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            (folder / f"{part}-{kind}.gz").write_bytes(content)
    mentions(refused("train", "--dataset", "mnist", "--data-dir", "sets"), "ubyte.gz")


# Options.


@pytest.mark.parametrize(
    ("program", "option", "value"),
    [
        ("train", "--batch-size", 10**20),
        ("train", "--epochs", 10**20),
        ("train", "--latent-dim", 10**20),
        ("train", "--latent-dim", 10**10),
        ("train", "--learning-rate", "1e308"),
        ("train", "--workers", 10**20),
        ("train", "--workers", -3),
        ("train", "--seed", 10**20),
        ("train", "--batch-size", "9" * 5000),
        ("train", "--prior", "..:X"),
        ("train", "--prior", "flow(transforms=100000000000000000000)"),
        ("train", "--prior", "(" * 10**5),
        ("train", "--prior", "a" * 10**6),
        ("train", "--guide", "meanfield(" + "-" * 5000 + "1)"),
        ("train", "--network", "mlp(hidden=(" + "1," * 3000 + "))"),
        ("train", "--network", "mlp(dropout=1e400)"),
        ("train", "--optimizer", "adam(betas=(0.9,))"),
        ("train", "--optimizer", "sgd(nesterov=True)"),
        ("train", "--schedule", "step(factors=(-1,))"),
        ("train", "--schedule", "step(at=(0.9,0.5))"),
        ("train", "--objective", "iwae(num_particles=100000000000000000000)"),
        ("train", "--dataset", "~nosuchuser/x.npy"),
        ("train", "--dataset", "~nosuchuser"),
        ("evaluate", "--num-particles", 10**20),
        ("evaluate", "--limit", 10**20),
        ("evaluate", "--memory", 10**20),
        ("evaluate", "--num-particles", "9" * 5000),
        ("evaluate", "--netcdf", "~nosuchuser/x.nc"),
        ("sample", "--count", 10**20),
        ("encode", "--num-draws", 10**20),
    ],
)
def test_options_out_of_all_bounds(refused, run, program, option, value):
    first = [] if program == "train" else ["run"]
    sentence = refused(program, *first, f"{option}={value}")
    assert len(sentence) < 700, sentence
    assert "Error" not in sentence


def test_only_a_lack_of_memory_is_called_one(capsys):
    lacks = [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ]
    lacks += [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")]
    for error in lacks:
        with pytest.raises(SystemExit, match="2"), _sentences("pyro_vae.train"):
            raise error
        assert "not enough memory" in capsys.readouterr().err
    for error in (
        RuntimeError("shapes do not match"),
        NotImplementedError("x"),
        RecursionError(),
    ):
        with pytest.raises(type(error)), _sentences("pyro_vae.train"):
            raise error


# Rude surroundings.


def started(*command, **environment):
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("HOME", "LANG", "LC_ALL", "PYTHONUTF8")
    }
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**kept, **environment},
        capture_output=True,
        check=False,
        timeout=120,
    )


ASCII = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
}


@pytest.mark.parametrize(
    "program",
    ["train", "evaluate", "sample", "compare", "encode", "explore", "impute"],
)
def test_help_in_ascii_without_home_and_columns(program):
    done = started(f"pyro_vae.{program}", "--help", **ASCII, COLUMNS="0", TERM="")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


@pytest.mark.slow
def test_the_programs_in_ascii_without_home(run):
    for name in ("XDG_CACHE_HOME",):
        os.environ.pop(name, None)
    shutil.copytree(run, "other")
    commands = [
        ("train", "--epochs", "1", "--latent-dim", "2", "--network", "mlp(hidden=4)"),
        ("evaluate", "run", *QUICK),
        ("evaluate", "other", *QUICK),
        ("compare", "run", "other"),
        ("encode", "run"),
        ("sample", "run"),
    ]
    for program, *arguments in commands:
        done = started(f"pyro_vae.{program}", *arguments, **ASCII)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        assert done.stdout.isascii()
        assert b"\\x" not in done.stdout


def test_odd_names_are_shown_escaped(refused):
    for name in ("a\nb.npy", "\udce9.npy", "a\tb\x1b[31m.npy"):
        sentence = refused("train", "--dataset", name)
        assert printable(name) in sentence
        assert "\x1b" not in sentence


def test_a_home_that_is_not_there(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x")
    assert user_path("a/b") == Path("a/b")
    with pytest.raises(InputError, match="does not exist"):
        read_toml(Path("none"))
    assert load_weights


@pytest.mark.parametrize(
    "value", ["a" * 5000, "1" * 5000, "meanfield(" + "-" * 5000 + "1)"]
)
@pytest.mark.parametrize(
    "program",
    ["train", "evaluate", "sample", "encode", "explore", "compare", "impute"],
)
def test_long_values_are_shortened_in_sentences(call, run, program, value):
    """Every option that takes a value, whatever it is."""
    first = ["--dry-run"] if program == "train" else ["run"]
    _, usage, _ = call(program, "--help")
    options = re.findall(r"^  (--[\w-]+) [^-\s]", usage, re.MULTILINE)
    assert options
    for option in options:
        code, _, err = call(program, *first, f"{option}={value}")
        assert code in (0, 2), (option, err)
        assert len(err) < 900, (option, err)
        assert "Traceback" not in err, (option, err)
