"""Conditional pairs, p(z|c) p(x|z,c) and q(z|x,c): against closed forms, for every member, and what is refused."""

import math
import warnings

import pytest
import torch
from torch.distributions import MixtureSameFamily, MultivariateNormal
from torch.nn import functional as F  # noqa: N812

import pyro_vae
from example import beside
from pyro_vae import (
    MLP,
    SVI,
    VAE,
    FullRank,
    Gaussian,
    MeanField,
    Spec,
    StandardNormal,
    annealed_importance_sampling,
    anomaly_scores,
    bidirectional_monte_carlo,
    build,
    compare_posterior,
    draws_given,
    elbo,
    fit,
    inference_gaps,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    variants,
)
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.conditionals import Guide
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.models.priors import Conditional, Prior
from pyro_vae.networks import Linear, Network

CLASSES = 3
NETWORKS = variants(Network)
NOISE = 0.6


class ConditionalPPCA:
    """`z ~ N(U c, I)`, `x | z, c ~ N(W z + V c + b, noise^2 I)`, with the exact posterior as its guide.

    Then `p(x|c) = N(W U c + V c + b, W W^T + noise^2 I)`. With `prior=False` U is 0 and p(z) no conditional prior.
    """

    def __init__(self, *, prior=False, dims=4, latent_dim=2, context=3):
        generator = torch.Generator().manual_seed(5)

        def numbers(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        w, v, b, u = (
            numbers(dims, latent_dim),
            numbers(dims, context),
            numbers(dims),
            numbers(latent_dim, context) * prior,
        )
        self.c = numbers(40, context)
        covariance = torch.linalg.inv(
            torch.eye(latent_dim).double() + w.T @ w / NOISE**2
        )
        gain = covariance @ w.T / NOISE**2
        self.marginal = MultivariateNormal(
            self.c @ (w @ u + v).T + b, w @ w.T + NOISE**2 * torch.eye(dims).double()
        )
        torch.manual_seed(0)
        self.x = self.marginal.sample()
        encoder = Linear((dims,), context=context)
        decoder = Linear((latent_dim,), (1, dims), context=context)
        guide = FullRank(encoder, latent_dim)
        p = (
            Conditional(latent_dim, hidden=(), context=context)
            if prior
            else StandardNormal(2)
        )
        self.vae = VAE(p, decoder, Gaussian((dims,), scale=NOISE), guide).double()
        tril = torch.linalg.cholesky(covariance)
        with torch.no_grad():
            decoder.layers[0].weight.copy_(w)
            decoder.layers[0].bias.copy_(b)
            decoder.of_context.weight.copy_(v)
            if prior:
                last = p.network.output_layer
                last.weight.zero_()
                last.weight[1 : 1 + latent_dim] = u
                last.bias.zero_()
            guide.head.weight.zero_()
            of_c = covariance @ u - gain @ v
            guide.head.weight[:latent_dim] = torch.cat([gain, of_c], 1)
            below = tril[guide.rows, guide.columns] / tril.diagonal()[guide.rows]
            guide.head.bias.copy_(
                torch.cat([-gain @ b, tril.diagonal().log(), below * latent_dim**0.5])
            )
        self.posterior_mean = (self.x - b) @ gain.T + self.c @ of_c.T


def conditional(shape=(6,), context=CLASSES, **parts):
    """A pair with random weights, data of it and their classes."""
    torch.manual_seed(0)
    vae = build(Spec(shape, 2, context=context, **parts))
    x = torch.rand(30, *shape).round()
    return vae, x, torch.arange(30) % CLASSES


@pytest.mark.parametrize("prior", [False, True])
def test_log_p_of_x_given_c_is_that_of_the_gaussian(prior):
    ppca = ConditionalPPCA(prior=prior)
    model, guide = ppca.vae.model, ppca.vae.guide
    found = log_marginal(model, guide, ppca.x, c=ppca.c, num_particles=3)
    truth = ppca.marginal.log_prob(ppca.x)
    torch.testing.assert_close(found.values, truth, atol=1e-9, rtol=0)
    assert elbo(model, guide, {"x": ppca.x, "c": ppca.c}).elbo == pytest.approx(
        truth.mean().item()
    )
    torch.testing.assert_close(
        ppca.vae.posterior_mean(ppca.x, ppca.c), ppca.posterior_mean
    )


@pytest.mark.parametrize("prior", [False, True])
def test_draws_given_a_part_and_a_condition_are_those_of_the_gaussian(prior):
    """`x_rest | x_known, c` of a joint normal, and `log p(x_known|c)`."""
    ppca = ConditionalPPCA(prior=prior)
    torch.manual_seed(2)
    known = ppca.x[3].clone()
    known[[1, 3]] = torch.nan
    drawn = draws_given(ppca.vae, known, 4000, ppca.c[3], num_particles=100_000)

    mean, covariance = ppca.marginal.mean[3], ppca.marginal.covariance_matrix[3]
    seen, rest = torch.tensor([0, 2]), torch.tensor([1, 3])
    at_seen = covariance[seen][:, seen]
    gain = covariance[rest][:, seen] @ at_seen.inverse()
    of_rest = mean[rest] + gain @ (ppca.x[3, seen] - mean[seen])
    spread = (covariance[rest][:, rest] - gain @ covariance[seen][:, rest]).diagonal()
    error = (spread * (1 / 4000 + 1 / drawn.ess)).sqrt()
    assert ((drawn.draws[:, rest].mean(0) - of_rest).abs() < 4.5 * error).all()
    truth = MultivariateNormal(mean[seen], at_seen).log_prob(ppca.x[3, seen])
    assert abs(drawn.log_known - truth) < 5 / drawn.ess**0.5
    with pytest.raises(InputError, match=r"context|condition"):
        draws_given(ppca.vae, known)


def test_draws_of_one_condition_have_its_mean_and_covariance():
    ppca = ConditionalPPCA(prior=True)
    torch.manual_seed(1)
    x = ppca.vae.sample(40_000, ppca.c[7])
    error = ppca.marginal.variance[7].max().sqrt() / math.sqrt(len(x))
    torch.testing.assert_close(x.mean(0), ppca.marginal.mean[7], atol=4 * error, rtol=0)
    covariance = ppca.marginal.covariance_matrix[7]
    largest = covariance.diagonal().max().item()
    torch.testing.assert_close(
        torch.cov(x.T), covariance, atol=6 * largest / math.sqrt(len(x)), rtol=0
    )


def test_training_reaches_the_regression_of_x_on_c():
    """With z and c linear the optimum of the ELBO is pPCA of what the regression on c leaves."""
    torch.manual_seed(0)
    c = torch.randn(800, 2).double()
    truth = ConditionalPPCA(context=2)
    w, v = (
        truth.vae.model.decoder.layers[0].weight,
        truth.vae.model.decoder.of_context.weight,
    )
    x = (
        torch.randn(800, 2).double() @ w.T + c @ v.T + NOISE * torch.randn(800, 4)
    ).detach()
    with_one = torch.cat([c, torch.ones(800, 1)], 1)
    residual = x - with_one @ torch.linalg.lstsq(with_one, x).solution
    values, _ = torch.linalg.eigh(residual.T @ residual / 800)
    noise = values[:2].mean()  # Tipping & Bishop 1999, equation 8
    best = -0.5 * (
        4 * math.log(2 * math.pi) + values[2:].log().sum() + 2 * noise.log() + 4
    )

    encoder, decoder = Linear((4,), context=2), Linear((2,), (1, 4), context=2)
    vae = VAE(StandardNormal(2), decoder, Gaussian((4,)), FullRank(encoder, 2)).double()
    for rate in (
        0.02,
        0.002,
    ):  # in units of x, where one scale for all elements is that of pPCA
        fit(vae, x, c=c, epochs=200, batch_size=200, learning_rate=rate, start=False)
    found = log_marginal(vae.model, vae.guide, x, c=c, num_particles=200).mean
    assert found == pytest.approx(best.item(), abs=1e-3)


@pytest.mark.parametrize("classes", [True, False])
def test_the_likelihood_starts_as_wide_as_what_the_condition_leaves(classes):
    torch.manual_seed(0)
    y = torch.arange(900) % 3
    c = F.one_hot(y, 3).float() if classes else y[:, None].float()
    left = torch.tensor([0.1, 1.0, 3.0])
    x = left * torch.randn(900, 3) + 10.0 * y[:, None]
    decoder, encoder = (
        MLP((2,), (1, 3), context=c.shape[1]),
        MLP((3,), context=c.shape[1]),
    )
    vae = VAE(
        StandardNormal(2),
        decoder,
        Gaussian((3,), scale="element"),
        MeanField(encoder, 2),
    )
    vae.start({"x": x, "c": c})
    likelihood = vae.model.likelihood
    scale = likelihood.spread * likelihood.log_scale.exp()
    torch.testing.assert_close(scale, left, rtol=0.1, atol=0)
    torch.testing.assert_close(vae.guide.encoder.spread, x.std(0), rtol=0.01, atol=0)


def test_too_few_data_for_a_regression_start_from_their_own_spread():
    torch.manual_seed(0)
    vae = build(Spec((3,), 2, likelihood="gaussian(scale='element')", context=8))
    x = torch.randn(20, 3)
    vae.start({"x": x, "c": torch.randn(20, 8)})
    likelihood = vae.model.likelihood
    torch.testing.assert_close(
        likelihood.spread, x.std(0, correction=0), rtol=0.01, atol=0
    )
    for steps in (1, 2):
        fit(vae, x, c=torch.randn(20, 8), epochs=steps)


@pytest.mark.parametrize("name", ["MLP", "GatedMLP"])
def test_a_context_is_an_input_beside_the_others(name):
    torch.manual_seed(0)
    network = NETWORKS[name]((4,), (1, 5), context=3).double()
    whole = NETWORKS[name]((7,), (1, 5)).double()
    weights = network.state_dict()
    first = torch.cat([weights["layers.0.weight"], weights.pop("of_context.weight")], 1)
    whole.load_state_dict(weights | {"layers.0.weight": first})
    x, c = torch.randn(6, 2, 4).double(), torch.randn(2, 3).double()
    together = torch.cat([x, c.expand(6, 2, 3)], -1)
    torch.testing.assert_close(network(x, c), whole(together))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_reads_a_context(name):
    torch.manual_seed(0)
    for network, shape in (
        (NETWORKS[name].encoder((8, 6), context=3), (8, 6)),
        (NETWORKS[name].decoder(5, (2, 8, 6), context=3), (5,)),
    ):
        x, c = torch.randn(4, 2, *shape), torch.randn(2, 3)
        out = network(x, c)
        assert out.shape == (4, 2, *network.out_shape)
        torch.testing.assert_close(
            out[1, 1], network(x[1, 1:], c[1:])[0]
        )  # each x with its own c
        assert not torch.allclose(out, network(x, c.flip(0)))
        for given in ([], [c[:, :2]]):
            with pytest.raises(InputError, match=r"reads a condition of 3|reads 3"):
                network(x, *given)
        plain = NETWORKS[name].encoder((8, 6))
        with pytest.raises(
            InputError, match=r"3 numbers for each datum and .* reads 0"
        ):
            plain(torch.randn(2, 8, 6), c)


MEMBERS = [
    *(("prior", name) for name in variants(Prior)),
    ("prior", "conditional(components=3)"),
    *(("guide", name) for name in variants(Guide)),
    *(("likelihood", name) for name in variants(Likelihood)),
    *(("network", name) for name in variants(Network)),
]


@pytest.mark.parametrize("seen", [True, False], ids=["q(z|x,c)", "q(z|x)"])
@pytest.mark.parametrize(("axis", "name"), MEMBERS)
def test_every_member_works_under_a_condition(axis, name, seen):
    name = {"VampPrior": "VampPrior(pseudo_inputs=5)"}.get(name, name)
    shape = (6,) if axis == "likelihood" else (6, 6)
    more = beside(axis, name)
    vae, x, y = conditional(shape, encoder_context=seen, **{axis: name}, **more)
    if axis == "likelihood":
        outputs = vae.model.likelihood.output_shape
        x = vae.model.likelihood(torch.zeros(30, *outputs)).sample()
    before = {name: p.clone() for name, p in vae.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = fit(vae, x, c=y, epochs=2, batch_size=10)
    assert math.isfinite(history[-1].elbo)
    for part in ("model.decoder", "guide.encoder"):
        contexts = [n for n in before if "of_context" in n and n.startswith(part)]
        assert all(
            not torch.equal(before[n], dict(vae.named_parameters())[n])
            for n in contexts
        )
    assert vae.sample(4, 1).shape == (4, *shape)
    assert vae.reconstruct(x[:3], y[:3], to=2).shape == (3, *shape)
    if vae.guide.has_density:
        found = log_marginal(vae.model, vae.guide, x, c=y, num_particles=20)
        assert found.values.isfinite().all()


@pytest.mark.parametrize(
    "prior", ["StandardNormal", "Conditional", "VampPrior(pseudo_inputs=5)"]
)
def test_compiled_steps_are_those_of_python(prior):
    vae, x, y = conditional((6,), prior=prior)
    batch = {"x": x, "c": F.one_hot(y, CLASSES).float()}
    state = {name: p.clone() for name, p in vae.state_dict().items()}
    runs = []
    for compiled in (False, True):
        vae.load_state_dict(state)
        torch.manual_seed(3)
        svi = SVI(
            vae.model,
            vae.guide,
            lambda p: torch.optim.SGD(p, lr=0.01),
            pyro_vae.ELBO(),
            reduction="mean",
            compile=compiled,
        )
        runs.append(torch.stack([svi.step(batch) for _ in range(4)]))
        assert svi.compiled == compiled
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-5, atol=1e-5)


def test_a_conditional_vae_is_saved_and_read(tmp_path):
    ppca = ConditionalPPCA(prior=True)
    pyro_vae.save(ppca.vae, tmp_path / "vae.safetensors")
    read = pyro_vae.load(tmp_path / "vae.safetensors")
    before = ppca.vae.encode(ppca.x, ppca.c).mean
    torch.testing.assert_close(read.encode(ppca.x, ppca.c).mean, before)
    assert read.context == 3


def test_data_sets_and_streams_have_conditions_too():
    vae, x, y = conditional()
    labels = F.one_hot(y, CLASSES).float()
    items = torch.utils.data.TensorDataset(x, y)
    pairs = [
        (a, b.item()) for a, b in items
    ]  # a list of items is no data set of this kind

    class Reading(torch.utils.data.Dataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, i):
            return pairs[i]

    values = [
        log_marginal(vae.model, vae.guide, data, c=c, num_particles=1).reconstruction
        for data, c in ((x, labels), (items, y.tolist()), (Reading(), y.numpy()))
        if torch.manual_seed(0)
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
    fit(vae, Reading(), c=y, epochs=1)


ONE_OF_THREE = torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda v, x, y: fit(v, x, epochs=1),
            "this pair is conditional and data has no condition",
        ),
        (
            lambda v, x, y: v.encode(x),
            "this pair is conditional and x has no condition",
        ),
        (lambda v, x, y: log_marginal(v.model, v.guide, x), "this pair is conditional"),
        (lambda v, x, y: v.sample(2), "this pair is conditional: give c, 3 numbers"),
        (
            lambda v, x, y: v.decode(torch.zeros(2, 2)),
            "this pair is conditional: give c",
        ),
        (
            lambda v, x, y: v.sample(3, ONE_OF_THREE),
            "the class 3 for datum 2 .* knows 3, 0 to 2",
        ),
        (lambda v, x, y: v.sample(3, [0, 1]), "c has 2 rows for 3 data"),
        (lambda v, x, y: v.sample(3, -1), "the class -1 for datum 0"),
        (lambda v, x, y: fit(v, x, c=y[:-1], epochs=1), "29 and 30 rows"),
        (
            lambda v, x, y: v.encode(x, torch.rand(30, 2)),
            r"shape \(30, 2\) .* takes \(N, 3\)",
        ),
        (
            lambda v, x, y: v.encode(x, torch.rand(30)),
            r"shape \(30,\) .* takes \(N, 3\)",
        ),
        (
            lambda v, x, y: v.encode(x, torch.full((30, 3), math.nan)),
            "missing or infinite for datum 0",
        ),
        (
            lambda v, x, y: v.encode(x, "label"),
            "c is a str; give numbers, 3 for each datum",
        ),
        (
            lambda v, x, y: v.model(x, d=y),
            "Model is given d, which none of its factors reads",
        ),
    ],
)
def test_what_cannot_be_a_condition_is_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong(*conditional())


def test_a_pair_without_a_condition_refuses_one():
    vae = build(Spec((6,), 2))
    x = torch.rand(30, 6).round()
    for wrong in (
        lambda: log_marginal(vae.model, vae.guide, x, c=x),
        lambda: vae.sample(2, 1),
        lambda: fit(vae, x, c=x, epochs=1),
        lambda: vae.encode(x, x),
    ):
        with pytest.raises(InputError, match="not conditional"):
            wrong()


def test_parts_that_read_other_conditions_are_refused():
    with pytest.raises(
        InputError, match="the decoder 2 and the guide's encoder 3 numbers"
    ):
        VAE(
            StandardNormal(2),
            MLP((2,), (1, 4), context=2),
            Gaussian((4,)),
            MeanField(MLP((4,), context=3), 2),
        )
    with pytest.raises(InputError, match=r"there is no condition .*: add --condition"):
        build(Spec((4,), 2, prior="conditional"))
    with pytest.raises(InputError, match="mlp has no argument context"):
        build(Spec((4,), 2, network="mlp(context=3)"))


def test_every_estimator_gives_log_p_of_x_given_c():
    ppca = ConditionalPPCA(prior=True)
    vae, truth = ppca.vae, ppca.marginal.log_prob(ppca.x)
    torch.manual_seed(0)
    with torch.no_grad():  # a guide that has to be mended
        vae.guide.head.bias[:2] += 0.4
    c, few = ppca.c, {"x": ppca.x[:6], "c": ppca.c[:6]}

    refined = log_marginal_refined(vae, ppca.x, c=c, steps=200, num_particles=50)
    torch.testing.assert_close(refined.values, truth, atol=0.02, rtol=0)
    adaptive, _ = log_marginal_adaptive(vae, ppca.x, c=c, num_particles=2000)
    error = adaptive.monte_carlo_standard_error
    assert abs(adaptive.mean - truth.mean().item()) < 4 * error < 0.1
    annealed = annealed_importance_sampling(
        vae.model, few, num_chains=30, num_temperatures=100
    )
    assert (
        abs(annealed.mean - truth[:6].mean().item())
        < 4 * annealed.monte_carlo_standard_error
    )
    gaps = inference_gaps(vae, ppca.x[:10], c=c[:10], steps=200, num_particles=50)
    assert gaps.approximation.mean().item() == pytest.approx(0, abs=0.02)

    sandwich = bidirectional_monte_carlo(
        vae.model, 6, few, num_chains=30, num_temperatures=100, guide=vae.guide
    )
    gap = (sandwich.upper - sandwich.lower.values).mean()
    noise = (
        sandwich.upper_errors.square() + sandwich.lower.standard_errors.square()
    ).sum().sqrt() / 6
    assert -4 * noise < gap < 4 * noise < 0.3
    scores = anomaly_scores(vae, few, {"x": ppca.x, "c": c}, steps=50, num_particles=50)
    torch.testing.assert_close(scores.log_marginal, truth[:6], atol=0.1, rtol=0)


def test_the_posterior_under_a_condition_is_drawn_by_nuts():
    ppca = ConditionalPPCA(prior=True)
    few = {"x": ppca.x[:2], "c": ppca.c[:2]}
    found = compare_posterior(
        ppca.vae.model, ppca.vae.guide, few, num_samples=200, num_chains=2
    )
    drawn = found.draws.flatten(1, 2).mean(1)
    torch.testing.assert_close(drawn, ppca.posterior_mean[:2], atol=0.15, rtol=0)


class Plain(Network):
    """A network of one's own that knows of no condition."""

    def __init__(self, in_shape, out_shape=None):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape or (3,)
        self.layer = torch.nn.Linear(math.prod(in_shape), math.prod(self.out_shape))

    def forward(self, x):
        return self.layer(x.flatten(x.dim() - len(self.in_shape))).unflatten(
            -1, self.out_shape
        )


def test_a_network_of_ones_own_without_a_context_says_so():
    with pytest.raises(InputError, match="the network Plain takes no context"):
        Plain.encoder((4,), context=2)
    assert Plain.encoder((4,))(torch.zeros(2, 4)).shape == (2, 3)


def test_a_mixture_for_each_condition_has_the_density_of_torchs():
    torch.manual_seed(0)
    prior = Conditional(2, components=3, context=4).double()
    c, z = torch.randn(5, 4).double(), torch.randn(7, 5, 2).double()
    logits, loc, log_scale = prior.network(c).split([1, 2, 2], -1)
    parts = torch.distributions.Normal(loc, log_scale.exp())
    mixture = MixtureSameFamily(
        torch.distributions.Categorical(logits=logits.squeeze(-1)),
        torch.distributions.Independent(parts, 1),
    )
    torch.testing.assert_close(prior(c).log_prob(z), mixture.log_prob(z))
    draws = prior(c).sample((20_000,))
    torch.testing.assert_close(draws.mean(0), mixture.mean, atol=0.05, rtol=0)
