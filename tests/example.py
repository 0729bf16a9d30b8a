"""Data of every representation, and the shapes that members are tried with."""

import torch

from pyro_vae.data.representation import Representation

D, SHAPE = 3, (6, 5)

# What a member needs beside it where a plain pair has none of it.
DRAWN = {"prior": "Categorical", "guide": "categorical(enumerate=False)"}
BESIDE = {
    ("prior", "Categorical"): {"guide": "Categorical"},
    ("guide", "Categorical"): {"prior": "Categorical"},
    ("prior", "Codes"): {"guide": "codebook(size=40)"},
    ("guide", "Codebook"): {"prior": "Codes"},
    ("guide", "Exact"): {"network": "Linear", "likelihood": "Gaussian"},
    ("objective", "VIMCO"): DRAWN,
    ("objective", "GumbelSoftmax"): DRAWN,
    ("objective", "Autoencoder"): {"guide": "delta"},
    ("objective", "Subsets"): {"likelihood": "Fields"},
    ("structure", "Clusters"): {"prior": "Conditional(hidden=())"},
}

# Members as they are written where many are tried.
SHORTER = {"Local": "Local(steps=3)", "SemiAmortized": "SemiAmortized(steps=2)"}
SHORTER |= {"Moved": "Moved(moves=2, leapfrogs=2)"}


def beside(axis, name):
    """Further axes of a `Spec` with which a member makes sense."""
    return BESIDE.get((axis, name), {})


def example(support, *size):
    """Data of a representation."""
    u = torch.rand(*size, dtype=torch.float64)
    match support:
        case Representation.BINARY:
            return u.round()
        case Representation.UNIT:
            return u
        case Representation.REAL:
            return 2 * u - 0.5
        case Representation.POSITIVE:
            return 0.2 + u
        case Representation.LEVELS:
            return (100 + 40 * u).floor()
    return (5 * u).floor()
