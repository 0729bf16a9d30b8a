"""`--condition`: columns that the data are given, through every program; what is missing or unknown is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from matplotlib import image

from conftest import SMALL
from pyro_vae import DataWarning, InputError, load_data, open_run
from pyro_vae.data.conditions import Condition, Conditions, asked, learned

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")

K = ("--num-particles", 10)
FEW = (*SMALL, "--latent-dim", 2, "--epochs", 2)


def people(n=120):
    """A table of reals that depend on two categories and a real number."""
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(
        {"sex": rng.choice(["F", "M"], n), "site": rng.integers(1, 5, n)}
    )
    table["age"] = rng.normal(40, 12, n).round(1)
    shift = 3.0 * (table["sex"] == "F") + (table["age"] - 40) / 12
    for column in "abc":
        table[column] = (rng.normal(size=n) + shift).round(3)
    return table


@pytest.fixture
def run(call):
    people().to_csv("people.csv", index=False)
    said = call(
        "train",
        "--dataset",
        "people.csv",
        "--condition",
        "sex,age,site",
        *FEW,
        "--output",
        "run",
    )
    assert (said.code, said.err) == (0, "")
    sentence = "given      c: sex (2 categories: F, M), age (real, "
    assert sentence in said.out
    assert "site (4 categories: 1, 2, 3, 4)" in said.out
    assert "p(z) p(x|z,c); q(z|x,c)" in said.out
    return "run"


def test_conditions_are_no_data_and_reach_the_pair(run):
    opened = open_run(run)
    assert opened.spec.shape == (3,)
    assert opened.conditions.names == ("sex", "age", "site")
    table, rows = people(), opened.data.rows["test"]
    x, c = (opened.split("test")[:][name] for name in "xc")
    assert (
        x.tolist()
        == torch.tensor(table[["a", "b", "c"]].to_numpy()[rows]).float().tolist()
    )
    train = table["age"].to_numpy()[opened.data.rows["train"]]
    expected = np.concatenate(
        [
            pandas.get_dummies(table["sex"]).to_numpy()[rows],
            ((table["age"].to_numpy()[rows] - train.mean()) / train.std())[:, None],
            pandas.get_dummies(table["site"]).to_numpy()[rows],
        ],
        1,
    )
    torch.testing.assert_close(c, torch.from_numpy(expected.astype(np.float32)))
    texts = {name: table[name].iloc[rows].tolist() for name in opened.conditions.names}
    assert torch.equal(opened.condition(**texts), c)
    decoded = opened.conditions.decoded(c)
    assert decoded["sex"].tolist() == texts["sex"]
    np.testing.assert_allclose(decoded["age"], texts["age"], rtol=1e-5)


def test_an_evaluation_says_of_which_density_it_is(run, call):
    said = call("evaluate", run, *K)
    assert (said.code, said.err) == (0, "")
    assert "given c (sex, age, site): log p(x) below is log p(x|c)" in said.out
    opened = open_run(run)
    table = people().iloc[opened.data.rows["test"]]
    batch = opened.see(
        table[["a", "b", "c"]], table[["sex", "age", "site"]].to_dict("list")
    )
    split = opened.split("test")[:]
    assert all(torch.equal(batch[name], split[name]) for name in "xc")
    written = json.loads(Path("run/evaluation.json").read_text())
    assert written["given"] == ["sex", "age", "site"]

    people().to_csv("people.csv", index=False)
    options = (
        "--dataset",
        "people.csv",
        "--drop",
        "sex,age,site",
        *FEW,
        "--output",
        "plain",
    )
    assert call("train", *options).code == 0
    assert call("evaluate", "plain", *K).code == 0
    said = call("compare", run, "plain")
    assert said.code == 2
    assert "p(x|sex, age, site) (run) and p(x) (plain) are not comparable" in said.err


QUESTIONS = (
    "gaps(steps=5)",
    "ais(chains=2,temperatures=5)",
    "bdmc(n=3,chains=2,temperatures=5)",
)


def test_every_question_can_be_asked(run, call):
    asks = [word for q in (*QUESTIONS, "refined(steps=5)") for word in ("--ask", q)]
    said = call(
        "evaluate", run, *K, *asks[:-2], "--posterior", 1, "--posterior-draws", 10
    )
    assert (said.code, said.err) == (0, "")
    said = call("evaluate", run, *K, *asks[-2:], "--report", "--ood", "people.csv")
    assert (said.code, said.err) == (0, "")
    said = call("evaluate", run, "--num-particles", 30, "--adaptive")
    assert (said.code, said.err) == (0, "")
    assert call("encode", run).code == 0


def test_pictures_under_conditions(run, call):
    said = call("sample", run, "--count", 10)
    assert (said.code, said.err) == (0, "")
    shapes = {
        kind: np.load(f"run/samples/{kind}.npy").shape
        for kind in ("prior", "conditions", "transfer", "interpolation", "manifold")
    }
    assert shapes["prior"] == (10, 3)
    assert shapes["conditions"] == (2, 10, 3)
    assert shapes["transfer"] == (2, 1, 3)
    for kind, rows in {"prior": 10, "reconstructions": 10}.items():
        table = pandas.read_csv(f"run/samples/{kind}.csv")
        assert [*table][-6:] == ["a", "b", "c", "sex", "age", "site"]
        assert len(table) == rows
    made = table.set_index("row")
    stored = people().loc[made.index]
    assert made["sex"].equals(stored["sex"])
    np.testing.assert_allclose(made["age"], stored["age"], rtol=1e-5)

    options = ("--kind", "prior", "--kind", "conditions", "--output", "fixed")
    said = call("sample", run, "--given", "sex=F", "--given", "age=60", *options)
    assert (said.code, said.err) == (0, "")
    given = pandas.read_csv("fixed/prior.csv")
    assert set(given["sex"]) == {"F"}
    np.testing.assert_allclose(given["age"], 60, rtol=1e-5)
    assert np.load("fixed/conditions.npy").shape == (4, 10, 3)  # the sites


def test_tables_of_numbers_say_what_each_row_is_given(run, call):
    assert call("encode", run, "--csv", "latents.csv").code == 0
    latents = pandas.read_csv("latents.csv").set_index("row").sort_index()
    assert latents["given_sex"].tolist() == people()["sex"].tolist()
    assert call("evaluate", run, "--csv", "scores.csv", *K).code == 0
    scores = pandas.read_csv("scores.csv").set_index("row")
    assert [*scores][:5] == ["split", "given_sex", "given_age", "given_site", "log_px"]
    np.testing.assert_allclose(
        scores["given_age"], people().loc[scores.index, "age"], rtol=1e-5
    )


def test_a_table_with_holes_comes_back_with_its_conditions(call):
    """Whole columns and conditions, which the run takes as new data; pictures of lines have gaps and are not empty."""
    table = people()
    table.loc[::3, "b"] = math.nan
    table.to_csv("holes.csv", index=False)
    options = ("--condition", "sex,age,site", "--missing", "keep")
    options = (*options, *FEW, "--output", "holes")
    assert call("train", "--dataset", "holes.csv", *options).code == 0
    assert call("impute", "holes", "--num-particles", 20).code == 0
    imputed = pandas.read_csv("holes/imputed.csv")
    assert [*imputed] == ["a", "b", "c", "sex", "age", "site"]
    assert imputed["sex"].tolist() == table["sex"].tolist()
    assert imputed.notna().all(axis=None)
    assert call("evaluate", "holes", "--data", "holes/imputed.csv", *K).code == 0
    options = ("--kind", "interpolation", "--kind", "transfer", "--count", 20)
    assert call("sample", "holes", *options).code == 0
    assert ink("holes/samples/transfer.png") > 0.002
    cells = image.imread("holes/samples/interpolation.png")[..., :3]
    assert (cells.max(-1) < 0.9).mean() > 0.3  # of a picture that would be white


def ink(path):
    """The share of a picture that is blue."""
    pixels = image.imread(path)
    return float((pixels[..., 2] > pixels[..., 0] + 0.2).mean())


def test_a_condition_far_from_those_of_training_is_said(run, call):
    sentence = "age = 900 lies outside of the training data, where it is from "
    said = call("sample", run, "--kind", "prior", "--given", "age=900")
    assert said.code == 0
    assert f"note: {sentence}" in said.out
    new(lambda t: t.__setitem__("age", [41.0] * 19 + [900.0]))
    said = call("evaluate", run, "--data", "new.csv", *K)
    assert sentence.replace("900", "900 in 1 of 20 data") in said.out
    opened = open_run(run)
    with pytest.warns(DataWarning, match=sentence):
        opened.condition(sex="F", age=900, site=1)
    given = {"sex": ["F"], "age": [900.0], "site": [1]}
    with pytest.warns(DataWarning, match=sentence):
        opened.see([[0.0, 0.0, 0.0]], given)
    said = call("sample", run, "--kind", "prior", "--given", "age=41")
    assert "outside" not in said.out


def test_columns_and_conditions_can_be_given_together(run, call):
    """The rows drawn hold what is given of both; what is neither is refused with the names of the conditions."""
    given = ("--given", "sex=F", "--given", "a=1.5", "--given", "age=41")
    said = call("sample", run, *given, "--count", 7)
    assert (said.code, said.err) == (0, "")
    assert "sex = F, age = 41, site = " in said.out
    table = pandas.read_csv("run/samples/given.csv")
    assert [*table] == ["a", "b", "c", "sex", "age", "site"]
    assert len(table) == 7
    assert set(table["sex"]) == {"F"}
    np.testing.assert_allclose(table["a"], 1.5, rtol=1e-5)
    assert table["b"].nunique() == 7
    every = ("--given", "a=1", "--given", "b=1", "--given", "c=1")
    said = call("sample", run, *every)
    assert said.code == 2
    assert "--given names every column of the table" in said.err
    said = call("sample", run, *given, "--given", "height=3")
    assert said.code == 2
    sentence = "none of the conditions of the run (sex, age, site) nor of its columns"
    assert sentence in said.err


def test_a_resumed_run_ends_as_one_that_was_not_broken_off(run, call):
    options = ("--dataset", "people.csv", "--condition", "sex,age,site", *FEW)
    assert call("train", *options, "--epochs", 4, "--output", "whole").code == 0
    assert call("train", "--resume", run, "--epochs", 4).code == 0
    first, second = (
        open_run(f, checkpoint="last").vae.state_dict() for f in (run, "whole")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def new(change):
    table = people(20)
    change(table)
    table.to_csv("new.csv", index=False)


def test_new_data_bring_their_conditions(run, call):
    new(lambda t: None)
    said = call("evaluate", run, "--data", "new.csv", *K)
    assert (said.code, said.err) == (0, "")
    assert "given c (sex, age, site)" in said.out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t.__setitem__("sex", ["X"] * 20),
            "row 0 (counted from 0) of new.csv has the sex 'X'; the categories are F, M",
        ),
        (lambda t: t.pop("age"), "--condition age: new.csv has no such"),
        (
            lambda t: t.__setitem__("age", [30, math.nan] * 10),
            "row 1 (counted from 0) of new.csv has no age",
        ),
        (
            lambda t: t.__setitem__("site", 9),
            "has the site '9'; the categories are 1, 2, 3, 4",
        ),
        (lambda t: t.__setitem__("age", "old"), "age is a real number, and row 0"),
    ],
)
def test_new_data_with_other_conditions_are_refused(run, call, change, sentence):
    new(change)
    said = call("evaluate", run, "--data", "new.csv", *K)
    assert said.code == 2
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("hat", "--condition hat: people.csv has no such column"),
        ("sex,sex", "names sex twice"),
        ("sex=kind", "sex is categorical or real, not 'kind'"),
        (",", "name columns with commas between them"),
        ("sex=real", "--condition sex=real: the column holds texts, such as"),
        ("label", "people.csv has no labels; name them with --labels"),
        ("same", "--condition same: all data have the same value"),
        ("constant", "--condition constant: all training data have the same value"),
        ("gaps", "of people.csv has no gaps"),
    ],
)
def test_what_cannot_be_a_condition_is_refused(refused, condition, sentence):
    table = people()
    table["same"], table["constant"], table["gaps"] = "x", 0.5, ["u", "", "v"] * 40
    columns = {"sex", "site", "same", "constant", "gaps"} - {
        condition.partition("=")[0]
    }
    table.to_csv("people.csv", index=False)
    options = ("--dataset", "people.csv", "--drop", ",".join(columns))
    err = refused("train", *options, "--condition", condition, "--output", "run")
    assert sentence in err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--condition-encoder", "no"),
            "--condition-encoder is for a pair with a condition",
        ),
        (
            ("--prior", "conditional"),
            "there is no condition (context=0): add --condition",
        ),
        (("--condition", "batch"), "digits has no such labels; label names its labels"),
    ],
)
def test_options_that_need_a_condition_say_so(refused, options, sentence):
    assert sentence in refused("train", *options, "--output", "run")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--given", "label=x"),
            "--given 'label=x': label is one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and not 'x'",
        ),
        (
            ("--given", "x=1"),
            "'x' is no condition of the run; its conditions are label",
        ),
        (("--given", "label"), "give NAME=VALUE; its conditions are label"),
        (("--given", "label=1", "--given", "label=2"), "--given names label twice"),
    ],
)
def test_wrong_values_are_refused(call, options, sentence):
    said = call("train", "--condition", "label", *FEW, "--output", "run")
    assert (said.code, said.err) == (0, "")
    said = call("sample", "run", *options)
    assert said.code == 2
    assert sentence in said.err


def test_a_run_without_conditions_refuses_them(trained, call):
    for options in (
        ("--given", "label=1"),
        ("--kind", "transfer"),
        ("--kind", "conditions"),
    ):
        said = call("sample", trained, *options)
        assert said.code == 2
        assert "has no --condition" in said.err or "has neither" in said.err
    with pytest.raises(InputError, match="not conditional"):
        open_run(trained).condition(label=1)


@pytest.mark.parametrize("encoder", ["yes", "no"])
def test_the_encoder_may_be_left_without(call, encoder):
    options = ("--condition", "label", "--condition-encoder", encoder, *FEW)
    said = call("train", *options, "--prior", "conditional", "--output", "run")
    assert (said.code, said.err) == (0, "")
    formula = (
        "p(z|c) p(x|z,c); q(z|x,c)" if encoder == "yes" else "p(z|c) p(x|z,c); q(z|x)"
    )
    assert formula in said.out
    assert call("evaluate", "run", "--limit", 20, *K).code == 0


def test_conditions_of_an_archive_with_splits():
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 40), ("test", 10)):
        arrays[f"x_{split}"] = rng.normal(size=(n, 3))
        arrays[f"batch_{split}"] = rng.choice(["u", "v"], n)
        arrays[f"dose_{split}"] = rng.normal(size=(n, 2))
    np.savez("data.npz", **arrays)
    data = load_data("data.npz", condition="batch,dose")
    conditions, notes = data.learned("batch,dose")
    assert conditions.names == ("batch", "dose[0]", "dose[1]")
    assert not notes
    test = conditions.encode(
        {name: parts["test"] for name, parts in data.given.items()}
    )
    assert torch.equal(test[:, 1].bool(), torch.from_numpy(arrays["batch_test"] == "v"))

    del arrays["dose_test"]
    np.savez("data.npz", **arrays)
    with pytest.raises(
        InputError, match="has it for train data, and data for train, test"
    ):
        load_data("data.npz", condition="dose")


def test_conditions_of_cells():
    anndata = pytest.importorskip("anndata")
    names = [pandas.Index([f"{i}" for i in range(n)], dtype=object) for n in (50, 4)]
    with pandas.option_context("mode.string_storage", "python"):
        anndata.settings.allow_write_nullable_strings = True
        obs = pandas.DataFrame({"depth": np.linspace(0, 1, 50)}, index=names[0])
        obs["batch"] = pandas.Categorical(["one", "two"] * 25)
        counts = np.random.default_rng(0).poisson(3.0, (50, 4)).astype(np.float32)
        cells = anndata.AnnData(counts, obs=obs, var=pandas.DataFrame(index=names[1]))
        cells.write_h5ad("cells.h5ad")
    data = load_data("cells.h5ad", condition="batch,depth")
    conditions, _ = data.learned("batch,depth")
    assert str(conditions).startswith("batch (2 categories: one, two), depth (real, 0.")
    with pytest.raises(InputError, match=r"cells\.h5ad has no such column"):
        load_data("cells.h5ad", condition="donor")


@pytest.mark.parametrize(
    ("values", "kind", "categories"),
    [
        (["b", "a"] * 20, None, ("a", "b")),
        ([True, False] * 20, None, ("False", "True")),
        ([3, 1, 2, 10] * 10, None, ("1", "2", "3", "10")),
        ([3.0, 1.0] * 20, None, ("1", "3")),
        ([0.5, 1.0] * 20, None, ()),
        (list(range(40)), None, ()),
        (list(range(40)), "categorical", tuple(map(str, range(40)))),
        ([1, 2] * 20, "real", ()),
    ],
)
def test_what_a_column_is_taken_for(values, kind, categories):
    column, notes = learned("c", {"train": np.array(values)}, kind)
    assert column.categories == categories
    assert not notes
    assert column.encode(np.array(values[:5])).shape == (5, max(1, len(categories)))


def test_a_category_that_no_training_datum_has_is_said():
    parts = {"train": np.array(["a", "b"] * 5), "test": np.array(["z"])}
    column, notes = learned("c", parts, None)
    assert column.categories == ("a", "b", "z")
    assert notes == [
        "condition c: no training datum is z, so what the model says of it is not learned"
    ]


def test_more_categories_than_memory_holds_are_refused(monkeypatch):
    table = people(2000)
    table["id_of_day"] = [f"d{i % 1000}" for i in range(2000)]
    table.to_csv("people.csv", index=False)
    data = load_data("people.csv", condition="id_of_day", drop="sex,site", id="age")
    assert data.learned("id_of_day")[0].width == 1000
    monkeypatch.setattr("pyro_vae.foundation.memory.available_memory", lambda: 10e6)
    with pytest.raises(
        InputError, match=r"--condition id_of_day would take .* of memory"
    ):
        data.learned("id_of_day")


def test_conditions_are_written_and_read():
    columns = Conditions(
        (Condition("a", ("x", "y"), "y"), Condition("b", mean=2.0, std=3.0))
    )
    assert Conditions.from_list(json.loads(json.dumps(columns.to_list()))) == columns
    assert asked("a=real, b") == {"a": "real", "b": None}
    assert columns.one({}).tolist() == [[0.0, 1.0, 0.0]]
    c, names = columns.examples({"a": "x"})
    assert names == ["b -4", "b -1", "b 2", "b 5", "b 8"]
    assert c[:, 2].tolist() == [-2, -1, 0, 1, 2]


def test_missing_values_and_mixed_columns_under_conditions(call):
    table = people(200)
    table["job"] = np.random.default_rng(1).choice(["cook", "nurse"], 200)
    table.to_csv("people.csv", index=False)
    options = ("--dataset", "people.csv", "--condition", "sex,age", "--hide", "0.3")
    said = call("train", *options, "--likelihood", "columns", *FEW, "--output", "run")
    assert (said.code, said.err) == (0, "")
    said = call("evaluate", "run", *K, "--ask", "impute()")
    assert (said.code, said.err) == (0, "")
    assert "log p(x) below is log p(x|c)" in said.out
    assert call("impute", "run").code == 0
    completed = pandas.read_csv("run/imputed.csv")
    assert len(completed) == 200
    assert not completed.isna().any().any()
    opened = open_run("run")
    drawn = opened.sample(5, {"sex": "F", "age": 30.0})
    assert set(drawn["job"]) <= {"cook", "nurse"}
    said = call("sample", "run", "--given", "sex=F")
    assert (said.code, said.err) == (0, "")
    written = pandas.read_csv("run/samples/prior.csv")
    assert set(written["sex"]) == {"F"}


def test_frames_and_names_in_code(run):
    opened = open_run(run)
    table = people(20)
    seen = opened.see(table)
    beside = opened.see(table[["a", "b", "c"]], table[["sex", "age", "site"]])
    assert all(torch.equal(seen[name], beside[name]) for name in "xc")
    assert opened.sample(3, {"sex": "F", "age": 30, "site": 2}).shape == (3, 3)
    assert opened.reconstruct(table).shape == (20, 3)
    assert opened.condition(sex=["F", "M"], age=[30, 40], site=2).shape == (2, 7)
    for wrong, sentence in (
        (
            lambda: opened.sample(3),
            r"name its conditions, sample\(3, \{'sex': ..., 'age'",
        ),
        (
            lambda: opened.condition(sex=["F"] * 3, age=[1, 2], site=1),
            "age has 2 values and others 3",
        ),
        (lambda: opened.condition(sex=[None], age=1, site=1), "has no sex"),
        (lambda: opened.condition(sex="F", age=1), "the condition site is missing"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()


def test_the_runs_own_rows_under_other_conditions_are_new_data(run, call):
    table = people()
    table["sex"] = "F"
    table.to_csv("other.csv", index=False)
    said = call("evaluate", run, "--data", "other.csv", *K)
    assert (said.code, said.err) == (0, "")
    assert "120 of 120 new data" in said.out
    people().to_csv("copy.csv", index=False)
    said = call("evaluate", run, "--data", "copy.csv", *K)
    assert (said.code, said.err) == (0, "")
    assert "24 of 24 test data" in said.out


def test_labels_that_are_reals_are_numbers():
    column, _ = learned("label", {"train": np.linspace(0, 1, 400)}, None)
    assert column.categories == ()
    with pytest.raises(InputError, match="has 300 categories in 400 data"):
        learned("name", {"train": np.array([f"n{i % 300}" for i in range(400)])}, None)
