"""Factors beside the data, from the file to the answer."""

import json
from pathlib import Path

import numpy as np
import pytest

from reading import mentions, newest

QUICK = ("--network", "mlp(hidden=(8,))", "--latent-dim", 3, "--epochs", 1)
ASKED = ("--num-particles", 5, "--ask")
SHORT = "halves=3, trees=3"


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """300 rows of numbers, and two factors of them that are no data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    size, form = rng.normal(size=300), rng.integers(3, size=300)
    x = np.stack([size, size + form, form, rng.normal(size=300)], 1)
    return x + 0.1 * rng.normal(size=x.shape), size, form


def answer_of(run):
    return json.loads(newest(Path(run)).read_text())["disentanglement"]


def test_columns_that_are_dropped_from_a_table_are_factors(call, rows, refused):
    x, size, form = rows
    lines = [
        ",".join([*(f"{v:.4f}" for v in row), f"{s:.4f}", "abc"[f]])
        for row, s, f in zip(x, size, form, strict=True)
    ]
    text = "\n".join(["a,b,c,d,size,form", *lines])
    with open("table.csv", "w") as file:
        file.write(text + "\n")
    kept = ("--drop", "size,form", "--likelihood", "gaussian")
    call("train", "--dataset", "table.csv", *kept, *QUICK, "--output", "run")
    asked = f"disentanglement(factors='size,form', {SHORT})"
    said = call("evaluate", "run", *ASKED, asked)
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "Disentanglement: of size, form in 3 latents, on 60 data")
    found = answer_of("run")
    assert found["SAP"]["low"] <= found["SAP"]["value"] <= found["SAP"]["high"]
    assert found["entropy"][1] == pytest.approx(np.log(3), abs=0.1)

    # Of new rows in another order the factors go along with them.
    with open("new.csv", "w") as file:
        file.write("\n".join([text.splitlines()[0], *lines[100:40:-1]]) + "\n")
    said = call("evaluate", "run", "--data", "new.csv", *ASKED, asked)
    assert said.code == 0, said.err
    assert answer_of("run")["data"] == 60

    mentions(
        refused("evaluate", "run", "--ask", "disentanglement(factors='weight')"),
        "weight",
        "size",
    )
    mentions(
        refused("evaluate", "run", "--ask", "disentanglement"),
        "no labels",
        "name columns of the data, as in factors='size,form'",
    )


def test_arrays_of_an_archive_are_factors_split_by_split(call, rows):
    x, size, form = rows
    parts = {"train": slice(200), "test": slice(200, 300)}
    arrays = {}
    for split, part in parts.items():
        arrays |= {f"x_{split}": x[part], f"size_{split}": size[part]}
        arrays |= {f"form_{split}": form[part]}
    np.savez("data.npz", **arrays)
    kept = ("--likelihood", "gaussian", "--condition", "form")
    call("train", "--dataset", "data.npz", *kept, *QUICK, "--output", "run")
    asked = f"disentanglement(factors='size,form', {SHORT})"
    said = call("evaluate", "run", "--limit", 50, *ASKED, asked)
    assert (said.code, said.err) == (0, "")
    found = answer_of("run")
    counts = np.bincount(form[200:300][::2])
    p = counts / counts.sum()
    entropy = -(p * np.log(p)).sum() + 2 / 100
    assert found["entropy"][1] == pytest.approx(
        entropy
    )  # of these data, in their order
    said = call("evaluate", "run", *ASKED, f"disentanglement({SHORT})")
    mentions(said.out, "Disentanglement: of form in 3 latents, on 100 data")


@pytest.mark.slow
def test_shapes_from_training_to_their_factors(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("train", "--dataset", "shapes", "--epochs", 2, "--output", "run")
    asked = f"disentanglement({SHORT})"
    said = call("evaluate", "run", "--limit", 500, *ASKED, asked)
    assert (said.code, said.err) == (0, "")
    mentions(said.out, "of x, y, size, angle, colour, form in")
    found = answer_of("run")
    assert len(found["mutual_information"][0]) == 6
    assert found["DCI informativeness"]["value"] > 0.3
    assert abs(found["DCI informativeness"]["chance"]) < 0.2
    on_colour = ("--condition", "colour=real,form", "--epochs", 1, "--output", "given")
    assert call("train", "--dataset", "shapes", *on_colour).code == 0


def test_categories_that_are_many_or_rare_are_said(call, rows, refused):
    x, _, form = rows
    place = np.array([f"p{i // 3}" for i in range(300)])
    place[297] = "once"
    text = np.array([f"t{i}" for i in range(300)])
    beside = {"form": form, "place": place, "text": text}
    parts = {"train": slice(300), "test": slice(300)}
    arrays = {
        f"{name}_{split}": values[part]
        for name, values in {"x": x, **beside}.items()
        for split, part in parts.items()
    }
    np.savez("data.npz", **arrays)
    call(
        "train",
        *("--dataset", "data.npz", "--likelihood", "gaussian", *QUICK),
        *("--output", "run"),
    )
    for by in ("forest", "lasso"):
        asked = f"disentanglement(factors='form,place', by={by}, {SHORT})"
        said = call("evaluate", "run", *ASKED, asked)
        assert said.code == 0, said.err
        mentions(said.err + said.out, "of 1 of the categories of place", "one datum")
        assert answer_of("run")["entropy"][1] > np.log(90)
    mentions(
        refused("evaluate", "run", *ASKED, "disentanglement(factors='text')"),
        "the factor text has 300 categories in 300 data",
        "leave it out",
    )


def test_columns_of_mixed_kinds_that_are_data_are_no_factors(call, rows, refused):
    x, _, form = rows
    lines = [f"{a:.3f},{'abc'[f]}" for a, f in zip(x[:, 0], form, strict=True)]
    Path("table.csv").write_text("\n".join(["a,form", *lines]) + "\n")
    call(
        "train",
        *("--dataset", "table.csv", "--likelihood", "columns", *QUICK),
        *("--output", "run"),
    )
    for asked in ("clustering(labels=form)", "disentanglement(factors=form)"):
        mentions(
            refused("evaluate", "run", *ASKED, asked),
            "the column form is among the data of the run",
            "--drop form",
        )
    mentions(refused("evaluate", "run", *ASKED, "clustering"), "labels label: ")
