"""Programs made of factors, and structures that make pairs of them."""

import json
import math
import sys
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.nn.functional import one_hot

from levels import Levels
from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    Structure,
    annealed_importance_sampling,
    build,
    fit,
    log_marginal,
    terms,
    variants,
)
from pyro_vae.models.conditionals import HeadGuide
from pyro_vae.models.likelihoods import Poisson
from pyro_vae.models.program import Factor, Program, formula
from reading import mentions

pytestmark = pytest.mark.usefixtures("blank_figures")


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


class Clusters(Program):
    """`p(y) p(z|y) p(x|z,y); q(y|x) q(z|x,y)` of networks that read y one-hot, and of the guide's y all values."""

    def __init__(self, name, *, listed=True):
        super().__init__()
        torch.manual_seed(len(name))
        self.name, self.listed = name, listed
        if name == "model":
            self.prior = torch.nn.Parameter(torch.randn(3))
            self.centres = torch.nn.Parameter(torch.randn(3, 2))
            self.decoder = MLP((2,), (1, 4), hidden=(5,), context=3)
        else:
            self.classifier = torch.nn.Linear(4, 3)
            self.encoder = MLP((4,), hidden=(5,), context=3)
            self.head = torch.nn.Linear(5, 2)

    def of_z(self, y):
        return dist.Normal(self.centres[y], 1.0).to_event(1)

    def of_x(self, z, y):
        loc = self.decoder(z, one_hot(y, 3).to(z)).squeeze(-2)
        return dist.Normal(loc, 0.8).to_event(1)

    def z_of_x(self, x, y):
        loc = self.head(self.encoder(x, one_hot(y, 3).to(x)))
        return dist.Normal(loc, 0.7).to_event(1)

    def factors(self):
        if self.name == "model":
            of_y = Factor("y", (), lambda: dist.Categorical(logits=self.prior), True)
            return [
                of_y,
                Factor("z", ("y",), self.of_z),
                Factor("x", ("z", "y"), self.of_x),
            ]
        if self.name == "guide of z":  # y is left to the model
            return [Factor("z", ("x",), lambda x: self.z_of_x(x, x[..., 0].long() * 0))]
        q = Factor("y", ("x",), lambda x: dist.Categorical(logits=self.classifier(x)))
        return [
            q._replace(listed=self.listed),
            Factor("z", ("x", "y"), self.z_of_x),
        ]


def test_a_listed_factor_is_enumerated_by_the_guide():
    """`log 1/K sum_k sum_y p(x, y, z_k) / q(z_k|x, y)`, and the ELBO with y summed out."""
    model, guide = Clusters("model").double(), Clusters("guide").double()
    assert formula(model, guide) == "p(y) p(z|y) p(x|z,y); q(y|x) q(z|x,y)"
    x = torch.randn(6, 4).double()
    t = terms(model, guide, x, num_particles=7)
    assert t.log_weight.shape == (21, 6)
    z = t.sites["z"].value.unflatten(0, (3, 7))
    y = torch.arange(3)[:, None, None]
    log_y = guide.classifier(x).log_softmax(1).T[:, None]
    log_w = (
        model.prior.log_softmax(0)[y]
        + model.of_z(y).log_prob(z)
        + model.of_x(z, y.expand(3, 7, 6)).log_prob(x)
        - guide.z_of_x(x, y).log_prob(z)
    )
    bound = (log_y.exp() * (log_w - log_y)).sum(0).mean(0)
    torch.testing.assert_close(ELBO(num_particles=7).bound(t), bound)
    by_hand = log_w.logsumexp((0, 1)) - math.log(7)
    torch.testing.assert_close(t.log_mean(t.log_weight), by_hand)


def test_a_listed_factor_that_the_guide_leaves_out_is_summed_out():
    """The same log p(x) from a guide of z alone, from one of y and z, and by annealing."""
    model, x = Clusters("model").double(), torch.randn(4, 4).double()
    torch.manual_seed(0)
    many = {"num_particles": 20_000}
    both = log_marginal(model, Clusters("guide").double(), x, **many)
    alone = log_marginal(model, Clusters("guide of z").double(), x, **many)
    drawn = log_marginal(model, Clusters("guide", listed=False).double(), x, **many)
    annealed = annealed_importance_sampling(
        model, x, num_chains=64, num_temperatures=100
    )
    for other in (alone, drawn, annealed):
        error = both.standard_errors.hypot(other.standard_errors)
        assert ((other.values - both.values).abs() < 5 * error + 1e-3).all()
    assert both.standard_errors.mean() < drawn.standard_errors.mean()


def test_pairs_of_listed_factors_are_trained_compiled_and_not():
    losses = []
    for compiled in (False, True):
        pair = Clusters("model"), Clusters("guide")
        adam = partial(torch.optim.Adam, lr=0.01)
        svi = SVI(*pair, adam, ELBO(), compile=compiled)
        torch.manual_seed(0)
        x = torch.randn(20, 4)
        losses.append([float(svi.step(x)) for _ in range(10)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


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


class OfAnotherLength(StandardNormal):
    def forward(self, *c):
        return dist.Normal(torch.zeros(3), 1.0).to_event(1)


class NoDistribution(HeadGuide):
    def __init__(self, encoder, latent_dim):
        super().__init__(encoder, latent_dim, 2 * latent_dim)

    def family(self, parameters):
        return parameters


class OneForAll(ELBO):
    def bound(self, t):
        return super().bound(t).mean()


class Plain(ELBO):
    def bound(self, t):
        return 3.0


def test_members_that_break_their_contract_are_told_in_a_sentence():
    x, encoder, decoder = torch.ones(8, 4), MLP((4,)), MLP((2,), (1, 4))

    def fitted(prior=StandardNormal, guide=MeanField, objective=ELBO):
        vae = VAE(prior(2), decoder, Bernoulli((4,)), guide(encoder, 2))
        fit(vae, x, objective(), epochs=1)

    with pytest.raises(InputError, match=r"shape \(2,\) meets .* of shape \(3,\)"):
        fitted(prior=OfAnotherLength)
    with pytest.raises(InputError, match=r"NoDistribution gives a Tensor$"):
        fitted(guide=NoDistribution)
    for objective, found in ((OneForAll, r"\(\)"), (Plain, "float")):
        with pytest.raises(
            InputError, match=rf"of {objective.__name__} .*, not {found}"
        ):
            fitted(objective=objective)
