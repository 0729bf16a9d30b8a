"""The programs of others with our SVI in the place of Pyro's: what is run, compared and told."""

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks import swapped
from benchmarks.pyros_own import (
    compared,
    difference,
    gain,
    notebook,
    pairs,
    program,
    row,
    script,
    suite,
    taken,
)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes that fork, and alarms"
)
MODEL = """
import pyro, torch
import pyro.distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

def model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

def train(steps):
    pyro.clear_param_store()
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    return [svi.step(torch.arange(3.0)) for _ in range(steps)]
"""
EXAMPLE = f"""{MODEL}
if __name__ == "__main__":
    import sys
    assert pyro.__version__.startswith("0.0.0")
    print("%.3f" % train(int(sys.argv[1]))[-1])
"""
TEST = f"""{MODEL}
def test_few():
    assert len(train(2)) == 2

def test_none():
    pass
"""
CELLS = [MODEL, "%matplotlib inline\nraise ValueError('this cell fails')", "train(30)"]


@pytest.fixture
def checkout(tmp_path):
    for place in ("examples", "tutorial/source", "tests"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "examples" / "example.py").write_text(EXAMPLE)
    (tmp_path / "tests" / "test_few.py").write_text(TEST)
    cells = [{"cell_type": "code", "source": [text]} for text in CELLS]
    cells.insert(0, {"cell_type": "markdown", "source": ["# Words"]})
    (tmp_path / "tutorial" / "source" / "pages.ipynb").write_text(
        json.dumps({"cells": cells})
    )
    return tmp_path


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda folder: program(script(folder, "example.py 9")), 7),
        (lambda folder: program(notebook(folder, "pages")), 7),
        (lambda folder: suite(folder, "test_few.py"), 6),
    ],
    ids=["example", "notebook", "test"],
)
def test_each_kind_of_program_in_three_modes(checkout, tmp_path, make, steps):
    """Uncompiled the losses are those of Pyro to the last digit; compiled up to rounding, by a graph."""
    options = SimpleNamespace(steps=7, seconds=100, machine_code=False)
    log = tmp_path / "log"
    found = {mode: taken(make(checkout), mode, options, log) for mode in swapped.MODES}
    theirs, ours, graphs = found.values()
    (name,) = theirs
    assert len(theirs[name][0]["losses"]) == steps
    assert compared(pairs(theirs, ours)) == (steps, 0.0)
    count, worst = compared(pairs(theirs, graphs))
    assert count == steps
    assert worst < 1e-5
    assert graphs[name][0]["graphs"] == ["operations"]
    assert f"| {steps} | yes |" in row("it", found)
    assert "| operations |" in row("it", found)
    assert not list((checkout / "examples").glob("__pycache__"))


def test_a_program_that_takes_too_long_is_ended(checkout, tmp_path):
    (checkout / "examples" / "slow.py").write_text(
        f"{MODEL}\nimport time\ntrain(3)\ntry:\n    time.sleep(60)\nexcept Exception:\n    train(3)"
    )
    options = SimpleNamespace(steps=7, seconds=5, machine_code=False)
    found = taken(
        program(script(checkout, "slow.py")), "ours", options, tmp_path / "log"
    )
    assert [len(svi["losses"]) for svi in found[""]] == [3]


def test_losses_are_compared_as_they_are():
    nan = float("nan")
    assert difference(2.0, 2.0) == difference(nan, nan) == difference("no", "no") == 0
    assert difference([1.0, 4.0], [1.0, 5.0]) == pytest.approx(0.2)
    assert difference(2.0, "no") == difference([1.0], [1.0, 1.0]) == float("inf")


def test_a_row_tells_what_differs():
    def svi(losses, seconds=2.0, **more):
        plain = {"losses": losses, "seconds": [seconds] * len(losses), "why": []}
        plain |= {"jit": False}
        return {**plain, "compiled": False, "graphs": [], **more}

    theirs = {"": [svi([1.0] * 6), svi([])]}
    ours = {"": [svi([1.0] * 5 + [1.1]), svi([])]}
    graphs = {"": [svi([1.0] * 6, 0.5, compiled=True, graphs=["operations"]), svi([])]}
    found = dict(zip(swapped.MODES, (theirs, ours, graphs), strict=True))
    assert row("it", found) == "| it | 6 | 9e-02 | to the digit | operations | 4.0 |"
    assert gain(pairs(theirs, graphs)) == "4.0"
    found[swapped.MODES[2]] = {"": [svi([1.0] * 4)]}
    assert row("it", found) == "| it | 6 | 9e-02 | to the digit, of 4 | refused |  |"
    found[swapped.MODES[0]] = {}
    assert row("it", found) == "| it | no step of an SVI |  |  |  |  |"
