"""Categorical latents: exact sums, and gradients whose expectation is taken over all draws there can be."""

import itertools
import math

import pytest
import torch

from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    VAE,
    Bernoulli,
    InputError,
    Spec,
    build,
    elbo,
    guides,
    log_marginal,
    priors,
    terms,
    variants,
)
from pyro_vae.distributions import OneHots
from pyro_vae.inference.objectives import (
    CIWAE,
    MIWAE,
    PIWAE,
    VIMCO,
    Annealed,
    DReG,
    GumbelSoftmax,
    MeanFieldELBO,
    Objective,
    Renyi,
    ReweightedWakeSleep,
)
from pyro_vae.spec import problem

DATA = 5  # elements of a datum


def small(*, levels=2, variables=2, enumerate=True, seed=0):
    """A pair of which everything can be summed by hand, with weights that are no start."""
    torch.manual_seed(seed)
    d = levels * variables
    vae = VAE(
        priors.Categorical(d, levels=levels),
        MLP((d,), (1, DATA), hidden=()),
        Bernoulli((DATA,)),
        guides.Categorical(
            MLP((DATA,), hidden=(4,)), d, levels=levels, enumerate=enumerate
        ),
    ).double()
    for p in vae.parameters():
        torch.nn.init.normal_(p)
    return vae


def data(n):
    return (
        torch.rand(n, DATA, generator=torch.Generator().manual_seed(1)).double().round()
    )


def weights(vae, x):
    """All codes, their `log w = log p(x, z) - log q(z|x)` and `log q(z|x)`, both `(codes, n)`, without a program."""
    q = OneHots(
        vae.guide.head(vae.guide.encoder(x)).unflatten(-1, (-1, vae.guide.levels))
    )
    z = q.enumerate_support(expand=False)  # (codes, 1, D)
    p = torch.distributions.Bernoulli(logits=vae.model.decoder(z).squeeze(-2))
    log_pz = OneHots(vae.model.prior.logits).log_prob(z)
    log_q = q.log_prob(z)
    return z, p.log_prob(x).sum(-1) + log_pz - log_q, log_q


def gradient(value, vae):
    grads = torch.autograd.grad(
        value, list(vae.parameters()), allow_unused=True, retain_graph=True
    )
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(grads, vae.parameters(), strict=True)
        ]
    )


# --- exact sums


@pytest.mark.parametrize(("levels", "variables"), [(2, 3), (5, 1), (10, 3)])
def test_the_bounds_are_sums_over_all_codes(levels, variables):
    vae, x = small(levels=levels, variables=variables), data(4)
    _, log_w, log_q = weights(vae, x)
    found = log_marginal(vae.model, vae.guide, x, num_particles=7)
    log_p = (log_w + log_q).logsumexp(0)
    torch.testing.assert_close(found.values, log_p.detach(), rtol=0, atol=1e-10)
    assert not found.standard_errors.any()
    bound = (log_q.exp() * log_w).sum(0)
    assert elbo(vae.model, vae.guide, x).elbo == pytest.approx(bound.mean().item())
    assert (found.elbo <= found.values).all()
    for objective, truth in (
        (ELBO(num_particles=3), bound),
        (MeanFieldELBO(), bound),
        (IWAE(num_particles=4), log_p),
        (MIWAE(groups=2, num_particles=4), log_p),
    ):
        t = objective.terms_of(vae.model, vae.guide, x)
        assert len(t.log_weight) == levels**variables  # nothing is drawn
        torch.testing.assert_close(objective.bound(t), truth)
        ours, theirs = gradient(objective.loss_of(t), vae), gradient(-truth.sum(), vae)
        torch.testing.assert_close(ours, theirs)


def test_a_vamp_prior_of_codes_is_a_mixture_of_products():
    torch.manual_seed(0)
    vae = build(
        Spec((DATA,), 6, "vampprior(pseudo_inputs=4)", guide="categorical(levels=3)")
    ).double()
    x = data(3)
    inputs = vae.model.prior.pseudo_inputs
    parts = OneHots(vae.guide.head(vae.guide.encoder(inputs)).unflatten(-1, (2, 3)))
    z = parts.enumerate_support(expand=False)
    log_pz = parts.log_prob(z).logsumexp(-1) - math.log(4)
    log_px = vae.decode(z).log_prob(x)
    truth = (log_pz[:, None] + log_px).logsumexp(0)
    found = log_marginal(vae.model, vae.guide, x, num_particles=1)
    torch.testing.assert_close(found.values, truth.detach(), rtol=0, atol=1e-10)


def test_many_codes_are_weighed_and_reach_the_sum():
    """The same pair, drawn: the estimate within its errors."""
    vae, x = small(levels=3, variables=2, enumerate=False), data(4)
    _, log_w, log_q = weights(vae, x)
    truth = (log_w + log_q).logsumexp(0).detach()
    torch.manual_seed(0)
    found = log_marginal(vae.model, vae.guide, x, num_particles=20_000)
    assert ((found.values - truth).abs() < 4.5 * found.standard_errors).all()
    assert found.standard_errors.all()


# --- gradients by the score function, over all draws


def over_all_draws(vae, x, objective, monkeypatch):
    """The expectation of an objective's gradient: a sum over every draw that all particles can make."""
    z, _, log_q = weights(vae, x)
    z, k = z.squeeze(1), objective.num_particles
    total = 0.0
    for drawn in itertools.product(range(len(z)), repeat=k * len(x)):
        which = torch.tensor(drawn).view(k, len(x))
        value = z[which]
        monkeypatch.setattr(
            OneHots, "draw", lambda self, shape, v=value: v.expand(shape)
        )
        t = objective.terms_of(vae.model, vae.guide, x)
        assert torch.equal(t.sites["z"].value, value)
        log_prob = log_q.gather(0, which).sum().detach()
        total = total + log_prob.exp() * gradient(objective.loss_of(t), vae)
    return total


def expected_loss(vae, x, objective):
    """`-E[bound]`, a sum over every draw of one datum's particles, differentiable."""
    z, log_w, log_q = weights(vae, x)
    log_pz = OneHots(vae.model.prior.logits).log_prob(z)
    k, total = objective.num_particles, 0.0
    for drawn in itertools.product(range(len(log_w)), repeat=k):
        which = torch.tensor(drawn)
        t = terms(vae.model, vae.guide, x, num_particles=k)._replace(
            log_px=(log_w + log_q - log_pz)[which],
            log_pz=log_pz.expand_as(log_w)[which],
            log_qz=log_q[which],
        )
        total = total + (log_q[which].sum(0).exp() * objective.bound(t)).sum()
    return -total


@pytest.mark.parametrize(
    ("objective", "n"),
    [
        (ELBO(), 1),
        (ELBO(), 2),
        (ELBO(beta=2.0), 2),
        (ELBO(num_particles=3), 1),
        (IWAE(num_particles=3), 1),
        (IWAE(num_particles=1), 2),
        (VIMCO(num_particles=2), 1),
        (VIMCO(num_particles=3), 1),
        (MIWAE(groups=2, num_particles=4), 1),
        (CIWAE(num_particles=2), 1),
        (Renyi(num_particles=2), 1),
    ],
    ids=lambda o: (
        f"{type(o).__name__}-{o.num_particles}" if isinstance(o, Objective) else o
    ),
)
def test_score_function_gradients_are_unbiased(objective, n, monkeypatch):
    vae, x = small(enumerate=False), data(n)
    ours = over_all_draws(vae, x, objective, monkeypatch)
    truth = gradient(expected_loss(vae, x, objective), vae)
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)
    assert truth.abs().max() > 0.1


def test_mean_field_elbo_of_draws_is_unbiased(monkeypatch):
    vae, x = small(enumerate=False), data(1)
    _, log_w, log_q = weights(vae, x)
    truth = gradient(-(log_q.exp() * log_w).sum(), vae)
    for objective in (MeanFieldELBO(), MeanFieldELBO(num_particles=2)):
        ours = over_all_draws(vae, x, objective, monkeypatch)
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)


def test_vimco_is_the_formula_of_its_paper():
    """Equation 10 of Mnih & Rezende 2016, written out, on one set of draws."""
    vae, x = small(levels=3, enumerate=False), data(4)
    objective = VIMCO(num_particles=4)
    torch.manual_seed(0)
    t = objective.terms_of(vae.model, vae.guide, x)
    log_w, k = t.log_weight, 4
    bound = log_w.logsumexp(0) - math.log(4)
    written = bound.sum()
    for j in range(k):
        others = torch.stack([log_w[i] for i in range(k) if i != j])
        stand_in = torch.cat([others, others.mean(0, keepdim=True)])
        without = stand_in.logsumexp(0) - math.log(4)
        written = written + ((bound - without).detach() * t.log_qz[j]).sum()
    ours = gradient(objective.loss_of(t), vae)
    torch.testing.assert_close(ours, gradient(-written, vae))
    torch.testing.assert_close(ours, gradient(IWAE(num_particles=4).loss_of(t), vae))


def spread(vae, x, objective, n=2000):
    """The summed variance of the guide's gradient of a single datum."""
    head, found = [vae.guide.head.weight, vae.guide.head.bias], []
    torch.manual_seed(0)
    for _ in range(n):
        loss = objective.loss_of(objective.terms_of(vae.model, vae.guide, x))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, head)]))
    return torch.stack(found).var(0).sum().item()


class Plain(ELBO):
    """The score function without a baseline."""

    by_particle = False


def test_baselines_take_most_of_the_noise():
    vae, x = small(levels=3, enumerate=False), data(3)
    plain = spread(vae, x, Plain(num_particles=4))
    assert spread(vae, x, ELBO(num_particles=4)) < 0.5 * plain
    assert spread(vae, x, ELBO()) < spread(vae, x, Plain())


def test_a_particle_that_is_impossible_leaves_the_others_a_gradient():
    vae, x = small(enumerate=False), data(2)
    objective = IWAE(num_particles=3)
    t = objective.terms_of(vae.model, vae.guide, x)
    hit = torch.zeros_like(t.log_px, dtype=torch.bool)
    hit[0, 0] = hit[1, 1] = hit[2, 1] = True
    t = t._replace(log_px=t.log_px.masked_fill(hit, -torch.inf))
    assert gradient(objective.loss_of(t), vae).isfinite().all()


# --- straight through


def test_the_straight_through_gradient_is_that_of_its_definition():
    """One variable of two values: the noise of their difference is logistic, and the mean gradient an integral."""
    vae, x = small(levels=2, variables=1, enumerate=False), data(1)
    objective = GumbelSoftmax(start=0.8, beta=1.5)
    head = [vae.guide.head.weight, vae.guide.head.bias]
    repeated = x.expand(4000, -1)
    torch.manual_seed(0)
    found = []
    for _ in range(50):
        loss = objective.loss_of(objective.terms_of(vae.model, vae.guide, repeated))
        grads = torch.autograd.grad(loss / len(repeated), head)
        found.append(torch.cat([g.flatten() for g in grads]))
    found = torch.stack(found)

    logits = vae.guide.head(vae.guide.encoder(x))
    gap = (logits[0, 0] - logits[0, 1]).detach().requires_grad_()
    u = (torch.arange(200_000).double() + 0.5) / 200_000
    noise = (u / (1 - u)).log()
    hard = ((gap + noise) > 0).double().detach()
    z = torch.stack([hard, 1 - hard], -1).requires_grad_()
    log_px = vae.decode(z).log_prob(x)
    slopes = torch.autograd.grad(log_px.sum(), z)[0]
    soft = ((gap + noise) / 0.8).sigmoid()
    relaxed = torch.stack([soft, 1 - soft], -1)
    d_gap = torch.autograd.grad((slopes * relaxed).sum(-1).mean(), gap)[0]
    q, p = OneHots(logits.unflatten(-1, (1, 2))), OneHots(vae.model.prior.logits)
    kl = torch.distributions.kl_divergence(q, p.expand((1,))).sum()
    surrogate = -d_gap * (logits[0, 0] - logits[0, 1]) + 1.5 * kl
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, head)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - truth).abs() < 4.5 * error + 1e-9).all()
    assert truth.abs().max() > 0.1


def test_every_number_of_a_relaxed_objective_is_of_codes():
    vae, x = small(levels=3, enumerate=False), data(6)
    objective = GumbelSoftmax(start=2.0, num_particles=4)
    t = objective.terms_of(vae.model, vae.guide, x)
    z = t.sites["z"].value
    assert z.requires_grad
    assert vae.model.prior().support.check(z).all()
    again = terms(vae.model, vae.guide, x, num_particles=4)
    assert not again.sites["z"].value.requires_grad
    score = vae.model.log_prob({"x": x, "z": z}) - vae.guide.at("z", x).log_prob(z)
    torch.testing.assert_close(t.log_weight, score)


def test_the_temperature_falls_and_then_stays():
    objective = GumbelSoftmax(start=2.0, end=0.5, epochs=10)
    annealed = Annealed(objective=objective, epochs=5)
    for epoch, truth in ((0, 2.0), (5, 1.0), (10, 0.5), (40, 0.5)):
        annealed.advance(epoch)
        assert objective.temperature.item() == pytest.approx(truth)
    vae, x = small(enumerate=False), data(2)
    assert annealed.terms_of(vae.model, vae.guide, x).sites["z"].value.requires_grad


# --- what does not fit


REFUSED = [
    (
        "standardnormal",
        "categorical(levels=2)",
        "elbo",
        "StandardNormal is a density of reals",
    ),
    ("categorical(levels=2)", "fullrank", "elbo", "FullRank draws reals"),
    ("categorical(levels=2)", "local", "elbo", "Local draws reals"),
    ("categorical(levels=2)", "categorical(levels=3)", "elbo", "the same levels"),
    (
        "categorical(levels=4)",
        "categorical(levels=4)",
        "elbo",
        "must be a multiple of 4",
    ),
    ("categorical(levels=1)", "categorical", "elbo", "at least 2"),
    ("categorical", "semiamortized(guide=categorical)", "elbo", "carry gradients"),
    ("categorical", "categorical", "vimco", "are enumerated instead"),
    ("categorical", "categorical", "gumbelsoftmax", "are enumerated instead"),
    ("standardnormal", "meanfield", "vimco", "VIMCO is for draws that carry no"),
    ("standardnormal", "meanfield", "gumbelsoftmax", "latents of one-hot codes"),
    ("categorical", "categorical(enumerate=False)", "stl", "needs draws that carry"),
    (
        "vampprior(pseudo_inputs=2)",
        "categorical(enumerate=False)",
        "gumbelsoftmax",
        "closed form",
    ),
]


@pytest.mark.parametrize(("prior", "guide", "objective", "sentence"), REFUSED)
def test_what_does_not_fit_is_one_sentence(prior, guide, objective, sentence):
    why = problem(Spec((DATA,), 6, prior, guide=guide), objective)
    assert why is not None
    assert sentence in why
    assert "\n" not in why
    assert len(why) < 220


def test_a_single_value_is_no_variable():
    with pytest.raises(InputError, match="latent_dim of 2 or more"):
        priors.Categorical(1)


@pytest.mark.parametrize(
    "name", [n for n, c in variants(Objective).items() if c.takes_shares]
)
def test_every_objective_of_shares_takes_codes(name):
    vae, x = small(levels=3), data(4)
    objective = variants(Objective)[name]()
    t = objective.terms_of(vae.model, vae.guide, x)
    learns = gradient(objective.loss_of(t), vae)[-len(vae.guide.head.bias) :]
    if objective.needs_draws:
        assert learns.abs().max() < 1e-9
        with pytest.raises(InputError, match="guide would learn nothing"):
            objective.check(t)
    else:
        assert learns.abs().max() > 1e-3
        objective.check(t)
    assert objective.bound(t).isfinite().all()
    assert gradient(objective.loss_of(t), vae).isfinite().all()


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("objective", [DReG(), PIWAE(groups=2, num_particles=4)])
def test_gradients_of_other_estimators_are_those_of_the_sum(objective, weight):
    """With nothing drawn all of them differentiate the same sum, under a weighed KL too."""
    vae, x = small(levels=3), data(4)
    t = terms(vae.model, vae.guide, x)._replace(kl_weight=weight)
    ours = gradient(objective.loss_of(t), vae)
    torch.testing.assert_close(ours, gradient(IWAE().loss_of(t), vae))


def test_wake_sleep_takes_draws_of_codes():
    vae, x = small(levels=3, enumerate=False), data(4)
    objective = ReweightedWakeSleep(num_particles=3)
    t = objective.terms_of(vae.model, vae.guide, x)
    objective.check(t)
    assert gradient(objective.loss_of(t), vae).isfinite().all()


# --- one variable and a linear decoder: a mixture of Bernoullis


def em(x, means, weights, steps=1000):
    """A mixture of Bernoullis by expectation maximisation: its mean log-likelihood in nats per datum."""
    for _ in range(steps):
        means = means.clamp(1e-12, 1 - 1e-12)
        log_px = x @ means.log().T + (1 - x) @ (1 - means).log().T + weights.log()
        shares = log_px.softmax(1)
        weights = shares.mean(0)
        means = shares.T @ x / shares.sum(0)[:, None]
    return log_px.logsumexp(1).mean().item()


def mixture_data(n=1000, dims=10, classes=3):
    torch.manual_seed(0)
    means = 0.1 + 0.8 * torch.rand(classes, dims).double()
    return means[torch.arange(n) % classes].bernoulli()


def test_the_trained_pair_is_the_mixture_that_em_finds():
    """The posterior of such a mixture is a softmax of a linear map of x, so that a linear guide is exact."""
    classes, x = 3, mixture_data()
    dims = x.shape[1]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        vae = VAE(
            priors.Categorical(classes),
            MLP((classes,), (1, dims), hidden=()),
            Bernoulli((dims,)),
            guides.Categorical(MLP((dims,), hidden=()), classes),
        ).double()
        torch.nn.init.normal_(vae.model.decoder.layers[0].weight)
        objective = ELBO()
        optimizer = torch.optim.LBFGS(
            vae.parameters(),
            max_iter=1500,
            tolerance_grad=1e-9,
            tolerance_change=1e-13,
            history_size=30,
            line_search_fn="strong_wolfe",
        )

        def closure(vae=vae, optimizer=optimizer, objective=objective):
            optimizer.zero_grad()
            loss = objective.differentiable_loss(vae.model, vae.guide, x) / len(x)
            loss.backward()
            return loss

        optimizer.step(closure)
        result = log_marginal(vae.model, vae.guide, x)
        assert result.mean - result.elbo.mean().item() < 1e-3  # the guide is exact
        found.append(result.mean)

        # From there EM has nothing to add.
        means = vae.decode(torch.eye(classes).double()).mean.detach()
        weights = vae.model.prior().probs[0].detach()
        assert em(x, means, weights) == pytest.approx(result.mean, abs=1e-3)
    starts = [torch.rand(classes, dims).double() for _ in range(10)]
    best = max(em(x, m, torch.full((classes,), 1 / classes).double()) for m in starts)
    assert max(found) == pytest.approx(best, abs=1e-3)
