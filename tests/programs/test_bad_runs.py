"""Runs that are damaged, missing or asked for the impossible: one sentence, exit code 2, nothing lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from reading import mentions

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)
GAUSSIAN = ("--likelihood", "gaussian")
rng = np.random.default_rng(0)
REAL = rng.normal(size=(30, 4))


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("output", ["file", "file/run"])
def test_output_that_cannot_be_made(refused, tmp_path, output):
    (tmp_path / "file").write_text("mine")
    mentions(refused("train", *TINY, "--output", output), "file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--output", "run"],
            ["run holds a run already", "--resume run", "--overwrite"],
        ),
        (["--resume", "run", "--epochs", 1], ["--epochs"]),
        (["--resume", "run", "--latent-dim", 4], ["--latent-dim cannot change"]),
        (["--resume", "run", "--config", "run/config.toml"], ["--config"]),
        (["--resume", "."], ["config.toml"]),
        (["--resume", "run/metrics.csv"], ["run/metrics.csv"]),
        (["--config", "run/config.toml", "--output", "run"], ["holds a run already"]),
        (["--config", "run"], ["run"]),
    ],
)
def test_training_over_a_run(refused, run, options, words):
    mentions(refused("train", *options), *words)


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        ("evaluate", [], ["RUN"]),
        ("evaluate", ["none"], ["none does not exist", "pyro_vae.train"]),
        ("evaluate", ["."], ["holds no run"]),
        ("evaluate", ["run", "--num-particles", 0], ["--num-particles", "at least 1"]),
        ("evaluate", ["run", "--num-particles", 10**15], ["memory", "MiB"]),
        ("evaluate", ["run", "--limit", 0], ["--limit"]),
        ("evaluate", ["run", "--split", "tests"], ["tests", "validation"]),
        ("evaluate", ["run", "--seed", -1], ["--seed", "'-1'"]),
        ("evaluate", ["run", "--numparticles", 3], ["did you mean --num-particles?"]),
        ("evaluate", ["run", "--netcdf", "none/x.nc"], ["folder none does not exist"]),
        ("sample", ["none"], ["none does not exist"]),
        (
            "sample",
            ["run", "--kind", "manifold"],
            ["manifold", "latent dimension of 2", "3"],
        ),
        ("sample", ["run", "--kind", "prior", "--kind", "manifold"], ["manifold"]),
        ("sample", ["run", "--kind", "priors"], ["priors", "prior"]),
        ("sample", ["run", "--count", 0], ["--count"]),
        ("sample", ["run", "--seed", 2**64], ["--seed"]),
        ("sample", ["run", "--output", "run/metrics.csv"], ["run/metrics.csv"]),
    ],
)
def test_reading_a_run(refused, run, program, arguments, words):
    mentions(refused(program, *arguments), *words)


def test_split_that_a_run_does_not_have(refused, call):
    assert call("train", *TINY, "--validation-fraction", 0, "--output", "run").code == 0
    mentions(
        refused("evaluate", "run", "--split", "validation"),
        "no validation data",
        "--split",
    )


def checkpoint(header):
    return lambda good: save(
        {"model.a": torch.zeros(3)}, metadata={"pyro_vae": json.dumps(header)}
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:1000],
        lambda good: good[:-100],
        lambda good: b"hello" * 100,
        lambda good: save({"a": torch.zeros(3)}),
        lambda good: save({"a": torch.zeros(3)}, metadata={"pyro_vae": "{"}),
        checkpoint([]),
        checkpoint({"format": 99}),
        checkpoint({"format": 1}),
        checkpoint({"format": 1, "spec": {"shape": [8, 8]}, "progress": {}}),
    ],
    ids=[
        "empty",
        "header cut",
        "end cut",
        "text",
        "foreign",
        "no JSON",
        "a list",
        "format",
        "no spec",
        "no weights",
    ],
)
@pytest.mark.parametrize("program", ["train", "evaluate", "sample"])
def test_damaged_checkpoint(refused, run, program, damage):
    path = run / "last.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    options = (
        ("--resume", "run", "--epochs", 3)
        if program == "train"
        else ("run", "--checkpoint", "last")
    )
    mentions(refused(program, *options), "run/last.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('bridge = "dynamic"', 'bridge = "dynamite"', "bridge"),
        ("[resolved]", "[unresolved]", "does not describe a run"),
        ('dataset = "digits"', 'dataset = "digit"', "digit"),
    ],
)
def test_damaged_description(refused, run, old, new, word):
    path = run / "config.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    mentions(refused("evaluate", "run", "--limit", 2, "--num-particles", 3), word)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["pyro_vae.train", "--guide", "meanfeild"], "did you mean meanfield?"),
        (["pyro_vae.evaluate", "none"], "none does not exist"),
        (["pyro_vae.sample", "none", "--kind", "prior"], "none does not exist"),
    ],
)
def test_as_a_process(start, tmp_path, command, word):
    process = start(tmp_path, *command)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert len(err.splitlines()) == 1
    mentions(err, command[0], word)
