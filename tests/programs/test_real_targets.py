"""A real target of a table through every program, with labels that some rows have."""

import numpy as np
import pandas
import pytest
import torch

from conftest import SMALL
from pyro_vae import InputError, load_data, log_marginal, open_run
from pyro_vae.data.targets import with_targets
from reading import newest

REAL = ("--structure", "labelled(target='real')")
FEW = (*SMALL, "--latent-dim", 2, "--epochs", 3)
N = 160


def table():
    """Three columns that depend on a price, which a fifth of the rows do not have; some prices are -1."""
    rng = np.random.default_rng(0)
    price = rng.normal(200, 40, N).round(2)
    price[:5] = -1
    frame = pandas.DataFrame(rng.normal(size=(N, 3)).round(3), columns=[*"abc"])
    frame += (price[:, None] - 200) / 40
    frame["price"] = np.where(np.arange(N) % 5 == 1, np.nan, price)
    frame["kind"] = "x"
    return frame


@pytest.fixture(scope="module")
def told(call, tmp_path_factory):
    """A run, and what its training said."""
    folder = tmp_path_factory.mktemp("target")
    table().drop(columns="kind").to_csv(folder / "t.csv", index=False)
    data = ("--dataset", folder / "t.csv", "--labels", "price")
    said = call("train", *data, *REAL, "--labelled", 30, *FEW, "--output", folder / "r")
    assert (said.code, said.err) == (0, "")
    return folder / "r", said.out


def test_so_many_labels_are_kept_and_give_the_units(told):
    run, said = told
    assert "training data have one, chosen at random" in said
    assert "p(y) p(z) p(x|z,y); q(y|x) q(z|x,y)" in said
    opened = open_run(run)
    column = opened.conditions.latent
    assert (column.name, column.categories) == ("price", ())
    labels = with_targets(opened.data.labels, keep=30, name="price")
    kept = labels.kept[~np.isnan(labels.kept)]
    assert len(kept) == 30
    assert (column.mean, column.std) == pytest.approx((kept.mean(), kept.std()))
    log_unit = opened.vae.model.class_prior.log_unit.item()
    assert log_unit == pytest.approx(np.log(kept.std()), rel=1e-5)


def test_what_is_written_is_in_the_units_of_the_file(told, call):
    """Predictions of `encode`, of `evaluate` and of code are one, and errors are those of the rows with a label."""
    run, _ = told
    said = call("evaluate", run, "--num-particles", 50, "--csv", run / "e.csv")
    assert (said.code, said.err) == (0, "")
    opened = open_run(run)
    count = int((~np.isnan(opened.data.labels["test"])).sum())
    assert f"Predictions of price: 32 data, {count} of them with a label" in said.out
    assert call("encode", run, "--csv", run / "l.csv").code == 0
    evaluated, encoded = (pandas.read_csv(run / f"{name}.csv") for name in "el")
    encoded = encoded[encoded["split"] == "test"].reset_index()
    frame = table().loc[encoded["row"]]
    found = opened.predict(frame[[*"abc"]])
    assert np.allclose(found["price"], encoded["prediction"], rtol=1e-4)
    assert np.allclose(found["price_std"], encoded["prediction_std"], rtol=1e-4)
    assert np.allclose(evaluated["regression_prediction"], encoded["prediction"])
    left = (frame["price"].to_numpy() - encoded["prediction"]).dropna()
    written = newest(run).read_text()
    rmse = float(np.sqrt((left**2).mean()))
    assert f'"value": {rmse:.4f}'[:-1] in written


def test_a_number_chooses_what_is_drawn(told, call, refused):
    run, _ = told
    draws = ("--kind", "prior", "--count", 5)
    said = call("sample", run, *draws, "--given", "price=250")
    assert (said.code, said.err) == (0, "")
    assert (pandas.read_csv(run / "samples/prior.csv")["price"] == 250).all()
    said = refused("sample", run, *draws, "--given", "price=much")
    assert "price is a real number, and 'much' is none" in said


def test_the_density_is_one_over_the_labels_as_stored(told):
    """By the same draws, from p(x, y) in standard units: the logarithm of the unit less."""
    opened = open_run(told[0])
    x, label = opened.split("test")[:], opened.condition(price=200.0)
    data = {"x": x, "c": label.expand(len(x), -1)}
    found = []
    for unit in (opened.vae.model.class_prior.log_unit.item(), 0.0):
        torch.manual_seed(0)
        opened.vae.model.class_prior.log_unit.fill_(unit)
        pair = opened.vae.model, opened.vae.guide
        found.append(log_marginal(*pair, data, num_particles=10).mean)
    std = opened.conditions.latent.std
    assert found[0] - found[1] == pytest.approx(-np.log(std), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--labels", "kind", *REAL),
            "target='real' is given numbers, and the labels kind hold 'x'",
        ),
        (
            ("--labels", "price", "--structure", "labelled"),
            "different numbers, such as 104.07, ",
        ),
        (
            ("--labels", "price", *REAL, "--labelled", 1),
            "of which --labelled keeps 1 have none: it takes two or more that differ",
        ),
        (
            ("--labels", "price", *REAL, "--labelled", 1000),
            "--labelled 1,000: ",
        ),
        (
            ("--structure", "labelled(target='real', classes=3)", "--labels", "price"),
            "classes=3 of --structure labelled counts classes, and target='real' has none",
        ),
        (
            (
                "--structure",
                "labelled(target='real', uniform=False)",
                "--labels",
                "price",
            ),
            "uniform=False learns p(y) of classes",
        ),
    ],
)
def test_what_is_no_real_target_is_refused(refused, tmp_path, options, words):
    frame = table().dropna()
    other = "kind" if "price" in options else "price"
    frame.drop(columns=other).to_csv(tmp_path / "t.csv", index=False)
    sentence = refused("train", "--dataset", tmp_path / "t.csv", *options, "--dry-run")
    assert words in sentence


def test_targets_from_files_of_text_and_arrays(tmp_path):
    """An empty line or nan is no label, and -1 is one; which are kept is the seed's choice."""
    np.save(tmp_path / "x.npy", np.random.RandomState(0).normal(size=(6, 3)))
    np.save(tmp_path / "y.npy", np.array([0.5, -1.0, np.nan, 2.5, 3.5, 4.5]))
    whole = {"test_fraction": 0, "validation_fraction": 0}
    data = load_data(str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"), **whole)
    found = with_targets(data.labels)
    assert found.kept.tolist()[:2] == [0.5, -1.0]
    assert np.isnan(found.kept).tolist() == [False, False, True, False, False, False]
    assert found.column.mean == pytest.approx(2.0)
    kept = [with_targets(data.labels, keep=2, seed=s).kept for s in range(20)]
    assert {int((~np.isnan(some)).sum()) for some in kept} == {2}
    assert len({tuple(np.isnan(some)) for some in kept}) > 5
    texts = {"train": np.array(["1.5", "", "-1", " 3 "])}
    assert with_targets(texts).kept[[0, 2, 3]].tolist() == [1.5, -1.0, 3.0]
    with pytest.raises(InputError, match="hold an infinite number"):
        with_targets({"train": np.array([1.0, np.inf])})
