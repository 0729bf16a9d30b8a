"""Pairs with a real target y beside z: against linear models, whose densities are known."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Gaussian,
    Guide,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    Targets,
    annealed_importance_sampling,
    build,
    elbo,
    fit,
    inference_gaps,
    latent_health,
    load,
    log_marginal,
    log_marginal_adaptive,
    log_marginal_refined,
    save,
    terms,
    variants,
)
from pyro_vae.data.inputs import as_data
from pyro_vae.evaluation.targets import (
    Prediction,
    Predictions,
    Regressed,
    regress,
)
from pyro_vae.inference.objectives import Objective
from pyro_vae.networks import Linear

REFUSED = ("Exact", "Moved")  # with a real y
GUIDES = [g for n, g in variants(Guide).items() if not g.discrete and n not in REFUSED]
DIMS, LATENT, ROWS = 4, 2, 7
SCALE, MEAN, STD = 2.0, 150.0, 70.0
X = torch.randn(ROWS, DIMS, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.tensor([100.0, math.nan, 250.0, 3.5, math.nan, math.nan, 160.0]).double()
KNOWN = ~LABELS.isnan()


def linear(weight=0.0, guide=MeanField, condition=0, scale=SCALE):
    """`N(y; 0, 1) N(z; 0, I) N(x; W z + v y + b, 2^2)` in float64, labels y in units of 70 around 150."""
    torch.manual_seed(0)
    context = 1 + condition
    decoder = Linear((LATENT,), (1, DIMS), context=context)
    regressor = MLP((DIMS,), hidden=(8,), context=condition)
    targets = Targets(regressor, mean=MEAN, std=STD, weight=weight)
    encoder = MLP((DIMS,), hidden=(8,), context=context)
    vae = VAE(
        StandardNormal(LATENT),
        decoder,
        Gaussian((DIMS,), scale=scale),
        guide(encoder, LATENT),
        classes=targets,
    ).double()
    head = getattr(vae.guide, "head", None)
    if head is not None:  # as wide as the prior, so that weights have a small spread
        with torch.no_grad():
            head.bias[LATENT:] = 0.0
    return vae


def parts(vae):
    """W, v and b of the decoder."""
    decode = vae.model.decoder
    with torch.no_grad():

        def at(z, y):
            return decode(z.double(), y.double()).squeeze(0)

        none = torch.zeros(1, LATENT), torch.zeros(1, 1)
        b = at(*none)
        w = torch.cat([at(e[None], none[1]) - b for e in torch.eye(LATENT)]).T
        v = (at(none[0], torch.ones(1, 1)) - b)[0]
    return w, v, b[0]


def truth(vae, x, labels=None):
    """`log p(x)`, and of data with a label `log p(x, label)`: y and z integrated out by hand."""
    w, v, b = parts(vae)
    noise = vae.model.likelihood.scale**2 * torch.eye(DIMS).double()
    alone = dist.MultivariateNormal(b, w @ w.T + torch.outer(v, v) + noise).log_prob(x)
    if labels is None:
        return alone
    y = (labels.nan_to_num() - MEAN) / STD
    p = dist.MultivariateNormal(y[:, None] * v + b, w @ w.T + noise)
    of_label = dist.Normal(MEAN, STD).log_prob(labels.nan_to_num())
    return torch.where(labels.isnan(), alone, p.log_prob(x) + of_label)


def posterior(vae, x):
    """`p(y|x)`, and `p(z|x,y)` as a function of y, by the rules for Gaussians."""
    w, v, b = parts(vae)
    noise = w @ w.T + SCALE**2 * torch.eye(DIMS).double()
    of_x = torch.linalg.solve(noise, v)
    variance = 1 / (1 + v @ of_x)
    q_y = dist.Normal(variance * (x - b) @ of_x, variance.sqrt())
    precision = torch.eye(LATENT).double() + w.T @ w / SCALE**2

    def of_z(y):
        left = x - b - y.unsqueeze(-1) * v
        loc = torch.linalg.solve(precision, w.T) @ left.unsqueeze(-1) / SCALE**2
        return dist.MultivariateNormal(loc.squeeze(-1), precision_matrix=precision)

    return q_y, of_z


def exact():
    """With the posterior of the linear model as its guide."""
    vae = linear()
    vae.guide.classifier.forward = lambda x: posterior(vae, x)[0]
    vae.guide.given_class = lambda x, y: posterior(vae, x)[1](y)
    return vae


def near(result, wanted, most=0.1):
    """Whether estimates of few data are as near to the truth as their errors say, which are small."""
    assert result.standard_errors.max() < most / 2
    errors = (result.values - wanted) / result.standard_errors.clamp_min(most / 15)
    return errors.abs().max() < 5


ESTIMATES = {
    "plain": lambda vae, x: log_marginal(vae.model, vae.guide, x, num_particles=40_000),
    "refined": lambda vae, x: log_marginal_refined(vae, x, num_particles=5000),
    "adaptive": lambda vae, x: log_marginal_adaptive(vae, x, num_particles=5000)[0],
    "annealed": lambda vae, x: annealed_importance_sampling(
        vae.model, x, num_chains=64, num_temperatures=80, leapfrogs=6, compile=False
    ),
}


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
@pytest.mark.parametrize("labels", [False, True])
def test_every_estimator_integrates_over_the_target(estimate, labels):
    """In a batch where some targets are missing each datum has its own density, `log p(x)` or `log p(x, label)`."""
    vae = linear()
    data = {"x": X, "y": LABELS} if labels else X
    wanted = truth(vae, X, LABELS if labels else None)
    assert near(estimate(vae, data), wanted, most=0.6)


def test_each_weight_is_the_truth_where_the_guide_is_the_posterior():
    """With `q(y|x) = p(y|x)` and `q(z|x,y) = p(z|x,y)` a weight is p(x), and of a labelled datum p(x, label)."""
    vae = exact()
    for labels in (None, LABELS):
        data = X if labels is None else {"x": X, "y": labels}
        t = terms(vae.model, vae.guide, as_data(vae.model, data)[:], num_particles=5)
        wanted = truth(vae, X, labels).expand(5, -1)
        assert torch.allclose(t.log_weight, wanted, atol=1e-9)


def test_hard_data_are_weighed_by_draws_of_the_prior_too():
    """A guide that is far too narrow: refined, and defended at both latents, log p(x, label) is right."""
    vae = linear(scale=0.5)
    with torch.no_grad():
        vae.guide.head.bias[LATENT:] = -3.0
    data = {"x": X, "y": LABELS}
    found, roads = log_marginal_adaptive(vae, data, num_particles=5000)
    refined = roads.road == 2
    assert refined.any()
    errors = (found.values - truth(vae, X, LABELS))[refined]
    assert (errors.abs() < 5 * found.standard_errors[refined] + 0.02).all()
    assert (found.standard_errors[refined] < 0.1).all()


# Those that look at each latent by itself, or take codes alone.
REFUSING = {"BetaTC", "FreeBits", "DReG", "PIWAE", "STL", "ReweightedWakeSleep"}
REFUSING |= {"Autoencoder", "GumbelSoftmax", "VIMCO"}
OBJECTIVES = [o for name, o in sorted(variants(Objective).items()) if name != "Subsets"]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.__name__)
def test_every_objective_takes_targets_or_says_why_not(objective):
    vae = linear(weight=3.0)
    data = as_data(vae.model, {"x": X, "y": LABELS})[:]
    svi = SVI(vae.model, vae.guide, partial(torch.optim.Adam, lr=1e-3), objective())
    if objective.__name__ in REFUSING:
        with pytest.raises(InputError, match=r"site 'y'|'z' depends on 'y'"):
            svi.step(data)
        return
    before = [p.clone() for p in vae.parameters()]
    assert svi.step(data).isfinite()
    for old, new in zip(before, vae.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.__name__)
def test_every_guide_takes_targets(guide):
    """A step and an estimate with targets that some data have; a guide that cannot says so."""
    vae = linear(weight=1.0, guide=guide)
    data = {"x": X, "y": LABELS}
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-3), ELBO())
    assert svi.step(as_data(vae.model, data)[:]).isfinite()
    if vae.guide.has_density:
        found = log_marginal(vae.model, vae.guide, data, num_particles=200).values
        assert (found < truth(vae, X, LABELS) + 1).all()


def test_the_loss_and_its_gradient_are_those_of_pyro():
    """With targets that some data have, at the same draws; the term of q(y|x) is in both."""
    vae = linear(weight=3.0)
    data = as_data(vae.model, {"x": X, "y": LABELS})[:]

    def of(loss):
        torch.manual_seed(3)
        vae.zero_grad()
        value = loss.loss_and_grads(vae.model, vae.guide, data)
        return value, [p.grad.clone() for p in vae.parameters()]

    _, gradients = of(ELBO())
    _, others = of(Trace_ELBO())
    for g, other in zip(gradients, others, strict=True):
        assert torch.allclose(g, other, atol=1e-10)


def test_the_term_of_targets_moves_the_regressor_alone():
    """`alpha log q(y|x)` is in the objective and in no density: the weights are the same whatever alpha is."""
    data = {"x": X, "y": LABELS}
    found = {}
    for weight in (0.0, 2.0):
        vae = linear(weight=weight)
        torch.manual_seed(0)
        batch = as_data(vae.model, data)[:]
        t = terms(vae.model, vae.guide, batch, num_particles=2)
        (-t.log_weight.mean()).backward()
        found[weight] = t
    assert torch.equal(found[0.0].log_weight, found[2.0].log_weight)
    q = vae.predict(X)
    log_q = dist.Normal(*q.T).log_prob(LABELS.nan_to_num()) + math.log(STD)
    assert found[0.0].aim is None
    assert torch.allclose(found[2.0].aim, torch.where(KNOWN, 2 * log_q, 0.0))


def test_the_density_counts_in_the_unit_of_the_labels():
    """The same labels in other units: log p(x, label) less the logarithm of the unit for each that is known."""
    vae, other = linear(), linear()
    other.model.class_prior.units.mean.fill_(MEAN * 1000)
    other.model.class_prior.units.std.fill_(STD * 1000)
    other.model.class_prior.count_in(0.0)
    logs = []
    for pair, labels in ((vae, LABELS), (other, LABELS * 1000)):
        torch.manual_seed(0)
        batch = as_data(pair.model, {"x": X, "y": labels})[:]
        logs.append(terms(pair.model, pair.guide, batch).log_weight[0])
    assert torch.allclose(logs[0] - logs[1], math.log(1000) * KNOWN.double())


def test_predictions_are_those_of_the_rules_for_gaussians():
    """E[y|x], its deviation, log p(label|x) and its rank, by weighted draws of a guide that is wrong."""
    vae, y = exact(), (LABELS - MEAN) / STD
    q, _ = posterior(vae, X)
    wrong = dist.Normal(q.loc.detach() + 0.5, 1.5 * q.scale.detach())
    vae.guide.classifier.forward = lambda x: wrong
    found = regress(vae, X, y, num_particles=40_000)
    assert torch.allclose(found.model.mean, q.loc.detach(), atol=0.05)
    assert torch.allclose(found.model.std, q.scale.detach(), atol=0.05)
    log_p = q.log_prob(y.nan_to_num()).detach() - math.log(STD)
    assert (found.model.log_density - log_p)[KNOWN].abs().max() < 0.1
    assert (found.model.rank - q.cdf(y.nan_to_num()))[KNOWN].abs().max() < 0.03
    assert (found.log_joint - truth(vae, X, LABELS))[KNOWN].abs().max() < 0.05
    assert found.log_joint[~KNOWN].isnan().all()
    stored = vae.predict(X)
    assert torch.allclose(stored[:, 0], MEAN + STD * found.guide.mean)
    assert torch.allclose(stored[:, 1], STD * found.guide.std)
    log_q = dist.Normal(*stored.T).log_prob(LABELS.nan_to_num())
    assert torch.allclose(found.guide.log_density[KNOWN], log_q[KNOWN])
    known = vae.predict(X, LABELS)
    assert torch.allclose(known[KNOWN, 0], LABELS[KNOWN])
    assert (known[KNOWN, 1] == 0).all()


def test_errors_and_coverage_are_those_by_hand():
    """Against scikit-learn, and the errors of the errors against resampling."""
    torch.manual_seed(0)
    y = torch.randn(400).double()
    mean = y + 0.5 * torch.randn(400).double()
    std = torch.full_like(y, 0.5)
    rank = dist.Normal(mean, std).cdf(y)
    one = Prediction(mean, std, dist.Normal(mean, std).log_prob(y), rank)
    found = Regressed(Predictions(one, one, y), y)
    rows = found.errors(one)
    assert rows["RMSE"]["value"] == pytest.approx(root_mean_squared_error(y, mean))
    assert rows["MAE"]["value"] == pytest.approx(mean_absolute_error(y, mean))
    assert rows["R²"]["value"] == pytest.approx(r2_score(y, mean))
    drawn = torch.randint(400, (2000, 400))
    left, of_y = (y - mean)[drawn], y[drawn]
    mse, spread = left.square().mean(1), of_y.var(1, correction=0)
    for name, values in {
        "RMSE": mse.sqrt(),
        "MAE": left.abs().mean(1),
        "R²": 1 - mse / spread,
    }.items():
        assert rows[name]["error"] == pytest.approx(values.std().item(), rel=0.1)
    for level, reach in ((0.5, 0.6744898), (0.9, 1.6448536)):
        inside = ((y - mean).abs() <= reach * std).double().mean().item()
        assert found.coverage(one, level).mean == pytest.approx(inside)


def test_a_linear_regression_is_found():
    """Where all labels are known q(y|x) is the regression of scikit-learn, and what is left its deviation."""
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    labels = 20 + x @ torch.tensor([3.0, -2.0, 0.5]) + torch.randn(200)
    wanted = LinearRegression().fit(x, labels).predict(x)
    encoder, decoder = Linear((3,), context=1), Linear((1,), (1, 3), context=1)
    vae = VAE(
        StandardNormal(1),
        decoder,
        Gaussian((3,)),
        MeanField(encoder, 1),
        classes=Targets(Linear((3,)), weight=1.0),
    )
    data = {"x": x, "y": labels}
    fit(vae, data, epochs=0)
    batch = as_data(vae.model, data)[:]
    steps = torch.optim.LBFGS(vae.guide.classifier.parameters(), max_iter=50)

    def loss():
        torch.manual_seed(0)
        steps.zero_grad()
        value = ELBO().differentiable_loss(vae.model, vae.guide, batch)
        value.backward()
        vae.guide.classifier.head.weight.grad[1] = 0.0  # one deviation for all
        return value

    steps.step(loss)
    units = vae.model.class_prior.units
    assert float(units.mean) == pytest.approx(labels.mean().item(), rel=1e-5)
    mean, std = vae.predict(x).T
    assert (mean - torch.from_numpy(wanted)).abs().max() < 0.05
    left = (labels - torch.from_numpy(wanted)).std(correction=0).item()
    assert std.mean().item() == pytest.approx(left, rel=0.1)


def test_draws_have_the_target_that_is_asked_for():
    """Given a label the mean of x is `v y + b`; without one labels are drawn from N(150, 70^2)."""
    vae, n = linear(), 20_000
    torch.manual_seed(0)
    _, v, b = parts(vae)
    y = (290.0 - MEAN) / STD
    assert torch.allclose(vae.sample(n, 290.0).mean(0), b + v * y, atol=0.1)
    assert torch.allclose(vae.sample(n).mean(0), b, atol=0.1)
    variance = (vae.sample(n).var(0) - vae.sample(n, 290.0).var(0)).clamp_min(0)
    assert torch.allclose(variance, v.square(), atol=0.3)
    assert vae.sample(3, torch.tensor([10.0, 20.0, 30.0])).shape == (3, DIMS)


def test_the_mixture_of_the_guide_is_its_marginal():
    """`q(z|x)` is the integral over y, here of a linear encoder: its mean and variance by the rules for Gaussians."""
    vae = exact()
    q_y, of_z = posterior(vae, X)
    vae.guide.parameters_given = lambda x, c: torch.cat(
        [of_z(c[..., 0]).mean, 0 * of_z(c[..., 0]).mean - 1.0], -1
    )
    mixture = vae.encode(X)
    slope = of_z(q_y.loc + 1).mean - of_z(q_y.loc).mean
    variance = math.exp(-2) + slope.square() * q_y.variance.unsqueeze(-1)
    assert torch.allclose(mixture.mean, of_z(q_y.loc).mean)
    assert torch.allclose(mixture.variance, variance)
    known = vae.encode(X, LABELS)
    point = of_z((LABELS.nan_to_num() - MEAN) / STD).mean
    assert torch.allclose(known.mean[KNOWN], point[KNOWN])
    assert torch.allclose(known.variance[KNOWN], torch.tensor(math.exp(-2)).double())


def test_another_target_is_another_datum():
    """`reconstruct(to=...)` decodes the same z with another y, as by hand."""
    vae = linear()
    data = {"x": X, "c": LABELS.nan_to_num(100.0)}
    made = []
    for to in (None, 220.0):
        torch.manual_seed(0)
        made.append(vae.reconstruct(data["x"], data["c"], to=to))
    _, v, _ = parts(vae)
    moved = (220.0 - data["c"]) / STD
    assert torch.allclose(made[1] - made[0], moved[:, None] * v)


def test_every_question_is_that_of_the_integral():
    vae = linear()
    wanted = truth(vae, X).mean().item()
    assert elbo(vae.model, vae.guide, X, num_particles=500).elbo < wanted
    gaps = inference_gaps(vae, X, num_particles=2000, steps=20)
    assert abs(gaps.log_marginal.mean - wanted) < 0.2
    health = latent_health(vae.model, vae.guide, X)
    (of_y,) = health.others
    q = dist.Normal(*((vae.predict(X) - torch.tensor([MEAN, 0.0])) / STD).T)
    kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))
    assert of_y.kl.mean == pytest.approx(kl.mean().item())


def test_with_a_condition_both_are_read():
    """`p(x|z,y,c)`: c stands behind the label, and a label may be unknown beside it."""
    vae = linear(condition=2)
    c = torch.randn(ROWS, 2).double()
    both = as_data(vae.model, {"x": X, "y": LABELS, "c": c})[:]
    assert torch.equal(both["c"][:, 1:], c)
    assert torch.equal(both["c"][:, 0].isnan(), ~KNOWN)
    alone = as_data(vae.model, {"x": X, "c": c})[:]
    assert alone["c"][:, 0].isnan().all()
    assert terms(vae.model, vae.guide, alone).log_px.shape == (1, ROWS)
    found = regress(vae, {"x": X, "c": c}, (LABELS - MEAN) / STD, num_particles=10)
    assert found.model.mean.isfinite().all()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([math.inf] + [0.0] * 6), "y is infinite for datum 0"),
        (torch.zeros(7, 2), r"give a number for each datum, \(N,\)"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(labels, sentence):
    vae = linear()
    with pytest.raises(InputError, match=sentence):
        log_marginal(vae.model, vae.guide, {"x": X, "y": labels})
    with pytest.raises(InputError, match="the decoder reads the target"):
        vae.decode(torch.zeros(2, LATENT))
    with pytest.raises(InputError, match="must be finite, and std positive"):
        Targets(MLP((4,)), std=0.0)


@pytest.mark.slow
def test_compiled_steps_are_the_same():
    losses = []
    for compiled in (False, True):
        vae = linear(weight=3.0).float()
        optimizer = partial(torch.optim.Adam, lr=1e-2)
        svi = SVI(vae.model, vae.guide, optimizer, ELBO(), compile=compiled)
        torch.manual_seed(0)
        data = as_data(vae.model, {"x": X, "y": LABELS})[:]
        losses.append(torch.stack([svi.step(data) for _ in range(5)]))
        assert svi.compiled == compiled
    assert torch.allclose(*losses, rtol=1e-4)


def test_a_pair_with_a_target_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    spec = Spec((4,), 2, structure="labelled(target='real')", context=1)
    vae = build(spec)
    vae.meet_labels(LABELS)
    save(vae, tmp_path / "vae.safetensors")
    again = load(tmp_path / "vae.safetensors")
    x = torch.ones(2, 4)
    assert torch.equal(vae.predict(x), again.predict(x))
    assert again.model.class_prior.log_unit == vae.model.class_prior.log_unit
