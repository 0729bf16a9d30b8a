"""Data of one's own with missing values: how they are read, trained on, evaluated, and what is refused."""

import json

import numpy as np
import pytest
import torch

from holed import NAN, SMALL, arrays_of, holed, mixed, written
from pyro_vae import InputError, load_data, open_run
from pyro_vae.data import Bridge, Split
from pyro_vae.data.fields import Fixed
from pyro_vae.data.representation import Representation
from pyro_vae.data.streams import Mapped
from pyro_vae.models.likelihoods import Bernoulli, Gaussian

pytestmark = pytest.mark.usefixtures("blank_figures")


def stored_whole(data):
    """All rows of a data set in the order of its file."""
    return data.values["all"].numpy()


# --------------------------------------------------------------------------------------------------------------------


def test_files_of_all_kinds_keep_what_is_missing(tmp_path):
    pandas = pytest.importorskip("pandas")
    x = holed()
    table = pandas.DataFrame(x, columns=["a", "b", "c"])
    files = {
        name: str(tmp_path / name)
        for name in ("x.csv", "x.npy", "x.npz", "m.npz", "x.pq")
    }
    written(tmp_path / "x.csv", x)
    np.save(files["x.npy"], x)
    np.savez(files["x.npz"], x=x)
    np.savez(files["m.npz"], x=np.nan_to_num(x, nan=7.0), mask=~np.isnan(x))
    table.to_parquet(files["x.pq"])
    for file in files.values():
        data = load_data(file, missing="keep", divide=False)
        np.testing.assert_array_equal(stored_whole(data), x)
        assert data.missing
        assert any("are missing" in note for note in data.notes)
        assert data.representation is Representation.REAL


def test_signs_of_missing_values_are_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1.5,NA\n?,2.5\n,3.5\n4.25,nan\n5.5,2\n")
    found = stored_whole(load_data(str(path), missing="keep", divide=False))
    expected = [[1.5, NAN], [NAN, 2.5], [NAN, 3.5], [4.25, NAN], [5.5, 2]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, NAN, 1, 0, 1], Representation.BINARY),
        ([0, 5, NAN, 1, 300, 1], Representation.COUNTS),
        ([0.5, 1, NAN, 0, 0.25, 0.1], Representation.UNIT),
        ([-1, 1, NAN, 1, -1, 1], Representation.BINARY),  # two values
    ],
)
def test_what_values_are_is_told_by_those_that_were_seen(tmp_path, values, kind):
    x = np.array(values * 4).reshape(-1, 2)
    np.save(tmp_path / "x.npy", x)
    assert load_data(str(tmp_path / "x.npy"), missing="keep").representation is kind


def test_a_stream_keeps_what_is_missing(tmp_path):
    x = holed()
    np.save(tmp_path / "x.npy", x)
    data = load_data(
        str(tmp_path / "x.npy"), missing="keep", stream=True, divide=False, workers=0
    )
    assert data.streamed
    np.testing.assert_array_equal(data.values["all"][:].numpy(), x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.__setitem__((slice(None), 1), NAN), "'b' .*has no values"),
        (lambda x: x.__setitem__(4, NAN), "datum 4 .* has no value at all"),
        (lambda x: x.__setitem__((3, 1), np.inf), "'b' .*infinite value in datum 3"),
    ],
    ids=["column", "row", "infinite"],
)
def test_what_cannot_be_kept_is_refused(tmp_path, change, words):
    x = holed()
    change(x)
    with pytest.raises(InputError, match=words):
        load_data(written(tmp_path / "x.csv", x), missing="keep")


def test_the_refusal_names_the_option(tmp_path):
    x = holed()
    np.save(tmp_path / "x.npy", x)
    for file in (written(tmp_path / "x.csv", x), str(tmp_path / "x.npy")):
        with pytest.raises(InputError, match="--missing keep"):
            load_data(file)
    with pytest.raises(InputError, match="--missing is for your own data"):
        load_data("digits", missing="keep")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((60, 2)), r"has shape \(60, 2\).*1 where a value was\s+seen"),
        (np.full((60, 3), 2), "other values than 1"),
    ],
)
def test_a_mask_that_fits_no_data_is_refused(tmp_path, mask, words):
    np.savez(tmp_path / "x.npz", x=holed(), mask=mask)
    with pytest.raises(InputError, match=words):
        load_data(str(tmp_path / "x.npz"), missing="keep")


def test_masks_of_splits_belong_to_them(tmp_path):
    train, test = (
        np.arange(12.0).reshape(6, 2) + 0.5,
        np.arange(8.0).reshape(4, 2) + 0.25,
    )
    masks = np.ones((6, 2)), np.ones((4, 2))
    masks[0][1, 0] = masks[1][2, 1] = 0
    named = {
        "x_train": train,
        "x_test": test,
        "mask_train": masks[0],
        "mask_test": masks[1],
    }
    np.savez(tmp_path / "x.npz", **named)
    data = load_data(str(tmp_path / "x.npz"), missing="keep", validation_fraction=0)
    assert data.values["train"].isnan().nonzero().tolist() == [[1, 0]]
    assert data.values["test"].isnan().nonzero().tolist() == [[2, 1]]


def test_a_table_of_mixed_kinds_may_have_holes(tmp_path, call):
    """A sign such as ? in a column of texts is no category, and blanks are nan in the codes."""
    file = mixed(tmp_path / "x.csv")
    data = load_data(file, missing="keep", columns={}, divide=False)
    assert data.schema.columns[0].categories == ("baker", "clerk", "smith")
    assert any(
        "'?' in 12 rows of column 'job' taken for missing" in note
        for note in data.notes
    )
    assert np.isnan(stored_whole(data)[:4]).nonzero()[0].tolist() == [1, 1, 2, 3]
    with pytest.raises(InputError, match=r"no value in data row .*--missing keep"):
        load_data(file, columns={})
    asked = ("--likelihood", "columns", "--missing", "keep", "--epochs", 2, *SMALL)
    said = call("train", "--dataset", file, *asked, "--output", tmp_path / "run")
    assert (said.code, said.err) == (0, "")
    assert call("evaluate", tmp_path / "run", "--num-particles", 20).code == 0
    frame = pytest.importorskip("pandas").DataFrame(
        {
            "job": ["clerk", None],
            "age": [np.nan, 3],
            "member": [None, "no"],
            "pay": [1.0, 2.0],
        }
    )
    seen = open_run(tmp_path / "run").see(frame)
    assert seen.isnan().tolist() == [
        [False, True, True, False],
        [True, False, False, False],
    ]


# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in Bridge.kinds() if kind != "none"])
def test_a_bridge_leaves_what_is_missing(kind, tmp_path):
    """And makes of the others what it makes of them where none is missing; in memory and on disk alike."""
    whole = torch.randint(0, 256, (40, 3)).double()
    holes = torch.rand(40, 3) < 0.3
    v = whole.masked_fill(holes, NAN)
    bridge = Bridge.kinds()[kind](255.0)
    made, expected = (Split(t, bridge).fixed()[:] for t in (v, whole))
    assert torch.equal(made.isnan(), holes)
    assert torch.equal(made[~holes], expected[~holes].to(made))
    np.save(tmp_path / "x.npy", v.numpy())
    stream = Mapped(tmp_path / "x.npy", missing=True)
    on_disk = Split(stream, bridge).fixed()[:]
    torch.testing.assert_close(on_disk, made, equal_nan=True, rtol=0, atol=0)
    if bridge.is_random:
        drawn = Fixed(stream, bridge, torch.float32, 0).read(np.array([3, 8]))
        torch.testing.assert_close(drawn, made[[3, 8]], equal_nan=True, rtol=0, atol=0)


def test_columns_are_described_by_what_was_seen(tmp_path):
    x = holed(200)
    x[:, 1] = np.round(x[:, 1], 1)
    x[:, 2] = 1e6 + x[:, 2]
    data = load_data(written(tmp_path / "x.csv", x), missing="keep")
    bridge = data.bridge(Gaussian((3,)))
    assert [column.kind for column in data.seen.parts] == ["real", "rounded", "real"]
    assert bridge.units is not None  # far from 0
    assert torch.equal(
        data.split("train", bridge)[:].isnan(),
        torch.as_tensor(data.values["train"]).isnan(),
    )


def test_bits_with_holes_meet_a_bernoulli(tmp_path):
    x = (holed() > 0).astype(float)
    x[5, 1] = NAN
    np.save(tmp_path / "x.npy", x)
    data = load_data(str(tmp_path / "x.npy"), missing="keep")
    assert data.bridge(Bernoulli((3,))).plain


# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("holes")
    x = holed(300)
    x[:, 2] *= 1e12  # counted in a unit of its own
    file = written(folder / "x.csv", x)
    said = call(
        "train",
        *("--dataset", file, "--missing", "keep", "--epochs", 3, *SMALL),
        *("--output", folder / "run"),
    )
    assert (said.code, said.err) == (0, "")
    assert "of 900 values" in said.out
    return folder


def test_an_evaluation_says_what_its_number_is(run_folder, call):
    said = call("evaluate", run_folder / "run", "--num-particles", 50)
    assert (said.code, said.err) == (0, "")
    assert "log p(x_seen)" in said.out
    found = json.loads((run_folder / "run" / "evaluation.json").read_text())
    x = open_run(run_folder / "run").split("test")[:]
    share = x.isnan().double().mean().item()
    assert found["missing"] == pytest.approx(share)
    mean = arrays_of(run_folder / "run" / "evaluation.npz")["values"].mean()
    bits = -mean / np.log(2) / (3 * (1 - share))
    assert found["bits_per_dimension"] == pytest.approx(bits, rel=1e-5)


def test_units_count_for_what_was_seen(run_folder):
    """A density over the stored numbers: a datum without the third column has none of its unit."""
    run = open_run(run_folder / "run")
    z = torch.zeros(1, 1)
    x = run.split("test")[:]
    p = run.vae.decode(z).log_prob(x)
    given = run.vae.model.log_prob({"z": z.expand(len(x), 1), "x": x})
    prior = run.vae.model.prior().log_prob(z)
    unit = run.bridge.log_units((3,)).to(x)
    assert unit[2] > 10
    expected = p + prior - unit.where(~x.isnan(), 0.0).sum(1)
    torch.testing.assert_close(given, expected)


def test_new_data_may_have_holes_where_the_run_took_them(run_folder, call, tmp_path):
    new = holed(9, seed=3)
    new[:, 2] *= 1e12
    file = written(tmp_path / "new.csv", new)
    said = call("evaluate", run_folder / "run", "--data", file, "--num-particles", 20)
    assert (said.code, said.err) == (0, "")
    assert "9 of 9 new data" in said.out
    seen = open_run(run_folder / "run").see(new)
    assert seen.isnan().numpy().tolist() == np.isnan(new).tolist()


def test_a_run_of_whole_data_refuses_them(call, tmp_path):
    whole = written(tmp_path / "whole.csv", np.nan_to_num(holed(), nan=0.25))
    folder = tmp_path / "run"
    assert (
        call(
            "train", "--dataset", whole, "--epochs", 1, *SMALL, "--output", folder
        ).code
        == 0
    )
    said = call("evaluate", folder, "--data", written(tmp_path / "new.csv", holed()))
    assert said.code == 2
    assert "train with --missing keep" in said.err
    holes = written(tmp_path / "holes.csv", holed())
    other = tmp_path / "other"
    more = ("--missing", "keep", "--output", other)
    assert call("train", "--dataset", holes, "--epochs", 1, *SMALL, *more).code == 0
    for run in (folder, other):
        assert call("evaluate", run, "--num-particles", 10).code == 0
    said = call("compare", folder, other)
    assert said.code == 2
    assert "two kinds of number" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["yes", "no"])
def test_a_run_with_holes_goes_on_exactly(run_folder, call, tmp_path, compile):
    file = str(run_folder / "x.csv")
    tiny = (
        "--dataset",
        file,
        "--missing",
        "keep",
        "--network",
        "mlp(hidden=(8,))",
        "--latent-dim",
        1,
    )
    tiny = (*tiny, "--compile", compile)
    assert call("train", *tiny, "--epochs", 3, "--output", tmp_path / "whole").code == 0
    assert call("train", *tiny, "--epochs", 2, "--output", tmp_path / "parts").code == 0
    assert call("train", "--resume", tmp_path / "parts", "--epochs", 3).code == 0
    first, second = (
        open_run(tmp_path / n, checkpoint="last").vae for n in ("whole", "parts")
    )
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
