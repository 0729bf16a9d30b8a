"""What stored values are taken for, which likelihood they get, and in which units numbers are reported."""

import numpy as np
import pytest
import torch

from pyro_vae import InputError, load_data
from pyro_vae.data.representation import Representation
from pyro_vae.data.usual import usual_likelihood
from pyro_vae.spec import parse

pytestmark = pytest.mark.usefixtures("blank_figures")

R = Representation
RNG = np.random.default_rng(0)
TINY = ("--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1)


@pytest.fixture
def stored(tmp_path):
    """Write an array and load it as data of one's own."""

    def load(array, **options):
        np.save(tmp_path / "x.npy", array)
        return load_data(str(tmp_path / "x.npy"), **options)

    return load


IMAGES = RNG.integers(0, 17, (60, 4, 4))
IMAGES[0, 0, 0] = 16
WHOLE = (np.uint8, np.int16, np.int64, np.uint64, np.float32, np.float64)


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("shape", [(4, 4), (16,)])
def test_whole_numbers_are_the_same_in_every_type(stored, dtype, shape):
    data = stored(IMAGES.reshape(-1, *shape).astype(dtype))
    assert data.representation is (R.LEVELS if len(shape) == 2 else R.COUNTS)
    assert data.maximum == 16
    bernoulli = parse("likelihood", "bernoulli")(shape)
    bits = data.split("train", data.bridge(bernoulli, binarize="dynamic"))
    torch.manual_seed(0)
    share = torch.stack([bits[:] for _ in range(400)]).double().mean(0)
    p = data.values["train"].double() / 16
    error = (share - p).abs() / (p * (1 - p) / 400).sqrt().clamp_min(1e-9)
    assert error.max() < 5  # of 672 shares


@pytest.mark.parametrize(
    ("array", "options", "representation", "maximum"),
    [
        (IMAGES, {}, R.LEVELS, 16),
        (IMAGES, {"maximum": 255}, R.LEVELS, 255),
        (IMAGES % 2, {}, R.BINARY, 1),
        (IMAGES % 2, {"maximum": 255}, R.LEVELS, 255),
        (IMAGES % 2, {"maximum": 1}, R.BINARY, 1),
        (IMAGES * 7, {}, R.LEVELS, 112),
        (IMAGES * 15, {}, R.LEVELS, 255),  # 240: bytes
        (IMAGES * 16, {}, R.COUNTS, 256),
        (IMAGES * 4095, {}, R.COUNTS, 65520),
        (IMAGES * 4095, {"maximum": 65535}, R.LEVELS, 65535),
        (np.where(IMAGES == 16, 65535, IMAGES), {}, R.LEVELS, 65535),
        (IMAGES.reshape(60, 16), {"maximum": 16}, R.LEVELS, 16),
        (IMAGES.reshape(60, 16) * 15, {}, R.COUNTS, 240),
        (np.minimum(IMAGES * 16, 255).reshape(60, 16), {}, R.LEVELS, 255),
    ],
)
def test_the_largest_value(stored, array, options, representation, maximum):
    for dtype in (np.int64, np.float64):
        data = stored(array.astype(dtype), **options)
        assert (data.representation, data.maximum) == (representation, maximum)
        assert (f"from 0 to {maximum}" in " ".join(data.notes)) == (
            representation is R.LEVELS and not options
        )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (IMAGES - 0.5, "--maximum 20 is for whole numbers .* holds reals"),
        (IMAGES - 1, "--maximum 20 is for whole numbers"),
        (IMAGES * 2, "holds the value 32, above --maximum 20"),
    ],
)
def test_a_maximum_that_does_not_fit(stored, array, words):
    with pytest.raises(InputError, match=words):
        stored(array, maximum=20)


@pytest.mark.parametrize(
    ("array", "options", "member"),
    [
        (RNG.normal(size=(50, 3)), {}, "Gaussian(scale='element')"),
        (RNG.normal(size=(50, 3, 3)), {}, "Gaussian(scale='learned')"),
        (RNG.uniform(size=(50, 3)), {}, "Gaussian(scale='element')"),
        (RNG.uniform(size=(50, 3, 3)), {}, "Gaussian(scale='learned')"),
        (RNG.poisson(5, size=(50, 3)), {}, "NegativeBinomial()"),
        (RNG.poisson(5, size=(50, 3)).astype(float), {}, "NegativeBinomial()"),
        (RNG.integers(0, 2, (50, 3)), {}, "Bernoulli()"),
        (IMAGES, {}, "DiscretizedLogistic(levels=17)"),
        (IMAGES, {"bits": True}, "Bernoulli()"),
        (IMAGES, {"density": True}, "Gaussian(scale='learned')"),
    ],
)
def test_the_usual_likelihood(stored, array, options, member):
    data = stored(array)
    found, reason = usual_likelihood(data, **options)
    assert str(parse("likelihood", found)) == found == member
    assert reason
    asked = (
        {"binarize": "static"} if "bits" in options else {"scale": "density" in options}
    )
    data.bridge(parse("likelihood", found)(data.shape), **asked)  # takes the data


def test_named_images_keep_theirs():
    assert usual_likelihood(load_data("digits"))[0] == "Bernoulli()"


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_program_says_which_likelihood_and_why(call, tmp_path):
    np.save("counts.npy", RNG.poisson(5, size=(50, 3)))
    said = call("train", "--dataset", "counts.npy", *TINY)
    assert (said.code, said.err) == (0, "")
    assert "likelihood NegativeBinomial(), because the data are counts" in said.out
    (made,) = (tmp_path / "runs").glob("counts-negativebinomial-*")
    assert 'likelihood = "NegativeBinomial()"' in (made / "config.toml").read_text()
    assert call("train", "--resume", made, "--epochs", 2).code == 0
    asked = call(
        "train", "--dataset", "counts.npy", "--likelihood", "poisson", "--dry-run"
    )
    assert "because" not in asked.out
    given = call(
        "train", "--dataset", "counts.npy", "--maximum", 40, "--dry-run", *TINY
    )
    assert "likelihood DiscretizedLogistic(levels=41), because" in given.out
