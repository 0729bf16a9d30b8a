"""The same command gives the same bits: what decides how numbers are added belongs to the run."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pyro_vae import MLP, InputError, Spec, build
from pyro_vae.checkpoint import load
from pyro_vae.engine import affine as products
from pyro_vae.engine.affine import products_of, use_products
from reading import TINY, contents, mentions, toml

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")


@pytest.mark.parametrize(
    ("machine", "usual"),
    [
        (("AuthenticAMD", "AVX512", True, True), "onednn"),
        (("AuthenticAMD", "AVX512", True, False), "torch"),
        (("AuthenticAMD", "AVX512", False, True), "torch"),
        (("AuthenticAMD", "AVX2", True, True), "torch"),
        (("GenuineIntel", "AVX512", True, True), "torch"),
        (("", "DEFAULT", False, False), "torch"),
    ],
)
def test_the_processor_decides(monkeypatch, machine, usual):
    vendor, capability, mkl, there = machine
    monkeypatch.setattr(products, "_is_intel", lambda: vendor == "GenuineIntel")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(products, "has_onednn", lambda: there)
    assert products.usual_products.__wrapped__() == usual


def test_a_choice_stays_with_its_modules():
    vae = build(Spec((6,), 2))
    assert products_of(vae.modules()) == products.usual_products()
    for name in products.PRODUCTS:
        use_products(vae, name)
        assert products_of(vae.modules()) == products_of([vae.guide]) == name
    heard = []
    thread = threading.Thread(target=lambda: heard.append(products_of(vae.modules())))
    thread.start()
    thread.join()
    assert heard == ["onednn"]


def test_a_library_that_is_not_there(monkeypatch):
    with pytest.raises(
        InputError, match="products='blas' must be one of torch, onednn"
    ):
        use_products(MLP((2,), (1, 2)), "blas")
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    with pytest.raises(InputError, match="not available in this PyTorch; take 'torch'"):
        use_products(MLP((2,), (1, 2)), "onednn")


def header(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["pyro_vae"])


@pytest.mark.parametrize("name", products.PRODUCTS)
def test_a_run_keeps_its_products(call, train, monkeypatch, name):
    run = train("run", "--epochs", 1, *TINY, "--products", name)
    assert toml(run)["products"] == name
    other = next(p for p in products.PRODUCTS if p != name)
    monkeypatch.setattr(products, "usual_products", lambda: other)
    monkeypatch.setattr("pyro_vae.train.usual_products", lambda: other)
    assert products_of(load(run).modules()) == name
    assert call("train", "--resume", run, "--epochs", 2).code == 0
    again = train("again", "--config", run / "config.toml")
    for folder in (run, again):
        assert toml(folder)["products"] == name
        assert {
            header(folder / f"{w}.safetensors")["products"] for w in ("best", "last")
        } == {name}
    assert call("train", "--resume", run, "--epochs", 3, "--products", other).code == 0
    assert (
        toml(run)["products"] == header(run / "last.safetensors")["products"] == other
    )
    mentions(
        call("train", "--products", "blas", "--output", "no").err, "--products", "blas"
    )


def test_auto_is_one_of_them(train):
    """And nothing more: what holds for each of the others by name holds for it."""
    run = train("run", "--epochs", 1, *TINY, "--products", "auto")
    assert toml(run)["products"] == products.usual_products()
    assert header(run / "last.safetensors")["products"] == products.usual_products()


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["no", "yes"])
@pytest.mark.parametrize("name", products.PRODUCTS)
def test_repetitions_in_processes_of_two_threads(tmp_path, name, compiled):
    """With products so large that each library takes its own road, while the processor has other work."""
    bits = np.random.default_rng(0).integers(0, 2, (600, 784), dtype=np.uint8)
    np.save(tmp_path / "x.npy", bits)
    sizes = ("--network", "mlp(hidden=(400,200))", "--epochs", "2")
    command = [
        sys.executable,
        "-m",
        "pyro_vae.train",
        "--dataset",
        tmp_path / "x.npy",
        *sizes,
    ]
    command += ["--products", name, "--compile", compiled, "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    runs = [tmp_path / str(i) for i in range(4)]
    started = [subprocess.Popen([*command, run], env=environment) for run in runs]
    assert [process.wait(timeout=600) for process in started] == [0] * len(runs)
    found = [(run / "last.safetensors").read_bytes() for run in runs]
    assert found == found[:1] * len(runs)
    assert len(contents(runs[0])) > 3
