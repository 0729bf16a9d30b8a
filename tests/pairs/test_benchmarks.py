"""What claims of speed rest on runs: each contestant takes a step."""

import pytest

from benchmarks import evaluation, loop, training
from benchmarks.contestants import Setting

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
