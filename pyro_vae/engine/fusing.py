"""Operations of a graph in the form in which Inductor makes the fastest program of them on a CPU.

It computes in one pass over memory what lies between two products: here biases are taken out of the products and into
that pass, what a product and others need is computed once, and tanh by operations that vectors have.
"""

import torch
from torch.fx import Graph, Node

from pyro_vae.engine.recording import KIND, is_view, memory_of, written_in

aten = torch.ops.aten
PRODUCTS = ("aten::mm", "aten::bmm", "aten::convolution", "pyro_vae::product")
TERMS = 12  # of the continued fraction
WIDEST = 8.0  # arguments of tanh; there it is 1 but for 2.3e-7


def biases_apart(graph: Graph) -> None:
    """Have `bias + a @ b` in float32 made of a product and a sum, which is fused with what follows."""
    for node in list(graph.nodes):
        if node.target is not aten.addmm.default or node.kwargs or not _fast(node):
            continue
        bias, *factors = node.args
        if len(bias.meta[KIND].shape) != 1:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, tuple(factors))
        product.meta[KIND] = node.meta[KIND]
        node.target, node.args = aten.add.Tensor, (product, bias)


def once_for_products(graph: Graph) -> None:
    """Have what products take through a view, such as bits of images in rows, laid down where it is made.

    Inductor would lay down what the view shows, and compute the tensor itself again for each other use.
    """
    from torch._inductor.inductor_prims import force_stride_order

    nodes = list(graph.nodes)
    memory = memory_of(nodes)
    written = written_in(nodes, memory)
    shown = {
        memory[given]
        for node in nodes
        if getattr(node.target, "_schema", None)
        and node.target._schema.name in PRODUCTS
        for given in node.all_input_nodes
        if is_view(given.target)
    }
    for node in nodes:
        if node not in shown or node in written or node.op != "call_function":
            continue
        kind = node.meta.get(KIND)
        if kind is None or kind.device.type != "cpu" or len(node.users) == 1:
            continue  # several tensors, or one that nothing else takes
        strides = torch.empty(kind.shape, device="meta").stride()
        with graph.inserting_after(node):
            laid = graph.call_function(force_stride_order, (node, [*strides]))
        laid.meta[KIND] = kind
        node.replace_all_uses_with(
            laid, delete_user_cb=lambda user, laid=laid: user is not laid
        )


def tanh_by_fraction(graph: Graph) -> None:
    """Have tanh in float32 computed by Lambert's continued fraction, within 7 units in the last place.

    `tanh x = x / (1 + x^2 / (3 + x^2 / (5 + ...)))`, cut off after 12 terms and written as one fraction. It never
    leaves [-1, 1]. The function that Inductor calls is right to one unit, and slower.

    Source: Lambert 1768, who proved by it that pi is irrational.
    """
    for node in list(graph.nodes):
        if node.target is not aten.tanh.default or not _fast(node):
            continue
        with graph.inserting_before(node):
            made = _fraction(graph, node.args[0])
        made.meta[KIND] = node.meta[KIND]
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _fast(node: Node) -> bool:
    """Whether a result lies on a CPU in single precision."""
    kind = node.meta[KIND]
    return kind.device.type == "cpu" and kind.dtype == torch.float32


def _fraction(graph: Graph, x: Node) -> Node:
    """The operations of tanh."""
    above, below = lambert(TERMS)
    x = graph.call_function(aten.clamp.default, (x, -WIDEST, WIDEST))
    square = graph.call_function(aten.mul.Tensor, (x, x))
    over = graph.call_function(aten.mul.Tensor, (_polynomial(graph, square, above), x))
    return graph.call_function(
        aten.div.Tensor, (over, _polynomial(graph, square, below))
    )


def _polynomial(graph: Graph, x: Node, coefficients: list[float]) -> Node:
    """By Horner's rule, from the coefficient of the lowest power on."""
    *others, last = coefficients
    value = graph.call_function(aten.mul.Tensor, (x, last))
    for coefficient in others[:0:-1]:
        value = graph.call_function(aten.add.Tensor, (value, coefficient))
        value = graph.call_function(aten.mul.Tensor, (value, x))
    return graph.call_function(aten.add.Tensor, (value, others[0]))


def lambert(terms: int) -> tuple[list[float], list[float]]:
    """Polynomials p and q of x^2 with `tanh x = x p / q` by so many terms, the constant of each 1."""
    whole, part = (
        [2.0 * terms + 1],
        [1.0],
    )  # 2 k + 1 + x^2 / ... is whole / part, from the last term on
    for k in range(terms - 1, -1, -1):
        turned = [0.0, *part]
        length = max(len(whole), len(turned))
        sums = [
            (2 * k + 1) * whole_i + turned_i
            for whole_i, turned_i in zip(
                _filled(whole, length), _filled(turned, length), strict=True
            )
        ]
        whole, part = sums, whole
    return [c / part[0] for c in part], [c / whole[0] for c in whole]


def _filled(coefficients: list[float], length: int) -> list[float]:
    return coefficients + [0.0] * (length - len(coefficients))
