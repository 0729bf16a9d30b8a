"""The members that are compared on MNIST, the options that choose them, and what runs keep of their epochs."""

import csv
from pathlib import Path

NETWORK = "mlp(hidden=(200, 200), activation='tanh')"
LATENT_DIM = 50

# Each changes one thing of the first.
RUNS: dict[str, dict[str, str]] = {
    "MeanField, StandardNormal, ELBO": {},
    "FullRank": {"guide": "fullrank"},
    "LowRank": {"guide": "lowrank"},
    "Householder": {"guide": "householder"},
    "Planar": {"guide": "planar"},
    "Sylvester": {"guide": "sylvester"},
    "IAF": {"guide": "iaf"},
    "NSF": {"guide": "nsf"},
    "Mixture": {"guide": "mixture"},
    "SemiAmortized": {"guide": "semiamortized"},
    "Local": {"guide": "local"},
    "Delta": {"guide": "delta"},
    "Laplace prior": {"prior": "laplace"},
    "GaussianMixture": {"prior": "gaussianmixture"},
    "VampPrior": {"prior": "vampprior"},
    "Flow": {"prior": "flow"},
    "STL": {"objective": "stl"},
    "IWAE, K = 5": {"objective": "iwae(num_particles=5)"},
    "DReG, K = 5": {"objective": "dreg(num_particles=5)"},
}


def epochs_of(folder: Path) -> list[dict[str, str]]:
    """The records of the epochs of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def seconds_of(folder: Path) -> float:
    """How long the epochs of a run took together."""
    return sum(float(epoch["seconds"]) for epoch in epochs_of(folder))
