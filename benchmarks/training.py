"""Training steps side by side: `python -m benchmarks.training`.

In one process the contestants of `benchmarks.contestants` take turns, so that whatever else the machine does strikes
all alike; the medians and their ratios to hand-written eager PyTorch are printed as a table in Markdown.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import Setting, Step, by_hand, numpyro, ours, products, pyro_svi

CONTESTANTS: dict[str, Callable[[Setting], Step | None]] = {
    "PyTorch": partial(by_hand, compile=False),
    "PyTorch, compiled": partial(by_hand, compile=True),
    "pyro_vae": partial(ours, compile=False),
    "pyro_vae, compiled": partial(ours, compile=True),
    "pyro.infer.SVI": pyro_svi,
    "Pyro's JIT": partial(pyro_svi, jit=True),
    "NumPyro": numpyro,
    "matrix products alone": products,
}
BASE = "PyTorch"
SETTINGS = [
    *(Setting("MLP", n) for n in (20, 100, 1000)),
    Setting("ConvNet", 100, network="convnet"),
    Setting("IAF guide", 100, guide="iaf"),
    Setting("IWAE, K = 50", 20, objective="iwae(num_particles=50)"),
]


def timed(steps: dict[str, Step], *, rounds: int, seconds: float, device: str) -> dict[str, list[float]]:
    """Seconds a step of each, `rounds` of them, taken in turn; each timing lasts about `seconds`."""

    def measure(step: Step, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / count / getattr(step, "steps", 1)

    counts = {}
    for name, step in steps.items():
        measure(step, 3)  # tracing, compiling, allocating
        once = measure(step, 3) * getattr(step, "steps", 1)
        counts[name] = max(1, round(seconds / once))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(measure(step, counts[name]))
    return found


def measure(setting: Setting, *, rounds: int, seconds: float = 0.1) -> dict[str, float]:
    """The median seconds of a step of each contestant that there is."""
    steps = {name: step for name, make in CONTESTANTS.items() if (step := make(setting)) is not None}
    found = timed(steps, rounds=rounds, seconds=seconds, device=setting.device)
    return {name: statistics.median(values) for name, values in found.items()}


def row(setting: Setting, medians: dict[str, float]) -> str:
    base = medians[BASE]
    cells = [f"{medians[name] / base:.2f}" if name in medians else "" for name in CONTESTANTS if name != BASE]
    return f"| {setting.name}, batch {setting.batch_size} | {1000 * base:.2f} ms | {' | '.join(cells)} |"


def table(results: list[tuple[Setting, dict[str, float]]]) -> str:
    names = [name for name in CONTESTANTS if name != BASE]
    head = f"| step | {BASE} | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}"
    return "\n".join([head, *(row(setting, medians) for setting, medians in results)])


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contestant (default: 15)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="settings whose name and batch begin so")
    parser.add_argument("--json", type=Path, help="also write the medians to this file")
    options = parser.parse_args(arguments)
    settings = [Setting(**{**vars(s), "device": options.device}) for s in SETTINGS]
    settings = [s for s in settings if f"{s.name} {s.batch_size}".startswith(options.only)]
    results = []
    for setting in settings:
        results.append((setting, measure(setting, rounds=options.rounds)))
        print(row(*results[-1]), flush=True)
    print("\n" + table(results))
    rows = [{**vars(setting), "seconds": medians} for setting, medians in results]
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
