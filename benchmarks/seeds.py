"""Runs of several seeds side by side and one after the other: `python -m benchmarks.seeds FOLDER -- OPTIONS`.

The same training with `--seeds 0,1,2,3`, and as four commands: seconds from the first command to the end of the last,
and the most memory of all processes together, shared pages divided among them. OPTIONS are those of the training
program; by default 30 epochs of digits.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SEEDS = (0, 1, 2, 3)
LOOKED = 0.2  # seconds between two looks at the memory
USUAL = ("--dataset", "digits", "--epochs", "30")


def family(process: int) -> list[int]:
    """A process and all that it started, and they, which still run."""
    found = [process]
    for place in found:
        try:
            text = Path(f"/proc/{place}/task/{place}/children").read_text()
        except OSError:  # it has ended
            continue
        found += map(int, text.split())
    return found


def memory(process: int) -> float:
    """MiB of a process and all that it started, shared pages divided among those that share them."""
    total = 0
    for each in family(process):
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        lines = [line.split() for line in text.splitlines()]
        total += sum(int(words[1]) for words in lines if words[0] == "Pss:")
    return total / 2**10


def done(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Seconds that commands take one after the other, and the most memory."""
    begun, most = time.perf_counter(), 0.0
    for command in commands:
        words = [sys.executable, "-m", "pyro_vae.train", *command]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, memory(process.pid))
                time.sleep(LOOKED)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - begun, most


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, for the runs")
    parser.add_argument("options", nargs="*", default=USUAL)
    options = parser.parse_args()
    place, given = options.folder, options.options
    text = ",".join(map(str, SEEDS))
    together = [*given, "--seeds", text, "--output", str(place / "together")]
    alone = [
        [*given, "--seed", str(seed), "--output", str(place / f"seed{seed}")]
        for seed in SEEDS
    ]
    print(f"{os.cpu_count()} cores\n| | seconds | MiB |\n|---|---|---|")
    rows = {"side by side": [together], "one after the other": alone}
    for name, commands in rows.items():
        seconds, most = done(commands)
        print(f"| {name} | {seconds:.1f} | {most:.0f} |", flush=True)


if __name__ == "__main__":
    main()
