"""Autoencoders and corrupted data from the command line."""

import json
import re

import numpy as np
import pytest

from conftest import SMALL
from reading import toml

AUTOENCODER = ("--guide", "delta", "--objective", "autoencoder", *SMALL)


def test_an_autoencoder_is_asked_for_its_reconstruction(
    call, train, tmp_path, blank_figures
):
    run = train(
        "ae", *AUTOENCODER, "--corrupt", "noise(0.4)", "--stacked", 1, "--epochs", 2
    )
    assert toml(run)["corrupt"] == "Noise(scale=0.4)"
    said = call("evaluate", run, "--csv", tmp_path / "each.csv")
    assert (said.code, said.err) == (0, "")
    assert "there is no log p(x)" in said.out
    assert "ELBO" not in said.out
    found = json.loads((run / "evaluation.json").read_text())
    assert "log_marginal" not in found
    columns = np.load(run / "evaluation.npz")
    squares = columns["reconstructionerror_squared_error"]
    error = found["reconstructionerror"]["squared error"]
    assert error["mean"] == pytest.approx(squares.mean())
    assert error["data_standard_error"] == pytest.approx(
        squares.std(ddof=1) / len(squares) ** 0.5
    )
    element = found["reconstructionerror"]["squared error of an element"]
    assert element["mean"] == pytest.approx(squares.mean() / 64)
    vae = train("vae", *SMALL, "--epochs", 1)
    assert call("evaluate", vae, "--num-particles", 5).code == 0
    said = call("compare", vae, run)
    assert said.code == 2
    assert "two kinds of number" in said.err
    for option in ("--report", "--refine=3", f"--netcdf={tmp_path / 'a.nc'}"):
        said = call("evaluate", run, option)
        assert said.code == 2
        assert "point" in said.err
    said = call("sample", run, "--kind", "denoise")
    assert (said.code, said.err) == (0, "")
    assert len(re.findall("squared error of an element", said.out)) == 2
    clean, corrupted, denoised = np.load(run / "samples" / "denoise.npy")
    assert clean.shape == corrupted.shape == denoised.shape
    assert np.abs(corrupted - clean).std() > 0.1
    said = call("sample", vae, "--kind", "denoise")
    assert said.code == 2
    assert "add --corrupt" in said.err


def test_a_run_on_corrupted_data_goes_on_as_if_it_had_never_stopped(
    call, train, blank_figures
):
    options = (*SMALL, "--corrupt", "salt(0.2)", "--stacked", 1)
    whole = train("whole", *options, "--epochs", 2)
    parts = train("parts", *options, "--epochs", 1)
    assert call("train", "--resume", parts, "--epochs", 2).code == 0
    one, other = ((run / "last.safetensors").read_bytes() for run in (whole, parts))
    from safetensors.numpy import load

    a, b = load(one), load(other)
    assert a.keys() == b.keys()
    for name in a:
        if name.startswith(("model", "guide")):
            assert np.array_equal(a[name], b[name]), name
