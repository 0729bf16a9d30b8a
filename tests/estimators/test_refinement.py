"""Refinement of each datum's q(z|x), and the gaps it measures, against linear-Gaussian models and quadrature."""

import math
import warnings

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal, kl_divergence

from ppca import PPCA
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    InputError,
    MeanField,
    StandardNormal,
    elbo,
    log_marginal,
    terms,
)
from pyro_vae.evaluation.adaptive import log_marginal_adaptive
from pyro_vae.evaluation.gaps import inference_gaps
from pyro_vae.evaluation.modes import Fit
from pyro_vae.evaluation.refinement import log_marginal_refined, refine
from pyro_vae.evaluation.results import LogMarginal
from pyro_vae.models.conditionals import (
    IAF,
    Delta,
    Local,
    Mixture,
    Planar,
    SemiAmortized,
)

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def with_guide(truth, make):
    """The model of a probabilistic PCA with another guide."""
    guide = make(MLP((len(truth.b),), hidden=()), truth.latent_dim)
    return VAE(
        StandardNormal(truth.latent_dim),
        truth.vae.model.decoder,
        truth.vae.model.likelihood,
        guide,
    ).double()


def mean_field(truth, *, shift=0.0, widen=1.0):
    """The best independent Gaussian of each datum, `N(z; gain (x - b), 1 / P_dd)`, moved and widened."""
    vae, d = with_guide(truth, MeanField), truth.latent_dim
    precision = torch.linalg.inv(truth.posterior_covariance)
    with torch.no_grad():
        vae.guide.head.weight.zero_()
        vae.guide.head.weight[:d] = truth.gain
        log_scale = math.log(widen) - 0.5 * precision.diagonal().log()
        vae.guide.head.bias.copy_(torch.cat([shift - truth.gain @ truth.b, log_scale]))
    return vae


def mean_field_gap(truth):
    """`1/2 (sum log P_dd - log|P|)`, P the posterior's precision."""
    precision = torch.linalg.inv(truth.posterior_covariance)
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()


def kl_to_posterior(truth, x, q):
    posterior = MultivariateNormal(
        (x - truth.b) @ truth.gain.T, truth.posterior_covariance
    )
    covariance = getattr(q, "covariance_matrix", None)
    covariance = torch.diag_embed(q.variance) if covariance is None else covariance
    return kl_divergence(MultivariateNormal(q.mean, covariance), posterior)


def q_of(guide, x):
    """q(z|x), as the guide draws from it."""
    return poutine.trace(guide).get_trace(x).nodes["z"]["fn"]


# --- refine


def test_a_family_that_contains_the_posterior_reaches_it():
    truth = PPCA(2, 5, widen=2.0, shift=0.7)
    x = truth.sample(60)
    before = kl_to_posterior(truth, x, truth.vae.encode(x))
    guide = refine(truth.vae, x, steps=200)
    after = kl_to_posterior(truth, x, q_of(guide, x))
    assert before.min() > 5
    assert after.max() < 1e-3
    assert guide.improved.all()
    torch.testing.assert_close(
        terms(truth.vae.model, guide, x, num_particles=20).log_weight.mean(0),
        truth.marginal.log_prob(x),
        rtol=0,
        atol=0.02,
    )


@pytest.mark.parametrize("path", [True, False])
def test_mean_field_reaches_the_best_of_its_family(path):
    """With the path gradient and with the plain one, which is left to the noise of the score."""
    truth = PPCA(2, 5)
    x = truth.sample(60)
    vae = mean_field(truth, shift=0.7, widen=2.0)
    vae.guide.quick_density = path
    kl = kl_to_posterior(truth, x, q_of(refine(vae, x, steps=300), x))
    assert kl.min() > mean_field_gap(truth) - 1e-9
    assert kl.mean().item() == pytest.approx(mean_field_gap(truth), abs=0.01)


def test_refinement_does_not_harm():
    """From the exact posterior, by steps that are far too long: the start stays."""
    truth = PPCA(2, 5)
    x = truth.sample(60)
    guide = refine(truth.vae, x, steps=3, rate=5.0)
    for name, part in (("better", guide.improved), ("not better", ~guide.improved)):
        kl = kl_to_posterior(truth, x, q_of(guide, x))[part]
        assert (kl < 1e-9).all(), name


def test_data_do_not_disturb_each_other():
    """One datum that cannot be fitted keeps its start; the others go their way."""
    truth = PPCA(2, 5, widen=2.0, shift=0.7)
    x = truth.sample(6)
    x[2] = 1e200  # its ELBO is minus infinity
    guide = refine(truth.vae, x, steps=200)
    others = torch.arange(6) != 2
    assert guide.improved.tolist() == others.tolist()
    assert (
        kl_to_posterior(truth, x[others], q_of(guide[others], x[others])).max() < 1e-3
    )


GUIDES = {
    "meanfield": MeanField,
    "iaf": lambda e, d: IAF(e, d, hidden=(8,), context=3),
    "planar": lambda e, d: Planar(e, d, transforms=2),
    "mixture": lambda e, d: Mixture(e, d, components=2),
    "local": lambda e, d: Local(e, d, steps=3),
    "semi-amortized": lambda e, d: SemiAmortized(e, d, steps=2),
    "semi-amortized, full rank": lambda e, d: SemiAmortized(
        e, d, guide=FullRank, steps=2
    ),
}


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_every_guide_with_a_density_gets_better_and_the_vae_stays_as_it_is(make):
    truth = PPCA(2, 5)
    x = truth.sample(30)
    vae = with_guide(truth, make)
    vae.model.decoder.layers[0].bias.requires_grad_(False)
    weights = {name: t.clone() for name, t in vae.state_dict().items()}
    flags = {name: p.requires_grad for name, p in vae.named_parameters()}
    attributes = {name: dict(m.__dict__) for name, m in vae.guide.named_modules()}
    before = elbo(vae.model, vae.guide, x, num_particles=100).elbo
    with torch.no_grad():  # as evaluation runs
        guide = refine(vae, x, steps=30)
    after = elbo(vae.model, guide, x, num_particles=100).elbo
    assert before + 0.5 < after < truth.marginal.log_prob(x).mean() + 0.1
    assert not guide.shift["z"].requires_grad
    assert all(torch.equal(t, weights[name]) for name, t in vae.state_dict().items())
    assert {name: p.requires_grad for name, p in vae.named_parameters()} == flags
    assert all(p.grad is None for p in vae.parameters())
    assert {name: m.__dict__.keys() for name, m in vae.guide.named_modules()} == {
        name: a.keys() for name, a in attributes.items()
    }


@pytest.mark.parametrize(
    "make",
    [GUIDES["local"], GUIDES["semi-amortized"], GUIDES["semi-amortized, full rank"]],
)
def test_the_start_is_what_the_guide_returns(make):
    truth = PPCA(2, 5)
    x = truth.sample(5)
    vae = with_guide(truth, make)
    torch.manual_seed(1)
    with torch.no_grad():
        expected = vae.guide.given(x)
    torch.manual_seed(1)
    guide = refine(vae, x, steps=1, rate=1e-12)
    torch.testing.assert_close(q_of(guide, x).mean, expected.mean)
    torch.testing.assert_close(q_of(guide, x).variance, expected.variance)


def test_a_guide_that_is_no_member_of_the_family_of_guides():
    """Any Pyro guide: the arguments of its distribution are what is refined."""

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(5, 4)

        def posterior(self, h):
            loc, log_scale = h.chunk(2, -1)
            return pyro.distributions.Normal(loc, log_scale.exp()).to_event(1)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", self.posterior(self.encoder(x)))

    truth = PPCA(2, 5)
    x = truth.sample(20)
    vae = VAE(
        StandardNormal(2), truth.vae.model.decoder, truth.vae.model.likelihood, Own()
    ).double()
    kl = kl_to_posterior(
        truth, x, q_of(refine(vae, x, steps=300, rate=0.3), x)
    )  # from a start far away
    assert kl.mean().item() == pytest.approx(mean_field_gap(truth), abs=0.03)


def test_the_refined_guide_knows_its_data_and_no_others():
    truth = PPCA(2, 5, widen=2.0)
    x = truth.sample(8)
    x[5] = x[1]  # a datum twice
    guide = refine(truth.vae, x, steps=5)
    assert len(guide) == 8
    torch.testing.assert_close(
        q_of(guide, x).mean, truth.vae.guide.family(guide.shift["z"]).mean
    )
    for rows in (slice(0, 1), slice(4, 7), torch.tensor([5, 0])):
        torch.testing.assert_close(
            q_of(guide[rows], x[rows]).mean, q_of(guide, x).mean[rows]
        )
    for other in (
        x[:0],
        truth.sample(3, seed=1),
        torch.cat([x, x]),
        x[[0, 2]],
        truth.sample(8, seed=1),
        x[:, :3],
    ):
        with pytest.raises(
            InputError, match=f"refined for 8 data and is called with {len(other)}"
        ):
            guide(other)


def test_the_random_stream_is_used_as_it_is():
    truth = PPCA(2, 5, widen=2.0)
    x = truth.sample(4)
    torch.manual_seed(7)
    first, state = refine(truth.vae, x, steps=5).shift["z"], torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(refine(truth.vae, x, steps=5).shift["z"], first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert not torch.equal(refine(truth.vae, x, steps=5).shift["z"], first)


# --- log p(x) from refined guides


def test_weights_from_a_refined_guide_are_better_and_agree_with_the_closed_form():
    truth = PPCA(2, 5, widen=0.3, shift=0.5)
    x = truth.sample(50)
    plain = log_marginal(*truth.pair, x, num_particles=1000)
    done = []
    refined = log_marginal_refined(
        truth.vae, x, num_particles=1000, steps=100, batch_size=20, progress=done.append
    )
    assert sum(done) == 50 * 1000
    assert len(refined) == 50
    assert plain.doubtful.float().mean() > 0.8
    assert not refined.doubtful.any()
    assert refined.pareto_k.median() < plain.pareto_k.median() - 0.5
    error = (refined.values - truth.marginal.log_prob(x)).mean().item()
    assert abs(error) < 4.5 * refined.monte_carlo_standard_error + 1e-6
    assert refined.monte_carlo_standard_error < 0.1 * plain.monte_carlo_standard_error


def test_log_marginal_of_a_curved_posterior_against_quadrature():
    """A Bernoulli model with one latent, whose posterior is no Gaussian."""
    vae = VAE(
        StandardNormal(1),
        MLP((1,), (1, 6), hidden=(8,)),
        Bernoulli((6,)),
        MeanField(MLP((6,)), 1),
    ).double()
    for p in vae.model.decoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.rand(20, 6).round().double()
    grid = torch.linspace(-10, 10, 20001).double().unsqueeze(-1)
    with torch.no_grad():
        joint = vae.model.log_prob({"x": x, "z": grid.unsqueeze(1)})  # (grid, batch)
    expected = torch.logsumexp(joint, 0) + math.log(20 / 20000)
    result = log_marginal_refined(vae, x, num_particles=20_000, steps=100)
    good = ~result.doubtful
    assert good.sum() > 10
    assert ((result.values - expected).abs() < 5 * result.standard_errors + 1e-4)[
        good
    ].all()


# --- gaps


def test_gaps_of_a_family_that_contains_the_posterior():
    truth = PPCA(2, 5, widen=1.5, shift=0.3)
    x = truth.sample(40)
    amortised = kl_to_posterior(truth, x, truth.vae.encode(x)).detach()
    gaps = inference_gaps(
        truth.vae, x, steps=300, num_particles=500, elbo_particles=400, batch_size=15
    )
    assert len(gaps) == 40
    torch.testing.assert_close(
        gaps.log_marginal.values, truth.marginal.log_prob(x), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        gaps.approximation, torch.zeros(40).double(), rtol=0, atol=1e-3
    )
    z = (gaps.amortisation - amortised) / gaps.amortisation_errors
    assert z.abs().max() < 4.5
    assert 0.6 < z.std() < 1.4  # the errors are neither too large nor too small
    assert (gaps.amortisation > -4 * gaps.amortisation_errors).all()


def test_gaps_of_a_mean_field_guide():
    truth = PPCA(2, 5)
    x = truth.sample(40)
    vae = mean_field(truth, shift=0.3, widen=1.5)
    best = mean_field_gap(truth)
    assert best > 0.15
    amortised = kl_to_posterior(truth, x, vae.encode(x)).detach() - best
    gaps = inference_gaps(vae, x, steps=300, num_particles=2000, elbo_particles=1000)
    rows = gaps.rows
    short = 0.01  # what finitely many noisy steps leave
    for name, expected in (
        ("approximation", best),
        ("amortisation", amortised.mean().item()),
    ):
        mean, _, error = rows[name].estimate
        assert mean == pytest.approx(expected, abs=4.5 * error + short), name
        assert error < 0.05
    assert rows["inference"].mean == pytest.approx(
        rows["approximation"].mean + rows["amortisation"].mean
    )
    assert rows["inference"].mean == pytest.approx(
        best + amortised.mean().item(),
        abs=4.5 * rows["inference"].monte_carlo_standard_error + 0.005,
    )
    for gap, errors in (
        (gaps.approximation, gaps.approximation_errors),
        (gaps.amortisation, gaps.amortisation_errors),
        (gaps.inference, gaps.inference_errors),
    ):
        assert (gap > -4.5 * errors).all()


def test_errors_of_the_gaps_against_repetition():
    """Of one datum, many times over, with the refined guide's share in the noise left out by an exact family."""
    truth = PPCA(2, 3, widen=1.5, shift=0.4)
    x = truth.sample(1).expand(300, 3).contiguous()
    gaps = inference_gaps(
        truth.vae, x, steps=200, num_particles=50, elbo_particles=100, batch_size=300
    )
    for gap, errors in (
        (gaps.amortisation, gaps.amortisation_errors),
        (gaps.inference, gaps.inference_errors),
    ):
        assert gap.std().item() == pytest.approx(
            errors.square().mean().sqrt().item(), rel=0.25
        )
    vae = mean_field(truth, shift=0.4, widen=1.5)
    gaps = inference_gaps(
        vae, x, steps=200, num_particles=400, elbo_particles=100, batch_size=300
    )
    for gap, errors in (
        (gaps.approximation, gaps.approximation_errors),
        (gaps.amortisation, gaps.amortisation_errors),
        (gaps.inference, gaps.inference_errors),
    ):
        assert gap.std().item() == pytest.approx(
            errors.square().mean().sqrt().item(), rel=0.25
        )
    independent = (gaps.refined_elbo_errors.square() + gaps.elbo_errors.square()).sqrt()
    assert (
        gaps.amortisation_errors.mean() < independent.mean()
    )  # what the shared noise is for


def test_the_table_of_gaps():
    truth = PPCA(2, 3, widen=1.5)
    gaps = inference_gaps(
        truth.vae,
        truth.sample(4),
        steps=20,
        num_particles=100,
        elbo_particles=20,
        batch_size=3,
    )
    lines = str(gaps).splitlines()
    assert lines[1].split() == [
        "nats",
        "per",
        "datum",
        "mean",
        "±",
        "data",
        "±",
        "Monte",
        "Carlo",
    ]
    for name, line in zip(gaps.rows, lines[2:8], strict=True):
        assert line.startswith(name)
        assert [float(n) for n in line.split()[-3:]] == pytest.approx(
            list(gaps.rows[name].estimate), abs=6e-5
        )
    assert "of 4 data" in lines[8]
    assert lines[-1].removeprefix("warning: ") == gaps.log_marginal.verdict()
    one = inference_gaps(
        truth.vae, truth.sample(1), steps=2, num_particles=100, elbo_particles=20
    )
    assert math.isnan(one.rows["inference"].data_standard_error)


# --- adaptive


class Blind(FullRank):
    """A guide that is wrong where the first entry of x is large."""

    threshold: float

    def variational_parameters(self, h):
        d = self.latent_dim
        change = torch.cat(
            [torch.full((d,), 2.0), torch.full((d,), -1.0), torch.zeros(len(self.rows))]
        ).to(h)
        return (
            super().variational_parameters(h) + (h[..., :1] > self.threshold) * change
        )


def blind():
    """The model, and a guide that is a little too wide for most data and blind to a few."""
    truth = PPCA(2, 5, widen=1.3)
    vae = with_guide(truth, Blind)
    vae.guide.load_state_dict(truth.vae.guide.state_dict())
    x = truth.sample(120)
    vae.guide.threshold = x[:, 0].sort().values[-13].item()
    return truth, vae, x, x[:, 0] > vae.guide.threshold


def test_hard_data_take_the_refinement_road():
    truth, vae, x, hard = blind()
    plain = log_marginal(vae.model, vae.guide, x, num_particles=500)
    assert plain.doubtful[hard].all()
    assert not plain.doubtful[~hard].any()
    result, effort = log_marginal_adaptive(vae, x, num_particles=500, pilot=500)
    assert torch.equal(effort.took("refined"), hard)
    assert not effort.doubtful.any()
    assert not result.doubtful.any()
    assert effort.draws == 2 * 500 * (120 + 12)
    assert effort.budget == 10 * 500 * 120
    assert effort.gradients == 12 * Fit.price(100, 2)
    assert result.particles.tolist() == [500] * 120
    expected = truth.marginal.log_prob(x)
    for part in (hard, ~hard):
        error = (result.values - expected)[part]
        assert (
            error.mean().abs()
            < 4.5 * result.standard_errors[part].square().sum().sqrt() / part.sum()
            + 1e-4
        )
    assert str(effort) == (
        "108 of 120 data were left to the guide's own draws, 0 took more of them, 12 draws of Gaussians fitted to "
        "p(z|x), 0 annealed chains; 0 stay doubtful (Pareto k above 0.7 or fewer than 10 effective chains). 132000 of "
        "600000 draws and 9696 of 600000 gradients were spent."
    )


def test_a_budget_that_does_not_suffice_goes_to_the_worst():
    _, vae, x, hard = blind()
    torch.manual_seed(5)
    worst = log_marginal(vae.model, vae.guide, x, num_particles=500).pareto_k.argsort(
        descending=True
    )[:3]
    torch.manual_seed(5)
    budget = 2 * 500 * 120 + 3 * 2 * 500 + 999
    price = Fit.price(100, 2)
    result, effort = log_marginal_adaptive(
        vae, x, num_particles=500, pilot=500, budget=budget, annealing=4 * price
    )
    assert effort.draws == budget - 999
    assert effort.gradients == 3 * price
    assert effort.took("refined").nonzero().flatten().tolist() == sorted(worst.tolist())
    assert torch.equal(effort.unaffordable, hard & ~effort.took("refined"))
    assert torch.equal(effort.doubtful, effort.unaffordable)
    assert int(result.doubtful.sum()) == 9
    assert (
        "117 of 120 data were left to the guide's own draws (9 of them beyond the budget), 0 took"
        in str(effort)
    )


def test_a_standard_error_is_reached_by_more_draws():
    """A guide wider than the posterior, without long tails: it is left as it is.

    `Var(w) / E(w)^2 = s^4 / (2 s^2 - 1) - 1` for D = 2.
    """
    widen = 2.0
    truth = PPCA(2, 5, widen=widen)
    x = truth.sample(30)
    variance = widen**4 / (2 * widen**2 - 1) - 1
    asked = math.sqrt(
        variance / 8000
    )  # so that about half of the data settle for 8000 draws
    done = []
    result, effort = log_marginal_adaptive(
        truth.vae,
        x,
        num_particles=500,
        pilot=500,
        budget=30 * 500 * 400,
        standard_error=asked,
        progress=done.append,
    )
    assert effort.took("more draws").all()
    assert not effort.unaffordable.any()
    assert (result.standard_errors < 1.1 * asked).all()
    assert torch.equal(effort.doubtful, result.standard_errors > asked)
    assert set(result.particles.tolist()) == {8000, 32000}
    more = int((result.particles == 32000).sum())
    assert (
        effort.draws
        == sum(done)
        == 30 * (2 * 500 + 2 * 2000 + 2 * 8000 - 2000) + more * (2 * 32000 - 8000)
    )
    assert f"or a standard error above {asked}" in str(effort)
    error = (result.values - truth.marginal.log_prob(x)).mean()
    assert abs(error) < 4.5 * result.monte_carlo_standard_error + 1e-3


def test_values_are_not_chosen_for_their_draws():
    """Many data with the same heavy-tailed weights: the mean weight is unbiased, whichever data look bad.

    Where only those that look bad are replaced it is not: they are the ones that hold the large weights.
    """
    truth = PPCA(2, 5, widen=0.75)
    x = truth.sample(1).expand(2000, 5).contiguous()
    result, effort = log_marginal_adaptive(
        truth.vae,
        x,
        num_particles=50,
        pilot=50,
        limit=0.5,
        budget=50 * 2000 * 50,
        steps=100,
    )
    assert 0.1 < effort.took("refined").float().mean() < 0.95
    weight = (result.values - truth.marginal.log_prob(x)).exp()[~effort.took("refined")]
    assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(len(weight))
    chosen = log_marginal(*truth.pair, x, num_particles=50)
    kept = (chosen.values - truth.marginal.log_prob(x)).exp()[chosen.pareto_k <= 0.5]
    assert kept.mean() < 1 - 10 * kept.std() / math.sqrt(len(kept))


def test_easy_data_need_nothing():
    truth = PPCA(2, 5, widen=1.3)
    x = truth.sample(20)
    torch.manual_seed(2)
    result, effort = log_marginal_adaptive(truth.vae, x, num_particles=500, pilot=500)
    torch.manual_seed(2)
    log_marginal(*truth.pair, x, num_particles=500)  # the pilot
    assert torch.equal(
        result.values, log_marginal(*truth.pair, x, num_particles=500).values
    )
    assert result.num_particles == 500
    assert effort.took("guide").all()
    assert effort.draws == 20_000


# --- results with different numbers of draws


def test_results_with_different_numbers_of_draws():
    model = PPCA(2, 3, widen=1.2)
    x = model.sample(5)
    first = log_marginal(*model.pair, x, num_particles=50)
    more = log_marginal(*model.pair, x[[1, 4]], num_particles=200)
    for rows in (torch.tensor([1, 4]), torch.tensor([False, True, False, False, True])):
        result = first.replaced(rows, more)
        assert result.particles.tolist() == [50, 200, 50, 50, 200]
        for name, column in result.per_datum.items():
            assert torch.equal(column[[1, 4]], more.per_datum[name])
            assert torch.equal(column[[0, 2, 3]], first.per_datum[name][[0, 2, 3]])
    both = result + first
    assert isinstance(both, LogMarginal)
    assert both.particles.tolist() == [50, 200, 50, 50, 200, 50, 50, 50, 50, 50]
    assert (first + result).particles.tolist()[5:] == [50, 200, 50, 50, 200]
    assert "50 to 200 particles on 10 data" in str(both)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = result.to_arviz().sample_stats
    assert stats["num_particles"].values.tolist() == [50, 200, 50, 50, 200]


# --- what is refused


@pytest.mark.parametrize(
    "call", [refine, log_marginal_refined, inference_gaps, log_marginal_adaptive]
)
def test_empty_data_and_points(call):
    truth = PPCA(2, 3)
    with pytest.raises(InputError, match="no data"):
        call(truth.vae, torch.zeros(0, 3))
    with pytest.raises(InputError, match="point for each datum"):
        call(with_guide(truth, Delta), truth.sample(3))


@pytest.mark.parametrize(
    ("call", "options", "words"),
    [
        (refine, {"steps": 0}, "steps=0 of refine"),
        (refine, {"rate": 0}, "rate=0 of refine"),
        (refine, {"num_particles": 1.5}, "num_particles=1.5"),
        (refine, {"elbo_particles": 0}, "elbo_particles=0"),
        (log_marginal_refined, {"batch_size": 0}, "batch_size=0"),
        (log_marginal_refined, {"num_particles": 0}, "num_particles=0"),
        (inference_gaps, {"elbo_particles": 1}, "elbo_particles=1"),
        (log_marginal_adaptive, {"limit": 0}, "limit=0"),
        (log_marginal_adaptive, {"standard_error": -1.0}, "standard_error=-1.0"),
        (
            log_marginal_adaptive,
            {"budget": 10},
            "budget=10 must be .* 18000, a pilot and",
        ),
        (log_marginal_adaptive, {"num_particles": 0}, "num_particles=0"),
        (
            log_marginal_adaptive,
            {"num_chains": 24},
            "num_chains=24 of log_marginal_adaptive must be a whole number of at least 25",
        ),
        (log_marginal_adaptive, {"num_temperatures": 0}, "num_temperatures=0"),
        (log_marginal_adaptive, {"annealing": -1}, "annealing=-1"),
    ],
)
def test_wrong_arguments(call, options, words):
    truth = PPCA(2, 3)
    with pytest.raises(InputError, match=words):
        call(truth.vae, truth.sample(3), **options)


def test_draws_without_gradients_are_refused():
    class Coin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(3, 2)

        def posterior(self, h):
            return pyro.distributions.Bernoulli(logits=h).to_event(1)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", self.posterior(self.encoder(x)))

    truth = PPCA(2, 3)
    vae = VAE(
        StandardNormal(2), truth.vae.model.decoder, truth.vae.model.likelihood, Coin()
    ).double()
    with pytest.raises(InputError, match="those of the Bernoulli do not"):
        refine(vae, truth.sample(3))
