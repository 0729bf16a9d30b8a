"""The card of a run, `README.md`: what it says is what is there, and what a person wrote into it stays."""

import contextlib
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import yaml

from pyro_vae import load
from pyro_vae.foundation.marked import BLOCK
from pyro_vae.report import card as card_module
from reading import toml

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "blank_figures")

SMALL = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 2)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def front(run):
    return yaml.safe_load((run / "README.md").read_text().split("---\n")[1])


def test_training_writes_a_card_without_numbers(trained):
    text = (trained / "README.md").read_text()
    assert front(trained)["library_name"] == "pyro_vae"
    assert "model-index" not in front(trained)
    assert "this run has not been evaluated" in text
    assert toml(trained)["resolved"]["fingerprint"]["whole"] in text
    vae = load(trained)
    for part in (vae.model, vae.guide):
        assert f"{sum(p.numel() for p in part.parameters()):,} of " in text
    assert {m["name"] for m in BLOCK.finditer(text)} == {
        *("metadata", "summary", "numbers", "data", "model", "use", "training")
    }


def test_evaluation_puts_its_numbers_into_it(call, run):
    assert call("evaluate", "run", "--num-particles", 5).code == 0
    assert call("evaluate", "run", "--num-particles", 5, "--limit", 9).code == 0
    s = json.loads((run / "evaluation.json").read_text())
    marginal, text = s["log_marginal"], (run / "README.md").read_text()
    errors = marginal["data_standard_error"], marginal["monte_carlo_standard_error"]
    row = " | ".join(f"{number:.4f}" for number in (marginal["mean"], *errors))
    assert f"| digits, 359 of 359 test | {row} |" in text
    assert "| digits, 9 of 359 test |" in text
    for warning in s["warnings"]:
        assert f"- {warning}" in text
    (result,) = front(run)["model-index"][0]["results"]
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}
    assert math.isclose(result["metrics"][0]["value"], marginal["mean"], abs_tol=1e-4)


def test_numbers_of_other_weights_are_no_numbers_of_the_card(call, run):
    options = ("--checkpoint", "last", "--num-particles", 5)
    path = run / "evaluation.json"
    assert call("evaluate", "run", "--num-particles", 5).code == 0
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 1', 1))
    assert call("evaluate", "run", *options).code == 0
    assert "model-index" not in front(run)
    assert "epoch 1, which are no longer the best" in (run / "README.md").read_text()


def test_what_a_person_wrote_stays(call, run):
    path = run / "README.md"
    first = path.read_text().replace("---\n", "---\nlicense: mit\ntags:\n- mine\n", 1)
    mine = "\n## Citation\n\nOurs, 2026.\n"
    changed = first.replace("| seed | 0 |", "| seed | none |") + mine
    path.write_text(changed)
    said = call("evaluate", "run", "--num-particles", 5)
    assert said.code == 0
    assert "note: the block training of run/README.md was changed by hand" in said.out
    text = path.read_text()
    assert "| seed | none |" in text
    assert text.endswith(mine)
    assert (front(run)["license"], front(run)["tags"]) == ("mit", ["mine"])
    assert "| digits, 359 of 359 test |" in text

    # A new run in its place keeps that, and has no number of the old one.
    again = ("--epochs", 1, "--latent-dim", 3, "--output", "run", "--overwrite")
    assert call("train", *again).code == 0
    text = path.read_text()
    assert text.endswith(mine)
    assert front(run)["license"] == "mit"
    assert "359 of 359 test" not in text


def test_a_text_of_ones_own_stays_whole(call, run):
    path = run / "README.md"
    path.write_text("mine")
    said = call("evaluate", "run", "--num-particles", 5)
    assert "README.md has no blocks of this package and stays as it is" in said.out
    assert path.read_text() == "mine"
    assert call("train", *SMALL, "--output", "run", "--overwrite").code == 0
    assert path.read_text() == "mine"


def test_what_others_write_is_no_part_of_a_card(call, run):
    (run / "README.md").unlink()
    assert call("sample", "run", "--kind", "prior").code == 0
    assert not (run / "README.md").exists()


def table(path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=80)
    columns = {"a|b": z + rng.normal(size=80), "c": np.where(z > 0, "x", "y")}
    columns |= {"sex": np.where(rng.random(80) < 0.5, "f", "m")}
    pandas.DataFrame(columns).to_csv(path, index=False)


TABLE = ("--dataset", "t.csv", "--likelihood", "columns")
RUNS = {
    "bits": (),
    "point": ("--guide", "delta"),
    "table": TABLE,
    "conditional": (*TABLE, "--condition", "sex"),
    "labelled": (*TABLE, "--labels", "sex", "--structure", "labelled"),
    "layers": (*TABLE, "--structure", "chain", "--dims", "2,1"),
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_what_it_says_to_do_works_where_it_is(train, call, tmp_path, options):
    table("t.csv")
    small = SMALL[:2] + SMALL[4:] if "--dims" in options else SMALL
    run = train("run", *small, *options)
    assert call("evaluate", run, "--num-particles", 5).code == 0
    text = (run / "README.md").read_text()
    assert "None" not in BLOCK.sub("", text)
    there = shutil.move(run, tmp_path / "elsewhere")
    (tmp_path / "t.csv").unlink()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code += "assert len(mean) == len(std) == 5 and mean.isfinite().all()\n"
    sample = re.search(r"python -m pyro_vae.sample (.*)", text)[1].split()
    with contextlib.chdir(there):
        exec(code, {})
        assert call("sample", *sample).code == 0


def test_how_many_categories_there_are_is_said():
    categories = [f"c{i}" for i in range(84)]
    held = [
        {"name": "day", "kind": "category", "categories": categories},
        {"name": "sex", "kind": "bit", "categories": ["f", "m"]},
    ]
    resolved = {"columns": ["day", "sex"], "table": held}
    said = card_module._columns(SimpleNamespace(resolved=resolved))
    assert "c28, c29, ... 84 in all |" in said
    assert "| f, m |" in said


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("Adaptive(steps=100, num_particles=None)", "Adaptive(steps=100)"),
        ("Weighted(num_particles=None)", "Weighted()"),
        ("Adaptive(num_particles=None, steps=5)", "Adaptive(steps=5)"),
        ("Weighted(num_particles=50)", "Weighted(num_particles=50)"),
    ],
)
def test_how_the_number_was_found_is_told_as_it_is_written(by, told):
    s = {"dataset": "x", "data": 1, "data_in_split": 1, "split": "test", "epoch": 3}
    s |= {"log_marginal": {}, "weighting": by, "seed": 0}
    row = card_module._row(SimpleNamespace(epoch=3), "evaluation", s)
    assert row[5].startswith(f"`{told}`, ")
