"""The members that are compared on MNIST, and the options that choose them."""

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
