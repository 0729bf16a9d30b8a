"""What every member of every family must do; a new member is tested without anyone registering it."""

import inspect
import itertools
import math
import random

import pytest
import torch

from example import DRAWN, SHAPE, SHORTER, D, beside, example
from pyro_vae import (
    SVI,
    VAE,
    Guide,
    InputError,
    Likelihood,
    Network,
    Objective,
    Prior,
    Spec,
    build,
    variants,
)
from pyro_vae.data.fields import cut
from pyro_vae.data.inputs import as_labels, fields_of, moments
from pyro_vae.data.representation import Representation
from pyro_vae.foundation.source import summaries
from pyro_vae.spec import AXES, parse, problem

DENSE = (
    Representation.REAL,
    Representation.POSITIVE,
    Representation.MIXED,
    Representation.FIELDS,
)  # columns and fields are Gaussian


def members(family):
    return pytest.mark.parametrize(
        "cls", variants(family).values(), ids=lambda c: c.__name__
    )


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
    """Integrates to 1, and its draws have the moments of its density: by importance weighting with a wide Student-t.

    Of codes by a sum over all of them.
    """
    context = 2 if "context" in inspect.signature(cls).parameters else 0
    more = beside("prior", cls.__name__)
    vae = build(Spec(SHAPE, 2, prior=cls.__name__, context=context, **more)).double()
    p = vae.model.prior(*[torch.ones(2).double()][:context])
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    z = p.expand([40_000]).sample()
    assert z.shape == (40_000, 2)
    assert p.log_prob(z).shape == (40_000,)
    if vae.guide.discrete:
        codes = p.enumerate_support()
        mass = p.log_prob(codes).exp()
        mean = (mass[:, None] * codes).sum(0)
        assert mass.sum().item() == pytest.approx(1)
        error = z.std(0) / len(z) ** 0.5
        assert ((z.mean(0) - mean).abs() < 4.5 * error).all()
        return
    reference = torch.distributions.StudentT(
        torch.tensor(3.0).double(), z.mean(0), 1.5 * z.std(0)
    )
    far = reference.sample((100_000,))
    ratio = (p.log_prob(far) - reference.log_prob(far).sum(-1)).exp()
    for truth, weighted, drawn in (
        (1.0, ratio[:, None], z.new_ones(len(z), 1)),
        (None, ratio[:, None] * far, z),
        (None, ratio[:, None] * far.square(), z.square()),
    ):
        error = (weighted.var(0) / len(far) + drawn.var(0) / len(z)).sqrt()
        assert (
            (weighted.mean(0) - (drawn.mean(0) if truth is None else truth)).abs()
            < 4.5 * error
        ).all()


@members(Likelihood)
def test_likelihood(cls):
    likelihood = cls(SHAPE).double()
    h = torch.randn(4, 2, *likelihood.output_shape).double().requires_grad_()
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
    p = likelihood(torch.randn(*likelihood.output_shape).double() / 2)  # one element
    match likelihood.support:
        case Representation.BINARY:
            x = torch.tensor([0.0, 1.0]).double()
        case Representation.LEVELS:
            x = torch.arange(likelihood.levels).double()
        case Representation.COUNTS:
            x = torch.arange(2000.0).double()
        case Representation.UNIT:
            x = (
                torch.linspace(-20, 20, 401).double().sigmoid()
            )  # a density may be infinite at the ends
        case Representation.POSITIVE:
            x = torch.linspace(-16, 16, 400_001).double().exp()
        case _:
            x = torch.sinh(torch.linspace(-16, 16, 400_001).double())
    mass = p.log_prob(x.unsqueeze(-1)).exp()

    def total(y):
        if likelihood.support in DENSE:
            return torch.trapezoid(y, x)
        if likelihood.support is Representation.UNIT:
            y = 0.1 * y * x * (1 - x)  # dx = x (1 - x) dt at t = logit(x)
            tails = y[[0, -1]] / (
                y[[1, -2]] / y[[0, -1]] - 1
            )  # beyond the grid, powers of x: a geometric series
            return y.sum() + tails.nan_to_num().sum()
        return y.sum()

    torch.testing.assert_close(total(mass), torch.ones(()).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(total(mass * x), p.mean.squeeze(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        total(mass * (x - p.mean) ** 2), p.variance.squeeze(), rtol=1e-4, atol=1e-6
    )
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
        assert h.shape == likelihood.output_shape
        torch.testing.assert_close(likelihood(h).mean, mean, rtol=1e-6, atol=1e-6)


def posterior(cls, *batch, latent_dim=D):
    """A guide, and its posterior at random features; those of `Local` are its variational parameters."""
    guide = cls(encoder(), latent_dim).double()
    return guide, guide.posterior(torch.randn(*batch, guide.features).double())


def drawn(q, *size):
    """Draws, with their gradient where they carry one."""
    return q.rsample(size) if q.has_rsample else q.sample(size)


SCATTERED = [cls for cls in variants(Guide).values() if cls.has_density]
scattered = pytest.mark.parametrize("cls", SCATTERED, ids=lambda c: c.__name__)


@members(Guide)
def test_guide(cls):
    guide, q = posterior(cls, 5, 4)
    assert (q.batch_shape, q.event_shape) == ((5, 4), (D,))
    wide = q.expand((3, 5, 4))  # as under a plate of particles
    z = drawn(wide)
    log_q = wide.log_prob(z)
    assert log_q.shape == (3, 5, 4)
    if guide.amortised and [*guide.parameters()]:
        (z.sum() + log_q.sum()).backward()
    for name, p in guide.named_parameters():
        if "encoder" not in name and name not in (
            "log_rate",
            "start",
        ):  # those two act through the model
            assert p.grad.isfinite().all(), name
            assert (p.grad != 0).any(), name


@scattered
def test_guide_scores_any_latent_as_it_scores_its_draws(cls):
    _, q = posterior(cls, 4)
    z = drawn(q)
    torch.testing.assert_close(
        q.log_prob(z), q.log_prob(z.clone()), rtol=1e-9, atol=1e-9
    )


@scattered
def test_guide_reads_each_datum_alone(cls):
    guide = cls(encoder(), D).double()
    h = torch.randn(4, guide.features).double()
    z = torch.randn(4, D).double()
    together = guide.posterior(h).log_prob(z)
    alone = torch.cat(
        [guide.posterior(h[i : i + 1]).log_prob(z[i : i + 1]) for i in range(4)]
    )
    torch.testing.assert_close(together, alone)


@scattered
@torch.no_grad()
def test_guide_density_integrates_to_one(cls):
    """By importance weighting with a wide Student-t as the reference; of codes by a sum over all of them."""
    guide, q = posterior(cls, 1, latent_dim=2)
    if guide.discrete:
        assert q.log_prob(q.enumerate_support()).exp().sum().item() == pytest.approx(1)
        return
    q = q.expand((100_000,))
    drawn = q.sample()
    reference = torch.distributions.Independent(
        torch.distributions.StudentT(
            torch.tensor(3.0).double(), drawn.mean(0), 2 * drawn.std(0)
        ),
        1,
    )
    z = reference.sample((len(drawn),))
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
        x = torch.randn(3, 4, *shape).double().requires_grad_()
        torch.testing.assert_close(
            net(x)[1, 2], net(x[1, 2])
        )  # leading dimensions do not mix
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
            up.output_layer.weight.zero_()
        torch.testing.assert_close(
            up(torch.randn(4, D).double()), target.expand(4, 1, 6, 5)
        )
        torch.testing.assert_close(before, torch.full_like(before, 0.7))


@members(Objective)
def test_objective(cls):
    objective = cls()
    objective.advance(2.5)
    vae = build(Spec(SHAPE, D, **beside("objective", cls.__name__))).double()
    x = example(Representation.BINARY, 5, *SHAPE)
    t = objective.terms_of(vae.model, vae.guide, x)
    objective.check(t)
    torch.manual_seed(1)
    bound = objective.bound(t)
    assert bound.shape == (5,)
    assert bound.isfinite().all()
    torch.manual_seed(1)
    gain = bound if t.aim is None else bound + t.aim
    torch.testing.assert_close(objective.loss_of(t), -gain.sum())
    if cls.__name__ not in (
        "BetaTC",
        "Capacity",
        "FactorVAE",
        "FreeBits",
        "GumbelSoftmax",
        "InfoVAE",
        "MeanFieldELBO",
    ):  # those look at whole batches
        order = torch.tensor([3, 1, 4, 0, 2])  # each datum's bound is its own
        swapped = t._replace(
            log_px=t.log_px[:, order],
            log_pz=t.log_pz[:, order],
            log_qz=t.log_qz[:, order],
        )
        torch.testing.assert_close(objective.bound(swapped), bound[order])


# What a pair may be given beside x, as a further axis.
CONDITIONS = {
    "unconditional": {},
    "conditional": {"context": 2},
    "conditional-model": {"context": 2, "encoder_context": False},
}
APART = {"MeanField", "Local", "SemiAmortized", "ProductOfExperts"}  # entry by entry
APART |= {"Moved"}
GAUSSIAN = {*APART, "FullRank", "LowRank"}
NEEDS = {cls.__name__: cls.needs for cls in variants(Objective).values()}
SHARED = {cls.__name__: cls.takes_shares for cls in variants(Objective).values()}
OF_ONEHOTS = ("scored", "codes")  # needs that one-hot codes alone meet
CLASSED = ("Labelled", "Clusters")
REAL = "Labelled(target='real')"
# Those that look at each latent by itself, and z depends on a real y; or at codes alone.
ONE_BY_ONE = {"BetaTC", "FreeBits", "DReG", "PIWAE", "STL", "ReweightedWakeSleep"}
ONE_BY_ONE |= {"GumbelSoftmax", "VIMCO"}
LAYERED = ("Chain", "Ladder")
# Those that take a density apart from its draws, and guides of codes or that look for the posterior of one vector.
CHAINED = {"DReG", "PIWAE", "STL", "ReweightedWakeSleep", "GumbelSoftmax", "VIMCO"}
ALONE = ("Categorical", "Codebook", "Local", "Moved", "SemiAmortized")
ONE_VECTOR = ("Codebook", "Moved")  # of which there is one for each datum, whatever y
LABELS = torch.tensor([0, -1, 1, 2, -1, 0, 1, -1])  # of three classes
FEWER = {
    **SHORTER,
    "VampPrior": "VampPrior(pseudo_inputs=20)",
    "MIWAE": "MIWAE(groups=2, num_particles=4)",
    "PIWAE": "PIWAE(groups=2, num_particles=4)",
}


def written(guide, objective):
    """A guide as it is written for an objective: codes are drawn where that looks at draws."""
    drawn = beside("objective", objective) is DRAWN or objective in ("IWAE", "MIWAE")
    codes = guide == "Categorical" and drawn
    return DRAWN["guide"] if codes else guide


def makes_sense(prior, guide, objective, condition="conditional", structure="Vae"):
    """What can be combined, written down by hand."""
    if guide == "Exact":  # the network is none that it goes with
        return False
    if structure == "Clusters" and prior != "Conditional":
        return False
    if objective == "Autoencoder":  # of one point, without a prior that learns
        fixed = prior in ("StandardNormal", "Laplace")
        return guide == "Delta" and fixed and structure not in (*LAYERED, REAL)
    if structure in LAYERED:
        if objective in CHAINED | (
            {"MeanFieldELBO"} if structure == "Chain" else {*()}
        ):
            return False
        if guide in ALONE or (structure == "Ladder" and guide != "MeanField"):
            return False
        if prior in ("Categorical", "Codes", "VampPrior"):
            return False
    if structure in CLASSED and (not SHARED[objective] or guide in ONE_VECTOR):
        return False
    if structure == REAL and (objective in ONE_BY_ONE or guide in ONE_VECTOR):
        return False
    if (structure, prior, condition) == ("Clusters", "Conditional", "unconditional"):
        condition = "conditional"  # on the class
    if prior == "Conditional" and condition == "unconditional":
        return False
    if "Codebook" in guide or prior == "Codes":
        spread = {"spread", "independence", *OF_ONEHOTS} & {*NEEDS[objective]}
        return (prior, guide) == ("Codes", "Codebook") and not spread
    if guide == "Categorical":
        if objective in ("FreeBits", "BetaTC", "InfoVAE", "FactorVAE", "DReG", "PIWAE"):
            return False
        if objective in ("MeanFieldELBO", "GumbelSoftmax"):
            return prior == "Categorical"
        return prior in ("Categorical", "VampPrior")
    if prior == "Categorical" or beside("objective", objective) is DRAWN:
        return False
    if prior == "VampPrior" and guide in ("Delta", "IAF", "Local"):
        return False
    if "density" in NEEDS[objective] and guide == "Delta":
        return False
    if objective == "MeanFieldELBO":
        by_prior = {"StandardNormal": GAUSSIAN, "Conditional": GAUSSIAN}
        by_prior |= {"Laplace": APART}
        return guide == "Delta" or guide in by_prior.get(prior, ())
    if objective in ("FreeBits", "BetaTC"):
        known = ("StandardNormal", "Laplace", "Conditional")
        return prior in known and guide in APART
    return True


@pytest.mark.parametrize("prior", variants(Prior))
def test_what_makes_no_sense_is_refused_before_training(prior):
    kinds = {
        NEEDS[name]: name for name in NEEDS if name != "Subsets"
    }.values()  # one objective for each set of needs
    for guide, objective in itertools.product(variants(Guide), kinds):
        small = "vampprior(pseudo_inputs=2)" if prior == "VampPrior" else prior
        guided = written(guide, objective)
        given = CONDITIONS["conditional"]
        spec = Spec((3,), 2, small, "mlp(hidden=(4,))", guide=guided, **given)
        why = problem(spec, objective)
        assert (why is None) == makes_sense(prior, guide, objective), (
            prior,
            guide,
            objective,
            why,
        )
        if why:
            assert len(why) < 220
            assert "\n" not in why
            assert prior in why or guide in why or objective in why


CHOICES = {axis: list(variants(family)) for axis, (family, _, _) in AXES.items()}
CHOICES["guide"].remove("Exact")  # of linear pairs alone, which have tests of their own
CHOICES["structure"].append(REAL)
CHOICES["condition"] = list(CONDITIONS)
CHOICES["missing"] = ["whole", "missing"]
PLAIN = {"prior": "StandardNormal", "guide": "MeanField", "objective": "ELBO"}
PLAIN |= {"condition": "conditional", "structure": "Vae"}
FIELDED = {"Subsets": "Fields"}  # what an objective needs
PLAINS = (
    PLAIN,
    PLAIN | {"prior": "Categorical", "guide": "Categorical"},
    PLAIN | {"prior": "Codes", "guide": "Codebook"},
    PLAIN | {"structure": "Clusters", "prior": "Conditional"},
)


def can_meet(choice):
    several = choice.get("likelihood", "Fields") == "Fields"
    if choice["objective"] == "Subsets" and not several:
        return False
    learned = choice["prior"] == "VampPrior"  # inputs, which fields have none of
    if learned and "Fields" in (
        choice.get("likelihood"),
        FIELDED.get(choice["objective"]),
    ):
        return False
    return makes_sense(*(choice[axis] for axis in PLAIN))


def pairwise():
    """Combinations in which every two members of different axes that can meet do meet."""
    names, axes = list(CHOICES), list(CHOICES.values())
    order = random.Random(0)
    missing = {
        ((i, a), (j, b))
        for (i, left), (j, right) in itertools.combinations(enumerate(axes), 2)
        for a in left
        for b in right
    }
    rows = []
    while missing:
        (i, a), (j, b) = min(missing)
        best, covered = None, set()
        # Few rows make sense where both members are choosy, and none where they never meet.
        both = {names[i]: a, names[j]: b}
        meet = any(can_meet(plain | both) for plain in PLAINS)
        for attempt in range(3000 if meet else 100):
            if attempt >= 100 and best:
                break
            row = [order.choice(members) for members in axes]
            row[i], row[j] = a, b
            if can_meet(dict(zip(names, row, strict=True))):
                new = missing & set(itertools.combinations(enumerate(row), 2))
                if len(new) > len(covered):
                    best, covered = row, new
        missing -= covered or {((i, a), (j, b))}
        rows += [best] if best else []
    return rows


COMBINATIONS = pairwise()


def test_every_pair_of_members_that_can_meet_does_meet():
    met = {
        pair
        for row in COMBINATIONS
        for pair in itertools.combinations(enumerate(row), 2)
    }
    for (i, left), (j, right) in itertools.combinations(enumerate(CHOICES), 2):
        for a, b in itertools.product(CHOICES[left], CHOICES[right]):
            if any(can_meet(plain | {left: a, right: b}) for plain in PLAINS):
                assert ((i, a), (j, b)) in met, (a, b)


def built(names):
    """The pair of a combination, data for it, and what else the combination names."""
    choice = dict(zip(CHOICES, names, strict=True))
    objective, condition = choice.pop("objective"), CONDITIONS[choice.pop("condition")]
    missing = choice.pop("missing") == "missing"
    choice["guide"] = written(choice["guide"], objective)
    choice |= {axis: FEWER[name] for axis, name in choice.items() if name in FEWER}
    if choice["structure"] in CLASSED:
        choice["structure"] += "(classes=3)"
        condition = condition | {"context": 3 + condition.get("context", 0)}
    if choice["structure"] == REAL:
        condition = condition | {"context": 1 + condition.get("context", 0)}
    vae = build(Spec(SHAPE, D, missing=missing, **choice, **condition)).double()
    x = example(vae.model.likelihood.support, 8, *SHAPE)
    if missing:  # some elements of each datum, and all of one
        holes = torch.rand(x.shape) < 0.4
        holes[4:] = (
            False  # of few values all could be the same, and a scale would start at none
        )
        x = x.masked_fill(holes, torch.nan)
        x[3] = torch.nan
    if not vae.context:
        return vae, x, choice["prior"], objective
    c = torch.randn(8, vae.context).double()
    if vae.classes:
        c[:, : vae.classes] = as_labels(vae.model, LABELS)
    elif vae.label_width:
        c[::2, 0] = torch.nan  # no label
    return vae, {"x": x, "c": c}, choice["prior"], objective


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_every_combination_trains_every_parameter(names):
    vae, data, prior, objective = built(names)
    x, c = fields_of(data)
    index = torch.arange(800) % 8
    examples = cut(data, index, 8) if prior.startswith("VampPrior") else None
    # At a median the signs that Laplace adds up would cancel.
    mean, std = moments(x)
    given = None if c is None else data
    vae.initialise(mean + 0.2 * std, std, examples=examples, given=given)
    loss = parse("objective", FEWER.get(objective, objective))()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=1e-6),
        loss,
        reduction="mean",
    )
    loss.prepare(8, 20)
    for epoch in (5, 6):
        loss.advance(epoch)
        value, _ = svi.differentiate(data)
        assert value.isfinite()
        for name, p in vae.named_parameters():
            if ".mask_" in name and not vae.model.likelihood.missing:
                continue  # what values are seen by, of data that all are
            assert p.grad.isfinite().all(), name
            if objective == "FreeBits" and name.startswith("model.prior"):
                continue  # within the free bits the KL has no gradient
            assert (p.grad != 0).any(), name
        svi.optimizer.step()
        svi.optimizer.zero_grad()


@pytest.mark.parametrize(
    "names", COMBINATIONS[:: max(1, len(COMBINATIONS) // 8)], ids="-".join
)
def test_state_dict_round_trip(names):
    (first, x, *_), (second, *_) = built(names), built(names)
    second.load_state_dict(first.state_dict())
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
            assert parameter.kind is parameter.KEYWORD_ONLY, (
                f"{cls.__name__}({parameter.name})"
            )
            assert parameter.default is not parameter.empty, (
                f"{cls.__name__}({parameter.name})"
            )


def test_a_guide_on_an_encoder_that_does_not_say_its_width():
    body = torch.nn.Linear(4, 7)
    reading = [c for n, c in variants(Guide).items() if c.amortised and n != "Exact"]
    for cls in reading:
        with pytest.raises(InputError, match="features="):
            cls(body, D)
        assert cls(body, D, features=7).posterior(torch.zeros(7)).event_shape == (D,)


def test_variants_are_final_classes():
    for family, _, _ in AXES.values():
        for cls in variants(family).values():
            assert not inspect.isabstract(cls)
            assert issubclass(cls, family)
            assert not [
                c
                for c in type.__subclasses__(cls)
                if c.__module__.startswith("pyro_vae.")
            ]


def test_posterior_mean_with_and_without_a_closed_form():
    vae = build(Spec(SHAPE, D))
    x = torch.rand(4, *SHAPE).round()
    assert torch.equal(vae.posterior_mean(x), vae.encode(x).mean)
    normal = vae.encode(x)
    log_normal = torch.distributions.TransformedDistribution(
        normal, [torch.distributions.ExpTransform()]
    )
    vae.guide.given = lambda x: log_normal  # has no mean in torch
    known = torch.distributions.LogNormal(normal.base_dist.loc, normal.base_dist.scale)
    error = known.stddev / 10_000**0.5
    assert (
        (vae.posterior_mean(x, draws=10_000) - known.mean).abs() < 4.5 * error
    ).all()


def test_vae_accepts_any_torch_modules():
    from pyro_vae import Bernoulli, MeanField, StandardNormal

    decoder = torch.nn.Sequential(
        torch.nn.Linear(D, 30), torch.nn.Unflatten(-1, (1, *SHAPE))
    )
    vae = VAE(
        StandardNormal(D),
        decoder,
        Bernoulli(SHAPE),
        MeanField(torch.nn.Flatten(-2), D, features=30),
    )
    assert vae.reconstruct(torch.ones(2, *SHAPE)).shape == (2, *SHAPE)


@pytest.mark.parametrize("family", [Guide, Likelihood, Network, Objective, Prior])
def test_classes_that_only_look_like_members_are_none(family):
    """As `torch.export` makes them of modules, and leaves them to the garbage collector."""
    before = variants(family)
    copies = [
        type(c.__name__, (c,), {"__module__": c.__module__}) for c in before.values()
    ]
    assert {c.__module__ for c in copies} == {c.__module__ for c in before.values()}
    assert variants(family) == before
