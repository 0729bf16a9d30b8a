"""Tables of columns of mixed kinds: each has a likelihood of its own, and log p(x|z) is their sum."""

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae import (
    VAE,
    Bernoulli,
    Categorical,
    Columns,
    Gaussian,
    InputError,
    LogNormal,
    MeanField,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Spec,
    StandardNormal,
    StudentT,
    build,
    elbo,
    fit,
    load,
    log_marginal,
    save,
)
from pyro_vae.networks import MLP
from pyro_vae.networks.views import Seen, View
from pyro_vae.spec import parse

MEMBERS = (
    "columns(columns={'visits': negativebinomial(), 'height': studentt(df=3), 'a, job': categorical(levels=4), "
    "'member': bernoulli(), 'income': lognormal(), 'grade': ordinal(levels=5)})"
)
KINDS = (NegativeBinomial, StudentT, Categorical, Bernoulli, LogNormal, Ordinal)


def table(n=400):
    """Columns that hang together by one latent."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    columns = [
        rng.poisson(np.exp(1 + 0.5 * z)),
        170 + 8 * z + rng.normal(size=n),
        np.digitize(z + 0.5 * rng.normal(size=n), [-1, 0, 1]),
        z + rng.normal(size=n) > 0,
        np.exp(7 + z + 0.3 * rng.normal(size=n)),
        np.digitize(z + 0.5 * rng.normal(size=n), [-1.5, -0.5, 0.5, 1.5]),
    ]
    return torch.from_numpy(np.stack(columns, 1).astype(float))


def test_a_member_is_spelled_with_the_members_of_its_columns():
    member = parse("likelihood", MEMBERS)
    assert str(parse("likelihood", str(member))) == str(member)
    likelihood = member((6,))
    assert [type(m) for m in likelihood.members] == list(KINDS)
    assert likelihood.names[2] == "a, job"
    assert likelihood.output_shape == (1 + 1 + 4 + 1 + 1 + 1,)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": Poisson}, "names 1 columns, and a datum has 2 elements"),
        ({"a": Poisson, "b": 3}, "gives 'b' the likelihood 3"),
        ({"a": Poisson, "b": Columns}, "gives 'b' the likelihood"),
        ([Poisson, Poisson], "must name columns"),
    ],
)
def test_columns_that_fit_no_table(columns, words):
    with pytest.raises(InputError, match=words):
        Columns((2,), columns=columns)


def test_log_p_is_the_sum_of_the_columns():
    """Of each member alone, with its own outputs of the decoder."""
    torch.manual_seed(0)
    likelihood = parse("likelihood", MEMBERS)((6,)).double()
    x = table(7)
    h = torch.randn(3, 7, *likelihood.output_shape).double()
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == ((3, 7), (6,))
    start, each = 0, []
    for j, member in enumerate(likelihood.members):
        stop = start + member.output_shape[0]
        each.append(member(h[..., start:stop, None]).log_prob(x[:, [j]]))
        start = stop
    torch.testing.assert_close(p.log_probs(x), torch.stack(each, -1))
    torch.testing.assert_close(p.log_prob(x), sum(each))
    assert p.expand((2, 3, 7)).log_prob(x).shape == (2, 3, 7)
    drawn = p.expand((2, 3, 7)).sample()
    assert drawn.shape == (2, 3, 7, 6)
    likelihood.check(drawn.flatten(0, 2))


def independent(decoder_bias, members):
    """A VAE whose x does not depend on z, with the posterior that it has: the prior."""
    likelihood = Columns((len(members),), columns=members)
    decoder = MLP((2,), likelihood.output_shape, hidden=())
    with torch.no_grad():
        decoder.output_layer.weight.zero_()
        decoder.output_layer.bias.copy_(torch.tensor(decoder_bias))
    encoder = MLP(likelihood.seen_shape, hidden=(4,))
    guide = MeanField(encoder, 2)
    with torch.no_grad():
        guide.head.weight.zero_()
        guide.head.bias.zero_()
    return VAE(StandardNormal(2), decoder, likelihood, guide).double()


def test_a_table_of_independent_columns_has_a_closed_form():
    rng = np.random.default_rng(0)
    members = {"count": Poisson, "real": Gaussian, "bit": Bernoulli}
    members |= {"job": lambda shape: Categorical(shape, levels=3), "amount": LogNormal}
    vae = independent([1.2, 0.5, -0.7, 0.1, 0.9, -0.4, 0.3], members)
    x = np.stack(
        [
            rng.poisson(3, 50),
            rng.normal(size=50),
            rng.integers(0, 2, 50),
            rng.integers(0, 3, 50),
            rng.lognormal(size=50),
        ],
        1,
    )
    logits = torch.tensor([0.1, 0.9, -0.4]).double().log_softmax(0).numpy()
    scale = 1 + 1e-3  # the least scale, and a learned one that starts at 1
    exact = (
        scipy.stats.poisson.logpmf(x[:, 0], np.exp(1.2))
        + scipy.stats.norm.logpdf(x[:, 1], 0.5, scale)
        + scipy.stats.bernoulli.logpmf(x[:, 2], scipy.special.expit(-0.7))
        + logits[x[:, 3].astype(int)]
        + scipy.stats.lognorm.logpdf(x[:, 4], scale, scale=np.exp(0.3))
    )
    found = log_marginal(vae.model, vae.guide, torch.from_numpy(x), num_particles=10)
    np.testing.assert_allclose(found.values.numpy(), exact, rtol=1e-6)


def test_an_encoder_sees_each_kind_in_its_way():
    kinds = [Seen("number"), Seen("log"), Seen("log1p"), Seen("bit")]
    view = View([*kinds, Seen("category", 3), Seen("order", 4)], (6,))
    x = torch.tensor([[2.0, 1.0, 0.0, 1.0, 2.0, 2.0], [4.0, 1.0, 0.0, 0.0, 0.0, 3.0]])
    assert view.out_shape == (10,)
    seen = [[2, 0, 0, 1, 0, 0, 1, 1, 1, 0], [4, 0, 0, 0, 1, 0, 0, 1, 1, 1]]
    assert view(x).tolist() == seen
    assert view(x[None]).shape == (1, 2, 10)
    shift, spread, _ = view.units(x)
    assert shift.tolist() == [3, *[0] * 9]
    assert spread.tolist() == [1.0] * 10  # what never varies counts in 1


def test_training_starts_from_the_shares_and_moments_of_each_column():
    x = table(5000)
    vae = build(Spec((6,), 2, likelihood=MEMBERS)).double()
    vae.start(x)
    p = vae.decode(torch.zeros(2).double())
    torch.testing.assert_close(p.mean, x.mean(0), rtol=0.2, atol=0.02)
    assert vae.guide.encoder.shift.shape == (1 + 1 + 4 + 1 + 1 + 4,)
    torch.testing.assert_close(vae.guide.encoder.shift[0], x[:, 0].log1p().mean())


def test_an_encoder_of_another_width_is_refused():
    likelihood = parse("likelihood", MEMBERS)((6,))
    decoder = MLP((2,), likelihood.output_shape)
    with pytest.raises(InputError, match=r"given \(12,\), categories one-hot"):
        VAE(StandardNormal(2), decoder, likelihood, MeanField(MLP((6,)), 2))


def test_values_that_a_column_does_not_accept_are_told_by_its_name():
    vae = build(Spec((6,), 2, likelihood=MEMBERS))
    x = table(20)
    x[3, 2] = 4
    with pytest.raises(InputError, match="column a, job: data holds the level 4"):
        fit(vae, x, epochs=1)


def test_a_compiled_step_is_the_step():
    x = table(200)
    losses = []
    members = {"prior": "vampprior(pseudo_inputs=5)", "network": "mlp(hidden=(8,))"}
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = build(Spec((6,), 2, likelihood=MEMBERS, **members)).double()
        history = fit(vae, x, epochs=2, batch_size=50, compile=compiled)
        losses.append([h.loss for h in history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_weights_and_what_they_are_of_are_kept(tmp_path):
    torch.manual_seed(0)
    x = table(100)
    columns = {
        "a": NegativeBinomial,
        "b": StudentT,
        "c": parse("likelihood", "categorical(levels=4)"),
    }
    likelihood = Columns((3,), columns=columns)
    encoder, decoder = MLP(likelihood.seen_shape), MLP((2,), likelihood.output_shape)
    vae = VAE(StandardNormal(2), decoder, likelihood, MeanField(encoder, 2))
    fit(vae, x[:, :3], epochs=1)
    save(vae, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    results = []
    for each in (vae, again):
        torch.manual_seed(0)
        results.append(elbo(each.model, each.guide, x[:, :3].float(), num_particles=10).elbo)
    torch.testing.assert_close(results[0], results[1])
