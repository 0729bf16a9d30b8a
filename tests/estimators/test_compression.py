"""Bits back: what is coded is decoded, and the code is as long as closed forms, quadrature and densities say."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    log_marginal,
)
from pyro_vae.data.fields import Data
from pyro_vae.evaluation.ans import Coding, Entries, Stack, precision_of
from pyro_vae.evaluation.compression import Coder, Compress, compress, decompress
from pyro_vae.evaluation.question import Evaluated
from pyro_vae.likelihoods import Categorical, Columns, Fields, Ordinal, Poisson
from pyro_vae.models.program import Factor, Program


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def coded(vae, x, c=None, **options):
    """What is found of data, once they were decoded to the same."""
    found = compress(vae, x if c is None else {"x": x, "c": c}, **options)
    again = decompress(vae, found.code, c)
    assert again.shape == x.shape
    assert torch.equal(again.double(), x.double())
    return found


def started(x, latent_dim=3, **options):
    """A pair for these data, away from where training starts."""
    shape, network = tuple(x.shape[1:]), "mlp(hidden=(8,))"
    vae = build(Spec(shape, latent_dim, network=network, **options))
    vae.start(x)
    for p in vae.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return vae.eval()


def bits(n=120, dims=10):
    return (torch.rand(n, dims) < torch.rand(n, 1)).float()


# The coder


@pytest.mark.parametrize("precision", [2, 12, 24, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_stack_gives_back_what_it_was_given_in_bits_of_its_entropy(seed, precision):
    rng = np.random.default_rng(seed)
    lanes, count, size = 7, 3000, 4
    most = 2**precision
    shares = np.floor(rng.dirichlet(np.ones(size)) * (most - size)) + 1
    edges = np.concatenate([[0], shares.cumsum()[:-1], [most]]).astype(np.int64)
    p = np.diff(edges) / most
    symbols = rng.choice(size, (count, lanes), p=p)
    starts, frequencies = edges[symbols], np.diff(edges)[symbols]
    stack = Stack(lanes, seed=seed)
    empty, before = stack.heads.copy(), stack.bits.sum()
    for start, frequency in zip(starts, frequencies, strict=True):
        stack.push(start, frequency, precision)
    information = (precision - np.log2(frequencies)).sum()
    assert stack.bits.sum() - before == pytest.approx(information, rel=1e-3)
    assert 64 * lanes + 32 * len(stack.words) < information + 64 * lanes + 32
    again = Stack.of(stack.heads, stack.words)
    for i in reversed(range(count)):
        place = again.peek(lanes, precision)
        assert ((starts[i] <= place) & (place < starts[i] + frequencies[i])).all()
        again.drop(starts[i], frequencies[i], precision)
    assert (again.heads == empty).all()
    assert len(again.words) == 0
    with pytest.raises(InputError, match="the code ends before its data do"):
        Coding(Shares([np.ones((lanes, 16)) / 16] * 20), possible=True).pop(
            again, lanes
        )


class Shares(Entries):
    """Numbers of given probabilities, `(rows, size)` for each of some entries."""

    def __init__(self, each):
        self.sizes = [p.shape[1] for p in each]
        self._sums = [np.pad(p.cumsum(1), ((0, 0), (1, 0))) for p in each]

    def below(self, d, k):
        return self._sums[d][np.arange(len(k)), k]


@pytest.mark.parametrize("seed", range(3))
def test_symbols_taken_off_an_empty_stack_are_draws_and_go_back(seed):
    rng = np.random.default_rng(seed)
    rows, sizes = 2000, [2, 3, 300]
    each = [np.tile(rng.dirichlet(np.ones(size)), (rows, 1)) for size in sizes]
    stack = Stack(rows, seed=seed)
    heads, words = stack.heads.copy(), len(stack.words)
    found = Coding(Shares(each), possible=False).pop(stack, rows)
    for d in range(2):
        counts = np.bincount(found[:, d], minlength=sizes[d])
        expected = rows * each[d][0]
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected + 1)).all()
    Coding(Shares(each), possible=False).push(stack, found)
    assert (stack.heads == heads).all()
    assert 32 * (len(stack.words) - words) == 32 * stack.borrowed


def test_every_value_can_be_coded_and_intervals_do_not_overlap():
    """Where the distribution function is flat, falls by rounding, or leaves [0, 1]."""
    size = 5000
    sums = np.concatenate([[0.0], np.repeat([0.3, 0.3 - 1e-9, 0.7], [2000, 999, 2001])])
    sums[-1] = 1 + 1e-12

    class Odd(Entries):
        sizes = (size,)

        def below(self, d, k):
            return sums[k]

    coding, k = Coding(Odd(), possible=True), np.arange(size)
    starts, frequencies, precision = coding._interval(0, k)
    assert precision == precision_of(size) == 25
    assert (frequencies >= 1).all()
    assert (starts[1:] == starts[:-1] + frequencies[:-1]).all()
    assert starts[0] == 0
    assert starts[-1] + frequencies[-1] == 2**25
    stack = Stack(size)
    coding.push(stack, k[:, None])
    assert (coding.pop(stack, size)[:, 0] == k).all()


# The length of the code


def test_the_code_of_a_mixture_is_as_long_as_log_p_says():
    """Its guide is the posterior, so that -log p(x) is reached, datum by datum."""
    x = bits(300)
    vae = started(x, structure="p(y) p(x|y); q(y|x)")
    found = coded(vae, x)
    exact = log_marginal(vae.model, vae.guide, x, num_particles=1).values
    assert torch.allclose(found.lengths, -exact.double(), atol=0.01)
    total = float(-exact.sum())
    assert found.lengths.sum().item() == pytest.approx(total, rel=1e-5)
    assert found.code.num_bits - found.borrowed == pytest.approx(
        found.net_bits, abs=33 * len(found.code.heads)
    )


def test_the_code_is_as_long_as_the_elbo_by_quadrature():
    x = bits(1500, 6).double()
    vae = started(x.float(), 1).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    with torch.no_grad():
        q = vae.encode(x)
        z = q.mean + q.variance.sqrt() * torch.from_numpy(nodes)[:, None, None]
        log_w = vae.model.prior().log_prob(z) + vae.decode(z).log_prob(x)
        log_w = log_w - q.log_prob(z)
        share = torch.from_numpy(weights / weights.sum())
        elbo = (share[:, None] * log_w).sum(0)
    found = coded(vae, x)
    more = found.lengths + elbo
    error = more.std() / len(x) ** 0.5
    assert error < 0.03
    assert more.mean().abs() < 4 * error


PAIRS = {
    "meanfield": {},
    "fullrank": {"guide": "fullrank"},
    "lowrank": {"guide": "lowrank"},
    "mixture": {"guide": "mixture(components=3)"},
    "refined": {"guide": "semiamortized"},
    "laplace": {"prior": "laplace"},
    "mixtures": {"prior": "gaussianmixture", "guide": "mixture(components=2)"},
    "vampprior": {"prior": "vampprior(pseudo_inputs=7)"},
    "vampprior of full rank": {
        "prior": "vampprior(pseudo_inputs=7)",
        "guide": "fullrank",
    },
    "codes": {
        "prior": "categorical(levels=3)",
        "guide": "categorical(levels=3)",
        "latent_dim": 6,
    },
    "labelled": {"structure": "labelled(classes=3)"},
    "clusters": {"structure": "clusters(classes=3)"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    """What buckets cost is found against densities that know of none."""
    x = bits()
    found = coded(started(x, **PAIRS[name]), x, chain=30)
    assert len(found.code.heads) == 4
    assert found.overhead.mean().abs() < 0.02
    assert found.overhead.abs().max() < 0.7


@pytest.mark.parametrize("structure", ["chain", "ladder"])
def test_layers(structure):
    x = bits()
    vae = build(Spec((10,), 100, structure=f"{structure}(dims=(3, 2))"))
    vae.start(x)
    assert coded(vae, x).overhead.mean().abs() < 0.02


def levels(n=60, most=11):
    return torch.randint(0, most + 1, (n, 3, 2, 2)).float()


@pytest.mark.parametrize(
    "likelihood",
    [
        "categorical(levels=12)",
        "ordinal(levels=12)",
        "discretizedlogistic(levels=12)",
        "discretizedlogisticmixture(levels=12, components=3)",
    ],
)
def test_levels(likelihood):
    x = levels()
    assert coded(started(x, likelihood=likelihood), x).overhead.mean().abs() < 0.05


def test_a_mixture_of_levels_of_single_elements():
    x = levels().flatten(1)
    found = coded(started(x, likelihood="discretizedlogisticmixture(levels=12)"), x)
    assert found.overhead.mean().abs() < 0.05


@pytest.mark.parametrize(
    "likelihood",
    ["poisson", "negativebinomial", "zeroinflated(likelihood=negativebinomial)"],
)
def test_counts(likelihood):
    x = torch.poisson(torch.rand(100, 4) * 9)
    vae = build(Spec((4,), 3, likelihood=likelihood))
    vae.start(x)
    found = coded(vae, x)
    assert found.code.most == x.max()
    assert found.overhead.mean().abs() < 0.05


def of_columns(width, likelihood, latent_dim=2):
    decoder = MLP((latent_dim,), likelihood.output_shape)
    guide = MeanField(MLP(likelihood.seen_shape), latent_dim)
    return VAE(StandardNormal(latent_dim), decoder, likelihood, guide)


def test_columns_of_several_kinds():
    columns = {"a": Poisson, "b": Bernoulli, "c": partial(Ordinal, levels=4)}
    x = torch.stack(
        [
            torch.poisson(torch.rand(50) * 9),
            bits(50, 1)[:, 0],
            levels(50, 3)[:, 0, 0, 0],
        ],
        1,
    )
    vae = of_columns(3, Columns((3,), columns=columns))
    assert coded(vae, x).overhead.mean().abs() < 0.05


def test_fields():
    fields = {"image": Bernoulli, "label": partial(Categorical, levels=3)}
    shapes = {"image": (2, 2), "label": (1,)}
    vae = of_columns(5, Fields((5,), fields=fields, shapes=shapes))
    x = torch.cat([bits(50, 4), levels(50, 2)[:, 0, 0, :1]], 1)
    assert coded(vae, x).overhead.mean().abs() < 0.05


@pytest.mark.parametrize("prior", ["standardnormal", "conditional(components=2)"])
def test_conditions_are_known_to_both_sides(prior):
    x, c = bits(), torch.randn(120, 2)
    vae = build(Spec((10,), 2, prior=prior, context=2))
    found = coded(vae, x, c)
    assert found.overhead.mean().abs() < 0.02
    with pytest.raises(InputError, match="give it"):
        decompress(vae, found.code)
    with pytest.raises(InputError):
        decompress(vae, found.code, c.flip(0))


@pytest.mark.parametrize("structure", ["labelled", "clusters"])
def test_labels_are_not_looked_at(structure):
    x = bits()
    vae = started(x, structure=f"{structure}(classes=3)")
    y = torch.randint(0, 3, (120,))
    found = compress(vae, {"x": x, "c": y})
    assert torch.equal(found.lengths, compress(vae, x).lengths)
    assert torch.equal(decompress(vae, found.code), x)


class Counts(Program):
    """`p(y) p(x|y)`, a mixture of two Poisson distributions."""

    def factors(self):
        return [
            Factor("y", (), lambda: dist.Categorical(torch.tensor([0.7, 0.3])), True),
            Factor("x", ("y",), lambda y: dist.Poisson(1.0 + 8.0 * y.double())),
        ]


class Guess(Program):
    """`q(y|x)`."""

    def factors(self):
        def guess(x):
            return dist.Categorical(logits=torch.stack([4 - x, x - 4], -1))

        return [Factor("y", ("x",), guess, True)]


def test_a_pair_of_programs():
    x = torch.poisson(1.0 + 8.0 * bits(200, 1)[:, 0])
    found = coded((Counts(), Guess()), x)
    assert found.overhead.mean().abs() < 0.01


def test_data_that_the_model_holds_for_impossible():
    x = bits(40)
    vae = started(x)
    with torch.no_grad():
        for p in vae.model.decoder.parameters():
            p.mul_(1000.0)
    found = coded(vae, x)
    assert found.lengths.mean() < -found.bounds.mean() - 10


@pytest.mark.parametrize("size", [1, 7, 100, 101, 250])
def test_any_number_of_data(size):
    x = bits(size)
    found = coded(started(bits()), x)
    assert len(found.lengths) == size
    assert len(found.code.heads) == -(-size // 100)


def test_more_buckets_cost_less_and_more_chains_borrow_more():
    """Of posteriors that are narrow."""
    x = bits(400)
    vae = started(x)
    with torch.no_grad():
        vae.guide.head.bias[3:] -= 4.0
    coarse, fine = compress(vae, x, bits=4), compress(vae, x, bits=12)
    assert coarse.overhead.mean() > 0.05 > fine.overhead.mean().abs()
    assert compress(vae, x, chain=10).borrowed > 5 * fine.borrowed
    other = compress(vae, x, seed=1)
    assert not np.array_equal(other.code.words, fine.code.words)
    assert torch.equal(decompress(vae, other.code), x)


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "gaussian"}, "code data that have a mass, and Gaussian has"),
        ({"guide": "iaf"}, r"those of q\(z\|x\), a Pushforward, are not known"),
        ({"prior": "flow"}, r"those of p\(z\), a Pushforward, are not known"),
        ({"guide": "delta"}, "the guide is a point"),
        ({"likelihood": "poisson(size='observed')"}, "train without size='observed'"),
    ],
)
def test_pairs_that_are_refused(options, said):
    x = bits()
    vae = build(Spec((10,), 3, **options))
    x = x + 0.1 * torch.randn_like(x) if "gaussian" in options.values() else x
    with pytest.raises(InputError, match=said):
        compress(vae, x)


def test_data_and_codes_that_are_refused():
    x = bits()
    vae = started(x)
    code = compress(vae, x).code
    with pytest.raises(InputError, match="c= holds the conditions"):
        decompress(vae, code, x)
    with pytest.raises(InputError, match=r"another pair|ends before"):
        decompress(started(x), code)
    with pytest.raises(InputError, match="bits=3 of compress"):
        compress(vae, x, bits=3)
    holes = build(Spec((10,), 3, missing=True))
    x[3, 2] = torch.nan
    with pytest.raises(InputError, match="x has missing values"):
        compress(holes, x)
    large = build(Spec((2,), 2, likelihood="negativebinomial"))
    with pytest.raises(InputError, match="the value 20000000"):
        compress(large, torch.tensor([[1.0, 2e7]]))

    class Sure(Program):
        def factors(self):
            return []

    with pytest.raises(InputError, match="need a guide that draws each"):
        compress((Counts(), Sure()), torch.ones(3))


def test_a_code_that_is_not_decoded_is_warned_of(monkeypatch):
    """As where a network gives other numbers at its second pass."""
    x = bits(30)
    vae = started(x)
    run, data = SimpleNamespace(vae=vae), Evaluated(Data({"x": x}), rows=np.arange(30))
    answer = Compress().ask(run, data)
    assert answer.numbers["decoded"]
    assert "30 data were decoded to the same bits." in answer.sentences
    assert not answer.warnings
    lengths = compress(vae, x).lengths
    assert torch.equal(answer.columns["length"], lengths)
    assert answer.rows["code length"]["nats"] == pytest.approx(lengths.mean().item())
    assert answer.rows["-ELBO"]["nats"] == pytest.approx(lengths.mean().item(), abs=1)
    few = Compress(n=7).ask(run, data)
    assert few.columns["length"].isfinite().sum() == 7
    push = Coder.push

    def other(self, stack, batch, first):
        found = push(self, stack, batch, first)
        stack.heads[0] ^= np.uint64(1)
        return found

    monkeypatch.setattr(Coder, "push", other)
    answer = Compress().ask(run, data)
    assert not answer.numbers["decoded"]
    assert "decoding gave other data" in answer.warnings[0]
