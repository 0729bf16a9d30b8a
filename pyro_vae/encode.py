"""`python -m pyro_vae.encode RUN`: the latents of all data, how much their labels can be read from them, a picture."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.encode")  # before anything that takes time

from pyro_vae._cli.options import answer, encode_parser

if __name__ == "__main__":
    answer(encode_parser())  # before the imports, which take seconds

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure

from pyro_vae import plots
from pyro_vae._cli.asked import asked
from pyro_vae._cli.options import DRAWS, formats, run
from pyro_vae._cli.outputs import Make, draw, put_each, reason
from pyro_vae._cli.scores import (
    GIVEN,
    check_tables,
    identity,
    require_pyarrow,
    table_files,
)
from pyro_vae._cli.telling import teller
from pyro_vae._rows import NEW, Rows, new_rows, own_rows, plain
from pyro_vae.data import SPLITS, evenly
from pyro_vae.data.inputs import fields_of
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.moments import BATCH, encode
from pyro_vae.foundation.abstract import alone
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import subfolder, write_atomically
from pyro_vae.inference.coding import codes_of
from pyro_vae.models.conditionals import Codebook
from pyro_vae.models.layers import names_of
from pyro_vae.runs import check_output
from pyro_vae.trained import Run

if TYPE_CHECKING:
    import pandas

KINDS = 100  # labels of more kinds are not classes
NEIGHBOURS = 5
POINTS = 5000  # in the picture


def encode_run(opened: Run, *, draws: int = DRAWS) -> dict[str, np.ndarray]:
    """The latents of every split of a run that has data, as they are written to `latents.npz`.

    Random bits or noise of the data are drawn once, from a fixed seed, as for evaluation.

    Args:
        opened: the run, from `open_run`.
        draws: as in `encode`.

    Returns:
        `train_mean` and `train_std` of shape `(N, latent_dim)`, the places of these data in their file `train_rows`,
        `(N,)`, their names `train_names` and labels `train_labels` where they have any, of a conditional run what each
        is given, `train_given_NAME`, and the same for `validation` and `test`; in the order of the data set. A missing
        label is nan or an empty text. Of a run with K classes also `q(y|x)`, `train_probabilities` `(N, K)`, the most
        probable class of each, `train_class`, and what the classes are called, `classes`. Of a run with a real target
        its mean and standard deviation under q(y|x), `train_prediction` and `train_prediction_std`, `(N,)`. Of a
        codebook of G groups which word each datum has in each, `train_codes`, `(N, G)` whole numbers from 0. Of several
        layers of latents what each latent is called, `latents`, the top first.
    """
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        if len(opened.data.values[split]) > 0:
            arrays |= encode_rows(opened, own_rows(opened, split), draws=draws)
    return arrays


def encode_rows(
    opened: Run, rows: Rows, *, draws: int = DRAWS
) -> dict[str, np.ndarray]:
    """The latents of some rows, named as in `encode_run`; those of new data begin with `new_`."""
    mean, std = encode(opened.vae, rows.x, draws=draws)
    arrays: dict[str, np.ndarray] = {"mean": mean.numpy(), "std": std.numpy()}
    common = {}
    model = opened.vae.model
    if len(model.dims) > 1:
        common["latents"] = np.array(names_of(model.sites, model.dims))
    if isinstance(opened.vae.guide, Codebook):
        arrays["codes"] = codes_of(opened.vae, rows.x).numpy()
    column = None if opened.conditions is None else opened.conditions.latent
    if column is not None:
        vae, names = opened.vae, np.array(column.categories)
        some = [vae.predict(*fields_of(few)) for few in batches(rows.x, BATCH)]
        found = torch.cat(some).cpu()
    if column is not None and not column.categories:
        arrays["prediction"], arrays["prediction_std"] = column.stored(found).T
    elif column is not None:
        probabilities = found.numpy()
        arrays["probabilities"] = probabilities
        arrays["class"] = names[probabilities.argmax(1)]
        common["classes"] = names
    for key, values in identity(rows).items():
        arrays[key if key.startswith(GIVEN) else f"{key}s"] = values
    return common | {f"{rows.split}_{key}": values for key, values in arrays.items()}


@dataclass(frozen=True)
class Probes:
    """How well labels can be read from latents: accuracies on N test data, between 0 and 1.

    Attributes:
        neighbours: of the vote among the `k` nearest training data, by Euclidean distance.
        linear: of logistic regression on latents standardised over the training data.
        commonest: of always guessing the commonest label of the training data.
        kinds: how many labels the training data have.
        k: the number of neighbours.
        num_data: N.
    """

    neighbours: float
    linear: float
    commonest: float
    kinds: int
    k: int
    num_data: int

    def standard_error(self, accuracy: float) -> float:
        """How far another sample of N test data would move an accuracy: `sqrt(p (1 - p) / N)`, of the binomial."""
        return math.sqrt(accuracy * (1 - accuracy) / self.num_data)

    def __str__(self) -> str:
        rows = {
            f"{self.k} nearest neighbours": self.neighbours,
            "logistic regression": self.linear,
            "always the commonest label": self.commonest,
        }
        lines = [
            f"accuracy of {self.kinds} labels on {self.num_data} test data, from the posterior means"
        ]
        lines += [
            f"{name:<28}{value:>8.4f} ± {self.standard_error(value):.4f}"
            for name, value in rows.items()
        ]
        return "\n".join(lines)


def probe(
    z: np.ndarray, labels: np.ndarray, test_z: np.ndarray, test_labels: np.ndarray
) -> Probes:
    """Fit classifiers to training latents and judge them on test latents.

    Data without a label (nan, or an empty text) are left out. A test label that no training datum has counts as missed.

    Args:
        z: `(n, latent_dim)`, to fit to.
        labels: `(n,)`, of any type.
        test_z: `(m, latent_dim)`, to judge on.
        test_labels: `(m,)`.

    Raises:
        InputError: without test data, or for labels of one kind or of more than 100.

    Source: Alain & Bengio 2016, Understanding Intermediate Layers Using Linear Classifier Probes.

    >>> z = np.repeat([[0.0, 1.0], [1.0, 0.0]], 10, axis=0)
    >>> print(probe(z, z[:, 0] > 0.5, z, z[:, 0] > 0.5))
    accuracy of 2 labels on 20 test data, from the posterior means
    5 nearest neighbours          1.0000 ± 0.0000
    logistic regression           1.0000 ± 0.0000
    always the commonest label    0.5000 ± 0.1118
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, test_labels = plain(labels), plain(test_labels)
    known, test_known = _known(labels), _known(test_labels)
    z, labels, test_z, test_labels = (
        z[known],
        labels[known],
        test_z[test_known],
        test_labels[test_known],
    )
    kinds, counts = np.unique(labels, return_counts=True)
    if len(test_labels) == 0:
        raise InputError("there are no test data with labels")
    if not 1 < len(kinds) <= KINDS:
        raise InputError(
            f"the training data have labels of {len(kinds)} kinds, and the probes need 2 to {KINDS}"
        )
    index = np.searchsorted(kinds, labels)
    found = np.searchsorted(kinds, test_labels).clip(max=len(kinds) - 1)
    truth = np.where(kinds[found] == test_labels, found, -1)  # -1 is never guessed
    k = min(NEIGHBOURS, len(z))
    near = KNeighborsClassifier(k).fit(z, index)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        # A thousand steps are close enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear.fit(z, index)
    near_right, linear_right = (
        float((model.predict(test_z) == truth).mean()) for model in (near, linear)
    )
    return Probes(
        near_right,
        linear_right,
        float((truth == counts.argmax()).mean()),
        len(kinds),
        k,
        len(truth),
    )


def _known(labels: np.ndarray) -> np.ndarray:
    """Which labels are not missing, `(N,)` booleans."""
    return labels != "" if labels.dtype.kind == "U" else labels == labels  # noqa: PLR0124  # nan differs from itself


def picture(
    z: np.ndarray,
    std: np.ndarray,
    labels: np.ndarray | None,
    *,
    fit: np.ndarray | None = None,
) -> Figure:
    """Posterior means in the plane, coloured by label (at most 56 kinds); of more than 5000 an even choice.

    Two latents are shown as they are; more by the two directions in which the means vary most (PCA); one with the
    standard deviation of `q(z|x)` upwards.

    Args:
        z: posterior means, `(N, latent_dim)`.
        std: their standard deviations, of the same shape.
        labels: `(N,)`, or `None`.
        fit: the means that the directions are taken from, `(n, latent_dim)`; `z` by default.
    """
    index = evenly(POINTS, len(z)).numpy()
    points, latent_dim = z[index], z.shape[1]
    if latent_dim == 1:
        points = np.concatenate([points, std[index]], 1)
    elif latent_dim > 2:
        centre, directions, shares = _principal(z if fit is None else fit)
        points = (points - centre) @ directions
    if labels is not None:
        labels = plain(labels)[index]
        if not (known := _known(labels)).all():
            labels = np.where(known, labels.astype(str), "no label")
    figure = plots.scatter(torch.from_numpy(points), labels)
    axes = figure.axes[0]
    if latent_dim == 1:
        axes.set_ylabel("standard deviation of q(z | x)")
        axes.set_aspect("auto")
    elif latent_dim > 2:
        names = [
            f"direction {i + 1} ({100 * share:.0f} % of the variance)"
            for i, share in enumerate(shares)
        ]
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.set_title(
            f"posterior means E[z | x], two directions of {latent_dim} (PCA)",
            fontsize=10,
        )
    return figure


def _principal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean, the two directions of largest variance `(latent_dim, 2)`, and their shares of all variance."""
    values, vectors = np.linalg.eigh(np.cov(z.T.astype(np.float64)))
    first = vectors[:, [-1, -2]]
    largest = np.take_along_axis(first, np.abs(first).argmax(0)[None], 0)
    shares = values[[-1, -2]].clip(0) / max(values.sum(), np.finfo(np.float64).tiny)
    # The largest part of a direction is positive.
    return (
        z.mean(0),
        first * np.sign(largest),
        shares,
    )


def frame(arrays: dict[str, np.ndarray]) -> "pandas.DataFrame":
    """The latents as a table with a row for each datum.

    Columns: `split`, `datum` (its place in the split, from 0), `row` (its place in the file, from 0), `name` where rows
    have names, what a conditional run is given, `given_...`, `mean_0`, ..., `std_0`, ..., and `label` with labels; of
    several layers of latents `mean_z2_0`, ...;
    of a codebook `code_0`, ...; of a run with classes `class`, the most probable one, and `probability_...` of each; of
    one with a real target `prediction` and `prediction_std`.
    """
    import pandas

    parts = []
    for split in (*SPLITS, NEW):
        if f"{split}_mean" not in arrays:
            continue
        columns: dict[str, Any] = {
            "split": split,
            "datum": np.arange(len(arrays[f"{split}_mean"])),
        }
        columns |= {
            key: arrays[f"{split}_{key}s"]
            for key in ("row", "name")
            if f"{split}_{key}s" in arrays
        }
        before = f"{split}_{GIVEN}"
        columns |= {
            f"{GIVEN}{key.removeprefix(before)}": values
            for key, values in arrays.items()
            if key.startswith(before)
        }
        for kind in ("mean", "std"):
            columns |= {
                f"{kind}_{arrays['latents'][d] if 'latents' in arrays else d}": column
                for d, column in enumerate(arrays[f"{split}_{kind}"].T)
            }
        columns |= {
            f"code_{g}": column
            for g, column in enumerate(arrays.get(f"{split}_codes", np.empty((0, 0))).T)
        }
        if f"{split}_labels" in arrays:
            columns["label"] = arrays[f"{split}_labels"]
        columns |= {
            key: arrays[f"{split}_{key}"]
            for key in ("prediction", "prediction_std")
            if f"{split}_{key}" in arrays
        }
        if "classes" in arrays:
            columns["class"] = arrays[f"{split}_class"]
            each = arrays[f"{split}_probabilities"].T
            pairs = zip(arrays["classes"], each, strict=True)
            columns |= {f"probability_{name}": column for name, column in pairs}
        parts.append(pandas.DataFrame(columns))
    return pandas.concat(parts, ignore_index=True)


def _output(given: str | None, folder: Path, new: str | None) -> Path:
    """Where the latents go; every reason why they cannot is found before the work."""
    path = folder / f"{_stem(new)}.npz" if given is None else Path(given)
    if path.suffix not in (".npz", ".parquet"):
        raise InputError(f"--output {path} must end in .npz or .parquet")
    check_output(path, "--output")
    if path.suffix == ".parquet":
        require_pyarrow(f"--output {path}")
    return path


def _stem(new: str | None) -> str:
    """The name of the files of latents, without ending: those of new data have their own."""
    return (
        "latents"
        if new is None
        else "latents-new-" + re.sub(r"[^\w.+]+", "_", Path(new).stem)
    )


def _save(path: Path, arrays: dict[str, np.ndarray], suffix: str) -> None:
    if suffix == ".parquet":
        frame(arrays).to_parquet(path, engine="pyarrow", index=False)
        return
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@alone()
def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = encode_parser().parse_args(arguments)
    if options.num_draws < 2:
        raise InputError("--num-draws 1 gives no standard deviation; draw two or more")
    check_tables(options)
    if options.labels is not None and options.data is None:
        raise InputError(
            "--labels goes with new data; name their file with --data FILE"
        )
    opened = asked(options)
    new = (
        None if options.data is None else new_rows(opened, options.data, options.labels)
    )
    if new is None and opened.data and options.labels is None and opened.has_new_labels:
        raise InputError(
            f"the labels of {opened.name} are not those that were beside the data when {opened.folder} was trained: "
            "put them back, or name the new ones with --data and --labels"
        )
    opened.announce()
    fresh = None if new is None else new.dataset
    output = _output(options.output, opened.folder, fresh)
    pyro.set_rng_seed(options.seed)
    draws = options.num_draws
    arrays = (
        encode_run(opened, draws=draws)
        if new is None
        else encode_rows(opened, new, draws=draws)
    )
    splits = [s for s in (*SPLITS, NEW) if f"{s}_mean" in arrays]
    sizes = ", ".join(f"{len(arrays[f'{s}_mean'])} {s}" for s in splits)
    tell = teller(quiet=options.quiet)
    tell(f"{fresh or opened.name}: {sizes} data")
    tell(
        f"latent dimension {opened.spec.latent_dim}, weights of epoch {opened.epoch}\n"
    )
    write_atomically(output, lambda path: _save(path, arrays, output.suffix))
    print(_report(arrays))
    split = "test" if "test" in splits else splits[0]
    mean, std, labels = (
        arrays[f"{split}_mean"],
        arrays[f"{split}_std"],
        arrays.get(f"{split}_labels"),
    )
    tables = (
        table_files(frame(arrays), options) if options.csv or options.parquet else {}
    )
    written, failed = put_each(tables)
    drawn: list[Path] = []
    not_drawn: list[str] = []
    if len(mean) > 1 and mean.shape[1]:  # one point is no picture
        make = partial(picture, mean, std, labels, fit=arrays.get("train_mean"))
        written_as = options.figures or formats(opened.config.get("figures", "png"))
        name = f"{_stem(fresh)}.png"
        drawn, not_drawn = _draw(opened.folder, name, make, written_as)
    tell("")
    print(f"written: {', '.join(map(str, (output, *written, *drawn)))}")
    lost = [f"not written: {', '.join(failed)}"] if failed else []
    lost += [f"not drawn: {not_drawn[0]}"] if not_drawn else []
    if lost:
        raise InputError(f"the latents are written to {output}, but {'; '.join(lost)}")


def _draw(
    folder: Path, name: str, make: Make, written_as: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Draw a figure into a run: its file, or why there is none."""
    try:
        return draw({subfolder(folder, "figures") / name: make}, written_as)
    except (InputError, OSError) as error:
        return [], [f"figures ({reason(error)})"]


def _report(arrays: dict[str, np.ndarray]) -> str:
    """The accuracies, or why there are none."""
    if f"{NEW}_mean" in arrays:
        return (
            "no accuracies: these are fitted to training data and judged on test data"
        )
    if "train_prediction" in arrays:
        return "no accuracies: the labels are a real target, and evaluate says how well it is predicted"
    if "train_labels" not in arrays:
        return "no accuracies: the data have no labels"
    if "test_mean" not in arrays:
        return "no accuracies: there are no test data"
    if not arrays["test_mean"].shape[1]:
        return "no accuracies of codes: a class is the only latent"
    try:
        return str(
            probe(
                arrays["train_mean"],
                arrays["train_labels"],
                arrays["test_mean"],
                arrays["test_labels"],
            )
        )
    except InputError as error:
        return f"no accuracies: {error}"


if __name__ == "__main__":
    run("pyro_vae.encode", main)
