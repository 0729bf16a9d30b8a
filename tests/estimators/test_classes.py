"""Pairs with a class y beside z: against linear models, whose densities are known, and against Pyro."""

import math
import warnings
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyro_vae import (
    ELBO,
    IWAE,
    MLP,
    SVI,
    VAE,
    Classes,
    Gaussian,
    Guide,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
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
from pyro_vae.data.inputs import as_data, beside_condition
from pyro_vae.evaluation.carried import Carried
from pyro_vae.evaluation.classes import Classified, classify
from pyro_vae.inference.objectives import STL, DReG
from pyro_vae.inference.seeking import steps_of_labels
from pyro_vae.models.conditionals import Local
from pyro_vae.models.priors import Conditional
from pyro_vae.networks import Linear

GUIDES = [g for n, g in variants(Guide).items() if not g.discrete and n != "Moved"]
CLASSES, DIMS, LATENT, ROWS = 3, 4, 2, 7
SCALE = 0.6
X = torch.randn(ROWS, DIMS, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.tensor([0, -1, 2, 1, -1, -1, 0])


def labelled(weight=0.0, guide=MeanField, condition=0):
    """`p(y) N(z; 0, I) N(x; W z + V y, 0.6^2)` in float64: M2 with a linear decoder."""
    torch.manual_seed(0)
    context = CLASSES + condition
    decoder = Linear((LATENT,), (1, DIMS), context=context)
    classifier = MLP((DIMS,), hidden=(8,), context=condition)
    classes = Classes(CLASSES, classifier, weight=weight, uniform=False)
    encoder = MLP((DIMS,), hidden=(8,), context=context)
    likelihood = Gaussian((DIMS,), scale=SCALE)
    vae = VAE(
        StandardNormal(LATENT),
        decoder,
        likelihood,
        guide(encoder, LATENT),
        classes=classes,
    ).double()
    with torch.no_grad():
        vae.model.class_prior.logits.copy_(torch.tensor([0.3, -0.5, 0.2]))
    return widened(vae)


@torch.no_grad()
def widened(vae):
    """With q(z|x,y) as wide as the prior, so that weights have a small spread."""
    head = getattr(vae.guide, "head", None)
    if head is not None:
        head.bias[LATENT:] = 0.0
    return vae


def clusters():
    """`p(y) N(z; m_y, s_y^2) N(x; W z, 0.6^2)`: a mixture of Gaussians in a plane."""
    torch.manual_seed(0)
    prior = Conditional(LATENT, hidden=(), context=CLASSES)
    with torch.no_grad():
        prior.network.layers[0].weight.mul_(10)
    classes = Classes(CLASSES, MLP((DIMS,), hidden=(8,)), of=("z",))
    vae = VAE(
        prior,
        Linear((LATENT,), (1, DIMS)),
        Gaussian((DIMS,), scale=SCALE),
        MeanField(MLP((DIMS,), hidden=(8,), context=CLASSES), LATENT),
        classes=classes,
    )
    return widened(vae.double())


def each_class(vae, x):
    """`log p(x, y)` in closed form, `(N, CLASSES)`."""
    y = torch.arange(CLASSES)
    c = torch.eye(CLASSES).double()
    prior = vae.model.prior(c) if vae.model.of_z.y else vae.model.prior()
    loc = prior.mean.expand(CLASSES, LATENT)
    spread = prior.variance.expand(CLASSES, LATENT)
    decoder, zero = vae.model.decoder, torch.zeros(1, LATENT).double()
    given = [c] if vae.model.of_x.y else []
    weight = torch.stack(
        [
            decoder(axis[None], *(g[:1] for g in given))
            - decoder(zero, *(g[:1] for g in given))
            for axis in torch.eye(LATENT).double()
        ],
        -1,
    ).reshape(DIMS, LATENT)
    shift = decoder(zero.expand(CLASSES, -1), *given).reshape(CLASSES, DIMS)
    covariance = weight * spread[:, None, :] @ weight.T
    covariance = covariance + SCALE**2 * torch.eye(DIMS).double()
    p = dist.MultivariateNormal(loc @ weight.T + shift, covariance)
    return p.log_prob(x[:, None]) + vae.model.class_prior().log_prob(y)


PAIRS = {"labelled": labelled, "clusters": clusters}


@pytest.fixture(params=PAIRS)
def vae(request):
    return PAIRS[request.param]()


def near(result, truth, most=0.1):
    """Whether estimates of few data are as near to the truth as their errors say, which are small."""
    assert result.standard_errors.max() < most / 2
    errors = (result.values - truth) / result.standard_errors.clamp_min(most / 15)
    return errors.abs().max() < 5


def test_log_marginal_sums_over_the_classes(vae):
    truth = each_class(vae, X).logsumexp(1)
    assert near(log_marginal(vae.model, vae.guide, X, num_particles=20_000), truth)


def test_log_marginal_of_labelled_data_is_that_of_both(vae):
    each = each_class(vae, X)
    known = each.gather(1, LABELS.clamp_min(0)[:, None]).squeeze(1)
    truth = torch.where(LABELS >= 0, known, each.logsumexp(1))
    data = {"x": X, "y": LABELS}
    assert near(log_marginal(vae.model, vae.guide, data, num_particles=20_000), truth)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda vae, x: log_marginal_refined(vae, x, num_particles=5000),
        lambda vae, x: log_marginal_adaptive(vae, x, num_particles=5000)[0],
        lambda vae, x: annealed_importance_sampling(
            vae.model, x, num_chains=64, num_temperatures=80, leapfrogs=6, compile=False
        ),
    ],
    ids=["refined", "adaptive", "annealed"],
)
@pytest.mark.parametrize("labels", [False, True])
def test_every_estimator_sums_over_the_classes(vae, estimate, labels):
    each = each_class(vae, X)
    known = each.gather(1, LABELS.clamp_min(0)[:, None]).squeeze(1)
    truth = each.logsumexp(1)
    truth = torch.where(LABELS >= 0, known, truth) if labels else truth
    data = {"x": X, "y": LABELS} if labels else X
    assert near(estimate(vae, data), truth, most=0.6)


def test_the_loss_and_its_gradient_are_those_of_pyro(vae):
    """With all labels unknown: the sum over y in each, at the same draws of z."""
    parameters = [p for p in vae.parameters() if p.requires_grad]

    def of(loss):
        torch.manual_seed(3)
        value = loss.differentiable_loss(vae.model, vae.guide, X)
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    mine, gradients = of(ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, others = of(TraceEnum_ELBO(max_plate_nesting=1))
    assert torch.isclose(mine, theirs, atol=1e-10)
    for g, other in zip(gradients, others, strict=True):
        assert torch.allclose(g, other, atol=1e-10)


def test_a_labelled_datum_has_one_share():
    """Its bound is that of x and y together, whatever q(y|x) says; the objective adds what q(y|x) makes of it."""
    vae, weight = labelled(weight=3.0), 3.0
    torch.manual_seed(0)
    t = terms(vae.model, vae.guide, {"x": X, "y": LABELS}, num_particles=2)
    shares = t.log_share.unflatten(0, (CLASSES, 2))
    y = torch.where(LABELS >= 0, LABELS, 0)
    known = LABELS >= 0
    assert torch.allclose(shares.logsumexp((0, 1)), torch.zeros(ROWS).double())
    assert torch.allclose(
        shares[y, :, range(ROWS)].logsumexp(1)[known], torch.zeros(1).double()
    )
    log_q = vae.predict(X).log()[range(ROWS), y]
    assert torch.allclose(t.aim, torch.where(known, weight * log_q, 0.0))


def test_the_terms_of_labels_move_the_classifier_alone():
    """`alpha log q(y|x)` has a gradient in q(y|x), by its weight; the bound of labelled data has none."""
    data = {"x": X[:1], "y": torch.tensor([2])}
    gradients = {}
    for weight in (0.0, 1.0, 2.0):
        vae = labelled(weight=weight)
        torch.manual_seed(0)
        ELBO().differentiable_loss(vae.model, vae.guide, data).backward()
        head = vae.guide.classifier.head.bias.grad
        gradients[weight] = head.clone()
        others = [p.grad for p in vae.model.parameters() if p.grad is not None]
        gradients[weight, "model"] = [g.clone() for g in others]
    assert gradients[0.0].abs().max() == 0
    probabilities = labelled().predict(X[:1])[0]
    wanted = probabilities - torch.eye(CLASSES).double()[2]
    assert torch.allclose(gradients[1.0], wanted)
    assert torch.allclose(gradients[2.0], 2 * wanted)
    pairs = zip(gradients[0.0, "model"], gradients[2.0, "model"], strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "objective",
    [ELBO(num_particles=2), IWAE(num_particles=3), DReG(num_particles=3), STL()],
    ids=lambda objective: type(objective).__name__,
)
def test_every_objective_takes_labels(objective):
    vae = labelled(weight=3.0)
    data = {"x": X, "y": LABELS}
    loss = objective.differentiable_loss(vae.model, vae.guide, data)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


def test_pyro_adds_the_term_of_the_classifier_too():
    """To Pyro it is a factor of the guide, so that its gradient is the same."""
    gradients = []
    data = {"x": X[:1], "y": torch.tensor([2])}
    for loss in (ELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        vae = labelled(weight=3.0)
        torch.manual_seed(0)
        loss.loss_and_grads(vae.model, vae.guide, data)
        gradients.append(vae.guide.classifier.head.bias.grad)
    assert torch.allclose(*gradients)


def test_every_question_is_that_of_the_sum(vae):
    truth = each_class(vae, X).logsumexp(1).mean().item()
    bound = elbo(vae.model, vae.guide, X, num_particles=500)
    assert bound.elbo < truth
    gaps = inference_gaps(vae, X, num_particles=2000, steps=20)
    assert abs(gaps.log_marginal.mean - truth) < 0.2
    assert latent_health(vae.model, vae.guide, X).num_data == ROWS


def test_the_posterior_of_the_class_is_that_of_the_model(vae):
    """`softmax log p(x, y)` from draws, against the closed form."""
    each = each_class(vae, X)
    guide, joint = classify(vae, {"x": X, "y": LABELS}, num_particles=5000)
    assert torch.allclose(guide, vae.predict(X))
    assert (joint - each).abs().max() < 0.15
    assert (joint.softmax(1) - each.softmax(1)).abs().max() < 0.05


def test_draws_have_the_classes_that_are_asked_for(vae):
    """A class that is given stays; without one it is drawn from p(y), and so are the means of x."""
    n = 20_000
    torch.manual_seed(0)
    shares = vae.model.class_prior().probs
    means = torch.stack([vae.sample(n, y).mean(0) for y in range(CLASSES)])
    mixed = vae.sample(n).mean(0)
    assert torch.allclose(mixed, shares @ means, atol=0.05)
    unknown = vae.sample(n, torch.full((n,), -1)).mean(0)
    assert torch.allclose(unknown, mixed, atol=0.05)


def test_the_mixture_of_the_guide_is_its_marginal(vae):
    """`q(z|x) = sum_y q(y|x) q(z|x,y)`, by hand; of a labelled datum `q(z|x,y)`."""
    z = torch.randn(ROWS, LATENT, dtype=torch.float64)
    each = []
    for y in range(CLASSES):
        one = torch.eye(CLASSES).double()[y].expand(ROWS, -1)
        each.append(vae.guide.given(X, one).log_prob(z))
    log_q = vae.predict(X).log() + torch.stack(each, 1)
    assert torch.allclose(vae.encode(X).log_prob(z), log_q.logsumexp(1))
    known = vae.encode(X, torch.full((ROWS,), 1))
    assert torch.allclose(known.log_prob(z), each[1])


def test_with_a_condition_both_are_read():
    """`p(x|z,y,c)`: c stands behind the label, and a label may be unknown beside it."""
    vae = labelled(condition=2)
    c = torch.randn(ROWS, 2).double()
    t = terms(vae.model, vae.guide, as_data(vae.model, {"x": X, "c": c})[:])
    full = torch.cat([torch.full((ROWS, CLASSES), torch.nan).double(), c], 1)
    assert t.log_px.shape == (CLASSES, ROWS)
    assert vae.sample(ROWS, full).shape == (ROWS, DIMS)
    both = as_data(vae.model, {"x": X, "y": LABELS, "c": c})[:]
    assert torch.equal(both["c"][:, CLASSES:], c)
    assert both["c"][1, :CLASSES].isnan().all()
    with pytest.raises(InputError, match="no condition: give c beside x, 2 numbers"):
        as_data(vae.model, X)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([0, 3] + [0] * 5), "y holds the class 3 for datum 1"),
        (torch.tensor([0.5] + [0.0] * 6), "y holds the class 0.5 for datum 0"),
        (torch.tensor([-2] + [0] * 6), "y holds the class -2 for datum 0"),
        (torch.zeros(7, 2), r"give a class for each datum, \(N,\)"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels, sentence):
    vae = labelled()
    with pytest.raises(InputError, match=sentence):
        log_marginal(vae.model, vae.guide, {"x": X, "y": labels})


def test_parts_that_do_not_read_the_class_are_refused():
    classes = Classes(CLASSES, MLP((DIMS,)))
    encoder = MLP((DIMS,), context=CLASSES)
    with pytest.raises(InputError, match="the decoder has to read the class"):
        VAE(
            StandardNormal(LATENT),
            MLP((LATENT,), (1, DIMS)),
            Gaussian((DIMS,)),
            MeanField(encoder, LATENT),
            classes=classes,
        )
    with pytest.raises(InputError, match="give from 2 to 1,000"):
        Classes(2000, MLP((DIMS,)))
    with pytest.raises(InputError, match="name the sites x, z or both"):
        Classes(CLASSES, MLP((DIMS,)), of=("w",))
    with pytest.raises(InputError, match="the decoder reads the class of each latent"):
        labelled().decode(torch.zeros(2, LATENT))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.__name__)
def test_every_guide_takes_classes(guide):
    """A step and an estimate with labels that some data have; a guide that cannot says so."""
    made = partial(guide, steps=3) if guide is Local else guide
    vae = labelled(weight=1.0, guide=made)
    data = {"x": X, "y": LABELS}
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.Adam(p, 1e-3), ELBO())
    assert svi.step(as_data(vae.model, data)[:]).isfinite()
    if vae.guide.has_density:
        each = each_class(vae, X).logsumexp(1)
        found = log_marginal(vae.model, vae.guide, X, num_particles=20_000).values
        assert (found < each + 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_compiled_steps_are_the_same(name):
    """With labels that some data have."""
    losses = []
    for compiled in (False, True):
        vae = PAIRS[name]().float()
        optimizer = partial(torch.optim.Adam, lr=1e-2)
        svi = SVI(vae.model, vae.guide, optimizer, ELBO(), compile=compiled)
        torch.manual_seed(0)
        data = as_data(vae.model, {"x": X, "y": LABELS})[:]
        losses.append(torch.stack([svi.step(data) for _ in range(5)]))
        assert svi.compiled == compiled
    assert torch.allclose(*losses, rtol=1e-4)


def test_clusters_are_found_where_there_are_some():
    """Three groups far apart: codes part after the start, and each class is one of them."""
    torch.manual_seed(0)
    group = torch.arange(300) % 3
    centres = torch.tensor([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])
    x = centres[group] + 0.5 * torch.randn(300, 4)
    vae = build(
        Spec(
            (4,),
            2,
            structure="clusters(classes=3, start=30)",
            likelihood="gaussian",
            network="mlp(hidden=(20,))",
        )
    )
    history = fit(vae, x, epochs=45, batch_size=50, learning_rate=5e-3)
    assert all(math.isnan(epoch.score) for epoch in history[:30])
    found = Classified(
        vae.predict(x), vae.predict(x).log(), group, "012", ("a", "b", "c")
    ).agreement()
    assert found["accuracy by assignment"] > 0.98
    assert found["adjusted Rand index"] > 0.95


def test_clusters_are_not_sought_where_labels_name_them():
    torch.manual_seed(0)
    vae = build(Spec((4,), 2, structure="clusters(classes=3, start=1)"))
    x = torch.ones(7, 4)
    history = fit(vae, {"x": x, "y": LABELS}, epochs=2, batch_size=7)
    assert not any(math.isnan(epoch.score) for epoch in history)


def few_labels(count):
    """Three kinds of bits, 1,000 data, and `count` of each kind with a label."""
    torch.manual_seed(0)
    kinds = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
    y = torch.randint(3, (1000,))
    x = (torch.rand(1000, 6) < 0.1 + 0.8 * kinds[y]).float()
    known = torch.full_like(y, -1)
    for kind in range(3):
        rows = (y == kind).nonzero().flatten()[:count]
        known[rows] = kind
    return x, y, known


def test_few_labels_among_many_data_are_learned_first():
    x, y, known = few_labels(2)
    vae = build(Spec((6,), 2, structure="labelled(classes=3)"))
    fit(vae, {"x": x, "y": known}, epochs=3, batch_size=100)
    assert (vae.predict(x).argmax(-1) == y).float().mean() > 0.85


def test_labels_are_learned_first_by_a_fresh_pair_alone(monkeypatch):
    """A pair that is trained on does not begin again."""
    taken = []
    monkeypatch.setattr(
        "pyro_vae.inference.seeking.learn_labels", lambda *a: taken.append(a[2])
    )
    x, _, known = few_labels(2)
    structure = "labelled(classes=3, spread=False)"
    vae = build(Spec((6,), 2, structure=structure))
    for _ in range(2):
        fit(vae, {"x": x, "y": known}, epochs=1, batch_size=500)
    assert taken == [200]


def test_when_labels_are_learned_first():
    def steps(count, **options):
        x, _, known = few_labels(count)
        arguments = ", ".join(f"{k}={v}" for k, v in options.items())
        vae = build(Spec((6,), 2, structure=f"labelled(classes=3, {arguments})"))
        data = as_data(
            vae.model, beside_condition(vae.model, {"x": x, "y": known}, None)
        )
        return steps_of_labels(vae, data)

    assert steps(2) == 200
    assert steps(100) == 0  # of 300 labels among 1,000
    assert steps(100, labels_first=7) == 7
    assert steps(2, labels_first=0) == steps(2, weight=0) == steps(0) == 0
    plain = build(Spec((6,), 2))
    assert steps_of_labels(plain, as_data(plain.model, few_labels(2)[0])) == 0


def test_beside_many_codes_the_class_alone_is_enumerated():
    """10 classes and 625 codes are more than are summed over; y is, and z drawn."""
    codes = "categorical(levels=5)"
    spec = Spec((4,), 20, codes, guide=codes, structure="labelled(classes=10)")
    vae = build(spec)
    t = terms(vae.model, vae.guide, torch.ones(3, 4), num_particles=2)
    assert t.combinations == 10
    assert t.sites["y"].listed
    assert not t.sites["z"].listed
    _, joint = classify(vae, torch.ones(3, 4), num_particles=5)
    assert joint.isfinite().all()


def test_the_term_of_labels_takes_no_part_in_a_score_function():
    """A constant added to each bound would make the gradient of drawn codes noisier: it is the same without it."""
    codes = "categorical(levels=5)"
    gradients = []
    for weight in (0.0, 50.0):
        torch.manual_seed(0)
        structure = f"labelled(classes=10, weight={weight})"
        vae = build(Spec((4,), 20, codes, guide=codes, structure=structure))
        data = as_data(vae.model, {"x": torch.ones(3, 4), "y": torch.arange(3)})[:]
        ELBO(num_particles=2).differentiable_loss(vae.model, vae.guide, data).backward()
        gradients.append(vae.guide.head.weight.grad)
    assert torch.equal(*gradients)


def test_agreement_is_that_of_the_tables_by_hand():
    """Five data of two labels in three clusters, counted on paper."""
    guide = torch.eye(3)[[0, 0, 1, 2, 2]]
    labels = torch.tensor([0, 0, 0, 1, 1])
    found = Classified(guide, guide.log(), labels, ("a", "b"), ("0", "1", "2"))
    assert found.counts.tolist() == [[2, 1, 0], [0, 0, 2]]
    agreement = found.agreement()
    assert agreement["accuracy by majority"] == 1.0
    assert agreement["accuracy by assignment"] == pytest.approx(0.8)
    labels_h = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    clusters_h = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    wanted = labels_h / ((labels_h + clusters_h) / 2)  # clusters tell the label
    assert agreement["normalised mutual information"] == pytest.approx(wanted)


def test_the_calibration_error_is_that_of_the_bins_by_hand():
    sure = torch.tensor([0.95, 0.95, 0.65, 0.65, 0.65])
    guide = torch.stack([sure, 1 - sure], 1)
    labels = torch.tensor([0, 1, 0, 0, 0])
    found = Classified(guide, guide.log(), labels, ("a", "b"), ("a", "b"), bins=10)
    # Of two said to be right at 0.95 one is, of three at 0.65 all.
    wanted = 0.4 * (0.95 - 0.5) + 0.6 * (1 - 0.65)
    assert found.calibration_error(guide) == pytest.approx(wanted)


def test_a_pair_with_classes_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    for structure in ("labelled(classes=3)", "clusters(classes=3, start=5)"):
        vae = build(Spec((4,), 2, structure=structure))
        save(vae, tmp_path / "vae.safetensors")
        again = load(tmp_path / "vae.safetensors")
        x = torch.ones(2, 4)
        assert torch.equal(vae.predict(x), again.predict(x))
        assert again.seek_after == vae.seek_after


def test_what_a_class_carries_is_that_of_the_sums_by_hand():
    """Four data of three classes: KL, information and q(y), and how many classes that is as."""
    q = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [1, 0, 0], [0.5, 0.5, 0]])
    p = torch.tensor([0.25, 0.25, 0.5])
    found = Carried.of_classes("y", q, p)
    sure, torn = math.log(4), 2 * 0.5 * math.log(2)
    assert found.kl.mean == pytest.approx((sure + torn) / 2)
    information = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert found.mutual_information.mean == pytest.approx(information)
    aggregated = 0.75 * math.log(3) + 0.25 * math.log(1)
    assert found.aggregated_kl == pytest.approx(aggregated)
    assert found.kl.mean == pytest.approx(information + aggregated)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found.effective == pytest.approx(math.exp(entropy))
    assert found.in_use == 2


def test_latent_health_says_what_the_class_carries(vae):
    """By the probabilities of the pair, a line for each and a sentence."""
    health = latent_health(vae.model, vae.guide, X)
    (of_y,) = health.others
    prior = vae.model.class_prior().probs.detach()
    wanted = Carried.of_classes("y", vae.predict(X), prior)
    assert of_y.kl == pytest.approx(wanted.kl)
    assert of_y.mutual_information == pytest.approx(wanted.mutual_information)
    assert {"KL(q(y|x) || p(y))", "I(x; y)"} <= health.answer().rows.keys()
    assert f"{wanted.effective:.2f} equal classes of {CLASSES}" in str(health)
