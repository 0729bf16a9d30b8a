"""Pyro's own tests, examples and notebooks with our SVI in the place of its own.

`python -m benchmarks.pyros_own CHECKOUT`: a folder with Pyro's sources, which are not changed; the installed Pyro is
used. Each program runs three times from the same random numbers: with `pyro.infer.SVI`, with ours, and with ours
compiled. Every SVI in it is cut to its first steps, and its losses are compared one by one. Downloads are replaced by
random data, see `benchmarks.stand_ins`; chains are cut short. Prints the table of docs/any-model.md. For Unix, where
processes fork.
"""

import argparse
import json
import multiprocessing
import os
import re
import shlex
import signal
import statistics
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from benchmarks import stand_ins, swapped
from pyro_vae.engine import compiled

# Steps of a graph that are held against Python, and take longer.
CHECKED = (
    2,
    3,
    5,
    10,
    20,
    50,
    100,
)
# Of Pyro when it was written.
VERSION = re.compile(r"^ *assert pyro\.__version__.*$", re.M)
MAGIC = re.compile(r"^(\s*)[%!].*$", re.M)  # lines of a notebook that are not Python
TESTS = (
    "infer/test_predictive.py",
    "infer/test_inference.py",
    "infer/test_enum.py",
    "contrib/test_minipyro.py",
    "contrib/tracking/test_em.py",
    "contrib/mue/test_models.py",
    "contrib/forecast/test_forecaster.py",
    "contrib/cevae",
)
HMM = "--num-steps=7 --truncate=10"
EXAMPLES = (
    "air/main.py --num-steps=12",
    "air/main.py --num-steps=12 --no-baseline",
    "vae/vae.py -n 1",
    "vae/vae_comparison.py --num-epochs=1",
    "vae/ss_vae_M2.py --num-epochs=1",
    "vae/ss_vae_M2.py --num-epochs=1 --aux-loss",
    "vae/ss_vae_M2.py --num-epochs=1 --enum-discrete=parallel",
    "vae/ss_vae_M2.py --num-epochs=1 --enum-discrete=sequential",
    "cvae/main.py --num-quadrant-inputs=1 --num-epochs=1",
    "dmm.py --num-epochs=1",
    "dmm.py --num-epochs=1 --num-iafs=1",
    "dmm.py --num-epochs=1 --tmc --tmc-num-samples=2",
    *(f"hmm.py {HMM} --model={i}" for i in range(8)),
    f"hmm.py {HMM} --model=6 --raftery-parameterization",
    *(f"hmm.py {HMM} --model={i} --tmc --tmc-num-samples=2" for i in range(1, 7)),
    *(f"contrib/funsor/hmm.py {HMM} --model={i}" for i in range(7)),
    f"contrib/funsor/hmm.py {HMM} --model=6 --raftery-parameterization",
    *(f"capture_recapture/cjs.py --num-steps=12 -m {i}" for i in range(1, 6)),
    "capture_recapture/cjs.py --num-steps=12 -m 1 --tmc --tmc-num-samples=2",
    "eight_schools/svi.py --num-epochs=12",
    "lda.py --num-steps=8 --num-words=100 --num-docs=100 --num-words-per-doc=8",
    "toy_mixture_model_discrete_enumeration.py -n 12",
    "minipyro.py --backend=pyro -n 12",
    "neutra.py -n 12",
    "sparse_gamma_def.py --num-epochs=12 --guide=custom",
    "sparse_gamma_def.py --num-epochs=12 --guide=auto",
    "sparse_gamma_def.py --num-epochs=12 --guide=easy",
    "svi_horovod.py --num-epochs=2 --size=400 --no-horovod",
    "scanvi/scanvi.py --num-epochs=12 --dataset=mock",
    "contrib/autoname/mixture.py --num-epochs=12",
    "contrib/autoname/scoping_mixture.py --num-epochs=12",
    "contrib/autoname/tree_data.py --num-epochs=12",
    "contrib/cevae/synthetic.py --num-epochs=1 --num-data=500 --feature-dim=4 --hidden-dim=10",
    "contrib/epidemiology/sir.py --nojit -np=128 -ss=12 -n=4 -d=20 -p=1000 -f 2 --svi",
    "contrib/epidemiology/regional.py --nojit -ss=12 -n=4 -r=3 -d=20 -p=1000 -f 2 --svi",
    "contrib/forecast/bart.py --num-steps=12 --stride=99999",
    "contrib/mue/FactorMuE.py --test --small --include-stop --no-plots --no-save",
    "contrib/mue/ProfileHMM.py --test --small --no-plots --no-save",
    "contrib/oed/ab_test.py --num-vi-steps=6 --num-bo-steps=1",
)
NOTEBOOKS = """
    air bayesian_regression bayesian_regression_ii boosting_bbvi dirichlet_process_mixture
    easyguide ekf epi_intro forecasting_dlm forecasting_i forecasting_ii forecasting_iii gmm
    intro_long intro_part_ii jit logistic-growth mle_map modules predictive_deterministic
    prodlda scanvi stable svi_flow_guide svi_part_i svi_part_iii tracking_1d vae workflow
    working_memory
"""


class LateError(KeyboardInterrupt):
    """A program has had its time; nothing that it catches."""


def late(*_: Any) -> NoReturn:
    raise LateError


def script(folder: Path, line: str) -> Callable[[], None]:
    """What runs an example, in a folder of its own, as a line of the command line would."""

    def run() -> None:
        name, *arguments = shlex.split(line)
        path = folder / "examples" / name
        sys.path.insert(0, str(path.parent))
        sys.argv = [str(path), *arguments]
        source = VERSION.sub("", path.read_text())
        exec(
            compile(source, path, "exec"),
            {"__name__": "__main__", "__file__": str(path)},
        )

    return run


def notebook(folder: Path, name: str) -> Callable[[], None]:
    """What runs the cells of a notebook one by one; one that fails is told, and the next goes on."""

    def run() -> None:
        path = folder / "tutorial" / "source" / f"{name}.ipynb"
        cells = json.loads(path.read_text())["cells"]
        names: dict[str, Any] = {"__name__": "__main__", "display": print}
        # Which asks for its small data.
        os.environ |= {"CI": "1"} if name == "scanvi" else {}
        for number, cell in enumerate(c for c in cells if c["cell_type"] == "code"):
            source = MAGIC.sub(r"\1pass", VERSION.sub("", "".join(cell["source"])))
            try:
                exec(compile(source, f"{name}, cell {number}", "exec"), names)
            except Exception:
                traceback.print_exc()

    return run


def program(work: Callable[[], None]) -> Callable[[], dict[str, Any]]:
    """What runs a program under its seed: its SVIs under the one name `""`."""

    def run() -> dict[str, Any]:
        swapped.seed()
        try:
            work()
        except (SystemExit, LateError):
            pass
        except Exception:
            traceback.print_exc()
        return {"": [svi.told() for svi in swapped.MADE]}

    return run


def suite(folder: Path, name: str) -> Callable[[], dict[str, Any]]:
    """What runs a file or a folder of tests: the SVIs of each by its name."""

    def run() -> dict[str, Any]:
        os.chdir(folder)
        plugin = swapped.Tests()
        pytest.main(["-q", "-p", "no:cacheprovider", f"tests/{name}"], plugins=[plugin])
        return plugin.found

    return run


def taken(
    run: Callable[[], dict[str, Any]], mode: str, options: Any, log: Path
) -> dict[str, Any]:
    """What the SVIs of a program did in one mode, from a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"

        def child() -> None:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(place)
            sys.dont_write_bytecode = True
            warnings.simplefilter("ignore")
            stand_ins.install(Path(place))
            swapped.swap(mode, options.steps)
            if not options.machine_code:
                compiled.LARGE = 0  # every graph is interpreted
            signal.signal(signal.SIGALRM, late)
            signal.alarm(options.seconds)
            found = run()
            signal.alarm(0)
            result.write_text(json.dumps(found))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(options.seconds + 60)
        process.kill()
        process.join()
        return json.loads(result.read_text()) if result.exists() else {}


def difference(a: Any, b: Any) -> float:
    """How far two losses are apart, relative to the larger; 0 for the same words, and for nan in both."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(difference, a, b), default=0.0)
    if isinstance(a, (str, list)) or isinstance(b, (str, list)):
        return 0.0 if a == b else float("inf")
    if a == b or (a != a and b != b):  # noqa: PLR0124  # nan
        return 0.0
    return abs(a - b) / max(abs(a), abs(b))


def pairs(theirs: dict[str, Any], ours: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The SVIs of one mode that took steps beside the same of another."""
    both = [name for name in theirs if name in ours]
    found = [p for n in both for p in zip(theirs[n], ours[n], strict=False)]
    return [(a, b) for a, b in found if a["losses"] and b["losses"]]


def compared(found: Sequence[tuple[Any, Any]]) -> tuple[int, float]:
    """How many losses both have, and the largest difference."""
    losses = [
        losses
        for a, b in found
        for losses in zip(a["losses"], b["losses"], strict=False)
    ]
    return len(losses), max((difference(a, b) for a, b in losses), default=0.0)


def ways(found: Sequence[tuple[Any, Any]]) -> str:
    """How the steps of compiled SVIs were taken, and of how many of them."""
    counts: dict[str, int] = {}
    for _, b in found:
        way = (
            "refused"
            if not b["compiled"]
            else b["graphs"][-1]
            if b["graphs"]
            else "no graph"
        )
        counts[way] = counts.get(way, 0) + 1
    return ", ".join(
        way if len(counts) == 1 else f"{n} {way}" for way, n in counts.items()
    )


def gain(found: Sequence[tuple[Any, Any]]) -> str:
    """How many times as fast steps of graphs are, by the processor's time."""
    times = []
    for a, b in found:
        late = [i for i in range(4, len(b["seconds"])) if i not in CHECKED]
        if (
            b["compiled"]
            and b["graphs"]
            and late
            and len(a["seconds"]) >= len(b["seconds"])
        ):
            each = (
                statistics.median(svi["seconds"][i] for i in late) for svi in (a, b)
            )
            times.append(next(each) / max(next(each), 1e-9))
    ends = dict.fromkeys(f"{t:.1f}" for t in (min(times), max(times))) if times else {}
    return " to ".join(ends)


def row(label: str, found: dict[str, dict[str, Any]]) -> str:
    """A row of the table: what was compared, whether it is equal, and how it was compiled.

    Compiled, losses of Pyro's JIT are left out: it draws other random numbers, several times in its first call and none
    that nobody uses.
    """
    theirs, ours, graphs = (found[mode] for mode in swapped.MODES)
    plainly, every = pairs(theirs, ours), pairs(theirs, graphs)
    if not plainly:
        return f"| {label} | no step of an SVI |  |  |  |  |"
    label += "" if "" in theirs else f", {len(theirs)} tests"
    count, worst = compared(plainly)
    equal = "yes" if worst == 0 else f"{worst:.0e}"

    quickly = [(a, b) for a, b in every if not b["jit"]]
    few, far = compared(quickly)
    apart = "to the digit" if far == 0 else f"{far:.0e}"
    apart += f", of {few}" if few < count else ""
    if few == 0:
        apart = "a loss under the JIT" if every else "not in time"
    return (
        f"| {label} | {count} | {equal} | {apart} | {ways(quickly)} | {gain(quickly)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pyros_own", description=__doc__
    )
    parser.add_argument("checkout", type=Path, help="a folder with Pyro's sources")
    parser.add_argument(
        "--only", default="", help="programs whose line holds this text"
    )
    parser.add_argument(
        "--steps", type=int, default=12, help="of each SVI (default: 12)"
    )
    parser.add_argument(
        "--seconds", type=int, default=100, help="for each run (default: 100)"
    )
    parser.add_argument(
        "--log", type=Path, default=Path("pyros_own.log"), help="what they print"
    )
    parser.add_argument(
        "--machine-code",
        action="store_true",
        help="compile graphs instead of interpreting them",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, log = options.checkout.resolve(), options.log.resolve()
    programs = {f"`tests/{name}`": suite(folder, name) for name in TESTS}
    programs |= {f"`{line}`": program(script(folder, line)) for line in EXAMPLES}
    programs |= {
        f"notebook `{name}`": program(notebook(folder, name))
        for name in NOTEBOOKS.split()
    }
    print(
        "| program | losses | uncompiled equal | compiled | as | gain |\n|---|---|---|---|---|---|"
    )
    for label, run in programs.items():
        if options.only in label:
            found = {mode: taken(run, mode, options, log) for mode in swapped.MODES}
            print(row(label, found), flush=True)
            svis = [svi for each in found[swapped.MODES[-1]].values() for svi in each]
            for sentence in dict.fromkeys(
                sentence for svi in svis for sentence in svi["why"]
            ):
                print(f"  {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
