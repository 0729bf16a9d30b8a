"""Importance-weighted evaluation side by side: thousand draws a second, and as a share of the matrix products alone.

The network of the first rows of `benchmarks.training`, 5,000 draws for each image; the contestants take turns.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from benchmarks.contestants import Setting, Step, library, plain_networks
from benchmarks.training import timed
from pyro_vae import log_marginal
from pyro_vae.evaluation import weighting as estimators

K, IMAGES, CHUNK = 5000, 20, 4096
LOOP, PRODUCTS = "loop over images", "products alone"


def loop(setting: Setting) -> Step:
    """As many packages do it: each image repeated 100 times through both networks, a loop over images and repeats."""
    encoder, decoder = plain_networks(setting)
    data = setting.batches()().flatten(1)[:IMAGES]

    def log_w(x: Tensor) -> Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + log_scale.exp() * noise
        log_px = -binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(
            -1
        )
        return (
            log_px
            - 0.5 * z.square().sum(-1)
            + 0.5 * noise.square().sum(-1)
            + log_scale.sum(-1)
        )

    def step() -> None:
        for x in data:
            weights = torch.cat([log_w(x.expand(100, -1)) for _ in range(K // 100)])
            weights.logsumexp(0) - math.log(K)

    return torch.no_grad()(step)


def chunked(setting: Setting) -> Step:
    """By hand, with the encoder run once an image and thousands of draws at a time."""
    encoder, decoder = plain_networks(setting)
    data = setting.batches()().flatten(1)[:IMAGES]

    def step() -> None:
        for x in data:
            loc, log_scale = encoder(x).chunk(2, -1)
            parts = []
            for done in range(0, K, CHUNK):
                noise = torch.randn(min(CHUNK, K - done), len(loc), device=x.device)
                z = loc + log_scale.exp() * noise
                logits = decoder(z)
                log_px = logits @ x - softplus(logits).sum(-1)
                parts.append(
                    log_px
                    - 0.5 * z.square().sum(-1)
                    + 0.5 * noise.square().sum(-1)
                    + log_scale.sum()
                )
            torch.cat(parts).logsumexp(0) - math.log(K)

    return torch.no_grad()(step)


def ours(setting: Setting, *, compile: bool) -> Step:
    """`log_marginal` with all its diagnostics; the graph is made before and kept from call to call."""
    vae = setting.vae().eval()
    data = setting.batches()()[:IMAGES]
    weigh = estimators._weigher(
        vae.model, vae.guide, compile, repaid=True, singly=False
    )

    def step() -> None:
        with mock.patch.object(estimators, "_weigher", return_value=weigh):
            log_marginal(vae.model, vae.guide, data, num_particles=K)

    return step


def products(setting: Setting, *, by: str = "") -> Step | None:
    """Those of the decoder for as many draws, in chunks; by `torch.mm`, or by the library of that name."""
    multiply = library(by) if by and setting.device == "cpu" else None
    if by and multiply is None:
        return None
    _, decoder = plain_networks(setting)
    weights = [
        m.weight.detach() for m in decoder.modules() if isinstance(m, torch.nn.Linear)
    ]
    rows = K // 2 if setting.device == "cpu" else K
    inputs = [torch.randn(rows, w.shape[1], device=setting.device) for w in weights]
    outputs = [torch.empty(rows, len(w), device=setting.device) for w in weights]

    def step() -> None:
        for _ in range(IMAGES * K // rows):
            for x, w, y in zip(inputs, weights, outputs, strict=True):
                if multiply is None:
                    torch.mm(x, w.t(), out=y)
                else:
                    multiply(x, w.t(), None)

    return step


CONTESTANTS: dict[str, Callable[[Setting], Step | None]] = {
    LOOP: loop,
    "PyTorch in chunks": chunked,
    "log_marginal": partial(ours, compile=False),
    "log_marginal, compiled": partial(ours, compile=True),
    PRODUCTS: products,
    "products, oneDNN": partial(products, by="oneDNN"),
    "products, ours": partial(products, by="ours"),
}


def run(*, rounds: int, device: str) -> tuple[str, dict[str, Any]]:
    """The table, and the medians in draws a second."""
    setting = Setting("MLP", 100, device=device)
    steps = {
        name: step
        for name, make in CONTESTANTS.items()
        if (step := make(setting)) is not None
    }
    medians = timed(steps, rounds=rounds, seconds=0.03, device=device)
    rates = {name: IMAGES * K / seconds for name, seconds in medians.items()}
    lines = [
        f"| evaluation | thousand draws a second | times the loop | share of the products |\n|{'---|' * 4}"
    ]
    for name, rate in rates.items():
        lines.append(
            f"| {name} | {rate / 1000:.0f} | {rate / rates[LOOP]:.1f} | {rate / rates[PRODUCTS]:.2f} |"
        )
    return "\n".join(lines), {"particles": K, "draws_per_second": rates}
