"""What the latents carry: against linear-Gaussian models, brute force, and pairs that are known to be ill."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily

from example import beside
from ppca import PPCA
from pyro_vae import Guide, InputError, Spec, build, plots, variants
from pyro_vae.data.inputs import Call
from pyro_vae.evaluation import latents
from pyro_vae.evaluation.latents import LatentHealth, activity, latent_health
from pyro_vae.evaluation.question import Estimate

SMALL = "mlp(hidden=(16,))"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(guide="meanfield", *, prior="standardnormal", n=60):
    vae = build(Spec((6,), 3, guide=guide, prior=prior, network=SMALL)).double()
    return vae, torch.rand(n, 6).round().double()


def linear(slopes, scale=1.0):
    """A pair by hand: `z_d | x ~ N(slope_d x_d, scale^2)` under the guide, `N(0, 1)` under the model."""
    slopes = torch.as_tensor(slopes).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(slopes), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slopes * x, scale).to_event(1))

    return model, guide


def test_activity_and_kl_of_an_exact_posterior():
    """Var_x(E[z|x]) = diag(gain Cov(x) gain^T), and the Gaussian KL at the data at hand."""
    truth = PPCA(3, 6)
    x = truth.sample(2000)
    health = latent_health(*truth.pair, x, draws=10)
    expected = torch.cov((x @ truth.gain.T).T).diagonal()
    torch.testing.assert_close(
        health.activity, expected, rtol=0, atol=4 / 50 / 2000**0.5 + 2e-3
    )
    assert (health.active_units, health.active_interval) == (3, (3, 3))
    means, covariance = (x - truth.b) @ truth.gain.T, truth.posterior_covariance
    kl = 0.5 * (means.square().sum(1) + covariance.trace() - 3 - covariance.logdet())
    assert health.kl.mean == pytest.approx(
        kl.mean().item(), abs=4 * math.sqrt(3 / 20_000)
    )
    assert health.kl.data_standard_error == pytest.approx(
        (kl.std() / 2000**0.5).item(), rel=0.1
    )
    assert health.kl_per_dimension is None  # the posterior is correlated


def test_health_and_activity_agree():
    vae, x = small(n=500)
    health = latent_health(vae.model, vae.guide, x)
    torch.testing.assert_close(
        health.activity, activity(vae.guide, x)["z"], rtol=0.2, atol=0.03
    )


def test_kl_per_dimension():
    vae, x = small()
    health = latent_health(vae.model, vae.guide, x, draws=2000)
    q, p = vae.encode(x).base_dist, vae.model.prior().base_dist
    expected = torch.distributions.kl_divergence(q, p).mean(0).detach()
    torch.testing.assert_close(health.kl_per_dimension, expected, rtol=0, atol=0.02)
    assert health.kl_per_dimension.sum().item() == pytest.approx(health.kl.mean)


def test_mutual_information_of_a_linear_gaussian_model():
    """`I(x; z) = -1/2 log det Cov(z|x)`, `q(z) = p(z)`: N data bracket the first, and its errors are right."""
    truth = PPCA(2, 5)
    information = -0.5 * truth.posterior_covariance.logdet().item()
    lower, upper, scores = [], [], []
    for seed in range(20):
        health = latent_health(*truth.pair, truth.sample(250, seed=seed))
        scores.append(
            (health.mutual_information.mean - information)
            / health.mutual_information.data_standard_error
        )
        lower.append(health.mutual_information.mean)
        upper.append(health.mutual_information_upper)
        assert (
            -4 * health.aggregated_kl.data_standard_error
            < health.aggregated_kl.mean
            < 0.08
        )
        assert information < health.bound - 2
        assert not health.saturated
    lower, upper, scores = torch.tensor([lower, upper, scores])
    error = (lower.std() / 20**0.5).item()
    assert (
        lower.mean().item() - 3 * error < information < upper.mean().item() + 3 * error
    )
    assert (upper - lower).mean() < 0.1
    assert scores.abs().max() < 4
    assert 0.6 < scores.std().item() < 1.5


@pytest.mark.parametrize("guide", ["meanfield", "fullrank", "mixture(components=3)"])
def test_the_mixture_equals_brute_force(guide, monkeypatch):
    """Over several batches of data and chunks of draws."""
    monkeypatch.setattr(latents, "BATCH", 7)
    vae, x = small(guide, n=30)
    everything = vae.encode(x)
    for memory in (1, 20_000, 2**28):
        torch.manual_seed(1)
        with torch.no_grad(), pyro.validation_enabled(False):
            posteriors = latents._posteriors(vae.model, vae.guide, Call(x), 3, memory)
            if guide.startswith("mixture"):
                log_q = everything.log_prob(posteriors.z[:, :, None]).logsumexp(
                    -1
                ) - math.log(30)
            else:
                log_q = MixtureSameFamily(
                    Categorical(torch.ones(30).double()), everything
                ).log_prob(posteriors.z)
        expected = posteriors.log_q - log_q
        torch.manual_seed(1)
        health = latent_health(vae.model, vae.guide, x, draws=3, memory=memory)
        information, error, _ = health.mutual_information
        assert information == pytest.approx(expected.mean().item(), abs=1e-10)
        assert error == pytest.approx(
            (expected.mean(0).std() / 30**0.5).item(), abs=1e-10
        )
        assert health.kl.mean == pytest.approx(
            information + health.aggregated_kl.mean, abs=1e-10
        )


def test_a_prior_made_of_the_data_is_the_aggregated_posterior():
    vae, x = small(prior="vampprior(pseudo_inputs=60)")
    vae.model.prior.initialise(x)
    health = latent_health(vae.model, vae.guide, x)
    assert health.aggregated_kl.mean == pytest.approx(0, abs=1e-10)
    assert health.mutual_information.mean == pytest.approx(health.kl.mean, abs=1e-10)
    assert health.kl_per_dimension is None


def test_the_bootstrap_interval_covers():
    """Two of the activities lie so close to the limit that 200 data cannot tell on which side."""
    pair = linear([0.9, 0.0, 0.095, 0.107])
    intervals = [
        latent_health(
            *pair, torch.randn(200, 4).double(), draws=1, bootstrap=200, mixture_size=2
        ).active_interval
        for _ in range(60)
    ]
    covers = [low <= 2 <= high for low, high in intervals]
    assert sum(covers) / 60 > 0.88
    assert sum(low < high for low, high in intervals) > 50
    assert all(1 <= low <= high <= 3 for low, high in intervals)


def test_counts_over_resampled_data():
    """The chunks draw exactly that many data sets, each of which gives the plain variance."""
    means = torch.randn(2, 40, 3).double() * torch.tensor([0.05, 0.1, 0.2])
    torch.manual_seed(2)
    moments, resampled = latents._Moments(), latents._Bootstrap(50, 40, 7 * 32 * 40)
    resampled.add(moments.add(means))
    counts = resampled.counts()
    torch.manual_seed(2)
    index = torch.cat(
        [torch.randint(40, (min(7, 50 - i), 40)) for i in range(0, 50, 7)]
    )
    expected = torch.stack([(covariance(means[:, i]) > 0.01).sum() for i in index])
    assert counts.tolist() == expected.tolist()
    torch.testing.assert_close(moments.covariance(), covariance(means))


def covariance(means):
    """Over the data, between two estimates of each posterior mean."""
    first, second = means - means.mean(1, keepdim=True)
    return (first * second).sum(0) / (len(first) - 1)


def test_chunks_of_data_are_resampled_as_one():
    """The numbers of times that data in three chunks were drawn: sums, means and variances of a multinomial."""
    n, samples = 12, 20_000
    torch.manual_seed(0)
    eye = torch.eye(n, dtype=torch.float64)
    resampled = latents._Bootstrap(samples, n, 2**20)
    for chunk in eye.split(5):  # each datum adds one to a column of its own
        resampled.add(chunk[:, None].expand(-1, 3, -1))
    weights = resampled.sums[:, :n]
    assert (weights.sum(1) == n).all()
    assert (weights >= 0).all()
    p = 1 / n
    expected = n * (torch.eye(n).double() * p - p**2)
    assert (weights.mean(0) - 1).abs().max() < 4 * (1 / samples) ** 0.5
    assert (torch.cov(weights.T) - expected).abs().max() < 6 * (2 / samples) ** 0.5


def test_memory_of_the_first_looks_does_not_grow_with_the_draws():
    vae, x = small(n=50)
    torch.manual_seed(1)
    many = latent_health(
        vae.model, vae.guide, x, draws=4000, mixture_size=2, memory=2**16
    )
    q, p = vae.encode(x), vae.model.prior()
    expected = torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(1)
    assert many.kl.mean == pytest.approx(expected.mean().item(), abs=0.02)


def test_data_without_a_finite_posterior_are_named_and_left_out():
    """As if they had never been there."""
    pair = linear([0.9, 0.5])
    torch.manual_seed(0)
    x = torch.randn(60, 2).double()
    wild = torch.cat(
        [x[:10], x.new_full((1, 2), 1e200), x[10:], x.new_full((1, 2), 1e300)]
    )
    calm, found = latent_health(*pair, x), latent_health(*pair, wild)
    assert found.left_out == (10, 61)
    assert "without datum 10, 61 (counted from 0), whose q(z|x) is not finite" in str(
        found
    )
    assert (found.num_data, found.mixture_size) == (60, 60)
    for name in ("kl", "mutual_information", "aggregated_kl"):
        ours, theirs = getattr(found, name), getattr(calm, name)
        assert ours.mean == pytest.approx(
            theirs.mean, abs=4 * theirs.data_standard_error
        )
    torch.testing.assert_close(found.activity, calm.activity, rtol=0.05, atol=0.01)
    with pytest.raises(InputError, match="0 of 2 data have a finite KL"):
        latent_health(*pair, wild[[10, 61]])


@pytest.mark.parametrize("name", ["draws", "mixture_size", "bootstrap", "memory"])
def test_sizes_beyond_all_bounds(name):
    vae, x = small()
    with pytest.raises(
        InputError, match=f"{name}=100000000000000000000 of latent_health"
    ):
        latent_health(vae.model, vae.guide, x, **{name: 10**20})


def test_a_guide_equal_to_the_prior_is_collapsed():
    health = latent_health(*linear([0.0, 0.0]), torch.randn(200, 2).double())
    assert health.collapsed
    assert (health.active_units, health.active_interval) == (0, (0, 0))
    for estimate in (health.mutual_information, health.aggregated_kl, health.kl):
        assert estimate[:2] == pytest.approx((0, 0), abs=1e-12)
    assert health.mutual_information_upper == pytest.approx(0, abs=1e-12)
    assert health.verdict().startswith("Collapsed: no latent of 2 is active")
    assert "next to nothing" in str(health)


def test_other_ways_of_collapse():
    x = torch.randn(200, 2).double()
    little = latent_health(*linear([0.2, 0.2]), x)
    assert (little.active_units, little.collapsed) == (2, True)
    assert little.verdict().startswith("Collapsed: the KL is below 0.1")
    moves = latent_health(*linear([0.05, 0.05], scale=0.01), x)
    assert (moves.active_units, moves.collapsed) == (0, True)
    assert "although z carries" in moves.verdict()


def test_idle_latents_are_no_alarm():
    health = latent_health(
        *linear([0.9, 0.0, 0.0, 0.0], scale=0.44), torch.randn(300, 4).double()
    )
    assert not health.collapsed
    assert health.verdict().startswith("1 of 4 latents are active and z carries 0.")


def test_the_most_that_the_data_can_show():
    truth = PPCA(2, 5, noise=1e-3)
    health = latent_health(*truth.pair, truth.sample(100))
    assert health.saturated
    assert health.bound == pytest.approx(math.log(100))
    assert health.mutual_information.mean == pytest.approx(math.log(100), abs=0.01)
    assert (
        health.mutual_information_upper
        > -0.5 * truth.posterior_covariance.logdet().item()
    )
    assert "at most 4.61" in health.verdict()
    assert "lower bound" in health.verdict()
    assert "or less, for the information is near its bound" in str(health)


@pytest.mark.parametrize(
    "name", sorted(set(variants(Guide)) - {"Delta", "Codebook", "Exact"})
)
def test_every_guide(name):
    vae, x = small(name.lower(), n=20, **beside("guide", name))
    health = latent_health(vae.model, vae.guide, x, draws=2)
    assert health.kl.mean == pytest.approx(
        health.mutual_information.mean + health.aggregated_kl.mean
    )
    assert health.mutual_information.mean < min(
        health.bound, health.mutual_information_upper
    )
    assert (health.num_data, health.mixture_size) == (20, 20)


def test_costly_pairs_are_limited(monkeypatch):
    vae, x = small("iaf", n=40)
    monkeypatch.setattr(latents, "WORK", 5_000_000)
    health = latent_health(vae.model, vae.guide, x)
    assert 2 <= health.mixture_size < 40
    assert f"from {health.mixture_size} of 40 data" in str(health)
    chosen = latent_health(vae.model, vae.guide, x, mixture_size=10)
    assert (chosen.num_data, chosen.mixture_size) == (40, 10)
    assert chosen.bound == pytest.approx(math.log(10))
    assert latent_health(vae.model, vae.guide, x, mixture_size=50).mixture_size == 40


def test_words():
    health = LatentHealth(
        activity=torch.tensor([0.5, 0.005]),
        active_interval=(1, 2),
        kl=Estimate(3.0, 0.1),
        kl_per_dimension=None,
        mutual_information=Estimate(2.5, 0.05),
        mutual_information_upper=2.6,
        aggregated_kl=Estimate(0.5, 0.02),
        num_data=1000,
        mixture_size=1000,
    )
    assert str(health) == (
        "What the latents carry: 2 of them, on 1000 data\n"
        "nats per datum        mean  ± data\n"
        "KL(q(z|x) || p(z))  3.0000  0.1000\n"
        "I(x; z)             2.5000  0.0500\n"
        "KL(q(z) || p(z))    0.5000  0.0200\n"
        "active latents: 1 of 2 (1 to 2 by resampling the data)\n"
        "I(x; z) is at most 2.600 without each datum's own share, from 1000 data, whose log is 6.908\n"
        "1 of 2 latents are active and z carries 2.50 nats about x."
    )


def two_latents(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        y = pyro.sample("y", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + y, 1.0).to_event(1), obs=x)


def a_number(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), x.new_ones(2)).to_event(1), obs=x)


@pytest.mark.parametrize(("model", "size"), [(two_latents, 4), (a_number, 1)])
def test_latents_that_carry_nothing(model, size):
    """The prior as the guide: no information, and q(z) is the prior, whatever the latents are."""
    guide = pyro.poutine.block(model, hide=["x"])
    health = latent_health(model, guide, torch.randn(60, 2))
    assert len(health.activity) == size
    assert health.kl.mean == pytest.approx(0, abs=1e-5)
    assert health.mutual_information.mean == pytest.approx(0, abs=1e-5)


def test_a_point_is_refused():
    vae, x = small("delta")
    with pytest.raises(InputError, match="without a density"):
        latent_health(vae.model, vae.guide, x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 0}, "draws=0"),
        (
            {"mixture_size": 1},
            "mixture_size=1 of latent_health must be a whole number of at least 2",
        ),
        ({"bootstrap": 1.5}, "bootstrap=1.5"),
    ],
)
def test_bad_arguments(options, words):
    vae, x = small()
    with pytest.raises(InputError, match=words):
        latent_health(vae.model, vae.guide, x, **options)


def test_bad_data():
    vae, x = small()
    with pytest.raises(InputError, match="two of them"):
        latent_health(vae.model, vae.guide, x[:1])
    with pytest.raises(InputError, match="does not accept"):
        latent_health(vae.model, vae.guide, x - 3)


@pytest.mark.parametrize(("latent_dim", "shown"), [(1, 1), (5, 5), (14, 12)])
def test_the_figure_shows_the_most_active(latent_dim, shown):
    z, prior, by = (
        torch.randn(200, latent_dim),
        torch.randn(1000, latent_dim),
        torch.rand(latent_dim),
    )
    z[:, 0] = 0.5  # a latent that is the same for all
    figure = plots.aggregated_posterior(z, prior, by)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    order = by.argsort(descending=True)[:shown].tolist()
    assert [axes.get_title().split(",")[0] for axes in panels] == [
        f"z[{d}]" for d in order
    ]
    assert ("12 most active of 14" in figure.get_suptitle()) == (latent_dim == 14)
    figure.canvas.draw()
