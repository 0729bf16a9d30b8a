"""Heavy tails: what an encoder sees of them, and that a pair trained on them comes near the truth."""

import math

import numpy as np
import pytest
import torch

from pyro_vae import (
    Spec,
    build,
    fit,
    load,
    log_marginal,
    open_run,
    save,
    variants,
)
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.networks.views import inner

DIM = 6
GRID = torch.linspace(-8, 8, 801).double()
WEIGHT = torch.distributions.Normal(0.0, 1.0).log_prob(GRID) + math.log(16 / 800)


def generator(kind, seed):
    """`p(x_i|t)`, `t ~ N(0, 1)`, by its distribution at `t`, `(..., 1)`, of batch shape `(..., DIM)`."""
    a = 0.3 * torch.randn(
        DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    half, four = torch.tensor([0.5, 4.0]).double()
    return {
        "poisson": lambda t: torch.distributions.Poisson((t + a).exp()),
        "lognormal": lambda t: torch.distributions.LogNormal(1.5 * t + a, half),
        "gamma": lambda t: torch.distributions.Gamma(four, four * (-1.5 * t - a).exp()),
        "studentt": lambda t: torch.distributions.StudentT(four, t + a, half),
    }[kind]


def drawn(kind, n, seed=0):
    """Data, and their log p(x) by quadrature."""
    p = generator(kind, seed)
    torch.manual_seed(seed)
    x = p(torch.randn(n, 1).double()).sample()
    given = p(GRID[:, None]).log_prob(x[:, None]).sum(-1)  # (n, grid)
    return x, (given + WEIGHT).logsumexp(-1)


def gap(kind, guide, seed, **options):
    """How far held-out log p(x) of a trained pair is from the generator's, nats per datum."""
    x, truth = drawn(kind, 700, seed)
    torch.manual_seed(seed)
    vae = build(Spec((DIM,), 2, likelihood=kind, guide=guide))
    fit(vae, x[:300].float(), **options)
    vae.eval()
    held_out = x[300:].float()
    found = log_marginal(vae.model, vae.guide, held_out, num_particles=100)
    return found.values.mean().item() - truth[300:].mean().item()


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("guide", ["meanfield", "iaf", "fullrank"])
def test_a_pair_on_heavy_counts_is_near_the_truth(guide, seed):
    """At the defaults: of standardised counts the encoder made latents that ended in infinite rates."""
    assert abs(gap("poisson", guide, seed, epochs=60)) < 0.3


@pytest.mark.parametrize("kind", ["lognormal", "gamma", "studentt"])
def test_a_pair_on_heavy_reals_is_near_the_truth(kind):
    """With a rate at which 450 steps bring their scales where they belong."""
    options = {"epochs": 150, "learning_rate": 5e-3}
    assert abs(gap(kind, "meanfield", 0, **options)) < 0.3


def whole(n, mean, dim=DIM):
    return torch.poisson(torch.full((n, dim), mean)) + 1


def uneven(n, mean, dim=DIM):
    return whole(n, mean, dim) + torch.rand(n, dim)


UNSCALED = [
    name
    for name, cls in variants(Likelihood).items()
    if cls((1,)).support.name in ("REAL", "POSITIVE", "COUNTS")
]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", UNSCALED)
def test_no_datum_is_too_far_for_an_encoder(name, missing):
    """A single one a billion spreads away had infinite scales, and a log p(x) of -inf or nan."""
    torch.manual_seed(0)
    vae = build(Spec((DIM,), 2, likelihood=name, guide="iaf", missing=missing))
    counted = vae.model.likelihood.support.name == "COUNTS"
    x = whole(300, 3.0) if counted else uneven(300, 3.0)
    fit(vae, x, epochs=1)
    far = torch.full((1, DIM), 2.0**23 if counted else 1e9)
    assert vae.guide.encoder.standardise(far)[:, :DIM].abs().max() < 32
    assert vae.guide.parameters_given(far).isfinite().all()
    assert vae.encode(far).sample((100,)).isfinite().all()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("likelihood", "seen"),
    [
        ("poisson", torch.log1p),
        ("zeroinflated(likelihood=negativebinomial())", torch.log1p),
        ("gamma", torch.log),
        ("lognormal", torch.log),
    ],
)
def test_an_encoder_counts_logarithms_in_their_own_units(likelihood, seen, missing):
    torch.manual_seed(0)
    x = torch.poisson(torch.randn(500, DIM).exp().double()) + 1
    if seen is torch.log:
        x += torch.rand_like(x)
    prior = "vampprior(pseudo_inputs=500)"
    made = Spec((DIM,), 2, likelihood=likelihood, prior=prior, missing=missing)
    vae = build(made).double()
    if missing:
        x[torch.rand_like(x) < 0.2] = torch.nan
    vae.start(x)
    encoder, of = vae.guide.encoder, seen(x)
    mean = of.nanmean(0)
    std = (of - mean).square().nanmean(0).sqrt()
    center, spread = mean, std  # reals are on scales of their own, and counts on one
    if seen is torch.log1p:
        center = mean.mean().expand(DIM)
        spread = (std.square() + (mean - center).square()).mean().sqrt().expand(DIM)
    torch.testing.assert_close(encoder.shift, center)
    torch.testing.assert_close(encoder.spread, spread)
    standard = (of.where(~of.isnan(), mean) - center) / spread
    torch.testing.assert_close(encoder.standardise(x)[:, :DIM], standard)
    inputs = vae.model.prior.pseudo_inputs  # of data with gaps with their fill
    torch.testing.assert_close(inputs[:, :DIM].detach(), standard)


def test_without_data_the_units_are_those_of_a_log_normal_variable():
    mean, std = math.exp(1.5), math.exp(1.5) * math.sqrt(math.e - 1)
    vae = build(Spec((2,), 2, likelihood="gamma"))
    vae.initialise(torch.full((2,), mean), torch.full((2,), std), standardise=True)
    torch.testing.assert_close(vae.guide.encoder.shift, torch.ones(2))
    torch.testing.assert_close(vae.guide.encoder.spread, torch.ones(2))


def test_what_lies_within_ten_spreads_is_seen_as_it_is():
    vae = build(Spec((2,), 2, likelihood="gaussian"))
    far = torch.tensor([[-1e9, 1e9]])
    assert torch.equal(vae.guide.encoder.standardise(far), far)  # of no units yet
    vae.initialise(torch.zeros(2), torch.ones(2), standardise=True)
    x = torch.tensor([[-10.0, 9.5], [0.3, 10.0]])
    assert torch.equal(vae.guide.encoder.standardise(x), x)
    beyond = vae.guide.encoder.standardise(torch.tensor([10.0 + math.e - 1, -1e9]))
    torch.testing.assert_close(beyond, torch.tensor([11.0, -10 - math.log(1e9)]))


@pytest.mark.parametrize(
    "likelihood", ["studentt", "columns(columns={'a': studentt(), 'b': poisson()})"]
)
def test_outliers_do_not_move_the_start_of_students_t(likelihood):
    """A few at a billion made the spread, in which the decoder counts, a hundred million."""
    torch.manual_seed(0)
    x = 5 + 2 * torch.randn(1000, 2).double()
    if likelihood != "studentt":
        x[:, 1] = torch.poisson(x[:, 1].abs())
    x[::100, 0] = 1e9
    vae = build(Spec((2,), 2, likelihood=likelihood)).double()
    vae.start(x)
    member = vae.model.likelihood
    member = member.members[0] if hasattr(member, "members") else member
    assert member.spread[0].item() == pytest.approx(2, rel=0.15)
    assert member.shift[0].item() == pytest.approx(5, abs=0.2)
    assert vae.guide.encoder.spread[0].item() == pytest.approx(2, rel=0.15)


def test_the_inner_tenths_are_those_of_numpy():
    x = torch.randn(1001, 3).double()
    x[:100, 1] = torch.nan
    x[:, 2] = 7.0
    middle, width = inner(x, torch.full((3,), 0.5).double())
    low, median, high = np.nanquantile(x.numpy(), [0.05, 0.5, 0.95], axis=0)
    np.testing.assert_allclose(middle.numpy(), median, atol=1e-12)
    np.testing.assert_allclose(width.numpy()[:2], (high - low)[:2] / 3.29)
    assert width[2] == 0.5


def test_the_shape_of_a_heavy_gamma_starts_where_its_likelihood_is_greatest():
    """By moments it is a hundredth, at which log p(x|z) hardly knows of z."""
    x, _ = drawn("gamma", 1000)
    vae = build(Spec((DIM,), 2, likelihood="gamma")).double()
    vae.start(x)
    k = vae.model.likelihood.log_k.exp().detach()
    s = x.mean(0).log() - x.log().mean(0)
    torch.testing.assert_close(k.log() - torch.digamma(k), s, rtol=0.02, atol=0)


def weights_of_before(vae):
    """What an earlier version kept: without `far`."""
    return {k: v for k, v in vae.state_dict().items() if not k.endswith("encoder.far")}


def standardised(vae, x):
    """`q(z|x)` of an earlier version, from standardised data: its parameters."""
    encoder = vae.guide.encoder
    body = encoder.body((x - encoder.shift) / encoder.spread)
    return vae.guide.variational_parameters(body)


@pytest.mark.parametrize("likelihood", ["poisson", "lognormal", "studentt"])
def test_weights_of_before_go_on_with_what_their_encoder_saw(likelihood, tmp_path):
    torch.manual_seed(0)
    vae, old = (build(Spec((3,), 2, likelihood=likelihood)) for _ in range(2))
    x = whole(40, 5.0, 3) if likelihood == "poisson" else uneven(40, 5.0, 3)
    x[0] = 1e6
    fit(vae, x, epochs=1)
    old.load_state_dict(weights_of_before(vae))
    expected = standardised(vae, x)
    assert torch.equal(old.guide.parameters_given(x), expected)
    assert not torch.allclose(vae.guide.parameters_given(x), expected)
    save(old, tmp_path / "old.safetensors")
    again = load(tmp_path / "old.safetensors")
    assert torch.equal(again.guide.parameters_given(x), expected)
    again.load_state_dict(vae.state_dict())
    found = again.guide.parameters_given(x)
    assert torch.equal(found, vae.guide.parameters_given(x))


def test_a_table_of_heavy_counts_with_gaps_and_a_condition(call, tmp_path):
    x, _ = drawn("poisson", 200)
    table = np.column_stack([x.numpy(), np.arange(200) % 2]).astype(int).astype(str)
    table[::7, 2] = ""
    lines = ["a,b,c,d,e,f,site", *map(",".join, table)]
    (tmp_path / "counts.csv").write_text("\n".join(lines) + "\n")
    options = ("--likelihood", "poisson", "--missing", "keep", "--condition", "site")
    network = ("--network", "mlp(hidden=(8,))", "--epochs", 2, "--latent-dim", 2)
    run = tmp_path / "run"
    said = call(
        *("train", "--dataset", tmp_path / "counts.csv", *options, *network),
        *("--output", run),
    )
    assert (said.code, said.err) == (0, "")
    shift = open_run(run).vae.guide.encoder.shift
    assert shift[0].item() == pytest.approx(x.log1p().mean().item(), abs=0.2)
