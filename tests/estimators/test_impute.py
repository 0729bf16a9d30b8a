"""`impute`, the program and the question, and values hidden on purpose."""

import json

import numpy as np
import pytest
import torch

from holed import SMALL, arrays_of, holed, mixed, written
from pyro_vae import (
    IWAE,
    Bernoulli,
    InputError,
    Spec,
    build,
    fit,
    imputations,
    load_data,
    open_run,
)
from pyro_vae.models.likelihoods import DiscretizedLogistic

pytestmark = pytest.mark.usefixtures("blank_figures")

pandas = pytest.importorskip("pandas")
FEW = ("--num-particles", 30)


def trained(call, folder, *options):
    said = call("train", *options, "--epochs", 2, *SMALL, "--output", folder)
    assert (said.code, said.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def table(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    file = written(folder / "x.csv", holed(80))
    trained(call, folder / "run", "--dataset", file, "--missing", "keep")
    return folder


def test_the_table_is_filled_in_and_else_as_it_was(table, call):
    said = call("impute", table / "run", *FEW, "--draws", 4)
    assert (said.code, said.err) == (0, "")
    before, after = (
        pandas.read_csv(p) for p in (table / "x.csv", table / "run" / "imputed.csv")
    )
    assert list(after.columns) == list(before.columns)
    assert after.notna().all().all()
    seen = before.notna()
    assert (after[seen] == before[seen])[seen].sum().sum() == seen.sum().sum()
    assert f"{int((~seen).sum().sum())} missing values" in said.out
    arrays = arrays_of(table / "run" / "imputed.npz")
    assert arrays["draws"].shape == (4, 80, 3)
    np.testing.assert_array_equal(arrays["missing"], ~seen)
    np.testing.assert_array_equal(arrays["draws"][2][seen], before.to_numpy()[seen])
    assert (arrays["std"][~seen] > 0).all()
    assert (arrays["std"][seen] == 0).all()
    np.testing.assert_allclose(arrays["x"], after.to_numpy())


def test_new_rows_are_filled_in(table, call, tmp_path):
    new = holed(7, seed=5)
    file = written(tmp_path / "new.csv", new)
    output = tmp_path / "filled.npz"
    said = call("impute", table / "run", "--data", file, *FEW, "--output", output)
    assert (said.code, said.err) == (0, "")
    filled = arrays_of(output)["x"]
    np.testing.assert_array_equal(filled[~np.isnan(new)], new[~np.isnan(new)])
    assert np.isfinite(filled).all()
    assert call("impute", table / "run", "--data", file, *FEW).code == 0
    assert (table / "run" / "imputed-new.csv").is_file()


def test_categories_come_back_by_their_names(tmp_path, call):
    file = mixed(tmp_path / "x.csv")
    asked = ("--dataset", file, "--missing", "keep", "--likelihood", "columns")
    run = trained(call, tmp_path / "run", *asked)
    assert call("impute", run, *FEW, "--output", tmp_path / "y.csv").code == 0
    before, after = pandas.read_csv(file), pandas.read_csv(tmp_path / "y.csv")
    assert list(after.columns) == ["job", "age", "member", "pay"]
    assert set(after["job"]) <= {"baker", "clerk", "smith"}
    assert set(after["member"]) <= {"yes", "no"}
    known = before["job"] != "?"
    assert (after["job"] == before["job"])[known].all()
    ages = before["age"].notna()
    assert (after["age"] == before["age"])[ages].all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output", "x.txt"), "must end in .csv, .parquet or .npz"),
        (("--output", "none/x.csv"), "the folder none does not exist"),
        (("--num-particles", 10**9), "memory"),
    ],
)
def test_what_cannot_be_written_or_weighed_is_refused(table, call, options, words):
    said = call("impute", table / "run", *options)
    assert said.code == 2
    assert words in said.err


def test_a_run_without_missing_values_is_refused(call, tmp_path):
    run = trained(call, tmp_path / "run")
    for said in (call("impute", run), call("evaluate", run, "--ask", "impute()")):
        assert said.code == 2
        assert "--missing keep" in said.err


# --------------------------------------------------------------------------------------------------------------------


def test_values_are_hidden_by_a_seed(tmp_path):
    x = np.arange(600.0).reshape(200, 3) ** 1.5
    file = written(tmp_path / "x.csv", x)
    one, two, other = (
        load_data(file, hide=0.4, hide_seed=s, divide=False) for s in (0, 0, 1)
    )
    holes = one.values["all"].isnan()
    assert torch.equal(holes, two.values["all"].isnan())
    assert not torch.equal(holes, other.values["all"].isnan())
    assert abs(holes.double().mean() - 0.4) < 4 * (0.24 / 600) ** 0.5
    np.testing.assert_array_equal(one.whole["all"].numpy(), x)
    assert one.missing
    assert torch.equal(one.values["all"][~holes], one.whole["all"][~holes])


@pytest.mark.parametrize("binarize", [None, "static", "dynamic", "threshold"])
def test_what_was_hidden_is_known_under_a_bridge(binarize):
    """Bits that are drawn are the same in both, where they were seen."""
    data = load_data("digits", hide=0.3)
    likelihood = DiscretizedLogistic((8, 8)) if binarize is None else Bernoulli((8, 8))
    bridge = data.bridge(likelihood, binarize=binarize)
    for split in ("train", "test"):
        x, whole = (
            data.split(split, bridge).fixed()[:],
            data.whole_split(split, bridge)[:],
        )
        seen = ~x.isnan()
        assert 0.69 < seen.double().mean() < 0.71
        assert torch.equal(x[seen], whole[seen].to(x))


def test_hiding_takes_a_share_and_data_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", holed())
    for share in (0, 1, 1.5):
        with pytest.raises(InputError, match=r"--hide .* must lie between 0 and 1"):
            load_data(hide=share)
    with pytest.raises(InputError, match="--stream no"):
        load_data(str(tmp_path / "x.npy"), missing="keep", hide=0.5, stream=True)


def test_imputations_of_hidden_values_are_measured(tmp_path, call):
    x = holed(120)
    x[:, 2] *= 1000
    file = written(tmp_path / "x.csv", x)
    hide = ("--missing", "keep", "--hide", 0.3, "--hide-seed", 2)
    run = trained(call, tmp_path / "run", "--dataset", file, *hide)
    said = call(
        "evaluate", run, *FEW, "--split", "train", "--ask", "impute(num_particles=200)"
    )
    assert (said.code, said.err) == (0, "")
    assert "log p(x_hidden | x_seen)" in said.out
    found = json.loads((run / "evaluation-train.json").read_text())["impute"]
    opened = open_run(run)
    whole = opened.data.whole["train"]
    hidden = opened.data.values["train"].isnan() & ~whole.isnan()
    assert found["hidden"] == int(hidden.sum())
    arrays = arrays_of(run / "evaluation-train.npz")
    assert arrays["impute_log_hidden"].shape == (len(whole),)
    assert found["c"]["hidden"] == int(hidden[:, 2].sum())
    assert 100 < found["c"]["rmse"] < 3000
    ratio = found["c"]["rmse"] / found["c"]["standard"]
    assert ratio == pytest.approx(np.nanstd(whole[:, 2].numpy()), rel=1e-4)


@pytest.mark.slow
def test_half_of_iris_is_imputed_as_in_the_literature(tmp_path):
    """MIWAE on iris: mean squared error of 0.44 to 0.52 in standard deviations (Mattei & Frellsen's notebook)."""
    from sklearn.datasets import load_iris

    whole = torch.from_numpy(load_iris().data).float()
    hidden = torch.rand(whole.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    holed_ = whole.masked_fill(hidden, torch.nan)
    torch.manual_seed(0)
    spec = Spec(
        (4,),
        1,
        network="mlp(hidden=(128, 128), activation='tanh')",
        likelihood="studentt(scale='network')",
        missing=True,
    )
    vae = build(spec)
    fit(
        vae,
        holed_,
        epochs=1000,
        batch_size=64,
        objective=IWAE(num_particles=20),
        compile=False,
    )
    point = imputations(vae, holed_, num_particles=5000).point
    error = (
        ((point - whole) / whole.std(0, unbiased=False))[hidden].square().mean().item()
    )
    assert 0.44 < error < 0.52


def test_rows_are_drawn_given_some_of_their_cells(tmp_path, call, table):
    file = mixed(tmp_path / "x.csv")
    asked = ("--dataset", file, "--missing", "keep", "--likelihood", "columns")
    run = trained(call, tmp_path / "run", *asked)
    given = ("--given", "member=yes", "--given", "age=40", "--count", 7)
    said = call("sample", run, *given)
    assert (said.code, said.err) == (0, "")
    drawn = pandas.read_csv(run / "samples" / "given.csv")
    assert drawn.shape == (7, 4)
    assert set(drawn["member"]) == {"yes"}
    assert set(drawn["age"]) == {40}
    assert set(drawn["job"]) <= {"baker", "clerk", "smith"}
    assert "effective weights" in said.out
    assert call("sample", table / "run", "--given", "b=0.25").code == 0
    plain = pandas.read_csv(table / "run" / "samples" / "given.csv")
    assert plain.shape == (100, 3)
    assert set(plain["b"]) == {0.25}
    for words, *wrong in (
        ("one of the columns of the run: a, b, c", "--given", "d=1"),
        ("must be COLUMN=VALUE", "--given", "b"),
        ("is no number", "--given", "b=x"),
        ("is no finite number", "--given", "b=nan"),
        ("is no finite number", "--given", "b=-inf"),
        ("names b twice", "--given", "b=1", "--given", "b=2"),
        ("no draws can be made", "--given", "b=1e9"),
    ):
        said = call("sample", table / "run", *wrong)
        assert said.code == 2
        assert words in said.err
    said = call("sample", run, "--given", "job=dentist")
    assert (said.code, "none of its categories" in said.err) == (2, True)
