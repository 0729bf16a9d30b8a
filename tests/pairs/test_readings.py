"""What PyTorch itself reads of a tensor while a graph is made: whole numbers, and the lengths of packed sequences."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyro_vae import SVI
from pyro_vae.engine import compiled
from pyro_vae.engine.compiled import Compiled, trace

X = torch.linspace(-1, 1, 60).reshape(3, 5, 4)
SORTED = torch.tensor([5, 3, 1])
OTHER = torch.tensor([5, 2, 2])  # as many in all, and as many at most


def followed(function, now, other):
    """A graph of a function of x and whole numbers gives its numbers, and knows where they no longer hold."""
    graph = trace(function, [], [X, now], (X, now))
    *found, holds = graph.module(2 * X, now, *graph.others)
    for mine, theirs in zip(found, function(2 * X, now)[0], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert holds
    assert not graph.module(X, other, *graph.others)[-1]


@pytest.mark.parametrize(
    "read",
    [
        lambda x, n: x[:, : n[0] - 3],
        lambda x, n: x[:, n[1] - 2 :],
        lambda x, n: x[:, : n.max()],
        lambda x, n: x.narrow(1, 0, n[1]),
        lambda x, n: x.sum() * torch.arange(n[1]),
        lambda x, n: x.sum() * torch.arange(n[1], -1, -1),
        lambda x, n: x.sum() + torch.zeros(n[1]),
        lambda x, n: x.sum() * torch.linspace(0, 1, n[1]),
        lambda x, n: x.sum() * one_hot(n),
        lambda x, n: x.new_ones(2, n[1]) * x.sum(),
        lambda x, n: x[0].expand(n[1], 5, 4),
    ],
)
def test_a_whole_number_that_pytorch_reads_is_assumed(read):
    def function(x, n):
        return [read(x, n)], None

    followed(function, SORTED, SORTED - 1)


def test_the_whole_part_of_a_real_number_is_assumed():
    def function(x):
        return [x * int(x.abs().sum())], None

    graph = trace(function, [], [X], (X,))
    for factor in (1, 1.001, -1):
        value, holds = graph.module(factor * X, *graph.others)
        torch.testing.assert_close(value, function(factor * X)[0][0])
        assert holds
    assert not graph.module(2 * X, *graph.others)[-1]


def test_a_real_number_that_pytorch_reads_is_refused():
    def function(x):
        return [torch.arange(0.0, x.sum() + 3)], None

    with pytest.raises(Exception, match="tensor's value decides"):
        trace(function, [], [X], (X,))


NETWORKS = {
    "GRU": nn.GRU(4, 3, batch_first=True),
    "LSTM": nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True),
    "RNN": nn.RNN(4, 3, batch_first=True),
    "RNN, relu": nn.RNN(4, 3, nonlinearity="relu", batch_first=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_lengths_of_packed_sequences_are_assumed(name):
    def function(x, lengths):
        out, state = NETWORKS[name](pack_padded_sequence(x, lengths, batch_first=True))
        last = state[0] if isinstance(state, tuple) else state
        return [out.data, last], None

    followed(function, SORTED, OTHER)


def test_sequences_in_any_order_are_padded_again():
    def function(x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return [
            pad_packed_sequence(NETWORKS["GRU"](packed)[0], batch_first=True)[0]
        ], None

    followed(function, SORTED.flip(0), OTHER.flip(0))


def test_a_sequence_that_was_packed_by_hand():
    def function(x, sizes):
        packed = PackedSequence(x.reshape(-1, 4)[:9], sizes)
        return [NETWORKS["GRU"](packed, torch.zeros(1, 3, 3))[0].data], None

    followed(function, torch.tensor([3, 3, 2, 1]), torch.tensor([3, 2, 2, 2]))


@pytest.mark.parametrize(
    ("function", "now", "other"),
    [
        (
            lambda x, n: torch.tensor_split(x, n, 1)[1],
            torch.tensor([1, 3]),
            torch.tensor([2, 4]),
        ),
        (
            lambda x, n: x.tensor_split(n, 1)[1],
            torch.tensor([1, 3]),
            torch.tensor([2, 4]),
        ),
        (
            lambda x, n: torch.tensor_split(x, tensor_indices_or_sections=n, dim=1)[1],
            torch.tensor([1, 3]),
            torch.tensor([2, 4]),
        ),
    ],
    ids=["torch.tensor_split", "Tensor.tensor_split", "by name"],
)
def test_other_functions_that_read_without_asking(function, now, other):
    followed(lambda x, n: ([function(x, n)], None), now, other)


def test_a_graph_that_breaks_where_its_assumptions_do_not_hold_gives_way_to_python():
    """The number of classes is assumed, and a larger one lies outside of what the graph has made room for."""

    def function(x, n):
        return [x.sum() * one_hot(n).float()], None

    graphs = Compiled(function, state=lambda: ([], None))
    x = torch.arange(60.0)  # whose sum is the same in any order
    for n in (SORTED, SORTED + 4, SORTED):
        assert torch.equal(graphs(x, n)[0][0], function(x, n)[0][0])
    assert not graphs.failed


def test_a_pair_of_packed_sequences_has_the_losses_of_pyro(monkeypatch):
    """Lengths that change from step to step, with the same sum: no graph may keep those of before."""
    monkeypatch.setattr(compiled, "LARGE", 0)  # interpreted, which is soon made

    def losses(engine, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        gru = nn.GRU(4, 3, batch_first=True)

        def model(x, lengths):
            pyro.module("gru", gru)
            packed = pack_padded_sequence(x, lengths, batch_first=True)
            _, last = gru(packed, torch.zeros(1, 3, 3))
            with pyro.plate("data", 3):
                z = pyro.sample("z", dist.Normal(last[0].sum(-1), 1.0))
                pyro.sample("y", dist.Normal(z, 1.0), obs=torch.ones(3))

        def guide(x, lengths):
            mean = pyro.param("mean", torch.zeros(3))
            with pyro.plate("data", 3):
                pyro.sample("z", dist.Normal(mean, 1.0))

        adam = pyro.optim.Adam({"lr": 0.05})
        svi = engine(model, guide, adam, Trace_ELBO(), **options)
        told = [float(svi.step(X, SORTED if i % 8 else OTHER)) for i in range(40)]
        return told, svi

    theirs, _ = losses(pyro.infer.SVI)
    ours, svi = losses(SVI, compile=True)
    assert svi.compiled
    assert ours == pytest.approx(theirs, rel=1e-5)
