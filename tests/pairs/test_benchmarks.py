"""What claims of speed rest on runs: each contestant takes a step."""

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import evaluation, extras, loop, scaling, streaming, training
from benchmarks.contestants import Setting
from benchmarks.seeds import family, memory

SMALL = Setting("MLP", 4, latent_dim=2)
SETTINGS = [SMALL, Setting("IWAE", 4, objective="iwae(num_particles=2)", latent_dim=2)]
ELSEWHERE = {
    "products, oneDNN",
    "products, ours",
    "NumPyro",
}  # where library and processor allow
COMPILED = {
    "PyTorch, compiled",
    "pyro_vae, compiled",
    "Pyro's JIT",
    "log_marginal, compiled",
}


def steps(contestants):
    """The names, those of compiled steps for the slow tests."""
    slow = [pytest.mark.slow]
    return [
        pytest.param(name, marks=slow if name in COMPILED else [])
        for name in contestants
    ]


@pytest.mark.parametrize("name", steps(training.CONTESTANTS))
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.filterwarnings("ignore")
def test_a_training_step_of_each(name, setting):
    step = training.CONTESTANTS[name](setting)
    if step is None:
        assert name in ELSEWHERE or name in ("Pyro's JIT", "pyro.infer.SVI")
        return
    step()
    step()


@pytest.mark.parametrize("name", steps(evaluation.CONTESTANTS))
def test_an_evaluation_by_each(name, monkeypatch):
    monkeypatch.setattr(evaluation, "K", 200)
    step = evaluation.CONTESTANTS[name](SMALL)
    if step is None:
        assert name in ELSEWHERE
    else:
        step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tables_and_medians():
    table, medians = training.run(rounds=1, device="cpu", only="MLP 20")
    assert len(table.splitlines()) == 3
    assert set(medians[0]["seconds"]) >= {
        "PyTorch",
        "pyro_vae, compiled",
        "products alone",
    }
    sentence, epoch = loop.run(rounds=1, device="cpu")
    assert "times as long as" in sentence
    assert epoch


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 1.7])
def test_the_slope_of_a_power_is_the_power(power):
    sizes = [3, 12, 50, 700]
    values = [30 * size**power for size in sizes]
    assert scaling.slope(sizes, values) == pytest.approx(power, abs=1e-6)


def test_a_slope_is_that_of_least_squares():
    sizes, values = [1, 4, 16, 64], [1.0, 3.0, 20.0, 50.0]
    expected = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    assert scaling.slope(sizes, values) == pytest.approx(expected, abs=1e-6)


def test_what_is_too_small_to_be_measured_has_no_slope():
    assert scaling.slope([1, 10, 100], [0.0, 1e-5, 1e-4]) == 0


def test_a_line_has_both_slopes():
    found = scaling.line("sampling", "data", (1, 10, 100), (1, 10, 1000), (5, 5, 5))
    assert found == (
        "| sampling | data | 1 | 100 | 1.000, 10.000, 1,000.000 | 1.50 (2.00) "
        "| 5, 5, 5 | 0.00 (0.00) |"
    )


@pytest.mark.parametrize("name", [n for n in scaling.PROGRAMS if n != "training"])
def test_each_program_of_the_scaling_runs(name):
    make, _ = scaling.PROGRAMS[name]
    sizes = scaling.Sizes(data=3, dimensions=8, latents=2, hidden=4, particles=200)
    make(sizes)()
    assert set(scaling.SWEPT[name]) <= set(scaling.Sizes.__dataclass_fields__)


def test_a_file_is_read_whole_in_each_way(tmp_path):
    path, rows = tmp_path / "x.npy", 230
    streaming.written(path, rows)
    size = rows * streaming.WIDTH * 4
    assert sum(streaming.plain(path)) == path.stat().st_size > size
    assert sum(streaming.in_order(path, 0)) == size
    assert [*streaming.shuffled(path, 0, 100)] == [
        100 * size // rows,
        100 * size // rows,
        30 * size // rows,
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", extras.EXTRAS)
def test_an_epoch_with_each_extra(name):
    extras.epoch(20, size=60, **extras.EXTRAS[name])()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_memory_is_that_of_all_that_a_process_started():
    words = [
        sys.executable,
        "-c",
        "x = bytearray(2**26); print(1, flush=True); input()",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    before = memory(os.getpid())
    with subprocess.Popen(words, **pipes) as child:
        child.stdout.readline()
        assert child.pid in family(os.getpid())
        assert 64 < memory(os.getpid()) - before < 128
        child.communicate(b"\n")
