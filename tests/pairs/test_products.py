"""Matrix products of compiled graphs."""

import copy
import itertools

import pytest
import torch

from pyro_vae import ELBO, SVI, Spec, build
from pyro_vae.engine import compiled, fusing, products
from pyro_vae.engine.affine import use_products

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs the kernels of this processor",
)

SIZES = [
    (1, 1, 1),
    (2, 3, 1),
    (7, 3, 2100),
    (20, 600, 16),
    (100, 784, 200),
    (257, 33, 65),
    (300, 1100, 70),
]
SIZES.append((200, 5000, 50))  # turned as a whole


def rows(m, n):
    return torch.randn(m, n)


def columns(m, n):
    return torch.randn(n, m).t()


def part(m, n):
    return torch.randn(m + 1, n + 3)[1:, 2:-1]


def strided(m, n):
    return torch.randn(m, 2 * n)[:, ::2]


def repeated(m, n):
    return torch.randn(1, n).expand(m, n)


@pytest.fixture
def product():
    products._compile()
    return torch.ops.pyro_vae.product


@pytest.fixture(params=[1, 2, 7])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_any_layout_are_right(size, product, threads):
    """Within the bound of any order of summation: terms x rounding x |a| |b| (Higham 2002, section 3.5)."""
    m, terms, n = size
    for left, right in itertools.product(
        (rows, columns, part, strided, repeated),
        (rows, columns, part, strided, repeated),
    ):
        a, b = left(m, terms), right(terms, n)
        truth, scale = a.double() @ b.double(), a.double().abs() @ b.double().abs()
        found = product(a, b)
        assert found.is_contiguous()
        assert ((found - truth).abs() <= terms * 2**-24 * scale).all(), (
            left.__name__,
            right.__name__,
        )


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.ones(2, 3).double(), torch.ones(3, 2), "float32"),
        (torch.ones(2, 3), torch.ones(2, 3), "sizes"),
        (torch.ones(2, 0), torch.ones(0, 2), "empty"),
        (torch.ones(2), torch.ones(2, 3), "matrices"),
    ],
)
def test_other_arguments_are_refused(a, b, said, product):
    with pytest.raises(RuntimeError, match=said):
        product(a, b)


def test_a_graph_hands_over_what_repays_the_call(product):
    x, w, bias = torch.randn(50, 80), torch.randn(70, 80), torch.randn(70)
    cases = {
        "product": [lambda x: x @ w.t(), lambda x: torch.addmm(bias, x, w.t())],
        "addmm": [
            lambda x: torch.addmm(torch.ones(50, 70), x, w.t()),
            lambda x: torch.addmm(bias, x, w.t(), beta=2),
        ],
        "mm": [
            lambda x: x.double() @ w.double().t(),
            lambda x: x[:, :20] @ w[:, :20].t(),
            lambda x: x[:1] @ w.t(),
        ],
    }
    for name, functions in cases.items():
        for function in functions:
            graph = compiled.trace(lambda x, f=function: ([f(x)], None), [], [x], (x,))
            fusing.biases_apart(graph.operations)
            products.by_kernels(graph.operations)
            targets = [f".{node.target}." for node in graph.operations.nodes]
            assert any(f".{name}." in target for target in targets), name
            module = graph.module
            torch.testing.assert_close(module(x, *graph.others)[0], function(x))


def test_steps_by_these_products_are_those_without_a_graph(product, monkeypatch):
    """And the fused optimizer, which trusts in the layout of gradients, moves as the other one."""
    taken = []

    def watched(graph):
        products.by_kernels(graph)
        product = torch.ops.pyro_vae.product.default
        taken.extend(node for node in graph.nodes if node.target is product)

    monkeypatch.setattr(compiled, "by_kernels", watched)
    torch.manual_seed(0)
    vae = build(Spec((16, 16), 8, network="mlp(hidden=(150,))"))
    use_products(vae, "onednn")
    twin = copy.deepcopy(vae)
    x = torch.rand(200, 16, 16).round()
    found = []
    for pair, asked in ((vae, True), (twin, False)):
        torch.manual_seed(1)
        adam = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=asked)
        svi = SVI(pair.model, pair.guide, adam, ELBO(), compile=asked)
        losses = [svi.step(x) for _ in range(6)]
        found.append([*losses, *(p.detach() for p in pair.parameters())])
    assert (
        len(taken) == 11
    )  # of four layers, three each, without the gradient of the data
    for mine, eager in zip(*found, strict=True):
        torch.testing.assert_close(mine, eager, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_pytorch_multiplies(monkeypatch, caplog):
    caplog.set_level("INFO")

    def missing():
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(products, "_compile", missing)
    assert not products.has_kernels.__wrapped__()
    assert "no C++ compiler" in caplog.text
