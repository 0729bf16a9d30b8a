"""Guides that are judged by data drawn from the model: levels that hold, and errors that have closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from ppca import PPCA
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    simulation_based_calibration,
)
from pyro_vae.data.inputs import Call
from pyro_vae.evaluation.calibration import GUIDE, JOINT, LEVELS, _of_the_model
from pyro_vae.evaluation.uniformity import holm, place, shape, spread
from pyro_vae.guides import Delta
from pyro_vae.plots.ranks import band


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_exact_posteriors_are_called_calibrated_as_often_as_the_level_says():
    """Of 100 sets of ranks 5 are called uneven on average; 11 or more with probability 0.01."""
    found = []
    for seed in range(100):
        torch.manual_seed(seed)
        found.append(simulation_based_calibration(PPCA(3, 5).vae, 200, num_draws=19))
    assert sum(each.verdict != "calibrated" for each in found) <= 10
    tests = [tested for each in found for tested in each.tests.values()]
    for statistic in ("place", "spread"):
        z = [getattr(tested, statistic) for tested in tests]
        assert scipy.stats.kstest(z[::5], "norm").pvalue > 0.001
        assert np.std(z) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("widen", "verdict"),
    [
        (0.7, "too narrow (overconfident)"),
        (1.0, "calibrated"),
        (1.5, "too wide (underconfident)"),
    ],
)
def test_regions_of_a_scaled_posterior_hold_what_chi_squared_says(widen, verdict):
    found = simulation_based_calibration(
        PPCA(3, 5, widen=widen).vae, 4000, num_draws=199
    )
    assert found.verdict == verdict
    for level in LEVELS:
        share, error = found.coverage(level)
        reach = scipy.stats.chi2.ppf(level, 3) * widen**2
        truth = scipy.stats.chi2.cdf(reach, 3)
        assert error == pytest.approx(math.sqrt(share * (1 - share) / 4000))
        assert abs(share - truth) < 4 * math.sqrt(truth * (1 - truth) / 4000) + 0.005
    inside = 2 * scipy.stats.norm.cdf(scipy.stats.norm.ppf(0.95) * widen) - 1
    assert found.intervals().tolist() == pytest.approx([inside] * 3, abs=0.03)
    assert found.spread.tolist() == pytest.approx([1 / widen] * 3, rel=0.05)
    assert found.bias.tolist() == pytest.approx([0] * 3, abs=0.1)
    assert str(found).count("region") == 4


def test_a_shift_is_a_bias_and_no_width():
    model = PPCA(3, 5, shift=0.1)
    found = simulation_based_calibration(model.vae, 4000)
    assert found.verdict == "biased and overconfident"
    assert (found.narrow, found.wide) == ([], [])
    truth = -0.1 / model.posterior_covariance.diagonal().sqrt()
    torch.testing.assert_close(found.bias, truth, atol=0.07, rtol=0)
    assert found.spread.tolist() == pytest.approx([1] * 3, abs=0.05)
    both = simulation_based_calibration(PPCA(3, 5, shift=0.2, widen=0.7).vae)
    assert both.verdict == "biased and too narrow (overconfident)"


def test_a_guide_that_is_the_prior_is_found_by_the_joint_density_alone():
    model = PPCA(2, 5)
    with torch.no_grad():
        model.vae.guide.head.weight.zero_()
        model.vae.guide.head.bias.zero_()
    found = simulation_based_calibration(model.vae)
    assert found.verdict == "not the posterior"
    assert {name for name, tested in found.tests.items() if tested.found} == {JOINT}
    assert found.reasons[-1].startswith("its draws are less probable under p(x, z)")


def test_weights_mend_what_is_too_wide():
    vae = PPCA(3, 5, widen=1.5).vae
    found = simulation_based_calibration(vae, num_candidates=30)
    assert found.verdict == "calibrated"
    assert "each chosen by weight among 30" in str(found)
    plain = simulation_based_calibration(vae)
    torch.testing.assert_close(found.elbo.mean(), plain.elbo.mean(), atol=0.3, rtol=0)


def test_few_bytes_take_more_pieces():
    vae, told = PPCA(2, 5).vae, []
    found = simulation_based_calibration(vae, 50, memory=2**16, progress=told.append)
    assert len(told) > 1
    assert sum(told) == len(found) == 50


SHARES, MEANS = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-1.0, 0.0, 1.5])


def class_model(x):
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(SHARES))
        pyro.sample("x", dist.Normal(MEANS[y], 1.0), obs=x)


def class_probabilities(x, power):
    logits = SHARES.log() - 0.5 * (x.unsqueeze(-1) - MEANS).square()
    return (power * logits).softmax(-1)


@pytest.mark.parametrize(
    ("power", "verdict"), [(1.0, "calibrated"), (3.0, "too narrow"), (0.2, "too wide")]
)
def test_classes(power, verdict):
    """How often a draw is right, and how often it claims to be, are integrals over x."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Categorical(class_probabilities(x, power)))

    pair = (class_model, guide)
    found = simulation_based_calibration(pair, 3000, torch.zeros(3000))
    assert verdict in found.verdict
    grid = torch.linspace(-7, 8, 3001)
    joint = SHARES * (-0.5 * (grid[:, None] - MEANS).square()).exp() / 2.5066283
    q = class_probabilities(grid, power)
    right, claimed = (
        (weight * q).sum(-1).sum() * (grid[1] - grid[0])
        for weight in (joint, joint.sum(-1, keepdim=True) * q)
    )
    assert found.right.mean().item() == pytest.approx(right.item(), abs=0.02)
    assert found.claimed.mean().item() == pytest.approx(claimed.item(), abs=0.02)
    assert "A draw of y is the true value for" in str(found)
    assert found.discrete.all()
    assert found.scores.isnan().all()


def two_models(data, c):
    """`z ~ N(c, 1)`, and two numbers of it with noise, called as a tuple."""
    x, t = data
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("t", dist.Normal(2 * z, 1.0), obs=t)


def posterior_of(data, c):
    return (c + data[0] + 2 * data[1]) / 6, 6**-0.5


def two_guides(data, c):
    with pyro.plate("data", len(c), dim=-1):
        pyro.sample("z", dist.Normal(*posterior_of(data, c)))


def blind_guide(data, c):
    two_guides(data, torch.zeros_like(c))


def moved_guide(data, c):
    """The posterior at half its width, as a function of another draw."""
    loc, scale = posterior_of(data, c)
    with pyro.plate("data", len(c), dim=-1):
        infer = {"is_auxiliary": True}
        u = pyro.sample("u", dist.Normal(torch.zeros_like(c), 1.0), infer=infer)
        pyro.sample("z", dist.Delta(loc + 0.5 * scale * u))


def test_pairs_of_functions_with_several_observed_sites_and_a_condition():
    rows = ((torch.randn(500), torch.randn(500)), 3 * torch.randn(500))
    found = simulation_based_calibration((two_models, two_guides), 500, *rows)
    assert (found.names, found.verdict) == (("z",), "calibrated")
    blind = simulation_based_calibration((two_models, blind_guide), 500, *rows)
    assert "too narrow" in blind.verdict
    assert blind.spread.item() == pytest.approx((1 + 9 / 6) ** 0.5, rel=0.15)


def test_a_guide_without_a_known_density_is_judged_by_its_latents():
    rows = ((torch.randn(500), torch.randn(500)), torch.randn(500))
    pair = (two_models, moved_guide)
    found = simulation_based_calibration(pair, 500, *rows)
    assert list(found.joint) == [JOINT]
    assert found.narrow == ["z"]
    assert found.elbo.isnan().all()
    assert len(found.drawing().make().axes) == 2
    with pytest.raises(InputError, match="no regions of it"):
        found.coverage(0.5)
    with pytest.raises(InputError, match="take num_candidates=1"):
        simulation_based_calibration(pair, 500, *rows, num_candidates=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": "chain(dims=(3, 2), scale='element')"},
        {"structure": "clusters(classes=3)"},
        {"condition": ("a", "b")},
        {},
    ],
    ids=["layers", "classes", "condition", "missing"],
)
def test_exact_guides_of_every_structure(changes):
    """The guide `exact` is the posterior whatever the weights are, here those of no training."""
    context = {"context": 2} if changes.pop("condition", None) else {}
    missing = not (context or changes)
    spec = Spec(
        shape=(6,),
        network="linear",
        likelihood="gaussian",
        guide="exact",
        **{"latent_dim": 3} | context | changes,
    )
    vae = build(spec)
    with torch.no_grad():
        for parameter in vae.model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    x = None
    if context:
        x = {"x": torch.zeros(400, 6), "c": torch.randn(400, 2)}
    if missing:
        vae.model.likelihood.missing = True
        x = torch.zeros(400, 6).masked_fill(torch.rand(400, 6) < 0.4, math.nan)
    found = simulation_based_calibration(vae, 400, x)
    assert found.verdict == "calibrated"
    assert GUIDE in found.joint


def test_what_is_missing_stays_missing_and_a_condition_stays():
    spec = Spec(
        shape=(6,),
        network="mlp(hidden=(4,))",
        likelihood="gaussian",
        latent_dim=2,
        context=2,
    )
    vae = build(spec)
    x = torch.zeros(30, 6).masked_fill(torch.rand(30, 6) < 0.4, math.nan)
    c = torch.randn(30, 2)
    latents, call = _of_the_model(vae.model, Call({"x": x, "c": c}))
    assert latents["z"].shape == (1, 30, 2)
    assert torch.equal(call.data["c"], c)
    assert torch.equal(call.data["x"].isnan(), x.isnan())
    assert (call.data["x"][~x.isnan()] != 0).all()


def hidden_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x**2)


def hidden_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def test_what_is_refused():
    x = torch.randn(20)
    with pytest.raises(InputError, match="at 'x' is not what it is called with"):
        simulation_based_calibration((hidden_model, hidden_guide), 20, x)
    with pytest.raises(InputError, match="n=30 data are drawn in the place of x"):
        simulation_based_calibration((hidden_model, hidden_guide), 30, x)
    with pytest.raises(InputError, match="give x"):
        simulation_based_calibration((hidden_model, hidden_guide), 20)
    with pytest.raises(InputError, match="num_draws"):
        simulation_based_calibration(PPCA().vae, num_draws=3)
    whole = pyro.infer.autoguide.AutoNormal(class_free)
    whole(x)
    with pytest.raises(InputError, match="all of its data at once"):
        simulation_based_calibration((class_free, whole), 20, x)
    point = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), Delta(MLP((4,)), 2)
    )
    with pytest.raises(InputError, match="the guide is a point"):
        simulation_based_calibration(point, 20)


def class_free(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_one_hot_codes_are_counted_by_their_places():
    spec = Spec(
        shape=(6,),
        network="mlp(hidden=(8,))",
        prior="categorical(levels=4)",
        guide="categorical(levels=4)",
        latent_dim=8,
    )
    found = simulation_based_calibration(build(spec), 200)
    assert found.names == ("z[0]", "z[1]")
    assert found.discrete.all()
    assert ((found.right > 0) & (found.right <= 1)).any()


def test_the_statistics_of_ranks():
    ranks = torch.arange(400) % 20  # even to the last one
    assert place(ranks, 19) == pytest.approx(0)
    assert spread(ranks, 19) == pytest.approx(0)
    assert shape(ranks, 19) == pytest.approx(1)
    ranks = torch.randint(0, 20, (400,))
    counts = ranks.bincount(minlength=20)
    assert shape(ranks, 19) == pytest.approx(scipy.stats.chisquare(counts).pvalue)
    error = math.sqrt((20**2 - 1) / 12 / 400)
    assert place(ranks, 19) == pytest.approx((ranks.double().mean() - 9.5) / error)
    ends = torch.tensor([0, 19] * 100)
    assert spread(ends, 19) > 10
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])


def test_a_band_holds_whole_curves():
    below = np.arange(1, 20) / 20
    low, high = band(200, below, 0.9)
    counts = np.random.default_rng(7).multinomial(200, [0.05] * 20, size=5000)
    curves = counts.cumsum(1)[:, :-1] / 200
    inside = ((low <= curves) & (curves <= high)).all(1).mean()
    assert inside == pytest.approx(0.9, abs=0.03)


def test_a_figure_names_what_is_uneven():
    vae = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )
    found = simulation_based_calibration(vae, 200)
    figure = found.drawing().make()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["expected coverage", "ranks of densities", "ranks of 2 latents"]
    named = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert set(named) == {n for n in found.names if found.tests[n].found}
