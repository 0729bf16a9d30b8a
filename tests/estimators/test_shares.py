"""Latents of few values that the guide draws: enumerated, each a particle with a known share, against sums by hand."""

import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from sklearn.mixture import GaussianMixture
from torch import nn

from pyro_vae import (
    SVI,
    InputError,
    annealed_importance_sampling,
    elbo,
    inference_gaps,
    latent_health,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    terms,
    variants,
)
from pyro_vae.inference.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    STL,
    BetaTC,
    DReG,
    FreeBits,
    InfoVAE,
    MeanFieldELBO,
    Objective,
    Renyi,
    ReweightedWakeSleep,
)
from pyro_vae.inference.particles import ParticleWarning

CLASSES, DIMS, LATENT = 3, 4, 2
ADAM = partial(torch.optim.Adam, lr=0.01)


class Clusters(nn.Module):
    """`p(y) N(z; m_y, I) N(x; W z, 0.7^2); q(y|x) N(z; A x + b_y, s_y)`, the guide's y to be enumerated."""

    def __init__(self, classes=CLASSES, seed=0, *, enumerate_y=True):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def numbers(*shape):
            value = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(value)

        self.prior, self.centres = numbers(classes), numbers(classes, LATENT)
        self.weight, self.encoder = numbers(DIMS, LATENT), numbers(LATENT, DIMS)
        self.classifier, self.shift = numbers(classes, DIMS), numbers(classes, LATENT)
        self.log_scale = numbers(classes, LATENT)
        self.x = torch.randn(6, DIMS, generator=generator, dtype=torch.float64)
        self.infer = {"enumerate": "parallel"} if enumerate_y else {}

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.prior))
            z = pyro.sample("z", dist.Normal(self.centres[y], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, 0.7).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            q = dist.Categorical(logits=x @ self.classifier.T)
            y = pyro.sample("y", q, infer=self.infer)
            loc = x @ self.encoder.T + self.shift[y]
            scale = self.log_scale[y].mul(0.3).exp()
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def log_prob(self, x):
        """`log sum_y p(y) N(x; W m_y, W W^T + 0.49 I)`."""
        covariance = self.weight @ self.weight.T + 0.49 * torch.eye(DIMS).double()
        each = dist.MultivariateNormal(self.centres @ self.weight.T, covariance)
        log_p = each.log_prob(x[:, None]) + self.prior.log_softmax(0)
        return log_p.logsumexp(1)

    @torch.no_grad()
    def follow(self):
        """Let the guide's z be about the posterior's: its mean, and wider than it."""
        covariance = torch.linalg.inv(
            torch.eye(LATENT).double() + self.weight.T @ self.weight / 0.49
        )
        self.encoder.copy_(covariance @ self.weight.T / 0.49)
        left = torch.eye(LATENT).double() - self.encoder @ self.weight
        self.shift.copy_(self.centres @ left.T)
        self.log_scale.copy_((1.5 * covariance.diagonal().sqrt()).log() / 0.3)
        return self

    def by_hand(self, z, x):
        """`log q(y|x)` and `log p(x, y, z) - log q(z|x, y)` of `z`, `(classes, K, batch, LATENT)`."""
        y = torch.arange(len(self.prior))[:, None, None]
        log_p = self.prior.log_softmax(0)[y]
        log_p = log_p + dist.Normal(self.centres[y], 1.0).to_event(1).log_prob(z)
        log_p = log_p + dist.Normal(z @ self.weight.T, 0.7).to_event(1).log_prob(x)
        loc = x @ self.encoder.T + self.shift[y]
        q = dist.Normal(loc, self.log_scale[y].mul(0.3).exp()).to_event(1)
        log_y = (x @ self.classifier.T).log_softmax(1).T[:, None]
        return log_y, log_p - q.log_prob(z)


class Half(nn.Module):
    """One program of a pair as a module of its own."""

    def __init__(self, pair, name):
        super().__init__()
        self.pair, self.name = pair, name

    def forward(self, x):
        return getattr(self.pair, self.name)(x)


def gradients(loss, module):
    grads = torch.autograd.grad(
        loss, module.parameters(), allow_unused=True, retain_graph=True
    )
    pairs = zip(module.parameters(), grads, strict=True)
    return [torch.zeros_like(v) if g is None else g for v, g in pairs]


def test_particles_are_all_values_with_their_probabilities():
    pair = Clusters()
    t = terms(pair.model, pair.guide, pair.x, num_particles=5)
    assert t.log_weight.shape == (CLASSES * 5, len(pair.x))
    y = t.sites["y"].value.squeeze(-1)
    assert y.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    torch.testing.assert_close(t.log_share.logsumexp(0), torch.zeros(6).double())
    log_y, log_w = pair.by_hand(t.sites["z"].value.unflatten(0, (CLASSES, 5)), pair.x)
    torch.testing.assert_close(
        t.log_weight, (log_w - log_y).flatten(0, 1), rtol=0, atol=1e-12
    )
    by_hand = (log_w.logsumexp((0, 1)) - math.log(5)).detach()
    torch.testing.assert_close(t.log_mean(t.log_weight).detach(), by_hand)


BY_HAND = {
    "elbo": (ELBO(num_particles=4), lambda y, w: (y.exp() * (w - y)).sum(0).mean(0)),
    "iwae": (IWAE(num_particles=4), lambda y, w: w.logsumexp((0, 1)) - math.log(4)),
    "renyi": (
        Renyi(alpha=0.3, num_particles=4),
        lambda y, w: ((y + 0.7 * (w - y)).logsumexp((0, 1)) - math.log(4)) / 0.7,
    ),
    "ciwae": (
        CIWAE(beta=0.4, num_particles=4),
        lambda y, w: (
            0.4 * (y.exp() * (w - y)).sum(0).mean(0)
            + 0.6 * (w.logsumexp((0, 1)) - math.log(4))
        ),
    ),
    "miwae": (
        MIWAE(groups=2, num_particles=4),
        lambda y, w: w.unflatten(1, (2, 2)).logsumexp((0, 2)).sub(math.log(2)).mean(0),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_bounds_and_their_gradients_are_those_of_sums_by_hand(name):
    """Reparameterised draws, and y summed over with its probabilities."""
    objective, of = BY_HAND[name]
    pair = Clusters()
    torch.manual_seed(1)
    t = terms(pair.model, pair.guide, pair.x, num_particles=4)
    bound = objective.bound(t)
    log_y, log_w = pair.by_hand(t.sites["z"].value.unflatten(0, (CLASSES, 4)), pair.x)
    by_hand = of(log_y, log_w)
    torch.testing.assert_close(bound, by_hand, rtol=0, atol=1e-12)
    ours = gradients(-objective.loss_of(t), pair)
    torch.manual_seed(1)
    for one, other in zip(ours, gradients(by_hand.sum(), pair), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("objective", "same"),
    [
        (STL, ELBO),
        (MeanFieldELBO, ELBO),
        (DReG, IWAE),
        (PIWAE, IWAE),
        (ReweightedWakeSleep, IWAE),
    ],
)
def test_other_gradients_agree_on_average(objective, same):
    """Their values are those of the bound; their gradients of the model have the same mean."""
    pair = Clusters()
    options = {"num_particles": 64, **({"groups": 1} if objective is PIWAE else {})}
    many = pair.x[:1].expand(4000, -1)
    means = []
    for each in (objective(**options), same(num_particles=64)):
        torch.manual_seed(2)
        each.check(t := terms(pair.model, pair.guide, many, num_particles=64))
        loss = each.loss_of(t) / len(many)
        names = ("weight", "centres", "prior")
        means.append(
            [
                loss.detach(),
                *torch.autograd.grad(loss, [getattr(pair, n) for n in names]),
            ]
        )
    assert abs(means[0][0] - means[1][0]) < 0.01
    for one, other in zip(*means, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_loss_and_gradient_are_those_of_trace_enum_elbo():
    """Of the same draws: Pyro's sums the batch at once, and so has to be run datum by datum here."""
    pair = Clusters()
    theirs = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)

    def frozen(x):
        """The guide with the z of each y as a function of one standard normal draw."""
        with pyro.plate("data", len(x), dim=-1):
            q = dist.Categorical(logits=x @ pair.classifier.T)
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            loc = x @ pair.encoder.T + pair.shift[y]
            scale = pair.log_scale[y].mul(0.3).exp()
            value = loc + 0.4 * scale
            log_density = dist.Normal(loc, scale).to_event(1).log_prob(value)
            point = dist.Delta(value, log_density=log_density, event_dim=1)
            pyro.sample("z", point)

    loss = theirs.differentiable_loss(pair.model, frozen, pair.x)
    values = gradients(loss, pair)
    log_y, log_w = pair.by_hand(_frozen_draws(pair), pair.x)
    ours = -(log_y.exp() * (log_w - log_y)).sum()
    assert ours.item() == pytest.approx(loss.item(), abs=1e-10)
    for one, other in zip(values, gradients(ours, pair), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def _frozen_draws(pair):
    y = torch.arange(CLASSES)[:, None, None]
    return (
        pair.x @ pair.encoder.T + pair.shift[y] + 0.4 * pair.log_scale[y].mul(0.3).exp()
    )


class Mixture(nn.Module):
    """`p(y) p(x|y); q(y|x)`: a mixture of Gaussians, with a guide that is no posterior."""

    def __init__(self, fitted):
        super().__init__()
        self.log_pi = torch.tensor(fitted.weights_).log()
        self.loc = torch.tensor(fitted.means_)
        self.covariance = torch.tensor(fitted.covariances_)

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.log_pi))
            p = dist.MultivariateNormal(self.loc[y], self.covariance[y])
            pyro.sample("x", p, obs=x)

    @config_enumerate
    def guide(self, x):
        with pyro.plate("data", len(x)):
            logits = -(x[:, None] - self.loc).square().sum(-1)
            pyro.sample("y", dist.Categorical(logits=logits))


def test_a_mixture_has_the_log_likelihood_of_scikit_learns():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-2.0, 3.0]])
    x = (centres[torch.arange(300) % 3] + torch.randn(300, 2)).double()
    fitted = GaussianMixture(3, random_state=0).fit(x.numpy())
    pair = Mixture(fitted)
    result = log_marginal(pair.model, pair.guide, x, num_particles=1)
    truth = torch.from_numpy(fitted.score_samples(x.numpy()))
    torch.testing.assert_close(result.values, truth, rtol=0, atol=1e-9)
    bound = elbo(pair.model, pair.guide, x).elbo
    assert bound < truth.mean().item()


def test_estimates_reach_the_closed_form_with_their_errors():
    pair = Clusters().follow()
    torch.manual_seed(0)
    result = log_marginal(pair.model, pair.guide, pair.x, num_particles=20_000)
    truth = pair.log_prob(pair.x).detach()
    assert ((result.values - truth).abs() < 5 * result.standard_errors).all()
    assert result.ess.min() > 100
    assert (result.elbo <= truth).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda pair, x: log_marginal_adaptive(pair, x, num_particles=500)[0],
        lambda pair, x: log_marginal_refined(pair, x, num_particles=500),
        lambda pair, x: inference_gaps(pair, x, num_particles=500).log_marginal,
        lambda pair, x: annealed_importance_sampling(
            pair[0], x, guide=pair[1], num_chains=32, num_temperatures=100
        ),
    ],
    ids=["adaptive", "refined", "gaps", "annealed"],
)
def test_every_estimator_reaches_the_closed_form(ask):
    pair = Clusters().follow()
    torch.manual_seed(0)
    result = ask((pair.model, pair.guide), pair.x)
    truth = pair.log_prob(pair.x).detach()
    assert ((result.values - truth).abs() < 5 * result.standard_errors).all()


def test_refinement_raises_the_bound_of_a_bad_guide():
    """The parameters of y and of z are moved; the bound stays below log p(x)."""
    pair = Clusters()
    torch.manual_seed(0)
    gaps = inference_gaps((pair.model, pair.guide), pair.x, num_particles=500)
    before = elbo(pair.model, pair.guide, pair.x, num_particles=500).elbo
    refined = gaps.refined_elbo.mean().item()
    assert refined > before + 1
    assert refined < pair.log_prob(pair.x).mean().item()


def test_latents_are_judged_with_y_summed_out():
    """`KL(q(z|x) || p(z))` of the mixture that y leaves, against a mean over draws of it."""
    pair = Clusters().follow()
    torch.manual_seed(0)
    health = latent_health(pair.model, pair.guide, pair.x, draws=2000)
    y = torch.arange(CLASSES)[:, None]
    q_y = (pair.x @ pair.classifier.T).log_softmax(1)  # (batch, classes)
    loc = pair.x @ pair.encoder.T + pair.shift[y]
    q = dist.Normal(loc, pair.log_scale[y].mul(0.3).exp()).to_event(1)
    draws = q.sample((20_000,))  # (draws, classes, batch, LATENT)
    log_q = (q.log_prob(draws.unsqueeze(2)) + q_y.T).logsumexp(2)
    p = dist.Normal(pair.centres, 1.0).to_event(1)
    log_p = p.log_prob(draws.unsqueeze(3)) + pair.prior.log_softmax(0)
    kl = (q_y.T.exp() * (log_q - log_p.logsumexp(3)).mean(0)).sum(0)
    assert health.kl.mean == pytest.approx(kl.mean().item(), abs=0.05)


def test_compiled_steps_are_those_that_are_not():
    losses = []
    for compiled in (False, True):
        pair = Clusters()
        halves = (Half(pair, name) for name in ("model", "guide"))
        svi = SVI(*halves, ADAM, ELBO(), compile=compiled)
        torch.manual_seed(0)
        losses.append([float(svi.step(pair.x)) for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_value_without_probability_counts_nothing():
    pair = Clusters()
    with torch.no_grad():
        pair.classifier[2] = -1e30 * pair.x.sum(0).sign()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.tensor([0.0, 1.0, -math.inf]).double()
            y = pyro.sample("y", dist.Categorical(logits=logits), infer=pair.infer)
            pyro.sample("z", dist.Normal(pair.shift[y], 1.0).to_event(1))

    for name, objective in variants(Objective).items():
        if not objective.takes_shares or name == "Autoencoder":  # which is of points
            continue
        t = terms(pair.model, guide, pair.x, num_particles=8)
        loss = objective(num_particles=8).loss_of(t)
        assert loss.isfinite(), name
        grads = gradients(loss, pair)
        assert all(g.isfinite().all() for g in grads), name


class Best(Objective):
    """An objective of one's own that takes particles for draws."""

    def bound(self, t):
        return t.log_weight.max(0).values


@pytest.mark.parametrize("objective", [FreeBits, BetaTC, InfoVAE, Best])
def test_objectives_that_look_at_draws_refuse(objective):
    pair = Clusters()
    t = terms(pair.model, pair.guide, pair.x, num_particles=2)
    sentence = f"{objective.__name__} looks at draws of each latent.*site 'y'.*t.mean"
    with pytest.raises(InputError, match=sentence):
        objective(num_particles=2).check(t)
    with pytest.raises(InputError, match=sentence):
        objective(num_particles=2).loss(pair.model, pair.guide, pair.x)


def test_too_many_values_are_drawn_which_is_said():
    pair = Clusters(classes=2000)
    with pytest.warns(ParticleWarning, match="2,000 combinations of values"):
        t = terms(pair.model, pair.guide, pair.x, num_particles=3)
    assert t.log_share is None
    assert t.log_weight.shape == (3, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        terms(pair.model, pair.guide, pair.x, num_particles=3)


def test_what_is_not_marked_is_drawn():
    pair = Clusters(enumerate_y=False)
    t = terms(pair.model, pair.guide, pair.x, num_particles=3)
    assert t.log_share is None
    assert t.log_score is not None


def test_two_latents_have_all_combinations():
    """`p(a) p(b|a) p(x|a,b); q(a|x) q(b|x)` against the sum over the six."""
    torch.manual_seed(0)
    table, x = torch.randn(2, 3).double(), torch.randn(5).double()
    after = torch.randn(2, 3).double()

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.3))
            b = pyro.sample("b", dist.Categorical(logits=after[a.long()]))
            pyro.sample("x", dist.Normal(table[a.long(), b], 1.0), obs=x)

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Bernoulli(logits=x))
            pyro.sample("b", dist.Categorical(torch.ones(3)))

    t = terms(model, guide, x, num_particles=1)
    assert t.log_weight.shape == (6, 5)
    log_a = torch.tensor([0.7, 0.3]).log()[:, None]
    each = (log_a + after.log_softmax(1))[..., None] + dist.Normal(
        table[..., None], 1.0
    ).log_prob(x)
    torch.testing.assert_close(
        log_marginal(model, guide, x, num_particles=1).values, each.logsumexp((0, 1))
    )


PROBS = torch.tensor([0.5, 0.3, 0.2]).double()
PLACES = torch.tensor([-2.0, 0.0, 3.0]).double()
SLOPES = torch.tensor([0.1, 0.0, -0.2]).double()


def masked_pair(model_mask, guide_mask):
    """`p(y) p(x|y); q(y|x)` of one number each, parts of it masked."""

    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=model_mask):
            y = pyro.sample("y", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(PLACES[y], 1.0), obs=x)

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=guide_mask):
            pyro.sample("y", dist.Categorical(logits=x[:, None] * SLOPES))

    return model, guide


@pytest.mark.parametrize("of_model", [False, True])
def test_a_mask_takes_a_site_out_of_the_density_and_not_out_of_the_mean(of_model):
    """The second datum: `log p(x, y)` under the mask of both is 0; `q(y|x)` weighs its values all the same."""
    x = torch.tensor([-2.5, 0.3, 1.0, 4.0]).double()
    there = torch.tensor([True, False, True, True])
    model, guide = masked_pair(there if of_model else True, there)
    log_p = PROBS.log() + dist.Normal(PLACES, 1.0).log_prob(x[:, None])
    log_q = (x[:, None] * SLOPES).log_softmax(1)
    seen = there[:, None]
    log_w = (log_p * seen if of_model else log_p) - log_q * seen
    found = log_marginal(model, guide, x, num_particles=1)
    torch.testing.assert_close(found.values, (log_q + log_w).logsumexp(1))
    if of_model:
        assert found.values[1].abs() < 1e-12
    bound = elbo(model, guide, x).elbo
    assert bound == pytest.approx((log_q.exp() * log_w).sum(1).mean().item())


def test_a_distribution_with_a_mask_of_its_own_is_listed_too():
    x = torch.tensor([-2.5, 0.3]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(PROBS).expand([2]).mask(False))
            pyro.sample("x", dist.Normal(PLACES[y], 1.0).mask(False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.Categorical(logits=x[:, None] * SLOPES).mask(False)
            pyro.sample("y", q, infer={"enumerate": "parallel"})

    values = log_marginal(model, guide, x, num_particles=1).values
    torch.testing.assert_close(values, torch.zeros(2).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("data", [-1, -2])
def test_values_in_a_plate_within_the_data_are_drawn_which_is_said(data):
    """All combinations of them would be `3^3`; by draws the weights are right on average."""
    torch.manual_seed(0)
    x = torch.randn(5, 3).double()
    sizes = {data: 5, -3 - data: 3}
    plates = [pyro.plate(f"plate {d}", n, dim=d) for d, n in sizes.items()]

    def model(x):
        with plates[0], plates[1]:
            y = pyro.sample("y", dist.Categorical(PROBS))
            seen = x if data == -2 else x.T
            pyro.sample("x", dist.Normal(PLACES[y], 1.0), obs=seen)

    @config_enumerate
    def guide(x):
        with plates[0], plates[1]:
            seen = x if data == -2 else x.T
            pyro.sample("y", dist.Categorical(logits=seen[..., None] * SLOPES))

    with pytest.warns(ParticleWarning, match="many values for each datum.*is drawn"):
        t = terms(model, guide, x, num_particles=20_000)
    each = (PROBS.log() + dist.Normal(PLACES, 1.0).log_prob(x[..., None])).logsumexp(-1)
    truth = each.sum(-1)
    weights = (t.log_weight - truth).exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert t.log_share is None
    assert ((weights.mean(0) - 1).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "q", [dist.Bernoulli(torch.full((2,), 0.4)).to_event(1), dist.Poisson(2.0)]
)
def test_a_site_without_a_list_of_values_is_drawn_which_is_said(q):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", q)
            loc = y.sum(-1) if q.event_shape else y
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", q, infer={"enumerate": "parallel"})

    with pytest.warns(ParticleWarning, match="no list of its values: it is drawn"):
        assert terms(model, guide, torch.zeros(4)).log_share is None


@pytest.mark.parametrize("labelled_first", [False, True])
def test_one_pair_is_called_with_labels_and_without(labelled_first):
    """As Pyro's semi-supervised VAEs are: y is enumerated in those calls in which the guide draws it."""
    x, labels = torch.randn(4).double(), torch.tensor([0, 1, 2, 0])
    log_p = PROBS.log() + dist.Normal(PLACES, 1.0).log_prob(x[:, None])

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(PROBS), obs=y)
            pyro.sample("x", dist.Normal(PLACES[y], 1.0), obs=x)

    @config_enumerate
    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.Categorical(logits=x[:, None] * SLOPES))

    calls = [((x,), log_p.logsumexp(1)), ((x, labels), log_p[range(4), labels])]
    for args, truth in reversed(calls) if labelled_first else calls:
        t = terms(model, guide, *args)
        torch.testing.assert_close(t.log_mean(t.log_weight), truth)
