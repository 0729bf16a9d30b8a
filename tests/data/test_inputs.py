"""What may be given as data: every kind gives the number of the plain tensor, the rest a sentence with the way out."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from example import beside
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    DataWarning,
    FullRank,
    Gaussian,
    Guide,
    InputError,
    Likelihood,
    MeanField,
    Network,
    Spec,
    StandardNormal,
    VampPrior,
    annealed_importance_sampling,
    anomaly_scores,
    build,
    elbo,
    fit,
    inference_gaps,
    latent_health,
    load_data,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    variants,
)
from pyro_vae.encode import encode
from pyro_vae.models.conditionals import Local, SemiAmortized
from pyro_vae.models.likelihoods import Poisson
from pyro_vae.networks import Standardised

REALS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def small(shape=(3,), likelihood=Gaussian, guide=MeanField, **options):
    torch.manual_seed(0)
    encoder = MLP(shape, hidden=(8,))
    decoder = MLP((2,), likelihood(shape).output_shape, hidden=(8,))
    return VAE(
        StandardNormal(2), decoder, likelihood(shape), guide(encoder, 2, **options)
    )


class Pairs(Dataset):
    """Data with labels, one item at a time, as torchvision has them."""

    def __len__(self):
        return len(REALS)

    def __getitem__(self, index):
        return REALS[index], index % 2


class Endless(IterableDataset):
    def __iter__(self):
        yield from REALS


WAYS = {
    "float64": torch.from_numpy(REALS).double(),
    "array": REALS,
    "float64 array": REALS.astype(np.float64),
    "big endian": REALS.astype(">f4"),
    "read only": np.frombuffer(REALS.tobytes(), np.float32).reshape(REALS.shape),
    "column order": np.asfortranarray(REALS),
    "table": pd.DataFrame(REALS, columns=list("abc")),
    "lists": REALS.tolist(),
    "list of tensors": list(torch.from_numpy(REALS)),
    "list of arrays": list(REALS),
    "sparse": scipy.sparse.csr_array(REALS),
    "sparse tensor": torch.from_numpy(REALS).to_sparse(),
    "tensor data set": TensorDataset(torch.from_numpy(REALS), torch.arange(40)),
    "pairs": Pairs(),
    "subset": Subset(Pairs(), range(40)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_number_of_the_tensor(way):
    vae, x = small(), torch.from_numpy(REALS)

    def numbers(data):
        torch.manual_seed(1)
        first = elbo(vae.model, vae.guide, data).elbo
        values = log_marginal(vae.model, vae.guide, data, num_particles=5).values
        return [first, *values.tolist(), *encode(vae, data)[0].flatten().tolist()]

    assert numbers(WAYS[way]) == numbers(x)


@pytest.mark.parametrize("way", ["float64 array", "table", "pairs", "lists"])
def test_fit_learns_the_same_from_every_way_in(way):
    def trained(data):
        vae = small()
        torch.manual_seed(2)
        return fit(vae, data, epochs=2, batch_size=16, validation=data)[
            -1
        ].validation_elbo

    assert trained(WAYS[way]) == trained(torch.from_numpy(REALS))


def test_the_other_questions_take_a_table():
    vae, few = small(), pd.DataFrame(REALS[:4])
    options = {"steps": 2, "num_particles": 10}
    assert len(log_marginal_refined(vae, few, **options)) == 4
    assert len(log_marginal_adaptive(vae, few, **options)[0]) == 4
    assert len(inference_gaps(vae, few, **options).amortisation) == 4
    assert len(anomaly_scores(vae, few, few, **options)) == 4
    assert latent_health(vae.model, vae.guide, few).num_data == 4
    chains = annealed_importance_sampling(
        vae.model, few, num_chains=2, num_temperatures=5
    )
    assert len(chains.values) == 4


def test_the_verbs_of_a_vae_take_arrays():
    vae, x = small(), torch.from_numpy(REALS)
    assert torch.equal(vae.encode(REALS.astype(np.float64)).mean, vae.encode(x).mean)
    assert torch.equal(vae.posterior_mean(pd.DataFrame(REALS)), vae.posterior_mean(x))
    assert vae.reconstruct(REALS).shape == x.shape
    z = np.zeros((4, 2))
    assert torch.equal(vae.decode(z).mean, vae.decode(torch.zeros(4, 2)).mean)
    with pytest.raises(
        InputError, match=r"z has shape \(4, 3\) and the model takes \(\.\.\., 2\)"
    ):
        vae.decode(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float64, torch.half]
)
def test_bits_of_any_type_are_bits(dtype):
    vae, bits = small((8,), Bernoulli), torch.rand(20, 8).round()

    def number(x):
        torch.manual_seed(0)
        return elbo(vae.model, vae.guide, x).elbo

    assert number(bits.to(dtype)) == number(bits)


SHAPES = [
    ((8, 8), (8, 8), "this is one datum; give a batch, x[None]"),
    ((3,), (3,), "this is one datum; give a batch, x[None]"),
    ((40, 1, 8, 8), (8, 8), "use x.reshape(-1, 8, 8)"),
    ((40, 64), (8, 8), "use x.reshape(-1, 8, 8)"),
    ((40, 8, 8), (64,), "use x.reshape(-1, 64)"),
    ((40, 8, 8), (1, 8, 8), "use x.reshape(-1, 1, 8, 8)"),
    ((40,), (1,), "use x.reshape(-1, 1)"),
    ((40, 8, 6, 3), (3, 8, 6), "permute(0, 3, 1, 2)"),
    ((40, 4), (3,), "x has shape (40, 4) and the model takes (N, 3)"),
    ((40, 3, 2), (3,), "x has shape (40, 3, 2) and the model takes (N, 3)"),
    ((), (3,), "x is a single number"),
]


@pytest.mark.parametrize(("got", "shape", "words"), SHAPES)
def test_another_shape_is_told_with_both_shapes(got, shape, words):
    vae, x = small(shape), torch.rand(got)
    for ask in (
        lambda: elbo(vae.model, vae.guide, x),
        lambda: log_marginal(vae.model, vae.guide, x.numpy(), num_particles=5),
        lambda: vae.encode(x),
        lambda: encode(vae, x),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert words in str(error.value)
    with pytest.raises(InputError, match=r"data (has|is)"):
        fit(vae, x, epochs=1)


NO_DATA = {
    "loader": (DataLoader(TensorDataset(torch.from_numpy(REALS))), "x.dataset"),
    "path": ("data.npy", "load_data"),
    "data set with splits": (load_data("digits"), "x.split('train'"),
    "tuple": ((REALS, REALS), "a tuple of 2 parts"),
    "dict": ({"x": REALS}, "a dict of 1 parts"),
    "stream": (Endless(), "map-style"),
    "generator": ((row for row in REALS), "map-style"),
    "nothing": (None, "NoneType"),
    "empty": (REALS[:0], "there are no data"),
    "texts": (pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}), "column 'b' of x"),
    "gap": (
        pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, None], "c": [1.0, 2.0]}),
        "row 1",
    ),
    "ragged": (
        [[1.0, 2.0, 3.0], [1.0]],
        "not numbers of one shape|no array of numbers",
    ),
    "complex": (REALS + 1j, "complex"),
    "times": (np.zeros((4, 3), "datetime64[s]"), "datetime64"),
    "nan": (np.where(np.arange(40)[:, None] == 7, np.nan, REALS), "datum 7"),
    "late nan": (
        np.where(np.arange(4000)[:, None] == 3210, np.nan, 1.0) * np.ones(3),
        "datum 3210",
    ),
    "too large": (REALS.astype(np.float64) * 1e300, "beyond float32"),
}


@pytest.mark.parametrize("case", NO_DATA)
def test_what_is_no_data_set_gets_a_sentence(case):
    vae = small()
    x, words = NO_DATA[case]
    for ask in (
        lambda: elbo(vae.model, vae.guide, x),
        lambda: log_marginal(vae.model, vae.guide, x, num_particles=5),
    ):
        with pytest.raises(InputError, match=words.replace("(", r"\(")) as error:
            ask()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_a_pair_of_functions_gets_its_tensors_as_they_are(dtype):
    seen = []

    def model(x):
        seen.append(x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    elbo(model, guide, torch.ones(4, dtype=dtype))
    assert set(seen) == {dtype}
    elbo(model, guide, np.ones(4))
    assert seen[-1] is torch.float32


def test_the_likelihood_sees_every_datum():
    vae, x = small((8,), Bernoulli), torch.rand(3000, 8).round()
    x[2500] = 0.37
    with pytest.raises(
        InputError, match=r"bits \(0 or 1\); datum 2500 \(counted from 0\)"
    ):
        fit(vae, x, epochs=1)
    items = TensorDataset(x)
    with pytest.raises(InputError, match="datum 2500"):
        elbo(vae.model, vae.guide, items)


@pytest.mark.parametrize("offset", [1e5, 1.6e9])
def test_reals_that_float32_cannot_tell_apart(offset):
    x = offset + torch.randn(100, 3, dtype=torch.float64)
    with pytest.raises(
        InputError, match=r"element \(0\) of data lies around .* vae.double\(\)"
    ):
        fit(small(), x, epochs=1)
    exact = small().double()
    fit(exact, x, epochs=1)
    assert math.isfinite(elbo(exact.model, exact.guide, x).elbo)


def test_counts_that_float32_holds_are_no_such_reals():
    x = 1e6 + torch.arange(100.0).reshape(-1, 1).expand(-1, 3)
    elbo(*_pair(small((3,), Poisson)), x)
    with pytest.raises(InputError, match="beyond float32 in datum 0"):
        elbo(*_pair(small((3,), Poisson)), torch.tensor([[2**24 + 1, 0, 0]]))


def _pair(vae):
    return vae.model, vae.guide


@pytest.mark.filterwarnings(
    "ignore:collapsed:pyro_vae.TrainingWarning"
)  # which is right here
def test_an_unscaled_table_is_learned():
    """Independent columns on scales of their own: the best density is a normal one for each."""
    scales = torch.tensor([1e-3, 1.0, 1e5])
    torch.manual_seed(0)
    x = torch.randn(1000, 3) * scales + torch.tensor([0.0, -3.0, 1e6])
    encoder, decoder = MLP((3,), hidden=(16,)), MLP((2,), (1, 3), hidden=(16,))
    likelihood = Gaussian((3,), scale="element")
    vae = VAE(StandardNormal(2), decoder, likelihood, MeanField(encoder, 2))
    history = fit(vae, x.numpy(), epochs=30, learning_rate=0.01)
    best = -(0.5 * math.log(2 * math.pi * math.e) + x.std(0).log()).sum().item()
    assert history[-1].elbo == pytest.approx(best, abs=0.1)


def same(vae, weights):
    """Whether these are the weights, but for a step of 1e-30 from those that are zero."""
    return all(
        torch.allclose(v, weights[k], atol=1e-20) for k, v in vae.state_dict().items()
    )


def test_weights_are_set_from_the_data_once_and_only_when_fresh():
    x = torch.from_numpy(REALS) * 100
    vae = small()
    assert vae.fresh("model")
    assert vae.fresh("guide")
    fit(vae, x, epochs=1, learning_rate=1e-30)
    assert not vae.fresh("model")
    assert not vae.fresh("guide")
    started = {k: v.clone() for k, v in vae.state_dict().items()}
    fit(vae, 5 * x + 3, epochs=1, learning_rate=1e-30)
    assert same(vae, started)

    loaded = small()
    loaded.load_state_dict(started)
    fit(loaded, 5 * x + 3, epochs=1, learning_rate=1e-30)
    assert same(loaded, started)

    left = small()
    before = {k: v.clone() for k, v in left.state_dict().items()}
    fit(left, REALS, epochs=1, learning_rate=1e-30, start=False)
    assert same(left, before)
    assert small().double().fresh("model")


def test_a_decoder_with_weights_of_its_own_is_kept():
    x = torch.from_numpy(REALS) * 100
    trained = small()
    fit(trained, x, epochs=1)
    decoder, likelihood = trained.model.decoder, trained.model.likelihood
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    again = VAE(StandardNormal(2), decoder, likelihood, MeanField(MLP((3,)), 2))
    assert not again.fresh("model")
    fit(again, x, epochs=1, learning_rate=1e-30)
    assert all(torch.allclose(v, before[k]) for k, v in decoder.state_dict().items())
    torch.testing.assert_close(again.guide.encoder.shift, x.mean(0))

    frozen = small()
    frozen.model.requires_grad_(False)
    assert not frozen.fresh("model")
    assert frozen.fresh("guide")


@pytest.mark.parametrize("network", variants(Network))
@pytest.mark.parametrize("likelihood", variants(Likelihood))
def test_every_new_pair_is_fresh(network, likelihood):
    vae = build(Spec((8, 8), 3, network=network, likelihood=likelihood))
    assert vae.fresh("model")
    assert vae.fresh("guide")
    assert vae.double().fresh("model")


@pytest.mark.parametrize("guide", variants(Guide))
def test_every_new_guide_is_fresh(guide):
    spec = Spec((8,), 3, guide=guide, **beside("guide", guide))
    assert build(spec).fresh("guide")


def test_start_is_what_the_training_program_does():
    x = torch.from_numpy(REALS) * torch.tensor([1.0, 10.0, 100.0])
    vae, by_hand = small(), small()
    torch.manual_seed(3)
    vae.start(x.numpy())
    torch.manual_seed(3)
    by_hand.initialise(x.mean(0), x.std(0, correction=0), standardise=True)
    for key, value in by_hand.state_dict().items():
        torch.testing.assert_close(vae.state_dict()[key], value)


LATTICES = {
    "bytes / 255": (torch.randint(0, 256, (200, 4, 4)) / 255, "the images: .*step"),
    "whole numbers": (torch.randint(0, 100, (200, 3)), r"columns 0, 1, 2 .*step \(1\)"),
    "one-hot": (
        torch.cat([torch.randn(200, 2), torch.eye(2).repeat(100, 1)], 1),
        "columns 2, 3",
    ),
    "constant": (
        torch.cat([torch.randn(200, 2), torch.full((200, 1), 0.3)], 1),
        "column 2 .* one",
    ),
}


@pytest.mark.parametrize("case", LATTICES)
def test_a_density_on_values_with_gaps_is_warned_of(case):
    x, words = LATTICES[case]
    with pytest.warns(DataWarning, match=words):
        fit(small(tuple(x.shape[1:])), x.numpy(), epochs=1)
    small(tuple(x.shape[1:]), Gaussian).start(torch.randn(x.shape))  # and of no others


def test_rounded_columns_have_a_least_scale():
    torch.manual_seed(0)
    vae = small((2,), lambda shape: Gaussian(shape, scale="element"))
    vae.start((torch.randn(200, 2) * torch.tensor([1.0, 20.0])).mul(10).round() / 10)
    vae.model.likelihood.log_scale.data.fill_(-50)
    with torch.no_grad():
        p = vae.decode(torch.zeros(1, 2))
    assert p.base_dist.scale.flatten().tolist() == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize("guide", [MeanField, FullRank, SemiAmortized])
def test_encoders_of_reals_count_in_standard_units(guide):
    vae = small(guide=guide)
    assert isinstance(vae.guide.encoder, Standardised)
    assert not isinstance(small((8,), Bernoulli, guide).guide.encoder, Standardised)
    x = torch.from_numpy(REALS) * 1e4 + 1e6
    vae.start(x)
    units = vae.guide.encoder.standardise(x)
    torch.testing.assert_close(units.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        units.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0
    )


def test_an_encoder_of_ones_own_is_standardised_too():
    body = torch.nn.Linear(3, 5)
    guide = MeanField(body, 2, features=5)
    vae = VAE(StandardNormal(2), MLP((2,), (1, 3)), Gaussian((3,)), guide)
    fit(vae, REALS * 1e6, epochs=1)
    assert vae.guide.encoder.body is body
    local = VAE(StandardNormal(2), MLP((2,), (1, 3)), Gaussian((3,)), Local(body, 2))
    assert not isinstance(local.guide.encoder, Standardised)


def test_pseudo_inputs_start_from_the_data():
    torch.manual_seed(0)
    guide = MeanField(MLP((3,), hidden=(8,)), 2)
    vae = VAE(VampPrior(2, pseudo_inputs=4), MLP((2,), (1, 3)), Gaussian((3,)), guide)
    vae.start(pd.DataFrame(REALS))
    pseudo = vae.model.prior.pseudo_inputs
    units = vae.guide.encoder.standardise(torch.from_numpy(REALS))
    assert all((units - row).abs().sum(-1).min() < 1e-5 for row in pseudo)
