"""What is in memory at a time does not grow with the data."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from pyro_vae import (
    Spec,
    annealed_importance_sampling,
    anomaly_scores,
    build,
    elbo,
    inference_gaps,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
)
from pyro_vae.data.inputs import Call
from pyro_vae.encode import encode
from pyro_vae.evaluation.weighting import _bytes_per_draw

WIDTH = 2**12  # numbers in a datum, 16 KiB
MEMORY = 2**20


class Watched:
    """Data that are made when they are asked for, and remember how many were at a time."""

    def __init__(self, size):
        self.size, self.most = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rows = (
            len(range(*index.indices(self.size)))
            if isinstance(index, slice)
            else len(index)
        )
        self.most = max(self.most, rows)
        return torch.zeros(rows, WIDTH)

    def batches(self, order, batch_size):
        for index in order.split(batch_size):
            yield self[index]


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return build(Spec((WIDTH,), 2, network="mlp(hidden=(4,))", likelihood="bernoulli"))


@pytest.fixture(autouse=True)
def a_short_first_look(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.inputs.CHUNK", MEMORY // 16)


@pytest.mark.parametrize("num_particles", [1, 3, 50])
def test_log_marginal_reads_within_its_bound(vae, num_particles):
    x = Watched(60)
    found = log_marginal(
        vae.model, vae.guide, x, num_particles=num_particles, memory=MEMORY
    )
    assert len(found) == 60
    assert x.most * WIDTH * 4 <= MEMORY / 4


def test_a_bound_that_holds_all_data_reads_them_at_once(vae):
    x = Watched(60)
    log_marginal(vae.model, vae.guide, x, num_particles=1, memory=64 * MEMORY)
    assert x.most == 60


def test_verbs_on_large_data_have_few_of_them_at_a_time(vae, monkeypatch):
    monkeypatch.setattr("pyro_vae.inference.bounds.MEMORY", MEMORY)
    x = Watched(100)
    elbo(vae.model, vae.guide, x, num_particles=2)
    assert 1 <= x.most * 2 * WIDTH * 4 <= MEMORY
    few = {"steps": 2, "batch_size": 10, "num_particles": 20, "memory": MEMORY}
    for verb in (
        lambda x: encode(vae, x, draws=2, batch_size=10),
        lambda x: log_marginal_refined(vae, x, **few),
        lambda x: inference_gaps(vae, x, **few, elbo_particles=2),
        lambda x: anomaly_scores(vae, x, 0.0, **few, elbo_particles=2),
        lambda x: annealed_importance_sampling(
            vae.model,
            x,
            num_chains=2,
            num_temperatures=2,
            leapfrogs=1,
            memory=8 * MEMORY,
        ),
    ):
        x = Watched(30)
        verb(x)
        assert (
            1 <= x.most <= max(10, MEMORY // 4 // (WIDTH * 4))
        )  # refined, and weighed
    x = Watched(300)
    log_marginal_adaptive(vae, x, num_particles=20, steps=2, memory=8 * MEMORY)
    assert 1 <= x.most * WIDTH * 4 <= 2 * MEMORY  # a quarter of what it may take


@pytest.mark.slow
def test_encoding_a_stream_keeps_nothing_but_the_latents(tmp_path):
    """By the pages that a process of its own has resident: what allocators keep between small results counts."""
    np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(40_000, 784)
    )
    code = """
        import sys, torch
        from pathlib import Path
        from pyro_vae import Spec, build
        from pyro_vae.data.bridges import Scaled
        from pyro_vae.data.fields import Split
        from pyro_vae.data.streams import Mapped
        from pyro_vae.encode import encode

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        vae = build(Spec((784,), 20, network="mlp(hidden=(16,))"))
        x = Split(Mapped(Path(sys.argv[1])), Scaled(255.0))
        encode(vae, x.first(1000))
        before = resident()
        encode(vae, x)
        print(resident() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.npy")]
    if not sys.platform.startswith("linux"):
        pytest.skip("pages are counted in /proc")
    grown = int(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    assert (
        grown < 40_000 * 784
    )  # a byte for each number; the values themselves take four


def test_a_step_that_does_not_fit_is_refused_before_training(
    refused, call, monkeypatch
):
    """A full-rank guide of 60 latents has a matrix of 3,600 numbers for each datum, of which a batch has a thousand."""
    arguments = (
        "--latent-dim",
        60,
        "--guide",
        "fullrank",
        "--network",
        "mlp(hidden=(4,))",
    )
    monkeypatch.setattr("pyro_vae.train.free_bytes", lambda device: 2**24)
    said = refused("train", *arguments, "--batch-size", 1000)
    assert "a step of 1000 data takes" in said
    assert (
        "and 16.0 MiB are available; use a smaller --batch-size, --latent-dim" in said
    )
    assert call("train", *arguments, "--batch-size", 8, "--dry-run").code == 0


@pytest.mark.parametrize("hidden", [1000, 1500, 2048])
def test_what_a_library_copies_for_any_number_of_draws_is_no_draws(hidden):
    """A draw is latents, hidden units and outputs; a product by oneDNN copies 16 MB of weights at 2,048 units."""
    network = f"mlp(hidden=({hidden}, {hidden}))"
    vae = build(Spec((784,), 20, likelihood="bernoulli", network=network))
    x = Call(torch.rand(1, 784).round())
    with torch.no_grad():
        found, _ = _bytes_per_draw(vae.model, vae.guide, x)
    assert 4 * (hidden + 784) < found < 100 * (hidden + 784)
