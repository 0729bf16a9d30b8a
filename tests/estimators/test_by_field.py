"""Several fields: densities of all, of each and of one given others, against closed forms."""

import math
from functools import partial

import pyro
import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import MultivariateNormal

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
    build,
    by_field,
    draws_given,
    elbo,
    fit,
    guides,
    imputations,
    load,
    log_marginal,
    save,
)
from pyro_vae.inference.objectives import IWAE, Annealed, Subsets
from pyro_vae.inference.objectives.fields import drawn_subset
from pyro_vae.likelihoods import Categorical, Columns, Fields
from pyro_vae.networks.fields import FieldDecoder, FieldEncoder

SHAPES = {"left": (3,), "right": (2, 1)}


class Linear:
    """`z ~ N(0, I)`, two fields that are linear in z with noise, and a product of experts that is the posterior."""

    def __init__(self, noise=(0.6, 0.9)):
        torch.manual_seed(0)
        fields = {
            n: partial(Gaussian, scale=s) for n, s in zip(SHAPES, noise, strict=True)
        }
        likelihood = Fields((5,), fields=fields, shapes=SHAPES)
        decoder = FieldDecoder(
            {
                name: MLP((2,), member.output_shape, hidden=())
                for name, member in zip(SHAPES, likelihood.members, strict=True)
            }
        )
        bodies = {name: MLP(shape, hidden=()) for name, shape in SHAPES.items()}
        guide = guides.ProductOfExperts(FieldEncoder(bodies, SHAPES), 2)
        self.vae = VAE(StandardNormal(2), decoder, likelihood, guide).double()
        with torch.no_grad():
            for network in decoder.networks:
                layer = network.layers[0]
                columns = torch.linalg.qr(torch.randn_like(layer.weight)).Q
                layer.weight.copy_(columns * torch.tensor([1.5, 0.7]))
                layer.bias.copy_(torch.randn_like(layer.bias))
            # Orthogonal columns leave latents independent: the product is the posterior given any fields.
            parts = zip(guide.heads, decoder.networks, noise, strict=True)
            for head, network, scale in parts:
                w, b = network.layers[0].weight, network.layers[0].bias
                head.weight.zero_()
                head.weight[:2] = w.T / scale**2
                head.bias[:2] = -w.T @ b / scale**2
                head.bias[2:] = -0.5 * (w.square().sum(0) / scale**2).log()
        w = torch.cat([network.layers[0].weight for network in decoder.networks])
        self.b = torch.cat([network.layers[0].bias for network in decoder.networks])
        scale = torch.tensor([noise[0]] * 3 + [noise[1]] * 2).double()
        self.covariance = (w @ w.T + torch.diag(scale**2)).detach()
        self.marginal = MultivariateNormal(self.b.detach(), self.covariance)

    def alone(self, places):
        """The distribution of some elements."""
        covariance = self.covariance[places][:, places]
        return MultivariateNormal(self.b.detach()[places], covariance)


LEFT, RIGHT = torch.arange(3), torch.arange(3, 5)


def test_fields_are_sites_whose_densities_add_up():
    model = Linear()
    x = model.marginal.sample((4,))
    trace = pyro.poutine.trace(model.vae.model).get_trace(x)
    trace.compute_log_prob()
    assert [*trace.stochastic_nodes, *trace.observation_nodes] == [
        "data",
        "z",
        "left",
        "right",
    ]
    z = trace.nodes["z"]["value"]
    each = [trace.nodes[name]["log_prob"] for name in ("z", *SHAPES)]
    torch.testing.assert_close(sum(each), model.vae.model.log_prob({"x": x, "z": z}))
    whole = model.vae.decode(z).log_prob(x)
    torch.testing.assert_close(each[1] + each[2], whole)
    by_name = model.vae.model.fields.split(x)
    other = pyro.poutine.trace(model.vae.model).get_trace(by_name)
    assert other.nodes["right"]["value"].equal(by_name["right"])


def test_what_a_model_of_fields_returns_is_a_datum():
    vae = Linear().vae
    assert vae.model(size=7).shape == (7, 5)
    assert vae.sample(3).shape == vae.sample(3, mean=True).shape == (3, 5)


def test_log_p_of_all_of_each_and_of_one_given_the_other():
    model = Linear()
    x = model.marginal.sample((12,))
    torch.manual_seed(0)
    found = by_field(model.vae, x, num_particles=20_000)
    truth = {
        "joint": model.marginal.log_prob(x),
        "left": model.alone(LEFT).log_prob(x[:, LEFT]),
        "right": model.alone(RIGHT).log_prob(x[:, RIGHT]),
    }
    torch.testing.assert_close(found.joint, truth["joint"])
    # A third of the draws are the guide's own, which is exact: a weight is at most thrice the truth, and the relative
    # error of their mean at most sqrt(2 / 20,000).
    near = partial(torch.testing.assert_close, rtol=0, atol=0.03)
    near(found.alone[:, 0], truth["left"])
    near(found.alone[:, 1], truth["right"])
    near(found.given_others[:, 0], truth["joint"] - truth["right"])
    near(found.given_others[:, 1], truth["joint"] - truth["left"])
    row = found.answer().rows["left"]
    assert row["gain"] == pytest.approx(
        (found.given_others - found.alone)[:, 0].mean().item()
    )


def test_a_missing_field_is_left_out_of_every_number():
    model = Linear()
    x = model.marginal.sample((9,))
    holed = x.clone()
    holed[:3, LEFT] = math.nan
    holed[3:6, RIGHT] = math.nan
    torch.manual_seed(1)
    values = log_marginal(
        model.vae.model, model.vae.guide, holed, num_particles=20
    ).values
    truth = torch.cat(
        [
            model.alone(RIGHT).log_prob(x[:3, RIGHT]),
            model.alone(LEFT).log_prob(x[3:6, LEFT]),
            model.marginal.log_prob(x[6:]),
        ]
    )
    torch.testing.assert_close(values, truth)
    found = by_field(model.vae, holed, num_particles=10)
    assert found.alone[:, 0].isnan().tolist() == [True] * 3 + [False] * 6
    assert found.others[:, 0].isnan().tolist() == [True] * 6 + [False] * 3
    # By name a field that is not there need not be given.
    right = {"right": x[:3, RIGHT].unflatten(1, (2, 1))}
    torch.manual_seed(1)
    named = log_marginal(model.vae.model, model.vae.guide, right, num_particles=20)
    torch.testing.assert_close(named.values, truth[:3])


def test_what_is_missing_is_made_from_what_is_there():
    model = Linear()
    x = model.marginal.sample((6,))
    holed = x.clone()
    holed[:, RIGHT] = math.nan
    found = imputations(model.vae, holed, num_particles=10_000)
    across = model.covariance[RIGHT][:, LEFT] @ torch.linalg.inv(
        model.covariance[LEFT][:, LEFT]
    )
    b = model.b.detach()
    truth = b[RIGHT] + (x[:, LEFT] - b[LEFT]) @ across.T
    torch.testing.assert_close(found.mean[:, RIGHT], truth, rtol=0, atol=0.08)
    drawn = draws_given(model.vae, holed[0], 4000, num_particles=100_000).draws
    torch.testing.assert_close(drawn.mean(0)[RIGHT], truth[0], rtol=0, atol=0.1)
    assert drawn[:, LEFT].eq(x[0, LEFT]).all()


def test_a_prior_helps_where_a_guide_knows_nothing_of_a_field_alone():
    model = Linear()
    with torch.no_grad():  # far from anything, and sure of it
        model.vae.guide.heads[0].bias.copy_(torch.tensor([5e3, 5e3, -3.0, -3.0]))
        model.vae.guide.heads[0].weight.zero_()
    x = model.marginal.sample((1,))[0]
    x[RIGHT] = math.nan
    assert draws_given(model.vae, x, 10).ess > 100


def test_a_field_alone_is_weighed_by_the_prior_where_the_guide_knows_nothing_of_it():
    model = Linear()
    with torch.no_grad():
        model.vae.guide.heads[0].bias.copy_(torch.tensor([5e3, 5e3, -3.0, -3.0]))
        model.vae.guide.heads[0].weight.zero_()
    x = model.marginal.sample((12,))
    torch.manual_seed(0)
    found = by_field(model.vae, x, num_particles=20_000, joint=None).alone[:, 0]
    truth = model.alone(LEFT).log_prob(x[:, LEFT])
    torch.testing.assert_close(found, truth, rtol=0, atol=0.15)


@pytest.mark.parametrize(
    "there", [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_product_of_experts_is_the_product_of_their_densities(there):
    torch.manual_seed(0)
    shapes = {"a": (2,), "b": (1,)}
    bodies = {name: MLP(shape, hidden=(4,)) for name, shape in shapes.items()}
    guide = guides.ProductOfExperts(FieldEncoder(bodies, shapes), 1).double()
    features = [torch.randn(1, 4).double() for _ in there]
    seen = torch.tensor([there]).double()
    h = torch.cat([*(f * s for f, s in zip(features, there, strict=True)), seen], 1)
    q = guide.posterior(h)
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(1)
    log_density = -0.5 * z.square().squeeze(1)
    for head, of_field, known in zip(guide.heads, features, there, strict=True):
        weighed, log_scale = head(of_field)[0]
        scale = log_scale.exp()
        if known:
            log_density = (
                log_density - 0.5 * ((z[:, 0] - weighed * scale**2) / scale) ** 2
            )
    weight = log_density.softmax(0)
    torch.testing.assert_close(
        q.mean[0, 0], (weight * z[:, 0]).sum(), rtol=1e-6, atol=1e-8
    )
    normal = log_density - torch.trapezoid(log_density.exp(), z[:, 0]).log()
    torch.testing.assert_close(q.log_prob(z), normal, rtol=0, atol=1e-6)


def test_a_mixture_of_experts_is_the_mean_of_those_that_are_there():
    torch.manual_seed(0)
    shapes = {"a": (2,), "b": (1,)}
    bodies = {name: MLP(shape, hidden=(4,)) for name, shape in shapes.items()}
    guide = guides.MixtureOfExperts(FieldEncoder(bodies, shapes), 2).double()
    h = torch.randn(2, 10).double()
    h[:, 8:] = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    z = torch.randn(2, 2).double()
    each = []
    for head, of_field in zip(guide.heads, h[:, :8].split(4, 1), strict=True):
        loc, log_scale = head(of_field).chunk(2, -1)
        each.append(
            torch.distributions.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
        )
    first, second = each
    truth = torch.stack([torch.logaddexp(first[0], second[0]) - math.log(2), second[1]])
    torch.testing.assert_close(guide.posterior(h).log_prob(z), truth)


def test_subsets_are_drawn_evenly_among_the_fields_that_are_there():
    torch.manual_seed(0)
    seen = torch.tensor([[True, True, True, False]]).expand(60_000, -1)
    found, counts = drawn_subset(seen).unique(dim=0, return_counts=True)
    assert len(found) == 6  # neither none nor all
    assert not found[:, 3].any()
    assert (counts - 10_000).abs().max() < 500
    one = torch.tensor([[False, True]])
    assert drawn_subset(one).equal(one)


@pytest.mark.parametrize("inner", [ELBO(), IWAE(num_particles=3), Annealed(epochs=4)])
def test_subsets_add_the_objective_of_some_fields(inner):
    model, x = Linear(), Linear().marginal.sample((8,))
    inner.advance(2)
    pair = model.vae.model, model.vae.guide
    torch.manual_seed(3)
    loss = Subsets(objective=inner, weight=0.5).differentiable_loss(*pair, x)
    gradient = torch.autograd.grad(loss, [*model.vae.model.parameters()])
    torch.manual_seed(3)
    first = inner.differentiable_loss(*pair, x)
    layout = model.vae.model.fields
    fewer = layout.kept(x, drawn_subset(layout.seen(x)))
    whole = first + 0.5 * inner.differentiable_loss(*pair, fewer)
    torch.testing.assert_close(loss, whole)
    for mine, theirs in zip(
        gradient,
        torch.autograd.grad(whole, [*model.vae.model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_subsets_are_of_several_fields():
    vae = build(Spec((4,), 2))
    with pytest.raises(InputError, match="the data are one"):
        SVI(vae.model, vae.guide, torch.optim.Adam, Subsets()).step(torch.ones(3, 4))
    with pytest.raises(InputError, match="wraps an Objective"):
        Subsets(objective=dict)


# --------------------------------------------------------------------------------------------------------------------


def image_and_label(guide=MeanField, *, side=2, levels=3, latent_dim=2, **options):
    """A picture of bits, four by default, and one of three labels."""
    torch.manual_seed(0)
    label = partial(Columns, columns={"label": partial(Categorical, levels=levels)})
    shapes = {"image": (side, side), "label": (1,)}
    likelihood = Fields(
        (side * side + 1,), fields={"image": Bernoulli, "label": label}, shapes=shapes
    )
    members = dict(zip(shapes, likelihood.members, strict=True))
    bodies = {n: MLP(m.seen_shape, hidden=(20,), **options) for n, m in members.items()}
    networks = {
        n: MLP((latent_dim,), m.output_shape, hidden=(20,), **options)
        for n, m in members.items()
    }
    encoder = FieldEncoder(bodies, shapes)
    prior, decoder = StandardNormal(latent_dim), FieldDecoder(networks)
    return VAE(prior, decoder, likelihood, guide(encoder, latent_dim))


def data():
    torch.manual_seed(1)
    label = torch.randint(0, 3, (200,))
    rows = torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [1, 1]], [[1, 0], [0, 1]]])
    return {"image": rows[label], "label": label.float()}


def test_a_pair_of_fields_learns_what_they_tell_of_each_other():
    vae, x = image_and_label(), data()
    fit(vae, x, epochs=30, learning_rate=0.01, batch_size=50, objective=Subsets())
    only = {"image": x["image"][:9]}
    labels = imputations(vae, only, num_particles=300).point[:, 4]
    assert labels.equal(x["label"][:9])
    found = by_field(vae, x, num_particles=100)
    # Either field says all of the other, whose entropy is log 3.
    assert (found.given_others - found.alone).mean(0).min() > 0.6 * math.log(3)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [guides.ProductOfExperts, guides.MixtureOfExperts])
def test_experts_do_not_collapse_on_digits(guide):
    """The picture of a digit tells its label, and z is used."""
    digits = load_digits()
    image = torch.from_numpy(digits.images / 16 > 0.5).float()
    label = torch.from_numpy(digits.target).float()
    vae = image_and_label(guide, side=8, levels=10, latent_dim=8)
    train = {"image": image[:1500], "label": label[:1500]}
    fit(vae, train, epochs=60, learning_rate=3e-3, objective=Subsets())
    seen = {"image": image[1500:], "label": label[1500:]}
    assert elbo(vae.model, vae.guide, seen).kl > 3
    only = {"image": image[1500:]}
    found = imputations(vae, only, num_particles=100).point[:, 64]
    assert (found == label[1500:]).float().mean() > 0.7


def test_a_field_alone_is_weighed_by_what_all_fields_say():
    """Where the guide knows nothing of a field alone, what it says of both is a better start than the prior."""
    model = Linear(
        noise=(0.02, 3.0)
    )  # all fields say what the sharp one does, and the prior finds it seldom
    x = model.marginal.sample((12,))
    truth = model.alone(LEFT).log_prob(x[:, LEFT])
    exact = model.vae.guide.variational_parameters

    def astray(h):
        """Far from anything, and sure of it, where the right field is missing."""
        return exact(h) + 1e3 * (h[..., -1:] == 0) * torch.tensor([1.0, 1, 0, 0])

    model.vae.guide.variational_parameters = astray
    torch.manual_seed(0)
    found = by_field(model.vae, x, num_particles=2_000)
    torch.testing.assert_close(found.alone[:, 0], truth, rtol=0, atol=0.15)
    assert found.pareto_k[:, 0].median() < 0.7


def test_a_pair_that_was_made_in_code_is_kept(tmp_path):
    vae = image_and_label(guides.ProductOfExperts)
    vae.start(data())
    save(vae, tmp_path / "pair.safetensors")
    torch.manual_seed(0)
    expected = elbo(vae.model, vae.guide, data())
    torch.manual_seed(0)
    again = load(tmp_path / "pair.safetensors")
    assert elbo(again.model, again.guide, data()) == expected


def test_a_condition_goes_to_every_field():
    vae = image_and_label(context=2)
    x, c = data(), torch.randn(200, 2)
    fit(vae, x, c=c, epochs=1)
    result = log_marginal(vae.model, vae.guide, x, num_particles=10, c=c)
    assert result.values.isfinite().all()
    assert vae.sample(3, c[:3]).shape == (3, 5)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            {"images": torch.zeros(3, 2, 2)},
            "a field images, and the pair knows image, label",
        ),
        ({"image": torch.zeros(3, 4)}, r"the field image of x has shape \(3, 4\)"),
        ({"image": torch.zeros(3, 2, 2), "label": torch.zeros(2)}, "have 2 and 3 rows"),
        (
            {"image": torch.zeros(3, 2, 2), "label": torch.full((3,), 5.0)},
            "field label: .*label",
        ),
        ({"image": "folder"}, "the field image of x is a str"),
        ({}, "have no rows"),
    ],
)
def test_fields_that_do_not_fit(x, words):
    vae = image_and_label()
    with pytest.raises(InputError, match=words):
        log_marginal(vae.model, vae.guide, x, num_particles=2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fields": {"a": Bernoulli}, "shapes": {"a": (4,)}}, "has one field"),
        (
            {"fields": {"x": Bernoulli, "b": Bernoulli}},
            "called x, which names something else",
        ),
        ({"fields": {"a-b": Bernoulli, "b": Bernoulli}}, "letters, digits and _"),
        (
            {"fields": {"a": Bernoulli, "b": Bernoulli}, "shapes": {"a": (4,)}},
            "the same fields",
        ),
        (
            {
                "fields": {"a": Bernoulli, "b": Bernoulli},
                "shapes": {"a": (2,), "b": (1,)},
            },
            "have 3 elements together",
        ),
        (
            {"fields": {"a": Bernoulli, "b": 3}, "shapes": {"a": (2,), "b": (2,)}},
            "gives 'b'",
        ),
    ],
)
def test_fields_that_cannot_be(given, words):
    with pytest.raises(InputError, match=words):
        Fields((4,), **{"shapes": {"x": (2,), "b": (2,)}, **given})
