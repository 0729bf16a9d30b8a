"""Pairs that somebody wrote by hand, or that Pyro makes: their numbers are Pyro's, or the truth, or a sentence."""

import functools
import gc
import math
import warnings
import weakref
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import Dataset, TensorDataset

from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    VAE,
    Bernoulli,
    InputError,
    MeanField,
    Objective,
    StandardNormal,
    compare_posterior,
    elbo,
    fit,
    latent_health,
    log_marginal,
    terms,
    variants,
)
from pyro_vae.data.inputs import rows_of
from pyro_vae.engine.compiled import CompileWarning
from pyro_vae.evaluation.latents import activity
from pyro_vae.foundation.abstract import is_own, parameters_of, unchecked
from pyro_vae.inference.objectives import (
    PIWAE,
    STL,
    DReG,
    FreeBits,
    MeanFieldELBO,
    Renyi,
    ReweightedWakeSleep,
)
from pyro_vae.inference.particles import ParticleWarning, wants_all, way_of
from pyro_vae.inference.terms import Several
from pyro_vae.inference.watch import TrainingWarning


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def normal(x):
    """x ~ N(z, 1), z ~ N(0, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact(x):
    """The posterior of `normal`."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


class Shifted(PyroModule):
    """A Pyro module with a PyroParam of its own and a parameter in Pyro's store."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.5**0.5), dist.constraints.positive)

    def forward(self, x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, self.scale))


def test_a_pair_is_own_when_both_programs_are():
    vae = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )
    assert is_own(vae.model, vae.guide)
    for foreign in (
        exact,
        Shifted(),
        poutine.scale(vae.guide, scale=0.5),
        vae.guide.__call__,
    ):
        assert not is_own(vae.model, foreign)


def test_a_foreign_pair_runs_under_the_settings_of_the_user():
    vae = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )
    with pyro.settings.context(module_local_params=False, validate_poutine=True):
        with parameters_of(vae.model, vae.guide), unchecked(vae.model, vae.guide):
            assert pyro.settings.get("module_local_params")
            assert not pyro.settings.get("validate_poutine")
        with parameters_of(normal, exact), unchecked(normal, exact):
            assert not pyro.settings.get("module_local_params")
            assert pyro.settings.get("validate_poutine")
    with (
        pyro.settings.context(module_local_params=True),
        parameters_of(normal, exact),
    ):
        assert pyro.settings.get("module_local_params")


@pytest.mark.parametrize(
    "wrapped", [lambda g: g, lambda g: poutine.scale(g, scale=1.0), functools.partial]
)
def test_a_module_that_calls_param_is_evaluated_however_it_is_wrapped(wrapped):
    x = torch.randn(30)
    truth = dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
    assert elbo(normal, wrapped(Shifted()), x, num_particles=3).elbo == pytest.approx(
        truth, 1e-5
    )
    assert "shift" in pyro.get_param_store()


def test_rows_are_those_of_the_first_batch():
    x, y = torch.zeros(40, 3), torch.zeros(40)
    assert (
        rows_of([x, y[:7]])
        == rows_of([[x, y]])
        == rows_of([{"x": x, "z": (y, y)}])
        == 40
    )
    assert rows_of([torch.tensor(1.0), (x, torch.tensor(0.5))]) == 40
    assert rows_of([None, 3, "text"], {"beta": 0.5, "x": x}) == 40
    assert rows_of([nn.Linear(2, 2)]) is None
    assert rows_of([(x, y[:7])]) is None


def column(x):
    """`normal` with a latent that is a vector of one entry, read from the left."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x)


def exact_column(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))


def marginal(x):
    """log p(x) of `normal`."""
    return dist.Normal(0.0, 2**0.5).log_prob(x)


def network_pair(decoder, encoder, shape):
    """A pair of functions around two networks, with two latents and unit noise."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(len(shape)), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        h = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h[:, :2], h[:, 2:].exp()).to_event(1))

    return model, guide


def batch_norm():
    decoder = nn.Sequential(
        nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3)
    )
    return *network_pair(decoder, nn.Linear(3, 4), (3,)), torch.randn(64, 3)


def convolution():
    decoder = nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2, 2)
    )
    encoder = nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.Flatten(), nn.Linear(16, 4))
    return *network_pair(decoder, encoder, (1, 4, 4)), torch.randn(8, 1, 4, 4)


def single_column():
    return column, exact_column, torch.randn(40)


def softmax():
    decoder = nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=1))
    return *network_pair(decoder, nn.Linear(3, 4), (3,)), torch.randn(10, 3)


def test_any_leading_dimensions_are_taken_at_once():
    pair = network_pair(
        nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Linear(3, 4), (3,)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = terms(*pair, torch.randn(6, 3), num_particles=5)
    assert not isinstance(t.sites["z"].q, Several)
    assert t.log_weight.shape == (5, 6)


@pytest.mark.parametrize("pair", [batch_norm, convolution, single_column, softmax])
def test_one_particle_is_a_draw_of_pyro(pair):
    model, guide, x = pair()
    for loss, theirs in ((ELBO(), Trace_ELBO()), (IWAE(num_particles=1), Trace_ELBO())):
        torch.manual_seed(3)
        ours = loss.differentiable_loss(model, guide, x)
        torch.manual_seed(3)
        torch.testing.assert_close(ours, theirs.differentiable_loss(model, guide, x))


@pytest.mark.parametrize("pair", [batch_norm, convolution, single_column, softmax])
def test_several_particles_of_a_pair_that_takes_no_dimension_are_draws_of_pyro(pair):
    model, guide, x = pair()
    with pytest.warns(ParticleWarning, match="run once for each particle"):
        terms(model, guide, x, num_particles=2)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        torch.manual_seed(3)
        t = terms(model, guide, x, num_particles=4)
    torch.manual_seed(3)
    draws, expected = [], []
    for _ in range(4):
        draws.append(poutine.trace(guide).get_trace(x))
    for q in draws:
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
        p.compute_log_prob()
        q.compute_log_prob()
        pair = [p.nodes[n]["log_prob"] for n in ("x", "z")]
        expected.append(pair[0] + pair[1] - q.nodes["z"]["log_prob"])
    torch.testing.assert_close(t.log_weight, torch.stack(expected))


def test_trying_a_pair_leaves_buffers_and_random_numbers_alone():
    x = torch.randn(6, 3)
    decoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    pair = network_pair(decoder, nn.Linear(3, 4), (3,))
    torch.manual_seed(1)
    with pytest.warns(ParticleWarning):
        way_of(*pair, (x,), {})
    assert torch.equal(
        torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1))
    )
    assert decoder[1].num_batches_tracked == 0
    assert torch.equal(decoder[1].running_mean, torch.zeros(5))


def test_batch_normalisation_in_evaluation_mode_and_dropout_are_tried_as_they_are():
    decoder = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    pair = network_pair(decoder, nn.Linear(3, 4), (3,))
    assert way_of(*pair, (torch.randn(6, 3),), {}).dim == -2
    flat = nn.Sequential(
        nn.Linear(2, 5), AnyLeading(nn.BatchNorm1d(5)), nn.Linear(5, 3)
    )
    pair = network_pair(flat, nn.Linear(3, 4), (3,))
    with pytest.warns(ParticleWarning):
        assert way_of(*pair, (torch.randn(6, 3),), {}).dim is None
    flat.eval()
    assert way_of(*pair, (torch.randn(6, 3),), {}).dim == -2


class AnyLeading(nn.Module):
    """A layer for matrices, applied to tensors of any leading dimensions."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        return self.layer(h.flatten(0, -2)).view(h.shape)


def test_what_is_known_of_a_pair_goes_with_it():
    class Pair:
        def model(self, x):
            column(x)

        def guide(self, x):
            exact_column(x)

    pair = Pair()
    x = torch.randn(5)
    with pytest.warns(ParticleWarning):
        terms(pair.model, pair.guide, x, num_particles=2)
    with warnings.catch_warnings():  # a bound method is another object at each access
        warnings.simplefilter("error")
        terms(pair.model, pair.guide, x, num_particles=2)
    gone = weakref.ref(pair)
    del pair
    gc.collect()
    assert gone() is None


def test_the_error_of_a_pair_that_cannot_be_run_is_its_own():
    def broken(x):
        raise LookupError("nothing here")

    with pytest.raises(LookupError, match="nothing here"):
        terms(broken, exact, torch.zeros(3), num_particles=2)


OF_CODES = ("scored", "codes")  # needs that no latent of reals meets
OBJECTIVES = sorted(
    (
        c
        for name, c in variants(Objective).items()
        if not {*OF_CODES} & {*c.needs} and name != "Autoencoder"
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
@pytest.mark.parametrize("cls", OBJECTIVES, ids=lambda cls: cls.__name__)
def test_objectives_of_particles_drawn_one_by_one_are_those_of_particles_at_once(cls):
    scale = torch.tensor(0.6, requires_grad=True)

    def pair(read):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample(
                    "z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1)
                )
                pyro.sample("x", dist.Normal(read(z), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                q = dist.Normal(x[:, None] / 2, scale.expand(len(x), 1))
                pyro.sample("z", q.to_event(1))

        return model, guide

    # Sixteen normal numbers at a time are the same whether drawn alone or among others.
    objective, x, found = cls(), torch.randn(16), []
    objective.advance(100)
    for read, one_by_one in ((lambda z: z[..., 0], False), (lambda z: z[:, 0], True)):
        model, guide = pair(read)
        way_of(model, guide, (x,), {})
        assert (way_of(model, guide, (x,), {}).dim is None) == one_by_one
        torch.manual_seed(2)
        t = terms(model, guide, x, num_particles=objective.num_particles)
        objective.check(t)
        loss = objective.loss_of(t)
        found.append((loss.detach(), *torch.autograd.grad(loss, scale)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def agrees(ours, theirs, n):
    """A value of ours per datum and a loss of Pyro's over n data."""
    torch.testing.assert_close(ours, -theirs / n, rtol=1e-5, atol=1e-5)


def log_normal(x):
    """x ~ N(z, 1), z ~ LogNormal(1, 0.1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(1.0, 0.1))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def by_exponential(x):
    """The prior of `log_normal` as exp(u), its log-Jacobian a factor."""
    with pyro.plate("data", len(x)):
        u = pyro.sample(
            "u", dist.Normal(torch.ones(len(x)), 0.1), infer={"is_auxiliary": True}
        )
        pyro.factor("log_jacobian", -u, has_rsample=True)
        pyro.sample("z", dist.Delta(u.exp()))


def test_a_factor_in_the_guide_is_part_of_log_q():
    x = torch.full((500,), 2.7)
    t = terms(log_normal, by_exponential, x, num_particles=3)
    torch.testing.assert_close(t.log_qz, t.log_pz)
    for loss in (ELBO(num_particles=1), IWAE(num_particles=1)):
        torch.manual_seed(0)
        ours = -loss.loss(log_normal, by_exponential, x) / len(x)
        torch.manual_seed(0)
        agrees(ours, Trace_ELBO().loss(log_normal, by_exponential, x), len(x))
    exact = log_marginal(log_normal, by_exponential, x[:20], num_particles=5000)
    z = dist.LogNormal(1.0, 0.1).sample((200_000,))
    truth = (dist.Normal(z, 1.0).log_prob(x[0]).logsumexp(0) - math.log(len(z))).item()
    assert exact.mean == pytest.approx(truth, abs=3e-3)


def test_a_factor_of_one_nat_lowers_what_is_estimated_by_one():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.ones(len(x)), 0.1))
            pyro.factor("f", torch.ones(len(x)), has_rsample=True)

    def plain_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.ones(len(x)), 0.1))

    x = torch.full((50,), 2.7)
    values = []
    for q in (guide, plain_guide):
        torch.manual_seed(0)
        values.append(log_marginal(log_normal, q, x, num_particles=100).values)
    torch.testing.assert_close(values[0], values[1] - 1)


@pytest.mark.parametrize("has_rsample", [True, False])
def test_the_gradient_of_a_factor_is_that_of_pyro(has_rsample):
    loc = torch.zeros(40, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(loc, 0.5), infer={"is_auxiliary": True})
            pyro.factor("log_jacobian", -u, has_rsample=has_rsample)
            pyro.sample("z", dist.Delta(u.exp()))

    def gradient(loss):
        torch.manual_seed(0)
        return torch.autograd.grad(loss.differentiable_loss(log_normal, guide, x), loc)[
            0
        ]

    x = torch.full((40,), 2.7)
    if has_rsample:
        torch.testing.assert_close(gradient(ELBO()), gradient(Trace_ELBO()))
    else:  # the score function multiplies the factor's gradient by the bound
        assert not torch.allclose(
            gradient(ELBO()), gradient(Trace_ELBO(num_particles=1)) * 0
        )
        t = terms(log_normal, guide, x)
        assert t.log_score is not None


def test_sticking_the_landing_leaves_the_jacobian_of_a_guide_in():
    loc = torch.tensor(1.0, requires_grad=True)

    def guide(x):  # the posterior is the prior where x says nothing
        with pyro.plate("data", len(x)):
            u = pyro.sample(
                "u",
                dist.Normal(loc, 0.1).expand([len(x)]),
                infer={"is_auxiliary": True},
            )
            z = u.exp()
            pyro.sample("z", dist.Delta(z, log_density=-u))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(1.0, 0.1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    loss = STL().differentiable_loss(model, guide, torch.zeros(100))
    (gradient,) = torch.autograd.grad(loss, loc)
    assert gradient.abs() < 1e-2  # no variance where q is exact


def test_objectives_that_take_log_q_apart_refuse_auxiliary_draws():
    t = terms(log_normal, by_exponential, torch.ones(5), num_particles=5)
    for objective in (
        DReG(),
        PIWAE(),
        ReweightedWakeSleep(),
        MeanFieldELBO(),
        FreeBits(),
    ):
        with pytest.raises(
            InputError, match="of the guide does not stand in the model"
        ):
            objective.check(t)
    for objective in (ELBO(), IWAE(), STL(), Renyi()):
        objective.check(t)


def test_auxiliary_draws_that_no_latent_is_made_of_are_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0))

    with pytest.raises(
        InputError, match=r"auxiliary site 'u'.*no latent is a function of it"
    ):
        terms(normal, guide, torch.zeros(4))


def test_a_deterministic_site_counts_nothing_anywhere():
    def model(x):
        sd = pyro.deterministic("sd", torch.tensor(0.0).exp())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(z, sd), obs=x)

    def guide(x):
        pyro.deterministic("note", x.sum())
        exact(x)

    x = torch.randn(20)
    torch.testing.assert_close(
        log_marginal(model, guide, x, num_particles=5).values, marginal(x).double()
    )


AUTO = [
    AutoNormal,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoLowRankMultivariateNormal,
]


def test_a_guide_made_by_pyro_has_a_density():
    x = torch.randn(30)
    guide = AutoNormal(normal)
    guide(x)
    with torch.no_grad():  # the posterior
        guide.locs.z.copy_(x / 2)
        guide.scales.z = torch.full((30,), 0.5**0.5)
    found = log_marginal(normal, guide, x, num_particles=50)
    torch.testing.assert_close(found.values, marginal(x).double(), rtol=1e-4, atol=1e-4)
    assert elbo(normal, guide, x).elbo == pytest.approx(
        marginal(x).mean().item(), abs=1e-4
    )
    with pytest.raises(InputError, match=r"draws for 30 data and is called with 10"):
        log_marginal(normal, guide, x[:10], num_particles=50)
    for objective in (ELBO(), IWAE(), STL()):
        objective.check(terms(normal, guide, x, num_particles=objective.num_particles))


def test_transforms_of_pyros_guides_carry_their_jacobian():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(6).exp()
    guide = AutoNormal(model, init_scale=0.5)
    found = log_marginal(model, guide, x, num_particles=20_000)
    z = dist.LogNormal(0.0, 1.0).sample((200_000, 1))
    truth = dist.Normal(z, 1.0).log_prob(x).double().logsumexp(0) - math.log(len(z))
    torch.testing.assert_close(found.values, truth, rtol=0, atol=0.05)
    torch.manual_seed(0)
    ours = -ELBO().loss(model, guide, x) / len(x)
    torch.manual_seed(0)
    agrees(ours, Trace_ELBO().loss(model, guide, x), len(x))


@pytest.mark.parametrize("kind", AUTO[1:])
def test_a_guide_that_draws_all_latents_at_once_is_refused(kind):
    with pytest.raises(InputError, match=r"latents of all data at once.*AutoNormal"):
        log_marginal(normal, kind(normal), torch.randn(5), num_particles=10)


@pytest.mark.parametrize("kind", [AutoDelta, AutoLaplaceApproximation])
def test_a_point_has_no_density(kind):
    words = "without a density|outside the data plate"
    with pytest.raises(InputError, match=words):
        log_marginal(normal, kind(normal), torch.randn(5), num_particles=10)


def test_a_list_of_guides_is_a_point_where_one_of_them_is():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide_of(first, second):
        guide = AutoGuideList(model)
        guide.append(first(poutine.block(model, expose=["a"])))
        guide.append(second(poutine.block(model, expose=["b"])))
        return guide

    x = torch.randn(8)
    t = terms(model, guide_of(AutoNormal, AutoNormal), x, num_particles=3)
    IWAE().check(t)
    t = terms(model, guide_of(AutoNormal, AutoDelta), x, num_particles=3)
    assert t.sites["b"].point
    assert not t.sites["a"].point
    with pytest.raises(InputError, match="site 'b' it is a point"):
        IWAE().check(t)


def test_without_latents_the_value_is_exact():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 2**0.5), obs=x)

    calls = []

    def guide(x):
        calls.append(len(x))

    x = torch.randn(12)
    found = log_marginal(model, guide, x, num_particles=5000)
    torch.testing.assert_close(found.values, marginal(x).double())
    assert found.num_particles == 1
    assert not found.standard_errors.any()
    assert not found.doubtful.any()
    assert sum(calls) < 200


def test_inner_plates_are_summed_for_each_datum():
    def model(x):
        n, pixels = x.shape
        with pyro.plate("pixels", pixels, dim=-2):
            shift = torch.zeros(pixels, 1)
            with pyro.plate("data", n, dim=-1):
                pyro.sample(
                    "x",
                    dist.Normal(shift + pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0),
                    obs=x.T,
                )

    def guide(x):
        n, pixels = x.shape
        with pyro.plate("pixels", pixels, dim=-2), pyro.plate("data", n, dim=-1):
            pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5))

    x = torch.randn(7, 3)
    t = terms(model, guide, x, num_particles=4)
    torch.testing.assert_close(t.log_weight, marginal(x).sum(1).expand(4, 7))
    found = log_marginal(model, guide, x, num_particles=20)
    torch.testing.assert_close(
        found.values, marginal(x).sum(1).double(), rtol=1e-4, atol=1e-4
    )


def test_a_plate_of_data_need_not_be_the_rightmost():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("points", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        points = x.shape[1]
        with pyro.plate("data", len(x), dim=-2):
            mean = x.sum(1, keepdim=True) / (points + 1)
            pyro.sample("z", dist.Normal(mean, (points + 1) ** -0.5))

    x = torch.randn(6, 3)
    covariance = torch.eye(3) + torch.ones(3, 3)
    truth = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    for k in (1, 5):
        t = terms(model, guide, x, num_particles=k)
        torch.testing.assert_close(t.log_weight, truth.expand(k, 6))


def test_masks_and_a_common_scale_are_those_of_pyro():
    seen = torch.tensor([True, False, True, True])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(4)
    pair = poutine.scale(model, scale=0.5), poutine.scale(exact, scale=0.5)
    for p, q in ((model, exact), pair):
        torch.manual_seed(0)
        ours = ELBO().loss(p, q, x)
        torch.manual_seed(0)
        assert ours == pytest.approx(Trace_ELBO().loss(p, q, x), rel=1e-5)
    found = log_marginal(
        model, lambda x: exact(torch.where(seen, x, 0.0)), x, num_particles=4000
    )
    assert found.values[1].item() == pytest.approx(0.0, abs=0.05)


def test_what_is_not_observed_of_a_site_has_to_be_drawn_or_masked():
    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=seen)

    with pytest.raises(InputError, match=r"'x_unobserved'.*poutine.mask"):
        terms(
            model,
            lambda x, seen: exact(x),
            torch.zeros(3),
            torch.tensor([True, False, True]),
        )


def shared(x):
    """A global mean, a latent for each datum."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def shared_guide(x):
    m = pyro.sample("m", dist.Normal(0.5, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x + m) / 2, 0.5**0.5))


def test_a_global_latent_is_refused_and_evaluated_given_a_draw_as_the_sentence_says():
    x, m = torch.randn(9), torch.tensor(0.7)
    truth = dist.Normal(m, 2**0.5).log_prob(x).double()
    with pytest.raises(
        InputError, match=r"poutine.condition\(model, data={'m': m}\)"
    ) as refusal:
        log_marginal(shared, shared_guide, x, num_particles=10)
    pair = [
        part.strip()
        for part in str(refusal.value).split("a draw of it, ")[1].split(" and ")
    ]
    names = {"poutine": poutine, "model": shared, "guide": shared_guide, "m": m}
    given = [eval(part, names) for part in pair]
    torch.testing.assert_close(
        log_marginal(*given, x, num_particles=10).values, truth, rtol=1e-4, atol=1e-4
    )

    guide = AutoNormal(shared)
    guide(x)
    with pytest.raises(InputError, match="outside the data plate") as refusal:
        terms(shared, guide, x)
    pair = [
        part.strip()
        for part in str(refusal.value).split("a draw of it, ")[1].split(" and ")
    ]
    given = [eval(part, {**names, "guide": guide}) for part in pair]
    with torch.no_grad():  # the posterior given m
        guide.locs.z.copy_((x + m) / 2)
        guide.scales.z = torch.full((9,), 0.5**0.5)
    found = log_marginal(*given, x, num_particles=10)
    torch.testing.assert_close(found.values, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
def test_a_transform_whose_draws_are_hidden_has_no_density():
    guide = AutoDiagonalNormal(normal)
    hidden = poutine.block(guide, hide=["_AutoDiagonalNormal_latent"])
    with pytest.raises(InputError, match="without a density"):
        log_marginal(normal, hidden, torch.randn(5), num_particles=10)


def test_discrete_latents_have_the_score_function():
    logit = torch.zeros(30_000, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit[: len(x)]))

    x = torch.full((30_000,), 0.8)
    (ours,) = torch.autograd.grad(ELBO().differentiable_loss(model, guide, x), logit)
    (theirs,) = torch.autograd.grad(
        Trace_ELBO().differentiable_loss(model, guide, x), logit
    )
    error = (ours.var() + theirs.var()).sqrt() / len(x) ** 0.5
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    few = x[:50]
    values = torch.tensor([0.0, 1.0])
    log_p = dist.Bernoulli(0.3).log_prob(values) + dist.Normal(
        2 * values, 1.0
    ).log_prob(x[0])
    found = log_marginal(model, guide, few, num_particles=4000)
    assert found.mean == pytest.approx(log_p.logsumexp(0).item(), abs=5e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_bound_of_one_datum_is_pyros_renyi(alpha):
    x = torch.tensor([0.7])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, torch.ones(len(x))))

    ours, theirs = [], []
    for seed in range(300):
        torch.manual_seed(seed)
        ours.append(-Renyi(alpha=alpha, num_particles=4).loss(normal, guide, x))
        theirs.append(-RenyiELBO(alpha, num_particles=4).loss(normal, guide, x))
    ours, theirs = torch.tensor(ours), torch.tensor(theirs)
    error = ((ours.var() + theirs.var()) / len(ours)).sqrt()
    assert abs(ours.mean() - theirs.mean()) < 4 * error


def conditional(d):
    """x ~ N(z, 1), z ~ N(y, 1), of a tuple or a dict (x, y)."""
    x, y = d.values() if isinstance(d, dict) else d
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(y, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact_conditional(d):
    x, y = d.values() if isinstance(d, dict) else d
    with pyro.plate("data", len(x)):
        pyro.sample(
            "z", dist.Normal((x + y) / 2, pyro.param("s", torch.tensor(0.5**0.5)))
        )


class Triples(Dataset):
    """A map-style data set of dicts."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i]}


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: (x, y),
        lambda x, y: (x.numpy(), y),
        lambda x, y: {"x": x, "y": y},
        TensorDataset,
        Triples,
    ],
    ids=["tuple", "arrays", "dict", "TensorDataset", "map-style data set"],
)
def test_batches_of_several_tensors(data):
    x, y = torch.randn(40), torch.randn(40)
    truth = dist.Normal(y, 2**0.5).log_prob(x)
    given = data(x, y)
    found = log_marginal(conditional, exact_conditional, given, num_particles=5)
    torch.testing.assert_close(found.values, truth.double(), rtol=1e-4, atol=1e-4)
    bound = elbo(conditional, exact_conditional, given, batch_size=7, num_particles=2)
    assert bound.elbo == pytest.approx(truth.mean().item(), abs=1e-4)
    pair = SimpleNamespace(model=conditional, guide=exact_conditional)
    history = fit(
        pair,
        given,
        Trace_ELBO(),
        validation=given,
        epochs=1,
        batch_size=9,
        learning_rate=1e-6,
    )
    assert history[0].elbo == pytest.approx(truth.mean().item(), abs=1e-4)
    assert history[0].validation_elbo == pytest.approx(truth.mean().item(), abs=1e-4)


def test_further_arguments_are_cut_along_with_the_data_and_others_are_whole():
    x, y, w = torch.randn(40), torch.randn(40), torch.tensor([2.0, 3.0])
    lengths = set()

    def model(x, y, w, *, beta, c=None):
        lengths.add((len(x), len(y), len(w), len(c["c"])))
        conditional((x, y))

    def guide(x, y, w, *, beta, c=None):
        exact_conditional((x, y))

    truth = dist.Normal(y, 2**0.5).log_prob(x)
    arguments = {"beta": 0.5, "c": {"c": torch.arange(40)}}
    found = log_marginal(model, guide, x, y, w, num_particles=3, **arguments)
    torch.testing.assert_close(found.values, truth.double(), rtol=1e-4, atol=1e-4)
    assert elbo(
        model, guide, x, y, w, batch_size=16, **arguments
    ).elbo == pytest.approx(truth.mean().item(), abs=1e-4)
    assert {(16, 16, 2, 16), (1, 1, 2, 1)} <= lengths


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="the parts of x have 7 and 40 rows"):
        log_marginal(conditional, exact_conditional, (torch.randn(40), torch.randn(7)))
    vae = VAE(
        StandardNormal(2), MLP((2,), (1, 4)), Bernoulli((4,)), MeanField(MLP((4,)), 2)
    )
    with pytest.raises(InputError, match="give the data alone"):
        log_marginal(vae.model, vae.guide, (torch.ones(4, 4), torch.ones(4)))


def numbered(size, *, cut=False):
    """A guide with a parameter for each of `size` data, in order; the posterior of x."""

    def guide(x):
        loc = pyro.param("loc", torch.zeros(size))
        loc = loc[: len(x)] if cut else loc
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, 0.5**0.5))

    return guide


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("memory", [2**28, 2**16])
def test_a_guide_with_numbers_for_each_datum_is_called_with_all_data(cut, memory):
    x = torch.randn(40)
    pyro.param("loc", x / 2)
    guide, drawn = numbered(40, cut=cut), []
    found = log_marginal(
        normal, guide, x, num_particles=300, memory=memory, progress=drawn.append
    )
    torch.testing.assert_close(found.values, marginal(x).double(), rtol=1e-4, atol=1e-4)
    assert sum(drawn) == 300 * 40
    bound = elbo(normal, guide, x, batch_size=7)
    assert bound.elbo == pytest.approx(marginal(x).mean().item(), abs=1e-4)


def test_a_part_of_the_data_of_such_a_guide_is_refused():
    x = torch.randn(40)
    for guide in (numbered(40), lambda x: exact(torch.zeros(40))):
        with pytest.raises(InputError, match="40"):
            log_marginal(normal, guide, x[:10], num_particles=10)
        with pytest.raises(InputError, match="40"):
            elbo(normal, guide, x[:10])
    with pytest.raises(InputError, match="draws for 40 data and is called with 1"):
        log_marginal(
            lambda x: normal(x.expand(40)), numbered(40), x[:1], num_particles=10
        )


def test_fit_records_the_loss_alone_where_latents_are_shared():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 60, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))

    x = 5 + torch.randn(60)
    pair = SimpleNamespace(model=model, guide=guide)
    with pytest.warns(
        TrainingWarning, match="the ELBO of the epochs is not known"
    ) as said:
        history = fit(
            pair,
            x,
            Trace_ELBO(),
            validation=x[:20],
            epochs=30,
            batch_size=10,
            learning_rate=0.1,
        )
    assert len(said) == 1
    assert all(
        math.isnan(epoch.elbo) and math.isnan(epoch.validation_elbo)
        for epoch in history
    )
    assert history.best.loss == min(epoch.loss for epoch in history)
    assert pyro.param("loc").item() == pytest.approx(x.mean().item(), abs=0.2)


def learned_column():
    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] * slope, 0.5**0.5).to_event(1))

    return column, guide, torch.randn(40)


@pytest.mark.parametrize("pair", [learned_column, convolution])
def test_the_history_of_a_fit_holds_the_elbo_of_the_pair(pair):
    model, guide, x = pair()
    pair = SimpleNamespace(model=model, guide=guide)
    history = fit(pair, x, Trace_ELBO(num_particles=50), epochs=1, learning_rate=1e-9)
    torch.manual_seed(0)
    truth = -Trace_ELBO(num_particles=400).loss(model, guide, x) / len(x)
    assert history[0].elbo == pytest.approx(truth, rel=0.1)


def test_a_parameter_that_is_still_zero_hides_no_index():
    def model(x):
        slope = pyro.param("slope", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(slope * z[:, 0], 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(40))[: len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc[:, None], 1.0).to_event(1))

    x = torch.randn(40)
    with pytest.warns(ParticleWarning):
        assert way_of(model, guide, (x,), {}).dim is None
    assert wants_all(model, guide, lambda rows: ((x[rows],), {}), 40)
    assert not wants_all(model, exact_column, lambda rows: ((x[rows],), {}), 40)
    assert pyro.param("slope").item() == 0.0
    assert not pyro.param("loc").any()


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
def test_activity_of_a_guide_that_reads_its_draws_from_the_left():
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(2 * x[:, None], 0.1).to_event(1))
            pyro.sample("b", dist.Normal(3 * a[:, 0], 0.1))

    x = torch.randn(50)
    found = activity(guide, x, draws=50)
    torch.testing.assert_close(
        found["a"], 4 * x.double().var()[None], rtol=0.05, atol=0
    )
    torch.testing.assert_close(found["b"], 36 * x.double().var(), rtol=0.05, atol=0)


def test_activity_of_a_guide_with_numbers_for_each_datum():
    loc = torch.randn(40)
    pyro.param("loc", loc)
    found = activity(numbered(40), torch.zeros(40), draws=400, batch_size=7)
    torch.testing.assert_close(found["z"], loc.double().var(), rtol=0.1, atol=0)
    with pytest.raises(
        InputError, match="'m' of the guide lies outside the data plate"
    ):
        activity(shared_guide, torch.zeros(4))


def test_latent_health_of_a_pair_of_functions():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))

    x = 2**0.5 * torch.randn(300)
    health = latent_health(column, guide, x)
    assert health.active_units == 1
    assert health.kl.mean == pytest.approx(0.35, abs=0.1)  # log 2 / 2
    with pytest.raises(InputError, match="from auxiliary draws"):
        latent_health(normal_vector, AutoNormal(normal_vector), x[:30])


def normal_vector(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
@pytest.mark.parametrize(
    "pair", [(column, exact_column), (conditional, exact_conditional)]
)
def test_posteriors_of_pairs_of_functions(pair):
    x = torch.randn(2)
    data = x if pair[0] is column else (x, torch.zeros(2))
    found = compare_posterior(
        *pair, data, num_samples=200, warmup_steps=100, num_chains=2, guide_samples=500
    )
    torch.testing.assert_close(
        found.draws.mean((1, 2))[:, 0], x.double() / 2, rtol=0, atol=0.15
    )


def test_a_pair_of_pyro_modules_is_weighed_by_a_compiled_graph():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample(
                    "z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1)
                )
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, self.log_scale.exp()).to_event(1))

    pair, x = (Model(), Guide()), torch.randn(6, 1)
    found = []
    for wanted in (False, True):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompileWarning)
            found.append(
                log_marginal(*pair, x, num_particles=100, compile=wanted).values
            )
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_plates_of_other_names_and_of_one_size_are_one_plate_of_data():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(6)
    for k in (1, 4):
        t = terms(normal, guide, x, num_particles=k)
        torch.testing.assert_close(t.log_weight, marginal(x).expand(k, 6))


def test_of_two_plates_the_one_as_long_as_the_batch_holds_the_data():
    def features(x):
        with pyro.plate("features", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("features", 3, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5))

    x = torch.randn(5, 3)
    t = terms(features, guide, x, num_particles=2)
    torch.testing.assert_close(t.log_weight, marginal(x).sum(1).expand(2, 5))


def test_latents_of_groups_are_refused():
    def groups(x):
        with pyro.plate("groups", 3):
            m = pyro.sample("m", dist.Normal(torch.zeros(3), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m[torch.arange(len(x)) % 3], 1.0), obs=x)

    def guide(x):
        with pyro.plate("groups", 3):
            pyro.sample("m", dist.Normal(torch.zeros(3), 1.0))

    for ask in (elbo, log_marginal):
        with pytest.raises(
            InputError, match="'m' and 'x' lie in data plates of different sizes"
        ):
            ask(groups, guide, torch.randn(7))


def test_a_loop_over_a_plate_is_refused():
    def looped(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))

    with pytest.raises(
        InputError, match="in a loop over a plate, outside the data plate"
    ):
        terms(looped, guide, torch.randn(3))


def test_a_pair_that_chooses_its_own_subsample_is_trained_and_not_evaluated():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            pyro.sample("z", dist.Normal(x[rows] / 2, 0.5**0.5))

    x = torch.randn(12)
    for k in (
        1,
        3,
    ):  # all particles are of one subsample: the weights of a datum are equal
        t = terms(model, guide, x, num_particles=k)
        assert t.scale == 3
        torch.testing.assert_close(t.log_weight, t.log_weight[:1].expand(k, 4))
    with pytest.raises(InputError, match="draws for 4 data and is called with 12"):
        elbo(model, guide, x)


@pytest.mark.filterwarnings("ignore::pyro_vae.inference.particles.ParticleWarning")
def test_a_blocked_site_is_drawn_anew_for_each_particle():
    def inner(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            noise = pyro.sample("noise", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + noise, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 3, (2 / 3) ** 0.5))

    x = torch.randn(5)
    found = log_marginal(
        poutine.block(inner, hide=["noise"]), guide, x, num_particles=4000
    )
    truth = dist.Normal(0.0, 3**0.5).log_prob(x).double()
    torch.testing.assert_close(found.values, truth, rtol=0, atol=0.1)


def test_what_the_guide_observes_counts_as_in_pyro():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=x, infer={"is_auxiliary": True})

    x = torch.randn(6)
    ours = ELBO().loss(normal, guide, x)
    assert ours == pytest.approx(Trace_ELBO().loss(normal, guide, x), rel=1e-5)


def test_networks_in_training_mode_are_evaluated_batch_by_batch():
    encoder = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 4)
    )
    pair = network_pair(nn.Linear(2, 3), encoder, (3,))
    x = torch.randn(40, 3)
    assert not wants_all(*pair, lambda rows: ((x[rows],), {}), 40)
    before = encoder[1].num_batches_tracked.item()
    wants_all(*pair, lambda rows: ((x[rows],), {}), 40)
    assert encoder[1].num_batches_tracked.item() == before


def test_a_pair_can_be_tried_while_a_graph_is_made():
    def weights(x):
        return [terms(normal, exact, x, num_particles=3).log_weight, wrong(x)]

    def model(x):  # one of which nothing is known yet
        return column(x)

    def wrong(x):
        return terms(model, exact_column, x, num_particles=3).log_weight

    x = torch.randn(5)
    with pyro.validation_enabled(False):
        with pytest.warns(ParticleWarning):
            graph = make_fx(weights)(x)
        again = make_fx(weights)(x)
    assert len(graph.graph.nodes) == len(
        again.graph.nodes
    )  # the trials are no part of it
    for y in (x, torch.randn(5)):
        for found in graph(y):
            torch.testing.assert_close(found, marginal(y).expand(3, 5))
