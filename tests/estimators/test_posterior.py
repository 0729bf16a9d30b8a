"""The guide against NUTS draws of the posterior: linear-Gaussian models, a posterior with two modes, ArviZ."""

import json
import math
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ppca import PPCA
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    StandardNormal,
    compare_posterior,
)
from pyro_vae.evaluation.posterior import PosteriorComparison
from pyro_vae.models.conditionals import IAF, Delta
from pyro_vae.report import report
from reading import mentions, newest

QUICK = {"num_samples": 200, "warmup_steps": 100, "num_chains": 2}
TINY = {"num_samples": 6, "warmup_steps": 6, "num_chains": 2}


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


@pytest.fixture(scope="module")
def exact():
    """A guide that is the posterior, `(truth, x, comparison)`."""
    pyro.set_rng_seed(1)
    truth = PPCA(2, 5)
    x = truth.sample(2)
    return truth, x, compare_posterior(*truth.pair, x, **QUICK)


def made(draws, guide_mean, guide_covariance, guide_draws=None, closed=True):
    """A comparison of draws `(N, chains, draws, D)` that did not come from NUTS."""
    n, *_, d = draws.shape
    guide_draws = torch.zeros(n, 2, d).double() if guide_draws is None else guide_draws
    moments = (guide_mean.expand(n, d), guide_covariance.expand(n, d, d))
    flags = torch.zeros(draws.shape[:3], dtype=torch.bool)
    return PosteriorComparison(
        draws, flags, guide_draws, *moments, closed, {"z": torch.Size([d])}, range(n)
    )


def within(found, expected, errors):
    return ((found - expected).abs() < 4.5 * errors).all()


# --- against what is known


def test_nuts_finds_the_posterior_and_a_guide_equal_to_it_has_no_kl(exact):
    truth, x, found = exact
    sd = truth.posterior_covariance.diagonal().sqrt()
    assert within(found.mean, (x - truth.b) @ truth.gain.T, found.mean_errors)
    assert within(found.sd, sd, found.sd_errors)
    assert (found.mean_errors < 0.15 * sd).all()
    correlation = found.covariance[:, 0, 1] / found.sd.prod(1)
    expected = (truth.posterior_covariance[0, 1] / sd.prod()).item()
    assert abs(expected) > 0.2
    assert within(
        correlation, expected, (1 - expected**2) / found.ess_bulk.amin(1).sqrt()
    )
    assert found.closed
    torch.testing.assert_close(found.guide_mean, (x - truth.b) @ truth.gain.T)
    torch.testing.assert_close(
        found.guide_covariance, truth.posterior_covariance.expand(2, 2, 2)
    )
    assert within(found.ratio, 1, found.ratio * found.sd_errors / found.sd)
    assert within(found.shift, 0, found.mean_errors / found.sd)
    assert (
        found.kl < 5 * found.kl_noise
    ).all()  # about chi-squared with 5 degrees of freedom
    assert (found.kl_noise < 0.05).all()
    assert found.rhat.max() < 1.05
    assert found.divergences.tolist() == [0, 0]


def test_a_mean_field_guide_has_its_kl_and_is_too_narrow():
    """`KL = 1/2 (sum log P_dd - log|P|)` and `sd_q / sd_p = 1 / sqrt(P_dd C_dd)`, P the precision and C its inverse."""
    truth = PPCA(2, 2)
    covariance = truth.posterior_covariance
    precision = torch.linalg.inv(covariance)
    vae = VAE(
        StandardNormal(2),
        truth.vae.model.decoder,
        truth.vae.model.likelihood,
        MeanField(MLP((2,), hidden=()), 2),
    ).double()
    with torch.no_grad():
        vae.guide.head.weight.zero_()
        vae.guide.head.weight[:2] = truth.gain
        vae.guide.head.bias.copy_(
            torch.cat([-truth.gain @ truth.b, -0.5 * precision.diagonal().log()])
        )
    x = truth.sample(1)
    found = compare_posterior(*vae.children(), x, **QUICK)
    expected = (precision.diagonal() * covariance.diagonal()).rsqrt()
    assert (expected < 0.7).all()
    assert found.closed
    assert within(found.ratio, expected, found.ratio * found.sd_errors / found.sd)
    assert within(found.shift, 0, found.mean_errors / found.sd)
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert gap > 0.2
    assert found.kl.item() == pytest.approx(
        gap, abs=4.5 * math.sqrt(2 * gap * 2 * found.kl_noise.item())
    )
    draws = MultivariateNormal(torch.zeros(2).double(), covariance).sample(
        (20, 4, 5000)
    )
    many = made(
        draws, torch.zeros(2).double(), precision.diagonal().reciprocal().diag_embed()
    )
    assert many.kl.mean().item() == pytest.approx(gap, abs=0.01)
    torch.testing.assert_close(many.ratio.mean(0), expected, rtol=0.01, atol=0)


def test_the_kl_of_given_moments():
    """Against `torch.distributions`, and nan where a covariance is singular."""
    draws = torch.randn(3, 2, 20, 3).double() @ torch.randn(3, 3).double()
    mean, covariance = torch.randn(3).double(), torch.diag(torch.rand(3).double() + 0.1)
    found = made(draws, mean, covariance)
    p = MultivariateNormal(
        draws.flatten(1, 2).mean(1),
        torch.stack([torch.cov(d.flatten(0, 1).T) for d in draws]),
    )
    torch.testing.assert_close(
        found.kl, kl_divergence(MultivariateNormal(mean, covariance), p)
    )
    assert made(draws, mean, torch.zeros(3, 3).double()).kl.isnan().all()
    assert made(torch.zeros_like(draws), mean, covariance).kl.isnan().all()


@pytest.mark.parametrize("closed", [True, False])
def test_the_noise_of_the_kl(closed):
    """Draws that are independent: what the KL of equals comes to on average."""
    covariance = torch.tensor(
        [[1.0, 0.8, 0.0], [0.8, 2.0, 0.3], [0.0, 0.3, 0.5]]
    ).double()
    p = MultivariateNormal(torch.zeros(3).double(), covariance)
    draws = p.sample((400, 2, 200))
    of_guide = p.sample((400, 300))
    mean, moments = torch.zeros(3).double(), covariance
    if not closed:
        mean, moments = (
            of_guide.mean(1),
            torch.stack([torch.cov(d.T) for d in of_guide]),
        )
    found = made(draws, mean, moments, of_guide, closed=closed)
    error = found.kl.std().item() / math.sqrt(400)
    assert found.kl.mean().item() == pytest.approx(
        found.kl_noise.mean().item(), abs=4.5 * error
    )
    assert error < 0.03 * found.kl.mean().item()


def test_the_latents_that_together_differ_most():
    covariance = torch.eye(4).double()
    covariance[1, 3] = covariance[3, 1] = 0.9
    draws = MultivariateNormal(torch.zeros(4).double(), covariance).sample((1, 2, 2000))
    found = made(
        draws, torch.tensor([0.1, 0.0, 0.0, 0.2]).double(), torch.eye(4).double()
    )
    assert found.most_different(0, 1) == [3]
    assert found.most_different(0, 2) == [
        1,
        3,
    ]  # not 0 and 3, each of which is further off by itself
    assert found.most_different(0, 9) == [0, 1, 2, 3]


# --- other guides and models


def test_a_flow_has_the_moments_of_its_draws():
    truth = PPCA(2, 3)
    guide = IAF(MLP((3,), hidden=()), 2, hidden=(8,), context=3)
    vae = VAE(
        StandardNormal(2), truth.vae.model.decoder, truth.vae.model.likelihood, guide
    ).double()
    x = truth.sample(2)
    found = compare_posterior(vae.model, vae.guide, x, guide_samples=20_000, **TINY)
    draws = vae.encode(x).sample((20_000,)).detach()
    assert not found.closed
    error = draws.std(0) * math.sqrt(2 / 20_000)
    assert within(found.guide_mean, draws.mean(0), error)
    expected = torch.stack([torch.cov(draws[:, i].T) for i in range(2)])
    torch.testing.assert_close(
        found.guide_covariance, expected, rtol=0.1, atol=0.1 * expected.max().item()
    )
    assert "from 20000 draws" in str(found)


def test_two_latents_one_above_the_other():
    """`a ~ N(0, 1)`, `b | a ~ N((a, -a), 1)`, `x | b ~ N(b, 1)`; the guide draws b first, then a given b."""
    up = torch.tensor([1.0, -1.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(()).double(), 1.0))
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1) * up, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    prior = torch.zeros(3, 3).double()  # of (a, b)
    prior[0, 0], prior[0, 1:], prior[1:, 0] = 1, up, up
    prior[1:, 1:] = torch.outer(up, up) + torch.eye(2)
    observed = prior[1:, 1:] + torch.eye(2)
    gain = prior[:, 1:] @ torch.linalg.inv(observed)
    covariance = prior - gain @ prior[1:, :]

    def guide(x):
        with pyro.plate("data", len(x)):
            root = torch.linalg.cholesky(covariance[1:, 1:])
            b = pyro.sample(
                "b", dist.MultivariateNormal(x @ gain[1:].T, scale_tril=root)
            )
            pyro.sample("a", dist.Normal(b @ up / 3, math.sqrt(1 / 3)))

    x = torch.tensor([[2.0, -0.5]]).double()
    found = compare_posterior(model, guide, x, guide_samples=50_000, **QUICK)
    order = [found.names.index(name) for name in ("a", "b[0]", "b[1]")]
    assert sorted(order) == [0, 1, 2]
    assert not found.closed
    mean = x @ gain.T
    assert within(found.mean[:, order], mean, found.mean_errors[:, order])
    assert within(
        found.guide_mean[:, order],
        mean,
        covariance.diagonal().sqrt() / math.sqrt(50_000),
    )
    torch.testing.assert_close(
        found.guide_covariance[0][order][:, order], covariance, rtol=0, atol=0.02
    )
    assert within(
        found.sd[:, order], covariance.diagonal().sqrt(), found.sd_errors[:, order]
    )
    assert found.kl.item() < 5 * found.kl_noise.item()
    posterior = found.to_arviz().posterior
    assert posterior["a"].dims == ("chain", "draw", "datum")
    assert posterior["b"].dims == ("chain", "draw", "datum", "b_dim_0")
    assert (
        posterior["b"].to_numpy()[1, 7, 0, 1] == found.draws[0, 1, 7, order[2]].item()
    )


def test_a_latent_that_is_a_matrix():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum((-1, -2)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z",
                dist.Normal(
                    x[:, None, None] * torch.arange(4.0).reshape(2, 2), 2.0
                ).to_event(2),
            )

    found = compare_posterior(
        model, guide, torch.tensor([1.0, 3.0]), guide_samples=20_000, **TINY
    )
    assert found.names == ["z[0, 0]", "z[0, 1]", "z[1, 0]", "z[1, 1]"]
    expected = torch.tensor([[0, 1, 2, 3], [0, 3, 6, 9]]).double()
    torch.testing.assert_close(
        found.guide_mean, expected, rtol=0, atol=4.5 * 2 / 20_000**0.5
    )
    torch.testing.assert_close(
        found.guide_covariance,
        4 * torch.eye(4).double().expand(2, 4, 4),
        rtol=0,
        atol=0.2,
    )


def folded(x):
    """`x ~ N(z^2, 0.1^2)`: of the sign of z nothing is known."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 3.0).to_event(1))
        pyro.sample("x", dist.Normal(z.square(), 0.1).to_event(1), obs=x)


def one_side(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.sqrt(), 0.05).to_event(1))


def test_chains_in_two_modes_raise_a_warning():
    found = compare_posterior(
        folded, one_side, torch.tensor([[4.0]]), num_samples=60, num_chains=4
    )
    sides = found.draws.mean(2).flatten()
    torch.testing.assert_close(
        sides.abs(), torch.full((4,), 2.0).double(), rtol=0, atol=0.05
    )
    assert (sides > 0).any()
    assert (sides < 0).any()
    assert found.rhat.item() > 1.5
    mentions(found.warnings[0], "datum 0: R-hat", "several modes")
    mentions(str(found), "warning: datum 0: R-hat")


def test_divergent_trajectories_are_counted_and_named():
    """Neal's funnel."""

    def funnel(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(0.0, 3.0))
            z = pyro.sample(
                "z",
                dist.Normal(torch.zeros(3), (v / 2).exp().unsqueeze(-1)).to_event(1),
            )
            pyro.sample("x", dist.Normal(z.sum(-1), 10.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("v", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    found = compare_posterior(
        funnel, guide, torch.zeros(1), num_samples=100, num_chains=2, target_accept=0.5
    )
    count = found.divergences.item()
    assert count > 0
    assert found.diverging.sum() == count
    v = found.draws[0, ..., found.names.index("v")]
    assert v[found.diverging[0]].mean() < v.mean()  # in the neck
    mentions(
        found.warnings[-1], f"datum 0: {count} trajectories diverged", "target_accept"
    )
    assert found.to_arviz().sample_stats["diverging"].to_numpy().sum() == count


# --- diagnostics and forms


def test_diagnostics_are_those_of_arviz(exact):
    from pyro_vae.evaluation.results import quiet_arviz

    found, az = exact[2], quiet_arviz()
    for i in range(2):
        for d in range(2):
            z = found.draws[i, :, :, d].numpy()
            assert found.rhat[i, d].item() == pytest.approx(az.rhat(z), rel=1e-12)
            assert found.ess_bulk[i, d].item() == pytest.approx(
                az.ess(z, method="bulk"), rel=1e-12
            )
            assert found.ess_tail[i, d].item() == pytest.approx(
                az.ess(z, method="tail"), rel=1e-12
            )
            assert found.mean_errors[i, d].item() == pytest.approx(
                az.mcse(z, method="mean"), rel=1e-12
            )
            assert found.sd_errors[i, d].item() == pytest.approx(
                az.mcse(z, method="sd"), rel=1e-12
            )
    posterior = found.to_arviz().posterior["z"]
    assert posterior.shape == (2, 200, 2, 2)
    assert (posterior.to_numpy()[1, 7, 0] == found.draws[0, 1, 7].numpy()).all()


def test_diagnostics_where_arviz_would_use_numba(exact, monkeypatch):
    from arviz.utils import Numba

    expected = exact[2]._diagnose("mcse", method="sd")
    monkeypatch.setattr(Numba, "numba_flag", True)
    assert torch.equal(exact[2]._diagnose("mcse", method="sd"), expected)
    assert Numba.numba_flag  # as its user left it


def test_the_table_and_the_dictionary(exact):
    found = exact[2]
    lines = str(found).splitlines()
    mentions(
        lines[0], "2 data with 2 latents", "2 chains of 200 draws", "in closed form"
    )
    for i, (row, line) in enumerate(zip(found.rows, lines[2:4], strict=True)):
        for cell, value in zip(
            line.removeprefix(f"datum {i}").split(), row.values(), strict=True
        ):
            assert float(cell) == pytest.approx(
                value, abs=0.51 * 10.0 ** -len(cell.partition(".")[2])
            ), line
    assert found.rows[1]["ratio_least"] == found.ratio[1].min().item()
    assert found.rows[1]["rhat"] == found.rhat[1].max().item()
    told = json.loads(json.dumps(found.answer().to_dict()))
    assert told["latents"] == ["z[0]", "z[1]"]
    assert told["mean"] == found.mean.tolist()
    assert told["guide_sd"] == found.guide_sd.tolist()
    assert told["rows"] == found.rows


def test_few_draws_raise_a_warning():
    draws = torch.randn(2, 2, 150, 1).double()
    found = made(draws, torch.zeros(1).double(), torch.eye(1).double())
    assert (found.rhat < 1.01).all()
    assert len(found.warnings) == 2
    mentions(found.warnings[1], "datum 1: an ESS of", "below 400")
    draws = torch.randn(2, 2, 1500, 1).double()
    assert made(draws, torch.zeros(1).double(), torch.eye(1).double()).warnings == []


def test_the_picture_is_of_the_worst_datum():
    draws = torch.randn(2, 2, 50, 6).double()
    draws[1] += 1
    q = Normal(torch.zeros(6).double(), 1.0)
    found = made(draws, q.mean, torch.eye(6).double(), q.sample((2, 100)))
    figure = found.drawing().make()
    mentions(
        figure.get_suptitle(),
        "datum 1",
        f"KL = {found.kl[1].item():.2f}",
        "4 latents of 6",
    )
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 10
    names = [axes.get_xlabel() for axes in shown[-4:]]
    assert names == [f"z[{d}]" for d in found.most_different(1, 4)]
    pair = next(axes for axes in shown if axes.collections)
    assert len(pair.collections[0].get_offsets()) == 200  # 100 draws of each


def test_the_pair_stays_as_it_was_and_the_seed_decides():
    truth = PPCA(2, 3)
    x, done = truth.sample(2), []
    weights = {name: t.clone() for name, t in truth.vae.state_dict().items()}
    found = []
    for seed in (3, 3, 4):
        pyro.set_rng_seed(seed)
        with torch.no_grad():
            found.append(
                compare_posterior(*truth.pair, x, progress=done.append, **TINY).draws
            )
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert sum(done) == 3 * 2 * 2 * 12
    assert all(
        torch.equal(t, weights[name]) for name, t in truth.vae.state_dict().items()
    )
    assert all(p.requires_grad and p.grad is None for p in truth.vae.parameters())
    assert len(pyro.get_param_store()) == 0


# --- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_samples": 3},
            "num_samples=3 of compare_posterior must be a whole number of at least 4",
        ),
        ({"num_samples": 2.5}, "num_samples=2.5 of compare_posterior must"),
        (
            {"num_chains": 1},
            "num_chains=1 of compare_posterior must be a whole number of at least 2",
        ),
        ({"warmup_steps": 0}, "warmup_steps=0 of compare_posterior must"),
        ({"guide_samples": True}, "guide_samples=True of compare_posterior must"),
        ({"target_accept": 1.0}, "target_accept=1.0 must lie between 0 and 1"),
    ],
)
def test_numbers_out_of_range(options, words):
    with pytest.raises(InputError, match=words):
        compare_posterior(folded, one_side, torch.ones(1, 1), **options)


def test_pairs_without_a_posterior_to_draw():
    truth = PPCA(2, 3)
    point = VAE(
        StandardNormal(2),
        truth.vae.model.decoder,
        truth.vae.model.likelihood,
        Delta(MLP((3,)), 2),
    ).double()
    with pytest.raises(InputError, match="the guide is a point"):
        compare_posterior(point.model, point.guide, truth.sample(1))
    bits = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )
    with pytest.raises(InputError, match="Bernoulli does not accept"):
        compare_posterior(bits.model, bits.guide, torch.full((1, 4), 0.5))
    with pytest.raises(InputError, match="no data"):
        compare_posterior(bits.model, bits.guide, torch.zeros(0, 4))

    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(torch.ones(())))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def count_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(x.exp()))

    with pytest.raises(InputError, match="'z' is discrete"):
        compare_posterior(counts, count_guide, torch.zeros(1))

    def nothing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(InputError, match="no latents"):
        compare_posterior(nothing, lambda x: None, torch.zeros(1))

    def part(program):
        def scaled(x):
            with pyro.poutine.scale(scale=10.0):
                program(x)

        return scaled

    with pytest.raises(InputError, match="by 10, so it subsamples"):
        compare_posterior(part(folded), part(one_side), torch.ones(1, 1))


# --- the program


def test_evaluation_compares_with_the_posterior(call, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    options = (
        "--limit",
        9,
        "--num-particles",
        20,
        "--posterior",
        3,
        "--posterior-draws",
        8,
    )
    said = call("evaluate", run, *options, "--report")
    assert (said.code, said.err) == (0, "")
    mentions(
        said.out,
        "p(z|x) of 3 data with 3 latents by NUTS, 4 chains of 8 draws",
        "datum 6",
        "posterior.png",
    )
    found = json.loads(newest(run).read_text())["posterior"]
    assert found["data"] == [0, 3, 6]
    assert len(found["rows"]) == len(found["mean"]) == 3
    assert len(found["mean"][0]) == len(found["latents"]) == 3
    assert newest(run, "figures/*/posterior.png").read_bytes().startswith(b"\x89PNG")
    page = report(run).partition('id="answer-posterior"')[2].partition("</section>")[0]
    mentions(page, "datum 6", "R-hat", "<img", *found["warnings"][:1])
    assert "--ask posterior" not in report(run)


def test_options_out_of_range(refused, trained):
    mentions(
        refused("evaluate", trained, "--posterior", 0), "--posterior", "at least 1"
    )
    words = ("--posterior-draws 3", "4 are the least")
    mentions(
        refused("evaluate", trained, "--posterior", 1, "--posterior-draws", 3), *words
    )
