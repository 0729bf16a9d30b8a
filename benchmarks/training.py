"""Training steps side by side.

In one process the contestants of `benchmarks.contestants` take turns, so that whatever else the machine does strikes
all alike; the medians and their ratios to hand-written eager PyTorch are what counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from benchmarks.contestants import (
    Setting,
    Step,
    by_hand,
    numpyro,
    ours,
    products,
    pyro_svi,
)

CONTESTANTS: dict[str, Callable[[Setting], Step | None]] = {
    "PyTorch": partial(by_hand, compile=False),
    "PyTorch, compiled": partial(by_hand, compile=True),
    "pyro_vae": partial(ours, compile=False),
    "pyro_vae, compiled": partial(ours, compile=True),
    "pyro.infer.SVI": pyro_svi,
    "Pyro's JIT": partial(pyro_svi, jit=True),
    "NumPyro": numpyro,
    "products alone": products,
    "products, oneDNN": partial(products, by="oneDNN"),
    "products, ours": partial(products, by="ours"),
}
BASE = "PyTorch"
SETTINGS = [
    *(Setting("MLP", n) for n in (20, 100, 1000)),
    Setting("ConvNet", 100, network="convnet"),
    Setting("IAF guide", 100, guide="iaf"),
    Setting("IWAE, K = 50", 20, objective="iwae(num_particles=50)"),
]


def timed(
    steps: dict[str, Step], *, rounds: int, seconds: float, device: str
) -> dict[str, float]:
    """The median seconds a step of each, from `rounds` timings taken in turn; each lasts about `seconds`."""

    def measure(step: Step, count: int) -> float:
        step()  # not timed: nobody pays for the caches that another contestant has emptied
        wait()
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return (time.perf_counter() - started) / count / getattr(step, "steps", 1)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    counts = {}
    for name, step in steps.items():
        measure(step, 3)  # tracing, compiling, allocating
        once = measure(step, 3) * getattr(step, "steps", 1)
        counts[name] = max(1, round(seconds / once))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(measure(step, counts[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def measure(
    setting: Setting, *, rounds: int, seconds: float = 0.03
) -> dict[str, float]:
    """The median seconds of a step of each contestant that there is."""
    steps = {
        name: step
        for name, make in CONTESTANTS.items()
        if (step := make(setting)) is not None
    }
    return timed(steps, rounds=rounds, seconds=seconds, device=setting.device)


def row(setting: Setting, medians: dict[str, float]) -> str:
    base = medians[BASE]
    cells = [
        f"{medians[name] / base:.2f}" if name in medians else ""
        for name in CONTESTANTS
        if name != BASE
    ]
    return f"| {setting.name}, batch {setting.batch_size} | {1000 * base:.2f} ms | {' | '.join(cells)} |"


def table(results: list[tuple[Setting, dict[str, float]]]) -> str:
    """In Markdown: the median step of hand-written eager PyTorch, the others as multiples of it."""
    names = [name for name in CONTESTANTS if name != BASE]
    head = f"| step | {BASE} | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}"
    return "\n".join([head, *(row(setting, medians) for setting, medians in results)])


def run(
    *, rounds: int, device: str, only: str = ""
) -> tuple[str, list[dict[str, Any]]]:
    """The table, and the medians in seconds by setting."""
    settings = [
        replace(s, device=device)
        for s in SETTINGS
        if f"{s.name} {s.batch_size}".startswith(only)
    ]
    results = []
    for setting in settings:
        results.append((setting, measure(setting, rounds=rounds)))
        print(row(*results[-1]), flush=True)
    return table(results), [
        {**asdict(setting), "seconds": medians} for setting, medians in results
    ]
