"""Representations, bridges, splits, and the named data sets."""

import gzip
import json
import math
import os
import urllib.error

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from pyro_vae import InputError, variants
from pyro_vae.data import Split, load_data, named
from pyro_vae.data.bridges import (
    AsStored,
    Bridge,
    ColumnNoise,
    Dequantized,
    DynamicBits,
    Scaled,
    Threshold,
)
from pyro_vae.data.representation import Representation
from pyro_vae.data.uniform import splitmix64, uniform
from pyro_vae.data.units import Units

R = Representation


class Some:
    """A likelihood that accepts data of one representation."""

    def __init__(self, support):
        self.support = support


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([True, False]), R.BINARY),
        (torch.tensor([0, 1], dtype=torch.uint8), R.BINARY),
        (torch.tensor([[[0, 7]]], dtype=torch.uint8), R.LEVELS),
        (torch.tensor([[[0.0, 7.0]]]), R.LEVELS),
        (torch.tensor([[[0, 256]]]), R.COUNTS),
        (torch.tensor([[[0, 65535]]]), R.LEVELS),
        (torch.tensor([[0, 7]], dtype=torch.uint8), R.COUNTS),
        (torch.tensor([[0, 255]]), R.LEVELS),
        (torch.tensor([0.0, 1.0]), R.BINARY),
        (torch.tensor([0.0, 0.2, 1.0]), R.UNIT),
        (torch.tensor([0.0, 3.0]), R.COUNTS),
        (torch.tensor([-1, 3]), R.REAL),
        (torch.tensor([0.5, 1.5]), R.REAL),
    ],
)
def test_representation_of(values, expected):
    assert R.of(values) is expected


def test_a_density_admits_no_whole_numbers():
    assert R.REAL.admits(R.UNIT)
    assert not any(R.REAL.admits(r) for r in (R.BINARY, R.COUNTS, R.LEVELS))
    assert not R.BINARY.admits(R.UNIT)
    assert all(
        mass.admits(r)
        for mass in (R.COUNTS, R.LEVELS)
        for r in (R.BINARY, R.COUNTS, R.LEVELS)
    )
    assert not any(
        mass.admits(r) for mass in (R.COUNTS, R.LEVELS) for r in (R.UNIT, R.REAL)
    )


def test_bridges_do_what_they_say():
    v = torch.tensor([[0, 128, 255]], dtype=torch.uint8).expand(20_000, 3)
    torch.manual_seed(0)
    bits = DynamicBits(255.0)(v, dtype=torch.float64)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(
        bits.mean(0), torch.tensor([0, 128 / 255, 1]).double(), rtol=0, atol=0.015
    )
    assert Threshold(255.0)(v[:1], dtype=torch.float64).tolist() == [[0, 1, 1]]
    assert Scaled(255.0)(v[:1], dtype=torch.float64).tolist() == [[0, 128 / 255, 1]]
    x = Dequantized(255.0)(v, dtype=torch.float64)
    assert torch.equal(
        (x * 256).floor(), v.double()
    )  # the noise never leaves its level
    assert abs((x[:, 0] * 256).mean() - 0.5) < 0.01
    assert Dequantized(255.0).levels == 256
    assert Scaled(255.0).levels == 1


# Of several fields there is one for each.
BRIDGES = [cls for name, cls in variants(Bridge).items() if name != "FieldsBridge"]


@pytest.mark.parametrize("cls", BRIDGES, ids=lambda cls: cls.__name__)
def test_a_bridge_is_what_it_says(cls):
    units = Units((3.0,), (2.0,))
    options = {"steps": (1.0, 0.5)} if cls is ColumnNoise else {}
    bridge = cls(maximum=8.0, units=units, **options)
    stored = 2 * torch.arange(9)[:, None].expand(9, 2) + 3
    x = bridge(stored, dtype=torch.float64)
    assert bridge.result(R.COUNTS).holds(x)
    assert bridge.binarizes == (bridge.result(R.REAL) is R.BINARY)
    assert bridge.plain == x.equal((stored.double() - 3) / 2)
    assert bridge.is_random != x.equal(bridge(stored, dtype=torch.float64))
    assert bridge.reaches(8.0)
    assert bridge.reaches(9.0) == bridge.same_scale
    within = (bridge.inverse(x) - stored).abs() <= 2  # within a level
    assert within.all() == bridge.same_scale
    table = json.loads(json.dumps(bridge.to_dict()))
    assert Bridge.from_dict(table) == bridge
    assert table["bridge"] in Bridge.kinds()
    assert str(bridge).endswith(str(units))


def test_bridges_of_one_maximum_are_not_equal():
    bridges = [cls(8.0) for cls in variants(Bridge).values()]
    assert all((a == b) == (a is b) for a in bridges for b in bridges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantized_values_are_never_rounded_to_an_end(dtype):
    step = torch.finfo(dtype).eps / 2
    for noise in (0.0, 1 - step):  # the least and the greatest that there are

        def draw(v, dtype, noise=noise):
            return torch.full(v.shape, noise, dtype=dtype)

        for maximum in (16, 255):
            v = torch.tensor([0, maximum], dtype=torch.uint8)
            x = Dequantized(float(maximum))(v, dtype=dtype, draw=draw)
            assert x.dtype is dtype
            assert (x > 0).all()
            assert (x < 1).all()


def test_splitmix64_gives_its_published_numbers():
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64, seed 1234567
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
    ]
    found = splitmix64(torch.tensor([1234567, 0]), 4)
    assert [n % 2**64 for n in found.tolist()] == published


@pytest.mark.parametrize(
    ("dtype", "step"), [(torch.float32, 2**-24), (torch.float64, 2**-53)]
)
def test_uniform_numbers_are_uniform_and_fresh(dtype, step):
    torch.manual_seed(0)
    like = torch.empty(1001, 99)
    first, second = uniform(like, dtype), uniform(like, dtype)
    assert first.shape == like.shape
    assert first.dtype is dtype
    assert (first / step).frac().eq(0).all()
    assert first.min() >= 0
    assert first.max() < 1
    u = torch.cat([first, second]).double()
    assert scipy.stats.kstest(u.flatten(), "uniform").pvalue > 0.01
    for a, b in ((first, second), (u[:, 1:], u[:, :-1]), (u[1:], u[:-1])):
        assert abs(
            torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        ) < 4 / math.sqrt(a.numel())
    torch.manual_seed(0)
    assert uniform(like, dtype).equal(first)


@pytest.mark.parametrize("draw", [None, uniform])
def test_every_grey_level_has_its_probability(draw):
    torch.manual_seed(0)
    n = 20_000
    levels = torch.arange(256, dtype=torch.uint8)
    share = (
        DynamicBits(255.0)(levels.expand(n, 256), dtype=torch.float32, draw=draw)
        .double()
        .mean(0)
    )
    p = levels.double() / 255
    error = (share - p) / (p * (1 - p) / n).sqrt()
    assert share[[0, 255]].tolist() == [0, 1]
    assert error[1:-1].abs().max() < 4.5
    assert abs(error[1:-1].square().mean() - 1) < 4 * math.sqrt(2 / 254)


def test_dynamic_is_fresh_and_fixed_is_not():
    split = Split(torch.full((50, 4), 8, dtype=torch.uint8), DynamicBits(16.0))
    assert not torch.equal(split[:], split[:])
    fixed = split.fixed(3)
    assert torch.equal(fixed[:], fixed[:])
    assert torch.equal(fixed[:], split.fixed(3)[:])
    assert not torch.equal(fixed[:], split.fixed(4)[:])
    assert fixed.values.dtype is torch.uint8
    assert torch.equal(fixed[torch.tensor([7, 2])], fixed[:][[7, 2]])


def test_first_is_spread_evenly():
    split = Split(torch.arange(10)[:, None], AsStored())
    assert split.first(5)[:].flatten().tolist() == [0, 2, 4, 6, 8]
    assert len(split.first(99)) == 10


def test_moments():
    x = torch.randn(300, 4).double()
    mean, std = Split(x, AsStored(), torch.float64).moments()
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(std, x.std(0, correction=0))


def digits(**options):
    return load_data("digits", **options)


def test_digits_need_nothing_and_never_change():
    a, b = digits(), digits()
    assert a.shape == (8, 8)
    assert (a.representation, a.maximum, a.named) == (R.LEVELS, 16, True)
    assert sum(len(v) for v in a.values.values()) == 1797
    for split, values in a.values.items():
        assert torch.equal(values, b.values[split])
        assert len(a.labels[split]) == len(values) > 0
    rows = torch.cat([v.flatten(1) for v in a.values.values()])
    assert len(rows.unique(dim=0)) == 1797  # no datum stands in two splits


def test_labels_stay_with_their_data():
    from sklearn.datasets import load_digits

    original = load_digits()
    known = {
        image.astype(np.uint8).tobytes(): label
        for image, label in zip(original.images, original.target, strict=True)
    }
    data = digits()
    for split, values in data.values.items():
        assert [known[v.numpy().tobytes()] for v in values] == data.labels[
            split
        ].tolist()


@pytest.mark.parametrize(
    ("support", "options", "kind"),
    [
        (R.BINARY, {}, "dynamic"),
        (R.REAL, {}, "dequantize"),
        (R.COUNTS, {}, "none"),
        (R.LEVELS, {}, "none"),
        (R.BINARY, {"binarize": "static"}, "static"),
        (R.REAL, {"scale": True}, "scale"),
    ],
)
def test_the_bridge_of_a_named_data_set(support, options, kind):
    assert digits().bridge(Some(support), **options).kind == kind


def own(tmp_path, array, **options):
    np.save(tmp_path / "x.npy", array)
    return load_data(str(tmp_path / "x.npy"), **options)


GREY = np.arange(200, dtype=np.uint8).reshape(20, 2, 5)


def test_own_grey_data_under_bernoulli_name_the_ways_out(tmp_path):
    data = own(tmp_path, GREY)
    with pytest.raises(
        InputError,
        match=r"--binarize dynamic.*--binarize static.*--binarize threshold.*likelihood",
    ):
        data.bridge(Some(R.BINARY))
    assert data.bridge(Some(R.BINARY), binarize="threshold").maximum == 255
    with pytest.raises(InputError, match=r"--dequantize.*--scale"):
        data.bridge(Some(R.REAL))


@pytest.mark.parametrize(
    ("array", "support", "options", "words"),
    [
        (GREY - 100.5, R.BINARY, {}, "reals and the .* accepts bits"),
        (GREY - 100.5, R.BINARY, {"binarize": "dynamic"}, "--binarize cannot take"),
        (GREY - 100.5, R.REAL, {"scale": True}, "--scale cannot take"),
        (
            np.sqrt(GREY / 255.0),
            R.UNIT,
            {"dequantize": True},
            "--dequantize cannot take",
        ),
        (np.sqrt(GREY / 255.0), R.REAL, {"dequantize": True}, "lie on no lattice"),
        (
            GREY,
            R.BINARY,
            {"binarize": "statically"},
            "give dynamic, static or threshold",
        ),
        (GREY, R.REAL, {"binarize": "static"}, "leave that option out"),
        (GREY, R.REAL, {"scale": True, "dequantize": True}, "choose one of"),
    ],
)
def test_bridges_that_make_no_sense(tmp_path, array, support, options, words):
    with pytest.raises(InputError, match=words):
        own(tmp_path, array).bridge(Some(support), **options)


def test_counts_bring_their_own_maximum(tmp_path):
    data = own(tmp_path, np.arange(60).reshape(20, 3))
    assert (data.representation, data.maximum) == (R.COUNTS, 59)


def test_fractions(tmp_path):
    data = own(
        tmp_path,
        np.random.RandomState(0).rand(50, 2),
        validation_fraction=0.2,
        test_fraction=0,
    )
    assert {k: len(v) for k, v in data.values.items()} == {
        "train": 40,
        "validation": 10,
        "test": 0,
    }
    assert data.bridge(Some(R.REAL)).kind == "none"


def idx_bytes(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_are_read_where_they_lie(tmp_path, suffix):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for part, n in (("train", 1200), ("t10k", 5)):
        for kind, array in (
            ("images-idx3-ubyte", rng.randint(0, 256, (n, 4, 4)).astype(np.uint8)),
            ("labels-idx1-ubyte", rng.randint(0, 10, n).astype(np.uint8)),
        ):
            content = idx_bytes(array)
            (raw / f"{part}-{kind}{suffix}").write_bytes(
                gzip.compress(content) if suffix else content
            )
    data = load_data("kmnist", data_dir=str(tmp_path))
    assert {k: len(v) for k, v in data.values.items()} == {
        "train": 200,
        "validation": 1000,
        "test": 5,
    }
    assert data.labels["test"].shape == (5,)
    (raw / f"t10k-images-idx3-ubyte{suffix}").write_bytes(b"not an idx file")
    with pytest.raises(InputError, match=r"is not an idx file|Not a gzipped file"):
        load_data("kmnist", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "omniglot", "binarized-mnist", "freyfaces"])
def test_without_files_and_network_it_says_what_is_missing(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)

    class NoNetwork:
        def __getattr__(self, attribute):
            def refuse(*args, **kwargs):
                raise urllib.error.URLError("no network")

            return refuse

    monkeypatch.setattr(named, "_torchvision", NoNetwork)
    with pytest.raises(
        InputError,
        match=r"needs the file .*(gz|npz), .*cache.*digits, which needs no file",
    ) as error:
        load_data(name, data_dir=str(tmp_path / "given"))
    assert str(tmp_path / "given") in str(error.value)


def test_omniglot_from_torchvision_is_resized_and_inverted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    white = Image.new("L", (105, 105), 255)

    class Drawings:
        @staticmethod
        def Omniglot(root, background, download):  # noqa: N802  # the name in torchvision
            return [(white, 3)] * (1500 if background else 4)

    monkeypatch.setattr(named, "_torchvision", lambda: Drawings)
    data = load_data("omniglot")
    assert data.shape == (28, 28)
    assert all(v.max() == 0 for v in data.values.values())  # no ink
    assert data.labels["test"].tolist() == [3] * 4


def test_torchvision_imports():
    assert hasattr(named._torchvision(), "MNIST")


needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(
        "PYRO_VAE_DATA" not in os.environ,
        reason="set PYRO_VAE_DATA to the folder of the data sets",
    ),
]


class TestRealFiles:
    pytestmark = needs_data

    @pytest.mark.parametrize(
        ("name", "sizes", "mean"),
        [
            ("mnist", (59000, 1000, 10000), 0.132515 * 255),
            ("fashion-mnist", (59000, 1000, 10000), 0.286849 * 255),
            ("binarized-mnist", (50000, 10000, 10000), 0.132512),
            ("omniglot", (23345, 1000, 8115), 0.0807 * 255),
            ("freyfaces", (1565, 200, 200), 154.4609),
        ],
    )
    def test_sizes_and_means(self, name, sizes, mean):
        data = load_data(name)
        assert (
            tuple(len(data.values[s]) for s in ("train", "validation", "test")) == sizes
        )
        found = data.values["test"].double().mean().item()
        assert found == pytest.approx(
            mean, rel=0.01 if name == "freyfaces" else 1e-3
        )  # its split is drawn here
        expected = R.BINARY if name == "binarized-mnist" else R.LEVELS
        assert data.representation is expected
