"""The main job on real data: the published task, at a size that two cores manage."""

import json
import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(
        "PYRO_VAE_DATA" not in os.environ,
        reason="set PYRO_VAE_DATA to the folder of the data sets",
    ),
]


def test_twenty_epochs_of_mnist_reach_minus_95_nats(call, tmp_path):
    """One stochastic layer of 50 units, two hidden layers of 200 tanh units (the net of Burda et al. 2015)."""
    run = tmp_path / "mnist"
    training = (
        "--dataset",
        "mnist",
        "--likelihood",
        "bernoulli",
        "--binarize",
        "dynamic",
        "--latent-dim",
        50,
        "--network",
        "mlp(hidden=(200,200), activation='tanh')",
        "--batch-size",
        100,
        "--epochs",
        20,
    )
    assert call("train", *training, "--output", run).code == 0
    options = ("--limit", 1000, "--num-particles", 5000, "--ask", "weighted")
    assert call("evaluate", run, *options).code == 0
    name = "evaluation-test-limit1000-k5000-weighted.json"
    result = json.loads((run / name).read_text())
    assert (result["data"], result["num_particles"]) == (1000, 5000)
    assert result["log_marginal"]["mean"] > -95.0
    assert result["elbo"]["mean"] < result["log_marginal"]["mean"]
