"""Everything that claims of speed rest on: `python -m benchmarks`.

Training steps, whole epochs and importance-weighted evaluation, each against the other ways to do the same, in turn in
one process. Writes the medians as JSON and the tables of docs/performance.md.
"""

import argparse
import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import evaluation, loop, training

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"


def machine(device: str) -> str:
    """The processor or the card, in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = (
        re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of what was timed, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "pyro-ppl", "numpyro", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(page: Path, device: str, text: str) -> None:
    """Put `text` between the marks for the device on a page."""
    start, end = f"<!-- {device} -->", f"<!-- end of {device} -->"
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=int,
        default=31,
        help="timings of each contestant (default: 31)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        choices=["cpu", "cuda"],
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of PyTorch (default: all cores)",
    )
    parser.add_argument(
        "--only",
        help="training steps alone, whose name and batch begin so, such as 'MLP 100'",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds, device = options.rounds, options.device
    table, steps = training.run(rounds=rounds, device=device, only=options.only or "")
    if options.only is not None:
        print(f"\n{table}")
        return
    sentence, epoch = loop.run(rounds=rounds, device=device)
    shares, draws = evaluation.run(rounds=rounds, device=device)
    named = machine(device)
    text = f"{named}; {', '.join(f'{k} {v}' for k, v in versions().items())}.\n\n{table}\n\n{sentence}\n\n{shares}"
    print(f"\n{text}")
    results = {
        "machine": named,
        "versions": versions(),
        "training": steps,
        "epoch": epoch,
        "evaluation": draws,
    }
    (HERE / f"results-{device}.json").write_text(json.dumps(results, indent=2) + "\n")
    write(PAGE, device, text)


if __name__ == "__main__":
    main()
