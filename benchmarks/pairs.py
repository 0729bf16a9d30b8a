"""Any Pyro pair, step by step, against `pyro.infer.SVI`: `python -m benchmarks.pairs`.

For each pair of `benchmarks.zoo`: whether the losses of 400 steps are those of Pyro, how the step is compiled, how
long it takes, and the seconds until the first compiled step is done. One process, one thread; blocks of steps of all
are taken in turn, and medians of the processor's time compared. Writes `results-pairs.json` and the table of
docs/any-model.md.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.infer
import pyro.optim
import torch

from benchmarks.__main__ import HERE, write
from benchmarks.zoo import PAIRS
from pyro_vae import SVI
from pyro_vae.engine import compiled
from pyro_vae.foundation.files import write_atomically

RESULTS = HERE / "results-pairs.json"
PAGE = HERE.parent / "docs" / "any-model.md"
WARM = 110  # steps before any is timed, in which a graph is held against Python
BLOCK = 50  # steps that are timed together
RATE = 0.01


def adam() -> Any:
    return pyro.optim.Adam({"lr": RATE})


def fused(parameters: list[torch.Tensor]) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=RATE, fused=True)


class Contestant:
    """A way to take steps of a pair, with a parameter store of its own."""

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.why = ""  # it is not compiled
        pyro.clear_param_store()
        pair = make()
        loss = pair.loss
        if name == "JIT":
            loss = getattr(pyro.infer, f"Jit{type(loss).__name__}")(
                **{
                    k: v
                    for k, v in vars(loss).items()
                    if k in ("num_particles", "max_plate_nesting")
                },
                ignore_jit_warnings=True,
            )
        engine: Any = SVI if name.startswith("ours") else pyro.infer.SVI
        optim: Any = fused if name == "ours, fused" else adam()
        self.svi = engine(pair.model, pair.guide, optim, loss)
        if name.startswith("ours, "):
            self.svi.compile(warn=self._say)
        self._args = pair.args
        pyro.set_rng_seed(0)
        self._random = torch.get_rng_state()
        self._store = pyro.get_param_store().get_state()

    def _say(self, text: str) -> None:
        self.why = text

    def block(self, steps: int) -> None:
        """Take steps with the store and the random numbers of this contestant."""
        pyro.get_param_store().set_state(self._store)
        torch.set_rng_state(self._random)
        started = time.process_time()
        losses = [self.svi.step(*self._args) for _ in range(steps)]
        self.seconds.append((time.process_time() - started) / steps)
        self.losses += [float(v[0] if isinstance(v, tuple) else v) for v in losses]
        self._random = torch.get_rng_state()
        self._store = pyro.get_param_store().get_state()

    @property
    def graphs(self) -> list[Any]:
        """The compiled graphs of the step."""
        return list(self.svi._compiled._graphs.values())


def measure(make: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Times and losses of one pair, by every contestant that can."""
    contestants: dict[str, Contestant] = {}
    jit = f"Jit{type(make().loss).__name__}"
    names = [
        "Pyro",
        "ours",
        "ours, compiled",
        "ours, fused",
        *(["JIT"] if hasattr(pyro.infer, jit) else []),
    ]
    for name in names:
        contestants[name] = Contestant(make, name)
        try:
            for steps in (2, WARM):
                contestants[name].block(steps)
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
            del contestants[name]
    for _ in range(rounds):
        for contestant in contestants.values():
            contestant.block(BLOCK)
    theirs = contestants["Pyro"]
    step = {n: statistics.median(c.seconds[2:]) for n, c in contestants.items()}
    mine = contestants["ours, compiled"]
    largest = max(map(abs, theirs.losses))
    difference = (
        max(abs(a - b) for a, b in zip(theirs.losses, mine.losses, strict=True))
        / largest
    )
    way = "no"
    if mine.graphs:
        way = "machine code" if mine.graphs[0].machine else "operations"
    return {
        "same": theirs.losses == contestants["ours"].losses,
        "difference": difference,
        "way": way,
        "why": mine.why,
        "microseconds": round(1e6 * step["Pyro"]),
        "first": round(2 * mine.seconds[0], 1),
        **{
            name: round(step["Pyro"] / value, 1)
            for name, value in step.items()
            if name != "Pyro"
        },
    }


def table(rows: dict[str, Any]) -> str:
    """In Markdown, a pair a row."""
    heads = [
        "pair",
        "Pyro, µs",
        "equal",
        "uncompiled",
        "**compiled**",
        "compiled, fused Adam",
        "Pyro's JIT",
        "as",
        "first step, s",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, row in rows.items():
        equal = "to the digit" if row["same"] else "no"
        cells = [
            name,
            f"{row['microseconds']:,}",
            f"{equal}, {row['difference']:.0e}",
            f"{row['ours']:.1f}",
            f"**{row['ours, compiled']:.0f}**",
            f"{row['ours, fused']:.0f}",
            f"{row['JIT']:.1f}" if "JIT" in row else "",
            row["way"],
            f"{row['first']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs", description=__doc__
    )
    parser.add_argument(
        "--rounds", type=int, default=6, help="blocks of 50 steps of each (default: 6)"
    )
    parser.add_argument(
        "--only",
        default="",
        help="measure pairs whose name holds this text, and keep the others'",
    )
    parser.add_argument(
        "--promoted",
        action="store_true",
        help="time large graphs as the machine code that later calls would make of them; write nothing",
    )
    options = parser.parse_args()
    if options.promoted:
        compiled.REPAID = WARM // 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known = json.loads(RESULTS.read_text())["pairs"] if RESULTS.exists() else {}
    for name, make in PAIRS.items():
        if options.only in name:
            known[name] = measure(make, options.rounds)
            print(name, known[name], file=sys.stderr, flush=True)
    rows = {name: known[name] for name in PAIRS if name in known}
    print(table({name: row for name, row in rows.items() if options.only in name}))
    if options.promoted:
        return
    text = json.dumps({"torch": torch.__version__, "pairs": rows}, indent=1) + "\n"
    write_atomically(RESULTS, lambda path: path.write_text(text))
    write(PAGE, "pairs", table(rows))


if __name__ == "__main__":
    main()
