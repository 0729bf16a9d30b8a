"""Functions written down as graphs, against themselves: the same bits from other tensors and for the second call."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from benchmarks.zoo import PAIRS
from pyro_vae import SVI
from pyro_vae.engine import compiled
from pyro_vae.engine.compiled import _CannotCompileError, interpret_graph, trace

aten = torch.ops.aten
CLOSED_OVER = torch.tensor([1.0, 2.0, 3.0])
norm = nn.BatchNorm1d(3)


def traced(function, *inputs, state=()):
    return trace(
        lambda *args: (function(*args), None), list(state), list(inputs), inputs
    )


def written_to(x):
    """Equal expressions, of which one is written to, and a view of it is read."""
    one, other = x + 1, x + 1
    shown = one[1:]
    one.mul_(2)
    return [one + other, shown + 0, other * 1]


def read_twice(x):
    """The same expression before and after its argument changed, through a view."""
    y = x * 1
    before = y + 1
    y.detach()[0].zero_()
    return [before, y + 1, before - (y + 1)]


def constant_written_to(x):
    total = torch.tensor(0.0)
    for number in x:
        total += number
    return [total, torch.tensor(0.0) + x]


def signs_and_types(x):
    """Numbers that compare equal and are not the same."""
    zeros = [torch.tensor(0.0), torch.tensor(-0.0)]
    powers = [torch.tensor(1), torch.tensor(True), torch.tensor(1.0)]
    return [
        *((1 + x.abs()) / zero for zero in zeros),
        *((p + p) * x for p in powers),
        x + 1,
        x + 1.0,
    ]


def shapes(x):
    parts = x.split(1)
    y = x.view(1, 3).detach()
    y.t_()
    return [y, parts[0] + parts[2], *x.unbind(), x.view(3) + x.expand(3), x.detach()]


def equal_results(x):
    """Outputs that are equal, which a caller may write to one after the other."""
    return [x * 2, x * 2, (x * 2).detach(), torch.ones(3), torch.ones(3)]


def of_a_closure(x):
    return [x + CLOSED_OVER, CLOSED_OVER * x]


def by_number(x):
    place = torch.tensor(0)
    place += 1
    return [x[torch.tensor(2)], x[place]]


def normalised(x):
    return [norm(torch.outer(x, x)), norm.running_mean + 0]


def differentiated(x):
    x = x.detach().requires_grad_()
    y = (x.exp() * x).sum()
    return list(torch.autograd.grad(y, [x]))


def conjugated(x):
    z = torch.complex(x, 2 * x)
    return [
        (z.conj() * 3).imag,
        (z.conj().imag + 1),
        (z.conj() * z).real,
        z.conj().detach().imag * 1,
    ]


FUNCTIONS = [
    conjugated,
    written_to,
    read_twice,
    constant_written_to,
    signs_and_types,
    shapes,
    equal_results,
    of_a_closure,
    by_number,
    normalised,
    differentiated,
]


@pytest.mark.parametrize("runs", ["module", "operations"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_graph_is_the_function(function, runs):
    state = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    graph = traced(function, torch.tensor([0.5, 1.0, 2.0]), state=state)
    run = graph.module if runs == "module" else interpret_graph(graph)
    for x in (torch.tensor([3.0, -1.0, 0.25]), torch.tensor([-2.0, 0.0, 7.0])):
        before = [t.clone() for t in state]
        expected, after = function(x), [t.clone() for t in state]
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        with torch.no_grad():
            found = run(*state, x, *graph.others)
        for mine, theirs in zip([*found, *state], [*expected, *after], strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs.detach())
            assert torch.equal(mine.signbit(), theirs.detach().signbit())
        held = [
            t for t in found if t.data_ptr() not in (x.data_ptr(), found[0].data_ptr())
        ]
        assert function is not equal_results or len(
            {t.data_ptr() for t in held}
        ) == len(held)


def test_what_a_graph_writes_to_is_known():
    state = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    assert traced(normalised, torch.ones(3), state=state).changes == (0, 1, 2)
    assert traced(written_to, torch.ones(3)).changes == ()
    assert traced(
        lambda x, y: [y.view(3)[1:].add_(x[1:])], *torch.ones(2, 3)
    ).changes == (1,)


def test_draws_that_look_alike_are_two():
    graph = traced(lambda x: [torch.randn_like(x) - torch.randn_like(x)], torch.ones(3))
    assert graph.draws
    assert (interpret_graph(graph)(torch.ones(3))[0] != 0).all()


def test_what_is_drawn_and_not_used_is_drawn():
    def function(x):
        torch.randn_like(x)
        return [torch.randn_like(x)]

    x = torch.ones(3)
    run = interpret_graph(traced(function, x))
    torch.manual_seed(0)
    expected = function(x)[0]
    torch.manual_seed(0)
    assert torch.equal(run(x)[0], expected)


def test_what_is_not_used_equal_or_nothing_is_left_out():
    def function(x):
        (x + 3).log()
        y = x.view(3).detach() + 1
        return [y * (x + 1)]

    graph = traced(function, torch.ones(3))
    targets = [
        node.target for node in graph.operations.nodes if node.op == "call_function"
    ]
    assert targets == [aten.add.Tensor, aten.mul.Tensor]


def test_the_value_of_what_depends_on_inputs_is_assumed_where_it_is_whole():
    def function(x):
        place = torch.tensor(1)
        shown = place.view(1)
        shown.add_(x.long()[0])
        return [aten._local_scalar_dense(place) * x]

    graph = traced(function, torch.zeros(3))
    assert (
        graph.module(torch.full((3,), 0.5))[0].tolist() == [0.5] * 3
    )  # one times as much
    assert graph.module(torch.full((3,), 0.5))[-1]
    assert not graph.module(torch.ones(3))[-1]


def test_the_value_of_a_real_number_that_depends_on_inputs_is_not_known():
    def function(x):
        return [aten._local_scalar_dense(x.sum()) * x]

    with pytest.raises(_CannotCompileError, match="a tensor's value decides"):
        traced(function, torch.zeros(3))


def test_lower_precision_follows_the_weight():
    """What autocast kept before a graph is made is no part of it."""
    layer = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        graph = traced(lambda x: [layer(x)], x, state=list(layer.parameters()))
        assert not graph.others
        with torch.no_grad():
            layer.weight.mul_(2)
            found = graph.module(*layer.parameters(), x)[0]
        torch.clear_autocast_cache()
        assert torch.equal(found, layer(x))


def test_a_graph_of_many_operations_is_held_short(monkeypatch):
    """Half of what a step under validation does is done twice, or for nobody."""
    sizes = []

    def made(graph):
        sizes.append(len(graph.operations.nodes))
        return interpret_graph(graph)

    monkeypatch.setattr(compiled, "interpret_graph", made)
    monkeypatch.setattr(compiled, "LARGE", 0)
    pair = PAIRS["regression, four particles"]()
    assert isinstance(pair.loss, Trace_ELBO)
    svi = SVI(pair.model, pair.guide, torch.optim.Adam, pair.loss, compile=True)
    for _ in range(2):
        svi.step(*pair.args)
    assert svi.compiled
    assert sizes[0] < 1100
