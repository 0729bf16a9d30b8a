"""Tables and arrays with missing values, as several tests write and read them."""

import numpy as np

NAN = float("nan")
SMALL = ("--network", "mlp(hidden=(8,))", "--latent-dim", 1, "--compile", "no")

MIXED = (
    "job,age,member,pay\nclerk,31,yes,1.5\n?,45,no,\nsmith,,yes,2.5\nclerk,60,,8.0\n"
)


def holed(n=60, columns=3, seed=0):
    """Reals of which a fifth is missing, never all of a row."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)) + 0.3 * rng.normal(size=(n, columns))
    missing = rng.random(x.shape) < 0.2
    missing[:, 0] &= ~missing.all(1)
    x[missing] = NAN
    return x


def written(path, x, names="abc"):
    lines = [",".join(names[: x.shape[1]])]
    lines += [",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in x]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def arrays_of(path):
    with np.load(path) as archive:
        return dict(archive)


def mixed(path, times=12):
    head, *rows = MIXED.splitlines()
    path.write_text(
        "\n".join([head, *rows * times, "clerk,20,no,0.5", "baker,22,no,3.5"]) + "\n"
    )
    return str(path)
