"""Each network against the same map from elsewhere, its shapes, and the strength of the signal it starts with."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.nn import functional

from pyro_vae import (
    VAE,
    FullRank,
    Gaussian,
    InputError,
    Spec,
    StandardNormal,
    build,
    log_marginal,
)
from pyro_vae.engine import affine as products
from pyro_vae.networks import (
    ACTIVATIONS,
    MLP,
    ConvNet,
    GatedConv,
    GatedMLP,
    Linear,
    ResNet,
)
from pyro_vae.networks.base import gain

IMAGES = (ConvNet, GatedConv, ResNet)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_linear_is_one_affine_map():
    x, z = torch.randn(4, 2, 6, 5), torch.randn(4, 2, 3)
    down, up = Linear.encoder((6, 5)), Linear.decoder(3, (2, 6, 5))
    assert not list(down.parameters())
    assert torch.equal(down(x), x.reshape(4, 2, 30))
    layer = up.output_layer
    torch.testing.assert_close(
        up(z), (z @ layer.weight.T + layer.bias).reshape(4, 2, 2, 6, 5)
    )


def test_linear_with_gaussian_is_probabilistic_pca():
    """Truth: `x ~ N(b, W W^T + scale^2 I)`; with the exact posterior as the guide one draw gives it without error."""
    decoder, guide = Linear.decoder(2, (1, 5)), FullRank(Linear.encoder((5,)), 2)
    vae = VAE(StandardNormal(2), decoder, Gaussian((5,), scale=0.7), guide).double()
    w, b = torch.randn(5, 2).double(), torch.randn(5).double()
    covariance = torch.linalg.inv(torch.eye(2).double() + w.T @ w / 0.49)
    back = covariance @ w.T / 0.49
    below = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        decoder.output_layer.weight.copy_(w)
        decoder.output_layer.bias.copy_(b)
        guide.head.weight.zero_()
        guide.head.weight[:2] = back
        entry = below[1, 0] / below[1, 1] * 2**0.5  # in the units of FullRank
        guide.head.bias.copy_(
            torch.stack([*(-back @ b), *below.diagonal().log(), entry])
        )
    truth = scipy.stats.multivariate_normal(
        b.numpy(), (w @ w.T).numpy() + 0.49 * torch.eye(5).double().numpy()
    )
    x = torch.randn(20, 5).double()
    ours = log_marginal(vae.model, vae.guide, x, num_particles=1).values
    torch.testing.assert_close(ours, torch.as_tensor(truth.logpdf(x.numpy())))


@pytest.mark.parametrize("cls", [Linear, MLP])
def test_no_hidden_layers_make_the_same_map(cls):
    arguments = {} if cls is Linear else {"hidden": ()}
    up = cls.decoder(3, (1, 4), **arguments)
    assert [p.shape for p in up.parameters()] == [(4, 3), (4,)]
    assert cls.encoder((2, 4), **arguments).out_shape == (8,)


def test_gated_mlp_is_the_formula():
    up = GatedMLP.decoder(3, (2, 4), hidden=(6, 5)).double()  # widths 3, 5, 6, 8
    parameters = dict(up.named_parameters())
    with torch.no_grad():
        for p in parameters.values():
            p.copy_(torch.randn_like(p))
    matrices = [p for p in parameters.values() if p.dim() == 2]
    biases = [p for p in parameters.values() if p.dim() == 1]
    assert [m.shape for m in matrices] == [(10, 3), (12, 5), (8, 6)]
    z = torch.randn(7, 3).double()
    h = z
    for m, c, n in zip(matrices, biases, (5, 6), strict=False):
        h = (h @ m[:n].T + c[:n]) / (1 + torch.exp(-(h @ m[n:].T + c[n:])))
    torch.testing.assert_close(
        up(z), (h @ matrices[-1].T + biases[-1]).reshape(7, 2, 4)
    )


def test_gated_mlp_drops_units_only_while_training():
    net, x = GatedMLP((6,), hidden=(50,), dropout=0.5), torch.randn(4, 6)
    assert 50 < (net(x) == 0).sum() < 150
    assert not (net.eval()(x) == 0).any()


def test_gated_conv_is_glu_of_the_plain_convolution():
    x, z = torch.randn(4, 3, 9, 11).double(), torch.randn(4, 5).double()
    down = GatedConv.encoder((3, 9, 11), channels=(4, 6)).double()
    w1, b1, w2, b2 = down.parameters()
    h = functional.glu(functional.conv2d(x, w1, b1, stride=2, padding=1), 1)
    h = functional.glu(functional.conv2d(h, w2, b2, stride=2, padding=1), 1)
    torch.testing.assert_close(down(x), h.flatten(1))
    up = GatedConv.decoder(5, (2, 3, 9, 11), channels=(4, 6)).double()
    w0, b0, w1, b1, w2, b2 = up.parameters()
    h = functional.glu((z @ w0.T + b0).reshape(4, 12, 3, 3), 1)
    h = functional.glu(
        functional.conv_transpose2d(h, w1, b1, 2, 1, (0, 1)), 1
    )  # 3×3 to 5×6
    h = functional.conv_transpose2d(h, w2, b2, 2, 1, (0, 0))  # 5×6 to 9×11
    torch.testing.assert_close(up(z), h.reshape(4, 2, 3, 9, 11))


def test_resnet_is_the_sum_of_its_branches():
    x = torch.randn(4, 1, 7, 5).double()
    net = ResNet.encoder((7, 5), channels=(4,), blocks=2, activation="tanh").double()
    (w, b), *branches = list(zip(*[iter(net.parameters())] * 2, strict=True))
    h = functional.conv2d(x, w, b, stride=2, padding=1)
    for (w1, b1), (w2, b2) in (branches[:2], branches[2:]):
        h = h + functional.conv2d(
            functional.conv2d(h.tanh(), w1, b1, padding=1).tanh(), w2, b2, padding=1
        )
    torch.testing.assert_close(net(x[:, 0]), h.tanh().flatten(1))


def test_resnet_without_its_branches_is_a_conv_net():
    x, z = torch.randn(4, 7, 5), torch.randn(4, 3)
    for make, given in (
        (lambda c, **a: c.encoder((7, 5), **a), x),
        (lambda c, **a: c.decoder(3, (2, 7, 5), **a), z),
    ):
        res, plain = make(ResNet, blocks=3), make(ConvNet, activation="elu")
        with torch.no_grad():
            for name, p in res.named_parameters():
                if "branch" in name:
                    p.zero_()
            rest = [p for name, p in res.named_parameters() if "branch" not in name]
            for ours, theirs in zip(plain.parameters(), rest, strict=True):
                ours.copy_(theirs)
        torch.testing.assert_close(res(given), plain(given))


@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 6, 8)])
@pytest.mark.parametrize("shape", [(7, 5), (28, 28), (3, 9, 11), (1, 1)], ids=str)
@pytest.mark.parametrize("cls", IMAGES)
def test_images_of_any_size_in_both_directions(cls, shape, channels):
    down, up = (
        cls.encoder(shape, channels=channels),
        cls.decoder(3, (2, *shape), channels=channels),
    )
    halved = [math.ceil(n / 2 ** len(channels)) for n in shape[-2:]]
    assert down.out_shape == (channels[-1] * math.prod(halved),)
    assert down(torch.randn(2, 3, *shape)).shape == (2, 3, *down.out_shape)
    assert up(torch.randn(2, 3, 3)).shape == (2, 3, 2, *shape)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gain_is_the_inverse_root_mean_square(activation):
    f = ACTIVATIONS[activation]()
    density = scipy.stats.norm.pdf

    def integrand(g):
        return f(torch.tensor(g, dtype=torch.float64)).item() ** 2 * density(g)

    mean = sum(
        scipy.integrate.quad(integrand, *ends)[0] for ends in ((-12, 0), (0, 12))
    )
    assert gain(f) == pytest.approx(mean**-0.5, rel=1e-4)


@pytest.mark.parametrize("width", [30, 300])
def test_gates_keep_the_variance(width):
    """Into layers of the same width and from them to narrower and wider ones."""
    h = torch.randn(2000, width)
    net = GatedMLP((width,), (width,), hidden=(width, width // 2, 2 * width))
    for layer in net.layers:
        h = layer(h)
        if not isinstance(layer, torch.nn.Linear):
            assert 0.6 < h.square().mean() < 1.7
    assert 0.6 < h.var() < 1.7


@pytest.mark.parametrize("cls", [GatedConv, ResNet])
@pytest.mark.parametrize("channels", [(16, 16, 16, 16), (8, 16, 32, 64)], ids=str)
def test_convolutions_keep_the_variance_through_four_layers(cls, channels):
    """But for a factor of up to e that residual branches add, and the zeros that padding brings in."""
    downs, ups = [], []
    for _ in range(5):
        downs.append(
            cls.encoder((3, 64, 64), channels=channels)(torch.randn(4, 3, 64, 64))
        )
        ups.append(
            cls.decoder(16, (1, 3, 64, 64), channels=channels)(torch.randn(16, 16))
        )
    for outputs in (downs, ups):
        assert 0.5 < torch.stack(outputs).square().mean() < 4


def test_resnet_does_not_grow_with_its_depth():
    x = torch.randn(8, 32, 32)
    for blocks in (1, 4, 16):
        assert 0.5 < ResNet.encoder((32, 32), blocks=blocks)(x).square().mean() < 4


def test_a_decoder_mirrors_its_encoder():
    arguments = {"hidden": (20, 10)}
    widths = [
        layer.in_features
        for layer in GatedMLP.decoder(3, (1, 6), **arguments).layers[::2]
    ]
    assert widths == [3, 10, 20]
    assert GatedMLP.encoder((6,), **arguments).out_shape == (10,)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "gatedmlp(hidden=(0,))",
            "hidden=(0,) of GatedMLP must be a tuple of whole numbers",
        ),
        ("gatedmlp(dropout=1.0)", "dropout=1.0 of GatedMLP must be a number in [0, 1)"),
        ("gatedconv(channels=())", "GatedConv needs images"),
        (
            "gatedconv(channels=(2.5,))",
            "channels=(2.5,) of GatedConv must be a tuple of whole numbers",
        ),
        ("resnet(channels=())", "ResNet needs images"),
        (
            "resnet(channels=(-1,))",
            "channels=(-1,) of ResNet must be a tuple of whole numbers",
        ),
        ("resnet(blocks=0)", "blocks=0 of ResNet must be a whole number"),
        ("resnet(blocks=(1, 2))", "blocks=(1, 2) of ResNet must be a whole number"),
        ("resnet(activation='swish')", "activation='swish' of ResNet must be"),
        ("linear(hidden=(3,))", "linear has no argument hidden: it takes interaction"),
    ],
)
def test_wrong_arguments(network, message):
    with pytest.raises(InputError) as error:
        build(Spec((6, 5), network=network))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", IMAGES)
def test_convolutions_need_images(cls):
    for arguments in (((7,),), ((3,), (1, 7)), ((2, 3, 4, 5),)):
        with pytest.raises(
            InputError,
            match=rf"{cls.__name__} needs images of shape \(H, W\) or \(C, H, W\)",
        ):
            cls(*arguments)


@pytest.mark.parametrize(
    ("cls", "first"),
    [(MLP, [0.1088, 0.1527, -0.1539]), (ConvNet, [0.3475, 0.1864, -0.2534])],
)
def test_a_seed_gives_the_weights_it_always_gave(cls, first):
    """The last weights drawn, so that every draw before them counts; checkpoints and published runs rely on them."""
    weights = cls.decoder(3, (1, 6, 5)).output_layer.weight.flatten()[:3]
    torch.testing.assert_close(weights, torch.tensor(first), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40, 30), (2, 300, 30), (900, 30), (900, 33)])
def test_affine_is_linear_by_another_library(shape, bias, monkeypatch):
    """Values, gradients, and gradients of gradients, against `torch.nn.Linear`."""
    torch.manual_seed(0)
    affine, linear = (
        products.Affine(30, 50, bias=bias),
        torch.nn.Linear(30, 50, bias=bias),
    )
    linear.load_state_dict(affine.state_dict())
    calls = []
    monkeypatch.setattr(products, "LARGE", 0)
    products.use_products(affine, "onednn")
    monkeypatch.setattr(
        products, "by_onednn", lambda *a, f=products.by_onednn: calls.append(1) or f(*a)
    )
    x, weights = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 50)
    found = []
    for layer in (affine, linear):
        y = layer(x[..., :30])
        parameters = [x, *layer.parameters()]
        first = torch.autograd.grad((y.sin() * weights).sum(), parameters)
        again = (layer(x[..., :30]).sin() * weights).sum()
        twice = torch.autograd.grad(again, x, create_graph=True)[0].square().sum()
        found.append([y, *first, *torch.autograd.grad(twice, [x, layer.weight])])
    assert len(calls) == 6  # twice forward, to x and to the weight
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_affine_leaves_transforms_to_pytorch(monkeypatch):
    monkeypatch.setattr(products, "LARGE", 0)
    affine, x = products.Affine(3, 2), torch.randn(4, 3)
    products.use_products(affine, "onednn")
    jacobians = torch.func.vmap(torch.func.jacrev(affine))(x)
    torch.testing.assert_close(jacobians, affine.weight.expand(4, 2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(x).dtype is torch.bfloat16
    assert affine.double()(x.double()).dtype is torch.float64


@pytest.mark.parametrize("network", ["mlp", "gatedmlp"])
def test_dropout_of_encoder_and_decoder_apart(network):
    for dropout, of in (
        ("(0.3, 0.0)", [0.3]),
        ("(0.0, 0.4)", [0.4]),
        ("[0.3, 0.4]", [0.3, 0.4]),
    ):
        vae = build(Spec((4,), 2, network=f"{network}(hidden=(9,), dropout={dropout})"))
        found = [m.p for m in vae.modules() if isinstance(m, torch.nn.Dropout)]
        assert sorted(found) == of
    for wrong, message in (
        ("(0.1, 0.2, 0.3)", "must be a tuple of 2 numbers"),
        ("(0.1, 1.0)", "must be a tuple of 2 numbers"),
    ):
        with pytest.raises(InputError, match=message):
            build(Spec((4,), 2, network=f"{network}(dropout={wrong})"))


def test_one_network_has_one_dropout():
    with pytest.raises(InputError, match="this is one network: give it one number"):
        MLP((4,), dropout=(0.1, 0.2))
