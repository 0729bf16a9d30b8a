"""The number on hard data: `python -m benchmarks.hard FOLDER`.

Trains a model that overfits 4,058 OMNIGLOT drawings as fixed bits (gated layers of 300-300, 40 latents), and prints
log p(x) of 100 test drawings by draws of the guide and by draws that are spent where they are needed, of the best and
of the last epoch. `--known` prints how bounds from both sides hold the log p(x) of models for which it is known.
`PYRO_VAE_DATA` names the folder with the data.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from benchmarks.mnist import run
from pyro_vae import (
    VAE,
    Gaussian,
    MeanField,
    StandardNormal,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_bracket,
    open_run,
)

ROWS = 100
NOISE = 0.2


def drawings(path: Path) -> None:
    """Every sixth training drawing, as bits that are drawn once."""
    stored = np.load(Path(os.environ["PYRO_VAE_DATA"]) / "omniglot/omniglot_28x28.npz")
    rng = np.random.default_rng(0)
    parts = {
        "train": stored["train"][::6][:4100],
        "validation": stored["train"][1::49],
        "test": stored["test"][::8],
    }
    bits = {
        name: (rng.random(x.shape) < x / 255).astype(np.uint8)
        for name, x in parts.items()
    }
    np.savez(path, **bits)


def on_drawings(folder: Path) -> str:
    """The table of one training run."""
    data, trained = folder / "omniglot.npz", folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    if not data.is_file():
        drawings(data)
    if not (trained / "last.safetensors").is_file():
        sizes = ["--latent-dim", 40, "--network", "gatedmlp(hidden=(300,300))"]
        steps = ["--batch-size", 100, "--epochs", 100, "--compile", "yes"]
        run("train", "--dataset", data, *sizes, *steps, "--output", trained)
    heads = (
        "epoch | ELBO | by the guide | Pareto k bad | ESS | bias | by the delta method"
    )
    lines = [f"| {heads} | spent | doubtful | seconds |", "|---" * 10 + "|"]
    for checkpoint in ("best", "last"):
        opened = open_run(trained, checkpoint=checkpoint, device="cpu")
        vae, x = opened.vae, opened.split("test")
        x = x[torch.arange(0, len(x), len(x) // ROWS)[:ROWS]]
        torch.manual_seed(0)
        plain = log_marginal(vae.model, vae.guide, x)
        begun = time.perf_counter()
        spent, effort = log_marginal_adaptive(vae, x)
        seconds = (time.perf_counter() - begun) / ROWS
        error, other = (r.monte_carlo_standard_error for r in (plain, spent))
        bad, ess = int(plain.doubtful.sum()), plain.ess.median()
        delta = -plain.standard_errors.square().mean() / 2
        lines.append(
            f"| {checkpoint} | {plain.elbo.mean():.2f} | {plain.mean:.2f} ± {error:.2f} | {bad} | {ess:.1f} | "
            f"{plain.bias:.2f} | {delta:.2f} | "
            f"{spent.mean:.2f} ± {other:.3f} | {int(effort.doubtful.sum())} | {seconds:.2f} |"
        )
        print(effort, flush=True)
    return "\n".join(lines)


class Narrow(MeanField):
    """Beside the middle of a posterior that is `loc(x)`, and narrow."""

    def __init__(self, size: int, features: int, loc: nn.Module, width: float) -> None:
        super().__init__(nn.Identity(), size, features=features)
        self.loc, self.width = loc, width

    def variational_parameters(self, h: Tensor) -> Tensor:
        loc = self.loc(h)
        return torch.cat([loc, torch.full_like(loc, math.log(self.width))], -1)


class Folds(nn.Module):
    """`|z|` in each dimension, from which the sign of z cannot be told."""

    def forward(self, z: Tensor) -> Tensor:
        return z.abs().unsqueeze(-2)


class Scaled(nn.Module):
    """A share of the data."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.7 * x


class Affine(nn.Module):
    """`x W^T + b`, as what a likelihood of reals reads or a guide begins with."""

    def __init__(self, weight: Tensor, shift: float, *, channel: bool) -> None:
        super().__init__()
        self.weight, self.shift, self.channel = weight, shift, channel

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T + self.shift
        return y.unsqueeze(-2) if self.channel else y


def known() -> Iterator[tuple[str, VAE, Tensor, Tensor]]:
    """Models with data and their log p(x)."""
    for size in (8, 20, 40):
        generator = torch.Generator().manual_seed(size)
        w = torch.randn(2 * size, size, generator=generator, dtype=torch.float64)
        one = torch.eye(size).double()
        covariance = torch.linalg.inv(one + w.T @ w / 0.49)
        marginal = MultivariateNormal(
            torch.zeros(2 * size).double(),
            w @ w.T + 0.49 * torch.eye(2 * size).double(),
        )
        loc = Affine(covariance @ w.T / 0.49, 0.5, channel=False)
        guide = Narrow(size, 2 * size, loc, 0.05)
        likelihood = Gaussian((2 * size,), scale=0.7)
        decoder = Affine(w, 0.0, channel=True)
        vae = VAE(StandardNormal(size), decoder, likelihood, guide).double()
        x = marginal.sample((200,))
        yield f"linear, {size} latents", vae, x, marginal.log_prob(x)
    for size in (1, 2, 6):
        guide = Narrow(size, size, Scaled(), 0.08)
        likelihood = Gaussian((size,), scale=NOISE)
        vae = VAE(StandardNormal(size), Folds(), likelihood, guide).double()
        x = 1.2 + 0.6 * torch.rand(300, size, dtype=torch.float64)
        z = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
        log_p = Normal(z.abs(), NOISE).log_prob(x.unsqueeze(-1))
        density = (Normal(0.0, 1.0).log_prob(z) + log_p).exp()
        truth = torch.trapezoid(density, z, dim=-1).log().sum(-1)
        yield f"folded, {2**size} modes", vae, x, truth


def bounds() -> str:
    """How bounds from both sides hold what is known."""
    lines = [
        "| model | data | lower − truth | upper − truth | within 0.3 | held |",
        "|---|---|---|---|---|---|",
    ]
    torch.manual_seed(1)
    for name, vae, x, truth in known():
        found = log_marginal_bracket(vae, x)
        low, high = found.bounds().unbind(-1)
        held = ((low <= truth) & (truth <= high)).float().mean()
        below, above = (found.lower - truth).mean(), (found.upper - truth).mean()
        within = found.certified.float().mean()
        lines.append(
            f"| {name} | {len(x)} | {below:.3f} | {above:.3f} | {within:.0%} | {held:.1%} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hard", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--known", action="store_true")
    options = parser.parse_args()
    print(bounds() if options.known else on_drawings(options.folder))


if __name__ == "__main__":
    main()
