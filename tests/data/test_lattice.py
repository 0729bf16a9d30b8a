"""Values on a lattice, offsets and units: what is found, what a density bears, and in which units it is told."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae import InputError, load_data
from pyro_vae.data import Bridge
from pyro_vae.data.bridges import ColumnNoise
from pyro_vae.data.lattice import lattice
from pyro_vae.data.representation import Representation
from pyro_vae.data.units import Units
from pyro_vae.spec import parse

pytestmark = pytest.mark.usefixtures("blank_figures")

R = Representation
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (400, 4, 4))
BYTES[0, 0] = 0, 255, 0, 255
LEVELS = RNG.integers(0, 17, (300, 4, 4))
NORMAL = RNG.normal(size=(600, 2))
TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--compile", "no")
QUICK = (
    "--network",
    "linear",
    "--latent-dim",
    1,
    "--learning-rate",
    0.1,
    "--batch-size",
    50,
)
ELEMENT = ("--likelihood", "gaussian(scale='element')")
SINGLE, DOUBLE = np.float32, np.float64


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize(
    ("k", "origin", "step"),
    [
        (BYTES, 0, 1 / 255),
        (BYTES, -1, 2 / 255),
        (BYTES, -0.1307 / 0.3081, 1 / 255 / 0.3081),
        (RNG.integers(0, 10_000, 1000), 0, 0.01),
        (RNG.integers(0, 40, 150), 4.3, 0.1),
        (RNG.integers(1, 6, 500), -2.1, 0.73),
        (np.array([0, 3, 5, 20]), 7, 0.5),
    ],
)
def test_a_lattice_is_found_through_rounding(k, origin, step, dtype):
    values = np.unique((origin + k * step).astype(dtype)).astype(float)
    found = lattice(values, np.finfo(dtype).eps)
    shared = math.gcd(*(int(n) for n in np.unique(k) - k.min()))
    assert found.step == pytest.approx(step * shared, rel=1e-5)
    assert found.high == np.ptp(k) // shared
    assert found.origin == pytest.approx(origin + k.min() * step, abs=1e-6)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_reals_lie_on_no_lattice(dtype):
    for n in (5, 20, 1000, 10_000):
        for values in (
            RNG.normal(size=n),
            RNG.uniform(size=n),
            1e5 + RNG.normal(size=n),
        ):
            assert (
                lattice(
                    np.unique(values.astype(dtype)).astype(float), np.finfo(dtype).eps
                )
                is None
            )


@pytest.fixture
def stored(tmp_path):
    def load(array, **options):
        np.save(tmp_path / "x.npy", array)
        return load_data(str(tmp_path / "x.npy"), **options)

    return load


def gaussian(shape, **options):
    return parse("likelihood", "gaussian")(shape, **options)


@pytest.mark.parametrize(
    "spelled",
    [
        lambda k: k,
        lambda k: (k / 255).astype(SINGLE),
        lambda k: (k / 255).astype(DOUBLE),
        lambda k: (k / 127.5 - 1).astype(SINGLE),
        lambda k: ((k / 255 - 0.1307) / 0.3081).astype(SINGLE),
        lambda k: (k / 255).astype(SINGLE).reshape(len(k), -1),
    ],
)
def test_grey_levels_in_another_spelling_are_grey_levels(stored, spelled):
    data = stored(spelled(BYTES))
    assert (data.representation, data.maximum) == (R.LEVELS, 255)
    bridge = data.bridge(parse("likelihood", "discretizedlogistic")(data.shape))
    train = data.split("train", bridge)[:].reshape(-1, 4, 4)
    assert torch.equal(train, stored(BYTES).values["train"].float())
    with pytest.raises(
        InputError, match=r"grey levels.*(stored - |accepts reals).*--dequantize"
    ):
        data.bridge(gaussian(data.shape))
    noisy = data.split("test", data.bridge(gaussian(data.shape), dequantize=True))
    plain = stored(BYTES)
    plain = plain.split("test", plain.bridge(gaussian((4, 4)), dequantize=True))
    torch.testing.assert_close(noisy[:].reshape(-1, 4, 4), plain[:])


@pytest.mark.parametrize(
    "pair", [(0, 255), (-1, 1), (1, 2), (0.25, 0.75), (-0.42421296, 2.8214867)]
)
def test_two_values_are_bits(stored, pair):
    bits = BYTES % 2
    data = stored(np.array(pair)[bits])
    assert data.representation is R.BINARY
    assert any("are taken for the bits 0 and 1" in note for note in data.notes)
    x = data.split("train", data.bridge(parse("likelihood", "bernoulli")((4, 4))))[:]
    assert torch.equal(x, stored(bits).values["train"].float())


def test_the_word_of_the_user_goes_before_two_values(stored):
    data = stored(BYTES % 2 * 255, maximum=255)
    assert (data.representation, data.maximum) == (R.LEVELS, 255)


WHOLE = RNG.integers(18, 90, 600)
TABLES = {
    "bits": (NORMAL[:, 0] > 0, "whole multiples of a step .1. in column 2"),
    "one-hot, standardised": (
        (RNG.random(600) < 0.3) * 2.18 - 0.65,
        "step .2.18. in column 2",
    ),
    "whole": (WHOLE, "step .1. in column 2"),
    "whole in single": (WHOLE.astype(SINGLE), "step .1. in column 2"),
    "ratings": ((RNG.integers(1, 6, 600) - 3.1) / 1.37, "step .0.729927. in column 2"),
    "constant": (np.full(600, 0.3), "one value in all data of column 2"),
    "doses": (
        np.array([0.013, 1.7, 2.9])[RNG.integers(0, 3, 600)],
        "only 3 different values",
    ),
    "prices": (
        np.array([9.99, 15.0, 24.95, 99.9])[RNG.integers(0, 4, 600)],
        "only 4 different values in column 2",
    ),
}


def test_the_ways_out_are_those_that_the_data_have(stored):
    """Of a table a likelihood for each column, of columns of mixed kinds another one, of images neither."""
    table = np.stack([RNG.normal(size=600), WHOLE], 1)
    with pytest.raises(InputError, match=r"--likelihood columns\), add --dequantize"):
        stored(table).bridge(gaussian((2,)))
    images = np.round(RNG.normal(size=(600, 2, 2)), 0)
    with pytest.raises(InputError, match=r"add --dequantize .*, choose a likelihood"):
        stored(images).bridge(gaussian((2, 2)))


@pytest.mark.parametrize("kind", TABLES)
def test_columns_that_no_density_can_bear(stored, kind):
    column, words = TABLES[kind]
    data = stored(np.column_stack([NORMAL, column]))
    with pytest.raises(InputError, match=words):
        data.bridge(gaussian((3,)))
    if kind in ("constant", "prices", "doses"):
        with pytest.raises(InputError, match=r"leave it out .np.delete.x, .2., axis=1"):
            data.bridge(gaussian((3,)), dequantize=True)
        return
    bridge = data.bridge(gaussian((3,)), dequantize=True)
    noise = data.split("train", bridge)[:] - data.values["train"]
    steps = torch.tensor(bridge.steps)
    assert steps[:2].tolist() == [0, 0]
    assert noise[:, :2].abs().max() < 1e-6
    assert scipy.stats.kstest(noise[:, 2] / steps[2], "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    "column",
    [
        NORMAL[:, 0],
        NORMAL[:, 0].round(3),  # to_csv with three decimals
        RNG.integers(0, 10**7, 600) / 100,  # money
        RNG.integers(0, 200_000, 600) + 0.5,
        NORMAL[:, 0].astype(SINGLE),
        RNG.standard_cauchy(600),
    ],
)
def test_columns_that_a_density_can_bear(stored, column):
    data = stored(np.column_stack([NORMAL, column]))
    bridge = data.bridge(gaussian((3,)))
    assert (bridge.kind, data.floors(bridge)) == ("none", None)


def test_each_column_has_a_least_scale_of_its_own(stored):
    columns = [NORMAL[:, 0].round(1), NORMAL[:, 0] / 3, NORMAL[:, 1].round(2) * 10]
    data = stored(np.column_stack(columns))
    floors = data.floors(data.bridge(gaussian((3,))))
    assert floors.tolist() == pytest.approx([0.05, 0, 0.05])


@pytest.mark.parametrize("name", ["gaussian", "laplace", "studentt"])
@pytest.mark.parametrize("scale", ["learned", "element", "network"])
def test_a_rounded_measurement_has_a_least_scale(stored, name, scale):
    """However narrow the decoder asks it to be, the masses `p(v) step` of all places add up to 1."""
    data = stored(NORMAL.round(1))
    member = parse("likelihood", f"{name}(scale='{scale}')")((2,))
    bridge = data.bridge(member)
    assert data.floors(bridge).tolist() == [0.05, 0.05]
    assert "rounded to 0.1" in " ".join(data.remarks(bridge))
    member.initialise(torch.zeros(2), torch.ones(2), standardise=True)
    member.keep_above(data.floors(bridge))
    if scale != "network":
        member.log_scale.data.fill_(-50)
    h = torch.tensor([[0.03, 0.03], [-50.0, -50.0]])[: member.channels]
    p = member.double()(h.double()[None])
    places = torch.arange(-20_000, 20_001).double()[:, None].expand(-1, 2) * 0.1
    masses = (p.base_dist.log_prob(places).exp() * 0.1).sum(0)
    assert masses.tolist() == pytest.approx(
        [1, 1], abs=0.01 if name == "gaussian" else 0.25
    )


def test_each_channel_has_its_own_spelling(stored):
    """As torchvision's `Normalize` leaves images."""
    k = RNG.integers(0, 256, (50, 3, 6, 6))
    k[0, :, 0, :2] = 0, 255
    mean, std = (
        np.array(v)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    data = stored(((k / 255 - mean) / std).astype(SINGLE))
    assert (data.representation, data.maximum) == (R.LEVELS, 255)
    bridge = data.bridge(parse("likelihood", "discretizedlogistic")((3, 6, 6)))
    assert torch.equal(
        data.split("train", bridge)[:], stored(k).values["train"].float()
    )
    one = data.split("train", bridge)[:1]
    torch.testing.assert_close(bridge.inverse(one).float(), data.values["train"][:1])


def evaluation(call, run, *options):
    said = call("evaluate", run, "--num-particles", 50, *options)
    assert (said.code, said.err) == (0, "")
    return json.loads((run / "evaluation.json").read_text()), said.out


@pytest.fixture
def of(call, train):
    """Train on an array and evaluate."""

    def run(array, *options, epochs=12):
        np.save("x.npy", array)
        made = train(
            "run",
            "--dataset",
            "x.npy",
            "--overwrite",
            "--epochs",
            epochs,
            *QUICK,
            *options,
        )
        return (*evaluation(call, made), made)

    return run


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_log_p_does_not_depend_on_an_offset(of):
    """Nor on a unit, but for its logarithm: N(0, 1) twice."""
    here = of(NORMAL, *ELEMENT)[0]["log_marginal"]["mean"]
    entropy = math.log(2 * math.pi * math.e)
    assert here == pytest.approx(-entropy, abs=0.3)
    for offset in (1.6e9, -3e12):
        there = of(NORMAL + offset, *ELEMENT)[0]["log_marginal"]["mean"]
        assert there == pytest.approx(here, abs=2e-3)
    for unit in (1e-42, 1e300):
        s, _, run = of(NORMAL * unit, *ELEMENT)
        assert s["log_marginal"]["mean"] == pytest.approx(
            here - 2 * math.log(unit), abs=2e-3
        )
        assert s["elbo"]["mean"] < s["log_marginal"]["mean"]
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert float(last[1]) == pytest.approx(here - 2 * math.log(unit), abs=0.5)


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_samples_are_in_the_units_of_the_data(of, call):
    _, _, run = of(1.6e9 + 10 * NORMAL, *ELEMENT)
    assert call("sample", run, "--count", 400, "--draws", "--kind", "prior").code == 0
    draws = np.load(run / "samples" / "prior.npy")
    assert draws.dtype == np.float64
    assert abs(draws.mean() - 1.6e9) < 2
    assert draws.std() == pytest.approx(10, rel=0.2)
    assert "shift = [\n    1600000000.0" in (run / "config.toml").read_text()
    np.save("same.npy", 1.6e9 + 10 * RNG.normal(size=(200, 2)))
    np.save("far.npy", 1.6e9 + 500 + 10 * RNG.normal(size=(200, 2)))
    s, _ = evaluation(call, run, "--ood", "same.npy", "--ood", "far.npy", "--refine", 2)
    assert s["ood"]["far.npy"]["log p(x)"]["auroc"] > 0.99
    assert 0.3 < s["ood"]["same.npy"]["log p(x)"]["auroc"] < 0.7


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_bits_of_whole_columns_with_steps_of_their_own(of):
    """Uniform on 100 x 200,000: 12.13 bits a dimension; a Gaussian with its moments costs 0.254 more."""
    table = np.column_stack(
        [RNG.integers(0, 100, 1500), 10 * RNG.integers(0, 200_000, 1500)]
    )
    s, _, _ = of(table, *ELEMENT, "--dequantize")
    truth = (math.log2(100) + math.log2(200_000)) / 2
    gap = math.log2(2 * math.pi * math.e / 12) / 2
    bits = s["bits_per_dimension"]
    assert truth - 0.02 < bits < truth + gap + 0.05
    assert s["bits_per_dimension_of"] == "steps of each column"
    nats = -2 * bits * math.log(2) - math.log(
        10
    )  # a density over numbers whose step is 10
    assert s["log_marginal"]["mean"] == pytest.approx(nats, abs=1e-4)


def test_units_come_back():
    units = Units((1.6e9, 0.0), (1.0, 1e-42))
    v = torch.tensor([[1.6e9 + 1, 3e-42], [1.6e9 - 2, 1e-42]], dtype=torch.float64)
    x = units(v)
    torch.testing.assert_close(x, torch.tensor([[1, 3], [-2, 1]]).double())
    torch.testing.assert_close(units.inverse(x.float()), v, rtol=1e-7, atol=0)
    whole = 2**62 + torch.arange(4)[:, None]
    assert Units((2.0**62,), (1.0,))(whole).flatten().tolist() == [0, 1, 2, 3]
    bridge = ColumnNoise(7.0, units, (0.5, 0.25))
    assert Bridge.from_dict(json.loads(json.dumps(bridge.to_dict()))) == bridge
    assert bridge.log_unit(2) == pytest.approx(-42 * math.log(10))


@pytest.mark.usefixtures("in_a_folder_of_its_own")
@pytest.mark.parametrize("wild", [1e6, 1e25])
def test_a_wild_test_row_is_named(call, train, wild):
    test = RNG.normal(size=(80, 3))
    test[17] = wild
    np.savez("x.npz", train=RNG.normal(size=(300, 3)), test=test)
    said = call("train", "--dataset", "x.npz", "--output", "run", "--epochs", 2, *TINY)
    assert re.search(
        r"read +test data: column [012] .counted from 0.: .* in row 17", said.out
    )
    s, out = evaluation(call, Path("run"))
    assert [w["row"] for w in s["wild"]] == [17]
    assert "Row 17 of the data has" in out
    assert "nan" not in out
    values = np.load("run/evaluation.npz")["values"]
    assert np.isfinite(np.delete(values, 17)).all()
    rest = np.delete(values, 17).mean()
    assert f"the mean of log p(x) is {rest:.3f}" in out
    counted = values
    if wild**2 < 1e30:  # as far as single precision reaches
        assert values[17] == pytest.approx(-3 * wild**2 / 2, rel=0.1)
    else:
        assert not np.isfinite(values[17])
        counted = np.delete(values, 17)
    assert s["log_marginal"]["mean"] == pytest.approx(counted.mean())
    error = counted.std(ddof=1) / math.sqrt(len(counted))
    assert s["log_marginal"]["data_standard_error"] == pytest.approx(error)


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_column_that_its_type_cannot_hold(refused):
    np.save("x.npy", (1.6e9 + 300 * NORMAL + 0.5).astype(SINGLE))
    sentence = refused("train", "--dataset", "x.npy", *ELEMENT)
    assert "write the file in float64" in sentence


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_value_that_no_float_holds_beside_the_others(refused):
    x = RNG.normal(size=(100, 3))
    x[41, 1] = 1e200
    np.save("x.npy", x)
    sentence = refused("train", "--dataset", "x.npy", *ELEMENT)
    assert "row 41 (counted from 0)" in sentence
    assert "--precision float64" in sentence


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_table_names_its_columns(refused, call):
    rows = [f"{x!r},{i % 2},{y!r},7" for i, (x, y) in enumerate(NORMAL.tolist())]
    Path("x.csv").write_text("\n".join(["height,is male,weight,unit", *rows]) + "\n")
    sentence = refused("train", "--dataset", "x.csv")
    assert "one value in all data of column unit" in sentence
    assert "leave it out (--drop unit)" in sentence
    sentence = refused("train", "--dataset", "x.csv", "--drop", "unit")
    assert "step (1) in column is male" in sentence
    assert "--drop 'is male'" in sentence
    said = call(
        "train", "--dataset", "x.csv", "--drop", "unit,is male", "--dry-run", *TINY
    )
    assert (said.code, said.err) == (0, "")
    assert (
        "Gaussian(scale='element'), because the data are reals in columns" in said.out
    )


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_scaled_levels_are_said_to_be_on_a_lattice(call):
    np.save("x.npy", BYTES)
    said = call("train", "--dataset", "x.npy", "--scale", "--dry-run", *TINY)
    assert re.search(r"read +whole numbers that are scaled lie on a lattice", said.out)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("lead", [(), (1,), (7,), (3,), (2, 5), (3, 3), (2, 3, 4)])
def test_units_are_those_of_each_datum_however_many_there_are(shape, lead):
    """Of one datum, of a batch, of rows of pictures: the same numbers, element by element."""
    numbers = [10.0 ** (2 * i) for i in range(math.prod(shape))]
    units = Units(tuple(numbers[::-1]), tuple(numbers))
    x = torch.randn(*lead, *shape, dtype=torch.float64)
    expected = x * torch.tensor(numbers).reshape(shape)
    expected = expected + torch.tensor(numbers[::-1]).reshape(shape)
    torch.testing.assert_close(units.inverse(x), expected)
    torch.testing.assert_close(units(expected), x, rtol=1e-6, atol=1e-5)


@pytest.mark.usefixtures("in_a_folder_of_its_own")
@pytest.mark.parametrize("likelihood", ["gaussian", "columns"])
def test_pictures_of_columns_of_other_units_are_in_those_of_the_file(call, likelihood):
    """Every kind of picture is drawn, and what it shows lies where the data do."""
    scale = np.array([1e15, 1e-15, 1.0])
    rows = np.concatenate([NORMAL[:200], NORMAL[:200].sum(1, keepdims=True)], 1)
    table = "\n".join(",".join(map(repr, row)) for row in (rows * scale).tolist())
    Path("x.csv").write_text(f"a,b,c\n{table}\n")
    options = ("--likelihood", likelihood, "--epochs", 1, "--output", "run", *TINY)
    assert call("train", "--dataset", "x.csv", *options).code == 0
    kinds = ["prior", "reconstructions", "interpolation", "traversal"]
    for kind in kinds + ["manifold"] * (likelihood == "gaussian"):
        said = call("sample", "run", "--kind", kind)
        assert (said.code, said.err) == (0, "")
        values = np.load(f"run/samples/{kind}.npy")
        spread = np.abs(values.reshape(-1, 3) / scale).max(0)
        assert np.isfinite(spread).all()
        assert ((spread > 1e-3) & (spread < 100)).all(), spread
