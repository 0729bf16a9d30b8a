"""Random numbers drawn in the order of the program, by compilers of PyTorch before 2.13, which keep no order."""

from itertools import pairwise
from typing import Any

import torch
from torch.torch_version import TorchVersion

from pyro_vae.engine.recording import draws


def in_order() -> dict[str, Any]:
    """Options for Inductor with which a graph draws as Python does; none where it does so by itself."""
    if TorchVersion(torch.__version__) >= "2.13":
        return {}
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass
        from torch._inductor.fx_passes.control_dependencies import (
            preserve_node_ordering,
        )
        from torch.utils._ordered_set import OrderedSet
    except (
        ImportError
    ):  # a graph that draws in another order is found out and interpreted
        return {"reorder_for_locality": False}

    class InOrder(CustomGraphPass):
        """Has each draw wait for the one before it."""

        def __call__(self, graph: torch.fx.Graph) -> None:
            drawn = [node for node in graph.nodes if draws(node)]
            earlier = {later: OrderedSet([node]) for node, later in pairwise(drawn)}
            preserve_node_ordering(graph, earlier)

        def uuid(self) -> str:
            return "pyro_vae, draws in order"

    return {"post_grad_custom_post_pass": InOrder(), "reorder_for_locality": False}
