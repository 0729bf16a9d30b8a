"""Guides against truths: determinants by autodiff, exact posteriors, expectations in closed form."""

import copy
import math

import pytest
import torch

from ppca import PPCA
from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    FullRank,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    build,
    elbo,
    fit,
    log_marginal,
    terms,
)
from pyro_vae.distributions import DiagonalMixture
from pyro_vae.distributions.pushforward import AffineStep, Reflections
from pyro_vae.evaluation.latents import activity
from pyro_vae.inference.objectives import STL, MeanFieldELBO
from pyro_vae.inference.objectives.base import closed_kl
from pyro_vae.inference.schedules import cosine
from pyro_vae.models.conditionals import (
    IAF,
    NSF,
    Delta,
    Householder,
    Local,
    LowRank,
    Mixture,
    Planar,
    SemiAmortized,
    Sylvester,
)

D = 4
FLOWS = {
    "planar": lambda e: Planar(e, D, transforms=3),
    "householder": lambda e: Householder(e, D, transforms=3),
    "sylvester, orthogonal": lambda e: Sylvester(e, D, transforms=2, columns=3),
    "sylvester, householder": lambda e: Sylvester(
        e, D, transforms=2, kind="householder", columns=3
    ),
    "sylvester, triangular": lambda e: Sylvester(e, D, transforms=3, kind="triangular"),
    "iaf": lambda e: IAF(e, D, transforms=3, hidden=(16, 16)),
    "nsf": lambda e: NSF(e, D, transforms=3, hidden=(16,)),
}
flows = pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def bent(make, batch=5):
    """A flow far from the identity: every parameter drawn anew."""
    guide = make(MLP((3,), hidden=(8,))).double()
    for p in guide.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return guide.posterior(torch.randn(batch, 8).double())


@flows
def test_log_density_against_the_determinant_of_the_map_by_autodiff(make):
    q = bent(make)
    e = torch.randn(5, D).double()

    def chain(e):
        z = e
        for step in q.steps:
            z = step.push(z)[0]
        return z

    jacobian = torch.autograd.functional.jacobian(lambda e: chain(e).sum(0), e).movedim(
        1, 0
    )  # data do not mix
    expected = q.base.log_prob(e) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(chain(e)), expected, rtol=1e-8, atol=1e-8)


@flows
def test_inverse_and_its_gradient(make):
    """The gradient of log q at any latent, taken through the inverse, against finite differences."""
    q = bent(make, batch=2)
    z = q.rsample().detach()
    assert torch.autograd.gradcheck(q.log_prob, z.requires_grad_(), atol=1e-5)
    for step in q.steps:
        pushed, ladj = step.push(z)
        back, same = step.pull(pushed)
        torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(same.expand_as(ladj), ladj, rtol=1e-8, atol=1e-8)


@flows
def test_a_draw_is_not_inverted(make, monkeypatch):
    """`log q` of a draw comes from the sampling pass, also under a plate of particles."""
    import pyro

    guide = make(MLP((3,), hidden=(8,)))
    for step in guide.posterior(torch.zeros(1, 8)).steps:
        monkeypatch.setattr(type(step), "pull", lambda *_: pytest.fail("inverted"))
    with pyro.plate("particles", 6, dim=-2):
        trace = pyro.poutine.trace(guide).get_trace(torch.randn(5, 3))
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (6, 5)


def test_flows_start_near_the_mean_field_guide():
    x, e = torch.rand(50, 6), torch.randn(50, D)
    for make in [
        *FLOWS.values(),
        lambda encoder: Householder(encoder, D, transforms=4),
    ]:
        q = make(MLP((6,))).given(x)
        z, change = e, torch.zeros(50)
        for step in q.steps:
            if not isinstance(step, AffineStep):
                moved, ladj = step.push(z)
                z, change = moved - getattr(step, "loc", 0.0), change + ladj
        if not (
            isinstance(q.steps[0], Reflections) and q.steps[0].v.shape[-2] % 2
        ):  # the last one has no partner
            assert (z - e).abs().max() < 0.3
            assert change.abs().max() < 0.3


def test_householder_is_a_gaussian_with_turned_axes():
    guide = Householder(MLP((3,), hidden=(8,)), D, transforms=3).double()
    q = guide.posterior(torch.randn(1, 8).double())
    turn = q.steps[0]
    u = torch.eye(D).double()
    for v in turn.v[0]:
        u = (torch.eye(D).double() - 2 * torch.outer(v, v) / v.square().sum()) @ u
    scale = q.base.base_dist.scale[0]
    truth = torch.distributions.MultivariateNormal(
        turn.loc[0], (u * scale.square()) @ u.T
    )
    z = q.sample((100,))
    torch.testing.assert_close(q.log_prob(z)[:, 0], truth.log_prob(z[:, 0]))


# --- mixtures


def mixture(requires_grad=True):
    logits = torch.tensor([0.3, -0.2, 0.5]).double()
    loc = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.1, 1.5]]).double()
    scale = torch.tensor([[0.5, 0.7], [0.9, 0.4], [0.3, 1.1]]).double()
    return [p.requires_grad_(requires_grad) for p in (logits, loc, scale)]


def test_mixture_density_against_torch():
    parts = mixture(requires_grad=False)
    logits, loc, scale = parts
    components = torch.distributions.Independent(
        torch.distributions.Normal(loc, scale), 1
    )
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits), components
    )
    z = 2 * torch.randn(200, 2).double()
    torch.testing.assert_close(DiagonalMixture(*parts).log_prob(z), truth.log_prob(z))
    batched = DiagonalMixture(
        *(p.expand(1, *p.shape) for p in parts)
    )  # by the other formula
    torch.testing.assert_close(batched.log_prob(z), truth.log_prob(z))
    torch.testing.assert_close(DiagonalMixture(*parts).mean, truth.mean)
    torch.testing.assert_close(DiagonalMixture(*parts).variance, truth.variance)


def test_gradients_through_draws_of_a_mixture():
    """Of E[z], E[z^2] and E[z_0 z_1], which are polynomials in the parameters, by the mean over many draws."""
    parts = mixture()
    weights, loc, scale = parts[0].softmax(0), parts[1], parts[2]
    second = (weights[:, None] * (loc.square() + scale.square())).sum(0)
    product = (weights * loc[:, 0] * loc[:, 1]).sum()
    truth = torch.autograd.grad(
        second.sum() + 3 * product + (weights[:, None] * loc).sum(), parts
    )

    copies = [
        p.detach().expand(200_000, *p.shape).clone().requires_grad_() for p in parts
    ]
    z = DiagonalMixture(*copies).rsample()
    (z.square().sum() + 3 * (z[:, 0] * z[:, 1]).sum() + z.sum()).backward()
    for each, expected in zip(copies, truth, strict=True):
        error = each.grad.std(0) / len(z) ** 0.5
        assert ((each.grad.mean(0) - expected).abs() < 4.5 * error).all()
        assert error.max() < 0.03


def test_gradients_through_draws_of_a_mixture_of_one_dimension_are_those_of_its_distribution_function():
    """dz/dp = -(dF/dp) / p(z), by autodiff of SciPy's formula for F written out."""
    logits, loc, scale = (
        p[..., :1] if p.dim() == 2 else p for p in mixture(requires_grad=False)
    )
    parts = [p.clone().requires_grad_() for p in (logits, loc, scale)]
    q = DiagonalMixture(*parts)
    z = q.rsample()
    ours = torch.autograd.grad(z.sum(), parts)
    normal = torch.distributions.Normal(parts[1][:, 0], parts[2][:, 0])
    distribution_function = (parts[0].softmax(0) * normal.cdf(z.detach())).sum()
    theirs = torch.autograd.grad(distribution_function, parts)
    density = q.log_prob(z.detach()).exp().item()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, -b / density, rtol=1e-9, atol=1e-12)


def test_mixture_draws_stay_finite_in_many_dimensions():
    guide = Mixture(MLP((3,), hidden=(8,)), 60, components=4)
    torch.nn.init.normal_(guide.head.weight, std=1.0)
    q = guide.posterior(torch.randn(20, 8)).expand((50, 20))
    z = q.rsample()
    (q.log_prob(z).mean() + z.square().mean()).backward()
    assert guide.head.weight.grad.isfinite().all()


# --- exact posteriors

EXACT = {
    "fullrank": FullRank,
    "lowrank of full rank": lambda e, d: LowRank(e, d, rank=d),
    "iaf": lambda e, d: IAF(e, d, transforms=2, hidden=(16,), context=4),
    "householder": lambda e, d: Householder(e, d, transforms=2),
}


def linear_gaussian(make):
    """A probabilistic PCA with another guide, its model kept as it is; data, and the mean of their log p(x)."""
    truth = PPCA(2, 5)
    guide = make(MLP((5,), hidden=()), 2)
    vae = VAE(
        StandardNormal(2), truth.vae.model.decoder, truth.vae.model.likelihood, guide
    ).double()
    vae.model.requires_grad_(False)
    x = truth.sample(300)
    return vae, x, truth.marginal.log_prob(x).mean().item(), truth


def trained_gap(make):
    """log p(x) - ELBO = KL(q || posterior) after training the guide."""
    torch.manual_seed(0)
    vae, x, best, _ = linear_gaussian(make)
    fit(
        vae,
        x,
        STL(num_particles=4),
        epochs=1000,
        batch_size=300,
        learning_rate=0.1,
        schedule=cosine,
    )
    return best - elbo(vae.model, vae.guide, x, num_particles=400).elbo


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_guides_reach_the_exact_posterior_where_their_family_contains_it(make):
    assert abs(trained_gap(make)) < 5e-4


def best_mean_field_gap(posterior_covariance):
    """The KL from the best independent Gaussian to a Gaussian: half of `sum log P_dd - log|P|`, P its precision."""
    precision = torch.linalg.inv(posterior_covariance)
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()


def test_mean_field_misses_what_it_must():
    expected = best_mean_field_gap(PPCA(2, 5).posterior_covariance)
    assert expected > 0.1
    assert trained_gap(MeanField) == pytest.approx(expected, abs=0.01)


def test_local_inference_reaches_the_best_mean_field():
    vae, x, best, truth = linear_gaussian(lambda e, d: Local(e, d, steps=300, rate=0.2))
    gap = best - elbo(vae.model, vae.guide, x, num_particles=100).elbo
    assert gap == pytest.approx(
        best_mean_field_gap(truth.posterior_covariance), abs=0.03
    )


def test_refinement_improves_on_the_amortised_guide():
    vae, x, best, _ = linear_gaussian(
        lambda e, d: SemiAmortized(e, d, steps=60, rate=0.05)
    )
    before = elbo(vae.model, vae.guide.start, x, num_particles=50).elbo
    after = elbo(vae.model, vae.guide, x, num_particles=50).elbo
    assert before + 1 < after < best
    weighted = log_marginal(vae.model, vae.guide, x, num_particles=2000)
    assert abs(weighted.mean - best) < 4 * weighted.monte_carlo_standard_error + 0.01


def test_training_differentiates_through_the_refinement():
    """The gradient in the encoder's parameters against finite differences, with the same noise."""
    truth = PPCA(2, 4)
    x = truth.sample(6)
    guide = SemiAmortized(
        MLP((4,), hidden=(5,), activation="tanh"), 2, steps=3, rate=0.01
    )
    vae = VAE(
        StandardNormal(2), truth.vae.model.decoder, truth.vae.model.likelihood, guide
    ).double()

    def bound():
        torch.manual_seed(3)
        q = vae.guide.given(x)
        z = q.rsample()
        return (vae.model.log_prob({"x": x, "z": z}) - q.log_prob(z)).sum()

    weight = vae.guide.start.head.weight
    bound().backward()
    for parameter, index in (
        (weight, (1, 2)),
        (weight, (3, 0)),
        (vae.guide.log_rate, ()),
    ):
        step = 1e-6
        with torch.no_grad():
            parameter[index] += step
            above = bound().item()
            parameter[index] -= 2 * step
            below = bound().item()
            parameter[index] += step
        assert parameter.grad[index].item() == pytest.approx(
            (above - below) / (2 * step), rel=1e-4, abs=1e-5
        )


def test_a_point_is_a_deterministic_autoencoder():
    """Its bound is log p(x, z) at z; in a linear-Gaussian model the best point is the posterior's mean."""
    truth = PPCA(2, 4)
    x = truth.sample(300)
    vae = VAE(
        StandardNormal(2),
        truth.vae.model.decoder,
        truth.vae.model.likelihood,
        Delta(MLP((4,), hidden=()), 2),
    ).double()
    vae.model.requires_grad_(False)
    fit(vae, x, epochs=800, batch_size=300, learning_rate=0.03, schedule=cosine)
    torch.testing.assert_close(
        vae.posterior_mean(x).detach(), (x - truth.b) @ truth.gain.T, rtol=0, atol=2e-3
    )
    reported = elbo(vae.model, vae.guide, x).elbo
    assert reported == pytest.approx(
        vae.model.log_prob({"x": x, "z": vae.posterior_mean(x)}).mean().item()
    )
    with pytest.raises(InputError, match="without a density"):
        log_marginal(vae.model, vae.guide, x)


def test_activity_of_a_linear_gaussian_model():
    """Var_x(E[z|x]) = diag(gain Cov(x) gain^T)."""
    truth = PPCA(3, 6)
    x = truth.sample(4000)
    expected = torch.cov((x @ truth.gain.T).T).diagonal()
    found = activity(truth.vae.guide, x, draws=50)["z"]
    torch.testing.assert_close(
        found, expected, rtol=0, atol=4 * (1 / 50) / 4000**0.5 + 2e-3
    )


def test_a_copy_looks_at_its_own_model():
    vae = build(
        Spec(
            (4,), 2, prior="vampprior(pseudo_inputs=3)", guide="semiamortized(steps=2)"
        )
    )
    twin = copy.deepcopy(vae)
    assert twin.guide._model is twin.model
    assert twin.model.prior._guide is twin.guide
    assert {n for n, _ in vae.named_parameters()} == set(
        vae.state_dict()
    )  # nothing is stored twice


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: LowRank(e, 2, rank=0), "rank=0 of LowRank"),
        (lambda e: Mixture(e, 2, components=1.5), "components=1.5 of Mixture"),
        (lambda e: Planar(e, 2, transforms=0), "transforms=0 of Planar"),
        (lambda e: Sylvester(e, 2, kind="round"), "kind='round' of Sylvester"),
        (lambda e: IAF(e, 2, hidden=(0,)), "hidden"),
        (lambda e: NSF(e, 2, bins=1), "bins=1 of NSF"),
        (lambda e: Local(e, 2, rate=0.0), "rate=0.0 of Local"),
        (lambda e: SemiAmortized(e, 2, guide=Local), "cannot refine Local"),
        (lambda e: SemiAmortized(e, 2, guide=Delta), "cannot refine Delta"),
        (lambda e: SemiAmortized(e, 2, guide=Mixture), "Mixture does not carry twice"),
        (lambda e: Local(e, 2).given(torch.zeros(1, 3)), "put both into a VAE"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InputError, match=words):
        make(MLP((3,)))


def test_closed_kl_of_gaussian_guides():
    """MeanFieldELBO against the ELBO at many particles, for each pair that has a closed form."""
    for guide in (MeanField, FullRank, LowRank):
        vae = VAE(
            StandardNormal(3), MLP((3,), (1, 5)), Bernoulli((5,)), guide(MLP((5,)), 3)
        ).double()
        x = torch.rand(2, 5).round().double()
        q = vae.encode(x)
        z = q.sample((200_000,))
        gap = q.log_prob(z) - vae.model.prior().log_prob(z)
        kl = closed_kl(terms(vae.model, vae.guide, x).sites["z"])
        assert (
            (gap.mean(0) - kl[0]).abs() < 4.5 * gap.std(0) / math.sqrt(len(gap))
        ).all()
        assert MeanFieldELBO().bound(terms(vae.model, vae.guide, x)).isfinite().all()
