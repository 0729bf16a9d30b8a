"""Programs made of factors, and structures that make pairs of them."""

import json
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from levels import Levels
from pyro_vae import (
    MLP,
    VAE,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    Structure,
    annealed_importance_sampling,
    build,
    log_marginal,
    variants,
)
from pyro_vae.models.likelihoods import Poisson
from pyro_vae.models.program import Factor, Program, formula
from reading import mentions


def plain(likelihood=None):
    torch.manual_seed(0)
    likelihood = Poisson((4,)) if likelihood is None else likelihood
    decoder = MLP((2,), (likelihood.channels, 4))
    return VAE(StandardNormal(2), decoder, likelihood, MeanField(MLP((4,)), 2)).double()


@pytest.mark.parametrize("log_unit", [0.0, 1.5])
def test_a_model_draws_z_and_then_x(log_unit):
    vae = plain(Gaussian((4,)))
    vae.model.count_in(log_unit)
    x = torch.randn(6, 4).double()
    trace = poutine.trace(vae.model).get_trace(x)
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample"]
    assert [s for s in sites if s not in ("data", "units")] == ["z", "x"]
    z = trace.nodes["z"]["value"]
    assert z.shape == (6, 2)
    assert trace.nodes["x"]["is_observed"]
    trace.compute_log_prob()
    total = sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site)
    torch.testing.assert_close(vae.model.log_prob({"x": x, "z": z}), total)
    by_hand = (
        dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + vae.decode(z).log_prob(x) - log_unit
    )
    torch.testing.assert_close(vae.model.log_prob({"x": x, "z": z}), by_hand)
    assert vae.model(size=3).shape == (3, 4)
    assert vae.guide(x).shape == (6, 2)


class Chain(Program):
    """`p(z2) p(z1|z2) p(x|z1)` or, with `turned`, the exact `q(z2|x) q(z1|x,z2)` of a linear-Gaussian chain."""

    def __init__(self, levels, *, exact=False):
        super().__init__()
        self.levels, self.exact = levels, exact

    def below(self, i):
        def conditional(z):
            loc = z @ self.levels.maps[i].T
            return dist.Normal(loc, self.levels.noise).to_event(1)

        return conditional

    def posterior(self, i):
        gain, covariance = self.levels.conditional(i)

        def conditional(*given):
            *above, x = given
            lead = above[-1].shape[:-1] if above else x.shape[:-1]
            loc = torch.cat([*above, x.expand(*lead, x.shape[-1])], -1) @ gain.T
            return dist.MultivariateNormal(loc, covariance)

        return conditional

    def factors(self):
        if self.exact:
            return [
                Factor("z2", ("x",), self.posterior(0)),
                Factor("z1", ("z2", "x"), self.posterior(1)),
            ]
        top = dist.Normal(torch.zeros(self.levels.sizes[0]).double(), 1.0).to_event(1)
        return [
            Factor("z2", (), lambda: top.expand(())),
            Factor("z1", ("z2",), self.below(0)),
            Factor("x", ("z1",), self.below(1)),
        ]


def test_a_program_of_three_factors_is_weighed_exactly():
    levels = Levels((2, 3))
    x = levels.sample(12)
    truth = levels.marginal.log_prob(x)
    model, guide = Chain(levels), Chain(levels, exact=True)
    assert formula(model, guide) == "p(z2) p(z1|z2) p(x|z1); q(z2|x) q(z1|z2,x)"
    torch.testing.assert_close(
        log_marginal(model, guide, x, num_particles=5).values, truth
    )
    annealed = annealed_importance_sampling(
        model, x[:4], num_chains=64, num_temperatures=40
    )
    error = annealed.monte_carlo_standard_error
    assert abs(annealed.mean - truth[:4].mean()) < 4.5 * error + 0.01

    # The joint density is that of the normal of all.
    values = {
        "z2": torch.randn(12, 2).double(),
        "z1": torch.randn(12, 3).double(),
        "x": x,
    }
    joint = torch.distributions.MultivariateNormal(
        torch.zeros(9).double(), levels.covariance
    )
    expected = joint.log_prob(torch.cat(list(values.values()), -1))
    torch.testing.assert_close(model.log_prob(values), expected)


def test_a_factor_before_those_that_it_is_given_is_refused():
    class Turned(Chain):
        def factors(self):
            return super().factors()[::-1]

    levels = Levels((2, 3))
    with pytest.raises(
        InputError, match=r"the factor x\|z1 is given z1, which has no value"
    ):
        Turned(levels)(levels.sample(3))
    values = {"z1": torch.zeros(3, 3).double(), "x": levels.sample(3)}
    with pytest.raises(InputError, match="there is no value of z2"):
        Chain(levels).log_prob(values)
    with pytest.raises(InputError, match=r"the factor z\|x is given x"):
        plain().guide()


def test_of_a_program_without_factors_the_formula_is_not_known():
    assert formula(plain().model, lambda x: None) == "p(z) p(x|z); q(?)"


@pytest.mark.parametrize("name", variants(Structure))
def test_a_structure_makes_what_its_first_line_says(name):
    vae = build(Spec((4,), 2, structure=name.lower()))
    says = variants(Structure)[name].__doc__.partition("`")[2].partition("`")[0]
    assert formula(vae.model, vae.guide) == says


OWN = '''
from pyro_vae.foundation.checks import Count
from pyro_vae.models.structures import Vae

class Half(Vae):
    """`p(z) p(x|z); q(z|x)`: half as many latents."""

    def __init__(self, *, of: Count = 2):
        self.of = of

    def build(self, parts, shape, latent_dim):
        return super().build(parts, shape, latent_dim // self.of)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield "mine:Half"
    sys.modules.pop("mine", None)


def test_a_structure_of_ones_own(mine, train, call):
    pyro.set_rng_seed(0)
    small = ("--network", "mlp(hidden=(8,))", "--latent-dim", 6, "--epochs", 1)
    said = call("train", *small, "--structure", f"{mine}(of=3)", "--dry-run")
    assert "structure  mine:Half(of=3): p(z) p(x|z); q(z|x)" in said.out
    wrong = call("train", *small, "--structure", f"{mine}(of=0)", "--dry-run")
    assert wrong.code == 2
    mentions(wrong.err, "of=0 of Half must be a whole number of at least 1")
    run = train("run", *small, "--structure", f"{mine}(of=3)")
    assert (
        call("evaluate", run, "--limit", 5, "--num-particles", 5).code == 2
    )  # not trusted
    said = call("evaluate", run, "--limit", 5, "--num-particles", 5, "--trust")
    assert (said.code, said.err) == (0, "")
    (written,) = run.glob("evaluation*.json")
    assert json.loads(written.read_text())["latents"]["active_units"] <= 2


def test_a_run_from_before_structures_is_read(train, call):
    run = train(
        "run", "--network", "mlp(hidden=(8,))", "--latent-dim", 2, "--epochs", 1
    )
    config = run / "config.toml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text(
        "".join(line for line in lines if not line.startswith("structure"))
    )
    said = call("evaluate", run, "--limit", 5, "--num-particles", 5)
    assert (said.code, said.err) == (0, "")
    assert call("train", "--resume", run, "--epochs", 2).code == 0
    assert Spec.from_dict({"shape": [4], "latent_dim": 2}) == Spec((4,), 2)
