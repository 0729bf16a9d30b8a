"""Runs of several layers of latents: every program and picture, and the sentences of what they cannot do."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

SMALL = ("--network", "mlp(hidden=(16,))", "--likelihood", "bernoulli")
LADDER = ("--structure", "ladder", "--dims", "6,4", *SMALL)
PARTS = ("--guide", "meanfield, z2=fullrank", "--prior", "laplace, z1=conditional")


def test_every_program_reads_a_run_of_layers(call, train, tmp_path):
    run = train("ladder", *LADDER, "--epochs", 4)
    assert 'objective = "Annealed(epochs=1)"' in (run / "config.toml").read_text()
    asked = (
        "latents()",
        "ais(chains=2, temperatures=5)",
        "gaps(steps=5)",
        "adaptive()",
    )
    asks = [word for question in asked for word in ("--ask", question)]
    said = call("evaluate", run, "--limit", 12, "--num-particles", 20, *asks)
    assert (said.code, said.err) == (0, "")
    assert "KL of z2 " in said.out
    assert "active latents by layer: z2 " in said.out
    (written,) = run.glob("evaluation*.json")
    layers = json.loads(written.read_text())["latents"]["layers"]
    assert [layers[site]["latents"] for site in ("z2", "z1")] == [4, 6]
    said = call("sample", run, "--count", 20)
    assert (said.code, said.err) == (0, "")
    assert np.load(run / "samples" / "layers.npy").shape == (2, 2, 8, 8)
    assert np.load(run / "samples" / "traversal.npy").shape == (10, 11, 8, 8)
    said = call("encode", run, "--csv", tmp_path / "codes.csv")
    assert (said.code, said.err) == (0, "")
    header = (tmp_path / "codes.csv").read_text().splitlines()[0].split(",")
    assert [n for n in header if n.startswith("mean")][3:5] == [
        "mean_z2_3",
        "mean_z1_0",
    ]


def test_a_chain_has_parts_of_its_own_for_each_layer(call, train):
    """Under a condition, and with skips."""
    more = ("--condition", "label")
    chain = ("--structure", "chain(skip=True)", "--dims", "6,4")
    run = train("chain", *chain, *SMALL, *PARTS, *more, "--epochs", 2)
    said = call("evaluate", run, "--limit", 12, "--num-particles", 20)
    assert (said.code, said.err) == (0, "")
    said = call("sample", run, "--count", 20, "--given", "label=3")
    assert (said.code, said.err) == (0, "")


def test_a_run_of_layers_goes_on_as_if_it_had_not_stopped(call, train):
    whole = train("whole", *LADDER, "--epochs", 4)
    short = train("short", *LADDER, "--epochs", 2, "--objective", "annealed(epochs=1)")
    said = call("train", "--resume", short, "--epochs", 4)
    assert (said.code, said.err) == (0, "")
    first, second = (load_file(run / "last.safetensors") for run in (whole, short))
    weights = [name for name in first if name.startswith(("model", "guide"))]
    assert weights
    assert all(np.array_equal(first[name], second[name]) for name in weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dims", "20,10"], "are the lengths of layers"),
        (["--structure", "chain", "--dims", "20"], "two layers of latents or more"),
        (["--structure", "chain", "--dims", "a,b"], "whole numbers with commas"),
        (["--structure", "chain", "--dims", "5,0"], "dims=(5, 0) of Chain"),
        (["--structure", "chain", "--latent-dim", 7], "give --dims"),
        (["--structure", "chain", "--objective", "dreg"], "depends on 'z1'"),
        (["--structure", "chain", "--prior", "vampprior"], "VampPrior"),
        (["--structure", "ladder", "--guide", "iaf"], "multiplies Gaussians"),
        (["--structure", "chain", "--labelled", 10], "for a structure with classes"),
    ],
)
def test_what_is_no_run_of_layers(refused, tmp_path, options, words):
    said = refused("train", *options, "--epochs", 1, "--output", tmp_path / "run")
    assert words in said


def test_a_run_of_one_layer_has_no_picture_of_layers(refused, trained):
    assert "the run has one z" in refused("sample", trained, "--kind", "layers")
