"""A figure that fails costs no numbers and no other figure, and ends the program with one sentence."""

import json
import shutil

import numpy as np
import pytest

from pyro_vae import plots
from reading import mentions

QUICK = ("--limit", 6, "--num-particles", 20)
OPTIONS = (*QUICK, "--posterior", 1, "--posterior-draws", 12)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def failing(*args, **kwargs):
    raise ZeroDivisionError("no room\nfor it")


@pytest.mark.parametrize(
    "name", ["bound_curve", "aggregated_posterior", "posterior_pairs"]
)
def test_an_evaluation_outlives_its_figures(call, run, monkeypatch, name):
    monkeypatch.setattr(plots, name, failing)
    said = call("evaluate", run, *OPTIONS, "--csv", run / "scores.csv", "--report")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    file = {"posterior_pairs": "posterior"}.get(name, name)
    mentions(
        said.err, "is done and written to", f"/{file}.png (ZeroDivisionError: no room)"
    )
    mentions(said.out, "written: ", "next: python -m pyro_vae.sample")
    s = json.loads(next(run.glob("evaluation-*.json")).read_text())
    drawn = {p.name for p in run.glob("figures/evaluation-*/*.png")}
    assert {p.rpartition("/")[2] for p in s["figures"]} == drawn
    assert len(drawn) == 4  # of five
    assert s["posterior"]["rows"]
    assert (run / "scores.csv").is_file()
    assert next(run.glob("report*.html")).is_file()


def test_a_figure_that_cannot_be_written_is_named_too(call, run, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", failing)
    said = call("evaluate", run, *QUICK)
    assert said.code == 2
    mentions(said.err, "bound_curve.png", "aggregated_posterior.png")
    assert json.loads(next(run.glob("evaluation-*.json")).read_text())["figures"] == []


def test_latents_outlive_their_picture(call, run, monkeypatch):
    monkeypatch.setattr(plots, "scatter", failing)
    said = call("encode", run, "--csv", run / "latents.csv")
    assert said.code == 2
    mentions(
        said.err, "latents.npz, but not drawn: figures/latents.png (ZeroDivisionError"
    )
    assert len(said.err.splitlines()) == 1
    with np.load(run / "latents.npz") as arrays:
        assert "test_mean" in arrays
    assert (run / "latents.csv").is_file()
