"""Every question, asked of chains of two and three latents that are written with Pyro alone, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Categorical, Gamma, MixtureSameFamily, Normal

from levels import Levels
from pyro_vae import (
    SVI,
    InputError,
    anomaly_scores,
    compare_posterior,
    elbo,
    latent_health,
    log_marginal,
    terms,
)
from pyro_vae.data.inputs import Call
from pyro_vae.evaluation.adaptive import log_marginal_adaptive
from pyro_vae.evaluation.annealing import (
    annealed_importance_sampling,
    bidirectional_monte_carlo,
)
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.latents import activity
from pyro_vae.evaluation.refinement import log_marginal_refined, refine
from pyro_vae.inference.objectives import (
    PIWAE,
    STL,
    BetaTC,
    DReG,
    FreeBits,
    InfoVAE,
    MeanFieldELBO,
    ReweightedWakeSleep,
)
from pyro_vae.inference.scores import Flat, draw, score, simulate
from pyro_vae.inference.shift import RefinedGuide, Shifted, starting

SIZES = [(2, 3), (2, 1, 3)]


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


def pair(sizes, **options):
    levels = Levels(sizes, **options)
    return levels, (levels.model, levels.guide), levels.sample(12)


def within(result, truth, errors=4.5):
    z = (result.values - truth) / result.standard_errors.clamp_min(1e-9)
    assert z.abs().max() < errors


# --- draws and densities


@pytest.mark.parametrize("sizes", SIZES)
def test_scores_are_those_of_the_joint_normal(sizes):
    levels, (model, guide), x = pair(sizes)
    call = Call(x)
    values = draw(model, call, 7)
    joint = torch.distributions.MultivariateNormal(
        torch.zeros(len(levels.covariance)).double(), levels.covariance
    )
    rows = torch.cat(
        [*(values[name] for name in levels.names), x.expand(7, *x.shape)], -1
    )
    p, q = score(model, call, values), score(guide, call, values)
    torch.testing.assert_close(p.joint, joint.log_prob(rows))
    torch.testing.assert_close(
        p.joint - q.joint, levels.marginal.log_prob(x).expand(7, -1)
    )
    assert torch.equal(q.latent, q.joint)


@pytest.mark.parametrize("sizes", SIZES)
def test_draws_of_a_model_are_those_of_its_prior(sizes):
    levels, (model, _), x = pair(sizes)
    flat = Flat(model, Call(x))
    z = flat.vector(draw(model, Call(x), 4000)).flatten(0, 1)
    d = sum(sizes)
    torch.testing.assert_close(
        z.T.cov(), levels.covariance[:d, :d], rtol=0.06, atol=0.06
    )


def test_latents_with_constraints_stand_as_reals():
    def model(x):
        with pyro.plate("rows", len(x), dim=-2):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0).double(), 3.0))
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3).double()))
            with pyro.plate("columns", x.shape[1], dim=-1):
                pyro.sample("each", dist.LogNormal(rate.log(), 1.0))
                pyro.sample("x", dist.Categorical(share), obs=x)

    x = torch.randint(3, (5, 4))
    call = Call(x)
    flat, values = Flat(model, call), draw(model, call, 6)
    vector = flat.vector(values)
    assert vector.shape == (6, 5, 1 + 2 + 4)
    again, log_jacobian = flat.values(vector)
    for name, value in values.items():
        torch.testing.assert_close(again[name], value)

    # The density of the vector, entry by entry: the change of variables by autodiff of one datum.
    def of_one(v):
        some = flat.values(vector.index_put((torch.tensor(0), torch.tensor(0)), v))[0]
        share = some["share"][0, 0, 0, :2]  # the third is what is left
        return torch.cat([some["rate"][0, 0], share, some["each"][0, 0]])

    jacobian = torch.autograd.functional.jacobian(of_one, vector[0, 0])
    assert log_jacobian[0, 0].item() == pytest.approx(
        torch.linalg.slogdet(jacobian)[1].item(), 1e-3
    )


def test_what_has_no_value_and_no_sum_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    with pytest.raises(InputError, match="'w' has no value"):
        score(model, Call(torch.zeros(3)), {"z": torch.zeros(2, 3)})


# --- every question


@pytest.mark.parametrize("sizes", SIZES)
def test_weights(sizes):
    levels, (model, guide), x = pair(sizes)
    exact = log_marginal(model, guide, x, num_particles=20)
    torch.testing.assert_close(exact.values, levels.marginal.log_prob(x))
    _, (model, guide), _ = pair(sizes, widen=1.4, shift=0.1)
    within(
        log_marginal(model, guide, x, num_particles=20_000), levels.marginal.log_prob(x)
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_refinement_reaches_the_posterior_level_by_level(sizes):
    """Each level is moved on top of what the levels above it say, so the exact posterior is within reach."""
    levels, given, x = pair(sizes, widen=1.6, shift=0.4)
    q = refine(given, x, steps=300)
    truth = levels.marginal.log_prob(x)
    weights = terms(levels.model, q, x, num_particles=50).log_weight
    assert elbo(*given, x, num_particles=200).elbo < truth.mean() - 0.3
    torch.testing.assert_close(weights.mean(0), truth, rtol=0, atol=0.02)
    torch.testing.assert_close(
        terms(levels.model, q[3:5], x[3:5], num_particles=50).log_weight.mean(0),
        truth[3:5],
        rtol=0,
        atol=0.02,
    )
    refined = log_marginal_refined(given, x, steps=300, num_particles=200, batch_size=5)
    torch.testing.assert_close(refined.values, truth, rtol=0, atol=0.01)


@pytest.mark.parametrize("sizes", SIZES)
def test_gaps(sizes):
    levels, given, x = pair(sizes, widen=1.5, shift=0.3)
    loss = levels.marginal.log_prob(x) - terms(
        *given, x, num_particles=20_000
    ).log_weight.mean(0)
    gaps = inference_gaps(given, x, steps=300, num_particles=500, elbo_particles=500)
    torch.testing.assert_close(
        gaps.approximation, torch.zeros(12).double(), rtol=0, atol=0.01
    )
    z = (gaps.amortisation - loss) / gaps.amortisation_errors
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing(sizes, start):
    levels, (model, guide), x = pair(sizes, widen=1.5, shift=0.3)
    options = {
        "num_chains": 64,
        "num_temperatures": 30,
        "guide": guide if start == "guide" else None,
    }
    result = annealed_importance_sampling(model, x[:5], **options)
    within(result, levels.marginal.log_prob(x[:5]))
    assert result.monte_carlo_standard_error < 0.2


@pytest.mark.parametrize("sizes", SIZES)
def test_simulated_data_have_the_marginal_of_the_model(sizes):
    levels, (model, _), _ = pair(sizes)
    latents, observed = simulate(model, Call(torch.zeros(20_000, levels.dims).double()))
    x, _ = observed["x"]
    torch.testing.assert_close(
        x.T.cov(), levels.covariance[-4:, -4:], rtol=0.08, atol=0.08
    )
    assert latents["z1"].shape == (1, 20_000, sizes[-1])


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_bounds_from_both_sides(start):
    _, (model, guide), x = pair((2, 3), widen=1.3)
    sandwich = bidirectional_monte_carlo(
        model,
        10,
        x,
        num_chains=32,
        num_temperatures=60,
        guide=guide if start == "guide" else None,
    )
    low, high = sandwich.bounds
    assert low - 0.1 < high < low + 0.5
    with pytest.raises(InputError, match="give x, of 10 rows"):
        bidirectional_monte_carlo(model, 10)
    with pytest.raises(InputError, match="has 12 rows"):
        bidirectional_monte_carlo(model, 20, x)


def test_draws_where_they_are_needed():
    levels, given, x = pair((2, 3), widen=0.4, shift=0.6)
    result, effort = log_marginal_adaptive(
        given, x, num_particles=500, num_chains=32, num_temperatures=40
    )
    assert effort.took("refined").any()
    truth = levels.marginal.log_prob(x)
    assert (result.values - truth).abs().max() < 0.2
    assert (
        result.mean - truth.mean()
    ).abs() < 4.5 * result.monte_carlo_standard_error + 0.01


@pytest.mark.parametrize("sizes", SIZES)
def test_what_the_latents_carry(sizes):
    """The exact posterior: the information is that of the joint normal, and q(z) is the prior."""
    levels, (model, guide), _ = pair(sizes)
    x = levels.sample(400)
    health = latent_health(model, guide, x, draws=2)
    d = sum(sizes)
    covariance = levels.covariance
    logdet = torch.logdet
    information = 0.5 * (
        logdet(covariance[:d, :d]) + logdet(covariance[d:, d:]) - logdet(covariance)
    )
    assert health.kl.mean == pytest.approx(
        information.item(), abs=5 * health.kl.data_standard_error
    )
    found = health.mutual_information
    assert found.mean - 5 * found.data_standard_error < information
    assert information < health.mutual_information_upper + 5 * found.data_standard_error
    assert len(health.activity) == d
    names = {name: value.shape for name, value in activity(guide, x).items()}
    assert names == {
        name: (size,) for name, size in zip(levels.names, sizes, strict=True)
    }


def test_other_data_have_other_scores():
    _, given, x = pair((2, 3))
    scores = anomaly_scores(given, x + 5, x, steps=20, num_particles=200)
    assert (scores.log_marginal < scores.typical - 5).all()


@pytest.mark.slow
def test_the_guide_beside_the_posterior():
    _, (model, guide), x = pair((2, 3))
    compared = compare_posterior(model, guide, x[:1], num_samples=1000, num_chains=2)
    assert (compared.kl < 10 * compared.kl_noise).all()


# --- latents of few values, summed out


PARTS = torch.tensor([0.2, 0.5, 0.3]).double()
CENTRES = torch.tensor([-2.0, 0.0, 3.0]).double()


def mixed(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(PARTS))
        z = pyro.sample("z", dist.Normal(CENTRES[y], 0.7))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def of_mixed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.8))


def truth_of_mixed(x):
    spread = math.hypot(0.7, 0.5)
    return MixtureSameFamily(Categorical(PARTS), Normal(CENTRES, spread)).log_prob(x)


@pytest.mark.parametrize("count", [1, 20_000])
def test_a_cluster_is_summed_out(count):
    x = 2 * torch.randn(7).double()
    if count == 1:
        t = terms(mixed, of_mixed, x)
        z = t.sites["z"].value
        p = MixtureSameFamily(Categorical(PARTS), Normal(CENTRES, 0.7)).log_prob(z)
        expected = p + Normal(z, 0.5).log_prob(x) - Normal(0.8 * x, 0.8).log_prob(z)
        torch.testing.assert_close(t.log_weight, expected)
    else:
        within(log_marginal(mixed, of_mixed, x, num_particles=count), truth_of_mixed(x))


def test_chains_move_where_a_cluster_is_summed_out():
    x = 2 * torch.randn(7).double()
    options = {"num_chains": 32, "num_temperatures": 40}
    within(annealed_importance_sampling(mixed, x, **options), truth_of_mixed(x))
    options["num_temperatures"] = 80
    low, high = bidirectional_monte_carlo(mixed, 7, x, **options).bounds
    assert low - 0.1 < high < low + 0.3


def test_gaps_where_a_cluster_is_summed_out():
    x = 2 * torch.randn(7).double()
    gaps = inference_gaps(
        (mixed, of_mixed), x, steps=100, num_particles=4000, elbo_particles=200
    )
    within(gaps.log_marginal, truth_of_mixed(x))
    assert (gaps.amortisation > -4.5 * gaps.amortisation_errors).all()


def test_without_any_other_latent_the_sum_is_exact():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Bernoulli(0.3))
            with pyro.plate("columns", 3, dim=-1):
                c = pyro.sample("c", dist.Bernoulli(0.1 + 0.5 * a))
                pyro.sample("x", dist.Normal(2 * a - c, 1.0), obs=x)

    x = torch.randn(5, 3).double()
    branches = []
    for a, share in ((0.0, 0.7), (1.0, 0.3)):
        cells = MixtureSameFamily(
            Categorical(torch.tensor([0.9 - 0.5 * a, 0.1 + 0.5 * a]).double()),
            Normal(torch.tensor([2 * a, 2 * a - 1]).double(), 1.0),
        )
        branches.append(cells.log_prob(x).sum(-1) + math.log(share))
    result = log_marginal(model, lambda x: None, x)
    torch.testing.assert_close(result.values, torch.stack(branches).logsumexp(0))
    assert not result.standard_errors.any()


def test_a_hidden_markov_chain_is_summed_out():
    step = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"s{t}", dist.Categorical(step[state]))
                pyro.sample(f"x{t}", dist.Normal(2.0 * state, 1.0), obs=x[:, t])

    x = torch.randn(4, 12).double()
    truth = dist.DiscreteHMM(
        torch.tensor([1.0, 0.0]).double().log(),
        step.log(),
        dist.Normal(torch.tensor([0.0, 2.0]).double(), 1.0),
        duration=12,
    ).log_prob(x)
    torch.testing.assert_close(log_marginal(model, lambda x: None, x).values, truth)


def test_what_is_summed_out_is_not_scaled():
    scaled = poutine.scale(mixed, 2.0)
    with pytest.raises(InputError, match="is scaled"):
        terms(scaled, poutine.scale(of_mixed, 2.0), torch.zeros(3).double())


# --- what else pairs are called with


def test_several_observed_sites_further_arguments_and_keywords():
    """z ~ N(0, 1), x ~ N(a z, 1), y ~ N(b z, 1), with a a row of each datum and b a keyword."""

    def model(x, y, a, *, b):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a * z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(b * z, 1.0), obs=y)

    def guide(x, y, a, *, b):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x, 1.2))

    x, y, a = torch.randn(3, 9).double()
    rows, b = torch.stack([x, y], -1), 0.7
    weights = torch.stack([a, torch.full_like(a, b)], -1)
    covariance = weights.unsqueeze(-1) * weights.unsqueeze(-2) + torch.eye(2).double()
    truth = torch.distributions.MultivariateNormal(
        torch.zeros(2).double(), covariance
    ).log_prob(rows)
    more = {"b": b}
    within(log_marginal(model, guide, x, y, a, num_particles=5000, **more), truth)
    refined = log_marginal_refined(
        (model, guide), x, y, a, batch_size=4, num_particles=500, **more
    )
    torch.testing.assert_close(refined.values, truth, rtol=0, atol=0.05)
    chains = {"num_chains": 32, "num_temperatures": 30}
    within(annealed_importance_sampling(model, x, y, a, **chains, **more), truth)
    low, high = bidirectional_monte_carlo(model, 6, x, y, a, **chains, **more).bounds
    assert low - 0.1 < high < low + 0.3
    gaps = inference_gaps((model, guide), x, y, a, steps=200, batch_size=4, **more)
    torch.testing.assert_close(
        gaps.approximation, torch.zeros(9).double(), rtol=0, atol=0.05
    )
    adapted, _ = log_marginal_adaptive(
        (model, guide), x, y, a, num_particles=400, **more
    )
    assert (adapted.values - truth).abs().max() < 0.2
    health = latent_health(model, guide, x, y, a, **more)
    assert health.num_data == 9


def _guides():
    one, two = torch.tensor([1.2, 0.7]).double(), torch.tensor([0.5, 2.0]).double()
    square = torch.tensor([[1.0, 0.3], [0.3, 2.0]]).double().expand(2, 2, 2)
    return [
        dist.Normal(one, two),
        dist.LogNormal(one, two),
        dist.Beta(one, two),
        dist.Gamma(one, two),
        dist.HalfNormal(two),
        dist.HalfCauchy(two),
        dist.StudentT(two + 3, one, two),
        dist.Weibull(one, two),
        dist.Gumbel(one, two),
        dist.Exponential(two),
        dist.Chi2(two),
        dist.Laplace(one, two).to_event(0),
        dist.MultivariateNormal(torch.zeros(2, 2).double(), covariance_matrix=square),
        dist.MultivariateNormal(torch.zeros(2, 2).double(), precision_matrix=square),
        dist.LowRankMultivariateNormal(
            torch.zeros(2, 2).double(), square[..., :1], torch.ones(2, 2).double()
        ),
        dist.Dirichlet(square),
        dist.Normal(square[0], square[1]).to_event(1),
        dist.TransformedDistribution(
            dist.Normal(one, two), [dist.transforms.ExpTransform()]
        ),
        dist.Normal(one, two).mask(torch.tensor([True, True])),
    ]


@pytest.mark.parametrize("q", _guides(), ids=lambda q: type(q).__name__)
def test_a_guide_of_any_distribution_can_be_moved(q):
    """Moved by nothing it is what it was; moved by something it is another of its family."""

    def guide(x):
        with pyro.plate("data", 2):
            pyro.sample("z", q)

    call = Call(torch.zeros(2).double())
    layout, deltas = starting(guide, call)
    z = q.sample()
    for move, same in ((0.0, True), (0.3, False)):
        moved = Shifted(guide, layout)
        trace = poutine.trace(moved).get_trace(
            call.data, shift={site: delta + move for site, delta in deltas.items()}
        )
        d = trace.nodes["z"]["fn"]
        assert d.batch_shape == q.batch_shape
        assert torch.allclose(d.log_prob(z), q.log_prob(z), atol=1e-6) == same


class Opaque(dist.Normal):
    """A distribution that does not say what it is made from."""

    arg_constraints = {}  # noqa: RUF012  # torch's way


def test_a_guide_that_tells_no_arguments_is_not_refined_but_drawn_more_from():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Opaque(x, 8.0))

    x = torch.randn(4).double()
    with pytest.raises(InputError, match="a Opaque, whose parameters are not known"):
        refine((model, guide), x)
    _, effort = log_marginal_adaptive(
        (model, guide),
        x,
        num_particles=50,
        num_chains=25,
        num_temperatures=10,
        annealing=0,
    )
    assert not effort.took("refined").any()


@pytest.mark.parametrize(
    "objective", [MeanFieldELBO(), InfoVAE(), FreeBits(), BetaTC()]
)
def test_a_prior_that_is_a_sum_is_not_compared_site_by_site(objective):
    with pytest.raises(InputError, match="depends on a latent that is summed out"):
        SVI(mixed, of_mixed, pyro.optim.Adam({"lr": 0.01}), objective).check(
            torch.randn(5).double()
        )


def test_nuts_does_not_draw_beside_latents_that_are_summed_out():
    with pytest.raises(InputError, match="sum them out in the model"):
        compare_posterior(mixed, of_mixed, torch.randn(2).double(), num_samples=4)


def test_positive_latents_are_refined_and_annealed():
    """A gamma rate under counts: log p(x) is that of the negative binomial."""

    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(x + 4.0, x.new_tensor(2.5)))

    x = torch.tensor([0.0, 1.0, 3.0, 8.0, 20.0]).double()
    truth = dist.GammaPoisson(2.0, 0.5).log_prob(x)
    q = refine((model, guide), x, steps=300, num_particles=32)
    posterior = poutine.trace(q).get_trace(x).nodes["rate"]["fn"]
    torch.testing.assert_close(
        torch.distributions.kl_divergence(
            Gamma(posterior.concentration, posterior.rate),
            Gamma(x + 2, torch.tensor(1.5).double()),
        ),
        torch.zeros(5).double(),
        rtol=0,
        atol=0.01,
    )
    within(
        annealed_importance_sampling(model, x, num_chains=64, num_temperatures=60),
        truth,
    )
    within(log_marginal(model, guide, x, num_particles=5000), truth)


def test_a_guide_with_a_number_for_each_datum_is_called_with_all():
    x = torch.randn(30).double()
    truth = Normal(0.0, math.sqrt(2.0)).log_prob(x)
    loc = (x / 2 + 0.3).clone()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    gaps = inference_gaps((model, guide), x, steps=200, batch_size=7)
    torch.testing.assert_close(
        gaps.approximation, torch.zeros(30).double(), rtol=0, atol=0.03
    )
    within(
        annealed_importance_sampling(model, x, guide=guide, num_temperatures=40), truth
    )


# --- what is refused, in a sentence


def test_a_guide_of_a_transform_has_no_density_at_other_latents():
    guide = pyro.infer.autoguide.AutoNormal(mixed_without_cluster)
    x = torch.randn(4).double()
    guide(x)
    with pytest.raises(InputError, match="anneal from the prior"):
        annealed_importance_sampling(mixed_without_cluster, x, guide=guide)


def mixed_without_cluster(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@pytest.mark.parametrize(
    "objective",
    [STL(), DReG(num_particles=3), PIWAE(num_particles=8), ReweightedWakeSleep()],
)
def test_path_gradients_of_a_guide_that_is_a_chain_are_refused(objective):
    """Frozen site by site, q(z1|z2) would lose the way of its gradient through z2."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(scale * x[:, :2], 1.0).to_event(1))
            pyro.sample(
                "z1",
                dist.Normal(
                    z2.sum(-1, keepdim=True).expand(*z2.shape[:-1], 3), 1.0
                ).to_event(1),
            )

    levels, _, x = pair((2, 3))
    svi = SVI(levels.model, guide, torch.optim.Adam([scale]), objective)
    with pytest.raises(InputError, match="'z1' depends on 'z2'"):
        svi.step(x)


ASKED = {
    "weighted": log_marginal,
    "refined": lambda m, g, x: log_marginal_refined((m, g), x, steps=2),
    "gaps": lambda m, g, x: inference_gaps((m, g), x, steps=2),
    "ais": lambda m, g, x: annealed_importance_sampling(m, x),
    "bdmc": lambda m, g, x: bidirectional_monte_carlo(m, 2, x),
    "adaptive": lambda m, g, x: log_marginal_adaptive((m, g), x),
    "health": latent_health,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_latent_that_all_data_share_is_refused(ask):
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(
        InputError, match="'m' lies outside the data plate, so all data share it"
    ):
        ask(model, guide, torch.randn(6).double())


def test_a_model_with_a_factor_cannot_be_simulated():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("tilt", z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(5).double()
    with pytest.raises(InputError, match="has a factor 'tilt'"):
        bidirectional_monte_carlo(model, 3, x)
    # Annealed all the same: E[exp(z) N(x; z, 1)] over the prior.
    result = annealed_importance_sampling(model, x, num_chains=64, num_temperatures=40)
    within(result, 0.5 + Normal(1.0, math.sqrt(2.0)).log_prob(x))


def test_what_is_masked_counts_nothing_on_any_road():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=x > 0):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.tensor([-1.0, 2.0, 0.5, -0.1]).double()
    truth = torch.where(
        x > 0, Normal(0.0, math.sqrt(2.0)).log_prob(x), torch.zeros(4).double()
    )
    within(log_marginal(model, guide, x, num_particles=5000), truth)
    within(
        annealed_importance_sampling(model, x, num_chains=64, num_temperatures=40),
        truth,
    )
    refined = log_marginal_refined((model, guide), x, steps=200, num_particles=500)
    torch.testing.assert_close(refined.values, truth, rtol=0, atol=0.02)
    low, high = bidirectional_monte_carlo(
        model, 4, x, num_chains=64, num_temperatures=60
    ).bounds
    assert low - 0.05 < high < low + 0.2


def test_draws_cannot_be_spent_on_some_where_all_are_called():
    loc = torch.zeros(6).double()

    def guide(x):
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(InputError, match="all of its data at once"):
        log_marginal_adaptive((mixed_without_cluster, guide), torch.randn(6).double())


def test_what_is_no_pair():
    with pytest.raises(InputError, match="is no pair"):
        refine(3, torch.zeros(3))


def test_start_leaves_all_as_it_is():
    _, (model, guide), x = pair((2, 3))
    layout, deltas = starting(guide, Call(x))
    assert not any(delta.any() for delta in deltas.values())
    unmoved = RefinedGuide(
        guide,
        layout,
        Call(x),
        start=deltas,
        shift=deltas,
        improved=torch.ones(12).bool(),
    )
    pyro.set_rng_seed(3)
    first = terms(model, guide, x, num_particles=4).log_weight
    pyro.set_rng_seed(3)
    torch.testing.assert_close(
        terms(model, unmoved, x, num_particles=4).log_weight, first
    )
