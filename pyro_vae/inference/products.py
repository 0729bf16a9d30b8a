"""Matrix products of compiled graphs, by whichever library is the faster one on this processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph, GraphModule

from pyro_vae.networks.products import onednn_is_faster, pays_to_turn

SMALLEST = 3_000_000  # multiplications of a product from which the library matters more than the call


def by_onednn(module: GraphModule) -> bool:
    """Hand the large float32 products of a graph on a CPU to oneDNN, if that is faster here; whether any was."""
    graph, changed = module.graph, False
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.mm.default:
            bias, (a, b) = None, node.args
        elif node.target is torch.ops.aten.addmm.default and not node.kwargs:
            bias, a, b = node.args
        else:
            continue
        x, y = a.meta.get("val"), b.meta.get("val")
        if x is None or y is None or x.device.type != "cpu" or x.dtype != torch.float32:
            continue
        if (bias is not None and bias.meta["val"].dim() != 1) or x.shape[0] * y.numel() < SMALLEST:
            continue
        if not onednn_is_faster():
            return False
        with graph.inserting_before(node):
            if bias is None and pays_to_turn(x, y.t()):
                turned = _transposed(graph, _product(graph, _transposed(graph, b), a, None))
                layout: Any = {"memory_format": torch.contiguous_format}
                product = graph.call_function(torch.ops.aten.clone.default, (turned,), layout)
            else:
                product = _product(graph, a, _transposed(graph, b), bias)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
        changed = True
    module.recompile()
    return changed


def _product(graph: Graph, a: Any, transposed: Any, bias: Any) -> Any:
    """`a @ transposed.T + bias`."""
    arguments: Any = (a, transposed, bias, "none", [], "")
    return graph.call_function(torch.ops.mkldnn._linear_pointwise.default, arguments)


def _transposed(graph: Graph, a: Any) -> Any:
    return graph.call_function(torch.ops.aten.t.default, (a,))


@contextmanager
def called_directly() -> Iterator[None]:
    """Let Inductor call oneDNN's product as it stands: by itself it does so only for weights that never change."""
    from torch._inductor import lowering
    from torch._inductor.fx_passes.mkldnn_fusion import _mkldnn_fusion_init

    _mkldnn_fusion_init()
    packet = torch.ops.mkldnn._linear_pointwise
    before: dict[Any, Any] = {key: lowering.lowerings[key] for key in (packet, packet.default)}
    direct = lowering.fallback_handler(packet.default, add_to_fallback_set=False)
    try:
        lowering.lowerings.update(dict.fromkeys(before, direct))
        yield
    finally:
        lowering.lowerings.update(before)
