"""From PCA to VAE in one table and one figure: `python -m benchmarks.roots FOLDER`.

The models from which the VAE came and those it became, on the same grey values with uniform noise between the levels,
all with Gaussian noise. log p(x) is exact where the pair is linear or a finite mixture, else by importance weights that
are refined, and annealed where they need it. Runs and evaluations that the folder holds already are not done again.
Prints a table in Markdown; `--figure FILE` draws the models with two latents. `PYRO_VAE_DATA` names the folder with the
data, as for the programs.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.mnist import run
from benchmarks.runs import seconds_of
from pyro_vae import open_run
from pyro_vae.plots.canvas import new_figure

LINEAR = ("--network", "linear")
EXACT = ("--guide", "exact", "--optimizer", "em")
OF_ELEMENT = ("--likelihood", "gaussian(scale='element')")
MIXTURE = "formula(text='p(y) p(x|y); q(y|x)', classes=10, uniform=False)"
AUTOENCODER = ("--guide", "delta", "--objective", "autoencoder")

# What is asked of each, by its name.
MODELS: dict[str, tuple[str, ...]] = {
    "PCA with noise": (*LINEAR, *EXACT),
    "factor analysis": (*LINEAR, *EXACT, *OF_ELEMENT),
    "mixture of Gaussians": (
        *LINEAR,
        *("--optimizer", "em", "--structure", MIXTURE),
        *("--likelihood", "gaussian(scale='network')"),
    ),
    "mixture of factor analysers": (
        *("--network", "linear(interaction=True)", *EXACT, *OF_ELEMENT),
        *("--structure", "labelled(classes=10, uniform=False)", "--labelled", "0"),
    ),
    "autoencoder": AUTOENCODER,
    "denoising autoencoder": (*AUTOENCODER, "--corrupt", "noise(0.3)"),
    "VAE with linear networks": LINEAR,
    "VAE": (),
    "VAE, a scale for each element": OF_ELEMENT,
    "ladder VAE": (*OF_ELEMENT, "--structure", "ladder"),
}


def options_of(name: str, latents: int, dims: tuple[int, int]) -> list[Any]:
    """The options of a model with so many latents, or of the ladder with layers of these lengths."""
    chosen: list[Any] = [*MODELS[name]]
    if "ladder" in chosen:
        return [*chosen, "--dims", ",".join(map(str, dims))]
    return chosen if MIXTURE in chosen else [*chosen, "--latent-dim", latents]


def numbers(folder: Path) -> dict[str, Any]:
    """What the evaluation of a run found."""
    newest = max(folder.glob("evaluation*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())  # type: ignore[no-any-return]


def row(name: str, folder: Path) -> str:
    """A line of the table."""
    s = numbers(folder)
    log_p, gap, doubtful = "", "", ""
    if "log_marginal" in s:
        found = s["log_marginal"]
        log_p = f"{found['mean']:.2f} ± {found['data_standard_error']:.2f}"
        gap = f"{max(0.0, found['mean'] - s['elbo']['mean']):.2f}"
        doubtful = f"{s['pareto_k']['above_limit'] / s['data']:.0%}"
    error = s["reconstructionerror"]["squared error of an element"]
    mean, of_data = error["mean"], error["data_standard_error"]
    cells = [
        log_p,
        gap,
        doubtful,
        f"{mean:.5f} ± {of_data:.5f}",
        f"{seconds_of(folder):.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |".replace("| -", "| −")


def tiled(images: Tensor, columns: int) -> np.ndarray:
    """Pictures side by side, so many in a row, `(N, H, W) -> (rows H, columns W)`."""
    framed = pad(images.clamp(0, 1), (1, 0, 1, 0), value=0.5)
    rows = framed.unflatten(0, (-1, columns))
    whole = rows.transpose(1, 2).flatten(2).flatten(0, 1)
    return whole[1:, 1:].numpy()


def peers(folder: Path, latents: int, limit: int) -> str:
    """The classical three by scikit-learn, fitted to the data of a run with one draw of their noise, as a table."""
    opened = open_run(folder)
    x = torch.as_tensor(opened.split("train")[:]).flatten(1).double().numpy()
    test = torch.as_tensor(opened.split("test")[:limit]).flatten(1).double().numpy()
    models = {
        "PCA": PCA(latents),
        "FactorAnalysis": FactorAnalysis(latents, tol=1e-6, max_iter=5000),
        "GaussianMixture": GaussianMixture(10, covariance_type="diag", random_state=0),
    }
    lines = ["| scikit-learn | log p(x) | seconds |", "|---|---|---|"]
    for name, model in models.items():
        started = time.perf_counter()
        log_p = model.fit(x).score_samples(test)
        seconds = time.perf_counter() - started
        error = log_p.std() / len(test) ** 0.5
        cells = [name, f"{log_p.mean():.2f} ± {error:.2f}", f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Panels:
    """The row of the figure that shows one run."""

    def __init__(self, folder: Path) -> None:
        opened = open_run(folder)
        self.vae, self.size = opened.vae.cpu(), opened.spec.shape[-2:]
        self.x = torch.as_tensor(opened.split("test")[:500]).cpu()
        assert opened.data.labels is not None
        self.labels = opened.data.labels["test"][:500].astype(int)
        layers = self.vae.model.dims
        self.top = slice(0, layers[-1]) if len(layers) > 1 else slice(0, None)

    def images(self, x: Tensor) -> Tensor:
        return x.detach().reshape(-1, *self.size)

    @torch.no_grad()
    def codes(self, axes: Axes) -> None:
        """The mean of q(z|x) of test data, coloured by digit, of layers that of the top; or the class and the digit."""
        if self.vae.classes:
            y = self.vae.predict(self.x).argmax(-1).numpy()
            places = y + np.random.default_rng(0).uniform(-0.3, 0.3, len(y))
            axes.scatter(places, self.labels, 3, c=self.labels, cmap="tab10")
            axes.set_xlabel("component", fontsize=6, labelpad=1)
            return
        z = self.vae.posterior_mean(self.x)[:, self.top]
        axes.scatter(*z.T.numpy(), s=3, c=self.labels, cmap="tab10")

    @torch.no_grad()
    def manifold(self, columns: int) -> np.ndarray:
        """Means of p(x|z) over the plane of codes; of components without a plane the mean of each."""
        vae, classes = self.vae, self.vae.classes
        if not vae.model.latent_dim:
            means = vae.decode(torch.zeros(classes, 0), torch.arange(classes)).mean
            blank = torch.ones(-classes % 4, *self.size)
            return tiled(torch.cat([self.images(means), blank]), 4)
        if classes:  # each component has axes of its own: the first of each
            grid = torch.zeros(columns, columns, vae.model.latent_dim)
            grid[..., 0] = torch.linspace(-1.6, 1.6, columns)
            y = torch.arange(columns).repeat_interleave(columns)
            return tiled(self.images(vae.decode(grid.flatten(0, 1), y).mean), columns)

        # Along each axis over nine tenths of the codes.
        z = vae.posterior_mean(self.x)[:, self.top]
        low, high = z.quantile(0.05, 0), z.quantile(0.95, 0)
        along = low + (high - low) * torch.linspace(0, 1, columns).unsqueeze(-1)
        first, second = along[:, 0].expand(columns, -1), along[:, 1].flip(0)
        grid = torch.stack([first, second.unsqueeze(-1).expand_as(first)], -1)
        grid = grid.flatten(0, 1)
        layers = vae.model.dims
        if len(layers) > 1:
            rest = torch.zeros(len(grid), vae.model.latent_dim - layers[-1])
            grid = vae.continued(torch.cat([grid, rest], -1), 1, mean=True)
        return tiled(self.images(vae.decode(grid).mean), columns)

    def draw(self, row: list[Axes], columns: int) -> None:
        """Codes, manifold, samples and reconstructions."""
        self.codes(row[0])
        torch.manual_seed(0)
        samples = self.images(self.vae.sample(columns * columns, mean=True))
        again = self.images(self.vae.reconstruct(self.x[: 4 * columns]))
        shown = self.images(self.x[: 4 * columns])
        pairs = torch.stack(
            [shown.unflatten(0, (4, -1)), again.unflatten(0, (4, -1))], 1
        )
        pictures = [self.manifold(columns), tiled(samples, columns)]
        pictures.append(tiled(pairs.flatten(0, 2)[: columns * columns], columns))
        for axes, picture in zip(row[1:], pictures, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)


def draw(folders: dict[str, Path], file: Path) -> None:
    """The figure of all models with two latents, one in a row."""
    columns, titles = 6, ("codes", "manifold", "samples", "data and reconstructions")
    figure = new_figure(7.2, 1.7 * len(folders))
    grid = figure.subplots(len(folders), len(titles), squeeze=False)
    for (name, folder), row in zip(folders.items(), grid, strict=True):
        Panels(folder).draw([*row], columns)
        wrapped = (
            name.replace(", ", ",\n").replace("of ", "of\n").replace("with ", "with\n")
        )
        row[0].set_ylabel(wrapped, fontsize=8)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--latents", type=int, default=10, help="of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1000, help="test data")
    parser.add_argument(
        "--refine",
        action="store_true",
        help="refine all posteriors and anneal none: sooner on large data",
    )
    parser.add_argument("--figure", type=Path, help="draws the runs, of two latents")
    parser.add_argument("--peers", action="store_true", help="scikit-learn beside them")
    options = parser.parse_args()
    shared = ["--dataset", options.dataset, "--dequantize", "--likelihood", "gaussian"]
    shared += ["--epochs", options.epochs, "--seed", options.seed, "--overwrite"]
    head = ["model", "log p(x)", "log p(x) − ELBO", "k above 0.7"]
    head += ["squared error", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    latents = 2 if options.figure else options.latents
    dims = (10, 2) if options.figure else (latents, max(1, latents // 2))
    folders = {}
    for name, chosen in MODELS.items():
        stem = name.lower().replace(", ", "-").replace(" ", "-")
        folders[name] = folder = options.folder / f"{stem}-{latents}"
        if not (folder / "metrics.csv").is_file():
            members = options_of(name, latents, dims)
            run("train", *shared, "--output", folder, *members)
        if options.figure:
            continue
        if not [*folder.glob("evaluation*.json")]:
            asked = ["--limit", options.limit, "--ask", "reconstructionerror()"]
            exact = "em" in chosen  # whatever is drawn, the weights are equal
            asked += ["--num-particles", 10] if exact else []
            road = ["--refine", 200] if options.refine else ["--adaptive"]
            asked += [] if exact or "delta" in chosen else road
            run("evaluate", folder, *asked)
        lines.append(row(name, folder))
        print("\n".join(lines), flush=True)
    if options.figure:
        draw(folders, options.figure)
    elif options.peers:
        print(peers(folders["PCA with noise"], latents, options.limit))


if __name__ == "__main__":
    main()
