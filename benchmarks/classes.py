"""Labels and clusters on MNIST: `python -m benchmarks.classes FOLDER`.

M2 as in Pyro's tutorial (50 latents, one hidden layer of 500, softplus, batches of 200, Adam at 0.00042, weight 46, 50
epochs) with 100, 600, 1,000 and 3,000 labels, without the classifier's term, and with labels that are not spread;
and the clusters of Shu's GMVAE (64 latents, two layers of 512, batches of 100, 98 epochs) with and without their start,
also on the digits that come with the package. Runs that the folder holds already are not done again. `--steps` times
a step of M2 beside the same pair written for `pyro.infer.SVI`. `PYRO_VAE_DATA` names the folder with the data.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from benchmarks.mnist import run
from benchmarks.runs import epochs_of, seconds_of
from benchmarks.training import timed
from pyro_vae import ELBO, SVI, Spec, build, open_run
from pyro_vae.evaluation.classes import Classified

M2 = [
    "--dataset",
    "mnist",
    "--network",
    "mlp(hidden=(500,), activation='softplus')",
    "--latent-dim",
    50,
]
M2 += ["--batch-size", 200, "--learning-rate", 0.00042]
GMVAE = [
    "--dataset",
    "mnist",
    "--network",
    "mlp(hidden=(512, 512))",
    "--latent-dim",
    64,
]
GMVAE += ["--batch-size", 100]
LABELS = (100, 600, 1000, 3000)
ROWS = 200  # of a step that is timed
CLASSES, LATENTS, HIDDEN, PIXELS = 10, 50, 500, 784


def plans(epochs: int, others: int) -> dict[str, list[Any]]:
    """The options of each run but its seed, by its name."""
    found: dict[str, list[Any]] = {}
    for weight, kind in ((46, "M2"), (0, "M2 without the classifier's term")):
        for count in LABELS if weight else LABELS[:1]:
            options = ["--structure", f"labelled(weight={weight})", "--labelled", count]
            found[f"{kind}, {count:,} labels"] = [*options, *M2, "--epochs", epochs]
    own = {"": "labelled(weight=46, spread=False)"}
    own[" among the others from the start"] = (
        "labelled(weight=46, labels_first=0, spread=False)"
    )
    for kind, structure in own.items():
        options = ["--structure", structure, "--labelled", LABELS[0], *M2]
        found[f"M2 with its own labels alone{kind}"] = [*options, "--epochs", epochs]
    for start, kind in (("None", "clusters"), ("0", "clusters without their start")):
        options = ["--structure", f"clusters(start={start})"]
        found[kind] = [*options, *GMVAE, "--epochs", others]
        found[f"digits, {kind}"] = options
    return found


def judged(folder: Path) -> dict[str, float]:
    """Test accuracy, held-out ELBO and seconds of a run."""
    opened = open_run(folder, checkpoint="last", device="cpu")
    x = opened.split("test")
    guide = torch.cat(
        [opened.vae.predict(x[i : i + 1000]) for i in range(0, len(x), 1000)]
    )
    assert opened.data.labels is not None
    labels = torch.from_numpy(opened.data.labels["test"].astype("int64"))
    kinds = [str(k) for k in range(CLASSES)]
    found = Classified(guide, guide.log(), labels, kinds, kinds)
    numbers = {
        "seconds": seconds_of(folder),
        "elbo": float(epochs_of(folder)[-1]["validation_elbo"]),
        "accuracy": found.accuracy(guide).mean,
    }
    return numbers | found.agreement()


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The runs as a table, means and standard deviations over seeds."""
    lines = [
        "| | seeds | accuracy | by majority | by assignment | validation ELBO | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():

        def over(key: str, digits: int, runs: Sequence[Any] = runs) -> str:
            values = [found[key] for found in runs]
            spread = (
                f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            )
            return f"{statistics.mean(values):.{digits}f}{spread}"

        named = name.startswith("M2")
        minutes = statistics.mean(found["seconds"] for found in runs) / 60
        cells = [
            over("accuracy", 4) if named else "",
            "" if named else over("accuracy by majority", 3),
            "" if named else over("accuracy by assignment", 3),
            over("elbo", 2),
            f"{minutes:.1f}",
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("| -", "| −")


class Tutorial(nn.Module):
    """M2 as plain Pyro: the pair that is timed beside ours."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = self._layers(PIXELS, CLASSES)
        self.encoder = self._layers(PIXELS + CLASSES, 2 * LATENTS)
        self.decoder = self._layers(LATENTS + CLASSES, PIXELS)

    @staticmethod
    def _layers(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, outputs)
        )

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(CLASSES)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            batch = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            both = torch.cat([z.expand(*batch, -1), y.expand(*batch, -1)], -1)
            logits = self.decoder(both)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            q = dist.OneHotCategorical(logits=self.classifier(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
            both = torch.cat([x.expand(*batch, -1), y.expand(*batch, -1)], -1)
            loc, log_scale = self.encoder(both).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def steps() -> str:
    """Steps of M2 by turns in one process: on unlabelled data `pyro.infer.SVI`'s and ours, on labelled data ours."""
    x = torch.rand(ROWS, 28, 28).round()
    theirs = Tutorial()
    pyro.clear_param_store()
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = pyro.infer.SVI(
        theirs.model, theirs.guide, pyro.optim.Adam({"lr": 4e-4}), loss
    )
    network = "mlp(hidden=(500,), activation='softplus')"
    ours = build(Spec((28, 28), LATENTS, structure="labelled", network=network))
    adam: Any = lambda p: torch.optim.Adam(p, 4e-4)  # noqa: E731
    eager = SVI(ours.model, ours.guide, adam, ELBO())
    compiled = SVI(ours.model, ours.guide, adam, ELBO(), compile=True)
    labelled = SVI(ours.model, ours.guide, adam, ELBO(), compile=True)
    flat, y = x.flatten(1), torch.eye(CLASSES)[torch.arange(ROWS) % CLASSES]

    def of_labelled() -> None:
        with labelled.labelled(True):
            labelled.step({"x": x, "c": y})

    taken: dict[str, Any] = {
        "pyro.infer.SVI": lambda: svi.step(flat),
        "eager": lambda: eager.step(x),
        "compiled": lambda: compiled.step(x),
        "compiled, all data with a label": of_labelled,
    }
    paces = timed(taken, rounds=9, seconds=0.5, device="cpu")
    first = paces["pyro.infer.SVI"]
    lines = ["| a step of M2, 200 data | ms | times as fast |", "|---|---|---|"]
    lines += [
        f"| {name} | {1000 * s:.1f} | {first / s:.2f} |" for name, s in paces.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classes", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=50, help="of M2")
    parser.add_argument("--gmvae-epochs", type=int, default=98)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", help="runs whose name begins so")
    parser.add_argument("--steps", action="store_true")
    options = parser.parse_args()
    if options.steps:
        print(steps())
        return
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name, plan in plans(options.epochs, options.gmvae_epochs).items():
            if options.only and not name.startswith(options.only):
                continue
            folder = (
                options.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            )
            kept = folder / "judged.json"
            if not kept.is_file():
                where = ["--seed", seed, "--output", folder]
                run("train", *plan, *where, "--overwrite", "--compile", "yes")
                kept.write_text(json.dumps(judged(folder)))
            results.setdefault(name, []).append(json.loads(kept.read_text()))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
