"""Data of several fields: batches by name, from memory and from a disk, and what takes them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    StandardNormal,
    elbo,
    fit,
    log_marginal,
)
from pyro_vae.data import Data, Split
from pyro_vae.data.bridges import AsStored, Dequantized, DynamicBits
from pyro_vae.data.inputs import Call
from pyro_vae.data.streams import Mapped, batches

N = 23


@pytest.fixture
def stored():
    return torch.from_numpy(
        np.random.RandomState(0).randint(0, 17, (N, 3)).astype(np.uint8)
    )


@pytest.fixture
def on_disk(stored, tmp_path):
    np.save(tmp_path / "x.npy", stored.numpy())
    return Mapped(tmp_path / "x.npy", workers=2)


@pytest.fixture
def data(stored, on_disk):
    """Fields of every kind."""
    return Data(
        {
            "x": Split(on_disk, AsStored()),
            "raw": on_disk,
            "y": torch.arange(N),
            "more": (stored, [Split(stored, DynamicBits(16.0)).fixed(), "whole"]),
        }
    )


def tensors(batch):
    x, raw, y, (more, (bits, whole)) = (
        batch[name] for name in ("x", "raw", "y", "more")
    )
    assert whole == "whole"
    return x, raw, y, more, bits


@pytest.mark.parametrize("order", [None, torch.arange(N), torch.randperm(N)[:17]])
def test_batches_hold_the_same_rows_of_every_field(data, stored, order):
    index = torch.arange(N) if order is None else order
    for given in (data, Call(data)):
        cut = list(batches(given, 5, order))
        assert [len(batch) for batch in index.split(5)] == [
            len(getattr(batch, "data", batch)["y"]) for batch in cut
        ]
        for rows, batch in zip(index.split(5), cut, strict=True):
            x, raw, y, more, bits = tensors(getattr(batch, "data", batch))
            assert x.equal(stored[rows].float())
            assert raw.equal(stored[rows])
            assert y.equal(rows)
            assert more.equal(stored[rows])
            assert bits.equal(data.fields["more"][1][0][rows])
    for a, b in zip(tensors(data[2:9]), tensors(data[torch.arange(2, 9)]), strict=True):
        assert a.equal(b)


def test_fields_on_disk_are_read_ahead(data, monkeypatch):
    read = []
    begin = DataLoader.__init__

    def watched(self, *args, num_workers=0, **options):
        read.append(num_workers)
        begin(self, *args, num_workers=num_workers, **options)

    monkeypatch.setattr(DataLoader, "__init__", watched)
    list(data.batches(torch.arange(N), 10))
    list(Call(Call(data).selected(torch.arange(20)).data).batches(None, 10))
    assert read == [2, 2, 2, 2]


def test_some_of_the_data(data, stored):
    kept = stored[:, 0] > 4
    for some, rows in (
        (data.first(4), torch.tensor([0, 5, 11, 17])),
        (data.take(torch.tensor([3, 1])), torch.tensor([3, 1])),
        (data.among(kept), kept.nonzero().flatten()),
    ):
        assert len(some) == len(rows)
        assert isinstance(some.fields["raw"].of, Mapped)  # still on disk
        for a, b in zip(tensors(some[:]), tensors(data[rows]), strict=True):
            assert a.equal(b)
    assert data.among(torch.ones(N, dtype=torch.bool)) is data


def test_noise_is_that_of_the_field_alone(stored):
    split = Split(stored, Dequantized(16.0))
    data = Data({"x": split, "y": torch.arange(N)})
    order = torch.randperm(N)
    torch.manual_seed(3)
    alone = torch.cat(list(split.batches(order, 5)))
    torch.manual_seed(3)
    assert torch.cat([batch["x"] for batch in data.batches(order, 5)]).equal(alone)
    assert not data[:]["x"].equal(data[:]["x"])
    fixed = data.fixed(4).to("cpu")
    assert fixed[:]["x"].equal(split.fixed(4)[:])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"x": torch.zeros(4, 2), "y": torch.zeros(3)}, "have 3 and 4 rows"),
        (
            {"x": Split(torch.zeros(4, 2), AsStored()), "y": torch.zeros(3)},
            "have 3 and 4 rows",
        ),
        ({"x": 3}, "have no rows"),
        ({"x": torch.zeros(0, 2)}, "there are no data"),
    ],
)
def test_fields_of_other_lengths(fields, words):
    with pytest.raises(InputError, match=words):
        Data(fields)


def small():
    torch.manual_seed(0)
    encoder, decoder = MLP((3,), hidden=(8,)), MLP((2,), (1, 3), hidden=(8,))
    return VAE(StandardNormal(2), decoder, Bernoulli((3,)), MeanField(encoder, 2))


def test_a_vae_takes_the_field_x(stored):
    split = Split(stored, DynamicBits(16.0))
    data = Data({"x": split, "y": torch.arange(N)})
    found = []
    for given in (split, data):
        vae = small()
        fit(vae, given, epochs=2, batch_size=5, compile=False)
        torch.manual_seed(1)
        result = log_marginal(vae.model, vae.guide, given.fixed(), num_particles=5)
        bound = elbo(vae.model, vae.guide, given.fixed())
        found.append((result.values, bound.elbo))
    for a, b in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    vae = small()
    with pytest.raises(InputError, match=r"has fields with y; a VAE takes the field x"):
        elbo(vae.model, vae.guide, Data({"y": split}))
    with pytest.raises(InputError, match="has shape"):
        elbo(vae.model, vae.guide, Data({"x": torch.zeros(N, 4)}))


def test_a_pair_takes_all_fields_from_a_disk(tmp_path):
    """p(z) = N(0, 1), p(x | z) = p(y | z) = N(z, 1), and the exact q(z | x, y): every weight is p(x, y)."""
    torch.manual_seed(0)
    x, y = torch.randn(N).double(), torch.randn(N).double()
    np.save(tmp_path / "x.npy", x[:, None].numpy())

    def model(batch):
        with pyro.plate("data", len(batch["x"])):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            for name in ("x", "y"):
                value = batch[name].flatten()
                pyro.sample(name, dist.Normal(z, 1.0), obs=value)

    def guide(batch):
        total = batch["x"].flatten() + batch["y"]
        with pyro.plate("data", len(total)):
            pyro.sample("z", dist.Normal(total / 3, 3**-0.5))

    split = Split(Mapped(tmp_path / "x.npy", workers=2), AsStored(), torch.float64)
    found = log_marginal(model, guide, Data({"x": split, "y": y}), num_particles=3)
    both = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    truth = dist.MultivariateNormal(torch.zeros(2).double(), both).log_prob(
        torch.stack([x, y], 1)
    )
    torch.testing.assert_close(torch.as_tensor(found.values), truth, rtol=0, atol=1e-12)
