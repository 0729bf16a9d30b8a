"""What every member of every family must do; a new member is tested without anyone registering it."""

import inspect
import itertools
import math

import pytest
import torch

from pyro_vae import (
    SVI,
    VAE,
    Guide,
    InputError,
    Likelihood,
    Network,
    Objective,
    Prior,
    Representation,
    Spec,
    build,
    terms,
    variants,
)
from pyro_vae.build import AXES, parse, summaries

D, SHAPE = 3, (6, 5)


def members(family):
    return pytest.mark.parametrize("cls", variants(family).values(), ids=lambda c: c.__name__)


def example(support, *size):
    """Data of a representation."""
    u = torch.rand(*size, dtype=torch.float64)
    match support:
        case Representation.BINARY:
            return u.round()
        case Representation.UNIT:
            return u
        case Representation.REAL:
            return 2 * u - 0.5
        case Representation.LEVELS:
            return (100 + 40 * u).floor()
    return (5 * u).floor()


def encoder(shape=SHAPE, features=7):
    class Body(torch.nn.Module):
        out_shape = (features,)

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(math.prod(shape), features)

        def forward(self, x):
            return self.layer(x.flatten(x.dim() - len(shape)))

    return Body().double()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@members(Prior)
def test_prior(cls):
    p = cls(D).double()()
    assert (p.batch_shape, p.event_shape) == ((), (D,))
    z = p.expand([20_000]).sample()
    log_p = p.log_prob(z)
    assert log_p.shape == (20_000,)
    assert log_p.isfinite().all()
    mean, error = z.mean(0), z.std(0) / len(z) ** 0.5
    assert ((mean - p.mean).abs() < 4.5 * error).all()
    assert ((z.var(0) / p.variance - 1).abs() < 0.1).all()


@members(Likelihood)
def test_likelihood(cls):
    likelihood = cls(SHAPE).double()
    h = torch.randn(4, 2, likelihood.channels, *SHAPE).double().requires_grad_()
    p = likelihood(h)
    assert (p.batch_shape, p.event_shape) == ((4, 2), SHAPE)
    x = example(likelihood.support, 2, *SHAPE)
    log_p = p.log_prob(x)
    assert log_p.shape == (4, 2)
    log_p.sum().backward()
    assert h.grad.isfinite().all()
    assert (h.grad != 0).any()
    assert p.mean.shape == (4, 2, *SHAPE)
    likelihood.check(p.sample())


@members(Likelihood)
def test_likelihood_adds_up_to_one_and_has_the_moments_it_claims(cls):
    """Summed over all values, or integrated by the trapezoidal rule."""
    likelihood = cls((1,)).double()
    p = likelihood(torch.randn(likelihood.channels, 1).double() / 2).base_dist  # one element
    match likelihood.support:
        case Representation.BINARY:
            x = torch.tensor([0.0, 1.0]).double()
        case Representation.LEVELS:
            x = torch.arange(likelihood.levels).double()
        case Representation.COUNTS:
            x = torch.arange(2000.0).double()
        case Representation.UNIT:
            x = torch.linspace(0, 1, 100_001).double()
        case _:
            x = torch.sinh(torch.linspace(-16, 16, 400_001).double())
    mass = p.log_prob(x).exp().flatten()

    def total(y):
        return torch.trapezoid(y, x) if likelihood.support in (Representation.UNIT, Representation.REAL) else y.sum()

    torch.testing.assert_close(total(mass), torch.ones(()).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(total(mass * x), p.mean.squeeze(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total(mass * (x - p.mean) ** 2), p.variance.squeeze(), rtol=1e-4, atol=1e-6)
    drawn = p.expand((50_000,)).sample()
    assert abs(drawn.mean() - p.mean) < 4.5 * (p.variance / len(drawn)).sqrt()


@members(Likelihood)
def test_likelihood_starts_from_the_moments_of_the_data(cls):
    likelihood = cls(SHAPE).double()
    x = example(likelihood.support, 500, *SHAPE)
    mean, std = x.mean(0), x.std(0)
    likelihood.initialise(mean, std, standardise=True)
    h = likelihood.starting_output(mean, std)
    if h is not None:
        assert h.shape == (likelihood.channels, *SHAPE)
        torch.testing.assert_close(likelihood(h).mean, mean, rtol=1e-6, atol=1e-6)


@members(Guide)
def test_guide(cls):
    guide = cls(encoder(), D).double()
    h = torch.randn(5, 4, 7).double()
    q = guide.posterior(h)
    assert (q.batch_shape, q.event_shape) == ((5, 4), (D,))
    z = q.rsample((3,))
    log_q = q.log_prob(z)
    assert log_q.shape == (3, 5, 4)
    (z.sum() + log_q.sum()).backward()
    for name, p in guide.named_parameters():
        if not name.startswith("encoder"):
            assert p.grad.isfinite().all(), name
            assert (p.grad != 0).any(), name


@members(Guide)
def test_guide_reads_each_datum_alone(cls):
    guide = cls(encoder(), D).double()
    h = torch.randn(4, 7).double()
    z = torch.randn(4, D).double()
    together = guide.posterior(h).log_prob(z)
    alone = torch.cat([guide.posterior(h[i : i + 1]).log_prob(z[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)


@members(Guide)
def test_guide_density_integrates_to_one(cls):
    """By importance weighting with a wide Student-t as the reference."""
    q = cls(encoder(), 2).double().posterior(torch.randn(7).double())
    reference = torch.distributions.Independent(
        torch.distributions.StudentT(torch.tensor(3.0).double(), q.mean, 2.0), 1
    )
    z = reference.sample((400_000,))
    ratio = (q.log_prob(z) - reference.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5


@members(Network)
def test_network(cls):
    down = cls.encoder((6, 5)).double()
    up = cls.decoder(D, (2, 6, 5)).double()
    assert up.out_shape == (2, 6, 5)
    for net, shape in ((down, (6, 5)), (up, (D,))):
        for leading in ((), (4,), (3, 4)):
            x = torch.randn(*leading, *shape).double()
            assert net(x).shape == (*leading, *net.out_shape)
        x = torch.randn(3, 4, *shape).double()
        torch.testing.assert_close(net(x)[1, 2], net(x[1, 2]))  # leading dimensions do not mix
        net(x).square().sum().backward()
        for name, p in net.named_parameters():
            assert p.grad.isfinite().all(), name
            assert (p.grad != 0).any(), name


@members(Network)
def test_network_output_bias_sets_the_mean_output(cls):
    up = cls.decoder(D, (1, 6, 5)).double()
    if up.output_layer is not None:
        z = torch.randn(500, D).double()
        up.set_output_spread(0.25, z)
        assert up(z).std(0).mean().item() == pytest.approx(0.25)
        target = torch.full((1, 6, 5), 0.7).double()
        up.set_output_bias(target)
        before = up.output_layer.bias.detach().clone()
        with torch.no_grad():
            up.layers[-1].weight.zero_()
        torch.testing.assert_close(up(torch.randn(4, D).double()), target.expand(4, 1, 6, 5))
        torch.testing.assert_close(before, torch.full_like(before, 0.7))


@members(Objective)
def test_objective(cls):
    objective = cls()
    vae = build(Spec(shape=SHAPE, latent_dim=D)).double()
    x = example(Representation.BINARY, 5, *SHAPE)
    t = terms(vae.model, vae.guide, x, num_particles=objective.num_particles)
    bound = objective.bound(t)
    assert bound.shape == (5,)
    assert bound.isfinite().all()
    torch.testing.assert_close(objective.loss_of(t), -bound.sum())
    order = torch.tensor([3, 1, 4, 0, 2])  # each datum's bound is its own
    swapped = t._replace(log_px=t.log_px[:, order], log_pz=t.log_pz[:, order], log_qz=t.log_qz[:, order])
    torch.testing.assert_close(objective.bound(swapped), bound[order])


COMBINATIONS = list(itertools.product(*(variants(AXES[axis][0]) for axis in AXES)))


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_every_combination_trains_every_parameter(names):
    prior, network, likelihood, guide, objective = names
    vae = build(Spec(SHAPE, D, prior, network, likelihood, guide)).double()
    x = example(vae.model.likelihood.support, 8, *SHAPE)
    svi = SVI(vae.model, vae.guide, torch.optim.SGD, parse("objective", objective)(), reduction="mean")
    loss, _ = svi.loss_and_grads(x)
    assert loss.isfinite()
    for name, p in vae.named_parameters():
        assert p.grad.isfinite().all(), name
        assert (p.grad != 0).any(), name


@pytest.mark.parametrize("names", COMBINATIONS[:: max(1, len(COMBINATIONS) // 8)], ids="-".join)
def test_state_dict_round_trip(names):
    spec = Spec(SHAPE, D, *names[:4])
    first, second = build(spec), build(spec)
    second.load_state_dict(first.state_dict())
    x = example(first.model.likelihood.support, 4, *SHAPE).float()
    torch.manual_seed(1)
    a = first.reconstruct(x)
    torch.manual_seed(1)
    assert torch.equal(a, second.reconstruct(x))


def test_the_verbs_of_a_vae():
    vae = build(Spec(SHAPE, D, guide="fullrank"))
    x = torch.rand(4, *SHAPE).round()
    assert vae.sample(7).shape == (7, *SHAPE)
    assert set(vae.sample(7).unique().tolist()) <= {0.0, 1.0}
    assert vae.sample(7, mean=True).shape == (7, *SHAPE)
    assert vae.encode(x).sample((2,)).shape == (2, 4, D)
    assert vae.decode(torch.zeros(2, 4, D)).sample().shape == (2, 4, *SHAPE)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.model(size=3).shape == (3, *SHAPE)


@pytest.mark.parametrize("axis", AXES)
def test_every_member_has_a_summary_and_only_keyword_arguments(axis):
    family, _, fixed = AXES[axis]
    calls = summaries(axis)
    assert len(calls) == len(variants(family)) > 0
    assert all(text.endswith(".") and len(text) > 20 for text in calls.values())
    for cls in variants(family).values():
        for parameter in list(inspect.signature(cls).parameters.values())[fixed:]:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{cls.__name__}({parameter.name})"
            assert parameter.default is not parameter.empty, f"{cls.__name__}({parameter.name})"


def test_a_guide_on_an_encoder_that_does_not_say_its_width():
    body = torch.nn.Linear(4, 7)
    for cls in variants(Guide).values():
        with pytest.raises(InputError, match="features="):
            cls(body, D)
        assert cls(body, D, features=7).posterior(torch.zeros(7)).event_shape == (D,)


def test_variants_are_final_classes():
    for family, _, _ in AXES.values():
        for cls in variants(family).values():
            assert not inspect.isabstract(cls)
            assert issubclass(cls, family)
            assert not [c for c in type.__subclasses__(cls) if c.__module__.startswith("pyro_vae.")]


def test_posterior_mean_with_and_without_a_closed_form():
    vae = build(Spec(SHAPE, D))
    x = torch.rand(4, *SHAPE).round()
    assert torch.equal(vae.posterior_mean(x), vae.encode(x).mean)
    normal = vae.encode(x)
    log_normal = torch.distributions.TransformedDistribution(normal, [torch.distributions.ExpTransform()])
    vae.guide.posterior = lambda h: log_normal  # has no mean in torch
    known = torch.distributions.LogNormal(normal.base_dist.loc, normal.base_dist.scale)
    error = known.stddev / 10_000**0.5
    assert ((vae.posterior_mean(x, draws=10_000) - known.mean).abs() < 4.5 * error).all()


def test_vae_accepts_any_torch_modules():
    from pyro_vae import Bernoulli, MeanField, StandardNormal

    decoder = torch.nn.Sequential(torch.nn.Linear(D, 30), torch.nn.Unflatten(-1, (1, *SHAPE)))
    vae = VAE(StandardNormal(D), decoder, Bernoulli(SHAPE), MeanField(torch.nn.Flatten(-2), D, features=30))
    assert vae.reconstruct(torch.ones(2, *SHAPE)).shape == (2, *SHAPE)
